"""lm-evaluation-harness: one process and two, a crash with its cache, stop strings, chat turns, bad input; counters
that outlive its cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import samplers
from dlm.engine.stops import Stops
from dlm.errors import PromptError, SettingsError
from dlm.evaluation.harness import HarnessModel, evaluate
from dlm.evaluation.harness.requests import Wish, numbered, stops
from tests.evaluation.harness_doubles import DOCUMENTS, TINY, local_tasks, scripted

STRICT, FLEXIBLE = "exact_match,strict-match", "exact_match,flexible-extract"


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return local_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(autouse=True)
def _no_list_of_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness asks pip and git about the machine after every run, which takes longer than these runs."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)


def scores(model: HarnessModel, tasks: Any, **settings: Any) -> dict[str, Any]:
    settings = {"num_fewshot": 2, "bootstrap_iters": 0, **settings}
    results = evaluate(model, ["gsm8k"], task_manager=tasks, **settings)
    assert results is not None
    return {k: v for k, v in results["results"]["gsm8k"].items() if "stderr" not in k}


def asking(text: str, doc: int = 0, repeats: int = 1, idx: int = 0, **settings: Any) -> Any:
    """A request as the harness makes it."""
    return SimpleNamespace(args=(text, settings), task_name="t", doc_id=doc, repeats=repeats, idx=idx)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in path.parent.glob(f"{path.stem}*.jsonl") for line in file.open()]


def test_right_answers_score_one_and_every_answer_has_its_counters(tasks: Any, tmp_path: Path) -> None:
    model = scripted(samples=tmp_path / "s.jsonl", sampler=samplers.topk(tokens_per_step=4))
    found = scores(model, tasks)
    assert (found[STRICT], found[FLEXIBLE], found["sample_len"]) == (1.0, 1.0, 7)
    written = lines(tmp_path / "s.jsonl")
    assert sorted(line["doc_id"] for line in written) == list(range(7))
    assert found["forwards,dlm"] == 12 == 48 / 4
    assert {line["forwards"] for line in written} == {12}
    for line in written:
        assert line["output_text"] == " " + DOCUMENTS[line["doc_id"]]["answer"]
        assert line["tokens"] == len(TINY.encode(line["output_text"])) == line["generated"]
        assert line["content_forwards"] == max(line["commit_step"][: line["tokens"]]) + 1
    mean = sum(line["tokens"] / line["content_forwards"] for line in written) / 7
    assert found["tokens_per_forward,dlm"] == pytest.approx(mean)


def test_the_harness_does_not_apply_stop_strings_so_we_do(tasks: Any) -> None:
    junk = {d["question"]: f" {d['answer']}\n\nQuestion: 1\nAnswer: 2\n#### 99" for d in DOCUMENTS}
    plain, model = scripted(max_new_tokens=96), scripted(junk, max_new_tokens=96)
    found, clean = scores(model, tasks), scores(plain, tasks)
    assert found[STRICT] == found[FLEXIBLE] == 1.0
    # What stands behind the stop string is no answer, so it counts for nothing: but for the blank line before it.
    assert clean["tokens,dlm"] < found["tokens,dlm"] <= clean["tokens,dlm"] + 2


def test_few_shot_as_a_chat_of_several_turns(tasks: Any) -> None:
    model = scripted()
    found = scores(model, tasks, apply_chat_template=True, fewshot_as_multiturn=True, num_fewshot=3)
    assert found[STRICT] == 1.0
    prompts = model.model.backbone.prompts  # type: ignore[attr-defined]
    assert len(prompts) == 7
    assert all(p.count("<|user|>") == 4 and p.count("<|assistant|>") == 4 for p in prompts)
    assert all(p.endswith("<|assistant|>") for p in prompts)
    single = scripted()
    scores(single, tasks, apply_chat_template=True, fewshot_as_multiturn=False, num_fewshot=3)
    assert {p.count("<|user|>") for p in single.model.backbone.prompts} == {1}  # type: ignore[attr-defined]


def test_a_prefix_of_the_answer_goes_on_without_a_generation_prompt() -> None:
    model = scripted()
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Here is"}]
    assert model.apply_chat_template(chat, add_generation_prompt=False).endswith("<|assistant|>Here is")
    assert model.apply_chat_template(chat[:1]).endswith("<|user|>Hello<|assistant|>")
    assert model.chat_template(True) == TINY.tokenizer.chat_template  # type: ignore[union-attr]
    assert model.tokenizer_name.startswith("scripted-")
    with pytest.raises(SettingsError, match="no chat template 'other'"):
        model.chat_template("other")


def test_after_a_crash_only_what_is_missing_is_decoded(tasks: Any, tmp_path: Path) -> None:
    settings = {"use_cache": str(tmp_path / "cache"), "limit": 6}
    one_step = {"batch_size": 1, "samples": tmp_path / "s.jsonl", "sampler": samplers.topk(tokens_per_step=8)}
    with pytest.raises(RuntimeError, match="power"):
        scores(scripted(fails_after=3 * 6 + 2, **one_step), tasks, **settings)
    assert len(lines(tmp_path / "s.jsonl")) == 3
    again = scripted(**one_step)
    found = scores(again, tasks, **settings)
    assert len(again.model.backbone.prompts) == 3  # type: ignore[attr-defined]
    assert len(lines(tmp_path / "s.jsonl")) == 6
    idle = scripted(fails_after=0, **one_step)
    assert scores(idle, tasks, **settings) == found == scores(scripted(**one_step | {"samples": None}), tasks, limit=6)
    assert found["forwards,dlm"] == 6
    assert "uncounted,dlm" not in found


def test_a_cached_answer_without_counters_is_named(tasks: Any, tmp_path: Path) -> None:
    settings = {"use_cache": str(tmp_path / "cache"), "limit": 2}
    scores(scripted(), tasks, **settings)
    found = scores(scripted(), tasks, **settings)
    assert found["uncounted,dlm"] == 2
    assert "forwards,dlm" not in found


@pytest.mark.parametrize(
    "other", [{"sampler": samplers.threshold(0.8)}, {"seed": 1}, {"max_new_tokens": 40}, {"drafter": "freedave"}]
)
def test_two_configurations_share_no_cached_answer(tasks: Any, tmp_path: Path, other: dict[str, Any]) -> None:
    settings = {"use_cache": str(tmp_path / "cache"), "limit": 2}
    scores(scripted(), tasks, **settings)
    assert scripted().digest == scripted(batch_size=1).digest != scripted(**other).digest
    if "drafter" in other:
        return
    model = scripted(**other)
    scores(model, tasks, **settings)
    assert len(model.model.backbone.prompts) == 2  # type: ignore[attr-defined]


@pytest.mark.slow
def test_two_processes_share_the_documents_and_agree_with_one(tasks: Any, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launcher, "-m", "tests.evaluation.harness_process", str(tmp_path)]
    settings = {"cwd": Path(__file__).parents[2], "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, **settings)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr[-4000:]
    assert [(tmp_path / f"world{rank}").read_text() for rank in (0, 1)] == ["2", "2"]
    assert [(tmp_path / f"left{rank}").read_text() for rank in (0, 1)] == ["True", "True"]
    shared = json.loads((tmp_path / "results.json").read_text())
    alone = scores(scripted(sampler=samplers.topk(tokens_per_step=4)), tasks)
    assert {k: shared[k] for k in alone} == pytest.approx(alone)
    written = lines(tmp_path / "samples.jsonl")
    assert sorted((line["doc_id"], line["rank"]) for line in written) == [(i, i % 2) for i in range(7)]


def test_answers_do_not_depend_on_the_batch_or_on_what_else_is_asked() -> None:
    prompts = [f"Reverse the list: [{names}]" for names in ('"Anna", "Bob"', '"Cleo", "Dan", "Eva"', '"Finn"')]

    def answers(asked: list[Any], **settings: Any) -> list[str]:
        model = HarnessModel(TINY, sampler=samplers.random(tokens_per_step=2), max_new_tokens=24, **settings)
        return model.generate_until(asked)

    drawing = {"do_sample": True, "temperature": 1.5, "repeats": 2}
    asked = [asking(p, i, **drawing) for i, p in enumerate(prompts) for _ in range(2)]
    asked += [asking(p, 3 + i, max_gen_toks=16) for i, p in enumerate(prompts)]
    whole = answers(asked, batch_size=8)
    assert answers(asked, batch_size=1) == whole
    assert answers(asked[2:4], batch_size=2) == whole[2:4]
    assert answers(asked[8:], batch_size=2) == whole[8:]
    assert answers([*asked, asked[-1], asked[-1]]) == [*whole, whole[-1], whole[-1]]
    assert whole[0] != whole[1]
    assert answers(asked, seed=1) != whole


def test_repetitions_are_numbered_and_copies_that_fill_a_rank_are_not() -> None:
    drawing = asking("a", do_sample=True, repeats=2)
    keys = [one.key for one in numbered([drawing] * 5, "digest")]
    assert [repeat for _, repeat in keys] == [0, 1, 0, 1, 0]
    greedy = asking("a", repeats=2)
    assert {one.key[1] for one in numbered([greedy] * 4, "digest")} == {0}
    assert numbered([greedy], "digest")[0].key != numbered([greedy], "other")[0].key


def test_repetitions_that_draw_are_all_counted(tmp_path: Path) -> None:
    tasks = local_tasks(tmp_path / "tasks", "repeats: 3\ngeneration_kwargs:\n  do_sample: true\n  until: [Q]\n")
    model = scripted(samples=tmp_path / "s.jsonl")
    found = scores(model, tasks, limit=2)
    written = lines(tmp_path / "s.jsonl")
    assert sorted((line["doc_id"], line["repeat"]) for line in written) == [(d, r) for d in (0, 1) for r in (0, 1, 2)]
    assert found["forwards,dlm"] == pytest.approx(sum(line["forwards"] for line in written) / 6)
    assert "uncounted,dlm" not in found


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Wish(9)),
        ({"until": ["Q", ""]}, Wish(9, stop=("Q",))),
        ({"until": "Q", "do_sample": False}, Wish(9, 0.0, stop=("Q",))),
        ({"max_tokens": 3, "max_new_tokens": 4}, Wish(4)),
        ({"max_completion_tokens": 3, "max_gen_toks": "5", "max_tokens": 2}, Wish(5)),
        ({"do_sample": False, "temperature": 0.7}, Wish(9, 0.0)),
        ({"temperature": 0.0}, Wish(9, 0.0)),
        ({"temperature": 0.7, "top_p": 0.9, "top_k": -1}, Wish(9, 0.7, 0.9)),
        ({"do_sample": True}, Wish(9, 1.0)),
        ({"do_sample": True, "temperature": "0.5", "top_k": 20, "top_p": 1.0}, Wish(9, 0.5, None, 20)),
    ],
)
def test_settings_of_a_request(settings: dict[str, Any], expected: Wish) -> None:
    assert Wish.of(settings, 9, samplers.threshold(0.9)) == expected


def test_a_request_for_greedy_decoding_overrules_the_sampler_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    warm = samplers.threshold(0.9, temperature=0.25)
    wish = Wish.of({"do_sample": False}, 9, warm)
    assert wish.sampler(warm) == samplers.threshold(0.9)
    assert "sampler.temperature=0.25 is not used" in caplog.text
    assert Wish.of({}, 9, warm).sampler(warm) == warm
    assert Wish.of({"do_sample": True}, 9, warm).temperature == 0.25


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ([], "ab\n\ncd"),
        ("", "ab\n\ncd"),
        (["", "c"], "ab\n\n"),
        ("\n\n", "ab"),
        (["d", "b", "x"], "a"),
        (None, "ab\n\ncd"),
    ],
)
def test_the_earliest_stop_string_cuts(until: Any, expected: str) -> None:
    found = Stops.of(TINY, stops({"until": until}))
    assert (found.text(TINY.encode("ab\n\ncd")) if found else "ab\n\ncd") == expected


def test_a_stop_string_ends_decoding_and_the_answers_stay_what_they_were() -> None:
    told = {"Q": "1\n\nQuestion: 2", "R": "12 + 3\n", "S": "7" * 60}
    asked = [asking(text, number, until=["Question:", "\n\n"]) for number, text in enumerate(told)]
    early, whole = (
        scripted(told, sampler=samplers.topk(blocks=samplers.Fixed(8)), stop_early=e) for e in (True, False)
    )
    assert early.generate_until(asked) == whole.generate_until(asked) == ["1", "12 + 3\n", "7" * 48]
    assert early.digest != whole.digest
    taken = {model: [model.answers.known[key] for key in model.answers.known] for model in (early, whole)}
    assert sorted(one.forwards for one in taken[early]) == [8, 48, 48]
    assert {one.forwards for one in taken[whole]} == {48}
    assert sorted(one.tokens for one in taken[early]) == sorted(one.tokens for one in taken[whole])


def test_a_stop_string_that_is_a_special_token_cuts_though_texts_leave_it_out() -> None:
    model = scripted({"Q": "one<|user|>two"})
    assert model.generate_until([asking("Q")]) == ["onetwo"]
    assert scripted({"Q": "one<|user|>two"}).generate_until([asking("Q", until=["<|user|>"])]) == ["one"]


def test_model_args_as_text() -> None:
    text = "pretrained=tiny,sampler=topk,sampler.tokens_per_step=2,max_new_tokens=16,likelihood.mc_num=4"
    model = HarnessModel.create_from_arg_string(text, {"batch_size": "3", "device": "cuda:0", "max_batch_size": None})
    assert (model.batch_size, model.max_new_tokens, model.likelihood.mc_num) == (3, 16, 4)
    same = HarnessModel(TINY, sampler=samplers.topk(tokens_per_step=2), max_new_tokens=16, likelihood=model.likelihood)
    assert same.digest == model.digest
    assert HarnessModel.create_from_arg_obj({"path": "tiny", "batch_size": 2}).batch_size == 2


def test_the_harness_finds_the_class_by_its_name(tasks: Any) -> None:
    import lm_eval

    results = lm_eval.simple_evaluate(
        model="dlm", model_args="pretrained=tiny,max_new_tokens=8", tasks=["gsm8k"], task_manager=tasks,
        num_fewshot=0, limit=2, batch_size="2", device="cuda:0", bootstrap_iters=0,
    )  # fmt: skip
    assert results["results"]["gsm8k"]["sample_len"] == 2
    assert results["config"]["model"] == "dlm"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one model"),
        ({"pretrained": "tiny", "path": "tiny"}, "one model"),
        ({"pretrained": "tiny", "batch_size": "auto"}, "batch_size"),
        ({"pretrained": "tiny", "sampler.treshold": 0.5}, "treshold"),
        ({"pretrained": "/nowhere/at/all"}, "nowhere"),
        ({"pretrained": "tiny", "likelihood.mc_num": 0}, "mc_num"),
    ],
)
def test_bad_model_args_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        HarnessModel.create_from_arg_obj(arguments)
    assert type(caught.value).__module__ == "dlm.errors"


def test_bad_requests_are_refused_before_anything_is_decoded(tmp_path: Path) -> None:
    model = scripted(samples=tmp_path / "s.jsonl", fails_after=0)
    for text, message in (("", "prompt is empty"), ("a" * 5000, "num_fewshot")):
        with pytest.raises(PromptError, match=f"t, document 4.*{message}"):
            model.generate_until([asking("fine"), asking(text, 4)])
    with pytest.raises(SettingsError, match="at least 1"):
        model.generate_until([asking("fine", max_gen_toks=0)])
    with pytest.raises(SettingsError, match="is a folder"):
        scripted(samples=tmp_path)
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n{"b": 2}\n')
    with pytest.raises(SettingsError, match=r"other\.jsonl, line 1"):
        scripted(samples=tmp_path / "other.jsonl")


def test_a_torn_last_line_is_cut_off_and_its_request_decoded_again(tmp_path: Path) -> None:
    path = tmp_path / "s.jsonl"
    asked = [asking("Q", 0), asking("R", 1)]
    scripted({"Q": "one", "R": "two"}, samples=path).generate_until(asked)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    model = scripted({"Q": "one", "R": "two"}, samples=path)
    assert len(model.answers.known) == 1
    model.generate_until(asked)
    assert sorted(line["output_text"] for line in lines(path)) == ["one", "two"]
