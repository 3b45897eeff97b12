"""dLLM-Cache (arXiv 2506.06295): the features of a layer are kept, and of the answer only what moved is recomputed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from cache.context import PolicyContext
from cache.kv_store import Access, KeepAll, KVStore, flat, move_up
from cache.policy import Policy
from cache.run import Run
from cache.settings import at_least, every_steps
from dlm.engine.canvas import pack_positions
from dlm.engine.no_cache import inside
from dlm.engine.plan import CacheQuery, Feed, ForwardPlan, Layout
from dlm.engine.row import Row
from dlm.engine.sampler import Sampler
from dlm.engine.step import State, rank
from dlm.errors import SettingsError
from dlm.models.backbone import ModelDescription
from dlm.models.transformer import Block, Rope


@dataclass(frozen=True)
class DLLM(Policy):
    """dLLM-Cache: the residual stream keeps its full length; each layer adds stored attention and MLP outputs where it
    recomputes nothing. The prompt is recomputed every ``prompt_interval`` steps, the answer every ``interval`` steps,
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

    def __post_init__(self) -> None:
        at_least(1, prompt_interval=self.prompt_interval, interval=self.interval)
        if not 0.0 <= self.ratio <= 1.0:
            raise SettingsError(f"ratio is a share and must be in [0, 1], got {self.ratio}")

    def refusal(self, sampler: Sampler, description: ModelDescription) -> str | None:
        if "shadow" in sampler.needs:
            return "a shadow block has no stored features; use cache=dual or none"
        if description.attention_block:
            return "it is made for full attention; use cache=block_causal"
        return super().refusal(sampler, description)

    def open(self, layout: Layout) -> DLLMRun:
        return DLLMRun(self, layout)

    def refreshes(self, row: Row) -> bool:
        return every_steps(row.steps, self.prompt_interval) and every_steps(row.steps, self.interval)

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return context.live


@dataclass
class Kept:
    """Outputs of the two halves of every layer, ``[rows, columns, width]`` each."""

    attention: list[Tensor] = field(default_factory=list)
    mlp: list[Tensor] = field(default_factory=list)

    def layer(self, layer: int, store: KVStore, x: Tensor) -> tuple[Tensor, Tensor]:
        """The buffers of a layer."""
        if layer == len(self.attention):
            attention, mlp = (x.new_zeros(store.rows, store.columns, x.shape[2]) for _ in range(2))
            self.attention.append(attention)
            self.mlp.append(mlp)
        return self.attention[layer], self.mlp[layer]


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
        self.kept = Kept()
        self.value_share = 0.0

    def plan(self, query: CacheQuery) -> ForwardPlan:
        plan = super().plan(query)
        # Rows that are no refresh show every position, but not from fresh features: nobody may leave from them.
        fed = plan.fed
        assert fed is not None
        stale = [slot for slot in range(len(query.rows)) if not self.policy.refreshes(query.rows[slot])]
        counts = list(plan.counts)
        if stale:
            fed = fed.clone()
            fed[stale] = False
            for slot in stale:
                counts[slot] = self._equivalent(query.rows[slot])
        refreshed = frozenset(range(len(query.rows))) - frozenset(stale)
        return replace(plan, counts=counts, refreshed=refreshed, fed=fed)

    def _feeds(
        self,
        query: CacheQuery,
        active: Bool[Tensor, "B W"],
        seen: Bool[Tensor, "B W"] | None,
        full: list[bool],
        counts: list[int],
    ) -> tuple[Feed, ...]:
        slots = {
            whole: [s for s, row in enumerate(query.rows) if self.policy.refreshes(row) == whole] for whole in (0, 1)
        }
        feeds = [self.refresh(query, slots[True])] if slots[True] else []
        return (*feeds, self._chosen(query, slots[False])) if slots[False] else tuple(feeds)

    def refreshing(self, query: CacheQuery, slots: Int[Tensor, " R"] | None) -> Access:
        return Whole(self.store, 0, self, slots)

    def _chosen(self, query: CacheQuery, slots: list[int]) -> Feed:
        """The other rows: the whole stream, the scratch column included, of which each layer recomputes a part."""
        canvas, rows = query.canvas, [query.rows[slot] for slot in slots]
        index = None if len(slots) == len(query.rows) else torch.tensor(slots, device=canvas.start.device)
        picked = slice(None) if index is None else index
        reaches = [row.visible_end for row in rows]
        live = torch.nn.functional.pad(
            canvas.columns[:-1] < torch.tensor(reaches, device=canvas.start.device)[:, None], (0, 1)
        )
        changed = (self.stamps != canvas.tokens)[picked] & live
        choice = self._choice(rows, canvas.columns, live, changed, canvas.start[picked])
        valid = inside(reaches, canvas.columns)
        return Feed(
            tokens=canvas.tokens[picked],
            valid=valid,
            memory=Chosen(self.store, 0, self, index, choice),
            slots=index,
        )

    def _choice(
        self,
        rows: list[Row],
        columns: Int[Tensor, " W"],
        live: Bool[Tensor, "R W"],
        changed: Bool[Tensor, "R W"],
        start: Int[Tensor, " R"],
    ) -> Choice:
        answer = live & (columns >= start[:, None])
        lengths = [row.visible_end - row.job.start for row in rows]
        places = pack_positions(answer, columns, max(lengths))
        moved = changed.gather(1, places)
        need = moved.sum(dim=1).tolist()
        counts = []
        prompts = [every_steps(row.steps, self.policy.prompt_interval) for row in rows]
        for row, length, least in zip(rows, lengths, need, strict=True):
            whole = every_steps(row.steps, self.policy.interval)
            counts.append(length if whole else max(int(self.policy.ratio * length), least))
        always = torch.tensor(prompts, device=live.device)[:, None] & live & ~answer | changed & ~answer
        most = max(n + (row.job.start if p else 0) for n, row, p in zip(counts, rows, prompts, strict=True))
        return Choice(places, moved, torch.tensor(counts, device=live.device), always, max(1, most))

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
        for buffers in (self.kept.attention, self.kept.mlp):
            buffers[:] = [move_up(buffer, every) for buffer in buffers]


@dataclass(frozen=True)
class Whole(Access):
    """Everything is recomputed and kept."""

    owner: DLLMRun | None = None
    slots: Int[Tensor, " R"] | None = None

    def run(self, layer: int, block: Block, x: Float[Tensor, "R T D"], rope: Rope, mask: Tensor | None) -> Tensor:
        assert self.owner is not None
        width, rows = x.shape[1], slice(None) if self.slots is None else self.slots
        attention, mlp = self.owner.kept.layer(layer, self.store, x)
        arch = block.arch
        projections = 2 * arch.heads * arch.head_width + 2 * arch.kv_heads * arch.head_width + 3 * arch.mlp_width
        self.owner.value_share = arch.kv_heads * arch.head_width / projections
        n = block.attention_input(x)
        q, k, v = block.heads(n, rope)
        k, v, mask = KeepAll(*self.store.layer(layer, block, x), self.slots, width)(q, k, v, mask)
        added = block.attention_output(q, k, v, mask)
        attention[rows, :width] = added
        x = x + added
        added = block.mlp_output(x)
        mlp[rows, :width] = added
        return x + added

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
        rows = torch.arange(x.shape[0], device=x.device) if self.slots is None else self.slots
        n = block.attention_input(x)
        keys, values = self.store.layer(layer, block, x)
        places = self._places(n, block, rows, values)
        picked = n.gather(1, places[..., None].expand(-1, -1, n.shape[2]))
        q, k, v = block.heads(picked, Rope(rope.cos[places], rope.sin[places]))
        at = (rows[:, None] * self.store.columns + places).flatten()
        flat(keys).index_copy_(0, at, k.flatten(0, 1).flatten(1))
        flat(values).index_copy_(0, at, v.flatten(0, 1).flatten(1))
        if self.slots is not None:
            keys, values = keys[self.slots], values[self.slots]
        attention, mlp = self.owner.kept.layer(layer, self.store, x)
        # The stream keeps its full length: what was not chosen adds the outputs it had when it was last computed.
        attention.flatten(0, 1).index_copy_(0, at, block.attention_output(q, keys, values, mask).flatten(0, 1))
        x = x + (attention if self.slots is None else attention[self.slots])
        added = block.mlp_output(x.gather(1, places[..., None].expand(-1, -1, x.shape[2])))
        mlp.flatten(0, 1).index_copy_(0, at, added.flatten(0, 1))
        return x + (mlp if self.slots is None else mlp[self.slots])

    def _places(self, n: Tensor, block: Block, rows: Tensor, values: Tensor) -> Int[Tensor, "R T"]:
        """The rows of the stream this layer recomputes: the answer's lowest cosine between new and stored value. The
        new values are kept, whether their rows are chosen or not."""
        choice = self.choice
        assert choice is not None
        columns = torch.arange(n.shape[1], device=n.device)
        new = block.value_heads(n.gather(1, choice.answer[..., None].expand(-1, -1, n.shape[2]))).flatten(2)
        at = (rows[:, None] * self.store.columns + choice.answer).flatten()
        old = flat(values)[at].view_as(new)
        flat(values).index_copy_(0, at, new.flatten(0, 1))
        same = torch.nn.functional.cosine_similarity(new.float(), old.float(), dim=2)
        # Below any cosine: another token always counts as moved; above any: fillers never do.
        same = same.masked_fill(choice.changed, -2.0).masked_fill(choice.answer == n.shape[1] - 1, torch.inf)
        moved = rank(-same) < choice.count[:, None]
        chosen = choice.always.scatter(1, choice.answer, moved)
        chosen[:, -1] = False
        return pack_positions(chosen, columns, choice.most)

    def doubled(self) -> Chosen:
        assert self.choice is not None
        return replace(self, slots=super().doubled().slots, choice=self.choice.doubled())
