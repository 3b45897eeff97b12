"""LLaDA's mixtures of experts: LLaDA-MoE (arXiv 2509.24389; full attention) and LLaDA2.0 and 2.1 (arXiv 2512.15745;
blocks)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from dlm.errors import SettingsError
from dlm.models.architecture import Architecture, Experts
from dlm.models.masked_lm import MaskedLM, MaskedLMConfig
from dlm.models.qwen import QWEN_FIELDS, QWEN_NAMES, QWEN_TIED, qwen_body

_UNI_VOCABULARY = 173568
_IDS = {157184: {"mask_token_id": 156895, "eos_token_id": 156892, "pad_token_id": 156892}}
_TURN_ENDS: dict[int, tuple[int, ...]] = {157184: (156900,)}
_FIELDS = {
    **QWEN_FIELDS, "vocab_size": 157184, "hidden_size": 2048, "num_attention_heads": 16, "num_experts_per_tok": 8,
}  # fmt: skip


class LLaDAMoEConfig(MaskedLMConfig):
    """Fields of the public LLaDA-MoE config.json; the defaults are LLaDA-MoE-7B-A1B's.

    Half of the routing fields of the public file say nothing: the published code never reads them.
    """

    model_type = "llada"
    fields: ClassVar[dict[str, Any]] = {
        **_FIELDS, "num_hidden_layers": 16, "num_key_value_heads": 16, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "num_experts": 64, "expert_intermediate_size": 1024,
        "intermediate_size": 8192, "shared_expert_intermediate_size": None, "moe_layer_freq": (), "qk_layernorm": True,
        "attention_bias": False, "clip_qkv": None, "moe_router_enable_expert_bias": False, "partial_rotary_factor": 1.0,
    }  # fmt: skip
    spellings: ClassVar[dict[str, str]] = {"dense_intermediate_size": "intermediate_size"}
    required: ClassVar[dict[str, tuple[Any, ...]]] = {
        "hidden_act": ("silu",), "attention_bias": (False,), "clip_qkv": (None,), "qk_layernorm": (True,),
        "use_sliding_window": (False,), "shared_expert_intermediate_size": (None,),
        "moe_router_enable_expert_bias": (False,),
    }  # fmt: skip
    indispensable = ("num_attention_heads", "rope_theta", "num_experts_per_tok")
    public_ids: ClassVar[dict[int, dict[str, int]]] = _IDS
    turn_ends = ("<|role_end|>",)
    public_turn_ends: ClassVar[dict[int, tuple[int, ...]]] = _TURN_ENDS

    # transformers writes a dataclass constructor into every subclass that has none of its own
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def _architecture(self) -> Architecture:
        layers = self.num_hidden_layers
        marks = list(self.moe_layer_freq) or [1] * layers
        if len(marks) != layers or set(marks) - {0, 1}:
            raise SettingsError(
                f"moe_layer_freq must hold a 0 or a 1 for each of the {layers} layers, got {marks[:12]}; correct"
                " config.json"
            )
        experts = Experts(
            layers=tuple(layer for layer, mark in enumerate(marks) if mark), count=self.num_experts,
            chosen=self.num_experts_per_tok, width=self.expert_intermediate_size, merged=self.merged_experts,
        )  # fmt: skip
        rotated = int(self.hidden_size // self.num_attention_heads * self.partial_rotary_factor)
        return qwen_body(self, rotary_dim=rotated, head_norms=True, experts=experts)


class LLaDAMoEModelLM(MaskedLM):
    """LLaDA-MoE: LLaDA's decoding over a body of experts."""

    config_class = LLaDAMoEConfig
    names = QWEN_NAMES
    # As transformers declares it.
    _tied_weights_keys = QWEN_TIED


class LLaDA2MoeConfig(MaskedLMConfig):
    """Fields of the public LLaDA2.0 and 2.1 config.json; the defaults are LLaDA2.0-mini's."""

    model_type = "llada2_moe"
    fields: ClassVar[dict[str, Any]] = {
        **_FIELDS, "num_hidden_layers": 20, "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 5120,
        "moe_intermediate_size": 512, "num_experts": 256, "num_shared_experts": 1, "n_group": 8, "topk_group": 4,
        "routed_scaling_factor": 2.5, "first_k_dense_replace": 1, "score_function": "sigmoid", "router_dtype": "fp32",
        "moe_router_enable_expert_bias": True, "norm_topk_prob": True, "norm_softmax": False, "norm_head": False,
        "partial_rotary_factor": 0.5, "rotary_dim": None, "rope_theta": 600000.0, "use_rmsnorm": True,
        "use_qk_norm": True, "use_bias": False, "use_qkv_bias": False, "max_position_embeddings": 16384,
        "expert_capacity": None, "block_size": 32,
    }  # fmt: skip
    required: ClassVar[dict[str, tuple[Any, ...]]] = {
        "hidden_act": ("silu",), "score_function": ("sigmoid",), "router_dtype": ("fp32",), "norm_topk_prob": (True,),
        "norm_softmax": (False,), "norm_head": (False,), "use_rmsnorm": (True,), "use_qk_norm": (True,),
        "use_bias": (False,), "use_qkv_bias": (False,), "use_sliding_window": (False,),
    }  # fmt: skip
    indispensable = (
        "num_attention_heads", "rope_theta", "head_dim", "num_experts_per_tok", "n_group", "topk_group",
        "routed_scaling_factor",
    )  # fmt: skip
    block_field = "block_size"
    public_ids: ClassVar[dict[int, dict[str, int]]] = _IDS
    turn_ends = ("<|role_end|>",)
    public_turn_ends: ClassVar[dict[int, tuple[int, ...]]] = _TURN_ENDS

    # transformers writes a dataclass constructor into every subclass that has none of its own
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def _architecture(self) -> Architecture:
        self._refuse_relatives()
        rotated = int(self.head_dim * self.partial_rotary_factor)
        if self.rotary_dim not in (None, rotated):
            raise SettingsError(
                f"rotary_dim={self.rotary_dim} and partial_rotary_factor={self.partial_rotary_factor} of head_dim="
                f"{self.head_dim} contradict each other; correct config.json"
            )
        experts = Experts(
            layers=tuple(range(self.first_k_dense_replace, self.num_hidden_layers)), count=self.num_experts,
            chosen=self.num_experts_per_tok, width=self.moe_intermediate_size,
            shared_width=self.moe_intermediate_size * self.num_shared_experts, scoring="sigmoid", renormalise=True,
            bias=self.moe_router_enable_expert_bias, groups=self.n_group, kept_groups=self.topk_group,
            scale=self.routed_scaling_factor, merged=self.merged_experts,
        )  # fmt: skip
        return qwen_body(self, rotary_dim=rotated, head_norms=True, float32_logits=True, experts=experts)

    def _refuse_relatives(self) -> None:
        """Raise SettingsError for models of the same class that need more than this one."""
        if self.expert_capacity:
            raise SettingsError(
                f"expert_capacity={self.expert_capacity}: this is LLaDA2.2, whose experts are chosen by whole blocks of"
                " positions and whose tokens move (insert, delete); neither is built yet: use LLaDA2.0 or 2.1"
            )
        if self.vocab_size == _UNI_VOCABULARY:
            raise SettingsError(
                f"vocab_size={_UNI_VOCABULARY}: this is LLaDA2.0-Uni, whose image codes are not supported; use LLaDA2.0"
                " or 2.1"
            )


class LLaDA2MoeModelLM(MaskedLM):
    """LLaDA2.0 and 2.1: one projection for queries, keys and values, half of each head rotated, experts in groups."""

    config_class = LLaDA2MoeConfig
    names = replace(
        QWEN_NAMES, embedding="model.word_embeddings", query="", key="", value="",
        query_key_value="attention.query_key_value", query_norm="attention.query_layernorm",
        key_norm="attention.key_layernorm", attention_out="attention.dense",
    )  # fmt: skip
    # As transformers declares it.
    _tied_weights_keys = {"lm_head.weight": "model.word_embeddings.weight"}  # noqa: RUF012
