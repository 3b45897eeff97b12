"""The objective against its definition: exact mask counts, and the any-order bound by enumeration."""

import itertools
import math

import pytest
import torch

from dlm.training.data import Batch
from dlm.training.objective import loss_of, mask_responses, noised

RESPONSE = torch.tensor([[False, False, True, True, True, True], [False, True, True, True, True, True]])


def draw(rows, suffix_share, seed=0):
    response = RESPONSE[:1].expand(rows, -1)
    return response, *mask_responses(response, suffix_share, torch.Generator().manual_seed(seed))


def test_masks_stay_in_the_response_and_weights_are_size_over_count():
    masked, weight = mask_responses(RESPONSE, 0.5, torch.Generator().manual_seed(1))
    assert not (masked & ~RESPONSE).any()
    assert masked.any(dim=1).all()
    torch.testing.assert_close(weight, RESPONSE.sum(1) / masked.sum(1))


def test_counts_are_stratified():
    """400 rows of four response positions: every count from 1 to 4 falls on exactly 100 of them."""
    _, masked, _ = draw(400, 0.3)
    assert masked.sum(1).bincount(minlength=5).tolist() == [0, 100, 100, 100, 100]


def test_suffix_rows_mask_the_end():
    response, masked, _ = draw(64, 1.0)
    runs = masked[:, 2:].int()
    assert (runs.diff(dim=1) >= 0).all()
    assert response.shape == masked.shape


def test_every_subset_is_equally_likely():
    _, masked, _ = draw(24_000, 0.0)
    patterns = masked[:, 2:].long() @ torch.tensor([1, 2, 4, 8])
    counts = patterns.bincount(minlength=16)
    for pattern in range(1, 16):
        expected = 24_000 / 4 / math.comb(4, pattern.bit_count())
        assert abs(counts[pattern] - expected) < 5 * math.sqrt(expected)


def test_the_loss_is_the_any_order_bound_on_average():
    """A toy "model" whose cross-entropy depends on the position and on how many others are visible: the mean loss over
    draws equals the mean over all 4! orders of the sum of -log p along the order (enumerated)."""
    price = {visible: 1.0 / (1 + visible) for visible in range(4)}
    position = torch.tensor([0.0, 0.0, 0.1, 0.2, 0.3, 0.4])
    orders = list(itertools.permutations(range(2, 6)))
    exact = sum(price[i] + position[p].item() for order in orders for i, p in enumerate(order)) / len(orders)
    rows = 40_000
    response, masked, weight = draw(rows, 0.0, seed=5)
    nll = torch.tensor([price[v] for v in range(4)])[4 - masked.sum(1)][:, None] + position
    chosen = nll[masked]
    logits = torch.stack([-chosen, torch.log1p(-torch.exp(-chosen))], dim=1)
    batch = Batch(torch.zeros(rows, 6, dtype=torch.long), response, torch.full((rows,), 4.0), ["toy"] * rows)
    mean, each = loss_of(logits, batch, masked, weight[:, None].expand(masked.shape))
    assert mean.item() * 4 == pytest.approx(exact, rel=0.01)
    assert each.shape == (rows,)
    assert each.mean().item() == pytest.approx(mean.item(), rel=1e-5)


def test_noising_touches_masked_positions_only():
    tokens = torch.arange(12).view(2, 6)
    masked, _ = mask_responses(RESPONSE, 0.0, torch.Generator().manual_seed(2))
    noisy = noised(tokens, masked, 99)
    assert (noisy[masked] == 99).all()
    assert torch.equal(noisy[~masked], tokens[~masked])
