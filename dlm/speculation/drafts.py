"""Drafts: the states a row will go through if the model's answers stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.sampler_run import SamplerRun, SamplerState
from dlm.engine.step import BlockState, StepView

# The fields of a block state that are one number per row; its open positions follow from them.
COUNTERS = ("step", "block_start", "block_end", "block_step", "block_masks", "block_number", "opened_end")


class Drafts(NamedTuple):
    """States that may come after the present one, those that come first in front.

    Attributes:
        tokens: the whole canvas of each. ``[B, D, W]``
        parent: what each follows: 0 the row as it stands, n the n-th draft; None: each the one before it. ``[B, D]``
        counters: the block state of the step from it, a column for each of ``COUNTERS``; None: that of the row, so many
            steps later. ``[B, D, 7]``
        number: how many of them there are; None: as many as the block has steps left, which the host can tell.
            ``[B]``
    """

    tokens: Int[Tensor, "B D W"]
    parent: Int[Tensor, "B D"] | None = None
    counters: Int[Tensor, "B D C"] | None = None
    number: Int[Tensor, " B"] | None = None


class Chain(NamedTuple):
    """What one set of answers leads to.

    Attributes:
        tokens: the canvas after one step more each. ``[B, L, W]``
        counters: as in :class:`Drafts`; None: nobody asks. ``[B, L, 7]``
        there: which of them are drafts. ``[B, L]``
    """

    tokens: Int[Tensor, "B L W"]
    counters: Int[Tensor, "B L C"] | None
    there: Bool[Tensor, "B L"]


@dataclass(frozen=True)
class DraftBuilder:
    """Makes drafts.

    Attributes:
        rules: whose steps they are.
        spans_blocks: whether a draft may complete its block and go on in the next one.
        counted: whether block states are asked for.
    """

    rules: SamplerRun
    spans_blocks: bool
    counted: bool

    def chain(self, view: StepView, state: SamplerState, length: int) -> Chain:
        """Step from the answers of ``view`` over and over, as if they were those to every state arrived at.

        A state that completes the block is no draft, unless the next block begins there: no answer to it is needed.

        Args:
            view: positions and answers; its canvas is the present state, its block state that of the step that led
                there.
            state: the parts' memories at the present state.
            length: states to draft.
        """
        if not length:
            nothing = view.canvas.tokens[:, None][:, :0]
            none = counters(view.blocks)[:, None][:, :0] if self.counted else None
            return Chain(nothing, none, nothing[..., 0].bool())
        rules, canvas = self.rules, replace(view.canvas, tokens=view.canvas.tokens.clone())
        blocks, trial = view.blocks.later(1), state.copy()
        going = torch.ones_like(blocks.step, dtype=torch.bool)
        blocks, opened = rules.open_blocks(canvas, blocks, trial) if self.spans_blocks else (blocks, None)
        tokens, passed, there = [], [], []
        for _ in range(length):
            open_ = canvas.masked & blocks.block
            eligible = open_.gather(1, view.positions) & view.real
            going = going & eligible.any(dim=1) & (eligible.sum(dim=1) == open_.sum(dim=1))
            at = StepView(canvas, blocks, view.positions, eligible, view.proposal, most=view.most)
            at, chosen, _ = rules.select(rules.narrow(at, opened, trial), trial)
            target = at.positions.masked_fill(~chosen, canvas.scratch)
            canvas = replace(canvas, tokens=canvas.tokens.scatter(1, target, at.proposal.token))
            blocks = at.blocks.later(1)
            if self.spans_blocks:
                blocks, opened = rules.open_blocks(canvas, blocks, trial)
            going = going & chosen.any(dim=1) & (canvas.masked & blocks.block).any(dim=1)
            tokens.append(canvas.tokens)
            if self.counted:
                passed.append(counters(blocks))
            there.append(going)
            if nobody(going):
                break
        counted = torch.stack(passed, dim=1) if passed else None
        return Chain(torch.stack(tokens, dim=1), counted, torch.stack(there, dim=1))


def ranked(
    canvas: Canvas,
    left: Float[Tensor, "B N"],
    entries: tuple[Int[Tensor, "B N"], Int[Tensor, "B N"]],
    pace: int,
    length: int,
) -> Int[Tensor, "B D W"]:
    """The canvases of ``length`` drafts, each of which commits the ``pace`` best positions more by the scores that are
    ``left``, -inf where there is nothing to commit; ``entries``: positions and tokens."""
    scores, order = (x[:, : pace * length] for x in left.sort(dim=1, descending=True, stable=True))
    positions, tokens = (x.gather(1, order) for x in entries)
    number = canvas.columns[: scores.shape[1]]
    steps = pace * (1 + canvas.columns[:length])
    taken = (number < steps[:, None]) & (scores > -torch.inf)[:, None]
    target = torch.where(taken, positions[:, None], canvas.columns[-1])
    drafts = canvas.tokens[:, None].expand(-1, length, -1)
    return drafts.scatter(2, target, tokens[:, None].expand_as(target))


def nobody(rows: Bool[Tensor, " B"]) -> bool:
    """Whether the host knows that no row is meant. It does not wait for another device to find out: steps for nobody
    are queued behind a forward that still runs."""
    return rows.device.type == "cpu" and not bool(rows.any())


def merge(chains: Sequence[Chain]) -> Drafts:
    """All different drafts of several chains from one state: a tree, one state counted once for every way to it."""
    if len(chains) == 1:
        (chain,) = chains
        return Drafts(chain.tokens, None, chain.counters, chain.there.sum(dim=1))
    longest = max(chain.there.shape[1] for chain in chains)
    parts = zip(*(_padded(chain, longest) for chain in chains), strict=True)
    tokens, passed, there = (torch.stack(part, dim=2) for part in parts)  # [B, L, S, ...]
    rows, length, sources = there.shape
    # Which chain stands for each chain at a depth: the first one that has come the same way.
    same_state = (tokens[:, :, :, None] == tokens[:, :, None, :])[..., :-1].all(dim=-1)
    same_place = (passed[:, :, :, None] == passed[:, :, None, :]).all(dim=-1)
    alike = same_state & same_place & there[:, :, :, None] & there[:, :, None, :]
    alike = alike.long().cumprod(dim=1).bool()
    first = alike.long().argmax(dim=3)
    own = torch.arange(sources, device=there.device)
    new = there & (first == own)
    order = (~new).flatten(1).long().sort(dim=1, stable=True).indices
    place = order.argsort(dim=1).view(rows, length, sources)
    above = place[:, :-1].gather(2, first[:, :-1]) + 1
    parent = torch.cat([torch.zeros_like(place[:, :1]), above], dim=1)
    row = torch.arange(rows, device=there.device)[:, None]
    tokens, parent, passed = (
        part[row, order] for part in (tokens.flatten(1, 2), parent.flatten(1), passed.flatten(1, 2))
    )
    return Drafts(tokens, parent, passed, new.flatten(1).sum(dim=1))


def _padded(chain: Chain, length: int) -> Chain:
    """The chain with so many states, the last ones not there."""
    missing = length - chain.there.shape[1]
    assert chain.counters is not None
    pad = torch.nn.functional.pad
    return Chain(
        pad(chain.tokens, (0, 0, 0, missing)),
        pad(chain.counters, (0, 0, 0, missing)),
        pad(chain.there, (0, missing)),
    )


def counters(blocks: BlockState) -> Int[Tensor, "B C"]:
    """A block state as numbers."""
    return torch.stack([getattr(blocks, name) for name in COUNTERS], dim=1)


def blocks_from(numbers: Int[Tensor, "B C"], canvas: Canvas) -> BlockState:
    """And back; ``canvas`` has a row for each."""
    values = dict(zip(COUNTERS, numbers.unbind(dim=1), strict=True))
    return BlockState(**values, block=canvas.inside(values["block_start"], values["block_end"]))
