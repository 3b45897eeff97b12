"""GSM8K: reading records, wording questions, reading numbers."""

from __future__ import annotations

import gzip
import json
import re
import time
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import dlm.tasks
from dlm.errors import SettingsError
from dlm.overrides import config_dir
from dlm.tasks.base import Instance
from dlm.tasks.gsm8k import EXAMPLES, Gsm8k
from dlm.tasks.records import read_records

DATA = Path(__file__).parent.parent / "data" / "gsm8k" / "test.jsonl"
RIGHT = ["700", "30", "14", "2400", "-5", "12", "9.5"]


@pytest.fixture(scope="module")
def task() -> Gsm8k:
    return Gsm8k(path=str(DATA))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_questions(task: Gsm8k) -> None:
    assert (task.name, task.size, task.canvas) == ("gsm8k", 7, 256)
    instances = [task.instance(i) for i in range(7)]
    assert [instance.meta["answer"] for instance in instances] == RIGHT
    assert len({instance.instance_id for instance in instances}) == 7
    assert instances == [task.instance(i) for i in range(7)]
    first = instances[0]
    assert first.prompt.startswith("A ferry") and "####" in first.prompt
    assert [turn["role"] for turn in first.messages] == ["user"]
    text = task.text(first)
    assert text == f"Question: {first.meta['question']}\nAnswer:"
    assert all(task.judge(instance, instance.target).strict == 1.0 for instance in instances)


def test_worked_examples(tmp_path: Path) -> None:
    task = Gsm8k(path=str(DATA), shots=5)
    instance = task.instance(0)
    assert len(instance.messages) == 11  # five pairs, and the question
    assert [turn["role"] for turn in instance.messages[:3]] == ["user", "assistant", "user"]
    text = task.text(instance)
    assert text.count("Question:") == 6 and text.count("\n\nQuestion:") == 5 and text.endswith("\nAnswer:")
    assert text.startswith(f"Question: {EXAMPLES[0][0]}\nAnswer: {EXAMPLES[0][1]}\n\n")
    own = tmp_path / "train.jsonl"
    own.write_text(json.dumps({"question": "One?", "answer": "#### 1"}) + "\n", encoding="utf-8")
    other = Gsm8k(path=str(DATA), shots=1, shots_path=str(own))
    assert other.text(other.instance(0)).startswith("Question: One?\nAnswer: #### 1\n\nQuestion: A ferry")
    assert len({str(t.identity) for t in (task, other, Gsm8k(path=str(DATA)))}) == 3
    with pytest.raises(SettingsError, match="shots_path"):
        Gsm8k(path=str(DATA), shots=2, shots_path=str(own))
    with pytest.raises(SettingsError, match=r"task\.shots=7"):
        Gsm8k(path=str(DATA), shots=7)
    for bad in (-1, 1.5, True):
        with pytest.raises(SettingsError, match=r"task\.shots must be"):
            Gsm8k(path=str(DATA), shots=bad)  # type: ignore[arg-type]


def test_the_examples_are_right() -> None:
    for _, answer in EXAMPLES:
        for left, right in re.findall(r"([\d.]+(?: [-+*/] [\d.]+)+) = \$?(\d+)", answer):
            assert eval(left) == float(right), left
        assert answer.rstrip("\n").split()[-1] == re.findall(r"= \$?(\d+)", answer)[-1]


@pytest.mark.parametrize(
    ("index", "output", "loose", "strict", "error"),
    [
        (0, "35 * 4 = 140, 140 * 5 = 700.\n#### 700", 1, 1, None),
        (0, "It carries 700 cars.", 1, 0, None),
        (0, "It carries $700.", 1, 0, None),
        (0, "#### 700.", 1, 1, None),
        (0, "#### 70\n#### 700", 1, 1, None),
        (0, "#### 700\nThat is all, 1 answer.", 1, 1, None),
        (0, "#### 700\n\nQuestion: What is 1 + 1?\nAnswer: #### 2", 1, 1, None),
        (0, "Question: How many? Answer: 700", 1, 0, None),
        (0, "#### 701", 0, 0, "wrong"),
        (0, "seven hundred", 0, 0, "no_number"),
        (0, "seven hundred ... $ ,", 0, 0, "no_number"),
        (0, "", 0, 0, "no_number"),
        (0, "700 ...", 1, 0, None),
        (3, "#### 2400", 1, 1, None),
        (3, "#### 2,400", 1, 1, None),
        (3, "$2,400.", 1, 0, None),
        (3, "#### 2400.00", 1, 1, None),
        (4, "#### -5", 1, 1, None),
        (4, "#### 5", 0, 0, "wrong"),
        (6, "$9.5", 1, 0, None),
        (6, "#### 9.50", 1, 1, None),
    ],
)
def test_numbers(task: Gsm8k, index: int, output: str, loose: float, strict: float, error: str | None) -> None:
    verdict = task.judge(task.instance(index), output)
    assert (verdict.score, verdict.strict, verdict.error) == (loose, strict, error)


@pytest.mark.parametrize("line", (DATA.parent / "answers.jsonl").read_text(encoding="utf-8").splitlines())
def test_answers_in_the_dress_models_give_them(task: Gsm8k, line: str) -> None:
    case = json.loads(line)
    instance = replace(task.instance(0), meta={"answer": case["gold"]})
    assert task.judge(instance, case["answer"]).score == case["score"]


WHOLE = st.integers(-(10**12), 10**12)


@given(
    right=WHOLE, other=WHOLE, dress=st.sampled_from(("#### {}", "\\boxed{{{}}}", "The answer is {}.", "{}", "= ${}$"))
)
def test_a_number_is_right_in_any_spelling_and_no_other_is(right: int, other: int, dress: str) -> None:
    instance = Instance("x", "gsm8k", "", "", {"answer": str(right)})
    judge = partial(Gsm8k.judge, Gsm8k.__new__(Gsm8k), instance)
    for number in (right, other):
        spelt = {
            f"{number}", f"{number:,}", f"{number:,}".replace(",", "{,}"), f"{number:,}".replace(",", " "),
            f"{number}.00", f"{number}".replace("-", "\u2212"),
            str(number).translate({48 + i: 0xFF10 + i for i in range(10)}),
        }  # fmt: skip
        assert {judge(dress.format(text)).score for text in spelt} == {float(number == right)}


@pytest.mark.parametrize(
    ("output", "ours", "theirs"),
    [
        ("So 18.\n#### 18", (1, 1), (1, 1)),
        ("It is 18.", (1, 0), (1, 0)),
        ("#### 17", (0, 0), (0, 0)),
        ("#### 18\n\nNote: 2 eggs", (1, 1), (0, 1)),  # a number behind the stated one
        ("#### 18.00", (1, 1), (0, 0)),  # numbers as text
        ("10 - 28 = 3-18", (1, 0), (0, 0)),  # a dash between numbers is no sign
        ("#### 1,8", (0, 0), (1, 1)),  # commas anywhere
        ("#### 17\n#### 18", (1, 1), (1, 0)),  # the last statement, not the first
        ("#### 18\nHuman: 3 + 4?", (1, 1), (0, 1)),  # other turns than Question:
    ],
)
def test_where_the_harness_says_otherwise(task: Gsm8k, output: str, ours: Any, theirs: Any) -> None:
    instance = replace(task.instance(0), meta={"answer": "18"})
    verdict = task.judge(instance, output)
    assert (verdict.score, verdict.strict) == ours
    path = Path(str(find_spec("lm_eval").origin)).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
    rules = OmegaConf.load(path)
    output = re.split("|".join(map(re.escape, rules.generation_kwargs.until)), output)[0]
    scores = []
    for rule in rules.filter_list:
        found = re.findall(rule.filter[0].regex_pattern, output)
        number = found[rule.filter[0].get("group_select", 0)] if found else "[invalid]"
        text = next(filter(None, number)) if isinstance(number, tuple) else number
        for ignored in rules.metric_list[0].regexes_to_ignore:
            text = re.sub(ignored, "", text)
        scores.append(int(text == "18"))
    assert (scores[1], scores[0]) == theirs


def test_long_answers_are_read_quickly(task: Gsm8k) -> None:
    for text in (
        "." * 100_000,
        "\n" * 100_000,
        "\n" + " " * 100_000 + "y",
        "#### " * 20_000,
        "-" * 100_000,
        "1 " * 50_000,
        "\nQuestion " * 10_000,
        "#### \\\\a{" * 20_000,
        "answer is (" * 9_000,
        "1,000" * 20_000,
        "####1+" * 20_000,
    ):
        began = time.perf_counter()
        task.judge(task.instance(0), "x" + text)
        assert time.perf_counter() - began < 10  # seconds; what backtracks takes minutes


def test_all_kinds_of_sources_say_the_same(task: Gsm8k, tmp_path: Path) -> None:
    rows = datasets.Dataset.from_json(str(DATA), cache_dir=str(tmp_path / "cache"))
    rows.to_parquet(str(tmp_path / "test.parquet"))
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "folder"))
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress(DATA.read_bytes()))
    for name in ("test.parquet", "folder", "test.jsonl.gz"):
        other = Gsm8k(path=str(tmp_path / name))
        assert other.identity == task.identity and other.instance(6) == task.instance(6)


def test_a_torn_last_record_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "torn.jsonl"
    text = DATA.read_text(encoding="utf-8") + json.dumps({"question": "Ü?", "answer": "#### 1"}, ensure_ascii=False)
    for cut in (2, len('"answer": "#### 1"}') + 6):  # the second falls inside the letter
        path.write_bytes(text.encode()[:-cut])
        assert Gsm8k(path=str(path)).size == 7
        assert f"{path}: line 8, the last, is cut off" in capsys.readouterr().err
    packed = tmp_path / "torn.jsonl.gz"
    packed.write_bytes(gzip.compress(DATA.read_bytes() * 50, compresslevel=0)[:-2000])
    assert 300 < Gsm8k(path=str(packed)).size < 350
    assert "cut off" in capsys.readouterr().err


def test_bad_sources(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    good = json.dumps({"question": "One?", "answer": "#### 1"})
    for text, message in (
        (f"{good}\n{{torn\n{good}\n", "line 2 is not JSON"),
        ("{torn", "line 1 is not JSON"),
        (f'{good}\n{{"question": "Two?"}}\n', "line 2 has no text under 'answer'"),
        (f"{good}\n[1]\n", "line 2 has no text under 'question'"),
        (f'{good}\n{{"question": "Two?", "answer": "two"}}\n', "record 2: the answer must end with '#### N'"),
        ("\n\n", "holds no record"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SettingsError, match=re.escape(message)):
            Gsm8k(path=str(path))
    with pytest.raises(SettingsError, match="there is no file"):
        Gsm8k(path=str(tmp_path / "none.jsonl"))
    for hub in ("hf:openai/gsm8k", "hf:openai/gsm8k:main"):
        with pytest.raises(SettingsError, match=re.escape("hf:openai/gsm8k:main (split=test) cannot be read")):
            Gsm8k(path=hub)
    with pytest.raises(SettingsError, match="shots_path"):
        Gsm8k(path=str(DATA), shots=1, shots_path=str(tmp_path / "none.jsonl"))
    (tmp_path / "plain.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(SettingsError, match="cannot be read"):
        read_records(str(tmp_path / "plain.jsonl.gz"), ("question",), "test")


def test_the_configuration_says_the_same(task: Gsm8k) -> None:
    node = OmegaConf.load(config_dir() / "task" / "gsm8k.yaml")
    options = {k: v for k, v in node.items() if k not in ("_target_", "limit", "form")}
    assert dlm.tasks.open(**{**options, "path": str(DATA)}) == task
