"""What every command does with its arguments before Hydra sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dlm.configuration import choices, compose_config


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
