"""FreeDave: the next states of a deterministic decode, guessed and verified in one forward (arXiv 2510.00294).

A step of any deterministic sampler takes a row from one state to the next. Under the guess that the model's answers
will not change, the sampler itself says which states come after: the drafts. The next forward evaluates the row and its
drafts together. The sampler then steps from the answers to the row; if the state it arrives at is the first draft, the
answers to that draft are at hand, and it steps on from them without a forward; and so on while the guesses hold. Every
step is the ordinary step from the ordinary answers, so what is decoded is what would have been decoded without drafts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.batch import Batch, renew_state
from dlm.canvas import Canvas, pack_positions
from dlm.errors import SettingsError
from dlm.forward import Hidden
from dlm.parts import Stateless
from dlm.plan import ForwardPlan, Peek
from dlm.proposal import Proposal
from dlm.versions import canvas_of, clock_of, feed_of
from dlm.view import Clock, StepView

if TYPE_CHECKING:
    from dlm.decoder import Decoder
    from dlm.protocols import Cache
    from dlm.sampler import Sampler


class Drafts(NamedTuple):
    """States that may come after the present one.

    Attributes:
        tokens: the whole canvas of each, the nearest first. ``[B, D, W]``
        number: how many of them there are. ``[B]``
    """

    tokens: Int[Tensor, "B D W"]
    number: Int[Tensor, " B"]


class Turn(NamedTuple):
    """What a step starts from.

    Attributes:
        decoder, batch: whose step it is.
        clock, opened, most: the open blocks, the rows that have just opened theirs (None: none), and the most positions
            eligible in a row.
        plan: what the cache wants to be fed.
    """

    decoder: Decoder
    batch: Batch
    clock: Clock
    opened: Bool[Tensor, " B"] | None
    plan: ForwardPlan
    most: int


@dataclass(frozen=True)
class Answers:
    """What one forward said of every row and its drafts; the versions of a row follow each other.

    Attributes:
        each: versions per row.
        positions, eligible: as in a :class:`dlm.view.StepView`, per version. ``[V, N]``
        proposal: each ``[V, N]``
        peeks: memories that wait to hear which versions are kept.
    """

    each: int
    positions: Int[Tensor, "V N"]
    eligible: Bool[Tensor, "V N"]
    proposal: Proposal
    peeks: tuple[Peek, ...]

    def version(self, number: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """The row of the forward that holds version ``number`` of each row."""
        return torch.arange(number.shape[0], device=number.device) * self.each + number

    def view(self, canvas: Canvas, clock: Clock, version: Int[Tensor, " B"], most: int) -> StepView:
        """The view of a step from these versions."""
        proposal = self.proposal.gather(version)
        return StepView(canvas, clock, self.positions[version], self.eligible[version], proposal, most=most)


@dataclass(frozen=True)
class FreeDave:
    """Draft and verify along the batch.

    With a sampling temperature it is lossless too: every draw belongs to a step and a position of its row, not to a
    forward.

    Attributes:
        draft_length: states per forward, the present one included; 1 drafts nothing.

    Raises:
        SettingsError: ``draft_length`` below 1.
    """

    draft_length: int = 4

    def __post_init__(self) -> None:
        if isinstance(self.draft_length, bool) or not isinstance(self.draft_length, int) or self.draft_length < 1:
            raise SettingsError(f"draft_length must be a whole number of at least 1, got {self.draft_length!r}")

    def check(self, sampler: Sampler, cache: Cache) -> None:
        """Refuse what makes a step depend on more than the state it starts from.

        Raises:
            SettingsError: with the reason.
        """
        clashes = {
            "a part that reads the previous forward, attention or a shadow block": bool(
                {"kl", "attention", "shadow"} & sampler.needs
            ),
            "look-ahead branches": sampler.lookahead is not None,
            "an early exit": sampler.exit is not None,
            "a reviser": sampler.reviser is not None,
            "a selector that rewrites or cuts rows off": sampler.rewrites or hasattr(sampler.selector, "reach"),
            "a logit transform with a memory": any(not isinstance(part, Stateless) for part in sampler.transforms),
            "guidance over a cache": cache.stores and sampler.guidance > 0,
        }
        found = [what for what, there in clashes.items() if there]
        if found:
            raise SettingsError(
                f"drafting=freedave does not go with {' and '.join(found)} (sampler {sampler.name!r}): use"
                " drafting=none"
            )
        if cache.stores and not getattr(cache, "pure", False):
            raise SettingsError(
                f"drafting=freedave does not go with cache {type(cache).__name__}: what it recomputes depends on how"
                " many steps have been taken; use cache=none, prefix, dual, dkv_prefill or freecache"
            )

    def step(self, turn: Turn, states: dict[str, Any]) -> tuple[StepView, Bool[Tensor, "B N"]]:
        """One forward of every row and its drafts, and the steps that follow from it.

        Returns the view of all steps together, its clock that of each row's last one, and what was committed.
        ``states`` receives the new memories, the next drafts, and how many steps each row took beyond one.
        """
        batch, clock = turn.batch, turn.clock
        known, tokens = self._known(turn, states)
        forwards = torch.where(clock.step > 0, states.get("forwards", clock.step), 0)
        answers = _evaluate(turn, tokens, dict.fromkeys(states))
        steps, clock, best = self._walk(turn, answers, (known, tokens, forwards), states)

        kept = answers.version(best)
        for peek in answers.peeks:
            peek.accept(kept)
        batch.cache.accept(tokens.flatten(0, 1)[kept])
        last = _later(clock, best)
        final = answers.view(batch.canvas, last, kept, turn.most)
        states["drafts"] = self._draft(turn.decoder, final, states)
        states["forwards"], states["taken"] = forwards + 1, best
        first, *others = (view for view, _ in steps)
        view = first.beside(others).with_(clock=last, budget=first.budget if not others else None)
        return view, torch.cat([chosen for _, chosen in steps], dim=1)

    def _walk(
        self, turn: Turn, answers: Answers, states_ahead: tuple[Tensor, Tensor, Tensor], states: dict[str, Any]
    ) -> tuple[list[tuple[StepView, Tensor]], Clock, Int[Tensor, " B"]]:
        """Step from the answers for as long as the state arrived at is one that was evaluated.

        Returns the steps, the clock of the first, and how many steps each row took beyond it.
        """
        known, tokens, forwards = states_ahead
        decoder, canvas, clock = turn.decoder, turn.batch.canvas, turn.clock
        steps: list[tuple[StepView, Tensor]] = []
        best, alive = torch.zeros_like(clock.step), torch.ones_like(clock.step, dtype=torch.bool)
        for i in range(tokens.shape[1]):
            view = answers.view(canvas, _later(clock, i), answers.version(torch.full_like(best, i)), turn.most)
            view = view.with_(eligible=view.eligible & alive[:, None])
            if i == 0:  # a row that has just opened its block has no drafts; its schedule may settle the block now
                view = decoder.narrow(view, turn.opened, states)
                clock = view.clock
            trial = dict(states)
            view, chosen, _ = decoder.select(view, None, trial)
            chosen = chosen & alive[:, None]
            canvas.commit(view.positions, view.proposal.token, chosen, forwards, view.proposal.prob)
            for role in decoder.sampler.parts:
                states[role] = renew_state(states[role], trial[role], alive)
            best = torch.where(alive, i, best)
            steps.append((view, chosen))
            if i + 1 < tokens.shape[1]:
                arrived = (canvas.tokens == tokens[:, i + 1])[:, : canvas.trash].all(dim=1)
                alive = alive & (known > i) & arrived
        return steps, clock, best

    def _known(self, turn: Turn, states: dict[str, Any]) -> tuple[Int[Tensor, " B"], Int[Tensor, "B E W"]]:
        """How many drafts each row has, and the tokens of the row and its drafts, missing ones filled with the row."""
        batch, clock, plan = turn.batch, turn.clock, turn.plan
        own, drafts = batch.canvas.tokens[:, None], states.get("drafts")
        most = max(0 if slot in plan.refreshed else row.drafts for slot, row in enumerate(batch.rows))
        if drafts is None or not most:
            return torch.zeros_like(clock.step), own.clone()
        known = torch.where(clock.step > 0, drafts.number, 0)
        if plan.refreshed and len(plan.refreshed) < len(batch.rows):
            refreshed = torch.tensor([slot in plan.refreshed for slot in range(len(batch.rows))], device=known.device)
            known = known.masked_fill(refreshed, 0)
        nth = torch.arange(most, device=known.device)
        tokens = torch.where((nth < known[:, None])[..., None], drafts.tokens[:, :most], own)
        return known, torch.cat([own, tokens], dim=1)

    def _draft(self, decoder: Decoder, final: StepView, states: dict[str, Any]) -> Drafts:
        """The states the sampler would go through if the model's answers stayed as they are.

        A state that completes the block is no draft: no answer to it is ever needed.
        """
        canvas, clock = replace(final.canvas, tokens=final.canvas.tokens.clone()), final.clock
        trial, drafts = dict(states), []
        count, going = torch.zeros_like(clock.step), torch.ones_like(clock.step, dtype=torch.bool)
        for j in range(1, self.draft_length):
            open_ = final.eligible & canvas.masked.gather(1, final.positions)
            view = StepView(canvas, _later(clock, j), final.positions, open_, final.proposal, most=final.most)
            view, chosen, _ = decoder.select(view, None, trial)
            target = view.positions.masked_fill(~chosen, canvas.trash)
            canvas = replace(canvas, tokens=canvas.tokens.scatter(1, target, view.proposal.token))
            going = going & chosen.any(dim=1) & (canvas.masked & clock.block).any(dim=1)
            count = count + going
            drafts.append(canvas.tokens)
        if not drafts:
            return Drafts(canvas.tokens[:, None][:, :0], count)
        return Drafts(torch.stack(drafts, dim=1), count)


def _evaluate(turn: Turn, tokens: Int[Tensor, "B E W"], states: dict[str, Any]) -> Answers:
    """One forward of all versions."""
    decoder, canvas, (rows, each) = turn.decoder, turn.batch.canvas, tokens.shape[:2]
    owner = torch.arange(rows, device=tokens.device).repeat_interleave(each)
    nth = torch.arange(each, device=tokens.device).repeat(rows)
    many, clock = canvas_of(canvas, tokens.flatten(0, 1), owner), _later(clock_of(turn.clock, owner), nth)
    eligible = many.masked & clock.block
    wanted, _ = decoder.wanted(many, clock, eligible)
    positions = pack_positions(wanted, canvas.columns, decoder.most(turn.batch, turn.most))
    here = eligible.gather(1, positions)
    run = decoder.forward
    fed, peeks = zip(*(feed_of(feed, many, owner, each) for feed in turn.plan.feeds), strict=True)
    run.watch.mark("refresh" if len(turn.plan.refreshed) == rows else "forward")
    hidden = Hidden(fed, tuple(run.feed(many, feed)[0] for feed in fed), many)
    run.watch.mark("sampler")
    proposal = run.propose(many, clock, hidden, positions, here, states)
    return Answers(each, positions, here, proposal, tuple(peek for peek in peeks if peek is not None))


def _later(clock: Clock, steps: Int[Tensor, " B"] | int) -> Clock:
    """The clock so many steps later in the same block."""
    return replace(clock, step=clock.step + steps, block_step=clock.block_step + steps)
