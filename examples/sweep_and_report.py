"""A small sweep in a folder of its own, and its report: what does speed cost?

    python examples/sweep_and_report.py [FOLDER]

`dlm eval -m ... out=FOLDER` and `dlm report FOLDER` do the same from the command line. Every answer is kept as a line
on disk, so a sweep that was ended goes on where it was: give the script a FOLDER and run it twice.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from dlm.evaluation import sweep

# Every combination of a `product`; what stands in a `union` is one beside the other.
GRID = {
    "product": {"task": ["waiting_line/copy", "waiting_line/shuffle"]},
    "union": [
        {"set": {"sampler": "topk"}, "product": {"sampler.tokens_per_step": [1, 4]}},
        {"set": {"sampler": "threshold"}, "product": {"sampler.threshold": [0.7, 0.95]}},
    ],
}

if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        out = Path(sys.argv[1] if sys.argv[1:] else temporary)
        done = sweep(["task.limit=16", "batch_size=16"], grid=GRID, out=out)
        print(f"\n{'task':22} {'setting':52} score   95 % interval  forwards")
        for point in done:
            setting = " ".join(word for word in point.entry.overrides if word.startswith("sampler"))
            if not point.figures:
                print(f"{point.entry.task:22} {setting:52} {point.state}: {point.message}")
                continue
            score, low, high, forwards = (
                point.figures[key] for key in ("accuracy", "accuracy_low", "accuracy_high", "forwards")
            )
            print(f"{point.entry.task:22} {setting:52} {score:.2f}    {low:.2f} to {high:.2f}   {forwards:6.1f}")
