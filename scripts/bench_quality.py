"""Write docs/parallelbench.md from the packaged model's benchmark (`make bench-quality` runs both).

    dlm eval grid=tiny task.limit=30 workers=2 out=runs/quality
    dlm report runs/quality                                      # its picture goes beside the document
    python scripts/bench_quality.py runs/quality                 # docs/parallelbench.md
    python scripts/bench_quality.py runs/quality --out other.md

Every figure is read from the folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # `scripts` is no installed package

from dlm.files import write_whole
from scripts.quality.bench import Bench
from scripts.quality.page import page


def main() -> None:
    """Read a folder, write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `dlm eval grid=tiny out=FOLDER` wrote")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "parallelbench.md")
    arguments = parser.parse_args()
    bench = Bench(arguments.folder)
    drawn, picture = arguments.folder / "report" / "mean_front.png", arguments.out.with_suffix(".png")
    if drawn.is_file():
        shutil.copyfile(drawn, picture)
    write_whole(arguments.out, page(bench, picture.name if drawn.is_file() else None).rstrip() + "\n")
    print(f"{len(bench.figures)} points, {len(bench.unfinished)} of them unfinished; written to {arguments.out}")


if __name__ == "__main__":
    main()
