"""Which hidden row scores which position, in place and shifted, ordered and not."""

from __future__ import annotations

import pytest
import torch

from dlm.errors import SettingsError
from dlm.models import ModelDescription
from tests.models.small import small, tokens


def logits_at(family: str, ids: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The definition: all logits, shifted by whole rows if the model is."""
    model = small(family)
    logits = model(ids).logits
    if model.description.shift:
        logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
    return logits.gather(1, wanted[..., None].expand(-1, -1, logits.shape[-1]))


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_rows_of_an_ordered_feed(family: str) -> None:
    model, ids = small(family), tokens(2, 8)
    wanted = torch.tensor([[0, 1, 7], [7, 3, 3]])
    rows = model.logit_rows(model.hidden(ids), None, wanted)
    torch.testing.assert_close(model.head(rows), logits_at(family, ids, wanted), rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_rows_of_a_shuffled_feed(family: str) -> None:
    model, ids = small(family), tokens(2, 8)
    order = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(s)) for s in (3, 4)])
    wanted = torch.tensor([[0, 5, 1, 7], [2, 0, 6, 4]])
    hidden = model.hidden(ids.gather(1, order), order)
    rows = model.logit_rows(hidden, order, wanted)
    torch.testing.assert_close(model.head(rows), logits_at(family, ids, wanted), rtol=0, atol=1e-12)


def test_a_window_must_hold_the_row_before_it_when_shifted() -> None:
    hidden, window = torch.randn(1, 3, 32), torch.tensor([[4, 5, 6]])
    llada, dream = small("llada"), small("dream")
    assert torch.equal(llada.logit_rows(hidden, window, window), hidden)
    assert torch.equal(dream.logit_rows(hidden, window, window[:, 1:]), hidden[:, :2])
    with pytest.raises(SettingsError, match="were not fed"):
        dream.logit_rows(hidden, window, window)
    with pytest.raises(SettingsError, match="were not fed"):
        llada.logit_rows(hidden, window, torch.tensor([[9]]))


def test_the_first_of_two_entries_at_one_position_answers() -> None:
    hidden = torch.randn(1, 3, 32)
    rows = small("llada").logit_rows(hidden, torch.tensor([[2, 7, 2]]), torch.tensor([[2]]))
    assert torch.equal(rows[0, 0], hidden[0, 0])


@pytest.mark.parametrize(("mask", "eos"), [(40, (1,)), (-1, (1,)), (0, (99,))])
def test_ids_outside_the_vocabulary_are_refused(mask: int, eos: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match="outside the vocabulary"):
        ModelDescription(mask, eos, 0, 40, 40, 64)
