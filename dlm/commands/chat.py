"""``dlm chat``: a conversation with a model of this process or of a server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from dlm.commands.common import command
from dlm.configuration import compose_config, parts_of
from dlm.errors import DlmError, PromptError, SettingsError, Terminated
from dlm.evaluation.progress import telling
from dlm.files import write_whole
from dlm.overrides import choices
from dlm.words import counted, unknown_name, visible

if TYPE_CHECKING:
    from dlm.api import Generation
    from dlm.configuration import Composed
    from dlm.display import Event

GROUPS = ("sampler", "blocks", "cache", "drafting")
COMMANDS = {
    "sampler": "NAME [key=value ...]   another sampler from here on; without a name: which there are",
    "blocks": "NAME [key=value ...]   likewise",
    "cache": "NAME [key=value ...]   likewise",
    "drafting": "NAME [key=value ...]   likewise",
    "system": "TEXT                   another system message; without a text: none",
    "retry": "                       ask the last question again, with the next seed",
    "undo": "                       take the last question and its answer back",
    "clear": "                       begin anew; the system message stays",
    "save": "FILE                   the chat as JSON",
    "load": "FILE                   go on with a chat that was saved",
    "help": "                       this",
    "quit": "                       end (or Ctrl+D)",
}
TABLE = "\n".join(f"  {'/' + name:<10}{line}" for name, line in COMMANDS.items())
HELP = f"""dlm chat: a conversation, with the canvas as each answer fills.

usage: dlm chat [key=value ...]

settings:
  'system=TEXT'            a system message
  max_new_tokens=128       positions to fill for an answer
  seed=0
  url=http://HOST:PORT     ask a server (dlm serve) instead of a model of this process; api_key=KEY, if it wants one

in the chat:
{TABLE}
  Ctrl+C stops an answer; the chat is then as it was before the question.

Where standard input is no terminal every line of it is a question or a command, and answers are plain text; 1 is
returned when one failed. On a terminal what is typed is kept in dlm/chat_history below XDG_STATE_HOME.

groups:
{{groups}}

examples:
  dlm chat model=llada-8b-instruct cache=dual
  dlm chat url=http://127.0.0.1:8000 sampler=topk sampler.tokens_per_step=2
"""
Message = dict[str, str]


@command("chat", HELP, ("system", "url", "api_key"))
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    parts = parts_of(compose_config("chat", overrides))
    settings = {**parts.config, **texts}
    remote = settings["url"] is not None
    chat = _with_server(settings, overrides, parts) if remote else _with_model(overrides, parts)
    chat.system = settings["system"]
    if not chat.terminal:
        return chat.follow(_piped())
    chat.note(f"{chat.name} answers; /help lists the commands, Ctrl+D ends")
    if chat.name == "tiny":
        from dlm.commands.generate import UNKNOWN

        chat.note(UNKNOWN)
    with _history():
        return chat.follow(_typed())


def _with_model(overrides: list[str], parts: Composed) -> Chat:
    from dlm.api import stream

    with telling(parts.model_config):
        model = parts.load_model()
    if model.tokenizer is None or model.tokenizer.chat_template is None:
        raise SettingsError(f"{model.name} has no chat template: dlm generate completes plain text with it")

    def ask(chat: Chat, messages: list[Message]) -> Iterator[Event]:
        now = chat.parts
        return stream(
            model, [messages], sampler=now.sampler, cache=now.cache, drafter=now.drafter,
            max_new_tokens=now.max_new_tokens, seed=chat.seed,
        )  # fmt: skip

    return Chat(model.name, model, ask, overrides, parts)


def _with_server(settings: dict[str, Any], overrides: list[str], parts: Composed) -> Chat:
    from dlm.serving.client import Client

    _requested(overrides)
    client = Client(settings["url"], settings["api_key"])
    if not client.chat:
        raise SettingsError(f"{client.name} of {settings['url']} has no chat template: it completes plain text")

    def ask(chat: Chat, messages: list[Message]) -> Iterator[Event]:
        return client.events(messages, seed=chat.seed, **_requested(chat.overrides))

    return Chat(client.name, client.model, ask, overrides, parts)


def _requested(overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides as a request says them. Raises SettingsError: a server decides that itself."""
    body: dict[str, Any] = {}
    for key, _, value in (override.partition("=") for override in overrides):
        group, _, setting = key.partition(".")
        if group in GROUPS:
            body.setdefault(group, {})[setting or "name"] = yaml.safe_load(value)
        elif key == "max_new_tokens":
            body["max_tokens"] = yaml.safe_load(value)
        elif key not in ("seed", "debug"):
            raise SettingsError(f"{key} is the server's own: leave it out beside url=")
    if bare := [group for group in GROUPS if "name" not in body.get(group, {"name": ""})]:
        raise SettingsError(f"beside url= the settings of a {bare[0]} need its name: {bare[0]}=NAME")
    return body


class Chat:
    """A conversation, and what its commands do to it.

    Args:
        name: of the model.
        model: what the canvas is decoded by.
        ask: gives the events of the answer to messages.
        overrides, parts: how answers are decoded.

    Attributes:
        messages: questions and answers, in pairs.
        system: the system message.
        unanswered: a question that was stopped or failed.
        terminal: whether a person is there.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        ask: Callable[[Chat, list[Message]], Iterator[Event]],
        overrides: Sequence[str],
        parts: Composed,
    ) -> None:
        self.name, self.model, self._ask, self.overrides, self.parts = name, model, ask, list(overrides), parts
        self.seed, self.messages = parts.seed, list[Message]()
        self.system: str | None = None
        self.unanswered: str | None = None
        self.terminal = sys.stdin.isatty() and sys.stdout.isatty()
        self.console = Console(file=sys.stdout)

    def follow(self, lines: Iterator[str]) -> int:
        """Answer line by line; 1 when one failed and nobody was there to see it, else 0."""
        failed = False
        for line in lines:
            try:
                if line.strip() == "/quit":
                    break
                if line.startswith("/"):
                    self.command(line)
                elif line.strip():
                    self.answer(line)
            except DlmError as error:
                failed = True
                print(f"dlm: {visible(str(error))}", file=sys.stderr, flush=True)
            except KeyboardInterrupt as stop:
                if isinstance(stop, Terminated) or not self.terminal:
                    raise
                self.note("stopped; the chat is as it was before the question, which /retry asks again")
        return int(failed and not self.terminal)

    def answer(self, question: str, before: list[Message] | None = None) -> None:
        """Ask a question, show the answer, and keep both. ``before``: in place of the chat so far."""
        from dlm.display import one_line, watch

        self.unanswered = question
        asked = [*(self.messages if before is None else before), {"role": "user", "content": question}]
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        events: Any = self._ask(self, [*system, *asked])
        found: list[Generation] = []
        with closing(events):
            rows = watch(self.model, events, self.console, keep=False) if self.terminal else events
            found += [row[1] for row in rows if isinstance(row, tuple)]
        self.messages, self.unanswered = [*asked, {"role": "assistant", "content": found[0].text}], None
        text = found[0].text
        print(visible(text, keep="\n\t") if sys.stdout.isatty() else text, flush=True)
        if self.terminal:
            self.note(one_line(found))

    def note(self, text: str) -> None:
        """Say something that is no answer."""
        if self.terminal:
            self.console.print(visible(text, keep="\n"), style="bright_black", markup=False, highlight=False)
        else:
            print(visible(text, keep="\n"), file=sys.stderr, flush=True)

    def command(self, line: str) -> None:
        """Do what a line that begins with a slash says. Raises SettingsError: what is wrong with it."""
        word, _, rest = line[1:].strip().partition(" ")
        if word not in COMMANDS:
            known = unknown_name("command", f"/{word}", [f"/{name}" for name in COMMANDS])
            raise SettingsError(f"{known}; a question that begins with / takes a blank in front")
        if word in GROUPS:
            self.choose(word, rest.split())
        else:
            getattr(self, f"_{word}")(rest.strip())

    def choose(self, group: str, words: Sequence[str]) -> None:
        """Decode with another choice of a group from here on; what does not fit changes nothing."""
        if not words:
            self.note(f"{group} is {self.parts.name(group)}; there are {', '.join(choices(group))}")
            return
        if bad := [word for word in words[1:] if "=" not in word]:
            raise SettingsError(f"{bad[0]!r} is not key=value: /{group} NAME key=value")
        kept = [o for o in self.overrides if o.lstrip("+~").partition("=")[0].partition(".")[0] != group]
        fresh = [*kept, f"{group}={words[0]}", *(f"{group}.{word}" for word in words[1:])]
        self.parts, self.overrides = parts_of(compose_config("chat", fresh)), fresh
        self.note(f"{group} is {' '.join(words)}")

    def _system(self, text: str) -> None:
        self.system = text or None
        self.note("the system message is set" if text else "there is no system message")

    def _retry(self, _: str) -> None:
        if self.unanswered is None and not self.messages:
            raise SettingsError("there is no question to ask again")
        self.seed += 1
        if self.unanswered is not None:
            self.answer(self.unanswered)
        else:
            self.answer(self.messages[-2]["content"], self.messages[:-2])

    def _undo(self, _: str) -> None:
        if not self.messages:
            raise SettingsError("there is nothing to take back")
        self.messages = self.messages[:-2]
        self.note(f"{counted(len(self.messages) // 2, 'question')} in the chat")

    def _clear(self, _: str) -> None:
        self.messages, self.unanswered = [], None
        self.note("the chat is empty")

    def _save(self, name: str) -> None:
        path = Path(name).expanduser()
        if not name or path.exists():
            raise SettingsError(f"{path} exists: give another name" if name else "a file is wanted: /save FILE")
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        write_whole(path, json.dumps({"messages": [*system, *self.messages]}, ensure_ascii=False) + "\n")
        self.note(f"{counted(len(self.messages) // 2, 'question')} in {path}")

    def _load(self, name: str) -> None:
        try:
            found = json.loads(Path(name).expanduser().read_text(encoding="utf-8-sig"))["messages"]
            told = [(message["role"], message["content"]) for message in found]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise SettingsError(f"{name or 'no file'} cannot be read as a saved chat: {error}") from error
        system = [text for role, text in told[:1] if role == "system"]
        pairs = told[len(system) :]
        roles = ["user", "assistant"] * (len(pairs) // 2)
        if [role for role, _ in pairs] != roles or not all(isinstance(text, str) for _, text in told):
            raise SettingsError(f"{name} is no saved chat: texts of user and assistant by turns, a system's in front")
        self.messages = [{"role": role, "content": text} for role, text in pairs]
        self.system, self.unanswered = (system or [None])[0], None
        self.note(f"{counted(len(pairs) // 2, 'question')} in the chat")

    def _help(self, _: str) -> None:
        self.note(TABLE)


def _piped() -> Iterator[str]:
    try:
        for line in sys.stdin:
            yield line.removesuffix("\n")
    except UnicodeDecodeError as error:
        raise PromptError("standard input is not UTF-8: pass it in that encoding") from error


def _typed() -> Iterator[str]:
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt as stop:
            if isinstance(stop, Terminated):
                raise
            print()
            continue
        yield line


@contextmanager
def _history() -> Iterator[None]:
    """Lines can be edited and found again, where Python has readline; what cannot be kept is not."""
    file = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "dlm" / "chat_history"
    try:
        import readline
    except ImportError:
        yield
        return
    readline.set_history_length(1000)
    with suppress(OSError):
        readline.read_history_file(file)
    try:
        yield
    finally:
        with suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch(mode=0o600)
            readline.write_history_file(file)
