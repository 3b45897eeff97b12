"""How likely a model finds an answer: three estimators of the log-probabilities of its tokens, over the same inputs.

They differ in what the model is shown when it is asked about a token. ``trajectory`` shows what the rollout showed
(CJ-GRPO), ``full`` an answer of masks only behind a prompt with some (diffu-GRPO, d1, arXiv 2504.12216), ``coupled`` a
random part of the answer and its complement, and masks only (coupled-GRPO, DiffuCoder, arXiv 2506.20639).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dlm.errors import SettingsError
from dlm.models.language_model import LanguageModel
from dlm.replaying import State, Trajectory, ask, replay
from dlm.words import not_among

Estimator = Literal["trajectory", "full", "coupled"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)


def log_probs(
    model: LanguageModel,
    rows: Sequence[Trajectory],
    estimator: Estimator = "trajectory",
    seed: int = 0,
    *,
    micro_batch: int = 32,
    gradients: bool = False,
    checkpoint: bool = False,
) -> Float[Tensor, "B N"]:
    """Estimated log-probabilities of the generated tokens, in nats; 0 where the estimator does not ask.

    Args:
        model: as :func:`dlm.replay` takes it.
        rows: decoded answers.
        estimator: see the module. ``full`` and ``coupled`` draw masks; the old, the new and the reference model must be
            asked with the same ``seed``.
        seed: of the masks. Those of a row depend on it and on the row's number.
        micro_batch, gradients, checkpoint: as in :func:`dlm.replay`.

    Raises:
        SettingsError: an unknown estimator; what :func:`dlm.replay` refuses.
        PromptError: a trajectory that does not fit the model or itself.
    """
    if estimator == "trajectory":
        told = replay(model, rows, micro_batch=micro_batch, gradients=gradients, checkpoint=checkpoint)
        return told.log_probs
    makers: dict[str, Callable[[int, int, Trajectory, int], Iterator[State]]] = {"full": _full, "coupled": _coupled}
    if estimator not in makers:
        raise SettingsError(not_among("estimator", estimator, ESTIMATORS))
    mask = model.description.mask_id
    if model.description.attention_block:
        raise SettingsError(
            f"estimator={estimator} masks whole answers, which a block model never sees: use trajectory"
        )
    states = [state for number, row in enumerate(rows) for state in makers[estimator](mask, number, row, seed)]
    return ask(model, rows, states, micro_batch, gradients, checkpoint)


def counted(rows: Sequence[Trajectory], end_ids: Sequence[int] = ()) -> Bool[Tensor, "B N"]:
    """Which tokens count: those that a step committed, up to and with the first of ``end_ids``."""
    most = max((len(row.tokens) for row in rows), default=0)
    counts = torch.zeros(len(rows), most, dtype=torch.bool)
    for number, row in enumerate(rows):
        ends = [place for place, token in enumerate(row.tokens) if token in end_ids]
        for place in range((ends[0] + 1) if ends else len(row.tokens)):
            counts[number, place] = row.commit_step[place] >= 0
    return counts


def _full(mask: int, number: int, row: Trajectory, seed: int, share: float = 0.15) -> Iterator[State]:
    """One state: the answer masked, and each token of the prompt with probability ``share``."""
    hidden = torch.rand(len(row.prompt), generator=_noise(seed, number)) < share
    prompt = [mask if hide else token for token, hide in zip(row.prompt, hidden.tolist(), strict=True)]
    yield _state(number, prompt, row, [True] * len(row.tokens), mask)


def _coupled(
    mask: int, number: int, row: Trajectory, seed: int, low: float = 0.2, high: float = 0.8
) -> Iterator[State]:
    """Three states: the answer masked, a random part of it, and the rest; a token is asked for in the first and in one
    of the others, each by half, the latter over the share t that is masked there. Of a constant log-probability l the
    mean is 1.5 l: an estimate for ratios, no likelihood."""
    t = low + (high - low) * float(torch.rand((), generator=_noise(seed, -1)))  # of all rows
    drawn = (torch.rand(len(row.tokens), generator=_noise(seed, number)) < t).tolist()
    yield _state(number, row.prompt, row, [True] * len(row.tokens), mask, 0.5)
    yield _state(number, row.prompt, row, drawn, mask, 0.5 / t)
    yield _state(number, row.prompt, row, [not one for one in drawn], mask, 0.5 / (1 - t))


def _state(
    number: int, prompt: Sequence[int], row: Trajectory, masked: Sequence[bool], mask: int, weight: float = 1.0
) -> State:
    """What a model is shown where some tokens of the answer are masked, and asked about those a step committed."""
    answer = [mask if hide else token for token, hide in zip(row.tokens, masked, strict=True)]
    places = [place for place, hide in enumerate(masked) if hide and row.commit_step[place] >= 0]
    return State(number, [*prompt, *answer], places, [row.tokens[place] for place in places], weight)


def _noise(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 1_000_003 + number + 1)
