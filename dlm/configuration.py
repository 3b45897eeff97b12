"""From Hydra overrides to parts: what the command line builds, for notebooks and scripts too."""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from dlm.errors import DlmError, SettingsError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlm.engine.interfaces import Cache
    from dlm.engine.sampler import Sampler
    from dlm.models import LanguageModel

_COMPOSING = RLock()  # Hydra keeps what it composes in one place for all threads
GROUPS = ("model", "sampler", "blocks", "cache", "drafting")


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
        from hydra.utils import instantiate

        node = {key: value for key, value in self.config["model"].items() if key != "path"}
        if self.config.get("runtime", {}).get("compile"):
            node["compile"] = True
        loaded: LanguageModel = build(instantiate, node)
        return loaded


def compose(overrides: Sequence[str] = ()) -> Composed:
    """Compose ``generate.yaml`` with Hydra overrides, for example ``["sampler=threshold", "sampler.threshold=0.8"]``.

    Raises:
        SettingsError: an unknown group choice (the known ones are listed), an unknown key, a value out of range.
    """
    if isinstance(overrides, str):
        raise SettingsError(f"overrides are a list: compose([{overrides!r}])")
    return parts_of(compose_config("generate", overrides))


def parts_of(config: DictConfig) -> Composed:
    """Build the parts of a composed configuration."""
    from hydra.utils import instantiate

    plain = plain_of(config)
    for group in GROUPS:
        if plain.get(group) is None:
            raise SettingsError(f"{group} is not chosen: add {group}=NAME, one of {', '.join(choices(group))}")
    switches = {**plain, "runtime.compile": plain.get("runtime", {}).get("compile")}
    check_switches(switches, *(key for key in ("chat", "debug", "runtime.compile") if switches.get(key) is not None))
    check_counts(plain, *(numbers := ("max_new_tokens", "seed", "batch_size")), least=None)
    return Composed(
        sampler=build(instantiate, config.sampler, _convert_="all"),
        cache=build(instantiate, config.cache),
        drafter=build(instantiate, config.drafting) if "_target_" in plain["drafting"] else None,
        **{key: plain[key] for key in numbers},
        config={str(key): value for key, value in plain.items() if key != "hydra"},
    )


def quoted(text: str) -> str:
    """A text as the value of an override: ``key=VALUE``, whatever characters are in it."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), text) + "'"


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
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    with _COMPOSING:
        outer = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(str(config_dir()), version_base="1.3"):
                try:
                    config = hydra.compose(name, _parts_replaced(overrides), return_hydra_config=chosen)
                    return _with_choices(config) if chosen else config
                except (HydraException, ValueError) as error:
                    raise _explained(name, list(overrides), error) from error
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

    It gives what :func:`compose_config` gives with ``chosen``, about fifty times as fast. (A choice of ours writes
    below its own group only, so choices can be put together one by one.)
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._choices: dict[str, DictConfig] = {}  # by override; "" for none
        self._read: dict[str, tuple[str, Any]] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """Raises SettingsError as :func:`compose_config` does."""
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException

        groups = tuple(o for o in overrides if o.partition("=")[0] in (*GROUPS, "task"))
        settings = [o for o in overrides if o not in groups]
        if any(o.startswith(("+", "~", "hydra")) or "{" in o or "@" in o for o in overrides):
            return compose_config(self._name, overrides, chosen=True)
        config = self._chosen(groups)
        try:
            for setting in settings:
                key, value = self._setting(setting)
                OmegaConf.update(config, key, value, merge=True, force_add=False)
        except (OmegaConfBaseException, AttributeError, TypeError, ValueError):
            return compose_config(self._name, overrides, chosen=True)  # which says what is wrong
        return config

    def _chosen(self, groups: Sequence[str]) -> DictConfig:
        """The configuration with these choices and no settings."""
        from omegaconf import open_dict

        for override in ("", *groups):
            if override not in self._choices:
                self._choices[override] = compose_config(self._name, [override] if override else [], chosen=True)
        config = copy.deepcopy(self._choices[""])
        with open_dict(config):
            for override in groups:
                group = override.partition("=")[0]
                config[group] = copy.deepcopy(self._choices[override][group])
                config.choices[group] = self._choices[override].choices[group]
        return config

    def _setting(self, override: str) -> tuple[str, Any]:
        if override not in self._read:
            from hydra.core.override_parser.overrides_parser import OverridesParser
            from hydra.errors import HydraException

            try:
                read = OverridesParser.create().parse_override(override)
            except HydraException as error:
                raise ValueError(override) from error
            if read.is_sweep_override():
                raise ValueError(override)
            self._read[override] = (read.key_or_group, read.value())
        return self._read[override]


def _with_choices(config: DictConfig) -> DictConfig:
    """What Hydra says of itself, cut down to the choices."""
    from omegaconf import OmegaConf, open_dict

    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    assert isinstance(choices, dict)
    with open_dict(config):
        del config.hydra
        config.choices = {group: choice for group, choice in choices.items() if "/" not in str(group)}
    return config


def _parts_replaced(overrides: Sequence[str]) -> list[str]:
    """``key={_target_: …}`` puts a new part in the place of the old one. Hydra would merge the two instead."""
    replaced: list[str] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and value.lstrip().startswith("{") and "_target_" in value and not key.startswith(("+", "~")):
            # The group `blocks` reaches a sampler through its own key.
            key = "sampler.blocks" if key == "blocks" else key
            replaced += [f"{key}=null", f"{key}={value}"]
        else:
            replaced.append(override)
    return replaced


def build(instantiate: Any, node: Any, **options: Any) -> Any:
    """Instantiate a node; an error of ours comes out as itself, any other as a SettingsError."""
    from hydra.errors import InstantiationException

    if _blocks_unasked(node):
        options["blocks"] = None
    try:
        return instantiate(node, **options)
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, DlmError):
            cause = cause.__cause__
        if isinstance(cause, DlmError):
            raise cause from None
        raise SettingsError(_unbuildable(node, error, cause)) from error


def _blocks_unasked(node: Any) -> bool:
    """Whether a node is one of our presets with nobody's blocks: it has blocks of its own, which None stands for.

    ``conf/blocks/auto.yaml`` cannot say ``null`` itself: the configuration of a point is hashed as it stands there, and
    another spelling would give every folder of results another name (and ``blocks.length=16`` nothing to set).
    """
    if not str(node.get("_target_", "")).startswith("samplers."):
        return False
    blocks = node.get("blocks")
    return isinstance(blocks, Mapping) and dict(blocks) == {"_target_": "samplers.Fixed", "length": None}


def config_dir() -> Path:
    """Where the configuration groups are: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "generate.yaml").is_file():
            return folder
    raise SettingsError("the configuration folder `conf` is missing from this installation: install dlm again")


def choices(group: str) -> list[str]:
    """The names a configuration group can be set to."""
    folder = config_dir() / group
    files = (path for path in folder.rglob("*.yaml") if not path.stem.startswith("_"))
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in files)


def _explained(name: str, overrides: list[str], error: Exception) -> SettingsError:
    """Hydra's error in one line that says what to change."""
    text = str(error)
    if override := getattr(error, "override", None):
        return SettingsError(_unreadable(override, text))
    if found := re.search(r"Ambiguous value for argument '(([^=]+)=([^']*))'", text):
        listed = "" if found[2] in GROUPS else f", or write a list as '{found[2]}=[{found[3]}]'"
        return SettingsError(f"{found[1]} gives several values at once: give one{listed}")
    if "Config group override must be" in text:
        return SettingsError(f"a group is set to one name of its own: {', '.join(GROUPS)} cannot be null")
    if found := re.search(r"Could not find '(\w+)/([^']+)'", text):
        group, choice = found.groups()
        return SettingsError(f"unknown {group} {choice!r}; known are {', '.join(choices(group))}")
    if found := re.search(r"Could not override '([^']+)'", text):
        return SettingsError(_unknown_key(name, overrides, found[1]))
    return SettingsError(_first_line(error))


def _unreadable(override: str, text: str) -> str:
    if override.startswith("-"):
        return f"unknown option {override!r}: settings are key=value, options are --help and --cfg"
    if "=" not in override and not override.startswith("~"):
        for group in (*GROUPS, "task"):
            if override in choices(group):
                return f"{override!r} is not key=value: it is given as {group}={override}"
        return f"{override!r} is not key=value (a prompt is given as 'prompt={override}')"
    key, _, value = override.partition("=")
    return f"cannot read {override!r}: quote the value, {key}='\"{value}\"' ({text.strip().splitlines()[0]})"


def _missing_value(error: Exception) -> str:
    if found := re.search(r"[Mm]issing mandatory value: (\S+)", str(error)):
        # An interpolation names the whole key of what is missing; a value by itself only its last part.
        key = found[1] if "." in found[1] else getattr(error, "full_key", None) or found[1]
        return f"{key} is not given: add {key}=VALUE"
    return _first_line(error)


def _unbuildable(node: Any, error: Exception, cause: BaseException) -> str:
    """Why a part could not be made, with the values it was given."""
    if found := re.search(r"Error locating target '([^']+)'", str(error)):
        return f"there is no {found[1]} to build: {_first_line(cause)}"
    if found := re.search(r"full_key: (\S+)", str(error)):
        own = len(node._get_full_key(None).split(".")) if hasattr(node, "_get_full_key") else 0
        for part in found[1].split(".")[own:]:
            if part not in node:  # Hydra writes places in a list its own way
                break
            node = node[part]
    # A number of the wrong size is refused by the part itself; what is left are values of the wrong kind.
    odd = {k: v for k, v in node.items() if k != "_target_" and isinstance(v, str | None)}
    given = f" (given {', '.join(f'{k}={v!r}' for k, v in odd.items())})" if odd else ""
    return f"cannot build {node.get('_target_')}: {_first_line(cause)}{given}"


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
    return f"unknown setting {key!r}; {parent or 'the command'} knows {', '.join(known) or 'no settings'}"


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
        raise SettingsError(f"{key} must be one of {', '.join(known)}, got {value!r}")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
