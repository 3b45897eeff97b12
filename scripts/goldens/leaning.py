"""Whether two runs part at equal scores: ours again, every number moved by its rounding error towards the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dlm.engine.interfaces import ScoreModifier, Speculator
from dlm.engine.sampler_run import SamplerState
from dlm.engine.step import StepView
from dlm.engine.stepper import PlainStepper, StepInputs, StepTools
from scripts.goldens.cases import Case


@dataclass(frozen=True)
class Leaning(Speculator):
    """Plain steps in which every number of the proposal is moved by ``tolerance`` towards what the record did next.

    Attributes:
        canvases: the recorded canvas after every call.
        tolerance: how far; see :data:`scripts.goldens.rules.TIE`.
    """

    canvases: Sequence[Sequence[int]]
    tolerance: float

    @classmethod
    def towards(cls, case: Case, tolerance: float) -> Leaning:
        """Towards a record of one row that says when each position was committed."""
        steps = case.commit_step[0]
        return cls([[case.mask_id if step > call else -1 for step in steps] for call in range(case.nfe)], tolerance)

    def stepper(self, tools: StepTools) -> PlainStepper:
        return _LeaningStepper(tools, self)


@dataclass(frozen=True)
class LeaningScore(ScoreModifier):
    """The same for the scores, which need not follow the probability (PC-Sampler caps them)."""

    rule: Leaning

    def step(self, view: StepView, state: None) -> tuple[Tensor, None]:
        assert view.scores is not None
        call = min(int(view.blocks.step[0]), len(self.rule.canvases) - 1)
        kept = torch.tensor(self.rule.canvases[call])
        place = (view.positions - view.canvas.start[:, None]).clamp(0, len(kept) - 1)
        sign = torch.where(kept[place] == view.canvas.mask_id, -1.0, 1.0).double()
        size = view.scores.double().abs().clamp(1.0, 1e6)
        return view.scores.double() + sign * size * self.rule.tolerance, state


class _LeaningStepper(PlainStepper):
    def __init__(self, tools: StepTools, rule: Leaning) -> None:
        super().__init__(tools)
        self.rule, self.mask_id = rule, tools.description.mask_id
        self.before: Tensor | float = 0.0

    def look(self, inputs: StepInputs, state: SamplerState) -> tuple[StepView, Any]:
        view, seen = super().look(inputs, state)
        canvas, call = view.canvas, min(int(view.blocks.step[0]), len(self.rule.canvases) - 1)
        kept = torch.tensor(self.rule.canvases[call]) != self.mask_id
        start, nudge = int(canvas.start[0]), torch.zeros_like(canvas.commit_confidence)
        nudge[0, start : start + len(kept)] = torch.where(kept, self.rule.tolerance, -self.rule.tolerance).double()
        # What a commit has remembered leans, too, by as much as now, not by as much as then.
        canvas.commit_confidence = canvas.commit_confidence - self.before + nudge
        self.before = nudge
        return replace(view, proposal=replace(view.proposal, **_moved(view, nudge.gather(1, view.positions)))), seen


def _moved(view: StepView, nudge: Tensor) -> dict[str, Tensor]:
    proposal, moved = view.proposal, {}
    for name, sign in (("prob", 1.0), ("margin", 1.0), ("entropy", -1.0)):
        value = getattr(proposal, name)
        if value is not None:
            moved[name] = value.double() + sign * nudge
    return moved
