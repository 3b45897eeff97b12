"""A run small enough to train for a few steps within a test."""

import pytest

from dlm.models import LLaDAConfig
from dlm.training.data import Curriculum, Mixture
from dlm.training.tokenizer import build
from dlm.training.trainer import Recipe, Trainer


@pytest.fixture(scope="session")
def tokenizer():
    return build()


@pytest.fixture(scope="session")
def mixture(tokenizer):
    curriculum = Curriculum({"waiting_line/copy": (1.0, 0.0), "arithmetic/addition": (1.0, 0.5)}, {48: (1.0, 0.0)})
    return Mixture(tokenizer, curriculum, tokens_per_batch=192, seed=3)


@pytest.fixture
def make_trainer(tokenizer, mixture):
    def make(folder, steps=6, **settings):
        config = LLaDAConfig(
            d_model=16,
            n_layers=1,
            n_heads=2,
            mlp_hidden_size=24,
            rope_theta=1000.0,
            max_sequence_length=64,
            vocab_size=len(tokenizer),
            embedding_size=len(tokenizer),
            mask_token_id=tokenizer.mask_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        return Trainer(config, Recipe(steps=steps, warmup_steps=2, **settings), mixture, folder)

    return make
