"""SDAR (arXiv 2510.06303) and TraDo (arXiv 2509.06949): block diffusion on Qwen3.

A position sees its own block and those before it; a finished block never changes again.
"""

from __future__ import annotations

from typing import Any, ClassVar

from dlm.models.architecture import Architecture, Experts
from dlm.models.masked_lm import MaskedLM, MaskedLMConfig
from dlm.models.qwen import QWEN_FIELDS, QWEN_NAMES, QWEN_TIED, qwen_body


class SDARConfig(MaskedLMConfig):
    """Fields of the public SDAR and TraDo config.json; the defaults are SDAR-8B-Chat's."""

    model_type = "sdar"
    fields: ClassVar[dict[str, Any]] = {**QWEN_FIELDS, "attention_bias": False, "head_dim": 128, "block_size": 4}
    required: ClassVar[dict[str, tuple[Any, ...]]] = {
        "hidden_act": ("silu",), "use_sliding_window": (False,), "attention_bias": (False,),
    }  # fmt: skip
    indispensable = ("num_attention_heads", "rope_theta", "head_dim")
    block_field = "block_size"
    public_ids: ClassVar[dict[int, dict[str, int]]] = {
        151936: {"mask_token_id": 151669, "eos_token_id": 151643, "bos_token_id": 151643, "pad_token_id": 151643}
    }
    mask_tokens = ("<|MASK|>", "<MASK>", "<|mask|>")
    turn_ends = ("<|im_end|>",)
    public_turn_ends: ClassVar[dict[int, tuple[int, ...]]] = {151936: (151645,)}

    # transformers writes a dataclass constructor into every subclass that has none of its own
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def _architecture(self) -> Architecture:
        return qwen_body(self, head_norms=True, gain_in_float32=True, experts=self._experts())

    def _experts(self) -> Experts | None:
        return None


class SDARForCausalLM(MaskedLM):
    """SDAR and TraDo: logits in place, every head normed, Qwen3 names."""

    config_class = SDARConfig
    names = QWEN_NAMES
    # As transformers declares it.
    _tied_weights_keys = QWEN_TIED


class SDARMoeConfig(SDARConfig):
    """SDAR-30B-A3B: a mixture of experts in every layer; the defaults are its values."""

    model_type = "sdar_moe"
    fields: ClassVar[dict[str, Any]] = {
        **SDARConfig.fields, "hidden_size": 2048, "num_hidden_layers": 48, "num_key_value_heads": 4,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
        "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": (),
    }  # fmt: skip
    required: ClassVar[dict[str, tuple[Any, ...]]] = {
        **SDARConfig.required, "decoder_sparse_step": (1,), "mlp_only_layers": ((), []),
    }  # fmt: skip

    # transformers writes a dataclass constructor into every subclass that has none of its own
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def _experts(self) -> Experts | None:
        return Experts(
            layers=tuple(range(self.num_hidden_layers)), count=self.num_experts, chosen=self.num_experts_per_tok,
            width=self.moe_intermediate_size, renormalise=self.norm_topk_prob, merged=self.merged_experts,
        )  # fmt: skip


class SDARMoeForCausalLM(MaskedLM):
    """SDAR-30B-A3B, with the names of Qwen3's mixtures of experts."""

    config_class = SDARMoeConfig
    names = QWEN_NAMES
    # As transformers declares it.
    _tied_weights_keys = QWEN_TIED
