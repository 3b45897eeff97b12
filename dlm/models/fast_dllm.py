"""Fast-dLLM v2 (arXiv 2509.26328): block diffusion on Qwen2.5."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from dlm.models.architecture import Architecture
from dlm.models.masked_lm import MaskedLM, MaskedLMConfig
from dlm.models.qwen import QWEN_FIELDS, QWEN_NAMES, QWEN_TIED, qwen_body


class Fast_dLLM_QwenConfig(MaskedLMConfig):  # noqa: N801 (the public name)
    """Fields of the public Fast-dLLM v2 config.json; the defaults are the 7B model's."""

    model_type = "Fast_dLLM_Qwen"
    fields: ClassVar[dict[str, Any]] = {
        **QWEN_FIELDS, "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "bd_size": 32,
    }  # fmt: skip
    required: ClassVar[dict[str, tuple[Any, ...]]] = {"hidden_act": ("silu",), "use_sliding_window": (False,)}
    block_field = "bd_size"
    _ids: ClassVar[dict[str, int]] = {
        "mask_token_id": 151665, "eos_token_id": 151645, "bos_token_id": 151643, "pad_token_id": 151645
    }  # fmt: skip
    public_ids: ClassVar[dict[int, dict[str, int]]] = {152064: _ids, 151936: _ids}
    mask_tokens = ("|<MASK>|",)
    turn_ends = ("<|im_end|>",)
    shift: ClassVar[Literal[0, 1]] = 1

    # transformers writes a dataclass constructor into every subclass that has none of its own
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def _architecture(self) -> Architecture:
        return qwen_body(self, qkv_bias=True)


class Fast_dLLM_QwenForCausalLM(MaskedLM):  # noqa: N801 (the public name)
    """Fast-dLLM v2: row ``p - 1`` scores position ``p``, Qwen2.5's body and names."""

    config_class = Fast_dLLM_QwenConfig
    names = QWEN_NAMES
    # As transformers declares it.
    _tied_weights_keys = QWEN_TIED
