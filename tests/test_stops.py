"""Stop strings: the answers of whole decodes, cut; fewer forwards; rows alone; when a string is settled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch

import cache
import dlm
import samplers
from dlm.cli import main
from dlm.engine.stops import Stops
from dlm.errors import SettingsError
from dlm.speculation import FreeDave
from tests.doubles import random_dream, random_llada
from tests.test_decoder import FAMILIES, MASK, OWN_BLOCKS, PRESETS, WHOLE, preset

PROMPTS = [[(5 * i + j) % MASK for j in range(1 + 3 * i)] for i in range(5)]


class Letters:
    """A tokenizer of one character an id."""

    chat_template = None
    added_tokens_encoder = MappingProxyType[str, int]({})

    def decode(self, ids: list[int], **settings: Any) -> str:
        return "".join(chr(ord("A") + i) for i in ids)


def lettered(model: Any) -> Any:
    if isinstance(model, SimpleNamespace):
        return SimpleNamespace(**vars(model) | {"tokenizer": Letters(), "decode": Letters().decode})
    return replace(model, tokenizer=Letters())


MODELS = {"llada": lettered(random_llada()), "dream": lettered(random_dream())}
STOPS = Stops(("ab", "b", "cdef"), (0,), (9,), lambda ids: bytes(ids).decode(errors="replace"))


@pytest.mark.parametrize(
    ("text", "reached"),
    [
        ("xy", False), ("xb", True), ("xab", True), ("xa", False), ("xcd", False), ("xcdef", True),
        ("b\0", True), ("x\0b", False), ("x\tb", True), ("x\0\t", False),
    ],
)  # fmt: skip
def test_what_settles_an_answer(text: str, reached: bool) -> None:
    assert STOPS.reached(text.encode()) is reached


def test_a_longer_string_that_begins_earlier_is_waited_for() -> None:
    stops = replace(STOPS, strings=("b", "abc"))
    assert not stops.reached(b"xab")
    assert stops.reached(b"xabc")
    assert stops.reached(b"xabd")
    assert (stops.text(b"xabc"), stops.text(b"xabd")) == ("x", "xa")


def test_half_a_character_is_no_other_text() -> None:
    stops = replace(STOPS, strings=("\n", "a\né"))
    assert not stops.reached("a\né".encode()[:-1])
    assert stops.reached("a\né".encode())
    assert stops.kept("xé\né".encode()) == 3


def cut(text: str, stop: tuple[str, ...]) -> str:
    return text[: min((at for one in stop if (at := text.find(one)) >= 0), default=len(text))]


def check(model: Any, sampler: Any, new: int = 16, **settings: Any) -> bool:
    """Whether stopping saved anything; that it changed no answer, with and without neighbours."""
    settings = {"sampler": sampler, "max_new_tokens": new, "seed": 3, "batch_size": 3, **settings}
    whole = dlm.generate(model, PROMPTS, **settings)
    text = sorted(whole[0].text[: new // 2] or "A")
    stop = (whole[1].text[2:4] or "!", max(text, key=text.count))
    early = dlm.generate(model, PROMPTS, stop=stop, **settings)
    alone = [dlm.generate(model, p, stop=stop, **settings)[0] for p in PROMPTS]
    for one, other, single in zip(whole, early, alone, strict=True):
        assert other.text == single.text == cut(one.text, stop)
        assert other.counts.forwards == single.counts.forwards <= one.counts.forwards
        assert (other.tokens, other.stop, other.counts.tokens) == (single.tokens, single.stop, single.counts.tokens)
        assert MASK not in other.tokens
        assert other.counts.tokens == sum(step >= 0 for step in other.commit_step[: len(other.text)])
        changed = [(a, b) for a, b in zip(one.commit_step, other.commit_step, strict=True) if a != b]
        assert {step for _, step in changed} <= {-1}
        assert bool(changed) <= (other.stop == "stop_string")
    return sum(a.counts.forwards for a in early) < sum(a.counts.forwards for a in whole)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_answers_as_the_whole_decode_cut(name: str) -> None:
    family = "dream" if "dream" in FAMILIES.get(name, MODELS) else "llada"
    for temperature in (0.0, 0.8):
        saved = check(MODELS[family], preset(name, temperature=temperature, precision="float64"))
        assert saved or name in WHOLE | OWN_BLOCKS | {"policy", "prophet", "sched"}


BLOCKS = {
    "sliding": samplers.SlidingBlocks(4),
    "growing": samplers.GrowingBlocks(initial=8, step_size=4, window=4, length=4),
    "density": samplers.DensityBlocks(initial=8, step_size=4, length=4),
    "pipelined": samplers.PipelinedBlocks(4),
    "whole": samplers.Whole(),
}


@pytest.mark.parametrize("blocks", BLOCKS)
def test_blocks_that_move_and_grow(blocks: str) -> None:
    check(MODELS["llada"], samplers.threshold(0.3, blocks=BLOCKS[blocks]))


@pytest.mark.parametrize(
    "settings",
    [
        {"drafter": FreeDave(2)}, {"drafter": FreeDave(3), "cache": cache.dual()}, {"cache": cache.dkv_decode(4)},
        {"cache": cache.prefix()}, {"pinned": {5: 3, 11: 4}},
    ],
)  # fmt: skip
def test_drafts_caches_and_pins(settings: dict[str, Any]) -> None:
    assert check(MODELS["llada"], samplers.topk(blocks=samplers.Fixed(4)), **settings)


def test_guidance_and_static_steps() -> None:
    model = lettered(random_llada())
    assert check(model, samplers.topk(blocks=samplers.Fixed(4), guidance=1.0))
    model.backbone.graphs = True
    assert check(model, samplers.topk(blocks=samplers.Fixed(4)))


def test_block_diffusion() -> None:
    model = dlm.load("tiny-block")
    settings: dict[str, Any] = {"sampler": "sdar", "max_new_tokens": 30, "batch_size": 2}
    prompts = ['Reverse the list: ["Anna", "Bob", "Cleo"]', 'Copy the list: ["Anna", "Bob"]', "47+85="]
    whole = dlm.generate(model, prompts, **settings)
    early = dlm.generate(model, prompts, stop=[",", "+"], **settings)
    assert [a.text for a in early] == [cut(a.text, (",", "+")) for a in whole]
    assert sum(a.counts.forwards for a in early) < sum(a.counts.forwards for a in whole)


def test_the_host_waits_no_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    tolist = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> Any:
        read.append(1)
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    counts = []
    for stop in (None, "never"):
        read.clear()
        dlm.generate(MODELS["llada"], PROMPTS, sampler="topk", max_new_tokens=16, stop=stop)
        counts.append(len(read))
    assert counts[0] == counts[1]


def test_a_stopped_row_is_recorded_streamed_and_replayed() -> None:
    sampler = samplers.topk(blocks=samplers.Fixed(8))
    (whole,) = dlm.generate(MODELS["llada"], PROMPTS[:1], sampler=sampler, max_new_tokens=16)
    stop = whole.text[2]
    options: dict[str, Any] = {"sampler": sampler, "max_new_tokens": 16, "stop": stop}
    (answer,) = dlm.generate(MODELS["llada"], PROMPTS[:1], record="commits", **options)
    assert answer.trace is not None
    assert (answer.stop, [*answer.trace.replay()][-1]) == ("stop_string", answer.prompt_tokens + answer.tokens)
    events: list[Any] = list(dlm.stream(MODELS["llada"], PROMPTS[:1], **options))
    last, (_, streamed) = events[-2:]
    assert last.done
    assert (last.canvas, streamed.text) == (answer.tokens, answer.text)
    replayed = dlm.replay(MODELS["llada"], [answer]).log_probs[0].exp()
    seen = [(p, c) for p, c in zip(replayed.tolist(), answer.confidence, strict=True) if c == c]
    assert [p for p, _ in seen] == pytest.approx([c for _, c in seen])
    if -1 in answer.commit_step[: max(p for p, step in enumerate(answer.commit_step) if step >= 0)]:
        with pytest.raises(SettingsError, match='record="commits"'):
            dlm.replay(MODELS["llada"], [replace(answer, trace=None)])


def test_what_is_no_stop_string() -> None:
    for stop in ("", ["x", ""], [3]):
        with pytest.raises(SettingsError, match="stop is a text"):
            Stops.of(MODELS["llada"], stop or [""])  # type: ignore[arg-type]
    untokenized: Any = random_llada()
    with pytest.raises(SettingsError, match="has no tokenizer, and stop= is text"):
        dlm.generate(untokenized, [[1]], sampler="topk", stop="x")


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["generate", "prompt=47+85=", "max_new_tokens=32", "sampler=topk", "blocks.length=8", "format=json"]
    assert main([*words, 'stop=["12", ","]']) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["text"], answer["stop"]) == ("7+5=", "stop_string")
    assert answer["counts"]["forwards"] < 32
    assert main([*words[:-1], "format=step_map", "stop=x"]) == 2
    assert "leave stop= out" in capsys.readouterr().err
