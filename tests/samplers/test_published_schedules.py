"""Examples of the published rules, worked out by hand: budgets, blocks, stages and cycles."""

from __future__ import annotations

import math

import pytest
import torch

import dlm
import samplers
from dlm.exact_model.closed_forms import best_sizes, shuffle_in, shuffle_in_bits
from dlm.exact_model.controls import CONTROLS, _model, hold
from samplers.budgets.profile import best_cuts, measured
from tests.doubles import confidence_table, proposal_table, scripted_model, table_model
from tests.samplers.runs import END, commits, decode, view_of


def gap_table(gap: float, positions: int) -> list[list[float]]:
    """Two tokens whose logits are so far apart, at every position."""
    best = 1.0 / (1.0 + math.exp(-gap))
    return [[best, 1.0 - best]] * positions


def test_prophet_leaves_at_the_sixth_forward() -> None:
    model = scripted_model([gap_table(gap, 16) for gap in (3, 5, 6, 7.4, 7.4, 5.2)])
    answer = decode(model, samplers.prophet(steps=16), 16)
    assert (answer.counts.forwards, answer.stop) == (6, "early_exit")
    assert answer.commit_step == [0, 1, 2, 3, 4, *[5] * 11]


@pytest.mark.parametrize(
    ("gap", "forwards"),
    [(7.51, 1), (7.49, 33), (5.01, 33), (4.99, 67), (2.51, 67), (2.49, 100)],
)
def test_prophet_stages_change_at_33_and_67_hundredths(gap: float, forwards: int) -> None:
    answer = decode(table_model(gap_table(gap, 100)), samplers.prophet(steps=100, blocks=samplers.Whole()), 100)
    assert answer.counts.forwards == forwards
    assert answer.stop == ("filled" if forwards == 100 else "early_exit")


def test_prophet_looks_at_five_positions_of_the_answer() -> None:
    def forwards(sure: range, **options: int) -> int:
        table = [gap_table(9.0 if i in sure else 0.1, 1)[0] for i in range(12)]
        return decode(table_model(table), samplers.prophet(**options), 12).counts.forwards

    assert forwards(range(4, 9), answer_start=4) == 1
    assert forwards(range(4, 8), answer_start=4, early=8.0, mid=8.0, late=8.0) == 12
    assert forwards(range(4, 8), answer_start=4, answer_length=4) == 1
    assert forwards(range(10, 12), answer_start=10) == 1  # clipped at the end of the row


def test_smooth_gaps_fall_from_first_to_last() -> None:
    progress = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    for shape in ("linear", "cosine", "exponential"):
        gaps = samplers.Smooth(8.0, 2.0, shape).required(progress).tolist()  # type: ignore[arg-type]
        assert (gaps[0], gaps[-1]) == pytest.approx((8.0, 2.0))
        assert gaps == sorted(gaps, reverse=True)
    assert samplers.Smooth(8.0, 2.0, "linear").required(progress).tolist() == pytest.approx([8.0, 6.5, 5.0, 2.0])
    assert samplers.Smooth(8.0, 2.0, "cosine").required(progress).tolist()[2] == pytest.approx(5.0)


def sizes(answer: dlm.Generation) -> list[int]:
    """Length of every block, in order."""
    assert answer.trace is not None
    blocks = dict.fromkeys(step.block for step in answer.trace.steps)
    return [end - start for start, end in blocks]


def test_adaptive_block_sizes() -> None:
    line = 7

    def table(**lines: float) -> list[list[float]]:
        """No delimiter but at these positions."""
        return proposal_table([(line, lines[f"at{i}"]) if f"at{i}" in lines else (3, 0.6) for i in range(16)])

    # One table per block, since a threshold so low fills it at once. Blocks begin at 0, 2, 6, 10, 11 and 15.
    script = [table(at1=0.55, at3=0.45), table(at6=0.9), table(at8=0.29), table(at10=0.31), table(at15=0.9), table()]
    blocks = samplers.AdaptiveBlocks(4, (line,), 0.3)
    answer = decode(scripted_model(script), samplers.threshold(0.01, blocks=blocks), 16)
    assert sizes(answer) == [2, 4, 4, 1, 4, 1]
    assert answer.counts.forwards == 6
    assert decode(scripted_model(script), samplers.threshold(0.01, blocks=samplers.Fixed(4)), 16).counts.forwards == 4


def test_of_equal_delimiters_the_first_ends_the_block() -> None:
    table = proposal_table([(3, 0.6), (7, 0.5), (3, 0.6), (7, 0.5), *[(3, 0.6)] * 12])
    blocks = samplers.AdaptiveBlocks(4, (7,), 0.3)
    assert sizes(decode(table_model(table), samplers.threshold(0.01, blocks=blocks), 16))[:2] == [2, 2]
    exactly = samplers.AdaptiveBlocks(4, (7,), 0.5)
    sampler = samplers.threshold(0.01, blocks=exactly, precision="float64")
    assert sizes(decode(table_model(table), sampler, 16))[:2] == [2, 2]


EOSER = [(END, 0.90), (5, 0.50), (END, 0.60), (6, 0.45)]


def test_end_rejection_order() -> None:
    model = table_model(proposal_table(EOSER))
    assert commits(model, samplers.eoser(steps=4), 4) == [{1}, {0}, {2}, {3}]
    assert commits(model, samplers.eoser(), 4) == [{1}, {0}, {2}, {3}]
    assert commits(model, samplers.topk(), 4) == [{0}, {2}, {1}, {3}]


def test_end_rejection_scores() -> None:
    tokens, probs = [token for token, _ in EOSER], [p for _, p in EOSER]
    modifier = samplers.EndRejection(steps=4)
    for step, expected in enumerate([[0.36, 0.50, 0.24, 0.45], [0.54, 0.50, 0.36, 0.45], [0.72, 0.50, 0.48, 0.45]]):
        scores, _ = modifier.step(view_of(probs, tokens, step), None)
        assert scores[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("positions", "factors"),
    [
        (8, [0.13375, 0.38125, 0.87625]),
        (256, [0.0139, 0.0216, 0.0371, 0.0680, 0.1299, 0.2536, 0.5011, 0.9961]),
    ],
)
@pytest.mark.parametrize("explicit", [False, True])
def test_end_rejection_factors_of_doubling_steps(positions: int, factors: list[float], explicit: bool) -> None:
    modifier = samplers.EndRejection(0.01, 1.0, len(factors) if explicit else None, "ascending")
    views = [view_of([1.0] * positions, [END] * positions, step) for step in range(len(factors))]
    found = [float(modifier.step(view, None)[0][0, 0]) for view in views]
    assert found == pytest.approx(factors, abs=5e-5)
    assert samplers.eoser_ass().modifiers == (samplers.EndRejection(0.01, 1.0, None, "ascending"),)


def test_a_single_step_trusts_the_end() -> None:
    scores, _ = samplers.EndRejection(steps=1).step(view_of([0.9], [END]), None)
    assert float(scores) == pytest.approx(0.9)


@pytest.mark.parametrize("preset", [samplers.ass, samplers.eoser_ass])
@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (8, [1, 2, 5]),
        (16, [1, 2, 4, 9]),
        (64, [1, 2, 4, 8, 16, 33]),
        (100, [1, 2, 4, 8, 16, 69]),
        (256, [1, 2, 4, 8, 16, 32, 64, 129]),
    ],
)
def test_doubling_steps(preset, positions: int, expected: list[int]) -> None:
    sets = commits(table_model(confidence_table([0.5] * positions)), preset(), positions)
    assert [len(s) for s in sets] == expected


def test_doubling_steps_in_blocks() -> None:
    answer = decode(table_model(confidence_table([0.5] * 128)), samplers.ass(block_count=4), 128)
    assert sizes(answer) == [15, 16, 32, 65]
    assert [answer.commit_step.count(step) for step in range(7)] == [1, 2, 4, 8, 16, 32, 65]


def test_slow_fast_cycles() -> None:
    script = [
        [0.95, 0.92, 0.50, 0.35, 0.20, 0.10],
        [0.50, 0.50, 0.60, 0.40, 0.25, 0.10],
        [0.50, 0.50, 0.50, 0.45, 0.25, 0.10],
        [0.50, 0.50, 0.50, 0.50, 0.50, 0.20],
        [0.50, 0.50, 0.50, 0.50, 0.50, 0.60],
    ]
    answer = decode(scripted_model([confidence_table(c) for c in script]), samplers.slowfast(explore=2), 6)
    assert answer.commit_step == [0, 0, 1, 2, 3, 4]
    assert answer.counts.forwards == 5
    assert answer.counts.token_forwards == 5 * 7  # the fast phase's first forward sees the whole row


def test_the_fast_phase_goes_on_without_the_tail() -> None:
    surely = [0.5, 0.5, 0.5, 0.5, 0.1, 0.1]
    answer = decode(table_model(confidence_table(surely)), samplers.slowfast(explore=2), 6)
    # Slow {0}, {1}; both estimates are 4, so fast {2} on the whole row and {3} on the prompt and four positions;
    # the second cycle sees nothing above low: it grows by one position, then by another.
    assert answer.commit_step == [0, 1, 2, 3, 4, 5]
    assert answer.counts.token_forwards == 5 * 7 + 5


@pytest.mark.parametrize("n", range(2, 8))
def test_profiled_steps_are_the_best_of_all(n: int) -> None:
    """Against every way to cut a list whose answers are its orders, where j known leave log(n - j) nats."""
    profile = tuple(math.log(n - j) for j in range(n))
    for steps in range(1, n + 1):
        ends = [round(n * cut) for cut in best_cuts(profile, steps)]
        sizes = [b - a for a, b in zip([0, *ends], ends, strict=False)]
        assert shuffle_in_bits(sizes) == pytest.approx(best_sizes(n, steps, shuffle_in_bits)[0])


def test_profiled_measures_what_it_goes_by() -> None:
    orders = next(control for control in CONTROLS if control.name == "orders")
    model = _model(orders.answers)
    ask = {"prompts": [[model.description.vocab_size - 1]] * 3000, "max_new_tokens": 4, "batch_size": 250}
    drawn = dlm.generate(model, sampler=samplers.random(temperature=1.0, blocks=samplers.Whole()), **ask)
    profile = measured(drawn)
    assert profile == pytest.approx([math.log(4 - j) for j in range(4)], abs=1e-6)
    sampler = samplers.profiled(2, entropies=profile, temperature=1.0)
    found = hold(orders, sampler, 3000)
    assert found.forwards == 2
    best = float(shuffle_in(best_sizes(4, 2, shuffle_in_bits)[1]))
    assert found.accuracy == pytest.approx(best, abs=0.04)
