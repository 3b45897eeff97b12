"""dlm: parallel decoding of masked diffusion language models (LLaDA, Dream and their families).

>>> import dlm, samplers
>>> model = dlm.load("tiny")
>>> prompt = [{"role": "user", "content": 'Reverse the list: ["Anna", "Bob", "Cleo"]'}]
>>> dlm.generate(model, [prompt], sampler=samplers.threshold(0.9), max_new_tokens=32)[0].text
'["Cleo", "Bob", "Anna"]'
"""

from dlm.api import StreamStep, generate, infill, stream
from dlm.compose import compose
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

__all__ = [
    "CheckpointError",
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
