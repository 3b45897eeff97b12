"""What a client asks for: JSON in OpenAI's form and ours, held against a schema, as rows and parts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dlm.configuration import Composer, parts_of
from dlm.engine.admission import fitting
from dlm.engine.calls import unknown
from dlm.engine.canvas import Job
from dlm.engine.loop import Decoder
from dlm.engine.proposal import Vocabulary
from dlm.engine.sampler import Sampler
from dlm.engine.stops import Stops
from dlm.errors import PromptError, SettingsError
from dlm.files import read_yaml
from dlm.models.language_model import LanguageModel
from dlm.overrides import choices, config_dir
from dlm.prompts import infill_job, keyed, pinned_ids, prompt_job
from dlm.serving.engine import Parts
from dlm.words import unknown_name

GROUPS = ("sampler", "blocks", "cache", "drafting")
MOST_CHOICES, MOST_STOPS, MOST_NUMBER = 16, 16, 1e18
HOW = (*GROUPS, "temperature", "top_p", "response_format")  # what decides on a request's parts
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
Choice = str | dict[str, Any] | None


def _whole(value: Any) -> Any:
    """No truth value is a number."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_whole)]


class StreamOptions(BaseModel):
    """What comes with a stream."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False
    canvas: bool = Field(False, description="also provisional tokens, positions, confidences and remasked ones")


class Body(BaseModel):
    """What both kinds of requests have in common."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    model: str | None = None
    max_tokens: Whole | None = Field(None, ge=1, description="positions to fill")
    temperature: Number | None = Field(None, ge=0, le=100)
    top_p: Number | None = Field(None, gt=0, le=1)
    n: Whole = Field(1, ge=1, le=MOST_CHOICES)
    seed: Whole | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: dict[str, Any] | None = None
    sampler: Choice = Field(None, description="a sampler's name, or its name with settings: {name: ..., SETTING: ...}")
    blocks: Choice = None
    cache: Choice = None
    drafting: Choice = None
    pinned: dict[Whole, Whole | str] | None = Field(None, description="generated position -> token id or text")
    # What other servers know: taken where it changes nothing, refused where it would.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logit_bias: dict[str, Number] | None = Field(None, max_length=0)


class Completion(Body):
    """``/v1/completions``."""

    prompt: str | list[str] | list[Whole] | list[list[Whole]]
    suffix: str | None = Field(None, description="a text that stands behind what is filled")
    infill: bool = Field(False, description="fill the [MASK] marks (or mask ids) of the prompt, and nothing else")
    echo: bool = False
    logprobs: Whole | None = Field(None, ge=0)
    best_of: Literal[1] | None = None


class Message(BaseModel):
    """One of a chat."""

    model_config = ConfigDict(extra="ignore")  # clients send names, refusals, annotations back
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]

    def plain(self) -> dict[str, str]:
        """As the chat template takes it. Raises PromptError: it holds something that is no text."""
        content = self.content
        if not isinstance(content, str):
            if any(part.get("type") != "text" or not isinstance(part.get("text"), str) for part in content):
                raise PromptError("a message has a part that is no text: this model reads text alone")
            content = "".join(part["text"] for part in content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class Chat(Body):
    """``/v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: Whole | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: Literal[0] | None = None


@dataclass(frozen=True)
class Asked:
    """A request as rows.

    Attributes:
        body: what was sent.
        jobs: one for each choice that comes back.
        parts: how they are decoded.
        prompts: what ``echo`` puts in front of each.
        whole: an infill, whose whole row is the answer.
        reach: positions of the region that are told; None: all (behind them stands a suffix).
    """

    body: Completion | Chat
    jobs: list[Job]
    parts: Parts
    prompts: list[str] = field(default_factory=list)
    whole: bool = False
    reach: int | None = None

    def told(self, job: Job) -> int:
        """Positions of a row that are filled for the client."""
        return len(job.writable) if self.whole or self.reach else len(job.tokens) - job.start

    @property
    def chat(self) -> bool:
        """Whether it is a chat."""
        return isinstance(self.body, Chat)


class Asking:
    """Turns bodies into rows, with what the server was started with where they say nothing.

    Args:
        model: what answers.
        overrides: of the command line, as Hydra takes them.
        new: positions to fill where a request does not say; at most ``most``.
        seed: of requests that name none.
    """

    def __init__(self, model: LanguageModel, overrides: Sequence[str], new: int, most: int, seed: int = 0) -> None:
        self.model, self.overrides, self.new, self.most, self.seed = model, list(overrides), new, most, seed
        self._compose = Composer("serve")
        self._made = lru_cache(256)(self._parts)

    def read(self, kind: type[Completion] | type[Chat], raw: bytes) -> Asked:
        """A body as rows. Raises SettingsError, PromptError: what is wrong with it, and what would be right."""
        body = parsed(kind, raw)
        new = body.max_tokens or (body.max_completion_tokens if isinstance(body, Chat) else None) or self.new
        if new > self.most:
            raise SettingsError(f"max_tokens={new} is more than this server gives: at most {self.most}")
        if isinstance(body.stop, list) and len(body.stop) > MOST_STOPS:
            raise SettingsError(f"stop: at most {MOST_STOPS} texts")
        if self.model.tokenizer is None and isinstance(body, Chat):
            raise SettingsError(f"{self.model.name} has no tokenizer: pass prompts of token ids to /v1/completions")
        parts = self.parts(body)
        jobs, shown = self._jobs(body, new)
        self._check(parts.decoder, jobs)
        infill, suffix = isinstance(body, Completion) and body.infill, isinstance(body, Completion) and body.suffix
        return Asked(body, jobs, parts, shown, infill, new if suffix else None)

    def _check(self, decoder: Decoder, jobs: Sequence[Job]) -> None:
        """Refuse what the decoder would, before it waits; automata of constraints are built here."""
        for job in jobs:
            fitting(decoder, job)
        if (constraint := decoder.sampler.constraint) is not None:
            about, proposer = decoder.description, decoder.sampler.proposer
            opened = constraint.open(Vocabulary.of(about, proposer), proposer, about.eos_ids, self.model.device)
            for job in jobs:
                opened.admit(job)

    def parts(self, body: Body) -> Parts:
        """The parts that a request names, each with the settings it gives, else those of the server. Those of the
        last ways that were asked for are at hand: to compose them takes longer than a step."""
        try:
            return self._made(json.dumps({name: getattr(body, name) for name in HOW}))
        except RecursionError as error:
            raise SettingsError("the body is nested too deeply") from error

    def _parts(self, how: str) -> Parts:
        body = json.loads(how)
        given = {group: self._choice(group, body[group]) for group in GROUPS}
        own = [o for o in self.overrides if not (given[o.partition("=")[0].partition(".")[0]] if _group(o) else [])]
        asked = [override for overrides in given.values() for override in overrides]
        for name in ("temperature", "top_p"):
            value = body[name]
            asked += [] if value is None or (name == "top_p" and value == 1) else [f"sampler.{name}={value!r}"]
        plain = self._compose([*own, *asked])
        if (schema := _schema(body["response_format"])) is not None:
            node = {"_target_": "samplers.JsonSchema", "pattern": schema}
            plain = {**plain, "sampler": {**plain["sampler"], "constraint": node}}
        found, about = parts_of(plain), self.model.description
        sampler = found.sampler.bind(self.model.tokenizer, about.valid_vocab)

        def made(sampler: Sampler, node: dict[str, Any], shared: Parts | None) -> Parts:
            decoder = Decoder(self.model.backbone, about, sampler, found.cache, found.drafter)
            key = json.dumps([node, *(plain.get(group) for group in GROUPS[1:])], sort_keys=True)
            return Parts(decoder, key, shared)

        node, proposer, shared = plain["sampler"], sampler.proposer, None
        alone = found.drafter or sampler.probe or sampler.constraint or getattr(self.model.backbone, "graphs", False)
        if proposer.mixes and not alone:  # 1 stands for whatever the rows have
            drawing = replace(sampler, proposer=replace(proposer, temperature=1.0))
            shared = made(drawing, {**node, "temperature": "of the row"}, None)
        return made(sampler, node, shared)

    def chosen(self) -> dict[str, str]:
        """The choice of every group where a request names none."""
        choices: dict[str, str] = self._compose(self.overrides)["choices"]
        return {group: choices[group] for group in GROUPS}

    def known(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Every choice of every group with its settings and their defaults, as far as a request may set them."""
        return {group: {name: self._settings(group, name) for name in choices(group)} for group in GROUPS}

    def _settings(self, group: str, name: str) -> dict[str, Any]:
        node = _plain_node(group, name)
        node = self._compose([f"{group}={name}"])[group] if node is None else node
        plain = {k: v for k, v in node.items() if isinstance(v, bool | int | float | str | None)}
        return {key: value for key, value in plain.items() if not key.startswith("_") and key != "name"}

    def _choice(self, group: str, given: Choice) -> list[str]:
        """A choice and its settings as overrides; nothing in them is evaluated, and none names a file."""
        if given is None:
            return []
        settings = {"name": given} if isinstance(given, str) else dict(given)
        name, known = settings.pop("name", None), choices(group)
        if not isinstance(name, str) or name not in known:
            raise SettingsError(unknown_name(group, str(name)[:100], known))
        overrides, defaults = [f"{group}={name}"], self._settings(group, name)
        for key, value in settings.items():
            if key not in defaults:
                raise SettingsError(unknown(f"{group} {name}", key[:100], sorted(defaults)))
            word = isinstance(value, str) and _WORD.fullmatch(value) and isinstance(defaults[key], str | bool)
            number = isinstance(value, bool | int | float) and abs(value) < MOST_NUMBER
            if not (word or number or value is None):
                raise SettingsError(f"{group}.{key}: a request gives a number, true, false, null, or one of its words")
            overrides.append(f"{group}.{key}={value if word else json.dumps(value)}")
        return overrides

    def _jobs(self, body: Completion | Chat, new: int) -> tuple[list[Job], list[str]]:
        seed, stops = self.seed if body.seed is None else body.seed, Stops.of(self.model, body.stop)
        if isinstance(body, Chat):
            prompts: list[Any] = [[message.plain() for message in body.messages]]
        else:
            prompts = body.prompt if isinstance(body.prompt, list) and not _ids(body.prompt) else [body.prompt]
        if not 1 <= len(prompts) * body.n <= MOST_CHOICES:
            raise SettingsError(
                f"{len(prompts)} prompts with n={body.n}: at least one answer a request, at most {MOST_CHOICES}"
            )
        made = [self._job(body, prompt, new) for prompt in prompts for _ in range(body.n)]
        decoded = self.model.decode if self.model.tokenizer is not None else lambda ids: " ".join(map(str, ids))
        echo = isinstance(body, Completion) and body.echo
        texts = [prompt if isinstance(prompt, str) else decoded(prompt) if echo else "" for prompt in prompts]
        shown = [text for text in texts for _ in range(body.n)]
        return [replace(job, stops=stops) for job in keyed(made, seed)], shown

    def _job(self, body: Completion | Chat, prompt: Any, new: int) -> Job:
        model = self.model
        if isinstance(body, Completion) and (body.infill or body.suffix):
            if body.pinned or (body.infill and body.suffix):
                raise SettingsError("infill, suffix and pinned each say what is given: use one of them")
            if body.infill:
                return infill_job(model, 0, prompt)
            ids = model.encode(prompt) if isinstance(prompt, str) else list(prompt)
            behind = model.encode(body.suffix or "")
            return prompt_job(model, 0, ids, new + len(behind), {new + at: token for at, token in enumerate(behind)})
        return prompt_job(model, 0, prompt, new, pinned_ids(model, body.pinned, new))


def _plain_node(group: str, name: str) -> dict[str, Any] | None:
    """What the file of a choice and those it builds on say, references left out; None: Hydra has to read it, which
    takes a tenth of a second a choice."""
    file = config_dir() / group / f"{name}.yaml"
    if not file.exists():
        return None
    own = read_yaml(file)
    parts = [own if part == "_self_" else file.with_name(f"{part}.yaml") for part in own.pop("defaults", ["_self_"])]
    if any(isinstance(part, Path) and not part.exists() for part in parts):
        return None
    read = [read_yaml(part) if isinstance(part, Path) else part for part in parts]
    return {k: v for node in read for k, v in node.items() if not (isinstance(v, str) and v.startswith("${"))}


def parsed(kind: type[Any], raw: bytes) -> Any:
    """JSON held against a schema. Raises SettingsError: it is no JSON, or does not fit."""
    try:
        plain = json.loads(raw, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"the body is no JSON: {str(error)[:200]}") from error
    if not isinstance(plain, dict):
        raise SettingsError(f"the body must be a JSON object, got {type(plain).__name__}")
    if strange := [name for name in plain if name not in kind.model_fields]:
        raise SettingsError(unknown("the body", str(strange[0])[:100], sorted(kind.model_fields)))
    try:
        return kind.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(step) for step in first["loc"] if not str(step).startswith(("list[", "function")))
        raise SettingsError(f"{where[:100]}: {first['msg'][:300]}") from error


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def _ids(prompt: Sequence[Any]) -> bool:
    return bool(prompt) and all(isinstance(token, int) for token in prompt)


def _group(override: str) -> bool:
    return override.partition("=")[0].partition(".")[0] in GROUPS


def _schema(given: dict[str, Any] | None) -> str | None:
    """The JSON schema that an answer must fit, as text; None: any text will do."""
    kind = None if given is None else given.get("type")
    if given is None or kind == "text":
        return None
    named = given.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    if kind != "json_schema" or not isinstance(schema, dict):
        raise SettingsError(
            'response_format is {"type": "text"} or {"type": "json_schema", "json_schema": {"schema": {...}}}'
        )
    return json.dumps(schema)
