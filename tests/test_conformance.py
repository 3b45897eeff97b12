"""`dlm check`: presets keep to the laws, and what does not is told from what does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import cache
import samplers
from dlm.cli import main
from dlm.conformance import around, check, questions
from dlm.engine.interfaces import BlockSchedule, LogitTransform, Score, Selector
from dlm.errors import SettingsError
from dlm.tasks.base import Instance, Verdict
from tests.doubles import random_llada

MODEL: Any = random_llada()


@dataclass(frozen=True)
class BestOfBatch(Selector):
    """Holds rows against each other."""

    def step(self, view: Any, state: None) -> tuple[torch.Tensor, None]:
        best = torch.where(view.eligible, view.scores, -1.0)
        return view.eligible & (best >= best.max() - 0.05), state


@dataclass(frozen=True)
class Dice(Score):
    """Draws from torch's own generator."""

    def step(self, view: Any, state: None) -> tuple[torch.Tensor, None]:
        return torch.rand(view.positions.shape), state


@dataclass(frozen=True)
class Columns(Selector):
    """Remembers columns, which do not move with the rows."""

    def init(self, canvas: Any) -> torch.Tensor:
        return torch.zeros(canvas.tokens.shape[1])

    def step(self, view: Any, state: Any) -> tuple[torch.Tensor, Any]:
        return view.eligible & (view.scores > 0.9), state


@dataclass(frozen=True)
class Counts(LogitTransform):
    """Counts the rows of a batch."""

    def step(self, logits: Any, at: Any, state: None) -> tuple[torch.Tensor, None]:
        logits[:, logits.shape[0] % 7] += 4.0
        return logits, state


@dataclass(frozen=True)
class Lost(Selector):
    """A fault of its own."""

    def step(self, view: Any, state: None) -> tuple[torch.Tensor, None]:
        return {}["nothing"], state  # type: ignore[index]


@dataclass(frozen=True)
class Steps(BlockSchedule):
    """Blocks of four."""

    def longest(self, region: int) -> int:
        return min(4, region)

    def step(self, canvas: Any, state: None) -> tuple[torch.Tensor, torch.Tensor, None]:
        first = canvas.masked.long().argmax(dim=1)
        return first, torch.minimum(first + 4, canvas.end), state


def verdicts(part: Any, most: int | None = None) -> dict[str, str]:
    """Law by law; ``most``: the first ones alone, before caches and drafts."""
    found = islice(check(part, MODEL, [[1, 2], [3], [4, 5, 6]]), most)
    return {one.law: one.verdict for one in found}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["klass"])
def test_presets_keep_to_the_laws(name: str) -> None:
    sampler = getattr(samplers, name)(blocks=samplers.Fixed(8))
    before = replace(sampler)
    found = list(check(sampler, MODEL))
    assert sampler == before
    assert [one for one in found if one.verdict == "broken"] == []
    assert sum(one.verdict == "holds" for one in found) >= 8
    assert all(one.told for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", samplers.PRESETS)
def test_every_preset_keeps_to_the_laws(name: str) -> None:
    from tests.test_decoder import FAMILIES, preset

    assert name not in FAMILIES or FAMILIES[name] == ["llada"]
    assert "broken" not in verdicts(preset(name)).values()


@pytest.mark.parametrize("name", ["dual", "dkv_decode"])
def test_caches_keep_to_the_laws(name: str) -> None:
    found = verdicts(getattr(cache, name)())
    assert "broken" not in found.values()


@pytest.mark.parametrize(
    ("part", "laws"),
    [
        (BestOfBatch(), {"a row is alone"}),
        (Dice(), {"the same seed, the same answer", "a row is alone"}),
        (Columns(), {"memory has the rows first", "a row is alone"}),
        (Counts(), {"a row is alone"}),
        (Lost(), {"it ends, full, without a mask"}),
    ],
)
def test_what_is_broken_is_found(part: Any, laws: set[str]) -> None:
    broken = {law for law, verdict in verdicts(part, 5).items() if verdict == "broken"}
    assert laws <= broken
    assert {"memory has the rows first"} <= broken or isinstance(part, BestOfBatch | Dice | Counts | Lost)


def test_parts_of_every_role_have_a_place() -> None:
    assert verdicts(Steps(), 5)["a row is alone"] == "holds"
    for part in (samplers.Probability(), samplers.Threshold(0.8), samplers.topk().budget, samplers.Fixed(4)):
        assert part in around(part).parts.values()
    for nothing in (3, object(), {}):
        with pytest.raises(SettingsError, match="nothing to check"):
            list(check(nothing, MODEL))
    assert len(questions(MODEL)) == len({len(prompt) for prompt in questions(MODEL)})


@dataclass(frozen=True)
class Parrot:
    """A task: say the number again. ``fault`` names what is wrong with it."""

    fault: str = ""
    name: str = "parrot"
    canvas: int = 8
    size: int | None = 20

    @property
    def identity(self) -> Mapping[str, Any]:
        return {}

    def instance(self, index: int) -> Instance:
        if self.fault == "silent":
            raise RuntimeError("[/bold] no questions")
        said = str(index if self.fault != "draws" else float(torch.rand(())))
        key = "same" if self.fault == "ids" else said
        return Instance(key, self.name, f"Say {said}", said, {})

    def judge(self, instance: Instance, output: str) -> Verdict:
        if self.fault == "raises" and "\ud800" in output:
            raise UnicodeError("surrogates")
        good = output.strip() == (instance.target if self.fault != "wrong" else "never")
        return Verdict(float(good or self.fault == "generous"), None, None, "")


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("", None),
        ("draws", "a question follows from its number"),
        ("ids", "questions differ"),
        ("wrong", "a right answer is right"),
        ("generous", "nonsense is wrong"),
        ("raises", "nonsense is wrong"),
        ("silent", "a question follows from its number"),
    ],
)
def test_tasks(fault: str, law: str | None) -> None:
    found = verdicts(Parrot(fault))
    assert [one for one, verdict in found.items() if verdict == "broken"] == ([law] if law else [])
    assert fault == "silent" or found["answers fit the canvas"] == "refused"  # this model has no tokenizer
    assert verdicts(replace(Parrot(fault), size=0)) == {"a question follows from its number": "broken"}


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert main(["check", "task=waiting_line/copy"]) == 0
    assert "every law holds" in capsys.readouterr().out
    (tmp_path / "mine_to_check.py").write_text(
        "import torch\nfrom dataclasses import dataclass, replace\nfrom dlm.engine.interfaces import Score\n"
        "@dataclass(frozen=True)\nclass Mine(Score):\n    level: float = 1.0\n"
        "    def step(self, view, state):\n        return torch.rand(view.positions.shape) * self.level, state\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("dlm.models.load", lambda name, **how: MODEL)
    assert main(["check", "mine_to_check.Mine", "level=0.5", "json=true"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["law"] for line in lines if line["verdict"] == "broken"} >= {"a row is alone"}
    for words, said in (
        (["check", "os.system"], "gives no Sampler or Cache or Part"),
        (["check", "mine_to_check.Mine", "0.5"], "write key=value"),
        (["check", "sampler=nothing"], "nothing"),
        (["check", "mine_to_check.Mine", "levl=1"], "levl"),
        (["check", "mine_to_check.Mine", "level=[1"], "quote the value"),
        (["check", "model=tiny"], "what is to be checked?"),
    ):
        assert main(words) == 2
        assert said in capsys.readouterr().err
