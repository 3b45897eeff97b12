"""What a command line says, made plain for Hydra; and where the groups of the configuration lie."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from dlm.errors import DlmError, SettingsError
from dlm.files import read_yaml
from dlm.words import meant

GROUPS = ("model", "sampler", "blocks", "cache", "drafting")
# Settings that are paths: their values are texts.
_PATHS = ("path", "shots_path", "dir", "data", "name_or_path", "adapter")
# What Hydra reads as it is meant: a name, something quoted, a list, a mapping, an interpolation, a function.
_PLAIN = re.compile(r"""['"$\[{].*|\w+\(.*\)|(?![\d.+-]*$)[\w./~:+-]+""", re.ASCII | re.DOTALL)
_ESCAPED = {"\\n": "\n", "\\t": "\t", "\\r": "\r"}
# What Hydra reads as "${" and does not fill in.
_LITERAL = "\\${"
_folders: list[Path] = []  # of configurations of the user's own: see `searching`


def quoted(text: str) -> str:
    """A text as the value of an override: ``key=VALUE``, whatever characters are in it."""
    return "'" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), text) + "'"


def readable(override: str) -> str:
    """An override with what a person means made plain: ``\\n`` in a quoted text is a newline, and a path may hold
    blanks, letters of any script, or nothing but digits."""
    key, equals, value = override.partition("=")
    if (key in ("model", "experiment") or key.lstrip("+").rpartition(".")[2] in _PATHS) and not _PLAIN.fullmatch(value):
        return f"{key}={','.join(p if not p or _PLAIN.fullmatch(p) else quoted(p) for p in value.split(','))}"
    if not equals or not re.search("['\"]", value):
        return override
    return key + "=" + re.sub(r"\\.", lambda found: _ESCAPED.get(found[0], found[0]), value)


def complete(command: str, overrides: Sequence[str]) -> list[str]:
    """Overrides of a command as Hydra reads them, with what an experiment and the model's own cache add to them. Raises
    SettingsError: a group is given a list, of which Hydra would take the last."""
    known = known_settings(command)
    for key, _, value in (override.partition("=") for override in overrides):
        if key in (*GROUPS, "task") and value.strip()[:1] == "[" and value.rstrip()[-1:] == "]":
            raise SettingsError(f"{key}={value} cannot be read: a group takes one name, {key}=NAME")
    return _with_cache(as_meant(_with_experiment(overrides, known)), known)


@lru_cache(maxsize=32)
def configured(command: str) -> dict[str, Any]:
    """A command's configuration as its file has it."""
    node: dict[str, Any] = yaml.safe_load((config_dir() / f"{command}.yaml").read_text(encoding="utf-8"))
    return node


def known_settings(command: str) -> frozenset[str]:
    """The groups and the settings of a command's configuration."""
    node = configured(command)
    return frozenset([*node, *(group for entry in node["defaults"] if isinstance(entry, dict) for group in entry)])


def as_meant(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra reads them: ``model=FOLDER`` is ``model=local model.path=FOLDER``, and
    ``constraint.regex=PATTERN`` a part of the sampler's."""
    meant: list[str] = []
    given = [o for o in overrides if o.lstrip("+~").partition(".")[0].partition("=")[0] == "constraint"]
    if len(given) > 1:
        raise SettingsError(f"{' and '.join(o.partition('=')[0] for o in given)}: give one constraint")
    meant += [f"sampler.constraint={_constraint(override)}" for override in given]
    for override in (readable(o) for o in overrides if o not in given):
        key, _, value = override.partition("=")
        name = value[1:-1] if value[:1] in ("'", '"') else value
        if key == "model" and ("/" in name or name.startswith((".", "~"))) and name not in choices("model"):
            meant += ["model=local", f"model.path={quoted(name) if name == value else value}"]
        else:
            meant.append(override)
    return meant


def _constraint(override: str) -> str:
    """The part that ``constraint.regex=`` or ``constraint.json_schema=`` (a file, or the schema itself) stands for.
    Both are texts: nothing in them is filled in. ``null`` is none."""
    key, _, value = override.lstrip("+").partition("=")
    value = value[1:-1] if value[:1] in ("'", '"') and value[-1:] == value[:1] else value
    kinds = {"constraint.regex": "Regex", "constraint.json_schema": "JsonSchema"}
    if key not in kinds:
        raise SettingsError(f"{key} is no setting: use constraint.regex=PATTERN or constraint.json_schema=FILE")
    if value == "null":
        return value
    if kinds[key] == "JsonSchema" and not value.lstrip().startswith("{"):
        path = Path(value).expanduser()
        if not path.is_file():
            raise SettingsError(f"constraint.json_schema={value} is no file, and no schema such as '{{\"type\": ...}}'")
        try:
            value = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"constraint.json_schema={value} cannot be read as text: {error}") from error
    return f"{{_target_: samplers.{kinds[key]}, pattern: {quoted(value.replace('${', _LITERAL))}}}"


def _with_cache(overrides: Sequence[str], known: Collection[str]) -> list[str]:
    """Overrides as :func:`as_meant` gives them; where the model's attention has blocks and no cache is named, with
    ``cache=block_causal``, which gives the same tokens for less. ``known``: what the command knows."""
    groups = {override.partition("=")[0].lstrip("+~").partition(".")[0] for override in overrides}
    if "model" not in groups or "cache" in groups or "cache" not in known:
        return list(overrides)
    given = {key: value.strip("'\"") for key, _, value in (override.partition("=") for override in overrides)}
    name, folder = given.get("model"), given.get("model.path") or given.get("model.name_or_path")
    blocks = _has_blocks(Path(folder).expanduser()) if folder is not None else _names_blocks(str(name))
    return [*overrides, "cache=block_causal"] if blocks else list(overrides)


@lru_cache(maxsize=32)
def _names_blocks(model: str) -> bool:
    """Whether a choice of ours is a model whose attention has blocks: it has a setting for their length."""
    path = config_dir() / "model" / f"{model}.yaml"
    return model != "local" and path.is_file() and "attention_block" in yaml.safe_load(path.read_text())


def _has_blocks(folder: Path) -> bool:
    """Whether the model of a folder is one; what is wrong with the folder is said when it is loaded."""
    from dlm.models.loading import read_config

    with suppress(DlmError, OSError):
        config = read_config(folder)[1]
        return config.block_field is not None and bool(getattr(config, config.block_field))
    return False


def _with_experiment(overrides: Sequence[str], known: Collection[str]) -> list[str]:
    """``experiment=FILE`` as the settings that the file holds (`dlm tune` writes such); what stands beside it wins. The
    file is data: a choice of a group, or a plain value for one of its settings, and nothing that is called. Settings
    that the command does not know are passed over.

    Raises:
        SettingsError: there is no such file, or something else stands in it.
    """
    given = [override.partition("=")[2] for override in overrides if override.startswith("experiment=")]
    rest = [override for override in overrides if not override.startswith("experiment=")]
    mine: dict[str, str] = {}
    for name in given:
        mine |= {key: text for key, text in _experiment(name.strip("'\"")).items() if key.partition(".")[0] in known}
    return besides(mine, rest)


def besides(mine: Mapping[str, str], rest: Sequence[str]) -> list[str]:
    """Settings and the overrides that stand beside them, which win: over a setting, and over all of a group's."""
    said = {override.partition("=")[0].lstrip("+~") for override in rest}
    return [*(f"{key}={text}" for key, text in mine.items() if not {key, key.partition(".")[0]} & said), *rest]


def _experiment(name: str) -> dict[str, str]:
    places = [Path(name + ending).expanduser() for ending in ("", ".yaml")]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise SettingsError(f"experiment={name}: there is no such file; `dlm tune` writes one, OUT/tuned.yaml")
    try:
        node = read_yaml(path)
    except ValueError as error:
        raise SettingsError(f"{path} holds no settings: {error}") from error
    try:
        settings = node["settings"]
        return {str(key): as_data(str(key), value) for key, value in settings.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path} holds no settings (a mapping of that name is looked for)") from error
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from error


def as_data(key: str, value: object) -> str:
    """A setting of an experiment, as an override spells it. Raises ValueError: it is more than data."""
    group = key.partition(".")[0]
    if not re.fullmatch(r"[a-z]\w*(\.[a-z]\w*)*", key) or (group not in GROUPS and key != "max_new_tokens"):
        raise ValueError(
            f"{reprlib.repr(key)} is no setting that an experiment may hold: {', '.join(GROUPS)}, max_new_tokens"
        )
    if group == key and group in GROUPS:
        path = group == "model" and isinstance(value, str) and ("/" in value or value.startswith((".", "~")))
        if value not in choices(group) and not path:
            known = choices(group)
            raise ValueError(
                f"unknown {group} {reprlib.repr(value)}{meant(value, known)}; known are {', '.join(known)}"
            )
        return quoted(str(value)) if path else str(value)
    entries = value if isinstance(value, list) else [value]
    if not all(entry is None or isinstance(entry, str | bool | int | float) for entry in entries):
        raise ValueError(f"{key} must be a plain value or a list of some, got {reprlib.repr(value)}")
    if any(isinstance(entry, str) and "${" in entry for entry in entries):
        raise ValueError(f"{key} must be a plain value, without ${{...}}, got {reprlib.repr(value)}")
    spelt = [quoted(entry) if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    return f"[{','.join(spelt)}]" if isinstance(value, list) else spelt[0]


def taken_out(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """``GROUP={_target_: ...}`` and what sets something in it, by group: Hydra takes names of choices alone there. A
    part elsewhere is put in the place of the old one, with which Hydra would merge it."""
    given = {g: o for o in overrides for g in (*GROUPS, "task") if o.startswith(f"{g}=") and _is_part(o)}
    rest: list[str] = []
    parts = {group: [override] for group, override in given.items()}
    for override in overrides:
        key, _, value = override.partition("=")
        group = key.lstrip("+~").partition(".")[0]
        if group in parts and override != given[group]:
            parts[group].append(override)
        elif group not in parts and _is_part(override) and not key.startswith(("+", "~")):
            rest += [f"{key}=null", f"{key}={value}"]
        elif group not in parts:
            rest.append(override)
    return rest, parts


def _is_part(override: str) -> bool:
    value = override.partition("=")[2].lstrip()
    return value.startswith("{") and "_target_" in value


def config_dir() -> Path:
    """Where the configuration groups are: in the package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "generate.yaml").is_file():
            return folder
    raise SettingsError("the configuration folder `conf` is missing from this installation: install dlm again")


@contextmanager
def searching(folders: Sequence[str | Path]) -> Iterator[None]:
    """Find groups (``sampler/NAME.yaml``, ``task/...``, ``grid/...``) in these folders too, ours first, in everything
    that is composed meanwhile. Raises SettingsError: there is no such folder."""
    found = [Path(folder).expanduser().resolve() for folder in folders]
    if missing := [folder for folder in found if not folder.is_dir()]:
        raise SettingsError(
            f"{missing[0]} is no folder: --config-dir names one that holds sampler/NAME.yaml and the like"
        )
    before, _folders[:] = list(_folders), list(dict.fromkeys([*_folders, *found]))
    try:
        yield
    finally:
        _folders[:] = before


def own_folders(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The folders that ``--config-dir DIR`` and ``hydra.searchpath=[DIR,...]`` name, and the other arguments. Raises
    SettingsError: no folder is named."""
    folders, rest, words = [], [], iter(arguments)
    for word in words:
        key, equals, value = word.partition("=")
        if key in ("--config-dir", "-cd"):
            value = value if equals else next(words, "")
            if not value:
                raise SettingsError("--config-dir names a folder: --config-dir DIR")
            folders.append(value)
        elif key == "hydra.searchpath":
            named = [piece.strip().strip("'\"") for piece in value.strip().strip("[]").split(",")]
            if not equals or any(not name or name.startswith("pkg://") for name in named):
                raise SettingsError("hydra.searchpath is a list of folders: hydra.searchpath=[DIR,DIR]")
            folders += [name.removeprefix("file://") for name in named]
        else:
            rest.append(word)
    return folders, rest


def config_dirs() -> list[Path]:
    """Where the configuration groups are: ours, then the user's own."""
    return [config_dir(), *_folders]


def choices(group: str) -> list[str]:
    """The names a configuration group can be set to."""
    folders = [folder / group for folder in config_dirs()]
    found = {path.relative_to(folder).with_suffix("").as_posix()
             for folder in folders for path in folder.rglob("*.yaml") if not path.stem.startswith("_")}  # fmt: skip
    return sorted(found)


def node_of(group: str, choice: str) -> dict[str, Any] | None:
    """A choice of ours whose file is all there is to it, read without Hydra, which takes thirty times as long; None: it
    is none."""
    from omegaconf import OmegaConf

    name = Path(group, f"{choice}.yaml")
    file = config_dir() / name
    if not file.is_file() or any((folder / name).is_file() for folder in config_dirs()[1:]):
        return None
    with file.open(encoding="utf-8") as lines:
        package = next(lines, "").partition("# @package ")[2].strip() or str(name.parent).replace("/", ".")
    node = OmegaConf.to_container(OmegaConf.load(file))
    return node if package == group and isinstance(node, dict) and "defaults" not in node else None  # type: ignore[return-value]
