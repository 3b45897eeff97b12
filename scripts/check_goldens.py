"""Compare recorded runs of the reference implementations with this package.

    python scripts/check_goldens.py CASES_DIR CHECKPOINTS_DIR EXTRA_DIR [method ...]

A method may be a shell-style pattern (llada_*). Prints cases, matched, explained and unexplained per method;
``--output docs/fidelity.md`` writes the page. Exit status 1 when a case is unexplained, or when a method named in
full has no translation yet.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from transformers.utils import logging as transformers_logging

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from scripts.goldens.cases import read_cases  # noqa: E402
from scripts.goldens.check import Checker  # noqa: E402
from scripts.goldens.report import MethodReport, markdown, print_report  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Run the check; returns the exit status."""
    options = _parser().parse_args(arguments)
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(1)
    console = Console()
    if not console.is_terminal:
        console.width = 140
    try:
        cases = read_cases(options.cases, options.methods)
        for folder in options.also:
            cases |= read_cases(folder, options.methods)
    except (FileNotFoundError, KeyError) as error:
        console.print(str(error.args[0]), markup=False)
        return 2
    checker = Checker(options.checkpoints, options.extra)
    reports = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("cases", total=sum(map(len, cases.values())))
        for method, group in cases.items():
            report = MethodReport(method)
            for case in group:
                progress.update(task, description=method, advance=1)
                report.verdicts.append((case, checker.check(case)))
            reports.append(report)
    print_report(console, reports)
    if (output := options.output) is not None:
        output.write_text(markdown(reports, checker.plans, _command(options)), encoding="utf-8")
        console.print(f"written: {output}", highlight=False)
    missing = [r for r in reports if r.method in options.methods and r.count("skipped") == r.count("cases")]
    return 1 if missing or any(report.count("unexplained") for report in reports) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path, metavar="CASES_DIR", help="folder of <method>.json")
    parser.add_argument("checkpoints", type=Path, metavar="CHECKPOINTS_DIR", help="folder of model folders")
    parser.add_argument("extra", type=Path, metavar="EXTRA_DIR", help="folder of further inputs")
    parser.add_argument("methods", nargs="*", metavar="method", help="names or patterns; none: all")
    parser.add_argument(
        "--also", type=Path, metavar="DIR", action="append", default=[], help="a further folder of cases"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="where to write the report, as docs/fidelity.md; none: nowhere",
    )
    return parser


def _command(options: argparse.Namespace) -> str:
    """The command with which the page is made again; whose folders they are is the reader's."""
    also = ["--also FURTHER_CASES_DIR"] * len(options.also)
    return " ".join(
        [
            "python scripts/check_goldens.py CASES_DIR CHECKPOINTS_DIR EXTRA_DIR",
            *also,
            *options.methods,
            "--output docs/fidelity.md",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
