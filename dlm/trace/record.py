"""What is kept of a run's step events."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

from dlm.engine.canvas import Canvas
from dlm.engine.loop import StepEvent
from dlm.engine.proposal import Statistic
from dlm.engine.row import Row
from dlm.errors import SettingsError
from dlm.trace.steps import CacheEvent, Trace, TraceStep
from dlm.words import meant

Recordable = Literal["order", "commits", "confidence", "candidates", "all_candidates", "logits", "cache"]
RECORDABLE: tuple[Recordable, ...] = get_args(Recordable)
_BANNED = -1e29  # what a transform forbids is no candidate
EVERYTHING = ("order", "confidence", "candidates", "cache")  # what a file for the player holds unless told otherwise


class Recorder:
    """Collects the traces of a run from its step events.

    ``record`` is None (nothing) or one or several of:

    * ``order`` (or ``commits``): what was committed at which step and with which probability, what was taken back or
      filled, the blocks, and with drafts how many were evaluated and accepted. All others include it.
    * ``confidence``: the probability of the proposal at every eligible position.
    * ``candidates``: the five likeliest tokens of every committed position, as the model saw them at that step: softmax
      of the logits after guidance and transforms, before temperature and truncation. The mask id is no candidate, but
      has its share. Which of several equal logits is the last of the five is left open.
    * ``all_candidates``: the same for every eligible position, committed or not.
    * ``logits``: the logits of the candidates; with ``candidates`` where nothing else is said.
    * ``cache``: how many positions were fed, which, whether everything was, and what the cache reported.

    Recording copies numbers out after the step and never changes them.

    Raises:
        SettingsError: an unknown name.
    """

    def __init__(self, record: str | Sequence[str] | None) -> None:
        if not isinstance(record, str | Sequence | set | frozenset | None):
            raise SettingsError(f"record must be a name or a list of names ({', '.join(RECORDABLE)}), got {record!r}")
        wanted = {record} if isinstance(record, str) else set(map(str, record or ()))
        if unknown := sorted(map(str, wanted - set(RECORDABLE))):
            near = meant(unknown[0], RECORDABLE)
            raise SettingsError(f"record: unknown {', '.join(unknown)}{near}; known are {', '.join(RECORDABLE)}")
        self.active = bool(wanted)
        self.with_confidence = "confidence" in wanted
        self.with_cache = "cache" in wanted
        self.with_logits = "logits" in wanted
        self.everywhere = "all_candidates" in wanted
        self.with_candidates = bool(wanted & {"candidates", "all_candidates", "logits"})
        self.traces: dict[int, Trace] = {}
        self._before: dict[int, tuple[int, int]] = {}

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics of the proposal to be computed for it."""
        return frozenset({"candidates"}) if self.with_candidates else frozenset()

    def take(self, event: StepEvent) -> None:
        """Add a step to the trace of every row it had."""
        if not self.active:
            return
        view, blocks = event.view, event.view.blocks
        proposal, chosen = view.proposal, event.chosen.tolist()
        positions, tokens, probs = (x.tolist() for x in (view.positions, proposal.token, proposal.prob))
        steps, starts, ends = (x.tolist() for x in (blocks.step, blocks.block_start, blocks.block_end))
        eligible = view.eligible.tolist() if self.with_confidence or self.everywhere else chosen
        top = self._top(event)
        fills = _listed(event.filled, len(steps))
        cuts = _listed(event.cut, len(steps))
        at, lengths = ([0], [0]) if event.growth is None else (event.growth.at.tolist(), event.growth.length.tolist())
        for slot, row in enumerate(event.rows):
            trace = self._trace(row, steps[slot], view.canvas)
            here = [i for i, taken in enumerate(chosen[slot]) if taken]
            open_ = [i for i, may in enumerate(eligible[slot]) if may]
            place = positions[slot]
            cut = cuts[slot]
            filled = view.canvas.end_ids[0] if cut >= 0 else fills[slot]
            fed, accepted = self._since(row, steps[slot])
            shown = sorted({*here, *open_}) if self.everywhere else here
            step = TraceStep(
                step=steps[slot],
                block=(max(starts[slot], row.job.start), ends[slot]),  # not what is given of it
                positions=[place[i] for i in here],
                tokens=[tokens[slot][i] for i in here],
                probs=[_short(probs[slot][i]) for i in here],
                remasked=[] if event.remasked is None else event.remasked[slot].nonzero().flatten().tolist(),
                filled=filled if filled >= 0 else None,
                confidence={place[i]: _short(probs[slot][i]) for i in open_} if self.with_confidence else None,
                cut=cut if cut >= 0 else None,
                candidates={place[i]: top.pairs(slot, i) for i in shown} if top is not None else None,
                logits={place[i]: top.logits(slot, i) for i in shown} if top and self.with_logits else None,
                cache=self._cache_event(event, slot, row, fed) if self.with_cache else None,
                drafts=row.drafts,
                accepted=accepted,
                grown=(at[slot], lengths[slot]) if event.growth is not None and lengths[slot] else None,
            )
            trace.steps.append(step)

    def _trace(self, row: Row, step: int, canvas: Canvas) -> Trace:
        """The row's trace; a fresh one where the row begins, also when it begins again."""
        job = row.job
        if step == 0 or job.index not in self.traces:
            behind = [canvas.end_ids[0]] * (job.end - job.first_end)
            tokens = [*job.tokens[: job.first_end], *behind]
            self.traces[job.index] = Trace(tokens, job.start, canvas.mask_id)
        return self.traces[job.index]

    def _since(self, row: Row, step: int) -> tuple[int, int]:
        """Positions fed and drafts accepted since the row's last step."""
        fed, accepted = self._before.get(row.job.index, (0, 0)) if step else (0, 0)
        now = (row.token_forwards, row.steps - row.forwards)
        self._before[row.job.index] = now
        return now[0] - fed, now[1] - accepted

    def _top(self, event: StepEvent) -> _Top | None:
        proposal = event.view.proposal
        if not self.with_candidates or proposal.top_token is None:
            return None
        assert proposal.top_prob is not None
        assert proposal.top_logit is not None
        return _Top(proposal.top_token.tolist(), proposal.top_prob.tolist(), proposal.top_logit.tolist())

    @staticmethod
    def _cache_event(event: StepEvent, slot: int, row: Row, fed: int) -> CacheEvent:
        whole = slot in event.refreshed
        recomputed = None
        if event.recomputed is not None and not whole:
            recomputed = _ranges(event.recomputed[slot, : row.job.end].nonzero().flatten().tolist())
        return CacheEvent(fed, whole, recomputed, dict(row.cache))


class _Top(NamedTuple):
    """The likeliest tokens at every proposed position, on the host."""

    token: list[Any]
    prob: list[Any]
    logit: list[Any]

    def pairs(self, slot: int, column: int) -> list[tuple[int, float]]:
        found = zip(self.token[slot][column], self.prob[slot][column], self.logit[slot][column], strict=True)
        return [(token, _short(prob)) for token, prob, logit in found if logit > _BANNED]

    def logits(self, slot: int, column: int) -> list[float]:
        return [_short(logit) for logit in self.logit[slot][column] if logit > _BANNED]


def _short(number: float) -> float:
    """Six digits: a float32 written in full takes eighteen."""
    return float(f"{number:.6g}")


def _listed(column: Any, rows: int) -> list[int]:
    return [-1] * rows if column is None else column.tolist()


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    """Ascending numbers as ranges."""
    if not numbers:
        return []
    breaks = [i for i, (a, b) in enumerate(pairwise(numbers), start=1) if b != a + 1]
    edges = [0, *breaks, len(numbers)]
    return [(numbers[first], numbers[last - 1] + 1) for first, last in pairwise(edges)]
