"""``dlm deer``: an autoregressive model answers, a masked diffusion model drafts for it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from dlm.choices import listed
from dlm.commands.common import command
from dlm.commands.generate import answer_lines, naming_the_line, read_prompts
from dlm.configuration import check_choice, check_counts, compose_config, plain_of
from dlm.errors import SettingsError
from dlm.evaluation.identity import Questions
from dlm.tasks.registry import open_task
from dlm.words import visible

if TYPE_CHECKING:
    from collections.abc import Callable

    from dlm.api import Generation
    from dlm.tasks import Task

HELP = """dlm deer: an autoregressive model answers, a masked diffusion model drafts for it (DEER, arXiv 2512.15176).

usage: dlm deer verifier=DIR PROMPT [key=value ...]
       dlm deer verifier=DIR task=NAME [key=value ...]

  verifier=DIR             folder or hub id of a causal language model of transformers (dlm train ar makes a small one)
  drafter=tiny             the model that drafts: tiny, a folder or hub id, of the verifier's tokenizer; none: no drafts
  draft_length=8           tokens per draft; temperature=0: greedily the verifier's own answers, above it its law
  masks=null               masks the drafter sees: a number, or all that are left; null: as many as it fills
  draft_temperature=null   of the drafter; null: temperature
  mixture=null             APD (arXiv 2506.00413) instead, from 0 to 1: the drafter answers, as many tokens at once as
                           are the likeliest of p_drafter^mixture p_verifier^(1-mixture) too

one prompt source: 'prompt=TEXT', prompt_ids=[1,2,3], prompts_file=FILE, with chat=, system=, as in dlm generate; or
  task=NAME n=50           test questions of tasks: accuracy, calls of the verifier, tokens a call, seconds;
                           draft_length=[0,4,8] makes a line of each, 0 being plain autoregressive decoding

settings: max_new_tokens=128 seed=0 batch_size=8 device=null dtype=null format=text|json

examples:
  dlm deer verifier=DIR 'prompt=Reverse the list: ["Anna", "Bob", "Cleo"]' chat=true max_new_tokens=32
  dlm deer verifier=DIR task=waiting_line/copy,arithmetic/addition draft_length=[0,4,8,16] masks=all
  dlm deer verifier=DIR task=waiting_line/copy mixture=0.5 draft_length=[1,8] masks=all
"""
_COLUMNS = ("task", "draft", "accuracy", "calls", "a call", "accepted", "drafter", "positions", "seconds", "same")


@command("deer", HELP, ("prompt", "system", "prompts_file", "verifier", "drafter", "task"))
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    settings = {**plain_of(compose_config("deer", overrides)), **texts}
    check_choice("format", settings["format"], ("text", "json"))
    check_counts(settings, "n", "max_new_tokens", "batch_size")
    check_counts(settings, "seed", least=None)
    if not settings["verifier"]:
        raise SettingsError("verifier is not given: add verifier=DIR, a causal language model (dlm train ar makes one)")
    lengths = settings["draft_length"] if isinstance(settings["draft_length"], list) else [settings["draft_length"]]
    tasks = [open_task(name) for name in listed(settings["task"] or "")]
    if len(lengths) != 1 and not tasks:
        raise SettingsError("draft_length=[...] compares lengths on the questions of a task: add task=NAME")
    prompts = [] if tasks else read_prompts(settings, "deer verifier=DIR")
    from dlm.api import deer
    from dlm.display import one_line
    from dlm.models import load
    from dlm.models.causal import load_causal
    from dlm.speculation.deer import Deer

    ways = {key: settings[key] for key in ("temperature", "draft_temperature", "masks", "mixture")}
    for length in lengths:
        Deer(length, **ways)  # before anything is loaded
    placed = {key: settings[key] for key in ("device", "dtype")}
    model = load_causal(settings["verifier"], **placed)
    drafter = None if settings["drafter"] == "none" else load(settings["drafter"], **placed)
    ways |= {key: settings[key] for key in ("seed", "batch_size")}

    def ask(prompts: list[Any], length: int, new: int) -> list[Generation]:
        return deer(model, drafter, prompts, draft_length=length, max_new_tokens=new, **ways)

    if tasks:
        _compare(ask, tasks, lengths, settings["n"], settings["format"] == "json")
        return 0
    with naming_the_line(settings["prompts_file"]):
        answers = ask(prompts, lengths[0], settings["max_new_tokens"])
    text = "\n".join(answer_lines(dict(enumerate(answers)), prompts, model, settings["format"]))
    print(visible(text, keep="\n\t") if sys.stdout.isatty() else text)
    if settings["format"] == "text":
        print(one_line(answers), file=sys.stderr)
    return 0


def _compare(
    ask: Callable[..., list[Generation]], tasks: list[Task], lengths: list[int], n: int, as_json: bool
) -> None:
    """A line for each task and length; ``same``: answers that are the first length's, token by token."""
    if not as_json:
        print("".join(f"{name:>{max(10, 24 * (name == 'task'))}}" for name in _COLUMNS))
    for task in tasks:
        asked, first = list(Questions(task).first(n)), None
        chats = [[dict(message) for message in one.messages] for one in asked]
        for length in lengths:
            answers = ask(chats, length, task.canvas)
            tokens = [answer.tokens for answer in answers]
            first = first or tokens
            figures = _figures(answers, [task.judge(q, a.text).score for q, a in zip(asked, answers, strict=True)])
            figures["same"] = sum(one == other for one, other in zip(tokens, first, strict=True))
            line: dict[str, Any] = {"task": task.name, "draft": length, **figures}
            cells = (f"{v:.2f}" if isinstance(v, float) else str(v) for v in line.values())
            print(json.dumps(line) if as_json else f"{next(cells):>24}" + "".join(f"{cell:>10}" for cell in cells))


def _figures(answers: list[Generation], scores: list[float]) -> dict[str, Any]:
    """Means over the answers: calls of the verifier, tokens it gave at each, drafts accepted of a call, forwards of the
    drafter, positions through the verifier; seconds are those of all together."""
    counts, n = [answer.counts for answer in answers], len(answers)
    drafted = sum(sum(c.acceptance) for c in counts)
    calls = sum(c.forwards for c in counts)
    return {
        "accuracy": sum(scores) / n,
        "calls": calls / n,
        "a call": sum(len(answer.tokens) for answer in answers) / calls,
        "accepted": sum(c.accepted_drafts for c in counts) / drafted if drafted else 0.0,
        "drafter": sum(c.draft_forwards for c in counts) / n,
        "positions": sum(c.token_forwards for c in counts) / n,
        "seconds": sum(c.seconds for c in counts),
    }
