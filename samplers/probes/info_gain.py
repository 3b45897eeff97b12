"""Information gain: of several tokens that could be next, the one after which the model is surest of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.noise import Purpose, gumbel
from dlm.engine.proposal import Statistic
from dlm.engine.step import BlockState, StepView
from dlm.errors import SettingsError
from dlm.speculation.probes import Choice, Edits, Probe, VersionViews
from samplers.probes.lookahead import MOST_BRANCHES
from samplers.settings import within


class Actions(NamedTuple):
    """What each version would commit; the scratch column where there is none.

    Attributes:
        position, token, prob: where, what, and how sure the model was. ``[B, K]``
        cost: the entropy it had there, in nats. ``[B, K]``
    """

    position: Int[Tensor, "B K"]
    token: Int[Tensor, "B K"]
    prob: Float[Tensor, "B K"]
    cost: Float[Tensor, "B K"]


@dataclass(frozen=True)
class InformationGain(Probe):
    """Try ``candidates`` open positions with their proposals, each in a version of its own, and commit the one with the
    lowest mean entropy left behind plus, with ``cost``, the entropy at the position itself (Info-Gain sampler, arXiv
    2602.18176; without ``cost`` the LookUM rule of its code).

    The first candidate is the surest position; the others are drawn without replacement from softmax(confidence /
    ``temperature``); 0: the next surest. Where everything that the best version leaves reaches ``threshold``, or one
    position is left, that is committed at once from the same forward. What is left is counted in the block.

    Raises:
        SettingsError: no candidate or too many, a negative temperature, a threshold outside (0, 1.01].
    """

    candidates: int = 8
    temperature: float = 0.2
    threshold: float = 0.8
    cost: bool = True

    needs = frozenset[Statistic]({"entropy"})

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= MOST_BRANCHES:
            raise SettingsError(
                f"candidates must be from 1 to {MOST_BRANCHES}, each a further row of every forward,"
                f" got {self.candidates}"
            )
        within("[0, inf)", temperature=self.temperature)
        within("(0, 1.01]", threshold=self.threshold)

    @property
    def versions(self) -> int:
        return self.candidates

    def init(self, canvas: Canvas) -> Actions:
        nowhere = canvas.start.new_full((canvas.start.shape[0], self.candidates), canvas.scratch)
        nothing = torch.zeros_like(nowhere, dtype=torch.float64)
        return Actions(nowhere, torch.zeros_like(nowhere), nothing, nothing)

    def propose(self, canvas: Canvas, blocks: BlockState, state: Actions) -> Edits:
        return Edits(*(x[:, :, None] for x in state[:3]))

    def choose(self, views: VersionViews, state: Actions) -> Choice:
        entropy = views.proposal.entropy
        assert entropy is not None
        # In float64: which version is best must not depend on how the batch is padded.
        left = views.eligible & views.exists[:, :, None]
        count = left.sum(dim=2)
        behind = (entropy.double() * left).sum(dim=2)[:, 1:] / count[:, 1:].clamp_min(1)
        value = -behind - state.cost if self.cost else -behind
        # The row itself is no candidate, unless there is no other.
        value = torch.where(views.exists[:, 1:], value, -torch.inf)
        value = torch.cat([torch.full_like(value[:, :1], -torch.finfo(value.dtype).max), value], dim=1)
        version = value.argmax(dim=1, keepdim=True)
        own = version[:, :, None].expand(-1, -1, left.shape[2])
        rest = left.gather(1, own)[:, 0]
        sure = (views.proposal.prob.gather(1, own)[:, 0] >= self.threshold) | ~rest
        finish = sure.all(dim=1, keepdim=True) | (count.gather(1, version) <= 1)
        return Choice(version[:, 0], commit=rest & finish, only=rest & (version == 0))

    def learn(self, view: StepView, chosen: Bool[Tensor, "B N"], state: Actions) -> Actions:
        entropy, none = view.proposal.entropy, self.init(view.canvas)
        assert entropy is not None
        # Of the canvas as it is now: the selector was shown none of these.
        left = view.here(view.blocks.block & view.canvas.masked)
        prob = torch.where(left, view.proposal.prob.double(), -torch.inf)
        rank = prob
        if self.temperature > 0:
            drawn = prob / self.temperature + gumbel(view.uniform(Purpose.WITHOUT_REPLACEMENT))
            first = torch.zeros_like(chosen).scatter_(1, prob.argmax(dim=1, keepdim=True), True)
            rank = torch.where(first & (prob > -torch.inf), torch.inf, drawn)
        order = rank.sort(dim=1, descending=True, stable=True).indices[:, : self.candidates]
        prob = prob.gather(1, order)
        position = torch.where(prob > -torch.inf, view.positions.gather(1, order), view.canvas.columns[-1])
        found = (position, view.proposal.token.gather(1, order), prob, entropy.double().gather(1, order))
        return Actions(*(torch.cat([x, y[:, x.shape[1] :]], dim=1) for x, y in zip(found, none, strict=True)))
