"""``dlm train tiny``: a model like the packaged ones, from scratch or on from given weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlm.building import build, role_of
from dlm.commands.common import command
from dlm.configuration import compose_config, plain_of
from dlm.evaluation.scoring import score
from dlm.evaluation.shards import group

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from dlm.models import LanguageModel, LLaDAConfig
    from dlm.training.data import Mixture
    from dlm.training.trainer import Recipe

HELP = """dlm train tiny: a model like the packaged ones, from scratch or on from given weights.

usage: dlm train tiny [train=RECIPE] [key=value ...]

  train=cpu                       the recipe of the packaged model (two cores, 80 minutes); gpu: a larger one; more: on
                                  from the packaged weights; block: the packaged block-diffusion model
  folder=runs/tiny                checkpoint, log and tokenizer; scripts/export_tiny.py turns it into a model folder
  recipe.minutes=80               and the other settings of dlm.training.trainer.Recipe
  start_from=null                 weights to begin with: a model folder, or tiny

examples:
  torchrun --nproc-per-node 2 -m dlm train tiny
  dlm train tiny train=gpu
  torchrun --nproc-per-node 2 -m dlm train tiny recipe.minutes=240
"""


def parts(settings: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> tuple[LLaDAConfig, Recipe, Mixture]:
    """The architecture, the recipe and the data that a configuration describes."""
    from dlm.models import LLaDAConfig
    from dlm.training.data import Curriculum, Mixture
    from dlm.training.trainer import Recipe

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


def evaluator(settings: dict[str, Any]) -> Callable[[LanguageModel], dict[str, float]]:
    """What measures the model now and then: accuracy per task at a fixed number of tokens per forward."""
    from dlm import tasks

    blocks = {"_target_": "samplers.Aligned"}
    if not settings["model"].get("attention_block"):
        blocks = {"_target_": "samplers.Fixed", "length": 16}  # type: ignore[dict-item]
    node = {"_target_": "samplers.topk", "tokens_per_step": settings["evaluation"]["tokens_per_step"], "blocks": blocks}
    sampler, n = build(node, role_of("sampler"), "evaluation"), settings["evaluation"]["n"]

    def evaluate(model: LanguageModel) -> dict[str, float]:
        return {name: score(model, tasks.get(name), sampler, n=n)["accuracy"] for name in settings["tasks"]}

    return evaluate


def show(line: dict[str, Any], console: Any) -> None:
    """One line of the log for people."""
    if "accuracy" in line:
        console.print("  ".join(f"{k.split('/')[-1]} {v:.0%}" for k, v in line["accuracy"].items()))
        return
    mean = sum(line["loss"].values()) / len(line["loss"])
    console.print(
        f"step {line['step']}  loss {mean:.3f}  {line['tokens_per_second']:,} tokens/s"
        f"  {line['minutes']:.1f} min done, {line['left']:.0f} min left"
    )


@command("train_tiny", HELP, ("folder",))
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    config = compose_config("train_tiny", overrides)
    config.merge_with(texts)
    settings = plain_of(config)
    import torch
    from omegaconf import OmegaConf
    from rich.console import Console

    from dlm.models import load
    from dlm.training.loop import append_line
    from dlm.training.tokenizer import build as make_tokenizer
    from dlm.training.trainer import Trainer

    torch.set_num_threads(settings["threads"])
    folder, tokenizer, console = Path(settings["folder"]), make_tokenizer(), Console()
    architecture, recipe, data = parts(settings, tokenizer)
    joined = group().device  # a GPU each
    device = joined if joined and settings["device"] == "cuda" else settings["device"]
    trainer = Trainer(architecture, recipe, data, folder, evaluator(settings), torch.device(device))
    if (start := settings["start_from"]) is not None:
        trainer.start_from(load(start, device=settings["device"]).backbone.state_dict())  # type: ignore[attr-defined]
    if trainer.rank == 0:
        tokenizer.save_pretrained(folder / "tokenizer")
        architecture.save_pretrained(folder)
        OmegaConf.save(config, folder / "config.yaml")

    def report(line: dict[str, Any]) -> None:
        append_line(folder / "log.jsonl", line)
        show(line, console)

    trainer.run(report)
    return 0
