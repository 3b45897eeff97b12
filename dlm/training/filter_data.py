"""What a filter learns from: the confidences of a block along the way to a known answer, and which proposals were
right there (Learn2PD, arXiv 2509.25188, section 2.3 of our notes: extremely greedy parallel)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.api import Prompt, generate
from dlm.engine.canvas import Job
from dlm.engine.interfaces import BlockSchedule
from dlm.engine.loop import Decoder, StepEvent
from dlm.engine.sampler import Sampler
from dlm.errors import CheckpointError, SettingsError
from dlm.models import LanguageModel
from dlm.training.checkpoint import read_checkpoint, write_checkpoint
from dlm.training.filter_file import Inputs, block_inputs, check_inputs


@dataclass(frozen=True)
class Records:
    """One line a step and row.

    Attributes:
        inputs: what the filter is shown of the block. ``[R, n]``
        right: whether the proposal is the token of the answer. ``[R, n]``
        masked: whether the position was open. ``[R, n]``
        inside: whether the block has such a position. ``[R, n]``
        prompt: number of the prompt it comes from; all lines of a prompt are trained on or held out. ``[R]``
    """

    inputs: Float[Tensor, "R n"]
    right: Bool[Tensor, "R n"]
    masked: Bool[Tensor, "R n"]
    inside: Bool[Tensor, "R n"]
    prompt: Int[Tensor, " R"]

    @classmethod
    def cat(cls, parts: Sequence[Records]) -> Records:
        """All lines of several."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in cls.__annotations__))

    def __len__(self) -> int:
        return self.inputs.shape[0]

    def __getitem__(self, where: Bool[Tensor, " R"]) -> Records:
        return Records(*(values[where] for values in vars(self).values()))


@dataclass(frozen=True)
class Portion:
    """Prompts that are decoded together and make one file.

    Attributes:
        name: of the file.
        prompts: as in :func:`dlm.generate`.
        first: number of the first prompt among all.
        max_new_tokens: positions to fill.
    """

    name: str
    prompts: Sequence[Prompt]
    first: int
    max_new_tokens: int


@dataclass(frozen=True)
class Walk:
    """How answers are made and walked towards.

    Attributes:
        model: whose filter it is to be.
        static: makes the sampler of the reference answers; takes ``blocks=``.
        oracle: makes the sampler that knows the answers; takes them, the kind of inputs, ``least=`` and ``blocks=``.
        blocks: a block schedule from its length.
        block_length: the longest block, n.
        shorter: further block lengths, so that the filter knows blocks that are not filled to the end.
        inputs: what the filter is shown.
        levels: one walk each: the oracle commits only what agrees and is at least so sure. 0 is the published walk,
            which is lucky all the way; a filter also meets the states of more careful ones.
        seed: of the samplers.
    """

    model: LanguageModel
    static: Callable[..., Sampler]
    oracle: Callable[..., Sampler]
    blocks: Callable[[int], BlockSchedule]
    block_length: int = 32
    shorter: Sequence[int] = ()
    inputs: Inputs = "masked_probability"
    levels: Sequence[float] = (0.0, 0.6, 0.9)
    seed: int = 0

    def __post_init__(self) -> None:
        check_inputs(self.inputs)
        if not self.levels or any(not 0.0 <= level <= 1.0 for level in self.levels):
            raise SettingsError(f"levels lists probabilities in [0, 1], at least one, got {list(self.levels)}")
        bad = [n for n in (self.block_length, *self.shorter) if type(n) is not int or n < 1]
        if bad or any(n >= self.block_length for n in self.shorter):
            raise SettingsError(
                f"block_length is a whole number of at least 1 and shorter lists smaller ones, got {self.block_length}"
                f" and {list(self.shorter)}"
            )

    @property
    def record(self) -> dict[str, object]:
        """What the files depend on beside their prompts."""
        own = {"block_length": self.block_length, "inputs": self.inputs, "levels": list(self.levels), "seed": self.seed}
        return {"model": self.model.name, **own}


def collect(walk: Walk, portions: Sequence[Portion], folder: Path) -> Iterator[Records]:
    """The records of every portion, in order. What is on disk already is read, everything else made and written,
    each file whole: a run that is killed begins where it stopped.

    Raises:
        SettingsError: the folder holds records of other settings; there is nothing to collect.
        CheckpointError: a file of the folder is damaged.
    """
    if not portions:
        raise SettingsError("there are no prompts to learn from: give data= at least one")
    folder.mkdir(parents=True, exist_ok=True)
    for portion in portions:
        for length in (walk.block_length, *walk.shorter):
            path = folder / f"{portion.name}-{length}.safetensors"
            if path.is_file():
                yield _read(path, _told(walk, portion))
                continue
            records = _walked(walk, portion, length)
            write_checkpoint(path, vars(records), _told(walk, portion))
            yield records


def _told(walk: Walk, portion: Portion) -> dict[str, object]:
    prompts = json.loads(json.dumps([p if isinstance(p, str) else list(p) for p in portion.prompts], default=dict))
    return {**walk.record, "first": portion.first, "max_new_tokens": portion.max_new_tokens, "prompts": prompts}


def _read(path: Path, expected: dict[str, object]) -> Records:
    tensors, told = read_checkpoint(path)
    if told != expected:
        differ = ", ".join(key for key in expected if told.get(key) != expected[key])
        raise SettingsError(f"{path} was collected with other settings ({differ}): give out= another folder")
    if set(tensors) != set(Records.__annotations__) or tensors["inputs"].shape[0] == 0:
        raise CheckpointError(f"{path} holds no records: remove it, and it is made again")
    return Records(**tensors)


def _walked(walk: Walk, portion: Portion, length: int) -> Records:
    """Answer the prompts one position a step, then walk to those answers and note every step."""
    blocks, batch = walk.blocks(length), len(portion.prompts)
    answers = generate(
        walk.model, portion.prompts, sampler=walk.static(blocks=blocks),
        max_new_tokens=portion.max_new_tokens, seed=walk.seed, batch_size=batch,
    )  # fmt: skip
    rows = [answer.prompt_tokens + answer.tokens for answer in answers]
    mask, jobs = walk.model.description.mask_id, []
    for index, answer in enumerate(answers):
        start, end = len(answer.prompt_tokens), len(rows[index])
        open_ = (mask,) * (end - start)
        jobs.append(Job(index, (*answer.prompt_tokens, *open_), start, tuple(range(start, end)), key=0))
    longest = max(len(row) for row in rows)
    known = torch.tensor([[*row, *[-1] * (longest - len(row))] for row in rows])
    parts = []
    for level in walk.levels:
        sampler = walk.oracle(rows, walk.inputs, least=level, blocks=blocks)
        decoder = Decoder(walk.model.backbone, walk.model.description, sampler)
        stuck: set[int] = set()
        for event in decoder.run(jobs, batch, walk.model.device):
            if isinstance(event, StepEvent):
                noted = _noted(event, walk, known, portion.first)
                # Where nothing agreed the next forward shows the same once more, and the answer is written.
                indices = [row.job.index for row in event.rows]
                parts.append(noted[torch.tensor([index not in stuck for index in indices])])
                idle = (~event.chosen.any(dim=1)).tolist()
                stuck = {index for index, nothing in zip(indices, idle, strict=True) if nothing}
    return Records.cat(parts)


def _noted(event: StepEvent, walk: Walk, known: Int[Tensor, "P L"], first: int) -> Records:
    """The lines of one step; prompts are counted from ``first``. The canvas holds its commits already, so what was open
    is read off the view."""
    view, n = event.view, walk.block_length
    open_before = view.on_canvas(view.eligible, False)
    rows = [row.job.index for row in event.rows]
    columns = view.blocks.block_start[:, None] + torch.arange(n, device=view.positions.device)
    inside = columns < view.blocks.block_end[:, None]
    columns = columns.clamp_max(view.canvas.scratch)
    # A committed position that was not scored again holds what it holds.
    tokens = torch.where(open_before, view.on_canvas(view.proposal.token, -1), view.canvas.tokens)
    if walk.inputs == "probability":
        seen = view.on_canvas(view.real, False)
        tokens = torch.where(seen, view.on_canvas(view.proposal.token, -1), tokens)
    proposed = tokens.gather(1, columns).cpu()
    answer = known[rows].gather(1, columns.cpu().clamp_max(known.shape[1] - 1))
    right, masked = (proposed == answer) & inside.cpu(), (open_before.gather(1, columns) & inside).cpu()
    inputs = block_inputs(view, walk.inputs, n, open_before).cpu()
    return Records(inputs, right, masked, inside.cpu(), torch.tensor(rows) + first)
