"""Points to run in tests: a configuration in a line, and doubles of models that go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dlm
from dlm.configuration import Composer
from dlm.evaluation.runner import Models, Outcome, Ready, prepare
from dlm.evaluation.sample import TIMES
from dlm.evaluation.session import run_point

_COMPOSER = Composer("eval")
SMALL = ("task=waiting_line/copy", "task.limit=6", "batch_size=4")


def ready(out: Path, *overrides: str) -> Ready:
    """A small point with its results under ``out``."""
    given = {override.partition("=")[0]: override for override in (*SMALL, *overrides)}  # the last one counts
    config = _COMPOSER(list(given.values()))
    config["out"] = str(out)
    return prepare(config)


class Held(Models):
    """Gives one model to every point and counts how often it is asked to."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.asked = model, 0

    def get(self, parts: Any, device: str | None = None) -> Any:
        self.asked += 1
        return self.model


def go(out: Path, *overrides: str, model: Any = None) -> Outcome:
    """Run a small point with the packaged model, or another."""
    return run_point(ready(out, *overrides), Held(model or tiny()), quiet=True)


def tiny() -> Any:
    """The packaged model, loaded once."""
    if "tiny" not in _MODELS:
        _MODELS["tiny"] = dlm.load("tiny", device="cpu")
    return _MODELS["tiny"]


_MODELS: dict[str, Any] = {}


def lines(folder: Path, kind: str = "samples") -> list[dict[str, Any]]:
    """All lines of a folder in one order, without what two runs may differ in."""
    found = [json.loads(line) for path in folder.glob(f"{kind}*.jsonl") for line in path.read_text().splitlines()]
    plain = [{key: value for key, value in line.items() if key not in TIMES} for line in found]
    return sorted(plain, key=lambda line: (line["seed"], line["index"]))


class Faulty:
    """The packaged model with a fault that a question sets off: the one whose prompt has the token ``mark``."""

    def __init__(self, mark: int, fault: str) -> None:
        self.whole = tiny()
        self.mark, self.fault, self.broken = mark, fault, True
        self.backbone = _FaultyBackbone(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


class _FaultyBackbone:
    def __init__(self, owner: Faulty) -> None:
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner.whole.backbone, name)

    def hidden(self, tokens: Tensor, *rest: Any, **options: Any) -> Tensor:
        owner = self._owner
        hit = (tokens == owner.mark).any(dim=1) & torch.tensor(owner.broken)
        if owner.fault == "crash" and bool(hit.any()):
            raise ZeroDivisionError("a bug in the model")
        if owner.fault == "memory" and bool(hit.any()):
            raise torch.OutOfMemoryError("out of memory")
        states = owner.whole.backbone.hidden(tokens, *rest, **options)
        return torch.where(hit[:, None, None], torch.nan, states) if owner.fault == "nan" else states
