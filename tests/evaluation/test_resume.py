"""A run that is killed at any moment goes on, and ends as one that was not."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

import pytest

from dlm.errors import StorageError
from dlm.evaluation.lines import Busy
from dlm.evaluation.store import read_samples
from tests.evaluation.forks import Fork, killed_while_writing
from tests.evaluation.runs import go, lines, ready, tiny

# Noise, two seeds and eight forwards an answer.
POINT = (
    "task=waiting_line/shuffle", "task.limit=8", "seeds=[0,1]", "batch_size=4", "sampler=topk",
    "sampler.tokens_per_step=4", "sampler.temperature=1.0",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The lines of a run that nothing interrupts."""
    return lines(go(tmp_path_factory.mktemp("whole"), *POINT).folder)


def test_killed_at_random_moments(tmp_path: Path, whole: list[dict]) -> None:
    tiny()
    luck, folder = random.Random(5), ready(tmp_path, *POINT).folder
    for _ in range(4):
        process = Fork(lambda: go(tmp_path, *POINT))
        time.sleep(luck.uniform(0.02, 0.5))
        process.kill()
        assert process.wait() in (-9, 0)
    outcome = go(tmp_path, *POINT)
    assert (outcome.answers, outcome.failures) == (16, 0)
    assert lines(folder) == whole
    assert json.loads((folder / "manifest.json").read_text())["status"] == "done"


@pytest.mark.parametrize("after", [0, 1, 7])
def test_killed_in_the_middle_of_a_line(tmp_path: Path, whole: list[dict], after: int) -> None:
    tiny()

    def act() -> None:
        os.write = killed_while_writing(after)
        go(tmp_path, *POINT)

    assert Fork(act).wait() == -9
    folder = ready(tmp_path, *POINT).folder
    text = (folder / "samples.jsonl").read_text()
    assert text.count("\n") == after and not text.endswith("\n")
    outcome = go(tmp_path, *POINT)
    assert outcome.decoded == 16 - after
    assert len(outcome.notes) == 1 and "was cut short" in outcome.notes[0]
    assert lines(folder) == whole


def test_a_folder_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    folder = ready(tmp_path, *POINT).folder

    def act() -> None:
        from dlm.evaluation.store import Store

        with Store(ready(tmp_path, *POINT).point, folder):
            os.write(writes, b"x")
            time.sleep(60)

    process = Fork(act)
    os.read(reads, 1)
    with pytest.raises(Busy, match=r"another process is writing .*samples\.jsonl: wait until it ends"):
        go(tmp_path, *POINT)
    process.kill()
    assert process.wait() == -9
    assert go(tmp_path, *POINT).answers == 16  # the lock goes with its holder


def test_a_disk_that_fills_up_loses_nothing_that_was_written(
    tmp_path: Path, whole: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, room = os.write, [4000]

    def write(file: int, data: bytes) -> int:
        if not data.startswith(b'{"instance_id"'):
            return real(file, data)
        if room[0] <= 0:
            raise OSError(28, "No space left on device")
        written = real(file, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StorageError, match="No space left on device"):
        go(tmp_path, *POINT)
    monkeypatch.undo()
    folder = ready(tmp_path, *POINT).folder
    kept = len(list(read_samples(folder)))
    assert 0 < kept < 16
    outcome = go(tmp_path, *POINT)
    assert outcome.decoded == 16 - kept and outcome.notes == ()
    assert lines(folder) == whole
