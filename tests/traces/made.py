"""Traces made by hand and by the packaged model, for the players."""

from __future__ import annotations

from functools import cache as once
from pathlib import Path

import cache
import dlm
import samplers
from dlm.speculation import FreeDave
from dlm.trace import CacheEvent, Trace, TraceStep, pieces_of

MASK = 9
EVIL = "</script><b>"
PIECES = {0: "<|end|>", 1: "Is", 2: " it", 3: EVIL, 4: "\n", 5: " so\x1b[31m", 6: "?", 9: "<|mask|>"}


def by_hand() -> Trace:
    """Two blocks of three behind a prompt of one token: a refresh, drafts, a token taken back, one written over, a
    filled end."""
    steps = [
        TraceStep(
            step=0, block=(1, 4), positions=[1, 3], tokens=[2, 4], probs=[0.9, 0.8],
            confidence={1: 0.9, 2: 0.3, 3: 0.8}, candidates={1: [(2, 0.9), (3, 0.06)], 3: [(4, 0.8), (6, 0.1)]},
            cache=CacheEvent(7, True),
        ),
        TraceStep(
            step=1, block=(1, 4), positions=[2, 3], tokens=[3, 6], probs=[0.7, 0.6], remasked=[1],
            confidence={2: 0.7}, candidates={2: [(3, 0.7), (5, 0.2)], 3: [(6, 0.6), (4, 0.4)]},
            cache=CacheEvent(3, False, [(1, 4)]),
        ),
        TraceStep(
            step=2, block=(1, 4), positions=[1], tokens=[5], probs=[0.55], confidence={1: 0.55},
            candidates={1: [(5, 0.55), (2, 0.4)]}, cache=CacheEvent(3, False, [(1, 4)]),
        ),
        TraceStep(
            step=3, block=(4, 7), positions=[4, 5], tokens=[6, 0], probs=[0.99, 0.95], filled=0,
            confidence={4: 0.99, 5: 0.95, 6: 0.2}, candidates={4: [(6, 0.99)], 5: [(0, 0.95)]}, drafts=3, accepted=1,
            cache=CacheEvent(28, True),
        ),
    ]  # fmt: skip
    about = {"prompt": f"Is it {EVIL}?", "task": "by/hand", "score": 1.0, "sampler": "none"}
    return Trace([1, *[MASK] * 6], 1, MASK, steps, about, dict(PIECES))


@once
def decoded() -> list[Trace]:
    """Two rows of the packaged model, with a cache and drafts."""
    model = dlm.load("tiny")
    prompts = ['Shuffle the list: ["Anna", "Bob", "Cleo"]', "47+85="]
    answers = dlm.generate(
        model, prompts, sampler=samplers.topk(blocks=samplers.Fixed(8)), cache=cache.dual(), drafter=FreeDave(3),
        max_new_tokens=24, record=("order", "confidence", "candidates", "cache"),
    )  # fmt: skip
    for answer, prompt in zip(answers, prompts, strict=True):
        assert answer.trace is not None
        answer.trace.about, answer.trace.pieces = {"prompt": prompt}, pieces_of(model, answer.trace.tokens)
    return [answer.trace for answer in answers if answer.trace is not None]


def saved(path: Path, *traces: Trace) -> Path:
    """A file of traces."""
    dlm.save_traces(path, traces or [by_hand(), *decoded()])
    return path
