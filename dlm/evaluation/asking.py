"""Questions to rows of the decoder, and the rows back to samples."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dlm.api import CacheLike, SamplerLike, prompt_job
from dlm.engine.canvas import Job
from dlm.engine.loop import Decoder
from dlm.engine.named import cache_of, sampler_of
from dlm.engine.result import RowResult, first_end
from dlm.errors import DlmError, PromptError, SettingsError, StorageError
from dlm.evaluation.identity import instance_key
from dlm.evaluation.sample import Sample
from dlm.models.language_model import LanguageModel
from dlm.tasks.base import Instance, Task, Template, Verdict
from dlm.tasks.checks import checked_verdict
from dlm.trace import Recorder

# A run that ends with an error nobody foresaw: so many rows in turn may fail one by one before it is taken for one
# that no row survives.
SYSTEMATIC = 4
FORMS = ("auto", "chat", "text", "one_turn", "infill")  # in which a question may be asked


@dataclass(frozen=True)
class Query:
    """An instance, asked with one seed."""

    instance: Instance  # what is asked
    index: int  # its place in the task
    seed: int  # of the noise
    attempt: int = 1  # 1, or more after failures


@dataclass
class Asker:
    """Makes rows of questions, for one model and form."""

    model: LanguageModel  # answers them
    task: Task  # asks them
    form: str  # ``chat``, ``text``, ``one_turn`` (the text as one message of a chat) or ``infill``
    canvas: int  # positions to fill; without meaning in infill form
    rank: int = 0  # the process this is
    _rows: dict[int, Job] = field(default_factory=dict)

    def job(self, number: int, query: Query) -> Job:
        """The row of a question, under a number of its own. Raises PromptError: it does not fit the model."""
        if query.index not in self._rows:  # several seeds ask the same
            self._rows[query.index] = self._row(query)
        key = instance_key(query.seed, query.instance.instance_id)
        return replace(self._rows[query.index], index=number, key=key)

    def _row(self, query: Query) -> Job:
        instance = query.instance
        prompt: Any = instance.messages
        if self.form == "text" or (self.form == "infill" and not has_template(self.model)):
            prompt = plain_text(self.task, instance)
        elif self.form == "one_turn":
            prompt = [{"role": "user", "content": plain_text(self.task, instance)}]
        if self.form != "infill":
            return prompt_job(self.model, query.index, prompt, self.canvas, {})
        if instance.template is None:
            raise PromptError(f"prompt {query.index} has no infill form")
        filled, open_ = slots(self.model, instance.template)
        job = prompt_job(self.model, query.index, prompt, len(filled), {})
        tokens = (*job.tokens[: job.start], *filled)
        return replace(job, tokens=tokens, writable=tuple(job.start + place for place in open_))

    def decoder(self, sampler: SamplerLike, cache: CacheLike = None, drafter: Any = None) -> Decoder:
        """What answers the rows. Raises SettingsError: the sampler does not fit the model."""
        bound = sampler_of(sampler).bind(self.model.tokenizer, self.model.description.valid_vocab)
        return Decoder(self.model.backbone, self.model.description, bound, cache_of(cache), drafter)

    def text(self, row: RowResult) -> str:
        """What a row answers: up to its first end token, or the whole template."""
        useful = len(row.tokens) if self.form == "infill" else first_end(row.tokens, self.model.description.eos_ids)
        return self.model.decode(row.tokens[:useful]) if self.model.tokenizer is not None else ""

    def sample(self, query: Query, row: RowResult, text: str, verdict: Verdict) -> Sample:
        """What is kept of an answer. Raises SettingsError: a verdict that is none."""
        verdict = checked_verdict(self.task, verdict)
        instance, counts = query.instance, row.counts
        prompt = str(row.prompt)[1:-1].replace(" ", "")  # ids with commas between
        return Sample(
            instance_id=instance.instance_id,
            index=query.index,
            task=self.task.name,
            seed=query.seed,
            prompt_sha256=hashlib.sha256(prompt.encode()).hexdigest(),
            prompt_tokens=len(row.prompt),
            output_text=text,
            output_ids=row.tokens,
            target=instance.target,
            parsed=verdict.parsed,
            score=verdict.score,
            score_strict=verdict.strict,
            parts=verdict.parts,
            error_type=verdict.error,
            canvas=len(self._rows[query.index].writable),
            forwards=counts.forwards,
            content_forwards=round(counts.tokens / counts.tokens_per_forward) if counts.tokens else 0,
            token_forwards=counts.token_forwards,
            tokens=counts.tokens,
            commit_step=row.commit_step,
            confidence=[None if p != p else round(p * 1e4) / 1e4 for p in row.confidence],  # faster than round(p, 4)
            accepted_drafts=counts.accepted_drafts,
            positions_cut=counts.positions_cut,
            stop=row.stop,
            seconds=round(counts.seconds, 6),
            seconds_model=round(counts.seconds_step + counts.seconds_refresh, 6),
            attempt=query.attempt,
            rank=self.rank,
        )


def has_template(model: LanguageModel) -> bool:
    """Whether the model has a chat template."""
    return model.tokenizer is not None and model.tokenizer.chat_template is not None


def plain_text(task: Task, instance: Instance) -> str:
    """A question without a chat: the task's own ``text``, else examples and question, blank lines between."""
    own = getattr(task, "text", None)
    if callable(own):
        return str(own(instance))
    shots = [f"{question}\n{answer}\n\n" for question, answer in instance.shots]
    return "".join([*shots, instance.prompt if instance.prompt.endswith("\n") else f"{instance.prompt}\n"])


def slots(model: LanguageModel, template: Template) -> tuple[list[int], list[int]]:
    """A template as token ids with the mask id in its slots, and the places of the slots' positions."""
    width = max(len(model.encode(item)) for item in template.items)
    tokens: list[int] = []
    open_: list[int] = []
    for number, piece in enumerate(template.pieces):
        if number:
            open_ += range(len(tokens), len(tokens) + width)
            tokens += [model.description.mask_id] * width
        tokens += model.encode(piece) if piece else []
    return tokens, open_


def decoded(
    asker: Asker,
    queries: Sequence[Query],
    decoder: Decoder,
    batch_size: int,
    recorder: Recorder,
    fail: Callable[[int, BaseException], None],
) -> Iterator[list[RowResult]]:
    """The finished rows of all queries, numbered by their places, step by step; ``fail`` is told of those that go
    wrong, and the others go on.

    After an error that ends the whole run the rows that were in the batch are decoded one by one, so that the one at
    fault is found.

    Raises:
        SettingsError: the sampler does not fit the jobs.
        StorageError: ``fail`` had no room to write.
        DlmError: an error that no row survives.
    """
    left: dict[int, Job] = {}
    suspects: list[tuple[int, Exception]] = []  # failed one by one, and no row was finished since
    for number, query in enumerate(queries):
        try:
            left[number] = asker.job(number, query)
        except PromptError as error:
            fail(number, error)

    def failed(number: int, error: BaseException) -> None:
        recorder.traces.pop(number, None)
        left.pop(number, None)
        fail(number, error)

    def settled(done: list[RowResult]) -> list[RowResult]:
        for row in done:
            del left[row.index]
        _tell(suspects, failed)
        return done

    def rows(some: list[Job], size: int) -> Iterator[list[RowResult]]:
        done: list[RowResult] = []
        ending = 0  # rows that the last step has finished; they come before the next one
        for event in decoder.run(some, size, asker.model.device, failed, recorder.needs):
            if not isinstance(event, RowResult):
                recorder.take(event)
                ending = sum(not row.open and not row.failed for row in event.rows)
                continue
            done.append(event)
            if len(done) >= ending:
                yield settled(done)
                done = []
        if done:
            yield settled(done)

    while left:
        try:
            yield from rows(list(left.values()), batch_size)
        except (SettingsError, StorageError):
            raise
        except Exception:
            # The rows that were in the batch: the decoder takes the longest first.
            live = sorted(left.values(), key=lambda job: (-job.end, job.index))[:batch_size]
            yield from _one_by_one(rows, live, suspects)
            for number, _ in suspects:
                left.pop(number, None)
    _tell(suspects, failed)


def _one_by_one(
    rows: Callable[[list[Job], int], Iterator[list[RowResult]]], live: list[Job], suspects: list[tuple[int, Exception]]
) -> Iterator[list[RowResult]]:
    """Decode rows alone; those that fail are added to ``suspects``."""
    good = 0
    for job in live:
        try:
            for done in rows([job], 1):
                good += 1
                yield done
        except (SettingsError, StorageError):
            raise
        except Exception as error:
            suspects.append((job.index, error))
        if not good and len(suspects) >= SYSTEMATIC:
            fault = suspects[0][1]
            raise DlmError(f"decoding fails on every question: {type(fault).__name__}: {fault}") from fault


def _tell(suspects: list[tuple[int, Exception]], failed: Callable[[int, BaseException], None]) -> None:
    """Say that rows have failed, now that it is known that others do not."""
    told = suspects.copy()
    suspects.clear()
    for number, error in told:
        failed(number, error)
