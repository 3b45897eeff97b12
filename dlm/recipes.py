"""Recipes: published settings by name, as data: the files of ``conf/recipe``, and those of ``--config-dir``.

A file holds what its recipes share (``set``), what a part of a name stands for (``parts``), and tables as they were
published. A cell of a table is a recipe, ``PAPER/ROW/COLUMN``: ``set``, then the parts of ROW and COLUMN, later ones
winning. A part ``A/B`` counts where A and B are both in the name; ``with`` of a table are parts its names leave out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from dlm.errors import SettingsError
from dlm.files import read_yaml
from dlm.overrides import as_data, besides, choices, config_dirs, quoted
from dlm.words import nearest

TEXTS = ("prompt", "post", "counts", "hardware", "questions")  # what is said once
LISTS = ("unclear", "contradicts", "differs")  # what adds up
FIGURES = ("accuracy", "tokens_per_second", "speedup", "forwards", "seconds")
COUNTS = ("answer", "answer and prompt")  # which tokens a paper divides by its seconds


@dataclass(frozen=True)
class Figure:
    """What a source says of a recipe: ``accuracy`` in percent, ``speedup`` over the source's own baseline,
    ``forwards`` and ``seconds`` of an answer, ``tokens_per_second`` as the source counts them."""

    source: str
    values: dict[str, float]


@dataclass(frozen=True)
class Recipe:
    """One published setting.

    Attributes:
        name: ``PAPER/ROW/COLUMN``.
        about: the paper or repository.
        settings: overrides of ``dlm eval``, with plain values.
        texts: ``prompt`` (how the question and its examples are laid out), ``post`` (what is done to an answer before
            it is scored), ``counts`` (one of :data:`COUNTS`), ``hardware``, ``questions`` (how many, where not all of
            the test set); of each what the source says.
        published: its figures, of one source or of several.
        unclear: what the source does not say.
        contradicts: where sources, or parts of one, disagree.
        differs: what ``dlm eval`` does otherwise.
    """

    name: str
    about: str
    settings: dict[str, Any]
    texts: dict[str, str] = field(default_factory=dict)
    published: tuple[Figure, ...] = ()
    unclear: tuple[str, ...] = ()
    contradicts: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """Which model: a name of ours, with the repository where that is another."""
        return str(self.settings.get("model.name_or_path", self.settings["model"]))

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.settings["task"])

    @property
    def questions(self) -> int:
        """How many questions were asked for the published figures; 0: that is not known."""
        known = at_hand()["tasks"].get(self.task, {}).get("questions", 0)
        return int(self.texts.get("questions", known))

    def value(self, figure: str) -> float | None:
        """A figure by the first source that has it."""
        return next((f.values[figure] for f in self.published if figure in f.values), None)

    def overrides(self, rest: Sequence[str] = ()) -> list[str]:
        """What the command line of ``dlm eval`` would say, with ``rest`` beside it, which wins."""
        return besides({key: _spelt(key, value) for key, value in self.settings.items()}, rest)


def every() -> dict[str, Recipe]:
    """All recipes by name, file by file. Raises SettingsError: a file that is none, or two recipes of one name."""
    found: dict[str, Recipe] = {}
    for stem in choices("recipe"):
        place = next(p for folder in config_dirs() if (p := folder / "recipe" / f"{stem}.yaml").is_file())
        found |= _file(place, stem)
    return found


def named(pattern: str) -> list[Recipe]:
    """The recipes of a name, of a pattern (``fast-dllm/*``, ``*/gsm8k*``), below a name (``fast-dllm``), or ``all``.
    Raises SettingsError: there is none; the message lists the nearest."""
    known = every()
    if pattern in known:
        return [known[pattern]]
    fits = [r for n, r in known.items() if pattern == "all" or fnmatchcase(n, pattern) or n.startswith(pattern + "/")]
    if not fits:
        near = nearest(pattern, known, 5, 0.4) or choices("recipe")
        raise SettingsError(f"no recipe is called {pattern!r}; `dlm recipes` lists all, among them {', '.join(near)}")
    return fits


def expanded(overrides: Sequence[str], known: Collection[str]) -> list[str]:
    """Overrides with ``recipe=NAME`` as the settings it stands for, as far as a command knows them; what stands beside
    it wins. Raises SettingsError: there is no such recipe, or there are several."""
    given = [o.partition("=")[2].strip("'\"") for o in overrides if o.startswith("recipe=")]
    found = [recipe for name in given for recipe in named(name)]
    if len(found) > 1:
        shown = ", ".join(recipe.name for recipe in found[:5])
        raise SettingsError(f"recipe={given[0]} stands for {len(found)} recipes: give one, as {shown}")
    rest = [o for o in overrides if not o.startswith("recipe=")]
    mine = dict(o.split("=", 1) for recipe in found for o in recipe.overrides())
    return besides({key: text for key, text in mine.items() if key.partition(".")[0] in known}, rest)


@lru_cache(maxsize=1)
def at_hand() -> dict[str, Any]:
    """What is known of the models and tasks that recipes name: ``conf/recipe/_facts.yaml``."""
    facts: dict[str, Any] = yaml.safe_load((config_dirs()[0] / "recipe" / "_facts.yaml").read_text(encoding="utf-8"))
    return facts


@lru_cache(maxsize=64)
def _file(path: Path, stem: str) -> dict[str, Recipe]:
    try:
        node = read_yaml(path, aliases=path.parent == config_dirs()[0] / "recipe")
        recipes: dict[str, Recipe] = {}
        for name, recipe in _cells(node, stem):
            before = recipes.get(name)
            sources = {figure.source for figure in before.published} if before else set()
            if before and (not sources or not recipe.published or recipe.published[0].source in sources):
                raise ValueError(f"{name} stands twice in its tables")
            recipes[name] = replace(before, published=before.published + recipe.published) if before else recipe
        return recipes
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        said = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise SettingsError(f"{path} is no file of recipes: {said} (docs/recipes.md says what one holds)") from error


def _cells(node: Mapping[str, Any], stem: str) -> Iterator[tuple[str, Recipe]]:
    _only(node, ("about", "sources", "set", "parts", "tables"), "the file")
    for table in node["tables"]:
        _only(table, ("source", "columns", "rows", "with"), "a table")
        source, columns = node["sources"][table["source"]], table["columns"]
        for row, figures in table["rows"].items():
            lists = figures or {}
            _only(lists, FIGURES, row)
            if wrong := [f for f, cells in lists.items() if len(cells) != len(columns)]:
                raise ValueError(f"{row}: {wrong[0]} has {len(lists[wrong[0]])} values for {len(columns)} columns")
            for i, column in enumerate(columns):
                values = {f: float(cells[i]) for f, cells in lists.items() if cells[i] is not None}
                if not all(isfinite(value) and value >= 0 for value in values.values()):
                    raise ValueError(f"{row}: figures are numbers of at least 0, got {values}")
                words = [*table.get("with", []), *row.split("/"), column]
                recipe = _recipe(f"{stem}/{row}/{column}", node, words)
                yield recipe.name, replace(recipe, published=(Figure(source, values),) if values else ())


def _recipe(name: str, node: Mapping[str, Any], words: Sequence[str]) -> Recipe:
    parts = node["parts"]
    if unknown := [word for word in words if word not in parts]:
        raise ValueError(f"{name}: there is no part {unknown[0]!r}")
    joint = [key for key in parts if "/" in key and set(key.split("/")) <= set(words)]
    settings: dict[str, Any] = {}
    texts: dict[str, str] = {}
    lists: dict[str, list[str]] = {key: [] for key in LISTS}
    for part in (node.get("set") or {}, *(parts[key] or {} for key in [*words, *joint])):
        for key, value in part.items():
            if key in LISTS:
                lists[key] += [value] if isinstance(value, str) else value
            elif key in TEXTS:
                texts[key] = str(value)
            else:
                settings[key] = value
    if texts.get("counts", COUNTS[0]) not in COUNTS:
        raise ValueError(f"{name}: counts is one of {', '.join(COUNTS)}, got {texts['counts']!r}")
    settings = {key: value for key, value in settings.items() if value is not None}
    for key in ("model", "task", "max_new_tokens"):
        if key not in settings:
            raise ValueError(f"{name} does not say its {key}")
    for key, value in settings.items():
        _spelt(key, value)
    if not isinstance(node["about"], str):
        raise ValueError(f"about must be a text, got {node['about']!r:.80}")
    counts = {key: settings[key] for key in ("max_new_tokens", "blocks.length", "sampler.steps") if key in settings}
    for key, value in (counts | ({"questions": texts["questions"]} if "questions" in texts else {})).items():
        if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
            raise ValueError(f"{name}: {key} must be a whole number of at least 1, got {value!r:.80}")
    said: dict[str, Any] = {key: tuple(dict.fromkeys(values)) for key, values in lists.items()}
    return Recipe(name, node["about"], settings, texts, **said)


def _only(node: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    if unknown := [key for key in node if key not in known]:
        raise ValueError(f"{where} has {', '.join(known)}, not {unknown[0]!r}")


def _spelt(key: str, value: Any) -> str:
    """A setting as an override spells it; data alone. Raises ValueError or TypeError: it is more."""
    return _spelling(key, json.dumps(value))


@lru_cache(maxsize=4096)
def _spelling(key: str, text: str) -> str:
    value = json.loads(text)
    if key != "task" and not re.fullmatch(r"task\.[a-z]\w*", key):
        return as_data(key, value)
    if isinstance(value, str) and "${" not in value:
        plain = re.fullmatch(r"[a-z][\w/:.-]*", value) and value not in ("null", "true", "false")
        return value if plain else quoted(value)
    if value is None or isinstance(value, bool | int | float):
        return text
    raise ValueError(f"{key} must be a plain value, got {value!r:.80}")
