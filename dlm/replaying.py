"""Log-probabilities of a decode after the fact, each token's at the step that committed it, with gradients if wanted.

What reinforcement learning over decoding trajectories needs of a rollout: the same model, or the one under training, is
shown every state of the row again, and asked about the tokens that were committed from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from dlm.api import Generation
from dlm.engine.proposal import wide
from dlm.errors import PromptError, SettingsError
from dlm.models.backbone import sees
from dlm.models.language_model import LanguageModel


@dataclass(frozen=True)
class Trajectory:
    """A decode without its model.

    Attributes:
        prompt, tokens: ids of the prompt, and of all generated positions.
        commit_step: the step that committed each of ``tokens``, from 0; -1: none did, it was given.
        stopped: whether those of -1 behind the last commit were written by a stop rule, and were masks until then.
        states: the whole row before each step, where tokens were taken back in between; None: what follows from
            ``commit_step``.
    """

    prompt: Sequence[int]
    tokens: Sequence[int]
    commit_step: Sequence[int]
    stopped: bool = False
    states: Sequence[Sequence[int]] | None = None

    @classmethod
    def of(cls, run: Generation) -> Trajectory:
        """That of an answer. With its trace (``record="commits"``) samplers that take tokens back can be replayed too:
        the last commit of a position counts."""
        if run.counts.accepted_drafts:
            raise SettingsError("a drafted run cannot be replayed: tokens of one step saw different states; draft none")
        states = None if run.trace is None else list(run.trace.replay())
        return cls(run.prompt_tokens, run.tokens, run.commit_step, ended(run.stop, run.commit_step, states), states)


def ended(stop: str | None, steps: Sequence[int], states: Any) -> bool:
    """Whether the end of an answer was filled by a stop rule or string. Raises SettingsError: so was more of it than
    its end, and nothing says which."""
    last = max((place for place, step in enumerate(steps) if step >= 0), default=-1)
    if stop == "stop_string" and states is None and -1 in steps[:last]:
        raise SettingsError(
            'an answer that ended at a stop string with open positions is replayed with its trace: record="commits"'
        )
    return stop in ("end_token", "stop_string")


class Replayed(NamedTuple):
    """What a replay says.

    Attributes:
        log_probs: of each generated token at the step that committed it, in nats; 0 where none did. ``[B, N]``
        committed: where a step did. ``[B, N]``
        forwards: rows that were fed: one for every step of every row.
    """

    log_probs: Float[Tensor, "B N"]
    committed: Bool[Tensor, "B N"]
    forwards: int


class State(NamedTuple):
    """A row as the model is shown it, and what it is asked about there.

    Attributes:
        row: number of the run.
        canvas: ids of prompt and answer, with masks.
        places: generated positions that are asked about.
        tokens: and for which tokens.
        weight: what the log-probabilities count.
    """

    row: int
    canvas: list[int]
    places: list[int]
    tokens: list[int]
    weight: float = 1.0


def replay(
    model: LanguageModel,
    runs: Sequence[Generation | Trajectory],
    *,
    micro_batch: int = 32,
    gradients: bool = False,
    checkpoint: bool = False,
) -> Replayed:
    """Ask the model again about every step of some runs.

    Equal to what the rollout saw (``Generation.confidence`` is their exponential) for samplers without guidance, logit
    transforms or a truncated distribution, and caches that are exact; what a stop rule hid from the model while the row
    went on (``stop_at_end=decoded`` and its like) is a mask here.

    Args:
        model: any model with the same tokens; for gradients ``dlm.load(..., trainable=True)``, or a
            ``LanguageModel(module, tokenizer, name)`` around a module under training.
        runs: answers of :func:`dlm.generate`, or :class:`Trajectory`.
        micro_batch: states that are fed at a time.
        gradients: keep the graph.
        checkpoint: compute every micro-batch again in the backward pass instead of keeping its activations.

    Raises:
        SettingsError: gradients of a model without trainable weights; a drafted run; a ``micro_batch`` below 1.
        PromptError: a trajectory that does not fit the model or itself; the row is named.
    """
    if micro_batch < 1:
        raise SettingsError(f"micro_batch must be at least 1, got {micro_batch}")
    weights = list(model.backbone.parameters())  # type: ignore[attr-defined]
    if gradients and not any(weight.requires_grad for weight in weights):
        raise SettingsError("gradients=True, but no weight wants one: load the model with trainable=True")
    rows = [run if isinstance(run, Trajectory) else Trajectory.of(run) for run in runs]
    states = [state for number, row in enumerate(rows) for state in _states(model, number, row)]
    log_probs = ask(model, rows, states, micro_batch, gradients, checkpoint)
    committed = torch.zeros_like(log_probs, dtype=torch.bool)
    for state in states:
        committed[state.row, state.places] = True
    return Replayed(log_probs, committed, len(states))


def ask(
    model: LanguageModel,
    rows: Sequence[Trajectory],
    states: Sequence[State],
    micro_batch: int = 32,
    gradients: bool = False,
    checkpoint: bool = False,
) -> Float[Tensor, "B N"]:
    """The sum over some states of weight x log-probability, for every generated token of the rows, in nats; 0 where no
    state asks. The arguments are those of :func:`replay`."""
    # Rows of a micro-batch are about as long.
    states = sorted((state for state in states if state.places), key=lambda state: len(state.canvas))
    most = max((len(row.tokens) for row in rows), default=0)
    where, parts = [], []
    with torch.set_grad_enabled(gradients):
        for first in range(0, len(states), micro_batch):
            part = states[first : first + micro_batch]
            inputs = _Inputs.of(model, rows, part)
            if checkpoint and gradients:
                parts.append(recomputed(_told, model, *inputs, use_reentrant=False))
            else:
                parts.append(_told(model, *inputs))
            where += [state.row * most + place for state in part for place in state.places]
        told = torch.cat(parts) if parts else torch.zeros(0, device=model.device)
        flat = torch.zeros(len(rows) * most, dtype=told.dtype, device=told.device)
        at = torch.tensor(where, dtype=torch.long, device=told.device)
        return flat.index_put((at,), told, accumulate=True).view(len(rows), most)


def _states(model: LanguageModel, number: int, row: Trajectory) -> Iterator[State]:
    """The row before each of its steps."""
    about, steps = model.description, list(row.commit_step)
    if len(steps) != len(row.tokens):
        raise PromptError(f"run {number}: {len(row.tokens)} tokens, but {len(steps)} steps")
    ids = [*row.prompt, *row.tokens]
    if any(not 0 <= token < about.vocab_size for token in ids) or about.mask_id in row.tokens:
        raise PromptError(f"run {number}: it has tokens that this model has none of, or masks that nothing filled")
    last = max(steps, default=-1)
    missing = sorted({*range(last + 1)} - {*steps})
    if missing and row.states is None:
        raise PromptError(
            f"run {number}: no token is of step {missing[0]} of {last + 1}: a step map has no holes; where tokens were"
            ' taken back generate with record="commits"'
        )
    if row.states is not None and len(row.states) <= last:
        raise PromptError(f"run {number}: {len(row.states)} states for {last + 1} steps")
    if about.attention_block and len(ids) % about.attention_block:
        raise PromptError(
            f"run {number}: it ends inside an attention block, whose rest was filled and is not known: let prompt and"
            f" answer together have a multiple of {about.attention_block} positions"
        )
    filled = max((place for place, step in enumerate(steps) if step >= 0), default=-1) if row.stopped else len(steps)
    for now in sorted({*steps} - {-1}):
        if row.states is not None:
            canvas = list(row.states[now])
        else:
            shown = [
                token if step < now and (step >= 0 or place < filled) else about.mask_id
                for place, (token, step) in enumerate(zip(row.tokens, steps, strict=True))
            ]
            canvas = [*row.prompt, *shown]
        places = [place for place, step in enumerate(steps) if step == now]
        yield State(number, canvas, places, [row.tokens[place] for place in places])


class _Inputs(NamedTuple):
    """A micro-batch: what is fed, who sees whom, and the entries (row, position) whose tokens are asked about."""

    tokens: Int[Tensor, "R T"]
    valid: Bool[Tensor, "R S"] | Bool[Tensor, "R T S"]
    row: Int[Tensor, " P"]
    position: Int[Tensor, " P"]
    target: Int[Tensor, " P"]
    weight: Float[Tensor, " P"]

    @classmethod
    def of(cls, model: LanguageModel, rows: Sequence[Trajectory], part: Sequence[State]) -> _Inputs:
        """Rows of unequal length, padded on the right."""
        about, width = model.description, max(len(state.canvas) for state in part)
        lengths = torch.tensor([len(state.canvas) for state in part])
        tokens = torch.tensor([state.canvas + [0] * (width - len(state.canvas)) for state in part])
        columns = torch.arange(width)
        valid = columns < lengths[:, None]
        if about.attention_block:
            valid = sees(columns.expand(len(part), width), columns, about.attention_block, valid)
        asked = [
            (n, len(rows[state.row].prompt) + place, token)
            for n, state in enumerate(part)
            for place, token in zip(state.places, state.tokens, strict=True)
        ]
        row, position, target = torch.tensor(asked).T
        weight = torch.tensor([state.weight for state in part], dtype=torch.float64)[row]
        made = (tokens, valid, row, (position - about.shift).clamp_min(0), target)
        tokens, valid, row, position, target = (x.to(model.device) for x in made)
        return cls(tokens, valid, row, position, target, weight)


def _told(
    model: LanguageModel, tokens: Tensor, valid: Tensor, row: Tensor, position: Tensor, target: Tensor, weight: Tensor
) -> Tensor:
    """Log-probabilities of the targets, each times its weight. ``[P]``"""
    hidden = model.backbone.hidden(tokens, None, valid)
    logits = wide(model.backbone.head(hidden[row, position]))
    return logits.log_softmax(dim=1).gather(1, target[:, None]).squeeze(1) * weight.to(logits)
