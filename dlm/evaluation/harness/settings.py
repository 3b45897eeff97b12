"""From settings as text to a model of the harness: Hydra overrides, and the harness's ``model_args``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from dlm.configuration import Composed, compose_config, parts_of
from dlm.errors import SettingsError
from dlm.evaluation.harness.answers import AnswerFile
from dlm.evaluation.harness.likelihood import Likelihood
from dlm.evaluation.shards import group
from dlm.overrides import choices

M = TypeVar("M")

# What the harness's command gives to every model and what has no meaning here.
PASSED_OVER = ("max_batch_size", "trust_remote_code")


def built(parts: Composed, cls: Callable[..., M], samples: str | Path | None) -> M:
    """The model of composed parts; everything is checked before it is loaded. Among several processes each takes the
    GPU of its own. Raises SettingsError: values out of range, ``samples`` that cannot be read."""
    likelihood = Likelihood(**parts.config["likelihood"])
    tokens, rows = whole("max_new_tokens", parts.max_new_tokens), whole("batch_size", parts.batch_size)
    answers = AnswerFile(None if samples is None else Path(samples), group().rank)
    if (device := group().device) is not None and parts.config["model"].get("device") is None:
        parts.config["model"]["device"] = device
    return cls(
        parts.load_model(), sampler=parts.sampler, cache=parts.cache, drafter=parts.drafter, seed=parts.seed,
        max_new_tokens=tokens, batch_size=rows, samples=answers, likelihood=likelihood,
        stop_early=parts.config["stop_early"],
    )  # fmt: skip


def from_model_args(arguments: dict[str, Any], cls: Callable[..., M]) -> M:
    """See :meth:`dlm.evaluation.harness.model.HarnessModel.create_from_arg_obj`. Raises SettingsError: no model, both
    names of it, unknown settings."""
    rest = {key: value for key, value in arguments.items() if key not in PASSED_OVER}
    names = [rest.pop(key) for key in ("pretrained", "path") if key in rest]
    if len(names) != 1:
        raise SettingsError("model_args must name one model: pretrained=tiny, a folder or a Hugging Face id")
    samples = rest.pop("samples", None)
    device = rest.pop("device", None)
    if device is not None and (torch.cuda.is_available() or not str(device).startswith("cuda")):
        rest["model.device"] = group().device or device
    overrides = [*model_overrides(str(names[0])), *(f"{key}={_text(value)}" for key, value in rest.items())]
    return built(parts_of(compose_config("lm_eval", overrides)), cls, samples)


def model_overrides(name: str) -> list[str]:
    """The overrides that choose a model by its name in ``conf/model``, its folder or its Hugging Face id."""
    if name in choices("model") and name != "local":
        return [f"model={name}"]
    return ["model=local", f"model.path='{name}'"]


def whole(name: str, value: int | str) -> int:
    """A whole number of at least 1, also where it comes as text. Raises SettingsError: it is none (``auto`` is none:
    how much fits into memory is found out while decoding)."""
    number = int(value) if isinstance(value, str) and value.strip().isdigit() else value
    if type(number) is not int or number < 1:
        raise SettingsError(f"{name} must be a whole number of at least 1, got {value!r}")
    return number


def _text(value: Any) -> str:
    """A value as Hydra reads it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
