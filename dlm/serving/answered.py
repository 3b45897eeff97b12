"""Answers in OpenAI's form: whole, or as the events of a stream."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from dlm.engine.result import RowResult
from dlm.models.language_model import LanguageModel
from dlm.serving.asked import Asked, Completion
from dlm.serving.engine import Snapshot
from dlm.serving.reading import Reading
from dlm.trace.pieces import pieces_of

DONE = b"data: [DONE]\n\n"


def event(body: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def problem(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's form."""
    message = message.encode("utf-8", "replace").decode()  # a lone surrogate of a name cannot be sent
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class Answer:
    """The answers to one request, as they come to be: one reading for each choice."""

    def __init__(self, model: LanguageModel, asked: Asked) -> None:
        self.model, self.asked = model, asked
        self.head = {
            "id": f"{'chatcmpl' if asked.chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model.name,
        }
        keeps = asked.parts.decoder.sampler.keeps
        self.readings = [Reading(model, job.stops, keeps, asked.whole) for job in asked.jobs]
        self.rows: list[RowResult | None] = [None] * len(asked.jobs)
        self.shown: list[list[int] | None] = [None] * len(asked.jobs)

    def stepped(self, choice: int, snapshot: Snapshot) -> list[dict[str, Any]]:
        """The chunks that a step gives."""
        options, chunks = self.asked.body.stream_options, []
        if new := self._read(choice, snapshot.tokens, False):
            chunks.append(self.chunk(choice, self._delta(new)))
        if options is not None and options.canvas:
            chunks.append(self._chunk([], canvas=self.canvas(choice, snapshot)))
        return chunks

    def ended(self, choice: int, row: RowResult) -> list[dict[str, Any]]:
        """The last chunks of a choice."""
        self.rows[choice] = row
        new = self._read(choice, row.tokens, True)
        chunks = [self.chunk(choice, self._delta(new))] if new else []
        options = self.asked.body.stream_options
        if options is not None and options.canvas:
            last = Snapshot(max(row.commit_step, default=-1), row.tokens, row.confidence, [])
            chunks.append(
                self._chunk([], canvas=self.canvas(choice, last) | {"done": True, "counts": asdict(row.counts)})
            )
        return [*chunks, self.finish(choice)]

    def finish(self, choice: int) -> dict[str, Any]:
        """The chunk that says why a choice ended; its row may have been left unfinished behind a stop string."""
        extra = {} if (told := self._logprobs(choice)) is None else {"logprobs": told}
        return self.chunk(choice, {"delta": {}} if self.asked.chat else {"text": ""}, self._reason(choice), extra)

    def opening(self, choice: int) -> dict[str, Any]:
        """The first chunk of a choice."""
        told = {"delta": {"role": "assistant", "content": ""}} if self.asked.chat else {"text": self._echo(choice)}
        return self.chunk(choice, told)

    def _echo(self, choice: int) -> str:
        return self.asked.prompts[choice] if isinstance(self.asked.body, Completion) and self.asked.body.echo else ""

    def whole(self) -> dict[str, Any]:
        """The response to a request that does not stream."""
        choices = []
        for choice, reading in enumerate(self.readings):
            found: dict[str, Any] = {
                "index": choice,
                "finish_reason": self._reason(choice),
                "logprobs": self._logprobs(choice),
            }
            if self.asked.chat:
                found["message"] = {"role": "assistant", "content": reading.text, "refusal": None}
            else:
                found["text"] = self._echo(choice) + reading.text
            choices.append(found)
        kind = "chat.completion" if self.asked.chat else "text_completion"
        counts = [None if row is None else asdict(row.counts) for row in self.rows]
        return {**self.head, "object": kind, "choices": choices, "usage": self.usage(), "dlm": {"counts": counts}}

    def usage(self) -> dict[str, int]:
        """Tokens in and out. A prompt that is asked several times is counted once."""
        given = {job.tokens: len(job.tokens) - self.asked.told(job) for job in self.asked.jobs}
        prompt, answer = sum(given.values()), sum(reading.length for reading in self.readings)
        if self.asked.whole:
            answer = sum(self.asked.told(job) for job in self.asked.jobs)
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    def last(self) -> dict[str, Any]:
        """The chunk with the usage."""
        return self._chunk([], usage=self.usage())

    def canvas(self, choice: int, snapshot: Snapshot) -> dict[str, Any]:
        """What a step changed: ``set`` and ``guess`` are lists of place, token id, text and probability, ``masked``
        places that were taken back, ``block`` where the block begins and ends. The first one tells all that is given,
        and the prompt's ids."""
        mask, before = self.model.description.mask_id, self.shown[choice]
        same = before is not None and len(before) == len(snapshot.tokens)
        old = before if same and before is not None else [mask] * len(snapshot.tokens)
        self.shown[choice] = snapshot.tokens
        fresh = [
            (at, new) for at, (new, was) in enumerate(zip(snapshot.tokens, old, strict=True)) if new not in (was, mask)
        ]
        pieces = pieces_of(self.model, [token for _, token in fresh] + [token for _, token, _ in snapshot.guesses])
        sure = [(at, token, snapshot.confidence[at]) for at, token in fresh]
        told = (
            [[at, token, pieces.get(token, ""), _number(p)] for at, token, p in those]
            for those in (sure, snapshot.guesses)
        )
        found: dict[str, Any] = dict(zip(("set", "guess"), told, strict=True))
        taken = [at for at, (new, was) in enumerate(zip(snapshot.tokens, old, strict=True)) if new == mask != was]
        if snapshot.block is not None:
            found["block"] = snapshot.block
        if before is None:
            job = self.asked.jobs[choice]
            found["prompt"] = job.tokens[: job.start]
        return {"index": choice, "step": snapshot.step, "length": len(snapshot.tokens), **found, "masked": taken}

    def chunk(
        self, choice: int, told: dict[str, Any], reason: str | None = None, extra: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """One choice's part of a stream."""
        return self._chunk([{"index": choice, **told, "finish_reason": reason, "logprobs": None, **(extra or {})}])

    def _chunk(self, choices: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.asked.chat else "text_completion"
        return {**self.head, "object": kind, "choices": list(choices), **more}

    def _delta(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}} if self.asked.chat else {"text": text}

    def _read(self, choice: int, tokens: Sequence[int], final: bool) -> str:
        if self.model.tokenizer is None:
            self.readings[choice].length = len(tokens)
            return " ".join(map(str, tokens)) if final else ""
        return self.readings[choice].take(tokens[: self.asked.reach], final)

    def _reason(self, choice: int) -> str:
        return "stop" if self.readings[choice].ended or self.asked.whole else "length"

    def _logprobs(self, choice: int) -> dict[str, Any] | None:
        """Of each token the logarithm of the probability at which it was committed; 0 where it was given."""
        row, wanted = self.rows[choice], self.asked.body.logprobs
        if row is None or wanted is None or wanted is False:
            return None
        reading = self.readings[choice]
        tokens, sure = row.tokens[: reading.length], row.confidence[: reading.length]
        pieces = pieces_of(self.model, tokens)
        texts = [pieces.get(token, str(token)) for token in tokens]
        values = [math.log(p) if p > 0 else (0.0 if p != p else -9999.0) for p in sure]
        if self.asked.chat:
            each = [
                {"token": text, "logprob": value, "bytes": list(text.encode()), "top_logprobs": []}
                for text, value in zip(texts, values, strict=True)
            ]
            return {"content": each, "refusal": None}
        before = len(self._echo(choice))
        offsets = [before + sum(map(len, texts[:at])) for at in range(len(texts))]
        return {"tokens": texts, "token_logprobs": values, "top_logprobs": None, "text_offset": offsets}


def _number(value: float) -> float | None:
    return None if value != value else round(value, 4)
