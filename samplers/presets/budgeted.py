"""Fixed budgets: so many tokens a forward, the surest first (LLaDA, arXiv 2502.09992), or with a rule of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Unpack

from dlm.engine.interfaces import BlockSchedule, Score, Selector
from dlm.engine.proposal import Proposer
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from samplers.blocks.fixed import Whole
from samplers.budgets.ascending import Ascending, AscendingBlocks
from samplers.budgets.profile import ProfiledSteps
from samplers.budgets.time_grid import TimeGrid
from samplers.budgets.uniform import Uniform
from samplers.ends import EndRejection
from samplers.modifiers.certainty_prior import CertaintyPrior
from samplers.presets.options import SharedOptions, preset, published
from samplers.scores.calibrated import Calibrated
from samplers.scores.confidence import Earliest, Margin, NegativeEntropy, Probability, Random
from samplers.selectors.coherent import Coherent
from samplers.selectors.dilated import Dilated
from samplers.selectors.top_k import Bernoulli, TopK

Compat = Literal["clean", "reference"]


def uniform(tokens_per_step: int | None, steps: int | None) -> Uniform:
    """The budget two settings describe; one token per step when neither is given."""
    return Uniform(1 if tokens_per_step is None and steps is None else tokens_per_step, steps)


@published
def topk(*, tokens_per_step: int | None = None, steps: int | None = None, **options: Unpack[SharedOptions]) -> Sampler:
    """LLaDA's low-confidence remasking: the most probable proposals first.

    Give ``tokens_per_step`` (default 1) or ``steps`` for the whole canvas. ``options``: see
    :class:`samplers.Options`.
    """
    return preset("topk", options, Probability(), TopK(), budget=uniform(tokens_per_step, steps))


@published
def margin(
    *, tokens_per_step: int | None = None, steps: int | None = None, **options: Unpack[SharedOptions]
) -> Sampler:
    """A fixed budget ranked by the gap between the two largest probabilities (arXiv 2502.06768)."""
    return preset("margin", options, Margin(), TopK(), budget=uniform(tokens_per_step, steps))


@published
def entropy(
    *, tokens_per_step: int | None = None, steps: int | None = None, **options: Unpack[SharedOptions]
) -> Sampler:
    """A fixed budget ranked by negative entropy, the least uncertain position first."""
    return preset("entropy", options, NegativeEntropy(), TopK(), budget=uniform(tokens_per_step, steps))


@published
def random(
    *, tokens_per_step: int | None = None, steps: int | None = None, **options: Unpack[SharedOptions]
) -> Sampler:
    """A fixed budget in random order (LLaDA's ``remasking="random"``); tokens are still the proposals."""
    return preset("random", options, Random(), TopK(), budget=uniform(tokens_per_step, steps))


@published
def profiled(steps: int = 16, *, entropies: Sequence[float] | None = None, **options: Unpack[SharedOptions]) -> Sampler:
    """A random order in ``steps`` steps whose sizes cost least by an information profile (arXiv 2510.25544); see
    :class:`samplers.ProfiledSteps`. ``entropies`` None: equal steps. The whole canvas is one block."""
    return preset("profiled", options, Random(), TopK(), Whole(), budget=ProfiledSteps(steps, entropies))


@published
def dus(base: int = 2, **options: Unpack[SharedOptions]) -> Sampler:
    """Dilated groups of a block, far from each other first and halved in between (``base`` 2), whatever the confidence
    (dilated unmasking schedule: DUS, arXiv 2506.19037): about log B forwards a block of B."""
    return preset("dus", options, Earliest(), Dilated(base))


@published
def eoser(
    *,
    low: float = 0.4,
    high: float = 1.0,
    tokens_per_step: int | None = None,
    steps: int | None = None,
    compat: Compat = "clean",
    **options: Unpack[SharedOptions],
) -> Sampler:
    """A fixed budget in which a proposed end of text is distrusted early: its confidence is multiplied with a factor
    that rises from ``low`` to ``high`` over the steps (end-of-sequence early rejection, EOSER, arXiv 2509.23924)."""
    modifier = EndRejection(low, high, steps, "linear", compat, tokens_per_step or 1)
    budget = uniform(tokens_per_step, steps)
    return preset("eoser", options, Probability(), TopK(), Whole(), budget=budget, modifiers=(modifier,))


def _doubling(name: str, block_count: int, options: SharedOptions, **parts: Any) -> Sampler:
    own: BlockSchedule = AscendingBlocks(block_count) if block_count > 1 else Whole()
    if not isinstance(options.get("blocks") or own, Whole | AscendingBlocks):
        raise SettingsError(
            f"sampler {name!r} doubles its steps over the whole canvas: use blocks=whole or blocks=auto"
        )
    return preset(name, options, Probability(), TopK(), own, budget=Ascending(), **parts)


@published
def ass(*, block_count: int = 1, **options: Unpack[SharedOptions]) -> Sampler:
    """Ascending step size (ASS, arXiv 2509.23924): 1, 2, 4, … positions a step, log2 of the canvas forwards in all.
    ``block_count`` cuts the canvas where steps end, the small steps first (see :class:`samplers.AscendingBlocks`)."""
    return _doubling("ass", block_count, options)


@published
def eoser_ass(
    *, low: float = 0.01, high: float = 1.0, block_count: int = 1, **options: Unpack[SharedOptions]
) -> Sampler:
    """Both: doubling steps, with the end of text distrusted until the last one."""
    return _doubling("eoser_ass", block_count, options, modifiers=(EndRejection(low, high, None, "ascending"),))


@published
def pc(
    *,
    decay: float = 0.25,
    cap: float = 10.0,
    frequencies: str | None = None,
    tokens_per_step: int | None = None,
    steps: int | None = None,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Position-aware, calibrated confidence (PC-Sampler, arXiv 2508.13021): a fixed budget that prefers early positions
    and tokens that are rare in a corpus; a sampler for quality. The whole canvas is one block by default. The paper's
    ``decay``: 0.25, Sudoku 0, Countdown 1. See :class:`samplers.Calibrated`."""
    score, budget = Calibrated(decay, cap, frequencies), uniform(tokens_per_step, steps)
    return preset("pc", options, score, TopK(), Whole(), budget=budget)


@published
def certainty_prior(
    sigma: float = 10.0,
    *,
    tokens_per_step: int | None = None,
    steps: int | None = None,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """A fixed budget by confidence times the share of known positions around, seen through a Gaussian of ``sigma``
    positions (certainty prior, d2Cache, arXiv 2509.23094)."""
    budget, modifiers = uniform(tokens_per_step, steps), (CertaintyPrior(sigma),)
    return preset("certainty_prior", options, Probability(), TopK(), budget=budget, modifiers=modifiers)


def _ccd(name: str, selector: Coherent, options: SharedOptions) -> Sampler:
    return preset(name, options, NegativeEntropy(), selector, Whole(), proposer=Proposer(confidence="filtered"))


@published
def ccd(
    *, steps: int | None = None, expand: float = 4.0, warm_up: int = 5, **options: Unpack[SharedOptions]
) -> Sampler:
    """Coherent contextual decoding (CCD, arXiv 2512.02044): ``steps`` forwards over the whole canvas (None: one per
    position); positions that kept their token while they waited go first. See :class:`samplers.Coherent`."""
    return _ccd("ccd", Coherent(False, steps, expand, warm_up), options)


@published
def ccd_ds(
    *, steps: int | None = None, expand: float = 4.0, warm_up: int = 5, **options: Unpack[SharedOptions]
) -> Sampler:
    """The same, committing all that kept their token at once: fewer forwards than ``steps``."""
    return _ccd("ccd_ds", Coherent(True, steps, expand, warm_up), options)


def _on_grid(
    name: str, options: SharedOptions, score: Score, selector: Selector, budget: TimeGrid | None = None
) -> Sampler:
    """A sampler of Dream (Dream 7B, arXiv 2508.15487): one block, a time grid, confidence under the filtered
    distribution."""
    if options.get("blocks") not in (None, Whole()):
        raise SettingsError(
            f"sampler {name!r} runs its time grid over the whole canvas: use blocks=whole, or a fixed budget with"
            " blocks (sampler=topk, margin or entropy)"
        )
    proposer = Proposer(confidence="filtered")
    return preset(name, options, score, selector, Whole(), budget=budget, proposer=proposer)


@published
def dream_origin(*, steps: int | None = None, eps: float = 1e-3, **options: Unpack[SharedOptions]) -> Sampler:
    """``alg="origin"``: every masked position is committed with probability 1 - s/t, whatever its confidence."""
    return _on_grid("dream_origin", options, Probability(), Bernoulli(TimeGrid(steps, eps)))


@published
def dream_maskgit_plus(
    *,
    steps: int | None = None,
    eps: float = 1e-3,
    alg_temp: float | None = None,
    compat: Compat = "reference",
    **options: Unpack[SharedOptions],
) -> Sampler:
    """``alg="maskgit_plus"``: the most probable proposals first.

    ``steps``: forwards over the whole canvas (None: one per position). ``alg_temp`` above 0 draws the positions.
    ``compat``: how the number per step is rounded, see :class:`samplers.TimeGrid`.
    """
    selector, grid = TopK(alg_temp or 0.0), TimeGrid(steps, eps, compat)
    return _on_grid("dream_maskgit_plus", options, Probability(), selector, grid)


@published
def dream_margin(
    *,
    steps: int | None = None,
    eps: float = 1e-3,
    alg_temp: float | None = None,
    compat: Compat = "reference",
    **options: Unpack[SharedOptions],
) -> Sampler:
    """``alg="topk_margin"``: the largest gap between the two best tokens first. Settings as ``dream_maskgit_plus``."""
    selector, grid = TopK(alg_temp or 0.0), TimeGrid(steps, eps, compat)
    return _on_grid("dream_margin", options, Margin(), selector, grid)


@published
def dream_entropy(
    *,
    steps: int | None = None,
    eps: float = 1e-3,
    alg_temp: float | None = None,
    compat: Compat = "reference",
    **options: Unpack[SharedOptions],
) -> Sampler:
    """``alg="entropy"``: the lowest entropy first, Dream's recommended rule. Settings as ``dream_maskgit_plus``."""
    selector, grid = TopK(alg_temp or 0.0), TimeGrid(steps, eps, compat)
    return _on_grid("dream_entropy", options, NegativeEntropy(), selector, grid)
