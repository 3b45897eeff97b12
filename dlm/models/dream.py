"""Dream (Ye et al., arXiv 2508.15487): v0 Base and Instruct, Dream-Coder, DiffuCoder (arXiv 2506.20639)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from dlm.models.architecture import Architecture, Names
from dlm.models.masked_lm import MaskedLM, MaskedLMConfig


class DreamConfig(MaskedLMConfig):
    """Fields of the public Dream config.json; the defaults are Dream-v0-Instruct-7B's."""

    model_type = "Dream"
    rope_scaling = None  # a plain field of Dream's, not transformers' alias of rope_parameters
    fields: ClassVar[dict[str, Any]] = {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "hidden_act": "silu", "max_position_embeddings": 131072,
        "rope_theta": 1e6, "rope_scaling": None, "rms_norm_eps": 1e-6, "initializer_range": 0.02,
        "attention_dropout": 0.0, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28,
        "tie_word_embeddings": False, "mask_token_id": None, "bos_token_id": None, "eos_token_id": None,
        "pad_token_id": None, "use_cache": False,
    }  # fmt: skip
    required: ClassVar[dict[str, tuple[Any, ...]]] = {
        "hidden_act": ("silu",), "use_sliding_window": (False,),
    }  # fmt: skip
    spellings: ClassVar[dict[str, str]] = {
        "d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads", "mlp_hidden_size": "intermediate_size",
        "max_sequence_length": "max_position_embeddings", "weight_tying": "tie_word_embeddings",
    }  # fmt: skip
    public_ids: ClassVar[dict[int, dict[str, int]]] = {
        152064: {"mask_token_id": 151666, "eos_token_id": 151643, "bos_token_id": 151643, "pad_token_id": 151643}
    }
    shift: ClassVar[Literal[0, 1]] = 1

    # transformers writes a dataclass constructor into every subclass that has none of its own
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def _architecture(self) -> Architecture:
        return Architecture(
            vocab_size=self.vocab_size, width=self.hidden_size, layers=self.num_hidden_layers,
            heads=self.num_attention_heads, kv_heads=self.num_key_value_heads or self.num_attention_heads,
            mlp_width=self.intermediate_size, rope_theta=self.rope_theta, norm_eps=self.rms_norm_eps, qkv_bias=True,
            rotate_full_precision=False, init_std=self.initializer_range,
        )  # fmt: skip


class DreamModel(MaskedLM):
    """Dream: row ``p - 1`` scores position ``p``, biased queries, keys and values, Qwen2 names."""

    config_class = DreamConfig
    names = Names(
        embedding="model.embed_tokens", blocks="model.layers", final_norm="model.norm", head="lm_head",
        attention_norm="input_layernorm", query="self_attn.q_proj", key="self_attn.k_proj", value="self_attn.v_proj",
        attention_out="self_attn.o_proj", mlp_norm="post_attention_layernorm", gate="mlp.gate_proj", up="mlp.up_proj",
        down="mlp.down_proj",
    )  # fmt: skip
    # As transformers declares it.
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
