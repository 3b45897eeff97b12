"""Bases of parts: one that remembers nothing between steps, and the answers most parts give."""

from __future__ import annotations

from dlm.engine.canvas import Canvas
from dlm.engine.proposal import Statistic


class PartDefaults:
    """What most parts say of themselves; a subclass says otherwise where it has to (``uses_budget = True``)."""

    @property
    def uses_budget(self) -> bool:
        """Of a selector: it decides by itself how many positions to commit."""
        return False

    @property
    def non_negative(self) -> bool:
        """Of a score: it may be negative, so that scaling it down may raise it."""
        return False

    @property
    def needs(self) -> frozenset[Statistic]:
        """Statistics beyond the probability that the part reads: none."""
        return frozenset()

    @property
    def order_known(self) -> bool:
        """Of a score, selector or budget: it reads the proposals, so its answer is not known before the forward."""
        return False

    @property
    def compares_steps(self) -> bool:
        """It holds proposals of this step against those of the last one."""
        return False

    @property
    def idle_steps(self) -> int:
        """Every step of this part commits something."""
        return 0


class Stateless(PartDefaults):
    """A part whose memory is None: ``init`` gives it, ``step`` hands it back untouched."""

    def init(self, canvas: Canvas) -> None:
        """Nothing to remember."""
        return
