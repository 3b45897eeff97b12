"""Everything a learned filter takes for final; the filters that come with the package."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from dlm.engine.canvas import Canvas
from dlm.engine.interfaces import Selector
from dlm.engine.proposal import Statistic
from dlm.engine.step import BlockState, RowSize, StepView
from dlm.errors import SettingsError
from dlm.training.filter_file import Filter, block_inputs, needs_of, packaged, read_filter
from samplers.ends import PUT_LAST

FOLDER = Path(__file__).parent


def packaged_filter(tokenizer: Any) -> Filter:
    """The filter that was trained on a model with this vocabulary.

    Raises:
        SettingsError: there is none in the package.
    """
    found = packaged(FOLDER, read_filter, tokenizer)
    if found is not None:
        return found
    raise SettingsError(
        "sampler 'learn2pd' has no packaged filter for this model: give filter=PATH (`dlm train-filter` makes one)"
    )


@dataclass(frozen=True)
class Learn2PD(Selector):
    """Commit every position that the filter takes for final with a probability above ``threshold``, and the best ones
    of the budget (Learn2PD, arXiv 2509.25188, algorithm L2P).

    The filter sees the confidences of the block and nothing else. ``filter=None``: the packaged one of the model.
    ``threshold=None``: what the filter's training advises, or 0.96. A block that is shorter than the filter's is filled
    up with zeros; a longer one is refused.

    Raises:
        SettingsError: a threshold outside (0, 1); a block longer than the filter's; no filter for this model.
    """

    filter: Filter | None = None
    threshold: float | None = None

    uses_budget = always_commits = True

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0.0 < self.threshold < 1.0:
            raise SettingsError(f"threshold must be between 0 and 1 (a probability), got {self.threshold}")

    @property
    def needs(self) -> frozenset[Statistic]:
        return frozenset() if self.filter is None else needs_of(self.filter.inputs)

    def bind(self, tokenizer: Any, vocab_size: int) -> Learn2PD:
        """The same with the model's packaged filter where none was given."""
        return self if self.filter is not None else replace(self, filter=packaged_filter(tokenizer))

    def check(self, region: int, block: int) -> None:
        if self.filter is None:
            raise SettingsError("sampler 'learn2pd' needs a filter here: give filter=PATH")
        if block > self.filter.block_length:
            raise SettingsError(
                f"the filter judges blocks of up to {self.filter.block_length} positions, these have {block}: use"
                f" blocks.length={self.filter.block_length}, or train one with block_length={block}"
            )

    def positions_to_score(self, canvas: Canvas, blocks: BlockState) -> Bool[Tensor, "B W"] | None:
        return blocks.block if self.filter is not None and self.filter.inputs == "probability" else None

    def most_positions_to_score(self, eligible: int, size: RowSize) -> int:
        return size.block if self.filter is not None and self.filter.inputs == "probability" else eligible

    def step(self, view: StepView, state: None) -> tuple[Bool[Tensor, "B N"], None]:
        assert view.scores is not None
        assert view.budget is not None
        return self.accepted(view) | (view.rank(view.scores) < view.budget[:, None]), state

    def accepted(self, view: StepView) -> Bool[Tensor, "B N"]:
        """What the filter takes for final, without the budget."""
        assert self.filter is not None
        assert view.scores is not None
        n = self.filter.block_length
        sure = torch.sigmoid(self.filter(block_inputs(view, self.filter.inputs, n, view.canvas.masked)))
        place = (view.positions - view.blocks.block_start[:, None]).clamp(0, n - 1)
        return (sure.gather(1, place) > self._level) & (view.scores > PUT_LAST)

    @property
    def _level(self) -> float:
        advised = self.filter.threshold if self.filter is not None else None
        return self.threshold if self.threshold is not None else advised if advised is not None else 0.96
