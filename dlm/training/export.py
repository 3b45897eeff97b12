"""From a training run to a model folder: averaged weights in half precision, configuration, tokenizer, model card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from dlm.errors import CheckpointError
from dlm.files import write_whole
from dlm.models import LLaDAConfig, LLaDAModelLM
from dlm.models.checkpoint import resolve
from dlm.training.card import write_card
from dlm.training.checkpoint import read_checkpoint

HISTORY = "training.json"
# The size the package allows: it travels with every installation.
_LARGEST_BYTES = 16 * 2**20


def export(run: Path, target: Path) -> dict[str, Any]:
    """Write the model of a run to ``target``, loadable by :func:`dlm.load`, and return its training history.

    ``target`` gets ``config.json`` and ``model.safetensors`` (the averaged weights, float16, public LLaDA keys), the
    tokenizer files, ``training.json`` (settings, progress and the log; under ``before`` those of the model the run
    began with) and the model card ``README.md``. An evaluation of other weights that lies there is removed.

    Raises:
        CheckpointError: the run has no checkpoint yet, or the model is larger than 16 MB.
    """
    if not (run / "checkpoint.safetensors").is_file():
        raise CheckpointError(f"{run} holds no checkpoint.safetensors; train first: dlm train tiny")
    state, progress = read_checkpoint(run / "checkpoint.safetensors")
    progress.pop("told", None)
    model = LLaDAModelLM(LLaDAConfig.from_pretrained(run))
    average = {name.removeprefix("average."): value for name, value in state.items() if name.startswith("average.")}
    model.load_state_dict(average, strict=True)
    size = 2 * sum(p.numel() for p in model.parameters())
    if size > _LARGEST_BYTES:
        raise CheckpointError(
            f"the model takes {size / 2**20:.1f} MB in half precision, 16 MB is the limit; train a smaller one"
        )
    target.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(target)
    (target / "model.safetensors").chmod(0o644)  # written with the mode of a temporary file
    for file in (run / "tokenizer").iterdir():
        shutil.copyfile(file, target / file.name)
    history = _history(run, progress, model)
    write_whole(target / HISTORY, json.dumps(history, indent=1) + "\n")
    for stale in ("evaluation.json", "evaluation.csv"):
        (target / stale).unlink(missing_ok=True)
    write_card(target)
    return history


def _history(run: Path, progress: dict[str, Any], model: LLaDAModelLM) -> dict[str, Any]:
    """What was trained, with which settings, and how it went: a tenth of the loss lines, every accuracy line."""
    log_file = run / "log.jsonl"
    log = [json.loads(line) for line in log_file.read_text(encoding="utf-8").splitlines()] if log_file.is_file() else []
    losses = [line for line in log if "loss" in line]
    settings = _settings(run / "config.yaml")
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "progress": progress,
        "settings": settings,
        "loss": [_rounded(line) for line in losses[:: max(1, len(losses) // 40)]],
        "accuracy": [line for line in log if "accuracy" in line],
        **_before(settings or {}),
    }


def _before(settings: dict[str, Any]) -> dict[str, Any]:
    """The history of the model a run began with, where it has one."""
    if settings.get("start_from") is None:
        return {}
    file = resolve(settings["start_from"]) / HISTORY
    if not file.is_file():
        return {}
    history = json.loads(file.read_text(encoding="utf-8"))
    # Exported a second time the run finds itself where it began.
    itself = history["settings"] == settings
    return {"before": history["before"] if itself else history}


def _rounded(line: dict[str, Any]) -> dict[str, Any]:
    return {**line, "loss": {name: round(value, 3) for name, value in line["loss"].items()}}


def _settings(path: Path) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else None
