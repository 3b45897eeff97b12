"""Grids: many configurations written as few lines, expanded in an order that never changes.

A grid is a tree of nodes. A node is a mapping with any of these keys, and stands for all combinations of them:

    set: {key: value}            for every point, unless what follows sets the key too
    product: {key: [a, b], ...}  every combination
    zip: {key: [a, b], ...}      side by side: lists of one length
    union: [node, node, ...]     the points of any of them
    each: [node, node, ...]      every combination of a point of the first with a point of the second, ...
    where: [condition, ...]      only points for which all of these hold, as `blocks.length <= max_new_tokens`

Keys and values are those of the command line: ``sampler: threshold``, ``sampler.threshold: 0.9``.
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

from dlm.errors import DlmError, SettingsError
from dlm.files import read_yaml
from dlm.overrides import choices, config_dirs, quoted, readable
from dlm.words import meant

Choice = dict[str, Any]  # key -> value, in the order in which the grid names them
NODE = ("set", "product", "zip", "union", "each", "where")
MOST = 100_000  # points of one sweep
FORMS = "several values are a,b or choice(a,b), range(START,STOP,STEP), of a group glob(PATTERN,exclude=PATTERN)"
# The header of a grid file.
HEADER = ("about",)

_COMPARE: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
    ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip
_COMPUTE: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip


def expand(node: Mapping[str, Any], where: Sequence[str] = ()) -> list[Choice]:
    """All points of a grid, each once, in the order of the file.

    Args:
        node: the grid.
        where: further conditions.

    Raises:
        SettingsError: an unknown key, lists of unequal length under ``zip``, a condition that cannot be read, more than
            :data:`MOST` points at one place, or a grid that holds itself.
    """
    unique: dict[str, Choice] = {}
    try:
        for choice in _expand(node, "grid"):
            if all(holds(condition, choice) for condition in where):
                unique.setdefault(repr(list(choice.items())), choice)
    except RecursionError as error:
        raise SettingsError(
            "the grid holds itself (an alias, *NAME, within what it stands for): write it out"
        ) from error
    return list(unique.values())


def _expand(node: Any, name: str) -> Iterator[Choice]:
    if not isinstance(node, Mapping):
        raise SettingsError(f"{name} must be a mapping with some of {', '.join(NODE)}, got {node!r}")
    if unknown := [str(key) for key in node if key not in NODE and not (name == "grid" and key in HEADER)]:
        raise SettingsError(f"{name} knows {', '.join(NODE)}, not {', '.join(unknown)}{meant(unknown[0], NODE)}")
    axes: list[list[Choice]] = []
    for key, values in _mapping(node, "product", name).items():
        axes.append([{key: value} for value in _list(values, f"{name}.product.{key}")])
    axes.append(_zipped(_mapping(node, "zip", name), f"{name}.zip"))
    if "union" in node:
        children = enumerate(_list(node["union"], f"{name}.union"))
        axes.append([choice for i, child in children for choice in _expand(child, f"{name}.union[{i}]")])
    for i, child in enumerate(_list(node.get("each", []), f"{name}.each")):
        axes.append(list(_expand(child, f"{name}.each[{i}]")))
    conditions, always = _list(node.get("where", []), f"{name}.where"), _mapping(node, "set", name)
    if (points := math.prod(map(len, axes))) > MOST:
        raise SettingsError(f"{name} has {points:,} points; {MOST:,} are the most: give fewer values")
    for parts in itertools.product(*axes):
        given: Choice = {}
        for part in parts:
            if twice := [key for key in part if key in given]:
                raise SettingsError(f"{name} sets {twice[0]} twice: keep one of the two")
            given.update(part)
        choice = {**always, **given}
        if all(holds(str(condition), choice) for condition in conditions):
            yield choice


def _mapping(node: Mapping[str, Any], key: str, name: str) -> Mapping[str, Any]:
    values = node.get(key) or {}
    if not isinstance(values, Mapping):
        raise SettingsError(f"{name}.{key} must be a mapping from settings to values, got {values!r}")
    return values


def _list(values: Any, name: str) -> list[Any]:
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise SettingsError(f"{name} must be a list, got {values!r}")
    return list(values)


def _zipped(columns: Mapping[str, Any], name: str) -> list[Choice]:
    if not columns:
        return [{}]
    lists = {key: _list(values, f"{name}.{key}") for key, values in columns.items()}
    lengths = {key: len(values) for key, values in lists.items()}
    if len(set(lengths.values())) > 1:
        raise SettingsError(f"{name} needs lists of one length, got {lengths}")
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def holds(condition: str, choice: Choice) -> bool:
    """Whether a condition holds for a point: comparisons, arithmetic, ``and``/``or``/``not``, over the point's keys.
    Raises SettingsError: it cannot be read, or names a key the point does not set."""
    try:
        return bool(_value(ast.parse(condition, mode="eval").body, choice))
    except SyntaxError as error:
        raise SettingsError(f"where: cannot read {condition!r}: write it as blocks.length <= max_new_tokens") from error
    except KeyError as error:
        known = ", ".join(choice)
        raise SettingsError(f"where: {condition!r} names {error.args[0]!r}; the point sets {known}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise SettingsError(f"where: {condition!r} does not fit the point {choice}: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise SettingsError(f"where: {condition[:60]!r}... is too long to be read: shorten it") from error


def _value(node: ast.expr, choice: Choice) -> Any:
    """Evaluate the few kinds of expression a condition is made of; nothing is called."""
    match node:
        case ast.Constant():
            return node.value
        case ast.List() | ast.Tuple():
            return [_value(entry, choice) for entry in node.elts]
        case ast.Name() | ast.Attribute():
            return choice[ast.unparse(node)]
        case ast.BoolOp():
            values = (_value(entry, choice) for entry in node.values)
            return all(values) if isinstance(node.op, ast.And) else any(values)
        case ast.UnaryOp(op=ast.Not()):
            return not _value(node.operand, choice)
        case ast.UnaryOp(op=ast.USub()):
            return -_value(node.operand, choice)
        case ast.BinOp() if type(node.op) in _COMPUTE:
            return _COMPUTE[type(node.op)](_value(node.left, choice), _value(node.right, choice))
        case ast.Compare() if all(type(op) in _COMPARE for op in node.ops):
            values_ = [_value(entry, choice) for entry in (node.left, *node.comparators)]
            pairs = zip(node.ops, itertools.pairwise(values_), strict=True)
            return all(_COMPARE[type(op)](a, b) for op, (a, b) in pairs)
    raise SyntaxError(ast.unparse(node))


def load_grid(name: str) -> dict[str, Any]:
    """Read a grid: one of the group ``grid``, or the path of a YAML file. Raises SettingsError: there is no such grid
    (the known ones are listed), or the file is no mapping."""
    named = [folder / "grid" / f"{name}.yaml" for folder in config_dirs()]
    path = next((path for path in [*named, Path(name).expanduser()] if path.is_file()), None)
    if path is None:
        known = choices("grid")
        raise SettingsError(
            f"unknown grid {name!r}{meant(name, known)}: give the path of a YAML file, or one of {', '.join(known)}"
        )
    try:
        grid = read_yaml(path, aliases=True)
    except ValueError as error:
        raise SettingsError(f"{path} is no YAML: {str(error).removeprefix('it is no YAML: ')}") from error
    if not isinstance(grid, dict):
        raise SettingsError(f"{path} must hold a mapping with some of {', '.join(NODE)}")
    return grid


def overrides_of(choice: Choice) -> list[str]:
    """A point as the command line would say it."""
    return [f"{key}={_spelled(value)}" for key, value in choice.items()]


def _spelled(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(_entry(entry) for entry in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_entry(entry)}" for key, entry in value.items()) + "}"
    return str(value)


def _entry(value: Any) -> str:
    """Within a list a text stands in quotes, unless it is a word or a path."""
    return quoted(value) if isinstance(value, str) and not re.fullmatch(r"[\w./-]+", value) else _spelled(value)


def combined(
    overrides: Sequence[str], grid: Mapping[str, Any] | None = None, where: Sequence[str] = ()
) -> list[Choice]:
    """Every point that a command line asks for, each once: what stands there wins over the grid.

    Args:
        overrides: ``key=value``; a key may have several values in Hydra's own grammar: ``a,b``, ``choice()``,
            ``range()``, for a group ``glob()``.
        grid: a grid; None: one point, before the command line.
        where: conditions.

    Raises:
        SettingsError: a value, a grid or a condition that cannot be read.
    """
    points = expand(grid) if grid is not None else [{}]
    merged = ({**point, **given} for given in _given(overrides) for point in points)
    unique = {tuple(overrides_of(choice)): choice for choice in merged}.values()
    return [choice for choice in unique if all(holds(condition, _values(choice)) for condition in where)]


def _given(overrides: Sequence[str]) -> list[Choice]:
    """The combinations of what a command line gives: ``a=1,2 b=3`` are two. Raises SettingsError: more than anybody
    would run."""
    axes = [_axis(override) for override in map(readable, overrides)]
    if (points := math.prod(map(len, axes))) > MOST:
        raise SettingsError(f"the command line asks for {points:,} points; {MOST:,} are the most: give fewer values")
    return [{k: v for part in parts for k, v in part.items()} for parts in itertools.product(*axes)]


def _axis(override: str) -> list[Choice]:
    """The values that one override gives to its key."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, IntervalSweep, RangeSweep

    try:
        read = OverridesParser.create().parse_override(override)
        key, sweep = read.key_or_group, read.value() if read.is_sweep_override() else None
        if isinstance(sweep, Glob):
            found = sweep.filter(choices(key)) if choices(key) else []
            if not found:
                known = ", ".join(choices(key)) or f"{key} is no group, so it has no names"
                raise SettingsError(f"{override} names none; known are {known}")
            return [{key: _Spelled(name)} for name in found]
        if isinstance(sweep, IntervalSweep):
            raise SettingsError(
                f"{override}: an interval has no points of its own: write range({sweep.start},{sweep.end},STEP)"
            )
        if isinstance(sweep, RangeSweep):
            return [{key: _Spelled(text)} for text in _range(sweep, override)]
        if sweep is not None:
            return [{key: _Spelled(text)} for text in read.sweep_string_iterator()]
    except DlmError:
        raise
    except Exception as error:  # Hydra's own, and what its functions raise: int(a), sort(1,a)
        said = str(error).strip().splitlines()[0]
        raise SettingsError(
            f"cannot read {override!r}: a setting is key=value or key=value,value; {FORMS} ({said})"
        ) from error
    return [{override.partition("=")[0]: _Spelled(override.partition("=")[2])}]


def _range(sweep: Any, override: str) -> list[str]:
    """The numbers of ``range(start,stop,step)``, without the stop, as a person would write them."""
    start, stop, step = (Decimal(str(value)) for value in (sweep.start or 0, sweep.stop, sweep.step))
    if not step or not all(value.is_finite() for value in (start, stop, step)):
        raise SettingsError(f"{override}: a range goes from START to STOP by a STEP that is not 0")
    count = max(0, math.ceil((stop - start) / step))
    if not 0 < count <= MOST:
        raise SettingsError(
            f"{override} has {count:,} values: give a STEP that leads from START to STOP, {MOST:,} at most"
        )
    return [str(start + i * step) for i in range(count)]


class _Spelled(str):
    """A value as the command line spells it."""


def _values(choice: Choice) -> Choice:
    """A point with what the command line spells read as numbers and words, for conditions."""
    return {key: _read(str(value)) if isinstance(value, _Spelled) else value for key, value in choice.items()}


@cache
def _read(text: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        value = OverridesParser.create().parse_override(f"key={text}").value()
    except HydraException:
        return text
    return getattr(value, "text", value)  # a quoted text
