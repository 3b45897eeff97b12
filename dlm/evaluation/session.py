"""One run of a point, in one process: decode, judge, keep."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

from dlm.engine.loop import Decoder
from dlm.engine.result import RowResult
from dlm.errors import DlmError, SettingsError, StorageError
from dlm.evaluation import store as files
from dlm.evaluation.asking import Asker, Query, decoded, has_template
from dlm.evaluation.identity import fingerprint, machine
from dlm.evaluation.progress import Board
from dlm.evaluation.runner import Models, Outcome, Pending, Ready
from dlm.evaluation.sample import Sample
from dlm.evaluation.shards import Group, group
from dlm.evaluation.store import Failure, Store
from dlm.evaluation.tally import brief, figures
from dlm.evaluation.tracking import track
from dlm.models.language_model import LanguageModel
from dlm.tasks.base import Verdict
from dlm.tasks.registry import metric
from dlm.trace import Recorder, TraceWriter, pieces_of

T = TypeVar("T")
LOOKED_AT = 8  # right answers, the longest, that are compared with the canvas
AHEAD = 64  # answers a slow judge may be behind, per thread


@dataclass
class Session:
    """Asks what is left of a point and keeps the answers."""

    ready: Ready  # the point
    store: Store  # its folder, held by this process
    processes: Group  # this process and its like
    plan: Pending  # what is left for all of them
    decoded: int = 0
    entry: dict[str, Any] = field(default_factory=dict)
    model_files: str | None = None

    def __post_init__(self) -> None:
        self.seconds, self.notes = {"all": 0.0, "decoding": 0.0}, list(self.plan.notes)
        # Every answer of a folder that this process alone fills passes through here: no need to read them again.
        self.answers: list[Sample] | None = [] if self.plan.first and self.processes.world == 1 else None

    def run(self, models: Models, quiet: bool) -> Outcome:
        """Ask everything; returns what became of the point."""
        mine = self._mine()
        if self.plan.left:
            looked_at = self._check_model()
            self.entry = self._entry()
            try:
                self._ask(mine, models, quiet, looked_at)
            except BaseException as error:
                with suppress(StorageError):
                    self.entry["ended"] = type(error).__name__
                    self._manifest("incomplete")
                raise
        return self._finish()

    def _mine(self) -> list[Query]:
        """This process's share of the questions."""
        instances = self.ready.instances()
        share = self.plan.left[self.processes.rank :: self.processes.world]
        return [Query(instances[index], index, seed, attempt) for seed, index, attempt in share]

    def _check_model(self, fetched: bool = False) -> bool:
        """Refuse a model whose files have changed since the first answer; says whether there were any to look at."""
        now, before = fingerprint(self.ready.parts.model_config, fetched), self.store.manifest().get("model_files")
        if now is not None and before is not None and now != before:
            raise SettingsError(
                f"the files of model {self.ready.parts.model_config.get('name_or_path')} have changed since"
                f" {self.store.folder} was begun: give another out=, or overwrite=true to begin again"
            )
        self.model_files = now or before
        return now is not None

    def _ask(self, mine: list[Query], models: Models, quiet: bool, looked_at: bool) -> None:
        model = models.get(self.ready.parts, self.processes.device)
        if not looked_at:
            self._check_model(fetched=True)
        form = self.ready.form
        if form == "auto":
            form = "chat" if has_template(model) else "text"
        self.entry |= {"form": form, "device": str(model.device), "dtype": str(model.dtype).removeprefix("torch.")}
        self._manifest("running")
        started = time.perf_counter()
        if form != "infill":
            self._check_canvas(model)
        wanted, parts, rank = self.ready.wanted, self.ready.parts, self.processes.rank
        asker = Asker(model, self.ready.questions.task, form, self.ready.canvas, rank)
        decoder = asker.decoder(parts.sampler, parts.cache, parts.drafter)
        title = f"{self.ready.point.task} {self.ready.point.method}"
        if self.processes.world > 1:
            title += f" (process {rank} of {self.processes.world})"
        traces = TraceWriter(self.store.folder / files.shard("traces", rank)) if wanted.record else nullcontext()
        with Board(title, len(mine), quiet or rank > 0) as board, traces as writer:
            work = _Work(self.store, asker, board, self.answers, Recorder(wanted.record), writer)
            work.go(decoder, mine, wanted.batch_size, self.seconds)
        self.decoded = work.kept
        self.seconds["all"] += time.perf_counter() - started

    def _figures(self, asked: Set[files.Key]) -> tuple[dict[str, Any], int]:
        """The figures of all answers there are, and how many of those asked for there are."""
        if self.plan.left and self.answers is not None:
            return figures(self.answers), self.decoded
        samples = list(files.read_samples(self.store.folder))
        return figures(samples), len({sample.key for sample in samples} & asked)

    def _close(self, status: str) -> None:
        """Write down how the point stands in the end."""
        if self.entry:
            self._manifest(status)
        elif (before := self.store.manifest()) and before.get("status") != status:
            # Killed between its last answer and this line, or asked for less now.
            self.store.write(files.MANIFEST, {**before, "status": status})

    def _check_canvas(self, model: LanguageModel) -> None:
        """Say so when right answers do not fit into the positions that are filled."""
        if model.tokenizer is None:
            return
        targets = sorted((instance.target for instance in self.ready.instances()), key=len)[-LOOKED_AT:]
        longest = max(len(model.encode(target)) for target in targets)
        if longest > self.ready.canvas:
            self.notes.append(
                f"right answers have up to {longest} tokens, and only {self.ready.canvas} positions are filled: raise"
                " max_new_tokens"
            )

    def _entry(self) -> dict[str, Any]:
        wanted = self.ready.wanted
        return {
            "started": _now(),
            "finished": None,
            "processes": self.processes.world,
            "limit": wanted.limit,
            "seeds": list(wanted.seeds),
            "batch_size": wanted.batch_size,
            "compile": bool(self.ready.parts.config.get("runtime", {}).get("compile")),
            "graphs": bool(self.ready.parts.config.get("runtime", {}).get("graphs")),
            "left": len(self.plan.left),
            **machine(),
        }

    def _manifest(self, status: str) -> None:
        """Write down how the point stands, by the first process alone."""
        if self.processes.rank:
            return
        before = self.store.manifest()
        told = before.get("sessions", [])
        sessions = [s for s in told if isinstance(s, dict)] if isinstance(told, list) else []
        sessions = [s for s in sessions if s.get("started") != self.entry.get("started")]
        wanted = self.ready.wanted
        self.store.write(
            files.MANIFEST,
            {
                "hash": self.ready.point.hash,
                "status": status,
                **machine(),
                "device": self.entry.get("device"),
                "dtype": self.entry.get("dtype"),
                "form": self.entry.get("form"),
                "model_files": self.model_files,
                "started": before.get("started") or self.entry["started"],
                "finished": self.entry["finished"],
                "limit": wanted.limit,
                "seeds": list(wanted.seeds),
                "sessions": [*sessions, self.entry],
            },
        )

    def _finish(self) -> Outcome:
        """Wait for the others, then add everything up, by the first process alone."""
        if self.processes.rank:
            self.store.close()  # so that the first process sees its last line, on any file system
        else:
            self.store.samples.sync()
        told = self.processes.gather((self.decoded, self.seconds))
        started = time.perf_counter()
        asked = self.ready.asked().keys()
        found: dict[str, Any] = {}
        if self.processes.rank == 0:
            found, answers = self._figures(asked)
            found |= {"asked": len(asked), "failures": len(asked) - answers, "given_up": self.plan.given_up}
            self.store.write(files.METRICS, {"hash": self.ready.point.hash, **found})
            if self.entry:
                self.entry |= {"finished": _now(), "decoded": sum(n for n, _ in told), "seconds": self.seconds["all"]}
                self.entry |= {"seconds_decoding": self.seconds["decoding"], "notes": self.notes}
            self._close("done" if answers == len(asked) else "incomplete")
        else:
            answers = len(files.answered(self.store.folder) & asked)
        self.seconds["all"] += time.perf_counter() - started
        decoding = self.seconds["decoding"]
        return Outcome(
            point=self.ready.point,
            folder=self.store.folder,
            asked=len(asked),
            answers=answers,
            decoded=sum(n for n, _ in told),
            failures=len(asked) - answers,
            given_up=self.plan.given_up,
            figures=found,
            outside=(self.seconds["all"] - decoding) / decoding if decoding else None,
            notes=tuple(self.notes),
            metric=metric(self.ready.questions.task),
        )


@dataclass
class _Work:
    """From questions to lines of the store."""

    store: Store
    asker: Asker
    board: Board
    answers: list[Sample] | None
    recorder: Recorder
    writer: TraceWriter | None
    kept: int = 0
    queries: list[Query] = field(default_factory=list)
    judging: deque[tuple[RowResult, str, Future[Verdict]]] = field(default_factory=deque)

    def go(self, decoder: Decoder, mine: list[Query], batch_size: int, seconds: dict[str, float]) -> None:
        """Decode all questions, and judge and keep each answer as it comes."""
        self.queries = mine
        rows = decoded(self.asker, mine, decoder, batch_size, self.recorder, self.fail)
        judge, judges = self.asker.task.judge, int(getattr(self.asker.task, "parallel", 1))
        with ThreadPoolExecutor(judges) if judges > 1 else nullcontext() as pool:
            try:
                for answers in _timed(rows, self.asker.text, seconds):
                    asked = [(row, text, self.queries[row.index].instance) for row, text in answers]
                    if pool is None:
                        self.keep([(row, text, partial(judge, of, text)) for row, text, of in asked])
                        continue
                    for row, text, of in asked:
                        self.judging.append((row, text, pool.submit(judge, of, text)))
                        self.collect(AHEAD * judges)
            except StorageError:
                raise
            except Exception:
                self.collect(0)  # answers that the judges still have
                raise
            self.collect(0)

    def collect(self, behind: int) -> None:
        """Keep what the judges are done with; wait for them while more than ``behind`` answers are with them."""
        while self.judging and (len(self.judging) > behind or self.judging[0][2].done()):
            row, text, verdict = self.judging.popleft()
            self.keep([(row, text, verdict.result)])

    def keep(self, answers: list[tuple[RowResult, str, Callable[[], Verdict]]]) -> None:
        """Judge answers and write them down: one kind of work for all of them, then the next, which is faster."""
        judged = [(row, text, verdict) for row, text, judge in answers for verdict in self.tried(row, text, judge)]
        samples = [
            (row, sample)
            for row, text, verdict in judged
            for sample in self.tried(row, text, partial(self.asker.sample, self.queries[row.index], row, text, verdict))
        ]
        lines = [
            (row, sample, line)
            for row, sample in samples
            for line in self.tried(row, sample.output_text, partial(_line, sample))
        ]
        for row, sample, line in lines:
            self.trace(row, sample)
            self.store.samples.append(line)
            self.kept += 1
            self.board.take(sample)
            if self.answers is not None:
                self.answers.append(brief(sample))

    def tried(self, row: RowResult, text: str, act: Callable[[], T]) -> list[T]:
        """What ``act`` gives, alone in a list; none, and a failure, if it raises: a scorer may raise anything, and give
        what JSON has no words for."""
        try:
            return [act()]
        except Exception as error:
            self.recorder.traces.pop(row.index, None)
            self.fail(row.index, error, text)
            return []

    def trace(self, row: RowResult, sample: Sample) -> None:
        """Write the trace of an answer, before the answer: a trace too many does no harm."""
        trace = self.recorder.traces.pop(row.index, None)
        if self.writer is None or trace is None:
            return
        pieces, prompt = pieces_of(self.asker.model, trace.tokens), self.queries[row.index].instance.prompt
        about = {key: getattr(sample, key) for key in ("instance_id", "index", "seed", "task", "score", "output_text")}
        try:
            self.writer.append(trace, pieces, **about, prompt=prompt)
        except OSError as error:
            raise StorageError(f"{self.writer.path} cannot be written ({error.strerror}): make room") from error

    def fail(self, number: int, error: BaseException, text: str | None = None) -> None:
        """Write down that a question got no answer, or one (``text``) whose scorer raised."""
        query = self.queries[number]
        message = re.sub(r"^prompt \d+", f"question {query.index}", str(error))
        if not isinstance(error, DlmError):
            message = f"{type(error).__name__}: {message}"
        self.store.fail(
            Failure(
                query.instance.instance_id, query.index, query.seed, query.attempt,
                type(error).__name__ if text is None else "scorer", message, self.store.rank, text,
            )
        )  # fmt: skip
        self.board.fail()


def _line(sample: Sample) -> str:
    """The line of an answer; raises what keeps it from being written."""
    line = sample.line()
    line.encode()
    return line


def _timed(
    rows: Iterator[list[RowResult]], text: Callable[[RowResult], str], seconds: dict[str, float]
) -> Iterator[list[tuple[RowResult, str]]]:
    """The rows and their texts, step by step; the time until they are there is added up as that of decoding."""
    while True:
        started = time.perf_counter()
        answers = [(row, text(row)) for row in next(rows, [])]
        seconds["decoding"] += time.perf_counter() - started
        if not answers:
            return
        yield answers


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def run_point(ready: Ready, models: Models, quiet: bool = False) -> Outcome:
    """Ask what is still to be asked.

    Args:
        ready: of :func:`prepare`.
        models: loads the model, or has it already.
        quiet: show no progress.

    Raises:
        Busy: another run is writing to the folder.
        SettingsError: the folder is of another configuration, a broken line, settings that do not fit the model.
        StorageError: the disk is full.
        DlmError: an error that no question survives.
    """
    processes = group()
    opened = partial(Store, ready.point, ready.folder, processes.rank, processes.world)
    store = processes.together(lambda: opened() if processes.rank == 0 else None)
    try:
        pending = processes.together(lambda: _pending(ready, store) if store is not None else None)
        plan = processes.gather(pending)[0]
        assert plan is not None
        store = processes.together(lambda: opened() if store is None else store)
        outcome = Session(ready, store, processes, plan).run(models, quiet)
        if ready.wanted.tracker and outcome.decoded and processes.rank == 0:
            fault = track(ready.wanted.tracker, outcome.point, outcome.folder, outcome.figures)
            outcome = replace(outcome, notes=(*outcome.notes, fault)) if fault else outcome
        return outcome
    finally:
        if store is not None:
            store.close()


def _pending(ready: Ready, store: Store) -> Pending:
    found = store.begin(ready.wanted.overwrite)
    left, given_up = [], 0
    for (name, seed), (index, _) in ready.asked().items():
        attempts = found.failed[name, seed]
        if (name, seed) in found.answered:
            continue
        if attempts > ready.wanted.retries:
            given_up += 1
        else:
            left.append((seed, index, attempts + 1))
    return Pending(not found.answered, tuple(left), given_up, found.notes)
