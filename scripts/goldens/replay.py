"""Teacher forcing: before every call the canvas is the recorded one, and our parts say what they would
commit.

Each call of a recorded run is thus judged on its own, whatever happened before it: a difference at one call
does not hide the calls that follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas, Job, SpecialIds
from dlm.engine.interfaces import Budget, Score, ScoreModifier, Selector
from dlm.engine.proposal import BANNED, Vocabulary, logit_gap, propose
from dlm.engine.sampler import Sampler
from dlm.engine.sampler_run import SamplerRun, SamplerState
from dlm.engine.step import BlockState, LogitRows, StepView
from dlm.models.language_model import LanguageModel
from samplers.budgets.time_grid import grid_share
from scripts.goldens.cases import Case
from scripts.goldens.plan import Plan


@dataclass(frozen=True)
class Moment:
    """One row right before one call. Positions are those of our layout: no padding, the prompt first.

    Attributes:
        call, row: 0-based call of the run, row of the batch.
        tokens: the canvas, mask id at open positions.
        start: first generated position.
        block: the active block, ``[start, end)``.
        block_step: calls since the block was opened.
        block_masks: open positions of the block when it was opened.
        candidates: positions the reference may commit at this call.
        committed: what it did commit: generated position -> token.
    """

    call: int
    row: int
    tokens: list[int]
    start: int
    block: tuple[int, int]
    block_step: int
    block_masks: int
    candidates: list[int]
    committed: dict[int, int]


class Timeline:
    """The calls of a recorded run, in order.

    Open positions of a prompt (a mask id among the prompt's tokens) have no recorded step; the caller books
    the call that fills them with :meth:`fill`.
    """

    def __init__(self, case: Case, plan: Plan) -> None:
        self.case, self.plan = case, plan
        self.prompts = [list(prompt) for prompt in case.prompts]

    def fill(self, row: int, position: int, token: int) -> None:
        """Write a token into an open position of a row's prompt."""
        self.prompts[row][position] = token

    def canvas(self, row: int, call: int) -> list[int]:
        """Tokens of a row before ``call``."""
        mask, pinned = self.case.mask_id, self.plan.pinned
        generated = enumerate(zip(self.case.gen_ids[row], self.case.commit_step[row], strict=True))
        return self.prompts[row] + [
            token if 0 <= step < call or place in pinned else mask for place, (token, step) in generated
        ]

    def calls(self) -> Iterator[list[Moment]]:
        """One list of rows per call."""
        opened, active = 0, -1
        for call in range(self.case.nfe):
            block = self._block(call)
            if block != active:
                opened, active = call, block
            yield [self._moment(row, call, opened, block) for row in range(len(self.prompts))]

    def _block(self, call: int) -> int:
        """The block at work: counted out, or the first that some row has not completed."""
        plan = self.plan
        if plan.calls_per_block is not None:
            return min(call // plan.calls_per_block, plan.blocks - 1)
        for block in range(plan.blocks):
            if any(self._open(row, call, block) for row in range(len(self.prompts))):
                return block
        return plan.blocks - 1

    def _span(self, row: int, block: int) -> tuple[int, int]:
        start, (first, end) = len(self.prompts[row]), self.plan.span(block)
        return start + first, start + end

    def _open(self, row: int, call: int, block: int) -> int:
        start, end = self._span(row, block)
        return self.canvas(row, call)[start:end].count(self.case.mask_id)

    def _moment(self, row: int, call: int, opened: int, block: int) -> Moment:
        tokens, start = self.canvas(row, call), len(self.prompts[row])
        first, end = self._span(row, block)
        left = first if self.plan.left_bound else 0
        return Moment(
            call=call,
            row=row,
            tokens=tokens,
            start=start,
            block=(first, end),
            block_step=call - opened,
            block_masks=self._open(row, opened, block),
            candidates=[p for p in range(left, end) if tokens[p] == self.case.mask_id],
            committed={
                start + i: token
                for i, (token, step) in enumerate(zip(self.case.gen_ids[row], self.case.commit_step[row], strict=True))
                if step == call
            },
        )


@dataclass(frozen=True)
class Variant:
    """How a decision is taken: as we do, or with a fault of the reference.

    Attributes:
        mask_may_win: the mask id may be proposed; a position that proposes it uses up budget and stays open.
        no_left_bound: open positions left of the block compete too.
        mean_masks: Dream's number of open positions: the mean over the batch instead of the row's own.
        towards: positions whose scores are raised by ``tolerance`` while all others are lowered by it.
        tolerance: see ``towards``.
    """

    mask_may_win: bool = False
    no_left_bound: bool = False
    mean_masks: float | None = None
    towards: frozenset[int] = frozenset()
    tolerance: float = 0.0

    @property
    def faulty(self) -> bool:
        """Whether the decision is taken otherwise than ours."""
        return self.mask_may_win or self.no_left_bound or self.mean_masks is not None


@dataclass(frozen=True)
class Drawn:
    """What the reference's generator gave one row at one call, each over the whole canvas; None: nothing of
    the kind.

    Attributes:
        tokens: the sampled token of each position.
        scores: the confidence that follows from the draw.
        chosen: the positions that were drawn.
    """

    tokens: Int[Tensor, " L"] | None = None
    scores: Float[Tensor, " L"] | None = None
    chosen: Bool[Tensor, " L"] | None = None


@dataclass(frozen=True)
class Decision:
    """What our parts would do at a moment.

    Attributes:
        commits: position -> token.
        tokens, scores: of every candidate.
        budget: how many positions the budget part asked for; None without one.
    """

    commits: dict[int, int]
    tokens: dict[int, int]
    scores: dict[int, float]
    budget: int | None


@dataclass(frozen=True, eq=False)
class _Given(Score):
    """Scores that are known beforehand."""

    values: Tensor

    def step(self, view: StepView, state: None) -> tuple[Tensor, None]:
        return torch.nn.functional.pad(self.values, (0, 1))[view.positions], state


@dataclass(frozen=True, eq=False)
class _GivenPositions(Selector):
    """A choice that is known beforehand."""

    chosen: Tensor

    idle_steps = 1

    def step(self, view: StepView, state: None) -> tuple[Tensor, None]:
        return torch.nn.functional.pad(self.chosen, (0, 1))[view.positions], state


@dataclass(frozen=True)
class _Nudge(ScoreModifier):
    """Raise some positions and lower the others, relative to 1 or to the score where that is larger."""

    towards: frozenset[int]
    tolerance: float

    def step(self, view: StepView, state: None) -> tuple[Tensor, None]:
        assert view.scores is not None
        sign = [[1.0 if int(p) in self.towards else -1.0 for p in row] for row in view.positions]
        size = self.tolerance * view.scores.double().abs().clamp(min=1.0, max=1e6)
        return view.scores.double() + torch.tensor(sign, dtype=torch.float64) * size, state


@dataclass(frozen=True)
class _MeanMasks(Budget):
    """Dream's budget from the mean number of open positions of the batch."""

    grid: Any
    masks: float

    idle_steps = 1

    def step(self, view: StepView, state: None) -> tuple[Tensor, None]:
        return (torch.tensor([self.masks]) * grid_share(self.grid, view)).long(), state


@dataclass(frozen=True)
class _Unguarded(Budget):
    """A budget that may be 0 while positions are open: a loop of fixed length has no progress guard."""

    budget: Any

    idle_steps = 1

    def step(self, view: StepView, state: None) -> tuple[Tensor, None]:
        number: Tensor = self.budget.step(view, state)[0]
        return number, state


class Teacher:
    """Our own selection, asked about canvases that others have filled."""

    def __init__(self, model: LanguageModel, plan: Plan) -> None:
        self.model, self.description, self.sampler, self.plan = model.backbone, model.description, plan.sampler, plan

    @property
    def vocabulary(self) -> Vocabulary:
        """Which ids may be proposed."""
        return Vocabulary.of(self.description, self.sampler.proposer)

    @torch.inference_mode()
    def logits(self, moment: Moment) -> Float[Tensor, "L V"]:
        """Logits of every position after guidance and transforms, the mask id not banned."""
        tokens = torch.tensor([moment.tokens])
        wanted = torch.arange(tokens.shape[1])[None]
        logits = self._forward(tokens, wanted)
        if self.sampler.guidance:
            blank = tokens.clone()
            blank[:, : moment.start] = self.description.mask_id
            without = self._forward(blank, wanted)
            logits = without + (self.sampler.guidance + 1) * (logits - without)
        canvas, row = self._canvas(moment), torch.zeros_like(wanted[0])
        at = LogitRows(canvas, _clock(canvas, moment), row, wanted[0], canvas.masked[0, wanted[0]])
        for transform in self.sampler.transforms:
            logits, _ = transform.step(logits, at, transform.init(at.canvas))
        return logits

    def _forward(self, tokens: Int[Tensor, "1 L"], wanted: Int[Tensor, "1 L"]) -> Float[Tensor, "L V"]:
        return self.model.head(self.model.logit_rows(self.model.hidden(tokens), None, wanted))[0]

    def _canvas(self, moment: Moment) -> Canvas:
        mask = self.description.mask_id
        writable = tuple(p for p, token in enumerate(moment.tokens) if token == mask or p >= moment.start)
        job = Job(0, tuple(moment.tokens), moment.start, writable, key=0)
        ids = SpecialIds(mask, self.description.eos_ids)
        return Canvas.of([job], job.end, ids, torch.device("cpu"))

    @torch.inference_mode()
    def decide(
        self, moment: Moment, logits: Float[Tensor, "L V"], variant: Variant, drawn: Drawn | None = None
    ) -> Decision:
        """What the sampler commits at ``moment`` when it decides as ``variant`` says, with the reference's
        draws."""
        canvas = self._canvas(moment)
        first = 0 if variant.no_left_bound else moment.block[0]
        open_ = [p for p in range(first, moment.block[1]) if moment.tokens[p] == self.description.mask_id]
        eligible = torch.zeros_like(canvas.writable)
        eligible[0, open_] = True
        blocks = _clock(canvas, moment)
        rules = SamplerRun(self._sampler(variant, drawn), stores=False, longest=moment.block[1] - moment.block[0])
        seen, exiting = rules.wanted(canvas, blocks, eligible)
        seen = seen if exiting is None else seen | exiting
        positions = torch.tensor([seen[0].nonzero().flatten().tolist() or [canvas.scratch]])
        proposal = self._propose(logits[positions[0].clamp_max(logits.shape[0] - 1)], variant)
        if drawn is not None and drawn.tokens is not None:
            proposal = replace(proposal, token=torch.nn.functional.pad(drawn.tokens, (0, 1))[positions[0]])
        view = StepView(canvas, blocks, positions, eligible.gather(1, positions), proposal.reshape(1, -1))
        view, chosen, exiting = rules.select(view, SamplerState.of(rules.sampler, canvas))
        decision = _decision(view, chosen)
        if exiting is not None and bool(exiting[0]):
            rest = canvas.masked[0].nonzero().flatten()
            tokens = self._propose(logits[rest], variant).token
            decision.commits.update(zip(rest.tolist(), tokens.tolist(), strict=True))
        return decision

    def _propose(self, rows: Float[Tensor, "R V"], variant: Variant) -> Any:
        vocabulary = self.vocabulary
        if variant.mask_may_win:
            # An extra id that never wins takes the place of the banned one.
            width = rows.shape[1]
            rows = torch.nn.functional.pad(rows, (0, 1), value=BANNED)
            vocabulary = Vocabulary(width, width + 1, width + 1, vocabulary.unconfident)
        proposer = replace(self.sampler.proposer, temperature=0.0)
        proposal = propose(rows.clone(), vocabulary, proposer, self.sampler.needs)
        return replace(proposal, gap=logit_gap(rows)) if "gap" in self.sampler.needs else proposal

    def _sampler(self, variant: Variant, drawn: Drawn | None) -> Sampler:
        sampler = self.sampler
        if variant.mean_masks is not None:
            sampler = replace(sampler, budget=_MeanMasks(sampler.budget, variant.mean_masks))
        elif variant.faulty and sampler.budget is not None and self.plan.calls_per_block is not None:
            sampler = replace(sampler, budget=_Unguarded(sampler.budget))
        if drawn is not None and drawn.scores is not None:
            sampler = replace(sampler, score=_Given(drawn.scores))
        if drawn is not None and drawn.chosen is not None:
            sampler = replace(sampler, selector=_GivenPositions(drawn.chosen), budget=None)
        if variant.towards:
            nudge = _Nudge(variant.towards, variant.tolerance)
            sampler = replace(sampler, modifiers=(*sampler.modifiers, nudge))
        return sampler


def _clock(canvas: Canvas, moment: Moment) -> BlockState:
    one = torch.ones(1, dtype=torch.long)
    start, end = moment.block[0] * one, moment.block[1] * one
    return BlockState(
        step=moment.call * one,
        block_start=start,
        block_end=end,
        block_step=moment.block_step * one,
        block_masks=moment.block_masks * one,
        block=canvas.inside(start, end),
        block_number=one,
        opened_end=end,
    )


def _decision(view: StepView, chosen: Bool[Tensor, "1 N"]) -> Decision:
    assert view.scores is not None
    columns = zip(
        view.positions[0].tolist(),
        view.proposal.token[0].tolist(),
        view.scores[0].tolist(),
        view.eligible[0].tolist(),
        chosen[0].tolist(),
        strict=True,
    )
    rows = [row for row in columns if row[3]]
    return Decision(
        commits={position: token for position, token, _, _, picked in rows if picked},
        tokens={position: token for position, token, _, _, _ in rows},
        scores={position: score for position, _, score, _, _ in rows},
        budget=None if view.budget is None else int(view.budget[0]),
    )
