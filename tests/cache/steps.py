"""A cache driven by hand, one forward at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

import samplers
from dlm.engine.canvas import Canvas, Job, SpecialIds
from dlm.engine.forward import Forward, Hidden
from dlm.engine.plan import Branches, CacheQuery, Layout
from dlm.engine.proposal import Proposal, Vocabulary
from dlm.engine.row import Row
from dlm.engine.step import BlockState, StepView
from dlm.engine.stopwatch import Stopwatch


class Stepper:
    """Rows with their first block open; :meth:`forward` asks the cache and the model, :meth:`finish` ends the step."""

    def __init__(
        self, model: Any, policy: Any, prompts: Sequence[list[int]], new: int = 16, block: int = 8, static: bool = False
    ) -> None:
        d = model.description
        self.model, self.policy = model, policy
        jobs = [
            Job(i, (*prompt, *[d.mask_id] * new), len(prompt), tuple(range(len(prompt), len(prompt) + new)), 0)
            for i, prompt in enumerate(prompts)
        ]
        self.canvas = Canvas.of(
            jobs, max(job.end for job in jobs), SpecialIds(d.mask_id, d.eos_ids), torch.device("cpu")
        )
        self.rows = [Row.of(job) for job in jobs]
        shape = self.canvas.tokens.shape
        layers = model.backbone.arch.layers
        layout = Layout(*shape, d.shift, d.attention_block, 1, static, torch.device("cpu"), layers=layers)
        self.run = policy.open(layout)
        zero = torch.zeros_like(self.canvas.start)
        self.blocks = BlockState(zero, zero, zero, zero, zero, self.canvas.writable, zero, zero)
        self.open_block(0, block)
        vocabulary = Vocabulary(d.mask_id, d.vocab_size, d.valid_vocab, ())
        sampler = samplers.topk()
        watch = Stopwatch(torch.device("cpu"))
        self.body = Forward(model.backbone, sampler, frozenset(), vocabulary, watch, block, d.shift)

    def open_block(self, number: int, block: int = 8) -> None:
        """Make the block with this number the active one of every row."""
        start = self.canvas.start + number * block
        inside = self.canvas.inside(start, start + block)
        zero = torch.zeros_like(start)
        masks = (self.canvas.masked & inside).sum(dim=1)
        self.blocks = BlockState(self.blocks.step, start, start + block, zero, masks, inside, zero, start + block)
        for row in self.rows:
            row.block_steps = 0

    @torch.inference_mode()
    def forward(self) -> torch.Tensor:
        """Logits of every position of the block. ``[B, block, V]``"""
        self.ask()
        sets = tuple(self.body.feed(self.canvas, feed)[0] for feed in self.plan.feeds)
        self.hidden = Hidden(self.plan.feeds, sets, self.canvas)
        self.logits = self._logits(self.hidden, self.blocks)
        return self.logits

    def ask(self) -> None:
        """Have the cache plan the next forward."""
        eligible = self.canvas.masked & self.blocks.block
        self.plan = self.run.plan(CacheQuery(self.canvas, self.blocks, eligible, eligible, self.rows))

    @torch.inference_mode()
    def evaluate(self, versions: Branches, layout: str) -> torch.Tensor:
        """Logits of every position of the block of each version. ``[V, block, V]``"""
        plan = self.run.spread(versions)
        sets = self.body.branch_states(versions, plan, layout == "tree")
        return self._logits(Hidden(plan.feeds, sets, versions.canvas), versions.blocks)

    def _logits(self, hidden: Hidden, blocks: BlockState) -> torch.Tensor:
        block = int(blocks.block_end[0] - blocks.block_start[0])
        wanted = blocks.block_start[:, None] + torch.arange(block)
        rows = hidden.rows(self.model.description.shift, wanted)[0]
        return self.model.backbone.head(rows).view(*wanted.shape, -1)

    def commit(self, tokens: dict[int, int], row: int = 0) -> None:
        """Write tokens into a row, as a step would."""
        for place, token in tokens.items():
            self.canvas.tokens[row, place] = token
            self.canvas.commit_step[row, place] = self.blocks.step[row]

    @torch.inference_mode()
    def finish(self) -> None:
        """End of the step."""
        nowhere = torch.full((len(self.rows), 1), self.canvas.scratch)
        nothing = torch.zeros(len(self.rows), 1)
        view = StepView(self.canvas, self.blocks, nowhere, nothing.bool(), Proposal(nowhere, nothing, entropy=nothing))
        report = self.run.end(view, nothing.bool())
        for slot, row in enumerate(self.rows):
            row.cache = {name: int(values[slot]) for name, values in report.items()}
            row.steps += 1
            row.block_steps += 1
        blocks = self.blocks
        self.blocks = replace(blocks, step=blocks.step + 1, block_step=blocks.block_step + 1)
