"""Verified drafts: guess how a block goes on, ask once about every beginning of the guess, and keep what holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.proposal import Statistic
from dlm.engine.row import Row
from dlm.engine.sampler import Sampler
from dlm.engine.step import BlockState, RowSize, StepView
from dlm.errors import SettingsError
from dlm.speculation.probes import Choice, Edits, Probe, VersionViews
from dlm.speculation.verification import constant

# Each is two further rows of every forward.
MOST_DRAFTS = 32
# So much likelier is a token taken to be where it may have to be repeated: enough to decide between equal ones.
REPEATED = 1.5


class Drafts(NamedTuple):
    """Two guesses of how the row goes on, laid out over the canvas.

    Attributes:
        place: as which draft of its guess a token is put in, from 1; 0: none is. ``[B, 2, W]``
        token: the token. ``[B, 2, W]``
        prob: how sure the guess is of it. ``[B, 2, W]``
    """

    place: Int[Tensor, "B 2 W"]
    token: Int[Tensor, "B 2 W"]
    prob: Float[Tensor, "B 2 W"]


@dataclass(frozen=True)
class VerifiedDrafts(Probe):
    """Drafts one behind the other, each checked with all before it in place, in one forward. Ours; FreeDave (arXiv
    2510.00294) also asks that the sampler would have gone to the same position.

    A draft holds when, in the version with all drafts before it, its token is at least ``likely`` times as probable as
    the likeliest (1: it must be the one that is proposed), and no open position is more than ``regret`` surer than this
    one (0: it must be the surest; 1: that does not count). The row becomes the last version whose drafts hold. Where
    the next one fails by its token alone, the version's own token takes its place, and with it goes what is at least
    ``sure``; elsewhere the sampler's selector goes on.

    A draft is the surest open position by the last forward, or all that reach ``sure``. There are two guesses of
    ``drafts`` drafts: that unsure tokens are repeated, and that none is. Behind the last open position of a block the
    next block is drafted. Sureness is that of the likeliest token, so that at a temperature above 0 nothing is chosen
    for what was drawn, when ``likely`` is 1.

    Raises:
        SettingsError: fewer than one draft, a regret outside [0, 1], ``sure`` or ``likely`` outside (0, 1].
    """

    drafts: int = 3
    regret: float = 0.1
    sure: float = 0.9
    likely: float = 0.7

    needs = frozenset[Statistic]({"candidates"})

    def clashes(self, sampler: Sampler) -> str | None:
        if sampler.constraint is not None:
            return (
                "verified drafts hold tokens that a constraint has not chosen: use another sampler with it, such as eb"
            )
        return super().clashes(sampler)

    def __post_init__(self) -> None:
        if not 1 <= self.drafts <= MOST_DRAFTS:
            raise SettingsError(
                f"drafts must be from 1 to {MOST_DRAFTS}, each two further rows of every forward, got {self.drafts}"
            )
        if not 0.0 <= self.regret <= 1.0:
            raise SettingsError(f"regret must be in [0, 1], got {self.regret}")
        for name, share in (("sure", self.sure), ("likely", self.likely)):
            if not 0.0 < share <= 1.0:
                raise SettingsError(f"{name} must be in (0, 1], got {share}")

    @property
    def versions(self) -> int:
        return 2 * self.drafts

    @property
    def follows(self) -> tuple[int, ...]:
        # The guesses take turns: first drafts of both, second drafts of both, ...
        return (0, *range(2 * self.drafts - 1))

    def versions_of(self, row: Row) -> int:
        return 2 * min(self.drafts, row.block_open or row.open) if row.steps else 0

    def init(self, canvas: Canvas) -> Drafts:
        nothing = torch.zeros_like(canvas.tokens)[:, None].repeat(1, 2, 1)
        return Drafts(nothing, nothing.clone(), torch.zeros_like(nothing, dtype=torch.float64))

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        """As many behind the block as it has."""
        start, end = blocks.block_start[:, None], blocks.block_end[:, None]
        return (canvas.columns >= end) & (canvas.columns < end + (end - start)) & canvas.masked

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return min(eligible + size.block, size.region)

    def propose(self, canvas: Canvas, blocks: BlockState, state: Drafts) -> Edits:
        place = torch.arange(1, self.drafts + 1, device=canvas.columns.device)[:, None, None]
        position = torch.where(state.place[:, None] == place, canvas.columns, canvas.columns[-1])
        token, prob = (x[:, None].expand_as(position) for x in (state.token, state.prob))
        return Edits(*(x.flatten(1, 2) for x in (position, token, prob)))

    def choose(self, views: VersionViews, state: Drafts) -> Choice:
        parents = constant(self.follows, views.positions.device)
        before, now = views.eligible[:, parents], views.proposal.map(lambda x: x[:, parents])
        assert now.top_prob is not None
        assert now.top_token is not None
        put, best = before & ~views.eligible[:, 1:], now.top_prob[..., 0].double()
        drafted = state.token.gather(2, views.positions[:, None].expand(-1, 2, -1)).repeat(1, self.drafts, 1)
        alone = put.sum(dim=2, keepdim=True) == 1
        least = best.masked_fill(~before, 0.0).amax(dim=2, keepdim=True) - self.regret
        fits = (best >= self.sure) | (alone & (best >= least))
        there = views.exists[:, 1:] & put.any(dim=2)
        odds = (now.top_prob.double() * (now.top_token == drafted[..., None])).sum(dim=3)
        same = (now.token == drafted) | ((odds >= self.likely * best) & (self.likely < 1.0))
        timely, holds = (there & (x | ~put).all(dim=2) for x in (fits, fits & same))
        length, guess = holds.view(-1, self.drafts, 2).long().cumprod(dim=1).sum(dim=1).max(dim=1)
        version = torch.where(length > 0, 2 * length - 1 + guess, 0)
        # The draft behind the last that holds; where all do there is none.
        after, rows = 2 * length.clamp_max(self.drafts - 1) + guess, torch.arange(len(guess), device=guess.device)
        mended = ((length < self.drafts) & timely[rows, after] & ~holds[rows, after])[:, None]
        commit = mended & before[rows, after] & (put[rows, after] | (best[rows, after] >= self.sure))
        return Choice(version, commit, ~mended.expand_as(commit))

    def learn(self, view: StepView, chosen: Bool[Tensor, "B N"], state: Drafts) -> Drafts:
        token, prob = view.proposal.top_token, view.proposal.top_prob
        assert token is not None
        assert prob is not None
        inside, open_ = (view.here(x) for x in (view.blocks.block, view.canvas.masked))
        left = open_ & ~chosen
        left = left & (inside | ~(left & inside).any(dim=1, keepdim=True))
        # What this step committed in doubt, the distributions at hand know nothing of.
        doubtful = view.proposal.token.masked_fill(~chosen | (prob[..., 0] >= self.sure), -1)
        made = [self._guess(token, prob.double(), left, doubtful, again) for again in (REPEATED, 0.0)]
        return Drafts(*(torch.stack([view.on_canvas(x) for x in pair], dim=1) for pair in zip(*made, strict=True)))

    def _guess(
        self,
        token: Int[Tensor, "B N K"],
        prob: Float[Tensor, "B N K"],
        left: Bool[Tensor, "B N"],
        used: Int[Tensor, "B N"],
        again: float,
    ) -> tuple[Int[Tensor, "B N"], Int[Tensor, "B N"], Float[Tensor, "B N"]]:
        """Place, token and probability of drafts at the positions that are ``left``, when a token that is ``used``
        already becomes so much likelier elsewhere."""
        prob = torch.where((token[..., None] == used[:, None, None]).any(dim=3), prob * again, prob)
        other = (1.0 - prob.sum(dim=2)).clamp_min(1e-9)
        place, found, sure = torch.zeros_like(token[..., 0]), token[..., 0].clone(), torch.zeros_like(other)
        for number in range(1, self.drafts + 1):
            share, which = (prob / (prob.sum(dim=2) + other)[..., None]).max(dim=2)
            share = share.masked_fill(~left, -1.0)
            surest = torch.zeros_like(left).scatter(1, share.argmax(dim=1, keepdim=True), True)
            put = left & ((share >= self.sure) | (surest & (share < self.sure).all(dim=1, keepdim=True)))
            best = token.gather(2, which[..., None])[..., 0]
            place, found, sure = place + number * put, torch.where(put, best, found), torch.where(put, share, sure)
            left, used = left & ~put, best.masked_fill(~put | (share >= self.sure), -1)
            prob = torch.where((token[..., None] == used[:, None, None]).any(dim=3), prob * again, prob)
        return place, found, sure
