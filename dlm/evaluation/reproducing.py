"""Recipes run by the evaluation, and what was published beside what was measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import hypot
from pathlib import Path
from typing import Any

from dlm.configuration import Composer
from dlm.errors import SettingsError
from dlm.evaluation.grid import Choice
from dlm.evaluation.intervals import wilson
from dlm.evaluation.runner import Ready, prepare
from dlm.evaluation.store import METRICS, read_json, read_samples
from dlm.evaluation.sweeps import Sweep
from dlm.overrides import choices, config_dir, quoted
from dlm.recipes import Recipe, at_hand

PACKAGED = ("tiny", "tiny-block")  # models that are always at hand
MEASURED = ("questions", "accuracy", "accuracy_low", "accuracy_high", "forwards", "tokens_per_second", "as_published")
POSITIONS = 32  # what a packaged model is given of a recipe's canvas: it has a context of 512 characters


@dataclass(frozen=True)
class Order:
    """What is asked of the recipes.

    Attributes:
        limit: questions of each task; None: all there are.
        model: another model for all of them; None: each its own.
        data: a folder with ``TASK.jsonl`` (and ``TASK-train.jsonl`` for worked examples); None: where the task finds
            its data by itself, of the packaged models two short questions a task that come with the recipes.
        out: results are kept in ``out/<task>/<sampler>-<hash>``.
        download: whether models and data may be fetched from the hub.
        rest: further overrides for every point.
    """

    limit: int | None = None
    model: str | None = None
    data: Path | None = None
    out: str = "reproduced"
    download: bool = False
    rest: tuple[str, ...] = ()

    def settings(self, recipe: Recipe) -> list[str]:
        """The overrides of ``dlm eval`` that run a recipe."""
        wanted, beside = recipe, [f"task.limit={json.dumps(self.limit)}", f"out={quoted(self.out)}", *self.rest]
        if self.model in PACKAGED:
            packaged = "tiny-block" if recipe.settings.get("cache") == "block_causal" else self.model
            wanted, beside = shrunk(recipe), [f"model={packaged}", *beside]
        elif self.model is not None:
            beside = [f"model={self.model}", *beside]
        folder = self.data or (config_dir() / "recipe" / "stand_in" if self.model in PACKAGED else None)
        for key, name in (("path", recipe.task), ("shots_path", f"{recipe.task}-train")):
            if folder is not None and (file := folder / f"{name}.jsonl").is_file():
                beside.append(f"task.{key}={quoted(str(file))}")
        return wanted.overrides(beside)


@dataclass(frozen=True)
class Line:
    """What became of a recipe: its point, or why it cannot be run here; its figures, where there are some; and what
    their difference from the published accuracy says."""

    recipe: Recipe
    overrides: tuple[str, ...] = ()
    ready: Ready | None = None
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    difference: str = ""

    def record(self) -> dict[str, Any]:
        """As plain values: published figures by source, and measured ones."""
        published = [{"source": f.source, **f.values} for f in self.recipe.published]
        measured = {key: self.figures.get(key) for key in MEASURED}
        about = {"difference": self.difference, "not_run": self.reason}
        return {"recipe": self.recipe.name, "published": published, **measured, **about}


def shrunk(recipe: Recipe, positions: int = POSITIONS) -> Recipe:
    """A recipe for a small model: as many positions as it has room for, steps in proportion, no worked examples and no
    filter but its own. It runs every part of the recipe; its figures mean nothing beside the published ones."""
    whole, settings = int(recipe.settings["max_new_tokens"]), dict(recipe.settings)
    share = min(1.0, positions / whole)
    settings["max_new_tokens"] = min(whole, positions)
    for key, value in recipe.settings.items():
        if key in ("blocks.length", "sampler.length"):
            settings[key] = min(value, positions)
        elif key in ("sampler.steps", "sampler.answer_start"):
            settings[key] = max(1, int(value * share))
    settings |= {key: 0 for key in settings if key == "task.shots"}
    settings.pop("task.shots_path", None)
    return replace(recipe, settings=settings)


def _prepared(recipes: Sequence[Recipe], order: Order) -> list[Line]:
    """Each recipe's point, checked; or in one line why it cannot be run here, and what to do."""
    composer, unread = Composer("eval"), dict[str, str]()
    lines = []
    for recipe in recipes:
        overrides = tuple(order.settings(recipe))
        reason = missing(recipe, order) or unread.get(recipe.task, "")
        ready = None
        if not reason:
            try:
                ready = prepare(composer(overrides))
            except SettingsError as error:
                reason = str(error).strip().splitlines()[0]
                if "task.path" in reason:  # what cannot be read is not looked for again
                    reason = unread[recipe.task] = f"data not at hand: {reason} ({_data(recipe)})"
        lines.append(Line(recipe, overrides, ready, reason))
    return lines


def missing(recipe: Recipe, order: Order) -> str:
    """Why a recipe's task or model is not here; empty: both are, or may be fetched."""
    if recipe.task not in choices("task"):
        return f"task not at hand: this version has no task {recipe.task!r} ({_data(recipe)})"
    name = order.model or recipe.settings["model"]
    if order.download or name in PACKAGED or Path(str(name)).expanduser().is_dir():
        return ""
    from huggingface_hub import try_to_load_from_cache

    repository = recipe.model if order.model is None else str(order.model)
    about = at_hand()["models"].get(recipe.settings["model"] if order.model is None else name)
    if "/" not in repository:
        if about is None:
            return f"model {repository!r} is neither one of conf/model nor a folder"
        repository = about["repository"]
    if isinstance(try_to_load_from_cache(repository, "config.json"), str):
        return ""
    size = "" if about is None else f", {gigabytes(about):.0f} GB"
    gate = ", which asks for a login (huggingface-cli login)" if about and about.get("gated") else ""
    return f"model not at hand: huggingface-cli download {repository}{size}{gate}; or download=true"


def gigabytes(about: dict[str, Any]) -> float:
    """What a model's weights take in bfloat16, by its shape."""
    heads, kv, width = about["heads"], about["kv_heads"], about["width"]
    head = about.get("head", width // heads)
    layer = 2 * width * head * (heads + kv) + 3 * width * about["mlp"]
    return 2 * (about["layers"] * layer + 2 * width * about["vocabulary"]) / 1e9


def _data(recipe: Recipe) -> str:
    about = at_hand()["tasks"].get(recipe.task)
    if about is None:
        return "its questions are the task's own"
    return f"{recipe.questions:,} questions of huggingface.co/datasets/{about['data']}, about {about['megabytes']} MB"


def reproduced(recipes: Sequence[Recipe], order: Order) -> list[Line]:
    """Run in this process what can be run; what is done already is not done again, and a point that several recipes
    share is asked once."""
    lines, failed = _prepared(recipes, order), dict[str, str]()
    points: list[Choice] = [dict(o.split("=", 1) for o in line.overrides) for line in lines if line.ready is not None]
    if points:
        sweep = Sweep.of(points)
        events = sweep.run(sweep.begin(1, []), 1, []) if sweep.cost().answers else {}
        failed = {entry.folder: e.message for entry in sweep.entries if (e := events.get(entry.key)) and e.message}
    done = []
    for line in lines:
        if line.ready is not None:
            line = replace(line, figures=_figures(line, line.ready), reason=failed.get(str(line.ready.folder), ""))
        done.append(replace(line, difference=_difference(line, order.model)))
    return done


def _figures(line: Line, ready: Ready) -> dict[str, Any]:
    """``metrics.json``, and ``as_published``: tokens a second as the source of the recipe counts them."""
    figures = read_json(ready.folder / METRICS)
    if not figures.get("n"):
        return {}
    counts, seconds = line.recipe.texts.get("counts"), figures["seconds"] or float("inf")
    if counts is not None:
        prompts = sum(sample.prompt_tokens for sample in read_samples(ready.folder)) if "prompt" in counts else 0
        figures["as_published"] = figures["tokens_per_second"] + prompts / seconds
    return figures


def difference(right: float, n: int, other_right: float, other_n: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares that were measured apart, by Newcombe's hybrid of Wilson's
    intervals (Newcombe 1998, method 10). The same questions make it wider than it need be."""
    a, b = right / n, other_right / other_n
    (low, high), (other_low, other_high) = wilson(right, n), wilson(other_right, other_n)
    return a - b - hypot(a - low, other_high - b), a - b + hypot(high - a, b - other_low)


def _difference(line: Line, model: str | None) -> str:
    published, figures, n = line.recipe.value("accuracy"), line.figures, line.recipe.questions
    if published is None or not figures or model is not None or not n:
        return "another model" if figures and model is not None else ""
    right = figures["accuracy"] * figures["questions"]
    low, high = difference(right, figures["questions"], published / 100 * n, n)
    return "within noise" if low <= 0 <= high else f"{100 * low:+.1f} to {100 * high:+.1f}"
