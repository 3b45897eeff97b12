"""Methods, means over tasks, standings, the best per sample, the map of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isnan, log2
from pathlib import Path

import pytest

from dlm.errors import SettingsError
from dlm.evaluation.point import Point
from dlm.report.figures import Figures, figures_of
from dlm.report.methods import places_of
from dlm.report.pairs import compare
from dlm.report.summary import Options, Summary, at_one_budget, summary_of

from .stores import answers, at_speed, config, sweep, write

COPY, SHUFFLE = "waiting_line/copy", "waiting_line/shuffle"


def figures(folder: Path) -> list[Figures]:
    return figures_of([folder])


def summary(folder: Path, options: Options | None = None) -> Summary:
    return summary_of(figures(folder), options or Options())


def labels(configs: Sequence[dict]) -> list[tuple[str, str, str]]:
    return [(p.task, p.method, p.setting) for p in places_of([Point(values) for values in configs])]


def test_the_swept_parameter_is_found() -> None:
    found = labels([config(sampler__threshold=0.9), config(sampler__threshold=0.5), config("topk")])
    assert found == [
        (COPY, "threshold", "threshold=0.9"), (COPY, "threshold", "threshold=0.5"), (COPY, "topk", ""),
    ]  # fmt: skip


def test_a_second_parameter_tells_methods_apart() -> None:
    configs = [
        config(sampler__threshold=t, blocks={"choice": "fixed", "length": b}) for t in (0.9, 0.7, 0.5) for b in (8, 16)
    ]
    assert labels(configs)[:2] == [
        (COPY, "threshold blocks.length=8", "threshold=0.9"), (COPY, "threshold blocks.length=16", "threshold=0.9"),
    ]  # fmt: skip


def test_a_sampler_with_blocks_of_its_own_is_told_apart() -> None:
    own = {"_target_": "samplers.Fixed", "length": 4}
    assert [method for _, method, _ in labels([config(), config(sampler__blocks=own)])] == ["threshold", "threshold"]
    settings = {setting for _, _, setting in labels([config(), config(sampler__blocks=own)])}
    assert settings == {"blocks.length=null", "blocks.length=4"}


def test_parameters_that_move_together_are_one() -> None:
    configs = [config("slowfast", sampler__high=h, sampler__low=h - 0.3) for h in (0.9, 0.7)]
    assert {method for _, method, _ in labels(configs)} == {"slowfast"}


def test_what_differs_from_task_to_task_is_not_swept() -> None:
    configs = [config(max_new_tokens=32), config(task=SHUFFLE, max_new_tokens=64)]
    assert labels(configs) == [(COPY, "threshold", ""), (SHUFFLE, "threshold", "")]


def test_caches_drafters_blocks_and_models_are_parts_of_a_method() -> None:
    configs = [config(), config(cache={"choice": "dual", "every": 8}), config(blocks={"choice": "whole"})]
    assert [method for _, method, _ in labels(configs)] == [
        "threshold, auto blocks", "threshold + dual, auto blocks", "threshold, whole blocks",
    ]  # fmt: skip
    other = config(model={"choice": "llada-8b", "_target_": "dlm.load"})
    assert [method for _, method, _ in labels([config(), other])] == ["tiny: threshold", "llada-8b: threshold"]
    moved = config(model={"choice": "tiny", "_target_": "dlm.load", "name_or_path": "tiny", "device": "cuda"})
    assert {method for _, method, _ in labels([config(), moved])} == {"threshold"}  # the machine is no setting


def test_forms_and_options_make_tasks_of_their_own() -> None:
    assert [task for task, _, _ in labels([config(), config(form="infill"), config(task__n=15)])] == [
        f"{COPY} (form=chat n=null)", f"{COPY} (form=infill n=null)", f"{COPY} (form=chat n=15)",
    ]  # fmt: skip


def test_static_and_adaptive() -> None:
    kinds = [p.kind for p in places_of([Point(config()), Point(config("topk", sampler__tokens_per_step=2))])]
    assert kinds == ["adaptive", "static"]
    points = [Point(config("klass", sampler__tokens_per_step=k)) for k in (1, 2)]
    assert [p.kind for p in places_of(points, [True, False])] == ["adaptive", "adaptive"]


def test_a_budget_that_answers_do_not_keep_is_adaptive(tmp_path: Path) -> None:
    """Some samplers have a budget and go beyond it (KLASS, Prophet)."""
    mixed = [*at_speed([1], 1), *at_speed([1, 1], 2)[1:]]
    write(tmp_path, config("klass", sampler__tokens_per_step=1), mixed)
    write(tmp_path, config("topk", sampler__tokens_per_step=1), at_speed([1, 1], 1))
    assert {f.row.method: f.row.kind for f in figures(tmp_path)} == {"klass": "adaptive", "topk": "static"}


def test_canvases_of_several_lengths_leave_a_budget_static(tmp_path: Path) -> None:
    """Two slots a step: a list of three takes two steps, one of four takes two, one of five three (infill form)."""
    steps = {3: [0, 0, 1], 4: [0, 0, 1, 1], 5: [0, 0, 1, 1, 2]}
    mixed = [
        replace(answer, canvas=n, commit_step=steps[n], forwards=-(-n // 2))
        for answer, n in zip(answers([1] * 4), (3, 4, 5, 4), strict=True)
    ]
    write(tmp_path, config("topk", sampler__tokens_per_step=2), mixed)
    write(tmp_path, config("klass", sampler__tokens_per_step=2), [*mixed[:3], replace(mixed[3], forwards=3)])
    assert {f.row.method: f.row.kind for f in figures(tmp_path)} == {"klass": "adaptive", "topk": "static"}


def test_figures_of_a_point(tmp_path: Path) -> None:
    """By hand: (3 tokens in 3 forwards, 4 positions in 4) and (6 in 2, 8 in 4)."""
    samples = answers([1, 0])
    samples[1] = replace(
        samples[1], tokens=6, content_forwards=2, canvas=8, forwards=4, commit_step=[0, 0, 0, 1, 1, 1, 2, 3],
        seconds=1.5, score_strict=0.0,
    )  # fmt: skip
    write(tmp_path, config(), samples)
    row = figures(tmp_path)[0].row
    assert row.tokens_per_forward == pytest.approx((1 + 3) / 2)
    assert row.tokens_per_forward_summed == pytest.approx(9 / 5)
    assert row.canvas_tokens_per_forward == pytest.approx((1 + 2) / 2)
    assert row.canvas_tokens_per_forward_summed == pytest.approx(12 / 8)
    assert row.tokens_per_second == pytest.approx(9 / 2)
    assert row.tokens_per_step_max == 2
    assert row.outside_model == pytest.approx(1 - 0.8 / 2)
    assert (row.score, row.score_strict, row.interval) == (0.5, 0.5, "wilson")
    assert row.ar_ness == pytest.approx((1 + 2 / 6) / 2)
    assert row.left_to_right == 1
    assert row.kendall_canvas > row.kendall > 0


def test_no_tokens_are_no_speed(tmp_path: Path) -> None:
    write(tmp_path, config(), answers([0], tokens=0, content_forwards=0))
    row = figures(tmp_path)[0].row
    assert row.tokens_per_forward == 0
    assert isnan(row.tokens_per_forward_summed)
    assert isnan(row.kendall)


def test_means_are_taken_over_all_tasks_or_none(tmp_path: Path) -> None:
    sweep(tmp_path)
    write(tmp_path, config(sampler__threshold=0.3), at_speed([1] * 10, 8))
    found = {(m.method, m.setting): m for m in summary(tmp_path).means}
    whole, part = found["threshold", "threshold=0.9"], found["threshold", "threshold=0.3"]
    assert (whole.score, whole.tokens_per_forward, whole.tasks) == (pytest.approx(0.9), 1, 2)
    assert whole.score_low < 0.9 < whole.score_high
    assert part.missing == (SHUFFLE,)
    assert isnan(part.score)
    assert isnan(part.tokens_per_forward)


def test_standings(tmp_path: Path) -> None:
    """threshold: 90, 80, 70 % at 1, 2, 4 tokens per forward; topk: 85, 70, 55 %."""
    sweep(tmp_path)
    standings = {s.method: s for s in summary(tmp_path, Options(x=(75.0,))).standings}
    assert standings["threshold"].pbx[75] == (2, pytest.approx(3))
    assert standings["topk"].pbx[75] == (1, pytest.approx(1 + 2 / 3))
    assert standings["threshold"].area == pytest.approx(0.8)
    assert standings["topk"].area == pytest.approx(0.7)
    assert standings["threshold"].best == pytest.approx(0.9)
    upstream = {s.method: s for s in summary(tmp_path, Options(x=(75.0,), rule="upstream")).standings}
    assert upstream["threshold"].pbx[75] == (pytest.approx(3),)
    assert upstream["topk"].pbx[75] == (1,)  # static: never between


def test_the_range_of_the_area_can_be_set(tmp_path: Path) -> None:
    sweep(tmp_path)
    found = summary(tmp_path, Options(low=1, high=16))
    assert found.range == (1, 16)
    assert found.standings[0].area == pytest.approx(0.8 * log2(4) / log2(16))


def test_the_best_per_sample_picks_the_best_answer_then_the_fastest(tmp_path: Path) -> None:
    write(tmp_path, config(sampler__threshold=0.9), at_speed([1, 1, 0, 0], 1))  # 8 forwards
    write(tmp_path, config(sampler__threshold=0.5), at_speed([1, 0, 0, 1, 1], 4))  # 2 forwards
    (best,) = summary(tmp_path).best
    assert (best.settings, best.samples) == (2, 4)  # q4 was asked at one setting only
    assert best.score == 0.75
    assert best.forwards == pytest.approx((2 + 8 + 2 + 2) / 4)
    assert best.tokens_per_forward == pytest.approx((4 + 1 + 4 + 4) / 4)
    assert (best.best_setting, best.best_score) == ("threshold=0.5", 0.5)  # equal score, fewer forwards


def test_the_best_per_sample_keeps_seeds_apart(tmp_path: Path) -> None:
    def both(first: float, second: float, speed: int) -> list:
        return [*at_speed([first], speed, seed=0), *at_speed([second], speed, seed=1)]

    write(tmp_path, config(sampler__threshold=0.9), both(1, 0, 1))
    write(tmp_path, config(sampler__threshold=0.5), list(reversed(both(0, 1, 4))))
    (best,) = summary(tmp_path).best
    assert (best.samples, best.score, best.forwards) == (2, 1.0, 5.0)


def test_the_map_of_tasks(tmp_path: Path) -> None:
    """topk on shuffle: 70, 40, 10 % at k = 1, 2, 4."""
    sweep(tmp_path)
    mapped = {m.task: m for m in summary(tmp_path).mapped}
    assert mapped[SHUFFLE].method == "topk"
    assert mapped[SHUFFLE].parallelisability == pytest.approx((0.7 + 2 * 0.4 + 4 * 0.1) / 1.2)
    assert mapped[COPY].parallelisability == pytest.approx(7 / 3)
    assert isnan(mapped[COPY].order)


def test_the_slope_over_block_lengths_is_taken_at_two_tokens_a_step(tmp_path: Path) -> None:
    for k in (1, 2):
        for level, length in enumerate((4, 8, 16)):
            right = 9 - 2 * level * (k == 2)
            values = config("topk", sampler__tokens_per_step=k, blocks={"choice": "fixed", "length": length})
            write(tmp_path, values, at_speed([1] * right + [0] * (10 - right), k))
    (mapped,) = summary(tmp_path).mapped
    assert mapped.order == pytest.approx(-20)  # points per doubling: small blocks are better
    assert mapped.order_method == "topk tokens_per_step=2"


def test_block_lengths_are_compared_at_the_budget_that_was_set(tmp_path: Path) -> None:
    """What comes of it differs with the canvas: lists of unequal lengths end with a step of fewer tokens."""
    for task, canvas in ((COPY, 8), (SHUFFLE, 7)):
        for length in (4, 8):
            values = config("topk", task, sampler__tokens_per_step=2, blocks={"choice": "fixed", "length": length})
            write(tmp_path, values, at_speed([1, 0], 2, task=task)[:1] + answers([1], task=task, canvas=canvas)[:1])
    lines = at_one_budget(summary(tmp_path).lengths)
    assert {(line.task, line.budget) for line in lines} == {(COPY, 2.0), (SHUFFLE, 2.0)}


def test_a_mean_on_the_mark_reaches_it(tmp_path: Path) -> None:
    """(0.7 + 0.7 + 0.7) / 3 is below 0.7 in floating point."""
    for task in (COPY, SHUFFLE, "waiting_line/sort"):
        write(tmp_path, config(task=task), at_speed([1] * 7 + [0] * 3, 2, task=task))
    (standing,) = summary(tmp_path).standings
    assert standing.pbx[70.0] == (2.0, 2.0)


def test_one_speed_has_no_area(tmp_path: Path) -> None:
    write(tmp_path, config(), at_speed([1, 0, 0], 2))
    write(tmp_path, config("topk"), at_speed([1, 1, 0], 2))
    found = summary(tmp_path)
    assert all(isnan(standing.area) for standing in found.standings)
    assert found.methods == ["topk", "threshold"]  # the better one first all the same


def test_heat_is_interpolated_and_never_extrapolated(tmp_path: Path) -> None:
    sweep(tmp_path)
    heat = summary(tmp_path, Options(at=2**0.5)).heat
    assert heat["threshold", SHUFFLE] == pytest.approx(0.7)
    assert summary(tmp_path, Options(at=8)).heat == {}


def test_pairs(tmp_path: Path) -> None:
    sweep(tmp_path)
    found = figures(tmp_path)
    lines = compare(found, ["threshold threshold=0.9", "topk tokens_per_step=1"])
    assert [line.task for line in lines] == [COPY, SHUFFLE, "all"]
    shuffle = lines[1].test
    assert (shuffle.n, shuffle.only_a, shuffle.only_b, shuffle.test) == (10, 1, 0, "mcnemar")
    assert shuffle.difference == pytest.approx(-0.1)
    assert lines[2].test.n == 20
    folders = [f.row.folder for f in found if f.row.task == COPY][:2]
    elsewhere = next(f.row.folder for f in found if f.row.task == SHUFFLE)
    assert len(compare(found, folders)) == 1
    for names, message in (
        (["threshold", "topk"], "several settings"), (["nothing", "topk"], "no folder and no setting"),
        (["topk"], "two names"), ([folders[0], elsewhere], "in common"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=message):
            compare(found, names)
