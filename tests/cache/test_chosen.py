"""d2Cache and SureLock against their equations in plain Python, on one layer: there every stored key is exact, so that
one forward of the whole row shows what a step sees, and only the choice of what is fed is left to compare."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch

import cache
import dlm
import samplers
from dlm.models.block import attention_map
from scripts.goldens.listen import Listening
from tests.cache.runs import FAMILIES, PROMPT, one_layer

NEW, BLOCK = 24, 8
START, END = len(PROMPT), len(PROMPT) + NEW


def seen(model: Any, tokens: list[int]) -> tuple[list[list[float]], torch.Tensor]:
    """Attention of a whole row, mean over the heads, and log-probabilities of what each row of the model scores."""
    backbone, maps = model.backbone, []
    with torch.inference_mode():
        block, row = backbone._blocks[0], torch.tensor([tokens])
        x = backbone.get_input_embeddings()(row)
        q, k, _ = block.heads(block.attention_input(x), backbone._rope(row, None, None, x.dtype))
        maps = attention_map(q, k, None)[0]
        return maps.tolist(), backbone.head(backbone.hidden(row))[0].log_softmax(dim=-1)


def decoded(model: Any, policy: Any) -> tuple[list[set[int]], list[list[int]]]:
    """What every step was fed, and the row before each."""
    listening, sampler = Listening(policy), samplers.topk(blocks=samplers.Fixed(BLOCK))
    (answer,) = dlm.generate(model, [PROMPT], sampler=sampler, cache=listening, max_new_tokens=NEW)
    mask, rows = model.description.mask_id, []
    for step in range(NEW):
        known = [t if 0 <= at < step else mask for t, at in zip(answer.tokens, answer.commit_step, strict=True)]
        rows.append(PROMPT + known)
    return [set(call.fed) for call in listening.heard[0]], rows


def settling(row: list[int], confidence: dict[int, float], mask: int, policy: Any, block: int) -> set[int]:
    """Section 3.2: masks by confidence times certainty density, those of the block before others."""
    masks = [p for p in range(START, END) if row[p] == mask]
    size = next((p for i, p in enumerate(masks) if i + 1 == policy.masks), END - 1)
    masks = [p for p in masks if p < START + (-(-(size + 1 - START) // BLOCK)) * BLOCK]
    known = [p < START or (row[p] != mask if p < END else row[END - 1] != mask) for p in range(-200, 300)]

    def density(p: int) -> float:
        weights = [math.exp(-((p - q) ** 2) / (2 * policy.sigma**2)) for q in range(-200, 300)]
        return sum(w for w, is_known in zip(weights, known, strict=True) if is_known)

    order = sorted(masks, key=lambda p: (p >= block + BLOCK, -confidence[p] * density(p)))
    return set(order[: policy.masks])


@pytest.mark.parametrize("family", FAMILIES)
def test_d2cache_feeds_what_its_equations_say(family: str) -> None:
    model, policy = one_layer(family), cache.d2cache(masks=3, gap=2, rollout=0.2, sigma=4.0)
    shift, mask = model.description.shift, model.description.mask_id
    fed, rows = decoded(model, policy)
    assert fed[0] == set(range(END))
    confidence: dict[int, float] = {}
    for step in range(NEW - 1):
        row, after = rows[step], rows[step + 1]
        attention, scores = seen(model, row)
        for p in range(START, END):
            if row[p] == mask and p - shift in fed[step]:
                confidence[p] = float(scores[p - shift, :mask].max().exp())
        weight = [
            sum((attention[q][p] + (q == p)) / 2 if q in fed[step] else q == p for q in range(END)) for p in range(END)
        ]
        block = next(p for p in range(START, END) if after[p] == mask) - START
        chosen = {p - shift for p in settling(after, confidence, mask, policy, START + block // BLOCK * BLOCK)}
        chosen |= {p for p in range(END) if row[p] != after[p]}
        rest = sorted(set(range(END)) - chosen, key=lambda p: -weight[p])
        total, running = sum(weight[p] for p in rest), 0.0
        for i, p in enumerate(rest):
            running += weight[p]
            chosen |= {p} if i == 0 or running <= policy.rollout * total else set()
        line = sorted(chosen)
        for a, b in pairwise(line):
            chosen |= set(range(a, b)) if b - a <= policy.gap else set()
        assert fed[step + 1] == chosen, step


@pytest.mark.parametrize("family", FAMILIES)
def test_surelock_locks_what_stands_still(family: str) -> None:
    model, policy = one_layer(family), cache.surelock(bound=0.02)
    shift, mask = model.description.shift, model.description.mask_id
    fed, rows = decoded(model, policy)
    locked: set[int] = set()
    before = seen(model, rows[0])[1]
    for step in range(NEW):
        block = next(p for p in range(START, END) if rows[step][p] == mask) - START
        end = START + (block // BLOCK + 1) * BLOCK
        answering = {p - shift for p in range(START, end) if rows[step][p] == mask}
        assert fed[step] == (set(range(END)) - locked) | answering, step
        if 0 < step < NEW - 1:
            now = seen(model, rows[step])[1]
            moved = (now.exp() * (now - before)).sum(dim=1)
            still = {p for p in range(END - shift) if moved[p] <= policy.bound and rows[step][p] != mask}
            locked |= {p for p in still if p in fed[step] and p in fed[step - 1]}
            before = now
    assert len(locked) > NEW / 2
