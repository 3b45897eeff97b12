"""Which presets the recorded runs cover, and why the others have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cache
import samplers
from scripts.goldens.explain import Verdict
from scripts.goldens.plan import Plan

# Presets without a recorded run of somebody else's code, and what holds them instead.
WITHOUT: dict[str, str] = {
    "sched": "its authors' code was not at hand; worked examples",
    "lopa": "33 runs of the authors' loop, tests/data/lopa",
    "info_gain": "33 runs of the authors' sampler, tests/data/info_gain",
    "core": "27 runs of the authors' loop, tests/data/core",
    "soar": "27 runs of the authors' loop, tests/data/soar",
    "punt": "its authors' code was not at hand; a worked example and a naive loop",
    "policy": "after the paper, its weights ours; a worked example",
    "dus": "its authors' code was not at hand; worked examples",
    "profiled": "its authors' code was not at hand; the law against the exact model and every schedule of small lists",
    "unlock": "ours; worked examples, and the controls of the oracle",
    "overlap": "ours; a naive loop, and the controls of the oracle",
    "verified": "ours; a naive loop, and the controls of the oracle",
    "freecache": "its authors' code was not at hand; exact in one layer, counts in closed form",
    "window": "ours, one rule after three papers; exact in one layer",
    "entropy": "its authors' code was not at hand; exact in one layer",
    "block_causal": "loops of the block-diffusion families; exact against a recomputed row",
    "recap": "published for images only; exact in one layer",
    "adaptive": "ours",
    "surelock": "its authors' code was not at hand; a worked example, exact in one layer",
    "dsb": "36 runs of DSB's loop, tests/data/dsb",
    "elastic": "35 runs of the authors' loop and attention, tests/data/elastic",
    "dkv_pd": "not recorded; exact in one layer, counts in closed form",
}


@dataclass
class Coverage:
    """The recorded runs of one preset.

    Attributes:
        methods: the methods they belong to.
        matched, explained: how many.
    """

    methods: set[str] = field(default_factory=set)
    matched: int = 0
    explained: int = 0

    def add(self, method: str, verdict: Verdict) -> None:
        """Count a run that was compared."""
        if verdict.status in ("matched", "explained"):
            self.methods.add(method)
            self.matched += verdict.status == "matched"
            self.explained += verdict.status == "explained"


def covered(
    verdicts: Mapping[str, Verdict], plans: Mapping[str, tuple[str, Plan]]
) -> tuple[dict[str, Coverage], dict[str, Coverage], Coverage]:
    """Runs by sampler preset, by cache preset, and of FreeDave; all by the ids of cases."""
    by_sampler = {name: Coverage() for name in samplers.PRESETS}
    by_cache = {name: Coverage() for name in cache.PRESETS}
    classes = {type(getattr(cache, name)()): name for name in reversed(cache.PRESETS)}
    classes[cache.SubBlocks] = "block_causal"
    drafted = Coverage()
    for case, (method, plan) in plans.items():
        if plan.sampler.name in by_sampler:
            by_sampler[plan.sampler.name].add(method, verdicts[case])
        own = "block_causal" if plan.attention_block else "none"  # without one of the reference's: the exact one
        by_cache[own if plan.cache is None else classes[type(plan.cache)]].add(method, verdicts[case])
        if plan.draft_length is not None and plan.draft_length > 1:
            drafted.add(method, verdicts[case])
    return by_sampler, by_cache, drafted


def table(found: Mapping[str, Coverage], what: str) -> list[str]:
    """A row for every preset."""
    lines = [f"| {what} | recorded runs | matched | explained | methods, or why there are none |"]
    lines.append("|---|---|---|---|---|")
    for name, runs in found.items():
        note = WITHOUT.get(name, "none recorded")
        further = not runs.methods or note[:1].isdigit()  # runs that lie elsewhere, not why there are none
        told = "; ".join(filter(None, (_several(sorted(runs.methods)), note if further else "")))
        total = runs.matched + runs.explained
        lines.append(f"| `{name}` | {total} | {runs.matched} | {runs.explained} | {told} |")
    return lines


def _several(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")
