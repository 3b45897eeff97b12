"""``dlm lm-eval`` behind its command line: the harness's own flags, our model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from dlm.errors import DlmError, SettingsError

OURS = {"--model": "model=NAME", "-M": "model=NAME", "--model_args": "model=NAME and other key=value",
        "-a": "model=NAME and other key=value"}  # fmt: skip
UNSUPPORTED = ("wandb_args", "wandb_config_args", "trackio_args")


@cache
def flag_parser() -> argparse.ArgumentParser:
    """The parser of ``lm-eval run``; mistakes are raised as SettingsError."""
    from lm_eval._cli.run import Run

    commands = argparse.ArgumentParser(prog="dlm").add_subparsers()
    Run.create(commands)
    parser: argparse.ArgumentParser = commands.choices["run"]

    def refuse(message: str) -> Any:
        raise SettingsError(f"{message} (dlm lm-eval --help)")

    parser.error = refuse  # type: ignore[method-assign]
    return parser


def split_flags(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The harness's flags with their values, and our overrides.

    Every ``key=value`` is ours but the one right behind a flag that wants a value: ``--gen_kwargs a=1,b=2``. Raises
    SettingsError: a flag for what is said with an override here.
    """
    takes = {name: action.nargs for action in flag_parser()._actions for name in action.option_strings}
    flags: list[str] = []
    overrides: list[str] = []
    left: Any = 0  # how many values the last flag still takes: a number, "?" or "+"
    for argument in arguments:
        is_flag = argument.startswith("-") and not argument.lstrip("-")[:1].isdigit()
        if is_flag:
            name = argument.partition("=")[0]
            if name in OURS:
                raise SettingsError(f"{name} is said with {OURS[name]} here")
            flags.append(argument)
            left = 0 if "=" in argument else _wanted(name, takes)
        elif left in (1, "first") or (left in ("?", "+") and "=" not in argument and not argument.startswith("~")):
            flags.append(argument)
            left = "+" if left in ("first", "+") else 0
        else:
            overrides.append(argument)
            left = 0
    return flags, overrides


def _wanted(name: str, takes: dict[str, Any]) -> Any:
    """What stands behind a flag: nothing, one value for certain, perhaps one, or one or more."""
    if name not in takes and name.startswith("--"):  # argparse takes any clear beginning of a name
        found = [known for known in takes if known.startswith(name)]
        name = found[0] if len(found) == 1 else name
    nargs = takes.get(name, 0)
    return {None: 1, "+": "first"}.get(nargs, nargs)


def read_flags(flags: list[str]) -> Any:
    """The harness's configuration from its flags. Raises SettingsError: what the harness refuses; no task; loggers that
    need a network."""
    from lm_eval.config.evaluate_config import EvaluatorConfig

    try:
        wanted = EvaluatorConfig.from_cli(flag_parser().parse_args(flags))
    except DlmError:
        raise
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise SettingsError(first_line(error)) from error
    if not wanted.tasks:
        raise SettingsError("which tasks? Add --tasks, for example --tasks gsm8k (lm-eval ls tasks lists them)")
    if used := [name for name in UNSUPPORTED if getattr(wanted, name)]:
        raise SettingsError(f"--{used[0]} is not supported here: write files with --output_path and log those")
    return wanted


def samples_file(given: str | None, wanted: Any) -> Path | None:
    """Where answers and counters go: beside the response cache, because each is of little use without the other."""
    if given is not None:
        return Path(given).expanduser()
    if wanted.use_cache:
        return Path(f"{wanted.use_cache}.samples.jsonl").expanduser()
    folder = Path(wanted.output_path).expanduser() if wanted.output_path else None
    return folder / "dlm_samples.jsonl" if folder is not None and folder.suffix != ".json" else None


def resolve_tasks(wanted: Any, path: str | None, shots_path: str | None) -> tuple[list[Any], Any]:
    """The tasks and the harness's task manager. Raises SettingsError: unknown tasks; local data that does not fit."""
    from dlm.evaluation.harness.local_data import with_local_data

    try:
        manager = wanted.process_tasks(wanted.metadata)
    except ValueError as error:
        raise SettingsError(f"{first_line(error)}; lm-eval ls tasks lists them, --include_path adds yours") from error
    if path is not None:
        with _advised(wanted.tasks):
            return with_local_data(wanted.tasks, manager, path, shots_path), manager
    if shots_path is not None:
        raise SettingsError("shots_path= goes with path=, the file of the questions")
    return list(wanted.tasks), manager


def run_harness(wanted: Any, model: Any, tasks: list[Any], manager: Any) -> dict[str, Any] | None:
    """Evaluate and write what ``--output_path`` asks for; None on all processes but the first. Raises SettingsError:
    data that cannot be had, with what to do instead; tasks that run programs without leave."""
    from lm_eval.loggers import EvaluationTracker

    from dlm.evaluation.harness.summary import evaluate

    tracker = EvaluationTracker(**{**wanted.hf_hub_log_args, "output_path": wanted.output_path})
    seeds = wanted.seed or [None] * 4
    names = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")
    same = (
        "num_fewshot", "use_cache", "limit", "samples", "check_integrity", "write_out", "system_instruction",
        "apply_chat_template", "fewshot_as_multiturn", "predict_only", "confirm_run_unsafe_code", "metadata",
    )  # fmt: skip
    settings = {name: getattr(wanted, name) for name in same} | dict(zip(names, seeds, strict=True))
    with _advised(tasks):
        results = evaluate(
            model, tasks, task_manager=manager, evaluation_tracker=tracker, gen_kwargs=wanted.gen_kwargs or None,
            log_samples=wanted.log_samples, **settings, **wanted.cache_requests,
        )  # fmt: skip
    if results is None:
        return None
    samples = results.pop("samples", None)
    tracker.save_results_aggregated(results=results, samples=samples)
    if samples is not None:
        for task in results["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
    return results


@contextmanager
def _advised(tasks: list[Any]) -> Iterator[None]:
    """An error that is the user's comes out as what to do about it."""
    try:
        yield
    except DlmError:
        raise
    except Exception as error:
        if (advice := _advice(error, tasks)) is None:
            raise
        raise SettingsError(advice) from error


def _advice(error: Exception, tasks: list[Any]) -> str | None:
    """What to do about an error that is the user's; None: it is none of his."""
    from datasets.exceptions import DatasetsError

    text = first_line(error)
    name = str(tasks[0].get("task") if isinstance(tasks[0], dict) else tasks[0])
    if "antlr4" in text:  # an AssertionError or an ImportError of the task's own module
        return (
            f"{name} compares formulas with antlr4-python3-runtime 4.11, and Hydra, which reads the settings here,"
            " needs 4.9: take `dlm eval task=minerva_math`, or a task without it, such as gsm8k"
        )
    ours = next((known for known in ("humaneval", "mbpp") if known in name), None)
    if "module script" in text and ours is None:  # what `evaluate.load` says offline
        return f"{name} fetches its metric from the hub when it is loaded, and path= does not replace that: go online"
    if "marked as unsafe" in text:
        return f"{name} runs programs that a model wrote: add --confirm_run_unsafe_code if you accept that"
    if isinstance(error, DatasetsError | ConnectionError | FileNotFoundError | ImportError):
        better = f"use `dlm eval task={ours}`, which needs no network" if ours else "give path=FILE"
        return f"{name}: its data or its metric cannot be had ({text}): {better}, or go online"
    return None


def table(results: dict[str, Any]) -> str:
    """The harness's own tables."""
    from lm_eval.utils import make_table

    parts = [make_table(results)]
    if "groups" in results:
        parts.append(make_table(results, "groups"))
    return "\n".join(parts)


def as_json(results: dict[str, Any]) -> str:
    """Everything the harness says of the run."""
    from lm_eval.utils import handle_non_serializable

    return json.dumps(results, indent=2, default=handle_non_serializable, ensure_ascii=False)


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
