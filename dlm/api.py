"""The Python API: :func:`generate`, :func:`stream`, :func:`infill`, :func:`deer`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal

import torch

from dlm.engine.calls import checked_call
from dlm.engine.canvas import Job
from dlm.engine.interfaces import Cache
from dlm.engine.loop import Decoder, StepEvent
from dlm.engine.named import cache_of, sampler_of
from dlm.engine.result import Counts, RowResult, StopReason, first_end
from dlm.engine.sampler import Sampler
from dlm.errors import DlmError, OutOfMemoryError, SettingsError
from dlm.models import load
from dlm.models.causal import CausalModel, load_causal
from dlm.models.language_model import LanguageModel
from dlm.prompts import Prompt as Prompt
from dlm.prompts import infill_job, prompt_jobs, whole_number
from dlm.prompts import keyed as keyed
from dlm.prompts import listed as listed
from dlm.prompts import prompt_job as prompt_job
from dlm.speculation import FreeDave
from dlm.speculation.deer import Deer, decode
from dlm.trace import Recorder, Trace
from dlm.words import counted

SamplerLike = Sampler | str | Callable[..., Sampler]
CacheLike = Cache | str | Callable[..., Cache] | None
DrafterLike = FreeDave | str | type[FreeDave] | None


SHOWN = 60  # characters of an answer in its `repr`


@dataclass(frozen=True, repr=False)
class Generation:
    """The answer to one prompt.

    Attributes:
        text: the generated tokens up to the first end token and stop string, as text; for an infill the whole filled
            text. Empty when the model has no tokenizer.
        tokens: the whole generated canvas, filler included.
        commit_step: per generated position the 0-based step (forward of the row) at which it was committed; -1
            where the sampler committed nothing (given tokens of an infill, filler written by a stop rule).
        stop: ``filled``, ``end_token`` (a stop rule filled the rest), ``early_exit`` (the rest was committed at once)
            or ``stop_string`` (the text came to one, and the rest was not decoded).
        counts: forwards, tokens and seconds of this row.
        prompt_tokens: the prompt as token ids.
        confidence: per generated position the probability at which it was committed; NaN where it was not.
        trace: what ``record=`` asked for; None otherwise.
    """

    text: str
    tokens: list[int]
    commit_step: list[int]
    stop: StopReason
    counts: Counts
    prompt_tokens: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    trace: Trace | None = None

    def __repr__(self) -> str:
        """The text, shortened, and what it took."""
        text = self.text if len(self.text) <= SHOWN else f"{self.text[: SHOWN - 1]}…"
        return f"Generation({text!r}, {self._taken}, {self.stop})"

    def _repr_html_(self) -> str:
        """For notebooks: the text, and under it a square per position, the darker the later it was committed."""
        last = max([*self.commit_step, 0]) or 1
        squares = (
            f'<span title="position {at}: {f"forward {step + 1}" if step >= 0 else "given or filler"}" style="display:'
            f"inline-block;width:8px;height:8px;background:hsl(210,{60 if step >= 0 else 0}%,"
            f'{85 - 55 * max(step, 0) // last}%)"></span>'
            for at, step in enumerate(self.commit_step)
        )
        text = escape(self.text)
        return (
            f"<pre style='white-space:pre-wrap'>{text}</pre><div>{''.join(squares)}</div><small>{self._taken}</small>"
        )

    @property
    def _taken(self) -> str:
        return f"{counted(self.counts.tokens, 'token')}, {counted(self.counts.forwards, 'forward')}"

    def as_dict(self) -> dict[str, Any]:
        """Plain Python values, ready for JSON (NaN becomes null)."""
        values = asdict(self)
        values["confidence"] = [None if c != c else c for c in self.confidence]
        values["trace"] = None if self.trace is None else self.trace.as_dict()
        return values


@dataclass(frozen=True)
class StreamStep:
    """What one step did to one row, for live display.

    Attributes:
        index: the row's place in the list of prompts.
        step: 0-based forward of the row.
        committed: generated position -> token, committed at this step.
        canvas: the generated region after the step, mask id where still open.
        provisional: the same with the model's present guess at the open positions of the active block.
        text: the committed tokens as text, a light block for each open position.
        provisional_text: ``provisional`` as text.
        done: whether the row is finished.
    """

    index: int
    step: int
    committed: dict[int, int]
    canvas: list[int]
    provisional: list[int]
    text: str
    provisional_text: str
    done: bool


@checked_call
def generate(
    model: LanguageModel | str | Path,
    prompts: Sequence[Prompt] | Prompt,
    *,
    sampler: SamplerLike,
    cache: CacheLike = None,
    drafter: DrafterLike = None,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch_size: int = 8,
    record: str | Sequence[str] | None = None,
    pinned: Mapping[int, int | str] | None = None,
    stop: str | Sequence[str] | None = None,
) -> list[Generation]:
    """Answer every prompt; results come in the order of the prompts and do not depend on the batch.

    Args:
        model: what :func:`dlm.load` returned; a name or folder is loaded, anew in every call.
        prompts: strings, chats (lists of ``{"role", "content"}``, put through the model's chat template; a last
            message of the assistant is continued) or lists of token ids, of different lengths; or a single one of
            these. Control tokens in a string are control tokens (it may be a rendered chat), the mask is text; in the
            messages of a chat everything is text.
        sampler: which tokens are committed when, for example ``samplers.threshold(0.9)``; a preset's name, or the
            preset uncalled, is the preset with its defaults. Cache and drafter likewise.
        cache: which positions are recomputed; None recomputes all (of block diffusion: what is open, which is exact).
        drafter: several steps from one forward, without changing the answer: ``dlm.drafting.FreeDave()``; None: none.
        max_new_tokens: positions to fill per prompt.
        seed: seeds the noise; used only by samplers that draw. Equal prompts in one call draw differently.
        batch_size: most rows decoded together. A long list of prompts keeps the batch full.
        record: what ``Generation.trace`` is filled with, one or several of ``order``, ``confidence``, ``candidates``,
            ``all_candidates``, ``logits``, ``cache`` (:class:`dlm.trace.Recorder`); None: nothing.
        pinned: tokens the answer must contain: generated position -> token id, or a text whose tokens stand from there
            on. They are written before the first forward and never changed (the constraints of Prophet, arXiv
            2508.19982).
        stop: texts at which an answer ends, cut off before the first. A row is finished as soon as the text before its
            first open position holds one; of a sampler that takes tokens back, once the block is complete.

    Raises:
        PromptError: empty, too long, or containing the mask id; pinned tokens that overlap or stand outside.
            ``error.prompt`` is the place of the prompt.
        SettingsError: settings that contradict each other or the prompts.
        NumericsError, OutOfMemoryError: NaN logits; a row that does not fit into memory. ``error.finished`` holds the
            answers that were done before.
    """
    model = ready(model)
    jobs = prompt_jobs(model, listed(prompts), max_new_tokens, pinned, stop)
    run = Run(model, jobs, sampler, cache, drafter, seed, batch_size)
    return run.collect(Recorder(record))


@checked_call
def infill(
    model: LanguageModel | str | Path,
    texts: str | Sequence[str | Sequence[int]],
    *,
    sampler: SamplerLike,
    cache: CacheLike = None,
    drafter: DrafterLike = None,
    seed: int = 0,
    batch_size: int = 8,
    record: str | Sequence[str] | None = None,
) -> list[Generation]:
    """Fill marked positions of given texts through the same loop.

    ``texts`` is one text, or a list whose entries are texts with ``[MASK]`` marks (one mark, one token) or token ids
    with the mask id at the positions to fill. ``Generation.tokens`` is the whole row; given positions have commit
    step -1. Blocks are counted from the first position of the row; blocks without marks are passed over.

    Raises:
        PromptError: nothing to fill, too long, or a mark at position 0 of a model with shifted logits.
    """
    model = ready(model)
    jobs = [infill_job(model, i, row) for i, row in enumerate(listed(texts))]
    run = Run(model, jobs, sampler, cache, drafter, seed, batch_size)
    return run.collect(Recorder(record), whole_text=True)


@checked_call
def stream(
    model: LanguageModel | str | Path,
    prompts: Sequence[Prompt] | Prompt,
    *,
    sampler: SamplerLike,
    cache: CacheLike = None,
    drafter: DrafterLike = None,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch_size: int = 8,
    record: str | Sequence[str] | None = None,
    pinned: Mapping[int, int | str] | None = None,
    stop: str | Sequence[str] | None = None,
) -> Iterator[StreamStep | tuple[int, Generation]]:
    """As :func:`generate`, step by step.

    Yields a :class:`StreamStep` per live row and step, and ``(index, Generation)`` when a row is finished.
    """
    model = ready(model)
    jobs = prompt_jobs(model, listed(prompts), max_new_tokens, pinned, stop)
    run = Run(model, jobs, sampler, cache, drafter, seed, batch_size)
    return run.steps(Recorder(record))


@checked_call
def deer(
    verifier: CausalModel | str | Path,
    drafter: LanguageModel | str | Path | None,
    prompts: Sequence[Prompt] | Prompt,
    *,
    draft_length: int = 8,
    temperature: float = 0.0,
    draft_temperature: float | None = None,
    masks: int | Literal["all"] | None = None,
    mixture: float | None = None,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch_size: int = 8,
) -> list[Generation]:
    """Answer every prompt with an autoregressive model, whose tokens a masked diffusion model drafts (DEER, arXiv
    2512.15176): greedily its very answers, at a temperature its law; the drafter decides what that takes. With a
    ``mixture`` the drafter answers, as many tokens at once as the other agrees to (APD, arXiv 2506.00413).

    Args:
        verifier: what :func:`dlm.load_causal` returned, a folder or a hub id.
        drafter: a model of the same tokenizer, as in :func:`generate`; None: plain autoregressive decoding.
        prompts, max_new_tokens, seed, batch_size: as in :func:`generate`; an answer ends with its end token.
        draft_length, temperature, draft_temperature, masks, mixture: see :class:`dlm.speculation.deer.Deer`.

    Raises:
        PromptError: empty, too long for the verifier, or of ids that it does not know.
        SettingsError: models whose vocabularies differ, a drafter of attention blocks, a verifier that is not causal, a
            setting outside its range.
        NumericsError, OutOfMemoryError: as in :func:`generate`.
    """
    how, size = (
        Deer(draft_length, temperature, draft_temperature, masks, mixture),
        whole_number("batch_size", batch_size, 1),
    )
    model = load_causal(verifier) if isinstance(verifier, str | Path) else verifier
    if not isinstance(model, CausalModel):
        raise SettingsError(f"verifier is what dlm.load_causal returns, or a folder, got {type(model).__name__}")
    jobs = [prompt_job(model, i, prompt, max_new_tokens, {}) for i, prompt in enumerate(listed(prompts))]
    done: dict[int, Generation] = {}
    try:
        for row in decode(model, None if drafter is None else ready(drafter), keyed(jobs, seed), how, size):
            useful = row.tokens[: first_end(row.tokens, model.description.eos_ids)]
            text = "" if model.tokenizer is None else model.decode(useful)
            done[row.index] = Generation(
                text, row.tokens, row.commit_step, row.stop, row.counts, row.prompt, row.confidence
            )
    except torch.OutOfMemoryError as fault:
        error = OutOfMemoryError("the device has no memory for a step: lower batch_size or draft_length")
        error.finished = done
        raise error from fault
    except DlmError as error:
        error.finished = done
        raise
    return [done[job.index] for job in jobs]


def ready(model: Any) -> LanguageModel:
    """A model, or the model of that name or folder. Raises SettingsError: it is neither."""
    if isinstance(model, str | Path):
        return load(model)
    if not hasattr(model, "backbone") or not hasattr(model, "description"):
        raise SettingsError(
            f"model must be what dlm.load returns, or a name or folder to load, got {type(model).__name__}"
        )
    found: LanguageModel = model
    return found


class Run:
    """One call: jobs with their noise keys, a decoder, and the way back from rows to generations."""

    def __init__(
        self,
        model: LanguageModel,
        jobs: list[Job],
        sampler: SamplerLike,
        cache: CacheLike,
        drafter: DrafterLike,
        seed: int,
        batch_size: int,
    ) -> None:
        self.model = model
        self.jobs = keyed(jobs, whole_number("seed", seed))
        self.batch_size = whole_number("batch_size", batch_size, 1)
        bound = sampler_of(sampler).bind(model.tokenizer, model.description.valid_vocab)
        self.decoder = Decoder(model.backbone, model.description, bound, cache_of(cache), drafter)

    def __iter__(self) -> Iterator[StepEvent | RowResult]:
        return self._events(Recorder(None))

    def _events(self, recorder: Recorder) -> Iterator[StepEvent | RowResult]:
        return self.decoder.run(self.jobs, self.batch_size, self.model.device, record=recorder.needs)

    def collect(self, recorder: Recorder, whole_text: bool = False) -> list[Generation]:
        done: dict[int, Generation] = {}
        try:
            for event in self._events(recorder):
                if isinstance(event, StepEvent):
                    recorder.take(event)
                else:
                    done[event.index] = self._generation(event, recorder, whole_text)
        except DlmError as error:
            error.finished = done
            raise
        return [done[job.index] for job in self.jobs]

    def steps(self, recorder: Recorder) -> Iterator[StreamStep | tuple[int, Generation]]:
        for event in self._events(recorder):
            if isinstance(event, RowResult):
                yield event.index, self._generation(event, recorder)
                continue
            recorder.take(event)
            yield from self._stream_steps(event)

    def _generation(self, row: RowResult, recorder: Recorder, whole_text: bool = False) -> Generation:
        text = ""
        if (stops := self.jobs[row.index].stops) is not None:
            text = stops.text(row.tokens)
        elif self.model.tokenizer is not None:
            useful = len(row.tokens) if whole_text else first_end(row.tokens, self.model.description.eos_ids)
            text = self.model.decode(row.tokens[:useful])
        trace = recorder.traces.get(row.index)
        return Generation(
            text, row.tokens, row.commit_step, row.stop, row.counts, row.prompt, row.confidence, trace
        )  # fmt: skip

    def _stream_steps(self, event: StepEvent) -> Iterator[StreamStep]:
        view, mask = event.view, self.model.description.mask_id
        for slot, row in enumerate(event.rows):
            start, end = row.job.start, row.job.shown_end
            canvas = view.canvas.tokens[slot, start:end].tolist()
            provisional = list(canvas)
            entries = zip(
                (view.positions[slot] - start).tolist(),
                view.proposal.token[slot].tolist(),
                view.eligible[slot].tolist(),
                event.chosen[slot].tolist(),
                strict=True,
            )
            committed = {}
            for position, token, eligible, chosen in entries:
                if position >= len(canvas):
                    continue  # completes the last attention block, or nothing at all
                if chosen:
                    committed[position] = token
                if eligible and canvas[position] == mask:
                    provisional[position] = token
            yield StreamStep(
                index=row.job.index,
                step=row.forwards - 1,
                committed=committed,
                canvas=canvas,
                provisional=provisional,
                text=self._show(canvas),
                provisional_text=self._show(provisional),
                done=row.served or row.open == 0,
            )

    def _show(self, tokens: list[int]) -> str:
        """Text of a half-filled canvas, an open position shown as a light block."""
        if self.model.tokenizer is None:
            return ""
        mask, pieces = self.model.description.mask_id, []
        run: list[int] = []
        for token in [*tokens, mask]:
            if token == mask:
                pieces.append(self.model.decode(run) if run else "")
                run = []
                pieces.append("░")
            else:
                run.append(token)
        return "".join(pieces[:-1])
