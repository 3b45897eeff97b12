"""``dlm``: one entry point, one small function a command."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module

from dlm.errors import DlmError, SettingsError, Terminated
from dlm.overrides import own_folders, searching
from dlm.words import unknown_name, visible

# Command -> (module with a `HELP` and a `run(overrides)`, or MODULE:FUNCTION; one line for the overview). Imported when
# called.
COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("dlm.commands.generate", "answer prompts with any model, sampler, blocks and cache"),
    "chat": ("dlm.commands.chat", "a conversation with a model, or with a server of one"),
    "eval": ("dlm.commands.eval", "ask a task's questions and keep every answer; sweeps (-m, grid=)"),
    "recipes": ("dlm.commands.recipes", "published settings by name, and their figures"),
    "reproduce": ("dlm.commands.reproduce", "published settings run here, published beside measured"),
    "report": ("dlm.commands.report", "tables, pictures and a page of what `dlm eval` has kept"),
    "tasks": ("dlm.commands.tasks", "the tasks there are, and what a question looks like"),
    "compare": ("dlm.commands.compare", "samplers side by side on the same held-out questions"),
    "check": ("dlm.commands.check", "a sampler, cache or task of anybody's against what every one keeps to"),
    "tune": ("dlm.commands.tune", "the cheapest setting that loses at most epsilon, with a certificate"),
    "trace": ("dlm.commands.trace", "replay what a run recorded: in the terminal, as a page, as heat maps"),
    "drift": ("dlm.commands.drift", "how far a cache's answers are from the exact ones, step by step"),
    "list": ("dlm.commands.models:run_list", "the models there are, and which of them are on this machine"),
    "show": ("dlm.commands.models:run_show", "what a model is, and the memory it needs"),
    "pull": ("dlm.commands.models:run_pull", "fetch a model from the Hugging Face hub"),
    "serve": ("dlm.commands.serve", "an OpenAI-compatible server, and a page that shows the canvas fill"),
    "deer": ("dlm.commands.deer", "answers of an autoregressive model, drafted by a masked diffusion model"),
    "lm-eval": ("dlm.commands.lm_eval", "the tasks of lm-evaluation-harness with any model, sampler and cache"),
    "oracle": ("dlm.commands.oracle", "samplers against closed forms, on a model that knows the truth"),
    "train": ("dlm.commands.train", "train: reinforcement, distillation, the learned filter, a model from scratch"),
    "train-filter": ("dlm.commands.train_filter", "train the filter of sampler=learn2pd on a model's own answers"),
    "bench": ("dlm.commands.bench", "measure a step: inside the model, outside it, beside a naive decoder"),
    "doctor": ("dlm.commands.doctor", "what works on this machine, and what is missing for the rest"),
}

HELP = """dlm decodes masked diffusion language models in parallel.

usage: dlm COMMAND [key=value ...]

commands:
{commands}

Everything is a Hydra override: groups are chosen (sampler=threshold), settings set (sampler.threshold=0.8).
--sampler threshold, --max-new-tokens 32 and --seed=1 are the same as sampler=threshold, max_new_tokens=32 and seed=1.

examples:
  dlm generate 'prompt=Reverse the list: ["Anna", "Bob", "Cleo"]' max_new_tokens=32
  dlm generate 'prompt=47+85=' sampler=topk sampler.tokens_per_step=2 max_new_tokens=32 format=json
  dlm eval task=waiting_line/shuffle task.limit=100 sampler=threshold out=runs
  dlm eval -m sampler=threshold,credit sampler.threshold=0.7,0.8,0.9 task=waiting_line/copy,puzzle/sudoku out=runs
  dlm report runs
  dlm compare task=waiting_line/copy 'samplers=[threshold,topk,factor]' n=20
  dlm tune task=waiting_line/insert_random epsilon=0.02 delta=0.05 out=tuned
  dlm drift cache=dual n=4 max_new_tokens=32 out=drift
  dlm bench bench.shapes=[tiny,narrow]

experiment=FILE, in any command: the settings of a file that `dlm tune` wrote; what stands beside it wins.
recipe=NAME, likewise: a published setting (dlm recipes).
--config-dir DIR, in any command: samplers, caches, tasks and grids of your own are found as DIR/sampler/NAME.yaml etc.

dlm COMMAND --help explains a command; dlm --version prints the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; ``argv``: its words (None: those of this process, whose signals are then seen to as well).

    Returns: 0 on success, 1 where something was left undone, 2 on an error, which is one line on stderr, 3 on a fault
    of dlm itself, which is a short report, 130 and 143 when interrupted or ended. ``debug=true`` shows where it arose.
    A part of one's own is found where PYTHONPATH says, never because it lies in the working folder.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        _own_process()
    try:
        if bad := [word for word in arguments if "\0" in word]:
            raise SettingsError(f"{bad[0]!r} holds a NUL character: take it out")
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            width = max(map(len, COMMANDS))
            print(HELP.format(commands="\n".join(f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items())))
            return 0
        if arguments[0] == "--version":
            from dlm import __version__

            print(f"dlm {__version__}")
            return 0
        command = _command(arguments[0])
        folders, rest = own_folders(arguments[1:])
        with searching(folders):
            return command(rest)
    except BrokenPipeError:  # the reader left, as `dlm generate ... | head` does
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt as stop:
        ended = isinstance(stop, Terminated)
        print("dlm: ended by a signal" if ended else "dlm: interrupted", file=sys.stderr)
        if argv is None and any(thread.name.startswith("dlm-") for thread in threading.enumerate()):
            # A thread of ours is in the middle of a computation, at which Python could hang or abort while it ends.
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
            os._exit(143 if ended else 130)
        return 143 if ended else 130
    except Exception as error:
        if {"debug=true", "--debug"} & set(arguments):
            raise
        return _report(arguments, error)


def _own_process() -> None:
    """See to what is this process's alone: none that it starts searches the working folder either, and when it is ended
    (SIGTERM, a closed terminal) it keeps what it has, as an interrupted one does."""
    os.environ["PYTHONSAFEPATH"] = "1"
    if "" in sys.path[:1]:  # `python -c`
        del sys.path[0]
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)


def _terminate(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends it at once
    raise Terminated


def _report(arguments: list[str], error: Exception) -> int:
    """Say what went wrong; returns the exit status."""
    said = str(error).strip()
    if isinstance(error, DlmError | OSError):
        if isinstance(error, OSError) and error.filename and error.errno == errno.ENOSPC:
            said = f"{error.filename} cannot be written: the disk is full; make room, or name another place"
        print(f"dlm: error: {visible(said) or type(error).__name__}", file=sys.stderr)
        return 2
    from dlm import __version__

    told = f"{type(error).__name__}: {said.splitlines()[0] if said else 'no more is known'}"
    print(
        f"dlm: fault: {visible(told)}\n"
        f"dlm {__version__}, command: {visible(shlex.join(['dlm', *arguments]))}\n"
        "This is a fault of dlm, or of a part that is not its own: run the command again with debug=true and send what"
        " it prints.",
        file=sys.stderr,
    )
    return 3


def _command(name: str) -> Callable[[list[str]], int]:
    if name not in COMMANDS:
        raise SettingsError(f"{unknown_name('command', name, COMMANDS)} (dlm --help)")
    module, _, function = COMMANDS[name][0].partition(":")
    run: Callable[[list[str]], int] = getattr(import_module(module), function or "run")
    return run
