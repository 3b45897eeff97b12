"""``dlm``: one entry point, one small function a command."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from dlm.errors import DlmError, SettingsError

# Command -> (module with a `run(overrides)` and a `HELP`, one line for the overview). Imported when called.
COMMANDS: dict[str, tuple[str, str]] = {
    "generate": ("dlm.commands.generate", "answer prompts with any model, sampler, blocks and cache"),
    "eval": ("dlm.commands.eval", "ask a task's questions and keep every answer; sweeps (-m, grid=)"),
    "report": ("dlm.commands.report", "tables, pictures and a page of what `dlm eval` has kept"),
    "tasks": ("dlm.commands.tasks", "the tasks there are, and what a question looks like"),
    "compare": ("dlm.commands.compare", "samplers side by side on the same held-out questions"),
    "trace": ("dlm.commands.trace", "replay what a run recorded: in the terminal, as a page, as heat maps"),
    "drift": ("dlm.commands.drift", "how far a cache's answers are from the exact ones, step by step"),
    "lm-eval": ("dlm.commands.lm_eval", "the tasks of lm-evaluation-harness with any model, sampler and cache"),
    "oracle": ("dlm.commands.oracle", "samplers against closed forms, on a model that knows the truth"),
    "train-filter": ("dlm.commands.train_filter", "train the filter of sampler=learn2pd on a model's own answers"),
    "bench": ("dlm.commands.bench", "measure a step: inside the model, outside it, beside a naive decoder"),
    "doctor": ("dlm.commands.doctor", "what works on this machine, and what is missing for the rest"),
}

HELP = """dlm decodes masked diffusion language models in parallel.

usage: dlm COMMAND [key=value ...]

commands:
{commands}

Everything is a Hydra override: groups are chosen (sampler=threshold), settings set (sampler.threshold=0.8).

examples:
  dlm generate 'prompt=Reverse the list: ["Anna", "Bob", "Cleo"]' max_new_tokens=32
  dlm generate 'prompt=47+85=' sampler=topk sampler.tokens_per_step=2 max_new_tokens=32 format=json
  dlm eval task=waiting_line/shuffle task.limit=100 sampler=threshold out=runs
  dlm eval -m sampler=threshold,credit sampler.threshold=0.7,0.8,0.9 task=waiting_line/copy,puzzle/sudoku out=runs
  dlm report runs
  dlm compare task=waiting_line/copy 'samplers=[threshold,topk,factor]' n=20
  dlm drift cache=dual n=4 max_new_tokens=32 out=drift
  dlm bench bench.shapes=[tiny,narrow]

dlm COMMAND --help explains a command; dlm --version prints the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 2 on an error, which is one line on stderr (``debug=true`` shows where it arose).

    A part in a file of the current folder can be named (``sampler.score._target_=mine.Score``): the folder is searched
    after everything that is installed.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(HELP.format(commands="\n".join(f"  {name:<{width}}  {line}" for name, (_, line) in COMMANDS.items())))
        return 0
    if arguments[0] == "--version":
        from dlm import __version__

        print(f"dlm {__version__}")
        return 0
    with contextlib.suppress(FileNotFoundError):  # the current folder may have been removed
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
    try:
        return _command(arguments[0])(arguments[1:])
    except BrokenPipeError:  # the reader left, as `dlm generate ... | head` does
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (DlmError, OSError) as error:
        if "debug=true" in arguments:
            raise
        print(f"dlm: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dlm: interrupted", file=sys.stderr)
        return 130


def _command(name: str) -> Callable[[list[str]], int]:
    if name not in COMMANDS:
        raise SettingsError(f"unknown command {name!r}; known are {', '.join(COMMANDS)} (dlm --help)")
    run: Callable[[list[str]], int] = import_module(COMMANDS[name][0]).run
    return run


if __name__ == "__main__":
    sys.exit(main())
