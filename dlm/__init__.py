"""dlm: parallel decoding of masked diffusion language models (LLaDA, Dream and their families).

>>> import dlm, samplers
>>> model = dlm.load("tiny")
>>> prompts = ['Reverse the list: ["Anna", "Bob", "Cleo"]']
>>> dlm.generate(model, prompts, sampler=samplers.threshold(0.9), max_new_tokens=32)[0].text
'["Cleo", "Bob", "Anna"]'

Names are imported when they are first used, so that ``dlm --help`` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlm.api import StreamStep, generate, infill, stream
    from dlm.configuration import Composed, compose
    from dlm.decoder import Decoder, StepEvent
    from dlm.errors import (
        CheckpointError,
        DlmError,
        NumericsError,
        OutOfMemoryError,
        ProgressError,
        PromptError,
        SettingsError,
    )
    from dlm.models import LanguageModel, load
    from dlm.proposal import Proposer
    from dlm.result import Counts, Generation
    from dlm.sampler import Sampler
    from dlm.trace import Trace, load_traces, save_traces

__version__ = "0.1.0"

_HOME = {
    "api": ("StreamStep", "generate", "infill", "stream"),
    "configuration": ("Composed", "compose"),
    "decoder": ("Decoder", "StepEvent"),
    "errors": (
        "CheckpointError",
        "DlmError",
        "NumericsError",
        "OutOfMemoryError",
        "ProgressError",
        "PromptError",
        "SettingsError",
    ),
    "models": ("LanguageModel", "load"),
    "proposal": ("Proposer",),
    "result": ("Counts", "Generation"),
    "sampler": ("Sampler",),
    "trace": ("Trace", "load_traces", "save_traces"),
}
_MODULE_OF = {name: f"dlm.{module}" for module, names in _HOME.items() for name in names}

__all__ = [
    "CheckpointError",
    "Composed",
    "Counts",
    "Decoder",
    "DlmError",
    "Generation",
    "LanguageModel",
    "NumericsError",
    "OutOfMemoryError",
    "ProgressError",
    "PromptError",
    "Proposer",
    "Sampler",
    "SettingsError",
    "StepEvent",
    "StreamStep",
    "Trace",
    "compose",
    "generate",
    "infill",
    "load",
    "load_traces",
    "save_traces",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dlm' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
