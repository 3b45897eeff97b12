"""One point: what is asked, what is kept, what happens to questions that go wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dlm.errors import DlmError, SettingsError
from dlm.evaluation.asking import slots
from dlm.evaluation.identity import Questions, fingerprint, instance_key
from dlm.evaluation.runner import Models, prepare, progress_of
from dlm.evaluation.sample import Sample
from dlm.evaluation.session import run_point
from dlm.evaluation.store import read_samples
from dlm.tasks import Instance, Verdict
from dlm.tasks.base import Template
from tests.evaluation.runs import Faulty, Held, go, lines, ready, tiny


class Echo:
    """A task of two questions, one of them drawn over and over; its judge can be made to do anything."""

    name, canvas, size, identity = "test/echo", 8, None, {"version": 1}

    def __init__(self, judge: Any = None) -> None:
        self._judge = judge or (lambda instance, output: Verdict(1.0))

    def instance(self, index: int) -> Instance:
        return Instance("same", self.name, f"{index}+2=", "x", {})

    def judge(self, instance: Instance, output: str) -> Verdict:
        verdict: Verdict = self._judge(instance, output)
        return verdict


def with_judge(monkeypatch: pytest.MonkeyPatch, judge: Any, out: Path, *overrides: str) -> Any:
    """A small point whose answers are judged by something else."""
    point = ready(out, *overrides)
    held = point.questions.first(point.wanted.limit)
    questions = Questions(Echo(judge))  # type: ignore[arg-type]
    monkeypatch.setattr(questions, "first", lambda n: held)
    object.__setattr__(point, "questions", questions)
    return point


def test_a_line_holds_what_the_decoder_says(tmp_path: Path) -> None:
    import dlm
    import samplers

    outcome = go(tmp_path, "sampler=topk", "sampler.tokens_per_step=4", "seed=3")
    assert (outcome.asked, outcome.answers, outcome.decoded, outcome.failures) == (6, 6, 6, 0)
    samples = sorted(read_samples(outcome.folder), key=lambda s: s.index)
    point = ready(tmp_path)
    chats = [instance.messages for instance in point.instances()]
    answers = dlm.generate(tiny(), chats, sampler=samplers.topk(tokens_per_step=4), max_new_tokens=point.canvas)
    for sample, answer, instance in zip(samples, answers, point.instances(), strict=True):
        assert (sample.instance_id, sample.seed, sample.target) == (instance.instance_id, 3, instance.target)
        assert (sample.output_text, sample.output_ids) == (answer.text, answer.tokens)
        assert sample.commit_step == answer.commit_step
        assert (sample.forwards, sample.tokens) == (answer.counts.forwards, answer.counts.tokens)
        assert sample.tokens / sample.content_forwards == pytest.approx(answer.counts.tokens_per_forward)
        assert sample.canvas / sample.forwards == answer.counts.canvas_tokens_per_forward
        assert sample.confidence == pytest.approx(answer.confidence, abs=6e-5)
        assert 0 < sample.seconds_model < sample.seconds
        assert sample.score == point.questions.task.judge(instance, answer.text).score
    metrics = json.loads((outcome.folder / "metrics.json").read_text())
    assert metrics["n"] == 6 and metrics["forwards"] == samples[0].forwards
    manifest = json.loads((outcome.folder / "manifest.json").read_text())
    assert manifest["status"] == "done" and manifest["form"] == "chat" and manifest["dtype"] == "float32"


def test_a_finished_point_loads_nothing_and_a_raised_limit_asks_the_new_questions(tmp_path: Path) -> None:
    first = go(tmp_path)
    models = Held(tiny())
    again = run_point(ready(tmp_path), models, quiet=True)
    assert (again.decoded, again.answers, models.asked) == (0, 6, 0)
    assert again.figures == first.figures
    assert progress_of(ready(tmp_path, "task.limit=9")) == (9, 6)
    before = (first.folder / "samples.jsonl").read_bytes()
    more = go(tmp_path, "task.limit=9")
    assert (more.decoded, more.answers) == (3, 9)
    assert (first.folder / "samples.jsonl").read_bytes().startswith(before)
    assert len(json.loads((first.folder / "manifest.json").read_text())["sessions"]) == 2


def test_answers_do_not_depend_on_batch_limit_or_other_seeds(tmp_path: Path) -> None:
    noisy = ("sampler.temperature=1.0", "sampler.threshold=0.6", "task=waiting_line/shuffle")
    together = go(tmp_path / "a", *noisy, "seeds=[0,1]", "batch_size=8")
    alone = go(tmp_path / "b", *noisy, "seed=1", "batch_size=1")
    of_both, of_one = lines(together.folder), lines(alone.folder)
    assert [line for line in of_both if line["seed"] == 1] == of_one
    texts = [[line["output_text"] for line in of_both if line["seed"] == seed] for seed in (0, 1)]
    assert texts[0] != texts[1]
    assert together.point.hash == alone.point.hash
    assert together.figures["n"] == 12 and together.figures["questions"] == 6


def test_to_overwrite_is_to_begin_again(tmp_path: Path) -> None:
    folder = go(tmp_path, "task.limit=3").folder
    again = go(tmp_path, "task.limit=3", "overwrite=true")
    assert again.decoded == 3 and len(lines(folder)) == 3
    assert len(json.loads((folder / "manifest.json").read_text())["sessions"]) == 1


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ("nan", "NumericsError", "question 2: the model's logits are NaN"),
        ("memory", "OutOfMemoryError", "question 2 alone .* does not fit into memory"),
        ("crash", "ZeroDivisionError", "a bug in the model"),
    ],
)
@pytest.mark.filterwarnings("ignore:out of memory")
def test_one_bad_question_is_a_failure_and_the_others_go_on(tmp_path: Path, fault: str, kind: str, says: str) -> None:
    clean = go(tmp_path / "clean")
    point = ready(tmp_path / "bad", "retries=1")
    chats = [set(tiny().encode_chat(instance.messages)) for instance in point.instances()]
    mark = next(iter(chats[2].difference(*chats[:2], *chats[3:])))
    model = Faulty(mark, fault)
    outcome = run_point(point, Held(model), quiet=True)
    assert (outcome.answers, outcome.failures, outcome.given_up) == (5, 1, 0)
    assert lines(outcome.folder) == [line for line in lines(clean.folder) if line["index"] != 2]
    (failure,) = [json.loads(line) for line in (outcome.folder / "failures.jsonl").read_text().splitlines()]
    assert (failure["index"], failure["kind"], failure["attempt"]) == (2, kind, 1)
    assert re.search(says, failure["message"])
    assert json.loads((outcome.folder / "manifest.json").read_text())["status"] == "incomplete"
    again = run_point(point, Held(model), quiet=True)
    assert (again.decoded, again.failures) == (0, 1)
    model.broken = False
    third = run_point(point, Held(model), quiet=True)  # two attempts are all that retries=1 allows
    assert (third.decoded, third.failures, third.given_up) == (0, 1, 1)
    mended = run_point(ready(tmp_path / "bad", "retries=2"), Held(model), quiet=True)
    assert (mended.decoded, mended.failures, mended.given_up) == (1, 0, 0)
    assert lines(mended.folder) == lines(clean.folder)
    assert next(s for s in read_samples(mended.folder) if s.index == 2).attempt == 3


@pytest.mark.parametrize("batch_size", [1, 4])
def test_an_error_that_no_question_survives_ends_the_run(tmp_path: Path, batch_size: int) -> None:
    point = ready(tmp_path, f"batch_size={batch_size}")
    common = set.intersection(*(set(tiny().encode_chat(i.messages)) for i in point.instances()))
    with pytest.raises(DlmError, match="decoding fails on every question: ZeroDivisionError: a bug in the model"):
        run_point(point, Held(Faulty(next(iter(common)), "crash")), quiet=True)
    assert not (point.folder / "failures.jsonl").exists()
    assert json.loads((point.folder / "manifest.json").read_text())["status"] == "incomplete"
    assert go(tmp_path).failures == 0


def test_a_full_disk_ends_the_run_also_when_a_failure_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlm.errors import StorageError
    from dlm.evaluation.store import Store

    point = ready(tmp_path)
    common = set.intersection(*(set(tiny().encode_chat(i.messages)) for i in point.instances()))

    def full(self: Store, failure: Any) -> None:
        raise StorageError("no room")

    monkeypatch.setattr(Store, "fail", full)
    with pytest.raises(StorageError, match="no room"):
        run_point(point, Held(Faulty(next(iter(common)), "nan")), quiet=True)
    monkeypatch.undo()
    assert go(tmp_path).answers == 6


def test_answers_that_a_slow_judge_has_are_kept_when_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlm.evaluation import session

    def ends(*rest: Any) -> Any:
        yield next(real(*rest))[:2]
        raise DlmError("no more")

    real = session.decoded
    monkeypatch.setattr(session, "decoded", ends)
    point = with_judge(monkeypatch, lambda instance, output: Verdict(1.0), tmp_path)
    point.questions.task.parallel = 2
    with pytest.raises(DlmError, match="no more"):
        run_point(point, Held(tiny()), quiet=True)
    assert len(list(read_samples(point.folder))) == 2


def test_a_run_killed_before_its_last_words_is_done_by_the_next(tmp_path: Path) -> None:
    folder = go(tmp_path).folder
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    (folder / "metrics.json").unlink()
    assert go(tmp_path).decoded == 0
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    assert json.loads((folder / "metrics.json").read_text())["n"] == 6


def test_a_prompt_that_does_not_fit_is_a_failure(tmp_path: Path) -> None:
    from dataclasses import replace

    lengths = [len(tiny().encode_chat(instance.messages)) for instance in ready(tmp_path).instances()]
    model = Faulty(-1, "")
    model.description = replace(tiny().description, context_length=max(lengths) - 1 + 32)
    outcome = go(tmp_path, model=model)
    found = [json.loads(line) for line in (outcome.folder / "failures.jsonl").read_text().splitlines()]
    assert [failure["index"] for failure in found] == [i for i, n in enumerate(lengths) if n == max(lengths)]
    assert all(failure["kind"] == "PromptError" for failure in found)
    assert found[0]["message"].startswith(f"question {found[0]['index']} has {max(lengths)} tokens")
    assert outcome.answers == 6 - len(found)


def test_a_canvas_that_is_too_short_is_said(tmp_path: Path) -> None:
    (note,) = go(tmp_path, "max_new_tokens=4", "task.limit=2").notes
    longest = max(len(tiny().encode(instance.target)) for instance in ready(tmp_path, "task.limit=2").instances())
    assert f"right answers have up to {longest} tokens, and only 4 positions are filled" in note
    assert go(tmp_path, "task.limit=2").notes == ()


def test_a_row_without_end_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlm.engine.row.MAX_FORWARDS_PER_POSITION", 0)
    outcome = go(tmp_path, "task.limit=2", "sampler=topk", "sampler.tokens_per_step=8")
    found = [json.loads(line) for line in (outcome.folder / "failures.jsonl").read_text().splitlines()]
    assert [failure["kind"] for failure in found] == ["ProgressError"] * 2
    assert outcome.figures == {"n": 0, "asked": 2, "failures": 2, "given_up": 0}


@pytest.mark.parametrize(
    "verdict",
    [ValueError("odd answer"), Verdict(float("nan")), Verdict(2.0), Verdict(1.0, parsed={1, 2}), None,
     Verdict(0.5, parts={"a": float("inf")}), Verdict(1.0, parsed="\ud800")],
)  # fmt: skip
def test_a_scorer_that_raises_or_says_nonsense_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: Any
) -> None:
    def judge(instance: Instance, output: str) -> Any:
        if instance.prompt != spoilt:
            return Verdict(0.25)
        if isinstance(verdict, Exception):
            raise verdict
        return verdict

    spoilt = ready(tmp_path).instances()[1].prompt
    outcome = run_point(with_judge(monkeypatch, judge, tmp_path), Held(tiny()), quiet=True)
    assert (outcome.answers, outcome.failures) == (5, 1)
    assert outcome.figures["accuracy"] == 0.25
    (failure,) = [json.loads(line) for line in (outcome.folder / "failures.jsonl").read_text().splitlines()]
    assert (failure["kind"], failure["index"]) == ("scorer", 1)
    whole = go(tmp_path / "whole")
    assert failure["output_text"] == next(s.output_text for s in read_samples(whole.folder) if s.index == 1)


def test_answers_of_any_length_are_kept_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlm.evaluation.asking import Asker

    long = '"], [\u2028' * 20_000
    monkeypatch.setattr(Asker, "text", lambda self, row: long)
    outcome = go(tmp_path, "task.limit=2")
    assert [s.output_text for s in read_samples(outcome.folder)] == [long, long]
    assert outcome.figures["accuracy"] == 0.0
    assert go(tmp_path, "task.limit=2").decoded == 0


def test_slow_judges_work_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    meeting = threading.Barrier(3, timeout=20)

    def judge(instance: Instance, output: str) -> Verdict:
        meeting.wait()  # passes only if three of them are here at once
        return Verdict(1.0)

    point = with_judge(monkeypatch, judge, tmp_path)
    point.questions.task.parallel = 3
    outcome = run_point(point, Held(tiny()), quiet=True)
    assert (outcome.answers, outcome.failures) == (6, 0)


def test_a_question_drawn_twice_has_an_id_and_noise_of_its_own() -> None:
    questions = Questions(Echo())  # type: ignore[arg-type]
    assert [i.instance_id for i in questions.first(3)] == ["same", "same-2", "same-3"]
    assert [i.instance_id for i in questions.first(2)] == ["same", "same-2"]
    keys = {instance_key(seed, name) for seed in (0, 1) for name in ("same", "same-2")}
    assert len(keys) == 4 and all(-(1 << 63) <= key < 1 << 63 for key in keys)


def test_an_infill_writes_into_the_slots_alone(tmp_path: Path) -> None:
    outcome = go(tmp_path, "task.form=infill", "sampler=topk", "sampler.tokens_per_step=1")
    for sample, instance in zip(lines(outcome.folder), ready(tmp_path).instances(), strict=True):
        assert instance.template is not None
        filled, open_ = slots(tiny(), instance.template)
        assert sample["canvas"] == sample["forwards"] == len(open_) == len(instance.template.pieces) - 1
        assert [t for i, t in enumerate(sample["output_ids"]) if i not in open_] == [
            t for i, t in enumerate(filled) if i not in open_
        ]
        assert all((step >= 0) == (i in open_) for i, step in enumerate(sample["commit_step"]))
        assert sample["output_text"].startswith('["') and sample["output_text"].endswith('"]')


def test_a_slot_is_as_wide_as_its_longest_item() -> None:
    filled, open_ = slots(tiny(), Template(("[", ", ", "]"), ("Anna", "Anna Anna Anna")))
    width = len(tiny().encode("Anna Anna Anna"))
    assert width > 1 and len(open_) == 2 * width
    assert all((token == tiny().description.mask_id) == (place in open_) for place, token in enumerate(filled))


def test_a_plain_text_prompt_has_its_examples_in_front(tmp_path: Path) -> None:
    from dlm.evaluation.asking import plain_text

    instance = Instance("x", "a/b", "Q2", "A2", {}, shots=(("Q1", "A1"),))
    assert plain_text(Echo(), instance) == "Q1\nA1\n\nQ2\n"  # type: ignore[arg-type]
    outcome = go(tmp_path, "task.form=text", "task.limit=1")
    (sample,) = read_samples(outcome.folder)
    assert sample.prompt_tokens == len(tiny().encode(ready(tmp_path).instances()[0].prompt + "\n"))


def test_traces_are_written_beside_the_answers(tmp_path: Path) -> None:
    from dlm.trace import load_traces

    outcome = go(tmp_path, "record=[order,confidence]", "sampler=topk", "sampler.tokens_per_step=8")
    traces = {trace.about["instance_id"]: trace for trace in load_traces(outcome.folder / "traces.jsonl")}
    for sample in read_samples(outcome.folder):
        trace = traces[sample.instance_id]
        assert list(trace.replay())[-1][trace.start :] == sample.output_ids
        assert trace.about["seed"] == 0 and trace.steps[0].confidence
    assert go(tmp_path, "sampler=topk", "sampler.tokens_per_step=8").decoded == 0  # what is recorded changes no answer


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("task.limit=0", "task.limit must be a whole number of at least 1, got 0"),
        ("task.limit=null", "has no end: give task.limit=N"),
        ("task.limit=many", "task.limit must be"),
        ("task.form=loud", "task.form must be one of auto, chat, text, one_turn, infill, got 'loud'"),
        ("task=nothing/such", "unknown task 'nothing/such'; known are"),
        ("batch_size=0", "batch_size must be a whole number of at least 1"),
        ("retries=-1", "retries must be a whole number of at least 0"),
        ("seeds=[a]", "seeds is a list of whole numbers"),
        ("seeds=[]", "seeds is a list of whole numbers"),
        ("record=[everything]", "record: unknown everything"),
        ("overwrite=maybe", "overwrite must be true or false"),
        ("max_new_tokens=0", "max_new_tokens must be a whole number of at least 1"),
        ("sampler.threshold=7", "threshold"),
        ("task.such=1", "unknown setting 'task.such'"),
        ("model.dtype=int8", "unknown dtype"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tmp_path: Path, override: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says.replace("[", r"\[")):
        ready(tmp_path / "out", override)
    assert not (tmp_path / "out").exists()


def test_a_task_without_instances_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Echo()
    empty.size = 0  # type: ignore[assignment]
    monkeypatch.setattr("dlm.evaluation.runner._open", lambda node: Questions(empty))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="test/echo has no instances"):
        ready(tmp_path)


def test_a_changed_model_is_refused(tmp_path: Path) -> None:
    import shutil

    from dlm.models.checkpoint import TINY

    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    chosen = ("model=local", f"model.path={folder}", "task.limit=2")
    assert run_point(ready(tmp_path / "out", *chosen), Models(), quiet=True).decoded == 2
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(SettingsError, match=r"the files of model .* have changed since"):
        run_point(ready(tmp_path / "out", *chosen, "task.limit=3"), Models(), quiet=True)
    assert fingerprint({"_target_": "dlm.load", "name_or_path": "some/hub-model"}) is None


def test_the_files_of_an_adapter_and_its_base_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "tiny"}')
    tiny = {"_target_": "dlm.load", "name_or_path": "tiny"}
    alone = {"_target_": "dlm.load", "name_or_path": str(tmp_path)}
    before = fingerprint({**tiny, "adapter": str(tmp_path)})
    assert len({before, fingerprint(tiny), None}) == 3 and fingerprint(alone) == before
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1")
    assert fingerprint({**tiny, "adapter": str(tmp_path)}) == fingerprint(alone) != before
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/hub-model"}')
    assert fingerprint(alone) is None


def test_a_changed_model_of_the_hub_is_refused_once_it_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["one"]
    monkeypatch.setattr(
        "dlm.evaluation.session.fingerprint", lambda model, fetched=False: files[0] if fetched else None
    )
    assert go(tmp_path, "task.limit=2").decoded == 2
    assert go(tmp_path, "task.limit=3").decoded == 1
    files[0] = "two"
    with pytest.raises(SettingsError, match=r"the files of model .* have changed since"):
        go(tmp_path, "task.limit=4")


def test_the_model_is_loaded_once_for_all_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlm.configuration import Composed

    loads: list[int] = []
    monkeypatch.setattr(Composed, "load_model", lambda self: loads.append(1) or tiny())
    models = Models()
    for threshold in ("0.8", "0.9"):
        run_point(ready(tmp_path, f"sampler.threshold={threshold}", "task.limit=1"), models, quiet=True)
    assert len(loads) == 1
    run_point(ready(tmp_path, "model.dtype=float64", "task.limit=1"), models, quiet=True)
    assert len(loads) == 2


def test_what_changes_no_answer_is_no_part_of_the_identity(tmp_path: Path) -> None:
    base = ready(tmp_path).point
    for same in ("batch_size=7", "task.limit=99", "seed=5", "model.device=cpu", "max_new_tokens=32", "record=order",
                 "model.dtype=float32", "retries=9"):  # fmt: skip
        assert ready(tmp_path, same).point.hash == base.hash, same
    for other in ("sampler.threshold=0.8", "max_new_tokens=33", "task.form=chat", "cache=dual", "blocks.length=8",
                  "model.dtype=bfloat16", "model.quantize=int8", "model.adapter=somewhere", "task=waiting_line/sort",
                  "drafting=freedave"):  # fmt: skip
        assert ready(tmp_path, other).point.hash != base.hash, other
    assert not {"quantize", "adapter"} & base.identity["model"].keys()  # folders without them keep their names
    assert base.method == "threshold"
    assert ready(tmp_path, "cache=dual", "sampler=topk").point.method == "topk + dual"


def test_a_sample_of_a_later_version_can_be_read(tmp_path: Path) -> None:
    outcome = go(tmp_path, "task.limit=1")
    (values,) = [json.loads(line) for line in (outcome.folder / "samples.jsonl").read_text().splitlines()]
    assert Sample.from_dict({**values, "novelty": 1}).key == Sample.from_dict(values).key


def test_a_hydra_application_may_hand_its_configuration_over(tmp_path: Path) -> None:
    from dlm.configuration import Composer, compose_config

    config = Composer("eval")(["sampler=factor", "task.limit=3", f"out={tmp_path}"])
    assert prepare(config).point.hash == prepare(compose_config("eval", ["sampler=factor"], chosen=True)).point.hash
