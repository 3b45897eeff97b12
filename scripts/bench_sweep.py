"""What a sweep costs beside its decoding: reading the published grid, resuming one that is done, and the workers.

python scripts/bench_sweep.py [local joblib]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from dlm.configuration import Composer
from dlm.evaluation.grid import combined, load_grid, overrides_of
from dlm.evaluation.runner import prepare
from dlm.evaluation.sweeps import Sweep
from dlm.evaluation.workers import as_hydra

RUNS = Path("runs")  # on the disk that results would go to
DONE, ANSWERS = 2000, 10  # points that are done, and answers of each
FILLER = "x" * 1500  # what else stands in a line
SIZES = (10, 30)  # points of a short and a long sweep
LAUNCHERS = ("local", "joblib")


def main() -> None:
    """Measure, and print a line each."""
    RUNS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=RUNS) as out:
        start = time.perf_counter()
        found = Sweep.of(combined([f"out={out}"], load_grid("parallelbench"), ()))
        points = found.cost().points
        print(f"reading {points} points of the published grid: {time.perf_counter() - start:.1f} s")
        resume(Path(out))
    for launcher in sys.argv[1:] or LAUNCHERS:
        beside(launcher)
    print(f"load of the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def resume(out: Path) -> None:
    """A sweep whose points are all done, with lines of the usual size."""
    choices = list(combined([f"out={out}", f"task.limit={ANSWERS}"], load_grid("parallelbench"), ()))[:DONE]
    composer = Composer("eval")
    for choice in choices:
        ready = prepare(composer(overrides_of(choice)))
        ready.folder.mkdir(parents=True)
        keys = ready.asked()
        lines = (json.dumps({"instance_id": name, "seed": seed, "rest": FILLER}) for name, seed in keys)
        (ready.folder / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
        (ready.folder / "config.json").write_text(json.dumps(ready.point.config))
        (ready.folder / "metrics.json").write_text(json.dumps({"seconds": 1.0, "n": ANSWERS}))
    start = time.perf_counter()
    cost = Sweep.of(choices).cost()
    assert (cost.done, cost.answers) == (DONE, 0)
    print(f"resuming {DONE} points that are done, {ANSWERS} answers each: {time.perf_counter() - start:.1f} s")


def beside(launcher: str) -> None:
    """Wall time of one worker against its seconds of decoding. A short and a long sweep tell what begins once (a
    process that imports torch and loads a model) from what every point costs."""
    walls, decoding = [], []
    for size in SIZES:
        with tempfile.TemporaryDirectory(dir=RUNS) as out:
            thresholds = [round(0.5 + i / 200, 3) for i in range(size)]
            grid = {"product": {"task": ["waiting_line/shuffle"], "sampler.threshold": thresholds}}
            found = Sweep.of(combined([f"out={out}", "task.limit=100"], grid, ()))
            start = time.perf_counter()
            events = found.run(found.begin(1, []), 1, [as_hydra(f"launcher={launcher}")])
            walls.append(time.perf_counter() - start)
            assert len(events) == size
            assert all(event.state == "done" for event in events.values())
            read = (json.loads(file.read_text()) for file in Path(out).glob("*/*/manifest.json"))
            decoding.append(sum(session["seconds_decoding"] for line in read for session in line["sessions"]))
    wall, own = walls[1] - walls[0], decoding[1] - decoding[0]
    begun = walls[0] - decoding[0] * wall / own
    print(
        f"launcher={launcher}: {SIZES[1]} points in {walls[1]:.1f} s, {decoding[1]:.1f} s of them decoding; a point"
        f" costs {wall / own - 1:+.1%} beside its decoding, to begin {begun:.1f} s"
    )


if __name__ == "__main__":
    main()
