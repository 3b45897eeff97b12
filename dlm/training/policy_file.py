"""A learned unmasking policy (after Jazbec et al., arXiv 2512.09106): what it is shown, its network, its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad, softplus

from dlm.engine.noise import Purpose
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from dlm.training.filter_file import read_weights, write_weights

FORMAT = "dlm unmasking policy"
SHOWN = 6  # numbers a position is described by
_KEYS = ("in", "in_bias", "qkv", "slope", "out", "up", "up_bias", "down", "head", "direct", "bias")


def policy_inputs(view: StepView) -> Float[Tensor, "B N 6"]:
    """What the policy is shown of every position that may be committed, in float64.

    The confidence; its logit, a quarter of it; the share of the block that is open still; the steps taken, as a share
    of the row's length; whether the neighbour on the left is open, and the one on the right. Nothing of tokens.
    """
    blocks, canvas, open_ = view.blocks, view.canvas, view.eligible
    prob = view.proposal.prob.double().masked_fill(~open_, 1.0).clamp(1e-6, 1 - 1e-6)
    beside = pad(view.marks(open_), (1, 1)).double()
    left = open_.sum(dim=1) / blocks.block_masks.clamp_min(1).double()
    time = blocks.step / (canvas.asked - canvas.start).clamp_min(1).double()
    rows = [number[:, None].expand_as(prob) for number in (left, time)]
    neighbours = [beside[:, :-2].gather(1, view.positions), beside[:, 2:].gather(1, view.positions)]
    return torch.stack([prob, torch.logit(prob) / 4, *rows, *neighbours], dim=-1)


def logits_of(
    weights: Mapping[str, Tensor],
    shown: Float[Tensor, "B N 6"],
    open_: Bool[Tensor, "B N"],
    positions: Int[Tensor, "B N"],
) -> Float[Tensor, "B N"]:
    """One layer of attention among the open positions, a hidden layer, and a way around both; above 0: commit.

    In float64: the sums over a row's positions have the width of the batch, and with it their rounding.
    """
    heads = weights["slope"].shape[0]
    h = shown @ weights["in"] + weights["in_bias"]
    q, k, v = (h @ weights["qkv"]).unflatten(-1, (3, heads, -1)).unbind(-3)
    apart = (positions[:, None, :, None] - positions[:, None, None, :]).abs()
    score = torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5
    score = score - softplus(weights["slope"])[:, None, None] * apart
    # Finite, so that a row without an open position is no NaN.
    share = score.masked_fill(~open_[:, None, None], -1e30).softmax(dim=-1)
    h = h + torch.einsum("bhij,bjhd->bihd", share, v).flatten(-2) @ weights["out"]
    h = h + torch.relu(h @ weights["up"] + weights["up_bias"]) @ weights["down"]
    return h @ weights["head"] + shown @ weights["direct"] + weights["bias"]


def wanted(view: StepView, logits: Float[Tensor, "B N"], explore: bool) -> Bool[Tensor, "B N"]:
    """The open positions it commits: those above 0, or drawn, each by itself, with the logistic probability."""
    chosen = view.uniform(Purpose.BERNOULLI) < torch.sigmoid(logits) if explore else logits > 0
    return chosen & view.eligible


@dataclass(frozen=True, eq=False)
class Policy:
    """A trained policy.

    Attributes:
        weights: by name, see :func:`logits_of`.
        card: what is known about its making, as plain values.

    Raises:
        SettingsError: weights that do not fit each other, or that are no numbers.
    """

    weights: Mapping[str, Tensor]
    card: Mapping[str, Any] = field(default_factory=dict)
    _placed: dict[torch.device, dict[str, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        found = {name: list(weight.shape) for name, weight in self.weights.items()}
        two = all(len(found.get(name, ())) == 2 for name in ("in", "up"))
        heads = (found.get("slope") or [0])[0]
        width, hidden = (found["in"][1], found["up"][1]) if two else (0, 0)
        fits = two and heads > 0 and width % heads == 0
        if not fits or found != {name: list(shape) for name, shape in _shapes(width, hidden, heads).items()}:
            raise SettingsError(f"the weights of the policy do not fit each other: {found}; train it anew")
        if not all(bool(weight.isfinite().all()) for weight in self.weights.values()):
            raise SettingsError("the policy holds values that are no finite numbers: train it again")

    def __call__(self, view: StepView) -> Float[Tensor, "B N"]:
        """Logits of the proposed positions; those of positions that may not be committed mean nothing."""
        device = view.positions.device
        if device not in self._placed:
            self._placed[device] = {name: w.detach().to(device, torch.float64) for name, w in self.weights.items()}
        return logits_of(self._placed[device], policy_inputs(view), view.eligible, view.positions)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.weights.values())

    @classmethod
    def fresh(cls, threshold: float | None = 0.9, width: int = 16, heads: int = 2, seed: int = 0) -> Policy:
        """One that has not learnt: above 0 where the confidence is above ``threshold``; None: the same for all, -2."""
        noise = torch.Generator().manual_seed(seed)
        weights = {}
        for name, shape in _shapes(width, 2 * width, heads).items():
            scale = shape[0] ** -0.5 if len(shape) == 2 else 0.0
            weights[name] = torch.randn(shape, generator=noise, dtype=torch.float64) * scale
        weights["slope"] -= 2.0
        weights["bias"] -= 2.0
        if threshold is not None:
            weights["direct"][1] = 4.0
            weights["bias"] = -torch.logit(torch.tensor(threshold, dtype=torch.float64))
        return cls(weights)


def _shapes(width: int, hidden: int, heads: int) -> dict[str, tuple[int, ...]]:
    shapes = (
        (SHOWN, width), (width,), (width, 3 * width), (heads,), (width, width),
        (width, hidden), (hidden,), (hidden, width), (width,), (SHOWN,), (),
    )  # fmt: skip
    return dict(zip(_KEYS, shapes, strict=True))


def write_policy(path: Path, policy: Policy) -> None:
    """Write the file; it appears complete or stays as it was."""
    write_weights(path, policy.weights, {**policy.card, "format": FORMAT})


def read_policy(path: Path | str) -> Policy:
    """What :func:`write_policy` wrote.

    Raises:
        CheckpointError: there is no such file, or it holds no policy.
        SettingsError: its weights do not fit each other, or are no numbers.
    """
    tensors, card = read_weights(path, _KEYS, "policy", "dlm train policy")
    card.pop("format", None)
    return Policy(dict(zip(_KEYS, tensors, strict=True)), card)
