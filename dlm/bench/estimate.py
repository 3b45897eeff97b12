"""How long a recipe takes on a named card at least: its forwards, the positions they are fed, and the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from types import SimpleNamespace
from typing import Any

import yaml

from dlm.bench.launches import CARDS
from dlm.bench.limits import Limits
from dlm.bench.token_forwards import Paper, on_paper
from dlm.errors import SettingsError
from dlm.evaluation.sweep_plan import most_forwards
from dlm.overrides import config_dir
from dlm.recipes import Recipe, at_hand
from dlm.words import unknown_name

# Multiply-adds of bfloat16 a second, counted as two, by the cards' maker (dense).
FLOPS = {"a100": 312e12, "h100": 989e12, "h200": 989e12, "b200": 2250e12}


@dataclass(frozen=True)
class Estimate:
    """What a recipe asks of a card.

    Attributes:
        questions: how many.
        forwards: of an answer; published where the source says it, else the most there can be.
        most: whether it is the most.
        positions: fed to a forward on average, by the cache's closed form; without one, the whole row.
        seconds: of all questions one by one, reading the weights or multiplying at the maker's figures: a lower bound
            of so many forwards.
    """

    questions: int
    forwards: float
    most: bool
    positions: float
    seconds: float


def estimate(recipe: Recipe, card: str, limit: int | None = None) -> Estimate:
    """Estimate a recipe by its settings; nothing is loaded. Raises SettingsError: an unknown card."""
    if card not in CARDS:
        raise SettingsError(unknown_name("card", card, CARDS))
    facts, settings = at_hand(), recipe.settings
    model, task = facts["models"].get(settings["model"]), facts["tasks"].get(recipe.task)
    if model is None or task is None or not recipe.questions:
        lacks = settings["model"] if model is None else recipe.task
        raise SettingsError(f"{recipe.name}: a dry run knows no size of {lacks}; it is for the recipes of the package")
    canvas = int(settings["max_new_tokens"])
    prompt = task["prompt"] + task["shot"] * int(settings.get("task.shots", 0))
    sampler = {key.removeprefix("sampler."): value for key, value in settings.items() if key.startswith("sampler.")}
    published = recipe.value("forwards")
    forwards = published if published is not None else float(most_forwards(sampler, canvas))
    block = int(settings.get("blocks.length", canvas))
    cache = str(settings.get("cache", "none"))
    fed = on_paper(cache, _policy(cache, settings), Paper(prompt, canvas, block)) if canvas % block == 0 else None
    positions = fed / canvas if fed is not None else float(prompt + canvas)
    limits = Limits(FLOPS[card], CARDS[card])
    questions = min(recipe.questions, limit or recipe.questions)
    each = limits.seconds(*_cost(model, positions, prompt + canvas, min(block, ceil(positions))))
    return Estimate(questions, forwards, published is None, positions, questions * forwards * each)


def _policy(name: str, settings: Mapping[str, Any]) -> SimpleNamespace:
    """A cache's settings, without the policy."""
    own = {key.partition(".")[2]: value for key, value in settings.items() if key.startswith("cache.")}
    return SimpleNamespace(**{**_defaults(name), **own})


@lru_cache(maxsize=32)
def _defaults(name: str) -> dict[str, Any]:
    node: dict[str, Any] = yaml.safe_load((config_dir() / "cache" / f"{name}.yaml").read_text(encoding="utf-8"))
    return node


def _cost(model: Mapping[str, Any], fed: float, keys: int, scored: int) -> tuple[float, float]:
    """Multiplications (counted as two) and bytes of weights of a forward, as in ``limits.forward_cost``."""
    head = model.get("head", model["width"] // model["heads"])
    body = model["layers"] * model["width"] * (2 * head * (model["heads"] + model["kv_heads"]) + 3 * model["mlp"])
    logits = model["width"] * model["vocabulary"]
    attention = 4 * model["layers"] * fed * keys * model["heads"] * head
    return 2 * fed * body + attention + 2 * scored * logits, 2.0 * (body + logits)
