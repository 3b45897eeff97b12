"""Trajectories on disk: what `dlm generate` and `dlm eval` write, and the step maps of trainers.

A step map says for every generated token at which step it was committed. dLLM-RL (Gen-Verse, arXiv 2509.06949) keeps
one beside each answer to a prompt: ``{"prompt": text, "full_output": [text, ...], "step_map": [[step, ...], ...]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlm.api import Generation
from dlm.errors import PromptError, SettingsError
from dlm.models.language_model import LanguageModel
from dlm.replaying import Trajectory, ended

_IDS = (("prompt_tokens", "tokens"), ("prompt_ids", "output_ids"))  # of `dlm generate`, and of `dlm eval`


def read_trajectories(path: str | Path) -> list[Trajectory]:
    """The trajectories of a JSONL file that ``dlm generate format=json output=FILE`` wrote.

    Raises:
        PromptError: a line that is none; it is named.
    """
    found = []
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # other breaks may stand in a text
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            read = json.loads(line)
            names = next(names for names in _IDS if all(name in read for name in names))
            prompt, tokens, steps = (_whole(read[name]) for name in (*names, "commit_step"))
        except (ValueError, KeyError, TypeError, StopIteration, RecursionError) as error:
            raise PromptError(
                f"{path}, line {number}: no trajectory (prompt_tokens, tokens, commit_step); write the file with"
                " dlm generate format=json output=FILE"
            ) from error
        found.append(Trajectory(prompt, tokens, steps, ended(read.get("stop"), steps, None)))
    return found


def step_maps(model: LanguageModel, runs: Iterable[Generation | Trajectory]) -> list[dict[str, Any]]:
    """Trajectories as dLLM-RL keeps them, an entry for each prompt in the order of their first answers.

    What stands behind the last committed token is left out. Beside the texts there are the ids (``prompt_ids``,
    ``output_ids``), since a text need not be cut into the same tokens again.

    Raises:
        SettingsError: the model has no tokenizer; an answer with given tokens, which no step committed.
    """
    if (tokenizer := model.tokenizer) is None:
        raise SettingsError(f"{model.name} has no tokenizer (tokenizer.json): a step map stands beside texts")
    entries: dict[tuple[int, ...], dict[str, Any]] = {}
    for number, run in enumerate(runs):
        row = run if isinstance(run, Trajectory) else Trajectory.of(run)
        end = max((place + 1 for place, step in enumerate(row.commit_step) if step >= 0), default=0)
        steps, tokens = list(row.commit_step[:end]), list(row.tokens[:end])
        if min(steps, default=0) < 0:
            raise SettingsError(
                f"run {number} has given tokens, which no step committed: a step map has no place for them"
            )
        if holes := {*range(max(steps, default=-1) + 1)} - {*steps}:
            raise SettingsError(
                f"run {number}: no token is of step {min(holes)}: where tokens are taken back there is no step map"
            )
        new = {"prompt": tokenizer.decode(list(row.prompt)), "prompt_ids": list(row.prompt)}
        entry = entries.setdefault(tuple(row.prompt), {**new, "full_output": [], "output_ids": [], "step_map": []})
        for name, value in (("full_output", tokenizer.decode(tokens)), ("output_ids", tokens), ("step_map", steps)):
            entry[name].append(value)
    return list(entries.values())


def from_step_maps(model: LanguageModel, entries: Sequence[Mapping[str, Any]]) -> list[Trajectory]:
    """The trajectories of step maps, ours or dLLM-RL's own, whose texts are made tokens again.

    Raises:
        PromptError: an entry without its keys, or an answer whose text gives more or fewer tokens than it has steps.
    """
    found = []
    for number, entry in enumerate(entries):
        try:
            prompt = entry["prompt_ids"] if "prompt_ids" in entry else model.encode(entry["prompt"])
            texts, maps = entry["full_output"], entry["step_map"]
            answers = entry["output_ids"] if "output_ids" in entry else [model.encode(text) for text in texts]
            rows = [(_whole(tokens), _whole(steps)) for tokens, steps in zip(answers, maps, strict=True)]
            prompt = _whole(prompt)
        except (KeyError, TypeError, ValueError) as error:
            raise PromptError(f"entry {number}: a step map has prompt, full_output and step_map ({error})") from error
        for answer, (tokens, steps) in enumerate(rows):
            if len(tokens) != len(steps):
                raise PromptError(
                    f"entry {number}, answer {answer}: {len(tokens)} tokens, but {len(steps)} steps; its text is cut"
                    " into other tokens than it was decoded in, or by another model"
                )
            found.append(Trajectory(prompt, tokens, steps))
    return found


def _whole(values: Any) -> list[int]:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise TypeError("whole numbers are wanted")
    return values
