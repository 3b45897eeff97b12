"""Why a recorded run differs from ours: rules that are tested on the case's own data, call by call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from dlm.api import Generation
from dlm.models.language_model import LanguageModel
from samplers import TimeGrid
from scripts.goldens.cases import Case
from scripts.goldens.draws import Draws
from scripts.goldens.law import COINCIDENCE, Law, Repeats
from scripts.goldens.plan import Plan
from scripts.goldens.replay import Decision, Drawn, Moment, Teacher, Timeline, Variant
from scripts.goldens.rules import TIE, TOKEN_TIE

Status = Literal["matched", "explained", "unexplained", "skipped"]


@dataclass(frozen=True)
class Verdict:
    """The outcome of one case.

    Attributes:
        status: see :data:`Status`.
        rules: what explains the differences, names from :data:`scripts.goldens.rules.RULES`.
        details: what remains unexplained, or why the case was skipped.
    """

    status: Status
    rules: tuple[str, ...] = ()
    details: tuple[str, ...] = ()


@dataclass
class _Row:
    """What the replay found out about one row: calls it took part in, and the first call that needed a
    rule."""

    live: list[int] = field(default_factory=list)
    parted: int | None = None


@dataclass
class Replay:
    """Goes through a recorded run call by call.

    ``problems`` lists what no rule explains; ``rules`` those that were needed, in order of appearance.
    """

    case: Case
    plan: Plan
    model: LanguageModel
    problems: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.teacher = Teacher(self.model, self.plan)
        self.timeline = Timeline(self.case, self.plan)
        self.rows = [_Row() for _ in self.case.prompts]
        self.law = Law(self.plan)
        self.evidence = Repeats()
        self.draws: Draws | None = None
        if self.plan.draws:
            unconfident = self.teacher.vocabulary.unconfident
            self.draws = Draws(self.case, self.plan, unconfident)
            self.control = Draws(replace(self.case, seed=(self.case.seed or 0) + 1), self.plan, unconfident)

    def run(self) -> None:
        """Judge every call."""
        if self.plan.calls_per_block is not None:
            expected = self.plan.calls_per_block * self.plan.blocks
            last = max(max(steps) for steps in self.case.commit_step) + 1
            early = self.plan.sampler.exit is not None and self.case.nfe == last
            if self.case.nfe != expected and not early:
                self.problems.append(f"{self.case.nfe} calls where the loop makes {expected}")
        for moments in self.timeline.calls():
            self._call(moments)
        self._leftovers()
        if not all(self.evidence.recorded):
            self._close_law()

    def _close_law(self) -> None:
        """The verdict in law on the whole run; it is no way out for a run whose draws can be repeated."""
        unlikely = self.law.close()
        if unlikely:
            self.problems.append(unlikely)
        if self.evidence.chance() < COINCIDENCE:
            self.problems.append("the recorded seed gives the recorded draws, but not at every call")

    def _call(self, moments: Sequence[Moment]) -> None:
        logits = [self.teacher.logits(moment) for moment in moments]
        drawn: Sequence[Drawn | None] = [None] * len(moments)
        if self.draws is not None:
            drawn = self.draws.step(moments, logits)
            self._control(moments, logits)
        if not any(moment.candidates for moment in moments) and self.plan.calls_per_block is None:
            self.problems.append(f"call {moments[0].call}: nothing was open")
        mean = sum(len(moment.candidates) for moment in moments) / len(moments)
        for moment, scores, given in zip(moments, logits, drawn, strict=True):
            if not moment.candidates:
                self._need("idle calls" if self.plan.calls_per_block is not None else "rows wait")
                if moment.committed:
                    self.problems.append(f"call {moment.call}, row {moment.row}: committed where nothing was open")
                continue
            row = self.rows[moment.row]
            row.live.append(moment.call)
            needed = self._judge(moment, scores, given, mean)
            if needed is None:
                self.problems.append(self._describe(moment, scores, given))
                needed = ["?"]
            if needed and row.parted is None:
                row.parted = moment.call

    def _control(self, moments: Sequence[Moment], logits: Sequence[Tensor]) -> None:
        """How often draws from another seed give the recorded commits."""
        for moment, scores, drawn in zip(moments, logits, self.control.step(moments, logits), strict=True):
            if moment.candidates:
                commits = self.teacher.decide(moment, scores, Variant(), drawn).commits
                self.evidence.control.append(commits == moment.committed)

    def _need(self, *names: str) -> None:
        self.rules += [name for name in names if name not in self.rules]

    def _judge(self, moment: Moment, logits: Tensor, drawn: Drawn | None, mean: float) -> list[str] | None:
        """The rules that make our decision the recorded one; None when none does."""
        for variant in self._variants(moment, mean):
            needed = self._try(moment, logits, variant, drawn)
            if needed is not None:
                self._need(*needed)
                if drawn is not None:
                    self.evidence.recorded.append(True)
                return needed
        if drawn is None:
            return None
        self.evidence.recorded.append(False)
        everywhere = Variant(no_left_bound=not self.plan.left_bound)
        decision = self.teacher.decide(moment, logits, everywhere)
        unlikely = self.law.step(moment, logits, decision)
        if unlikely:
            self.problems.append(f"call {moment.call}, row {moment.row}: {unlikely}")
        self._need("in law")
        return ["in law"]

    def _variants(self, moment: Moment, mean: float) -> list[Variant]:
        left = moment.candidates[0] < moment.block[0]
        variants = [Variant(no_left_bound=left), Variant(mask_may_win=True, no_left_bound=left)]
        grid = isinstance(self.plan.sampler.budget, TimeGrid)
        if grid and mean != len(moment.candidates):
            variants += [replace(variant, mean_masks=mean) for variant in variants]
        return variants

    def _try(self, moment: Moment, logits: Tensor, variant: Variant, drawn: Drawn | None) -> list[str] | None:
        names = ["same draws"] if drawn is not None else []
        names += ["batch mean"] if variant.mean_masks is not None else []
        if variant.no_left_bound:
            names.append("prompt mask" if moment.candidates[0] < moment.start else "left of block")
        decision = self.teacher.decide(moment, logits, variant, drawn)
        found = self._compare(moment, logits, decision)
        if found is None:
            # Positions whose commit leaves no trace in the record keep their place.
            silent = {p for p, t in decision.commits.items() if p < moment.start or t == self.case.mask_id}
            towards = frozenset(moment.committed) | silent
            nudged = replace(variant, towards=towards, tolerance=TIE[self.plan.sampler.proposer.precision])
            decision = self.teacher.decide(moment, logits, nudged, drawn)
            found = self._compare(moment, logits, decision)
            names.append("score tie")
        return None if found is None else names + found

    def _compare(self, moment: Moment, logits: Tensor, decision: Decision) -> list[str] | None:
        """Rules for what is left when positions agree; None when they do not. Books what went into the
        prompt."""
        mask, found = self.case.mask_id, []
        visible = {p: t for p, t in decision.commits.items() if t != mask}
        answer = {p: t for p, t in visible.items() if p >= moment.start}
        if answer.keys() != moment.committed.keys():
            return None
        for position, token in moment.committed.items():
            if answer[position] != token:
                gap = float(logits[position, answer[position]] - logits[position, token])
                if abs(gap) > TOKEN_TIE or self.plan.sampler.proposer.temperature > 0:
                    return None
                found = ["token tie"]
        for position, token in visible.items():
            if position < moment.start:
                self.timeline.fill(moment.row, position, token)
        return found + (["mask proposed"] if len(visible) < len(decision.commits) else [])

    def _describe(self, moment: Moment, logits: Tensor, drawn: Drawn | None) -> str:
        decision = self.teacher.decide(moment, logits, Variant(), drawn)
        theirs = {p: t for p, t in moment.committed.items() if decision.commits.get(p) != t}
        ours = {p: t for p, t in decision.commits.items() if moment.committed.get(p) != t}
        scores = {p: f"{decision.scores[p]:.8f}" for p in (*theirs, *ours) if p in decision.scores}
        return (
            f"call {moment.call}, row {moment.row}: the reference committed {theirs},"
            f" ours would commit {ours} (our scores {scores})"
        )

    def _leftovers(self) -> None:
        """Masks in the returned canvas and tokens in the prompt must follow from the calls."""
        mask = self.case.mask_id
        for row, (tokens, steps) in enumerate(zip(self.case.gen_ids, self.case.commit_step, strict=True)):
            if mask in tokens and not self._wasted():
                self.problems.append(f"row {row}: masks are left although no call wasted its budget")
            recorded = enumerate(zip(tokens, steps, strict=True))
            foreign = [i for i, (t, s) in recorded if s < 0 and t != mask and i not in self.plan.pinned]
            if foreign:
                self.problems.append(f"row {row}: positions {foreign} were filled outside a call")
        for row, pad in enumerate(self.case.pads):
            if self.case.final_prompt and self.timeline.prompts[row] != self.case.final_prompt[row][pad:]:
                self.problems.append(f"row {row}: the replay fills the prompt's open positions differently")

    def check_own_run(self, runs: Sequence[Generation]) -> None:
        """Our free run must agree with the record up to the first call that needed a rule."""
        for index, (row, run) in enumerate(zip(self.rows, runs, strict=True)):
            if self.case.mask_id in run.tokens:
                self.problems.append(f"row {index}: our run left masks")
            place = {call: step for step, call in enumerate(row.live)}
            until = len(row.live) if row.parted is None else place[row.parted]
            recorded = zip(self.case.gen_ids[index], self.case.commit_step[index], strict=True)
            for i, (token, call) in enumerate(recorded):
                if i in self.plan.pinned:
                    continue
                theirs, ours = place.get(call, until), run.commit_step[i]
                early = min(theirs, ours) < until
                if early and (theirs != ours or token != run.tokens[i]):
                    self.problems.append(
                        f"row {index}: our run parts from the record before call {until}, position {i}"
                    )
                    break
            fixed = self.plan.calls_per_block is not None and not self._wasted()
            if (row.parted is None or fixed) and run.counts.forwards != self._per_step * len(row.live):
                self.problems.append(f"row {index}: {run.counts.forwards} forwards, {len(row.live)} calls had work")

    def _wasted(self) -> bool:
        return bool({"mask proposed", "prompt mask", "left of block"} & set(self.rules))

    @property
    def _per_step(self) -> int:
        return 2 if self.plan.sampler.guidance else 1
