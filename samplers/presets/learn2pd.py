"""What is learned: Learn2PD (arXiv 2509.25188), the bound no filter can pass, and an unmasking policy (2512.09106)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from dlm.engine.sampler import Sampler
from dlm.training.filter_file import Filter, Inputs, read_filter
from dlm.training.policy_file import Policy, read_policy
from samplers.learn2pd.oracle import Oracle, OracleEscape
from samplers.learn2pd.selector import Learn2PD
from samplers.learned_policy.selector import LearnedPolicy
from samplers.presets.budgeted import uniform
from samplers.presets.options import SharedOptions, preset, published
from samplers.scores.confidence import NegativeEntropy, Probability


@published
def learn2pd(
    filter: Filter | Path | str | None = None,
    *,
    threshold: float | None = None,
    inputs: Inputs | None = None,
    tokens_per_step: int | None = None,
    steps: int | None = None,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Commit what a trained filter takes for final, and at least the surest position.

    ``filter``: a file of ``dlm train-filter``; None takes the one packaged for the model (``tiny`` has one).
    ``threshold``: in (0, 1); None takes the filter's own. ``inputs``: what the filter is shown, for a file that does
    not say. ``tokens_per_step`` (default 1) or ``steps``: the budget that is committed in any case.
    """
    loaded = read_filter(filter, inputs) if isinstance(filter, Path | str) else filter
    entropy = loaded is not None and loaded.inputs == "negative_entropy"
    score, selector = NegativeEntropy() if entropy else Probability(), Learn2PD(loaded, threshold)
    return preset("learn2pd", options, score, selector, budget=uniform(tokens_per_step, steps))


@published
def policy(
    policy: Policy | Path | str | None = None,
    *,
    explore: bool = False,
    boldness: float = 0.0,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Commit what a trained policy says, and where it says nothing what it is nearest to; see
    :class:`samplers.LearnedPolicy`.

    ``policy``: a file of ``dlm train policy``; None takes the one packaged for the model. ``explore``: draw from its
    probabilities, in place of committing what is above one half. ``boldness``: added to every logit.
    """
    loaded = read_policy(policy) if isinstance(policy, Path | str) else policy
    return preset("policy", options, Probability(), LearnedPolicy(loaded, explore, boldness))


@published
def oracle(
    answers: Sequence[Sequence[int]],
    inputs: Inputs = "masked_probability",
    least: float = 0.0,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Commit what agrees with known answers, a bound for rules that commit only final proposals. For analysis, and for
    the trajectories filters are trained on; see :class:`samplers.Oracle`."""
    walk = Oracle(answers, inputs, least)
    return preset("oracle", options, Probability(), walk, transforms=(OracleEscape(walk.answers),))
