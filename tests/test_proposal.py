"""Proposals: what is taken, how sure, and by which law it is drawn."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlm.engine.proposal import Proposer, Vocabulary, propose
from dlm.errors import SettingsError

ALL = frozenset({"prob", "margin", "entropy"})


def logits_of(rows: int, vocab: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@given(st.integers(0, 1000), st.integers(4, 60), st.integers(1, 6))
def test_statistics_equal_the_textbook_ones(seed: int, vocab: int, rows: int) -> None:
    x = logits_of(rows, vocab, seed)
    mask = seed % vocab
    got = propose(x.clone(), Vocabulary(mask, vocab, vocab), Proposer(), ALL)
    p = x.softmax(-1)
    without = x.clone()
    without[:, mask] = -torch.inf
    token = without.argmax(-1)
    chosen = p.gather(1, token[:, None]).squeeze(1)
    others = p.scatter(1, token[:, None], -1.0).amax(1)
    assert torch.equal(got.token, token)
    torch.testing.assert_close(got.prob, chosen)
    torch.testing.assert_close(got.margin, chosen - others)
    torch.testing.assert_close(got.entropy, -(p * p.log()).sum(-1))


def test_mask_and_undefined_ids_are_never_proposed_but_keep_their_probability() -> None:
    x = torch.tensor([[0.0, 5.0, 1.0, 6.0]], dtype=torch.float64)
    got = propose(x.clone(), Vocabulary(mask_id=1, width=4, valid=3), Proposer())
    assert got.token.item() == 2
    assert got.prob.item() == pytest.approx(x.softmax(-1)[0, 2].item())
    hot = Proposer(temperature=5.0)
    draws = propose(x.repeat(500, 1), Vocabulary(1, 4, 3), hot, uniforms=(torch.arange(500) + 0.5) / 500)
    assert set(draws.token.tolist()) == {0, 2}


def test_a_mask_id_beyond_the_defined_ids_is_no_problem() -> None:
    x = torch.tensor([[0.0, 2.0, 1.0, 9.0]])
    for proposer in (Proposer(), Proposer(temperature=1e-3), Proposer(top_k=3)):
        got = propose(x.clone(), Vocabulary(mask_id=3, width=4, valid=3), proposer, uniforms=torch.tensor([0.5]))
        assert got.token.tolist() == [1]


def test_equal_logits_take_the_lowest_id() -> None:
    got = propose(torch.zeros(2, 9), Vocabulary(0, 9, 9), Proposer())
    assert got.token.tolist() == [1, 1]


@pytest.mark.covering
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("vocab", [7, 1500])
def test_draws_follow_softmax_of_logits_over_temperature(temperature: float, vocab: int) -> None:
    """The law of LLaDA's Gumbel trick (arXiv 2502.09992), here by stratified inverse-CDF draws."""
    x = logits_of(1, vocab, 3, 1.0)
    n = 10_000
    uniforms = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    mask = 2
    got = propose(x.repeat(n, 1), Vocabulary(mask, vocab, vocab), Proposer(temperature=temperature), uniforms=uniforms)
    want = x[0] / temperature
    want[mask] = -torch.inf
    share = torch.bincount(got.token, minlength=vocab).double() / n
    # Stratified uniforms leave at most one draw of error at either border of an id's interval.
    assert (share - want.softmax(-1)).abs().max() <= 2.0 / n + 1e-9
    # Confidence stays the one of the raw softmax.
    torch.testing.assert_close(got.prob, x[0].softmax(-1)[got.token])


@given(st.integers(0, 1000), st.lists(st.sampled_from([0.0, 1e-6, 0.3, 1.0, 7.5]), min_size=2, max_size=6))
def test_rows_may_have_temperatures_of_their_own(seed: int, heats: list[float]) -> None:
    x, vocabulary = logits_of(len(heats), 40, seed).float(), Vocabulary(3, 40, 38)
    draws = torch.rand(len(heats), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    own = torch.tensor(heats, dtype=torch.float64)
    got = propose(x.clone(), vocabulary, Proposer(temperature=1.0), ALL, draws, own)
    for row, heat in enumerate(heats):
        part = slice(row, row + 1)
        alone = propose(x[part].clone(), vocabulary, Proposer(temperature=heat), ALL, draws[part])
        assert torch.equal(got.token[part], alone.token)
        for name in sorted(ALL):
            assert torch.equal(getattr(got, name)[part], getattr(alone, name))


def test_extreme_uniforms_never_leave_the_vocabulary() -> None:
    x = logits_of(2, 1030, 5, 30.0)
    uniforms = torch.tensor([2.0**-54, 1 - 2.0**-53], dtype=torch.float64)
    got = propose(x, Vocabulary(0, 1030, 1030), Proposer(temperature=0.5), uniforms=uniforms)
    assert ((got.token > 0) & (got.token < 1030)).all()
    assert (got.prob > 0).all()


def test_nucleus_and_top_k_change_the_filtered_confidence() -> None:
    p = torch.tensor([[0.5, 0.3, 0.15, 0.05, 0.0]], dtype=torch.float64)
    x = p.clamp_min(1e-30).log()
    vocabulary = Vocabulary(mask_id=4, width=5, valid=5)
    nucleus = propose(x.clone(), vocabulary, Proposer(top_p=0.6, confidence="filtered"), ALL)
    assert nucleus.prob.item() == pytest.approx(0.5 / 0.8)
    assert nucleus.margin.item() == pytest.approx(0.2 / 0.8)
    best_two = propose(x.clone(), vocabulary, Proposer(top_k=2, confidence="filtered"))
    assert best_two.prob.item() == pytest.approx(0.5 / 0.8)
    raw = propose(x.clone(), vocabulary, Proposer(top_p=0.6))
    assert raw.prob.item() == pytest.approx(0.5)
    tempered = propose(
        x.clone(), vocabulary, Proposer(temperature=0.5, confidence="filtered"), uniforms=torch.tensor([0.01])
    )
    assert tempered.prob.item() == pytest.approx(0.25 / (0.25 + 0.09 + 0.0225 + 0.0025))


def test_aliased_end_tokens_leave_the_softmax() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.2, 0.6, 0.2, 0.0]], dtype=torch.float64).clamp_min(1e-30)
    got = propose(p.log(), Vocabulary(3, 4, 4, unconfident=(1,)), Proposer())
    assert got.token.tolist() == [0, 1]
    assert got.prob.tolist() == pytest.approx([0.5 / 0.7, 0.0])


@given(st.integers(0, 100), st.sampled_from(["float32", "bfloat16"]))
def test_narrow_logits_are_measured_in_float32(seed: int, dtype: str) -> None:
    x = logits_of(3, 50, seed).to(getattr(torch, dtype))
    got = propose(x.clone(), Vocabulary(0, 50, 50), Proposer(), ALL)
    assert got.prob.dtype == torch.float32
    wide = propose(x.clone(), Vocabulary(0, 50, 50), Proposer(precision="float64"), ALL)
    assert wide.prob.dtype == torch.float64
    torch.testing.assert_close(got.prob.double(), wide.prob, atol=1e-6, rtol=1e-5)


def test_nan_logits_show_in_the_probability() -> None:
    x = torch.zeros(2, 5)
    x[1, 3] = torch.nan
    assert propose(x, Vocabulary(0, 5, 5), Proposer()).prob.isnan().tolist() == [False, True]


@pytest.mark.parametrize(
    "settings_",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": 0},
        {"precision": "half"},
        {"confidence": "best"},
    ],
)
def test_bad_settings_are_refused(settings_: dict) -> None:
    with pytest.raises(SettingsError):
        Proposer(**settings_)


@given(
    st.integers(0, 500),
    st.sampled_from([{"top_k": 1}, {"top_k": 3}, {"top_p": 0.1}, {"top_p": 0.9}, {"top_p": 0.5, "top_k": 4}]),
    st.sampled_from([0.0, 1e-6, 0.7, 1e6]),
    st.sampled_from(["raw", "filtered"]),
)
def test_banned_ids_are_banned_before_the_distribution_is_cut(
    seed: int, cut: dict, temperature: float, confidence: str
) -> None:
    """Mask and undefined ids have by far the best logits; the rest must be cut as if they were not there."""
    x = logits_of(4, 12, seed)
    x[:, 2], x[:, 10:] = 60.0, 50.0
    proposer = Proposer(temperature=temperature, confidence=confidence, **cut)
    uniforms = (torch.arange(4, dtype=torch.float64) + 0.5) / 4
    got = propose(x.clone(), Vocabulary(2, 12, 10), proposer, uniforms=uniforms)
    allowed = torch.tensor([i for i in range(10) if i != 2])
    alone = torch.cat([x[:, allowed], torch.full((4, 1), -1e4, dtype=x.dtype)], dim=1)
    want = propose(alone, Vocabulary(9, 10, 10), proposer, uniforms=uniforms)
    assert torch.equal(got.token, allowed[want.token])
    if confidence == "filtered":
        torch.testing.assert_close(got.prob, want.prob)
    if temperature == 0:
        assert torch.equal(got.token, allowed[x[:, allowed].argmax(dim=1)])


@pytest.mark.parametrize("temperature", [1e-300, 1e-7, 1e300, float("inf"), float("nan"), -1.0])
def test_temperatures_beyond_arithmetic_are_refused(temperature: float) -> None:
    with pytest.raises(SettingsError, match="must be 0 \\(greedy\\) or from 1e-06 to 1e\\+06"):
        Proposer(temperature=temperature)
