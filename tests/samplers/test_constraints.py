"""Constraints: every answer matches, whatever the sampler; the choice is the best one, and draws have the right law."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dlm
import samplers
from dlm.cli import main
from dlm.drafting import FreeDave
from dlm.engine.canvas import Canvas, Job, SpecialIds
from dlm.engine.proposal import Proposer, Vocabulary
from dlm.errors import PromptError, SettingsError
from samplers.constraints.language import Spelling, language
from samplers.constraints.run import RegularRun, Ways
from tests.test_decoder import PRESETS, preset

pytest.importorskip("outlines_core")

TINY = dlm.load("tiny", device="cpu")
SCHEMA = json.dumps(
    {"type": "object", "properties": {"name": {"type": "string", "maxLength": 6}, "old": {"type": "boolean"}},
     "required": ["name", "old"]}
)  # fmt: skip
TOKENS = ["<end>", "<mask>", "a", "b", "ab", "ba", "c"]  # ids 0 to 6
PATTERNS = ["(ab)*c?", "a{2,5}", "(a|bc){1,3}b", "[abc]*", "c"]


class Letters:
    """A tokenizer that spells as its names say."""

    all_special_ids = (0, 1)
    backend_tokenizer = SimpleNamespace(decoder="ByteLevel")

    def __len__(self) -> int:
        return len(TOKENS)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [TOKENS[i] for i in ids]


SPELLING = Spelling(Letters(), len(TOKENS))


def texts(pattern: str, length: int, given: list[int]) -> list[tuple[int, ...]]:
    """Every sequence of ids that is allowed and has the given tokens (1 is open), tried one by one."""
    found = []
    for ids in itertools.product([0, 2, 3, 4, 5, 6], repeat=length):
        end = ids.index(0) if 0 in ids else length
        fits = all(g in (1, i) for g, i in zip(given, ids, strict=True)) and not any(ids[end:])
        if fits and re.fullmatch(pattern, "".join(TOKENS[i] for i in ids[:end])):
            found.append(ids)
    return found


def row_of(given: list[int], logits: torch.Tensor, pattern: str, **proposer: Any) -> tuple[RegularRun, Ways]:
    """One row with these tokens behind a prompt of two, and the ways through it."""
    run = RegularRun(language(pattern, SPELLING, (0,), 7), Vocabulary(1, 7, 7), Proposer(**proposer))
    tokens = (5, 5, *given)
    job = Job(0, tokens, 2, tuple(2 + i for i, token in enumerate(given) if token == 1), 7)
    run.admit(job)
    canvas = Canvas.of([job], len(tokens), SpecialIds(1, (0,)), torch.device("cpu"))
    positions = torch.tensor([[*job.writable, len(tokens)]])
    entries = torch.cat([logits[[i - 2 for i in job.writable]], logits[:1]])
    uniforms = torch.full((len(entries),), 0.5, dtype=torch.float64) if run.proposer.temperature else None
    return run, Ways(run.language, run.fits, canvas, positions, run.weigh(entries.clone(), uniforms)[None], len(given))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_best_way_and_its_shares_are_those_of_all_texts(data: st.DataObject) -> None:
    pattern, length = data.draw(st.sampled_from(PATTERNS)), data.draw(st.integers(1, 4))
    allowed = texts(pattern, length, [1] * length)
    if not allowed:
        with pytest.raises(PromptError, match="fits"):
            row_of([1] * length, torch.zeros(length, 7), pattern)
        return
    example = data.draw(st.sampled_from(allowed))
    given_ = [i if data.draw(st.booleans()) else 1 for i in example]
    if 1 not in given_:
        given_[0] = 1
    logits = torch.randn(length, 7, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    logits = logits.double() * 3
    log_probs = logits.log_softmax(dim=1)
    allowed = texts(pattern, length, given_)
    weights = [sum(float(log_probs[i, t]) for i, t in enumerate(ids) if given_[i] == 1) for ids in allowed]
    run, ways = row_of(given_, logits, pattern)
    best = ways.best()
    sure = ways.sure(best)[0].exp()
    told = run.weigh(torch.cat([logits, logits[:1]]), None)
    expected = allowed[max(range(len(allowed)), key=weights.__getitem__)]
    total = sum(map(math.exp, weights))
    for place, token in enumerate(expected):
        if given_[place] != 1:
            continue
        one = int(best[0, place - ways.first])
        assert int(told[place, one, 2]) == token
        share = sum(math.exp(w) for w, ids in zip(weights, allowed, strict=True) if ids[place] == token) / total
        assert float(sure[place - ways.first] * told[place, one, 3].exp()) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("pattern", ["(ab)*c?", "(a|bc){1,3}b", "[abc]*"])
def test_draws_have_the_law_of_the_texts_that_match(pattern: str) -> None:
    """20,000 draws of three positions against every text, each by the product of its tempered probabilities."""
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(3)).double()
    allowed = texts(pattern, 3, [1, 1, 1])
    tempered = (logits / 0.7).log_softmax(dim=1)
    exact = torch.tensor([sum(float(tempered[i, t]) for i, t in enumerate(ids)) for ids in allowed]).softmax(0)
    rows = 20_000
    run = RegularRun(language(pattern, SPELLING, (0,), 7), Vocabulary(1, 7, 7), Proposer(temperature=0.7))
    jobs = [Job(i, (1, 1, 1), 0, (0, 1, 2), i) for i in range(rows)]
    canvas = Canvas.of(jobs[:1], 3, SpecialIds(1, (0,)), torch.device("cpu"))
    canvas = canvas.branched(canvas.tokens.expand(rows, -1), torch.zeros(rows, dtype=torch.long))
    draw = torch.Generator().manual_seed(1)
    within, ways = torch.rand(3 * rows, generator=draw), torch.rand(rows, 3, generator=draw)
    weighed = run.weigh(logits.repeat(rows, 1), within).view(rows, 3, -1, 4)
    positions = torch.arange(3).expand(rows, 3)
    classes = Ways(run.language, run.fits, canvas, positions, weighed, 3).drawn(ways)
    tokens = weighed[..., 2].gather(2, classes[..., None])[..., 0].long()
    drawn = dict.fromkeys(allowed, 0)
    for ids in map(tuple, tokens.tolist()):
        drawn[ids] += 1
    for ids, p in zip(allowed, exact.tolist(), strict=True):
        assert abs(drawn[ids] - rows * p) < 5 * math.sqrt(rows * p * (1 - p)) + 1


GREEDY = ("threshold", "eb", "topk", "wino", "prophet", "punt", "dus", "learn2pd")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("name", "temperature"), [*((name, 1.0) for name in sorted(PRESETS)), *((name, 0.0) for name in GREEDY)]
)
def test_every_sampler_gives_answers_that_parse(name: str, temperature: float) -> None:
    more = {"steps": 12} if "steps" in PRESETS[name] else {}
    options = {"temperature": temperature, "constraint": samplers.JsonSchema(SCHEMA), **more}
    if name in ("hierarchy_remask", "verified", "core"):
        with pytest.raises(SettingsError, match=r"took for granted|has not chosen"):
            preset(name, **options)
        return
    sampler = preset(name, **options)
    prompts = ["47+85=", "Reverse the list: ['Anna', 'Bob']"]
    answers = dlm.generate(TINY, prompts, sampler=sampler, max_new_tokens=24)
    for answer in answers:
        read = json.loads(answer.text)
        assert isinstance(read["name"], str)
        assert isinstance(read["old"], bool)
    (alone,) = dlm.generate(TINY, prompts[:1], sampler=sampler, max_new_tokens=24)
    assert (alone.tokens, alone.commit_step) == (answers[0].tokens, answers[0].commit_step)


@pytest.mark.parametrize("policy", ["none", "dual", "prefix", "dkv_decode", "block_causal"])
def test_caches_blocks_drafts_and_ends(policy: str) -> None:
    model = dlm.load("tiny-block", device="cpu") if policy == "block_causal" else TINY
    for temperature in (0.0, 0.8):
        sampler = samplers.threshold(
            0.6, blocks=samplers.Fixed(8), temperature=temperature, constraint=samplers.JsonSchema(SCHEMA),
            stop_at_end=True,
        )  # fmt: skip
        options: dict[str, Any] = {"sampler": sampler, "cache": policy, "max_new_tokens": 22}
        (plain,) = dlm.generate(model, ["47+85="], **options)
        (drafted,) = dlm.generate(model, ["47+85="], drafter=FreeDave(4), **options)
        assert drafted.tokens == plain.tokens
        json.loads(plain.text)
    with pytest.raises(SettingsError, match="acceptance=standard"):
        dlm.generate(model, ["x"], sampler=sampler, drafter=FreeDave(4, acceptance="eager"), max_new_tokens=22)


def test_what_is_forced_is_committed_at_once() -> None:
    (answer,) = dlm.generate(
        TINY, ["x"], sampler=samplers.threshold(constraint=samplers.Regex("12345")), max_new_tokens=8
    )
    assert (answer.text, answer.counts.forwards) == ("12345", 1)
    assert answer.confidence == pytest.approx([1.0] * 8)


def test_truncation_gives_way_where_nothing_else_fits() -> None:
    sampler = samplers.threshold(temperature=1.0, top_k=1, constraint=samplers.Regex("zzz|qqq"))
    (answer,) = dlm.generate(TINY, ["47+85="], sampler=sampler, max_new_tokens=6)
    assert answer.text in ("zzz", "qqq")


def test_infill_keeps_what_is_given() -> None:
    sampler = samplers.threshold(constraint=samplers.Regex("[0-9]+=[0-9]+"))
    (answer,) = dlm.generate(TINY, ["x"], sampler=sampler, max_new_tokens=6, pinned={2: "="})
    assert answer.text[2] == "="
    with pytest.raises(PromptError, match="has the given tokens"):
        dlm.generate(TINY, ["x"], sampler=sampler, max_new_tokens=6, pinned={2: "a"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.Regex(""), "an empty text"),
        (lambda: samplers.Regex("[0-9"), "is no pattern"),
        (lambda: samplers.Regex("(?=a)b"), "is no pattern"),
        (lambda: samplers.Regex("a)(b"), r"\) without \("),
        (lambda: samplers.Regex("(a|b"), r"\( without \)"),
        (lambda: samplers.Regex("(a{200}){200}"), "longer than 20000 characters"),
        (lambda: samplers.Regex("a{1,100000}"), "longer than 20000 characters"),
        (lambda: samplers.JsonSchema("{}"), "allows anything"),
        (lambda: samplers.JsonSchema('{"type": "object"}'), "any object"),
        (lambda: samplers.JsonSchema('{"type": "array"}'), "any list"),
        (lambda: samplers.JsonSchema('{"type": "object", "properties": {"a": {}}}'), "schema, a allows anything"),
        (lambda: samplers.JsonSchema('{"enum": []}'), "enum is empty"),
        (lambda: samplers.JsonSchema('{"type": "string", "minLength": -1}'), "minLength must be"),
        (lambda: samplers.JsonSchema('{"type": "string", "minLength": 100000000}'), "minLength must be"),
        (lambda: samplers.JsonSchema('{"type": "integer", "minimum": 3}'), "minimum cannot be held to"),
        (lambda: samplers.JsonSchema('{"type": "object", "properties": {"c": {"$ref": "#"}}}'), "refers to itself"),
        (lambda: samplers.JsonSchema('{"$ref": "#/$defs/x"}'), "leads nowhere"),
        (lambda: samplers.JsonSchema("{"), "is no JSON"),
        (lambda: samplers.JsonSchema("[]"), "must be an object"),
        (lambda: samplers.JsonSchema('{"type": "nothing"}'), "cannot be used"),
    ],
)
def test_constraints_that_are_none(make: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        dlm.generate(TINY, ["x"], sampler=samplers.threshold(constraint=make()), max_new_tokens=8)


def test_what_patterns_and_schemas_mean() -> None:
    def text(constraint: Any) -> str:
        sampler = samplers.topk(tokens_per_step=4, temperature=1.0, constraint=constraint)
        return dlm.generate(TINY, ["47+85="], sampler=sampler, max_new_tokens=24)[0].text

    assert re.fullmatch(r"[ab]{3}\$", text(samplers.Regex(r"^[ab]{3}\$$")))
    assert re.fullmatch(r"\[[)(\]]{2}", text(samplers.Regex(r"\[[)(\]]{2}")))
    date = samplers.JsonSchema('{"type": "string", "format": "date"}')
    assert re.fullmatch(r'"[0-9]{4}-[0-9]{2}-[0-9]{2}"', text(date))
    refers = {"$defs": {"n": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/n"}, "maxItems": 3}
    assert all(isinstance(n, int) for n in json.loads(text(samplers.JsonSchema(json.dumps(refers)))))


def test_a_pattern_with_too_many_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samplers.constraints.language.MOST", 10)
    with pytest.raises(SettingsError, match="states, more than 10: bound it"):
        language("a{50}", SPELLING, (0,), 7)
    with pytest.raises(SettingsError, match="spell no text that matches"):
        language("z", SPELLING, (0,), 7)


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """``constraint.json_schema`` takes a file or the schema itself, ``constraint.regex`` a pattern."""
    path = tmp_path / "schema.json"
    path.write_text(SCHEMA)
    for schema in (str(path), f"'{SCHEMA}'"):
        assert (
            main(["generate", "prompt=x", f"constraint.json_schema={schema}", "max_new_tokens=24", "format=json"]) == 0
        )
        assert isinstance(json.loads(json.loads(capsys.readouterr().out)["text"])["old"], bool)
    assert main(["generate", "prompt=x", "constraint.regex='[ab]{3}'", "max_new_tokens=8", "format=json"]) == 0
    assert re.fullmatch("[ab]{3}", json.loads(capsys.readouterr().out)["text"])
    path.write_bytes(b"\xef\xbb\xbf" + SCHEMA.encode())
    assert main(["generate", "prompt=x", f"constraint.json_schema={path}", "max_new_tokens=24", "format=json"]) == 0
    path.write_bytes(b"\xff\x00")
    assert main(["generate", "prompt=x", f"constraint.json_schema={path}"]) == 2
    secret = 'constraint.json_schema=\'{"enum": ["${oc.env:HOME}"]}\''
    assert main(["generate", "prompt=x", secret, "max_new_tokens=24", "format=json"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert json.loads(json.loads(shown[-1])["text"]) == "${oc.env:HOME}"
    assert main(["generate", "prompt=x", "+constraint.regex='[ab]{3}'", "max_new_tokens=8", "format=json"]) == 0
    assert re.fullmatch("[ab]{3}", json.loads(capsys.readouterr().out)["text"])
    assert main(["generate", "prompt=x", "constraint.regex=a", "constraint.json_schema={}"]) == 2
    assert "give one constraint" in capsys.readouterr().err
    for wrong, told in (
        ("json_schema=nowhere.json", "is no file"),
        ("schema=x", "json_schema"),
        ("regex=", "an empty"),
    ):
        assert main(["generate", "prompt=x", f"constraint.{wrong}", "max_new_tokens=8"]) == 2
        assert told in capsys.readouterr().err
    plain, same = (dlm.compose([*more]).config["sampler"] for more in ([], ["sampler.constraint=null"]))
    assert plain == same


def test_a_canvas_that_no_answer_fits() -> None:
    sampler = samplers.threshold(constraint=samplers.JsonSchema(SCHEMA))
    with pytest.raises(PromptError, match=r"fits 4 positions; the shortest takes \d\d: set max_new_tokens"):
        dlm.generate(TINY, ["x"], sampler=sampler, max_new_tokens=4)
    with pytest.raises(SettingsError, match="rows that do not grow"):
        samplers.threshold(blocks=samplers.GrowingBlocks(), constraint=samplers.Regex("a"))


def test_the_texts_of_tokens() -> None:
    """Byte-level names, whole characters in several tokens, and pieces."""
    spelled = Spelling(TINY.tokenizer, TINY.description.vocab_size)
    for text in ("47+85=", "Zoé ✓", '{"a": 1}\n'):
        ids = TINY.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert b"".join(spelled.of[i] for i in ids).strip() == text.encode().strip()
    pieces = Letters()
    pieces.backend_tokenizer = SimpleNamespace(decoder="Sequence(Metaspace())")
    pieces.convert_ids_to_tokens = lambda ids: ["<s>", "</s>", "\u2581of", "<0x0A>", "x", "y", "z"]  # type: ignore[method-assign]
    assert Spelling(pieces, 7).of == [b"", b"", b" of", b"\n", b"x", b"y", b"z"]
    pieces.backend_tokenizer = SimpleNamespace(decoder="WordPiece()")
    with pytest.raises(SettingsError, match="neither byte-level"):
        Spelling(pieces, 7)
