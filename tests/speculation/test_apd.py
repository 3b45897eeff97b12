"""APD: the drafter answers for as long as the autoregressive model agrees (arXiv 2506.00413)."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import dlm
from dlm.engine.noise import gumbel
from dlm.errors import SettingsError
from dlm.models.causal import CausalModel
from dlm.speculation.coupling import agreed
from dlm.speculation.deer import Deer
from tests.doubles import random_dream, random_llada
from tests.models.checkpoints import SEEDS, write_checkpoint
from tests.speculation.test_deer import PROMPTS, SHAPE, causal

DATA = Path(__file__).parents[1] / "data" / "apd" / "runs.json"


def verifier() -> CausalModel:
    """Of the golden checkpoints' vocabulary; its weights are draws of numbered streams."""
    network: Any = LlamaForCausalLM(LlamaConfig(**SHAPE, vocab_size=512, eos_token_id=510, pad_token_id=510))
    generator = torch.Generator().manual_seed(97)
    with torch.no_grad():
        for _, weight in sorted(network.named_parameters()):
            if weight.dim() == 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 2.5 / math.sqrt(weight.shape[1]))
    return CausalModel(network.double().eval(), None, "random")


def test_a_run_decodes_as_the_authors_code(tmp_path: Path) -> None:
    models = {name: dlm.load(write_checkpoint(name, tmp_path / name), device="cpu", dtype="float64") for name in SEEDS}
    ours, runs = verifier(), json.loads(DATA.read_text())["runs"]
    assert len(runs) >= 24 and sum(run["rounds"] < run["new"] for run in runs) >= 24
    for run in runs:
        model = models[run["checkpoint"]]
        (answer,) = dlm.deer(
            ours, model, [run["prompt_ids"]], draft_length=run["max_lookahead"] or run["new"],
            mixture=run["apd_mixture_weight"], max_new_tokens=run["new"],
        )  # fmt: skip
        steps = [number for number, taken in enumerate(run["accepted"]) for _ in range(taken)]
        assert (answer.tokens, answer.commit_step) == (
            run["gen_ids"][: len(answer.tokens)],
            steps[: len(answer.tokens)],
        )
        assert answer.counts.forwards == answer.counts.draft_forwards == run["rounds"]
        assert len(answer.tokens) == run["new"] or answer.stop == "end_token"


def test_agreement_by_hand() -> None:
    """R = 1/2 of (.6 .4) and (.1 .9): sqrt(.06) < sqrt(.36), so a drafted 0 ends a prefix and a drafted 1 does not."""
    q = torch.tensor([[[0.6, 0.4]] * 3]).double().log()
    p = torch.tensor([[[0.1, 0.9]] * 3]).double().log()

    def taken(tokens: list[int], drafted: int = 3, noise: Any = 0.0, mixture: float = 0.5) -> int:
        return int(agreed(p, q, noise, mixture, torch.tensor([tokens]), torch.tensor([drafted])))

    assert [taken([0, 1, 1]), taken([0, 1, 0]), taken([0, 0, 1]), taken([1, 1, 1], drafted=2)] == [3, 2, 1, 2]
    assert taken([0, 0, 0], mixture=1.0) == 3  # the drafter alone
    assert taken([0, 0, 0], noise=torch.tensor([[[2.0, 0.0]] * 3])) == 3  # noise of both
    # Nobody's token: one that the other lacks, though it has no say.
    p[..., 0] = -torch.inf
    assert taken([0, 0, 0], mixture=1.0) == 1


def test_noise_of_both_couples_them() -> None:
    """Two laws drawn with the same noise agree more often than by chance, and each is drawn as it is."""
    draws = 20000
    noise = gumbel(torch.rand(draws, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3)))
    q, p = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    drafts = (q.log() + noise).argmax(dim=-1)
    assert Counter(drafts[:, 0].tolist())[0] / draws == pytest.approx(0.5, abs=0.012)
    pair = [x.log().expand(draws, 2, 3) for x in (p, q)]
    twice = drafts.expand(-1, 2)
    both = agreed(*pair, noise.expand(-1, 2, -1), 0.0, twice, torch.full((draws,), 2)) == 2
    # P(same) of two Gumbel maxima: sum over i of 1 / sum over j of max(p_j / p_i, q_j / q_i).
    expected = sum(1 / float(torch.maximum(p / p[i], q / q[i]).sum()) for i in range(3))
    assert float(both.double().mean()) == pytest.approx(expected, abs=0.012)
    assert expected > float((p * q).sum())


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_row_is_alone(temperature: float) -> None:
    prompts = [*PROMPTS, [7] * 20, [30, 2]]

    def run(prompts: list[list[int]], size: int) -> list[Any]:
        answers = dlm.deer(
            causal(), random_dream(), prompts, draft_length=4, temperature=temperature, mixture=0.9, seed=7,
            max_new_tokens=15, batch_size=size,
        )  # fmt: skip
        return [(a.tokens, a.commit_step, a.counts.acceptance, a.counts.token_forwards, a.confidence) for a in answers]

    together = run(prompts, 5)
    assert [row[:4] for row in run(prompts, 2)] == [row[:4] for row in together]
    for prompt, (*row, sure) in zip(prompts, together, strict=True):
        (alone,) = run([prompt], 1)
        assert list(alone[:4]) == row and alone[4] == pytest.approx(sure)
        assert sum(row[2][1:]) == sum(row[2]) > 0  # every call takes a token


@pytest.mark.parametrize("mixture", [0.0, 0.6, 1.0])
def test_the_first_token_is_the_drafters(mixture: float) -> None:
    """Of every draft: alone it is always taken, so drafts of one decode the drafter from the left."""
    drafter, rows = random_llada(vocab=5), 3000
    run = dlm.deer(
        causal(vocab=5, eos=None), drafter, [[1, 2, 0]] * rows, draft_length=1, temperature=1.5, mixture=mixture,
        max_new_tokens=2, batch_size=rows,
    )  # fmt: skip
    found = Counter(tuple(answer.tokens) for answer in run)

    def law(tokens: list[int]) -> torch.Tensor:
        canvas = torch.tensor([[*tokens, 4]])
        states = drafter.backbone.hidden(canvas, None, torch.ones_like(canvas, dtype=torch.bool))
        rows = drafter.backbone.logit_rows(states, None, torch.tensor([[len(tokens)]]))
        return (drafter.backbone.head(rows)[0, 0, :4].double() / 1.5).softmax(0)

    with torch.no_grad():
        first = law([1, 2, 0])
        exact = {(a, b): float(first[a] * law([1, 2, 0, a])[b]) for a, b in itertools.product(range(4), repeat=2)}
    off = sum(abs(found[out] / rows - mass) for out, mass in exact.items()) / 2
    assert off < 1.25 * sum(math.sqrt(m * (1 - m) / rows / (2 * math.pi)) for m in exact.values())


def test_what_means_nothing_is_refused() -> None:
    for ways in ({"draft_length": 0}, {"draft_temperature": 1.0}):
        with pytest.raises(SettingsError, match="mixture takes the drafter's tokens"):
            Deer(mixture=0.5, **ways)
    with pytest.raises(SettingsError, match="mixture must be from 0 to 1"):
        Deer(mixture=1.5)
    with pytest.raises(SettingsError, match="holds 0 tokens: take one"):
        dlm.deer(causal(), None, PROMPTS, mixture=0.5, max_new_tokens=2)
