"""``dlm tasks``, in this process."""

import json

import pytest

from dlm import tasks
from dlm.commands.tasks import HELP, run
from dlm.errors import SettingsError
from dlm.tasks import registry


def test_help(capsys):
    assert run(["--help"]) == 0
    assert capsys.readouterr().out == HELP
    assert all(len(line) <= 120 for line in HELP.splitlines())


def test_the_table_has_every_task(capsys):
    assert run([]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert set(tasks.every()) <= set(rows)
    assert rows["parallelbench/waiting_line/shuffle"][1:] == ["100", "32", "a", "reordering"]
    assert rows["puzzle/sudoku"][1:] == ["-", "32", "a", "solution"]
    assert "upstream/GROUP/TASK" in out


def test_the_table_as_json(capsys, monkeypatch):
    def closed(name, **options):
        raise SettingsError("no extra")

    run(["json=true"])
    lines = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    assert list(lines) == tasks.every()
    assert lines["parallelbench/waiting_line_n15/copy"] == {
        "name": "parallelbench/waiting_line_n15/copy",
        "group": "parallelbench/waiting_line_n15",
        "metric": "equal lists",
        "size": 100,
        "canvas": 128,
        "needs": None,
    }
    assert (lines["gsm8k"]["canvas"], lines["gsm8k"]["size"]) == (256, None)  # and no network was asked
    monkeypatch.setattr(registry, "open_task", closed)
    run([])
    out = capsys.readouterr().out
    assert "humaneval: no extra" in out
    assert "gsm8k: reads its questions from task.path" in out


@pytest.mark.parametrize("spelling", ["waiting_line/copy", "task=waiting_line/copy"])
def test_a_question_as_the_model_is_asked_it(capsys, spelling):
    assert run([spelling, "index=3"]) == 0
    out = capsys.readouterr().out
    instance = tasks.open("waiting_line/copy").instance(3)
    assert instance.prompt in out
    assert instance.target in out
    assert instance.instance_id in out
    assert '["____", "____"' in out


def test_a_question_as_json_with_options(capsys):
    name = "parallelbench/waiting_line/insert_index"
    assert run([name, "index=7", "task.shots=0", "task.index_base=0", "json=true"]) == 0
    told = json.loads(capsys.readouterr().out)
    instance = tasks.open(name, shots=0, index_base=0).instance(7)
    assert told["messages"] == instance.messages
    assert told["target"] == instance.target
    assert told["meta"] == instance.meta
    assert told["template"] == {"pieces": list(instance.template.pieces), "items": list(instance.template.items)}
    assert (told["task"], told["index"], told["size"], told["canvas"]) == (name, 7, 100, 32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["juggle"], "juggle"),
        (["waiting_line/copy", "puzzle/sudoku"], "does not know 'puzzle/sudoku'"),
        (["--what"], "does not know '--what'"),
        (["index=3"], "which task"),
        (["task.shots=0"], "which task"),
        (["waiting_line/copy", "index=-1"], "index must be"),
        (["waiting_line/copy", "index=x"], "index must be"),
        (["waiting_line/copy", "json=yes"], "json must be"),
        (["waiting_line/copy", "limit=3"], "unknown setting 'limit'"),
        (["waiting_line/copy", "task.shots=1"], "shots"),
        (["parallelbench/waiting_line/copy", "index=100"], "index goes from 0 to 99"),
        (["parallelbench/waiting_line/copy", "task.shots=5"], "shots must be"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, message):
    with pytest.raises(SettingsError, match=message) as error:
        run(arguments)
    assert "\n" not in str(error.value)
