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
        return ~canvas.masked & (canvas.columns < blocks.block_end[:, None])

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.row

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        depends = self._dependence(view)
        visible_sure = view.here(~view.canvas.masked) & (view.proposal.prob >= self.sure)
        sure = (view.scores >= self.sure) & view.eligible
        induced = (view.scores >= self.induced) & view.eligible & (depends & visible_sure[:, None, :]).any(dim=2)
        taken = sure | induced
        nodes = (view.scores >= self.low) & view.eligible & ~taken & ~(depends & taken[:, None, :]).any(dim=2)
        free = independent(view.scores.masked_fill(~nodes, -torch.inf), nodes, depends, view.most)
        return taken | free, state

    def _dependence(self, view: StepView) -> Bool[Tensor, "B N N"]:
        """Whether the position of the second axis depends on that of the third."""
        assert view.attention is not None
        attention, width = view.attention, view.attention.shape[2]
        queries = view.canvas.columns[:width] < view.canvas.end[:, None]
        mean = (attention * queries[:, :, None]).sum(dim=1, dtype=torch.float64) / queries.sum(dim=1, keepdim=True)
        attention = attention.masked_fill((mean > self.sink)[:, None, :], 0.0)
        place = view.positions.clamp_max(width - 1)
        to = attention.gather(1, place[:, :, None].expand(-1, -1, width))
        to = to.gather(2, place[:, None, :].expand(-1, place.shape[1], -1))
        itself = place[:, :, None] == place[:, None, :]
        return (to >= self.edge) & ~itself & view.real[:, :, None] & view.real[:, None, :]


def independent(
    scores: Float[Tensor, "B N"], nodes: Bool[Tensor, "B N"], edges: Bool[Tensor, "B N N"], most: int
) -> Bool[Tensor, "B N"]:
    """The greedy independent set: by descending score, each node without an edge to one taken before.

    In rounds: a node that is better than all its remaining neighbours is taken, its neighbours leave. Every round
    but the first takes a node whose better neighbour left in the round before, so ``most`` nodes need at most
    most / 2 + 1 rounds; no round waits for the device.
    """
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :most]
    left = nodes.gather(1, order)
    width = edges.shape[2]
    near = edges.gather(1, order[:, :, None].expand(-1, -1, width)).gather(
        2, order[:, None, :].expand(-1, order.shape[1], -1)
    )
    near = near | near.transpose(1, 2)
    better = torch.ones_like(near).tril(-1)  # entries are in descending order of score
    taken = torch.zeros_like(left)
    for _ in range(order.shape[1] // 2 + 1):
        beaten = (near & better & left[:, None, :]).any(dim=2)
        now = left & ~beaten
        taken = taken | now
        left = left & ~now & ~(near & now[:, None, :]).any(dim=2)
    return torch.zeros_like(nodes).scatter(1, order, taken)
