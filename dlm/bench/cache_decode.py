"""One decode with a cache, a few steps at a time, and what the cache holds in memory meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from dlm.bench.decode import peak_bytes, reset_peak
from dlm.engine.canvas import Job
from dlm.engine.interfaces import Cache, CacheRun
from dlm.engine.loop import Decoder, StepEvent
from dlm.engine.plan import Layout
from dlm.engine.sampler import Sampler
from dlm.models import LanguageModel


@dataclass
class Watching:
    """A cache that keeps hold of the run it opens, so that its buffers can be measured. All else is the cache's own.

    Attributes:
        inner: the cache.
        run, layout: the last run it opened and for what; None before the first.
    """

    inner: Cache
    run: CacheRun | None = None
    layout: Layout | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def open(self, layout: Layout) -> CacheRun:
        """The cache at work, and what is kept of it."""
        self.run, self.layout = self.inner.open(layout), layout
        return self.run


@dataclass(frozen=True)
class Step:
    """One step of the whole batch.

    Attributes:
        fed: positions pushed through the body, all rows together.
        scored: positions that the head was evaluated at, fillers included.
        refresh, forward, sampler: seconds in recomputing whole rows, in other forwards, and outside the model.
    """

    fed: int
    scored: int
    refresh: float
    forward: float
    sampler: float

    @property
    def inside(self) -> float:
        """Seconds inside the model."""
        return self.refresh + self.forward


@dataclass
class Decode:
    """A decode that goes on when it is told to.

    Attributes:
        events: what the decoder yields.
        steps: the steps so far.
        turns: seconds of each call of :meth:`advance`.
        done: whether every row is finished.
    """

    events: Iterator[Any]
    steps: list[Step] = field(default_factory=list)
    turns: list[float] = field(default_factory=list)
    done: bool = False
    _booked: dict[int, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, model: LanguageModel, sampler: Sampler, cache: Cache, jobs: Sequence[Job]) -> Decode:
        """All jobs in one batch.

        Raises:
            SettingsError: model, sampler and cache do not go together.
        """
        decoder = Decoder(model.backbone, model.description, sampler, cache)
        return cls(decoder.run(jobs, len(jobs), model.device))

    def advance(self, most: int | None) -> None:
        """Take at most so many steps; None: all that are left."""
        begin, first = time.perf_counter(), len(self.steps)
        while most is None or len(self.steps) - first < most:
            event = next(self.events, None)
            if event is None:
                self.done = True
                break
            if isinstance(event, StepEvent):
                self.steps.append(self._step(event))
        self.turns.append(time.perf_counter() - begin)

    def _step(self, event: StepEvent) -> Step:
        """What the step added to the rows' accounts, which run on from step to step."""
        fed = refresh = forward = sampler = 0.0
        for row in event.rows:
            now = row.token_forwards, row.seconds_refresh, row.seconds_step, row.seconds_sampler
            before = self._booked.get(row.job.index, (0, 0.0, 0.0, 0.0))
            fed, refresh, forward, sampler = (
                total + new - old for total, new, old in zip((fed, refresh, forward, sampler), now, before, strict=True)
            )
            self._booked[row.job.index] = now
        return Step(int(fed), len(event.rows) * event.view.positions.shape[1], refresh, forward, sampler)

    @property
    def seconds(self) -> float:
        """Wall time of all turns."""
        return sum(self.turns)


@dataclass(frozen=True)
class Held:
    """Memory during one decode, in bytes.

    Attributes:
        keys_values: the buffers of keys and values.
        other: everything else the cache's run holds (stamps, features, masks).
        formula: 2 x layers x key/value heads x head width x capacity x rows x bytes per number, where capacity is the
            canvas with its trash column.
        peak: the most that torch allocated beyond the loaded model; None on a CPU, whose allocator gives nothing back.
    """

    keys_values: int
    other: int
    formula: int
    peak: int | None


def held(model: LanguageModel, sampler: Sampler, cache: Cache, jobs: Sequence[Job], steps: int) -> Held:
    """Decode the first ``steps`` steps and look at what is held after each.

    Raises:
        SettingsError: model, sampler and cache do not go together.
    """
    cuda = model.device.type == "cuda"
    watching = Watching(cache)
    decode = Decode.of(model, sampler, cast(Cache, watching), jobs)
    if cuda:
        reset_peak(model.device)
    before = peak_bytes(model.device) if cuda else 0
    keys_values = everything = 0
    for _ in range(steps):
        decode.advance(1)
        if decode.done:  # the rows have left, and their buffers with them
            break
        keys_values = max(keys_values, getattr(getattr(watching.run, "store", None), "nbytes", 0))
        everything = max(everything, reachable_bytes(watching.run))
    assert watching.layout is not None
    return Held(
        keys_values,
        max(0, everything - keys_values),
        buffer_formula(model, watching.layout),
        peak_bytes(model.device) - before if cuda else None,
    )


def buffer_formula(model: LanguageModel, layout: Layout) -> int:
    """Bytes of one buffer of keys and values for every layer, row and column."""
    arch = model.backbone.arch  # type: ignore[attr-defined]
    numbers = 2 * arch.layers * arch.kv_heads * arch.head_width * layout.columns * layout.rows * layout.streams
    return int(numbers * torch.finfo(model.dtype).bits // 8)


def reachable_bytes(root: Any) -> int:
    """Memory of all tensors that hang on an object: in its attributes, lists, tuples and dictionaries."""
    storages: dict[int, int] = {}
    seen: set[int] = set()
    left = [root]
    while left:
        item = left.pop()
        if id(item) in seen or isinstance(item, type | torch.nn.Module):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif isinstance(item, dict):
            left += item.values()
        elif isinstance(item, list | tuple):
            left += item
        else:
            left += vars(item).values() if hasattr(item, "__dict__") else ()
    return sum(storages.values())
