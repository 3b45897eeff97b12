"""The uncached run with a cache policy beside it: at every step both see the same canvas, and are compared.

The decode is the uncached one: its commits are the canvas of the next step, for the policy too (teacher forcing). So
what is measured at a step is the cache alone, never the consequence of an earlier difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.batch import Batch
from dlm.engine.branches import Branches, BranchPlan
from dlm.engine.canvas import Canvas, pack_positions
from dlm.engine.forward import Forward, Seen
from dlm.engine.interfaces import Cache, CacheRun
from dlm.engine.loop import Decoder
from dlm.engine.no_cache import NoCacheRun, WholeRows
from dlm.engine.plan import CacheQuery, ForwardPlan
from dlm.engine.row import Row
from dlm.engine.sampler import Sampler
from dlm.engine.step import BlockState, StepView, rank
from dlm.errors import SettingsError
from dlm.models.backbone import Backbone, ModelDescription

# What a stored key can belong to: a given position; a token that stood there at the row's last refresh, or has been
# committed since; a mask.
KINDS = ("prompt", "decided_before", "decided_since", "masks")
# Logits that are compared at one time, in elements.
CHUNK_ELEMENTS = 2**23


@dataclass(frozen=True)
class StepDrift:
    """How far the cache's answers were from the exact ones at one step of one row.

    Attributes:
        prompt: the row's place in the list of prompts.
        step: 0-based forward of the row.
        age: steps since the row was last recomputed whole; 0: at this one.
        fed: positions the policy recomputed.
        candidates: masked positions of the block that the policy lets the step commit; all figures are over them.
        kl_mean, kl_median, kl_max: KL(exact || cached) of the whole distributions, in nats.
        agreement: share of candidates whose most probable token is the same.
        prob_gap: mean absolute difference of the largest probability.
        entropy_gap: mean absolute difference of the entropies, in nats.
        committed: positions the exact step committed.
        same_choice: whether the sampler would have committed just these positions from the cached answers.
        worst_place: the last place (1 is best) a committed position has among the scores from the cached answers;
            None when the policy did not let it be committed.
    """

    prompt: int
    step: int
    age: int
    fed: int
    candidates: int
    kl_mean: float
    kl_median: float
    kl_max: float
    agreement: float
    prob_gap: float
    entropy_gap: float
    committed: int
    same_choice: bool
    worst_place: int | None


@dataclass(frozen=True)
class KeyDrift:
    """How far the keys and values that one step of one row attended to were from those of a full forward.

    Attributes:
        prompt, step, age: as in :class:`StepDrift`.
        layer: 0-based.
        kind: one of :data:`KINDS`.
        positions: how many of the kind are visible.
        key_distance, value_distance: ``||stored - fresh|| / ||fresh||`` over all of them.
        key_cosine, value_cosine: mean over them of the cosine of stored and fresh, all heads of a position end to end.
    """

    prompt: int
    step: int
    age: int
    layer: int
    kind: str
    positions: int
    key_distance: float
    key_cosine: float
    value_distance: float
    value_cosine: float


class Replaying(Decoder):
    """Decodes without a cache, and asks a policy at every step what it would have answered.

    Attributes:
        steps: per prompt and step.
        keys: per prompt and step, a line per layer and kind; empty when the policy keeps no keys.

    Raises:
        SettingsError: the policy does not go with the sampler or the model; a sampler with look-ahead.
    """

    def __init__(self, model: Backbone, description: ModelDescription, sampler: Sampler, policy: Cache | None) -> None:
        if sampler.lookahead is not None:
            raise SettingsError(
                f"sampler {sampler.name!r} looks ahead, so a step is no single forward that could be compared: use"
                " another sampler"
            )
        super().__init__(model, description, sampler, policy)
        self.steps: dict[tuple[int, int], StepDrift] = {}
        self.keys: dict[tuple[int, int], list[KeyDrift]] = {}
        self._pair: _Pair | None = None

    def _open_cache(self, canvas: Canvas) -> CacheRun:
        whole = NoCacheRun(WholeRows(self.description.attention_block))
        ages = [0] * canvas.tokens.shape[0]
        self._beside = _Beside(super()._open_cache(canvas), whole, self._finish_step, ages)
        return self._beside

    def _look(
        self,
        batch: Batch,
        blocks: BlockState,
        plan: ForwardPlan,
        positions: Int[Tensor, "B N"],
        eligible: Bool[Tensor, "B W"],
        states: dict,
    ) -> tuple[StepView, Bool[Tensor, "B N"] | None, Seen | None]:
        """Both forwards; the exact one is what the decoder gets."""
        canvas = batch.canvas
        now, asked = self._beside.now, self._beside.asked
        wanted = now.wanted if asked.wanted is None else asked.wanted
        narrowed = now.eligible if asked.eligible is None else asked.eligible
        places = pack_positions(wanted, canvas.columns, positions.shape[1])
        # Memories of the parts are the exact run's; only what is held against the step before is the cache's own.
        own = {**states, "previous": states.get("replayed")}
        cached, _, answered = super()._look(batch, blocks, asked, places, narrowed, own)
        exact, forced, seen = super()._look(batch, blocks, plan, positions, eligible, states)
        if "previous" in states:
            states["replayed"] = own["previous"]
        assert answered is not None
        assert seen is not None
        gaps = compare(self.forward, seen, answered, places)
        self._pair = _Pair(exact, cached, gaps, self._stale_keys(canvas))
        return exact, forced, seen

    def select(
        self, view: StepView, forced: Bool[Tensor, "B N"] | None, states: dict
    ) -> tuple[StepView, Bool[Tensor, "B N"], Bool[Tensor, " B"] | None]:
        """The exact choice; before it, what the sampler would have chosen from the cached answers."""
        pair = self._pair
        if pair is None or view.proposal is not pair.exact.proposal:  # a choice that is foreseen, without a forward
            return super().select(view, forced, states)
        # The schedule may have settled the block after the exact forward.
        here = pair.cached.eligible & pair.cached.here(view.blocks.block)
        cached = pair.cached.with_(blocks=view.blocks, eligible=here, most=view.most)
        cached, would, _ = super().select(cached, None, dict(states))
        view, chosen, exiting = super().select(view, forced, states)
        same = (view.on_canvas(chosen, False) == cached.on_canvas(would, False)).all(dim=1)
        self._pair = replace(pair, cached=cached, same=same)
        return view, chosen, exiting

    def _finish_step(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> tuple[StepView, Bool[Tensor, "B N"]]:
        """Keep the figures of a step that is done; returns what the policy must be told of it."""
        pair, self._pair = self._pair, None
        assert pair is not None
        assert pair.same is not None
        cached = pair.cached
        committed = view.on_canvas(chosen, False)
        done = cached.here(committed)
        assert cached.scores is not None
        place = (rank(cached.scores) + 1).masked_fill(~done, 0).amax(dim=1).tolist()
        known, count = done.sum(dim=1).tolist(), committed.sum(dim=1).tolist()
        same = pair.same.tolist()
        for slot, row in enumerate(self._beside.now.rows):
            kl, agrees, prob, entropy = (x[slot, cached.eligible[slot]].tolist() for x in pair.gaps)
            at, age = (row.job.index, row.steps), row.steps - self._beside.refreshed_at[slot]
            self.steps[at] = StepDrift(
                prompt=row.job.index,
                step=row.steps,
                age=age,
                fed=self._beside.asked.counts[slot],
                candidates=len(kl),
                kl_mean=fmean(kl or [0.0]),
                kl_median=median(kl or [0.0]),
                kl_max=max(kl or [0.0]),
                agreement=fmean(agrees or [1.0]),
                prob_gap=fmean(prob or [0.0]),
                entropy_gap=fmean(entropy or [0.0]),
                committed=count[slot],
                same_choice=same[slot],
                worst_place=place[slot] if known[slot] == count[slot] else None,
            )
            self.keys[at] = [KeyDrift(*at, age, *line) for line in pair.stale[slot]]
        return cached.with_(canvas=view.canvas), done

    def _stale_keys(self, canvas: Canvas) -> list[list[tuple[Any, ...]]]:
        """Per slot the lines of :class:`KeyDrift` from ``layer`` on."""
        beside = self._beside
        store = getattr(beside.policy, "store", None)
        if store is None or not beside.fresh.keys:
            return [[] for _ in beside.now.rows]
        width = max(row.reach for row in beside.now.rows)
        kinds = kinds_of(canvas, visible(beside.asked, beside.now), beside.refreshed_at)[:, :, :width]
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


@dataclass(frozen=True)
class _Pair:
    """One step, both ways.

    Attributes:
        exact, cached: what the sampler is shown.
        gaps: see :func:`compare`. Each ``[B, N]`` at the cached view's positions
        stale: per slot the lines of :class:`KeyDrift`, without the first three fields.
        same: whether the choices are the same. ``[B]``
    """

    exact: StepView
    cached: StepView
    gaps: tuple[Float[Tensor, "B N"], ...]
    stale: list[list[tuple[Any, ...]]]
    same: Bool[Tensor, " B"] | None = None


@dataclass
class _Beside:
    """No cache for the decoder, and a policy at work beside it on the same rows.

    Attributes:
        policy: its run.
        whole: the uncached run.
        finished: told of each finished step; answers with the view and the commits for the policy.
        refreshed_at: per slot the step of the row's last refresh.
        now, asked: the decoder's question of this step, and the policy's answer.
        fresh: keys and values of the uncached forward.
    """

    policy: CacheRun
    whole: NoCacheRun
    finished: Callable[[StepView, Tensor], tuple[StepView, Tensor]]
    refreshed_at: list[int]
    now: CacheQuery = field(init=False)
    asked: ForwardPlan = field(init=False)
    fresh: Fresh = field(init=False)

    def plan(self, now: CacheQuery) -> ForwardPlan:
        self.now, self.asked, self.fresh = now, self.policy.plan(now), Fresh()
        for slot in self.asked.refreshed:
            self.refreshed_at[slot] = now.rows[slot].steps
        plan = self.whole.plan(now)
        if not hasattr(self.policy, "store"):
            return plan
        return replace(plan, feeds=tuple(replace(feed, memory=self.fresh) for feed in plan.feeds))

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        return self.policy.end(*self.finished(view, chosen))

    def evaluable(self, row: Row) -> int:
        return 0

    def spread(self, versions: Branches) -> BranchPlan:
        raise AssertionError("versions of a row are not replayed")

    def accept(self, kept: Int[Tensor, " B"]) -> None:
        raise AssertionError("versions of a row are not replayed")

    def keep(self, slots: list[int]) -> None:
        self.policy.keep(slots)
        self.refreshed_at = [self.refreshed_at[slot] for slot in slots]

    def renew(self, slots: list[int]) -> None:
        self.policy.renew(slots)
        for slot in slots:
            self.refreshed_at[slot] = 0


@dataclass
class Fresh:
    """A memory (:class:`dlm.engine.plan.Memory`) that changes nothing and takes down the keys and values of a forward.

    Attributes:
        keys, values: per layer. ``[R, T, K, h]`` each, a second stream and entries that are not kept at the end
    """

    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def run(self, layer: int, block: Any, x: Float[Tensor, "R T D"], rope: Any, mask: Tensor | None) -> Tensor:
        """See :class:`dlm.engine.plan.Memory`."""

        def take_down(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
            self.keys.append(k)
            self.values.append(v)
            return k, v, seen

        out: Tensor = block(x, rope, mask, None, take_down)
        return out

    def extended(self, extra: int) -> Fresh:
        """See :class:`dlm.engine.plan.Memory`."""
        return self

    def doubled(self) -> Fresh:
        """See :class:`dlm.engine.plan.Memory`."""
        return self

    def along_sequence(self, order: Any, valid: Any) -> Any:
        """See :class:`dlm.engine.plan.Memory`."""
        raise AssertionError("versions of a row are not replayed")


def compare(
    forward: Forward, exact: Seen, cached: Seen, positions: Int[Tensor, "B N"]
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N"], Float[Tensor, "B N"]]:
    """KL(exact || cached), whether the best token is the same, and the absolute differences of its probability and of
    the entropy, all in float64 and of the model's own distributions, before transforms and temperature."""
    ours, theirs = (seen.hidden.rows(forward.model, positions) for seen in (exact, cached))
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


def visible(plan: ForwardPlan, now: CacheQuery) -> Bool[Tensor, "B W"]:
    """Positions that a plan lets a row attend to. Keys that a layer evicts for itself (Sparse-dLLM) count as well."""
    seen = torch.zeros_like(now.wanted)
    for feed in plan.feeds:
        width = feed.tokens.shape[1] if feed.stored is None else feed.stored
        valid = feed.valid
        if valid is not None and valid.dim() == 3:
            valid = valid.any(dim=1)
        slots = slice(None) if feed.slots is None else feed.slots
        seen[slots, :width] = torch.ones_like(seen[slots, :width]) if valid is None else valid
    reaches = torch.tensor([row.reach for row in now.rows], device=seen.device)
    return seen & (now.canvas.columns < reaches[:, None])


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
