"""``dlm train ar``: a small autoregressive model, the verifier of DEER on the packaged tasks."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from dlm.commands.common import command
from dlm.commands.train import picture, place, trained
from dlm.configuration import check_counts, check_switches, compose_config, part_of, plain_of
from dlm.evaluation.shards import group
from dlm.files import write_whole

if TYPE_CHECKING:
    from dlm.models.causal import CausalModel

HELP = """dlm train ar: a small autoregressive model on the packaged tasks, which verifies drafts (dlm deer).

usage: dlm train ar out=DIR [key=value ...]

  tokenizer=tiny                  the model whose tokenizer it gets: that of the drafter
  training.minutes=6              and the other settings of dlm.training.causal.CausalTraining
  model.num_hidden_layers=4       and other fields of transformers' LlamaConfig
  out=DIR                         model/, log.jsonl, training.json, curve.png

examples:
  dlm train ar out=verifier
  dlm deer verifier=verifier/model 'prompt=Reverse the list: ["Anna", "Bob", "Cleo"]' max_new_tokens=32
"""


@command("train_ar", HELP, ("out", "tokenizer"))
def run(texts: dict[str, str], overrides: list[str]) -> int:
    """Run the command; returns the exit status."""
    config = compose_config("train_ar", overrides)
    config.merge_with(texts)
    check_switches(config, "pictures")
    check_counts(config, "tokens_per_batch", "threads")
    check_counts(config, "held_out", least=0)
    out = place(config)
    import torch
    from transformers import LlamaConfig

    from dlm import tasks
    from dlm.api import deer
    from dlm.errors import SettingsError
    from dlm.models.checkpoint import resolve
    from dlm.models.loading import load_tokenizer, pick_device
    from dlm.training.causal import CausalTrainer, CausalTraining
    from dlm.training.data import Curriculum, Mixture

    how: CausalTraining = part_of(config, "training", CausalTraining)
    settings, device = (
        plain_of(config),
        pick_device((group().device if config.device != "cpu" else None) or config.device),
    )
    torch.set_num_threads(config.threads)
    if (tokenizer := load_tokenizer(resolve(config.tokenizer))) is None:
        raise SettingsError(f"tokenizer={config.tokenizer} has no tokenizer.json")
    curriculum = Curriculum(*({key: tuple(entry) for key, entry in settings[k].items()} for k in ("tasks", "lengths")))
    data = Mixture(tokenizer, curriculum, config.tokens_per_batch, config.seed)
    ids = {key: getattr(tokenizer, key) for key in ("eos_token_id", "pad_token_id")} | {"bos_token_id": None}
    shape = LlamaConfig(vocab_size=len(tokenizer), **settings["model"], **ids)

    def judge(model: CausalModel) -> dict[str, float]:
        """Share of test questions that greedy decoding answers rightly."""
        found = {}
        for task in map(tasks.get, settings["tasks"]):
            asked = [task.instance(i) for i in range(config.held_out)]
            chats = [[{"role": "user", "content": one.prompt}] for one in asked]
            answers = deer(model, None, chats, max_new_tokens=task.canvas, batch_size=len(chats))
            scores = [task.judge(one, answer.text).score for one, answer in zip(asked, answers, strict=True)]
            found[task.name] = sum(scores) / len(scores)
        return found

    judging = judge if config.held_out else None
    loop = CausalTrainer(shape, how, data, out / "checkpoint.safetensors", judging, device)
    lines = trained(loop, out, ("loss",))
    if loop.rank == 0:
        model, kept = loop.causal_model(), out / "model"
        model.backbone.half().save_pretrained(kept)  # type: ignore[attr-defined]
        tokenizer.save_pretrained(kept)
        write_whole(out / "training.json", json.dumps({"tasks": settings["tasks"], **asdict(how)}, indent=1))
        for name, accuracy in (lines or [{}])[-1].get("accuracy", {}).items():
            print(f"{name:<30} {accuracy:.0%}")
        print(kept)
        picture(config, lines, ("loss",), out)
    return 0
