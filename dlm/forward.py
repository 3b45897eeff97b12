"""From a plan to proposals: hidden states, logits of the wanted rows in chunks, and the time each part took."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.canvas import Canvas
from dlm.models.backbone import Backbone
from dlm.noise import Purpose, uniform
from dlm.proposal import Proposal, Vocabulary, divergence, logit_gap, propose, wide
from dlm.protocols import ForwardPlan, LogitRows, State
from dlm.sampler import Sampler
from dlm.shadow import lay_out, slots_of, with_shadow
from dlm.view import Clock

# Logits that exist at one time, in elements: 64 rows of a 126,464-word vocabulary.
_CHUNK_ELEMENTS = 64 * 126_464
# What a CPU works on at one time after the head: a few rows of a large vocabulary, which its caches hold.
_CACHED_ELEMENTS = 2**20


@dataclass
class FullCanvas:
    """No cache: every live position is fed at every step (what ``cache=None`` means)."""

    _valid: dict[tuple[int, ...], Tensor | None] = field(default_factory=dict, repr=False)

    def plan(self, canvas: Canvas, wanted: Int[Tensor, "B N"], reaches: list[int]) -> ForwardPlan:
        """Feed ``[0, reach)`` of every row; the tail of shorter rows is hidden from everybody's attention."""
        width = max(reaches)
        key = tuple(reaches)
        if key not in self._valid:
            ragged = min(reaches) < width
            ends = torch.tensor(reaches, device=canvas.tokens.device)
            self._valid = {key: canvas.columns[:width] < ends[:, None] if ragged else None}
        return ForwardPlan(canvas.tokens[:, :width], None, self._valid[key], wanted.clamp_max(width - 1))


@dataclass
class Stopwatch:
    """Splits a step into forward and sampler time.

    On the CPU it reads the clock. On a GPU it records events and reads them after the step's only synchronisation.
    """

    device: torch.device
    _marks: list[tuple[str, Any]] = field(default_factory=list)

    def mark(self, phase: str) -> None:
        """What follows, until the next mark, belongs to ``phase``."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((phase, event))
        else:
            self._marks.append((phase, time.perf_counter()))

    def read(self) -> dict[str, float]:
        """Seconds per phase up to the last mark; starts afresh. On a GPU the last mark must have been reached, which
        the step's synchronisation after it guarantees."""
        seconds: dict[str, float] = {}
        for (phase, begin), (_, end) in itertools.pairwise(self._marks):
            seconds[phase] = seconds.get(phase, 0.0) + self._between(begin, end)
        self._marks.clear()
        return seconds

    def _between(self, begin: Any, end: Any) -> float:
        took: float = begin.elapsed_time(end) / 1000 if self.device.type == "cuda" else end - begin
        return took


@dataclass(frozen=True)
class Seen:
    """What one forward showed.

    Attributes:
        proposal: at the wanted positions. Each ``[B, N]``
        hidden: hidden states of the fed positions, one set, or two with guidance. ``[B, T, D]``
        plan: what was fed.
        slots: hidden states of the shadow block, as many sets; none when no part asked. ``[B, S, D]``
        attention: see :class:`dlm.view.StepView`; None when no part asked. ``[B, T, T]``
    """

    proposal: Proposal
    hidden: tuple[Float[Tensor, "B T D"], ...]
    plan: ForwardPlan
    slots: tuple[Float[Tensor, "B S D"], ...] = ()
    attention: Float[Tensor, "B T T"] | None = None


@dataclass
class Pass:
    """One forward of a batch and the proposals it leads to.

    Attributes:
        model: the backbone.
        sampler: whose transforms, proposer and statistics apply.
        vocabulary: which ids may be proposed.
        watch: receives the time marks.
        longest: most positions of a block, which is what a shadow block takes.
    """

    model: Backbone
    sampler: Sampler
    vocabulary: Vocabulary
    watch: Stopwatch
    longest: int

    def __call__(
        self,
        canvas: Canvas,
        clock: Clock,
        plan: ForwardPlan,
        positions: Int[Tensor, "B N"],
        eligible: Bool[Tensor, "B N"],
        states: dict[str, State],
    ) -> Seen:
        """Feed the plan and propose at ``positions``; the new memories of the transforms go into ``states``."""
        self.watch.mark("forward")
        shadowed = "shadow" in self.sampler.needs
        fed, width = plan, plan.tokens.shape[1]
        if shadowed:
            fed = with_shadow(plan, canvas, clock, self.longest)
        hidden, attention = self.feed(canvas, fed)
        slots = tuple(h[:, width:] for h in hidden) if shadowed else ()
        hidden = tuple(h[:, :width] for h in hidden) if shadowed else hidden
        self.watch.mark("sampler")
        proposal = self.propose(canvas, clock, (hidden, plan), positions, eligible, states)
        if "kl" in self.sampler.needs:
            states["previous"] = tuple(_on_canvas(h, canvas) for h in hidden)
        return Seen(proposal, hidden, plan, slots, attention)

    def feed(
        self, canvas: Canvas, plan: ForwardPlan
    ) -> tuple[tuple[Float[Tensor, "B T D"], ...], Float[Tensor, "B T T"] | None]:
        """Hidden states of the fed positions; with guidance a second set, from a canvas without its prompt. And the
        attention, when a part needs it."""
        tokens, valid, positions = plan.tokens, plan.valid, plan.positions
        doubled = self.sampler.guidance > 0
        if doubled:
            where = positions if positions is not None else canvas.columns[: tokens.shape[1]]
            prompt = ~canvas.writable.gather(1, where.expand_as(tokens))
            tokens = torch.cat([tokens, tokens.masked_fill(prompt, canvas.mask_id)])
            valid = None if valid is None else torch.cat([valid, valid])
            positions = None if positions is None else torch.cat([positions, positions])
        attention = None
        if "attention" in self.sampler.needs:
            hidden, attention = self.model.attentive(tokens, positions, valid)
            attention = attention[: plan.tokens.shape[0]]
        else:
            hidden = self.model.hidden(tokens, positions, valid)
        return (tuple(hidden.chunk(2)) if doubled else (hidden,)), attention

    def propose(
        self,
        canvas: Canvas,
        clock: Clock,
        fed: tuple[tuple[Float[Tensor, "B T D"], ...], ForwardPlan],
        positions: Int[Tensor, "B N"],
        eligible: Bool[Tensor, "B N"],
        states: dict[str, State],
    ) -> Proposal:
        """Proposals at ``positions`` from the hidden states of a forward, a chunk of logits at a time."""
        hidden, plan = fed
        rows = self._rows(hidden, plan.positions, positions, plan.tokens.shape[1])
        before = self._before(canvas, positions, states)
        at = self._lines(canvas, clock, positions, eligible)
        noise = None
        if self.sampler.proposer.temperature > 0:
            noise = uniform(canvas.key, clock.step, Purpose.TOKEN, positions).flatten()
        proposals, chunk = [], self._chunk_rows()
        for first in range(0, rows[0].shape[0], chunk):
            part = slice(first, first + chunk)
            self.watch.mark("forward")
            logits = self.guided([r[part] for r in rows])
            self.watch.mark("sampler")
            earlier = None if before is None else self.guided([r[part] for r in before])
            size = self._cached_rows(logits)
            for inner in range(0, logits.shape[0], size):
                lines = slice(first + inner, min(first + inner + size, first + logits.shape[0]))
                proposals.append(
                    self._chunk(
                        logits[inner : inner + size],
                        None if earlier is None else earlier[inner : inner + size],
                        None if at is None else at.part(lines),
                        states,
                        None if noise is None else noise[lines],
                    )
                )
        return Proposal.cat(proposals).reshape(*positions.shape)

    def _chunk(
        self,
        logits: Float[Tensor, "R V"],
        before: Float[Tensor, "R V"] | None,
        at: LogitRows | None,
        states: dict[str, State],
        uniforms: Float[Tensor, " R"] | None,
    ) -> Proposal:
        """Proposals of one chunk of logits; ``before`` are those of the forward before."""
        needs = self.sampler.needs
        gap = logit_gap(logits) if "gap" in needs else None
        kl = None
        if "kl" in needs:
            assert at is not None
            kl = unknown = wide(logits[:, 0]).new_full((logits.shape[0],), torch.inf)
            if before is not None:
                kl = torch.where(at.clock.step[at.row] > 0, divergence(logits, before), unknown)
        for i, transform in enumerate(self.sampler.transforms):
            assert at is not None
            logits, states[f"transform{i}"] = transform.step(logits, at, states[f"transform{i}"])
        proposal = propose(logits, self.vocabulary, self.sampler.proposer, needs, uniforms)
        return replace(proposal, gap=gap, kl=kl) if gap is not None or kl is not None else proposal

    def shadow(self, canvas: Canvas, clock: Clock, seen: Seen) -> Float[Tensor, "B W"] | None:
        """What the shadow slots give to the tokens that now stand at their positions; None without a shadow."""
        if not seen.slots:
            return None
        slots, inside = slots_of(clock, self.longest)
        tokens, chunk = canvas.tokens.gather(1, slots).flatten(), self._chunk_rows()
        rows = [h.flatten(0, 1) for h in seen.slots]
        probs = []
        for first in range(0, tokens.shape[0], chunk):
            part = slice(first, first + chunk)
            logits = wide(self.guided([r[part] for r in rows]))
            own = logits.gather(1, tokens[part, None]).squeeze(1)
            probs.append((own - logits.logsumexp(dim=1)).exp())
        return lay_out(torch.cat(probs).view(slots.shape), slots, inside, canvas)

    def guided(self, rows: list[Float[Tensor, "R D"]]) -> Float[Tensor, "R V"]:
        """Logits of a chunk; with guidance u + (w + 1)(c - u) (LLaDA, arXiv 2502.09992, classifier-free guidance)."""
        logits = self.model.head(rows[0])
        if len(rows) == 2:
            without = self.model.head(rows[1])
            logits = without + (self.sampler.guidance + 1) * (logits - without)
        return logits

    def _rows(
        self,
        hidden: tuple[Float[Tensor, "B T D"], ...],
        fed: Int[Tensor, "B T"] | None,
        positions: Int[Tensor, "B N"],
        width: int,
    ) -> list[Float[Tensor, "R D"]]:
        """The hidden rows that score ``positions``, flattened; fillers get some row that was fed."""
        wanted = positions.clamp_max(width - 1) if fed is None else positions
        return [self.model.logit_rows(h, fed, wanted).flatten(0, 1) for h in hidden]

    def _lines(
        self, canvas: Canvas, clock: Clock, positions: Int[Tensor, "B N"], eligible: Bool[Tensor, "B N"]
    ) -> LogitRows | None:
        """Where the flattened rows come from; None when nobody asks."""
        if not self.sampler.transforms and "kl" not in self.sampler.needs:
            return None
        row = torch.arange(positions.shape[0], device=positions.device).repeat_interleave(positions.shape[1])
        return LogitRows(canvas, clock, row, positions.flatten(), eligible.flatten())

    def _before(
        self, canvas: Canvas, positions: Int[Tensor, "B N"], states: dict[str, State]
    ) -> list[Float[Tensor, "R D"]] | None:
        """The same rows of the previous forward, for its divergence; None when nobody asks or there was none."""
        if "kl" not in self.sampler.needs or states.get("previous") is None:
            return None
        return self._rows(states["previous"], None, positions, canvas.tokens.shape[1])

    def _cached_rows(self, logits: Float[Tensor, "R V"]) -> int:
        if logits.is_cuda:
            return logits.shape[0]
        return max(1, _CACHED_ELEMENTS // logits.shape[1])

    def _chunk_rows(self) -> int:
        return max(1, _CHUNK_ELEMENTS // max(1, self.vocabulary.width))


def _on_canvas(hidden: Float[Tensor, "B T D"], canvas: Canvas) -> Float[Tensor, "B W D"]:
    """Hidden states of a forward over the whole canvas, padded to its width."""
    missing = canvas.tokens.shape[1] - hidden.shape[1]
    return torch.nn.functional.pad(hidden, (0, 0, 0, missing))
