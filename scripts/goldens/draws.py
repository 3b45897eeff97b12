"""The reference's random numbers: the same generator, seed, shapes and order, so that its draws can be
repeated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlm.engine.proposal import Proposer
from scripts.goldens.cases import Case
from scripts.goldens.plan import Plan
from scripts.goldens.replay import Drawn, Moment

# Inside the logarithm of Dream's entropy.
_EPSILON = 1e-10


class Draws:
    """Draws of one run; :meth:`step` must be called once per call of the run, in order.

    The generator starts from the recorded seed (torch's CPU generator; a run without a seed draws nothing
    here). ``unconfident`` are ids that the reference takes out of the confidence.
    """

    def __init__(self, case: Case, plan: Plan, unconfident: Sequence[int] = ()) -> None:
        self.plan, self.pads = plan, case.pads
        self.mask_id = case.mask_id
        self.unconfident = list(unconfident)
        self.length = len(case.prompt_ids[0]) + plan.new_tokens
        self.generator = torch.Generator().manual_seed(case.seed or 0)
        self.proposer = plan.sampler.proposer

    def step(self, moments: Sequence[Moment], logits: Sequence[Float[Tensor, "L V"]]) -> list[Drawn]:
        """The draws of one call, a row each."""
        if "origin" in self.plan.draws:
            return self._origin(moments, logits)
        if "categorical" in self.plan.draws or "alg_temp" in self.plan.draws:
            return self._dream(moments, logits)
        return self._llada(logits)

    def _llada(self, logits: Sequence[Float[Tensor, "L V"]]) -> list[Drawn]:
        """Gumbel noise over rows x padded canvas x vocabulary in float64, then a random order over rows x
        canvas."""
        rows, vocab = len(logits), logits[0].shape[1]
        tokens: list[Tensor | None] = [None] * rows
        scores: list[Tensor | None] = [None] * rows
        if "gumbel" in self.plan.draws:
            shape = (rows, self.length, vocab)
            noise = torch.rand(shape, dtype=torch.float64, generator=self.generator)
            for row, x in enumerate(logits):
                exponential = -torch.log(noise[row, self.pads[row] :])
                drawn = (x.double().exp() / exponential**self.proposer.temperature).argmax(dim=1)
                tokens[row], scores[row] = drawn, self._confidence(x, drawn)
        if "order" in self.plan.draws:
            order = torch.rand((rows, self.length), generator=self.generator)
            scores = [order[row, pad:] for row, pad in enumerate(self.pads)]
        return [Drawn(t, s) for t, s in zip(tokens, scores, strict=True)]

    def _confidence(self, x: Float[Tensor, "L V"], token: Int[Tensor, " L"]) -> Float[Tensor, " L"]:
        x = x.double() if self.proposer.precision == "float64" else x.clone()
        x[:, self.unconfident] = -torch.inf
        return x.softmax(dim=1).gather(1, token[:, None]).squeeze(1)

    def _share(self, call: int) -> Tensor:
        """1 - s/t on Dream's time grid, 1 at the last call."""
        steps = self.plan.calls_per_block or 1
        grid = torch.linspace(1, getattr(self.plan.sampler.budget, "eps", self._eps()), steps + 1)
        return torch.tensor(1.0) if call >= steps - 1 else 1 - grid[call + 1] / grid[call]

    def _eps(self) -> float:
        grid = getattr(self.plan.sampler.selector, "grid", None)
        return 1e-3 if grid is None else float(grid.eps)

    def _origin(self, moments: Sequence[Moment], logits: Sequence[Float[Tensor, "L V"]]) -> list[Drawn]:
        """A coin for every open position of the batch, then tokens for those that are committed."""
        coins = torch.rand(sum(len(m.candidates) for m in moments), generator=self.generator)
        coins = coins < self._share(moments[0].call)
        chosen, place = [], 0
        for moment, x in zip(moments, logits, strict=True):
            mine = torch.zeros(x.shape[0], dtype=torch.bool)
            mine[moment.candidates] = coins[place : place + len(moment.candidates)]
            place += len(moment.candidates)
            chosen.append(mine)
        if self.proposer.temperature == 0:
            return [Drawn(chosen=mine) for mine in chosen]
        tokens = self._categorical([x[mine] for x, mine in zip(logits, chosen, strict=True)])
        drawn = []
        for mine, values in zip(chosen, tokens, strict=True):
            filled = torch.zeros(mine.shape[0], dtype=torch.long)
            filled[mine] = values
            drawn.append(Drawn(filled, None, mine))
        return drawn

    def _dream(self, moments: Sequence[Moment], logits: Sequence[Float[Tensor, "L V"]]) -> list[Drawn]:
        """Tokens of all open positions of the batch, then positions without replacement."""
        rows = [x[m.candidates] for m, x in zip(moments, logits, strict=True)]
        probs = [cut(x, self.proposer).softmax(dim=1) for x in rows]
        best = [p.argmax(dim=1) for p in probs]
        hot = self.proposer.temperature > 0
        tokens = self._categorical(rows) if hot else best
        confidence = [self._dream_score(p, t) for p, t in zip(probs, tokens, strict=True)]
        full = torch.full((len(moments), self.length), -torch.inf)
        for row, (moment, values) in enumerate(zip(moments, confidence, strict=True)):
            full[row, torch.tensor(moment.candidates, dtype=torch.long) + self.pads[row]] = values
        chosen = self._positions(moments, full) if "alg_temp" in self.plan.draws else None
        drawn = []
        for row, (moment, x) in enumerate(zip(moments, logits, strict=True)):
            filled = torch.zeros(x.shape[0], dtype=torch.long)
            filled[moment.candidates] = tokens[row]
            mine = None if chosen is None else chosen[row, self.pads[row] :]
            drawn.append(Drawn(filled if hot else None, full[row, self.pads[row] :], mine))
        return drawn

    def _positions(self, moments: Sequence[Moment], full: Float[Tensor, "B L"]) -> Tensor:
        """The positions drawn for every row: as many as the mean number of open positions asks for."""
        chosen = torch.zeros_like(full, dtype=torch.bool)
        mean = torch.tensor(sum(len(m.candidates) for m in moments)) / len(moments)
        number = int(mean * self._share(moments[0].call))
        if number > 0:
            weights = (full / self.plan.alg_temp).softmax(dim=1)
            chosen.scatter_(1, torch.multinomial(weights, number, generator=self.generator), True)
        return chosen

    def _categorical(self, rows: Sequence[Float[Tensor, "R V"]]) -> list[Int[Tensor, " R"]]:
        probs = torch.cat([cut(x, self.proposer) for x in rows]).softmax(dim=1)
        if not len(probs):
            return [torch.zeros(0, dtype=torch.long) for _ in rows]
        probs = probs / probs.sum(dim=1, keepdim=True)
        drawn = torch.multinomial(probs, 1, True, generator=self.generator).flatten()
        return list(drawn.split([x.shape[0] for x in rows]))

    def _dream_score(self, probs: Float[Tensor, "R V"], token: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        name = type(self.plan.sampler.score).__name__
        if name == "NegativeEntropy":
            return (probs * (probs + _EPSILON).log()).sum(dim=1)
        if name == "Margin":
            top = probs.topk(2, dim=1).values
            return top[:, 0] - top[:, 1]
        return probs.gather(1, token[:, None]).squeeze(1)


def cut(logits: Float[Tensor, "R V"], proposer: Proposer) -> Float[Tensor, "R V"]:
    """Tempered logits with everything outside the nucleus and the top k at the smallest finite number."""
    x = logits / proposer.temperature if proposer.temperature > 0 else logits.clone()
    lowest = torch.finfo(x.dtype).min
    if proposer.top_p is not None and proposer.top_p < 1:
        ordered, order = x.sort(dim=1, descending=True)
        beyond = ordered.softmax(dim=1).cumsum(dim=1) > proposer.top_p
        beyond = torch.cat([torch.zeros_like(beyond[:, :1]), beyond[:, :-1]], dim=1)
        x = x.masked_fill(torch.zeros_like(beyond).scatter_(1, order, beyond), lowest)
    if proposer.top_k is not None:
        floor = x.topk(min(proposer.top_k, x.shape[1]), dim=1).values[:, -1:]
        x = x.masked_fill(x < floor, lowest)
    return x
