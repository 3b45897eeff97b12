"""What every command does with its arguments before Hydra sees them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

from dlm.configuration import compose_config
from dlm.errors import SettingsError
from dlm.overrides import GROUPS, choices, configured, known_settings
from dlm.words import meant

_SETTING = re.compile(r"-|[+~]*[A-Za-z_][\w./@:-]*=|~\w")  # an option, KEY=VALUE, or ~KEY
# Options that are no settings; settings that no configuration has; and which of those are switches.
_OPTIONS = ("--cfg", "--multirun", "--dry-run", "--help-sweep")
_BESIDE = ("experiment", "recipe", "constraint")
_SWITCHES = ("json", "skip_refused")
Run = Callable[[dict[str, str], list[str]], int]


def flags_as_settings(overrides: Sequence[str], name: str, keys: Sequence[str] = ()) -> list[str]:
    """``--key value`` and ``--key=value`` as ``key=value``; a dash is an underscore, and a switch may stand alone.

    Args:
        name: of the configuration whose groups and settings are meant.
        keys: further ones.

    Raises:
        SettingsError: an unknown one; the nearest is named. One without a value.
    """
    if asks_help(overrides):
        return list(overrides)
    known, plain, rest = {*known_settings(name), *keys, *_BESIDE} - {"defaults", "hydra"}, [], list(overrides)
    while rest:
        flag, equals, value = (word := rest.pop(0)).partition("=")
        if not flag.startswith("--") or flag in _OPTIONS:
            plain.append(word)
            continue
        key = flag[2:].replace("-", "_")
        if key.partition(".")[0] not in known:
            near = meant(flag, [*(f"--{each.replace('_', '-')}" for each in sorted(known)), *_OPTIONS])
            raise SettingsError(
                f"unknown option {flag!r}{near}: settings are key=value or --key value, and --help lists them; a prompt"
                " that begins with a dash is 'prompt=-...'"
            )
        default: Any = configured(name)
        for part in key.split("."):
            default = default.get(part) if isinstance(default, dict) else None
        if not equals and (isinstance(default, bool) or (default is None and key in _SWITCHES)):
            value = rest.pop(0) if rest[:1] in (["true"], ["false"]) else "true"
        elif not equals:
            if not rest:
                raise SettingsError(f"{flag} has no value: {flag} VALUE, or {key}=VALUE")
            value = rest.pop(0)
        plain.append(f"{key}={value}")
    return plain


def split_texts(overrides: Sequence[str], keys: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Take ``key=any text`` out of the overrides: prompts hold brackets, quotes and commas, which Hydra would parse. A
    word that is no setting is the prompt, where there is one.

    Raises:
        SettingsError: two prompts.
    """
    texts: dict[str, str] = {}
    rest: list[str] = []
    for place, override in enumerate(overrides):
        key, equals, value = override.partition("=")
        bare = "prompt" in keys and not _SETTING.match(override) and overrides[place - 1 : place] != ["--cfg"]
        if (bare or override.startswith("prompt=")) and "prompt" in texts:
            both = f"{texts['prompt']!r} and {override.removeprefix('prompt=')!r}"
            raise SettingsError(f"two prompts, {both}: quote one that has blanks in it")
        if bare:
            texts["prompt"] = override
        elif equals and key in keys:
            texts[key] = value
        else:
            rest.append(override)
    return texts, rest


def command(name: str, text: str, keys: Sequence[str] = ()) -> Callable[[Run], Callable[[list[str]], int]]:
    """Make a command, ``run(overrides)``, of a function that is given what :func:`split_texts` finds.

    Args:
        name: of the configuration.
        text: the help.
        keys: whose values are texts.
    """

    def made(run: Run) -> Callable[[list[str]], int]:
        @wraps(run)
        def command(overrides: list[str]) -> int:
            texts, rest = split_texts(flags_as_settings(overrides, name, keys), keys)
            return 0 if answered_help(rest, text, name, texts) else run(texts, rest)

        return command

    return made


def asks_help(overrides: Sequence[str]) -> bool:
    """Whether a command line asks for help."""
    return "-h" in overrides or "--help" in overrides


def answered_help(overrides: Sequence[str], text: str, name: str, texts: Mapping[str, str] | None = None) -> bool:
    """Print the help (``--help``) or the composed configuration with texts (``--cfg``), if asked to; True if so."""
    if asks_help(overrides):
        print(text.format(groups="\n".join(f"  {group}={'|'.join(choices(group))}" for group in GROUPS)))
    elif "--cfg" in overrides:
        from omegaconf import OmegaConf

        if (what := [*overrides, ""][overrides.index("--cfg") + 1]) in ("hydra", "all"):
            raise SettingsError(f"--cfg {what} shows nothing here: --cfg job prints the settings of the command")
        config = compose_config(name, [o for o in overrides if o not in ("--cfg", "job")])
        config.merge_with(texts or {})
        print(OmegaConf.to_yaml(OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"])), end="")
    else:
        return False
    return True


def switch(texts: Mapping[str, str], key: str) -> bool:
    """Whether a setting that Hydra does not read is ``true``; absent: it is not. Raises SettingsError: another word."""
    if (said := texts.get(key, "false")) not in ("true", "false"):
        raise SettingsError(f"{key} must be true or false, got {said!r}")
    return said == "true"


def folder_of(text: Any, pictures: bool = False) -> Path | None:
    """The folder that ``out=`` names; None where it names none. ``pictures``: whether some will be drawn there. Raises
    SettingsError: it is a file, or matplotlib is missing."""
    if not text or text == "null":
        return None
    folder = Path(str(text)).expanduser()
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"out={folder} is a file: name a folder")
    if pictures:
        from dlm.report.plots_points import check_matplotlib

        check_matplotlib()
    return folder
