"""Turn a training run into a model folder: averaged weights in half precision, tokenizer, history, model card.

    python scripts/export_tiny.py                        # runs/tiny -> dlm/models/tiny
    python scripts/export_tiny.py runs/tiny /tmp/model   # somewhere else

It may be run while the training goes on: it reads the last complete checkpoint.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from dlm.models.checkpoint import TINY
from dlm.training.export import export


def main() -> None:
    """Export as asked on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/tiny"), help="folder of the training run")
    parser.add_argument("target", type=Path, nargs="?", default=TINY, help="model folder to write")
    arguments = parser.parse_args()
    history = export(arguments.run, arguments.target)
    progress = history["progress"]
    Console().print(
        f"step {progress['step']}, {progress['tokens'] / 1e6:.1f} million tokens -> {arguments.target}"
        f" ({2 * history['parameters'] / 1e6:.1f} MB); measure it: python scripts/eval_tiny.py"
    )


if __name__ == "__main__":
    main()
