"""Small stores of made-up answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlm.evaluation.point import Point
from dlm.evaluation.sample import Sample

PLAIN = Sample(
    instance_id="q0", index=0, task="waiting_line/copy", seed=0, prompt_sha256="0" * 64, prompt_tokens=20,
    output_text='["A \\"score\\":[1], B"]', output_ids=[5, 6, 7, 8], target="[A]", parsed=["A"], score=1.0,
    score_strict=1.0, parts={}, error_type=None, canvas=4, forwards=4, content_forwards=3, token_forwards=96, tokens=3,
    commit_step=[0, 1, 2, 3], confidence=[0.9, None, 0.8, 1.0], accepted_drafts=0, positions_cut=0, stop="filled",
    seconds=0.5, seconds_model=0.4,
)  # fmt: skip


def config(sampler: str = "threshold", task: str = "waiting_line/copy", **changes: Any) -> dict[str, Any]:
    """A configuration as the evaluation writes it; ``part__key=value`` sets a key of a part."""
    made: dict[str, Any] = {
        "model": {"choice": "tiny", "_target_": "dlm.load", "name_or_path": "tiny"},
        "task": {"choice": task, "_target_": "dlm.tasks.open", "name": task},
        "sampler": {"choice": sampler, "_target_": f"samplers.{sampler}", "temperature": 0.0},
        "blocks": {"choice": "auto", "_target_": "samplers.Fixed", "length": None},
        "cache": {"choice": "none"},
        "drafting": {"choice": "none"},
        "max_new_tokens": None,
        "form": "chat",
        "identity": {"suite": 1},
    }
    for key, value in changes.items():
        part, _, name = key.partition("__")
        if name:
            made[part][name] = value
        else:
            made[part] = value
    blocks = {key: value for key, value in made["blocks"].items() if key != "choice"}
    made["sampler"].setdefault("blocks", blocks)  # as Hydra's configurations have it
    return made


def answers(scores: Sequence[float], **changes: Any) -> list[Sample]:
    """One answer per score, to questions q0, q1, ..."""
    return [replace(PLAIN, instance_id=f"q{i}", index=i, score=float(s), **changes) for i, s in enumerate(scores)]


def at_speed(scores: Sequence[float], speed: int, **changes: Any) -> list[Sample]:
    """Answers of 8 tokens in ``8 / speed`` forwards."""
    steps = [i // speed for i in range(8)]
    taken = steps[-1] + 1
    return answers(
        scores, tokens=8, canvas=8, commit_step=steps, forwards=taken, content_forwards=taken, output_ids=[1] * 8,
        confidence=[1.0] * 8, **changes,
    )  # fmt: skip


def write(out: Path, values: dict[str, Any], samples: Sequence[Sample], manifest: dict[str, Any] | None = None) -> Path:
    """Write a point; returns its folder."""
    folder = Point(values).folder(out)
    if not folder.name.isprintable():  # a name that no file can have
        folder = out / Point(values).hash
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    told = {"status": "done", "limit": len(samples), "seeds": [0]} if manifest is None else manifest
    (folder / "manifest.json").write_text(json.dumps(told), encoding="utf-8")
    (folder / "samples.jsonl").write_text("".join(s.line() for s in samples), encoding="utf-8")
    return folder


def sweep(out: Path, tasks: Sequence[str] = ("waiting_line/copy", "waiting_line/shuffle"), n: int = 10) -> None:
    """Two samplers at three speeds: on the first task they keep their score, on the others it falls."""
    for number, task in enumerate(tasks):
        for sampler, key, values in (
            ("threshold", "threshold", (0.9, 0.7, 0.5)), ("topk", "tokens_per_step", (1, 2, 4)),
        ):  # fmt: skip
            for level, value in enumerate(values):
                right = n if number == 0 else n - (level + 1) * (2 if sampler == "threshold" else 3)
                samples = at_speed([1] * right + [0] * (n - right), 2**level, task=task)
                write(out, config(sampler, task, **{f"sampler__{key}": value}), samples)
