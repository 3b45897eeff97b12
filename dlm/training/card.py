"""The model card: written anew from what is recorded beside the weights, never by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from dlm import tasks
from dlm.files import write_whole

# From this accuracy on a task counts as solved.
SOLVED = 0.95

_CARD = Path(__file__).with_name("card.md").read_text(encoding="utf-8")


def write_card(folder: Path) -> None:
    """Write ``README.md`` of a model folder from its ``training.json``, ``config.json`` and ``evaluation.json``."""
    history = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    measured = folder / "evaluation.json"
    evaluation = json.loads(measured.read_text(encoding="utf-8")) if measured.is_file() else None
    settings = history["settings"]
    cpu = settings["device"] == "cpu"
    runs = _runs(history)
    progress = {name: sum(run["progress"][name] for run in runs) for name in ("tokens", "step", "seconds")}
    block = config.get("attention_block", 0)
    card = _CARD.format(
        name="tiny-block" if block else "tiny", kind="block-diffusion" if block else "masked diffusion",
        attention=f" A position sees its own block of {block} positions and those before it." if block else "",
        objective="masked diffusion in every block, beside the clean blocks before it," if block
        else "any-order masked diffusion", evaluated=" tiny-block" if block else "",
        history=history, config=config, settings=settings, size=2 * history["parameters"] / 1e6,
        tokens=progress["tokens"] / 1e6, steps=progress["step"], minutes=progress["seconds"] / 60,
        device="two CPU cores (shared with other work)" if cpu else "one GPU",
        suffix_share=settings["recipe"].get("suffix_share", 0.15),
        commands="\n".join(_commands(run["settings"]) for run in runs),
        evaluation=_table(evaluation) if evaluation else "Not measured yet: `python scripts/eval_tiny.py`.\n",
        examples=_examples(list(settings["tasks"])),
    )  # fmt: skip
    write_whole(folder / "README.md", card)


def _runs(history: dict[str, Any]) -> list[dict[str, Any]]:
    """The training runs behind a model, the first one first."""
    return [*_runs(history["before"]), history] if "before" in history else [history]


def _commands(settings: dict[str, Any]) -> str:
    """How a run is made again and turned into a model folder."""
    if settings["device"] != "cpu":
        script = "python scripts/train_tiny.py train=gpu"
    else:
        more = " train=more" if settings.get("start_from") else ""
        more = " train=block" if settings.get("model", {}).get("attention_block") else more
        script = f"torchrun --nproc-per-node 2 scripts/train_tiny.py{more}"
    return f"    {script}\n    python scripts/export_tiny.py {settings.get('folder', 'runs/tiny')}"


def _table(evaluation: dict[str, Any]) -> str:
    """A Markdown table, one row per task: accuracy and mean forwards per way of decoding."""
    columns = evaluation["columns"]
    n = evaluation["n"]
    near_95, near_70 = (f"{196 * math.sqrt(a * (1 - a) / n):.0f}" for a in (0.95, 0.7))  # half of a 95 % interval
    lines = [
        f"Accuracy in % / mean forwards per answer. {n} held-out questions each, as chats; blocks"
        f" of {evaluation['block']}, temperature 0, no early stop; canvas: positions filled per answer; k: tokens"
        f" committed per forward. The 95 % interval is about {near_95} points either way near 95 %, {near_70} near 70"
        " %. All figures: `evaluation.json`, `evaluation.csv`.",
        "",
        f"| task | canvas | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for task, entry in evaluation["tasks"].items():
        cells = (f"{100 * s['accuracy']:.0f} / {s['forwards']:.1f}" for s in (entry["scores"][c] for c in columns))
        lines.append(f"| {task} | {entry['canvas']} | {' | '.join(cells)} |")
    right = {task: entry["scores"][columns[0]]["accuracy"] for task, entry in evaluation["tasks"].items()}
    solved = [task for task, accuracy in right.items() if accuracy >= SOLVED]
    unsolved = [task for task, accuracy in right.items() if accuracy < SOLVED]
    lines += ["", f"At least {100 * SOLVED:.0f} % at {columns[0]}: {', '.join(solved) or 'none'}."]
    if unsolved:
        lines += ["", f"Below that, so saved forwards say nothing about decoding there: {', '.join(unsolved)}."]
    return "\n".join(lines) + "\n"


def _examples(names: list[str]) -> str:
    """One held-out question and a right answer per task."""
    shown = []
    for name in names:
        instance = tasks.get(name).instance(0, "test")
        question, answer = (text.replace("\n", "\\n") for text in (instance.prompt, instance.target))
        shown.append(f"- `{name}`: `{question}` &rarr; `{answer}`")
    return "\n".join(shown) + "\n"
