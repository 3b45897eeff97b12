"""``dlm train-filter``: a filter for ``sampler=learn2pd``, from a model's own answers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dlm.building import build, role_of
from dlm.choices import listed
from dlm.commands.common import command, folder_of
from dlm.configuration import check_counts, check_switches, compose_config, part_of, plain_of
from dlm.errors import SettingsError
from dlm.evaluation.progress import progress_bar
from dlm.evaluation.shards import check_alone
from dlm.files import write_whole

if TYPE_CHECKING:
    from dlm.api import Prompt
    from dlm.models import LanguageModel
    from dlm.training.filter import FilterTraining, Judgement
    from dlm.training.filter_data import Portion, Records, Walk
    from dlm.training.filter_file import Filter

HELP = """dlm train-filter: a filter for sampler=learn2pd, from a model's own answers.

usage: dlm train-filter out=DIR [key=value ...]

  model=tiny                      any model; it answers one position a step, then walks to those answers
  data=all                        tasks: all, one, or a list (data=[waiting_line/copy,text/story]); or a file:
                                  FILE.txt, a prompt a line, FILE.jsonl, a JSON string or chat a line; or a dataset:
                                  FILE.parquet, FILE.csv, a folder of Dataset.save_to_disk, hf:OWNER/NAME[:CONFIG]
  column=prompt split=train       where a dataset has its prompts
  n=160                           prompts per task, or of the file
  block_length=32  shorter=[]     the longest block the filter judges; further lengths to learn
  inputs=masked_probability       what it is shown; also probability (LLaDA's) and negative_entropy (Dream's)
  training.steps=4000             and the other settings of dlm.training.filter.FilterTraining
  out=DIR                         filter.safetensors, README.md (its card), judgement.json, calibration.png
  pictures=true                   false: no picture; it needs matplotlib (pip install 'dlm[plot]')

A run that is killed goes on where it stopped when it is started again with the same settings.

groups:
{groups}

examples:
  dlm train-filter out=filters/tiny n=20
  dlm train-filter model=llada-8b-instruct data=prompts.jsonl max_new_tokens=256 out=filters/llada
  dlm generate 'prompt=47+85=' sampler=learn2pd sampler.filter=filters/tiny/filter.safetensors
"""


@command("train_filter", HELP, ("data", "out"))
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    config = compose_config("train_filter", overrides)
    config.merge_with(texts)
    out, portions, training = _prepare(config)
    walk = _walk(config)
    from dlm.training.filter import train
    from dlm.training.filter_data import Records, collect

    files = len(portions) * (1 + len(walk.shorter))
    with progress_bar() as bar:
        made = bar.track(collect(walk, portions, out / "records"), files, description="collecting")
        records = Records.cat(list(made))
    filter, judgement = train(records, training, walk.inputs, out / "training.safetensors")
    told = _told(config, walk, records, training)
    _write(out, filter, judgement, told, config.pictures)
    _print(filter, judgement, out)
    return 0


def _prepare(config: Any) -> tuple[Path, list[Portion], FilterTraining]:
    """Check everything that needs no model."""
    from dlm.training.filter import FilterTraining

    check_alone("dlm train filter runs in one process: start it without torchrun or accelerate")
    check_switches(config, "pictures")
    out = folder_of(config.out, config.pictures)
    if out is None:
        raise SettingsError("out is not given: add out=DIR, where the filter and its records go")
    check_counts(config, "portion", *(key for key in ("n", "max_new_tokens") if config[key] is not None))
    training: FilterTraining = part_of(config, "training", FilterTraining)
    return out, _portions(config), training


def _portions(config: Any) -> list[Portion]:
    """The prompts, cut into files."""
    from dlm import tasks
    from dlm.training.filter_data import Portion
    from dlm.training.prompts import is_source, read_prompts

    data, n, size, new_tokens = str(config.data), config.n, config.portion, config.max_new_tokens
    if is_source(data):
        found = read_prompts(data, n, config.column, config.split)
        sources: list[tuple[str, Sequence[Prompt], int]] = [("prompts", found, new_tokens or 256)]
    else:
        names = tasks.names() if data == "all" else listed(data)
        if not names:
            raise SettingsError("data names none: all, a list of tasks, a file, a folder, or hf:OWNER/NAME")
        count = 160 if n is None else n
        sources = [
            (name.replace("/", "-"), _asked(name, count), new_tokens or tasks.get(name).canvas) for name in names
        ]
    portions: list[Portion] = []
    first = 0
    for name, prompts, new in sources:
        for begin in range(0, len(prompts), size):
            part = prompts[begin : begin + size]
            portions.append(Portion(f"{name}-{begin}", part, first + begin, new))
        first += len(prompts)
    return portions


def _asked(name: str, n: int) -> list[Prompt]:
    """Questions of a task that the model was trained on too; the held-out ones stay for comparisons."""
    from dlm import tasks

    task = tasks.get(name)
    return [[{"role": "user", "content": task.instance(i, "train").prompt}] for i in range(n)]


def _walk(config: Any) -> Walk:
    """The model, and how it is walked with."""
    from dlm.training.filter_data import Walk

    settings = {
        "block_length": config.block_length, "shorter": tuple(config.shorter), "inputs": config.inputs,
        "levels": tuple(config.levels), "seed": config.seed,
    }  # fmt: skip
    static, oracle = (part_of(config, key, role_of("sampler")) for key in ("static", "oracle"))
    schedule = part_of(config, "blocks")
    walk = Walk(None, static, oracle, lambda length: schedule(usual=length), **settings)  # type: ignore[arg-type]
    return replace(walk, model=_loaded(config))


def _loaded(config: Any) -> LanguageModel:
    node = {key: value for key, value in plain_of(config.model).items() if key != "path"}
    model: LanguageModel = build(node, role_of("model"), "model")
    return model


def _told(config: Any, walk: Walk, records: Records, training: FilterTraining) -> dict[str, Any]:
    """What the card and the file say of the filter's making."""
    from dlm import __version__
    from dlm.training.filter_file import vocabulary_of

    return {
        "dlm": __version__,
        "model": walk.model.name,
        "vocabulary": vocabulary_of(walk.model.tokenizer),
        "data": f"{config.data}, {config.n} each" if config.n else str(config.data),
        "prompts": len(records.prompt.unique()),
        "lines": len(records),
        "lengths": [walk.block_length, *walk.shorter],
        "levels": list(walk.levels),
        "seed": walk.seed,
        "training": asdict(training),
    }


def _write(out: Path, filter: Filter, judgement: Judgement, told: dict[str, Any], picture: bool) -> None:
    """The filter and everything beside it, each file whole."""
    from dlm.training.filter_card import card_of, draw_calibration, figures_of
    from dlm.training.filter_file import write_filter

    write_filter(out / "filter.safetensors", replace(filter, card=told))
    write_whole(out / "README.md", card_of(filter, judgement, told, "filter.safetensors"))
    write_whole(out / "judgement.json", figures_of(judgement, {**told, "threshold": filter.threshold}))
    if picture:
        draw_calibration(judgement, out / "calibration.png")


def _print(filter: Filter, judgement: Judgement, out: Path) -> None:
    from dlm.training.filter_card import shown_levels

    console = Console(file=sys.stdout)
    title = f"{judgement.lines} held-out lines, {judgement.positions} open positions"
    table = Table(title=Text(title), title_style="bold", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    for heading in ("threshold", "commits", "precision", "recall"):
        table.add_column(heading, justify="right")
    for level in shown_levels(judgement, filter.threshold):
        mark = " *" if level.threshold == filter.threshold else ""
        cells = (f"{level.accepted:.1%}", f"{level.precision:.2%}", f"{level.recall:.1%}")
        table.add_row(f"{level.threshold}{mark}", *cells)
    console.print(table)
    console.print(
        Text(f"loss {judgement.loss:.4f} nats; advised threshold (*) {filter.threshold}; {out}/filter.safetensors"),
        soft_wrap=True,
    )
