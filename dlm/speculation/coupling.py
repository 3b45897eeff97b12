"""APD: a masked diffusion model answers, from the left, for as long as an autoregressive model agrees (arXiv
2506.00413).

The draft's tokens are drawn from the diffusion model's marginals, each a Gumbel maximum. The same noise draws a token
of the target at every place, the product ``p_diffusion^R p_autoregressive^(1-R)``, the second given the draft before
it. Tokens are taken from the left for as long as both are the same (universal coupling, equation 9); the first always.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlm.engine.noise import Purpose, gumbel, uniform


def gumbels(
    key: Int[Tensor, " B"], step: Int[Tensor, " B"], at: Int[Tensor, "B K"], vocab: int
) -> Float[Tensor, "B K V"]:
    """Noise of every token at every place: its own of a row, a step and a position."""
    address = at[..., None] * vocab + torch.arange(vocab)
    return gumbel(uniform(key, step, Purpose.TOKEN, address.flatten(1))).view(address.shape)


def agreed(
    p: Float[Tensor, "B K V"],
    q: Float[Tensor, "B K V"],
    noise: Float[Tensor, "B K V"] | float,
    mixture: float,
    drafts: Int[Tensor, "B K"],
    drafted: Int[Tensor, " B"],
) -> Int[Tensor, " B"]:
    """How many tokens of each draft are taken.

    Args:
        p, q: logarithms of the autoregressive and the diffusion model's probabilities; -inf where one has no token.
        noise: what the drafts were drawn with; 0: none, they are the likeliest.
        mixture: the share R of the diffusion model; 1 takes whole drafts.
        drafts: the likeliest tokens of ``q + noise``.
        drafted: how many tokens of a row's draft count.
    """
    # What only one of them knows is nobody's token, even where that one has no say (0 times -inf).
    known = (p > -torch.inf) & (q > -torch.inf)
    target = torch.where(known, mixture * q + (1.0 - mixture) * p, -torch.inf) + noise
    same = (target.argmax(dim=-1) == drafts) & (torch.arange(drafts.shape[1], device=p.device) < drafted[:, None])
    same[:, :1] = True
    return same.long().cumprod(dim=1).sum(dim=1)
