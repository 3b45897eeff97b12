"""A model that gives the answers it is told, behind the real tokenizer of the packaged model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import torch
from torch import Tensor

import dlm
import samplers
from dlm.evaluation.harness import HarnessModel
from dlm.models import ModelDescription
from dlm.models.backbone import Backbone

DATA = Path(__file__).parents[1] / "data" / "harness" / "gsm8k.jsonl"
DOCUMENTS = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
TINY = dlm.load("tiny")
SURE = 20.0  # logit of the token that comes next in the script


class Scripted(Backbone):
    """Answers the last question of a prompt with the text it is told, then with end tokens.

    Attributes:
        answers: question -> answer.
        forwards_left: forwards after which it fails, as a machine may; None: it never does.
        prompts: what it was asked, in order.
    """

    def __init__(self, answers: dict[str, str], forwards_left: int | None = None) -> None:
        self.answers, self.forwards_left = answers, forwards_left
        self.description = ModelDescription(TINY.description.mask_id, TINY.description.eos_ids, 0, 478, 478, 4096)
        self.ids: dict[tuple[int, ...], str] = {}
        self.prompts: list[str] = []

    def hidden(self, tokens: Tensor, positions: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        if self.forwards_left is not None:
            self.forwards_left -= 1
            if self.forwards_left < 0:
                raise RuntimeError("the power went out")
        targets = torch.zeros_like(tokens)
        for row, ids in enumerate(tokens.tolist()):
            prompt = max((p for p in self.ids if tuple(ids[: len(p)]) == p), key=len)
            text = self.ids[prompt]
            question = max(self.answers, key=text.rfind)
            answer = TINY.encode(self.answers[question])[: len(ids) - len(prompt)]
            targets[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        return targets[..., None].double()

    def head(self, rows: Tensor) -> Tensor:
        return SURE * torch.nn.functional.one_hot(rows[..., 0].long(), 478).double()


class ScriptedModel:
    """What :class:`HarnessModel` needs of a language model."""

    def __init__(self, backbone: Scripted, name: str = "scripted") -> None:
        self.backbone, self.name = backbone, name
        self.tokenizer, self.decode = TINY.tokenizer, TINY.decode
        self.description = backbone.description
        self.device, self.dtype = torch.device("cpu"), torch.float64

    def encode(self, text: str) -> list[int]:
        ids = TINY.encode(text)
        self.backbone.ids[tuple(ids)] = text
        self.backbone.prompts.append(text)
        return ids


def scripted(answers: dict[str, str] | None = None, fails_after: int | None = None, **settings: Any) -> HarnessModel:
    """The harness's model over a script; every right answer of the documents by default."""
    told = {d["question"]: f" {d['answer']}" for d in DOCUMENTS} | (answers or {})
    settings = {"sampler": samplers.threshold(0.9), "max_new_tokens": 48, "batch_size": 4, **settings}
    model: Any = ScriptedModel(Scripted(told, fails_after))
    return HarnessModel(model, **settings)


def local_tasks(folder: Path, more: str = "") -> Any:
    """A task manager that knows the harness's own gsm8k, over our documents, and nothing else.

    Its worked examples are the first ones: the harness draws others on every process. ``more``: further lines of YAML.
    """
    import lm_eval.tasks

    own = Path(lm_eval.tasks.__file__).parent / "gsm8k" / "gsm8k.yaml"
    folder.mkdir(exist_ok=True)
    (folder / "gsm8k.yaml").write_text(
        f"include: {own}\ntask: gsm8k\ndataset_path: json\ndataset_name: null\nfewshot_split: test\n"
        "fewshot_config:\n  sampler: first_n\n"
        "training_split: null\ndataset_kwargs:\n  data_files:\n"
        f"    test: {DATA}\n{more}",
        encoding="utf-8",
    )
    return lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
