"""DAWN: positions that do not attend to each other may be committed together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Selector
from dlm.engine.proposal import Statistic
from dlm.engine.step import BlockState, RowSize, StepView
from samplers.settings import within


@dataclass(frozen=True)
class Dawn(Selector):
    """Commit what is sure, what follows from what is sure, and of the rest a set without mutual dependence (DAWN,
    arXiv 2602.06953).

    Position j depends on a when the attention from j to a (mean over heads and the last layers) is >= ``edge``; keys
    that all queries attend to with more than ``sink`` on average are left out. Committed are: X, scores >= ``sure``; Y,
    scores >= ``induced`` that depend on a visible position whose best token has probability >= ``sure``; and, among
    the other positions with score >= ``low`` that depend on none of X and Y, the best first, each one that is not
    joined by an edge to one taken before. (The reference leaves out those that depend on X and Y at once; the union is
    what the text suggests.)

    Raises:
        SettingsError: a level outside [0, 1].
    """

    sure: float = 0.9
    induced: float = 0.7
    low: float = 0.75
    edge: float = 0.07
    sink: float = 0.01

    needs = frozenset[Statistic]({"attention"})

    def __post_init__(self) -> None:
        within("[0, 1]", sure=self.sure, induced=self.induced, low=self.low, edge=self.edge, sink=self.sink)

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"]:
        return (canvas.columns < blocks.block_end[:, None]) & ~canvas.masked

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.row

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        depends = self._dependence(view)
        visible_sure = view.here(~view.canvas.masked) & (view.proposal.prob >= self.sure)
        # What is not eligible has the score -inf.
        induced = (view.scores >= self.induced) & (depends & visible_sure[:, None, :]).any(dim=2)
        taken = (view.scores >= self.sure) | induced
        nodes = (view.scores >= self.low) & ~taken & ~(depends & taken[:, None, :]).any(dim=2)
        return taken | independent(view.scores, nodes, depends, view.most), state

    def _dependence(self, view: StepView) -> Bool[Tensor, "B N N"]:
        """Whether the position of the second axis depends on that of the third, which is another one. Fillers may
        depend on anything: they are neither visible nor eligible."""
        assert view.attention is not None
        attention, width = view.attention, view.attention.shape[2]
        queries = view.canvas.columns[:width] < view.canvas.end[:, None]
        mean = (attention * queries[:, :, None]).sum(dim=1, dtype=torch.float64) / queries.sum(dim=1, keepdim=True)
        place = view.positions.clamp_max(width - 1)
        to = attention.gather(1, place[:, :, None].expand(-1, -1, width))
        to = to.gather(2, place[:, None, :].expand(-1, place.shape[1], -1))
        return to.masked_fill_((mean.gather(1, place) > self.sink)[:, None, :], 0.0) >= self.edge


def independent(
    scores: Float[Tensor, "B N"], nodes: Bool[Tensor, "B N"], edges: Bool[Tensor, "B N N"], most: int
) -> Bool[Tensor, "B N"]:
    """The greedy independent set: by descending score, each node without an edge to one taken before.

    A node is taken if and only if no better neighbour is. Told that all are, a round finds out who then would be; after
    k rounds that is right for the first k nodes, so ``most`` of them need ``most`` rounds; none waits for the device.
    """
    order = scores.masked_fill(~nodes, -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :most]
    near = edges.gather(1, order[:, :, None].expand(-1, -1, edges.shape[2])).gather(
        2, order[:, None, :].expand(-1, order.shape[1], -1)
    )
    better = (near | near.transpose(1, 2)).tril(-1).float()  # entries are in descending order of score
    there = nodes.gather(1, order)[:, :, None].float()
    taken = there
    for _ in range(order.shape[1]):
        taken = torch.baddbmm(there, better, taken, alpha=-1).clamp_min_(0)
    return torch.zeros_like(nodes).scatter_(1, order, taken[:, :, 0] > 0)
