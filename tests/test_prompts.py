"""What may be given as prompts and counts: whatever has one plain meaning; anything else is one error that helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dlm
import samplers
from dlm.cli import main
from dlm.errors import PromptError, SettingsError

CHAT = [{"role": "user", "content": "47+85="}]
IDS = [58, 75, 68]


@pytest.fixture(scope="module")
def tiny() -> dlm.LanguageModel:
    return dlm.load("tiny", device="cpu")


def ask(model: Any, prompts: Any, **settings: Any) -> list[dlm.Generation]:
    return dlm.generate(model, prompts, **{"sampler": samplers.topk(), "max_new_tokens": 4} | settings)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("47+85=", ["47+85="]),
        (("a", "b"), ["a", "b"]),
        ((text for text in "ab"), ["a", "b"]),
        (CHAT, [CHAT]),
        (tuple(CHAT), [CHAT]),
        (CHAT[0], [CHAT]),
        (IDS, [IDS]),
        (tuple(IDS), [IDS]),
        ([tuple(IDS)], [IDS]),
        (np.array(IDS), [IDS]),
        ([np.array(IDS, dtype=np.uint8), "a"], [IDS, "a"]),
        (torch.tensor([IDS, IDS]), [IDS, IDS]),
        ([np.int64(58), 75, 68], [IDS]),
        ([], []),
    ],
)
def test_plain_meanings(tiny: dlm.LanguageModel, given: Any, meant: Any) -> None:
    assert [a.prompt_tokens for a in ask(tiny, given)] == [a.prompt_tokens for a in ask(tiny, meant)]
    assert len(meant) == len(ask(tiny, meant))


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (None, "prompts must be a list, each entry a text, a chat .* got NoneType"),
        (3, "got int"),
        (b"47+85=", "got bytes"),
        ([b"47+85="], "prompt 0 cannot be read: it is b'47"),
        ([None], "prompt 0 cannot be read: it is None; pass a text, a chat"),
        (["a", 3], "prompt 1 cannot be read: it is 3"),
        ([["a"]], "prompt 0 cannot be read: it holds 'a'"),
        ([[1.5, 2]], "it holds 1.5"),
        ([[True, 2]], "it holds True"),
        ([[5, None]], "it holds None"),
        (np.array([1.0, 2.0]), "prompt 0 cannot be read: it is"),
        ([[]], "prompt 0 is empty"),
        (["a", ""], "prompt 1 is empty"),
        (torch.tensor([True]), "it is tensor"),
        ([{"role": "user", "content": "\ud800"}], "prompt 0 cannot be read: the text is not valid Unicode"),
        (["a", [*CHAT, 3]], "prompt 1 cannot be read: it holds {'role'"),
        (["a", [{"role": "user"}]], "prompt 1 cannot be read: a chat message needs the strings"),
        ([{"prompt": "a"}], "prompt 0 cannot be read: a chat message needs the strings"),
        ([{"role": "user", "content": None}], "prompt 0 cannot be read: a chat message needs"),
        (["a", [9999]], "prompt 1 contains the id 9999"),
        ([[-1]], "prompt 0 contains the id -1"),
        (["a", [5, 1]], "prompt 1 contains the mask id 1 at position 1"),
    ],
)
def test_what_is_no_prompt(tiny: dlm.LanguageModel, prompts: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        ask(tiny, prompts)


@pytest.mark.parametrize("name", ["max_new_tokens", "seed", "batch_size"])
@pytest.mark.parametrize("value", ["32", 1.5, True, None, [3], float("nan")])
def test_counts_are_whole_numbers(tiny: dlm.LanguageModel, name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=f"{name} must be a whole number"):
        ask(tiny, ["a"], **{name: value})
    assert len(ask(tiny, ["a"], **{name: np.int32(3)})) == 1


@pytest.mark.parametrize("pinned", [{True: 5}, {"1": 5}, {1: None}, {1: 1.5}, [5], {1: True}])
def test_what_is_no_pin(tiny: dlm.LanguageModel, pinned: Any) -> None:
    with pytest.raises(SettingsError, match="pinned"):
        ask(tiny, ["a"], pinned=pinned)


def test_a_model_may_be_named(tiny: dlm.LanguageModel) -> None:
    assert ask("tiny", "47+85=")[0].tokens == ask(tiny, "47+85=")[0].tokens
    with pytest.raises(SettingsError, match="unknown model 'tinny'"):
        ask("tinny", ["a"])
    for wrong in (None, tiny.backbone, dlm):
        with pytest.raises(SettingsError, match=r"model must be what dlm.load returns"):
            ask(wrong, ["a"])


def test_one_text_and_one_row_of_ids_to_fill(tiny: dlm.LanguageModel) -> None:
    row = [*IDS, tiny.description.mask_id]
    for given in (row, [row], torch.tensor(row)):
        assert dlm.infill(tiny, given, sampler=samplers.topk())[0].tokens[:3] == IDS
    assert len(dlm.infill("tiny", "47+85=<|mask|>[MASK]", sampler=samplers.topk())[0].tokens) == 8
    with pytest.raises(PromptError, match="text 0 cannot be read: it is None"):
        dlm.infill(tiny, [None], sampler=samplers.topk())


def test_the_mask_in_a_question_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ([], ["chat=true"]):
        assert main(["generate", "prompt=What does <|mask|> mean?", "max_new_tokens=8", "format=json", *extra]) == 0
        assert 1 not in json.loads(capsys.readouterr().out)["prompt_tokens"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"ids": [5, 1]}, "the prompt contains the mask id 1"),
        ({"ids": [99999]}, "the prompt contains the id 99999"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": "a" * 600}, "more than the model's context"),
        ({"messages": [{"role": "user"}]}, "a chat message needs the strings"),
    ],
)
def test_a_bad_prompt_of_a_file_is_named_by_its_line(
    bad: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n\n{"prompt": "<|mask|>"}\n\n' + json.dumps(bad) + '\n{"prompt": "b"}\n')
    assert main(["generate", f"prompts_file={file}", "max_new_tokens=4"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{file}, line 5: " in err
    assert message in err


@pytest.mark.parametrize("line", ["[" * 100_000, '{"ids": [' + "9" * 5000 + "]}"])
def test_a_line_that_json_cannot_hold(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n' + line)
    assert main(["generate", f"prompts_file={tmp_path / 'p.jsonl'}"]) == 2
    assert "p.jsonl, line 2 is not JSON" in capsys.readouterr().err
