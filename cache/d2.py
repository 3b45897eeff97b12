"""d2Cache (arXiv 2509.23094): a few masks that are nearly settled, and what the others have looked at most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.kv_store import Access, Refreshing, Writing
from cache.policy import Policy
from cache.run import Run
from cache.settings import at_least, share
from dlm.engine.canvas import Canvas
from dlm.engine.plan import CacheQuery, Layout
from dlm.engine.row import Row
from dlm.engine.step import State, StepView, rank
from dlm.errors import SettingsError
from dlm.models.architecture import Rope
from dlm.models.block import Block


class Observed(NamedTuple):
    """What was seen of every position.

    Attributes:
        confidence: of its proposal, when it was last fed as a mask. ``[B, W]``
        importance: how much of it reached the last layer in the last forward, by attention rollout. ``[B, W]``
        open: masks of the block in the last forward. ``[B]``
    """

    confidence: Float[Tensor, "B W"]
    importance: Float[Tensor, "B W"]
    open: Int[Tensor, " B"]


@dataclass(frozen=True)
class D2Cache(Policy):
    """d2Cache: beside what was just committed a step feeds the masks with the highest product of confidence and
    certainty density (section 3.2: how much around them is decided), of the others those that attention rollout
    (arXiv 2005.00928) says matter most, and what lies in narrow gaps between all of these. Only these masks may be
    committed; one of the block is always among them.

    Masks are looked for from the block to the end of the block that completes their number. Everything is recomputed
    once, at the first step of a row.

    Attributes:
        masks: how many masks are fed (the paper: 32).
        rollout: share of the rollout, of what is not fed otherwise, that the positions it adds have together (0.1).
        sigma: width of the density, in positions (10).
        gap: two fed positions at most so far apart have what is between them fed (4 with blocks; 0 without).
        compat: ``reference``: confidences stay as they were at the first step, as in the released code, whose update
            is written to a copy.

    Raises:
        SettingsError: fewer than one mask, a share outside (0, 1], a width outside (0, 10000], a negative gap, an
            unknown compat.
    """

    masks: int = 32
    rollout: float = 0.1
    sigma: float = 10.0
    gap: int = 4
    compat: Literal["clean", "reference"] = "clean"
    block_always_fresh = False
    serves_branches = False
    composable = False
    full_attention = True
    shadowless = "a shadow block would take part in the attention it goes by"

    def __post_init__(self) -> None:
        at_least(1, masks=self.masks)
        at_least(0, gap=self.gap)
        share(rollout=self.rollout)
        if not 0 < self.sigma <= 1e4:
            raise SettingsError(f"sigma is a width in positions and must be in (0, 10000], got {self.sigma}")

    def open(self, layout: Layout) -> D2Run:
        return D2Run(self, layout)

    def init(self, canvas: Canvas) -> Observed:
        nothing = torch.zeros_like(canvas.commit_confidence)
        return Observed(nothing, nothing, torch.zeros_like(canvas.start))

    def refreshes(self, row: Row) -> bool:
        return row.steps == 0

    def candidates(self, context: PolicyContext, state: Observed) -> Bool[Tensor, "B W"]:
        return context.shown(self.active(context, state))

    def _settling(self, context: PolicyContext, state: Observed) -> Bool[Tensor, "B W"]:
        """The masks that are fed for their own sake."""
        canvas, columns = context.query.canvas, context.columns
        masks = canvas.masked & context.live & (columns >= context.block_start)
        enough = (masks.cumsum(dim=1) >= self.masks) | (columns >= canvas.end[:, None] - 1)
        first = torch.where(enough, columns, columns[-1]).amin(dim=1, keepdim=True)
        start, size, prior = context.block_start, context.block_end - context.block_start, context.query.eligible
        if self.compat == "reference":
            start, size = canvas.start[:, None], state.open[:, None]
            prior = prior & (context.query.blocks.block_step > 0)[:, None]
        masks = masks & (columns < start + ((first - start) // size.clamp_min(1) + 1) * size)
        scores = (state.confidence * density(canvas, self.sigma)).masked_fill(~masks, -torch.inf)
        # What can be committed comes first, or the step would have nothing to commit.
        scores = scores + scores.amax(dim=1, keepdim=True) * prior
        return masks & (rank(scores, columns) < self.masks)

    def active(self, context: PolicyContext, state: Observed) -> Bool[Tensor, "B W"]:
        if "fed" not in context.kept:
            context.kept["fed"] = self._fed(context, state)
        return context.kept["fed"]

    def _fed(self, context: PolicyContext, state: Observed) -> Bool[Tensor, "B W"]:
        fed = context.answering(self._settling(context, state))
        late = torch.zeros_like(fed)
        if self.compat == "reference" and context.shift:
            late = context.columns == context.query.canvas.start[:, None] - context.shift
        known = (fed & ~late) | context.changed
        known = known | nucleus(state.importance, context.live & ~known, self.rollout)
        fed = torch.where(late, fed, known)
        return between(fed, context.columns, self.gap)

    def watched(self, context: PolicyContext, state: Observed) -> Bool[Tensor, "B W"]:
        return context.query.canvas.masked

    def remember(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: Observed
    ) -> tuple[State, dict[str, Int[Tensor, " B"]]]:
        masked, blocks = view.canvas.masked, view.blocks
        seen = view.marks(view.here(masked) | chosen)
        if self.compat == "reference":
            seen = seen & (blocks.step == 0)[:, None]
        confidence = view.on_canvas(view.proposal.prob.to(state.confidence.dtype))
        confidence = torch.where(seen, confidence, state.confidence)
        open_ = (masked & blocks.block).sum(dim=1) + chosen.sum(dim=1)
        return state._replace(confidence=confidence, open=open_), {}


def density(canvas: Canvas, sigma: float) -> Float[Tensor, "B W"]:
    """Certainty density: how much around a position of the generated region is decided, weighed by a Gaussian of the
    distance. What lies before the region is, what lies behind it is as its last position."""
    columns, numbers = canvas.columns, canvas.commit_confidence.dtype

    def weights() -> Tensor:
        # Whole numbers, and all that are not 0: so their sums are the same in any order and in a batch of any width.
        reach = max(columns.shape[0], int(7 * sigma) + 2)
        distance = torch.arange(reach, device=columns.device, dtype=torch.float32)
        return (torch.exp(distance.square() / (-2 * sigma**2)) * 2**30).to(numbers).round()

    weight = canvas.kept(("density", sigma), weights)
    near = canvas.kept(("density pairs", sigma), lambda: weight[(columns[:, None] - columns).abs()])
    decided = (canvas.generated & ~canvas.masked).to(numbers)
    last = decided.gather(1, canvas.end[:, None] - 1)
    before = weight.sum() - weight.cumsum(dim=0)
    left, right = (columns - canvas.start[:, None]), canvas.end[:, None] - 1 - columns
    known = decided @ near + before[left.clamp_min(0)] + before[right.clamp_min(0)] * last
    return known / (2 * weight.sum() - weight[0])


def nucleus(scores: Float[Tensor, "B W"], among: Bool[Tensor, "B W"], part: float) -> Bool[Tensor, "B W"]:
    """The positions ``among`` others with the highest scores that together have at most this part of all; at least
    one."""
    ordered, places = scores.masked_fill(~among, 0.0).sort(dim=1, descending=True, stable=True)
    running = ordered.cumsum(dim=1)
    taken = running <= part * running[:, -1:]
    taken[:, 0] = True
    return torch.zeros_like(among).scatter_(1, places, taken) & among


def between(chosen: Bool[Tensor, "B W"], columns: Int[Tensor, " W"], gap: int) -> Bool[Tensor, "B W"]:
    """What is chosen, and all that lies between two chosen positions at most ``gap`` apart."""
    far = 2 * columns.shape[0] + gap
    last = torch.where(chosen, columns, -far).cummax(dim=1).values
    following = torch.where(chosen, columns, far).flip(1).cummin(dim=1).values.flip(1)
    return chosen | (following - last <= gap)


@dataclass
class Rollout:
    """What every position has received, layer after layer, of each position below the first one, in one call of the
    model. A layer passes on half of what a position had and half of what it attended to; what is not fed stays.

    Attributes:
        live: positions that count. ``[R, W]``
        places: the fed positions; None: all. ``[R, T]``
        slots: as of the feed.
        received: the product so far, from position to position. ``[R, W, S]``
    """

    live: Bool[Tensor, "R W"]
    places: Int[Tensor, "R T"] | None
    slots: Int[Tensor, " R"] | None
    received: Tensor | None = None

    def add(self, attention: Float[Tensor, "V T S"]) -> None:
        """One more layer; a second, unguided stream of the same rows does not count."""
        (rows, width), (fed, seen) = self.live.shape, attention.shape[1:]
        attention = attention[:rows].to(self.live.device)
        if self.received is None:
            same = torch.eye(width, seen, dtype=attention.dtype, device=attention.device)
            self.received = same.repeat(rows, 1, 1)
        places = torch.arange(fed, device=attention.device) if self.places is None else self.places
        at = places.expand(rows, fed)[..., None].expand(-1, -1, seen)
        mixed = (attention @ self.received[:, :seen] + self.received.gather(1, at)) / 2
        self.received.scatter_(1, at, mixed)

    def put(self, importance: Float[Tensor, "B W"]) -> Float[Tensor, "B W"]:
        """The importances with those of these rows."""
        assert self.received is not None
        sums = (self.live[:, None].to(self.received.dtype) @ self.received)[:, 0].to(importance.dtype)
        sums = torch.nn.functional.pad(sums, (0, importance.shape[1] - sums.shape[1]))
        return sums if self.slots is None else importance.index_copy(0, self.slots, sums)


class D2Run(Run):
    """Follows the attention of the forward it has planned."""

    policy: D2Cache
    rollouts: list[Rollout]

    def _note(self, query: CacheQuery, active: Tensor, *rest: Any) -> None:
        super()._note(query, active, *rest)
        self.rollouts = []

    def refreshing(self, query: CacheQuery, slots: Int[Tensor, " R"] | None) -> Access:
        return RolledRefreshing(self.store, 0, slots, self._rollout(query, None, slots))

    def writing(self, query: CacheQuery, positions: Int[Tensor, "B T"], reach: int) -> Access:
        return RolledWriting(self.store, 0, positions, reach, self._rollout(query, positions, None))

    def _rollout(self, query: CacheQuery, places: Tensor | None, slots: Tensor | None) -> Rollout:
        live = query.canvas.live if slots is None else query.canvas.live[slots]
        self.rollouts.append(Rollout(live, places, slots))
        return self.rollouts[-1]

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        importance = self.state.importance
        for rollout in self.rollouts:
            importance = rollout.put(importance)
        self.rollouts, self.state = [], self.state._replace(importance=importance)
        return super().end(view, chosen)


@dataclass(frozen=True)
class Rolled(Access):
    """Hands the attention of every layer on. It is computed apart from what the layer computes: fused attention knows
    no weights."""

    rollout: Rollout | None = None

    def run(self, layer: int, block: Block, x: Float[Tensor, "R T D"], rope: Rope, mask: Tensor | None) -> Tensor:
        maps: list[Tensor] = []
        out: Tensor = block(x, rope, mask, maps, self.exchange(layer, block, x))
        assert self.rollout is not None
        self.rollout.add(maps[0])
        return out


@dataclass(frozen=True)
class RolledRefreshing(Rolled, Refreshing):
    """A refresh whose attention is followed."""


@dataclass(frozen=True)
class RolledWriting(Rolled, Writing):
    """Another step, likewise."""
