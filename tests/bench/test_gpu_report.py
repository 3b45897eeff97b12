"""The report of a GPU, on a CPU: it goes on where it was cut off, and its page holds what there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import gpu_report


def test_it_goes_on_where_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_report, "WAYS", ("eager", "graphs"))
    monkeypatch.setattr(gpu_report, "CACHES", {name: gpu_report.CACHES[name] for name in ("dual", "dkv_decode")})
    monkeypatch.setattr(gpu_report, "PROMPT", 16)
    monkeypatch.setattr(gpu_report, "STEPS", 6)
    results, page = tmp_path / "r.jsonl", tmp_path / "page.md"
    command = ["--device", "cpu", "--shapes", "tiny", "--batches", "1", "--results", str(results), "--page", str(page)]
    assert gpu_report.main([*command, "--minutes", "0"]) == 1
    assert not results.exists()
    assert gpu_report.main(command) == 0
    lines = results.read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    assert len(keys) == len(set(keys)) == 9
    assert page.read_text().count("%") >= 3
    assert page.read_text().count("| tiny | eager | 1 | ") == 1
    assert "cpu has no float8" in page.read_text()
    assert "its cache feeds other positions at every step." in page.read_text()

    results.write_text("\n".join([*lines[:-1], lines[-1][:20]]) + "\n")
    capsys.readouterr()
    assert gpu_report.main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("tiny")] == [said[0]]
    with pytest.raises(SystemExit):
        gpu_report.main(["--device", "cuda"])
