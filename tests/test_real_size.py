"""``scripts/real_size.py`` on a small shape: what it writes loads, and what it counts is what is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dlm
from dlm.models.llada import LLaDAConfig, LLaDAModelLM
from dlm.models.quantising import quantise, weight_bytes
from scripts import real_size

SMALL = LLaDAConfig(
    d_model=128, n_layers=2, n_heads=4, n_kv_heads=2, mlp_hidden_size=256, vocab_size=300, mask_token_id=299,
    eos_token_id=298,
)  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(real_size.SHAPES, "body", (LLaDAModelLM, lambda: SMALL))


def test_a_checkpoint_of_several_shards_decodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(real_size, "SHARD", 200_000)
    size = real_size.write("body", tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    row = real_size.measured(tmp_path, "none")
    assert row["rows_equal"] and row["weights_gb"] == size / 1e9


@pytest.mark.parametrize("kind", ["bfloat16", "int8", "int4", "fp8"])
def test_the_table_counts_what_is_stored(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real_size.write("body", tmp_path)
    model: Any = dlm.load(tmp_path, device="cpu", dtype="bfloat16").backbone
    if kind != "bfloat16":
        quantise(model, kind, torch.device("cpu"))
    assert real_size.main(["--table", "--shapes", "body"]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert row[kind] * 1e9 == weight_bytes(model)


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_size.write("body", tmp_path)
    monkeypatch.setattr(real_size, "available", lambda: 1000)
    with pytest.raises(SystemExit, match="of memory are free"):
        real_size.in_a_process(tmp_path, "none")
    monkeypatch.setattr(real_size.shutil, "disk_usage", lambda folder: type("Disk", (), {"free": 10}))
    with pytest.raises(SystemExit, match="set --folder"):
        real_size.write("body", tmp_path)


def test_the_documented_table() -> None:
    text = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    for shape, name in (("llada-8b", "LLaDA-8B"), ("dream-7b", "Dream-7B")):
        assert f"| {name} | {' | '.join(f'{gb:.2f}' for gb in real_size.memory(shape).values())} |" in text
