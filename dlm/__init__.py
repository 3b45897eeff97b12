"""dlm: parallel decoding of masked diffusion language models (LLaDA, Dream and their families).

>>> import dlm, samplers
>>> model = dlm.load("tiny")
>>> prompts = ['Reverse the list: ["Anna", "Bob", "Cleo"]']
>>> dlm.generate(model, prompts, sampler=samplers.threshold(0.9), max_new_tokens=32)[0].text
'["Cleo", "Bob", "Anna"]'

Names are imported when they are first used, so that ``dlm --help`` does not wait for torch.
"""

from importlib import import_module

# Not that of `typing`: under `python -m dlm` the working folder, which may be anybody's, is still searched at this
# point, so nothing is imported here that Python has not loaded by itself.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dlm.api import Generation, StreamStep, deer, generate, infill, stream
    from dlm.configuration import Composed, compose
    from dlm.display import show
    from dlm.engine.loop import Decoder, StepEvent
    from dlm.engine.proposal import Proposer
    from dlm.engine.result import Counts
    from dlm.engine.sampler import Sampler
    from dlm.errors import (
        CheckpointError,
        DlmError,
        NumericsError,
        OutOfMemoryError,
        ProgressError,
        PromptError,
        SettingsError,
    )
    from dlm.evaluation.scoring import Evaluation, evaluate
    from dlm.models import LanguageModel, load
    from dlm.models.causal import CausalModel, load_causal
    from dlm.replaying import Replayed, Trajectory, replay
    from dlm.stepmaps import from_step_maps, read_trajectories, step_maps
    from dlm.trace import Trace, load_traces, save_traces

__version__ = "0.1.0"

_HOME = {
    "api": ("Generation", "StreamStep", "deer", "generate", "infill", "stream"),
    "configuration": ("Composed", "compose"),
    "display": ("show",),
    "engine.loop": ("Decoder", "StepEvent"),
    "errors": (
        "CheckpointError",
        "DlmError",
        "NumericsError",
        "OutOfMemoryError",
        "ProgressError",
        "PromptError",
        "SettingsError",
    ),
    "evaluation.scoring": ("Evaluation", "evaluate"),
    "models": ("LanguageModel", "load"),
    "models.causal": ("CausalModel", "load_causal"),
    "engine.proposal": ("Proposer",),
    "engine.result": ("Counts",),
    "engine.sampler": ("Sampler",),
    "replaying": ("Replayed", "Trajectory", "replay"),
    "stepmaps": ("from_step_maps", "read_trajectories", "step_maps"),
    "trace": ("Trace", "load_traces", "save_traces"),
}
# `dlm.oracle` is what configurations written before dlm.exact_model had its name say.
_SUBMODULES = {"drafting": "dlm.drafting", "oracle": "dlm.exact_model"}
_MODULE_OF = {name: f"dlm.{module}" for module, names in _HOME.items() for name in names}

__all__ = [
    "CausalModel",
    "CheckpointError",
    "Composed",
    "Counts",
    "Decoder",
    "DlmError",
    "Evaluation",
    "Generation",
    "LanguageModel",
    "NumericsError",
    "OutOfMemoryError",
    "ProgressError",
    "PromptError",
    "Proposer",
    "Replayed",
    "Sampler",
    "SettingsError",
    "StepEvent",
    "StreamStep",
    "Trace",
    "Trajectory",
    "compose",
    "deer",
    "evaluate",
    "from_step_maps",
    "generate",
    "infill",
    "load",
    "load_causal",
    "load_traces",
    "read_trajectories",
    "replay",
    "save_traces",
    "show",
    "step_maps",
    "stream",
]


def __getattr__(name: str) -> "Any":
    if name in _SUBMODULES:
        return import_module(_SUBMODULES[name])
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'dlm' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
