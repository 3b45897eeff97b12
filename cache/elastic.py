"""Elastic-Cache (arXiv 2510.14973): a window of masks, and from some layer on everything where attention drifts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad

from cache.context import PolicyContext
from cache.kv_store import Access, KeepAll, WriteThere, flat, move_up
from cache.policy import Policy
from cache.run import Run
from cache.settings import at_least
from dlm.engine.canvas import Canvas, pack_positions
from dlm.engine.plan import CacheQuery, Layout
from dlm.engine.row import Row
from dlm.engine.step import StepView, rank
from dlm.errors import SettingsError
from dlm.models.architecture import Rope, rope_tables
from dlm.models.block import Block, Exchange, attention_weights


@dataclass(frozen=True)
class Elastic(Policy):
    """Elastic-Cache: a step feeds the ``window`` leftmost masks, the only ones it may commit, what was just committed,
    and the *tracked* tokens: of all that is decided those that the window attended to most, ``track`` in each layer of
    the forward before. Where the attention of the tracked ones has turned away from what their last query gives over
    the keys before this step, every layer above recomputes the whole row; the layers below keep what they have. The
    first step of a row recomputes everything.

    Decided layer by layer inside the forward, as published, so the host waits for every layer but the last. After the
    paper's abstract and the released code for LLaDA; its full text was not at hand. For a shifted model the rows that
    answer for the window are fed beside it; what counts is what its masks attend to.

    Attributes:
        window: masks that are fed (the paper's beta: 16). Those of the block come first.
        gamma: cosine similarity below which attention has turned (0.9).
        track: tokens tracked in each layer (1).
        compat: ``clean``: the cosine of a token's weights over all heads and keys, mean over the tracked tokens.
            ``reference``: as the released code, the cosine over the heads alone, mean over tokens and keys.

    Raises:
        SettingsError: ``window`` or ``track`` below 1, ``gamma`` outside [0, 1], an unknown compat.
    """

    window: int = 16
    gamma: float = 0.9
    track: int = 1
    compat: Literal["clean", "reference"] = "clean"
    block_always_fresh = False
    serves_branches = False
    composable = False
    full_attention = True
    shadowless = "a shadow block would take part in the attention it goes by"

    def __post_init__(self) -> None:
        at_least(1, window=self.window, track=self.track)
        if not 0.0 <= self.gamma <= 1.0:
            raise SettingsError(f"gamma is a cosine similarity and must be in [0, 1], got {self.gamma}")

    def open(self, layout: Layout) -> ElasticRun:
        return ElasticRun(self, layout)

    def init(self, canvas: Canvas) -> Bool[Tensor, "B W"]:
        """What is tracked."""
        return torch.zeros_like(canvas.writable)

    def refreshes(self, row: Row) -> bool:
        return row.steps == 0

    def candidates(self, context: PolicyContext, state: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
        eligible, columns = context.query.eligible, context.columns
        later = context.query.canvas.masked & context.live & ~eligible & (columns >= context.block_start)
        number = torch.where(eligible, eligible.cumsum(dim=1), eligible.sum(dim=1, keepdim=True) + later.cumsum(dim=1))
        context.kept["window"] = (eligible | later) & (number <= self.window)
        return context.kept["window"]

    def active(self, context: PolicyContext, state: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
        return context.kept["window"] | state


@dataclass
class Following:
    """What one call of the model is watched for, and what is found.

    Attributes:
        policy: the settings.
        fed: the feed's positions; None: all of its columns. ``[R, T]``
        slots: its rows of the batch; None: all.
        every: every live column, the scratch column elsewhere. ``[R, W]``
        decided: live positions that are no masks. ``[R, W]``
        window, tracked: as in :class:`Elastic`. ``[R, W]``
        found: what the next step tracks. ``[R, W]``
        upward: rows of which everything is recomputed in the layers that come. ``[R]``
        layers: how many layers each row was fed in part only; None: not decided.
        places: the columns that come into the next layer. ``[R, T]``
    """

    policy: Elastic
    fed: Int[Tensor, "R T"] | None
    slots: Int[Tensor, " R"] | None
    every: Int[Tensor, "R W"]
    decided: Bool[Tensor, "R W"]
    window: Bool[Tensor, "R W"]
    tracked: Bool[Tensor, "R W"]

    def __post_init__(self) -> None:
        self.found = torch.zeros_like(self.decided)
        self.upward = torch.zeros_like(self.decided[:, 0])
        self.layers: list[int | None] = [None] * self.upward.shape[0]
        columns = torch.arange(self.every.shape[1], device=self.every.device)
        self.places = self.every if self.fed is None else self.fed
        # Where attention is looked at from.
        self.look = pack_positions(self.window, columns, self.policy.window) if self.fed is None else self.fed

    def widen(self) -> None:
        """Of rows whose attention has turned every column goes into the next layer."""
        assert self.fed is not None
        width = self.every.shape[1]
        fed = pad(self.fed, (0, width - self.fed.shape[1]), value=width - 1)
        self.places = torch.where(self.upward[:, None], self.every, fed)

    def compare(self, before: Float[Tensor, "R H N S"], now: Float[Tensor, "R H N S"], layer: int) -> None:
        """Settle of which rows attention has turned in this layer. Waits for the device."""
        before, now = before.double(), now.double()
        if self.policy.compat == "reference":
            keys = (now > 0).any(dim=1)
            same = (cosine_similarity(before, now, dim=1) * keys).sum(dim=2) / keys.sum(dim=2)
        else:
            same = cosine_similarity(before.transpose(1, 2).flatten(2), now.transpose(1, 2).flatten(2), dim=2)
        tracked = self.tracked.gather(1, self.look)
        # Where nothing is tracked there is no number, which is below none.
        same = same.masked_fill(~tracked, 0.0).sum(dim=1) / tracked.sum(dim=1)
        self.upward = self.upward | (same < self.policy.gamma)
        for row, turned in enumerate(self.upward.tolist()):
            if turned and self.layers[row] is None:
                self.layers[row] = layer + 1

    def find(self, now: Float[Tensor, "R H N S"]) -> None:
        """Track what the window attends to most."""
        looking = self.window.gather(1, self.look)
        received = (now.double().sum(dim=1) * looking[..., None]).sum(dim=1)
        decided = self.decided[:, : received.shape[1]]
        columns = torch.arange(received.shape[1], device=received.device)
        most = rank(received.masked_fill(~decided, -1.0), columns) < self.policy.track
        self.found[:, : received.shape[1]] |= most & decided


class ElasticRun(Run):
    """Beside keys and values, what every layer was given, and the queries it made of it."""

    policy: Elastic
    window: Bool[Tensor, "B W"]
    calls: list[Following]

    def __init__(self, policy: Elastic, layout: Layout) -> None:
        super().__init__(policy, layout)
        self.streams: list[Tensor] = []
        self.queries: list[Tensor] = []

    def _narrowed(self, context: PolicyContext, full: list[bool]) -> tuple[Tensor, Tensor]:
        # Rows that are recomputed whole have a window too.
        narrowed = super()._narrowed(context, [])
        self.window = context.kept["window"]
        return narrowed

    def _note(self, query: CacheQuery, *rest: Any) -> None:
        super()._note(query, *rest)
        self.calls = []

    def refreshing(self, query: CacheQuery, slots: Int[Tensor, " R"] | None) -> Access:
        return self._following(query, None, slots, max(row.visible_end for row in query.rows))

    def writing(self, query: CacheQuery, positions: Int[Tensor, "B T"], reach: int) -> Access:
        return self._following(query, positions, None, reach)

    def _following(self, query: CacheQuery, fed: Tensor | None, slots: Tensor | None, reach: int) -> Follower:
        canvas, picked = query.canvas, slice(None) if slots is None else slots
        live = canvas.live if query.visible is None else canvas.live & query.visible
        every = torch.where(live, canvas.columns, canvas.columns[-1])
        rows = (every, live & ~canvas.masked, self.window, self.state)
        self.calls.append(Following(self.policy, fed, slots, *(x[picked] for x in rows)))
        return Follower(self.store, 0, self, self.calls[-1], slots, reach)

    def layer(self, layer: int, block: Block, x: Tensor) -> tuple[Tensor, Tensor]:
        """The stream that came into a layer, and its queries, ``[rows, columns, ...]``."""
        if layer == len(self.streams):
            shape = self.store.rows, self.store.columns
            self.streams.append(x.new_zeros(*shape, 1, x.shape[2]))
            self.queries.append(x.new_zeros(*shape, block.arch.heads, block.arch.head_width))
        return self.streams[layer], self.queries[layer]

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        total = len(self.streams)
        for call in self.calls:
            self.state = call.found if call.slots is None else self.state.index_copy(0, call.slots, call.found)
            for slot, below in enumerate(call.layers):
                if below is not None:
                    # What was planned is what the layers below were fed; the host counts when the step is over.
                    whole = self.last.query.rows[slot].visible_end
                    counts = self.last.counts
                    counts[slot] = round((counts[slot] * below + whole * (total - below)) / total)
        self.calls = []
        return super().end(view, chosen)

    def keep(self, slots: list[int]) -> None:
        rows = self.stamps.shape[0]
        super().keep(slots)
        every = [stream * rows + slot for stream in range(self.layout.streams) for slot in slots]
        self.streams, self.queries = ([move_up(x, every) for x in kept] for kept in (self.streams, self.queries))


@dataclass(frozen=True)
class Follower(Access):
    """A forward that widens to whole rows where attention has turned. The fed positions come out."""

    owner: ElasticRun | None = None
    call: Following | None = None
    slots: Int[Tensor, " R"] | None = None
    reach: int = 0

    def doubled(self) -> Follower:
        half = self.store.rows // 2
        return self if self.slots is None else replace(self, slots=torch.cat([self.slots, self.slots + half]))

    def run(self, layer: int, block: Block, x: Float[Tensor, "R T D"], rope: Rope, mask: Tensor | None) -> Tensor:
        owner, call = self.owner, self.call
        assert owner is not None
        assert call is not None
        keys, values = self.store.layer(layer, block, x)
        stream, queries = owner.layer(layer, block, x)
        rows, last = call.upward.shape[0], layer + 1 == block.arch.layers
        slots = torch.arange(x.shape[0], device=x.device) if self.slots is None else self.slots
        at = self._at(slots, call.places[:, : x.shape[1]])
        flat(stream).index_copy_(0, at, x.flatten(0, 1))
        if layer in call.layers:
            call.widen()
            at = self._at(slots, call.places)
            x = flat(stream)[at].view(x.shape[0], -1, x.shape[2])
        keep: Exchange
        if call.fed is None:
            keep, reach = KeepAll(keys, values, self.slots, x.shape[1]), x.shape[1]
        else:
            keep, reach = WriteThere(keys, values, at, self.reach, 0), self.reach
            if call.places is not call.fed:
                rope = rope_tables(block.arch, call.places.repeat(x.shape[0] // rows, 1), x.dtype)

        def weights() -> Float[Tensor, "R H N S"]:
            asking = flat(queries)[self._at(slots[:rows], call.look)].view(rows, -1, *queries.shape[2:])
            return attention_weights(asking, keys[slots[:rows], :reach], None if mask is None else mask[:rows])

        before = weights() if call.fed is not None and None in call.layers and not last else None
        out: Tensor = block(x, rope, mask, None, KeepQueries(keep, queries, at))
        now = weights()
        call.find(now)
        if before is not None:
            call.compare(before, now, layer)
        if not last or call.fed is None or call.places is call.fed:
            return out
        entries = torch.arange(call.fed.shape[1], device=x.device)
        entries = torch.where(call.upward[:, None], call.fed, entries).repeat(x.shape[0] // rows, 1)
        return out.gather(1, entries[..., None].expand(-1, -1, out.shape[2]))

    def _at(self, slots: Int[Tensor, " R"], places: Int[Tensor, "R T"]) -> Int[Tensor, " P"]:
        """Places of the flattened store; a second stream has the same ones."""
        places = places.repeat(slots.shape[0] // places.shape[0], 1)
        return (slots[:, None] * self.store.columns + places).flatten()


@dataclass
class KeepQueries:
    """An exchange that keeps the queries too."""

    inner: Exchange
    queries: Tensor
    places: Tensor

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        flat(self.queries).index_copy_(0, self.places, q.flatten(0, 1).flatten(1))
        return self.inner(q, k, v, mask)
