"""Who of several versions of a row sees which keys and values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass
class Fresh:
    """Keys and values that one layer computed for versions, to be kept if they are: ``[R, T, ...]`` each.

    A holder per layer, so that compiled layers all look alike.
    """

    keys: Any = None
    values: Any = None


@dataclass(frozen=True)
class BranchVisibility:
    """Who of several versions sees what: the latest entry of every position on the way to it.

    Attributes:
        slot: the store's row each version looks at. ``[R]``
        positions: what each version is fed, the last column for unused entries. ``[R, T]``
        fed: the same as a mask. ``[R, W]``
        before: the version that computed a position last among those it follows; -1: none did, the store has it.
            ``[R, W]``
        borrowed: positions it is not fed whose entry is another version's, the last column for unused ones. ``[R, X]``
        reach: how many columns are attended to.
    """

    slot: Int[Tensor, " R"]
    positions: Int[Tensor, "R T"]
    fed: Bool[Tensor, "R W"]
    before: Int[Tensor, "R W"]
    borrowed: Int[Tensor, "R X"]
    reach: int

    @cached_property
    def latest(self) -> Int[Tensor, "R W"]:
        """The version whose entry each version sees at a position; -1: the store's."""
        own = torch.arange(self.fed.shape[0], device=self.fed.device)
        return torch.where(self.fed, own[:, None], self.before)

    @cached_property
    def entry(self) -> Int[Tensor, "R W"]:
        """Where in its feed each version has a position; 0 where it has not."""
        entries = torch.arange(self.positions.shape[1], device=self.positions.device).expand_as(self.positions)
        return torch.zeros_like(self.before).scatter(1, self.positions, entries)

    def doubled(self, rows: int) -> BranchVisibility:
        """For two streams, the second in the store's rows from ``rows`` on."""
        second, versions = self.before + self.fed.shape[0], self.fed.shape[0]
        assert versions == self.before.shape[0]
        return BranchVisibility(
            slot=torch.cat([self.slot, self.slot + rows]),
            positions=torch.cat([self.positions] * 2),
            fed=torch.cat([self.fed] * 2),
            before=torch.cat([self.before, torch.where(self.before < 0, self.before, second)]),
            borrowed=torch.cat([self.borrowed] * 2),
            reach=self.reach,
        )
