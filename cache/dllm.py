"""dLLM-Cache (arXiv 2506.06295): the features of a layer are kept, and of the answer only what moved is recomputed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.kv_store import Access, KeepAll, flat, move_up
from cache.policy import Policy
from cache.run import Run
from cache.settings import at_least, every_steps
from dlm.engine.canvas import pack_positions
from dlm.engine.plan import CacheQuery, Feed, ForwardPlan, Layout
from dlm.engine.row import Row
from dlm.engine.step import State, StepView, rank
from dlm.errors import SettingsError
from dlm.models.architecture import Rope
from dlm.models.block import Block


@dataclass(frozen=True)
class DLLM(Policy):
    """dLLM-Cache: the residual stream keeps its full length; where a layer recomputes nothing it adds what it has added
    last. The prompt is recomputed every ``prompt_interval`` steps, the answer every ``interval`` steps,
    and in between the share ``ratio`` of the answer whose values moved most. The first layer is always recomputed.

    Positions whose token changed are recomputed first, however similar their values (the released code relies on
    similarity alone). V is fresher than K on rows that were not chosen: every answer row's value is computed anyway, to
    compare it.

    Attributes:
        prompt_interval, interval: steps between refreshes of the prompt and of the answer (the paper, LLaDA on GSM8K:
            50 and 7).
        ratio: share of the answer recomputed in between (0.25); 0 recomputes only what changed.

    Raises:
        SettingsError: an interval below 1, a ratio outside [0, 1].
    """

    prompt_interval: int = 50
    interval: int = 7
    ratio: float = 0.25
    block_always_fresh = False
    serves_branches = False
    composable = False
    full_attention = True
    shadowless = "a shadow block has no stored features"

    def __post_init__(self) -> None:
        at_least(1, prompt_interval=self.prompt_interval, interval=self.interval)
        if not 0.0 <= self.ratio <= 1.0:
            raise SettingsError(f"ratio is a share and must be in [0, 1], got {self.ratio}")

    def open(self, layout: Layout) -> DLLMRun:
        return DLLMRun(self, layout)

    def refreshes(self, row: Row) -> bool:
        return every_steps(row.steps, self.prompt_interval) and every_steps(row.steps, self.interval)

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return context.live


@dataclass(frozen=True)
class Choice:
    """Which rows of the stream a layer recomputes.

    Attributes:
        answer: positions of the generated region, packed, the last column for fillers. ``[R, G]``
        changed: which of them hold another token. ``[R, G]``
        count: how many of them are chosen. ``[R]``
        always: positions recomputed whatever moved. ``[R, W]``
        most: the most rows chosen in all.
    """

    answer: Int[Tensor, "R G"]
    changed: Bool[Tensor, "R G"]
    count: Int[Tensor, " R"]
    always: Bool[Tensor, "R W"]
    most: int

    def doubled(self) -> Choice:
        """The same for both streams."""
        tensors = (self.answer, self.changed, self.always)
        answer, changed, always = (x.repeat(2, 1) for x in tensors)
        return Choice(answer, changed, self.count.repeat(2), always, self.most)


class DLLMRun(Run):
    """Beside keys and values, the outputs of every layer."""

    policy: DLLM

    def __init__(self, policy: DLLM, layout: Layout) -> None:
        super().__init__(policy, layout)
        self.feeds_all = True
        # What every layer added to the stream, ``[rows, columns, width]`` each.
        self.added: list[Tensor] = []
        self.value_share = 0.0

    def plan(self, query: CacheQuery) -> ForwardPlan:
        plan = super().plan(query)
        # Rows that are no refresh show every position, but not from fresh features: nobody may leave from them.
        stale = [slot for slot, row in enumerate(query.rows) if not self.policy.refreshes(row)]
        if not stale:
            return plan
        assert plan.fed is not None
        both = math.lcm(self.policy.prompt_interval, self.policy.interval)
        fed = plan.fed & (query.blocks.step % both == 0)[:, None]
        counts = [self._equivalent(row) if slot in stale else plan.counts[slot] for slot, row in enumerate(query.rows)]
        return replace(plan, counts=counts, refreshed=frozenset(range(len(query.rows))) - {*stale}, fed=fed)

    def end(self, view: StepView, chosen: Bool[Tensor, "B N"]) -> dict[str, Int[Tensor, " B"]]:
        """Beside the rest, how many positions of the answer now hold another token than the one they are kept for."""
        report, canvas = super().end(view, chosen), view.canvas
        moved = (self.stamps != canvas.tokens) & canvas.generated
        return report | {"moved": moved.sum(dim=1)}

    def layer(self, layer: int, x: Tensor) -> Tensor:
        """What a layer added to the stream."""
        if layer == len(self.added):
            self.added.append(x.new_zeros(self.store.rows, self.store.columns, x.shape[2]))
        return self.added[layer]

    def _feeds(
        self,
        query: CacheQuery,
        order: Int[Tensor, "B W"] | None,
        seen: Bool[Tensor, "B W"] | None,
        full: list[bool],
        counts: list[int],
    ) -> tuple[Feed, ...]:
        slots = {
            whole: [s for s, row in enumerate(query.rows) if self.policy.refreshes(row) == whole] for whole in (0, 1)
        }
        feeds = [self.refresh(query, slots[True])] if slots[True] else []
        return (*feeds, self._chosen(query, self.last.active, slots[False])) if slots[False] else tuple(feeds)

    def refreshing(self, query: CacheQuery, slots: Int[Tensor, " R"] | None) -> Access:
        return Whole(self.store, 0, self, slots)

    def _chosen(self, query: CacheQuery, live: Bool[Tensor, "B W"], slots: list[int]) -> Feed:
        """The other rows: the whole stream, the scratch column included, of which each layer recomputes a part."""
        index = None if len(slots) == len(query.rows) else torch.tensor(slots, device=live.device)
        live = live if index is None else live[index]
        return Feed(
            tokens=query.canvas.tokens if index is None else query.canvas.tokens[index],
            valid=live,
            memory=Chosen(self.store, 0, self, index, self._choice(query, slots, index, live)),
            slots=index,
        )

    def _choice(
        self, query: CacheQuery, slots: list[int], index: Int[Tensor, " R"] | None, live: Bool[Tensor, "R W"]
    ) -> Choice:
        policy, columns, picked = self.policy, query.canvas.columns, slice(None) if index is None else index
        rows, step = [query.rows[slot] for slot in slots], query.blocks.step[picked, None]
        changed = (self.stamps != query.canvas.tokens)[picked] & live
        answer = live & query.canvas.generated[picked]
        lengths = [row.visible_end - row.job.start for row in rows]
        places = pack_positions(answer, columns, max(lengths))
        moved, always = changed.gather(1, places), changed
        prompts = [every_steps(row.steps, policy.prompt_interval) for row in rows]
        if any(prompts):
            always = always | (live & (step % policy.prompt_interval == 0))
        whole = [every_steps(row.steps, policy.interval) for row in rows]
        length = answer.sum(dim=1)
        count = torch.maximum((policy.ratio * length.double()).long(), moved.sum(dim=1))
        if any(whole):
            count = torch.where(step[:, 0] % policy.interval == 0, length, count)
        # The most rows that may be chosen, which the host must know, from what it was told of the step before.
        known = zip(rows, lengths, whole, prompts, strict=True)
        most = max(
            (size if w else max(int(policy.ratio * size), row.cache["moved"])) + (row.job.start if p else 0)
            for row, size, w, p in known
        )
        return Choice(places, moved, count, always & ~answer, self.rounded(most))

    def _equivalent(self, row: Row) -> int:
        """Rows of a whole layer that the step costs: a value alone is a fraction of one."""
        layers, length = max(1, len(self.store.keys)), row.visible_end - row.job.start
        prompt = row.job.start if every_steps(row.steps, self.policy.prompt_interval) else 0
        chosen = length if every_steps(row.steps, self.policy.interval) else int(self.policy.ratio * length)
        below = prompt + chosen + (length - chosen) * self.value_share
        return round((row.visible_end + (layers - 1) * below) / layers)

    def keep(self, slots: list[int]) -> None:
        rows = self.stamps.shape[0]
        super().keep(slots)
        every = [stream * rows + slot for stream in range(self.layout.streams) for slot in slots]
        self.added = [move_up(buffer, every) for buffer in self.added]


@dataclass(frozen=True)
class Whole(Access):
    """Everything is recomputed and kept."""

    owner: DLLMRun | None = None
    slots: Int[Tensor, " R"] | None = None

    def run(self, layer: int, block: Block, x: Float[Tensor, "R T D"], rope: Rope, mask: Tensor | None) -> Tensor:
        assert self.owner is not None
        width, rows, arch = x.shape[1], slice(None) if self.slots is None else self.slots, block.arch
        projections = 2 * arch.heads * arch.head_width + 2 * arch.kv_heads * arch.head_width + 3 * arch.mlp_width
        self.owner.value_share = arch.kv_heads * arch.head_width / projections
        out: Tensor = block(x, rope, mask, None, KeepAll(*self.store.layer(layer, block, x), self.slots, width))
        self.owner.layer(layer, x)[rows, :width] = out - x
        return out

    def doubled(self) -> Whole:
        half = self.store.rows // 2
        return self if self.slots is None else replace(self, slots=torch.cat([self.slots, self.slots + half]))


@dataclass(frozen=True)
class Chosen(Whole):
    """A part of every layer but the first is recomputed; the stream is the whole row and the scratch column."""

    choice: Choice | None = None

    def run(self, layer: int, block: Block, x: Float[Tensor, "R W D"], rope: Rope, mask: Tensor | None) -> Tensor:
        if layer == 0:
            return super().run(layer, block, x, rope, mask)
        assert self.owner is not None
        assert self.choice is not None
        keys, values = self.store.layer(layer, block, x)
        rows = torch.arange(x.shape[0], device=x.device) if self.slots is None else self.slots
        places = self._places(x, block, rows, values)
        everywhere = places[..., None].expand(-1, -1, x.shape[2])
        at = (rows[:, None] * self.store.columns + places).flatten()
        picked, tables = x.gather(1, everywhere), Rope(rope.cos[places], rope.sin[places])
        out = block(picked, tables, mask, None, WriteChosen(keys, values, at, self.slots))
        # The stream keeps its full length: what was not chosen adds what was added when it was last computed.
        added = self.owner.layer(layer, x)
        added.flatten(0, 1).index_copy_(0, at, (out - picked).flatten(0, 1))
        return (x + (added if self.slots is None else added[self.slots])).scatter_(1, everywhere, out)

    def _places(self, x: Tensor, block: Block, rows: Tensor, values: Tensor) -> Int[Tensor, "R T"]:
        """The rows of the stream this layer recomputes: the answer's lowest cosine between new and stored value. The
        new values are kept, whether their rows are chosen or not."""
        choice = self.choice
        assert choice is not None
        columns = torch.arange(x.shape[1], device=x.device)
        answer = x.gather(1, choice.answer[..., None].expand(-1, -1, x.shape[2]))
        new = block.value_heads(block.attention_input(answer)).flatten(2)
        at = (rows[:, None] * self.store.columns + choice.answer).flatten()
        old = flat(values)[at].view_as(new)
        flat(values).index_copy_(0, at, new.flatten(0, 1))
        same = torch.nn.functional.cosine_similarity(new.float(), old.float(), dim=2)
        # Below any cosine: another token always counts as moved; above any: fillers never do.
        same = same.masked_fill_(choice.changed, -2.0).masked_fill_(choice.answer == x.shape[1] - 1, torch.inf)
        moved = rank(-same, columns) < choice.count[:, None]
        chosen = choice.always.scatter(1, choice.answer, moved)
        chosen[:, -1] = False
        return pack_positions(chosen, columns, choice.most)

    def doubled(self) -> Chosen:
        assert self.choice is not None
        return replace(self, slots=super().doubled().slots, choice=self.choice.doubled())


@dataclass
class WriteChosen:
    """The exchange of :class:`Chosen`, one layer of it: keys and values go where they belong, and everything that is
    stored of these rows is attended to."""

    key: Tensor
    value: Tensor
    places: Tensor
    slots: Tensor | None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        for buffer, new in ((self.key, k), (self.value, v)):
            flat(buffer).index_copy_(0, self.places, new.flatten(0, 1).flatten(1))
        if self.slots is None:
            return self.key, self.value, mask
        return self.key[self.slots], self.value[self.slots], mask
