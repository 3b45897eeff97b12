"""The uncached run with a cache policy beside it: at every step both see the same canvas, and are compared.

The decode is the uncached one: its commits are the canvas of the next step, for the policy too (teacher forcing). So
what is measured at a step is the cache alone, never the consequence of an earlier difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.forward import Forward, Seen
from dlm.engine.interfaces import Cache, CacheRun, Speculator
from dlm.engine.no_cache import CacheAround, NoCacheRun, WholeRows
from dlm.engine.plan import CacheQuery, ForwardPlan, Layout
from dlm.engine.sampler import Sampler
from dlm.engine.sampler_run import SamplerState
from dlm.engine.step import StepView, rank
from dlm.engine.stepper import PlainStepper, StepInputs, StepOutcome, StepTools
from dlm.errors import SettingsError
from dlm.models.backbone import Backbone, ModelDescription

# What a stored key can belong to: a given position; a token that stood there at the row's last refresh, or has been
# committed since; a mask.
KINDS = ("prompt", "decided_before", "decided_since", "masks")
# Logits that are compared at one time, in elements.
CHUNK_ELEMENTS = 2**23


@dataclass(frozen=True)
class StepDrift:
    """How far the cache's answers were from the exact ones at one step of one row."""

    prompt: int  # the row's place in the list of prompts
    step: int  # 0-based forward of the row
    age: int  # steps since the row was last recomputed whole; 0: at this one
    fed: int  # positions the policy recomputed
    candidates: int  # masked positions of the block that the policy lets the step commit; all figures are over them
    # kl_mean, kl_median, kl_max: KL(exact || cached) of the whole distributions, in nats
    kl_mean: float
    kl_median: float
    kl_max: float
    agreement: float  # share of candidates whose most probable token is the same
    prob_gap: float  # mean absolute difference of the largest probability
    entropy_gap: float  # mean absolute difference of the entropies, in nats
    committed: int  # positions the exact step committed
    same_choice: bool  # whether the sampler would have committed just these positions from the cached answers
    # the last place (1 is best) a committed position has among the scores from the cached answers; None when the policy
    # did not let it be committed
    worst_place: int | None


@dataclass(frozen=True)
class KeyDrift:
    """How far the keys and values that one step of one row attended to were from those of a full forward.

    A distance is ``||stored - fresh|| / ||fresh||`` over all visible positions of the kind; a cosine is the mean over
    them of that of stored and fresh, all heads of a position end to end.
    """

    # prompt, step, age: as in :class:`StepDrift`
    prompt: int
    step: int
    age: int
    layer: int  # 0-based
    kind: str  # one of :data:`KINDS`
    positions: int  # how many of the kind are visible
    key_distance: float
    key_cosine: float
    value_distance: float
    value_cosine: float


@dataclass(frozen=True)
class Beside(CacheAround):
    """No cache for the decoder, and a policy at work beside it on the same rows."""

    def open(self, layout: Layout) -> BesideRun:
        """Both at work."""
        whole = NoCacheRun(WholeRows(layout.attention_block))
        return BesideRun(self.inner.open(layout), whole, [0] * layout.rows)


@dataclass
class BesideRun(CacheRun):
    """:class:`Beside` at work."""

    policy: CacheRun  # its run
    whole: NoCacheRun  # the uncached run
    refreshed_at: list[int]  # per slot the step of the row's last refresh
    # query, answer: the decoder's question of this step, and the policy's answer
    query: CacheQuery = field(init=False)
    answer: ForwardPlan = field(init=False)
    fresh: Fresh = field(init=False)  # keys and values of the uncached forward
    cached: StepView | None = None  # what the sampler would have been shown under the policy; set by the step

    def plan(self, query: CacheQuery) -> ForwardPlan:
        self.query, self.answer, self.fresh = query, self.policy.plan(query), Fresh()
        for slot in self.answer.refreshed:
            self.refreshed_at[slot] = query.rows[slot].steps
        plan = self.whole.plan(query)
        if not hasattr(self.policy, "store"):
            return plan
        return replace(plan, feeds=tuple(replace(feed, memory=self.fresh) for feed in plan.feeds))

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        assert self.cached is not None
        # The policy learns from its own answers, and of the exact run's commits.
        done = self.cached.here(view.on_canvas(chosen, False))
        return self.policy.end(replace(self.cached, canvas=view.canvas), done)

    def keep(self, slots: list[int]) -> None:
        self.policy.keep(slots)
        self.refreshed_at = [self.refreshed_at[slot] for slot in slots]

    def renew(self, slots: list[int]) -> None:
        self.policy.renew(slots)
        for slot in slots:
            self.refreshed_at[slot] = 0


class Replay(Speculator):
    """Takes the steps of an uncached run, and asks a policy at every one what it would have answered; goes with the
    cache :class:`Beside`.

    Attributes:
        other: the model that the policy's forwards are taken with; None: the run's own.
        steps: per prompt and step.
        keys: per prompt and step, a line per layer and kind; empty when the policy keeps no keys.
    """

    def __init__(self, other: Backbone | None = None) -> None:
        self.other = other
        self.steps: dict[tuple[int, int], StepDrift] = {}
        self.keys: dict[tuple[int, int], list[KeyDrift]] = {}

    def goes_with(self, sampler: Sampler, cache: Cache, description: ModelDescription) -> None:
        """Raises SettingsError for a sampler whose steps are no single forward."""
        if sampler.probe is not None:
            raise SettingsError(
                f"sampler {sampler.name!r} looks ahead, so a step is no single forward that could be compared: use"
                " another sampler"
            )

    def stepper(self, tools: StepTools) -> ReplayingStepper:
        """The steps of one run."""
        return ReplayingStepper(tools, self)


class ReplayingStepper(PlainStepper):
    """Both forwards of a step, and the one that is exact committed."""

    def __init__(self, tools: StepTools, found: Replay) -> None:
        super().__init__(tools)
        self.found, self.asked = found, PlainStepper(tools)
        if found.other is not None:
            self.asked = PlainStepper(tools._replace(forward=replace(tools.forward, model=found.other)))

    def take(self, inputs: StepInputs, state: SamplerState, forwards: Int[Tensor, " B"] | None = None) -> StepOutcome:
        """The exact step; before it, what the sampler would have chosen from the policy's answers."""
        beside, rules = inputs.batch.cache, self.rules
        assert isinstance(beside, BesideRun)
        query, answer = beside.query, beside.answer
        asked = replace(
            inputs,
            plan=answer,
            wanted=query.wanted if answer.wanted is None else answer.wanted,
            eligible=query.eligible if answer.eligible is None else answer.eligible,
        )
        # Memories of the parts are the exact run's; only what is held against the step before is the cache's own.
        own = replace(state, previous=state.stepper)
        cached, answered = self.asked.look(asked, own)
        exact, seen = self.look(inputs, state)
        state.stepper = own.previous
        gaps = compare(self.forward, seen, answered, cached.positions)
        stale = _stale_keys(beside, inputs.batch.canvas)
        trial = state.copy()
        settled = rules.narrow(exact, inputs.opened, trial)
        # The schedule may have settled the block after the exact forward.
        here = cached.eligible & cached.here(settled.blocks.block)
        cached, would, _ = rules.select(replace(cached, blocks=settled.blocks, eligible=here), trial.copy())
        settled, chosen, _ = rules.select(settled, trial)
        same = (settled.on_canvas(chosen, False) == cached.on_canvas(would, False)).all(dim=1)
        outcome = replace(self.settle(inputs, exact, state, forwards=forwards), seen=seen)
        beside.cached = cached
        self._note(beside, outcome, cached, gaps, same, stale)
        return outcome

    def _note(
        self,
        beside: BesideRun,
        outcome: StepOutcome,
        cached: StepView,
        gaps: tuple[Float[Tensor, "B N"], ...],
        same: Bool[Tensor, " B"],
        stale: list[list[tuple[Any, ...]]],
    ) -> None:
        """Keep the figures of a step."""
        committed = outcome.view.on_canvas(outcome.chosen, False)
        done = cached.here(committed)
        assert cached.scores is not None
        place = (rank(cached.scores) + 1).masked_fill(~done, 0).amax(dim=1).tolist()
        known, count = done.sum(dim=1).tolist(), committed.sum(dim=1).tolist()
        for slot, (row, agreed) in enumerate(zip(beside.query.rows, same.tolist(), strict=True)):
            kl, agrees, prob, entropy = (x[slot, cached.eligible[slot]].tolist() for x in gaps)
            at, age = (row.job.index, row.steps), row.steps - beside.refreshed_at[slot]
            self.found.steps[at] = StepDrift(
                prompt=row.job.index,
                step=row.steps,
                age=age,
                fed=beside.answer.counts[slot],
                candidates=len(kl),
                kl_mean=fmean(kl or [0.0]),
                kl_median=median(kl or [0.0]),
                kl_max=max(kl or [0.0]),
                agreement=fmean(agrees or [1.0]),
                prob_gap=fmean(prob or [0.0]),
                entropy_gap=fmean(entropy or [0.0]),
                committed=count[slot],
                same_choice=agreed,
                worst_place=place[slot] if known[slot] == count[slot] else None,
            )
            self.found.keys[at] = [KeyDrift(*at, age, *line) for line in stale[slot]]


def _stale_keys(beside: BesideRun, canvas: Canvas) -> list[list[tuple[Any, ...]]]:
    """Per slot the lines of :class:`KeyDrift` from ``layer`` on."""
    store = getattr(beside.policy, "store", None)
    if store is None or not beside.fresh.keys:
        return [[] for _ in beside.query.rows]
    width = max(row.visible_end for row in beside.query.rows)
    kinds = kinds_of(canvas, visible(beside.answer, beside.query), beside.refreshed_at)[:, :, :width]
    counts = kinds.sum(dim=2).tolist()
    layers = [
        torch.cat([staleness(old, new, kinds) for old, new in pairs])
        for pairs in zip(
            zip(store.keys, beside.fresh.keys, strict=True),
            zip(store.values, beside.fresh.values, strict=True),
            strict=True,
        )
    ]
    figures = torch.stack(layers).permute(3, 0, 2, 1).tolist()  # slot, layer, kind, figure
    return [
        [
            (layer, kind, counts[k][slot], *of_layer[k])
            for layer, of_layer in enumerate(of_slot)
            for k, kind in enumerate(KINDS)
            if counts[k][slot]
        ]
        for slot, of_slot in enumerate(figures)
    ]


@dataclass
class Fresh:
    """A memory (:class:`dlm.engine.plan.FeedMemory`) that changes nothing and takes down the keys and values of a
    forward.
    """

    # keys, values: per layer. ``[R, T, K, h]`` each, a second stream and entries that are not kept at the end
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def run(self, layer: int, block: Any, x: Float[Tensor, "R T D"], rope: Any, mask: Tensor | None) -> Tensor:
        """See :class:`dlm.engine.plan.FeedMemory`."""

        def take_down(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
            self.keys.append(k)
            self.values.append(v)
            return k, v, seen

        out: Tensor = block(x, rope, mask, None, take_down)
        return out

    def extended(self, extra: int) -> Fresh:
        """See :class:`dlm.engine.plan.FeedMemory`."""
        return self

    def doubled(self) -> Fresh:
        """See :class:`dlm.engine.plan.FeedMemory`."""
        return self

    def along_sequence(self, order: Any, valid: Any) -> Any:
        """See :class:`dlm.engine.plan.FeedMemory`."""
        raise AssertionError("branches of a row are not replayed")


def compare(
    forward: Forward, exact: Seen, cached: Seen, positions: Int[Tensor, "B N"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """KL(exact || cached), whether the best token is the same, and the absolute differences of its probability and of
    the entropy, all in float64 and of the model's own distributions, before transforms and temperature."""
    ours, theirs = (seen.hidden.rows(forward.shift, positions) for seen in (exact, cached))
    vocabulary, parts = forward.vocabulary, []
    chunk = max(1, CHUNK_ELEMENTS // max(1, vocabulary.width))
    for first in range(0, positions.numel(), chunk):
        part = slice(first, first + chunk)
        a, b = (forward.guided([rows[part] for rows in sets]).double().log_softmax(dim=1) for sets in (ours, theirs))
        p, q = a.exp(), b.exp()
        kl = (p * (a - b)).sum(dim=1).clamp_min(0.0)
        entropy = ((p * a).sum(dim=1) - (q * b).sum(dim=1)).abs()
        for x in (p, q):
            x[:, vocabulary.mask_id] = 0.0
        (sure, token), (sure_too, token_too) = (x[:, : vocabulary.valid].max(dim=1) for x in (p, q))
        parts.append(torch.stack([kl, (token == token_too).double(), (sure - sure_too).abs(), entropy]))
    kl, agrees, prob, entropy = torch.cat(parts, dim=1).view(4, *positions.shape)
    return kl, agrees, prob, entropy


def visible(plan: ForwardPlan, query: CacheQuery) -> Bool[Tensor, "B W"]:
    """Positions that a plan lets a row attend to. Keys that a layer evicts for itself (Sparse-dLLM) count as well."""
    seen = torch.zeros_like(query.wanted)
    for feed in plan.feeds:
        width = feed.tokens.shape[1] if feed.stored is None else feed.stored
        valid = feed.valid
        if valid is not None and valid.dim() == 3:
            valid = valid.any(dim=1)
        slots = slice(None) if feed.slots is None else feed.slots
        seen[slots, :width] = torch.ones_like(seen[slots, :width]) if valid is None else valid
    ends = torch.tensor([row.visible_end for row in query.rows], device=seen.device)
    return seen & (query.canvas.columns < ends[:, None])


def kinds_of(canvas: Canvas, seen: Bool[Tensor, "B W"], refreshed_at: Sequence[int]) -> Bool[Tensor, "C B W"]:
    """The visible positions of each of :data:`KINDS`."""
    last = torch.tensor(refreshed_at, device=seen.device)[:, None]
    decided = canvas.writable & ~canvas.masked
    since = canvas.commit_step >= last
    return torch.stack([~canvas.writable, decided & ~since, decided & since, canvas.masked]) & seen


def staleness(
    stored: Float[Tensor, "R S K h"], fresh: Float[Tensor, "Q T K h"], kinds: Bool[Tensor, "C B T"]
) -> Float[Tensor, "2 C B"]:
    """Relative distance and mean cosine of the stored entries from the fresh ones, per kind and row (NaN where a row
    has none of the kind)."""
    _, rows, width = kinds.shape
    old, new = (x[:rows, :width].flatten(2).double() for x in (stored, fresh))
    where = kinds.to(new.dtype)
    gap, size, cosine = (
        torch.einsum("bt,cbt->cb", x, where)
        for x in (
            (old - new).square().sum(dim=2),
            new.square().sum(dim=2),
            torch.nn.functional.cosine_similarity(old, new, dim=2),
        )
    )
    return torch.stack([(gap / size).sqrt(), cosine / where.sum(dim=2)])
