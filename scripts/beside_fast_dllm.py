"""Seconds of an answer beside Fast-dLLM's own loop, on the same random weights, in pairs.

    python scripts/beside_fast_dllm.py DIR            # DIR: the folder llada/ of a checkout of NVlabs/Fast-dLLM

Runs that code, which is nobody's but the reader's to trust. A pair is one run of theirs and one of ours, one after the
other; tokens must be equal. Printed is the median of ours over theirs, without a cache, with prefix and with dual.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import cache
import dlm
import samplers
from dlm.models import LLaDAConfig, random_model

# (name, configuration, prompt, new, blocks)
SHAPES: dict[str, tuple[dict[str, int], int, int, int]] = {
    "small vocabulary": ({"d_model": 128, "n_layers": 6, "n_heads": 4, "mlp_hidden_size": 384, "vocab_size": 478},
                         32, 64, 32),
    "large vocabulary": ({"d_model": 512, "n_layers": 8, "n_heads": 8, "mlp_hidden_size": 1536, "vocab_size": 126464},
                         256, 16, 16),
}  # fmt: skip
LOOPS = {"none": "generate", "prefix": "generate_with_prefix_cache", "dual": "generate_with_dual_cache"}


def theirs(folder: Path, config: LLaDAConfig, weights: dict[str, Any]) -> tuple[Any, Any]:
    """Their module of loops, and their model with our weights."""
    sys.path.insert(0, str(folder))
    import generate  # type: ignore[import-not-found]
    from model.configuration_llada import LLaDAConfig as Theirs  # type: ignore[import-not-found]
    from model.modeling_llada import LLaDAModelLM  # type: ignore[import-not-found]

    fields = {name: getattr(config, name) for name in config.fields if name not in ("attention_block", "init_fn")}
    fields |= {"n_kv_heads": config.n_heads, "mlp_ratio": 4, "init_device": "cpu", "flash_attention": False}
    settings = Theirs(**fields)
    settings.use_cache = False  # what transformers of their time filled in
    model = LLaDAModelLM(settings, init_params=False)
    model.load_state_dict(weights, strict=False)
    return generate, model.eval()


def main() -> None:
    """Measure as asked on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder llada/ of a checkout of NVlabs/Fast-dLLM")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    table = Table("shape", "cache", "theirs, s", "ours, s", "ours / theirs", "tokens")
    for name, (sizes, prompt, new, block) in SHAPES.items():
        vocabulary = sizes["vocab_size"]
        config = LLaDAConfig(
            **sizes, embedding_size=vocabulary, max_sequence_length=1024, mask_token_id=vocabulary - 1,
            eos_token_id=vocabulary - 2, pad_token_id=vocabulary - 2,
        )  # fmt: skip
        model = random_model(config, device="cpu", dtype="float32")
        loops, other = theirs(arguments.folder, config, _weights(model))
        ids = torch.randint(0, vocabulary - 2, (prompt,), generator=torch.Generator().manual_seed(0)).tolist()
        sampler = samplers.threshold(0.9, blocks=samplers.Fixed(block), precision="float64")
        for kind, loop in LOOPS.items():
            how = {"steps": new, "gen_length": new, "block_length": block, "threshold": 0.9, "mask_id": vocabulary - 1}
            policy = getattr(cache, kind)()
            their_run = partial(getattr(loops, loop), other, torch.tensor([ids]), **how)
            our_run = partial(dlm.generate, model, [ids], sampler=sampler, cache=policy, max_new_tokens=new)
            equal = their_run()[0][0, prompt:].tolist() == our_run()[0].tokens
            pairs = [(_seconds(their_run), _seconds(our_run)) for _ in range(arguments.pairs)]
            a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(own / their for their, own in pairs)
            table.add_row(name, kind, f"{a:.3f}", f"{b:.3f}", f"{ratio:.2f}", "equal" if equal else "different")
    Console().print(table)


def _weights(model: dlm.LanguageModel) -> dict[str, Any]:
    backbone: Any = model.backbone
    return dict(backbone.state_dict())


def _seconds(run: Callable[[], object]) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
