"""What every task promises: addressed instances, splits that do not overlap, scorers that know right from wrong."""

import subprocess
import sys

import pytest

from dlm import tasks
from dlm.errors import SettingsError
from dlm.tasks import Stream, split_of

NAMES = tasks.names()


def test_the_registry_lists_and_finds_every_task():
    assert len(NAMES) == len(set(NAMES)) == 15
    assert all(tasks.get(name).name == name for name in NAMES)
    with pytest.raises(SettingsError, match="known are waiting_line/copy"):
        tasks.get("waiting_line/juggle")


@pytest.mark.parametrize("name", NAMES)
def test_an_instance_depends_on_its_address_alone(name):
    task = tasks.get(name)
    late = task.instance(7, "test")
    assert [task.instance(i, "test") for i in range(8)][7] == late
    assert task.instance(7, "train") != late
    assert late.task == name
    assert len(late.instance_id) == 16


def test_instances_are_the_same_in_another_process_and_version():
    """Recorded once; a change here changes every published figure and needs a new SUITE_VERSION."""
    recorded = {
        "waiting_line/copy": 'Copy the list: ["Ivan", "Rosa", "Judy", "Beth"]',
        "waiting_line/insert_index": 'Insert "Sara" at position 4: ["Tina", "Kurt", "Quinn", "Greg"]',
        "arithmetic/addition": "941+490=",
        "puzzle/sudoku": "Solve the sudoku:\n1024\n2013\n4200\n3142",
        "puzzle/latin_square": "Write a Latin square of C,E,H,F:",
        "text/story": "Tell a story about Yara and a fox.",
    }
    assert {name: tasks.get(name).instance(0).prompt for name in recorded} == recorded
    program = "from dlm import tasks; print(tasks.get('arithmetic/addition').instance(0).prompt)"
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "3"}
    )
    assert there.stdout.strip() == "941+490="


@pytest.mark.parametrize("name", NAMES)
def test_targets_are_right_and_damaged_ones_wrong(name):
    task = tasks.get(name)
    for i in range(40):
        instance = task.instance(i, "test")
        assert task.score(instance, instance.target) == 1
        for damaged in _damaged(instance.target):
            assert task.score(instance, damaged) == 0, damaged
        assert task.score(instance, "") == 0


def _damaged(target: str) -> list[str]:
    """Answers that are wrong whatever the task: the last word or number changed, and the answer's middle cut out."""
    end = max(i for i, c in enumerate(target) if c.isalnum())
    replaced = "7" if target[end] != "7" else "8"
    return [f"{target[:end]}{replaced}{target[end + 1 :]}", target[: len(target) // 3], "no idea"]


@pytest.mark.parametrize("name", NAMES)
def test_test_prompts_never_occur_in_training(name):
    task = tasks.get(name)
    held_out = {task.instance(i, "test").prompt for i in range(150)}
    assert not held_out & {task.instance(i, "train").prompt for i in range(600)}


def test_the_split_goes_by_content_across_a_group():
    """A held-out list is held out of every list operation, and about a tenth of all contents are."""
    lists = [tuple(tasks.get("waiting_line/copy").instance(i, "test").meta["x"]) for i in range(50)]
    assert {split_of("waiting_line/reverse", x) for x in lists} == {"test"}
    share = sum(split_of("arithmetic/addition", (a, 500)) == "test" for a in range(1000)) / 1000
    assert 0.07 < share < 0.14


def test_a_stream_is_addressed_and_even():
    assert Stream(1, "a").word() == Stream(1, "a").word() != Stream(1, "b").word()
    assert Stream("x").word() == 2687774978719897284
    stream = Stream("uniform_feed")
    counts = [0] * 6
    for _ in range(6000):
        counts[stream.below(6)] += 1
    assert all(850 < c < 1150 for c in counts)
    assert sorted(stream.shuffled(range(9))) == list(range(9))
    assert all(0 <= stream.uniform() < 1 and 2 <= stream.between(2, 4) <= 4 for _ in range(100))
