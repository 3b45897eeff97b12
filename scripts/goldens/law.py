"""Checks in law, for runs whose draws cannot be repeated one by one: is what was recorded a likely outcome of
our rule?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from scripts.goldens.draws import cut
from scripts.goldens.plan import Plan
from scripts.goldens.replay import Decision, Moment

# A single draw less likely than this is absurd: among the some ten thousand draws of a folder none should be.
ABSURD = 1e-7
# The log-likelihood of all tokens of a run may lie this many standard deviations below its expectation.
DEVIATIONS = 5.0
# Repeating recorded draws by chance: what is less likely than this was no chance.
COINCIDENCE = 1e-3


@dataclass
class Repeats:
    """Which decisions follow from draws of the recorded seed, and which from another one (the control)."""

    recorded: list[bool] = field(default_factory=list)
    control: list[bool] = field(default_factory=list)

    def chance(self) -> float:
        """How likely so many decisions, or so many at the beginning of the run, agree by chance."""
        n, hits = len(self.recorded), sum(self.recorded)
        rate = (sum(self.control) + 1) / (len(self.control) + 2)
        beginning = self.recorded.index(False) if False in self.recorded else n
        return min(sum(_binomial(n, k, rate) for k in range(hits, n + 1)), rate**beginning)


class Law:
    """Collects the evidence of one run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.excess = 0.0  # log-likelihood of the recorded tokens minus its expectation
        self.variance = 0.0

    def step(self, moment: Moment, logits: Float[Tensor, "L V"], decision: Decision) -> str | None:
        """What is wrong with one row at one call; None when nothing is."""
        wrong_number = self._number(moment, decision)
        return (
            wrong_number
            or self.tokens(moment.call, moment.committed, logits, decision.tokens)
            or self._places(moment, logits, decision)
        )

    def close(self) -> str | None:
        """What is wrong with the run as a whole."""
        if self.variance and self.excess < -DEVIATIONS * math.sqrt(self.variance):
            return f"the tokens are {-self.excess / math.sqrt(self.variance):.1f} deviations too unlikely"
        return None

    def _number(self, moment: Moment, decision: Decision) -> str | None:
        n, total = len(moment.committed), len(moment.candidates)
        if "origin" not in self.plan.draws:
            wanted = min(decision.budget or 0, total)
            return None if n == wanted else f"{n} positions committed, the budget is {wanted}"
        grid = getattr(self.plan.sampler.selector, "grid", None)
        steps = self.plan.calls_per_block or 1
        if grid is None or moment.call >= steps - 1:
            return None if n == total else f"the last call committed {n} of {total} positions"
        times = torch.linspace(1, grid.eps, steps + 1, dtype=torch.float64)
        p = float(1 - times[moment.call + 1] / times[moment.call])
        tail = [_binomial(total, k, p) for k in range(total + 1)]
        likely = sum(q for q in tail if q <= tail[n] * (1 + 1e-9))
        return None if likely > ABSURD else f"{n} of {total} positions committed at probability {p:.4f} each"

    def tokens(
        self, call: int, committed: dict[int, int], logits: Float[Tensor, "L V"], greedy: dict[int, int]
    ) -> str | None:
        """Whether one was drawn against all odds; without a temperature, whether each is the most probable one."""
        proposer = self.plan.sampler.proposer
        for position, token in committed.items():
            if proposer.temperature == 0:
                if (best := greedy.get(position)) != token:
                    return f"position {position}: token {token}, the most probable is {best}"
                continue
            log_probs = cut(logits[position : position + 1].double(), proposer).log_softmax(dim=1)[0]
            probs = log_probs.exp()
            if float(probs[probs <= probs[token]].sum()) < ABSURD:
                return f"call {call}, position {position}: token {token} has probability {float(probs[token]):.2g}"
            kept = probs > 0
            mean = float((probs[kept] * log_probs[kept]).sum())
            self.variance += float((probs[kept] * (log_probs[kept] - mean) ** 2).sum())
            self.excess += float(log_probs[token]) - mean
        return None

    def _places(self, moment: Moment, logits: Float[Tensor, "L V"], decision: Decision) -> str | None:
        """Whether the choice of positions is likely, as far as the record tells."""
        left_out = [p for p in moment.candidates if p not in moment.committed]
        if "alg_temp" in self.plan.draws and moment.committed:
            scores = torch.tensor([decision.scores[p] for p in moment.candidates], dtype=torch.float64)
            weights = dict(zip(moment.candidates, (scores / self.plan.alg_temp).softmax(0).tolist(), strict=True))
            unlikely = [p for p in moment.committed if weights[p] < ABSURD]
            return f"positions {unlikely} were drawn against all odds" if unlikely else None
        if self.plan.draws != ("gumbel",) or not moment.committed:
            return None
        # A position stays open when its own draw was less confident than the worst that was committed.
        probs = logits.double().softmax(dim=1)
        worst = min(float(probs[p, token]) for p, token in moment.committed.items())
        drawn = (logits.double() / self.plan.sampler.proposer.temperature).softmax(dim=1)
        for position in left_out:
            if float(drawn[position][probs[position] <= worst * (1 + 1e-6)].sum()) < ABSURD:
                return f"position {position} was left open against all odds"
        return None


def _binomial(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)
