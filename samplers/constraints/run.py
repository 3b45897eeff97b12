"""Proposals that go together: maxima and sums over all ways through an automaton."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas, Job
from dlm.engine.constraint import ConstraintRun
from dlm.engine.noise import Purpose, uniform
from dlm.engine.proposal import BANNED, Proposal, Proposer, Vocabulary, truncated
from dlm.engine.step import BlockState
from dlm.errors import PromptError
from samplers.constraints.language import Language

# What a class costs, in nats, all of whose tokens were cut by top_k or top_p: it is taken where nothing else fits.
_CUT = 60.0
# The longest answer that is looked for to say how many positions one takes.
_FAR = 4096


@dataclass
class RegularRun(ConstraintRun):
    """A regular language at work.

    Attributes:
        language: what is allowed.
        vocabulary: which ids may be proposed.
        proposer: how tokens are taken from the logits.
    """

    language: Language
    vocabulary: Vocabulary
    proposer: Proposer
    _fits: list[Bool[Tensor, " S"]] = field(default_factory=list, init=False)  # by the masks that are left

    def admit(self, job: Job) -> None:
        """See :class:`dlm.engine.constraint.ConstraintRun`."""
        lang, mask, region = self.language, self.vocabulary.mask_id, job.tokens[job.start : job.shown_end]
        ahead, given = self.fits(0), False
        for place, token in enumerate(reversed(region), start=1):
            if token != mask:
                ahead, given = _padded(ahead[None])[0, lang.by(token)], True
            else:
                ahead = self._before(ahead) if given else self.fits(place)
        if bool(ahead[lang.start]):
            return
        if given:
            raise PromptError(f"prompt {job.index}: no answer that the constraint allows has the given tokens")
        shortest = next((n for n in range(_FAR) if bool(self.fits(n)[lang.start])), None)
        raise PromptError(
            f"prompt {job.index}: no answer that the constraint allows fits {len(region)} positions; the shortest takes"
            f" {shortest if shortest is not None else f'more than {_FAR}'}: set max_new_tokens accordingly"
        )

    def fits(self, masks: int) -> Bool[Tensor, " S"]:
        """States from which an answer fits so many masks and nothing else."""
        if not self._fits:
            self._fits.append(self.language.final)
        while len(self._fits) <= masks:
            self._fits.append(self._before(self._fits[-1]))
        return self._fits[masks]

    def _before(self, ahead: Bool[Tensor, " S"]) -> Bool[Tensor, " S"]:
        return _padded(ahead[None])[:, self.language.next][0].any(dim=1)

    def weigh(self, logits: Float[Tensor, "R V"], uniforms: Float[Tensor, " R"] | None) -> Float[Tensor, "R C F"]:
        """Of each class: its weight in the choice (the log-probability of its best token, or above temperature 0 the
        logarithm of its mass), the logarithm of its mass, the token it stands for, and that one's share of the mass."""
        # The mask id is in no class, so that it makes no difference whether it competes.
        logs = logits.double().log_softmax(dim=1)
        drawn, lang = logs, self.language
        if self.proposer.temperature > 0:
            drawn = truncated(logits, self.vocabulary, self.proposer).double().log_softmax(dim=1)
        told = drawn if self.proposer.confidence == "filtered" else logs
        mass, _, _ = self._masses(told, None)
        weight, place, best = self._masses(drawn, uniforms)
        token = lang.members[place]
        if self.proposer.temperature == 0:
            weight = best
        else:  # what was cut stays possible, at a price: where nothing else fits, it is taken
            everything, uncut, _ = self._masses(logs / self.proposer.temperature, uniforms)
            token = torch.where(best > BANNED / 2, token, lang.members[uncut])
            weight = torch.logaddexp(weight.clamp_min(BANNED), everything - _CUT)
        share = (told.gather(1, token) - mass).nan_to_num(nan=-torch.inf).clamp_max(0.0)
        return torch.stack([weight, mass, token.double(), share], dim=2)

    def _masses(
        self, logs: Float[Tensor, "R V"], uniforms: Float[Tensor, " R"] | None
    ) -> tuple[Float[Tensor, "R C"], Int[Tensor, "R C"], Float[Tensor, "R C"]]:
        """The logarithm of each class's mass, the place of the token drawn from it (without ``uniforms`` its best one,
        of equal ones the lowest id), and its best log-probability."""
        lang = self.language
        inside, first = logs[:, lang.members], lang.first
        classes = lang.of[lang.members].expand_as(inside)
        best = inside.new_full((logs.shape[0], lang.classes), -torch.inf).scatter_reduce(1, classes, inside, "amax")
        ahead = best.gather(1, classes)
        # Relative to the best of its class every sum keeps its digits, however small the class is.
        running = torch.nn.functional.pad((inside - ahead).nan_to_num(nan=0.0).exp().cumsum(dim=1), (1, 0))
        low, high = running[:, first[:-1]], running[:, first[1:]]
        if uniforms is None:
            order = torch.arange(inside.shape[1], device=logs.device)
            hit = torch.where(inside == ahead, order, inside.shape[1] - 1)
            place = torch.full_like(best, inside.shape[1] - 1, dtype=torch.long).scatter_reduce(1, classes, hit, "amin")
        else:
            target = low + uniforms.double()[:, None] * (high - low)
            place = torch.searchsorted(running[:, 1:].contiguous(), target.contiguous(), right=True)
            place = torch.minimum(torch.maximum(place, first[:-1]), first[1:] - 1)
        return best + (high - low).log(), place, best

    def settle(
        self, canvas: Canvas, blocks: BlockState, positions: Int[Tensor, "B N"], proposal: Proposal, longest: int
    ) -> Proposal:
        """See :class:`dlm.engine.constraint.ConstraintRun`."""
        assert proposal.weighed is not None
        draws = uniform(canvas.key, blocks.step, Purpose.CLASS, positions) if self.proposer.temperature > 0 else None
        ways = Ways(self.language, self.fits, canvas, positions, proposal.weighed, longest)
        chosen = ways.best() if draws is None else ways.drawn(draws)
        here = ways.of_entries(chosen)
        told = proposal.weighed.gather(2, here[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        sure = (ways.of_entries(ways.sure(chosen)) + told[..., 3]).exp()
        return proposal.settled(canvas.masked.gather(1, positions), told[..., 2].long(), sure)


class Ways:
    """All ways through a language that fit what stands on each row.

    What is done in vain is left out: what stands before the first open position of all rows leads to one state, and
    what lies behind the last proposal, where nothing stands, fits or does not. That costs a wait for the device, and
    saves hundreds of its kernels.

    Args:
        language: with ``S`` states and ``C`` classes.
        fits: states from which an answer fits so many masks. ``[S]``
        canvas, positions: where the proposals are. ``[B, N]``
        weighed: what :meth:`RegularRun.weigh` said of them. ``[B, N, C, 4]``
        longest: ``L``, the positions of the longest generated region.
    """

    def __init__(
        self,
        language: Language,
        fits: Callable[[int], Bool[Tensor, " S"]],
        canvas: Canvas,
        positions: Int[Tensor, "B N"],
        weighed: Float[Tensor, "B N C 4"],
        longest: int,
    ) -> None:
        self.lang, self.positions = language, positions
        (rows, entries), width = positions.shape, canvas.tokens.shape[1]
        place = canvas.start[:, None] + torch.arange(longest, device=positions.device)
        end = torch.minimum(canvas.end, canvas.asked)
        self.inside = place < end[:, None]
        place = place.clamp_max(canvas.scratch)
        number = torch.arange(entries, device=positions.device).expand(rows, entries)
        index = torch.full((rows, width), entries, device=positions.device).scatter(1, positions, number)
        index[:, -1] = entries
        self.open = canvas.masked.gather(1, place)
        self.entry = index.gather(1, place)  # which proposal is for it; N: none
        self.free = self.open & (self.entry == entries)
        classes = language.of[canvas.tokens.gather(1, place)]
        told = self.inside & ~self.free
        number = torch.arange(longest, device=positions.device)
        first = torch.where(self.open & self.inside, number, longest).amin()
        last = torch.where(told, number, -1).amax() + 1
        self.first, self.last, *left = torch.cat([first[None], last[None], end - canvas.start]).tolist()
        self.first = min(self.first, self.last)
        final = torch.stack([fits(max(0, own - self.last)) for own in left])
        self.final = torch.zeros(final.shape, dtype=weighed.dtype, device=final.device).masked_fill(~final, -torch.inf)
        self.state = torch.full_like(canvas.start, language.start)
        onward = torch.nn.functional.pad(language.next, (0, 1, 0, 1), value=language.dead)
        for i in range(self.first):
            self.state = torch.where(self.inside[:, i], onward[self.state, classes[:, i]], self.state)
        # A version of a row that somebody made may hold what no answer has: nothing is sure there.
        self.alive = self.state < language.dead
        self.state = self.state.clamp_max(language.dead - 1)
        window = slice(self.first, self.last)
        self.inside, self.open, self.free = self.inside[:, window], self.open[:, window], self.free[:, window]
        self.entry, classes = self.entry[:, window], classes[:, window]
        self.stands = torch.nn.functional.one_hot(classes, language.classes + 1)[..., :-1].bool()
        self.weighed = torch.nn.functional.pad(weighed, (0, 0, 0, 0, 0, 1))  # what nobody proposes for may be anything
        self.start, self.places = canvas.start, self.last - self.first

    def weights(self, kind: int) -> Float[Tensor, "B L C"]:
        """The weight of each class at each place: 0 and nothing else for what stands there."""
        rows = torch.arange(self.entry.shape[0], device=self.entry.device)[:, None]
        open_ = self.weighed[rows, self.entry, :, kind]
        given = torch.zeros_like(open_).masked_fill(~self.stands, -torch.inf)
        return torch.where(self.open[..., None], open_, given)

    def ahead(self, weights: Float[Tensor, "B L C"], sums: bool) -> list[Float[Tensor, "B S"]]:
        """For every place the weight of the best way from each state to the end; or of all of them together."""
        lang, value = self.lang, self.final
        values = [value]
        for i in reversed(range(self.places)):
            each = value[:, lang.target] + weights[:, i, lang.by_class]
            here = _largest(each, lang.source, lang.dead)
            if sums:  # what nobody proposes for is possible or not: more ways are no better
                here = torch.where(self.free[:, i, None], here, _summed(each, lang.source, here))
            value = torch.where(self.inside[:, i, None], here, value)
            values.append(value)
        return values[::-1]

    @cached_property
    def _rows(self) -> Int[Tensor, " B"]:
        return torch.arange(self.entry.shape[0], device=self.entry.device)

    def best(self) -> Int[Tensor, "B L"]:
        """The classes of the best way, at each place from the first open one on."""
        return self._along(self.weights(0), False, None)

    def drawn(self, uniforms: Float[Tensor, "B N"]) -> Int[Tensor, "B L"]:
        """The classes of one drawn from all ways, with a uniform for each proposal."""
        padded = torch.nn.functional.pad(uniforms.double(), (0, 1), value=0.5)
        return self._along(self.weights(0), True, padded.gather(1, self.entry))

    def _along(
        self, weights: Float[Tensor, "B L C"], sums: bool, uniforms: Float[Tensor, "B L"] | None
    ) -> Int[Tensor, "B L"]:
        ahead, taken = self.ahead(weights, sums), []
        state = self.state
        for i in range(self.places):
            values = weights[:, i] + _padded(ahead[i + 1])[self._rows[:, None], self.lang.next[state]]
            one = values.argmax(dim=1)
            if uniforms is not None:
                running = values.softmax(dim=1).cumsum(dim=1)
                pick = (running <= uniforms[:, i, None] * running[:, -1:]).sum(dim=1)
                possible = values.gather(1, pick.clamp_max(values.shape[1] - 1)[:, None])[:, 0] > -torch.inf
                one = torch.where(possible & ~self.free[:, i], pick.clamp_max(values.shape[1] - 1), one)
            taken.append(one)
            state = torch.where(self.inside[:, i], self.lang.next[state, one].clamp_max(self.lang.dead - 1), state)
        return torch.stack(taken, dim=1)

    def sure(self, chosen: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """The logarithm of the share of each place's class among all ways."""
        weights, lang = self.weights(1), self.lang
        ahead = self.ahead(weights, True)
        behind = torch.full_like(ahead[0], -torch.inf)
        behind = behind.scatter(1, self.state[:, None], 0.0)
        shares = []
        for i in range(self.places):
            each = behind[:, lang.source] + weights[:, i, lang.by_class]
            onward = each + ahead[i + 1][:, lang.target]
            mine = onward.masked_fill(lang.by_class != chosen[:, i, None], -torch.inf)
            shares.append(mine.logsumexp(dim=1) - onward.logsumexp(dim=1))
            summed = _summed(each, lang.target, _largest(each, lang.target, lang.dead))
            behind = torch.where(self.inside[:, i, None], summed, behind)
        told = torch.stack(shares, dim=1).nan_to_num(nan=-torch.inf).clamp_max(0.0)
        return told.masked_fill(~self.alive[:, None], -torch.inf)

    def of_entries(self, places: Tensor) -> Tensor:
        """What belongs to the places of the region, by proposal. ``[B, N]``"""
        return places.gather(1, (self.positions - self.start[:, None] - self.first).clamp(0, self.places - 1))


def _largest(values: Float[Tensor, "B E"], state: Int[Tensor, " E"], states: int) -> Float[Tensor, "B S"]:
    """The largest value of each state's edges."""
    none = values.new_full((values.shape[0], states), -torch.inf)
    return none.scatter_reduce(1, state.expand_as(values), values, "amax")


def _summed(
    values: Float[Tensor, "B E"], state: Int[Tensor, " E"], largest: Float[Tensor, "B S"]
) -> Float[Tensor, "B S"]:
    """The logarithm of the sum over each state's edges of what the values are logarithms of."""
    peak = largest.clamp_min(BANNED)
    parts = (values - peak[:, state]).exp()
    return torch.zeros_like(peak).scatter_add(1, state.expand_as(values), parts).log() + peak


def _padded(values: Tensor) -> Tensor:
    """With a last column for where nothing leads on."""
    dead = False if values.dtype == torch.bool else -torch.inf
    return torch.nn.functional.pad(values, (0, 1), value=dead)
