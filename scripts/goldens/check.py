"""One case from start to verdict: load, decode with our sampler, compare, explain."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

import dlm
from dlm.api import Generation
from dlm.engine.interfaces import Part, offers
from dlm.errors import DlmError, PromptError, SettingsError
from dlm.models.backbone import ModelDescription
from dlm.models.language_model import LanguageModel
from scripts.goldens import blocks, drafted, stepwise
from scripts.goldens.cases import Case
from scripts.goldens.explain import Replay, Verdict
from scripts.goldens.judge import judge
from scripts.goldens.plan import Plan, UntranslatedError
from scripts.goldens.translate import translate

Judge = Callable[[Case, LanguageModel, Plan], Verdict]


@dataclass(frozen=True, eq=False)
class _OtherEnds(LanguageModel):
    """A model that is told other end ids than its checkpoint names."""

    end_ids: tuple[int, ...] = ()

    @property
    def description(self) -> ModelDescription:
        return replace(self.backbone.description, eos_ids=self.end_ids)


@dataclass
class Checker:
    """Checks cases against the checkpoints of a folder; every checkpoint is loaded once, in float32 on the
    CPU.

    ``extra`` is the folder of further inputs (filters of learned samplers).
    ``models`` holds what is loaded, by the name of the checkpoint; ``plans`` the method and our terms of every case
    that has a translation, by its id.
    """

    checkpoints: Path
    extra: Path
    models: dict[str, LanguageModel] = field(default_factory=dict)
    plans: dict[str, tuple[str, Plan]] = field(default_factory=dict)

    def check(self, case: Case) -> Verdict:
        """The verdict on one case; one that the comparison itself trips over is unexplained."""
        if case.unreadable is not None:
            return Verdict("unexplained", details=(case.unreadable,))
        try:
            return self._check(case)
        except UntranslatedError as error:
            return Verdict("skipped", details=(str(error),))
        except Exception as error:  # whatever it is, the other cases are still to be compared
            where = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
            return Verdict("unexplained", details=(f"the comparison failed, {told}",))

    def _check(self, case: Case) -> Verdict:
        plan = translate(case, self.extra)
        self.plans[case.id] = case.method, plan
        model = self._model(case, plan)
        if plan.attention_block:
            return _watched(case, model, plan, blocks.judge)
        if case.canvases is not None:
            return _watched(case, model, plan, stepwise.judge)
        if plan.draft_length is not None and case.error is None:
            return drafted.judge(case, model, plan)
        if plan.cache is not None and case.error is None:
            return _watched(case, model, plan, judge)
        try:
            runs = decode(model, case.prompts, plan)
        except PromptError as error:
            if case.error or not any(case.mask_id in prompt for prompt in case.prompts):
                return Verdict("unexplained", details=(f"{type(error).__name__}: {error}",))
            runs = None
        except SettingsError as error:
            if case.error is not None:
                return Verdict("explained", ("both refuse",))
            return Verdict("unexplained", details=(f"{type(error).__name__}: {error}",))
        except DlmError as error:
            return Verdict("unexplained", details=(f"{type(error).__name__}: {error}",))
        if case.error is not None:
            return _explain_error(case, model, plan, runs or [])
        if runs is not None and agree(case, runs):
            return Verdict("matched")
        if runs is not None and (rule := ending(case, plan, runs, model.description.eos_ids[0])):
            return Verdict("explained", (rule,))
        return _explain(case, model, plan, runs)

    def _folder(self, case: Case) -> Path:
        """The checkpoint of a case: among the given ones, or beside the folder the case lies in."""
        given = self.checkpoints / case.checkpoint
        beside = case.folder.parent / "checkpoints" / case.checkpoint
        return given if given.is_dir() or not beside.is_dir() else beside

    def _model(self, case: Case, plan: Plan) -> LanguageModel:
        name = f"{case.checkpoint}:{plan.dtype}"
        if plan.attention_block:
            name += f":{plan.attention_block}"
        if name not in self.models:
            packaged = case.checkpoint.removeprefix("packaged:")
            folder = packaged if packaged != case.checkpoint else self._folder(case)
            self.models[name] = dlm.load(
                folder, device="cpu", dtype=getattr(torch, plan.dtype), attention_block=plan.attention_block or None
            )
        model = self.models[name]
        if plan.end_ids is None:
            return model
        return _OtherEnds(model.backbone, model.tokenizer, model.name, plan.end_ids)


def _watched(case: Case, model: LanguageModel, plan: Plan, how: Judge) -> Verdict:
    try:
        return how(case, model, plan)
    except DlmError as error:
        return Verdict("unexplained", details=(f"{type(error).__name__}: {error}",))


def decode(model: LanguageModel, prompts: Sequence[Sequence[int]], plan: Plan) -> list[Generation]:
    """Our own run: the whole batch in one call."""
    return dlm.generate(
        model,
        prompts,
        sampler=plan.sampler,
        cache=plan.cache,
        max_new_tokens=plan.new_tokens,
        batch_size=len(prompts),
        record="commits",
        pinned=plan.pinned,
    )


def agree(case: Case, runs: Sequence[Generation]) -> bool:
    """Whether tokens, commit steps, forwards and fed positions are all equal."""
    return all(
        run.tokens == tokens and run.commit_step == steps and calls(run) == case.nfe
        for run, tokens, steps in zip(runs, case.gen_ids, case.commit_step, strict=True)
    ) and fed_alike(case, runs)


def ending(case: Case, plan: Plan, runs: Sequence[Generation], end_id: int) -> str | None:
    """The rule that explains a record which differs only behind the end of the answer: what our stop rule filled
    (step -1) the reference has booked on its last call, or left masked."""
    if plan.sampler.stop is None or any(calls(run) != case.nfe for run in runs):
        return None
    found = set()
    for run, tokens, steps in zip(runs, case.gen_ids, case.commit_step, strict=True):
        for ours, step, theirs, call in zip(run.tokens, run.commit_step, tokens, steps, strict=True):
            if (ours, step) == (theirs, call):
                continue
            if step != -1 or ours != end_id:
                return None
            if (theirs, call) == (end_id, case.nfe - 1):
                found.add("end fill")
            elif plan.stops_at_end and (theirs, call) == (case.mask_id, -1):
                found.add("stops at end")
            else:
                return None
    return found.pop() if len(found) == 1 else None


def calls(run: Generation) -> int:
    """Forwards as the records count them: a guided pair is one."""
    assert run.trace is not None
    return len(run.trace.steps)


def fed_alike(case: Case, runs: Sequence[Generation]) -> bool:
    """Whether both sides fed as many positions: without a cache the whole row at every call, ours without the pads that
    the reference puts in front of shorter rows. Cached runs are compared in :mod:`scripts.goldens.judge`."""
    for prompt, run in zip(case.prompts, runs, strict=True):
        if run.counts.token_forwards != run.counts.forwards * (len(prompt) + len(run.tokens)):
            return False
        width = max(len(prompt) for prompt in case.prompts) + len(run.tokens)
        if not any(case.pads) and case.tokens_per_call != [width] * case.nfe:
            return False
    return True


def _explain(case: Case, model: LanguageModel, plan: Plan, runs: Sequence[Generation] | None) -> Verdict:
    if any(offers(part, Part.init) for part in plan.sampler.parts.values()):
        return Verdict("unexplained", details=("the runs differ; a sampler with a memory is not judged call by call",))
    replay = Replay(case, plan, model)
    replay.run()
    if runs is not None:
        replay.check_own_run(runs)
    if replay.problems:
        return Verdict("unexplained", tuple(replay.rules), tuple(replay.problems))
    if not replay.rules:
        return Verdict("unexplained", details=("every call agrees, but the runs do not",))
    return Verdict("explained", tuple(replay.rules))


def _explain_error(case: Case, model: LanguageModel, plan: Plan, runs: Sequence[Generation]) -> Verdict:
    for row, run in enumerate(runs):
        alone = decode(model, [case.prompts[row]], plan)[0]
        if case.mask_id in run.tokens:
            return Verdict("unexplained", details=(f"row {row}: our run left masks",))
        if (alone.tokens, alone.commit_step) != (run.tokens, run.commit_step):
            return Verdict("unexplained", details=(f"row {row}: the batch differs from the single run",))
    return Verdict("explained", ("reference raised",))
