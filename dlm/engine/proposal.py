"""Logits to a proposed token and its statistics: a few passes over one chunk of rows, nothing kept.

Rules that hold for every sampler:

* The mask id and ids the tokenizer does not define are never proposed. Their probability stays in the
  normaliser, so that confidences equal the published ones (the references do not ban them); a distribution that is
  truncated is that of the others alone.
* Confidence is computed in float32, or in the precision the proposer asks for; float64 logits stay float64.
* Equal logits: the lowest token id wins.
* Temperature 0 draws nothing. Above 0 a token is the inverse of the cumulative distribution at one uniform per
  position, which has the law of the references' Gumbel trick at a vocabulary-th of the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.calls import Checked
from dlm.errors import SettingsError
from dlm.models.backbone import ModelDescription

# What a part may ask for beyond token and probability. The last five cost an own pass: raw logits before the
# transforms (gap), a second head pass (kl), a longer forward (shadow), attention maps (attention), and the likeliest
# tokens (candidates).
Statistic = Literal["prob", "margin", "entropy", "gap", "kl", "shadow", "attention", "candidates"]

# Low enough for exp() to give exactly 0, finite so that 0 * BANNED is 0 and not NaN.
BANNED = -1e30

# Temperatures in between divide any logit without leaving float32, and keep what is banned below what is not.
COLDEST, HOTTEST = 1e-6, 1e6

# How many candidates are told.
CANDIDATES = 5

# Width of a bucket of the two-level cumulative distribution.
_BUCKET = 512


@dataclass(frozen=True)
class Proposer(metaclass=Checked):
    """How a token is taken from the logits and which distribution its confidence refers to.

    Attributes:
        temperature: 0 is greedy; above 0 tokens are drawn from softmax(logits / temperature).
        top_p, top_k: nucleus and top-k truncation (Dream); None is off.
        confidence: ``raw``: statistics of the untempered, unfiltered softmax (LLaDA); ``filtered``: of the
            tempered and truncated one (Dream).
        end_confidence: ``keep``: end tokens compete like all others; ``aliased``: LLaDA's
            ``confidence_eos_eot_inf`` as its code behaves, see :class:`Vocabulary`.
        precision: dtype of the statistics. float32 is the default; several published loops use float64.
    """

    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    confidence: Literal["raw", "filtered"] = "raw"
    end_confidence: Literal["keep", "aliased"] = "keep"
    precision: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        if self.temperature != 0 and not COLDEST <= self.temperature <= HOTTEST:
            raise SettingsError(
                f"temperature must be 0 (greedy) or from {COLDEST:g} to {HOTTEST:g}, got {self.temperature}"
            )
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise SettingsError(f"top_p must be in (0, 1], got {self.top_p}; use null to switch it off")
        if self.top_k is not None and self.top_k < 1:
            raise SettingsError(f"top_k must be at least 1, got {self.top_k}; use null to switch it off")

    @property
    def filters(self) -> bool:
        """Whether logits are truncated, or tempered before the statistics are taken."""
        return self._truncates or (self.confidence == "filtered" and self.temperature > 0)

    @property
    def mixes(self) -> bool:
        """Whether rows of other temperatures may share a batch with it: nothing but the draw asks for one."""
        return not self._truncates and self.confidence == "raw" and self.end_confidence == "keep"

    @property
    def _truncates(self) -> bool:
        return self.top_k is not None or (self.top_p is not None and self.top_p < 1.0)


@dataclass(frozen=True)
class Vocabulary:
    """Which ids may be proposed, and which are left out of the confidence.

    Attributes:
        mask_id: never proposed.
        width: number of ids the model has logits for.
        valid: ids from here on are undefined and never proposed.
        unconfident: ids taken out of the normaliser; a proposal of one of them gets confidence 0
            (the aliasing of LLaDA's ``confidence_eos_eot_inf``, arXiv 2502.09992, its generate.py).
    """

    mask_id: int
    width: int
    valid: int
    unconfident: tuple[int, ...] = ()
    _vectors: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def bans(self, x: Tensor) -> Float[Tensor, " V"]:
        """What takes the ids out of the running that may not be proposed, added to logits like ``x``."""
        return self._vector("bans", (self.mask_id, *range(self.valid, self.width)), x)

    def left_out(self, x: Tensor) -> Float[Tensor, " V"]:
        """The same for those that are left out of the confidence."""
        return self._vector("left out", self.unconfident, x)

    def _vector(self, name: str, ids: Sequence[int], x: Tensor) -> Float[Tensor, " V"]:
        key = (name, x.dtype, x.device)
        if key not in self._vectors:
            vector = torch.zeros(x.shape[1], dtype=x.dtype)
            vector[list(ids)] = BANNED
            self._vectors[key] = vector.to(x.device)
        return self._vectors[key]

    @classmethod
    def of(cls, description: ModelDescription, proposer: Proposer) -> Vocabulary:
        """A model's vocabulary, with the ids that this way of proposing leaves out."""
        ends: tuple[int, ...] = ()
        if proposer.end_confidence == "aliased":
            # The reference's aliased tensors spare the end-of-text id as soon as noise makes them distinct.
            ends = description.eos_ids if proposer.temperature == 0 else description.eos_ids[1:]
        return cls(description.mask_id, description.vocab_size, description.valid_vocab, ends)


@dataclass(frozen=True)
class Proposal:
    """The proposed token of each row and its statistics; those nobody asked for are None.

    Fresh from :func:`propose` the shape ``*R`` is ``[R]``, in a :class:`dlm.engine.step.StepView` it is ``[B, N]``.

    Attributes:
        token: proposed ids. ``[*R]``
        prob: probability of the proposed token. ``[*R]``
        margin: its probability minus the largest other one. ``[*R]``
        entropy: of the whole distribution, in nats. ``[*R]``
        gap: largest minus second-largest raw logit, before any transform (Prophet). ``[*R]``
        kl: KL(now || the row's previous forward) of the raw distribution, in nats; inf where there was none
            (KLASS). ``[*R]``
        weighed: what a constraint must know (:class:`dlm.engine.constraint.ConstraintRun`). ``[*R, C, F]``
        top_token, top_prob, top_logit: the likeliest ids that may be proposed, the best first, with probability and
            logit after the transforms, before temperature and truncation (``candidates``). ``[*R, K]``
    """

    token: Int[Tensor, "*R"]
    prob: Float[Tensor, "*R"]
    margin: Float[Tensor, "*R"] | None = None
    entropy: Float[Tensor, "*R"] | None = None
    gap: Float[Tensor, "*R"] | None = None
    kl: Float[Tensor, "*R"] | None = None
    top_token: Int[Tensor, "*R K"] | None = None
    top_prob: Float[Tensor, "*R K"] | None = None
    top_logit: Float[Tensor, "*R K"] | None = None
    weighed: Float[Tensor, "*R C F"] | None = None

    def settled(self, where: Bool[Tensor, "B N"], token: Int[Tensor, "B N"], prob: Float[Tensor, "B N"]) -> Proposal:
        """Other tokens and probabilities ``where`` a constraint has its say."""
        prob = torch.where(where, prob.to(self.prob.dtype), self.prob)
        return replace(self, token=torch.where(where, token, self.token), prob=prob, weighed=None)

    def reshape(self, *shape: int) -> Proposal:
        """The same proposal, fresh from :func:`propose`, with its row axis reshaped."""
        return self.map(lambda x: x.view(*shape, *x.shape[1:]))

    def gather(self, *index: Int[Tensor, "..."]) -> Proposal:
        """What stands at these places of the first axes, one index each, in the shape of the indices."""
        return self.map(lambda x: x[index])

    def map(self, function: Callable[[Tensor], Tensor]) -> Proposal:
        """The same done with everything there is."""
        return Proposal(*(None if x is None else function(x) for x in self._columns()))  # type: ignore[arg-type]

    @classmethod
    def cat(cls, parts: list[Proposal], dim: int = 0) -> Proposal:
        """Proposals put end to end along an axis."""
        if len(parts) == 1:
            return parts[0]
        columns = zip(*(part._columns() for part in parts), strict=True)
        joined = (None if column[0] is None else torch.cat(column, dim) for column in columns)
        return cls(*joined)  # type: ignore[arg-type]

    def _columns(self) -> tuple[Tensor | None, ...]:
        return (
            self.token, self.prob, self.margin, self.entropy, self.gap, self.kl,
            self.top_token, self.top_prob, self.top_logit, self.weighed,
        )  # fmt: skip


def propose(
    logits: Float[Tensor, "R V"],
    vocabulary: Vocabulary,
    proposer: Proposer,
    needs: frozenset[Statistic] = frozenset({"prob"}),
    uniforms: Float[Tensor, " R"] | None = None,
    temperature: Float[Tensor, " R"] | None = None,
) -> Proposal:
    """Propose one token per row and measure how sure the model is of it.

    ``logits`` may be overwritten. ``uniforms`` (one per row, in (0, 1)) are needed when the temperature is above 0.
    ``temperature``: of each row, in place of the proposer's, which then must mix (:attr:`Proposer.mixes`).
    A row of NaN logits gives NaN statistics; the decoder turns those into an error.
    """
    x = logits.double() if proposer.precision == "float64" else wide(logits)
    if "candidates" in needs:
        tokens, probs, best = _candidates(x, vocabulary)
        proposal = propose(x, vocabulary, proposer, needs - {"candidates"}, uniforms, temperature)
        return replace(proposal, top_token=tokens, top_prob=probs, top_logit=best)
    if not proposer.filters:
        heat = proposer.temperature if temperature is None else temperature
        token = _choose(x, vocabulary, heat, uniforms) if proposer.temperature > 0 else None
        return _measure(x, vocabulary, token, needs)
    shaped = truncated(x, vocabulary, proposer)
    token = _choose(shaped, vocabulary, 1.0 if proposer.temperature > 0 else 0.0, uniforms)
    return _measure(shaped if proposer.confidence == "filtered" else x, vocabulary, token, needs)


def logit_gap(logits: Float[Tensor, "R V"]) -> Float[Tensor, " R"]:
    """Largest minus second-largest logit of each row, in at least float32. Leaves the logits as they were."""
    best, token = logits.max(dim=1, keepdim=True)
    second = logits.scatter_(1, token, -torch.inf).amax(dim=1)
    logits.scatter_(1, token, best)
    return wide(best.squeeze(1)) - second


def divergence(logits: Float[Tensor, "R V"], before: Float[Tensor, "R V"]) -> Float[Tensor, " R"]:
    """KL(softmax(logits) || softmax(before)) of each row, in nats and in at least float32."""
    now, then = wide(logits).log_softmax(dim=1), wide(before).log_softmax(dim=1)
    return (now.exp() * now.sub(then)).sum(dim=1)


def _candidates(
    x: Float[Tensor, "R V"], vocabulary: Vocabulary
) -> tuple[Int[Tensor, "R K"], Float[Tensor, "R K"], Float[Tensor, "R K"]]:
    """The likeliest ids that may be proposed, with probability and logit; of equal ones the lower id first. Leaves the
    logits as they were."""
    total = x.logsumexp(dim=1, keepdim=True)
    mask_logit = x[:, vocabulary.mask_id].clone()
    x[:, vocabulary.mask_id] = BANNED
    allowed = vocabulary.valid - (vocabulary.mask_id < vocabulary.valid)
    token = x[:, : vocabulary.valid].topk(min(CANDIDATES, allowed), dim=1).indices.sort(dim=1).values
    x[:, vocabulary.mask_id] = mask_logit
    logit, order = x.gather(1, token).sort(dim=1, descending=True, stable=True)
    return token.gather(1, order), (logit - total).exp(), logit


def probability(logits: Float[Tensor, "R V"], token: Int[Tensor, " R"], double: bool) -> Float[Tensor, " R"]:
    """Probability of one token of each row, in at least float32, or in float64."""
    logits, at = logits.double() if double else wide(logits), token[:, None]
    if logits.device.type != "cpu":
        return logits.softmax(dim=1).gather(1, at).squeeze(1)
    return (logits.gather(1, at).squeeze(1) - logits.logsumexp(dim=1)).exp()


def wide(x: Tensor) -> Tensor:
    """``x`` in at least float32."""
    return x.float() if x.dtype.itemsize < 4 else x


def _measure(
    x: Float[Tensor, "R V"],
    vocabulary: Vocabulary,
    token: Int[Tensor, " R"] | None,
    needs: frozenset[Statistic],
) -> Proposal:
    """Statistics of ``token`` (the best allowed id when None) under softmax(x): few kernels, for a GPU."""
    if x.device.type == "cpu":
        return _measure_in_place(x, vocabulary, token, needs)
    token = (x + vocabulary.bans(x)).argmax(dim=1) if token is None else token
    chosen, shares = token[:, None], x.softmax(dim=1)
    entropy = torch.special.entr(shares).sum(dim=1) if "entropy" in needs else None
    grown = None
    if vocabulary.unconfident:  # left out of the normaliser, so that a proposal of one of them has no probability
        kept = x + vocabulary.left_out(x)
        grown = (x.logsumexp(dim=1) - kept.logsumexp(dim=1)).exp()
        prob = kept.softmax(dim=1).gather(1, chosen).squeeze(1)
    else:
        prob = shares.gather(1, chosen).squeeze(1)
    margin = None
    if "margin" in needs:  # the mask id competes
        second = shares.scatter_(1, chosen, 0.0).amax(dim=1)
        margin = prob - (second if grown is None else second * grown)
    return Proposal(token, prob, margin, entropy)


def _measure_in_place(
    x: Float[Tensor, "R V"],
    vocabulary: Vocabulary,
    token: Int[Tensor, " R"] | None,
    needs: frozenset[Statistic],
) -> Proposal:
    """The same for a CPU, whose caches hold a few rows: nothing is copied, ``x`` is overwritten."""
    mask_logit = x[:, vocabulary.mask_id].clone()
    x[:, vocabulary.mask_id] = BANNED
    best, best_token = x[:, : vocabulary.valid].max(dim=1)
    # Everything is measured from the best allowed logit; a banned id that beats it only enlarges the normaliser.
    token_logit = None if token is None else x.gather(1, token[:, None]).squeeze(1)
    token = best_token if token is None else token
    second = _runner_up(x, token, mask_logit) if "margin" in needs else None

    x -= best[:, None]
    mask_gap = mask_logit - best
    weight = torch.exp(x) if "entropy" in needs else x.exp_()
    mask_weight = mask_gap.exp()
    total = weight.sum(dim=1) + mask_weight
    entropy = None
    if "entropy" in needs:
        moment = weight.mul_(x).sum(dim=1) + mask_weight * mask_gap.clamp_min(BANNED)
        entropy = total.log() - moment / total
    numerator = torch.ones_like(total) if token_logit is None else (token_logit - best).exp()
    if vocabulary.unconfident:
        ids = torch.tensor(vocabulary.unconfident, device=x.device)
        excluded = x[:, ids].exp() if "entropy" in needs else weight[:, ids]
        numerator = numerator.masked_fill(torch.isin(token, ids), 0.0)
        total = (total - excluded.sum(dim=1)).clamp_min(torch.finfo(x.dtype).tiny)
    prob = numerator / total
    margin = None if second is None else prob - (second - best).exp() / total
    return Proposal(token, prob, margin, entropy)


def _runner_up(
    x: Float[Tensor, "R V"], token: Int[Tensor, " R"], mask_logit: Float[Tensor, " R"]
) -> Float[Tensor, " R"]:
    """The largest logit apart from the token's own; the mask id competes."""
    own = x.gather(1, token[:, None])
    second = x.scatter_(1, token[:, None], BANNED).amax(dim=1)
    x.scatter_(1, token[:, None], own)
    return torch.maximum(second, mask_logit)


def _choose(
    x: Float[Tensor, "R V"],
    vocabulary: Vocabulary,
    temperature: float | Float[Tensor, " R"],
    uniforms: Float[Tensor, " R"] | None,
) -> Int[Tensor, " R"]:
    """The best allowed id, or a draw from softmax(x / temperature) over the allowed ids; one temperature, or one for
    each row."""
    allowed = x[:, : vocabulary.valid].clone()
    if vocabulary.mask_id < vocabulary.valid:
        allowed[:, vocabulary.mask_id] = BANNED
    if not isinstance(temperature, Tensor) and temperature == 0:
        return allowed.argmax(dim=1)
    if uniforms is None:
        raise SettingsError("a temperature above 0 needs one uniform per row")
    if isinstance(temperature, Tensor):
        greedy, best = temperature == 0, allowed.argmax(dim=1)
        heat = torch.where(greedy, 1.0, temperature).to(x.dtype)[:, None]
        weight = allowed.sub_(allowed.amax(dim=1, keepdim=True)).div_(heat).exp_()
        return torch.where(greedy, best, _invert_cdf(weight, uniforms))
    weight = allowed.sub_(allowed.amax(dim=1, keepdim=True)).div_(temperature).exp_()
    return _invert_cdf(weight, uniforms)


def _invert_cdf(weight: Float[Tensor, "R V"], uniforms: Float[Tensor, " R"]) -> Int[Tensor, " R"]:
    """The first id whose cumulative weight exceeds uniform x total; buckets first, then inside one bucket.

    Two levels keep the cumulative sums short and in float64 without a float64 copy of the row.
    """
    rows, vocab = weight.shape
    buckets = -(-vocab // _BUCKET)
    padded = torch.nn.functional.pad(weight, (0, buckets * _BUCKET - vocab)).view(rows, buckets, _BUCKET)
    bucket_cdf = padded.sum(dim=2, dtype=torch.float64).cumsum(dim=1)
    target = uniforms.double() * bucket_cdf[:, -1]
    bucket = (bucket_cdf <= target[:, None]).sum(dim=1).clamp_max(buckets - 1)
    inner = padded[torch.arange(rows, device=weight.device), bucket].double()
    before = bucket_cdf.gather(1, bucket[:, None]).squeeze(1) - inner.sum(dim=1)
    inside = (inner.cumsum(dim=1) <= (target - before)[:, None]).sum(dim=1)
    # Rounding may point past the last id with weight: step back to it.
    last = _BUCKET - 1 - (inner > 0).flip(1).int().argmax(dim=1)
    return bucket * _BUCKET + torch.minimum(inside, last)


def truncated(x: Float[Tensor, "R V"], vocabulary: Vocabulary, proposer: Proposer) -> Float[Tensor, "R V"]:
    """Ban what may not be proposed, temper, then keep the nucleus, then the top k (Dream's order); what is cut becomes
    :data:`BANNED`. Banned ids take no part: truncation would otherwise spend the nucleus on them."""
    x = x / proposer.temperature if proposer.temperature > 0 else x.clone()
    x[:, vocabulary.valid :] = BANNED
    x[:, vocabulary.mask_id] = BANNED
    if proposer.top_p is not None and proposer.top_p < 1.0:
        ordered, order = x.sort(dim=1, descending=True, stable=True)
        mass = ordered.softmax(dim=1).cumsum(dim=1)
        # The smallest prefix whose mass exceeds top_p stays; the first token always does.
        cut = torch.zeros_like(mass, dtype=torch.bool)
        cut[:, 1:] = mass[:, :-1] > proposer.top_p
        x = x.masked_fill(torch.zeros_like(cut).scatter_(1, order, cut), BANNED)
    if proposer.top_k is not None:
        floor = x.topk(min(proposer.top_k, x.shape[1]), dim=1).values[:, -1:]
        x = x.masked_fill(x < floor, BANNED)
    return x
