"""Which points belong to one method, and what is swept within it: read off their configurations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dlm.evaluation.point import FREE, Point, canonical
from dlm.words import visible

SWEPT = ("model", "sampler", "blocks", "cache", "drafting")
TASK_FREE = ("choice", "name", "limit", "form")
MOST = 1e300  # whole numbers have no end, floats have
BUDGET = ("tokens_per_step", "steps")  # what a sampler with a fixed number of tokens per step is set by


@dataclass(frozen=True)
class Place:
    """Where a point stands among the others."""

    task: str  # the task's name, with options in which tasks of that name differ here
    model: str  # the model's choice
    method: str  # sampler, cache, drafter and blocks, and the values of what is swept beside the main parameter
    setting: str  # ``key=value`` of the main parameter; empty where a method has one setting
    values: dict[str, Any] = field(hash=False)  # everything swept within points of these parts, by key
    main: str | None  # the key of the main parameter; None: nothing is swept
    # ``static``: the sampler is set by tokens per step or by steps, and in every point of its parts all answers of one
    # canvas took equally many forwards; else ``adaptive``
    kind: str
    parts: str  # what the method has in common whatever is swept

    @property
    def label(self) -> str:
        """Method and setting."""
        return f"{self.method} {self.setting}".strip()


def places_of(points: Sequence[Point], steady: Sequence[bool] | None = None) -> list[Place]:
    """The place of every point, in the order of ``points``. ``steady``: per point whether all its answers of one canvas
    took equally many forwards; None: all."""
    tasks = _task_labels(points)
    flats = [_flat(point) for point in points]
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, point in enumerate(points):
        groups.setdefault(tuple(_choice(point, part) for part in SWEPT), []).append(i)
    names = _part_names(list(groups))
    places: dict[int, Place] = {}
    for parts, members in groups.items():
        keys = _differing([flats[i] for i in members], [tasks[i] for i in members])
        even = steady is None or all(steady[i] for i in members)
        main, others = _main_and_others(keys, [flats[i] for i in members])
        for i in members:
            flat = flats[i]
            extra = " ".join(_told(key, flat.get(key)) for key in others)
            method = f"{names[parts]} {extra}".strip()
            setting = _told(main, flat.get(main)) if main else ""
            values = {short(key): flat.get(key) for key in keys}
            kind = "static" if even and any(key in points[i].config["sampler"] for key in BUDGET) else "adaptive"
            places[i] = Place(tasks[i], parts[0], method, setting, values, main, kind, names[parts])
    return [places[i] for i in range(len(points))]


def short(key: str) -> str:
    """``sampler.threshold`` is said as ``threshold``; other keys as they are typed."""
    return key.removeprefix("sampler.")


def numeric(value: Any) -> float | None:
    """A swept value as a number, where it is one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MOST:
        return None
    return float(value)


def _choice(point: Point, part: str) -> str:
    node = point.config.get(part, {})
    return visible(str(node.get("choice") or str(node.get("_target_", "none")).rpartition(".")[2]))


def _flat(point: Point) -> dict[str, Any]:
    """Settings that a method can be swept over, by dotted key."""
    flat: dict[str, Any] = {"max_new_tokens": point.config.get("max_new_tokens")}
    for part in SWEPT:
        node = point.config.get(part, {})
        if part == "blocks":  # a sampler holds the blocks it uses, as a rule those of the group
            node = point.config["sampler"].get("blocks") or node
            flat["blocks"] = str(node.get("_target_", "")).rpartition(".")[2]
        skip = ("choice", "_target_", *(FREE if part == "model" else ()), *(("blocks",) if part == "sampler" else ()))
        _flatten({k: v for k, v in node.items() if k not in skip}, part, flat)
    return flat


def _flatten(node: Any, name: str, flat: dict[str, Any]) -> None:
    if isinstance(node, dict):
        for key, value in node.items():
            _flatten(value, f"{name}.{key}", flat)
    else:
        flat[name] = node if isinstance(node, str | int | float | bool | None) else canonical(node)


def _task_labels(points: Sequence[Point]) -> list[str]:
    """Names of tasks; options in which tasks of one name differ here are added."""
    flats: list[dict[str, Any]] = []
    for point in points:
        flat: dict[str, Any] = {"form": point.config.get("form")}
        node = {k: v for k, v in point.config["task"].items() if k not in TASK_FREE and not k.startswith("_")}
        _flatten(node, "", flat)
        _flatten(point.config.get("identity") or {}, "identity", flat)
        flats.append({key.lstrip("."): value for key, value in flat.items()})
    by_name: dict[str, list[int]] = {}
    for i, point in enumerate(points):
        by_name.setdefault(point.task, []).append(i)
    labels = [visible(point.task) for point in points]
    for members in by_name.values():
        keys = [
            key for key in _keys(flats[i] for i in members) if len({canonical(flats[i].get(key)) for i in members}) > 1
        ]
        for i in members:
            options = " ".join(_told(key, flats[i].get(key)) for key in keys)
            labels[i] = f"{labels[i]} ({options})" if options else labels[i]
    return labels


def _part_names(groups: list[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """``threshold + dual``, with the model and the blocks where there are several."""
    several_models = len({parts[0] for parts in groups}) > 1
    several_blocks = len({parts[2] for parts in groups}) > 1
    names = {}
    for parts in groups:
        model, sampler, blocks, *rest = parts
        name = " + ".join([sampler, *(part for part in rest if part != "none")])
        name = f"{name}, {blocks} blocks" if several_blocks else name
        names[parts] = f"{model}: {name}" if several_models else name
    return names


def _keys(flats: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for flat in flats for key in flat))


def _differing(flats: list[dict[str, Any]], tasks: list[str]) -> list[str]:
    """Keys with several values on one and the same task: what differs only from task to task is not swept."""
    found = []
    for key in _keys(flats):
        seen: dict[str, set[str]] = {}
        for flat, task in zip(flats, tasks, strict=True):
            seen.setdefault(task, set()).add(canonical(flat.get(key)))
        if any(len(values) > 1 for values in seen.values()):
            found.append(key)
    return found


def _main_and_others(keys: list[str], flats: list[dict[str, Any]]) -> tuple[str | None, list[str]]:
    """The parameter that runs along a curve, and those that tell curves apart.

    A sampler's own setting comes before others, then the one with the most values. What follows from the main one and
    those already chosen (settings swept hand in hand) tells nothing apart.
    """
    if not keys:
        return None, []

    def worth(key: str) -> tuple[bool, bool, int, int]:
        values = [flat.get(key) for flat in flats]
        distinct = {canonical(value) for value in values}
        numbers = sum(numeric(value) is not None for value in values)
        return key.startswith("sampler."), 2 * numbers > len(values), len(distinct), -keys.index(key)

    main = max(keys, key=worth)
    chosen, others = [main], []
    for key in keys:
        if key == main:
            continue
        seen = {tuple(canonical(flat.get(k)) for k in chosen) for flat in flats}
        if len({tuple(canonical(flat.get(k)) for k in [*chosen, key]) for flat in flats}) > len(seen):
            chosen.append(key)
            others.append(key)
    return main, others


def _told(key: str | None, value: Any) -> str:
    return visible(f"{short(str(key))}={'null' if value is None else value}")
