"""Steps of fixed shape: one step of a block over tensors that stay where they are, which a CUDA graph can replay.

A step is static when nothing about it is decided on the host: every row stands in an open block, no row is recomputed
whole for a cache, and how many positions are fed was told with the step before. Then it is a function from tensors to
tensors. Positions are padded to the longest block, fed positions to few sizes, and rows that finish while others go on
leave a copy of a row behind (:meth:`dlm.engine.batch.Batch.release`), so that few shapes occur in a run. Everything in
between (a new block, rows that come and go) is an ordinary step.

On a GPU the second step of a shape is captured, and from then on replayed; elsewhere the same function is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlm.engine.batch import Batch
from dlm.engine.events import Settled, StepEvent
from dlm.engine.interfaces import Cache
from dlm.engine.plan import FixedFeeds
from dlm.engine.sampler import Sampler
from dlm.engine.sampler_run import SamplerRun, SamplerState
from dlm.engine.step import BlockState
from dlm.engine.stopwatch import Stopwatch
from dlm.errors import SettingsError

_CANVAS = ("tokens", "writable", "commit_step", "commit_confidence", "start", "end", "asked", "cut_away", "key")
Signature = tuple[Any, ...]


def check_static(sampler: Sampler, cache: Cache | None, drafter: Any) -> None:
    """Raise SettingsError where steps of these parts cannot have fixed shapes."""
    rules = SamplerRun(sampler, cache is not None and cache.stores, 1)
    reasons = {
        "drafts are as many as pay": drafter is not None,
        "it asks about states that the rows are not in": sampler.probe is not None,
        "the host ends rows early": sampler.exit is not None or rules.shortens,
        "its rows grow": rules.grows,
        "its blocks move": sampler.moves_blocks,
        "it decides how much of a row is fed": rules.hides,
        "it looks at positions outside the block": rules.looks,
        "it reads the attention": "attention" in sampler.needs,
        "its cache feeds other positions at every step": cache is not None and not cache.feeds_alike,
    }
    why = next((reason for reason, holds in reasons.items() if holds), None)
    if why is not None:
        raise SettingsError(
            f"graphs replay steps of one shape, and those of sampler {sampler.name!r} with this cache have none: {why};"
            " leave graphs off, or use a sampler such as threshold with cache=dual"
        )


@dataclass
class Kept:
    """What is kept of the steps of one shape.

    Attributes:
        tensors: those that the step reads and leaves its results in.
        settled: what the step has done, as tensors that a replay writes anew.
        event: what a listener is told.
        graph: the captured step, once there is one.
    """

    tensors: list[Tensor]
    settled: Settled | None = None
    event: StepEvent | None = None
    graph: Any = None


class RunTools(NamedTuple):
    """What static steps work with.

    Attributes:
        batch, rules, watch: the rows, the parts of the sampler, and the clock.
        step: all of a step that the device does.
        hear: lets the host read its report.
    """

    batch: Batch
    rules: SamplerRun
    watch: Stopwatch
    step: Callable[[], tuple[Settled, StepEvent]]
    hear: Callable[[Settled], None]


class StaticSteps:
    """The static steps of one run."""

    def __init__(self, run: RunTools) -> None:
        assert isinstance(run.batch.cache, FixedFeeds)
        self.run, self.feeds = run, run.batch.cache
        self.kept: dict[Signature, Kept] = {}

    def width(self) -> int | None:
        """How many entries the next step feeds of each row; None: it is not a static one."""
        batch = self.run.batch
        return self.feeds.told(batch.blocks, batch.rows) if self.run.rules.ready(batch.rows) else None

    def take(self, width: int) -> StepEvent:
        """One step. The host waits for its report and nothing else."""
        run, batch = self.run, self.run.batch
        counts = self.feeds.counts(batch.rows)
        tensors, rebuild = self._state()
        shapes = tuple((tuple(x.shape), x.dtype) for x in tensors)
        signature = (len(batch.rows), width, shapes)
        if signature not in self.kept:
            self.kept[signature] = Kept([x.clone() for x in tensors])
        kept = self.kept[signature]
        for own, now in zip(kept.tensors, tensors, strict=True):
            if own is not now:
                own.copy_(now)
        rebuild(kept.tensors)
        run.watch.mark("forward")
        with run.watch.silent():
            if kept.graph is not None:
                kept.graph.replay()
            elif kept.settled is None or not _captures(kept.tensors[0].device):
                self._step(kept)
            else:
                kept.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(kept.graph):
                    self._step(kept)
                kept.graph.replay()
        rebuild(kept.tensors)
        run.watch.mark("end")
        assert kept.settled is not None
        assert kept.event is not None
        run.hear(replace(kept.settled, counts=counts))
        return replace(kept.event, rows=tuple(row for row in batch.rows if not row.ghost))

    def _step(self, kept: Kept) -> None:
        """The step as a function of ``kept.tensors``: what it makes of them is put back into them."""
        run, batch = self.run, self.run.batch
        # Listeners are told the counters from before the step, when those in place have gone on.
        batch.blocks = batch.blocks.later(0)
        kept.settled, kept.event = run.step()
        after, _ = self._state()
        for own, now in zip(kept.tensors, after, strict=True):
            if own is not now:
                own.copy_(now)

    def _state(self) -> tuple[list[Tensor], Callable[[list[Tensor]], None]]:
        """Every tensor that outlives a step, each once, and what puts others in their places."""
        batch = self.run.batch
        tree = (
            tuple(getattr(batch.canvas, name) for name in _CANVAS),
            tuple(getattr(batch.blocks, field.name) for field in fields(BlockState)),
            tuple(getattr(batch.state, field.name) for field in fields(SamplerState)),
            self.feeds.tensors(),
        )
        tensors: list[Tensor] = []
        places: dict[int, int] = {}
        for tensor in _leaves(tree):
            if id(tensor) not in places:
                places[id(tensor)] = len(tensors)
                tensors.append(tensor)

        def rebuild(others: list[Tensor]) -> None:
            canvas, blocks, state, kept = _replaced(tree, lambda x: others[places[id(x)]])
            for name, value in zip(_CANVAS, canvas, strict=True):
                setattr(batch.canvas, name, value)
            batch.canvas.touched()
            batch.blocks = BlockState(*blocks)
            batch.state = SamplerState(*state)
            self.feeds.put(kept)

        return tensors, rebuild


def _captures(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_available()


def _leaves(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, tuple):
        for part in tree:
            yield from _leaves(part)


def _replaced(tree: Any, of: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(tree, Tensor):
        return of(tree)
    if not isinstance(tree, tuple):
        return tree
    parts = [_replaced(part, of) for part in tree]
    return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
