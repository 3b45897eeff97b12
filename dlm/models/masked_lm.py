"""The transformers side of a backbone: configuration with public field names, and the PreTrainedModel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from dlm.errors import SettingsError
from dlm.models.architecture import Architecture, Names
from dlm.models.backbone import Backbone, ModelDescription, sees
from dlm.models.fields import read_fields
from dlm.models.parts import RMSNorm
from dlm.models.quiet import quiet_imports
from dlm.models.transformer import Transformer

with quiet_imports():
    from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
    from transformers import initialization as init
    from transformers.modeling_outputs import MaskedLMOutput
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# Checkpoints that another kind of decoding is needed for.
_ELSEWHERE = {
    "DiffusionGemmaForBlockDiffusion": "it denoises random tokens instead of masks; transformers runs it itself",
}


def refuse_unlike(architecture: str | None) -> None:
    """Raise SettingsError for an architecture that is known, but decodes in a way that nothing here can."""
    if architecture in _ELSEWHERE:
        raise SettingsError(f"{architecture} is not supported: {_ELSEWHERE[architecture]}")


class MaskedLMConfig(PreTrainedConfig):
    """Configuration of a masked diffusion LM: the fields of its public config.json, and unknown ones.

    A family lists its fields with their defaults in ``fields``, what else they are called in ``spellings`` (and in
    transformers' ``attribute_map``), the values its mathematics fixes in ``required``, the ids of the public
    vocabularies in ``public_ids`` (half of the repositories leave them out), and translates to the transformer in
    ``_architecture``. A field of the wrong kind is a SettingsError. ``indispensable`` are fields that no tensor tells;
    ``block_field`` holds the length of an attention block, in families that have them; ``mask_tokens`` and
    ``turn_ends`` are what the tokenizer may call the mask and the ends of a turn, ``public_turn_ends`` the ids of the
    latter in the public vocabularies.
    """

    fields: ClassVar[dict[str, Any]] = {}
    spellings: ClassVar[dict[str, str]] = {}
    required: ClassVar[dict[str, tuple[Any, ...]]] = {}
    public_ids: ClassVar[dict[int, dict[str, int]]] = {}
    indispensable: ClassVar[tuple[str, ...]] = ("num_attention_heads", "rope_theta")
    block_field: ClassVar[str | None] = None
    mask_tokens: ClassVar[tuple[str, ...]] = ("<|mdm_mask|>", "<|mask|>")
    turn_ends: ClassVar[tuple[str, ...]] = ()
    public_turn_ends: ClassVar[dict[int, tuple[int, ...]]] = {}
    shift: ClassVar[Literal[0, 1]] = 0
    # How the experts of a layer are stored; the files tell.
    merged_experts: bool = False

    def __init__(self, **settings: Any) -> None:
        own = read_fields(settings, self.fields, {**self.attribute_map, **self.spellings})
        for name, value in self.public_ids.get(own["vocab_size"], {}).items():
            own[name] = value if own[name] is None else own[name]
        super().__init__(**settings)
        for name, value in own.items():
            setattr(self, name, value)

    def architecture(self) -> Architecture:
        """The transformer this configuration describes; SettingsError when it asks for another kind."""
        refuse_unlike(self.architectures[0] if self.architectures else None)
        for name, accepted in self.required.items():
            if getattr(self, name) not in accepted:
                raise SettingsError(
                    f"config field {name}={getattr(self, name)!r} is not supported; a {type(self).__name__} "
                    f"takes {' or '.join(map(repr, accepted))}"
                )
        return self._architecture()

    def _architecture(self) -> Architecture:
        raise NotImplementedError

    def describe(self) -> ModelDescription:
        """Ids, shift and sizes as far as the configuration knows them (a tokenizer may know more)."""
        mask, eos = self.mask_token_id, self.eos_token_id
        if mask is None or eos is None:
            raise SettingsError(
                "mask_token_id or eos_token_id is neither in config.json nor in the tokenizer, and the "
                "vocabulary is not a public one; add them to config.json"
            )
        ends = tuple(eos) if isinstance(eos, (list, tuple)) else (eos,)
        width = self._architecture().vocab_size
        block = 0 if self.block_field is None else getattr(self, self.block_field)
        return ModelDescription(mask, ends, self.shift, width, width, self.max_position_embeddings, block)


class MaskedLM(Transformer, Backbone, PreTrainedModel):
    """A bidirectional transformer with ``from_pretrained``, ``save_pretrained``, ``device_map`` and the rest.

    Parameters are named as in the public checkpoints: nothing is renamed on the way in or out, and adapters
    made for the public classes fit.
    """

    config: MaskedLMConfig
    names: ClassVar[Names]
    base_model_prefix = ""
    main_input_name = "input_ids"
    _no_split_modules = ["Block"]  # noqa: RUF012 (transformers declares it as an instance variable)
    _supports_sdpa = True
    # What older versions of transformers stored beside the weights; the angles are computed anew.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq$"]  # noqa: RUF012
    _keep_in_fp32_modules_strict = ["expert_bias"]  # noqa: RUF012

    def __init__(self, config: MaskedLMConfig) -> None:
        super().__init__(config)
        self._description: ModelDescription | None = None
        self.build(config.architecture(), self.names)
        self.post_init()

    @property
    def description(self) -> ModelDescription:
        """What a sampler may know about the model."""
        if self._description is None:
            self._description = self.config.describe()
        return self._description

    @description.setter
    def description(self, description: ModelDescription) -> None:
        self._description = description

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Bool[Tensor, "B T"] | Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "B T"] | None = None,
    ) -> MaskedLMOutput:
        """Raw logits ``[B, T, V]`` of every row (Dream's are not shifted here, as in its public code). Where attention
        has blocks, they are those of the positions.

        Args:
            input_ids: the tokens.
            attention_mask: 1 or True at the tokens that may be attended to.
            position_ids: absolute positions; None means ``0 .. T-1``.
        """
        if attention_mask is not None and attention_mask.dim() != 2:
            raise SettingsError(f"attention_mask must be [B, T], got {tuple(attention_mask.shape)}")
        valid = None if attention_mask is None else attention_mask.bool()
        block = self.description.attention_block
        if block:
            where = torch.arange(input_ids.shape[1], device=input_ids.device) if position_ids is None else position_ids
            where = where.expand_as(input_ids)
            valid = sees(where, where, block, valid)
        return MaskedLMOutput(logits=self.head(self.hidden(input_ids, position_ids, valid)))

    @classmethod
    def stores_merged(cls, stored: Iterable[str]) -> bool:
        """Whether tensors of these names are those of experts that are stored together, a projection at a time."""
        leaf = cls.names.gate.rpartition(".")[2]
        return any(name.endswith(f".{cls.names.experts}.{leaf}") for name in stored)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self.get_submodule(self.names.embedding)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.set_submodule(self.names.embedding, value)

    def get_output_embeddings(self) -> nn.Module:
        """The language-model head."""
        return self.get_submodule(self.names.head)

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the language-model head."""
        self.set_submodule(self.names.head, new_embeddings)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # "mitchell": truncated normal at three standard deviations (LLaDA's public initialisation)
        if isinstance(module, RMSNorm):
            init.ones_(module.weight)
        elif hasattr(module, "init_std"):
            std = float(module.init_std)  # type: ignore[arg-type]
            for name, parameter in module.named_parameters(recurse=False):
                if name == "bias":
                    init.zeros_(parameter)
                else:
                    init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std)


def register(model: type[MaskedLM]) -> None:
    """Let transformers' Auto classes find a family, unless somebody else has taken its model type: another library, or
    the first of two families that share one (LLaDA and LLaDA-MoE)."""
    config: Any = model.config_class
    if config.model_type in CONFIG_MAPPING:
        return
    try:
        AutoConfig.register(config.model_type, config)
        for auto in (AutoModel, AutoModelForMaskedLM):
            auto.register(config, model)
    except ValueError:
        return
