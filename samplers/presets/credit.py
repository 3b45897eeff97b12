"""CreditDecoding (arXiv 2510.06133): tokens that keep winning need less confidence."""

from __future__ import annotations

from typing import Any, Literal

from dlm.engine.interfaces import Selector
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from samplers.presets.options import Options
from samplers.scores.probability import Probability
from samplers.selectors.threshold import Threshold
from samplers.transforms.credit import Credit

# alpha, beta, gamma: section 5.1 of the paper; its parameter-free form; the defaults of dInfer.
VARIANTS: dict[str, tuple[float | None, float | None, float]] = {
    "paper": (0.65, 0.70, 0.20),
    "free": (None, None, 1.0),
    "dinfer": (0.7, 0.8, 0.2),
}


def credit(
    threshold: float = 0.95,
    *,
    variant: Literal["paper", "free", "dinfer"] = "paper",
    alpha: float | None = None,
    beta: float | None = None,
    gamma: float | None = None,
    slots: int = 8,
    store: Literal["sparse", "dense"] = "sparse",
    selector: Selector | None = None,
    **options: Any,
) -> Sampler:
    """Fuse credit into the logits, then commit what reaches ``threshold`` (or what ``selector`` chooses).

    ``variant`` sets alpha, beta and gamma; each can be given by itself. See :class:`samplers.Credit`.
    """
    if variant not in VARIANTS:
        raise SettingsError(f"variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
    base = VARIANTS[variant]
    given = tuple(b if v is None else v for v, b in zip((alpha, beta, gamma), base, strict=True))
    transform = Credit(given[0], given[1], given[2] if given[2] is not None else 1.0, slots, store)
    shared = Options.parse("credit", options)
    chooser = selector or Threshold(threshold)
    return shared.finish(Sampler("credit", Probability(), chooser, shared.block_schedule, transforms=(transform,)))
