"""Base of parts that remember nothing between steps."""

from __future__ import annotations

from dlm.canvas import Canvas
from dlm.proposal import Statistic


class Stateless:
    """A part whose memory is None: ``init`` gives it, ``step`` hands it back untouched."""

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics beyond the probability that the part reads: none."""
        return frozenset()

    @property
    def idle_steps(self) -> int:
        """Every step of this part commits something."""
        return 0

    def init(self, canvas: Canvas) -> None:
        """Nothing to remember."""
        return
