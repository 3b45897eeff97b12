"""What comes of a step: what whoever listens is told, and what the host must hear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Growth
from dlm.engine.row import Row
from dlm.engine.step import StepView
from dlm.engine.stepper import StepOutcome


@dataclass(frozen=True)
class StepEvent:
    """What one step did.

    Attributes:
        rows: the row in each slot of the batch; ``rows[b].job.index`` names it.
        view: everything that was known at the step, scores and budget included; to whoever listens a step is a forward,
            so its block state counts those.
        chosen: which of ``view.positions`` were committed. ``[B, N]``
        remasked: canvas positions that a reviser took back; None without one. ``[B, W]``
        filled: the id a stop rule or string filled the rest of the row with, -1 where none did; None without a rule.
            ``[B]``
        cut: where a stop rule, or a schedule, has let the row end, -1 where it did not; None without one. ``[B]``
        refreshed: slots that a cache recomputed whole.
        recomputed: positions that the forward recomputed; None: every one that could be. ``[B, W]``
        growth: masks that were put in behind the step; all positions are counted with them; None: rows never grow.
    """

    rows: Sequence[Row]
    view: StepView
    chosen: Bool[Tensor, "B N"]
    remasked: Bool[Tensor, "B W"] | None
    filled: Int[Tensor, " B"] | None
    cut: Int[Tensor, " B"] | None = None
    refreshed: frozenset[int] = frozenset()
    recomputed: Bool[Tensor, "B W"] | None = None
    growth: Growth | None = None

    def ended(self, canvas: Canvas, stopped: Sequence[bool]) -> StepEvent:
        """The step, where rows have come to a stop string: what they have open is filled."""
        end_id, where = canvas.end_ids[0], torch.tensor(stopped, device=canvas.tokens.device)
        canvas.fill(canvas.masked & where[:, None], end_id)
        before = torch.full_like(canvas.end, -1) if self.filled is None else self.filled
        return replace(self, filled=before.masked_fill(where, end_id))


@dataclass(frozen=True)
class Settled:
    """What a step has done, before the host knows of it.

    Attributes:
        outcome: of the stepper.
        filled: see :class:`StepEvent`.
        names: what the report says, in its order; the cache's part begins at ``own``.
        report: a line for each row, and where one has stop strings its tokens behind it. ``[B, R]``
        counts, refreshed: positions fed to each row, and rows recomputed whole, known on the host.
    """

    outcome: StepOutcome
    filled: Int[Tensor, " B"] | None
    names: tuple[str, ...]
    own: int
    report: Int[Tensor, "B R"]
    counts: Sequence[int]
    refreshed: frozenset[int]

    def read(self, rows: Sequence[Row]) -> tuple[list[dict[str, int]], list[list[int]]]:
        """The step's one synchronisation: what the host hears of each row, and its tokens. The cache's part goes to
        the rows."""
        names, lines = self.names, self.report.tolist()
        for row, values in zip(rows, lines, strict=True):
            row.cache = dict(zip(names[self.own :], values[self.own : len(names)], strict=True))
        status = [dict(zip(names, values, strict=False)) for values in lines]
        return status, [values[len(names) :] for values in lines]
