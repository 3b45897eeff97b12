"""``dlm train``: everything that is trained, one word each, through one loop (:mod:`dlm.training.loop`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm.commands.common import asks_help
from dlm.errors import SettingsError
from dlm.evaluation.progress import progress_bar
from dlm.files import write_whole
from dlm.words import meant

if TYPE_CHECKING:
    from dlm.models import LanguageModel
    from dlm.training.loop import Loop

KINDS = {
    "rl": "reinforcement on rollouts: CJ-GRPO, coupled-GRPO and diffu-GRPO by settings",
    "distill": "certainty-forcing distillation of a model's own right answers (dParallel)",
    "policy": "the policy of sampler=policy: GRPO on right answers in few forwards",
    "filter": "the filter of sampler=learn2pd, from a model's own answers (also: dlm train-filter)",
    "drafter": "a model that drafts for an autoregressive one (dlm deer), from that one's answers",
    "ar": "a small autoregressive model on the packaged tasks, which verifies drafts (dlm deer)",
    "tiny": "a model like the packaged ones from scratch, or on from given weights",
}
HELP = f"""dlm train: models, adapters and filters, one word each.

usage: dlm train WORD [key=value ...]

{chr(10).join(f"  {kind:<9}{line}" for kind, line in KINDS.items())}

dlm train WORD --help explains one. A run that is killed goes on where it stopped when the same command is given again,
and ends with the weights that an unbroken one has. Several processes (not filter): torchrun --nproc-per-node N -m dlm
train WORD ...

examples:
  dlm train rl task=waiting_line/shuffle out=trained
  dlm train distill out=distilled
"""


def run(overrides: list[str]) -> int:
    """Run what the first word names; returns the exit status."""
    if not overrides or overrides[0] not in KINDS:
        if asks_help(overrides) or not overrides:
            print(HELP)
            return 0
        near = meant(overrides[0], KINDS)
        raise SettingsError(
            f"dlm train {overrides[0]} is unknown{near}: it trains {', '.join(KINDS)} (dlm train --help)"
        )
    return int(import_module(f"dlm.commands.train_{overrides[0]}").run(overrides[1:]))


def trained(loop: Loop, out: Path, shown: Sequence[str]) -> list[dict[str, Any]]:
    """Run a loop to its end beside a progress bar; returns the lines of ``out/log.jsonl``, earlier runs' among them.

    ``shown``: figures of a line that the bar says.
    """
    from dlm.training.loop import append_line

    log = out / "log.jsonl"
    lines = [line for line in _lines(log) if line["step"] <= loop.progress.step] if loop.rank == 0 else []
    if loop.rank == 0:  # what was not kept is done again
        write_whole(log, "".join(f"{json.dumps(line)}\n" for line in lines))
        if not lines and (before := loop.evaluate()):
            lines.append({"step": 0, **before})
            append_line(log, lines[-1])
    with progress_bar(quiet=loop.rank > 0) as bar:
        task = bar.add_task("training", total=1.0)
        bar.update(task, completed=loop.schedule.share(loop.progress.step, loop.progress.seconds))

        def report(line: dict[str, Any]) -> None:
            lines.append(line)
            append_line(log, line)
            told = "  ".join(f"{name} {line[name]:.3g}" for name in shown if name in line)
            done = loop.schedule.share(line["step"], line.get("minutes", 0.0) * 60) if "minutes" in line else None
            bar.update(task, description=f"step {line['step']}  {told}" if told else None, completed=done)

        loop.run(report)
    return lines


def kept(loop: Any, out: Path, told: Mapping[str, Any]) -> Path:
    """Write what was trained (``loop.trainee``), and ``training.json`` with what it was trained on and how; returns the
    folder of the model or adapter."""
    folder = out / ("model" if loop.how.lora is None else "adapter")
    loop.trainee.keep(folder)
    write_whole(out / "training.json", json.dumps({**told, **asdict(loop.how)}, indent=1))
    return folder


def picture(config: Any, lines: Sequence[dict[str, Any]], names: Sequence[str], out: Path) -> None:
    """``curve.png``: these figures by step, where there are any and pictures are wanted."""
    if config.pictures and any(name in line for line in lines for name in names):
        from dlm.training.curves import draw

        one = names[0] if len(names) == 1 else None
        draw({"" if one else name: [lines] for name in names}, one, out / "curve.png")


def _lines(log: Path) -> list[dict[str, Any]]:
    """The lines of a log; the last one may have been torn by a kill."""
    found = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def trainable(config: Any, gradients: bool = True, lora: int | None = None) -> LanguageModel:
    """The model that a configuration names, with weights that want ``gradients`` or do not; of several processes each
    has its own on its own device. Weights that are trained themselves, without ``lora``, are float32: small steps are
    rounded away in half precision.

    Raises:
        SettingsError: another number format is asked for.
    """
    from dlm.building import build, role_of
    from dlm.configuration import plain_of
    from dlm.evaluation.shards import group

    node = {key: value for key, value in plain_of(config.model).items() if key != "path"}
    node["device"] = node.get("device") or group().device
    if gradients and lora is None:
        if node.get("dtype") not in (None, "float32", "float64"):
            raise SettingsError(f"model.dtype={node['dtype']} rounds small steps away: float32, or training.lora=8")
        node["dtype"] = node.get("dtype") or "float32"
    model: LanguageModel = build({**node, "trainable": gradients}, role_of("model"), "model")
    return model


def place(config: Any) -> Path:
    """The folder that ``out=`` names. Raises SettingsError: none is named."""
    from dlm.commands.common import folder_of

    out = folder_of(config.out, config.pictures)
    if out is None:
        raise SettingsError("out is not given: add out=DIR, where the result goes, and what a killed run goes on from")
    return out
