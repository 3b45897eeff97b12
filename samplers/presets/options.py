"""What every preset accepts beside its own settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Literal, ParamSpec, TypedDict

from dlm.engine.calls import Checked, arguments, hints_of
from dlm.engine.constraint import Constraint
from dlm.engine.interfaces import BlockSchedule, EarlyExit, LogitTransform, Score, ScoreModifier, Selector, StopRule
from dlm.engine.sampler import Sampler
from dlm.errors import SettingsError
from samplers.blocks.fixed import Fixed
from samplers.ends import BanEnd, EndBlock, EndOfText, Rule, SuppressEnd

P = ParamSpec("P")

_BUDGET_KEYS = {"steps", "tokens_per_step"}
_USUAL = Fixed()


@dataclass(frozen=True)
class Options(metaclass=Checked):
    """Settings shared by all presets; :class:`SharedOptions` for a type checker.

    Attributes:
        blocks: which span may be filled now; None, and nothing else, means the preset's own (blocks of 32, or the
            whole canvas where that is shorter, for those that say nothing of it).
        temperature: 0 is greedy; above 0 tokens are drawn from softmax(logits / temperature).
        top_p, top_k: truncation of the distribution; null is off.
        guidance: classifier-free guidance scale; 0 is off. Doubles the forwards.
        guidance_remask: guidance not from the row without its prompt, but from the row with this share of its committed
            tokens masked again, the least sure ones (A-CFG, arXiv 2505.20199); 0 is off. Needs ``cache=none``.
        precision: dtype of the confidences, ``float32`` or ``float64``.
        ban_end: the end-of-text id is never proposed (LLaDA's ``logits_eos_inf``).
        suppress_end: end tokens are committed last (LLaDA's ``confidence_eos_eot_inf``). ``"reference"``: as the
            published code behaves, which takes them out of the softmax instead.
        stop_at_end: a completed block with the end-of-text id ends the row. Or a rule of :class:`samplers.EndOfText`,
            ``decoded``, ``complete``, ``reached``, ``accepted`` or ``reference``: what lies behind the end of the text
            is taken away at once.
        transforms, modifiers: further logit transforms and score modifiers, behind the preset's own.
        exit: an early exit (:class:`samplers.AnswerGap`); null is off.
        stop: a stop rule in place of ``stop_at_end``; null is off.
        constraint: what every answer must be (:class:`samplers.Regex`, :class:`samplers.JsonSchema`); null is off.
    """

    blocks: BlockSchedule | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    guidance: float = 0.0
    guidance_remask: float = 0.0
    precision: Literal["float32", "float64"] = "float32"
    ban_end: bool = False
    suppress_end: bool | Literal["reference"] = False
    stop_at_end: bool | Rule = False
    transforms: Sequence[LogitTransform] = ()
    modifiers: Sequence[ScoreModifier] = ()
    exit: EarlyExit | None = None
    stop: StopRule | None = None
    constraint: Constraint | None = None

    def __post_init__(self) -> None:
        if self.stop_at_end and self.stop is not None:
            raise SettingsError("stop_at_end and stop= both say when a row ends: give one of them")

    def finish(self, sampler: Sampler) -> Sampler:
        """``sampler`` with these options added to its parts."""
        proposer = replace(
            sampler.proposer, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k,
            precision=self.precision, end_confidence="aliased" if self.suppress_end == "reference" else "keep",
        )  # fmt: skip
        transforms: tuple[LogitTransform, ...] = (BanEnd(),) if self.ban_end else ()
        modifiers: tuple[ScoreModifier, ...] = (SuppressEnd(),) if self.suppress_end is True else ()
        return replace(
            sampler,
            proposer=proposer,
            transforms=(*transforms, *sampler.transforms, *self.transforms),
            modifiers=(*sampler.modifiers, *self.modifiers, *modifiers),
            exit=self.exit or sampler.exit,
            stop=self.stop_rule or sampler.stop,
            guidance=self.guidance,
            guidance_remask=self.guidance_remask,
            constraint=self.constraint,
        )

    @property
    def stop_rule(self) -> StopRule | None:
        """The stop rule asked for; None: none is."""
        if self.stop is not None or not self.stop_at_end:
            return self.stop
        return EndBlock() if self.stop_at_end is True else EndOfText(self.stop_at_end)


class SharedOptions(TypedDict, total=False):
    """The fields of :class:`Options`, for the signature of a preset."""

    blocks: BlockSchedule | None
    temperature: float
    top_p: float | None
    top_k: int | None
    guidance: float
    guidance_remask: float
    precision: Literal["float32", "float64"]
    ban_end: bool
    suppress_end: bool | Literal["reference"]
    stop_at_end: bool | Rule
    transforms: Sequence[LogitTransform]
    modifiers: Sequence[ScoreModifier]
    exit: EarlyExit | None
    stop: StopRule | None
    constraint: Constraint | None


def published(make: Callable[P, Sampler]) -> Callable[P, Sampler]:
    """A preset, whose settings are checked before it is called: its own, and those of :class:`SharedOptions`."""
    name, signature = make.__name__, inspect.signature(make)

    @wraps(make)
    def made(*given: P.args, **settings: P.kwargs) -> Sampler:
        if surplus := sorted(_BUDGET_KEYS & set(settings) - set(signature.parameters)):
            raise SettingsError(
                f"sampler {name!r} decides by itself how many tokens each step commits: remove"
                f" {' and '.join(surplus)} (a fixed budget is sampler=topk)"
            )
        bound = arguments(signature, hints_of(make), f"sampler {name!r}", given, settings)
        return make(*bound.args, **bound.kwargs)

    return made


def preset(
    name: str, options: SharedOptions, score: Score, selector: Selector, blocks: BlockSchedule = _USUAL, **parts: Any
) -> Sampler:
    """The sampler of a preset: its own parts, and what ``options`` add to them.

    ``blocks``: its own default, for who asks for none. ``parts``: what else it has, as :class:`dlm.Sampler` names it.
    """
    shared = Options(**options)
    asked = blocks if shared.blocks is None else shared.blocks
    return shared.finish(Sampler(name, score, selector, asked, **parts))
