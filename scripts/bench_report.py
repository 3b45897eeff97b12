"""How long `dlm report` takes over a large store of made-up results.

python scripts/bench_report.py [points] [lines per point] [folder]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from dlm.evaluation.point import Point
from dlm.evaluation.sample import Sample

CANVAS = 32
SAMPLERS: dict[str, tuple[str, tuple[float, ...]]] = {
    "topk": ("tokens_per_step", (1, 2, 4, 8, 16)),
    "random": ("tokens_per_step", (1, 2, 4, 8, 16)),
    "threshold": ("threshold", (0.99, 0.9, 0.8, 0.65, 0.5)),
    "factor": ("factor", (0.7, 1.0, 1.3, 1.6, 1.9)),
    "eb": ("gamma", (0.01, 0.03, 0.1, 0.3, 1.0)),
}
SPEED = (1, 2, 4, 8, 16)
LENGTHS = (4, 8, 16, 32)
ERRORS = ("wrong_count", "chimera", "foreign")
TASKS = (
    "waiting_line/copy", "waiting_line/reverse", "waiting_line/sort", "waiting_line/shuffle",
    "waiting_line/replace_index", "waiting_line/replace_random", "waiting_line/insert_index",
    "waiting_line/insert_random", "waiting_line/remove_index", "waiting_line/remove_random", "text/paraphrase",
    "text/summarise", "text/words_to_sentence_easy", "text/words_to_sentence_medium", "text/words_to_sentence_hard",
    "puzzle/latin_square_n4", "puzzle/sudoku_n4_12",
)  # fmt: skip


def config_of(task: str, sampler: str, value: float, length: int) -> dict[str, Any]:
    """A configuration like those `dlm eval` writes."""
    key = SAMPLERS[sampler][0]
    blocks = {"_target_": "samplers.Fixed", "length": length}
    return {
        "model": {"choice": "tiny", "_target_": "dlm.load", "name_or_path": "tiny"},
        "task": {"choice": task, "_target_": "dlm.tasks.open", "name": task},
        "sampler": {
            "choice": sampler,
            "_target_": f"samplers.{sampler}",
            key: value,
            "temperature": 0.0,
            "blocks": blocks,
        },
        "blocks": {"choice": "fixed", **blocks},
        "cache": {"choice": "none"},
        "drafting": {"choice": "none"},
        "max_new_tokens": None,
        "form": "chat",
        "identity": {"suite": 1},
    }


def answers(rng: np.random.Generator, speed: float, spread: float, count: int) -> list[Sample]:
    """Made-up answers: ``speed`` positions a step, give or take ``spread``, roughly from the left."""
    made = []
    for _ in range(count):
        order = np.argsort(np.arange(CANVAS) / 4 + rng.normal(0, 2, CANVAS))
        steps = np.empty(CANVAS, dtype=int)
        steps[order] = (np.arange(CANVAS) / (speed * rng.uniform(1 - spread, 1 + spread))).astype(int)
        tokens, forwards = int(rng.integers(14, 25)), int(steps.max()) + 1
        text = ", ".join(f'"Name{i} Family{i}"' for i in rng.integers(0, 64, 5))
        made.append(
            Sample(
                instance_id="", index=0, task="", seed=0, prompt_sha256="0" * 64, prompt_tokens=90,
                output_text=f"[{text}]", output_ids=rng.integers(0, 4096, CANVAS).tolist(), target=f"[{text}]",
                parsed=text.split(", "), score=0.0, score_strict=0.0, parts={}, error_type=None, canvas=CANVAS,
                forwards=forwards, content_forwards=int(steps[:tokens].max()) + 1, token_forwards=forwards * 120,
                tokens=tokens, commit_step=steps.tolist(), confidence=rng.random(CANVAS).round(4).tolist(),
                accepted_drafts=0, positions_cut=0, stop="filled", seconds=0.002 * forwards,
                seconds_model=0.0018 * forwards,
            )
        )  # fmt: skip
    return made


def write_store(folder: Path, points: int, lines: int) -> int:
    """Write ``points`` folders of ``lines`` lines each; returns how many lines there are."""
    rng = np.random.default_rng(0)
    combinations = [(t, s, i, b) for b in LENGTHS for s in SAMPLERS for i in range(len(SPEED)) for t in TASKS]
    # Copying a sample field by field for every line would take longer than the report.
    spreads = {sampler: 0.0 if SAMPLERS[sampler][0] == "tokens_per_step" else 0.1 for sampler in SAMPLERS}
    pools = {(v, s): [asdict(a) for a in answers(rng, v, s, 64)] for v in SPEED for s in set(spreads.values())}
    for number in range(points):
        task, sampler, level, length = combinations[number % len(combinations)]
        config = config_of(task, sampler, SAMPLERS[sampler][1][level], length)
        config["sampler"]["temperature"] = 0.1 * (number // len(combinations))
        point = Point(config)
        place = point.folder(folder)
        place.mkdir(parents=True)
        ease = 0.3 + 0.7 * TASKS.index(task) / len(TASKS)
        chances = ease ** (level * 0.6 + 0.1 * LENGTHS.index(length) + 0.05 * rng.normal(0, 1, lines))
        right, pool = rng.random(lines) < chances, pools[SPEED[level], spreads[sampler]]
        (place / "config.json").write_text(json.dumps(point.config), encoding="utf-8")
        (place / "manifest.json").write_text(json.dumps({"status": "done", "limit": lines, "seeds": [0]}))
        with (place / "samples.jsonl").open("w", encoding="utf-8") as file:
            for index, (good, which) in enumerate(zip(right.tolist(), rng.integers(0, len(pool), lines), strict=True)):
                own = {"instance_id": f"{index:016x}", "index": index, "task": task, "score": float(good)}
                own |= {"score_strict": float(good), "error_type": None if good else ERRORS[int(which) % len(ERRORS)]}
                file.write(json.dumps(pool[which] | own, separators=(",", ":")) + "\n")
    return points * lines


def main() -> None:
    """Write a store (unless the folder is there) and time the command over it, pictures and page included."""
    points, lines = (int(sys.argv[i]) if len(sys.argv) > i else n for i, n in ((1, 400), (2, 500)))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(scratch) / "store"
        if not folder.exists():
            print(f"{write_store(folder, points, lines)} lines written to {folder}")
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dlm", "report", str(folder)], check=True, stdout=subprocess.DEVNULL)
        print(f"{points} points, {lines} lines each: dlm report took {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
