"""What has become improbable and was not written anew is masked again."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Reviser
from dlm.engine.step import StepView
from samplers.selectors.hierarchy import HierarchyRemask, check_doubt, doubted


@dataclass(frozen=True)
class RemaskDoubtful(Reviser):
    """Remask committed positions of the block whose best token now has probability < ``doubt``, unless this step has
    chosen them (dInfer's hierarchical decoder with remasking). Bounded only with the selector that commits more than it
    doubts, :class:`samplers.HierarchyRemask` with the same ``doubt``.

    Raises:
        SettingsError: doubt outside [0, 1].
    """

    doubt: float = 0.4

    partners = (HierarchyRemask,)

    def __post_init__(self) -> None:
        check_doubt(self.doubt)

    def fits(self, selector: HierarchyRemask) -> str | None:
        """Why the two would not come to an end together."""
        if selector.doubt == self.doubt:
            return None
        return f"doubt is {self.doubt} here and {selector.doubt} there, give both the same"

    def step(self, view: StepView, chosen: Bool[Tensor, "B N"], state: None) -> tuple[Bool[Tensor, "B W"], None]:
        again = doubted(view, self.doubt) & ~chosen
        return view.on_canvas(again.float()) > 0, state
