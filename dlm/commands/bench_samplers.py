"""``dlm bench samplers``: what each sampler costs beside the threshold rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlm.commands.common import answered_help, yaml_of
from dlm.configuration import build, choices, compose_config
from dlm.errors import SettingsError

if TYPE_CHECKING:
    from dlm.engine.sampler import Sampler

HELP = """dlm bench samplers: seconds per step that each sampler spends outside the model, beside the threshold rule's.

usage: dlm bench samplers [key=value ...]

  samplers=all                          every choice below but parts, or a list: samplers=[klass,topk]; threshold is
                                        always measured
  bench.shapes=[narrow]                 narrow has LLaDA's vocabulary under almost no body; also tiny, mid, wide,
                                        llada-8b, dream-7b
  bench.batches=[1,8]                   batch sizes
  bench.prompt=32 bench.new=32          positions of the prompt, and open positions: one block, at most 32
  bench.runs=5 bench.steps=3            rounds, and steps from a fresh canvas that are timed in each
  bench.device=cuda bench.dtype=bfloat16 bench.threads=1

Prints a table and, as the last line, everything as JSON. In every round each sampler decodes the same random canvases,
one after the other in an order of that round, threshold several times. Figures are medians over the rounds, ratios
those to threshold in the same round. "ms" and "ratio" are a step without the model's body and head, "step ratio" is
all of it, "scored" is how many positions per row the head was evaluated at for proposals. What is above a ratio of 3
and declares no reason is named below the table. Settings of a sampler (sampler.temperature=0.5) hold for all of them;
one that refuses is listed with its reason.

groups:
{groups}

examples:
  dlm bench samplers
  dlm bench samplers samplers=[klass,dawn] bench.runs=9 bench.threads=1
  dlm bench samplers bench.batches=[1] bench.shapes=[narrow,wide] sampler.temperature=0.5
  dlm bench samplers bench.device=cuda bench.dtype=bfloat16
"""


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    if answered_help(overrides, HELP, "bench_samplers", yaml_of):
        return 0
    from hydra.utils import instantiate

    from dlm.bench.samplers import BASELINE, bench_samplers

    if any(o.partition("=")[0].lstrip("+~") == "sampler" for o in overrides):
        raise SettingsError("bench samplers takes several samplers: samplers=[NAME,...] instead of sampler=NAME")
    # Settings of a sampler are no part of what all samplers share: not every one knows them.
    config = compose_config("bench_samplers", [o for o in overrides if not o.lstrip("+~").startswith("sampler.")])
    settings = build(instantiate, config.bench, _convert_="all")
    names = dict.fromkeys([BASELINE, *_names(config.samplers)])
    bench_samplers(settings, {name: _built(name, overrides) for name in names})
    return 0


def _names(asked: Any) -> list[str]:
    """What was asked for as ``samplers=``.

    Raises:
        SettingsError: an unknown name (the known ones are listed), no name.
    """
    known = choices("sampler")
    if asked == "all":
        return [name for name in known if name != "parts"]
    names = [asked] if isinstance(asked, str) else [str(name) for name in asked or ()]
    if not names:
        raise SettingsError(f"samplers names none: all, or some of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise SettingsError(f"unknown sampler {name!r}; known are all or {', '.join(known)}")
    return names


def _built(name: str, overrides: list[str]) -> Sampler | str:
    """The sampler of a name, or why its settings were refused."""
    from hydra.utils import instantiate
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = compose_config("bench_samplers", [*overrides, f"sampler={name}"])
        sampler: Sampler = build(instantiate, config.sampler, _convert_="all")
    except (SettingsError, OmegaConfBaseException) as error:
        return str(error).strip().splitlines()[0]
    return sampler
