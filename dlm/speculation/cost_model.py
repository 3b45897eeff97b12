"""How long a forward takes on this machine, by how many positions it is fed. Measured once, kept in a file."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from dlm.engine.batch import is_out_of_memory
from dlm.engine.forward import CHUNK_ELEMENTS
from dlm.errors import SettingsError
from dlm.models.backbone import Backbone, ModelDescription

_LADDER = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
# Positions of a row, where the context allows it: those of one or two blocks.
_WIDTH = 64
# Seconds: a point that takes longer is the last one; and what the repetitions of one curve may take together.
_SLOW = 0.3
_BUDGET = 0.5
_REPEATS = 7
# Medians of undisturbed timings lie no further above the fastest.
_STEADY = 1.5
# A forward that takes this much longer than the smallest one still counts as equally fast.
_FLAT = 1.1

_known: dict[str, CostModel] = {}


@dataclass(frozen=True)
class TimingCurve:
    """Seconds by number of positions, never falling.

    Attributes:
        positions: the measured points, rising.
        seconds: what each takes.

    Raises:
        SettingsError: the points are not such a curve.
    """

    positions: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in itertools.pairwise((0, *self.positions)))
        never_falling = all(
            0 < a <= b < float("inf") for a, b in itertools.pairwise((*self.seconds[:1], *self.seconds))
        )
        if not (self.positions and len(self.positions) == len(self.seconds) and rising and never_falling):
            raise SettingsError("a curve needs rising positions, and as many seconds above 0 that never fall")

    @staticmethod
    def fitted(positions: tuple[int, ...], seconds: list[float]) -> TimingCurve:
        """The never-falling curve with the least squared distance to the measurements (pool adjacent violators)."""
        pools: list[tuple[float, int]] = []
        for value in seconds:
            total, size = value, 1
            while pools and pools[-1][0] / pools[-1][1] > total / size:
                before, more = pools.pop()
                total, size = total + before, size + more
            pools.append((total, size))
        means = [total / size for total, size in pools for _ in range(size)]
        # Equal in exact arithmetic is not always equal here.
        return TimingCurve(positions, tuple(itertools.accumulate(means, max)))

    def seconds_of(self, positions: float) -> float:
        """Seconds of so many positions: on the line between the measured points; as many as the first point takes for
        fewer; beyond the last in proportion to it; 0 for none."""
        at, took = self.positions, self.seconds
        if positions <= at[0]:
            return took[0] if positions > 0 else 0.0
        if positions >= at[-1]:
            return took[-1] * positions / at[-1]
        right = bisect_right(at, positions)
        share = (positions - at[right - 1]) / (at[right] - at[right - 1])
        return took[right - 1] + share * (took[right] - took[right - 1])

    def saturation_point(self) -> int:
        """The most positions that take at most 10 % longer than the smallest point."""
        limit = _FLAT * self.seconds[0]
        inside = sum(took <= limit for took in self.seconds)
        at, took = self.positions[inside - 1], self.seconds[inside - 1]
        if inside == len(self.positions):
            return int(at * limit / took)
        share = (limit - took) / (self.seconds[inside] - took)
        return int(at + share * (self.positions[inside] - at))


@dataclass(frozen=True)
class CostModel:
    """How fast a model is where it runs.

    Attributes:
        body: a forward up to the hidden states, by the positions fed.
        head: the logits of hidden rows, by their number.
    """

    body: TimingCurve
    head: TimingCurve

    def seconds_of(self, positions: float, proposals: float) -> float:
        """Seconds of a forward that is fed ``positions`` and asked for the logits of ``proposals`` of them."""
        return self.body.seconds_of(positions) + self.head.seconds_of(proposals)

    def saturation_point(self) -> int:
        """The most fed positions for which the body takes at most 10 % longer than for a few."""
        return self.body.saturation_point()


def measured(model: Backbone, description: ModelDescription, device: torch.device) -> CostModel:
    """How fast the model is on ``device``: looked up, or measured in about a second and written down.

    Looked up by the shapes and number format of the weights, the device, the version of torch and its threads, in
    memory, then in ``$XDG_CACHE_HOME/dlm`` or ``~/.cache/dlm``. A folder that cannot be read or written is no error. A
    measurement that something else on the machine disturbed is used, but not written down.

    Raises:
        Exception: whatever a forward of a few positions raises.
    """
    about = _about(model, description, device)
    key = json.dumps(about, sort_keys=True)
    if key not in _known:
        path = _path(key)
        found = _read(path, about)
        if found is None:
            found, block_always_fresh = _measure(model, description, device)
            if block_always_fresh:
                _write(path, about, found)
        _known[key] = found
    return _known[key]


def _about(model: Backbone, description: ModelDescription, device: torch.device) -> dict[str, Any]:
    """What the speed depends on."""
    lines = [f"{description.vocab_size} {getattr(model, 'arch', None)}"]
    for name, weight in model.named_parameters() if isinstance(model, torch.nn.Module) else ():
        place = "" if weight.device == device else str(weight.device)
        lines.append(f"{name} {tuple(weight.shape)} {weight.dtype} {type(weight).__name__} {place}")
    return {
        "model": type(model).__name__,
        "shape": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {_processor()}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """The name and number of the processors."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not a Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else name} x{os.cpu_count()}"


@torch.inference_mode()
def _measure(model: Backbone, description: ModelDescription, device: torch.device) -> tuple[CostModel, bool]:
    """The machine, and whether nothing seems to have disturbed the measurement."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(description.valid_vocab, (_LADDER[-1],), generator=generator).to(device)
    width = min(_WIDTH, 1 << (description.context_length.bit_length() - 1))
    rows = model.hidden(ids[None, : min(width, _LADDER[0])], None, None)[0]

    def body(size: int) -> Callable[[], object]:
        return partial(model.hidden, ids[:size].view(-1, min(size, width)), None, None)

    def head(size: int) -> Callable[[], object]:
        return partial(model.head, rows.repeat(-(-size // rows.shape[0]), 1)[:size])

    # Logits come in chunks of so many rows; more of them take proportionally longer.
    most = max(_LADDER[0], CHUNK_ELEMENTS // description.vocab_size)
    # Every size would be compiled anew.
    with torch.compiler.set_stance("force_eager") if model.compiled else nullcontext():
        curves = [_curve(body, _LADDER[-1], device), _curve(head, most, device)]
    return CostModel(*(curve for curve, _ in curves)), curves[0][1]


def _curve(prepare: Callable[[int], Callable[[], object]], most: int, device: torch.device) -> tuple[TimingCurve, bool]:
    """Time the work of every size up to ``most``, as far as patience and memory go; and whether timings agree."""
    works: list[Callable[[], object]] = []
    samples: list[list[float]] = []
    begin = time.perf_counter()
    for size in _LADDER:
        # Two points at least: one does not say how the time grows.
        if size > most or (len(works) > 1 and samples[-1][0] > _SLOW):
            break
        try:
            work = prepare(size)
            _seconds(work, device)  # the first call is slower
            samples.append([_seconds(work, device)])
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not works or not is_out_of_memory(error):
                raise
            break
        works.append(work)
    # One size after the other, again and again: a disturbance then hits one sample of each, not all of one.
    while len(samples[0]) < _REPEATS and time.perf_counter() - begin < _BUDGET:
        for work, sample in zip(works, samples, strict=True):
            sample.append(_seconds(work, device))
    medians = [median(sample) for sample in samples]
    block_always_fresh = all(took <= _STEADY * min(sample) for took, sample in zip(medians, samples, strict=True))
    return TimingCurve.fitted(_LADDER[: len(works)], medians), block_always_fresh


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    begin = time.perf_counter()
    work()
    _wait(device)
    return max(time.perf_counter() - begin, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _path(key: str) -> Path | None:
    """The file of a machine; None when there is no home for it."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # A relative one counts as none (XDG Base Directory Specification).
        folder = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder / "dlm" / f"machine-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def _read(path: Path | None, about: dict[str, Any]) -> CostModel | None:
    """What the file says; None when it is not there, damaged, or about something else."""
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["about"] != about:
            return None
        curves = {name: found[name] for name in ("body", "head")}
        body, head = (TimingCurve(tuple(c["positions"]), tuple(c["seconds"])) for c in curves.values())
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return CostModel(body, head)


def _write(path: Path | None, about: dict[str, Any], machine: CostModel) -> None:
    """Write the file, all of it or none; nothing when that is not possible."""
    if path is None:
        return
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=path.stem, suffix=".part", delete=False, encoding="utf-8"
        ) as file:
            temporary = file.name
            json.dump({"about": about, **asdict(machine)}, file)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
