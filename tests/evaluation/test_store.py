"""The folder of a point: whole lines, one writer, and nothing of another configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dlm.errors import SettingsError, StorageError
from dlm.evaluation.lines import Busy, LineFile, Torn, read_lines
from dlm.evaluation.point import Point
from dlm.evaluation.sample import Sample
from dlm.evaluation.store import Failure, Store, answered, failed, read_samples


def point(**sampler: Any) -> Point:
    parts = {part: {"choice": "none"} for part in ("model", "sampler", "blocks", "cache", "drafting")}
    parts["sampler"] |= sampler
    task = {"choice": "a/b", "name": "a/b"}
    return Point({**parts, "task": task, "max_new_tokens": 4, "form": "auto", "identity": {}})


def sample(name: str, seed: int = 0, **changes: Any) -> Sample:
    values: dict[str, Any] = {
        "instance_id": name, "index": 0, "task": "a/b", "seed": seed, "prompt_sha256": "", "prompt_tokens": 1,
        "output_text": "x", "output_ids": [1], "target": "x", "parsed": None, "score": 1.0, "score_strict": None,
        "parts": {}, "error_type": None, "canvas": 4, "forwards": 2, "content_forwards": 1, "token_forwards": 8,
        "tokens": 1, "commit_step": [0], "confidence": [None], "accepted_drafts": 0, "positions_cut": 0,
        "stop": "filled", "seconds": 0.1, "seconds_model": 0.05,
    }  # fmt: skip
    return Sample(**(values | changes))


def open_store(tmp_path: Path, **options: Any) -> Store:
    return Store(point(), point().folder(tmp_path), **options)


def test_lines_come_back_whatever_characters_they_hold(tmp_path: Path) -> None:
    texts = ["plain", 'quote " and \\', "new\nline", "\u2028\u2029\x85", "😀" * 3, "x" * 100_000]
    with open_store(tmp_path) as store:
        for number, text in enumerate(texts):
            store.samples.append(sample(str(number), output_text=text).line())
    assert [s.output_text for s in read_samples(store.folder)] == texts


def test_a_line_is_there_before_append_returns(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "lines.jsonl")
    file.append('{"a":1}\n')
    assert (tmp_path / "lines.jsonl").read_text() == '{"a":1}\n'
    file.close()
    file.close()


@pytest.mark.parametrize("tail", ['{"instance_id":"b","se', "\0\0\0\0", '{"instance_id":"b"}', '{"instance_id":"b"}\n'])
def test_a_torn_last_line_is_cut_off_and_said(tmp_path: Path, tail: str) -> None:
    with open_store(tmp_path) as store:
        store.samples.append(sample("a").line())
    whole = store.samples.path.read_bytes()
    store.samples.path.write_bytes(whole + tail.encode())
    assert [s.instance_id for s in read_samples(store.folder)] == ["a"]  # a reader passes it over
    with open_store(tmp_path) as store:
        found = store.begin()
        assert found.answered == {("a", 0)}
        assert len(found.notes) == 1 and str(len(tail)) in found.notes[0]
        store.samples.append(sample("b").line())
    assert [s.instance_id for s in read_samples(store.folder)] == ["a", "b"]


def test_a_bad_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text('{"instance_id":"a","seed":0}\n{"instance_id":\n{"instance_id":"c","seed":0}\n')
    with pytest.raises(SettingsError, match=r"samples\.jsonl, line 2 "):
        answered(tmp_path)
    path.write_text('{"instance_id":"a","seed":0}\n[1]\n{"instance_id":"c","seed":0}\n')
    with pytest.raises(SettingsError, match=r"line 2 is no object with instance_id, seed"):
        answered(tmp_path)
    path.write_text('{"instance_id":"a","seed":0}\n')
    with pytest.raises(SettingsError, match=r"answer to a has no 'index'"):
        list(read_samples(tmp_path))


def test_shards_are_read_together_and_the_first_line_wins(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.samples.append(sample("a", output_text="first").line())
    with open_store(tmp_path, rank=1, world=11) as second, open_store(tmp_path, rank=10, world=11) as tenth:
        tenth.samples.append(sample("a", output_text="tenth").line())
        second.samples.append(sample("a", output_text="second").line())
        second.samples.append(sample("a", seed=1, output_text="other seed").line())
    assert [s.output_text for s in read_samples(store.folder)] == ["first", "other seed"]


def test_two_runs_never_write_to_one_folder(tmp_path: Path) -> None:
    with open_store(tmp_path), pytest.raises(Busy, match="another process is writing"):
        open_store(tmp_path)
    with open_store(tmp_path, rank=1, world=2), pytest.raises(Busy):  # a process that outlived its run
        open_store(tmp_path)
    with open_store(tmp_path, world=2) as store, open_store(tmp_path, rank=1, world=2):
        assert store.begin().answered == set()


def test_a_folder_that_cannot_be_held_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path, rank=1, world=2) as other:
        real = os.open

        def denied(path: Path, *rest: Any) -> int:
            if path == other.samples.path:
                raise OSError(5, "Input/output error")
            return real(path, *rest)

        monkeypatch.setattr(os, "open", denied)
        with pytest.raises(StorageError, match="Input/output error"):
            open_store(tmp_path)
        monkeypatch.undo()
    open_store(tmp_path).close()  # this process does not hold it still


def test_empty_files_that_a_power_cut_left_are_as_none(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.begin()
    for name in ("config.json", "manifest.json"):
        (store.folder / name).write_bytes(b"")
    with open_store(tmp_path) as store:
        store.begin()
        assert store.manifest() == {}
    assert json.loads((store.folder / "config.json").read_text()) == store.point.config


def test_the_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.begin()
        store.begin()  # its own is none
    other = point(threshold=0.9)
    with pytest.raises(SettingsError, match=r"another configuration.*sampler\.threshold \(0\.9, was None\)"):
        Store(other, store.folder)
    with pytest.raises(SettingsError, match="give the folder above"):
        Store(other, other.folder(store.folder))
    (store.folder / "config.json").write_text("{")
    with pytest.raises(SettingsError, match=r"config\.json is not JSON"):
        open_store(tmp_path)


def test_a_setting_that_changes_no_answer_does_not_change_the_folder(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.begin()
    config = json.loads((store.folder / "config.json").read_text())
    config["model"]["device"] = "cuda:3"
    (store.folder / "config.json").write_text(json.dumps(config))
    open_store(tmp_path).close()


def test_a_full_disk_is_one_error_and_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, room = os.write, [300]

    def write(file: int, data: bytes) -> int:
        """A disk with some room left: the last line goes in by half, the next not at all."""
        if room[0] <= 0:
            raise OSError(28, "No space left on device")
        written = real(file, data[: room[0]])
        room[0] -= written
        return written

    file = LineFile(tmp_path / "lines.jsonl")
    monkeypatch.setattr(os, "write", write)
    line = json.dumps({"text": "x" * 100}) + "\n"
    file.append(line)
    file.append(line)
    with pytest.raises(StorageError, match=r"No space left on device.*make room and run the same command again"):
        file.append(line)
    with pytest.raises(StorageError):
        file.append("{}\n")
    monkeypatch.undo()
    lines = list(read_lines(tmp_path / "lines.jsonl"))
    assert len(lines) == 2 and not any(isinstance(line, Torn) for line in lines)
    file.append(line)
    file.close()
    assert len(list(read_lines(tmp_path / "lines.jsonl"))) == 3


def test_what_is_written_whole_does_not_fit_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    with open_store(tmp_path) as store:
        monkeypatch.setattr("dlm.evaluation.store.write_json", full)
        with pytest.raises(StorageError, match=r"config\.json cannot be written \(No space left"):
            store.begin()


def test_lines_reach_the_disk_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    now = [100.0]
    monkeypatch.setattr(os, "fsync", synced.append)
    monkeypatch.setattr("dlm.evaluation.lines.time.monotonic", lambda: now[0])
    file = LineFile(tmp_path / "lines.jsonl")
    for _ in range(10):
        now[0] += 0.25
        file.append("{}\n")
    assert len(synced) == 2
    file.append("{}\n")
    file.close()
    assert len(synced) == 3


def test_failures_are_counted(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for attempt in (1, 2):
            store.fail(Failure("a", 0, 5, attempt, "scorer", "x" * 10_000 + "\ud800", output_text="y\ud800" * 20_000))
    assert failed(store.folder) == {("a", 5): 2}
    line = json.loads((store.folder / "failures.jsonl").read_text().splitlines()[1])
    assert line["attempt"] == 2 and len(line["message"]) == 2000 and len(line["output_text"]) == 20_000


def test_to_begin_again_throws_everything_away(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.begin()
        store.samples.append(sample("a").line())
        store.fail(Failure("b", 0, 0, 1, "scorer", ""))
        store.write("metrics.json", {})
        store.write("manifest.json", {})
        (store.folder / "samples-rank3.jsonl").write_text(sample("c").line())
        (store.folder / "traces.jsonl").write_text("{}\n")
    with open_store(tmp_path) as store:
        found = store.begin(overwrite=True)
        assert not found.answered and not found.failed
    assert sorted(p.name for p in store.folder.iterdir()) == ["config.json", "samples.jsonl"]
