"""Count how often each token occurs in a text: the table PC-Sampler calibrates with.

    python scripts/frequencies.py tiny corpus.txt frequencies.safetensors
    dlm generate sampler=pc sampler.frequencies=frequencies.safetensors 'prompt=...'

The text is read line by line. The file holds one tensor, ``frequency``: the share of each token id.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

import dlm


def frequencies(model: dlm.LanguageModel, lines: list[str]) -> torch.Tensor:
    """Share of each token id in the lines. ``[V]``, float32"""
    counts = torch.zeros(model.description.vocab_size, dtype=torch.float64)
    for line in lines:
        ids = torch.tensor(model.encode(line), dtype=torch.long)
        counts += torch.bincount(ids, minlength=len(counts))
    return (counts / counts.sum().clamp_min(1)).float()


def main(arguments: list[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="whose tokenizer to use: tiny, a hub id, or a folder")
    parser.add_argument("text", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args(arguments)
    table = frequencies(dlm.load(options.model), options.text.read_text(encoding="utf-8").splitlines(keepends=True))
    save_file({"frequency": table}, options.output)
    print(f"{options.output}: {int((table > 0).sum())} of {len(table)} tokens occur")


if __name__ == "__main__":
    main()
