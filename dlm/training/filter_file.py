"""The learned filter of Learn2PD (arXiv 2509.25188): what it is shown, and the file it is kept in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args

import torch
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import linear

from dlm.engine.proposal import Statistic
from dlm.engine.step import StepView
from dlm.errors import CheckpointError, SettingsError
from dlm.files import whole
from dlm.words import not_among

Inputs = Literal["probability", "negative_entropy", "masked_probability"]
FORMAT = "dlm learn2pd filter"


class Carded(Protocol):
    """Something trained, with what is known about its making."""

    @property
    def card(self) -> Mapping[str, Any]: ...


Made = TypeVar("Made", bound=Carded)
_KEYS = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")


def check_inputs(inputs: str) -> None:
    """Raise SettingsError for a kind of inputs that nobody knows."""
    if inputs not in get_args(Inputs):
        raise SettingsError(not_among("inputs", inputs, get_args(Inputs)))


def needs_of(inputs: Inputs) -> frozenset[Statistic]:
    """Statistics of the proposal that a kind of inputs is made of, beyond the probability."""
    return frozenset({"entropy"}) if inputs == "negative_entropy" else frozenset()


def block_inputs(view: StepView, inputs: Inputs, length: int, masked: Bool[Tensor, "B W"]) -> Float[Tensor, "B length"]:
    """The confidences of the active block in position order, zeros behind a block that is shorter than ``length``.

    ``probability``: of the best token, at committed positions too, where it says how sure the model still is (LLaDA's
    filter; 1 where the forward did not show a committed position). ``negative_entropy``: in nats, 0 at committed
    positions (Dream's). ``masked_probability``: as the first, but 1 at every committed position, so that none of them
    has to be scored again (ours). ``masked``: what was open at the forward; an open position it did not show counts 0.

    What a stop rule has cut away counts as committed, in ``probability`` as missing, as published.
    """
    blocks, proposal = view.blocks, view.proposal
    if inputs == "negative_entropy":
        assert proposal.entropy is not None
        values, unseen = -proposal.entropy.float(), torch.zeros_like(masked, dtype=torch.float32)
    else:
        values, unseen = proposal.prob.float(), (~masked).float()
    if inputs != "probability":
        values = torch.where(masked.gather(1, view.positions), values, unseen.gather(1, view.positions))
    laid = unseen.scatter_(1, view.positions, values)
    columns = blocks.block_start[:, None] + torch.arange(length, device=laid.device)
    inside = columns < (blocks.block_end if inputs == "probability" else blocks.opened_end)[:, None]
    return laid.gather(1, columns.clamp_max(view.canvas.scratch)) * inside


@dataclass(frozen=True, eq=False)
class Filter:
    """A network of two layers: n confidences of a block in, n logits "this proposal is final" out.

    Attributes:
        weight1, bias1: of the hidden layer, with ReLU behind it. ``[H, n]``, ``[H]``
        weight2, bias2: of the output. ``[n, H]``, ``[n]``
        inputs: what it is shown, see :func:`block_inputs`.
        threshold: from which probability its training advises to commit; None when nobody has chosen one.
        card: what is known about its making, as plain values.

    Raises:
        SettingsError: layers that do not fit each other, values that are no numbers, unknown inputs.
    """

    weight1: Float[Tensor, "H n"]
    bias1: Float[Tensor, " H"]
    weight2: Float[Tensor, "n H"]
    bias2: Float[Tensor, " n"]
    inputs: Inputs = "probability"
    threshold: float | None = None
    card: Mapping[str, Any] = field(default_factory=dict)
    _placed: dict[torch.device, tuple[Tensor, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_inputs(self.inputs)
        if self.weight1.dim() != 2:
            raise SettingsError(f"a filter's first weight has two axes, got {list(self.weight1.shape)}")
        hidden, n = self.weight1.shape
        found = [list(w.shape) for w in self.weights]
        if found != [[hidden, n], [hidden], [n, hidden], [n]]:
            raise SettingsError(f"the layers of the filter do not fit each other: {found}; make it anew")
        if not all(bool(w.isfinite().all()) for w in self.weights):
            raise SettingsError("the filter holds values that are no finite numbers: train it again")

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The four tensors, as in the file."""
        return self.weight1, self.bias1, self.weight2, self.bias2

    @property
    def block_length(self) -> int:
        """The longest block it can judge."""
        return self.weight1.shape[1]

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(weight.numel() for weight in self.weights)

    def __call__(self, confidences: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
        """Logits; above 0 it takes the proposal for final with more than even odds."""
        device = confidences.device
        if device not in self._placed:
            self._placed[device] = tuple(weight.to(device, torch.float32) for weight in self.weights)
        return logits_of(self._placed[device], confidences.float())

    @classmethod
    def of_threshold(cls, threshold: float, block_length: int = 32, slope: float = 1000.0) -> Filter:
        """The filter that says yes where a probability is above ``threshold``, and knows nothing else; for tests and
        comparisons."""
        eye, zeros = torch.eye(block_length), torch.zeros(block_length)
        return cls(eye, zeros, slope * eye, zeros - slope * threshold, "masked_probability", 0.5)


def logits_of(weights: Sequence[Tensor], confidences: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    """What the two layers make of confidences; weights as in :attr:`Filter.weights`."""
    hidden = torch.relu(linear(confidences, weights[0], weights[1]))
    return linear(hidden, weights[2], weights[3])


def write_filter(path: Path, filter: Filter) -> None:
    """Write the file; it appears complete or stays as it was."""
    record = {**filter.card, "format": FORMAT, "inputs": filter.inputs, "threshold": filter.threshold}
    write_weights(path, dict(zip(_KEYS, filter.weights, strict=True)), record)


def write_weights(path: Path, weights: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write tensors in float32, and a record of plain values; the file appears complete or stays as it was."""
    # One entry only: safetensors writes several in any order, and equal filters are to be equal files.
    metadata = {"card": json.dumps(dict(record), sort_keys=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        save_file({key: weight.float().contiguous() for key, weight in weights.items()}, partial, metadata=metadata)


def read_weights(path: Path | str, keys: Sequence[str], what: str, maker: str) -> tuple[list[Tensor], dict[str, Any]]:
    """Tensors by name and the record that :func:`write_weights` wrote beside them; other tensors are left alone.

    Raises:
        CheckpointError: there is no such file, or one of the tensors is missing. ``what`` and ``maker`` are said.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"there is no {what} {path}: `{maker}` makes one")
    try:
        with safe_open(path, framework="pt") as file:
            card = dict(json.loads((file.metadata() or {}).get("card", "{}")))
            return [file.get_tensor(key) for key in keys], card
    except (SafetensorError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} holds no {what} ({error}): `{maker}` makes one") from error


def read_filter(path: Path | str, inputs: Inputs | None = None) -> Filter:
    """What :func:`write_filter` wrote, or any safetensors file with fc1 and fc2.

    Args:
        path: the file.
        inputs: what it is shown, for a file that does not say; one that does must say the same.

    Raises:
        CheckpointError: there is no such file, or it holds no filter.
        SettingsError: the file was trained on other inputs.
    """
    tensors, card = read_weights(path, _KEYS, "filter", "dlm train-filter")
    card.pop("format", None)
    recorded, threshold = card.pop("inputs", None), card.pop("threshold", None)
    if inputs is not None and recorded is not None and inputs != recorded:
        raise SettingsError(f"{path} was trained on inputs={recorded}, not {inputs}: leave inputs=null")
    weight1, bias1, weight2, bias2 = tensors
    return Filter(weight1, bias1, weight2, bias2, recorded or inputs or "probability", threshold, card)


def vocabulary_of(tokenizer: Any) -> str:
    """A short name of a vocabulary, equal for equal tokens and ids; empty when there is no tokenizer."""
    if tokenizer is None:
        return ""
    tokens = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:16]


def packaged(folder: Path, read: Callable[[Path], Made], tokenizer: Any) -> Made | None:
    """The file of a folder that was trained on a model with this vocabulary; None: there is none."""
    vocabulary = vocabulary_of(tokenizer)
    made = (read(path) for path in sorted(folder.glob("*.safetensors")) if vocabulary)
    return next((one for one in made if one.card.get("vocabulary") == vocabulary), None)
