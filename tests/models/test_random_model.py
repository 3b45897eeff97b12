"""Random models for measurements: the right shape, quickly, from a seed."""

from __future__ import annotations

import pytest
import torch

from dlm.errors import SettingsError
from dlm.models import DreamConfig, LLaDAConfig, random_model
from tests.models.small import tokens

SHAPE = {"d_model": 32, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 64}


def test_a_public_vocabulary_brings_its_ids() -> None:
    model = random_model(LLaDAConfig(**SHAPE), device="cpu")
    assert model.description.mask_id == 126336
    assert model.description.eos_ids == (126081,)
    assert model.tokenizer is None


def test_other_vocabularies_get_their_last_ids() -> None:
    description = random_model(LLaDAConfig(**SHAPE, vocab_size=50), device="cpu").description
    assert (description.mask_id, description.eos_ids) == (49, (48,))
    kept = LLaDAConfig(**SHAPE, vocab_size=50, mask_token_id=0, eos_token_id=1)
    assert random_model(kept, device="cpu").description.mask_id == 0


def test_equal_seeds_give_equal_weights_at_the_initial_scale() -> None:
    config = DreamConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, intermediate_size=64,
        vocab_size=500,
    )  # fmt: skip
    models = [random_model(config, device="cpu", dtype="bfloat16", seed=seed).backbone for seed in (1, 1, 2)]
    logits = [model(tokens(1, 6)).logits for model in models]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])
    assert logits[0].isfinite().all()
    assert float(models[0].model.embed_tokens.weight.float().std()) == pytest.approx(0.02, rel=0.05)
    assert not models[0].state_dict()["model.layers.0.self_attn.q_proj.bias"].any()


def test_unknown_shape() -> None:
    with pytest.raises(SettingsError, match="llada-8b, dream-7b"):
        random_model("llada-9b")
