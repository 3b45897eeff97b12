"""Log-likelihood of an answer: the bound that masked diffusion models are trained on, summed over masks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, combinations, islice
from math import comb
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dlm.api import Run
from dlm.configuration import check_counts, check_switches, compose_config, part_of
from dlm.engine.canvas import Job
from dlm.engine.forward import CHUNK_ELEMENTS
from dlm.engine.no_cache import WholeRows
from dlm.engine.proposal import wide
from dlm.engine.result import RowResult
from dlm.errors import SettingsError
from dlm.models import LanguageModel
from dlm.tasks.base import Stream


@dataclass(frozen=True)
class Likelihood:
    """Settings of the estimator (LLaDA, arXiv 2502.09992, section 2.4 and appendix B).

    Attributes:
        mc_num: most masks a request is averaged over. An answer with no more masks than that (2^n - 1 for n tokens)
            is summed over all of them, which is exact and cheaper.
        check_greedy: also decode every answer one token a step to say whether it is the model's own; one forward a
            token. False: the harness is told that it is not.
        compat: ``clean`` or ``reference``: draws also where all masks could be taken, in strata of ``stratum``, with
            the reference's rounding, which favours some numbers of masked tokens where a stratum boundary is a half.
        stratum: rows of a stratum with ``compat="reference"`` (there its batch size); must divide ``mc_num``.

    Raises:
        SettingsError: values out of range.
    """

    mc_num: int = 128
    check_greedy: bool = True
    compat: Literal["clean", "reference"] = "clean"
    stratum: int = 32

    def __post_init__(self) -> None:
        given = {f"likelihood.{name}": value for name, value in vars(self).items()}
        check_counts(given, "likelihood.mc_num", "likelihood.stratum")
        if self.compat not in ("clean", "reference"):
            raise SettingsError(f"likelihood.compat must be clean or reference, got {self.compat!r}")
        check_switches(given, "likelihood.check_greedy")
        if self.compat == "reference" and self.mc_num % self.stratum:
            raise SettingsError(
                f"likelihood.stratum must divide likelihood.mc_num, got {self.stratum} and {self.mc_num}"
            )

    def masks(self, n: int, stream: Stream) -> dict[tuple[int, ...], float]:
        """Which of ``n`` answer tokens are masked, and the weight of the cross-entropy summed over them.

        The log-likelihood is minus the weighted sum. A number r of masked tokens is uniform on 1 .. n and its
        cross-entropy is scaled by n / r.
        """
        if self.compat == "clean" and 2**n - 1 <= self.mc_num:
            sizes = range(1, n + 1)
            return {mask: 1 / (r * comb(n, r)) for r in sizes for mask in combinations(range(n), r)}
        weights: dict[tuple[int, ...], float] = {}
        for r in self._counts(n, stream):
            mask = tuple(sorted(stream.sample(range(n), r)))
            weights[mask] = weights.get(mask, 0.0) + n / (r * self.mc_num)
        return weights

    def _counts(self, n: int, stream: Stream) -> Iterator[int]:
        """Stratified numbers of masked tokens: every one of them uniform, together evenly spread."""
        if self.compat == "clean":
            first = stream.below(n)
            yield from ((first + j * n // self.mc_num) % n + 1 for j in range(self.mc_num))
            return
        for _ in range(self.mc_num // self.stratum):
            first = stream.between(1, n)
            yield from ((round(first + j * n / self.stratum) - 1) % n + 1 for j in range(self.stratum))


@dataclass
class Pair:
    """A context, an answer and what is known of its likelihood."""

    # context, answer: token ids
    context: tuple[int, ...]
    answer: tuple[int, ...]
    value: float = 0.0  # the log-likelihood so far
    greedy: bool = False  # whether the model's own answer is this one
    # forwards, token_forwards: what it took
    forwards: int = 0
    token_forwards: int = 0
    left: int | None = None  # masks that are still to be evaluated; None before the first


@dataclass(frozen=True)
class _Line:
    """One masked row."""

    pair: Pair
    mask: tuple[int, ...]
    weight: float


@dataclass
class Estimator:
    """Log-likelihoods of one model.

    Attributes:
        model: the model.
        settings: how many masks, and whether to decode.
        seed: of the masks; those of a pair depend on it and on the pair alone.
        batch_size: most rows of a forward.
        guidance: classifier-free guidance scale, as :class:`dlm.engine.sampler.Sampler` has it.
    """

    model: LanguageModel
    settings: Likelihood
    seed: int = 0
    batch_size: int = 8
    guidance: float = 0.0
    _rows: WholeRows = field(init=False)

    def __post_init__(self) -> None:
        if self.model.description.attention_block:
            raise SettingsError(
                "log-likelihoods are estimated over masks anywhere in the answer, which a model whose attention has"
                " blocks was not trained for: use tasks that generate (generate_until)"
            )
        self._rows = WholeRows(0)

    @torch.no_grad()
    def __call__(self, pairs: list[Pair]) -> None:
        """Fill in what the pairs say of their likelihood. The longest come first."""
        if self.settings.check_greedy:
            self._decode([pair for pair in pairs if pair.answer])
        lines = chain.from_iterable(map(self._lines, sorted(pairs, key=lambda p: -len(p.context) - len(p.answer))))
        for batch in iter(lambda: list(islice(lines, self.batch_size)), []):
            for line, entropy in zip(batch, self._cross_entropies(batch), strict=True):
                line.pair.value -= line.weight * entropy

    def _lines(self, pair: Pair) -> Iterator[_Line]:
        if not pair.answer:
            pair.greedy = True
            return
        stream = Stream("likelihood", self.seed, pair.context, pair.answer)
        masks = self.settings.masks(len(pair.answer), stream)
        calls = 2 if self.guidance > 0 else 1
        pair.forwards += calls * len(masks)
        pair.token_forwards += calls * len(masks) * (len(pair.context) + len(pair.answer))
        yield from (_Line(pair, mask, weight) for mask, weight in masks.items())

    def _cross_entropies(self, batch: list[_Line]) -> list[float]:
        """Of each row, the sum over its masked tokens."""
        device, mask_id = self.model.device, self.model.description.mask_id
        lengths = [len(line.pair.context) + len(line.pair.answer) for line in batch]
        tokens = torch.full((len(batch), max(lengths)), mask_id)
        prompt = torch.zeros_like(tokens, dtype=torch.bool)
        at: list[tuple[int, int, int]] = []  # row, position, token
        for row, line in enumerate(batch):
            start = len(line.pair.context)
            tokens[row, : lengths[row]] = torch.tensor([*line.pair.context, *line.pair.answer])
            tokens[row, [start + i for i in line.mask]] = mask_id
            prompt[row, :start] = True
            at += [(row, start + i, line.pair.answer[i]) for i in line.mask]
        rows, position, target = torch.tensor(at, device=device).T
        tokens = tokens.to(device)
        states = [self._states(tokens, lengths, rows, position)]
        if self.guidance > 0:
            states.append(self._states(tokens.masked_fill(prompt.to(device), mask_id), lengths, rows, position))
        entropy = self._entropies(states, target)
        return torch.zeros(len(batch), dtype=entropy.dtype, device=device).index_add_(0, rows, entropy).tolist()

    def _states(
        self, tokens: Int[Tensor, "B T"], lengths: list[int], row: Int[Tensor, " R"], position: Int[Tensor, " R"]
    ) -> Float[Tensor, "R D"]:
        """Hidden states of the rows that score the masked tokens."""
        backbone = self.model.backbone
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        feed = self._rows.feed(tokens, lengths, columns)
        hidden = backbone.hidden(feed.tokens, None, feed.valid)
        return hidden[row, backbone.source(position[None])[0]]

    def _entropies(self, states: list[Float[Tensor, "R D"]], target: Int[Tensor, " R"]) -> Float[Tensor, " R"]:
        """Cross-entropy of each masked token, a chunk of logits at a time."""
        size = max(1, CHUNK_ELEMENTS // self.model.description.vocab_size)
        parts = []
        for first in range(0, target.shape[0], size):
            part = slice(first, first + size)
            logits = wide(self.model.backbone.head(states[0][part]))
            if len(states) == 2:
                without = wide(self.model.backbone.head(states[1][part]))
                logits = without + (self.guidance + 1) * (logits - without)
            own = logits.gather(1, target[part, None]).squeeze(1)
            parts.append(logits.logsumexp(dim=1) - own)
        return torch.cat(parts)

    def _decode(self, pairs: list[Pair]) -> None:
        """Whether each answer is what the model itself would say, one token a step, the surest first."""
        if not pairs:
            return
        mask = self.model.description.mask_id
        jobs = []
        for index, pair in enumerate(pairs):
            start, end = len(pair.context), len(pair.context) + len(pair.answer)
            row = (*pair.context, *[mask] * len(pair.answer))
            jobs.append(Job(index, row, start, tuple(range(start, end)), key=0))
        run = Run(self.model, jobs, one_by_one(self.guidance), None, None, self.seed, self.batch_size)
        for event in run:
            if isinstance(event, RowResult):
                pair = pairs[event.index]
                pair.greedy = tuple(event.tokens) == pair.answer
                pair.forwards += event.counts.forwards
                pair.token_forwards += event.counts.token_forwards


def one_by_one(guidance: float) -> Any:
    """The sampler that commits the surest token of the whole canvas at every step."""
    settings = ["sampler=topk", "sampler.tokens_per_step=1", "blocks=whole", f"sampler.guidance={guidance}"]
    return part_of(compose_config("generate", settings), "sampler")
