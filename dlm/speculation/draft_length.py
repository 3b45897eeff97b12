"""How far ahead to draft: chosen from what was accepted and from what forwards took, so that drafting does not cost.

A forward that evaluates V versions of every row (the row and V - 1 drafts) takes longer than one that evaluates the
rows alone, and takes every row as many steps further as drafts are accepted, and one. The choice is the V with the most
steps per second. Three rules keep a wrong estimate from being expensive:

- A loss limit: a forward with drafts is only made when the run, should none of them be accepted, is still at most 2 %
  slower than without any draft so far.
- Small strides: at most twice as many versions as have been timed.
- Trials beyond the choice, which find out that circumstances have changed, take at most 2 % of the time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import log2
from typing import NamedTuple, Protocol, runtime_checkable

from dlm.errors import SettingsError

# Lost at most, as a part of the time so far: by drafts that are not accepted, and by trials alone.
_LOSS = 0.02
_TRIAL = 0.02
# Drafting begins when it promises to be this much faster, and ends when it no longer promises to be faster at all.
_BEGIN = 1.05
_END = 1.0
# What is supposed of a draft before anything is known: accepted in so many of so many cases.
_HOPE, _WEIGHT = 1.4, 2.0
# How much evidence is worth after one forward more; and forwards without evidence do not make it worth less than this.
_MEMORY = 0.97
_FLOOR = 4.0
# Timings remembered of one number of versions, and those of undrafted forwards that must be there before any draft.
_TIMINGS = 9
_BASE_TIMINGS = 2
# Forwards after which an undrafted one is timed again.
_RENEW = 50
# Fewest and most forwards between trials; and so few between two looks at whether to begin.
_SOON, _LATE = 4, 16


@runtime_checkable
class Speed(Protocol):
    """What is known of the machine beforehand; :class:`dlm.speculation.cost_model.CostModel` is one."""

    def seconds_of(self, positions: float, proposals: float) -> float:
        """Seconds of a forward that is fed ``positions`` and asked for the logits of ``proposals``."""
        ...


class Load(NamedTuple):
    """What a forward without drafts works on.

    Attributes:
        rows: rows of the batch.
        positions: positions fed per row, on average.
        proposals: positions proposed for per row, on average.
    """

    rows: int
    positions: float
    proposals: float


@dataclass
class _Chain:
    """How often a draft is accepted when the one before it was.

    Attributes:
        accepted, seen: how often of how many times, old ones counting less.
        at: forwards made when it was last heard of.
        new: what has been reported since the last forward ended: as ``accepted`` and ``seen``.
    """

    accepted: float = 0.0
    seen: float = 0.0
    at: int = 0
    new: tuple[int, int] = (0, 0)

    def settle(self, now: int) -> None:
        """Let old evidence fade and add the new."""
        accepted, seen = self.new
        if not seen:
            return
        keep = max(_MEMORY ** (now - self.at), min(1.0, _FLOOR / self.seen) if self.seen else 0.0)
        self.accepted, self.seen = keep * self.accepted + accepted, keep * self.seen + seen
        self.at, self.new = now, (0, 0)


@dataclass
class _Timings:
    """What forwards with one number of versions took, at one size of load.

    Attributes:
        forward: how many times what the machine's curve says.
        rest: seconds outside the forward.
        at: forwards made when the last one was timed or asked for.
    """

    forward: float = 1.0
    rest: float = 0.0
    at: int = 0
    forwards: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMINGS))
    rests: deque[float] = field(default_factory=lambda: deque(maxlen=_TIMINGS))

    def add(self, forward: float, rest: float, now: int, part: int) -> None:
        """One timing more; what counts is the one that a ``part``-th of them are below. No means: the first forward,
        and one that something came across, take much longer."""
        self.forwards.append(forward)
        self.rests.append(rest)
        nth = (len(self.forwards) - 1) // part
        self.forward, self.rest, self.at = sorted(self.forwards)[nth], sorted(self.rests)[nth], now


@dataclass
class _Trials:
    """When more than the chosen number of versions is tried.

    Attributes:
        wait: forwards between two trials.
        last: forwards made when the last one was.
        since: seconds since then.
        paid: whether it was worth it; the next one then may cost more than its part.
    """

    wait: int = _SOON
    last: int = 0
    since: float = 0.0
    paid: bool = False

    def due(self, now: int, extra: float) -> bool:
        """Whether it is time for a trial that takes ``extra`` seconds; it is then made."""
        if now - self.last < self.wait or (extra > _TRIAL * self.since and not self.paid):
            return False
        self.last, self.since, self.paid = now, 0.0, False
        return True

    def judge(self, paid: bool) -> None:
        """A trial is over."""
        self.wait, self.paid = _SOON if paid else min(2 * self.wait, _LATE), paid


class DraftLengthController:
    """The choice of one run. After every forward: :meth:`learn` for each row, then :meth:`timed`; :meth:`length` before
    drafts are made, which may be before the present forward has been reported.

    Args:
        longest: most versions of a row that may be chosen.
        speed: what is known of the machine; a wrong curve is corrected by what is timed.

    Raises:
        SettingsError: ``longest`` below 1.
    """

    def __init__(self, longest: int, speed: Speed) -> None:
        if isinstance(longest, bool) or not isinstance(longest, int) or longest < 1:
            raise SettingsError(f"the longest draft length must be a whole number of at least 1, got {longest!r}")
        self.longest, self.speed = longest, speed
        self._lengths = [n for n in _lengths() if n < longest] + [longest]
        self._chain = [_Chain() for _ in range(longest - 1)]
        self._steps = [1.0] * (longest + 1)
        self._timings: dict[int, dict[int, _Timings]] = {}  # by size, then by versions
        self._undrafted = _Timings()  # of whatever size, the last ones
        self._gained = 0
        self._forwards = 0
        self._choice, self._again = 1, 0
        # Seconds so far, and how many of them drafting has saved.
        self._total = self._ahead = 0.0
        self._trials = _Trials()
        self._expect()

    def learn(self, proposed: int, accepted: int) -> None:
        """One row of the last forward had ``proposed`` drafts, of which the first ``accepted`` came true."""
        self._gained += accepted
        for nth in range(min(proposed, accepted + 1, len(self._chain))):
            yes, seen = self._chain[nth].new
            self._chain[nth].new = yes + (nth < accepted), seen + 1

    def timed(self, load: Load, versions: int, forward: float, rest: float = 0.0) -> None:
        """The forward whose rows were learned from is over.

        Args:
            load: what it worked on.
            versions: how many versions each row had, 1 without drafts (the most of any row).
            forward: seconds of the model.
            rest: seconds of everything else in the step.
        """
        if load.rows < 1 or not forward > 0:
            return
        self._forwards += 1
        for link in self._chain:
            link.settle(self._forwards)
        steps, self._gained = 1 + self._gained / load.rows, 0
        timings = self._timings.setdefault(_size(load), {}).setdefault(versions, _Timings())
        # In doubt for the undrafted ones: they are judged by the better quarter, the others by the better half.
        timings.add(forward / self._seconds(load, versions), rest, self._forwards, 4 if versions == 1 else 2)
        if versions == 1:
            self._undrafted = timings
            cost = self._seconds(load, 1) * timings.forward + timings.rest
        else:
            costs = self._costs(load, charged=True)
            cost = costs[versions]
            self._ahead += steps * costs[1] - cost
            self._expect()
            if versions > self._choice:
                self._trials.judge(steps / cost > _BEGIN * self._steps[self._choice] / costs[self._choice])
        self._total += cost
        self._trials.since += cost

    def length(self, load: Load) -> int:
        """Versions per row that the next forward should evaluate, 1 for no drafts."""
        alone = self._timings.get(_size(load), {}).get(1)
        if self.longest == 1 or alone is None or len(alone.forwards) < _BASE_TIMINGS:
            return 1
        if self._choice == 1 and self._forwards < self._again:
            return 1
        if self._choice > 1 and self._forwards - alone.at >= _RENEW:
            alone.at = self._forwards
            return 1
        costs = self._costs(load)
        # Even if no draft is accepted, the run then stays within the loss limit.
        most = costs[1] + self._ahead + _LOSS * self._total
        stride = 2 * max(self._timings[_size(load)])
        self._choice = self._best(costs, most, stride)
        self._again = self._forwards + _SOON
        trial = min(2 * self._choice, stride, self.longest)
        extra = costs[trial] - costs[self._choice]
        if trial > self._choice and costs[trial] <= most and self._trials.due(self._forwards, extra):
            return trial
        return self._choice

    def _best(self, costs: dict[int, float], most: float, stride: int) -> int:
        """The number of versions with the most expected steps per second, as far as it may cost and stride."""
        gains = {n: self._steps[n] * costs[1] / costs[n] for n in self._lengths}
        enough = _BEGIN if self._choice == 1 else _END
        best = max(gains, key=lambda n: gains[n])
        if gains[best] <= enough:
            return 1
        if best > stride:  # on the way there, whatever lies between is worth timing
            best = max(n for n in self._lengths if n <= stride)
        if costs[best] <= most:
            return best
        within = [n for n in self._lengths if n < best and gains[n] > enough and costs[n] <= most]
        return max(within, key=lambda n: gains[n], default=1)

    def _costs(self, load: Load, charged: bool = False) -> dict[int, float]:
        """Seconds of a step by its number of versions: as timed, or foreseen from the next smaller number that was (for
        one version: the last undrafted forward). A single timing may be an accident: what is expected then lies half
        way, what is charged is the timing; but never more than in proportion to the versions, which no machine takes.
        """
        timings = self._timings.get(_size(load), {})
        known, fewer, before = self._undrafted, 1, 0.0
        costs = {}
        for n in sorted({*self._lengths, *timings}):
            curve, own = self._seconds(load, n), timings.get(n)
            cost = curve * known.forward + known.rest * n / fewer
            if own is not None:
                timed = curve * own.forward + own.rest
                if n > 1 and len(own.forwards) == 1:
                    most = min(timed, before * n / fewer)
                    cost = most if charged else (cost + most) / 2
                else:
                    cost = timed
                known, fewer = own, n
            if own is not None or n == 1:
                before = cost
            costs[n] = cost
        return costs

    def _seconds(self, load: Load, versions: int) -> float:
        rows = load.rows * versions
        return max(self.speed.seconds_of(rows * load.positions, rows * load.proposals), 1e-9)

    def _expect(self) -> None:
        """Expected steps of a forward by its number of versions: one, and one for each draft that comes true.

        Drafts are accepted one after the other up to the first miss, so each is judged where the one before it came
        true; what is not known of it is supposed to be as with the one before (the product-limit estimate of Kaplan
        and Meier, with a Beta prior).
        """
        hope, survival, steps = _HOPE / _WEIGHT, 1.0, 1.0
        for nth, link in enumerate(self._chain):
            hope = (link.accepted + hope * _WEIGHT) / (link.seen + _WEIGHT)
            survival *= hope
            steps += survival
            self._steps[nth + 2] = steps


def _lengths() -> list[int]:
    """Numbers of versions worth telling apart."""
    return [1, 2, 3, 4, 5, 6, 7] + [
        n for power in range(1, 10) for n in (4 << power, 5 << power, 6 << power, 7 << power)
    ]


def _size(load: Load) -> int:
    """Loads that are timed together: those less than about a factor of two apart."""
    return round(log2(max(1.0, load.rows * load.positions)))
