"""Prompts as lm-evaluation-harness builds them, string by string, from its installed task files and local data."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dlm import tasks
from dlm.evaluation.asking import Asker, Query, plain_text
from dlm.tasks.records import read_records
from tests.evaluation.runs import tiny

lm_eval = pytest.importorskip("lm_eval")
HOME = Path(lm_eval.__file__).parent / "tasks"
DATA = Path(__file__).parent.parent / "data"
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gsm8k": ("gsm8k/gsm8k.yaml", "gsm8k/test.jsonl", {"shots": 3, "shots_path": str(DATA / "gsm8k" / "test.jsonl")}),
    "humaneval": ("humaneval/humaneval.yaml", "humaneval/three.jsonl", {}),
    "mbpp": ("mbpp/mbpp.yaml", "mbpp/problems.jsonl", {}),
    "minerva_math": ("minerva_math/minerva_math_algebra.yaml", "math/problems.jsonl", {}),
}


class Loader(yaml.SafeLoader):
    """Leaves the harness's functions alone: their modules want packages and the network."""


Loader.add_constructor("!function", lambda loader, node: node.value)


def shots_of(file: Path) -> list[dict[str, Any]]:
    """What ``list_fewshot_samples`` of a task's module gives, read from its source."""
    functions = (node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef))
    listed = next(node for node in functions if node.name == "list_fewshot_samples")
    return ast.literal_eval(listed.body[0].value)  # type: ignore[attr-defined]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Any, Any, dict[str, Any], int]:
    """Ours, the harness's task over the same file, its first document, and how many examples come first."""
    from lm_eval.api.task import ConfigurableTask

    definition, data, options = CASES[request.param]
    config = yaml.load((HOME / definition).read_text(), Loader)
    ours = tasks.open(request.param, path=str(DATA / data), **options)
    config |= {
        "dataset_path": "json", "dataset_name": None, "training_split": None, "fewshot_split": None,
        "dataset_kwargs": {"data_files": {"test": str(DATA / data)}}, "process_docs": None, "process_results": None,
        "metric_list": [{"metric": "exact_match"}], "unsafe_code": False, "filter_list": None,
        "fewshot_config": {"sampler": "first_n"},
    }  # fmt: skip
    if request.param == "gsm8k":
        config["fewshot_config"]["samples"] = read_records(options["shots_path"], ("question", "answer"), "train")
    if request.param in ("mbpp", "minerva_math"):
        config["fewshot_config"]["samples"] = shots_of((HOME / definition).with_name("utils.py"))
    if request.param == "minerva_math":
        config |= {"doc_to_text": "Problem:\n{{problem}}\n\nSolution:", "doc_to_target": "{{solution}}"}
    theirs = ConfigurableTask(config=config)
    first = next(doc for doc in theirs.test_docs() if doc.get("task_id") != 2)
    return ours, theirs, dict(first), len(ours.instance(0).shots)


def test_the_text_is_the_harness_s(case: tuple[Any, Any, dict[str, Any], int]) -> None:
    ours, theirs, first, shots = case
    assert plain_text(ours, ours.instance(0)) == theirs.fewshot_context(first, num_fewshot=shots)


def test_one_turn_is_the_text_as_one_message(case: tuple[Any, Any, dict[str, Any], int]) -> None:
    """As Fast-dLLM asks LLaDA Instruct: the harness's whole text in one message of the user."""
    ours, theirs, first, shots = case
    chat = theirs.fewshot_context(first, num_fewshot=shots, apply_chat_template=True, chat_template=_messages)
    text = plain_text(ours, ours.instance(0))
    assert json.loads(chat) == [{"role": "user", "content": text}]
    if shots:  # longer than the packaged model's context
        return
    row = Asker(tiny(), ours, "one_turn", 8).job(0, Query(ours.instance(0), 0, 0))
    assert list(row.tokens[: row.start]) == tiny().encode_chat([{"role": "user", "content": text}])


@pytest.mark.parametrize("case", ["mbpp", "minerva_math"], indirect=True)
def test_a_chat_s_examples_are_turns(case: tuple[Any, Any, dict[str, Any], int]) -> None:
    ours, theirs, first, shots = case
    chat = theirs.fewshot_context(
        first, num_fewshot=shots, apply_chat_template=True, fewshot_as_multiturn=True, chat_template=_messages
    )
    assert json.loads(chat) == ours.instance(0).messages


def _messages(history: list[dict[str, str]], **_: Any) -> str:
    return json.dumps(history)
