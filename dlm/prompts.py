"""From what is asked to rows: texts, chats and ids become tokens with positions to fill behind or between them."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dlm.engine.canvas import Job
from dlm.engine.noise import row_key
from dlm.engine.stops import Stops
from dlm.errors import PromptError, SettingsError
from dlm.models.language_model import LanguageModel
from dlm.words import counted

Message = Mapping[str, str]
Prompt = str | Sequence[Message] | Sequence[int]
MASK_MARK = "[MASK]"
_KINDS = "a text, a chat ([{'role': 'user', 'content': TEXT}]) or a list of token ids"


def listed(prompts: Any) -> list[Any]:
    """The prompts as a list; a single text, chat or list of ids as a list of it. Raises PromptError."""
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, Mapping):
        return [[prompts]]
    entries = _entries(prompts)
    if entries is None:
        raise PromptError(f"prompts must be a list, each entry {_KINDS}; got {type(prompts).__name__}")
    single = entries and (all(isinstance(e, Mapping) for e in entries) or all(_id(e) is not None for e in entries))
    return [entries] if single else entries


def _entries(several: Any) -> list[Any] | None:
    """What is in a list or its like; None when it is a single thing. Bytes are a list of numbers only by accident."""
    try:
        return None if isinstance(several, bytes | bytearray) else list(several)
    except TypeError:
        return None


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """A whole number of whatever type. Raises SettingsError: it is none, or below ``least``."""
    read = _id(value)
    if read is None:
        at_least = "" if least is None else f" of at least {least}"
        raise SettingsError(f"{name} must be a whole number{at_least}, got {value!r}")
    if least is not None and read < least:
        raise SettingsError(f"{name} must be at least {least}, got {read}")
    return read


def _id(value: Any) -> int | None:
    """A whole number (an int, or one of numpy or torch) as an int; None when it is anything else, truth values too."""
    try:
        return None if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")) else operator.index(value)
    except TypeError:
        return None


def keyed(jobs: list[Job], seed: int) -> list[Job]:
    """Give every row its noise key; the n-th copy of the same row draws from its own stream."""
    copies: Counter[tuple[int, ...]] = Counter()
    keyed = []
    for job in jobs:
        key = row_key(seed, job.tokens, copies[job.tokens])
        copies[job.tokens] += 1
        keyed.append(replace(job, key=key))
    return keyed


@contextmanager
def _about(kind: str, index: int) -> Iterator[None]:
    """Put in front of a PromptError which prompt it is about."""
    try:
        yield
    except PromptError as error:
        named = PromptError(f"{kind} {index} {error}")
        named.prompt = index
        raise named from error.__cause__


def _encode(model: LanguageModel, prompt: Any) -> list[int]:
    """Token ids of a text, a chat or ids."""
    try:
        if isinstance(prompt, str):
            ids = model.encode(prompt)
        else:
            entries = [prompt] if isinstance(prompt, Mapping) else _entries(prompt)
            if entries is None:
                raise PromptError(f"it is {prompt!r}; pass {_KINDS}")
            if entries and all(isinstance(entry, Mapping) for entry in entries):
                ids = model.encode_chat(entries)
            else:
                ids = [index for entry in entries if (index := _id(entry)) is not None]
                odd = [entry for entry in entries if _id(entry) is None]
                if odd:
                    raise PromptError(f"it holds {odd[0]!r}; pass {_KINDS}")
    except PromptError as error:
        raise PromptError(f"cannot be read: {error}") from error.__cause__
    if not ids:
        raise PromptError("is empty: give at least one token")
    bad = next((token for token in ids if not 0 <= token < model.description.vocab_size), None)
    if bad is not None:
        raise PromptError(f"contains the id {bad}; the model knows 0 to {model.description.vocab_size - 1}")
    return ids


def pinned_ids(model: LanguageModel, pinned: Mapping[int, int | str] | None, new: int) -> dict[int, int]:
    """Generated position -> token id of what is pinned. Raises PromptError, and SettingsError for what is no pin."""
    if not isinstance(pinned, Mapping | None):
        raise SettingsError(f"pinned is {{generated position: token id or text}}, got {pinned!r}")
    found: dict[int, int] = {}
    for offset, what in (pinned or {}).items():
        ids = model.encode(what) if isinstance(what, str) else [whole_number(f"pinned at {offset}", what)]
        for place, token in enumerate(ids, start=whole_number("pinned: a position", offset)):
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
        PromptError: the prompt does not fit the model; it names the prompt (``error.prompt``).
    """
    new = whole_number("max_new_tokens", new, 1)
    mask, context = model.description.mask_id, model.description.context_length
    with _about("prompt", index):
        ids = _encode(model, prompt)
        if mask in ids:
            raise PromptError(
                f"contains the mask id {mask} at position {ids.index(mask)}: the mask is what gets filled; to fill"
                " marked positions use dlm.infill"
            )
        if len(ids) + new > context:
            raise PromptError(
                f"has {counted(len(ids), 'token')}; with max_new_tokens={new} that is more than the model's context of"
                f" {context}: shorten the prompt or ask for fewer tokens"
            )
    region = [pinned.get(place, mask) for place in range(new)]
    writable = tuple(len(ids) + place for place in range(new) if place not in pinned)
    return Job(index, (*ids, *region), len(ids), writable, key=0)


def prompt_jobs(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    new: int,
    pinned: Mapping[int, int | str] | None,
    stop: str | Sequence[str] | None,
) -> list[Job]:
    """The rows for some prompts, with the same pins and stop strings. Raises SettingsError, PromptError."""
    new = whole_number("max_new_tokens", new, 1)
    fixed, stops = pinned_ids(model, pinned, new), Stops.of(model, stop)
    return [replace(prompt_job(model, i, prompt, new, fixed), stops=stops) for i, prompt in enumerate(prompts)]


def infill_job(model: LanguageModel, index: int, row: str | Sequence[int]) -> Job:
    """The row for a text with marks (or the mask itself), or for ids with the mask id. Raises PromptError."""
    mask, context = model.description.mask_id, model.description.context_length
    with _about("text", index):
        if isinstance(row, str):
            ids: list[int] = []
            pieces = row.split(MASK_MARK)
            # A word's token carries the space before it, so the space before a mark belongs to what fills the mark.
            pieces = [piece.removesuffix(" ") for piece in pieces[:-1]] + pieces[-1:]
            for i, piece in enumerate(pieces):
                ids += ([mask] if i else []) + (model.encode(piece, masks=True) if piece else [])
        else:
            ids = _encode(model, row)
        writable = tuple(i for i, token in enumerate(ids) if token == mask)
        if not writable:
            raise PromptError(f"has nothing to fill: mark positions with {MASK_MARK} (or the mask id {mask})")
        if len(ids) > context:
            raise PromptError(
                f"has {counted(len(ids), 'token')}, more than the model's context of {context}: shorten it"
            )
        if model.description.shift and writable[0] == 0:
            raise PromptError(
                f"starts with {MASK_MARK}: this model scores a position from the one before it, so at least one token"
                " must come first"
            )
    return Job(index, tuple(ids), 0, writable, key=0)
