"""Results in the published ParallelBench's own form (arXiv 2510.04767, the repository's second version).

Its tools read ``results_*.json`` of lm-evaluation-harness, one for a model and a setting: ``pb analyze`` prints and
exports a table of them, ``pb export`` makes the leaderboard's files. Scores are percentages, ``tokens_per_step`` is the
mean of canvas tokens per forward, ``output_length`` counts tokens before the end. Correlations of the decoding order
are left out: they are defined otherwise there. Tasks that it does not have keep their names and are skipped there.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlm import __version__
from dlm.errors import SettingsError, StorageError
from dlm.files import write_json
from dlm.report.figures import Figures
from dlm.report.summary import Summary

# Ours -> what the published runner calls it. With a cache or a drafter a method has none of its names.
UNMASKING = {
    "topk": "confidence_topk", "random": "random", "margin": "topk_margin", "entropy": "entropy_topk",
    "threshold": "confidence_threshold", "factor": "confidence_factor", "wino": "wino_dllm", "klass": "klass",
    "slowfast": "slowfast", "dus": "dus", "eb": "confidence_eb", "pc": "confidence_pc_sampler",
}  # fmt: skip
BUDGETED = ("topk", "random", "margin", "entropy")
GROUPS = {"text": "text_writing", "words_to_sentence": "text_writing", "paraphrase_summarize": "text_writing",
          "puzzle": "puzzles"}  # fmt: skip
LEAVES = {
    "paraphrase": "paraphrasing", "chatgpt-paraphrases": "paraphrasing", "summarise": "summarization",
    "samsum": "summarization", "latin_square": "latin_square_n4", "sudoku": "sudoku_n4",
}  # fmt: skip
SETTINGS = ("k", "steps", "block_length", "unmasking", "max_tokens", "temperature", "alg_temp", "alg_threshold",
            "alg_factor")  # fmt: skip
METRICS = ("score", "score_strict", "nfe", "tokens_per_step", "input_length", "output_length")


def write_parallelbench(summary: Summary, out: Path) -> str:
    """Write ``out/parallelbench/SETTING/run/results_parallelbench.json`` for every setting; points without an answer
    are left out, results of an earlier call removed. Returns the table that ``pb analyze detail --export`` makes of
    them, as CSV.

    Raises:
        SettingsError: two points of a setting would be one task there.
        StorageError: the folder cannot be written to.
    """
    settings: dict[tuple[str, str, str], list[Figures]] = {}
    for f in summary.figures:
        if f.row.samples:
            settings.setdefault((f.row.model, f.row.method, f.row.setting), []).append(f)
    table = io.StringIO()
    columns = ("model", "task", *SETTINGS, *METRICS, "n_samples", "results_file")
    lines = csv.DictWriter(table, columns, lineterminator="\n")
    lines.writeheader()
    folder = out / "parallelbench"
    try:
        for stale in folder.glob("*/run/results_parallelbench.json"):
            stale.unlink()
        for key, points in settings.items():
            name = f"{_word(key[1])[:60]}-{hashlib.sha256(repr(key).encode()).hexdigest()[:8]}"
            path = folder / name / "run" / "results_parallelbench.json"
            values = results_of(points)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, values)
            lines.writerows(_lines(values, path))
    except OSError as error:
        raise StorageError(f"{folder} cannot be written ({error.strerror}): give another out=") from error
    return table.getvalue()


def _lines(values: dict[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    for task, figures in values["results"].items():
        measured = {m: figures[f"{m},none"] for m in METRICS if figures[f"{m},none"] != "N/A"}
        counts = {"n_samples": values["n-samples"][task]["effective"], "results_file": path}
        used = values["configs"][task]["generation_kwargs"]
        yield {"model": values["model_name"], "task": task, **used, **measured, **counts}


def results_of(points: list[Figures]) -> dict[str, Any]:
    """The points of one setting as one of the files that the published tools read."""
    results: dict[str, Any] = {}
    configs: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    taken: dict[str, str] = {}
    for f in points:
        task = task_name(f)
        if task in taken:
            raise SettingsError(
                f"{taken[task]} and {f.row.task} are both {task} in ParallelBench's form: report on one at a time"
            )
        taken[task], row = f.row.task, f.row
        figures = (100 * row.score, 100 * row.score_strict, row.forwards, row.canvas_tokens_per_forward,
                   row.prompt_tokens, row.tokens)  # fmt: skip
        told = {f"{m},none": "N/A" if math.isnan(v) else v for m, v in zip(METRICS, figures, strict=True)}
        results[task] = {"alias": task, **told}
        configs[task] = {"task": task, "dataset_path": f"dlm:{f.row.task}", "generation_kwargs": _settings(f)}
        counts[task] = {"original": row.asked or row.samples, "effective": row.samples}
    model = points[0].result.point.config["model"]
    return {
        "results": results, "configs": configs, "n-samples": counts, "config": {"model": "dlm", "gen_kwargs": {}},
        "model_name": str(model.get("name_or_path") or points[0].row.model), "model_source": "dlm",
        "dlm_version": __version__,
    }  # fmt: skip


def task_name(f: Figures) -> str:
    """What the published runner calls a task; options that tell tasks of one name apart are added."""
    suite, _, rest = f.result.point.task.partition("/")
    group, _, leaf = rest.partition("/")
    words = [suite, group, leaf]
    if suite in ("parallelbench", "upstream"):
        leaf = f"words_to_sentence_{leaf}" if group == "words_to_sentence" else LEAVES.get(leaf, leaf)
        words = ["parallelbench", GROUPS.get(group, group), leaf]
    options = f.row.task.partition(" (")[2]
    return "_".join(_word(word) for word in (*words, options) if word)


def _settings(f: Figures) -> dict[str, Any]:
    """The published names of a point's settings; those that it does not have are left out."""
    config, canvas = f.result.point.config, f.row.canvas
    sampler = config["sampler"]
    parts = [sampler["choice"], *(config[part]["choice"] for part in ("cache", "drafting"))]
    steps, k = sampler.get("steps"), sampler.get("tokens_per_step")
    if parts[0] in BUDGETED:
        k = k or (canvas / steps if steps else 1)
    values = {
        "k": k, "steps": steps, "block_length": (sampler.get("blocks") or {}).get("length"),
        "unmasking": "+".join([UNMASKING.get(parts[0], parts[0]), *(part for part in parts[1:] if part != "none")]),
        "max_tokens": round(canvas), "temperature": sampler.get("temperature"),
        "alg_threshold": sampler.get("threshold"), "alg_factor": sampler.get("factor"),
    }  # fmt: skip
    return {key: value for key, value in values.items() if value is not None}


def _word(text: str) -> str:
    return re.sub(r"[^\w.]+", "_", text).strip("_")
