"""Train the tiny model from scratch. Seeded and resumable: the same command goes on where a killed run stopped.

    .venv/bin/torchrun --nproc-per-node 2 scripts/train_tiny.py             # the CPU recipe, conf/train/cpu.yaml
    .venv/bin/python scripts/train_tiny.py train=gpu                        # the GPU recipe
    .venv/bin/torchrun --nproc-per-node 2 scripts/train_tiny.py recipe.minutes=240   # extend a run
    .venv/bin/torchrun --nproc-per-node 2 scripts/train_tiny.py train=more   # continue from the packaged weights

`scripts/export_tiny.py` turns a run into the packaged model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hydra
import torch
import torch.distributed as dist
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from transformers import PreTrainedTokenizerFast

import samplers
from dlm import tasks
from dlm.evaluation.scoring import score
from dlm.models import LanguageModel, LLaDAConfig, load
from dlm.training.data import Curriculum, Mixture
from dlm.training.tokenizer import build
from dlm.training.loop import append_line
from dlm.training.trainer import Recipe, Trainer


def parts(settings: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> tuple[LLaDAConfig, Recipe, Mixture]:
    """The architecture, the recipe and the data that a configuration describes."""
    config = LLaDAConfig(
        **settings["model"],
        vocab_size=len(tokenizer),
        embedding_size=len(tokenizer),
        mask_token_id=tokenizer.mask_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    curriculum = Curriculum(
        {k: tuple(entry) for k, entry in settings["tasks"].items()},
        {int(k): tuple(entry) for k, entry in settings["lengths"].items()},
    )
    data = Mixture(tokenizer, curriculum, settings["tokens_per_batch"], settings["seed"])
    return config, Recipe(**settings["recipe"]), data


def evaluator(settings: dict[str, Any]) -> Any:
    """What measures the model now and then: accuracy per task at a fixed number of tokens per forward."""
    blocks = samplers.Aligned() if settings["model"].get("attention_block") else samplers.Fixed(16)
    sampler = samplers.topk(tokens_per_step=settings["evaluation"]["tokens_per_step"], blocks=blocks)

    def evaluate(model: LanguageModel) -> dict[str, float]:
        n = settings["evaluation"]["n"]
        return {name: score(model, tasks.get(name), sampler, n=n)["accuracy"] for name in settings["tasks"]}

    return evaluate


def show(line: dict[str, Any], console: Console) -> None:
    """One line of the log for people."""
    if "accuracy" in line:
        console.print("  ".join(f"{k.split('/')[-1]} {v:.0%}" for k, v in line["accuracy"].items()))
        return
    mean = sum(line["loss"].values()) / len(line["loss"])
    console.print(
        f"step {line['step']}  loss {mean:.3f}  {line['tokens_per_second']:,} tokens/s"
        f"  {line['minutes']:.1f} min done, {line['left']:.0f} min left"
    )


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_tiny")
def main(cfg: DictConfig) -> None:
    """Train as configured."""
    torch.set_num_threads(cfg.threads)
    if "WORLD_SIZE" in os.environ:  # torchrun's protocol
        dist.init_process_group("gloo" if cfg.device == "cpu" else "nccl")
    settings: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    folder, tokenizer, console = Path(cfg.folder), build(), Console()
    config, recipe, data = parts(settings, tokenizer)
    trainer = Trainer(config, recipe, data, folder, evaluator(settings), torch.device(cfg.device))
    if cfg.start_from is not None:
        trainer.start_from(load(cfg.start_from, device=cfg.device).backbone.state_dict())  # type: ignore[attr-defined]
    if trainer.rank == 0:
        tokenizer.save_pretrained(folder / "tokenizer")
        config.save_pretrained(folder)
        OmegaConf.save(cfg, folder / "config.yaml")

    def report(line: dict[str, Any]) -> None:
        append_line(folder / "log.jsonl", line)
        show(line, console)

    trainer.run(report)


if __name__ == "__main__":
    main()
