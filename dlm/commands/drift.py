"""``dlm drift``: how far the answers of a cache, or of quantised weights, are from the exact ones."""

from __future__ import annotations

import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlm.choices import listed
from dlm.commands.common import command, folder_of
from dlm.configuration import Composed, check_counts, check_switches, compose_config, parts_of
from dlm.errors import SettingsError
from dlm.files import write_csv, write_json
from dlm.words import counted

if TYPE_CHECKING:
    from dlm.api import Prompt
    from dlm.evaluation.drift import Drift

HELP = """dlm drift: how far the answers of a cache, or of quantised weights, are from the exact ones.

usage: dlm drift [key=value ...]

  cache=dkv_decode                the cache; its settings are cache.KEY=VALUE
  model.quantize=int8             weights in fewer bits beside the model's own; cache=none: what they cost alone
  'prompt=TEXT'                   a prompt, used as it is; without one, questions of the tasks
  task=waiting_line/shuffle       a task, or a list: task=[waiting_line/copy,puzzle/sudoku]
  n=4                             questions per task
  max_new_tokens=64               positions to fill
  seed=0  batch_size=4
  out=DIR                         write drift_steps.csv, drift_keys.csv, drift_outputs.csv, drift.json, drift.png
  pictures=true                   false: no picture; it needs matplotlib (pip install 'dlm[plot]')

The uncached run is replayed: at every step the cache answers for the same canvas (teacher forcing), and its answers,
and the keys and values it used, are held against the exact ones. Then the cache decodes freely.

groups:
{groups}

examples:
  dlm drift cache=dual n=2 max_new_tokens=32
  dlm drift cache=dkv_decode cache.interval=4 'prompt=47+85=' max_new_tokens=16
  dlm drift cache=dkv_greedy sampler=random
  dlm drift model.quantize=int4 cache=none n=1 max_new_tokens=16
  dlm drift model=llada-8b-instruct cache=vicinity task=math/word_problem max_new_tokens=128 out=drift
"""
LONGEST_TABLE = 32  # lines; of a longer run several steps share one
TOLD = {"prompt": "prompt", "decided_before": "decided\nbefore", "decided_since": "decided\nsince", "masks": "masks"}


@command("drift", HELP, ("prompt", "task", "out"))
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    parts, prompts, out = _prepare(texts, overrides)
    from dlm.evaluation.drift import measure

    kind, cache, count = parts.model_config.get("quantize"), parts.name("cache"), counted(len(prompts), "prompt")
    compared = cache if kind is None else f"{kind} weights" if parts.cache is None else f"{kind} weights and {cache}"
    title = (
        f"{compared} beside {'no cache' if kind is None else 'the model itself'}: {count},"
        f" {counted(parts.max_new_tokens, 'position')}, sampler {parts.sampler.name}"
    )
    other = None if kind is None else parts.load_model()  # first: it may be refused
    plain = replace(parts, config={**parts.config, "model": {**parts.model_config, "quantize": None}})
    drift = measure(
        plain.load_model(), prompts, parts.sampler, parts.cache, max_new_tokens=parts.max_new_tokens,
        batch_size=parts.batch_size, seed=parts.seed, other=other,
    )  # fmt: skip
    console = Console(file=sys.stdout)
    console.print(_step_table(drift, title))
    if drift.keys:
        console.print(_layer_table(drift))
    for line in _summary(drift):
        console.print(Text(line), soft_wrap=True)
    if out is not None:
        _write(drift, parts, prompts, title, out)
    return 0


def _prepare(texts: dict[str, str], overrides: list[str]) -> tuple[Composed, list[Prompt], Path | None]:
    """Check and build everything but the model: the parts, what is decoded, and where files go."""
    from dlm import tasks

    config = compose_config("drift", overrides)
    check_counts(config, "n", "batch_size", "max_new_tokens")
    check_switches(config, "pictures")
    if "prompt" in texts and "task" in texts:
        raise SettingsError("give prompt= or task=, not both")
    if "prompt" in texts:
        prompts: list[Prompt] = [texts["prompt"]]
    else:
        names = listed(texts.get("task", str(config.task)))
        if not names:
            raise SettingsError("task names none: give at least one, for example task=waiting_line/shuffle")
        prompts = [task.instance(i).messages for task in map(tasks.get, names) for i in range(config.n)]
    out = folder_of(texts.get("out"), config.pictures)
    parts = parts_of(config)
    if parts.drafter is not None:
        raise SettingsError("drift is measured without a drafter: leave drafting=none")
    return parts, prompts, out


def _step_table(drift: Drift, title: str) -> Table:
    """Steps downwards, means over the prompts."""
    from dlm.evaluation.drift_pictures import by_step

    groups = list(by_step(drift.steps).items())
    size = -(-len(groups) // LONGEST_TABLE)
    # The columns fit into a terminal of 80 when nothing is spent on padding.
    table = Table(title=Text(title), title_style="bold", title_justify="left", box=SIMPLE_HEAD, padding=0)
    for heading in (
        "step", "rows\nrefreshed", "posi-\ntions\nfed", "KL\nmean", "KL\nlargest", "same\ntoken", "gap of\nbest\nprob.",
        "gap of\nentropy", "same\nchoice",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for first in range(0, len(groups), size):
        chunk = groups[first : first + size]
        steps = [step for _, group in chunk for step in group]
        name = str(chunk[0][0]) if len(chunk) == 1 else f"{chunk[0][0]}-{chunk[-1][0]}"
        refreshed = sum(step.age == 0 for step in steps)
        table.add_row(
            name, f"{refreshed}/{len(steps)}" if refreshed else "", f"{fmean(s.fed for s in steps):.1f}",
            _small(fmean(s.kl_mean for s in steps)), _small(max(s.kl_max for s in steps)),
            f"{fmean(s.agreement for s in steps):.1%}", f"{fmean(s.prob_gap for s in steps):.4f}",
            f"{fmean(s.entropy_gap for s in steps):.4f}", f"{fmean(s.same_choice for s in steps):.0%}",
        )  # fmt: skip
    return table


def _layer_table(drift: Drift) -> Table:
    """Layers downwards; what the keys belong to across."""
    from dlm.evaluation.drift_pictures import between_refreshes

    lines = between_refreshes(drift.keys)
    kinds = [kind for kind in TOLD if any(line.kind == kind for line in lines)]
    title = "stored keys beside fresh ones, mean over the steps that are no refresh"
    table = Table(title=Text(title), title_style="bold", title_justify="left", box=SIMPLE_HEAD, padding=0)
    table.caption = "dist: ||stored - fresh|| / ||fresh||; cos: mean cosine; values are in drift_keys.csv"
    table.add_column("layer", justify="right")
    for kind in kinds:
        for figure in ("dist", "cos"):
            table.add_column(f"{TOLD[kind]}\n{figure}", justify="right", no_wrap=True, min_width=7)
    for layer in sorted({line.layer for line in lines}):
        cells = []
        for kind in kinds:
            here = [line for line in lines if line.layer == layer and line.kind == kind]
            cells += [f"{fmean(k.key_distance for k in here):.4f}", f"{fmean(k.key_cosine for k in here):.4f}"]
        table.add_row(str(layer), *cells)
    return table


def _summary(drift: Drift) -> list[str]:
    outputs = drift.outputs
    forwards, cached = sum(o.forwards for o in outputs), sum(o.cached_forwards for o in outputs)
    fed, less = sum(o.token_forwards for o in outputs), sum(o.cached_token_forwards for o in outputs)
    parted = [o.first_divergence for o in outputs if o.first_divergence is not None]
    told = f"{len(parted)} of {len(outputs)} part, the first after step {min(parted)}" if parted else "none parts"
    return [
        f"replayed: KL mean {_small(drift.mean_kl)}, median {_small(drift.median_kl)}, largest {_small(drift.max_kl)};"
        f" same token {drift.agreement:.2%}, same choice at {drift.same_choice:.1%} of the steps",
        f"free run: {told}; {sum(o.hamming for o in outputs)} of {sum(o.positions for o in outputs)} positions differ"
        f" ({drift.hamming:.1%})",
        f"forwards {forwards} -> {cached}, token-forwards {fed} -> {less} (ratio {drift.token_forwards_ratio:.2f})",
    ]


def _small(kl: float) -> str:
    return "0" if kl == 0 else f"{kl:.1e}"


def _write(drift: Drift, parts: Composed, prompts: list[Prompt], title: str, folder: Path) -> None:
    """All files, each whole."""
    from dlm import __version__
    from dlm.evaluation.drift import KeyDrift, OutputDrift, StepDrift

    folder.mkdir(parents=True, exist_ok=True)
    for name, kind, lines in (
        ("steps", StepDrift, drift.steps), ("keys", KeyDrift, drift.keys), ("outputs", OutputDrift, drift.outputs),
    ):  # fmt: skip
        write_csv(folder / f"drift_{name}.csv", [f.name for f in fields(kind)], map(asdict, lines))
    config = {k: v for k, v in parts.config.items() if k not in ("out", "debug", "pictures")}
    figures = (
        "mean_kl", "median_kl", "max_kl", "agreement", "same_choice", "hamming", "first_divergence",
        "token_forwards_ratio",
    )  # fmt: skip
    record = {"dlm": __version__, "settings": config, "prompts": prompts}
    record |= {"summary": {name: getattr(drift, name) for name in figures}}
    write_json(folder / "drift.json", record)
    if parts.config["pictures"]:
        from dlm.evaluation.drift_pictures import draw

        draw(drift, title, folder / "drift.png")
