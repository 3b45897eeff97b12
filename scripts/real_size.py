"""LLaDA-8B and Dream-7B at their real size on this machine, with random weights: do they load and decode?

    python scripts/real_size.py                                    both, as they are and in int8
    python scripts/real_size.py --shapes llada-8b --kinds none
    python scripts/real_size.py --table                            only count: memory of each shape and kind of weights

A checkpoint (bfloat16, sharded) is written layer by layer into a temporary folder, and deleted afterwards. Each kind of
weights is then loaded by a process of its own, which decodes two prompts of unequal length over a cache, together and
alone: tokens must be equal. "none" are the weights as they are, mapped from the files; their peak may be 1.05 times
their size. Needs disk for one checkpoint and memory for its weights (16 GB). The last line is JSON; the exit status is
1 when rows differ or the peak is higher.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

import cache
import dlm
import samplers
from dlm.bench.shapes import SHAPES as BENCH_SHAPES
from dlm.models import checkpoint
from dlm.models.dream import DreamConfig, DreamModel
from dlm.models.llada import LLaDAConfig, LLaDAModelLM
from dlm.models.masked_lm import MaskedLM, MaskedLMConfig
from dlm.models.quantising import weight_bytes

SHAPES: dict[str, tuple[type[MaskedLM], Any]] = {
    "llada-8b": (LLaDAModelLM, LLaDAConfig),
    "dream-7b": (DreamModel, DreamConfig),
    "body": (LLaDAModelLM, BENCH_SHAPES["body"].config),  # small: to try the script itself
}
SHARD = 2 << 30  # bytes
ROOM = 1.05  # peak of resident memory, of the size of the weights that are mapped
# Tokens. With the canvas they are multiples of 16: at other lengths torch's bfloat16 attention on a CPU rounds by what
# the row is padded to, and near ties of random weights fall otherwise.
PROMPTS = (24, 56)
NEW, BLOCK, PER_STEP = 8, 8, 2


def main(arguments: list[str] | None = None) -> int:
    """Write, load, decode, delete; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["llada-8b", "dream-7b"])
    parser.add_argument("--kinds", nargs="+", choices=("none", "int8", "int4"), default=["none", "int8"])
    parser.add_argument("--table", action="store_true", help="count the memory, write and load nothing")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made")
    parser.add_argument("--child", nargs=2, metavar=("CHECKPOINT", "KIND"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(measured(Path(options.child[0]), options.child[1])))
        return 0
    if options.table:
        counted = [{"shape": shape, **memory(shape)} for shape in options.shapes]
        Console(width=150).print(table(counted, "GB of weights, and of keys and values per 1,000 positions of a row"))
        print(json.dumps({"rows": counted}))
        return 0
    rows: list[dict[str, Any]] = []
    for shape in options.shapes:
        with tempfile.TemporaryDirectory(prefix="real_size-", dir=options.folder) as folder:
            begin, size = time.perf_counter(), write(shape, Path(folder))
            written = round(time.perf_counter() - begin, 1)
            for kind in options.kinds:
                row = {"shape": shape, "kind": kind, "checkpoint_gb": size / 1e9, "write_s": written}
                rows.append(row | in_a_process(Path(folder), kind))
                print(rows[-1], file=sys.stderr)
    Console(width=150).print(table(rows, "real size, random weights, bfloat16, CPU"))
    print(json.dumps({"rows": rows}))
    return 0 if all(row["rows_equal"] and (row["kind"] != "none" or row["ratio"] <= ROOM) for row in rows) else 1


def write(shape: str, folder: Path) -> int:
    """A checkpoint of random weights, a shard at a time; returns its bytes. Raises SystemExit: the disk is too full."""
    family, make = SHAPES[shape]
    config: MaskedLMConfig = make()
    config.architectures = [family.__name__]
    with torch.device("meta"):
        model = family(config)
    size = sum(2 * weight.numel() for weight in model.parameters())
    if (free := shutil.disk_usage(folder).free) < 1.1 * size:
        raise SystemExit(f"{folder} has {free / 1e9:.0f} GB free, {shape} takes {size / 1e9:.0f}: set --folder")
    config.to_json_file(folder / "config.json", use_diff=False)
    places: dict[str, str] = {}
    for number, shard in enumerate(shards(model, shape)):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return size


def shards(model: MaskedLM, shape: str) -> Iterator[dict[str, Tensor]]:
    """The weights at their initial scale, in dictionaries of about :data:`SHARD` bytes."""
    generator, shard, size = torch.Generator().manual_seed(0), dict[str, Tensor](), 0
    console, modules = Console(stderr=True), list(model.named_modules())
    for path, module in track(modules, f"{shape}: writing", console=console, transient=True):
        for name, weight in module.named_parameters(recurse=False):
            std = getattr(module, "init_std", None) if name == "weight" else 0.02
            filled = torch.empty(weight.shape, dtype=torch.bfloat16)
            filled = filled.fill_(1.0) if std is None else filled.normal_(std=std, generator=generator)
            shard[f"{path}.{name}"], size = filled, size + filled.nbytes
            if size > SHARD:
                yield shard
                shard, size = {}, 0
    yield shard


def in_a_process(folder: Path, kind: str) -> dict[str, Any]:
    """What :func:`measured` finds in a fresh process. Raises SystemExit: there is not the memory, or it failed."""
    needed, free = sum(path.stat().st_size for path in folder.glob("*.safetensors")), available()
    if free < needed:
        raise SystemExit(f"{free / 1e9:.0f} GB of memory are free, {needed / 1e9:.0f} are needed: end other programs")
    command = [sys.executable, __file__, "--child", str(folder), kind]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the process that loads {kind} weights failed ({done.returncode})")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(folder: Path, kind: str) -> dict[str, Any]:
    """Load and decode; seconds, and gigabytes of this process."""
    begin = time.perf_counter()
    quantize: Any = None if kind == "none" else kind
    model = dlm.load(folder, device="cpu", dtype="bfloat16", quantize=quantize)
    loaded, own = time.perf_counter() - begin, resident("RssAnon")
    generator, ids = torch.Generator().manual_seed(1), model.description.vocab_size - 2
    prompts = [torch.randint(ids, (n,), generator=generator).tolist() for n in PROMPTS]
    how: dict[str, Any] = {
        "sampler": samplers.topk(tokens_per_step=PER_STEP, blocks=samplers.Fixed(BLOCK)), "cache": cache.dual(),
        "max_new_tokens": NEW,
    }  # fmt: skip
    begin = time.perf_counter()
    together = dlm.generate(model, prompts, batch_size=2, **how)
    seconds = (time.perf_counter() - begin) / (NEW // PER_STEP)
    alone = [dlm.generate(model, [prompt], **how)[0] for prompt in prompts]
    equal = all(a.tokens == b.tokens and a.commit_step == b.commit_step for a, b in zip(together, alone, strict=True))
    backbone: Any = model.backbone
    stored, peak = weight_bytes(backbone) / 1e9, resident("VmHWM")
    return {
        "load_s": loaded, "own_after_load_gb": own, "weights_gb": stored, "peak_gb": peak, "ratio": peak / stored,
        "step_s": seconds, "rows_equal": equal,
    }  # fmt: skip


def resident(field: str) -> float:
    """Gigabytes of this process (Linux): ``VmHWM`` the most it held, ``RssAnon`` what it holds beside files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith(field))


def available() -> int:
    """Bytes of memory that programs can have (Linux)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def memory(shape: str) -> dict[str, float]:
    """Gigabytes: weights as bfloat16 and with the blocks' matrices quantised; keys and values of 1,000 positions."""
    family, make = SHAPES[shape]
    arch = make().architecture()
    sizes = {kind: size / 1e9 for kind, size in checkpoint.memory(family, make()).items() if kind != "parameters"}
    return {**sizes, "kv_1k": 2 * 2 * arch.layers * arch.kv_heads * arch.head_width * 1000 / 1e9}


def table(rows: list[dict[str, Any]], title: str) -> Table:
    """What was found, a line for each shape and kind."""
    found = Table(title=title)
    for name in rows[0]:
        found.add_column(name, justify="left" if name in ("shape", "kind") else "right")
    for row in rows:
        found.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()))
    return found


if __name__ == "__main__":
    sys.exit(main())
