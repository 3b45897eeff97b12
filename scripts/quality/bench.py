"""The points of the benchmark, found by what they were set to."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from dlm.report.figures import Figures, figures_of

ONE_ANSWER = (
    "waiting_line/copy", "waiting_line/reverse", "waiting_line/sort", "waiting_line/replace_index",
    "waiting_line/insert_index", "waiting_line/remove_index", "arithmetic/addition", "puzzle/sudoku",
)  # fmt: skip
MANY_ANSWERS = (
    "waiting_line/shuffle", "waiting_line/replace_random", "waiting_line/insert_random", "waiting_line/remove_random",
    "puzzle/latin_square", "text/story",
)  # fmt: skip
TASKS = (*ONE_ANSWER, *MANY_ANSWERS, "math/word_problem")
LISTS = tuple(task for task in TASKS if task.startswith("waiting_line"))
TEXT = "text/story"
BUDGETS = (1, 2, 4, 8)
LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LENGTHS = (2, 4, 8, 16, 32)
CACHES = ("none", "prefix", "dual", "vicinity", "dkv_decode", "entropy", "adaptive")
FLAT, FALL, EQUAL = 5.0, 20.0, 1.0  # points: at most so much is flat, at least so much is a fall, so much is equal


class Bench:
    """The points of the benchmark, found by what they were set to."""

    def __init__(self, folder: Path) -> None:
        self.figures = figures_of([folder])
        self.unfinished = [f for f in self.figures if f.row.status != "done"]
        self._by_task: dict[str, list[Figures]] = {}
        for figures in self.figures:
            self._by_task.setdefault(figures.row.task, []).append(figures)

    def find(self, task: str, **settings: Any) -> Figures:
        """The only point of a task with these settings; ``__`` stands for the dot, ``blocks__length`` say.

        Raises:
            SystemExit: there is none, or more than one.
        """
        wanted = {key.replace("__", "."): value for key, value in settings.items()}
        wanted.setdefault("cache", "none")
        found = [f for f in self._by_task.get(task, []) if all(of(f, k) == v for k, v in wanted.items())]
        if len(found) != 1:
            raise SystemExit(f"{task} has {len(found)} points with {wanted}: run `make bench-quality` to its end")
        return found[0]


def of(figures: Figures, key: str) -> Any:
    """A value of a point's configuration; a group alone means its choice."""
    node: Any = figures.result.point.config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node.get("choice") if isinstance(node, dict) and "choice" in node else node


def topk(bench: Bench, task: str, budget: int, sampler: str = "topk") -> Figures:
    """A fixed budget in blocks of 16."""
    return bench.find(task, sampler=sampler, sampler__tokens_per_step=budget, blocks__length=16)


def at(bench: Bench, task: str, level: float) -> Figures:
    """The confidence threshold in blocks of 16."""
    return bench.find(task, sampler="threshold", sampler__threshold=level, blocks__length=16)


def mean(values: Iterable[float]) -> float:
    """Mean of scores in [0, 1], in percent."""
    return 100 * fmean(values)


def length(bench: Bench, task: str, size: int) -> Figures:
    """Two tokens a forward in blocks of ``size``."""
    return bench.find(task, sampler="topk", sampler__tokens_per_step=2, blocks__length=size)


def cached(bench: Bench, task: str, cache: str) -> Figures:
    """Threshold 0.9 in blocks of 8 with a cache."""
    return bench.find(task, sampler="threshold", sampler__threshold=0.9, blocks__length=8, cache=cache)
