"""``dlm bench``: measurements, one word each; without a word it is ``decode``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from dlm.choices import chosen, labels
from dlm.commands.common import answered_help, asks_help, split_texts
from dlm.configuration import build, compose_config
from dlm.errors import SettingsError

# Word -> (module with a `run(overrides)` and a `HELP`, one line for the overview). Imported when called.
BENCHES: dict[str, tuple[str, str]] = {
    "decode": ("dlm.commands.bench_decode", "a step inside the model and outside it (without a word, too)"),
    "samplers": ("dlm.commands.bench_samplers", "what each sampler costs beside the threshold rule"),
    "caches": ("dlm.commands.bench_caches", "what each cache saves beside no cache"),
    "drafting": ("dlm.commands.bench_drafting", "what drafts save beside no drafts"),
}

HELP = """measurements (dlm bench WORD --help explains one):
{benches}
"""


def run(overrides: list[str]) -> int:
    """Run the measurement that the first word names; returns the exit status. Raises SettingsError: an unknown word."""
    named = bool(overrides) and overrides[0].isidentifier()  # neither key=value nor an option
    word = overrides[0] if named else "decode"
    if word not in BENCHES:
        raise SettingsError(f"unknown bench {word!r}; known are {', '.join(BENCHES)}")
    status: int = import_module(BENCHES[word][0]).run(overrides[1:] if named else overrides)
    if not named and asks_help(overrides):
        width = max(map(len, BENCHES))
        lines = [f"  {name:<{width}}  {line}" for name, (_, line) in BENCHES.items()]
        print("\n" + HELP.format(benches="\n".join(lines)), end="")
    return status


class Request:
    """What the command line of a bench asks for.

    Attributes:
        help: whether that was help, which has been printed; nothing else is there then.
        config: the composed configuration.
        settings: of the bench, built.

    Raises:
        SettingsError: ``sampler=NAME`` where the bench takes ``samplers=``, and likewise for caches.
    """

    def __init__(self, name: str, overrides: Sequence[str], text: str, several: Mapping[str, Sequence[str]]) -> None:
        """``several``: groups of which the bench takes a list, with the names that ``all`` leaves out."""
        from hydra.utils import instantiate

        self._name, self._several = name, several
        self._texts, self._overrides = split_texts(overrides, [f"{group}s" for group in several])

        self.help = answered_help(self._overrides, text, name, self._texts)
        if self.help:
            return
        for override in self._overrides:
            key = override.partition("=")[0].lstrip("+~")
            group = key.partition(".")[0]
            # Settings of a cache are those of one cache; settings of a sampler hold for all that know them.
            if group in several and (key == group or group == "cache"):
                example = f"'{group}s=[NAME,NAME:KEY=VALUE]'"
                raise SettingsError(
                    f"{name.replace('_', ' ')} takes several {group}s: {example} instead of {group}=NAME"
                )
        self.config = compose_config(name, self._shared("sampler" not in several))
        self.settings = build(instantiate, self.config.bench, _convert_="all")

    @property
    def sampler(self) -> Any:
        """The sampler that the group is set to."""
        from hydra.utils import instantiate

        return build(instantiate, self.config.sampler, _convert_="all")

    def _shared(self, sampler: bool) -> list[str]:
        """The overrides; settings of a sampler where one is chosen: not every sampler knows them."""
        return [o for o in self._overrides if sampler or not o.lstrip("+~").startswith("sampler.")]

    def parts(self, group: str, always: Sequence[str] = ()) -> dict[str, Any]:
        """The parts that the list of a group names, by label; those that ``always`` names come first."""
        asked = self._texts.get(f"{group}s", self.config[f"{group}s"])
        listed = asked if isinstance(asked, str) else f"[{','.join(map(repr, asked))}]"
        names = labels(group, listed, self._several[group])
        return {label: self.part(group, label) for label in dict.fromkeys([*always, *names])}

    def part(self, group: str, label: str) -> Any:
        """The part of a label, or why its settings were refused."""
        from hydra.utils import instantiate
        from omegaconf.errors import OmegaConfBaseException

        shared = [o for o in self._shared(group == "sampler") if o.partition("=")[0].lstrip("+~") != group]
        try:
            config = compose_config(self._name, [*shared, *chosen(group, label)])
            return build(instantiate, config[group], _convert_="all")
        except (SettingsError, OmegaConfBaseException) as error:
            return str(error).strip().splitlines()[0]
