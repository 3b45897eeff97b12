"""``dlm bench`` and its measurements, end to end on small shapes: what is reported, never how long it took."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import samplers
from dlm.bench.engine import Cell, Contender, Decode, Turns, decode_rounds, paired, random_rounds
from dlm.bench.samplers import SamplersBenchSettings, bench_samplers
from dlm.cli import main
from dlm.errors import SettingsError
from tests.doubles import random_llada

SMALL = ("bench.shapes=[mid]", "bench.new=8", "bench.runs=1")


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, Any]]:
    """What a bench prints, and its last line read as JSON."""
    assert main(["bench", *arguments]) == 0
    out = capsys.readouterr().out
    return out, json.loads(out.splitlines()[-1])


def test_samplers_beside_the_threshold_rule(capsys: pytest.CaptureFixture[str]) -> None:
    out, result = told(capsys, "samplers", "samplers=[klass,dream_origin,adablock]", *SMALL, "bench.threads=1")
    names = ["threshold", "klass", "dream_origin", "adablock"]
    assert [(f["batch"], f["sampler"]) for f in result["figures"]] == [(b, n) for b in (1, 8) for n in names]
    assert (result["refused"], result["threads"]) == ({}, 1)
    for figure in result["figures"]:
        assert 0 < figure["seconds_sampler"] < figure["seconds_step"]
        assert 6 <= figure["positions"] <= 8
        assert (figure["extra_cost"] == "second head pass") == (figure["sampler"] == "klass")
        if figure["sampler"] == "threshold":
            assert (figure["ratio"], figure["ratio_step"]) == (1.0, 1.0)
            assert figure["positions"] == 7  # 8, 7 and 6 are open: random weights are sure of nothing
    assert "second head pass" in out
    assert "above 3 without a declared reason: " in out


def test_a_sampler_that_refuses_is_listed_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    out, result = told(
        capsys, "samplers", "samplers=[lopa,topk]", "sampler.guidance=1", *SMALL, "bench.batches=1", "bench.steps=1"
    )  # fmt: skip
    assert [f["sampler"] for f in result["figures"]] == ["threshold", "topk"]
    assert "guidance" in result["refused"]["lopa"]
    assert "refused: lopa: " in out


def test_what_only_the_decoder_refuses_is_listed_too(capsys: pytest.CaptureFixture[str]) -> None:
    settings = SamplersBenchSettings(shapes=("mid",), batches=(1,), new=8, runs=1, steps=1)
    long = samplers.topk(blocks=samplers.Fixed(16))
    result = bench_samplers(settings, {"threshold": samplers.threshold(), "long": long})
    assert [f["sampler"] for f in result["figures"]] == ["threshold"]
    assert "16" in result["refused"]["long"]
    with pytest.raises(SettingsError, match="threshold, which the others are compared with, cannot be measured"):
        bench_samplers(settings, {"long": long})


def test_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_llada(dtype=torch.float32)
    cell, sampler = Cell(model, "some", 1), samplers.topk(blocks=samplers.Fixed(4))  # type: ignore[arg-type]
    contenders = [Contender("base", sampler), *(Contender(n, sampler, baseline="base") for n in "abcdef")]
    taken: list[tuple[str, int]] = []
    of = Decode.of

    def noted(cell: Cell, contender: Contender, jobs: Any, most: int | None) -> Decode:
        taken.append((contender.label, jobs[0].tokens[0]))
        return of(cell, contender, jobs, most)

    monkeypatch.setattr(Decode, "of", noted)
    _, *jobs = random_rounds(cell, 5, 4, 3)
    rounds = decode_rounds(cell, contenders, Turns(jobs, most=2, between=4), "")
    assert [list(decodes) for decodes in rounds] == 3 * [["base", *"abcdef"]]
    assert all(len(decode.steps) == 2 for decodes in rounds for decode in decodes.values())
    first, second, third = ([label for label, _ in taken[at : at + 8]] for at in (0, 8, 16))
    assert [at for at, label in enumerate(first) if label == "base"] == [0, 5]
    assert first != second != third and sorted(first) == sorted(second) == sorted(third)
    assert len({token for _, token in taken}) > 1  # every round has its own prompts
    own, base = paired(rounds, contenders[1])[2]
    assert (own, base) == (rounds[2]["a"], rounds[2]["base"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["samplers=[threshold,nope]"], "unknown sampler 'nope'; known are all or adablock, .*wino"),
        (["samplers=[]"], "samplers names none: all, or some of adablock"),
        (["sampler=topk"], "takes several samplers: 'samplers="),
        (["samplers=topk", "sampler.tokens_per_step=2"], "cannot be measured: .* decides by itself"),
        (["samplers=topk", "bench.runs=0"], "runs must be a whole number of at least 1, got 0"),
        (["samplers=topk", "bench.steps=1.5"], "bench.steps must be a whole number, got 1.5"),
        (["samplers=topk", "bench.batches=[1,0]"], "batches must be a whole number"),
        (["samplers=topk", "bench.batches=[]"], "batches names none"),
        (["samplers=topk", "bench.new=64"], "new=64 is more than one block"),
        (["samplers=topk", "bench.shapes=nope"], "unknown bench shape 'nope'"),
        (["samplers=topk", "bench.size=1"], "unknown setting 'bench.size'"),
    ],
)
def test_samplers_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "samplers", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    with pytest.raises(SettingsError, match=message):
        raise SettingsError(line)


def test_decode_is_what_bench_does_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    out, result = told(
        capsys, "bench.shapes=[tiny]", "bench.new=8", "bench.block=8", "bench.runs=1", "bench.naive_steps=0"
    )  # fmt: skip
    assert "milliseconds per step" in out
    assert [f["shape"] for f in result["figures"]] == ["tiny"]
    assert main(["bench", "--cfg"]) == main(["bench", "decode", "--cfg"]) == 0
    without, word = capsys.readouterr().out.split("blocks:\n")[1:]
    assert without == word


def test_help_and_unknown_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    assert "bench.naive_steps" in out
    assert "  samplers  what each sampler costs" in out
    assert main(["bench", "samplers", "--help"]) == 0
    out = capsys.readouterr().out
    assert "dlm bench samplers samplers=[klass,dawn]" in out
    assert "|threshold|" in out
    assert main(["bench", "samplers", "--cfg"]) == 0
    assert "samplers: all" in capsys.readouterr().out
    assert main(["bench", "nope"]) == 2
    assert "unknown bench 'nope'; known are decode, samplers" in capsys.readouterr().err
