"""What every key/value cache shares: the stamp rule, the split into refreshed and other rows, the buffer.

A policy answers three questions as sets: is a row recomputed whole now, which positions are fed otherwise, and which
may be attended to. Everything else is here.

**The stamp rule**: every stored key and value remembers the token it was computed for; a visible position whose token
is another one by now is fed, whatever the policy says. So no policy can serve a key of a token that is no longer there,
a token committed at a step is recomputed at the next one (the one-step delay of dKV-Cache, arXiv 2505.15781), and
samplers that take tokens back need nothing special.
"""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Bool, Int
from torch import Tensor

from cache.branches import BranchingRun
from cache.context import PolicyContext
from cache.run import Run
from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Cache
from dlm.engine.plan import Layout
from dlm.engine.proposal import Statistic
from dlm.engine.row import Row
from dlm.engine.sampler import Sampler
from dlm.engine.step import State, StepView
from dlm.errors import SettingsError
from dlm.models.backbone import ModelDescription


class Policy(Cache):
    """Base of the key/value caches; a policy is a frozen dataclass of settings.

    Beside what a :class:`dlm.engine.interfaces.Cache` says of itself (``schedule_known`` also promises that
    ``remember`` reads the block state alone):

    Class attributes:
        block_always_fresh: whether the candidates of a block are recomputed at every one of its steps.
        uniform_feed: whether every step of a block that is no refresh is fed the same positions.
        serves_branches: whether several branches of a row can look at what it keeps.
        composable: whether :class:`cache.run.Run` is all it keeps, so that another policy can be laid around it.
        refreshes_with_blocks: whether everything is recomputed only where a block begins, so that a block which moves
            would go on for ever without.
        full_attention: whether it is made for attention without blocks.
        shadowless: why a shadow block cannot be fed with it; None: it can.
    """

    stores = True
    block_always_fresh = True
    asks_ahead = False
    schedule_known = False
    spans_blocks = False
    exact = False
    uniform_feed = False
    serves_branches = True
    composable = True
    refreshes_with_blocks = False
    full_attention = False
    shadowless: ClassVar[str | None] = None

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics beyond the probability that the policy reads: none."""
        return frozenset()

    @property
    def feeds_alike(self) -> bool:
        return self.uniform_feed

    def check(self, sampler: Sampler, description: ModelDescription) -> None:
        """Refuse samplers that do not go with the policy, with the reason."""
        reason = self.refusal(sampler, description)
        if reason is not None:
            name = type(self).__name__
            raise SettingsError(f"cache {name} does not go with sampler {sampler.name!r}: {reason}")

    def refusal(self, sampler: Sampler, description: ModelDescription) -> str | None:
        """Why the sampler does not go with the policy; None: it does."""
        if self.shadowless is not None and "shadow" in sampler.needs:
            return f"{self.shadowless}; use cache=dual"
        if self.full_attention and description.attention_block:
            return "it is made for full attention; use cache=block_causal"
        probe, branching = sampler.probe, self.serves_branches and self.block_always_fresh
        if probe is not None and not (branching and (self.schedule_known or not any(probe.follows))):
            return "look-ahead branches of a row cannot share what it keeps; use cache=dual, prefix or dkv_decode"
        if sampler.guidance_remask:
            return "its guidance masks other tokens at every step, of which nothing can be kept; use cache=none"
        if sampler.grows:
            return "its blocks grow, which moves what the cache keeps by position; use cache=none"
        if sampler.moves_blocks and self.refreshes_with_blocks:
            return (
                "its blocks move, and this cache recomputes everything only where one begins; use cache=dkv_decode,"
                " cache.every=N with dual or vicinity, or cache=entropy with every_tokens"
            )
        if "attention" in sampler.needs:
            return "it reads the attention of the whole row, which a cache does not compute; use cache=none"
        if sampler.compares_steps and not self.block_always_fresh:
            return (
                "it compares a position with the step before, and one that was not recomputed since would pass for"
                " stable; use cache=dual, prefix, vicinity or dkv_decode"
            )
        if self.asks_ahead and not sampler.order_known:
            return (
                "this cache must know before a forward which positions it will commit, and that sampler decides after"
                " it; use sampler=random (without modifiers), or cache=dual or recap"
            )
        return None

    def open(self, layout: Layout) -> Run:
        """The policy at work on one batch."""
        return BranchingRun(self, layout)

    def init(self, canvas: Canvas) -> State:
        """Memory of fresh rows: None, a tensor of zeros, or a tuple of such, the row axis first."""
        return None

    def refreshes(self, row: Row) -> bool:
        """Whether the row is recomputed whole at its next step, decided on the host."""
        raise NotImplementedError

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        """Positions to feed at a step that is no refresh. Changed positions and rows that answer for wanted ones are
        added by the base."""
        raise NotImplementedError

    def visible(self, context: PolicyContext) -> Bool[Tensor, "B W"] | None:
        """Positions that may be attended to and are recomputed by a refresh; None: all live ones."""
        return None

    def candidates(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"] | None:
        """The only positions the step may commit; None: the sampler's choice is not narrowed. Rows that are refreshed
        are not last."""
        return None

    def watched(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"] | None:
        """Positions whose proposals ``remember`` reads beside those that may be committed, as far as the step feeds
        what scores them; None: none. Not for policies that tell the feed of the next step beforehand."""
        return None

    def remember(
        self, view: StepView, chosen: Bool[Tensor, "B N"], state: State
    ) -> tuple[State, dict[str, Int[Tensor, " B"]]]:
        """The memory after a step, and what the host must know of it (``row.cache``)."""
        return state, {}
