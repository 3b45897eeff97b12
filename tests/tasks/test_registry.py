"""Names and options: what ``dlm.tasks.open`` knows, ``conf/task`` knows, and the other way round."""

import hashlib
import json

import pytest

from dlm import tasks
from dlm.configuration import compose_config, plain_of
from dlm.errors import SettingsError
from dlm.overrides import choices
from dlm.tasks import registry

TAKEN_AWAY = ("_target_", "name", "limit", "form")
CHECKOUT = ("upstream/waiting_line/copy", "task.task=waiting_line/copy", "task.dir=somewhere")
# Hash of the first forty questions of both splits: the packaged model was trained on these.
TRAINED_ON = {
    "waiting_line/copy": "908f25370af15741",
    "waiting_line/reverse": "b1e1d26fbeaba943",
    "waiting_line/sort": "36a6824b22b827ef",
    "waiting_line/shuffle": "0769cea3bb3b8c04",
    "waiting_line/replace_index": "46cd29d23df18f86",
    "waiting_line/replace_random": "fa94a36f80fdd9c1",
    "waiting_line/insert_index": "ce75ee1e96fcc29e",
    "waiting_line/insert_random": "a825a034962149b3",
    "waiting_line/remove_index": "4710bcc9d83bdbb6",
    "waiting_line/remove_random": "d473fe41b60a48b8",
    "arithmetic/addition": "7bf0f40edf820f7f",
    "puzzle/sudoku": "7dbe7cfb80e44743",
    "puzzle/latin_square": "127ccb033279a4b7",
    "math/word_problem": "1a11989b531ec39c",
    "text/story": "c99adaf25215d27c",
}


def test_the_short_forms_are_the_ones_the_packaged_model_was_trained_on():
    assert list(TRAINED_ON) == tasks.names()
    for name, recorded in TRAINED_ON.items():
        digest = hashlib.sha256()
        for split in ("test", "train"):
            for i in range(40):
                found = tasks.get(name).instance(i, split)
                digest.update(repr((found.instance_id, found.prompt, found.target, found.meta)).encode())
        assert digest.hexdigest()[:16] == recorded, name


def test_the_names():
    every = tasks.every()
    assert len(every) == len(set(every)) == 15 + 10 + 10 + 2 + 5 + 7
    assert every[:15] == tasks.names()
    assert all(registry.metric(name) for name in every)


def test_the_configuration_has_the_same_tasks():
    assert set(choices("task")) == {*tasks.every(), "upstream"}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", tasks.every())
def test_a_configuration_opens_its_task_with_the_defaults_of_python(name):
    node = plain_of(compose_config("eval", [f"task={name}"]))["task"]
    assert node["_target_"] == "dlm.tasks.open"
    assert node["name"] == name
    assert node["form"] == "auto"
    assert node["limit"] is None or node["limit"] >= 100
    options = {key: value for key, value in node.items() if key not in TAKEN_AWAY}
    if name in (
        "gsm8k",
        "humaneval",
        "jsonl",
        "math500",
        "mbpp",
        "minerva_math",
        "questions",
    ):  # they need data; their own tests open them
        return
    task, plain = tasks.open(name, **options), tasks.open(name)
    assert (task.name, task.canvas, task.size) == (plain.name, plain.canvas, plain.size)
    assert task.instance(1) == plain.instance(1)
    assert task.identity == plain.identity
    json.dumps([task.identity, task.instance(0).meta], allow_nan=False)


def test_options_reach_the_task():
    config = compose_config("eval", ["task=parallelbench/waiting_line/sort", "task.compat=upstream", "task.shots=0"])
    node = plain_of(config)["task"]
    task = tasks.open(node["name"], **{key: value for key, value in node.items() if key not in TAKEN_AWAY})
    assert "by last name" in task.instance(0).prompt
    assert task.instance(0).shots == ()


def test_a_checkout_is_named_by_its_task():
    config = compose_config("eval", ["task=upstream", *CHECKOUT[1:]])
    node = plain_of(config)["task"]
    assert node["name"] == CHECKOUT[0]
    with pytest.raises(SettingsError, match="somewhere"):
        tasks.open(node["name"], **{key: value for key, value in node.items() if key not in TAKEN_AWAY})
    with pytest.raises(SettingsError, match=r"task\.dir"):
        plain_of(compose_config("eval", ["task=upstream", "task.task=waiting_line/copy"]))


@pytest.mark.parametrize("name", ["juggle", "parallelbench/waiting_line", "waiting_line/juggle", "", "upstream"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(SettingsError, match=r"known are waiting_line/copy.*mbpp, upstream/GROUP/TASK"):
        tasks.open(name)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("waiting_line/copy", "it has none"),
        ("parallelbench/waiting_line/copy", "it has shots, index_base, compat"),
        ("parallelbench/waiting_line_n15/copy", "it has shots, index_base, compat"),
        ("parallelbench/puzzle/sudoku", "it has blanks, shots"),
        ("parallelbench/text/summarise", "it has grammar, score, data"),
        ("upstream/waiting_line/copy", "it has dir, task"),
    ],
)
@pytest.mark.parametrize("option", ["canvas", "operation", "lengths", "size", "colour"])
def test_an_unknown_option_lists_the_known_ones(name, known, option):
    with pytest.raises(SettingsError, match=f"no option '{option}'; {known}$"):
        tasks.open(name, **{option: 1})
