"""LLaDA (Nie et al., arXiv 2502.09992): 8B Base and Instruct, 1.5, and whatever is trained in that layout."""

from __future__ import annotations

from typing import Any, ClassVar

from dlm.errors import SettingsError
from dlm.models.architecture import Architecture, Names
from dlm.models.masked_lm import MaskedLM, MaskedLMConfig


class LLaDAConfig(MaskedLMConfig):
    """Fields of the public LLaDA config.json; the defaults are LLaDA-8B's."""

    model_type = "llada"
    rope_scaling = None  # not transformers' alias of rope_parameters
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads", "intermediate_size": "mlp_hidden_size",
        "max_position_embeddings": "max_sequence_length", "tie_word_embeddings": "weight_tying",
    }  # fmt: skip
    fields: ClassVar[dict[str, Any]] = {
        "d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": None, "multi_query_attention": None,
        "mlp_hidden_size": 12288, "mlp_ratio": 4, "vocab_size": 126464, "embedding_size": None,
        "max_sequence_length": 4096, "rope": True, "rope_theta": 500000.0, "rope_full_precision": True,
        "rms_norm_eps": 1e-5, "layer_norm_type": "rms", "layer_norm_with_affine": True, "bias_for_layer_norm": False,
        "attention_layer_norm": False, "activation_type": "silu", "block_type": "llama", "block_group_size": 1,
        "include_bias": False, "include_qkv_bias": False, "weight_tying": False, "scale_logits": False,
        "input_emb_norm": False, "alibi": False, "attention_dropout": 0.0, "residual_dropout": 0.0,
        "embedding_dropout": 0.0, "init_fn": "mitchell", "init_std": 0.02, "mask_token_id": None, "eos_token_id": None,
        "pad_token_id": None, "use_cache": False, "attention_block": 0,
    }  # fmt: skip
    required: ClassVar[dict[str, tuple[Any, ...]]] = {
        "rope": (True,), "alibi": (False,), "block_type": ("llama",), "block_group_size": (1,),
        "layer_norm_type": ("rms",), "layer_norm_with_affine": (True,), "bias_for_layer_norm": (False,),
        "attention_layer_norm": (False,), "activation_type": ("silu",), "include_bias": (False,),
        "scale_logits": (False,), "input_emb_norm": (False,), "init_fn": ("mitchell", "normal"),
    }  # fmt: skip
    public_ids: ClassVar[dict[int, dict[str, int]]] = {
        126464: {"mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081}
    }
    block_field = "attention_block"  # 0, as in all public ones: full attention
    turn_ends = ("<|eot_id|>",)
    public_turn_ends: ClassVar[dict[int, tuple[int, ...]]] = {126464: (126348,)}

    # transformers writes a dataclass constructor into every subclass that has none of its own
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def _architecture(self) -> Architecture:
        kv_heads = self.n_kv_heads or (1 if self.multi_query_attention else self.n_heads)
        if self.vocab_size > (self.embedding_size or self.vocab_size):
            raise SettingsError(
                f"vocab_size={self.vocab_size} is more than embedding_size={self.embedding_size}; correct config.json"
            )
        return Architecture(
            vocab_size=self.embedding_size or self.vocab_size, width=self.d_model, layers=self.n_layers,
            heads=self.n_heads, kv_heads=kv_heads, mlp_width=self.mlp_hidden_size or self.mlp_ratio * self.d_model,
            rope_theta=self.rope_theta, norm_eps=self.rms_norm_eps, qkv_bias=self.include_qkv_bias,
            rotate_full_precision=self.rope_full_precision,
            init_std=None if self.init_fn == "mitchell" else self.init_std,
        )  # fmt: skip


class LLaDAModelLM(MaskedLM):
    """LLaDA: logits in place, rotation in float32, ``model.transformer.blocks.N`` names."""

    config_class = LLaDAConfig
    names = Names(
        embedding="model.transformer.wte", blocks="model.transformer.blocks", final_norm="model.transformer.ln_f",
        head="model.transformer.ff_out", attention_norm="attn_norm", query="q_proj", key="k_proj", value="v_proj",
        attention_out="attn_out", mlp_norm="ff_norm", gate="ff_proj", up="up_proj", down="ff_out",
    )  # fmt: skip
    # As transformers declares it.
    _tied_weights_keys = {"model.transformer.ff_out.weight": "model.transformer.wte.weight"}  # noqa: RUF012
