"""Trajectories on disk: what is written is what is read, and is replayed alike."""

import json

import pytest
import torch

import dlm
import samplers
from dlm.cli import main
from dlm.errors import PromptError, SettingsError

MODEL = dlm.load("tiny", device="cpu")
PROMPTS = ["47+85=", "47+85=", 'Copy the list: ["Anna", "Bob"]']


def runs(**options):
    sampler = samplers.topk(tokens_per_step=3, temperature=1.0, **options)
    return dlm.generate(MODEL, PROMPTS, sampler=sampler, max_new_tokens=12)


def test_step_maps_are_read_as_they_were_written():
    found = runs()
    entries = json.loads(json.dumps(dlm.step_maps(MODEL, found)))
    assert [len(entry["full_output"]) for entry in entries] == [2, 1]  # an entry a prompt
    assert {"prompt", "full_output", "step_map"} <= entries[0].keys()
    back = dlm.from_step_maps(MODEL, entries)
    assert [(list(t.prompt), list(t.tokens), list(t.commit_step)) for t in back] == [
        (run.prompt_tokens, run.tokens, run.commit_step) for run in found
    ]
    assert torch.equal(dlm.replay(MODEL, back).log_probs, dlm.replay(MODEL, found).log_probs)


def test_texts_alone_are_made_tokens_again_where_they_are_cut_alike():
    entry = {"prompt": "47+85=", "full_output": ["132"], "step_map": [[0, 1, 1]]}
    (row,) = dlm.from_step_maps(MODEL, [entry])
    assert MODEL.decode(row.tokens) == "132"
    with pytest.raises(PromptError, match="entry 0, answer 0: 3 tokens, but 2 steps"):
        dlm.from_step_maps(MODEL, [{**entry, "step_map": [[0, 1]]}])
    for broken in ({"prompt": "x"}, {**entry, "step_map": [["0"]]}, {**entry, "step_map": []}):
        with pytest.raises(PromptError, match="entry 0: a step map has"):
            dlm.from_step_maps(MODEL, [broken])


def test_filler_is_left_out_and_given_tokens_are_refused():
    (run, *_) = runs(stop_at_end=True)
    ended = dlm.Trajectory(run.prompt_tokens, [*run.tokens, 1, 1], [*run.commit_step, -1, -1], stopped=True)
    assert dlm.step_maps(MODEL, [ended])[0]["output_ids"] == [run.tokens]
    with pytest.raises(SettingsError, match="given tokens"):
        dlm.step_maps(MODEL, [dlm.Trajectory([1], [5, 6], [-1, 0])])


def test_files_of_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    words = ["generate", "prompts_file=prompts.jsonl", "max_new_tokens=8", "sampler=topk", "chat=false"]
    assert main([*words, "format=json", "output=a.jsonl"]) == 0
    assert main([*words, "format=step_map", "output=a.json"]) == 0
    lines = dlm.read_trajectories("a.jsonl")
    assert [len(row.tokens) for row in lines] == [8, 8, 8]
    back = dlm.from_step_maps(MODEL, json.loads((tmp_path / "a.json").read_text()))
    assert [list(row.commit_step) for row in back] == [list(row.commit_step) for row in lines]
    for line in ('{"tokens": [1]}', "[" * 100_000):
        (tmp_path / "a.jsonl").write_text(f"{line}\n")
        with pytest.raises(PromptError, match="line 1"):
            dlm.read_trajectories("a.jsonl")
