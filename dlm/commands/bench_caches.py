"""``dlm bench caches``: what each cache saves and costs beside no cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlm.commands.common import answered_help, split_texts, yaml_of
from dlm.commands.compare import read_list
from dlm.configuration import build, choices, compose_config
from dlm.errors import SettingsError

if TYPE_CHECKING:
    from dlm.engine.interfaces import Cache
    from dlm.engine.sampler import Sampler

HELP = """dlm bench caches: what each cache saves beside no cache, on the same model, prompts and sampler.

usage: dlm bench caches [key=value ...]

  caches=all                        every choice below, or a list; a cache's own settings follow a colon:
                                    'caches=[dual,dkv_decode:interval=4]'; none is always measured
  sampler=topk blocks.length=32     the same for all caches; one that must know the order beforehand (dkv_greedy) is
                                    measured with sampler=random, beside no cache with sampler=random
  bench.shapes=[body]               body is 512 wide, 8 layers, vocabulary 2048; also tiny, mid, wide, narrow,
                                    llada-8b, dream-7b
  bench.batches=[1]                 batch sizes
  bench.prompt=512 bench.generation=256
  bench.rounds=1                    whole generations of each cache; figures are medians over the rounds
  bench.turn=32                     steps a cache takes before it is the next one's turn; null: the whole generation
  bench.drift=32                    positions over which the drift is measured, untimed; 0: it is not
  bench.device=cuda bench.dtype=bfloat16 bench.threads=1

Prints what each cache saves (positions fed, seconds, tokens per second, ratio to none in the same round), then where
its time goes, the time that arithmetic and weight reading alone would take, memory and drift; the last line is
everything as JSON. A cache that refuses the sampler or the model is listed with its reason. Weights are random but for
shape tiny: the drift says which caches are exact, not what a trained model loses (dlm drift does). Heads of random
models are scaled so that they are about as sure of a token as a trained one; otherwise the caches that refresh after
an unsure commit (entropy, adaptive) would refresh at every step.

The default takes about a quarter of an hour on two CPU cores, 'caches=[dual,vicinity,dkv_decode]' five minutes.

groups:
{groups}

examples:
  dlm bench caches
  dlm bench caches 'caches=[dual,dual:every=8,dkv_decode]' bench.rounds=3
  dlm bench caches bench.shapes=[tiny] bench.prompt=64 bench.generation=64
  dlm bench caches bench.shapes=[llada-8b] bench.batches=[1,8] bench.prompt=800 bench.turn=null bench.device=cuda
"""
TEXT_KEYS = ("caches",)


def run(overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    texts, overrides = split_texts(overrides, TEXT_KEYS)

    def shown(config: Any) -> str:
        config.merge_with(texts)
        return yaml_of(config)

    if answered_help(overrides, HELP, "bench_caches", shown):
        return 0
    from hydra.utils import instantiate

    from dlm.bench.caches import NONE, bench_caches

    if any(o.partition("=")[0].lstrip("+~").partition(".")[0] == "cache" for o in overrides):
        raise SettingsError("bench caches takes several caches: 'caches=[NAME,NAME:KEY=VALUE]' instead of cache=NAME")
    config = compose_config("bench_caches", overrides)
    settings = build(instantiate, config.bench, _convert_="all")
    sampler: Sampler = build(instantiate, config.sampler, _convert_="all")
    ahead = [o for o in overrides if o.partition("=")[0].lstrip("+~") != "sampler"]
    labels = dict.fromkeys([NONE, *_labels(texts.get("caches", config.caches))])
    caches = {label: _built_cache(label) for label in labels}
    bench_caches(settings, caches, sampler, _built("sampler", [*ahead, "sampler=random"]))
    return 0


def _labels(text: str) -> list[str]:
    """What was asked for as ``caches=``, every name known.

    Raises:
        SettingsError: an unknown name (the known ones are listed), no name, settings that are not key=value.
    """
    known = choices("cache")
    entries = read_list(text)
    labels = known if entries == ["all"] else entries
    if not labels:
        raise SettingsError(f"caches names none: all, or some of {', '.join(known)}")
    for label in labels:
        name, _, settings = label.partition(":")
        if name not in known:
            raise SettingsError(f"unknown cache {name!r}; known are all or {', '.join(known)}")
        if bad := [s for s in _split(settings) if "=" not in s]:
            raise SettingsError(f"caches: {bad[0]!r} in {label!r} is not key=value (as dkv_decode:interval=4)")
    return labels


def _split(text: str) -> list[str]:
    """Cut at the commas outside braces and brackets."""
    return [piece.strip() for piece in re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|[^,])+", text)]


def _built_cache(label: str) -> Cache | str:
    """The cache of a label, or why its settings were refused."""
    name, _, settings = label.partition(":")
    cache: Cache | str = _built("cache", [f"cache={name}", *(f"cache.{setting}" for setting in _split(settings))])
    return cache


def _built(group: str, overrides: Sequence[str]) -> Any:
    """What a group is set to, or why it was refused."""
    from hydra.utils import instantiate
    from omegaconf.errors import OmegaConfBaseException

    try:
        return build(instantiate, compose_config("bench_caches", overrides)[group], _convert_="all")
    except (SettingsError, OmegaConfBaseException) as error:
        return str(error).strip().splitlines()[0]
