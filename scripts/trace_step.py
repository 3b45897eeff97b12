"""What one step of a decode goes through: files, functions, calls, and hops from file to file.

    python scripts/trace_step.py [--root CHECKOUT]

Four decodes with the packaged model (topk; topk over dkv_decode; topk with freedave; both), of which every step is
traced with `sys.setprofile`; what is printed is the step that goes through the most files. `--root` traces another
checkout, so that two can be compared by one script. A file counts once for its part of the house: the engine (with
speculation), the cache, the parts of the sampler, the model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def main() -> None:
    """Trace, and print a line per decode; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="checkout to trace")
    parser.add_argument("--files", action="store_true", help="list the files and the calls into each")
    options = parser.parse_args()
    root = str(options.root.resolve()) + "/"
    sys.path.insert(0, root)
    rows = []
    for name, steps in decodes():
        files, functions, hops = max((traced(root, step) for step in steps), key=lambda seen: len(seen[0]))
        rooms = Counter(room_of(file) for file in files)
        rows.append({"decode": name, "files": len(files), "rooms": dict(sorted(rooms.items())),
                     "functions": functions, "calls": files.total(), "hops": hops})  # fmt: skip
        where = ", ".join(f"{room} {count}" for room, count in sorted(rooms.items()))
        print(f"{name:24} {len(files):3} files ({where}), {functions} functions, {files.total()} calls, {hops} hops")
        if options.files:
            print("\n".join(f"    {count:4} {file}" for file, count in files.most_common()))
    print(json.dumps({"rows": rows}))


def decodes() -> Iterator[tuple[str, Iterator[Any]]]:
    """Names and runs, each the same prompt and positions."""
    import cache
    import dlm
    import samplers
    from dlm.api import Run, prompt_job
    from dlm.drafting import FreeDave

    model = dlm.load("tiny")
    sampler = samplers.topk(blocks=samplers.Fixed(16))
    for name, policy, drafter in (
        ("topk", None, None),
        ("topk dkv_decode", cache.dkv_decode(), None),
        ("topk freedave", None, FreeDave(4)),
        ("topk freedave dkv_decode", cache.dkv_decode(), FreeDave(4)),
    ):
        run = iter(Run(model, [prompt_job(model, 0, "copy: abc", 64, {})], sampler, policy, drafter, 0, 1))
        next(run)  # what only the first step does
        yield name, run_of(run)


def run_of(run: Iterator[Any]) -> Iterator[Any]:
    """One call for each step up to the eighth."""
    for _ in range(7):
        yield lambda: next(run, None)


def traced(root: str, step: Any) -> tuple[Counter[str], int, int]:
    """Calls into each file of the checkout, distinct functions, and changes of file, of one step."""
    files: Counter[str] = Counter()
    functions: set[tuple[str, str]] = set()
    trail = [""]

    def note(frame: Any, event: str, _: Any) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(root) and not file.startswith((f"{root}.venv/", f"{root}scripts/")):
            file = file[len(root) :]
            files[file] += 1
            functions.add((file, frame.f_code.co_qualname))
            if file != trail[-1]:
                trail.append(file)

    sys.setprofile(note)
    try:
        step()
    finally:
        sys.setprofile(None)
    return files, len(functions), len(trail) - 1


def room_of(file: str) -> str:
    """Which part of the house a file belongs to."""
    top, _, rest = file.partition("/")
    if top == "dlm":
        return "model" if rest.startswith("models/") else "engine"
    return {"samplers": "parts"}.get(top, top)


if __name__ == "__main__":
    main()
