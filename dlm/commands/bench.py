"""``dlm bench``: measurements, one word each; without a word it is ``decode``."""

from __future__ import annotations

from importlib import import_module

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
    """Run the measurement that the first word names; returns the exit status.

    Raises:
        SettingsError: an unknown word; the known ones are listed.
    """
    named = bool(overrides) and overrides[0].isidentifier()  # neither key=value nor an option
    word = overrides[0] if named else "decode"
    if word not in BENCHES:
        raise SettingsError(f"unknown bench {word!r}; known are {', '.join(BENCHES)}")
    status: int = import_module(BENCHES[word][0]).run(overrides[1:] if named else overrides)
    if not named and any(o in ("-h", "--help") for o in overrides):
        width = max(map(len, BENCHES))
        lines = [f"  {name:<{width}}  {line}" for name, (_, line) in BENCHES.items()]
        print("\n" + HELP.format(benches="\n".join(lines)), end="")
    return status
