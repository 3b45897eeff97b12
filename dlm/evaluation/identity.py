"""What a point depends on: its configuration, the files of its model, and the noise of each question."""

from __future__ import annotations

import hashlib
import platform
import socket
import subprocess
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dlm.evaluation.point import PARTS, canonical
from dlm.tasks.base import Instance, Task
from dlm.tasks.checks import checked_instance

# Keys of the group `task` that choose which questions are asked and how, taken away before the task is built.
EVALUATION_KEYS = ("limit", "form")
_MODEL_FILES = (".json", ".safetensors", ".txt", ".jinja")
_WHOLE = 1 << 24  # bytes; larger files are looked at in places
_PIECE, _PIECES = 1 << 16, 64  # bytes of a place, and how many places


def instance_key(seed: int, instance_id: str) -> int:
    """Key of the noise of a question: the same in any batch, order and process."""
    digest = hashlib.sha256(repr((int(seed), instance_id)).encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


class Questions:
    """A task and the instances that were drawn of it, each with an id of its own.

    What a generator draws a second time gets ``-2`` behind its id, and so on.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._drawn: list[Instance] = []
        self._copies: Counter[str] = Counter()

    def first(self, n: int) -> list[Instance]:
        """The first ``n`` of them."""
        while len(self._drawn) < n:
            instance = checked_instance(self.task, len(self._drawn))
            self._copies[instance.instance_id] += 1
            if (copy := self._copies[instance.instance_id]) > 1:
                instance = replace(instance, instance_id=f"{instance.instance_id}-{copy}")
            self._drawn.append(instance)
        return self._drawn[:n]


def point_config(
    plain: Mapping[str, Any], choices: Mapping[str, Any], task: Task, canvas: int | None
) -> dict[str, Any]:
    """The configuration of a point (:attr:`dlm.evaluation.point.Point.config`).

    Args:
        plain: the composed configuration, resolved.
        choices: what each group was set to.
        task: the task, opened.
        canvas: positions to fill; None in infill form, where the template says it.

    Raises:
        SettingsError: an unknown dtype or device.
    """
    config: dict[str, Any] = {}
    for part in PARTS:
        chosen = choices.get(part) or str(plain[part].get("_target_", part)).rpartition(".")[2]
        config[part] = {"choice": str(chosen), **plain[part]}
    config["model"]["dtype"] = _dtype(config["model"])
    if config["sampler"].get("probe", "") is None:  # as folders written before probes have it
        config["sampler"]["lookahead"] = config["sampler"].pop("probe")
    if config["sampler"].get("constraint", "") is None:  # as folders written before constraints have it
        del config["sampler"]["constraint"]
    config["task"] = {k: v for k, v in config["task"].items() if k not in EVALUATION_KEYS} | {"name": task.name}
    config |= {"max_new_tokens": canvas, "form": plain["task"].get("form", "auto"), "identity": task.identity}
    canonical(config)
    return config


def _dtype(model: Mapping[str, Any]) -> Any:
    """The number format the model would get on this machine, by its name."""
    if model.get("_target_") != "dlm.load":
        return model.get("dtype")
    from dlm.models.loading import pick_device, pick_dtype

    device = pick_device(None if model.get("device_map") is not None else model.get("device"))
    return str(pick_dtype(model.get("dtype"), device)).removeprefix("torch.")


def fingerprint(model: Mapping[str, Any], fetched: bool = False) -> str | None:
    """Hash of the files of a model and its adapters: names, sizes and contents, of large files in places. None: there
    are none to look at.

    Args:
        model: the configuration of the model.
        fetched: whether a model of the hub has been fetched, so that its files are here.

    Raises:
        CheckpointError: a folder that is not there.
    """
    name, adapter = model.get("name_or_path"), model.get("adapter")
    if model.get("_target_") != "dlm.load" or name is None:
        return None
    from dlm.models.adapters import base_and_adapters, base_of

    names = [str(given) for given in (name, adapter, base_of(Path(name).expanduser())) if given is not None]
    if not fetched and any(map(_of_the_hub, names)):
        return None
    folder, adapters = base_and_adapters(name, adapter)
    paths = [p for f in (folder, *adapters) for p in sorted(f.iterdir()) if p.suffix in _MODEL_FILES and p.is_file()]
    return _contents(tuple((path, about.st_size, about.st_mtime_ns) for path in paths for about in [path.stat()]))


def _of_the_hub(name: str) -> bool:
    return name != "tiny" and not Path(name).expanduser().is_dir() and name.count("/") == 1


@lru_cache(maxsize=8)
def _contents(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hash of files given with size and time of change: a sweep reads them once."""
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(repr((path.name, size)).encode())
        with path.open("rb") as file:
            if size <= _WHOLE:
                digest.update(file.read())
                continue
            for piece in range(_PIECES):
                file.seek((size - _PIECE) * piece // (_PIECES - 1))
                digest.update(file.read(_PIECE))
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def machine() -> dict[str, Any]:
    """Versions and the machine, for the manifest."""
    import dlm

    versions = {"dlm": dlm.__version__, "python": platform.python_version()}
    for package in ("torch", "transformers"):
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"versions": versions, "git": _commit(), "machine": f"{socket.gethostname()} {platform.platform()}"}


def _commit() -> str | None:
    """The commit of this checkout; None where dlm is installed without one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
