"""A sampler of one's own: a selector of ten lines, held against the laws and against the presets.

    python examples/write_a_sampler.py

A sampler is a bundle of parts. The selector is the part that says which open positions are committed at a step; here
it takes every position that is nearly as sure as the surest one. docs/write_a_sampler.md has the whole walk-through.
"""

from dataclasses import dataclass
from itertools import islice

import torch

import dlm
import samplers
from dlm.conformance import check
from dlm.engine.interfaces import Selector


@dataclass(frozen=True)
class NearTheBest(Selector):
    """Commit the open positions whose score is at least ``share`` of the best one's: min-p, over positions."""

    share: float = 0.9

    def step(self, view, state):
        # A row per prompt, a column per position; scores are -inf where nothing may be committed.
        best = view.scores.amax(dim=1, keepdim=True)
        return view.eligible & (view.scores >= self.share * best), state  # no memory: the state goes back as it came


if __name__ == "__main__":
    # What every part keeps to: a row ends, is alone in its batch, ... The first five laws; `dlm check` tries all, with
    # every cache and with drafts. In float64, so that no near-tie is decided by rounding.
    exact = dlm.load("tiny", dtype=torch.float64)
    prompts = ["47+85=", 'Copy the list: ["Anna", "Bob"]']
    for law, verdict, told in islice(check(NearTheBest(0.9), exact, prompts), 5):
        print(f"{verdict:8} {law}" + ("" if verdict == "holds" else f": {told}"))

    model = dlm.load("tiny")
    print("\nwaiting_line/shuffle, 20 questions: score, forwards an answer")
    mine = {
        f"near the best {share}": dlm.Sampler("mine", samplers.Probability(), NearTheBest(share), samplers.Fixed())
        for share in (0.5, 0.9, 0.99)
    }
    for name, sampler in {**mine, "threshold": "threshold", "topk": "topk"}.items():
        found = dlm.evaluate(model, "waiting_line/shuffle", sampler=sampler, n=20)
        print(f"{name:20} {found.score:5.2f} {found.figures['forwards']:6.1f}")
