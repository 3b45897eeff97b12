"""What every model class offers to the decoder, and what it says about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.errors import SettingsError


@runtime_checkable
class Memory(Protocol):
    """Keys and values beside the positions that a forward is fed."""

    def run(self, layer: int, block: Any, x: Float[Tensor, "R T D"], rope: Any, mask: Tensor | None) -> Tensor:
        """The stream after ``block`` (a :class:`dlm.models.block.Block`), the layer's stored keys and values
        included. ``mask`` is over what the feed attends to."""
        ...


@dataclass(frozen=True)
class ModelDescription:
    """Facts a sampler may need about a model; nothing else about the model is visible to it.

    Attributes:
        mask_id: the id that stands for "not decided yet" (0 is a legal value).
        eos_ids: end ids; the first one also fills the rest of a finished answer, an end-of-turn id follows.
        shift: 0 when row ``p`` of the logits scores the token at ``p``, 1 when row ``p - 1`` does (Dream).
        vocab_size: width of the logits.
        valid_vocab: ids from here on have no token (``vocab_size`` when no tokenizer is known).
        context_length: the most positions the model can be fed.
        attention_block: 0: every position sees every other one; n: positions are cut into attention blocks of n from
            position 0 on, and a block sees itself and those before it (block-causal attention).
    """

    mask_id: int
    eos_ids: tuple[int, ...]
    shift: Literal[0, 1]
    vocab_size: int
    valid_vocab: int
    context_length: int
    attention_block: int = 0

    def __post_init__(self) -> None:
        for name, ids in (("mask_token_id", (self.mask_id,)), ("eos_token_id", self.eos_ids)):
            wrong = [i for i in ids if not 0 <= i < self.vocab_size]
            if wrong:
                raise SettingsError(
                    f"{name} {wrong} is outside the vocabulary of {self.vocab_size}; correct config.json"
                )
        if self.mask_id in self.eos_ids:
            raise SettingsError(f"{self.mask_id} is both mask_token_id and eos_token_id; correct config.json")


def sees(
    queries: Int[Tensor, "R T"],
    keys: Int[Tensor, " S"] | Int[Tensor, "R S"],
    attention_block: int,
    valid: Bool[Tensor, "R S"] | None,
) -> Bool[Tensor, "R T S"]:
    """Block-causal attention: a position sees its own attention block and those before it (counted from position 0)."""
    mask = (keys // attention_block)[..., None, :] <= (queries // attention_block)[:, :, None]
    return mask if valid is None else mask & valid[:, None, :]


class Backbone:
    """Position-precise access to a masked diffusion language model.

    A subclass provides ``description``, ``hidden`` and ``head``; which row scores which position is settled here.
    ``layered`` says that ``hidden`` takes a memory; without it the model goes with ``cache=none`` only. ``graphs`` asks
    for steps of fixed shape (:mod:`dlm.engine.static`).
    """

    description: ModelDescription
    layered: bool = False
    compiled: bool = False
    graphs: bool = False
    quantised: str | None = None  # what the matrices of the blocks are kept in, where it is not the model's own format
    weight_count: int | None = None  # where it is not the sum over the parameters

    def compile_blocks(self) -> None:
        """Compile what every layer does; from then on few shapes should be fed (``compiled`` says so)."""
        raise SettingsError("this model has no layers that could be compiled: leave compile off")

    def hidden(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"] | None = None,
        valid: Bool[Tensor, "B S"] | Bool[Tensor, "B T S"] | None = None,
        memory: Memory | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Hidden states after the final norm.

        Args:
            tokens: the fed tokens.
            positions: their absolute positions, in any order; None means ``0 .. T-1``.
            valid: which of the S tokens that are looked at may be attended to, by all or (three axes) from query to
                key; None means all. Without a memory they are the fed ones.
            memory: keys and values of positions that are not fed, and where those of the fed ones go.
        """
        raise NotImplementedError

    def attentive(
        self,
        tokens: Int[Tensor, "B T"],
        positions: Int[Tensor, "B T"] | None = None,
        valid: Bool[Tensor, "B T"] | Bool[Tensor, "B T T"] | None = None,
        last: int = 4,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T T"]]:
        """As :meth:`hidden`, with the attention from query to key, mean over the heads of the ``last`` layers."""
        raise SettingsError("this model does not show its attention, which the sampler needs: choose another sampler")

    def head(self, rows: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """Logits of hidden rows, in the model's dtype."""
        raise NotImplementedError

    def source(self, wanted: Int[Tensor, "B N"]) -> Int[Tensor, "B N"]:
        """The positions whose rows score the tokens at ``wanted``: their own, or those before them (Dream)."""
        return (wanted - self.description.shift).clamp_min(0)

    def logit_rows(
        self, hidden: Float[Tensor, "B T D"], positions: Int[Tensor, "B T"] | None, wanted: Int[Tensor, "B N"]
    ) -> Float[Tensor, "B N D"]:
        """The hidden rows whose logits score the tokens at absolute positions ``wanted``.

        A shifted model (Dream) answers position ``p`` from row ``p - 1``, and position 0 from its own row.
        The row asked for must have been fed: SettingsError on the CPU; not checked on a GPU, where a check
        would wait for the device. Of several fed entries with one position, the first answers.
        """
        source = self.source(wanted)
        columns = source if positions is None else _columns_of(source, positions)
        return hidden.gather(1, columns[..., None].expand(-1, -1, hidden.shape[-1]))


def _columns_of(source: Int[Tensor, "B N"], positions: Int[Tensor, "B T"]) -> Int[Tensor, "B N"]:
    """The column in which each position of ``source`` was fed."""
    ordered, order = positions.sort(dim=1, stable=True)
    place = torch.searchsorted(ordered, source.contiguous()).clamp_max(positions.shape[1] - 1)
    if source.device.type == "cpu" and not torch.equal(ordered.gather(1, place), source):
        raise SettingsError(
            "logits were asked for positions whose rows were not fed; feed them too (a shifted model answers "
            "position p from row p - 1)"
        )
    return order.gather(1, place)
