"""What is written beside a trained filter: a model card, figures as JSON, and a picture of its calibration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dlm.files import whole
from dlm.training.filter import Judgement, Level
from dlm.training.filter_file import Filter

_CARD = Path(__file__).with_name("filter_card.md").read_text(encoding="utf-8")
SHOWN = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def shown_levels(judgement: Judgement, advised: float | None) -> list[Level]:
    """The levels worth a line, the advised one among them."""
    return [level for level in judgement.levels if level.threshold in SHOWN or level.threshold == advised]


def card_of(filter: Filter, judgement: Judgement, told: Mapping[str, Any], name: str) -> str:
    """The card as Markdown. ``told``: model, data, prompts, lines, lengths, levels, seed and
    the training's settings."""
    levels = [
        f"| {level.threshold} | {level.accepted:.1%} | {level.precision:.2%} | {level.recall:.1%} |"
        for level in shown_levels(judgement, filter.threshold)
    ]
    bins = [
        f"| {b.low:.1f} to {b.high:.1f} | {b.count} | {b.predicted:.3f} | {b.observed:.3f} |"
        for b in judgement.bins
        if b.count
    ]
    weight = told["training"]["wrong_weight"]
    weighed = "Calibration:"
    if weight != 1:
        weighed = f"Calibration (a wrong proposal weighed {weight:g} times in training: predictions are meant too low):"
    has_base = judgement.base_loss == judgement.base_loss
    base = f"the bare probability: {judgement.base_loss:.4f}" if has_base else "inputs that are no probability"
    return _CARD.format(
        **told, name=name, filter=filter, judgement=judgement, base=base, weighed=weighed,
        levels_table="\n".join(levels), bins_table="\n".join(bins),
    )  # fmt: skip


def figures_of(judgement: Judgement, told: Mapping[str, Any]) -> str:
    """Everything in numbers, as JSON; what is not a number becomes null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [plain(entry) for entry in value]
        return None if isinstance(value, float) and value != value else value

    return json.dumps(plain({**told, **asdict(judgement)}), indent=1, ensure_ascii=False) + "\n"


def draw_calibration(judgement: Judgement, path: Path) -> None:
    """Predicted beside observed shares, and precision and recall over the threshold, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 4.0), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    bins = [b for b in judgement.bins if b.count]
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    left.plot([b.predicted for b in bins], [b.observed for b in bins], marker="o")
    left.set(xlabel="predicted probability", ylabel="share right", title="calibration, held out")
    thresholds = [level.threshold for level in judgement.levels]
    right.plot(thresholds, [level.precision for level in judgement.levels], label="precision")
    right.plot(thresholds, [level.recall for level in judgement.levels], label="recall")
    right.set(xlabel="threshold", title="what is committed, held out")
    right.legend()
    FigureCanvasAgg(figure)
    with whole(path) as partial:
        figure.savefig(partial, format="png")
