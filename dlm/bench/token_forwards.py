"""How many positions a cache must feed, counted on paper: what the measured counts are held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Paper:
    """One row that commits one position per step, in blocks from left to right."""

    # prompt, generation: positions given, and positions to fill
    prompt: int
    generation: int
    block: int  # positions of a block

    @property
    def row(self) -> int:
        """Positions of the row."""
        return self.prompt + self.generation

    def steps(self) -> list[tuple[int, int, int]]:
        """Per step: its number, its number within the block, and the first position of the block."""
        return [(t, t % self.block, self.prompt + t - t % self.block) for t in range(self.generation)]


def on_paper(name: str, cache: Any, paper: Paper) -> float | None:
    """Token-forwards of a whole generation by its closed form; None: there is none for this cache.

    Two forms are ours: FreeCache feeds every finished block once more (its delay, put right), and dKV-PD is counted as
    dKV-Decode without the prompt. That of dLLM-Cache leaves out that its first layer is always recomputed, and of
    dKV-Greedy's window counts the masks there still are.

    Args:
        name: name of a preset.
        cache: the cache with its settings.
        paper: what is decoded.
    """
    form = _FORMS.get(name)
    if form is None or getattr(cache, "every", None) is not None or getattr(cache, "ahead", None) is not None:
        return None
    if getattr(cache, "cadence", "seeded") != "seeded":
        return None
    return sum(form(cache, paper, *step) for step in paper.steps())


def _vicinity(cache: Any, p: Paper, t: int, i: int, start: int) -> float:
    left = 0 if cache.before is None else max(0, start - cache.before)
    right = p.row if cache.after is None else min(p.row, start + p.block + cache.after)
    return p.row if t < cache.warmup or i == 0 else right - left


def _greedy(cache: Any, p: Paper, t: int, i: int, start: int) -> float:
    near = 1 + min(1 + cache.window, p.generation - t)
    return p.row if i % cache.interval == 0 else min(p.row, near)


def _free(cache: Any, p: Paper, t: int, i: int, start: int) -> float:
    again = p.block if i == 0 else 0
    return p.row if t == 0 else p.row - start + again


def _features(cache: Any, p: Paper, t: int, i: int, start: int) -> float:
    # A value alone is a thirteenth of a position's projections where the MLP is three times as wide (LLaDA).
    chosen = cache.ratio * 12 / 13 + 1 / 13
    prompt = p.prompt if t % cache.prompt_interval == 0 else 0
    return prompt + p.generation * (1 if t % cache.interval == 0 else chosen)


def _undecided(p: Paper, t: int) -> int:
    """Masks at step t, and what was committed at the step before."""
    return p.generation - max(0, t - 1)


# Name -> (cache, paper, step, step of the block, start of the block) -> positions fed at the step.
_FORMS: dict[str, Callable[[Any, Paper, int, int, int], float]] = {
    "none": lambda c, p, t, i, s: p.row,
    "prefix": lambda c, p, t, i, s: p.row if i == 0 else p.row - s,
    "dual": lambda c, p, t, i, s: p.row if i == 0 else p.block,
    "vicinity": _vicinity,
    "dkv_decode": lambda c, p, t, i, s: p.row if t % c.interval == 0 else _undecided(p, t),
    "dkv_greedy": _greedy,
    "dkv_prefill": lambda c, p, t, i, s: p.row if t == 0 else p.generation,
    "dkv_pd": lambda c, p, t, i, s: p.row if t == 0 else p.generation if t % c.interval == 0 else _undecided(p, t),
    "dllm": _features,
    "freecache": _free,
    "sparse": lambda c, p, t, i, s: p.row if i <= 1 else p.block,
}
