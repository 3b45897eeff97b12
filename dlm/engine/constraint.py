"""What an answer must be: the role of a sampler that sees to it that every text can still be completed.

A constraint looks at all proposals of a step together. Each of them is given a token that is possible beside the
others, so whichever of them the selector commits, the rest can still be filled in.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas, Job
from dlm.engine.interfaces import Part
from dlm.engine.proposal import Proposal, Proposer, Vocabulary
from dlm.engine.step import BlockState


class Constraint(Part):
    """Which texts are allowed; settings only."""

    def open(
        self, vocabulary: Vocabulary, proposer: Proposer, end_ids: tuple[int, ...], device: torch.device
    ) -> ConstraintRun:
        """What it works with during one run. Raises SettingsError: the model's tokens cannot spell any allowed text."""
        raise NotImplementedError


class ConstraintRun:
    """A constraint at work."""

    def admit(self, job: Job) -> None:
        """Raise PromptError when nothing that is allowed fits the row's generated region."""
        raise NotImplementedError

    def weigh(self, logits: Float[Tensor, "R V"], uniforms: Float[Tensor, " R"] | None) -> Float[Tensor, "R C F"]:
        """What :meth:`settle` must know of each row of logits, after the transforms; ``uniforms``: one for each row,
        above temperature 0."""
        raise NotImplementedError

    def settle(
        self, canvas: Canvas, blocks: BlockState, positions: Int[Tensor, "B N"], proposal: Proposal, longest: int
    ) -> Proposal:
        """The proposals that go together, with the probability of each among what is allowed; ``proposal.weighed`` is
        what :meth:`weigh` said. ``longest``: the longest generated region of the run."""
        raise NotImplementedError
