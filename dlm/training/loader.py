"""Batches in step order, made in this process or ahead of time in worker processes."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized

from torch.utils.data import DataLoader, Dataset

from dlm.training.data import Batch, Mixture


class _Steps(Dataset[Batch]):
    """Maps a step to its batch; ``share`` is how much of the run was done when the trainer last asked."""

    def __init__(self, data: Mixture, rank: int, share: Synchronized[float]) -> None:
        self.data, self.rank, self.share = data, rank, share

    def __getitem__(self, step: int) -> Batch:
        return self.data.batch(step, self.share.value, self.rank)


class Loader:
    """Hands out the batches of one process of a run.

    Args:
        data: where batches come from.
        rank: of this process.
        workers: processes that make batches ahead; 0 makes them here, when they are asked for. Batches are the same,
            except that the share of the run by which the curriculum goes lags by the few batches made ahead.
    """

    def __init__(self, data: Mixture, rank: int, workers: int = 0) -> None:
        self.data, self.rank, self.workers = data, rank, workers
        self._share: Synchronized[float] = multiprocessing.Value("d", 0.0)
        self._ahead: Iterator[Batch] | None = None

    def batch(self, step: int, share: float) -> Batch:
        """The batch of ``step``; steps must be asked for one after the other."""
        if self.workers == 0:
            return self.data.batch(step, share, self.rank)
        self._share.value = share
        if self._ahead is None:
            batches, steps = _Steps(self.data, self.rank, self._share), itertools.count(step)
            loader = DataLoader(batches, batch_size=None, sampler=steps, num_workers=self.workers, prefetch_factor=4)
            self._ahead = iter(loader)
        return next(self._ahead)
