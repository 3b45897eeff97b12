"""Dream (Ye et al., arXiv 2508.15487): v0 Base and Instruct, Dream-Coder, DiffuCoder (arXiv 2506.20639)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from dlm.models.architecture import Architecture
from dlm.models.masked_lm import MaskedLM, MaskedLMConfig
from dlm.models.qwen import QWEN_FIELDS, QWEN_NAMES, QWEN_TIED, qwen_body


class DreamConfig(MaskedLMConfig):
    """Fields of the public Dream config.json; the defaults are Dream-v0-Instruct-7B's."""

    model_type = "Dream"
    rope_scaling = None  # a plain field of Dream's, not transformers' alias of rope_parameters
    fields: ClassVar[dict[str, Any]] = {
        **QWEN_FIELDS, "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 131072, "rope_scaling": None,
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
    turn_ends = ("<|im_end|>", "<|dlm_pad|>")  # the second is what DiffuCoder fills the rest of an answer with
    public_turn_ends: ClassVar[dict[int, tuple[int, ...]]] = {152064: (151645,)}
    shift: ClassVar[Literal[0, 1]] = 1

    # transformers writes a dataclass constructor into every subclass that has none of its own
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def _architecture(self) -> Architecture:
        return qwen_body(self, qkv_bias=True)


class DreamModel(MaskedLM):
    """Dream: row ``p - 1`` scores position ``p``, biased queries, keys and values, Qwen2 names."""

    config_class = DreamConfig
    names = QWEN_NAMES
    # As transformers declares it.
    _tied_weights_keys = QWEN_TIED
