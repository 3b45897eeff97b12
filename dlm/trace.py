"""What happened at each step of a row: recorded on request, saved as JSON lines, replayed without a model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dlm.errors import SettingsError

if TYPE_CHECKING:
    from dlm.decoder import StepEvent

Recordable = Literal["confidence"]
RECORDABLE: tuple[Recordable, ...] = ("confidence",)


@dataclass(frozen=True)
class TraceStep:
    """One forward of one row.

    Attributes:
        step: 0-based forward of the row.
        block: the active block, ``[start, end)`` in canvas positions.
        positions, tokens, probs: what was committed, at which probability.
        remasked: positions a reviser took back.
        filled: the token a stop rule wrote into every position that was still masked, or, with ``cut``, into every
            one that it let the row end before; None if it did not.
        cut: canvas position at which a stop rule let the row end; None if it did not.
        confidence: position -> probability of the proposal, for every eligible position, when it was asked for.
    """

    step: int
    block: tuple[int, int]
    positions: list[int]
    tokens: list[int]
    probs: list[float]
    remasked: list[int] = field(default_factory=list)
    filled: int | None = None
    confidence: dict[int, float] | None = None
    cut: int | None = None


@dataclass
class Trace:
    """All steps of one row; enough to rebuild its canvas at any step.

    Attributes:
        canvas: the row before the first step, mask id at open positions.
        start: first generated position.
        mask_id: the mask id.
        steps: one entry per forward, in order.
    """

    canvas: list[int]
    start: int
    mask_id: int
    steps: list[TraceStep] = field(default_factory=list)

    def replay(self) -> Iterator[list[int]]:
        """The canvas before the first step and after each step."""
        canvas = list(self.canvas)
        yield list(canvas)
        for step in self.steps:
            for position, token in zip(step.positions, step.tokens, strict=True):
                canvas[position] = token
            for position in step.remasked:
                canvas[position] = self.mask_id
            if step.filled is not None:
                # A cut takes committed tokens away too, but none that was given.
                first, kept = (0, canvas) if step.cut is None else (step.cut, self.canvas)
                open_ = (i >= first and token == self.mask_id for i, token in enumerate(kept))
                canvas = [step.filled if now else token for now, token in zip(open_, canvas, strict=True)]
            yield list(canvas)

    def as_dict(self) -> dict[str, Any]:
        """Plain Python values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Trace:
        """The inverse of :meth:`as_dict`, also after a trip through JSON."""
        steps = []
        for step in values["steps"]:
            confidence = step["confidence"]
            if confidence is not None:
                confidence = {int(position): prob for position, prob in confidence.items()}
            steps.append(TraceStep(**{**step, "block": tuple(step["block"]), "confidence": confidence}))
        return cls(list(values["canvas"]), values["start"], values["mask_id"], steps)


def save_traces(path: str | Path, traces: Sequence[Trace]) -> None:
    """Write one JSON line per row; the file appears whole or not at all."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        for trace in traces:
            file.write(json.dumps(trace.as_dict()) + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_traces(path: str | Path) -> list[Trace]:
    """Read what :func:`save_traces` wrote."""
    with Path(path).open(encoding="utf-8") as file:
        return [Trace.from_dict(json.loads(line)) for line in file]


class Recorder:
    """Collects the traces of a run from its step events.

    ``record`` is None (nothing), ``"commits"`` or a collection of things to add to the commits: ``"confidence"``.
    Recording copies numbers out after the step and never changes them.
    """

    def __init__(self, record: str | Sequence[str] | None) -> None:
        wanted = {record} if isinstance(record, str) else set(record or ())
        unknown = sorted(wanted - {"commits", *RECORDABLE})
        if unknown:
            raise SettingsError(f"record: unknown {unknown}; known are 'commits' and {list(RECORDABLE)}")
        self.active = bool(wanted)
        self.with_confidence = "confidence" in wanted
        self.traces: dict[int, Trace] = {}

    def take(self, event: StepEvent) -> None:
        """Add a step to the trace of every row it had."""
        if not self.active:
            return
        view, clock = event.view, event.view.clock
        columns = zip(
            event.rows, clock.step.tolist(), clock.block_start.tolist(), clock.block_end.tolist(),
            event.chosen, strict=True,
        )  # fmt: skip
        for slot, (row, step, start, end, chosen) in enumerate(columns):
            job = row.job
            if step == 0 or job.index not in self.traces:
                self.traces[job.index] = Trace(list(job.tokens), job.start, view.canvas.mask_id)
            eligible = view.eligible[slot]
            confidence = None
            if self.with_confidence:
                places, probs = (
                    view.positions[slot][eligible].tolist(),
                    view.proposal.prob[slot][eligible].tolist(),
                )
                confidence = dict(zip(places, probs, strict=True))
            filled = -1 if event.filled is None else int(event.filled[slot])
            cut = -1 if event.cut is None else int(event.cut[slot])
            filled = view.canvas.end_ids[0] if cut >= 0 else filled
            remasked = [] if event.remasked is None else event.remasked[slot].nonzero().flatten().tolist()
            self.traces[job.index].steps.append(
                TraceStep(
                    step=step,
                    block=(start, end),
                    positions=view.positions[slot][chosen].tolist(),
                    tokens=view.proposal.token[slot][chosen].tolist(),
                    probs=view.proposal.prob[slot][chosen].tolist(),
                    remasked=remasked,
                    filled=filled if filled >= 0 else None,
                    confidence=confidence,
                    cut=cut if cut >= 0 else None,
                )
            )
