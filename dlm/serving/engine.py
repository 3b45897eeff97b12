"""The one thread that decodes: requests join its batches between two steps, and leave when done or given up."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import count
from typing import NamedTuple

from dlm.engine.admission import admit, dismiss
from dlm.engine.canvas import Job
from dlm.engine.loop import Decoder, DecodeRun, StepEvent
from dlm.engine.result import RowResult
from dlm.errors import DlmError, SettingsError
from dlm.models.language_model import LanguageModel

# Rows of any length up to this join one another's batch; longer ones up to the next power of two.
SHORT = 256


class BusyError(DlmError):
    """As many requests wait as may. It is worth asking again in a while."""


class OverdueError(DlmError):
    """A request took longer than one may."""


class StoppingError(DlmError):
    """The server is being stopped."""


class Snapshot(NamedTuple):
    """A row after a step.

    Attributes:
        step: 0-based forward of the row.
        tokens: its generated region, mask id where open.
        confidence: at which each was committed, NaN where none was.
        guesses: what the model would put at open positions of the block: place, token, probability.
        block: where the block that it worked on begins and ends.
    """

    step: int
    tokens: list[int]
    confidence: list[float]
    guesses: list[tuple[int, int, float]]
    block: tuple[int, int] | None = None


@dataclass(frozen=True)
class Parts:
    """How a request is decoded.

    Attributes:
        decoder: with all its settings.
        key: what requests of one batch have in common.
        shared: for a batch whose rows have temperatures of their own; None: the parts leave no room for that.
    """

    decoder: Decoder
    key: str
    shared: Parts | None = None

    @property
    def temperature(self) -> float:
        """Of the request."""
        return self.decoder.sampler.proposer.temperature


@dataclass(eq=False)
class Ticket:
    """A row that somebody waits for.

    Attributes:
        job, parts: what is decoded, and how.
        tell: is given each :class:`Snapshot` when ``watched``, and in the end a RowResult or what went wrong, all on
            the engine's thread.
        due: on the monotonic clock, when it is given up.
        gone: nobody waits for it any more.
    """

    job: Job
    parts: Parts
    tell: Callable[[Snapshot | RowResult | Exception], None]
    due: float
    watched: bool = False
    gone: bool = False


@dataclass
class Figures:
    """What has been done so far, for the metrics."""

    forwards: int = 0
    tokens: int = 0
    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("done", "failed", "given up"), 0))
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("refresh", "step", "sampler"), 0.0))
    halved: int = 0


@dataclass(eq=False)
class Lane:
    """A run, and who waits for its rows; ``sent_back``: rows that wait again because memory was full. Requests with
    other parts have a lane of their own."""

    key: str
    run: DecodeRun
    tickets: dict[int, Ticket]
    sent_back: int = 0


class Engine:
    """Decodes whatever is submitted, at most ``rows`` together over all lanes, the longest waiting first.

    Every lane takes a step in turn. A row gives what it would give alone. A batch that does not fit into memory is
    halved: its rows begin again, and for a while fewer are let in.

    Args:
        model: on whose device it decodes; or what loads it, on the engine's thread: a thread that computes has helpers
            of its own, and more of them than processors slow all of them down.
        rows: most rows decoded together.
        waiting: most that may wait for a place.
    """

    def __init__(self, model: LanguageModel | Callable[[], LanguageModel], rows: int, waiting: int) -> None:
        self.rows, self.waiting = rows, waiting
        self.figures = Figures()
        self._most, self._serial = rows, count()
        self._line: deque[Ticket] = deque()
        self._lanes: list[Lane] = []
        self._changed = threading.Condition()
        self._stopping = False
        loaded: Future[LanguageModel] = Future()
        self._thread = threading.Thread(target=self._begin, args=(model, loaded), name="dlm-engine", daemon=True)
        self._thread.start()
        self.model = loaded.result()

    @property
    def queued(self) -> int:
        """Rows that wait for a place."""
        return len(self._line)

    @property
    def busy(self) -> int:
        """Rows that are being decoded."""
        return sum(len(lane.tickets) for lane in list(self._lanes))

    @property
    def alive(self) -> bool:
        """Whether it takes requests."""
        return self._thread.is_alive() and not self._stopping

    def submit(self, tickets: list[Ticket]) -> None:
        """Put rows at the end of the line, all or none. Raises BusyError, StoppingError."""
        if len(tickets) > self.waiting + self.rows:
            most = self.waiting + self.rows
            raise SettingsError(f"the request asks for {len(tickets)} answers, and this server takes at most {most}")
        with self._changed:
            if self._stopping:
                raise StoppingError("the server is being stopped: ask another one")
            room = self.waiting + max(0, self.rows - self.busy)
            if len(self._line) + len(tickets) > room:
                raise BusyError(f"{len(self._line)} rows wait already, and at most {self.waiting} may: try again later")
            self._line.extend(tickets)
            self._changed.notify()

    def stop(self, seconds: float) -> None:
        """Take nothing new, and end when all is answered, or after ``seconds`` with what is left unanswered."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(seconds)
        for ticket in self._everybody():
            ticket.due = 0.0
        self._thread.join(5.0)

    def _everybody(self) -> Iterator[Ticket]:
        yield from list(self._line)
        for lane in list(self._lanes):
            yield from list(lane.tickets.values())

    def _begin(self, model: LanguageModel | Callable[[], LanguageModel], loaded: Future[LanguageModel]) -> None:
        try:
            loaded.set_result(model if isinstance(model, LanguageModel) else model())
        except BaseException as error:  # whoever made the engine raises it
            loaded.set_exception(error)
        else:
            self._work()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._line or self._lanes or self._stopping):
                    self._changed.wait()
                if self._stopping and not self._line and not self._lanes:
                    return
            self._give_up()
            self._take_in()
            for lane in list(self._lanes):
                self._turn(lane)

    def _give_up(self) -> None:
        """Let go of rows that nobody waits for, or that take too long."""
        now = time.monotonic()
        for ticket in [ticket for ticket in list(self._line) if ticket.gone or ticket.due < now]:
            with self._changed:
                self._line.remove(ticket)
            self._told_off(ticket)
        for lane in self._lanes:
            for index, ticket in list(lane.tickets.items()):
                if ticket.gone or ticket.due < now:
                    dismiss(lane.run, index)
                    del lane.tickets[index]
                    self._told_off(ticket)

    def _told_off(self, ticket: Ticket) -> None:
        self.figures.rows["given up"] += 1
        if not ticket.gone:
            why = "the server is being stopped" if self._stopping else "the request took longer than one may here"
            ticket.tell((StoppingError if self._stopping else OverdueError)(f"{why}: the answer is not finished"))

    def _take_in(self) -> None:
        """Seat who has waited longest, as far as there are places."""
        while self._line and self.busy < self._most:
            with self._changed:
                ticket = self._line.popleft()
            try:
                self._seat(ticket)
            except Exception as error:  # whatever it is, it is this request's
                self._failed(ticket, error)

    def _seat(self, ticket: Ticket) -> None:
        """In a batch of the same parts that has room, or in a new one."""
        about, index, parts = self.model.description, next(self._serial), ticket.parts
        job = replace(ticket.job, index=index)
        block = about.attention_block or 1
        end = -(-job.end // block) * block
        shared = self._shared(parts)
        if shared is not None:
            job, parts = replace(job, temperature=parts.temperature), shared
        for lane in self._lanes:
            if lane.key == parts.key and lane.run.room >= end and lane.run.batch.rows:
                lane.tickets[index] = ticket
                try:
                    admit(lane.run, job)
                except Exception:
                    del lane.tickets[index]
                    raise
                return
        room = SHORT
        while room < end:
            room *= 2
        tickets = {index: ticket}

        def failed(index: int, error: DlmError) -> None:
            if (lost := tickets.pop(index, None)) is not None:
                self._failed(lost, error)

        run = parts.decoder.run(
            [job], self.rows, self.model.device, failed, room=max(end, min(room, about.context_length))
        )
        self._lanes.append(Lane(parts.key, run, tickets))

    def _shared(self, parts: Parts) -> Parts | None:
        """The parts with which a request may join others of other temperatures. Nothing is drawn for greedy ones, so
        they go there only where somebody draws anyway."""
        shared = parts.shared
        if shared is None or parts.temperature:
            return shared
        lanes = (lane for lane in self._lanes if lane.key == shared.key)
        drawn = any(ticket.parts.temperature for lane in lanes for ticket in lane.tickets.values())
        return shared if drawn else None

    def _turn(self, lane: Lane) -> None:
        """One step of a lane."""
        try:
            for event in lane.run:
                if isinstance(event, StepEvent):
                    self._stepped(lane, event)
                    return
                self._done(lane.tickets.pop(event.index, None), event)
                self._most, lane.run.batch_size = (min(self.rows, n + 1) for n in (self._most, lane.run.batch_size))
        except Exception as error:  # the lane is lost, the others go on
            for ticket in lane.tickets.values():
                self._failed(ticket, error)
        self._lanes.remove(lane)
        lane.run.close()

    def _stepped(self, lane: Lane, event: StepEvent) -> None:
        self.figures.forwards += 1
        batch = lane.run.batch
        if len(batch.waiting) > lane.sent_back:
            self.figures.halved += 1
            lane.run.batch_size = len(batch.rows)
            self._most = max(1, self.busy - len(batch.waiting))
        lane.sent_back = len(batch.waiting)
        watched = [lane.tickets.get(row.job.index) for row in event.rows]
        if not any(ticket is not None and ticket.watched for ticket in watched):
            return
        for ticket, snapshot in zip(watched, snapshots(event), strict=True):
            if ticket is not None and ticket.watched:
                ticket.tell(snapshot)

    def _done(self, ticket: Ticket | None, row: RowResult) -> None:
        self.figures.tokens += row.counts.tokens
        for part in self.figures.seconds:
            self.figures.seconds[part] += getattr(row.counts, f"seconds_{part}")
        if ticket is not None:
            self.figures.rows["done"] += 1
            ticket.tell(row)

    def _failed(self, ticket: Ticket, error: Exception) -> None:
        self.figures.rows["failed"] += 1
        ticket.tell(error)


def snapshots(event: StepEvent) -> Iterator[Snapshot]:
    """What the rows look like after a step; the host waits for the device a few times."""
    view, canvas = event.view, event.view.canvas
    read = (
        canvas.tokens,
        canvas.commit_confidence,
        view.positions,
        view.proposal.token,
        view.proposal.prob,
        view.eligible,
        view.blocks.block_start,
        view.blocks.block_end,
    )
    for row, *values in zip(event.rows, *(x.tolist() for x in read), strict=False):  # ghosts come last
        tokens, sure, places, token, prob, eligible, first, last = values
        start, end = row.job.start, row.job.shown_end
        open_ = {place: at for at, place in enumerate(places) if eligible[at] and place < end}
        guesses = [
            (place - start, token[at], prob[at])
            for place, at in open_.items()
            if tokens[place] == canvas.mask_id and place >= start
        ]
        block = (max(first - start, 0), min(last, end) - start)
        yield Snapshot(row.forwards - 1, tokens[start:end], sure[start:end], guesses, block)
