"""``dlm generate``: answer prompts."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dlm.commands.common import command
from dlm.configuration import check_choice, compose_config, parts_of
from dlm.errors import DlmError, PromptError, SettingsError
from dlm.evaluation.progress import progress_bar, telling
from dlm.files import STANDARD_OUTPUT, check_writable, write_whole
from dlm.words import visible

if TYPE_CHECKING:
    from dlm.api import Generation, Prompt
    from dlm.configuration import Composed
    from dlm.models import LanguageModel

HELP = """dlm generate: answer prompts.

usage: dlm generate PROMPT [key=value ...]

one prompt source:
  TEXT, 'prompt=TEXT'      any text, taken literally (quote it for the shell); it may be a rendered chat: control
                           tokens in it are control tokens (in a chat they are text), the mask is text
  prompt_ids=[1,2,3]       token ids
  prompts_file=FILE        JSON lines: {{"prompt": TEXT}}, {{"messages": [...]}} or {{"ids": [...]}}

settings:
  chat=true                put the prompt into the model's chat template; 'system=TEXT' adds a system message. A chat of
                           a prompts_file that ends with a message of the assistant is continued
  max_new_tokens=128       positions to fill
  'pinned={{20: " The answer is"}}'   tokens the answer must contain, from a generated position on
  'stop=["Question:"]'     texts at which an answer ends, and its decoding with it
  seed=0  batch_size=8
  model.quantize=int8      keep the blocks' weights in int8, int4 or fp8 (pip install 'dlm[quantize]')
  model.adapter=DIR        merge a LoRA adapter into the weights (pip install 'dlm[adapters]')
  runtime.compile=true     compile the model's layers: slow at first, worth it on long runs
  runtime.graphs=true      replay the steps of a block as CUDA graphs, with parts whose steps have one shape
  format=auto|live|text|json   live redraws the canvas as it fills and ends with a card; json is one object a line
  format=step_map          answers with the step of each token, as dLLM-RL keeps them (docs/replay.md)
  output=FILE              write the answers there (the file appears whole or not at all); - is standard output
  trace=FILE               write what happened at each step there; dlm trace show|html|plot FILE replays it
  record=[order,confidence,candidates,cache]   what is kept for it (this unless said otherwise): order|confidence|
                           candidates|all_candidates|logits|cache; without trace= it is a part of format=json

groups (GROUP.KEY=VALUE sets what a choice knows; dlm generate --cfg job shows all of it):
{groups}

examples:
  dlm generate 'prompt=Reverse the list: ["Anna", "Bob", "Cleo"]' max_new_tokens=32
  dlm generate 47+85= sampler.threshold=0.7 max_new_tokens=32 format=json
  dlm generate 47+85= --sampler topk --max-new-tokens 32 --seed 1 --format json    settings as flags
  dlm generate 'prompt=47+85=' sampler=topk sampler.tokens_per_step=4 blocks.length=16 max_new_tokens=32
  dlm generate 'prompt=47+85=' sampler=topk drafting=freedave drafting.draft_length=8 max_new_tokens=32
  dlm generate 'prompt=47+85=' cache=dkv_decode cache.interval=4 max_new_tokens=64
  dlm generate 'prompt=47+85=' sampler.stop_at_end=decoded max_new_tokens=64   cut behind the end of the text
  dlm generate 'prompt=Shuffle the list: ["Anna", "Bob", "Cleo"]' max_new_tokens=32 trace=run.jsonl
  dlm generate prompts_file=prompts.jsonl sampler=factor batch_size=16 format=json output=answers.jsonl
  dlm generate model=llada-8b-instruct chat=true 'prompt=Why is the sky blue?'
  dlm generate model=local model.path=DIR sampler=dream_entropy sampler.steps=64 'prompt=...'
"""
UNKNOWN = (
    "dlm: the packaged model knows a few kinds of questions only, in their own words (`dlm tasks` lists them); to"
    " anything else it answers nonsense or nothing. Another model is model=NAME"
)
# How the questions of its tasks read.
KNOWN = re.compile(
    r"(Copy|Reverse|Sort|Shuffle) the list: \["
    r'|(Replace|Remove|Insert) .*: \["'
    r"|\d\+\d+="
    r"|Solve the sudoku:|Write a Latin square of|Tell a story about|How many .*\?",
)


@command("generate", HELP, ("prompt", "system", "prompts_file", "output", "trace"))
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    from dlm.api import stream
    from dlm.display import card, one_line, watch
    from dlm.stepmaps import step_maps

    config = compose_config("generate", overrides)
    parts = parts_of(config)
    settings = {**parts.config, **texts}
    _check_format(settings["format"], parts)
    prompts = read_prompts(settings)
    output, trace = (None if settings[key] is None else Path(settings[key]) for key in ("output", "trace"))
    for path in (output, trace):
        if path is not None:
            check_writable(path)
    record = _record(settings)
    pinned = _pinned(settings["pinned"])
    with telling(parts.model_config):
        model = parts.load_model()
    console = Console(file=sys.stdout)
    shape = settings["format"]
    if shape == "auto":
        # Not console.is_terminal: FORCE_COLOR makes that true for a pipe.
        shape = "live" if sys.stdout.isatty() and output is None else "text"
    with naming_the_line(settings["prompts_file"]):
        events = stream(
            model, prompts, sampler=parts.sampler, cache=parts.cache, drafter=parts.drafter,
            max_new_tokens=parts.max_new_tokens, seed=parts.seed, batch_size=parts.batch_size,
            record=record, pinned=pinned, stop=settings["stop"],
        )  # fmt: skip
    if shape == "live":
        finished = watch(model, events, console)
    else:
        finished = (event for event in events if isinstance(event, tuple))
    done: dict[int, Generation] = {}
    kept = False
    try:
        with progress_bar(quiet=shape == "live" or len(prompts) == 1) as bar:
            for index, answer in bar.track(finished, len(prompts), description="decoding"):
                done[index] = answer
        lines = answer_lines(done, prompts, model, shape)
        if shape == "step_map":
            lines = [json.dumps(step_maps(model, [done[i] for i in sorted(done)]), ensure_ascii=False, indent=1)]
        if output is not None:
            write_whole(output, "\n".join(lines) + "\n")
            kept = True
        if trace is not None:
            _write_traces(trace, model, parts, prompts, done)
    except BaseException:
        if done and not kept:
            _salvage(done, prompts, output)
        if done and trace is not None and len(done) < len(prompts):
            _write_traces(Path(f"{trace}.partial"), model, parts, prompts, done)
        raise
    answers = [done[i] for i in range(len(prompts))]
    if output is None and shape != "live":
        text = "\n".join(lines)
        print(visible(text, keep="\n\t") if sys.stdout.isatty() else text)
    if shape == "live":
        console.print(card(answers))
    elif shape == "text":
        print(one_line(answers), file=sys.stderr)
    if model.name == "tiny" and not all(map(_in_its_words, prompts)):
        print(UNKNOWN, file=sys.stderr)
    return 0


def answer_lines(done: dict[int, Generation], prompts: list[Prompt], model: LanguageModel, shape: str) -> list[str]:
    """The answers as JSON or text, as ids where the model has no tokenizer, in the order of the prompts."""
    if shape == "json":
        return _json_lines(done, prompts)
    known = model.tokenizer is not None
    return [answer.text if known else " ".join(map(str, answer.tokens)) for _, answer in sorted(done.items())]


def _in_its_words(prompt: Prompt) -> bool:
    """Whether a prompt may be one of those that the packaged model was trained on."""
    text = prompt[-1].get("content") if prompt and isinstance(prompt[-1], dict) else prompt
    return not isinstance(text, str) or KNOWN.search(text) is not None


def _pinned(value: Any) -> dict[int, int | str] | None:
    """``pinned`` as generated position -> id or text."""
    pairs = value.items() if isinstance(value, dict) else [(None, None)]
    if value is not None and not all(isinstance(k, int) and isinstance(v, int | str) for k, v in pairs):
        raise SettingsError(f"pinned is {{generated position: token id or text}}, got {value!r}")
    return value


def read_prompts(settings: dict[str, Any], usage: str = "generate") -> list[Prompt]:
    """The prompts of the one source that is given. Raises PromptError: no source, several, or a file that does not hold
    prompts."""
    given = [key for key in ("prompt", "prompt_ids", "prompts_file") if settings[key] is not None]
    if len(given) != 1:
        found = f"{' and '.join(given)} are" if given else "none is"
        raise PromptError(
            f"give one of prompt, prompt_ids, prompts_file ({found} given), for example:"
            f' dlm {usage} \'prompt=Reverse the list: ["Anna", "Bob", "Cleo"]\' max_new_tokens=32'
        )
    if settings["system"] is not None and not settings["chat"]:
        raise PromptError("system= is part of a chat: add chat=true, or leave it out")
    if given == ["prompt"]:
        prompts: list[Prompt] = [settings["prompt"]]
    elif given == ["prompt_ids"]:
        prompts = [_ids(settings["prompt_ids"], "prompt_ids")]
    else:
        prompts = _read_file(Path(settings["prompts_file"]))
    return [_chat(p, settings["system"]) for p in prompts] if settings["chat"] else prompts


def _read_file(path: Path) -> list[Prompt]:
    if not path.is_file():
        raise PromptError(
            f"prompts_file {path} does not exist" if not path.exists() else f"prompts_file {path} is no file"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        bad = path.read_bytes()[: error.start].count(b"\n") + 1
        raise PromptError(f"{path}, line {bad} is not UTF-8: save the file in that encoding") from error
    prompts: list[Prompt] = []
    # Not splitlines(): JSON strings may hold U+2028 and its like, which end no line of a JSONL file.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{where} is not JSON: {error}") from error
        if not isinstance(entry, dict) or len({"prompt", "messages", "ids"} & set(entry)) != 1:
            raise PromptError(
                f'{where}: each line needs one of "prompt" (text), "messages" (a chat), "ids" (token ids)'
            )
        if "ids" in entry:
            prompts.append(_ids(entry["ids"], where))
        elif isinstance(entry.get("prompt"), str):
            prompts.append(entry["prompt"])
        elif isinstance(chat := entry.get("messages"), list) and chat and all(isinstance(m, dict) for m in chat):
            prompts.append(chat)
        else:
            raise PromptError(f"{where}: a prompt is a string, a chat a list of messages")
    if not prompts:
        raise PromptError(f"prompts_file {path} holds no prompts")
    return prompts


@contextmanager
def naming_the_line(file: str | None) -> Iterator[None]:
    """An error about one of the prompts of a file names the line that holds it."""
    try:
        yield
    except PromptError as error:
        if file is None or error.prompt is None:
            raise
        lines = enumerate(Path(file).read_text(encoding="utf-8-sig").split("\n"), start=1)
        number = [number for number, line in lines if line.strip()][error.prompt]
        message = str(error).removeprefix(f"prompt {error.prompt} ")
        raise PromptError(f"{file}, line {number}: the prompt {message}") from error


def _check_format(shape: str, parts: Composed) -> None:
    check_choice("format", shape, ("auto", "live", "text", "json", "step_map"))
    if shape == "step_map" and parts.config["stop"]:
        raise SettingsError("format=step_map needs whole decodes: leave stop= out")
    if shape == "step_map" and (parts.drafter is not None or not parts.sampler.keeps):
        raise SettingsError("format=step_map needs tokens that stay: no drafting, no sampler that takes any back")


def _ids(value: Any, where: str) -> list[int]:
    if not isinstance(value, list) or not value or not all(type(i) is int for i in value):
        raise PromptError(f"{where}: token ids are a list of at least one whole number, got {value!r}")
    return value


def _chat(prompt: Prompt, system: str | None) -> Prompt:
    if not isinstance(prompt, str):
        return prompt
    messages = [{"role": "user", "content": prompt}]
    return [{"role": "system", "content": system}, *messages] if system is not None else messages


def _salvage(done: dict[int, Generation], prompts: list[Prompt], output: Path | None) -> None:
    """After an error or an interrupt: what was finished is not lost, beside ``output`` or, where nothing can be
    written, printed."""
    lines, where = _json_lines(done, prompts), "printed as JSON"
    if output is not None and (output.is_file() or not output.exists()) and str(output) != STANDARD_OUTPUT:
        with suppress(DlmError):
            write_whole(Path(f"{output}.partial"), "\n".join(lines) + "\n")
            where = f"in {output}.partial"
    if where == "printed as JSON":
        print("\n".join(lines), flush=True)
    print(f"dlm: {len(done)} of {len(prompts)} answers were done; they are {visible(where)}", file=sys.stderr)


def _json_lines(done: dict[int, Generation], prompts: list[Prompt]) -> list[str]:
    """One JSON object per answer, in the order of the prompts."""
    return [
        json.dumps({"index": i, "prompt": prompts[i], **done[i].as_dict()}, ensure_ascii=False) for i in sorted(done)
    ]


def _record(settings: dict[str, Any]) -> tuple[str, ...] | None:
    """What to record: what is asked for, all that the player shows when only a file is named."""
    from dlm.trace import EVERYTHING, Recorder

    record = settings["record"]
    if record is None:
        return EVERYTHING if settings["trace"] is not None else None
    names = tuple(map(str, record)) if isinstance(record, list) else (str(record),)
    Recorder(names)
    if settings["trace"] is None and settings["format"] != "json":
        raise SettingsError("record= has nowhere to go: add trace=FILE, or format=json")
    return names


def _write_traces(
    path: Path, model: LanguageModel, parts: Composed, prompts: list[Prompt], done: dict[int, Generation]
) -> None:
    """One line an answer, with what the players show beside it."""
    from dlm.trace import pieces_of, save_traces

    names: dict[str, Any] = {"model": model.name, "sampler": parts.sampler.name, "seed": parts.seed}
    for key in ("cache", "drafting"):
        names |= {key: name.lower()} if (name := parts.name(key)) != "none" else {}
    traces = []
    for index, answer in sorted(done.items()):
        trace, counts = answer.trace, answer.counts
        assert trace is not None
        prompt, known = prompts[index], model.tokenizer is not None
        text = model.decode(answer.prompt_tokens) if known and not isinstance(prompt, str) else prompt
        about: dict[str, Any] = {"index": index, "prompt": text if isinstance(text, str) else None}
        about |= {"text": answer.text, "stop": answer.stop, "forwards": counts.forwards, "tokens": counts.tokens}
        about["tokens_per_forward"] = round(counts.tokens_per_forward, 3)
        pieces = pieces_of(model, trace.tokens)
        traces.append(replace(trace, about={**about, **names}, pieces=pieces))
    save_traces(path, traces)
