"""What parts ask of a pretended accelerator, as JSON: a process of its own, since PyTorch cannot forget a device."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import torch

import cache
import dlm
import samplers
from dlm.bench.counting import CountingDevice
from dlm.bench.engine import Contender
from dlm.bench.launches import LaunchesBenchSettings, counted_steps, narrow
from dlm.bench.samplers import bound
from dlm.engine.no_cache import NoCache
from dlm.engine.static import StaticSteps
from dlm.errors import DlmError
from dlm.models import load
from dlm.speculation import FreeDave
from tests.doubles import random_dream, random_llada
from tests.test_decoder import FAMILIES, OWN_BLOCKS, PRESETS, WHOLE, preset

SETTINGS = LaunchesBenchSettings(prompt=24, new=32)
LAYERS = 2
CACHES = ["prefix", "vicinity", "dkv_decode", "dkv_prefill", "dllm", "entropy", "freecache", "adaptive"]
CACHES += ["d2cache", "surelock", "dsb", "elastic"]


def contenders() -> Iterator[tuple[str, Contender]]:
    blocks = samplers.Fixed(32)
    own = WHOLE | OWN_BLOCKS  # blocks of their own
    built = {name: preset(name, **({} if name in own else {"blocks": blocks})) for name in PRESETS}
    for name, sampler in bound(load("tiny", device="cpu"), built).items():
        yield f"{name} none", Contender(name, sampler)
        yield f"{name} dual", Contender(name, sampler, cache.dual())
    threshold = samplers.threshold(0.9, blocks=blocks)
    for name in CACHES:
        yield f"threshold {name}", Contender("", threshold, getattr(cache, name)())
    yield "random dkv_greedy", Contender("", samplers.random(blocks=blocks), cache.dkv_greedy())
    for name in ("none", "dual"):
        policy = NoCache() if name == "none" else cache.dual()
        yield f"topk {name} drafts", Contender("", samplers.topk(blocks=blocks), policy, FreeDave(4))


def some(names: Iterable[str]) -> list[str]:
    """Those that are looked at: all, or with a number on the command line every so many-th, and ``threshold``."""
    every = int(sys.argv[1]) if sys.argv[1:] else 1
    return [name for place, name in enumerate(names) if place % every == 0 or name.startswith("threshold")]


def counts() -> dict[str, Any]:
    model, found, every = narrow(LAYERS, "bfloat16"), {}, dict(contenders())
    for name, contender in ((name, every[name]) for name in some(every)):
        try:
            tally = counted_steps(model, contender, 1, SETTINGS)[-1].tally
        except DlmError:
            continue
        total = {kind: sum(n for (_, k), n in tally.counts.items() if k == kind) for kind in ("wait", "copy")}
        found[name] = [tally.counts["outside", "launch"], total["wait"], total["copy"]]
    return found


def layers() -> dict[str, float]:
    """Launches of one layer more, and what keeping a draft's keys takes for each."""
    found = {}
    for name, policy in {"none": NoCache(), "dual": cache.dual()}.items():
        contender = Contender("", samplers.threshold(0.9, blocks=samplers.Fixed(32)), policy)
        few, many = (
            counted_steps(narrow(n, "bfloat16"), contender, 1, SETTINGS)[-1].tally.counts["body", "launch"]
            for n in (2, 4)
        )
        found[name] = (many - few) / 2
    drafted = Contender("", samplers.topk(blocks=samplers.Fixed(32)), cache.dual(), FreeDave(4))
    few, many = (
        counted_steps(narrow(n, "bfloat16"), drafted, 1, SETTINGS)[-1].tally.counts["outside", "launch"] for n in (2, 4)
    )
    found["accepted"] = many - few
    return found


def on_device(model: Any, prompts: list[list[int]], **options: Any) -> list[Any]:
    device = CountingDevice()
    model.device = device.device
    with device.holding(model.backbone), device:
        return [(a.tokens, a.commit_step) for a in dlm.generate(model, prompts, **options)]


def equal() -> list[str]:
    """What does not give the CPU's answer."""
    prompts, wrong = [[1, 2, 3], [4], [5, 6, 7, 8, 9]], []

    def look(label: str, family: Any, **options: Any) -> None:
        options = {"max_new_tokens": 8, "batch_size": 2} | options
        here = [(a.tokens, a.commit_step) for a in dlm.generate(family(), prompts, **options)]
        there = on_device(family(), prompts, **options)
        # How far "auto" drafts, and with it the forward a token is committed at, depends on the clock.
        told = 1 if options.get("drafter") == FreeDave("auto") else 2
        if [answer[:told] for answer in there] != [answer[:told] for answer in here]:
            wrong.append(label)

    for name in some(PRESETS):
        family = random_dream if "dream" in FAMILIES.get(name, ["dream"]) else random_llada
        look(name, family, sampler=preset(name, temperature=0.7))
    steady = samplers.threshold(0.3, blocks=samplers.Fixed(4))
    for name in CACHES:
        look(f"cache {name}", random_llada, sampler=steady, cache=getattr(cache, name)())
    for name in ("prophet", "sched"):
        look(f"{name} dual", random_llada, sampler=preset(name, blocks=samplers.Fixed(4)), cache=cache.dual())
    for length in (4, "auto"):
        drafts = FreeDave(length)
        look(f"drafts {length}", random_llada, sampler=samplers.topk(), cache=cache.dual(), drafter=drafts)
    look("guidance", random_llada, sampler=samplers.threshold(0.3, guidance=1.0), cache=cache.dual())
    return wrong


def static() -> dict[str, Any]:
    """Shapes that the static steps of a ragged run have, in which the host may not wait; and whether its tokens are
    those of ordinary steps."""
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(0, 30, (40 - 3 * i % 29,), generator=generator).tolist() for i in range(12)]
    kept: list[StaticSteps] = []
    step = StaticSteps._step

    def without_waits(self: StaticSteps, shape: Any) -> None:
        kept.append(self)
        home: CountingDevice = shape.tensors[0].home
        with home.tally.without_waits():
            step(self, shape)

    StaticSteps._step = without_waits  # type: ignore[method-assign]
    found = {}
    for name, policy in {"none": None, "dual": cache.dual()}.items():
        options: dict[str, Any] = {"sampler": samplers.threshold(0.9, blocks=samplers.Fixed(8)), "cache": policy}
        options |= {"max_new_tokens": 24, "batch_size": 12}
        plain = [(a.tokens, a.commit_step) for a in dlm.generate(random_llada(), prompts, **options)]
        model = random_llada()
        model.backbone.graphs = True
        kept.clear()
        same = on_device(model, prompts, **options) == plain
        found[name] = {"same": same, "shapes": len(kept[-1].kept), "steps": len(kept)}
    return found


def guard() -> list[str]:
    """What the pretended device raises on."""
    device, said = CountingDevice(), []
    with device:
        here, there = torch.ones(2), torch.ones(2, device=device.device)
        for work in (
            lambda: here + there,
            lambda: there + there.double(),
            lambda: there.numpy(),
            lambda: _silently(device, lambda: bool(there.any())),
            lambda: _silently(device, lambda: torch.tensor([1], device=device.device)),
            lambda: _silently(device, lambda: there[there > 0]),
        ):
            try:
                work()
            except (RuntimeError, TypeError) as error:
                said.append(str(error))
    return said


def _silently(device: CountingDevice, work: Any) -> Any:
    with device.tally.without_waits():
        return work()


if __name__ == "__main__":
    print(json.dumps({"counts": counts(), "layers": layers(), "wrong": equal(), "static": static(), "guard": guard()}))
