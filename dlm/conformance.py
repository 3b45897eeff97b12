"""What every part of a decoder keeps to, tried on a part of anybody's: ``dlm check``, :func:`check`.

The laws: a row is decoded alone, whoever shares its batch; every row ends; the mask is no answer and the prompt stays;
the same seed gives the same answer; a memory has the rows first; caches and drafts fit or say why they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from dlm.api import Generation, Prompt, generate
from dlm.configuration import compose
from dlm.engine.canvas import Canvas, Job, SpecialIds
from dlm.engine.interfaces import (
    BlockSchedule,
    Budget,
    Cache,
    EarlyExit,
    LogitTransform,
    Part,
    Reviser,
    Score,
    ScoreModifier,
    Selector,
    Speculator,
    StopRule,
)
from dlm.engine.sampler import Sampler
from dlm.errors import DlmError, SettingsError
from dlm.models.language_model import LanguageModel
from dlm.overrides import choices
from dlm.tasks.base import Instance, Task
from dlm.tasks.registry import open_task

NEW = 16
_QUESTIONS = ("waiting_line/copy", "arithmetic/addition", "waiting_line/shuffle", "math/word_problem")
_MAY_REFUSE = ("cache=", "drafts ", "answers fit", "a row is alone, ")  # a part need not go with everything
# Where a part of each role goes in a sampler, and what it is tried in.
_ROLES: tuple[tuple[type, str, str], ...] = (
    (Score, "score", "topk"),
    (ScoreModifier, "modifiers", "threshold"),
    (BlockSchedule, "blocks", "threshold"),
    (Selector, "selector", "threshold"),
    (Budget, "budget", "topk"),
    (LogitTransform, "transforms", "threshold"),
    (EarlyExit, "exit", "threshold"),
    (StopRule, "stop", "threshold"),
    (Reviser, "reviser", "threshold"),
    (Speculator, "probe", "threshold"),
)


class Found(NamedTuple):
    """What a check found.

    Attributes:
        law: what must hold.
        verdict: ``holds``, ``broken``, or ``refused``: the part says itself that it is not for this.
        told: how it was tried, or what went wrong.
    """

    law: str
    verdict: str
    told: str


Law = Callable[[], str]


class Broken(Exception):  # noqa: N818 (what is broken is the law)
    """A law does not hold; says how."""


def check(part: Any, model: LanguageModel, prompts: Sequence[Prompt] | None = None) -> Iterator[Found]:
    """Hold a sampler, a part of one, a cache or a task against the laws; yields what was found, law by law.

    Args:
        part: a :class:`dlm.Sampler`, a part of any role (tried inside a preset), a cache policy, or a task.
        model: what it is tried on, best in float64: in lower precision a near-tie may break a law by rounding.
        prompts: distinct ones of unequal length; None: questions of packaged tasks.

    Raises:
        SettingsError: it is none of these, or has no place in a sampler.
    """
    if isinstance(part, Part | Speculator) and not isinstance(part, Sampler):
        part = around(part)
    if isinstance(part, Sampler | Cache):
        asked = list(prompts or questions(model))
        laws = _of_cache(part, model, asked) if isinstance(part, Cache) else _of_sampler(part, model, asked)
    elif hasattr(part, "instance") and hasattr(part, "judge"):
        laws = _of_task(part, model)
    else:
        raise SettingsError(f"{type(part).__name__} is no sampler, part of one, cache or task: nothing to check")
    for law, tried in laws:
        yield _found(law, tried)


def _found(law: str, tried: Law) -> Found:
    try:
        return Found(law, "holds", tried())
    except Broken as broken:
        return Found(law, "broken", str(broken))
    except SettingsError as refusal:
        return Found(law, "refused" if law.startswith(_MAY_REFUSE) else "broken", str(refusal))
    except Exception as error:  # whatever a part of anybody's raises
        said = (str(error).strip() or "no more is known").splitlines()[0]
        return Found(law, "broken", said if isinstance(error, DlmError) else f"{type(error).__name__}: {said}")


def around(part: Any) -> Sampler:
    """A sampler with this part in its place. Raises SettingsError: it has none, or does not go with the others."""
    for role, place, preset in _ROLES:
        if isinstance(part, role):
            words = [f"sampler={preset}", "blocks.length=8"] if place != "blocks" else [f"sampler={preset}"]
            base = compose(words).sampler
            if isinstance(part, Selector) and part.uses_budget:
                base = compose(["sampler=topk", "sampler.tokens_per_step=2", "blocks.length=8"]).sampler
            put: dict[str, Any] = {place: (part,) if place in ("modifiers", "transforms") else part}
            return replace(base, name=type(part).__name__, **put)
    raise SettingsError(f"{type(part).__name__} is a part of no role: extend a class of dlm.engine.interfaces")


def questions(model: LanguageModel) -> list[Prompt]:
    """Questions of four tasks, as chats where the model knows any; ids where it has no tokenizer."""
    if model.tokenizer is None:
        most = min(model.description.mask_id, model.description.valid_vocab)
        return [[(7 * i + j) % most for j in range(1 + 2 * i)] for i in range(5)]
    asked = [open_task(name).instance(i) for i in range(2) for name in _QUESTIONS][:5]
    chat = model.tokenizer.chat_template is not None
    return [[dict(message) for message in one.messages] if chat else one.prompt for one in asked]


def alike(one: Generation, other: Generation) -> bool:
    """Whether two answers are the same in tokens, steps, forwards and positions fed."""
    counted = all(getattr(one.counts, name) == getattr(other.counts, name) for name in ("forwards", "token_forwards"))
    return counted and one.tokens == other.tokens and one.commit_step == other.commit_step


def _runs(model: LanguageModel, prompts: Sequence[Prompt], sampler: Sampler, **how: Any) -> list[Generation]:
    return generate(model, list(prompts), sampler=sampler, **{"max_new_tokens": NEW, "seed": 3, "batch_size": 8, **how})


def rows_are_alone(
    model: LanguageModel, prompts: Sequence[Prompt], sampler: Sampler, sizes: Sequence[int] = (5, 2), **how: Any
) -> str:
    """Law 1: batches of these sizes give what single runs give. Raises :class:`Broken`."""
    alone = [_runs(model, [prompt], sampler, **how)[0] for prompt in prompts]
    for size in sizes:
        together = _runs(model, prompts, sampler, batch_size=size, **how)
        if odd := [i for i, pair in enumerate(zip(alone, together, strict=True)) if not alike(*pair)]:
            raise Broken(f"prompts {odd} are decoded otherwise in a batch of {size} than alone: decide each by itself")
    return f"{len(prompts)} prompts alone and in batches of {' and '.join(map(str, sizes))}"


def answers_are_whole(model: LanguageModel, prompts: Sequence[Prompt], sampler: Sampler, **how: Any) -> str:
    """Laws 3 and 4: rows end, full and without a mask. Raises :class:`Broken`."""
    runs = _runs(model, prompts, sampler, **how)
    for i, run in enumerate(runs):
        if model.description.mask_id in run.tokens:
            raise Broken(f"the answer to prompt {i} holds the mask")
        if run.stop == "filled" and min(run.commit_step) < 0:
            raise Broken(f"prompt {i}: a position was never committed")
    forwards = [run.counts.forwards for run in runs]
    return f"{min(forwards)} to {max(forwards)} forwards for {how.get('max_new_tokens', NEW)} positions"


def _of_sampler(sampler: Sampler, model: LanguageModel, prompts: list[Prompt]) -> Iterator[tuple[str, Law]]:
    warm = replace(sampler, proposer=replace(sampler.proposer, temperature=0.8))
    yield "it ends, full, without a mask", lambda: answers_are_whole(model, prompts, sampler)
    yield "memory has the rows first", lambda: _memory(sampler, model)
    yield "the same seed, the same answer", lambda: _repeats(model, prompts, warm)
    yield "a row is alone", lambda: rows_are_alone(model, prompts, sampler)
    yield "a row is alone at temperature 0.8", lambda: rows_are_alone(model, prompts, warm)
    few = prompts[:3]
    for name in choices("cache"):
        if name != "none":
            policy = compose([f"cache={name}"]).cache
            yield f"cache={name}", lambda policy=policy: rows_are_alone(model, few, sampler, (3,), cache=policy)  # type: ignore[misc]
    yield "drafts change nothing", lambda: _drafted(model, few, sampler, None)


def _of_cache(policy: Cache, model: LanguageModel, prompts: list[Prompt]) -> Iterator[tuple[str, Law]]:
    def decoded(words: Sequence[str]) -> Sampler:
        return compose([*words, "blocks.length=8"]).sampler

    threshold, one = decoded(["sampler=threshold"]), decoded(["sampler=topk"])
    drawn = decoded(["sampler=threshold", "sampler.temperature=0.8"])
    back = decoded(["sampler=wino"])
    yield "it ends, full, without a mask", lambda: answers_are_whole(model, prompts, threshold, cache=policy)
    yield "the same seed, the same answer", lambda: _repeats(model, prompts, drawn, cache=policy)
    for sampler in (threshold, one, drawn, back):
        warm = " at temperature 0.8" if sampler is drawn else ""
        law = f"a row is alone, {sampler.name}{warm}"
        yield law, lambda sampler=sampler: rows_are_alone(model, prompts, sampler, cache=policy)  # type: ignore[misc]
    yield "drafts change nothing", lambda: _drafted(model, prompts[:3], one, policy)


def _memory(sampler: Sampler, model: LanguageModel) -> str:
    """Of three fresh rows: None, a tensor with the rows first, or a tuple of such."""
    about, new = model.description, 8
    jobs = [Job(i, (1, *[about.mask_id] * new), 1, tuple(range(1, 1 + new)), key=i) for i in range(3)]
    canvas = Canvas.of(jobs, 1 + new, SpecialIds(about.mask_id, about.eos_ids), torch.device("cpu"))

    def tensors(state: Any) -> Iterator[Any]:
        if isinstance(state, tuple):
            for part in state:
                yield from tensors(part)
        elif state is not None:
            yield state

    remembering = 0
    for role, part in sampler.bind(model.tokenizer, about.vocab_size).parts.items():
        for state in tensors(part.init(canvas) if isinstance(part, Part) else None):
            remembering += 1
            if not isinstance(state, torch.Tensor) or state.shape[:1] != (len(jobs),):
                shape = tuple(state.shape) if isinstance(state, torch.Tensor) else type(state).__name__
                raise Broken(f"{role}: init gives {shape} for {len(jobs)} rows; rows come first, since rows move")
    return f"{remembering} tensors" if remembering else "no part remembers anything"


def _repeats(model: LanguageModel, prompts: list[Prompt], sampler: Sampler, **how: Any) -> str:
    torch.manual_seed(0)
    first = _runs(model, prompts, sampler, **how)
    torch.manual_seed(1)  # what is drawn from torch's own generator is drawn otherwise
    if not all(map(alike, first, _runs(model, prompts, sampler, **how))):
        raise Broken("two runs of one seed differ: draw from dlm.engine.noise, by row, step and position")
    return "two runs at temperature 0.8, torch's own generator at another seed"


def _drafted(model: LanguageModel, prompts: list[Prompt], sampler: Sampler, policy: Cache | None) -> str:
    drafter = compose(["drafting=freedave"]).drafter
    plain = _runs(model, prompts, sampler, cache=policy)
    drafted = _runs(model, prompts, sampler, cache=policy, drafter=drafter)
    if odd := [i for i, (a, b) in enumerate(zip(plain, drafted, strict=True)) if a.tokens != b.tokens]:
        raise Broken(f"prompts {odd} are answered otherwise with drafting=freedave than without")
    before, after = (sum(run.counts.forwards for run in runs) for runs in (plain, drafted))
    return f"{before} forwards without, {after} with drafts of length 4"


def _of_task(task: Task, model: LanguageModel) -> Iterator[tuple[str, Law]]:
    n = 50 if task.size is None else min(50, task.size)
    asked: list[Instance] = []

    def same() -> str:
        if n < 1:
            raise Broken("it has no questions")
        asked[:] = [task.instance(i) for i in range(n)]
        if any(task.instance(i) != one for i, one in enumerate(asked)):
            raise Broken("the same number gave another question: draw from the number alone")
        return f"the first {n} questions, twice"

    def different() -> str:
        if len({one.instance_id for one in asked}) < n:
            raise Broken(f"two of the first {n} questions have the same id")
        return f"{n} ids"

    def right() -> str:
        scores = {i: task.judge(one, one.target).score for i, one in enumerate(asked)}
        if odd := [i for i, score in scores.items() if score != 1]:
            raise Broken(f"right answers do not score 1: {len(odd)} of {n}, question {odd[0]} {scores[odd[0]]:g}")
        return f"{n} right answers score 1"

    def wrong() -> str:
        for text in ("", " ", "\n", "?" * 200, "\x00\ud800", "{" * 50):
            for one in asked[:10]:
                if not 0 <= (score := task.judge(one, text).score) < 1:
                    raise Broken(f"{text[:10]!r} as an answer to question {one.instance_id} scores {score:g}")
        return "empty, blank, odd and endless answers score less than 1"

    def fits() -> str:
        if model.tokenizer is None:
            raise SettingsError("the model has no tokenizer to measure answers with")
        long = max(len(model.tokenizer.encode(one.target, add_special_tokens=False)) for one in asked)
        if long > task.canvas:
            raise Broken(f"a right answer has {long} tokens, the canvas {task.canvas}: raise canvas")
        return f"answers of at most {long} tokens in a canvas of {task.canvas}"

    yield "a question follows from its number", same
    if not asked:  # there are none to go on with
        return
    yield "questions differ", different
    yield "a right answer is right", right
    yield "nonsense is wrong", wrong
    yield "answers fit the canvas", fits
