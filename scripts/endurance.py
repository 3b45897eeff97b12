"""Try the promises many times: a short part of each is in the test suite, this is the long form.

    python scripts/endurance.py rows 10000      row independence in float64: presets x caches x drafts x batches
    python scripts/endurance.py drafts 10000    FreeDave gives what is decoded without it, in float64
    python scripts/endurance.py kills 100       evaluations killed at any moment, then run to their end
    python scripts/endurance.py fuzz 3000       odd values over the API, the command line and files

N counts rows, rows, kills and inputs. ``--seed`` chooses others. The last line is JSON; the exit status is 1 when a
promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cache  # noqa: E402
import dlm  # noqa: E402
import samplers  # noqa: E402
from dlm.drafting import FreeDave  # noqa: E402
from dlm.errors import DlmError, SettingsError  # noqa: E402
from tests.doubles import random_dream, random_llada  # noqa: E402
from tests.test_decoder import OWN_BLOCKS, WHOLE, preset  # noqa: E402

Trial = Iterator[tuple[int, str]]  # how much was tried, and what went wrong; "": nothing


def main(arguments: list[str] | None = None) -> int:
    """Run a part; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=sorted(PARTS))
    parser.add_argument("n", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    tried, wrong, kinds = 0, [], Counter[str]()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(options.part, total=options.n)
        trials = PARTS[options.part](random.Random(options.seed))
        while tried < options.n:
            count, fault = next(trials)
            tried += count
            kinds["refused" if not count else "draws"] += 1
            if fault:
                wrong.append(fault)
                print(fault, flush=True)
            progress.update(task, completed=tried)
    print(json.dumps({"part": options.part, "seed": options.seed, "tried": tried, "broken": len(wrong), **kinds}))
    return 1 if wrong else 0


def _models() -> list[Any]:
    return [random_llada(), random_dream()]


def _prompts(rng: random.Random) -> list[list[int]]:
    return [[rng.randrange(37) for _ in range(rng.randint(1, 14))] for _ in range(rng.randint(2, 8))]


def _bundle(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A sampler with a cache and drafts, any of them; whether they go together is for the decoder to say."""
    name = rng.choice(samplers.PRESETS)
    extra: dict[str, Any] = {"temperature": rng.choice([0.0, 0.0, 0.0, 0.8]), "guidance": rng.choice([0.0] * 5 + [1.0])}
    if name not in WHOLE | OWN_BLOCKS:
        extra["blocks"] = rng.choice([samplers.Fixed(rng.randint(1, 6)), samplers.Whole()])
    held = rng.choice(cache.PRESETS)
    drafted = rng.random() < 0.25
    parts: dict[str, Any] = {"sampler": preset(name, **extra), "cache": getattr(cache, held)()}
    parts["drafter"] = FreeDave() if drafted else None
    return f"{name} {extra} cache={held} drafts={drafted}", parts


def _fitting(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """The next bundle whose parts go together."""
    while True:
        with contextlib.suppress(SettingsError):
            return _bundle(rng)


def rows(rng: random.Random) -> Trial:
    """Every row of a batch against the row alone."""
    models = _models()
    while True:
        told, parts = _fitting(rng)
        model, prompts, new = rng.choice(models), _prompts(rng), rng.randint(6, 12)
        given: dict[str, Any] = {**parts, "max_new_tokens": new, "seed": rng.randrange(9)}
        try:
            together = dlm.generate(model, prompts, batch_size=rng.randint(2, 8), **given)
        except SettingsError:
            yield 0, ""
            continue
        alone = [dlm.generate(model, [prompt], **given)[0] for prompt in prompts]
        twins = {tuple(p) for p in prompts if prompts.count(p) > 1}  # copies of a row draw from streams of their own
        apart = [
            i
            for i, (a, b) in enumerate(zip(together, alone, strict=True))
            if tuple(prompts[i]) not in twins
            and (a.tokens, a.commit_step, a.counts.forwards) != (b.tokens, b.commit_step, b.counts.forwards)
        ]
        yield len(prompts), f"rows {apart} of {prompts}, {new} new tokens, {told}" if apart else ""


def drafts(rng: random.Random) -> Trial:
    """Drafted decoding against undrafted."""
    models = _models()
    while True:
        told, parts = _fitting(rng)
        model, prompts = rng.choice(models), _prompts(rng)
        given: dict[str, Any] = {"max_new_tokens": rng.randint(6, 12)}
        try:
            fast = dlm.generate(model, prompts, **{**parts, "drafter": FreeDave(rng.randint(2, 6))}, **given)
        except SettingsError:
            yield 0, ""
            continue
        slow = dlm.generate(model, prompts, **{**parts, "drafter": None}, **given)
        apart = [
            i
            for i, (a, b) in enumerate(zip(fast, slow, strict=True))
            if a.tokens != b.tokens or a.counts.forwards > b.counts.forwards
        ]
        yield len(prompts), f"rows {apart} of {prompts} are not lossless, {told}" if apart else ""


COMMANDS: dict[str, list[str]] = {
    "eval": ["eval", "task=waiting_line/shuffle", "task.limit=40", "batch_size=4"],
    "sweep": ["eval", "-m", "sampler=topk,threshold", "task=waiting_line/copy,waiting_line/reverse", "task.limit=8"],
    "workers": ["eval", "-m", "sampler=topk,threshold", "task=waiting_line/copy,arithmetic/addition", "task.limit=8",
                "workers=2"],
}  # fmt: skip


def _samples(folder: Path) -> list[str]:
    """What was answered, without times and the like, in one order."""
    found = []
    for path in sorted(folder.rglob("samples*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            found.append(json.dumps([values.get(key) for key in ("key", "tokens", "output", "score", "forwards")]))
    return sorted(found)


def _run(command: list[str], folder: Path, kill_after: float | None) -> int:
    """The command in a process group of its own; killed after so many seconds."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    whole = [sys.executable, "-c", "import sys; from dlm.cli import main; sys.exit(main())", *command, f"out={folder}"]
    with subprocess.Popen(
        whole, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            return process.wait(kill_after)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return process.wait()


def kills(rng: random.Random) -> Trial:
    """Evaluations that are killed, the imports included, and then end as unbroken ones."""
    known: dict[str, tuple[list[str], float]] = {}
    with tempfile.TemporaryDirectory() as base:
        for turn in range(10**9):
            name = rng.choice(sorted(COMMANDS))
            if name not in known:
                start, folder = time.monotonic(), Path(base) / f"whole-{name}"
                if _run(COMMANDS[name], folder, None):
                    yield 0, f"{name} fails unbroken"
                known[name] = _samples(folder), time.monotonic() - start
            want, seconds = known[name]
            folder, killed = Path(base) / f"{turn}-{name}", 0
            for _ in range(rng.randint(1, 4)):
                killed += _run(COMMANDS[name], folder, rng.uniform(0.05, 1.0) * seconds) < 0
            status = _run(COMMANDS[name], folder, None)
            fault = f"{name}, killed {killed} times: status {status}" if status else ""
            if not fault and _samples(folder) != want:
                fault = f"{name}, killed {killed} times: other answers than unbroken"
            yield killed, fault


ODD: list[Any] = [
    None, True, -1, 0, 1, 3, 10**9, 2**31, 10**30, -(10**30), 0.0, 0.5, 1.0, 1.5, -0.1, 1e-300, 1e300, float("nan"),
    float("inf"), "", "x", "32", "<|mask|>", "\x00", "\x1b[2J", "a" * 5000, [], [1], [[1]], [None], {}, {"role": "x"},
    b"x", 1j, object(), int, print,
]  # fmt: skip


def _api(rng: random.Random, model: Any) -> Callable[[], Any]:
    what = rng.choice(["sampler", "cache", "prompts", "argument"])
    value = rng.choice(ODD)
    if what == "argument":
        name = rng.choice(["max_new_tokens", "seed", "batch_size", "record", "pinned", "cache", "sampler", "drafter"])
        given: dict[str, Any] = {"sampler": samplers.threshold(), "max_new_tokens": 4, name: value}
        return lambda: dlm.generate(model, ["47+85="], **given)
    if what == "prompts":
        return lambda: dlm.generate(model, value, sampler=samplers.topk(), max_new_tokens=4)
    room = samplers if what == "sampler" else cache
    preset_ = getattr(room, rng.choice(room.PRESETS))
    names = [n for n in preset_.__code__.co_varnames if n != "options"] if hasattr(preset_, "__code__") else []
    names = names or list(getattr(preset_, "__dataclass_fields__", {})) or ["every"]
    setting = rng.choice([*names, "blocks", "temperature", "top_k"] if what == "sampler" else names)

    def call() -> Any:
        part = preset_(**{setting: value})
        given: dict[str, Any] = {"sampler": part} if what == "sampler" else {"sampler": samplers.topk(), "cache": part}
        return dlm.generate(model, ["47+85="], **given, max_new_tokens=4)

    return call


def _line(rng: random.Random) -> list[str]:
    """A command line of odd values."""
    keys = [
        "sampler.threshold", "sampler.temperature", "sampler.top_k", "blocks.length", "cache.every", "max_new_tokens",
        "seed", "batch_size", "format", "prompt", "model", "model.path", "sampler", "cache", "blocks", "nope", "record",
        "runtime.device", "pinned",
    ]  # fmt: skip
    values = [
        "", "null", "true", "nan", "inf", "-1", "0", "1.5", "1e9", "abc", "[1,2]", "{a:1}", "${x}", "'", "glob(t*)",
        "range(0,3)", "a,b", "\x01", "threshold", "dual", "whole", "../..", "=", "{_target_:os.getcwd}",
    ]  # fmt: skip
    overrides = [f"{rng.choice(keys)}={rng.choice(values)}" for _ in range(rng.randint(1, 3))]
    command = rng.choice(["generate", "eval", "report", "tasks", "trace", "compare"])
    return [command, "--cfg", "job", *overrides] if command in ("eval", "compare") else [command, *overrides]


def _file(rng: random.Random, folder: Path) -> list[str]:
    """A damaged file given to a command."""
    path = folder / rng.choice(["prompts.jsonl", "prompts.txt", "trace.jsonl", "samples.jsonl"])
    good = ['"47+85="', '{"prompt": "47+85="}', '{"start": 1, "canvas": [1, 2], "mask_id": 1, "steps": []}', "47+85="]
    text = "\n".join(rng.choice(good) for _ in range(3)).encode()
    damage = rng.choice([b"", b"\x00", b"\xff\xfe", b"[" * 3000, b'{"start": "x"}\n', b"9" * 5000, b"null\n", b"{}\n"])
    place = rng.randint(0, len(text))
    path.write_bytes(text[:place] + damage + text[place:])
    if path.name.startswith("prompts"):
        return ["generate", f"prompts_file={path}", "max_new_tokens=4"]
    return ["trace", str(path)] if path.name.startswith("trace") else ["report", str(folder)]


def fuzz(rng: random.Random) -> Trial:
    """Odd values: an answer, or one clear error."""
    from dlm.cli import main as command_line

    model = dlm.load("tiny", device="cpu")
    with tempfile.TemporaryDirectory() as base:
        os.chdir(base)
        while True:
            kind = rng.choice(["api", "api", "api", "line", "file"])
            if kind == "api":
                state = rng.getstate()
                try:
                    _api(rng, model)()
                    fault = ""
                except DlmError:
                    fault = ""
                except Exception as error:  # whatever it is, it is not one of ours
                    fault = f"api {state[1][:2]}: {type(error).__name__}: {str(error)[:200]}"
            else:
                arguments = _line(rng) if kind == "line" else _file(rng, Path(base))
                out = io.StringIO()
                try:
                    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                        status = command_line(arguments)
                    fault = "" if status in (0, 2) else f"{arguments} ended with {status}: {out.getvalue()[-200:]}"
                except BaseException as error:
                    fault = f"{arguments}: {type(error).__name__}: {str(error)[:200]}"
            yield 1, fault


PARTS: dict[str, Callable[[random.Random], Trial]] = {"rows": rows, "drafts": drafts, "kills": kills, "fuzz": fuzz}

if __name__ == "__main__":
    sys.exit(main())
