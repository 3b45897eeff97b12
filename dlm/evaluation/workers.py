"""The workers of a sweep: Hydra's launcher starts them, and those of this machine end with the process that asked."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dlm.configuration import compose_config
from dlm.errors import DlmError, SettingsError, StorageError
from dlm.overrides import config_dir, quoted
from dlm.words import not_among

LAUNCHERS = {"joblib": "joblib", "local": "submitit_local", "slurm": "submitit_slurm", "ray": "ray"}
# Mappings of launchers that begin empty: any key may be added.
OPEN = ("launcher.ray.init.", "launcher.ray.remote.", "launcher.additional_parameters.")
LOOK = 1.0  # seconds between two looks at whether the sweep's own process is still there


def as_hydra(override: str) -> str:
    """``launcher=slurm`` and ``launcher.KEY=VALUE`` as Hydra spells them; anything else as it is. Raises SettingsError:
    an unknown launcher."""
    key, equals, value = override.partition("=")
    if key == "launcher":
        if value not in LAUNCHERS:
            raise SettingsError(not_among("launcher", value, LAUNCHERS))
        return f"hydra/launcher={LAUNCHERS[value]}"
    if not equals or not key.startswith("launcher."):
        return override
    return f"{'++' if f'{key}.'.startswith(OPEN) else ''}hydra.{override}"


def for_hydra(override: str) -> bool:
    """Whether an override in Hydra's spelling is about its launcher."""
    return override.lstrip("+").startswith("hydra")


def check_launcher(launcher: Sequence[str]) -> None:
    """Refuse a launcher that is not there, and settings that it does not know. Raises SettingsError: with what can be
    done about it."""
    try:
        compose_config("worker", ["plan=''", *launcher], chosen=True)
    except SettingsError as error:
        wanted = [o.partition("=")[2] for o in launcher if o.startswith("hydra/launcher=")]
        if wanted and f"launcher/{wanted[-1]}'" in str(error):
            raise SettingsError(
                f"there is no launcher {wanted[-1]!r} here: joblib, slurm and local (submitit) come with pip"
                " install 'dlm[sweep]', ray with pip install hydra-ray-launcher"
            ) from error
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        if root is error or "launcher" not in str(error):
            raise
        known: Any = getattr(getattr(root, "parent_node", None), "keys", tuple)()  # OmegaConf says where it looked
        settings = ", ".join(sorted(str(key) for key in known if not str(key).startswith("_")))
        named = str(getattr(root, "full_key", "")).removeprefix("hydra.")
        told = f"; it knows {settings}" if settings else ""
        raise SettingsError(f"{named}: {str(root).splitlines()[0]}{told}") from error


def launch(plan: Path, workers: int, launcher: Sequence[str], work: Callable[[Any], None]) -> None:
    """Start the workers of a plan by Hydra's launcher, each with ``work`` as its job, and wait for them. Raises
    StorageError: a worker was ended from outside, or could not begin; what was answered is kept."""
    import hydra

    app = hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="worker")(work)
    numbers = ",".join(map(str, range(workers)))
    folder = plan.resolve().parent
    arguments = [
        "-m",
        f"plan={quoted(str(plan.resolve()))}",
        f"worker={numbers}",
        f"hydra.sweep.dir={quoted(str(folder))}",
    ]
    if "hydra/launcher=submitit_slurm" in launcher:
        from dlm.evaluation.slurm import watch_queue

        watch_queue()
    before, sys.argv = sys.argv, ["dlm", *arguments, *launcher]
    raw = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, and Hydra prints none
    try:
        app()
    except DlmError:
        raise
    except Exception as error:
        said = (str(error).strip() or "no reason given").splitlines()[0].split(". ")[0]
        raise StorageError(
            f"the sweep's workers ended early ({type(error).__name__}: {said}): what was answered is kept, and the same"
            " command goes on"
        ) from error
    finally:
        sys.argv = before
        if raw is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = raw


def end_with_parent() -> None:
    """Watch the process that started this one, and end with it."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when its parent has ended: it would go on for hours, and nobody would know of it.

    What it has answered is on file; that of the batch in hand is asked again.
    """
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)
