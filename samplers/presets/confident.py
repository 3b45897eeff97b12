"""Samplers that commit everything the model is sure enough of, block by block unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

from dlm.engine.interfaces import BlockSchedule, Score, Selector
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from samplers.blocks.adaptive import AdaptiveBlocks
from samplers.blocks.fixed import Fixed, Whole
from samplers.blocks.pipelined import PipelinedBlocks
from samplers.blocks.sliding import SlidingBlocks
from samplers.presets.budgeted import uniform
from samplers.presets.options import SharedOptions, preset, published
from samplers.probes.lookahead import Lookahead
from samplers.probes.verified import VerifiedDrafts
from samplers.scores.confidence import Margin, NegativeEntropy, Probability
from samplers.selectors.combine import Union
from samplers.selectors.dawn import Dawn
from samplers.selectors.dimple import Dimple
from samplers.selectors.klass import Klass
from samplers.selectors.overlap import OverlapBound
from samplers.selectors.prefix import EntropyBound, Factor, Frechet
from samplers.selectors.slow_fast import SlowFast
from samplers.selectors.threshold import EntropyThreshold, LocalLeap, Threshold
from samplers.selectors.top_k import BestInFront
from samplers.transforms.credit import Credit

RELAXED = 0.75  # the bar of LocalLeap's paper around anchors
_RANKINGS: dict[str, type[Score]] = {"entropy": NegativeEntropy, "probability": Probability, "margin": Margin}
# alpha, beta, gamma of credit: section 5.1 of the paper; its parameter-free form; the defaults of dInfer.
VARIANTS: dict[str, tuple[float | None, float | None, float]] = {
    "paper": (0.65, 0.70, 0.20),
    "free": (None, None, 1.0),
    "dinfer": (0.7, 0.8, 0.2),
}


@published
def threshold(threshold: float = 0.9, **options: Unpack[SharedOptions]) -> Sampler:
    """Commit every position at least as probable as ``threshold``, and always the best one (confidence-aware parallel
    decoding, Fast-dLLM, arXiv 2505.22618).

    ``threshold`` in (0, 1.01]; 0.9 is the paper's, lower is faster and riskier. ``options``: see
    :class:`samplers.Options`.
    """
    return preset("threshold", options, Probability(), Threshold(threshold))


@published
def factor(
    factor: float = 1.0, *, compat: Literal["clean", "reference", "d2cache"] = "clean", **options: Unpack[SharedOptions]
) -> Sampler:
    """Commit the longest prefix of the sorted confidences with c_(n) >= 1 - factor/(n + 1) (Fast-dLLM, arXiv
    2505.22618).

    ``factor`` 0 or more, larger is faster; 1.0 is the paper's. ``compat="reference"``: with the published last-rank
    slip, see :class:`samplers.Factor`.
    """
    return preset("factor", options, Probability(), Factor(factor, compat))


@published
def frechet(margin: float = 0.25, **options: Unpack[SharedOptions]) -> Sampler:
    """Commit as many of the surest positions as keep a lower bound of their joint probability above any competitor's
    upper bound by more than ``margin`` (Fast-dLLM++, arXiv 2606.02955); see :class:`samplers.Frechet`."""
    return preset("frechet", options, Probability(), Frechet(margin))


@published
def entropy_threshold(threshold: float = 0.5, *, strict: bool = False, **options: Unpack[SharedOptions]) -> Sampler:
    """Commit every position with an entropy of at most ``threshold`` nats (``strict``: below it), and always the least
    uncertain one: the decoder of dParallel (arXiv 2509.26488). The paper's speeds are those of a model trained for it;
    the decoder itself needs no training."""
    return preset("entropy_threshold", options, NegativeEntropy(), EntropyThreshold(threshold, strict))


@published
def eb(
    gamma: float = 0.1,
    *,
    ranking: Literal["entropy", "probability", "margin"] = "entropy",
    minimum: int = 1,
    compat: Literal["clean", "d2cache"] = "clean",
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Commit as many positions as keep the bound on their mutual information below ``gamma`` nats (entropy-bounded
    unmasking: EB-Sampler, arXiv 2505.24857).

    ``ranking``: what orders the positions. Others: see :class:`samplers.EntropyBound`.
    """
    return preset("eb", options, _RANKINGS[ranking](), EntropyBound(gamma, compat, minimum))


@published
def overlap(gamma: float = 0.1, *, most: int = 32, **options: Unpack[SharedOptions]) -> Sampler:
    """The budget of ``eb`` that charges a position only what it shares with those already taken (ours); see
    :class:`samplers.OverlapBound`. Not to be recommended: it does not see dependence without a token in common."""
    return preset("overlap", options, NegativeEntropy(), OverlapBound(gamma, most))


@published
def dimple(
    threshold: float = 0.95, *, steps: int | None = None, eps: float = 1e-3, **options: Unpack[SharedOptions]
) -> Sampler:
    """Commit everything surer than ``threshold``; where nothing is, as many as Dream's time grid of ``steps`` says
    (confident decoding, Dimple, arXiv 2505.16990).

    The whole canvas is one block. Confidence is that before temperature and truncation, the paper's choice.
    """
    return preset("dimple", options, Probability(), Dimple(threshold, steps, eps), Whole())


@published
def klass(
    threshold: float = 0.9,
    *,
    divergence: float = 0.01,
    history: int = 2,
    tokens_per_step: int | None = None,
    steps: int | None = None,
    compat: Literal["clean", "d2cache"] = "clean",
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Commit positions surer than ``threshold`` that moved less than ``divergence`` nats at each of the last
    ``history`` forwards; else a fixed budget (KLASS, arXiv 2511.05664).

    The paper's threshold and divergence by task (LLaDA, blocks of 64): GSM8K .6 and .015, MATH .6 and .01, HumanEval .9
    and .01, MBPP .7 and .01.
    """
    selector = Klass(threshold, divergence, history, compat)
    return preset("klass", options, Probability(), selector, budget=uniform(tokens_per_step, steps))


@published
def localleap(
    threshold: float = 0.9, relaxed: float | None = None, radius: int = 4, **options: Unpack[SharedOptions]
) -> Sampler:
    """Commit what reaches ``threshold`` (the anchors), and within ``radius`` positions of an anchor what reaches
    ``relaxed``; None: 0.75, or the threshold where that is lower (LocalLeap, arXiv 2510.07081)."""
    near = min(RELAXED, threshold) if relaxed is None else relaxed
    return preset("localleap", options, Probability(), LocalLeap(threshold, near, radius))


@published
def dawn(
    sure: float = 0.9,
    *,
    induced: float = 0.7,
    low: float = 0.75,
    edge: float = 0.07,
    sink: float = 0.01,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Commit together what does not attend to each other (DAWN, arXiv 2602.06953); see :class:`samplers.Dawn`. The
    paper's numbers for LLaDA are the defaults (``low`` .80 for HumanEval, .70 for MBPP); for Dream: induced .75, low
    .80, edge .10, sink .03. Every forward yields attention maps."""
    return preset("dawn", options, Probability(), Dawn(sure, induced, low, edge, sink))


@published
def slowfast(
    *,
    explore: int = 6,
    window: int = 2,
    deviation: float = 1.0,
    low: float = 0.3,
    high: float = 0.9,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Find out slowly how far the canvas can be filled, then fill it up to there quickly (Slow-Fast sampling, arXiv
    2506.10848); see :class:`samplers.SlowFast`. The whole canvas is one block by default."""
    return preset("slowfast", options, Probability(), SlowFast(explore, window, deviation, low, high), Whole())


@published
def lopa(
    threshold: float = 0.9,
    *,
    branches: int = 3,
    branch_score: Literal["published", "mean"] = "published",
    creation: float = 0.5,
    lowest: float = 0.5,
    selector: Selector | None = None,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Threshold decoding (or ``selector``) in which every forward also tries ``branches`` rows with one more token each
    and goes on with the best (look-ahead branches: LoPA, arXiv 2512.16229). A forward costs 1 + ``branches`` rows.

    ``branch_score``, ``creation`` and ``lowest``: see :class:`samplers.Lookahead`.
    """
    probe = Lookahead(branches, branch_score, creation, lowest)
    return preset("lopa", options, Probability(), selector or Threshold(threshold), probe=probe)


@published
def verified(
    gamma: float = 0.1,
    *,
    drafts: int = 3,
    regret: float = 0.1,
    sure: float = 0.9,
    likely: float | None = None,
    selector: Selector | None = None,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Entropy-bounded unmasking (or ``selector``) in which every forward also checks two guesses of how the row goes on
    (ours); see :class:`samplers.VerifiedDrafts`. A forward costs up to 1 + 2 ``drafts`` rows. ``likely``: None is 0.7,
    and 1 where tokens are drawn, which must follow their law."""
    usual = 1.0 if options.get("temperature") else 0.7
    probe = VerifiedDrafts(drafts, regret, sure, usual if likely is None else likely)
    return preset("verified", options, NegativeEntropy(), selector or EntropyBound(gamma), probe=probe)


@published
def credit(
    threshold: float = 0.95,
    *,
    variant: Literal["paper", "free", "dinfer"] = "paper",
    alpha: float | None = None,
    beta: float | None = None,
    gamma: float | None = None,
    slots: int = 8,
    store: Literal["sparse", "dense"] = "sparse",
    selector: Selector | None = None,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Tokens that keep winning need less confidence (CreditDecoding, arXiv 2510.06133): fuse credit into the logits,
    then commit what reaches ``threshold`` (or what ``selector`` chooses).

    ``variant`` sets alpha, beta and gamma; each can be given by itself. See :class:`samplers.Credit`.
    """
    usual_alpha, usual_beta, usual_gamma = VARIANTS[variant]
    transform = Credit(
        usual_alpha if alpha is None else alpha,
        usual_beta if beta is None else beta,
        usual_gamma if gamma is None else gamma,
        slots,
        store,
    )
    return preset("credit", options, Probability(), selector or Threshold(threshold), transforms=(transform,))


@published
def adablock(
    threshold: float = 0.9,
    *,
    length: int | None = None,
    delimiters: Sequence[str | int] = ("\n",),
    delimiter_threshold: float = 0.3,
    window: float = 0.25,
    selector: Selector | None = None,
    **options: Unpack[SharedOptions],
) -> Sampler:
    """Threshold decoding (or ``selector``) in blocks that end on a delimiter the model is sure of: where a line or a
    sentence does (AdaBlock, arXiv 2509.26432).

    ``length``, ``delimiters``, ``delimiter_threshold`` and ``window``: see :class:`samplers.AdaptiveBlocks`, which is
    also what ``blocks=adaptive`` gives any other sampler. Fixed blocks given to this preset set ``length``,
    unless that is given too.

    Raises:
        SettingsError: blocks that are neither adaptive ones nor fixed ones with a length.
    """
    length = _own_length("adablock", options, length, AdaptiveBlocks)
    own = AdaptiveBlocks(length, tuple(delimiters), delimiter_threshold, window)
    return preset("adablock", options, Probability(), selector or Threshold(threshold), own)


@published
def dcd(
    threshold: float = 0.9, *, length: int | None = None, widest: int = 128, **options: Unpack[SharedOptions]
) -> Sampler:
    """Threshold decoding in a window of ``length`` open positions (None: 16) that begins at the first of them and is at
    most ``widest`` positions wide: what is unsure waits for its neighbours (Deferred Commitment Decoding, arXiv
    2601.02076); see :class:`samplers.SlidingBlocks`. Fixed blocks given to this preset set ``length``, unless that is
    given too. ``stop_at_end=decoded`` takes away what lies behind an end of text; its authors' code fills it.

    Raises:
        SettingsError: blocks that are neither sliding ones nor fixed ones with a length.
    """
    length = _own_length("dcd", options, length, SlidingBlocks)
    return preset("dcd", options, Probability(), Threshold(threshold), SlidingBlocks(length, widest, usual=16))


@published
def d3llm(
    threshold: float = 0.5, *, length: int | None = None, begin: float = 0.1, **options: Unpack[SharedOptions]
) -> Sampler:
    """Commit every position with an entropy of at most ``threshold`` nats in several open blocks of ``length`` (None:
    32) at once, and always the least uncertain one of the first; a block opens once ``begin`` of the one before is
    filled (entropy-based multi-block decoding, d3LLM, arXiv 2601.07568). See :class:`samplers.PipelinedBlocks`; fixed
    blocks given to this preset set ``length``, unless that is given too. The paper's speeds are those of a model
    distilled for it.

    Raises:
        SettingsError: blocks that are neither pipelined ones nor fixed ones with a length.
    """
    length = _own_length("d3llm", options, length, PipelinedBlocks)
    blocks = options.get("blocks")
    own = blocks if isinstance(blocks, PipelinedBlocks) else PipelinedBlocks(length, begin=begin)
    selector = Union((EntropyThreshold(threshold), BestInFront(own.length or own.usual)))
    return preset("d3llm", options, NegativeEntropy(), selector, own)


def _own_length(name: str, options: SharedOptions, length: int | None, kind: type[BlockSchedule]) -> int | None:
    """The length of the blocks a preset makes itself: ``length``, or that of fixed blocks it was given. SettingsError:
    it was given blocks of another ``kind``."""
    blocks = options.get("blocks")
    if isinstance(blocks, Fixed) and blocks.length is not None:
        options["blocks"] = None
        return length or blocks.length
    if blocks is not None and not isinstance(blocks, kind):
        raise SettingsError(f"sampler {name!r} makes its own blocks: leave blocks alone, or choose another sampler")
    return length
