"""Damaged folders of results: read, mended or refused in one sentence, never a traceback, nothing executed."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dlm.commands.report import run as report
from dlm.errors import DlmError

from ..report.stores import at_speed, config, write
from .runs import go

ODD: list[Any] = [
    None, True, -1, 1.5, "x", "\x1b[2J", [], {}, [1, [2]], {"a": {"b": []}}, 10**400, 1e308, float("nan"), float("inf"),
    "\ud800", [[[[]]]], 2**63, -(2**70), "9" * 50, "", "__import__('os').abort()",
    {"_target_": "os.abort"}, {"_target_": "pathlib.Path.touch", "_args_": ["DAMAGED"]},
]  # fmt: skip
ROUNDS = 60


def damage(folder: Path, rng: random.Random) -> str:
    """Spoil one file of a folder; says how."""
    path = rng.choice(sorted(p for p in folder.rglob("*.json*") if p.is_file()))
    kind = rng.randrange(8)
    lines = path.read_bytes().split(b"\n") if path.suffix == ".jsonl" else [path.read_bytes()]
    place = rng.randrange(max(1, len(lines) - 1))
    if kind == 0:
        path.unlink()
        path.mkdir()
        return f"{path.name} is a folder"
    if kind == 1:
        lines[place] = bytes(b for b in rng.randbytes(40) if b != 10)
    elif kind == 2:
        lines[place] = lines[place][: rng.randrange(1, max(2, len(lines[place])))]
    elif kind == 3:
        lines[place] = b"[" * 100_000
    elif kind == 4:
        lines[place] = b'{"instance_id":' + b"9" * 5000 + b"}"
    else:
        try:
            values = json.loads(lines[place])
        except ValueError:
            values = {"a": 1}
        node, key = values, rng.choice(list(values))
        while isinstance(node[key], dict) and node[key] and rng.random() < 0.7:
            node = node[key]
            key = rng.choice(list(node))
        node[key] = rng.choice(ODD)
        lines[place] = json.dumps(values).encode()
    path.write_bytes(b"\n".join(lines))
    return f"{path.name}, line {place + 1}: {lines[place][:200]!r}"


def survives(act: Any, told: list[str]) -> None:
    try:
        act()
    except Exception as error:
        if not isinstance(error, DlmError) or "\n" in str(error):
            raise AssertionError(f"{told}: {type(error).__name__}: {error}") from error
    assert not Path("DAMAGED").exists()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_reports_of_damaged_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    monkeypatch.chdir(tmp_path)
    for number in range(ROUNDS):
        out = tmp_path / str(number)
        folder = write(out, config(sampler__threshold=0.9), at_speed([1, 0, 1], 2))
        write(out, config(sampler__threshold=0.7), at_speed([1, 1, 1], 4))
        (folder / "failures.jsonl").write_text('{"instance_id":"q9","seed":0,"kind":"X","message":"y"}\n')
        (folder / "metrics.json").write_text('{"asked": 3}')
        told = [damage(out, rng) for _ in range(rng.choice((1, 1, 2)))]
        pictures = "true" if number % 20 == 0 else "false"
        survives(lambda out=out, pictures=pictures: report([str(out), f"pictures={pictures}"]), told)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("seed", range(2))
def test_runs_go_on_in_damaged_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rng = random.Random(seed)
    monkeypatch.chdir(tmp_path)
    for number in range(ROUNDS // 2):
        out = tmp_path / str(number)
        go(out, "task.limit=3", "max_new_tokens=2")
        told = [damage(out, rng) for _ in range(rng.choice((1, 1, 2)))]
        survives(lambda out=out: go(out, "task.limit=4", "max_new_tokens=2"), told)
        with suppress(DlmError):
            report([str(out), "pictures=false"])
