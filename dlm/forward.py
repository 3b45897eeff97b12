"""From a plan to proposals: hidden states, logits of the wanted rows in chunks, and the time each part took."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlm.canvas import Canvas
from dlm.models.backbone import Backbone
from dlm.noise import Purpose, uniform
from dlm.proposal import Proposal, Vocabulary, propose
from dlm.protocols import ForwardPlan, LogitRows, State
from dlm.sampler import Sampler

# Logits that exist at one time, in elements: 64 rows of a 126,464-word vocabulary.
_CHUNK_ELEMENTS = 64 * 126_464


@dataclass
class FullCanvas:
    """No cache: every live position is fed at every step (what ``cache=None`` means)."""

    _valid: dict[tuple[int, ...], Tensor | None] = field(default_factory=dict, repr=False)

    def plan(self, canvas: Canvas, wanted: Int[Tensor, "B N"], ends: list[int]) -> ForwardPlan:
        """Feed ``[0, end)`` of every row; the tail of shorter rows is hidden from everybody's attention."""
        width = max(ends)
        key = tuple(ends)
        if key not in self._valid:
            ragged = min(ends) < width
            columns = torch.arange(width, device=canvas.tokens.device)
            self._valid = {key: columns < canvas.end[:, None] if ragged else None}
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


@dataclass
class Pass:
    """One forward of a batch and the proposals it leads to.

    Attributes:
        model: the backbone.
        sampler: whose transforms, proposer and statistics apply.
        vocabulary: which ids may be proposed.
        watch: receives the time marks.
    """

    model: Backbone
    sampler: Sampler
    vocabulary: Vocabulary
    watch: Stopwatch

    def __call__(
        self,
        canvas: Canvas,
        plan: ForwardPlan,
        positions: Int[Tensor, "B N"],
        step: Int[Tensor, " B"],
        states: dict,
    ) -> tuple[Proposal, dict[str, State]]:
        """Proposals at ``positions`` (``[B, N]`` each) and the new memories of the transforms."""
        self.watch.mark("forward")
        rows = [r.flatten(0, 1) for r in self._hidden_rows(canvas, plan)]
        self.watch.mark("sampler")
        at = self._rows(canvas, positions)
        noise = None
        if self.sampler.proposer.temperature > 0:
            noise = uniform(canvas.key, step, Purpose.TOKEN, positions).flatten()
        proposals, chunk = [], self._chunk_rows()
        for first in range(0, rows[0].shape[0], chunk):
            part = slice(first, first + chunk)
            self.watch.mark("forward")
            logits = self._guided([r[part] for r in rows])
            self.watch.mark("sampler")
            if at is not None:
                here = LogitRows(canvas, at.row[part], at.position[part])
                logits, states = self._transform(logits, here, states)
            uniforms = None if noise is None else noise[part]
            proposals.append(propose(logits, self.vocabulary, self.sampler.proposer, self.sampler.needs, uniforms))
        return Proposal.cat(proposals).reshape(*positions.shape), states

    def _hidden_rows(self, canvas: Canvas, plan: ForwardPlan) -> list[Float[Tensor, "B N D"]]:
        """Hidden rows of the wanted positions; with guidance a second set, from a canvas without its prompt."""
        tokens, valid, positions = plan.tokens, plan.valid, plan.positions
        if self.sampler.guidance == 0:
            return [self.model.logit_rows(self.model.hidden(tokens, positions, valid), positions, plan.wanted)]
        where = positions if positions is not None else torch.arange(tokens.shape[1], device=tokens.device)
        prompt = ~canvas.writable.gather(1, where.expand_as(tokens))
        twin = torch.cat([tokens, tokens.masked_fill(prompt, canvas.mask_id)])
        valid = None if valid is None else valid.repeat(2, 1)
        positions = None if positions is None else positions.repeat(2, 1)
        hidden = self.model.hidden(twin, positions, valid)
        return list(self.model.logit_rows(hidden, positions, plan.wanted.repeat(2, 1)).chunk(2))

    def _guided(self, rows: list[Float[Tensor, "R D"]]) -> Float[Tensor, "R V"]:
        """Logits of a chunk; with guidance u + (w + 1)(c - u) (LLaDA, arXiv 2502.09992, classifier-free guidance)."""
        logits = self.model.head(rows[0])
        if len(rows) == 2:
            without = self.model.head(rows[1])
            logits = without + (self.sampler.guidance + 1) * (logits - without)
        return logits

    def _rows(self, canvas: Canvas, positions: Int[Tensor, "B N"]) -> LogitRows | None:
        """Where the flattened rows come from; None when no transform asks."""
        if not self.sampler.transforms:
            return None
        row = torch.arange(positions.shape[0], device=positions.device).repeat_interleave(positions.shape[1])
        return LogitRows(canvas, row, positions.flatten())

    def _transform(self, logits: Tensor, at: LogitRows, states: dict) -> tuple[Tensor, dict[str, State]]:
        states = dict(states)
        for i, transform in enumerate(self.sampler.transforms):
            logits, states[f"transform{i}"] = transform.step(logits, at, states[f"transform{i}"])
        return logits, states

    def _chunk_rows(self) -> int:
        return max(1, _CHUNK_ELEMENTS // max(1, self.vocabulary.width))
