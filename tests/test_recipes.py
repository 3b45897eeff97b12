"""Published settings by name: the files, what they expand to, and what is said of their figures."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from dlm import cli, recipes
from dlm.bench.estimate import estimate
from dlm.configuration import Composer, compose_config, parts_of, settled
from dlm.errors import SettingsError
from dlm.evaluation import reproducing
from dlm.evaluation.reproducing import Order, difference, gigabytes, missing, reproduced, shrunk
from dlm.overrides import choices, searching
from scripts import recipes_page

DATA = Path(__file__).parent / "data"
ALL = recipes.every()
PAPERS = ("llada", "fast-dllm", "dkv-cache", "dllm-cache", "prophet", "localleap", "creditdecoding", "learn2pd",
          "adablock", "dparallel", "freedave", "klass", "eb-sampler", "d2cache", "diffucoder", "dawn")  # fmt: skip
OWN = """
about: a paper
sources: {t: "Table 1"}
set: {model: tiny, max_new_tokens: 32}
parts:
  copy: {task: waiting_line/copy}
  fast: {sampler: threshold, sampler.threshold: 0.9}
  copy/fast: {cache: dual, unclear: nothing}
tables:
  - source: t
    columns: [fast]
    rows: {copy: {accuracy: [90]}}
"""


def in_folder(folder: Path, text: str, name: str = "own") -> Path:
    (folder / "recipe").mkdir(exist_ok=True)
    (folder / "recipe" / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def test_every_paper_that_was_asked_for_is_there() -> None:
    assert set(PAPERS) <= {name.partition("/")[0] for name in ALL}
    assert all(name == recipe.name for name, recipe in ALL.items())
    assert len({name.lower() for name in ALL}) == len(ALL)


def test_every_recipe_is_a_configuration_of_dlm_eval() -> None:
    composer = Composer("eval")
    for recipe in ALL.values():
        there = recipe.task in choices("task")
        overrides = recipe.overrides([] if there else ["task=gsm8k"])
        plain = settled(composer(overrides))
        parts_of(plain)
        assert plain["max_new_tokens"] == recipe.settings["max_new_tokens"]
        assert (
            plain["sampler"]["blocks"] is None
            or "length" not in plain["sampler"]["blocks"]
            or (plain["sampler"]["blocks"]["length"] == recipe.settings.get("blocks.length"))
        )
        assert recipe.settings["model"] in recipes.at_hand()["models"]
        assert recipe.task in recipes.at_hand()["tasks"]


def test_every_figure_has_a_source_and_is_one() -> None:
    for recipe in ALL.values():
        assert recipe.about
        assert "arXiv" in recipe.about
        assert recipe.published or recipe.unclear, recipe.name
        for figure in recipe.published:
            assert figure.source
            assert figure.values
            assert all(name in recipes.FIGURES and value > 0 for name, value in figure.values.items())
            assert figure.values.get("accuracy", 1) <= 100


def test_figures_that_were_read_in_the_papers() -> None:
    read = {
        "fast-dllm/gsm8k-5shot/prefix": (78.5, 54.4, None),
        "fast-dllm/gsm8k-8shot/1024/dual": (76.0, 19.3, None),
        "fast-dllm/dream/mbpp-3shot/512/prefix": (55.2, 73.6, None),
        "llada/base/gsm8k/1024": (70.3, None, None),
        "llada/instruct/gsm8k/blocks": (78.9, None, None),
        "dparallel/llada/gsm8k/dparallel": (76.1, None, 30),
        "dkv-cache/llada/humaneval/decode": (46.34, 13.76, None),
        "adablock/llada/gsm8k/b64/ada-cache": (80.7, None, None),
        "learn2pd/gsm8k-5shot/1024/eotp": (79.83, 12.26, None),
        "freedave/trado-4b/history/math500/d4": (74.2, None, 1556),
    }
    for name, figures in read.items():
        recipe = ALL[name]
        assert tuple(map(recipe.value, ("accuracy", "tokens_per_second", "forwards"))) == figures, name


def test_settings_that_the_sources_name() -> None:
    dual = ALL["fast-dllm/gsm8k-5shot/dual"].settings
    assert dual == {"model": "llada-8b-instruct", "task": "gsm8k", "task.form": "one_turn", "task.shots": 5,
                    "max_new_tokens": 256,
                    "task.shots_path": "hf:openai/gsm8k:main", "blocks.length": 32, "sampler": "threshold",
                    "sampler.threshold": 0.9, "cache": "dual"}  # fmt: skip
    assert ALL["klass/llada/gsm8k/klass"].settings["sampler.divergence"] == 0.015
    assert ALL["d2cache/llada/gsm8k/dllm"].settings["cache.interval"] == 7
    assert ALL["llada/instruct/humaneval/pure"].settings["sampler.ban_end"] is True


def test_a_recipe_beside_other_settings(tmp_path: Path) -> None:
    plain = compose_config("eval", ["recipe=fast-dllm/gsm8k-5shot/dual", "model=tiny", "sampler.threshold=0.7"])
    assert (plain.model.name_or_path, plain.sampler.threshold, plain.task.shots) == ("tiny", 0.7, 5)
    answers = compose_config("generate", ["recipe=fast-dllm/gsm8k-5shot/dual", "model=tiny"])
    assert answers.cache._target_ == "cache.dual"
    assert "task" not in answers
    with searching([in_folder(tmp_path, OWN)]):
        assert compose_config("eval", ["recipe=own/copy/fast"]).task.name == "waiting_line/copy"


def test_one_of_ones_own_runs_and_is_held_against_its_figure(tmp_path: Path) -> None:
    with searching([in_folder(tmp_path, OWN)]):
        alone = recipes.named("own")[0]
    with searching([in_folder(tmp_path, OWN.replace("set: {", "set: {questions: 100, "), "other")]):
        recipe = recipes.named("other")[0]
    assert recipe.unclear == ("nothing",)
    (line,) = reproduced([recipe], Order(limit=4, out=str(tmp_path / "out")))
    (again,) = reproduced([recipe], Order(limit=4, out=str(tmp_path / "out")))
    (unknown,) = reproduced([alone], Order(limit=4, out=str(tmp_path / "out")))
    assert unknown.difference == ""  # of how many questions its figure is, nobody says
    with pytest.raises(SettingsError, match="a dry run knows no size of tiny"):
        estimate(alone, "h200")
    assert line.figures["questions"] == 4
    assert line.difference == "within noise"
    assert again.figures["seconds"] == line.figures["seconds"]  # nothing was asked again


def test_recipes_run_on_the_packaged_model(tmp_path: Path) -> None:
    found = [[r for r in recipes.named(paper) if r.task in choices("task")][-1] for paper in PAPERS[::5]]
    for line in reproduced(found, Order(limit=2, model="tiny", out=str(tmp_path))):
        assert line.reason == ""
        assert line.figures["questions"] == 2
        assert line.difference == "another model"


@pytest.mark.slow
def test_every_recipe_runs_on_the_packaged_model(tmp_path: Path) -> None:
    lines = reproduced(list(ALL.values()), Order(limit=2, model="tiny", out=str(tmp_path)))
    assert not [line.recipe.name for line in lines if not line.figures and line.recipe.task in choices("task")]
    assert not [line.reason for line in lines if line.reason and "task not at hand" not in line.reason]


def test_questions_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "gsm8k.jsonl").write_text((DATA / "gsm8k" / "test.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    order = Order(limit=2, model="tiny", data=tmp_path, out=str(tmp_path / "out"))
    (line,) = reproduced([ALL["fast-dllm/gsm8k-5shot/prefix"]], order)
    assert line.figures["questions"] == 2
    assert f"task.path='{tmp_path / 'gsm8k.jsonl'}'" in line.overrides


def test_a_packaged_model_is_given_a_part_of_the_canvas() -> None:
    small = shrunk(ALL["dkv-cache/dream/mbpp-3shot/256-steps/decode"])
    assert small.settings["max_new_tokens"] == 32
    assert small.settings["sampler.steps"] == 16
    assert small.settings["task.shots"] == 0
    assert shrunk(ALL["llada/instruct/gsm8k/blocks"]).settings["blocks.length"] == 8


def test_the_interval_of_a_difference() -> None:
    # Newcombe 1998, table II, (a): 56/70 - 48/80, method 10.
    low, high = difference(56, 70, 48, 80)
    assert (round(low, 4), round(high, 4)) == (0.0524, 0.3339)


def test_a_dry_run_takes_less_than_a_second() -> None:
    started = time.perf_counter()
    found = {name: estimate(recipe, "a100") for name, recipe in ALL.items()}
    assert time.perf_counter() - started < 1
    one, cached = found["fast-dllm/gsm8k-5shot/none"], found["fast-dllm/gsm8k-5shot/cache"]
    assert one.forwards == 256
    assert one.positions == 100 + 5 * 140 + 256
    assert cached.seconds < one.seconds / 2
    # 256 forwards of 16 GB at 2.04 TB/s cannot take less.
    assert one.seconds > 1319 * 256 * 15e9 / 2.04e12
    assert estimate(ALL["dparallel/llada/gsm8k/dparallel"], "h200").forwards == 30
    with pytest.raises(SettingsError, match="unknown card 'abacus'; known are a100"):
        estimate(ALL["fast-dllm/gsm8k-5shot/none"], "abacus")


def test_what_is_not_at_hand_is_said_with_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = ALL["fast-dllm/gsm8k-5shot/dual"]
    assert missing(recipe, Order()) == (
        "model not at hand: huggingface-cli download GSAI-ML/LLaDA-8B-Instruct, 16 GB; or download=true"
    )
    assert missing(recipe, Order(download=True)) == ""
    assert "Zigeng/dParallel-LLaDA-8B-instruct, 16 GB" in missing(ALL["dparallel/llada/gsm8k/dparallel"], Order())
    monkeypatch.setattr(reproducing, "choices", lambda group: ["gsm8k"])
    assert "task not at hand: this version has no task 'mbpp' (500 questions of huggingface.co/datasets/google" in (
        missing(ALL["fast-dllm/mbpp-3shot/none"], Order(model="tiny"))
    )
    facts = recipes.at_hand()
    gated = {**facts["models"], "llada-8b-instruct": {**facts["models"]["llada-8b-instruct"], "gated": True}}
    monkeypatch.setattr(reproducing, "at_hand", lambda: {**facts, "models": gated})
    assert "which asks for a login" in missing(recipe, Order())


def test_sizes_are_those_of_the_published_weights() -> None:
    models = recipes.at_hand()["models"]
    assert gigabytes(models["llada-8b-instruct"]) == pytest.approx(16.031, abs=0.002)
    assert gigabytes(models["dream-7b-base"]) == pytest.approx(15.231, abs=0.002)
    assert set(models) <= set(choices("model"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("about: [", "is no file of recipes"),
        (OWN.replace("[90]", "[90, 91]"), "accuracy has 2 values for 1 columns"),
        (OWN.replace("accuracy:", "accurcy:"), "not 'accurcy'"),
        (OWN.replace("source: t", "source: u"), "'u' is missing"),
        (OWN.replace("columns: [fast]", "columns: [slow]"), "there is no part 'slow'"),
        (OWN.replace("max_new_tokens: 32", "max_new_tokens: 32, seed: 1"), "'seed' is no setting"),
        (OWN.replace("task: waiting_line/copy", "task.shots: 2"), "does not say its task"),
        (OWN.replace("0.9}", "'${oc.env:HOME}'}"), "without"),
        (OWN.replace("0.9}", "{_target_: os.system}}"), "plain value"),
        (OWN.replace("cache: dual", "cache: triple"), "unknown cache 'triple'"),
        (OWN.replace("cache: dual", "counts: guesses"), "counts is one of answer"),
        (OWN.replace("cache: dual", "cache: 2026-01-01"), "not JSON serializable"),
        (OWN.replace("{accuracy: [90]}", "&a {accuracy: [90]}, copy/fast: *a"), "aliases"),
        (OWN + "  - {source: t, columns: [fast], rows: {copy: {accuracy: [90]}}}\n", "stands twice"),
        ("- 1", "is no file of recipes"),
        ("about: " + "[" * 1000, "nested deeper than"),
        ("about: " + "a" * 300_000, "longer than"),
        (OWN.replace("about: a paper", "about: [1, 2]"), "about must be a text"),
        (OWN.replace("[90]", "[.inf]"), "figures are numbers"),
        (OWN.replace("max_new_tokens: 32", "max_new_tokens: abc"), "max_new_tokens must be a whole number"),
        (OWN.replace("set: {", "set: {questions: 0, "), "questions must be a whole number"),
    ],
)
def test_files_that_are_none(change: str, said: str, tmp_path: Path) -> None:
    with searching([in_folder(tmp_path, change)]), pytest.raises(SettingsError, match=r"docs/recipes\.md") as error:
        recipes.every()
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipes", "fast-dllm/gsm8k/dual"], "no recipe is called 'fast-dllm/gsm8k/dual'"),
        (["recipes", "a", "b"], "give one PATTERN"),
        (["reproduce"], "which recipes?"),
        (["reproduce", "prophet", "limit=0"], "limit must be a whole number"),
        (["reproduce", "prophet", "dry_run=maybe"], "dry_run must be true or false"),
        (["reproduce", "prophet", "data=/nowhere"], "data=/nowhere is no folder"),
        (["reproduce", "prophet", "limit=1", "model=tiny", "foo=1"], "unknown setting 'foo'"),
        (["reproduce", "prophet", "limit=1", "model=tiny", "out="], "out must be a folder"),
        (["reproduce", "prophet", "dry_run=true", "card=abacus"], "unknown card 'abacus'"),
        (["eval", "recipe=fast-dllm"], "stands for"),
        (["eval", "recipe=nothing"], "no recipe is called 'nothing'"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err


def test_the_commands_print_what_they_find(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["recipes", "fast-dllm/humaneval-0shot/prefix"]) == 0
    shown = capsys.readouterr().out
    assert "published   43.3%, 114.1 tok/s, 3.7x (arXiv 2505.22618, Table 1)" in shown
    assert "contradicts the paper speaks of output tokens" in shown
    assert "dlm eval model=llada-8b-instruct max_new_tokens=256" in shown
    assert cli.main(["recipes"]) == 0
    assert f"{len(ALL)} recipes" in capsys.readouterr().out
    assert cli.main(["reproduce", "prophet", "klass", "--dry-run", "card=h100", "json=true"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(recipes.named("prophet")) + len(recipes.named("klass"))
    words = ["reproduce", "prophet/gsm8k/*", "limit=2", "model=tiny", f"out={tmp_path}"]
    assert cli.main(words) == 0
    assert "2 of 2 recipes run" in capsys.readouterr().out
    assert cli.main([*words, "json=true"]) == 0
    assert json.loads(capsys.readouterr().out)[1]["published"][0]["accuracy"] == 77.9


def test_nothing_that_could_be_run_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", "localleap/gsm8k-5shot/localleap", "limit=1"]) == 1
    assert "model not at hand" in capsys.readouterr().out


def test_the_page_is_that_of_the_files() -> None:
    page = recipes_page.PAGE.read_text(encoding="utf-8")
    assert recipes_page.whole(page) == page, "run python scripts/recipes_page.py"
