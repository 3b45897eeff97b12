"""Test models: one whose logits are a fixed table, and small random ones of the real architectures."""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from torch import Tensor

from dlm.models import DreamConfig, DreamModel, LLaDAConfig, LLaDAModelLM, ModelDescription
from dlm.models.backbone import Backbone
from dlm.training.policy_file import Policy

# Frozen probabilities of six positions over A, B, C, D: the worked examples of tests/samplers are decoded over them.
T6 = [
    [0.92, 0.05, 0.02, 0.01],
    [0.38, 0.60, 0.01, 0.01],
    [0.30, 0.25, 0.24, 0.21],
    [0.02, 0.02, 0.95, 0.01],
    [0.15, 0.15, 0.15, 0.55],
    [0.46, 0.52, 0.01, 0.01],
]


class TableBackbone(Backbone):
    """Logits that depend on the position alone. The first row of the table scores position 1 (a one-token prompt
    comes first); the mask id is the last id and has no probability."""

    def __init__(self, table: list[list[float]]) -> None:
        self.table = _logits(table)
        width = self.table.shape[1]
        self.description = ModelDescription(width - 1, (0,), 0, width, width, 4096)
        self.calls = 0

    def hidden(self, tokens: Tensor, positions: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        self.calls += 1
        if positions is None:
            positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        return positions[..., None].double()

    def head(self, rows: Tensor) -> Tensor:
        return self.table[rows[..., 0].long()].clone()


class ScriptedBackbone(TableBackbone):
    """A table for every forward, the last one for all that follow; for batches of one row.

    ``shadows``: for every forward the probabilities that shadow slots give to token 0, by position. ``attention``: the
    map of every forward, from query to key.
    """

    def __init__(
        self,
        tables: list[list[list[float]]],
        shadows: list[list[float]] | None = None,
        attention: Tensor | None = None,
    ) -> None:
        super().__init__(tables[0])
        self.own, self.attention = self.table.shape[0], attention
        slots = shadows or [[0.5] * len(table) for table in tables]
        self.tables = torch.stack(
            [torch.cat([_logits(t), _fitted(s, self.table)]) for t, s in zip(tables, slots, strict=True)]
        )

    def hidden(self, tokens: Tensor, positions: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        rows, fed = tokens.shape
        line = torch.arange(fed).expand(rows, fed) if positions is None else positions.clone()
        if fed > self.own:  # the row, then shadow slots
            assert valid is not None and valid.shape == (rows, fed, fed)
            assert (tokens[:, self.own :] == self.description.mask_id).all()
            line[:, self.own :] += self.own
        return torch.stack([self.which(tokens)[:, None].expand(rows, fed), line], dim=2).double()

    def which(self, tokens: Tensor) -> Tensor:
        """The table each row is answered from."""
        self.calls += 1
        return torch.full((tokens.shape[0],), min(self.calls, len(self.tables)) - 1)

    def head(self, rows: Tensor) -> Tensor:
        return self.tables[rows[..., 0].long(), rows[..., 1].long()].clone()

    def attentive(
        self, tokens: Tensor, positions: Tensor | None = None, valid: Tensor | None = None, last: int = 4
    ) -> tuple[Tensor, Tensor]:
        assert self.attention is not None
        return self.hidden(tokens, positions, valid), self.attention.expand(tokens.shape[0], -1, -1)


class StatefulBackbone(ScriptedBackbone):
    """A table for every set of generated positions that hold a token; rows of a batch may differ."""

    def __init__(self, tables: dict[frozenset[int], list[list[float]]]) -> None:
        super().__init__(list(tables.values()))
        self.filled = list(tables)

    def which(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        visible = (tokens[:, 1:] != self.description.mask_id).tolist()
        return torch.tensor([self.filled.index(frozenset(i for i, v in enumerate(row) if v)) for row in visible])


def _logits(table: list[list[float]]) -> Tensor:
    """A line for the prompt, a line for each position of the table, and a last column for the mask id."""
    logits = torch.nn.functional.pad(torch.tensor(table, dtype=torch.float64).log().clamp_min(-1e9), (0, 1), value=-1e9)
    return torch.cat([torch.zeros(1, logits.shape[1], dtype=torch.float64), logits])


def _fitted(confidences: list[float], like: Tensor) -> Tensor:
    """Lines with these probabilities of token 0, for a vocabulary as wide as another table's."""
    spread = like.shape[1] - 2
    return _logits([[c] + [(1 - c) / spread] * spread for c in confidences])


def wrap(backbone: Backbone) -> SimpleNamespace:
    """What dlm.generate needs of a language model, without a tokenizer."""
    return SimpleNamespace(
        backbone=backbone,
        description=backbone.description,
        tokenizer=None,
        device=torch.device("cpu"),
        dtype=torch.float64,
        name="double",
    )


def table_model(probs: list[list[float]]) -> SimpleNamespace:
    """A frozen model over the given probabilities."""
    return wrap(TableBackbone(probs))


def scripted_model(
    tables: list[list[list[float]]], shadows: list[list[float]] | None = None, attention: Tensor | None = None
) -> SimpleNamespace:
    """A model whose answers follow a script, see :class:`ScriptedBackbone`."""
    return wrap(ScriptedBackbone(tables, shadows, attention))


def confidence_table(confidences: list[float]) -> list[list[float]]:
    """Rows whose best token has the given probability; the rest is spread so thin that it never wins."""
    spread = 400
    return [[c] + [(1 - c) / spread] * spread for c in confidences]


def proposal_table(proposals: list[tuple[int, float]]) -> list[list[float]]:
    """The same with the best token chosen for every position."""
    return [[c if v == token else (1 - c) / 400 for v in range(401)] for token, c in proposals]


def random_llada(
    seed: int = 0, dtype: torch.dtype = torch.float64, vocab: int = 40, layers: int = 2, kv_heads: int = 2
) -> SimpleNamespace:
    """A two-layer LLaDA with random weights, large enough that its distributions are far from uniform."""
    torch.manual_seed(seed)
    config = LLaDAConfig(
        d_model=32, n_layers=layers, n_heads=4, n_kv_heads=kv_heads, mlp_hidden_size=48, vocab_size=vocab,
        embedding_size=vocab, max_sequence_length=256, rope_theta=1000.0, mask_token_id=vocab - 1,
        eos_token_id=vocab - 2, pad_token_id=vocab - 2,
    )  # fmt: skip
    return wrap(_peaked(LLaDAModelLM(config)).to(dtype))


def random_dream(
    seed: int = 0, dtype: torch.dtype = torch.float64, vocab: int = 40, layers: int = 2
) -> SimpleNamespace:
    """The same for Dream: biases, grouped queries, shifted logits."""
    torch.manual_seed(seed)
    config = DreamConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=vocab, max_position_embeddings=256, rope_theta=1000.0, mask_token_id=vocab - 1,
        eos_token_id=vocab - 2, pad_token_id=vocab - 2, bos_token_id=vocab - 2,
    )  # fmt: skip
    return wrap(_peaked(DreamModel(config)).to(dtype))


def _peaked(model: torch.nn.Module) -> torch.nn.Module:
    """Random weights wide enough that the softmax is not flat."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                scale = 6.0 if name.endswith(("transformer.ff_out.weight", "lm_head.weight")) else 1.5
                weight.normal_(0, scale / math.sqrt(weight.shape[1]))
    return model.eval()


def one_layer() -> SimpleNamespace:
    """A model whose keys depend on their token alone, so that a stored one can only be wrong by its token."""
    torch.manual_seed(2)
    config = LLaDAConfig(
        d_model=32, n_layers=1, n_heads=4, mlp_hidden_size=48, vocab_size=40, embedding_size=40,
        max_sequence_length=64, rope_theta=1000.0, mask_token_id=39, eos_token_id=38, pad_token_id=38,
    )  # fmt: skip
    return wrap(LLaDAModelLM(config).double().eval())


def wild_policy() -> Policy:
    """A random policy that goes by everything it is shown, its neighbours above all, and says yes as often as no."""
    noise, wild = torch.Generator().manual_seed(3), ("head", "qkv", "in")
    return Policy(
        {
            name: w + torch.randn(w.shape, generator=noise, dtype=w.dtype) / (2 if name in wild else 4)
            for name, w in Policy.fresh(0.3).weights.items()
        }
    )
