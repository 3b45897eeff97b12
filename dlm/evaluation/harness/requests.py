"""What a request of the harness asks for, and which requests are the same: two configurations never share an answer."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from dlm import __version__
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from dlm.evaluation.point import canonical
from dlm.models import LanguageModel
from dlm.models.quantising import stored_tensors

# Everything of `gen_kwargs` that is read; what else stands there is named once in a warning.
READ = ("until", "do_sample", "temperature", "top_p", "top_k")
BUDGETS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # by priority
Key = tuple[str, int]
_LOOKED_AT = 16  # values of each weight: enough to tell two checkpoints of one shape apart


@dataclass(frozen=True)
class Wish:
    """How one request wants to be decoded."""

    budget: int  # positions to fill
    temperature: float | None = None  # None leaves the sampler's own
    # top_p, top_k: likewise
    top_p: float | None = None
    top_k: int | None = None
    stop: tuple[str, ...] = ()  # strings that end the answer

    @classmethod
    def of(cls, settings: dict[str, Any], default_budget: int, sampler: Sampler) -> Wish:
        """Read a request's ``gen_kwargs`` as the harness means them (docs/lm_eval.md).

        ``do_sample: false`` is temperature 0, whatever temperature stands beside it. ``do_sample: true`` without a
        temperature takes the sampler's, or 1 where that is 0. Without either the sampler stays as it is. Raises
        SettingsError: a budget or a temperature that is no number.
        """
        if unread := sorted(set(settings) - {*READ, *BUDGETS}):
            _warn(f"settings of the task that are not used here: {', '.join(unread)}")
        own = sampler.proposer.temperature
        budget = next((settings[name] for name in BUDGETS if settings.get(name) is not None), default_budget)
        temperature, samples = settings.get("temperature"), settings.get("do_sample")
        try:
            budget = int(budget)
            temperature = None if temperature is None else float(temperature)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"gen_kwargs: budget and temperature must be numbers ({error})") from error
        if budget < 1:
            raise SettingsError(f"gen_kwargs: a request must have at least 1 position to fill, got {budget}")
        if samples is None:
            samples = None if temperature is None else temperature > 0
        stop = stops(settings)
        if samples is None:
            return cls(budget, stop=stop)
        if not samples:
            if own > 0:
                _warn(
                    f"the task asks for greedy decoding, so sampler.temperature={own} is not used; to draw, add"
                    f" --gen_kwargs do_sample=true,temperature={own}"
                )
            return cls(budget, 0.0, stop=stop)
        return cls(budget, temperature if temperature is not None else own or 1.0, *_truncation(settings), stop)

    def sampler(self, base: Sampler) -> Sampler:
        """The sampler with what was wished for."""
        wished = {name: value for name in READ[2:] if (value := getattr(self, name)) is not None}
        return replace(base, proposer=replace(base.proposer, **wished)) if wished else base


def _truncation(settings: dict[str, Any]) -> tuple[float | None, int | None]:
    """``top_p`` and ``top_k`` where they cut anything off; 0 and -1 are other programs' way of saying that they do
    not."""
    top_p, top_k = settings.get("top_p"), settings.get("top_k")
    return (
        float(top_p) if top_p is not None and 0 < float(top_p) < 1 else None,
        int(top_k) if top_k is not None and int(top_k) > 0 else None,
    )


@cache  # once a text
def _warn(text: str) -> None:
    logging.getLogger(__name__).warning(text)


@dataclass(frozen=True)
class HarnessRequest:
    """A request and its names."""

    request: Any  # the harness's ``Instance``
    # hash of what is asked, and which of its repetitions this is. Equal keys have equal answers, whatever else is asked
    # in the run, so that an answer can be kept, and a copy made to fill up a rank is no new one.
    key: Key
    draws: bool = False  # whether repetitions may differ

    @property
    def place(self) -> str:
        """For messages: which question of which task."""
        return f"{self.request.task_name}, document {self.request.doc_id}"


def numbered(requests: Iterable[Any], digest: str) -> list[HarnessRequest]:
    """The requests with their keys.

    Only a request that draws has repetitions; the others answer alike every time. Copies beyond the number of
    repetitions, which the harness adds to ranks that got fewer documents, have the keys of what they are copies of.
    """
    seen: Counter[tuple[Any, ...]] = Counter()
    asked = []
    for request in requests:
        place = (request.task_name, request.doc_id, request.idx)
        repeat = seen[place] % max(1, request.repeats or 1)
        seen[place] += 1
        arguments = request.args
        drawn = draws(arguments)
        asked.append(HarnessRequest(request, (request_hash(arguments, digest), repeat if drawn else 0), drawn))
    return asked


def draws(arguments: Sequence[Any]) -> bool:
    """Whether a request is one that the harness never caches."""
    return len(arguments) > 1 and isinstance(arguments[1], dict) and bool(arguments[1].get("do_sample", False))


def request_hash(arguments: Sequence[Any], digest: str) -> str:
    """Name of what is asked: the texts and settings of the request, and the configuration that answers it."""
    plain = [argument if isinstance(argument, str) else _plain(argument) for argument in arguments]
    return hashlib.sha256(canonical([digest, *plain]).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Containers of plain values; everything else by its text."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def stops(settings: dict[str, Any]) -> tuple[str, ...]:
    """The stop strings of a request, empty ones left out."""
    until = settings.get("until") or []
    listed = [until] if isinstance(until, str) else list(until)
    return tuple(str(text) for text in listed if text)


def decode_digest(model: LanguageModel, *settings: Any) -> str:
    """16 hexadecimal digits that differ where the model, a setting or the version of this package does.

    A part that does not say what it is made of (an object without a ``repr`` of its own) has another digest in every
    process: its answers are then never taken from a cache, which is safe.
    """
    description = [__version__, model.name, repr(model.description), str(model.dtype), _weights(model), repr(settings)]
    return hashlib.sha256("\n".join(description).encode()).hexdigest()[:16]


def _weights(model: LanguageModel) -> str:
    """Shapes and first values of all weights."""
    named = getattr(model.backbone, "named_parameters", None)
    if named is None:
        return type(model.backbone).__name__
    names, values = [], []
    for name, weight in named():
        names.append(f"{name} {tuple(weight.shape)}")
        values += [part.detach().flatten()[:_LOOKED_AT].double().cpu() for part in stored_tensors(weight)]
    return " ".join(names) + hashlib.sha256(torch.cat(values).numpy().tobytes()).hexdigest()


def describe_settings(*settings: Any) -> list[str]:
    """The settings as text for result files; addresses of objects left out."""
    return [re.sub(r" at 0x[0-9a-f]+", "", repr(setting)) for setting in settings]
