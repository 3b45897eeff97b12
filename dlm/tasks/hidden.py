"""Secrets that generated code may have come by, taken out of what is written down."""

from __future__ import annotations

import os
import re

_NAMES = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|_PAT$", re.IGNORECASE)
_SHORTEST = 6  # characters: a shorter value stands in too many texts that give nothing away
# What keys look like that are in no variable here: of Hugging Face, OpenAI and its like, GitHub, AWS, Slack, W&B's hex.
_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}|xox[a-z]-[\w-]{10,})"
)
MARK = "[hidden]"


def hidden(text: str) -> str:
    """A text without the values of environment variables that are called like secrets, and without what is spelt like
    a known kind of key. A secret that was turned round or encoded is not found."""
    values = {value for name, value in os.environ.items() if _NAMES.search(name) and len(value) >= _SHORTEST}
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, MARK)
    return _FORMS.sub(MARK, text)
