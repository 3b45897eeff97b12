"""lm-evaluation-harness: its tasks answered by any model, sampler, cache and drafter of this package.

Needs lm-eval 0.4.13 or later (``pip install 'dlm[eval]'``).
"""

from importlib.util import find_spec

from dlm.errors import SettingsError

if find_spec("lm_eval") is None:
    raise SettingsError("lm-evaluation-harness is not installed: pip install 'dlm[eval]'")

from dlm.evaluation.harness.likelihood import Likelihood
from dlm.evaluation.harness.model import HarnessModel
from dlm.evaluation.harness.summary import evaluate

__all__ = ["HarnessModel", "Likelihood", "evaluate"]
