"""What the bodies made after Qwen's have in common: fields, numbers, names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dlm.models.architecture import Architecture, Names

# What Qwen's checkpoints, and those with a body of their make, call the parts.
QWEN_NAMES = Names(
    embedding="model.embed_tokens", blocks="model.layers", final_norm="model.norm", head="lm_head",
    attention_norm="input_layernorm", query="self_attn.q_proj", key="self_attn.k_proj", value="self_attn.v_proj",
    attention_out="self_attn.o_proj", mlp_norm="post_attention_layernorm", gate="mlp.gate_proj", up="mlp.up_proj",
    down="mlp.down_proj", query_norm="self_attn.q_norm", key_norm="self_attn.k_norm", router="mlp.gate",
    experts="mlp.experts", shared="mlp.shared_experts",
)  # fmt: skip
# As transformers declares a head that may be the embedding.
QWEN_TIED = {"lm_head.weight": "model.embed_tokens.weight"}
QWEN_FIELDS: dict[str, Any] = {
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
    "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu", "max_position_embeddings": 32768,
    "rope_theta": 1e6, "rms_norm_eps": 1e-6, "initializer_range": 0.02, "attention_dropout": 0.0,
    "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28, "tie_word_embeddings": False,
    "mask_token_id": None, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "use_cache": False,
}  # fmt: skip


def qwen_body(config: Any, **changes: Any) -> Architecture:
    """The transformer that the fields of a configuration describe, with what they do not say."""
    plain = Architecture(
        vocab_size=config.vocab_size, width=config.hidden_size, layers=config.num_hidden_layers,
        heads=config.num_attention_heads, kv_heads=config.num_key_value_heads or config.num_attention_heads,
        mlp_width=config.intermediate_size, rope_theta=config.rope_theta, norm_eps=config.rms_norm_eps, qkv_bias=False,
        rotate_full_precision=False, init_std=config.initializer_range, head_dim=getattr(config, "head_dim", 0),
    )  # fmt: skip
    return replace(plain, **changes)
