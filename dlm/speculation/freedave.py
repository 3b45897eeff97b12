"""FreeDave: the next states of a deterministic decode, guessed and verified in one forward (arXiv 2510.00294).

A step of any deterministic sampler takes a row from one state to the next. Under the guess that the model's answers
will not change, the sampler itself says which states come after: the drafts. The next forward evaluates the row and its
drafts together. The sampler then steps from the answers to the row; if the state it arrives at is a draft that was
evaluated, the answers to that draft are at hand, and it steps on from them without a forward; and so on while the
guesses hold. Every step is the ordinary step from the ordinary answers, so what is decoded is what would have been
decoded without drafts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dlm.engine.interfaces import BlockSchedule, Cache, Part, Selector, Speculator, StopRule, offers
from dlm.engine.sampler import Sampler
from dlm.engine.stepper import StepTools
from dlm.errors import SettingsError
from dlm.models.backbone import ModelDescription
from dlm.speculation.cost_model import measured
from dlm.speculation.draft_length import DraftLengthController
from dlm.speculation.drafting import PARTS, DraftingStepper, timeless

# The most states per forward that ``auto`` chooses.
LONGEST = 16


@dataclass(frozen=True)
class FreeDave(Speculator):
    """Draft and verify.

    With a sampling temperature it is lossless too: every draw belongs to a step and a position of its row, not to a
    forward.

    Attributes:
        draft_length: states per forward, the present one included; 1 drafts nothing. ``auto`` goes by the acceptance
            seen so far and by what a forward of so many positions takes on this machine.
        layout: where the drafts lie in the forward. ``batch``: as rows of their own, each with a copy of the stored
            keys; ``tree``: one behind the other in the same row, under a mask, over one store.
        acceptance: ``standard``: drafts end with their block. ``eager``: they go on in the next block, which needs a
            cache that does not recompute everything there. ``subset`` (the repository's rule since April 2026, not
            lossless): a draft is accepted when it holds a part of what the step commits; the rest is decided anew by
            the answers to the draft. For samplers that commit as many as they are sure of, at temperature 0.
            ``values`` (PSD, arXiv 2605.15609, as far as its abstract says; not lossless): a draft is accepted when the
            answers to the one before propose each of its tokens, whether the step would have committed them or not.
        sources: answers to draft from: those of the present state, and of so many states less one that led to it
            (multi-source drafting: docs/drafting.md). All their drafts are evaluated.

    Raises:
        SettingsError: a setting outside its range.
    """

    draft_length: int | Literal["auto"] = 4
    layout: Literal["batch", "tree"] = "batch"
    acceptance: Literal["standard", "eager", "subset", "values"] = "standard"
    sources: int = 1

    def __post_init__(self) -> None:
        for name, value in (("draft_length", self.draft_length), ("sources", self.sources)):
            if value != "auto" and value < 1:
                raise SettingsError(f"{name} must be a whole number of at least 1, got {value}")

    @property
    def spans_blocks(self) -> bool:
        """Whether drafts go over the border of a block."""
        return self.acceptance == "eager"

    def goes_with(self, sampler: Sampler, cache: Cache, description: ModelDescription) -> None:
        """Refuse what makes a step depend on more than the state it starts from.

        Raises:
            SettingsError: with the reason.
        """
        clashes = {
            "a part that reads the previous forward, attention or a shadow block": bool(
                {"kl", "attention", "shadow"} & sampler.needs
            ),
            "look-ahead branches or another probe": sampler.probe is not None,
            "an early exit": sampler.exit is not None,
            "a reviser": sampler.reviser is not None,
            "guidance_remask": sampler.guidance_remask > 0,
            "a selector that rewrites or cuts rows off": sampler.selector.rewrites
            or offers(sampler.selector, Selector.visible_end),
            "a logit transform with a memory": any(offers(part, Part.init) for part in sampler.transforms),
            "blocks that move or grow": sampler.moves_blocks or sampler.grows,
            "blocks that are open in places": offers(sampler.blocks, BlockSchedule.open_positions),
        }
        found = [what for what, there in clashes.items() if there]
        if found:
            raise SettingsError(
                f"drafting=freedave does not go with {' and '.join(found)} (sampler {sampler.name!r}): use"
                " drafting=none"
            )
        if self.spans_blocks and sampler.constraint is not None:
            raise SettingsError(
                "drafting.acceptance=eager proposes behind the block, which a constraint would take into account: use"
                " acceptance=standard"
            )
        if self.acceptance in PARTS:
            subset = self.acceptance == "subset"
            other = (subset and sampler.selector.best_first) or not timeless(sampler) or self.sources > 1
            cut = sampler.stop is not None and offers(sampler.stop, StopRule.new_end)
            other = other or cut or offers(sampler.blocks, BlockSchedule.narrow)
            if other or not (cache.feeds_alike or cache.exact or not subset):
                kinds = "commit what they are sure of" if subset else "go by their answers alone,"
                examples = "(threshold, factor, eb, localleap, sdar)" if subset else "(topk, threshold, eb)"
                caches = ", and cache=none, dual, prefix or block_causal" if subset else ""
                raise SettingsError(
                    f"drafting.acceptance={self.acceptance} is for samplers that {kinds} at temperature 0 {examples} in"
                    f" blocks that stay as they are, without a rule that shortens rows, one source{caches}; got sampler"
                    f" {sampler.name!r} and cache {type(cache).__name__}: use acceptance=standard"
                )
        if not cache.schedule_known:
            raise SettingsError(
                f"drafting=freedave does not go with cache {type(cache).__name__}: what a step recomputes there depends"
                " on the answers to the step before, which drafts only guess; use cache=none, prefix, dual, vicinity,"
                " freecache, block_causal or one of dkv_decode, dkv_prefill and dkv_pd"
            )
        if self.spans_blocks and not cache.spans_blocks:
            raise SettingsError(
                f"drafting.acceptance=eager drafts over the border of a block, where cache {type(cache).__name__}"
                " recomputes everything: use acceptance=standard, or cache=none, block_causal, freecache, dkv_prefill,"
                " dkv_pd or dkv_decode"
            )

    def stepper(self, tools: StepTools) -> DraftingStepper:
        """The drafter at work. With ``auto`` the machine is measured first, a second or two once for each model."""
        length: int | DraftLengthController
        if self.draft_length == "auto":
            forward = tools.forward
            length = DraftLengthController(LONGEST, measured(forward.model, tools.description, forward.watch.device))
        else:
            length = self.draft_length
        return DraftingStepper(tools, self.acceptance, self.layout == "tree", self.sources, length)
