"""KLASS (arXiv 2511.05664): commit what is sure and has stopped moving."""

from __future__ import annotations

from typing import Any, Literal

from dlm.engine.sampler import Sampler
from samplers.presets.llada import uniform
from samplers.presets.options import Options
from samplers.scores.probability import Probability
from samplers.selectors.klass import Klass


def klass(
    threshold: float = 0.9,
    *,
    divergence: float = 0.01,
    history: int = 2,
    tokens_per_step: int | None = None,
    steps: int | None = None,
    compat: Literal["clean", "d2cache"] = "clean",
    **options: Any,
) -> Sampler:
    """Commit positions surer than ``threshold`` that moved less than ``divergence`` nats at each of the last
    ``history`` forwards; else a fixed budget.

    The paper's threshold and divergence by task (LLaDA, blocks of 64): GSM8K .6 and .015, MATH .6 and .01, HumanEval .9
    and .01, MBPP .7 and .01.
    """
    shared = Options.parse("klass", options)
    selector, budget = Klass(threshold, divergence, history, compat), uniform(tokens_per_step, steps)
    return shared.finish(Sampler("klass", Probability(), selector, shared.block_schedule, budget))
