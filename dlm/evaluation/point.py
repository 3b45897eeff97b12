"""A point: one configuration to evaluate, its identity and the folder it is kept in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What a run may choose without changing any answer: left out of the identity, written down in the manifest.
FREE = ("device", "device_map", "path")
# Settings of a model that are left out while nobody sets them: folders written before they were there keep their names.
UNSET = ("quantize", "adapter")
# Where a task's data lies; what is in it stands, hashed, in the task's identity.
PLACES = ("path", "shots_path", "dir", "data")
PARTS = ("model", "task", "sampler", "blocks", "cache", "drafting")
IDENTITY_VERSION = 1


@dataclass(frozen=True)
class Point:
    """One configuration: everything that answers, scores and forwards depend on."""

    # plain values: the parts ``model``, ``task``, ``sampler``, ``blocks``, ``cache``, ``drafting``, each with the
    # ``choice`` its group was set to; ``max_new_tokens`` (None: the template says it); ``form``; and ``identity``, what
    # the task says of its data and scorers
    config: dict[str, Any]
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hash", hashlib.sha256(canonical(self.identity).encode()).hexdigest()[:16])

    @property
    def identity(self) -> dict[str, Any]:
        """What is hashed: the configuration without what cannot change an answer."""
        given = {key: value for key, value in self.config["model"].items() if key not in FREE}
        model = {key: value for key, value in given.items() if key not in UNSET or value is not None}
        task = {key: value for key, value in self.config["task"].items() if key not in PLACES}
        return {**self.config, "model": model, "task": task, "version": IDENTITY_VERSION}

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.config["task"]["name"])

    @property
    def method(self) -> str:
        """Sampler, and cache and drafter where there are any: ``threshold + dual``."""
        names = [self.config[part]["choice"] for part in ("sampler", "cache", "drafting")]
        return " + ".join([names[0], *(name for name in names[1:] if name != "none")])

    def folder(self, out: Path) -> Path:
        """Where its lines are kept: ``out/<task>/<sampler>-<hash>``."""
        return out / self.task.replace("/", "-") / f"{self.config['sampler']['choice']}-{self.hash}"


def canonical(values: Any) -> str:
    """One spelling of plain values: keys sorted, no blanks, 1.0 and 1 told apart. Raises TypeError: something JSON has
    no word for."""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def differing(mine: Any, other: Any, name: str = "") -> list[str]:
    """The keys in which two configurations differ, as ``sampler.threshold (0.9, was 0.8)``."""
    if isinstance(mine, dict) and isinstance(other, dict):
        found = []
        for key in sorted({*mine, *other}):
            found += differing(mine.get(key), other.get(key), f"{name}.{key}" if name else str(key))
        return found
    try:
        same = canonical(mine) == canonical(other)
    except ValueError:  # a damaged file may hold what no configuration does
        same = False
    return [] if same else [f"{name} ({mine!r}, was {other!r:.200})"]
