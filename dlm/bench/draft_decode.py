"""One decode with or without drafts, a few forwards at a time: its answers, its drafts, and its memory."""

from __future__ import annotations

import ctypes
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from dlm.api import keyed
from dlm.bench.cache_decode import Decode
from dlm.bench.decode import Workload, peak_bytes, random_jobs, reset_peak
from dlm.bench.limits import Limits, forward_cost
from dlm.engine.canvas import Job
from dlm.engine.interfaces import Cache
from dlm.engine.loop import Decoder, StepEvent
from dlm.engine.result import RowResult
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.evaluation.compare import Questions
from dlm.models import LanguageModel
from dlm.speculation import FreeDave

# Enough forwards to see drafts verified and everything that is allocated.
MEMORY_FORWARDS = 6


@dataclass(frozen=True)
class Contender:
    """One line of a table.

    Attributes:
        label: how it is called.
        drafter: what drafts; None: nothing does.
        layout, draft_length: its settings; None without drafts.
    """

    label: str
    drafter: FreeDave | None = None
    layout: str | None = None
    draft_length: int | str | None = None


@dataclass(frozen=True)
class Cell:
    """What all lines of a table share.

    Attributes:
        model, name: the model, and what it is called.
        sampler, sampler_name, cache, cache_name: likewise.
        batch: most rows decoded together.
        limits: what the machine can do.
    """

    model: LanguageModel
    name: str
    sampler: Sampler
    sampler_name: str
    cache: Cache
    cache_name: str
    batch: int
    limits: Limits


@dataclass
class DraftRun:
    """A decode that goes on when it is told to, and keeps what came of it.

    Attributes:
        decode: the decode, its forwards and its seconds.
        results: the finished rows, by their job's number.
        verified: drafts that were evaluated beside their rows.
        versions: per forward the least number of versions, over the rows that took part in it.
        scored: per forward the positions that the head was evaluated at, fillers included.
    """

    decode: Decode
    results: dict[int, RowResult] = field(default_factory=dict)
    verified: int = 0
    versions: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    _open: dict[int, int] = field(default_factory=dict)
    _events: Generator[StepEvent, None, None] | None = None

    @classmethod
    def of(cls, cell: Cell, contender: Contender, jobs: Sequence[Job]) -> DraftRun:
        """All jobs, ``cell.batch`` at a time.

        Raises:
            SettingsError: model, sampler, cache and drafter do not go together.
        """
        model = cell.model
        decoder = Decoder(model.backbone, model.description, cell.sampler, cell.cache, contender.drafter)
        run = cls(Decode(iter(())))
        run._events = run._watched(decoder.run(jobs, cell.batch, model.device))
        run.decode.events = run._events
        return run

    @classmethod
    def begun(cls, cell: Cell, contender: Contender, jobs: Sequence[Job], forwards: int) -> DraftRun:
        """The first so many forwards, and no more of it: nothing of the decode stays in memory."""
        run = cls.of(cell, contender, jobs)
        run.decode.advance(forwards)
        assert run._events is not None
        run._events.close()
        return run

    def _watched(self, events: Iterator[StepEvent | RowResult]) -> Generator[StepEvent, None, None]:
        """The steps, and what each forward evaluated."""
        for event in events:
            if isinstance(event, RowResult):
                self.results[event.index] = event
                self._open.pop(event.index, None)
                continue
            drafts = [row.drafts for row in event.rows]
            self.verified += sum(drafts)
            self.versions.append(1 + min(drafts))
            # With drafts the view shows several steps side by side; each of them scores what was open before them.
            opened = max(self._open.get(row.job.index, 0) for row in event.rows)
            shown = opened if max(drafts) and opened else event.view.positions.shape[1]
            self.scored.append(len(event.rows) * (1 + max(drafts)) * shown)
            self._open |= {row.job.index: row.block_open for row in event.rows}
            yield event

    def limit(self, cell: Cell, row: int) -> float:
        """Seconds that arithmetic or weight reading alone would take, the longer of both at every forward.

        Args:
            cell: the model and the machine.
            row: positions of a row.
        """
        costs = [
            forward_cost(cell.model, step.fed, row, scored)
            for step, scored in zip(self.decode.steps, self.scored, strict=True)
        ]
        return sum(cell.limits.seconds(*cost) for cost in costs)


def question_jobs(model: LanguageModel, questions: Questions, rounds: int) -> list[list[Job]]:
    """The questions as jobs, dealt out to so many rounds."""
    new, mask = questions.max_new_tokens, model.description.mask_id
    prompts = [model.encode_chat(chat) for chat in questions.chats]
    each = len(prompts) // rounds
    dealt = [prompts[number * each : (number + 1) * each] for number in range(rounds)]
    return [
        keyed(
            [
                Job(i, (*ids, *[mask] * new), len(ids), tuple(range(len(ids), len(ids) + new)), 0)
                for i, ids in enumerate(prompts)
            ],
            seed=0,
        )
        for prompts in dealt
    ]


def random_rounds(model: LanguageModel, work: Workload, rounds: int) -> list[list[Job]]:
    """Prompts of random tokens, others in every round."""
    return [random_jobs(model, work, seed=number + 1) for number in range(rounds)]


def bound(model: LanguageModel, sampler: Sampler) -> Sampler:
    """The sampler with its texts turned into ids."""
    return sampler.bind(model.tokenizer, model.description.valid_vocab)


def fitting(cell: Cell, contenders: Sequence[Contender], jobs: Sequence[Job]) -> tuple[dict[str, int], dict[str, str]]:
    """Peak memory of every contender over its first forwards, in bytes beyond what is held before; and why others would
    not decode this.

    On a GPU it is what torch allocates, on a CPU the growth of resident memory (Linux), which is exact to some
    megabytes. Each contender takes a few forwards before, since the first ones load what stays.
    """
    peaks: dict[str, int] = {}
    refused: dict[str, str] = {}
    for contender in contenders:
        try:
            DraftRun.begun(cell, contender, jobs, forwards=2)
            peaks[contender.label] = _peak(cell, contender, jobs)
        except SettingsError as error:
            refused[f"{cell.sampler_name} + {cell.cache_name} + {contender.label}"] = str(error)
    return peaks, refused


def _peak(cell: Cell, contender: Contender, jobs: Sequence[Job]) -> int:
    device = cell.model.device
    _trim(device)
    reset_peak(device)
    before = peak_bytes(device)
    DraftRun.begun(cell, contender, jobs, MEMORY_FORWARDS)
    return max(0, peak_bytes(device) - before)


def _trim(device: torch.device) -> None:
    """Give back what the allocator keeps for later; without it a second run seems to need nothing."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
