"""``dlm bench``: one shape after the other, ours and the naive decoder in the same process, medians."""

from __future__ import annotations

import resource
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from dlm.api import keyed
from dlm.bench.limits import Limits, forward_cost
from dlm.bench.naive import naive_steps
from dlm.engine.canvas import Job
from dlm.engine.loop import Decoder, StepEvent
from dlm.engine.sampler import Sampler
from dlm.models import LanguageModel


@dataclass(frozen=True)
class Workload:
    """What is decoded.

    Attributes:
        batch: rows.
        prompt, new, block: positions of the prompt, of the generation, and of a block.
        runs: how often; figures are medians over the steps of all runs.
        naive_steps: steps of the naive decoder to time; 0 leaves it out.
    """

    batch: int = 1
    prompt: int = 32
    new: int = 128
    block: int = 32
    runs: int = 3
    naive_steps: int = 5


@dataclass(frozen=True)
class Figures:
    """Medians of one shape; seconds are per step of the whole batch.

    Attributes:
        forward, outside: a step with a full block open: inside the model (body and head) and everything else.
        forward_all, outside_all: the same over all steps, which have fewer and fewer rows open.
        outside_share: outside / (forward + outside), full block.
        limit: seconds that arithmetic or weight reading alone would take for that forward.
        limit_share: limit / forward.
        tokens_per_second: committed tokens of the whole batch per second of wall time.
        peak_bytes: memory above what the loaded model takes, the largest over the run.
        naive_forward, naive_outside: the naive decoder's step; None when it was not run.
    """

    forward: float
    outside: float
    forward_all: float
    outside_all: float
    outside_share: float
    limit: float
    limit_share: float
    tokens_per_second: float
    peak_bytes: int
    naive_forward: float | None
    naive_outside: float | None

    def as_dict(self) -> dict[str, float | None]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Step:
    open_rows: int
    forward: float
    wall: float


def measure_decode(model: LanguageModel, sampler: Sampler, work: Workload, limits: Limits) -> Figures:
    """Decode random prompts and take the figures. The first run warms up and is not counted."""
    reset_peak(model.device)
    before = peak_bytes(model.device)
    _run(model, sampler, work, seed=0)
    steps, tokens, wall = [], 0, 0.0
    for run in range(work.runs):
        begin = time.perf_counter()
        steps += _run(model, sampler, work, seed=run + 1)
        wall += time.perf_counter() - begin
        tokens += work.batch * work.new
    peak = max(0, peak_bytes(model.device) - before)
    full = [s for s in steps if s.open_rows == work.block]
    forward = statistics.median(s.forward for s in full)
    outside = statistics.median(s.wall - s.forward for s in full)
    width = work.prompt + work.new
    limit = limits.seconds(*forward_cost(model, work.batch * width, width, work.batch * work.block))
    naive = []
    if work.naive_steps:
        naive = naive_steps(model, _prompts(model, work, 0), work.new, work.block, work.naive_steps + 1)[1:]
    return Figures(
        forward=forward,
        outside=outside,
        forward_all=statistics.median(s.forward for s in steps),
        outside_all=statistics.median(s.wall - s.forward for s in steps),
        outside_share=outside / (forward + outside),
        limit=limit,
        limit_share=limit / forward,
        tokens_per_second=tokens / wall,
        peak_bytes=peak,
        naive_forward=statistics.median(s.forward for s in naive) if naive else None,
        naive_outside=statistics.median(s.outside for s in naive) if naive else None,
    )


def random_jobs(model: LanguageModel, work: Workload, seed: int) -> list[Job]:
    """One row per prompt: the prompt, and ``work.new`` masked positions after it. Equal seeds give equal rows."""
    mask = model.description.mask_id
    end = work.prompt + work.new
    jobs = [
        Job(i, (*prompt, *[mask] * work.new), work.prompt, tuple(range(work.prompt, end)), 0)
        for i, prompt in enumerate(_prompts(model, work, seed))
    ]
    return keyed(jobs, seed)


def _prompts(model: LanguageModel, work: Workload, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    top = min(model.description.mask_id, model.description.valid_vocab)
    low = 0 if top > 0 else 1
    high = top if top > 0 else model.description.valid_vocab
    return torch.randint(low, high, (work.batch, work.prompt), generator=generator).tolist()


def _run(model: LanguageModel, sampler: Sampler, work: Workload, seed: int) -> list[_Step]:
    """One decode, step by step. ``wall`` runs from the end of one step to the end of the next."""
    jobs = random_jobs(model, work, seed)
    steps: list[_Step] = []
    booked = 0.0
    last = time.perf_counter()
    for event in Decoder(model.backbone, model.description, sampler).run(jobs, work.batch, model.device):
        if not isinstance(event, StepEvent):
            continue
        now = time.perf_counter()
        spent = sum(row.seconds_step for row in event.rows)
        if spent < booked:
            booked = 0.0
        steps.append(_Step(event.view.positions.shape[1], spent - booked, now - last))
        booked = spent
        last = time.perf_counter()
    return steps


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
