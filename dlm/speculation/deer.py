"""DEER: a masked diffusion model drafts, an autoregressive model verifies (arXiv 2512.15176).

Behind what is verified stand k masks; one forward of the drafter fills them all, each from what is verified alone. One
forward of the verifier scores the draft. Its tokens are accepted from the left by speculative sampling (Leviathan et
al., arXiv 2211.17192) up to the first that is not, in whose place stands one of the verifier's; where all are, one more
of the verifier's follows. The published pseudo-code goes on behind a rejected token, whose successors were scored as if
it stood there; that has another law than the verifier's, and is not offered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from dlm.engine.calls import Checked
from dlm.engine.canvas import Job
from dlm.engine.noise import Purpose, uniform
from dlm.engine.proposal import COLDEST, HOTTEST
from dlm.engine.result import Counts, RowResult, first_end
from dlm.engine.stopwatch import Stopwatch
from dlm.errors import NumericsError, SettingsError
from dlm.models.causal import CausalModel
from dlm.models.language_model import LanguageModel
from dlm.speculation.coupling import agreed, gumbels


@dataclass(frozen=True)
class Deer(metaclass=Checked):
    """Settings of a run.

    Attributes:
        draft_length: masks behind what is verified, at most; 0 drafts nothing: plain autoregressive decoding.
        temperature: of the verifier; 0 is greedy.
        draft_temperature: of the drafter; None: the verifier's. 0 drafts the likeliest tokens.
        masks: how many masks the drafter sees, where more than it fills. A model that was trained on whole canvases
            knows no text that breaks off; ``all``: as many as are left to generate.
        mixture: the drafter's share of what is decoded, from 0 to 1: its draft is the answer as far as both agree
            (APD, :mod:`dlm.speculation.coupling`); None: the answer is the verifier's.

    Raises:
        SettingsError: a setting outside its range, or that means nothing to APD.
    """

    draft_length: int = 8
    temperature: float = 0.0
    draft_temperature: float | None = None
    masks: int | Literal["all"] | None = None
    mixture: float | None = None

    def __post_init__(self) -> None:
        if self.draft_length < 0:
            raise SettingsError(f"draft_length must be at least 0, got {self.draft_length}")
        for name, value in (("temperature", self.temperature), ("draft_temperature", self.draft_temperature or 0.0)):
            if value != 0 and not COLDEST <= value <= HOTTEST:
                raise SettingsError(f"{name} must be 0 (greedy) or from {COLDEST:g} to {HOTTEST:g}, got {value}")
        if isinstance(self.masks, int) and self.masks < 1:
            raise SettingsError(f"masks must be all, null or a whole number of at least 1, got {self.masks}")
        if self.mixture is not None:
            if not 0.0 <= self.mixture <= 1.0:
                raise SettingsError(f"mixture must be from 0 to 1, or null for DEER, got {self.mixture}")
            if self.draft_length < 1 or self.draft_temperature is not None:
                raise SettingsError("mixture takes the drafter's tokens: draft_length at least 1, no draft_temperature")


def check_pair(verifier: CausalModel, drafter: LanguageModel) -> None:
    """Raise SettingsError unless every id means the same to both, and the drafter sees all it is shown. Tokens that one
    of them lacks, such as the mask, are none of the draft."""
    if drafter.description.attention_block:
        raise SettingsError(
            f"drafter {drafter.name}: attention in blocks sees no masks behind a block that is not finished; draft with"
            " a model of full attention"
        )
    theirs, mine = verifier.tokenizer, drafter.tokenizer
    if theirs is None and mine is None:
        same = verifier.description.vocab_size == drafter.description.vocab_size
    elif theirs is None or mine is None:
        same = False
    else:
        first, second = theirs.get_vocab(), mine.get_vocab()
        second = {token: at for token, at in second.items() if at != drafter.description.mask_id}
        shared = first.keys() & second.keys()
        same = bool(shared) and all(first[token] == second[token] for token in shared)
        same = same and len(shared) == len({*first.values()} & {*second.values()})
    if not same:
        raise SettingsError(
            f"the vocabularies of verifier {verifier.name} and drafter {drafter.name} differ: a draft is token ids, so"
            " take models of one tokenizer"
        )


@dataclass
class _Row:
    """A row at work: what is verified, and what it took."""

    job: Job
    tokens: list[int]
    end: int
    confidence: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    calls: int = 0
    drafted: int = 0  # forwards of the drafter
    fed: int = 0
    accepted: list[int] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    ended: bool = False

    @property
    def open(self) -> bool:
        """Whether there is more to generate."""
        return not self.ended and len(self.tokens) < self.end

    @property
    def key(self) -> int:
        """Of its noise."""
        return self.job.key

    def drafts(self, how: Deer, drafter: LanguageModel | None) -> int:
        """How many tokens to draft: one of what is left is the verifier's own, except with APD."""
        if drafter is None:
            return 0
        room = drafter.description.context_length - len(self.tokens)
        own = how.mixture is None
        return max(0, min(how.draft_length, self.end - len(self.tokens) - own, room))

    def masks(self, how: Deer, drafter: LanguageModel, drafted: int) -> int:
        """How many masks the drafter sees."""
        left = self.end - len(self.tokens)
        wanted = left if how.masks == "all" else max(drafted, int(how.masks or 0))
        return min(wanted, drafter.description.context_length - len(self.tokens))

    def note(self, fed: int, drafted: int, accepted: int) -> None:
        """Count what a step took."""
        self.fed += fed + drafted
        if drafted:
            self.drafted += 1
            self.accepted += [0] * (accepted + 1 - len(self.accepted))
            self.accepted[accepted] += 1

    def take(self, tokens: list[int], confidence: list[float], ends: tuple[int, ...]) -> int:
        """Write what is verified, as far as an end token, and count the call; returns how many tokens that were."""
        stop = first_end(tokens, ends) + 1
        self.ended = stop <= len(tokens)
        self.tokens += tokens[:stop]
        self.confidence += confidence[:stop]
        self.steps += [self.calls] * len(tokens[:stop])
        self.calls += 1
        return min(stop, len(tokens))

    def result(self, ends: tuple[int, ...]) -> RowResult:
        """The row as it is handed over."""
        prompt, tokens = self.tokens[: self.job.start], self.tokens[self.job.start :]
        useful, seconds = first_end(tokens, ends), sum(self.seconds.values())
        needed = self.steps[useful - 1] + 1 if useful else 0
        counts = Counts(
            forwards=self.calls,
            token_forwards=self.fed,
            tokens=useful,
            tokens_per_forward=useful / needed if needed else 0.0,
            canvas_tokens_per_forward=len(tokens) / self.calls,
            seconds=seconds,
            seconds_refresh=0.0,
            seconds_step=self.seconds["verify"],
            seconds_sampler=self.seconds["outside"],
            tokens_per_second=useful / seconds if seconds else 0.0,
            accepted_drafts=sum(n * times for n, times in enumerate(self.accepted)),
            acceptance=tuple(self.accepted),
            draft_forwards=self.drafted,
            seconds_draft=self.seconds["draft"],
        )
        stop = "end_token" if self.ended else "filled"
        return RowResult(self.job.index, prompt, tokens, self.steps, self.confidence, stop, counts)  # type: ignore[arg-type]


class Verifier:
    """A causal model at work on a batch: keys and values of what is verified, the last token of every row in one
    column. So distances between columns are distances between positions, which windows of attention count."""

    def __init__(self, model: CausalModel, rows: int) -> None:
        self.model, self.cache, self.known = model, DynamicCache(), torch.zeros(rows, dtype=torch.long)

    def logits(self, news: Sequence[Sequence[int]], drafts: Int[Tensor, "B K"]) -> Float[Tensor, "B K+1 V"]:
        """What follows the last of the ``news`` (verified, not fed yet), and each token of the drafts."""
        sizes = torch.tensor([len(tokens) for tokens in news])
        width, stored, device = int(sizes.max()), self.cache.get_seq_length(), self.model.device
        fed = torch.zeros(len(news), width, dtype=torch.long)
        for row, tokens in enumerate(news):
            fed[row, width - len(tokens) :] = torch.tensor(tokens)
        fed = torch.cat([fed, drafts], dim=1)
        columns, self.known = torch.arange(stored + fed.shape[1]), self.known + sizes
        places = columns - (stored + width - self.known)[:, None]  # positions; below 0: padding
        how: dict[str, Any] = {"logits_to_keep": drafts.shape[1] + 1} if "logits_to_keep" in self.model.takes else {}
        seen = self.model.backbone(  # type: ignore[operator]
            fed.to(device),
            attention_mask=(places >= 0).long().to(device),
            position_ids=places[:, stored:].clamp(0, self.model.description.context_length - 1).to(device),
            past_key_values=self.cache,
            use_cache=True,
            **how,
        )
        scores: Tensor = seen.logits[:, -drafts.shape[1] - 1 :]
        return scores

    def keep(self, rows: Int[Tensor, " R"], accepted: Int[Tensor, " R"], drafted: int) -> None:
        """Go on with these rows, with so many tokens of their drafts; ``drafted``: how long those were."""
        self.known = self.known[rows] + accepted
        width = int(self.known.max())
        first = self.cache.get_seq_length() - drafted - width + accepted  # the column that becomes a row's column 0
        columns = (first[:, None] + torch.arange(width)).clamp_min(0)[:, None, :, None].to(self.model.device)
        rows = rows.to(self.model.device)
        layers: Any = self.cache.layers
        for layer in layers:
            layer.keys, layer.values = (x[rows].take_along_dim(columns, dim=2) for x in (layer.keys, layer.values))


def draft_logits(
    model: LanguageModel, rows: Sequence[Sequence[int]], masks: Sequence[int], drafted: int, width: int
) -> Float[Tensor, "B K V"]:
    """Logits of the first ``drafted`` of the masks behind each row, over the verifier's ``width`` ids; -inf where the
    drafter has none: its mask, what has no token."""
    about, device = model.description, model.device
    ends = torch.tensor([[len(row)] for row in rows])
    sizes = ends + torch.tensor(masks)[:, None]
    canvas = torch.full((len(rows), int(sizes.max())), about.mask_id)
    for slot, row in enumerate(rows):
        canvas[slot, : len(row)] = torch.tensor(row)
    canvas.masked_fill_(canvas >= about.vocab_size, about.mask_id)  # the verifier knows it, the drafter does not
    valid = (torch.arange(canvas.shape[1]) < sizes).to(device)
    wanted = (ends + torch.arange(drafted)).clamp_max(canvas.shape[1] - 1).to(device)
    states = model.backbone.hidden(canvas.to(device), None, valid)
    logits = model.backbone.head(model.backbone.logit_rows(states, None, wanted)).double()
    logits[..., [about.mask_id, *range(about.valid_vocab, about.vocab_size)]] = -math.inf
    return torch.nn.functional.pad(logits, (0, width - logits.shape[2]), value=-math.inf)


def log_law(logits: Float[Tensor, "B K V"], temperature: float) -> Float[Tensor, "B K V"]:
    """Logarithms of the probabilities at a temperature, in float64; at 0 all of it is the likeliest token's."""
    if temperature > 0:
        return (logits.double() / temperature).log_softmax(dim=-1)
    point = torch.full(logits.shape, -math.inf, dtype=torch.float64, device=logits.device)
    return point.scatter_(-1, logits.argmax(dim=-1, keepdim=True), 0.0)


def drawn(law: Float[Tensor, "*R V"], uniforms: Float[Tensor, " *R"]) -> Int[Tensor, " *R"]:
    """A token of each law, which need not be normalised."""
    total = law.cumsum(dim=-1)
    return (total <= uniforms[..., None] * total[..., -1:]).sum(dim=-1).clamp_max(law.shape[-1] - 1)


def accept(
    p: Float[Tensor, "B K+1 V"],
    q: Float[Tensor, "B K V"],
    drafts: Int[Tensor, "B K"],
    drafted: Int[Tensor, " B"],
    uniforms: Float[Tensor, "B K"],
) -> tuple[Int[Tensor, " B"], Float[Tensor, "B V"]]:
    """How many tokens of each draft hold, and the law, not normalised, of the token behind them.

    Args:
        p, q: logarithms of the verifier's and the drafter's probabilities.
        drafts: drawn from ``q``.
        drafted: how many tokens of a row's draft count.
        uniforms: of each test.
    """
    at = drafts[..., None]
    ratio = (p[:, :-1].gather(-1, at) - q.gather(-1, at)).squeeze(-1)
    holds = (uniforms.log() < ratio) & (torch.arange(drafts.shape[1], device=p.device) < drafted[:, None])
    accepted = holds.long().cumprod(dim=1).sum(dim=1)
    rows = torch.arange(len(p), device=p.device)
    behind = p[rows, accepted].exp()
    # Behind a draft nothing was drafted.
    refused = torch.nn.functional.pad(q, (0, 0, 0, 1))[rows, accepted].exp() * (accepted < drafted)[:, None]
    rest = (behind - refused).clamp_min(0.0)
    # Nothing is left where both laws are one and the test failed by rounding alone.
    return accepted, torch.where(rest.sum(dim=1, keepdim=True) > 0, rest, behind)


def decode(
    verifier: CausalModel, drafter: LanguageModel | None, jobs: Sequence[Job], how: Deer, batch_size: int
) -> Iterator[RowResult]:
    """Answer rows, ``batch_size`` together. Raises SettingsError: models that do not fit, or rows that do not fit a
    drafter whose answer it is; NumericsError: NaN logits."""
    if not verifier.causal:
        raise SettingsError(
            f"{verifier.name}: its tokens see later ones, or it does not keep a key and a value of each: take a"
            " verifier of causal attention"
        )
    if drafter is not None:
        check_pair(verifier, drafter)
    if how.mixture is not None:
        room = 0 if drafter is None else drafter.description.context_length
        if any(len(job.tokens) > room for job in jobs):
            raise SettingsError(
                f"mixture: the answer is the drafter's, which holds {room} tokens: take one, a shorter prompt or a"
                " lower max_new_tokens"
            )
    for first in range(0, len(jobs), batch_size):
        rows = [_Row(job, list(job.tokens[: job.start]), len(job.tokens)) for job in jobs[first : first + batch_size]]
        work, watch = Verifier(verifier, len(rows)), Stopwatch(torch.device("cpu"))
        while rows:
            with torch.inference_mode():
                rows, finished = _step(work, drafter, rows, how, watch)
            yield from (row.result(verifier.description.eos_ids) for row in finished)


class _Draft(NamedTuple):
    """Drafts of a step.

    Attributes:
        lengths: how many tokens of each count.
        q: logarithms of the probabilities they were drawn with; -inf where a row has none.
        noise: what they were drawn with, where the target is drawn with it too.
    """

    lengths: list[int]
    tokens: Int[Tensor, "B K"]
    q: Float[Tensor, "B K V"]
    noise: Float[Tensor, "B K V"] | float


def _draft(work: Verifier, drafter: LanguageModel | None, rows: list[_Row], how: Deer, at: _Places) -> _Draft:
    """One forward of the drafter, for all rows that have something to draft."""
    vocab, device = work.model.description.vocab_size, work.model.device
    lengths = [row.drafts(how, drafter) for row in rows]
    q = torch.full((len(rows), max(lengths), vocab), -math.inf, dtype=torch.float64, device=device)
    warm = how.temperature if how.draft_temperature is None else how.draft_temperature
    noise: Tensor | float = 0.0
    drafting = [i for i, length in enumerate(lengths) if length]
    if drafter is not None and drafting:
        masks = [rows[i].masks(how, drafter, lengths[i]) for i in drafting]
        scores = draft_logits(drafter, [rows[i].tokens for i in drafting], masks, max(lengths), vocab).to(device)
        q[drafting] = log_law(scores, warm if how.mixture is None else warm or 1.0)
    if how.mixture is None:
        return _Draft(lengths, drawn(q.exp(), at.uniforms(Purpose.TOKEN)[:, : max(lengths)]), q, noise)
    if warm:
        noise = gumbels(at.key, at.step, at.places[:, : max(lengths)], vocab).to(device)
    return _Draft(lengths, (q + noise).argmax(dim=-1), q, noise)


class _Places:
    """Where the tokens of a step come to stand, counted from the prompt's end, and their noise."""

    def __init__(self, rows: list[_Row], how: Deer, device: torch.device) -> None:
        self.key, self.step = (torch.tensor([getattr(row, name) for row in rows]) for name in ("key", "calls"))
        first = torch.tensor([[len(row.tokens) - row.job.start] for row in rows])
        self.places, self.device = first + torch.arange(how.draft_length + 1), device

    def uniforms(self, purpose: Purpose, of: Int[Tensor, "B N"] | None = None) -> Float[Tensor, "B N"]:
        """Of every place, or of those at these numbers."""
        places = self.places if of is None else self.places.gather(1, of.cpu())
        return uniform(self.key, self.step, purpose, places).to(self.device)


def _step(
    work: Verifier, drafter: LanguageModel | None, rows: list[_Row], how: Deer, watch: Stopwatch
) -> tuple[list[_Row], list[_Row]]:
    """Draft, verify, accept: the rows that go on, and those that are finished."""
    about, device = work.model.description, work.model.device
    watch.mark("draft")
    at = _Places(rows, how, device)
    lengths, drafts, q, noise = _draft(work, drafter, rows, how, at)
    told = drafts.cpu()
    watch.mark("verify")  # a device is waited for on both sides of it: the host's clock is right
    news = [row.tokens[-1:] if row.calls else list(row.tokens) for row in rows]
    logits = work.logits(news, told)
    broken = bool(logits.isnan().any())
    watch.mark("outside")
    if broken:
        raise NumericsError(f"the verifier {work.model.name} produced NaN logits: try dtype=float32")
    drafted, longest = torch.tensor(lengths, device=device), max(lengths)
    if how.mixture is None:
        p = log_law(logits, how.temperature)
        accepted, law = accept(p, q, drafts, drafted, at.uniforms(Purpose.BERNOULLI)[:, :longest])
        behind = drawn(law, at.uniforms(Purpose.CLASS, accepted[:, None])[:, 0])
        new = torch.nn.functional.pad(drafts, (0, 1)).scatter(1, accepted[:, None], behind[:, None])
        sure = logits.double().log_softmax(dim=-1)
    else:  # the last token that is taken is fed with the next draft, as the verifier's own is
        p, new, sure = log_law(logits[:, :-1], how.temperature or 1.0), drafts, q
        accepted = agreed(p, q, noise, how.mixture, drafts, drafted) - 1
    sure = sure.gather(-1, new[..., None]).squeeze(-1).exp()
    held, tokens, sure_of = accepted.tolist(), new.tolist(), sure.tolist()
    for i, row in enumerate(rows):
        taken = row.take(tokens[i][: held[i] + 1], sure_of[i][: held[i] + 1], about.eos_ids)
        row.note(len(news[i]), lengths[i], min(held[i] + (how.mixture is not None), taken))
    if going := [i for i, row in enumerate(rows) if row.open]:
        work.keep(torch.tensor(going), torch.tensor([held[i] for i in going]), longest)
    watch.mark("end")
    for phase, took in watch.read().items():
        for row in rows:  # they share it alike
            row.seconds[phase] = row.seconds.get(phase, 0.0) + took / len(rows)
    return [row for row in rows if row.open], [row for row in rows if not row.open]
