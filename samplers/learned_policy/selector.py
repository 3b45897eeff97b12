"""Everything a learned policy wants committed; the policies that come with the package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.interfaces import Selector
from dlm.engine.step import StepView
from dlm.errors import SettingsError
from dlm.training.filter_file import packaged
from dlm.training.policy_file import Policy, read_policy, wanted
from samplers.ends import PUT_LAST

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class LearnedPolicy(Selector):
    """Commit every position whose logit is above 0, and where there is none the one with the highest (after Jazbec et
    al., arXiv 2512.09106).

    ``policy=None``: the packaged one of the model. ``explore``: each position is drawn with the logistic probability of
    its logit, as the paper decodes, from the row's own noise. ``boldness`` (ours) is added to every logit.

    Raises:
        SettingsError: no policy for this model.
    """

    policy: Policy | None = None
    explore: bool = False
    boldness: float = 0.0

    always_commits = True

    def bind(self, tokenizer: Any, vocab_size: int) -> LearnedPolicy:
        """The same with the model's packaged policy where none was given."""
        return self if self.policy is not None else replace(self, policy=packaged(FOLDER, read_policy, tokenizer))

    def check(self, region: int, block: int) -> None:
        if self.policy is None:
            raise SettingsError(
                "sampler 'policy' has no packaged policy for this model: give policy=PATH (`dlm train policy` makes it)"
            )

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        logits, chosen = self._decided(view)
        assert view.scores is not None
        # What is put last comes behind all else, and not at all while anything else is wanted.
        order = logits.masked_fill(view.scores <= PUT_LAST, -1e30).masked_fill(~view.eligible, -torch.inf)
        best = (view.rank(order) == 0) & view.eligible
        return chosen | (best & ~chosen.any(dim=1, keepdim=True)), state

    def accepted(self, view: StepView) -> Bool[Tensor, "B N"]:
        """What the policy wants, without the one that is committed in any case."""
        return self._decided(view)[1]

    def _decided(self, view: StepView) -> tuple[Tensor, Bool[Tensor, "B N"]]:
        assert self.policy is not None
        assert view.scores is not None
        logits = self.policy(view) + self.boldness
        return logits, wanted(view, logits, self.explore) & (view.scores > PUT_LAST)
