"""The Python API: :func:`generate`, :func:`stream`, :func:`infill`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dlm.engine.canvas import Job
from dlm.engine.interfaces import Cache
from dlm.engine.loop import Decoder, StepEvent
from dlm.engine.noise import row_key
from dlm.engine.result import Counts, RowResult, StopReason, first_end
from dlm.engine.sampler import Sampler
from dlm.errors import DlmError, PromptError, SettingsError
from dlm.models.language_model import LanguageModel
from dlm.speculation import FreeDave
from dlm.trace import Recorder, Trace
from dlm.words import counted

Message = Mapping[str, str]
Prompt = str | Sequence[Message] | Sequence[int]
MASK_MARK = "[MASK]"


@dataclass(frozen=True)
class Generation:
    """The answer to one prompt.

    Attributes:
        text: the generated tokens up to the first end token, as text; for an infill the whole filled text. Empty
            when the model has no tokenizer.
        tokens: the whole generated canvas, filler included.
        commit_step: per generated position the 0-based step (forward of the row) at which it was committed; -1
            where the sampler committed nothing (given tokens of an infill, filler written by a stop rule).
        stop: ``filled``, ``end_token`` (a stop rule filled the rest) or ``early_exit`` (the rest was committed at
            once).
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


def generate(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    sampler: Sampler,
    cache: Cache | None = None,
    drafter: FreeDave | None = None,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch_size: int = 8,
    record: str | Sequence[str] | None = None,
    pinned: Mapping[int, int | str] | None = None,
) -> list[Generation]:
    """Answer every prompt; results come in the order of the prompts and do not depend on the batch.

    Args:
        model: what :func:`dlm.load` returned.
        prompts: strings (used as they are), chats (lists of ``{"role", "content"}``, put through the model's chat
            template) or lists of token ids. They may be of different lengths.
        sampler: which tokens are committed when, for example ``samplers.threshold(0.9)``.
        cache: which positions are recomputed; None recomputes all.
        drafter: several steps from one forward, without changing the answer: ``dlm.drafting.FreeDave()``; None: none.
        max_new_tokens: positions to fill per prompt.
        seed: seeds the noise; used only by samplers that draw. Equal prompts in one call draw differently.
        batch_size: most rows decoded together. A long list of prompts keeps the batch full.
        record: what ``Generation.trace`` is filled with, one or several of ``order``, ``confidence``, ``candidates``,
            ``all_candidates``, ``logits``, ``cache`` (:class:`dlm.trace.Recorder`); None: nothing.
        pinned: tokens the answer must contain: generated position -> token id, or a text whose tokens stand from there
            on. They are written before the first forward and never changed (the constraints of Prophet, arXiv
            2508.19982).

    Raises:
        PromptError: empty, too long, or containing the mask id; pinned tokens that overlap or stand outside.
        SettingsError: settings that contradict each other or the prompts.
        NumericsError, OutOfMemoryError: NaN logits; a row that does not fit into memory. ``error.finished`` holds the
            answers that were done before.
    """
    fixed = _pinned_ids(model, pinned, max_new_tokens)
    jobs = [prompt_job(model, i, p, max_new_tokens, fixed) for i, p in enumerate(listed(prompts))]
    run = Run(model, jobs, sampler, cache, drafter, seed, batch_size)
    return run.collect(Recorder(record))


def infill(
    model: LanguageModel,
    texts: str | Sequence[str | Sequence[int]],
    *,
    sampler: Sampler,
    cache: Cache | None = None,
    drafter: FreeDave | None = None,
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
    rows = [texts] if isinstance(texts, str) else list(texts)
    jobs = [_infill_job(model, i, row) for i, row in enumerate(rows)]
    run = Run(model, jobs, sampler, cache, drafter, seed, batch_size)
    return run.collect(Recorder(record), whole_text=True)


def stream(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    sampler: Sampler,
    cache: Cache | None = None,
    drafter: FreeDave | None = None,
    max_new_tokens: int = 128,
    seed: int = 0,
    batch_size: int = 8,
    record: str | Sequence[str] | None = None,
    pinned: Mapping[int, int | str] | None = None,
) -> Iterator[StreamStep | tuple[int, Generation]]:
    """As :func:`generate`, step by step.

    Yields a :class:`StreamStep` per live row and step, and ``(index, Generation)`` when a row is finished.
    """
    fixed = _pinned_ids(model, pinned, max_new_tokens)
    jobs = [prompt_job(model, i, p, max_new_tokens, fixed) for i, p in enumerate(listed(prompts))]
    run = Run(model, jobs, sampler, cache, drafter, seed, batch_size)
    return run.steps(Recorder(record))


class Run:
    """One call: jobs with their noise keys, a decoder, and the way back from rows to generations."""

    def __init__(
        self,
        model: LanguageModel,
        jobs: list[Job],
        sampler: Sampler,
        cache: Cache | None,
        drafter: FreeDave | None,
        seed: int,
        batch_size: int,
    ) -> None:
        if batch_size < 1:
            raise SettingsError(f"batch_size must be at least 1, got {batch_size}")
        self.model = model
        self.jobs = keyed(jobs, seed)
        self.batch_size = batch_size
        bound = sampler.bind(model.tokenizer, model.description.valid_vocab)
        self.decoder = Decoder(model.backbone, model.description, bound, cache, drafter)

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
        if self.model.tokenizer is not None:
            useful = len(row.tokens) if whole_text else first_end(row.tokens, self.model.description.eos_ids)
            text = self.model.decode(row.tokens[:useful])
        trace = recorder.traces.get(row.index)
        return Generation(
            text, row.tokens, row.commit_step, row.stop, row.counts, row.prompt, row.confidence, trace
        )  # fmt: skip

    def _stream_steps(self, event: StepEvent) -> Iterator[StreamStep]:
        view, mask = event.view, self.model.description.mask_id
        for slot, row in enumerate(event.rows):
            start, end = row.job.start, row.job.end
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
                done=row.open == 0,
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


def listed(prompts: Sequence[Prompt]) -> Sequence[Prompt]:
    """The prompts, unless they are a single text. Raises PromptError."""
    if isinstance(prompts, str):
        raise PromptError("prompts must be a list; for one prompt pass [prompt]")
    return prompts


def keyed(jobs: list[Job], seed: int) -> list[Job]:
    """Give every row its noise key; the n-th copy of the same row draws from its own stream."""
    copies: Counter[tuple[int, ...]] = Counter()
    keyed = []
    for job in jobs:
        key = row_key(seed, job.tokens, copies[job.tokens])
        copies[job.tokens] += 1
        keyed.append(Job(job.index, job.tokens, job.start, job.writable, key))
    return keyed


def _encode(model: LanguageModel, index: int, prompt: Prompt) -> list[int]:
    if isinstance(prompt, str):
        ids = model.encode(prompt)
    elif len(prompt) and isinstance(prompt[0], Mapping):
        ids = model.encode_chat(prompt)  # type: ignore[arg-type]
    else:
        ids = [int(token) for token in prompt]  # type: ignore[arg-type]
    if not ids:
        raise PromptError(f"prompt {index} is empty: give at least one token")
    bad = next((token for token in ids if not 0 <= token < model.description.vocab_size), None)
    if bad is not None:
        raise PromptError(
            f"prompt {index} contains the id {bad}; the model knows 0 to {model.description.vocab_size - 1}"
        )
    return ids


def _pinned_ids(model: LanguageModel, pinned: Mapping[int, int | str] | None, new: int) -> dict[int, int]:
    """Generated position -> token id of what is pinned."""
    found: dict[int, int] = {}
    for offset, what in (pinned or {}).items():
        ids = [what] if isinstance(what, int) else model.encode(what)
        for place, token in enumerate(ids, start=int(offset)):
            if not 0 <= place < new:
                raise PromptError(
                    f"pinned: {what!r} at {offset} reaches generated position {place}, but positions 0 to {new - 1} are"
                    " generated: raise max_new_tokens or pin it earlier"
                )
            if place in found:
                raise PromptError(f"pinned: two tokens at generated position {place}; {what!r} has {len(ids)} tokens")
            if not 0 <= token < model.description.valid_vocab or token == model.description.mask_id:
                raise PromptError(f"pinned: {token} at {offset} is no token id of this model")
            found[place] = token
    if found and len(found) >= new:
        raise PromptError(f"pinned: all {new} generated positions are pinned, nothing is left to generate")
    return found


def prompt_job(model: LanguageModel, index: int, prompt: Prompt, new: int, pinned: Mapping[int, int]) -> Job:
    """The row for a prompt: its tokens, then ``new`` positions to fill, some of them given (``pinned``, by place).

    Raises:
        SettingsError: ``new`` below 1.
        PromptError: the prompt does not fit the model.
    """
    if new < 1:
        raise SettingsError(f"max_new_tokens must be at least 1, got {new}")
    ids, mask, context = (
        _encode(model, index, prompt),
        model.description.mask_id,
        model.description.context_length,
    )
    if mask in ids:
        raise PromptError(
            f"prompt {index} contains the mask id {mask} at position {ids.index(mask)}: the mask is what gets filled;"
            " to fill marked positions use dlm.infill"
        )
    if len(ids) + new > context:
        raise PromptError(
            f"prompt {index} has {counted(len(ids), 'token')}; with max_new_tokens={new} that is more than the model's"
            f" context of {context}: shorten the prompt or ask for fewer tokens"
        )
    region = [pinned.get(place, mask) for place in range(new)]
    writable = tuple(len(ids) + place for place in range(new) if place not in pinned)
    return Job(index, (*ids, *region), len(ids), writable, key=0)


def _infill_job(model: LanguageModel, index: int, row: str | Sequence[int]) -> Job:
    mask, context = model.description.mask_id, model.description.context_length
    if isinstance(row, str):
        ids: list[int] = []
        pieces = row.split(MASK_MARK)
        # A word's token carries the space before it, so the space before a mark belongs to what fills the mark.
        pieces = [piece.removesuffix(" ") for piece in pieces[:-1]] + pieces[-1:]
        for i, piece in enumerate(pieces):
            ids += ([mask] if i else []) + (model.encode(piece) if piece else [])
    else:
        ids = _encode(model, index, row)
    writable = tuple(i for i, token in enumerate(ids) if token == mask)
    if not writable:
        raise PromptError(f"text {index} has nothing to fill: mark positions with {MASK_MARK} (or the mask id {mask})")
    if len(ids) > context:
        raise PromptError(
            f"text {index} has {counted(len(ids), 'token')}, more than the model's context of {context}: shorten it"
        )
    if model.description.shift and writable[0] == 0:
        raise PromptError(
            f"text {index} starts with {MASK_MARK}: this model scores a position from the one before it, so at least"
            " one token must come first"
        )
    return Job(index, tuple(ids), 0, writable, key=0)
