"""An entropy budget that charges a position for what it shares with those already taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.proposal import Statistic
from dlm.engine.step import StepView
from dlm.errors import SettingsError


@dataclass(frozen=True)
class OverlapBound(Selector):
    """Commit positions in the order of the score as long as what they share adds up to at most ``gamma`` nats. Ours,
    after EB-Sampler (arXiv 2505.24857), which charges each for its whole entropy.

    Position j costs min(H_j, sum over the positions i taken before it of o_ij min(H_i, H_j)), H the entropies and o_ij
    the sum over tokens of min(p_i, p_j), over the likeliest tokens of both. One that does not fit is passed over. The
    first costs nothing. Positions that depend on each other without having a token in common cost nothing either,
    though they should: see docs/oracle.md.

    Raises:
        SettingsError: a negative gamma, or fewer than one position looked at.
    """

    gamma: float = 0.1
    most: int = 32  # positions looked at in a step, the best ones; each is one more small operation

    always_commits = True
    needs = frozenset[Statistic]({"entropy", "candidates"})

    def __post_init__(self) -> None:
        if not 0.0 <= self.gamma < float("inf"):
            raise SettingsError(f"gamma must be 0 (nothing shared) or more nats, got {self.gamma}")
        if self.most < 1:
            raise SettingsError(f"most must be at least 1 position, got {self.most}")

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        assert view.proposal.entropy is not None
        order = view.scores.sort(dim=1, descending=True, stable=True).indices[:, : self.most]
        # In float64: what is added up must not depend on how the batch is padded.
        entropy = view.proposal.entropy.gather(1, order).double().clamp_min(0.0)
        shared, real = self._shared(view, order, entropy), view.eligible.gather(1, order)
        taken, spent = torch.zeros_like(real), torch.zeros_like(entropy[:, 0])
        # What a position costs depends on which of those before it were taken, so the ranks come one after the other.
        for place in range(order.shape[1]):
            due = (shared[:, place] * taken).sum(dim=1)
            total = spent + torch.minimum(due, entropy[:, place])
            fits = real[:, place] & (total <= self.gamma)
            taken[:, place], spent = fits, torch.where(fits, total, spent)
        return torch.zeros_like(view.eligible).scatter(1, order, taken), state

    @staticmethod
    def _shared(view: StepView, order: Int[Tensor, "B M"], entropy: Float[Tensor, "B M"]) -> Float[Tensor, "B M M"]:
        """What each pair of positions shares, in nats."""
        token, prob = view.proposal.top_token, view.proposal.top_prob
        assert token is not None
        assert prob is not None
        wide = order[..., None].expand(-1, -1, token.shape[2])
        token, prob = token.gather(1, wide), prob.gather(1, wide).double()
        overlap = torch.zeros_like(entropy[:, :, None] * entropy[:, None])
        for nth in range(token.shape[2]):  # of the few likeliest tokens; all at once would take their number as memory
            same = token[:, :, None, nth, None] == token[:, None]
            least = torch.minimum(prob[:, :, None, nth, None], prob[:, None])
            overlap += (same * least).sum(dim=3)
        return overlap * torch.minimum(entropy[:, :, None], entropy[:, None])
