"""What comes back for a row: tokens, when each was committed, why it ended, and honest counters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from dlm.engine.canvas import Canvas
from dlm.engine.row import Row
from dlm.engine.stops import first_end as first_end

StopReason = Literal["filled", "end_token", "early_exit", "stop_string"]


@dataclass(frozen=True)
class Counts:
    """Figures of one row, always reported together (docs/evaluation.md).

    Attributes:
        forwards: model evaluations (NFE); a classifier-free guidance pair counts 2.
        token_forwards: positions pushed through the transformer body.
        tokens: generated tokens before the first end token and the first stop string.
        tokens_per_forward: ``tokens`` / forwards until the last of them was fixed. The headline figure.
        canvas_tokens_per_forward: the papers' figure, all filled positions / forwards; counts padding.
        seconds: wall time of the row's steps, shared equally among the rows of a batch.
        seconds_refresh, seconds_step, seconds_sampler: full cache refreshes, other forwards, and everything
            outside the forward.
        tokens_per_second: ``tokens`` / ``seconds``.
        positions_cut: masked positions that a stop rule or string filled, so that no forward had to: what they would
            have cost at one position a step.
        accepted_drafts: steps of the sampler that needed no forward of their own, or with guidance no pair (FreeDave).
        acceptance: how many forwards accepted 0, 1, 2, ... drafts, of those that evaluated any.
        store_forwards: what the published loops of SDAR and TraDo spend beside ``forwards`` on keys alone, one for the
            prompt and one for each block; 0 where attention has no blocks.
        experts: experts that a forward of the batch reached in a layer, the mean; 0: the model has none.
        draft_forwards, seconds_draft: forwards of a model that only drafts, and their time (DEER); ``forwards``,
            ``token_forwards`` and ``seconds_step`` are the verifier's.
    """

    forwards: int
    token_forwards: int
    tokens: int
    tokens_per_forward: float
    canvas_tokens_per_forward: float
    seconds: float
    seconds_refresh: float
    seconds_step: float
    seconds_sampler: float
    tokens_per_second: float
    accepted_drafts: int = 0
    acceptance: tuple[int, ...] = ()
    positions_cut: int = 0
    store_forwards: int = 0
    experts: float = 0.0
    draft_forwards: int = 0
    seconds_draft: float = 0.0


@dataclass(frozen=True)
class RowResult:
    """A finished row as the decoder hands it over, without text.

    Attributes:
        index: the row's place in the caller's list.
        prompt: its tokens before the generated region.
        tokens: the whole generated region that was asked for, filler included.
        commit_step: per generated position the 0-based step that committed it; -1 where the sampler did not
            (given tokens of an infill, filler written by a stop rule).
        confidence: per generated position the probability at which it was committed; NaN where it was not.
        stop: ``filled``: nothing was masked any more; ``end_token``: a stop rule filled the rest; ``early_exit``: all
            that was left was committed at once (Prophet); ``stop_string``: the answer ends before one, and what it had
            open then was not decoded.
        counts: the figures.
    """

    index: int
    prompt: list[int]
    tokens: list[int]
    commit_step: list[int]
    confidence: list[float]
    stop: StopReason
    counts: Counts

    @classmethod
    def of(
        cls, row: Row, canvas: Canvas, slot: int, forwards_per_step: int, attention_block: int, mixtures: int
    ) -> RowResult:
        """Read a finished row off the canvas; ``mixtures``: layers with experts."""
        job = row.job
        end = job.shown_end
        whole = canvas.tokens[slot, :end].tolist()
        tokens = whole[job.start :]
        steps = canvas.commit_step[slot, job.start : end].tolist()
        confidence = canvas.commit_confidence[slot, job.start : end].tolist()
        filled = sum(step >= 0 for step in steps)
        # A row that may grow need not have grown to its bound.
        opened = int(canvas.writable[slot, :end].sum()) if job.length is not None else len(job.writable) - job.surplus
        useful = first_end(tokens, canvas.end_ids) if job.stops is None else job.stops.kept(tokens)
        counts = _count(row, opened, useful, steps, forwards_per_step)
        counts = replace(
            counts,
            positions_cut=int(canvas.cut_away[slot]),
            store_forwards=_stores(job.start, steps, attention_block),
            experts=row.experts / (mixtures * row.forwards) if mixtures else 0.0,
        )
        stop: StopReason = "filled" if filled == opened else "end_token"
        stop = "stop_string" if row.stopped else "early_exit" if row.exiting else stop
        return cls(job.index, whole[: job.start], tokens, steps, confidence, stop, counts)


def _stores(start: int, steps: list[int], attention_block: int) -> int:
    """See :class:`Counts`."""
    last = max((place for place, step in enumerate(steps) if step >= 0), default=-1)
    if not attention_block or last < 0:
        return 0
    first = start // attention_block
    return (first > 0) + (start + last) // attention_block + 1 - first


def _count(row: Row, opened: int, useful: int, steps: list[int], forwards_per_step: int) -> Counts:
    written = [i for i, step in enumerate(steps) if step >= 0]
    content = [i for i in written if i < useful]
    forwards = forwards_per_step * row.forwards
    needed = forwards_per_step * (max((steps[i] for i in content), default=-1) + 1)
    seconds = row.seconds_refresh + row.seconds_step + row.seconds_sampler
    return Counts(
        forwards=forwards,
        token_forwards=row.token_forwards,
        tokens=len(content),
        tokens_per_forward=len(content) / needed if needed else 0.0,
        canvas_tokens_per_forward=opened / forwards if forwards else 0.0,
        seconds=seconds,
        seconds_refresh=row.seconds_refresh,
        seconds_step=row.seconds_step,
        seconds_sampler=row.seconds_sampler,
        tokens_per_second=len(content) / seconds if seconds else 0.0,
        accepted_drafts=row.steps - row.forwards,
        acceptance=tuple(row.accepted),
    )
