"""Which settings are searched: samplers with their settings, blocks, caches and drafters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlm.choices import chosen, labels
from dlm.errors import SettingsError
from dlm.overrides import as_data, as_meant, choices

Setting = dict[str, Any]  # axis -> value: ``sampler``, ``blocks``, ``cache``, ``drafting``, and ``sampler.KEY``
DIGITS = 3  # of a number that is searched: more would only make settings that nobody can tell apart


@dataclass(frozen=True)
class Interval:
    """All numbers between two."""

    low: float
    high: float


@dataclass(frozen=True)
class Space:
    """The settings that are searched."""

    # samplers, caches, drafting: choices, each perhaps with settings of its own behind a colon
    samplers: tuple[str, ...]
    blocks: tuple[str, ...]  # choices, or lengths of fixed blocks
    caches: tuple[str, ...]
    drafting: tuple[str, ...]
    ranges: Mapping[str, Mapping[str, Interval | tuple[Any, ...]]]  # sampler -> setting -> what is tried of it

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> Space:
        """Read ``space`` of ``conf/tune.yaml``. Raises SettingsError: an unknown choice, an empty list, a range whose
        ends contradict each other."""
        if not isinstance(node, Mapping) or (lacking := {"samplers", "blocks", "caches", "drafting"} - set(node)):
            lack = f" without {', '.join(sorted(lacking))}" if isinstance(node, Mapping) else f", got {node!r}"
            raise SettingsError(f"space maps samplers, blocks, caches, drafting and ranges to what is tried{lack}")
        listed = {key: _labels(group, node[key]) for key, group in
                  (("samplers", "sampler"), ("caches", "cache"), ("drafting", "drafting"))}  # fmt: skip
        blocks = tuple(map(str, node["blocks"] if isinstance(node["blocks"], list) else [node["blocks"]]))
        if not blocks or (bad := [b for b in blocks if b not in choices("blocks") and not b.isdecimal()]):
            known = ", ".join(choices("blocks"))
            raise SettingsError(f"space.blocks holds lengths or names, some of {known}; got {bad if blocks else '[]'}")
        ranges: dict[str, dict[str, Any]] = {}
        given = {} if node.get("ranges") is None else node["ranges"]
        if not isinstance(given, Mapping):
            raise SettingsError(f"space.ranges maps samplers to their settings, got {given!r}")
        for sampler, settings in given.items():
            if not isinstance(settings, Mapping):
                raise SettingsError(f"space.ranges.{sampler} maps settings to ranges, got {settings!r}")
            ranges[sampler] = {key: _range(f"space.ranges.{sampler}.{key}", v) for key, v in settings.items()}
        for group, found in zip(("sampler", "cache", "drafting"), listed.values(), strict=True):
            settings_of([override for label in found for override in chosen(group, label)])
        tried = [(key, span) for own in ranges.values() for key, span in own.items() if not isinstance(span, Interval)]
        settings_of([f"sampler.{key}={value}" for key, span in tried for value in span])
        return cls(blocks=blocks, ranges=ranges, **listed)

    def first(self, number: int, known: Mapping[str, Any]) -> Setting:
        """What is looked at before the search has seen anything: each sampler as it is published, plainly.

        Args:
            number: which sampler.
            known: its settings, as its configuration has them.
        """
        sampler = self.samplers[number]
        fixed: Setting = {"sampler": sampler, "blocks": self.blocks[0], "cache": self.caches[0]}
        fixed["drafting"] = self.drafting[0]
        for key, span in self._searched(sampler).items():
            value = known.get(key)
            if isinstance(span, Interval):
                inside = isinstance(value, int | float) and span.low <= value <= span.high
                fixed[f"{sampler}.{key}"] = value if inside else (span.low + span.high) / 2
            else:
                fixed[f"{sampler}.{key}"] = value if value in span else span[0]
        return fixed

    def ask(self, trial: Any) -> Setting:
        """The setting of a trial of Optuna's."""
        setting = {axis: trial.suggest_categorical(axis, values) for axis, values in self._axes.items()}
        for key, span in self._searched(setting["sampler"]).items():
            name = f"{setting['sampler']}.{key}"  # a name of its own: one sampler's threshold is not another's
            if isinstance(span, Interval):
                found = float(f"{trial.suggest_float(name, span.low, span.high):.{DIGITS}g}")
                setting[f"sampler.{key}"] = min(span.high, max(span.low, found))
            else:
                setting[f"sampler.{key}"] = trial.suggest_categorical(name, span)
        return setting

    def holds(self, setting: Any) -> bool:
        """Whether this is a setting that :meth:`ask` can give."""
        if not isinstance(setting, dict) or any(setting.get(axis) not in of for axis, of in self._axes.items()):
            return False
        searched = {f"sampler.{key}": span for key, span in self._searched(setting["sampler"]).items()}
        return set(setting) == {*self._axes, *searched} and all(
            type(setting[key]) in (int, float) and span.low <= setting[key] <= span.high
            if isinstance(span, Interval) else setting[key] in span
            for key, span in searched.items()
        )  # fmt: skip

    @property
    def _axes(self) -> dict[str, tuple[str, ...]]:
        return {"sampler": self.samplers, "blocks": self.blocks, "cache": self.caches, "drafting": self.drafting}

    def _searched(self, sampler: str) -> dict[str, Any]:
        """The ranges of a sampler, without what its label sets."""
        name, own = sampler.partition(":")[0], chosen("sampler", sampler)
        given = {override.partition("=")[0] for override in own}
        return {key: span for key, span in self.ranges.get(name, {}).items() if f"sampler.{key}" not in given}


def overrides_of(setting: Setting) -> list[str]:
    """A setting as the command line says it."""
    blocks = setting["blocks"]
    found = chosen("sampler", setting["sampler"])
    found += [f"{key}={value}" for key, value in setting.items() if key.startswith("sampler.")]
    found += ["blocks=fixed", f"blocks.length={blocks}"] if blocks.isdecimal() else [f"blocks={blocks}"]
    return [*found, *chosen("cache", setting["cache"]), *chosen("drafting", setting["drafting"])]


def settings_of(overrides: Sequence[str]) -> Setting:
    """Overrides as ``tuned.yaml`` holds them. Raises SettingsError: ``experiment=`` would not take one back."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    found, parser = Setting(), OverridesParser.create()
    for override in as_meant(overrides):
        try:
            read = parser.parse_override(override)
            if read.is_delete():
                raise ValueError("it takes something away")
            as_data(read.key_or_group, value := read.value())
        except (HydraException, ValueError) as error:
            said = str(error).splitlines()[0]
            raise SettingsError(
                f"tuned.yaml holds plain values only, so tune cannot take {override} ({said})"
            ) from error
        found[read.key_or_group] = value
    return found


def label_of(setting: Setting) -> str:
    """A setting for a person: ``threshold 0.8, blocks 8, dual, freedave``."""
    own = " ".join(f"{value:g}" if isinstance(value, float) else str(value)
                   for key, value in setting.items() if key.startswith("sampler."))  # fmt: skip
    blocks = "" if setting["blocks"] == "auto" else f"blocks {setting['blocks']}"
    rest = [part for part in (blocks, setting["cache"], setting["drafting"]) if part not in ("", "none")]
    return ", ".join([f"{setting['sampler']} {own}".strip(), *rest])


def _labels(group: str, given: Any) -> tuple[str, ...]:
    text = "[" + ",".join(f"'{entry}'" for entry in given) + "]" if isinstance(given, list) else str(given)
    return tuple(labels(group, text, leave_out=("parts",)))


def _range(name: str, value: Any) -> Interval | tuple[Any, ...]:
    if isinstance(value, Mapping):
        low, high = value.get("low"), value.get("high")
        if set(value) != {"low", "high"} or not all(_finite(end) for end in (low, high)):
            raise SettingsError(f"{name} is a list of values, or {{low: NUMBER, high: NUMBER}}; got {dict(value)!r}")
        if low > high:  # type: ignore[operator]
            raise SettingsError(f"{name} has low={low} above high={high}: no value is left")
        return Interval(float(low), float(high))  # type: ignore[arg-type]
    values = tuple(value) if isinstance(value, list) else (value,)
    bad = [entry for entry in values if not (isinstance(entry, str | bool | None) or _finite(entry))]
    if not values or bad:
        raise SettingsError(f"{name} is a list of values, or {{low: NUMBER, high: NUMBER}}; got {value!r}")
    return values


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300
