"""Learn2PD's loops (ims-kdks/Learning-to-Parallel-Decoding llada/generate.py): our settings for them, how a record
tells of a row that was cut short, and the fault of the dual cache."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace

import torch

import cache
import samplers
from cache.context import PolicyContext
from cache.dual import Dual
from cache.policy import Policy
from cache.run import Run
from dlm.api import Generation
from dlm.engine.interfaces import Cache
from dlm.engine.plan import CacheQuery, ForwardPlan, Layout
from dlm.engine.sampler import Sampler
from dlm.errors import DlmError
from dlm.training.filter_file import read_filter
from scripts.goldens.cases import Case
from scripts.goldens.plan import Fault, Plan, Settings


class FillerError(DlmError):
    """A position that was cut away does not hold the end of the text."""


def learn2pd(case: Case, s: Settings) -> Plan:
    """``generate_learn2parallel``, ``generate_l2p_eot``, and the loops with a cache, which predict the end of the text
    too and rank by float64 probabilities."""
    new, block = s.layout()
    filter, level, steps = read_filter(s.file("filter"), "probability"), s.get("accept_thres"), s.get("steps")
    sampler = samplers.learn2pd(filter, threshold=level, steps=steps, blocks=samplers.Fixed(block))
    ends = (s.get("eot"),)
    plan = Plan(sampler, new, block, end_ids=ends)
    if case.method == "l2p":
        return plan
    kept: dict[str, Cache] = {"l2p_prefix": cache.prefix(), "l2p_dual": cache.dual()}
    faults = (Fault(("stale suffix",), cache=StaleDual()),) if case.method == "l2p_dual" else ()
    precise = replace(sampler, proposer=replace(sampler.proposer, precision="float64"))
    plan = replace(plan, sampler=precise if case.method in kept else sampler, faults=faults)
    return _predicting(plan, kept.get(case.method, cache.none()))


def predict_end(case: Case, s: Settings) -> Plan:
    """``generate_predict_eot``: LLaDA's loop with the same rule. It goes on until no mask is left, or to the end of its
    schedule."""
    new, block = s.layout()
    sampler = samplers.topk(steps=s.get("steps"), blocks=samplers.Fixed(block))
    return _predicting(Plan(sampler, new, block, end_ids=(s.get("eot"),)), cache.none())


def _predicting(plan: Plan, policy: Cache) -> Plan:
    sampler: Sampler = replace(plan.sampler, stop=samplers.EndOfText("reference"))
    return replace(plan, sampler=sampler, cache=policy, shortens=True)


def told(run: Generation, end_id: int) -> Generation:
    """A run as a record tells it: what was cut away is missing from the tokens, and was masked for the last time before
    the call that cut it away, or that committed it.

    Raises:
        FillerError: ours holds something else than the end of the text there.
    """
    assert run.trace is not None
    start, end, steps = run.trace.start, len(run.tokens), [-1] * len(run.tokens)
    for step in run.trace.steps:
        for position in step.positions:
            steps[position - start] = step.step
        if step.cut is not None:
            end = step.cut - start
            steps[end:] = [step.step if before < 0 else before for before in steps[end:]]
    if any(token != end_id for token in run.tokens[end:]) or any(step >= 0 for step in run.commit_step[end:]):
        raise FillerError("what was cut away does not hold the end of the text")
    return replace(run, tokens=run.tokens[:end], commit_step=steps)


class _Stale(Run):
    """A row goes on attending to what it was fed at its last refresh, although a part of that is gone."""

    def __init__(self, policy: Policy, layout: Layout) -> None:
        super().__init__(policy, layout)
        self.reaches: dict[int, int] = {}

    def plan(self, query: CacheQuery) -> ForwardPlan:
        rows = []
        for row in query.rows:
            if self.policy.refreshes(row):
                self.reaches[row.job.index] = row.visible_end
            rows.append(copy(row))
            rows[-1].visible_end = self.reaches[row.job.index]
        return super().plan(replace(query, rows=rows))

    def _context(self, query: CacheQuery) -> PolicyContext:
        columns, context = query.canvas.columns, super()._context(query)
        live = columns < torch.tensor([row.visible_end for row in query.rows], device=columns.device)[:, None]
        there = columns < query.canvas.end[:, None]
        return replace(context, live=live, changed=(self.stamps != query.canvas.tokens) & live & there)


@dataclass(frozen=True)
class StaleDual(Dual):
    """The published dual cache after a cut: keys of positions that are gone are attended to until the next block."""

    def open(self, layout: Layout) -> Run:
        return _Stale(self, layout)
