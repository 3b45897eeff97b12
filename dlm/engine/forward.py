"""From a plan to proposals: hidden states, logits of the wanted rows in chunks, and the time each part took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.answers import Answers
from dlm.engine.canvas import Canvas
from dlm.engine.constraint import ConstraintRun
from dlm.engine.guidance import sureness, without_doubtful, without_prompt
from dlm.engine.noise import Purpose, uniform
from dlm.engine.plan import Branches, BranchPlan, Feed, FeedMemory, ForwardPlan, PackedBranches
from dlm.engine.proposal import Proposal, Statistic, Vocabulary, divergence, logit_gap, probability, propose, wide
from dlm.engine.sampler import Sampler
from dlm.engine.sampler_run import PreviousForward, SamplerState
from dlm.engine.shadow import Shadow, lay_out
from dlm.engine.step import BlockState, LogitRows
from dlm.engine.stopwatch import Stopwatch
from dlm.models.backbone import Backbone
from dlm.models.experts import MixtureOfExperts

# Logits that exist at one time on a CPU, in elements: 64 rows of a 126,464-word vocabulary.
CHUNK_ELEMENTS = 64 * 126_464
# What a CPU works on at one time after the head: a few rows of a large vocabulary, which its caches hold.
_CACHED_ELEMENTS = 2**20


@dataclass(frozen=True)
class Hidden:
    """Hidden states of everything a plan fed.

    Attributes:
        feeds: the calls of the model.
        sets: per call one set of states, or two with guidance. ``[R, T, D]`` each
        canvas: whose columns count.
    """

    feeds: tuple[Feed, ...]
    sets: tuple[tuple[Tensor, ...], ...]  # the calls differ in rows and lengths
    canvas: Canvas

    def rows(self, shift: int, wanted: Int[Tensor, "B N"]) -> list[Float[Tensor, "R D"]]:
        """The rows that score ``wanted``, which stand ``shift`` before it, flattened, one tensor per set; a filler gets
        some row that was fed."""
        parts = self._gathered(lambda feed, h, at: self._answer(shift, feed, h, at), wanted)
        return [part.flatten(0, 1) for part in parts]

    def laid(self) -> tuple[Float[Tensor, "B W D"], ...]:
        """Every state at its column of the canvas, zeros where none was fed."""
        columns = self.canvas.columns.expand_as(self.canvas.tokens)
        return tuple(self._gathered(_at_columns, columns))

    def whole(self) -> tuple[Float[Tensor, "B T D"], ...]:
        """All entries, for calls of one length."""
        return tuple(self._gathered(lambda feed, h, at: h, self.canvas.tokens))

    def _gathered(self, take: Callable[[Feed, Tensor, Tensor], Tensor], wanted: Int[Tensor, "B N"]) -> list[Tensor]:
        """One tensor per set; where a row is in several calls, the last one counts."""
        gathered = []
        for index in range(len(self.sets[0])):
            out: Tensor | None = None
            for feed, states in zip(self.feeds, self.sets, strict=True):
                if feed.slots is None:
                    out = take(feed, states[index], wanted)
                    continue
                part = take(feed, states[index], wanted[feed.slots])
                if out is None:
                    out = part.new_zeros(wanted.shape[0], *part.shape[1:])
                out = out.index_copy(0, feed.slots, part)
            assert out is not None
            gathered.append(out)
        return gathered

    def _answer(self, shift: int, feed: Feed, states: Tensor, wanted: Tensor) -> Tensor:
        source, last = (wanted - shift).clamp_min(0) if shift else wanted, states.shape[1] - 1
        if feed.positions is None:
            column = source.clamp_max(last)
        else:  # fed positions ascend
            column = torch.searchsorted(feed.positions.contiguous(), source.contiguous()).clamp_max(last)
        return states.gather(1, column[..., None].expand(-1, -1, states.shape[-1]))


def _at_columns(feed: Feed, states: Float[Tensor, "R T D"], columns: Int[Tensor, "R W"]) -> Float[Tensor, "R W D"]:
    if feed.positions is None:
        return torch.nn.functional.pad(states, (0, 0, 0, columns.shape[1] - states.shape[1]))
    laid = states.new_zeros(states.shape[0], columns.shape[1], states.shape[2])
    return laid.scatter_(1, feed.positions[..., None].expand_as(states), states)


@dataclass(frozen=True)
class Seen:
    """What one forward showed.

    Attributes:
        proposal: at the wanted positions. Each ``[B, N]``
        hidden: hidden states of the fed positions.
        slots: hidden states of the shadow block, one set, or two with guidance; none when no part asked. ``[B, S, D]``
        attention: see :class:`dlm.engine.step.StepView`; None when no part asked. ``[B, T, T]``
    """

    proposal: Proposal
    hidden: Hidden
    slots: tuple[Float[Tensor, "B S D"], ...] = ()
    attention: Float[Tensor, "B T T"] | None = None


@dataclass
class Forward:
    """One forward of a batch and the proposals it leads to.

    Attributes:
        model: the backbone.
        sampler: whose transforms and proposer apply.
        needs: statistics that the sampler or the cache reads.
        vocabulary: which ids may be proposed.
        watch: receives the time marks.
        longest: most positions of a block, which is what a shadow block takes.
        shift: a proposal for position p comes from row p - shift (:class:`dlm.models.backbone.ModelDescription`).
        constraint: what sees to it that answers are such as were asked for.
        region: positions of the longest generated region.
        answers: asks the transforms.
        hits: for each layer with experts how many of them each call since the last step reached.
    """

    model: Backbone
    sampler: Sampler
    needs: frozenset[Statistic]
    vocabulary: Vocabulary
    watch: Stopwatch
    longest: int
    shift: int
    constraint: ConstraintRun | None = None
    region: int = 0
    answers: Answers = field(default_factory=Answers, init=False)
    hits: list[Int[Tensor, ""]] = field(default_factory=list, init=False)
    _rows: int = field(default=0, init=False)
    _shadow: Shadow = field(init=False)

    def __post_init__(self) -> None:
        self._shadow = Shadow(self.longest, keeps=not getattr(self.model, "graphs", False))
        modules = self.model.modules() if isinstance(self.model, torch.nn.Module) else ()
        self.mixtures = [part for part in modules if isinstance(part, MixtureOfExperts)]

    def __call__(
        self,
        canvas: Canvas,
        blocks: BlockState,
        plan: ForwardPlan,
        positions: Int[Tensor, "B N"],
        eligible: Bool[Tensor, "B N"],
        state: SamplerState,
    ) -> Seen:
        """Feed the plan and propose at ``positions``; the new memories of the transforms go into ``state``."""
        sets, tails, attention = [], [], None
        for feed in plan.feeds:
            whole = plan.refreshed and (feed.stored is None or len(plan.refreshed) == len(plan.counts))
            self.watch.mark("refresh" if whole else "forward")
            width, fed = feed.tokens.shape[1], feed
            if "shadow" in self.needs:
                fed = self._shadow.beside(feed, canvas, blocks)
            hidden, attention = self.feed(canvas, fed)
            sets.append(tuple(h[:, :width] for h in hidden))
            tails.append(tuple(h[:, width:] for h in hidden))
        self.watch.mark("sampler")
        every = Hidden(plan.feeds, tuple(sets), canvas)
        slots = Hidden(plan.feeds, tuple(tails), canvas).whole() if "shadow" in self.needs else ()
        proposal = self.propose(canvas, blocks, every, positions, eligible, state)
        if "kl" in self.needs:
            known = canvas.live if plan.fed is None else plan.fed
            state.previous = PreviousForward(known, every.laid())
        return Seen(proposal, every, slots, attention)

    def source(self, wanted: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The positions whose rows score the tokens at ``wanted``."""
        return (wanted - self.shift).clamp_min(0) if self.shift else wanted

    def feed(
        self, canvas: Canvas, feed: Feed
    ) -> tuple[tuple[Float[Tensor, "R T D"], ...], Float[Tensor, "R T T"] | None]:
        """Hidden states of the fed positions, two sets with guidance; and the attention, when a part needs it."""
        tokens, valid, positions, memory = feed.tokens, feed.valid, feed.positions, feed.memory
        share, doubled = self.sampler.guidance_remask, self.sampler.guidance > 0
        if doubled and not share:
            tokens = torch.cat([tokens, without_prompt(canvas, feed)])
            valid = None if valid is None else torch.cat([valid, valid])
            positions = None if positions is None else torch.cat([positions, positions])
            memory = None if memory is None else memory.doubled()
        hidden, attention = self._call(tokens, positions, valid, memory)
        if not share:
            return (tuple(hidden.chunk(2)) if doubled else (hidden,)), attention
        sure = sureness(self.model, hidden, self._at_once(tokens.device))
        tokens = without_doubtful(canvas, feed, sure, share, self.shift)
        return (hidden, self._call(tokens, positions, valid, memory)[0]), None

    def _call(self, tokens: Tensor, positions: Any, valid: Any, memory: Any) -> tuple[Tensor, Tensor | None]:
        """One call of the model; the attention is that of the first stream."""
        attention = None
        if "attention" in self.needs:
            hidden, attention = self.model.attentive(tokens, positions, valid)
            attention = attention.chunk(2)[0] if self.sampler.guidance else attention
        else:
            hidden = self.model.hidden(tokens, positions, valid, *([] if memory is None else [memory]))
        self.hits += [mixture.hit for mixture in self.mixtures if mixture.hit is not None]
        return hidden, attention

    def experts_hit(self) -> Int[Tensor, ""]:
        """How many experts the calls of this step reached, all layers together."""
        hits, self.hits = self.hits, []
        return torch.stack([hit.to(hits[0].device) for hit in hits]).sum()

    def propose(
        self,
        canvas: Canvas,
        blocks: BlockState,
        hidden: Hidden,
        positions: Int[Tensor, "B N"],
        eligible: Bool[Tensor, "B N"],
        state: SamplerState,
    ) -> Proposal:
        """Proposals at ``positions`` from the hidden states of a forward, a chunk of logits at a time."""
        rows = hidden.rows(self.shift, positions)
        before, known = self._before(blocks, positions, state.previous)
        at = self._lines(canvas, blocks, positions, eligible)
        noise = heat = None
        if self.sampler.proposer.temperature > 0:
            noise = uniform(canvas.key, blocks.step, Purpose.TOKEN, positions).flatten()
            if canvas.temperature is not None:
                heat = canvas.temperature[:, None].expand_as(positions).flatten()
        proposals, chunk = [], self._at_once(rows[0].device)
        for first in range(0, rows[0].shape[0], chunk):
            part = slice(first, first + chunk)
            self.watch.mark("forward")
            logits = self.guided([r[part] for r in rows])
            self.watch.mark("sampler")
            earlier = None if before is None else self.guided([r[part] for r in before])
            size = self._cached_rows(logits)
            for inner in range(0, logits.shape[0], size):
                lines = slice(first + inner, min(first + inner + size, first + logits.shape[0]))
                sure, draws, own = (None if x is None else x[lines] for x in (known, noise, heat))
                then = None if earlier is None else earlier[inner : inner + size]
                here = None if at is None else at.part(lines)
                proposals.append(self._chunk(logits[inner : inner + size], then, sure, here, state, draws, own))
        proposal = Proposal.cat(proposals).reshape(*positions.shape)
        if self.constraint is None:
            return proposal
        return self.constraint.settle(canvas, blocks, positions, proposal, self.region)

    def _chunk(
        self,
        logits: Float[Tensor, "R V"],
        before: Float[Tensor, "R V"] | None,
        known: Bool[Tensor, " R"] | None,
        at: LogitRows | None,
        state: SamplerState,
        uniforms: Float[Tensor, " R"] | None,
        heat: Float[Tensor, " R"] | None,
    ) -> Proposal:
        """Proposals of one chunk of logits; ``before`` are those of the forward before, where they are ``known``."""
        needs = self.needs
        gap = logit_gap(logits) if "gap" in needs else None
        kl = None
        if "kl" in needs:
            kl = wide(logits[:, 0]).new_full((logits.shape[0],), torch.inf)
            if before is not None and known is not None:
                kl = torch.where(known, divergence(logits, before), kl)
        memories = list(state.transforms)
        for i, transform in enumerate(self.sampler.transforms):
            assert at is not None
            logits, memories[i] = self.answers.several(
                transform.step, (logits, at, memories[i]), ("float",), logits.shape
            )
        state.transforms = tuple(memories)
        weighed = None if self.constraint is None else self.constraint.weigh(logits, uniforms)
        proposal = propose(logits, self.vocabulary, self.sampler.proposer, needs, uniforms, heat)
        if gap is None and kl is None and weighed is None:
            return proposal
        return replace(proposal, gap=gap, kl=kl, weighed=weighed)

    def shadow(self, canvas: Canvas, blocks: BlockState, seen: Seen) -> Float[Tensor, "B W"] | None:
        """What the shadow slots give to the tokens that now stand at their positions; None without a shadow."""
        if not seen.slots:
            return None
        slots = self._shadow.slots(canvas, blocks)
        tokens = canvas.tokens.gather(1, slots.positions).flatten()
        shares = self.shares([h.flatten(0, 1) for h in seen.slots], tokens)
        return lay_out(shares.view(slots.positions.shape), slots, canvas)

    def shares(self, rows: list[Float[Tensor, "R D"]], tokens: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        """The probability of one token for each row of hidden states, before transforms."""
        chunk, double = self._at_once(tokens.device), self.sampler.proposer.precision == "float64"
        parts = [slice(first, first + chunk) for first in range(0, tokens.shape[0], chunk)]
        probs = [probability(self.guided([r[part] for r in rows]), tokens[part], double) for part in parts]
        return probs[0] if len(probs) == 1 else torch.cat(probs)

    def branch_states(
        self, branches: Branches, plan: BranchPlan, packed: bool
    ) -> tuple[tuple[Float[Tensor, "R T D"], ...], ...]:
        """Hidden states of every call of a plan for several branches of every row, one set each, or two with guidance.

        Args:
            branches: what is fed.
            plan: how.
            packed: whether the branches of a row lie one behind the other, over one copy of its stored keys.
        """
        sets = []
        for number, feed in enumerate(plan.feeds):
            whole = number > 0 or not plan.slots
            self.watch.mark("refresh" if whole else "forward")
            if packed and not whole:
                sets.append(self._along_sequence(branches, feed, [branches.counts[slot] for slot in plan.slots]))
            else:
                sets.append(self.feed(branches.canvas, feed)[0])
        self.watch.mark("sampler")
        return tuple(sets)

    def _along_sequence(
        self, branches: Branches, feed: Feed, counts: Sequence[int]
    ) -> tuple[Float[Tensor, "R T D"], ...]:
        """Hidden states of a feed of branches, so many of each row, computed one behind the other.

        The stored keys of a row are there once, however many branches look at them. Attention takes a mask of
        ``E * T`` by ``S + E * T`` for E branches of T positions over S stored ones.
        """
        order, many = PackedBranches.of(tuple(counts), feed.tokens.device), branches.canvas
        (rows, length), each = feed.tokens.shape, order.grid.shape[1]
        positions = feed.positions if feed.positions is not None else many.columns[:length].expand(rows, length)
        memory: FeedMemory | None = None
        if feed.memory is None:
            mask = order.apart(feed)
        else:
            memory, mask = feed.memory.along_sequence(order, feed.valid)
        one = Feed(
            tokens=rearrange(feed.tokens[order.grid], "b e t -> b (e t)"),
            positions=rearrange(positions[order.grid], "b e t -> b (e t)"),
            valid=mask,
            memory=memory,
            stored=None if feed.stored is None else mask.shape[-1],
            slots=order.grid[:, 0] if feed.slots is None else feed.slots[order.grid[:, 0]],
        )
        hidden, _ = self.feed(many, one)
        return tuple(rearrange(h, "b (e t) d -> (b e) t d", e=each)[order.back] for h in hidden)

    def guided(self, rows: list[Float[Tensor, "R D"]]) -> Float[Tensor, "R V"]:
        """Logits of a chunk; with guidance u + (w + 1)(c - u) (LLaDA, arXiv 2502.09992, classifier-free guidance)."""
        logits = self.model.head(rows[0])
        if len(rows) == 2:
            without = self.model.head(rows[1])
            logits = without + (self.sampler.guidance + 1) * (logits - without)
        return logits

    def _lines(
        self, canvas: Canvas, blocks: BlockState, positions: Int[Tensor, "B N"], eligible: Bool[Tensor, "B N"]
    ) -> LogitRows | None:
        """Where the flattened rows come from; None when nobody asks."""
        if not self.sampler.transforms:
            return None
        row = canvas.rows[:, None].expand_as(positions).flatten()
        return LogitRows(canvas, blocks, row, positions.flatten(), eligible.flatten())

    def _before(
        self, blocks: BlockState, positions: Int[Tensor, "B N"], previous: PreviousForward | None
    ) -> tuple[list[Float[Tensor, "R D"]], Bool[Tensor, " R"]] | tuple[None, None]:
        """The same rows of the previous forward, for its divergence, and which of them it computed; None when nobody
        asks or there was none."""
        if "kl" not in self.needs or previous is None:
            return None, None
        source = self.source(positions)
        known = previous.known.gather(1, source) & (blocks.step > 0)[:, None]
        rows = [h.gather(1, source[..., None].expand(-1, -1, h.shape[2])).flatten(0, 1) for h in previous.hidden]
        return rows, known.flatten()

    def _at_once(self, device: torch.device) -> int:
        """:func:`rows_at_once`, asked once in a run: a step that is captured may not ask the device."""
        self._rows = self._rows or rows_at_once(device, self.vocabulary.width)
        return self._rows

    def _cached_rows(self, logits: Float[Tensor, "R V"]) -> int:
        return logits.shape[0] if logits.device.type != "cpu" else max(1, _CACHED_ELEMENTS // logits.shape[1])


def rows_at_once(device: torch.device, vocabulary: int) -> int:
    """Rows the head is asked for in one call. Every call reads its whole matrix, which on a GPU is what it costs: there
    as many as a quarter of the free memory holds, logits, their copy and probabilities in float32."""
    if device.type == "cpu":
        return max(1, CHUNK_ELEMENTS // max(1, vocabulary))
    if device.type != "cuda" or not torch.cuda.is_available():
        return 2**20
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(64, free // 4 // (12 * vocabulary))
