"""What one decode holds in memory."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlm.bench.engine import Cell, Contender, Decode
from dlm.engine.canvas import Job
from dlm.engine.interfaces import CacheRun
from dlm.engine.no_cache import CacheAround
from dlm.engine.plan import Layout
from dlm.models import LanguageModel

# Forwards that load what stays, and then enough of them to see whole rows fed and others, drafts verified, and
# everything that is allocated.
WARM_UP, WATCHED = 2, 6


@dataclass(frozen=True)
class Watching(CacheAround):
    """A cache that keeps hold of the runs it opens, and for what, so that their buffers can be measured."""

    opened: list[tuple[CacheRun, Layout]] = field(default_factory=list)

    def open(self, layout: Layout) -> CacheRun:
        """The cache at work, and what is kept of it."""
        self.opened.append((super().open(layout), layout))
        return self.opened[-1][0]


@dataclass(frozen=True)
class Held:
    """Memory during the first forwards of one decode, in bytes."""

    keys_values: int  # the buffers of keys and values
    other: int  # everything else the cache's run holds (stamps, features, masks)
    # 2 x layers x key/value heads x head width x capacity x rows x bytes per number, where capacity is the canvas with
    # its scratch column
    formula: int
    # the most beyond what was held before. On a GPU it is what torch allocates, on a CPU the growth of resident memory
    # (Linux), which is exact to some megabytes.
    peak: int


def held(cell: Cell, contender: Contender, jobs: Sequence[Job]) -> Held:
    """Decode the first forwards and look at what is held after each. Raises SettingsError: model, sampler, cache and
    drafter do not go together."""
    Decode.of(cell, contender, jobs, WARM_UP).advance()
    device = cell.model.device
    _trim(device)
    reset_peak(device)
    before = peak_bytes(device)
    watching = Watching(contender.cache)
    decode = Decode.of(cell, replace(contender, cache=watching), jobs, WATCHED)
    keys_values = everything = 0
    while not decode.advance(1).done:  # a row that leaves takes its buffers with it
        run, layout = watching.opened[-1]
        keys_values = max(keys_values, getattr(getattr(run, "store", None), "nbytes", 0))
        everything = max(everything, reachable_bytes(run))
    peak = max(0, peak_bytes(device) - before)
    return Held(keys_values, max(0, everything - keys_values), buffer_formula(cell.model, layout), peak)


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


def reset_peak(device: torch.device) -> None:
    """Forget the highest memory use so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """The highest memory use since the last reset (on Linux; elsewhere since the process began)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _trim(device: torch.device) -> None:
    """Give back what the allocator keeps for later; without it a second run seems to need nothing."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
