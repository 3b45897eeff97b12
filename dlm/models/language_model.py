"""A backbone together with its tokenizer: what :func:`dlm.load` returns and the decoder is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch

from dlm.errors import PromptError, SettingsError
from dlm.models.backbone import Backbone, ModelDescription
from dlm.models.plain_text import check_unicode, control_tokens, encode_marked, holds_any, marked, marks_for

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Whether control tokens are split is a state of the tokenizer, which threads share.
_ENCODING = RLock()


@dataclass(frozen=True, eq=False, repr=False)
class LanguageModel:
    """A model ready to decode.

    Attributes:
        backbone: the network (for the models of this package: a transformers ``PreTrainedModel``).
        tokenizer: its fast tokenizer; None when the checkpoint has no tokenizer.json (or vocab.json with merges.txt),
            and prompts must then be token ids.
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
        """Number format of hidden states and logits, and of all weights that are not quantised."""
        return next(self.backbone.parameters()).dtype  # type: ignore[attr-defined]

    @property
    def quantised(self) -> str | None:
        """What the matrices of the blocks are kept in (``int8``, ``int4``, ...); None: in ``dtype``."""
        return getattr(self.backbone, "quantised", None)

    def __repr__(self) -> str:
        """Name, family, parameters, number format and device, in a line."""
        known = getattr(self.backbone, "weight_count", None)
        weights = known or sum(weight.numel() for weight in self.backbone.parameters())  # type: ignore[attr-defined]
        size = f"{weights / 1e9:.1f} billion" if weights >= 1e9 else f"{weights / 1e6:.1f} million"
        family = getattr(getattr(self.backbone, "config", None), "model_type", type(self.backbone).__name__)
        dtype = str(self.dtype).removeprefix("torch.") + (f" with {kept} weights" if (kept := self.quantised) else "")
        return f"LanguageModel({self.name!r}, {family}, {size} parameters, {dtype}, {self.device})"

    def encode(self, text: str, masks: bool = False) -> list[int]:
        """Token ids of plain text; nothing is added in front or behind.

        Control tokens in it are control tokens, so that a prompt may be a rendered chat. The mask is text like any
        other, unless ``masks``.
        """
        tokenizer = self._tokenizer("text")
        check_unicode(text)
        with _ENCODING:
            ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
            if masks or self.description.mask_id not in ids:
                return ids
            mask = [t for t in control_tokens(tokenizer) if self.description.mask_id == tokenizer.get_vocab().get(t)]
            if holds_any(text, mask):
                marks = marks_for(text)
                return encode_marked(tokenizer, marked(text, mask, marks), marks)
            return ids

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation in the model's chat template, up to where the answer begins.

        A last message of the assistant is continued. Control tokens in a message are text; the template's are not.

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
            parts = [message.get(key) for key in ("role", "content")] if isinstance(message, Mapping) else [None]
            if not all(isinstance(part, str) for part in parts):
                raise PromptError(f"a chat message needs the strings 'role' and 'content', got {message!r}")
        plain, control = [dict(message) for message in messages], list(control_tokens(tokenizer))
        check_unicode(plain)
        continued = messages[-1]["role"] == "assistant"
        ending: dict[str, Any] = {"continue_final_message": True} if continued else {"add_generation_prompt": True}
        try:
            with _ENCODING:
                if not holds_any(plain, control):
                    encoded: Any = tokenizer.apply_chat_template(plain, tokenize=True, return_dict=True, **ending)
                    return list(encoded["input_ids"])
                marks = marks_for(plain, tokenizer.chat_template)
                written = tokenizer.apply_chat_template(marked(plain, control, marks), tokenize=False, **ending)
                return encode_marked(tokenizer, str(written), marks)
        except Exception as error:  # jinja raises whatever the template's author chose
            raise PromptError(f"the chat template refused the conversation: {error}") from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        text = self._tokenizer("text").decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def _tokenizer(self, what: str) -> PreTrainedTokenizerFast:
        if self.tokenizer is None:
            raise SettingsError(f"{self.name} has no tokenizer (tokenizer.json) for {what}; pass lists of token ids")
        return self.tokenizer
