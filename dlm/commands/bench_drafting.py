"""``dlm bench drafting``: FreeDave beside the undrafted run of the same prompts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlm.commands.common import answered_help, split_texts, yaml_of
from dlm.commands.compare import read_list
from dlm.configuration import build, choices, compose_config
from dlm.errors import SettingsError

if TYPE_CHECKING:
    from dlm.engine.sampler import Sampler

HELP = """dlm bench drafting: FreeDave (draft and verify) beside the undrafted run of the same prompts.

usage: dlm bench drafting [key=value ...]

  bench.models=[tiny,body]          tiny answers held-out questions; the others have random weights and prompts of
                                    random tokens: body, mid, wide, narrow, llada-8b, dream-7b
  bench.draft_lengths=[2,4,8]       may hold auto
  bench.layouts=[batch,tree]        where the drafts stand
  'samplers=[topk,threshold:threshold=0.9]'   a sampler's own settings follow a colon
  caches=[none,dual]                likewise
  blocks.length=16                  the same for all
  bench.tasks=[puzzle/sudoku] bench.questions=4   what tiny is asked, questions of each task in every round
  bench.prompt=64 bench.generation=32             of models with random weights
  bench.batches=[1]                 batch sizes
  bench.rounds=3 bench.turn=8       whole decodes of each; forwards after which the next one has its turn
  bench.versions=[1,2,4,8]          versions of a row whose forward is timed
  bench.flip_dtypes=[float32,bfloat16,float64] bench.flip_questions=8
  bench.device=cuda bench.dtype=bfloat16 bench.threads=1

Per model and kind of prompts: forwards, drafts accepted, positions fed and answers that differ; then seconds, memory
and the time that arithmetic or weight reading alone would take. The undrafted run is measured twice: how far the second
is from a ratio of 1 is the noise. Then what one forward of several versions costs, whatever becomes of them, and from
it the share of drafts that must hold for drafting to pay (random weights say nothing of how many do). Then how many
answers of tiny differ from the undrafted ones in each number format: ties that rounding decides the other way; none in
float64. The last line is everything as JSON.

The default takes about half an hour on one CPU core, 'bench.models=[tiny] bench.flip_dtypes=[]' five minutes.

groups:
{groups}

examples:
  dlm bench drafting
  dlm bench drafting bench.models=[tiny] bench.draft_lengths=[4,auto] bench.rounds=5
  dlm bench drafting bench.models=[body] bench.batches=[1,4] 'samplers=[topk]' 'caches=[dual]'
  dlm bench drafting bench.models=[llada-8b] bench.prompt=256 bench.generation=128 blocks.length=32 bench.device=cuda
"""
TEXT_KEYS = ("samplers", "caches")


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    texts, overrides = split_texts(overrides, TEXT_KEYS)

    def shown(config: Any) -> str:
        config.merge_with(texts)
        return yaml_of(config)

    if answered_help(overrides, HELP, "bench_drafting", shown):
        return 0
    from hydra.utils import instantiate

    from dlm.bench.drafting import bench_drafting

    for override in overrides:
        group = override.partition("=")[0].lstrip("+~")
        if group in ("sampler", "cache"):
            raise SettingsError(f"bench drafting takes several {group}s: '{group}s=[NAME,NAME:KEY=VALUE]'")
    # Settings of a sampler are no part of what all samplers share: not every one knows them.
    config = compose_config("bench_drafting", [o for o in overrides if not o.lstrip("+~").startswith("sampler.")])
    settings = build(instantiate, config.bench, _convert_="all")
    named = {group: _labels(group, texts.get(f"{group}s", config[f"{group}s"])) for group in ("sampler", "cache")}
    samplers, caches = ({label: _built(group, label, overrides) for label in named[group]} for group in named)
    stepper: Sampler | str = _built("sampler", "topk", [o for o in overrides if "sampler." not in o])
    if isinstance(stepper, str):
        raise SettingsError(stepper)
    bench_drafting(settings, samplers, caches, stepper)
    return 0


def _labels(group: str, asked: Any) -> list[str]:
    """What was asked for as ``samplers=`` or ``caches=``, every name known.

    Raises:
        SettingsError: an unknown name (the known ones are listed), no name, settings that are not key=value.
    """
    known = choices(group)
    labels = read_list(asked) if isinstance(asked, str) else [str(label) for label in asked or ()]
    if not labels:
        raise SettingsError(f"{group}s names none: some of {', '.join(known)}")
    for label in labels:
        name, _, settings = label.partition(":")
        if name not in known:
            raise SettingsError(f"unknown {group} {name!r}; known are {', '.join(known)}")
        if bad := [s for s in _split(settings) if "=" not in s]:
            raise SettingsError(f"{group}s: {bad[0]!r} in {label!r} is not key=value (as threshold:threshold=0.9)")
    return labels


def _split(text: str) -> list[str]:
    """Cut at the commas outside braces and brackets."""
    return [piece.strip() for piece in re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|[^,])+", text)]


def _built(group: str, label: str, overrides: Sequence[str]) -> Any:
    """The sampler or cache of a label, or why its settings were refused."""
    from hydra.utils import instantiate
    from omegaconf.errors import OmegaConfBaseException

    name, _, settings = label.partition(":")
    own = [f"{group}={name}", *(f"{group}.{setting}" for setting in _split(settings))]
    shared = [o for o in overrides if group == "sampler" or not o.lstrip("+~").startswith("sampler.")]
    try:
        return build(instantiate, compose_config("bench_drafting", [*shared, *own])[group], _convert_="all")
    except (SettingsError, OmegaConfBaseException) as error:
        return str(error).strip().splitlines()[0]
