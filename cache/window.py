"""Suffix pruning (Streaming-dLLM, arXiv 2601.17917; DPad; Window-Diffusion, arXiv 2601.20332)."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool
from torch import Tensor

from cache.context import PolicyContext
from cache.dual import Dual
from cache.policy import Policy
from cache.settings import at_least
from dlm.engine.canvas import Canvas
from dlm.engine.proposal import Statistic
from dlm.engine.row import Row
from dlm.engine.sampler import Sampler
from dlm.engine.step import State, StepView
from dlm.errors import SettingsError
from dlm.models.backbone import ModelDescription


@dataclass(frozen=True)
class Window(Policy):
    """Masks far behind the block are absent, even when everything is recomputed: a row is what precedes the block, the
    block, the next ``ahead`` positions, and (``tail``) the last one, which tells the model how long the row is. On top
    works another cache.

    Positions keep their numbers. What comes into sight is fed by the stamp rule.

    Attributes:
        inner: the policy for what is in sight.
        ahead: positions in sight behind the block (published: 32 to 256).
        tail: whether the last position of the row stays in sight.

    Raises:
        SettingsError: a negative ``ahead``; an ``inner`` that narrows what may be committed or is a window itself.
    """

    inner: Policy = field(default_factory=Dual)
    ahead: int = 96
    tail: bool = True

    composable = False

    def __post_init__(self) -> None:
        at_least(0, ahead=self.ahead)
        if not self.inner.block_always_fresh or not self.inner.composable:
            raise SettingsError(
                f"window cannot be laid around {type(self.inner).__name__}: give a policy that only says which"
                " positions are recomputed (Dual, Prefix, Vicinity, DKVDecode, Entropy)"
            )

    @property
    def schedule_known(self) -> bool:  # type: ignore[override]
        """As the inner policy."""
        return self.inner.schedule_known

    @property
    def needs(self) -> frozenset[Statistic]:
        return self.inner.needs

    @property
    def spans_blocks(self) -> bool:  # type: ignore[override]
        """As the inner policy."""
        return self.inner.spans_blocks

    @property
    def refreshes_with_blocks(self) -> bool:  # type: ignore[override]
        """As the inner policy."""
        return self.inner.refreshes_with_blocks

    def refusal(self, sampler: Sampler, description: ModelDescription) -> str | None:
        return self.inner.refusal(sampler, description)

    def init(self, canvas: Canvas) -> State:
        return self.inner.init(canvas)

    def refreshes(self, row: Row) -> bool:
        return self.inner.refreshes(row)

    def active(self, context: PolicyContext, state: State) -> Bool[Tensor, "B W"]:
        return self.inner.active(context, state)

    def visible(self, context: PolicyContext) -> Bool[Tensor, "B W"]:
        near = context.columns < context.block_end + self.ahead
        last = context.columns == context.query.canvas.end[:, None] - 1
        return near | last if self.tail else near

    def remember(self, view: StepView, chosen: Bool[Tensor, "B N"], state: State) -> tuple[State, dict[str, Tensor]]:
        return self.inner.remember(view, chosen, state)
