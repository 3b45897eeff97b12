"""The filters that come with the package, and the models they were trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlm.errors import SettingsError
from dlm.training.filter_file import Filter, read_filter, vocabulary_of

FOLDER = Path(__file__).parent


def packaged_filter(tokenizer: Any) -> Filter:
    """The filter that was trained on a model with this vocabulary.

    Raises:
        SettingsError: there is none in the package.
    """
    vocabulary = vocabulary_of(tokenizer)
    for path in sorted(FOLDER.glob("*.safetensors")) if vocabulary else ():
        found = read_filter(path)
        if found.card.get("vocabulary") == vocabulary:
            return found
    raise SettingsError(
        "sampler 'learn2pd' has no packaged filter for this model: give filter=PATH (`dlm train-filter` makes one)"
    )
