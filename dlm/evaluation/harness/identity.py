"""What answers depend on, as a digest: two configurations never share an answer."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import torch

from dlm import __version__
from dlm.models import LanguageModel

_LOOKED_AT = 16  # values of each weight: enough to tell two checkpoints of one shape apart


def decode_digest(model: LanguageModel, *settings: Any) -> str:
    """16 hexadecimal digits that differ where the model, a setting or the version of this package does.

    A part that does not say what it is made of (an object without a ``repr`` of its own) has another digest in every
    process: its answers are then never taken from a cache, which is safe.
    """
    description = [__version__, model.name, repr(model.description), str(model.dtype), _weights(model), repr(settings)]
    return hashlib.sha256("\n".join(description).encode()).hexdigest()[:16]


def _weights(model: LanguageModel) -> str:
    """Shapes and first values of all weights."""
    named = getattr(model.backbone, "named_parameters", None)
    if named is None:
        return type(model.backbone).__name__
    names, values = [], []
    for name, weight in named():
        names.append(f"{name} {tuple(weight.shape)}")
        values.append(weight.detach().flatten()[:_LOOKED_AT].double().cpu())
    return " ".join(names) + hashlib.sha256(torch.cat(values).numpy().tobytes()).hexdigest()


def describe_settings(*settings: Any) -> list[str]:
    """The settings as text for result files; addresses of objects left out."""
    return [re.sub(r" at 0x[0-9a-f]+", "", repr(setting)) for setting in settings]
