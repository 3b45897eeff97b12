"""From Hydra overrides to parts: what the command line builds, for notebooks and scripts too."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from threading import RLock
from typing import TYPE_CHECKING, Any

from dlm.building import build, role_of, typed
from dlm.errors import SettingsError
from dlm.overrides import GROUPS, choices, complete, config_dir, config_dirs, known_settings, node_of, quoted, taken_out
from dlm.recipes import expanded
from dlm.words import meant, not_among, unknown_name

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlm.engine.interfaces import Cache
    from dlm.engine.sampler import Sampler
    from dlm.models import LanguageModel

_COMPOSING = RLock()  # Hydra keeps what it composes in one place for all threads
# What stands in a group's node and is nothing that its part is given.
_RUNTIME = ("compile", "graphs")  # switches of `runtime` that loading a model takes
_BESIDE = {"model": ("path",), "task": ("limit", "form")}


@dataclass(frozen=True)
class Composed:
    """The parts of a composed configuration, ready for :func:`dlm.generate`.

    Attributes:
        sampler, cache, drafter: as in :func:`dlm.generate`.
        max_new_tokens, seed, batch_size: likewise.
        config: the whole configuration, resolved, as plain values.
    """

    sampler: Sampler
    cache: Cache | None
    drafter: Any
    max_new_tokens: int
    seed: int
    batch_size: int
    config: dict[str, Any]

    def name(self, part: str) -> str:
        """What was chosen for a part, by the name of its class or preset; ``none`` for nothing."""
        return str(self.config[part].get("_target_", "none")).rpartition(".")[2]

    @property
    def model_config(self) -> dict[str, Any]:
        """What :meth:`load_model` would load, as plain values."""
        return dict(self.config["model"])

    def load_model(self) -> LanguageModel:
        """Load the model the configuration names."""
        node = {key: value for key, value in self.config["model"].items() if key not in _BESIDE["model"]}
        node |= {key: True for key in _RUNTIME if self.config.get("runtime", {}).get(key)}
        loaded: LanguageModel = build(node, role_of("model"), "model")
        return loaded


def compose(overrides: Sequence[str] = ()) -> Composed:
    """Compose ``generate.yaml`` with Hydra overrides, for example ``["sampler=threshold", "sampler.threshold=0.8"]``.

    Raises:
        SettingsError: an unknown group choice (the known ones are listed), an unknown key, a value out of range.
    """
    if isinstance(overrides, str):
        raise SettingsError(f"overrides are a list: compose([{overrides!r}])")
    return parts_of(compose_config("generate", overrides))


def parts_of(config: DictConfig | dict[str, Any]) -> Composed:
    """Build the parts of a composed configuration, or of what :func:`settled` made of one; the model is only looked
    at. Raises SettingsError: what :func:`settled` refuses, or a value out of a part's range."""
    plain = config if isinstance(config, dict) else settled(config)
    check_counts(plain, *(numbers := ("max_new_tokens", "seed", "batch_size")), least=None)
    sampler, cache = (_part(group, json.dumps(plain[group])) for group in ("sampler", "cache"))
    drafter = _part("drafting", json.dumps(plain["drafting"])) if "_target_" in plain["drafting"] else None
    if plain.get("runtime", {}).get("graphs"):  # before a model is loaded
        from dlm.engine.static import check_static

        check_static(sampler, cache, drafter)
    return Composed(
        sampler=sampler,
        cache=cache,
        drafter=drafter,
        **{key: plain[key] for key in numbers},
        config={str(key): value for key, value in plain.items() if key != "hydra"},
    )


@lru_cache(maxsize=256)
def _part(group: str, node: str) -> Any:
    """Kept: parts are settings that nobody changes, and the points of a sweep have most of them in common."""
    return build(json.loads(node), role_of(group), group)


def part_of(config: Any, key: str, role: type | None = None) -> Any:
    """Build what stands at a key of a composed configuration; ``role``: what must come of it, of a group what it is a
    group of. Raises SettingsError as :func:`parts_of` does."""
    return build(plain_of(config[key]), role or role_of(key), key)


def settled(config: DictConfig | dict[str, Any]) -> dict[str, Any]:
    """A composed configuration as plain values, every setting of a part of the kind that the part wants: 8.0 is 8 where
    whole numbers are meant. Raises SettingsError: a group without a choice, a value of another kind."""
    plain = dict(config) if isinstance(config, dict) else plain_of(config)
    for group in GROUPS:
        if plain.get(group) is None:
            raise SettingsError(f"{group} is not chosen: add {group}=NAME, one of {', '.join(choices(group))}")
    switches = {**plain, **{f"runtime.{key}": plain.get("runtime", {}).get(key) for key in _RUNTIME}}
    named = ("chat", "debug", *(f"runtime.{key}" for key in _RUNTIME))
    check_switches(switches, *(key for key in named if switches.get(key) is not None))
    for group in ("blocks", *GROUPS, "task"):
        node = plain.get(group)
        if isinstance(node, str | list) and group == "task":  # names, where a command takes several tasks
            continue
        if node is not None and (group != "drafting" or node):
            outside = {key: node[key] for key in _BESIDE.get(group, ()) if key in node}
            inside = {key: value for key, value in node.items() if key not in outside}
            plain[group] = {**node, **typed(inside, role_of(group), group)}
    for key in ("max_new_tokens", "seed", "batch_size"):
        if isinstance(value := plain.get(key), float) and value.is_integer():
            plain[key] = int(value)
    return plain


def plain_of(config: DictConfig) -> dict[str, Any]:
    """A composed configuration with everything resolved, as plain values. Raises SettingsError: a value that must be
    given is missing, or refers to nothing."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise SettingsError(_missing_value(error)) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def compose_config(name: str, overrides: Sequence[str], chosen: bool = False) -> DictConfig:
    """The composed configuration ``conf/<name>.yaml``; usable inside another Hydra application.

    With ``chosen`` its key ``choices`` says what each group was set to (None: a part was given in place of a choice).
    Raises SettingsError: what :func:`compose` refuses, or a module of the user's hides a package of ours.
    """
    check_packages()
    overrides = complete(name, expanded(overrides, known_settings(name)))
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    with _COMPOSING:
        outer, own = GlobalHydra.instance().hydra, config_dirs()[1:]
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
                try:
                    rest, parts = taken_out(overrides)
                    rest += [f"hydra.searchpath=[{','.join(quoted(f'file://{f}') for f in own)}]"] if own else []
                    config = hydra.compose(name, rest, return_hydra_config=chosen)
                    _with_parts(config, parts)
                    return _with_choices(config) if chosen else config
                except (HydraException, ValueError) as error:
                    raise _explained(name, list(overrides), error) from error
                except TypeError as error:  # Hydra's own, at a list of choices that are no names
                    listed = [o for o in overrides if o.partition("=")[2].lstrip().startswith("[")]
                    raise SettingsError(
                        f"{' '.join(listed) or 'the overrides'} cannot be read: a group takes one name, GROUP=NAME"
                    ) from error
        finally:
            GlobalHydra.instance().clear()
            GlobalHydra.instance().hydra = outer


def check_packages() -> None:
    """See to it that ``samplers`` and ``cache``, which configurations name, are ours. Raises SettingsError: a file or
    folder of that name comes first on Python's search path."""
    for name in ("samplers", "cache"):
        found = sys.modules[name].__file__ if name in sys.modules else getattr(find_spec(name), "origin", None)
        ours = Path(__file__).resolve().parent.parent / name / "__init__.py"
        if found is not None and Path(found).resolve() != ours:
            theirs = Path(found).parent if Path(found).name == "__init__.py" else Path(found)
            raise SettingsError(f"{theirs} hides the package {name!r} that is part of dlm: rename it")


class Composer:
    """Composes many configurations of one kind: every choice of a group is read once.

    It gives what :func:`plain_of` makes of :func:`compose_config` with ``chosen``, some hundred times as fast. (A
    choice of ours writes below its own group only, so choices can be put together one by one.)
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._choices: dict[str, dict[str, Any]] = {}  # by override; "" for none
        self._nodes: dict[str, dict[str, Any] | None] = {}
        self._read: dict[str, tuple[list[str], Any]] = {}

    def __call__(self, overrides: Sequence[str]) -> dict[str, Any]:
        """Raises SettingsError as :func:`compose_config` and :func:`plain_of` do."""
        overrides = complete(self._name, expanded(overrides, known_settings(self._name)))
        try:
            if any(o.startswith(("+", "~", "hydra")) or "{" in o or "@" in o for o in overrides):
                raise ValueError("Hydra reads it")
            groups = [o for o in overrides if o.partition("=")[0] in (*GROUPS, "task")]
            plain = dict(self._chosen(""))
            for override in groups:
                group, plain[group], choice = self._node(override)
                plain["choices"] = {**plain["choices"], group: choice}
            for override in overrides:
                if override not in groups:
                    plain = _replaced(plain, *self._setting(override))
            resolved: dict[str, Any] = _resolved(plain, plain, plain)
            return resolved
        except (KeyError, TypeError, ValueError):  # SettingsError is one: what is wrong is said with all overrides
            return plain_of(compose_config(self._name, overrides, chosen=True))

    def _node(self, override: str) -> tuple[str, Any, Any]:
        """A group, what a choice of it holds, and the choice's name."""
        group, _, choice = override.partition("=")
        if override not in self._nodes:
            self._nodes[override] = node_of(group, choice)
        if (node := self._nodes[override]) is not None:
            return group, node, choice
        return group, self._chosen(override)[group], self._chosen(override)["choices"][group]

    def _chosen(self, override: str) -> dict[str, Any]:
        """The configuration with this choice and no settings, unresolved."""
        from omegaconf import OmegaConf

        if override not in self._choices:
            config = compose_config(self._name, [override] if override else [], chosen=True)
            plain: Any = OmegaConf.to_container(config)
            self._choices[override] = {str(key): value for key, value in plain.items()}
        return self._choices[override]

    def _setting(self, override: str) -> tuple[list[str], Any]:
        if override not in self._read:
            from hydra.core.override_parser.overrides_parser import OverridesParser
            from hydra.errors import HydraException

            try:
                read = OverridesParser.create().parse_override(override)
            except HydraException as error:
                raise ValueError(override) from error
            if read.is_sweep_override():
                raise ValueError(override)
            self._read[override] = (read.key_or_group.split("."), read.value())
        return self._read[override]


def _replaced(node: Any, path: Sequence[str], value: Any) -> Any:
    """Nested mappings with another value at a path that is there; the old ones stay. Raises KeyError: it is not."""
    if not path:
        return value
    if not isinstance(node, dict):
        raise KeyError(path[0])
    return {**node, path[0]: _replaced(node[path[0]], path[1:], value)}


def _resolved(value: Any, parent: Any, root: Any) -> Any:
    """Plain values without ``${key}``. Raises KeyError or ValueError: Hydra has to look at it."""
    if isinstance(value, dict):
        return {key: _resolved(entry, value, root) for key, entry in value.items()}
    if isinstance(value, list):
        return [_resolved(entry, value, root) for entry in value]
    if not isinstance(value, str) or ("${" not in value and value != "???"):
        return value
    found = re.fullmatch(r"\$\{(\.?)(\w+(?:\.\w+)*)\}", value)
    if found is None:
        raise ValueError(value)
    node = place = parent if found[1] else root
    for word in found[2].split("."):
        node, place = node[word], node
    return _resolved(node, place, root)


def _with_choices(config: DictConfig) -> DictConfig:
    """What Hydra says of itself, cut down to the choices."""
    from omegaconf import OmegaConf, open_dict

    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    assert isinstance(choices, dict)
    with open_dict(config):
        del config.hydra
        config.choices = {group: choice for group, choice in choices.items() if "/" not in str(group)}
    return config


def _with_parts(config: DictConfig, parts: Mapping[str, Sequence[str]]) -> None:
    """Put parts of the command line's own where choices of groups were."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf, open_dict

    parser = OverridesParser.create()
    with open_dict(config):
        for group, (first, *settings) in parts.items():
            part: Any = parser.parse_override(first).value()
            config[group] = OmegaConf.create(part)
            for setting in settings:
                read = parser.parse_override(setting)
                OmegaConf.update(config, read.key_or_group, read.value(), merge=True)
            if "hydra" in config:
                config.hydra.runtime.choices[group] = None


def _explained(name: str, overrides: list[str], error: Exception) -> SettingsError:
    """Hydra's error in one line that says what to change."""
    text = str(error)
    if override := getattr(error, "override", None):
        return SettingsError(_unreadable(override, text))
    if found := re.search(r"Ambiguous value for argument '(([^=]+)=([^']*))'", text):
        listed = "" if found[2] in (*GROUPS, "task") else f", or write a list as '{found[2]}=[{found[3]}]'"
        return SettingsError(f"{found[1]} gives several values at once: give one{listed}")
    if "Config group override must be" in text:
        return SettingsError(f"a group is set to one name of its own: {', '.join(GROUPS)} cannot be null")
    if found := re.search(r"Could not find '(\w+)/([^']+)'", text):
        group, choice = found.groups()
        return SettingsError(unknown_name(group, choice, choices(group)))
    if found := re.search(r"Could not override '([^']+)'", text):
        return SettingsError(_unknown_key(name, overrides, found[1]))
    return SettingsError(str(error).strip().splitlines()[0])


def _unreadable(override: str, text: str) -> str:
    if override.startswith("-"):
        return (
            f"unknown option {override!r}: settings are key=value, options are --help and --cfg; a prompt that begins"
            " with a dash is 'prompt=-...'"
        )
    if "=" not in override and not override.startswith("~"):
        for group in (*GROUPS, "task"):
            if override in choices(group):
                return f"{override!r} is not key=value: it is given as {group}={override}"
        return f"{override!r} is not key=value (a prompt is given as {quote(f'prompt={override}')})"
    key, _, value = override.partition("=")
    advice = quote(f"{key}={quoted(value)}")
    return f"cannot read {override!r}: quote the value, {advice} ({text.strip().splitlines()[0]})"


def _missing_value(error: Exception) -> str:
    if found := re.search(r"[Mm]issing mandatory value: (\S+)", str(error)):
        # An interpolation names the whole key of what is missing; a value by itself only its last part.
        key = found[1] if "." in found[1] else getattr(error, "full_key", None) or found[1]
        return f"{key} is not given: add {key}=VALUE"
    return str(error).strip().splitlines()[0]


def _unknown_key(name: str, overrides: list[str], key: str) -> str:
    parent, _, leaf = key.rpartition(".")
    rest = [override for override in overrides if override.split("=")[0].lstrip("+~") != key]
    node: Any = compose_config(name, rest)
    if parent == "sampler" and leaf in ("steps", "tokens_per_step"):
        name = str(node.sampler.get("_target_", "")).rpartition(".")[2]
        return (
            f"sampler {name!r} decides by itself how many tokens each step commits: remove {key} (a fixed budget is"
            " sampler=topk)"
        )
    for part in parent.split(".") if parent else []:
        node = node.get(part)
        if node is None or not hasattr(node, "keys"):
            return f"unknown setting {key!r}: there is no {parent!r}"
    known = [str(k) for k in node if not str(k).startswith("_") and k != "hydra"]
    below = [] if parent else [f"{k}.{leaf}" for k in known if hasattr(node[k], "keys") and leaf in node[k]]
    near = meant(leaf, [*below, *known])
    return f"unknown setting {key!r}{near}; {parent or 'the command'} knows {', '.join(known) or 'no settings'}"


def check_counts(values: Any, *keys: str, least: int | None = 1) -> None:
    """Refuse what is not a whole number of at least ``least`` (None: any). Raises SettingsError."""
    at_least = "" if least is None else f" of at least {least}"
    for key in keys:
        if type(values[key]) is not int or (least is not None and values[key] < least):
            raise SettingsError(f"{key} must be a whole number{at_least}, got {values[key]!r}")


def check_switches(values: Any, *keys: str) -> None:
    """Refuse what is neither true nor false. Raises SettingsError."""
    for key in keys:
        if not isinstance(values[key], bool):
            raise SettingsError(f"{key} must be true or false, got {values[key]!r}")


def check_choice(key: str, value: Any, known: Sequence[str]) -> None:
    """Refuse what is not among the ``known``. Raises SettingsError."""
    if value not in known:
        raise SettingsError(not_among(key, value, known))
