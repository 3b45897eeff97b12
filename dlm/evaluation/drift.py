"""How far the answers of a cache, or of quantised weights, are from the exact ones: teacher-forced, in the stored keys,
and when they run freely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from dlm.api import Prompt, keyed, listed, prompt_job
from dlm.engine.canvas import Job
from dlm.engine.interfaces import Cache
from dlm.engine.loop import Decoder, StepEvent
from dlm.engine.no_cache import NoCache
from dlm.engine.result import RowResult
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.evaluation.drift_replay import KINDS, Beside, KeyDrift, Replay, StepDrift
from dlm.models import LanguageModel

__all__ = ["KINDS", "Drift", "KeyDrift", "OutputDrift", "StepDrift", "measure"]


@dataclass(frozen=True)
class OutputDrift:
    """One prompt decoded twice, without the cache and with it (``cached_``)."""

    prompt: int  # its place in the list of prompts
    positions: int  # generated positions
    hamming: int  # how many of them hold another token
    first_divergence: int | None  # 0-based step after which the canvases differ for the first time; None: they never do
    forwards: int
    cached_forwards: int
    token_forwards: int
    cached_token_forwards: int


@dataclass(frozen=True)
class Drift:
    """What a cache changes; KL in nats."""

    steps: tuple[StepDrift, ...]  # the teacher-forced replay, by prompt and step
    # the keys and values it attended to, by prompt, step, layer and kind; empty when the policy keeps none
    keys: tuple[KeyDrift, ...]
    outputs: tuple[OutputDrift, ...]  # the free runs, by prompt

    @property
    def mean_kl(self) -> float:
        """Mean of KL(exact || cached) over all candidates of all steps."""
        return self._over_candidates([step.kl_mean for step in self.steps])

    @property
    def median_kl(self) -> float:
        """Median over the steps of the median over a step's candidates."""
        return median(step.kl_median for step in self.steps)

    @property
    def max_kl(self) -> float:
        """The largest of all."""
        return max(step.kl_max for step in self.steps)

    @property
    def agreement(self) -> float:
        """Share of all candidates whose most probable token is the same."""
        return self._over_candidates([step.agreement for step in self.steps])

    @property
    def same_choice(self) -> float:
        """Share of steps that would have committed the same positions."""
        return fmean(step.same_choice for step in self.steps)

    @property
    def hamming(self) -> float:
        """Share of generated positions that hold another token after the free run."""
        return sum(o.hamming for o in self.outputs) / sum(o.positions for o in self.outputs)

    @property
    def first_divergence(self) -> int | None:
        """The earliest step at which a free run left the uncached one; None: none did."""
        return min((o.first_divergence for o in self.outputs if o.first_divergence is not None), default=None)

    @property
    def token_forwards_ratio(self) -> float:
        """Positions the uncached runs pushed through the model, over those of the cached ones: the saving."""
        return sum(o.token_forwards for o in self.outputs) / sum(o.cached_token_forwards for o in self.outputs)

    def _over_candidates(self, figures: Sequence[float]) -> float:
        weights = [step.candidates for step in self.steps]
        return sum(f * w for f, w in zip(figures, weights, strict=True)) / max(1, sum(weights))


def measure(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    sampler: Sampler,
    cache: Cache | None,
    *,
    max_new_tokens: int = 64,
    batch_size: int = 1,
    seed: int = 0,
    other: LanguageModel | None = None,
) -> Drift:
    """Replay the uncached decode of ``prompts`` under a cache, then decode them with it.

    Takes about two uncached decodes and two cached ones. Arguments are as in :func:`dlm.generate`; ``other`` is the
    model that the cached forwards are taken with (one with quantised weights, with a cache or without), where it is not
    the same.

    Raises:
        SettingsError: the cache does not go with the sampler or the model, a sampler with look-ahead, no prompts.
        PromptError, NumericsError, OutOfMemoryError: as :func:`dlm.generate`.
    """
    if not prompts:
        raise SettingsError("there are no prompts: give at least one")
    jobs = keyed([prompt_job(model, i, p, max_new_tokens, {}) for i, p in enumerate(listed(prompts))], seed)
    sampler = sampler.bind(model.tokenizer, model.description.valid_vocab)
    asked = model if other is None else other
    policy, replay = NoCache() if cache is None else cache, Replay(None if other is None else other.backbone)
    beside = Decoder(model.backbone, model.description, sampler, Beside(policy), replay)
    exact = _history(beside, jobs, model, batch_size)
    cached = _history(Decoder(asked.backbone, asked.description, sampler, cache), jobs, asked, batch_size)
    return Drift(
        steps=tuple(step for _, step in sorted(replay.steps.items())),
        keys=tuple(line for _, lines in sorted(replay.keys.items()) for line in lines),
        outputs=tuple(_output(exact, cached, job.index) for job in jobs),
    )


# The tokens of a prompt's row after a step, by (prompt, step), and the results by prompt.
_History = tuple[dict[tuple[int, int], list[int]], dict[int, RowResult]]


def _history(decoder: Decoder, jobs: Sequence[Job], model: LanguageModel, batch_size: int) -> _History:
    """Decode ``jobs`` to the end, to look back on it."""
    canvases, results = dict[tuple[int, int], list[int]](), dict[int, RowResult]()
    for event in decoder.run(jobs, batch_size, model.device):
        if isinstance(event, RowResult):
            results[event.index] = event
            continue
        assert isinstance(event, StepEvent)
        for row, tokens in zip(event.rows, event.view.canvas.tokens.tolist(), strict=True):
            canvases[row.job.index, row.steps - 1] = tokens[: row.job.end]
    return canvases, results


def _output(exact: _History, cached: _History, prompt: int) -> OutputDrift:
    ours, theirs = exact[1][prompt], cached[1][prompt]
    last = max(ours.counts.forwards, theirs.counts.forwards)
    parted = (s for s in range(last) if exact[0].get((prompt, s)) != cached[0].get((prompt, s)))
    return OutputDrift(
        prompt=prompt,
        positions=len(ours.tokens),
        hamming=sum(a != b for a, b in zip(ours.tokens, theirs.tokens, strict=True)),
        first_divergence=next(parted, None),
        forwards=ours.counts.forwards,
        cached_forwards=theirs.counts.forwards,
        token_forwards=ours.counts.token_forwards,
        cached_token_forwards=theirs.counts.token_forwards,
    )
