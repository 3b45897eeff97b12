"""What every command does with its arguments before Hydra sees them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

from dlm.configuration import choices, compose_config
from dlm.errors import SettingsError


def split_texts(overrides: Sequence[str], keys: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Take ``key=any text`` out of the overrides: prompts hold brackets, quotes and commas, which Hydra would parse."""
    texts, rest = {}, []
    for override in overrides:
        key, equals, value = override.partition("=")
        if equals and key in keys:
            texts[key] = value
        else:
            rest.append(override)
    return texts, rest


def answered_help(overrides: Sequence[str], text: str, config: str, show: Callable[[Any], str]) -> bool:
    """Print the help (``--help``) or the composed configuration (``--cfg``) when asked to; True if so."""
    if any(o in ("-h", "--help") for o in overrides):
        print(text.format(groups=group_listing()))
        return True
    if "--cfg" in overrides:
        rest = [o for o in overrides if o not in ("--cfg", "job")]
        print(show(compose_config(config, rest)), end="")
        return True
    return False


def group_listing() -> str:
    """The configuration groups and what each can be set to."""
    lines = [f"  {group}={'|'.join(choices(group))}" for group in ("model", "sampler", "blocks", "cache", "drafting")]
    return "\n".join(lines)


def yaml_of(config: Any) -> str:
    """A composed configuration as YAML, Hydra's own part left out."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.masked_copy(config, [k for k in config if k != "hydra"]))


def shown_with(texts: Mapping[str, str]) -> Callable[[Any], str]:
    """:func:`yaml_of` with what :func:`split_texts` took away put back."""

    def shown(config: Any) -> str:
        config.merge_with(texts)
        return yaml_of(config)

    return shown


def check_counts(config: Any, *keys: str) -> None:
    """Refuse what is not a whole number of at least 1. Raises SettingsError."""
    for key in keys:
        if type(config[key]) is not int or config[key] < 1:
            raise SettingsError(f"{key} must be a whole number of at least 1, got {config[key]!r}")


def check_switches(config: Any, *keys: str) -> None:
    """Refuse what is neither true nor false. Raises SettingsError."""
    for key in keys:
        if not isinstance(config[key], bool):
            raise SettingsError(f"{key} must be true or false, got {config[key]!r}")


def folder_of(text: Any, pictures: bool = False) -> Path | None:
    """The folder that ``out=`` names; None where it names none.

    Args:
        text: the name.
        pictures: whether pictures will be drawn there.

    Raises:
        SettingsError: it is a file, or matplotlib is missing.
    """
    if not text or text == "null":
        return None
    folder = Path(str(text)).expanduser()
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"out={folder} is a file: name a folder")
    if pictures:
        from dlm.report.plots_points import check_matplotlib

        check_matplotlib()
    return folder


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A bar on stderr, where that is a terminal; by default with a description and the time gone."""
    shown = columns or (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*shown, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
