"""``dlm compare``: intervals, the Pareto front, label places, and the command on the packaged model."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dlm
import samplers
from dlm import tasks
from dlm.cli import main
from dlm.errors import DlmError, SettingsError
from dlm.evaluation.intervals import wilson
from dlm.evaluation.runner import Models, Outcome, Ready
from dlm.evaluation.session import run_point
from dlm.overrides import choices
from dlm.report.comparison import Line, measure, ranked
from dlm.report.plots_points import Box, clusters, draw, pareto_front, place
from tests.evaluation.runs import Faulty, Held, ready, tiny

COORDINATE = st.integers(0, 6).map(float)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE), min_size=1, max_size=12)
FAST = ("n=2", "max_new_tokens=8", "batch_size=2")
TASK = "task=waiting_line/copy"


def compare(*arguments: str) -> int:
    return main(["compare", *FAST, *arguments])


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "compare.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe (1998), Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # by hand: z^2 / (n + z^2) for none or all, half a width of z / (2 sqrt(n + z^2)) for one half
        (10, 10, 0.72247, 1.0),
        (5, 10, 0.23659, 0.76341),
    ],
)
def test_wilson_against_known_values(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(case: tuple[int, int]) -> None:
    right, n = case
    low, high = wilson(right, n)
    assert 0.0 <= low <= right / n <= high <= 1.0
    assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize(("right", "n"), [(0, 0), (2, 1), (-1, 3)])
def test_wilson_refuses_what_is_no_share(right: int, n: int) -> None:
    with pytest.raises(ValueError, match="a share needs"):
        wilson(right, n)


@given(POINTS)
def test_the_front_is_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a != b and a[0] >= b[0] and a[1] >= b[1]

    front = pareto_front(points)
    assert front
    for i, point in enumerate(points):
        assert (i in front) == (not any(beats(other, point) for other in points))
    shown = [points[i] for i in front]
    assert all(a == b or (a[0] < b[0] and a[1] > b[1]) for a, b in pairwise(shown))


@given(st.lists(st.tuples(st.floats(100, 700), st.floats(100, 500)), min_size=1, max_size=15))
def test_labels_cover_neither_each_other_nor_leave_the_frame(spots: list[tuple[float, float]]) -> None:
    taken: list[Box] = []
    for spot in spots:
        box = place(spot, (60.0, 14.0), taken, (0.0, 0.0, 800.0, 600.0))
        assert all(box[0] >= b[2] or box[2] <= b[0] or box[1] >= b[3] or box[3] <= b[1] for b in taken)
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= 800 and box[3] <= 600
        taken.append(box)


def test_points_on_one_another_share_a_label() -> None:
    assert clusters([(0, 0), (50, 0), (1, 1), (50, 2), (9, 9)]) == [[0, 2], [1, 3], [4]]


def line(sampler: str, accuracy: float, speed: float) -> Line:
    return Line("a/b", sampler, 4, 8, accuracy, *wilson(accuracy * 4, 4), 2, 9, 4, speed, 4, 0.1, 0.1, 1)


def test_the_best_come_first() -> None:
    lines = [line("slow", 0.5, 1), line("wrong", 0.25, 9), line("fast", 0.5, 3), line("also", 0.5, 1)]
    assert [entry.sampler for entry in ranked(lines)] == ["fast", "also", "slow", "wrong"]


def test_a_picture_of_nothing_right_and_strange_names(tmp_path: Path) -> None:
    draw([line("a$b_{c$", 0, 0), line("x" * 60, 0, 0)], tmp_path / "p.png")
    draw([line("one", 1, 3)], tmp_path / "q.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.png", "q.png"]


def test_a_line_is_what_generate_counts(tmp_path: Path) -> None:
    asked = ("sampler.threshold=0.8", "task.limit=3", "batch_size=2", "seed=1")
    found = measure(ready(tmp_path, *asked), "mine", Held(tiny()))
    task = tasks.get("waiting_line/copy")
    instances = [task.instance(i) for i in range(3)]
    chats = [instance.messages for instance in instances]
    answers = dlm.generate(tiny(), chats, sampler=samplers.threshold(0.8), max_new_tokens=32, seed=1, batch_size=2)
    forwards = [answer.counts.forwards for answer in answers]
    assert (found.task, found.sampler, found.n, found.max_new_tokens) == ("waiting_line/copy", "mine", 3, 32)
    assert found.forwards == sum(forwards) / 3
    assert found.tokens_per_forward == pytest.approx(sum(a.counts.tokens_per_forward for a in answers) / 3)
    assert found.token_forwards == sum(a.counts.token_forwards for a in answers) / 3
    right = [task.score(i, a.text) for i, a in zip(instances, answers, strict=True)]
    assert found.accuracy == sum(right) / 3
    assert 0 < found.outside_share < 1
    assert found.overhead_ms_per_step == pytest.approx(1000 * found.seconds * found.outside_share / sum(forwards))


def test_a_question_without_an_answer_is_no_line(tmp_path: Path) -> None:
    point = ready(tmp_path)
    mark = tiny().encode_chat(point.instances()[2].messages)[-6]
    with pytest.raises(DlmError, match=r"waiting_line/copy with mine: question \d: the model's logits are NaN"):
        measure(point, "mine", Held(Faulty(mark, "nan")))


def test_from_the_command_line_to_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    labels = ["threshold", "topk:tokens_per_step=4"]
    arguments = ("task=[waiting_line/copy,waiting_line/shuffle]", f"samplers=[{','.join(labels)}]", f"out={out}")
    assert compare(*arguments) == 0
    told = capsys.readouterr().out
    assert told.index("waiting_line/copy: 2 held-out questions, 8 positions") < told.index("waiting_line/shuffle:")
    assert max(map(len, told.splitlines())) <= 80
    assert sorted(path.name for path in out.iterdir()) == [
        "compare.csv", "compare.json", "waiting_line-copy.png", "waiting_line-shuffle.png"
    ]  # fmt: skip
    rows = rows_of(out)
    assert [row["sampler"] for row in rows] == labels * 2
    assert list(rows[0]) == list(Line.__dataclass_fields__)
    assert float(rows[1]["forwards"]) == 2.0
    kept = json.loads((out / "compare.json").read_text())
    assert [{k: str(v) for k, v in entry.items()} for entry in kept["lines"]] == rows
    assert kept["settings"]["model"]["name_or_path"] == "tiny"
    assert kept["settings"]["samplers"] == labels
    assert (out / "waiting_line-copy.png").read_bytes().startswith(b"\x89PNG")


def test_a_refused_sampler_is_listed_and_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = "samplers=[dream_entropy,threshold,topk:nope=1,threshold:threshold=7]"
    assert compare(TASK, chosen, "blocks.length=4", f"out={tmp_path}", "pictures=false") == 0
    told = capsys.readouterr().out
    assert "refused: dream_entropy: " in told
    assert "blocks=whole" in told
    assert "refused: topk:nope=1: unknown setting 'sampler.nope'" in told
    assert "refused: threshold:threshold=7: " in told
    assert [row["sampler"] for row in rows_of(tmp_path)] == ["threshold"]
    kept = json.loads((tmp_path / "compare.json").read_text())
    assert [entry["sampler"] for entry in kept["refused"]] == [
        "dream_entropy", "topk:nope=1", "threshold:threshold=7"
    ]  # fmt: skip
    assert compare(TASK, "samplers=dream_entropy", "blocks.length=4") == 2
    assert "no sampler could be run" in capsys.readouterr().err


def test_settings_refused_while_decoding_are_listed_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(TASK, "samplers=[threshold]", "blocks.length=64") == 2
    told = capsys.readouterr()
    assert "refused: threshold: " in told.out
    assert "longer than the canvas" in told.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["samplers=[threshold,nope]"], "unknown sampler 'nope'; known are all or "),
        (["samplers=[nope:k=1]"], "unknown sampler 'nope'"),
        (["samplers=[]"], "samplers names none"),
        (["samplers=[topk:steps]"], "'steps' in 'topk:steps' is not key=value"),
        (["sampler=topk"], "samplers=[NAME,...] instead of sampler=NAME"),
        (["task=nope"], "unknown task 'nope'; known are arithmetic/addition"),
        (["task=[]"], "task names none"),
        (["n=0"], "n must be a whole number of at least 1, got 0"),
        (["n=two"], "n must be a whole number of at least 1, got 'two'"),
        (["batch_size=0"], "batch_size must be"),
        (["max_new_tokens=0"], "max_new_tokens must be"),
        (["pictures=maybe"], "pictures must be true or false"),
        (["nonsense=1"], "unknown setting 'nonsense'"),
    ],
)
def test_refused_before_anything_is_decoded(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reaching the model would fail. The package's own name first: it is looked up when it is first used.
    monkeypatch.setattr("dlm.load", None)
    monkeypatch.setattr("dlm.models.load", None)
    assert compare(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("dlm: error: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_without_matplotlib_one_line_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlm.report.plots_points.find_spec", lambda _: None)
    assert compare(TASK, "samplers=topk", f"out={tmp_path}/new") == 2
    assert "pip install 'dlm[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert compare(TASK, "samplers=topk", f"out={tmp_path}/new", "pictures=false") == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["compare.csv", "compare.json"]


def test_what_was_measured_survives_an_interrupt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def interrupted(point: Ready, models: Models, quiet: bool = False) -> Outcome:
        calls.append(point.point.method)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return run_point(point, models, quiet)

    monkeypatch.setattr("dlm.report.comparison.run_point", interrupted)
    assert compare(TASK, "samplers=[topk,threshold]", f"out={tmp_path}") == 130
    assert calls == ["topk", "topk", "threshold"]  # the first of them warms up
    assert [row["sampler"] for row in rows_of(tmp_path)] == ["topk"]
    assert not list(tmp_path.glob("*.partial"))
    out, err = capsys.readouterr()
    assert "topk" in out
    assert "1 line was measured" in err


@pytest.mark.slow
def test_all_are_all_but_parts(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(ready: Ready, label: str, models: Models) -> Line:
        raise SettingsError("not today")

    monkeypatch.setattr("dlm.report.comparison.measure", refused)
    assert compare(TASK, "samplers=all") == 2
    told = [line.partition(":")[2].partition(":")[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert told == [name for name in choices("sampler") if name != "parts"]


def test_help_and_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    told = capsys.readouterr().out
    assert "dlm compare" in told
    assert "dream_entropy" in told
    assert main(["compare", "--cfg", "job", "samplers=[topk:steps=3]", "n=7"]) == 0
    told = capsys.readouterr().out
    assert "samplers: '[topk:steps=3]'" in told
    assert "'n': 7" in told  # a bare n is false in older YAML
    assert main(["--help"]) == 0
    assert "compare" in capsys.readouterr().out


def test_every_sampler_with_every_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    chosen = ("samplers=[topk,klass]", "caches=[none,'dual:every=2',dllm]", "blocks.length=4", f"out={tmp_path}")
    assert compare(TASK, *chosen, "n=2", "pictures=false") == 0
    lines = json.loads((tmp_path / "compare.json").read_text())["lines"]
    labels = [line["sampler"] for line in lines]
    assert labels == ["topk + none", "topk + dual:every=2", "topk + dllm", "klass + none", "klass + dual:every=2"]
    fed = {line["sampler"]: line["token_forwards"] for line in lines}
    assert fed["topk + dual:every=2"] < fed["topk + none"]
    assert "refused: klass + dllm: cache DLLM does not go with" in " ".join(capsys.readouterr().out.split())


def test_a_cache_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(TASK, "samplers=topk", "caches=[nope]") == 2
    assert (
        "unknown cache 'nope' (did you mean none?); known are all or adaptive, block_causal" in capsys.readouterr().err
    )
    assert compare(TASK, "samplers=topk", "caches=[dual:every]") == 2
    assert "caches: 'every' in 'dual:every' is not key=value (as dual:every=8)" in capsys.readouterr().err
