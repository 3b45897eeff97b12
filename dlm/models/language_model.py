"""A backbone together with its tokenizer: what :func:`dlm.load` returns and the decoder is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dlm.errors import PromptError, SettingsError
from dlm.models.backbone import Backbone, ModelDescription

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A model ready to decode.

    Attributes:
        backbone: the network (for the models of this package: a transformers ``PreTrainedModel``).
        tokenizer: its fast tokenizer; None when the checkpoint has none, and prompts must then be token ids.
        name: what it was loaded as.
    """

    backbone: Backbone
    tokenizer: PreTrainedTokenizerFast | None
    name: str

    @property
    def description(self) -> ModelDescription:
        """Ids, shift and sizes of the model."""
        return self.backbone.description

    @property
    def device(self) -> torch.device:
        """Where token ids must be put."""
        return next(self.backbone.parameters()).device  # type: ignore[attr-defined]

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return next(self.backbone.parameters()).dtype  # type: ignore[attr-defined]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; nothing is added in front or behind."""
        tokenizer = self._tokenizer("text")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(f"the text is not valid Unicode at character {error.start}: give it in UTF-8") from error
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation in the model's chat template, up to where the answer begins.

        Raises:
            SettingsError: the model has no tokenizer or no chat template.
            PromptError: a message is not a role and a content, or the template refuses the conversation.
        """
        tokenizer = self._tokenizer("chats")
        if tokenizer.chat_template is None:
            raise SettingsError(f"{self.name} has no chat template; pass the prompt as text or as token ids")
        if not messages:
            raise PromptError("an empty conversation; pass at least one message with a role and a content")
        for message in messages:
            if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
                raise PromptError(f"a chat message needs the strings 'role' and 'content', got {message!r}")
        try:
            encoded: Any = tokenizer.apply_chat_template(
                [dict(m) for m in messages], add_generation_prompt=True, tokenize=True, return_dict=True
            )
        except Exception as error:  # jinja raises whatever the template's author chose
            raise PromptError(f"the chat template refused the conversation: {error}") from error
        return list(encoded["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text = self._tokenizer("text").decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def _tokenizer(self, what: str) -> PreTrainedTokenizerFast:
        if self.tokenizer is None:
            raise SettingsError(f"{self.name} has no tokenizer for {what}; pass lists of token ids")
        return self.tokenizer
