"""Several processes on one point: ``accelerate launch`` and ``torchrun`` say who is who.

Every process asks its own share of the questions and writes its own file. They meet twice: before the first question,
so that all agree on what is left to ask, and after the last. A process that dies lets the others go: its connection
closes, which ends their waiting with an error, and the launcher ends them in any case. All answers are kept by then.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

from dlm.errors import DlmError, SettingsError, StorageError
from dlm.evaluation.lines import Busy

PATIENCE = timedelta(days=7)  # how long the fastest process may wait for the slowest
T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes of a run."""

    # rank, world: which one this is, counted from 0, and how many there are
    rank: int = 0
    world: int = 1
    device: str | None = None  # where its model goes; None: wherever a single process would put it

    def gather(self, value: T) -> list[T]:
        """The value of every process, in order; all must call it. Raises DlmError: another process has died."""
        if self.world == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.world
        try:
            dist.all_gather_object(values, value, group=_talk())
        except RuntimeError as error:
            raise DlmError(
                f"process {self.rank} of {self.world} has lost the others (one of them died): what was answered is"
                " kept; run the same command again"
            ) from error
        return values

    def together(self, act: Callable[[], T]) -> T:
        """Do something in every process; if it fails in one, all raise. Raises DlmError: what ``act`` raised here or
        elsewhere."""
        value, fault = None, None
        try:
            value = act()
        except DlmError as error:
            fault = error
        faults = self.gather(None if fault is None else (type(fault).__name__, str(fault)))
        if fault is not None:
            raise fault
        for rank, told in enumerate(faults):
            if told is not None:
                kinds = {kind.__name__: kind for kind in (Busy, SettingsError, StorageError)}
                raise kinds.get(told[0], DlmError)(f"process {rank} of {self.world}: {told[1]}")
        return value  # type: ignore[return-value]


def check_alone(advice: str) -> None:
    """Refuse to be one of several processes of a launcher. Raises SettingsError with the advice."""
    if _world() != "1":
        raise SettingsError(advice)


def _world() -> str:
    return os.environ.get("WORLD_SIZE") or "1"


def group() -> Group:
    """The processes that a launcher has started, or this one alone. Raises SettingsError: the launcher's variables
    contradict each other."""
    return Group() if _world() == "1" else _joined()


@lru_cache(maxsize=1)
def _joined() -> Group:
    import torch
    from accelerate import PartialState

    try:
        # A GPU each where there is one each; otherwise all on the CPU, where NCCL has nothing to do.
        alone = not torch.cuda.is_available()
        state = PartialState(cpu=alone, timeout=PATIENCE, **({"backend": "gloo"} if alone else {}))
    except (ValueError, RuntimeError) as error:
        raise SettingsError(
            f"the launcher's settings (RANK, WORLD_SIZE, MASTER_ADDR, ...) do not fit: {error}"
        ) from error
    if state.num_processes != int(os.environ["WORLD_SIZE"]):
        raise SettingsError(
            f"{os.environ['WORLD_SIZE']} processes were asked for, and {state.num_processes} came together: start them"
            " with torchrun --nproc-per-node N, or accelerate launch --num_processes N"
        )
    atexit.register(_leave)
    device = None if alone else f"cuda:{state.local_process_index}"
    return Group(state.process_index, state.num_processes, device)


def _leave() -> None:
    """Joins the threads of the group while the interpreter still stands: one that lets go of its last tensor later
    aborts the process ("terminate called without an active exception")."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


@lru_cache(maxsize=1)
def _talk() -> Any:
    """A group of connections between main memories: they notice when the other end dies."""
    import torch.distributed as dist

    return dist.new_group(backend="gloo", timeout=PATIENCE)
