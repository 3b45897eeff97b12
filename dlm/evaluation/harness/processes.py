"""Several processes: what the harness asks of a model so that they can share its requests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlm.evaluation.shards import group


class Processes:
    """The processes that ``accelerate launch`` or ``torchrun`` started; one when neither did.

    All that the harness exchanges is small, so that everything goes through main memory, whatever the device.

    Raises:
        SettingsError: the launcher's variables contradict each other, or not all processes came.
    """

    def __init__(self) -> None:
        self._group = group()
        self.rank, self.world_size = self._group.rank, self._group.world

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, one behind the other."""
        if self.world_size == 1:
            return tensor
        return torch.cat([part.reshape(-1, *tensor.shape[1:]) for part in self._group.gather(tensor.cpu())])

    def gather_object(self, value: Any, dst: int = 0) -> list[Any] | None:
        """The values of all processes by rank on process ``dst``, None on the others."""
        values = self._group.gather(value)
        return values if self.rank == dst else None

    def barrier(self) -> None:
        """Wait for the others."""
        self._group.gather(None)
