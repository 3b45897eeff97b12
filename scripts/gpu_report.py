"""What there is to know of a GPU in ten minutes: tests, launches, steps, drafts, weights in fewer bits.

    PYTHONPATH=. python scripts/gpu_report.py [--results FILE] [--page docs/benchmarks-gpu.md] [--minutes 9]

Needs torch with CUDA, transformers, accelerate, einops, jaxtyping, safetensors, rich, pytest and hypothesis; no Hydra,
no download. Weights are random: speed needs no others. Every measurement is a line of the results file, written when it
is made: a second run goes on where the first was cut off, and the page is written anew from what there is.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from statistics import median
from typing import Any

import torch

import cache
import samplers
from dlm.bench.engine import Cell, Contender, Decode, random_jobs
from dlm.bench.limits import Limits, forward_cost, measure
from dlm.bench.shapes import build
from dlm.engine.loop import Decoder
from dlm.engine.no_cache import NoCache
from dlm.errors import DlmError
from dlm.models import LanguageModel
from dlm.serving.engine import Engine, Parts, Ticket
from dlm.speculation import FreeDave

WAYS = ("eager", "graphs", "compiled", "compiled graphs")
CACHES = {"none": NoCache(), "dual": cache.dual(), "vicinity": cache.vicinity(), "dkv_decode": cache.dkv_decode()}
PROMPT, NEW, BLOCK, STEPS = 256, 64, 32, 24


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for."""

    device: torch.device
    shapes: Sequence[str]
    batches: Sequence[int]
    until: float  # on the monotonic clock
    results: Path

    def known(self) -> dict[str, Any]:
        """What has been measured, by key."""
        if not self.results.is_file():
            return {}
        whole = [line for line in self.results.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
        lines = [json.loads(line) for line in whole]  # one that was cut off is measured again
        return {line["key"]: line for line in lines}


@once
def _limits(device: torch.device, dtype: torch.dtype) -> Limits:
    return measure(device, dtype)


class Models:
    """One model at a time, as it is asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.dtype = device, torch.float32 if device.type == "cpu" else torch.bfloat16
        self.key = ("", "", "")
        self.model: LanguageModel | None = None

    def get(self, shape: str, way: str, weights: str) -> LanguageModel:
        """A shape with random weights, in ``weights`` (its own, int8, int4, fp8), that steps in a ``way``."""
        compiled = "compiled" if way.startswith("compiled") else ""
        if self.model is None or self.key != (shape, compiled, weights):
            self.model = None  # two would not fit
            model = build(shape, self.device, self.dtype)
            if weights != "own":
                from dlm.models.quantising import quantise, refuse_where_impossible

                refuse_where_impossible(weights, self.device, self.dtype)
                quantise(model.backbone, weights, self.device)  # type: ignore[arg-type]
            if compiled:
                model.backbone.compile_blocks()
            self.key, self.model = (shape, compiled, weights), model
        self.model.backbone.graphs = way.endswith("graphs")
        return self.model


def cells(wanted: Wanted) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every measurement of steps, the most telling first."""
    plain = [("own", way, name, None) for way in WAYS for name in CACHES]
    more = [("own", "eager", "dual", 4), ("int4", "graphs", "dual", None), ("fp8", "graphs", "dual", None)]
    for shape in wanted.shapes:
        for weights, way, name, drafts in [*plain, *more]:
            for batch in wanted.batches if weights == "own" and drafts is None else wanted.batches[:1]:
                cell = {"shape": shape, "weights": weights, "way": way, "cache": name, "drafts": drafts, "batch": batch}
                yield " ".join(map(str, cell.values())), cell


def measured(models: Models, cell: dict[str, Any]) -> dict[str, Any]:
    """Median seconds of a step that recomputes nothing whole, and how near it comes to what the card can do."""
    model = models.get(cell["shape"], cell["way"], cell["weights"])
    sampler = samplers.topk(blocks=samplers.Fixed(BLOCK))
    drafter = None if cell["drafts"] is None else FreeDave(cell["drafts"])
    contender = Contender("", sampler, CACHES[cell["cache"]], drafter)
    jobs = random_jobs(model, cell["batch"], PROMPT, NEW, 0)
    at = Cell(model, cell["shape"], cell["batch"])
    Decode.of(at, contender, jobs, STEPS).advance()  # libraries look up their kernels for every new shape
    decode = Decode.of(at, contender, jobs, STEPS).advance()
    steps = [step for step in decode.steps if not step.refresh][1:] or decode.steps
    fed, scored = median(step.fed for step in steps), median(step.scored for step in steps)
    flops, read = forward_cost(model, round(fed), PROMPT + NEW, round(scored))
    seconds = median(step.wall for step in steps)
    least = _limits(models.device, models.dtype).seconds(flops, read)
    return {"seconds": seconds, "limit": least, "share": least / seconds, "fed": fed, "steps": len(steps)}


def servings(wanted: Wanted) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every measurement of a server's engine."""
    for shape in wanted.shapes[:1]:
        for way in ("eager", "graphs"):
            for clients in sorted({1, max(wanted.batches)}):
                yield f"{shape} serving {way} {clients}", {"served": shape, "way": way, "clients": clients}


def served(models: Models, cell: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second of so many clients, each of whom asks again when answered; one token a step."""
    model, clients = models.get(cell["served"], cell["way"], "own"), cell["clients"]
    sampler = samplers.topk(blocks=samplers.Fixed(BLOCK))
    parts = Parts(Decoder(model.backbone, model.description, sampler, CACHES["dual"]), "")
    engine, places, failed = Engine(model, clients, 10 * clients), threading.Semaphore(clients), []

    def tell(what: Any) -> None:
        if isinstance(what, Exception):
            failed.append(what)
        places.release()

    def ask(seed: int) -> None:
        for job in random_jobs(model, clients, PROMPT, NEW, seed):
            places.acquire()
            engine.submit([Ticket(job, parts, tell, time.monotonic() + 600)])

    def wait() -> None:
        for _ in range(clients):
            places.acquire()
        places.release(clients)

    ask(0)
    wait()
    begun, rounds = time.monotonic(), 3 if clients == 1 else 2
    for seed in range(rounds):
        ask(seed + 1)
    wait()
    seconds = time.monotonic() - begun
    engine.stop(5.0)
    if failed:
        raise RuntimeError(str(failed[0]))
    return {"tokens_per_second": rounds * clients * NEW / seconds}


def counted() -> dict[str, Any]:
    """Launches of a step on the pretended device."""
    from dlm.bench.launches import LaunchesBenchSettings, counted_steps, narrow

    model, found = narrow(32, "bfloat16"), {}
    for name in ("none", "dual"):
        contender = Contender("", samplers.threshold(0.9, blocks=samplers.Fixed(32)), CACHES[name])
        tally = counted_steps(model, contender, 1, LaunchesBenchSettings())[-1].tally
        found[name] = sum(times for (_, kind), times in tally.counts.items() if kind == "launch")
    return found


def profiled(device: torch.device) -> dict[str, Any]:
    """The same by the profiler, on a GPU."""
    from torch.profiler import ProfilerActivity, profile

    from dlm.bench.launches import narrow

    model, found = narrow(32, "bfloat16"), {}
    model.backbone.to(device)  # type: ignore[attr-defined]
    for name in ("none", "dual"):
        contender = Contender("", samplers.threshold(0.9, blocks=samplers.Fixed(32)), CACHES[name])
        decode = Decode.of(Cell(model, "", 1), contender, random_jobs(model, 1, 64, 32, 0))
        decode.advance(3)
        with profile(activities=[ProfilerActivity.CUDA]) as seen:
            decode.advance(1)
            torch.cuda.synchronize(device)
        kinds = [str(event.device_type) for event in seen.events()]
        found[name] = sum(kind.endswith("CUDA") for kind in kinds)
    return found


def tests() -> dict[str, Any]:
    """The last line of the GPU tests."""
    where = ["tests/test_gpu.py", "tests/models/test_packing.py"]  # others may need packages that are not there
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *where]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    lines = done.stdout.strip().splitlines()
    return {"status": done.returncode, "said": lines[-1] if lines else done.stderr[-300:], "tail": lines[-15:]}


def counted_elsewhere() -> dict[str, Any]:
    """In a process of its own: PyTorch cannot forget a pretended device."""
    done = subprocess.run([sys.executable, __file__, "--counted"], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(wanted: Wanted) -> bool:
    """Measure what is missing; whether all is there now."""
    known, models = wanted.known(), Models(wanted.device)
    work: list[tuple[str, dict[str, Any], Callable[[], dict[str, Any]]]] = []
    if wanted.device.type == "cuda":
        work += [("launches counted", {}, counted_elsewhere), ("launches seen", {}, lambda: profiled(wanted.device))]
        work += [("tests", {}, tests)]
    work += [(key, cell, lambda cell=cell: served(models, cell)) for key, cell in servings(wanted)]  # type: ignore[misc]
    work += [(key, cell, lambda cell=cell: measured(models, cell)) for key, cell in cells(wanted)]  # type: ignore[misc]
    for key, cell, look in work:
        if key in known:
            continue
        if time.monotonic() > wanted.until:
            return False
        try:
            figures = look()
        except (DlmError, RuntimeError, ImportError, subprocess.SubprocessError) as error:
            figures = {"refused": str(error).strip().splitlines()[0][:300]}
        with wanted.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **cell, **figures}) + "\n")
        print(key, figures, flush=True)
    return True


def page(wanted: Wanted) -> str:
    """What there is, as a page."""
    known = wanted.known()
    name = torch.cuda.get_device_name(wanted.device) if wanted.device.type == "cuda" else "cpu"
    lines = ["# A GPU", "", f"Written by `scripts/gpu_report.py` on {name}, torch {torch.__version__}.", ""]
    if "tests" in known:
        lines += [f"Tests: {known['tests'].get('said', known['tests'].get('refused'))}", ""]
    if "launches counted" in known and "launches seen" in known:
        lines += ["| threshold over | launches counted | seen by the profiler |", "|---|---|---|"]
        for each in ("none", "dual"):
            found = [known[key].get(each, "-") for key in ("launches counted", "launches seen")]
            lines.append(f"| {each} | {found[0]} | {found[1]} |")
        lines.append("")
    lines += [
        f"Seconds of a step: median of those that recompute nothing whole; prompt {PROMPT}, {NEW} positions, blocks of"
        f" {BLOCK}, one token a step. The limit is what reading the weights or arithmetic alone would take here.", "",
        "| shape | weights | way | cache | drafts | batch | ms | limit, ms | share |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    refused: dict[str, list[str]] = {}
    for line in known.values():
        if "refused" in line and "shape" in line:
            refused.setdefault(line["refused"].split(";")[0], []).append(line["key"])
        elif "shape" in line:
            lines.append(
                f"| {line['shape']} | {line['weights']} | {line['way']} | {line['cache']} | {line['drafts'] or '-'}"
                f" | {line['batch']} | {line['seconds'] * 1e3:.2f} | {line['limit'] * 1e3:.2f} | {line['share']:.0%} |"
            )
    lines += ["", *(f"Not measured ({len(keys)}; {keys[0]} is one): {why}." for why, keys in refused.items())]
    serving = [line for line in known.values() if "served" in line]
    if serving:
        lines += [
            "", "## A server's engine", "",
            f"`dlm.serving.engine` without HTTP: requests of {PROMPT} + {NEW} positions, one token a step, `dual`; each"
            " client asks again when answered.", "", "| shape | way | clients | tokens a second |", "|---|---|---|---|",
        ]  # fmt: skip
    for line in serving:
        told = f"{line['tokens_per_second']:.0f}" if "tokens_per_second" in line else line["refused"]
        lines.append(f"| {line['served']} | {line['way']} | {line['clients']} | {told} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page; exit status 1 when time ran out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", default=["llada-8b", "dream-7b"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--minutes", type=float, default=9.0, help="after which nothing new is begun")
    parser.add_argument("--results", type=Path, default=Path("gpu_report.jsonl"))
    parser.add_argument("--page", type=Path, default=Path("docs/benchmarks-gpu.md"))
    parser.add_argument("--counted", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.counted:
        print(json.dumps(counted()))
        return 0
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no GPU is there; --device cpu --shapes tiny shows what the report looks like")
    until = time.monotonic() + 60 * given.minutes
    wanted = Wanted(torch.device(given.device), given.shapes, given.batches, until, given.results)
    done = run(wanted)
    given.page.write_text(page(wanted), encoding="utf-8")
    print(f"{given.page}: {'all measured' if done else 'time ran out; run it again to go on'}")
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
