"""The figures of a point, from its answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import fmean
from typing import Any

from dlm.evaluation.intervals import wilson
from dlm.evaluation.sample import Sample


class Tally:
    """Adds up answers as they come; of each it keeps a few numbers."""

    def __init__(self) -> None:
        self._scores: dict[str, list[float]] = defaultdict(list)
        self._seeds: set[int] = set()
        self._errors: Counter[str] = Counter()
        self._parts: dict[str, list[float]] = defaultdict(list)
        self._strict: list[float] = []
        self._numbers: list[tuple[float, ...]] = []
        self._seconds = self._seconds_model = 0.0

    def take(self, answer: Sample) -> None:
        """Another answer."""
        self._scores[answer.instance_id].append(answer.score)
        self._seeds.add(answer.seed)
        if answer.error_type is not None:
            self._errors[answer.error_type] += 1
        if answer.score_strict is not None:
            self._strict.append(answer.score_strict)
        for name, value in answer.parts.items():
            self._parts[name].append(value)
        canvas = answer.canvas / answer.forwards if answer.forwards else 0.0
        self._numbers.append(
            (answer.score, answer.forwards, answer.token_forwards, answer.tokens, effective(answer), canvas)
        )
        self._seconds += answer.seconds
        self._seconds_model += answer.seconds_model

    def figures(self) -> dict[str, Any]:
        """What ``metrics.json`` holds; means are over answers.

        ``tokens_per_forward`` is tokens / forwards until the last of them was fixed, ``canvas_tokens_per_forward`` all
        positions / forwards (the figure of most papers); both are means of the answers' ratios. The 95 % interval of
        the accuracy is Wilson's over questions: several seeds of one question count as one, with their mean score.
        """
        if not self._numbers:
            return {"n": 0}
        score, forwards, token_forwards, tokens, useful, canvas = zip(*self._numbers, strict=True)
        means = [fmean(scores) for scores in self._scores.values()]
        low, high = wilson(min(sum(means), len(means)), len(means))
        return {
            "n": len(score),
            "questions": len(means),
            "seeds": sorted(self._seeds),
            "accuracy": fmean(score),
            "accuracy_low": low,
            "accuracy_high": high,
            "accuracy_strict": fmean(self._strict) if self._strict else None,
            "forwards": fmean(forwards),
            "token_forwards": fmean(token_forwards),
            "tokens": fmean(tokens),
            "tokens_per_forward": fmean(useful),
            "canvas_tokens_per_forward": fmean(canvas),
            "tokens_per_second": sum(tokens) / self._seconds if self._seconds else 0.0,
            "seconds": self._seconds,
            "seconds_model": self._seconds_model,
            "errors": dict(self._errors.most_common()),
            "parts": {name: fmean(values) for name, values in sorted(self._parts.items())},
        }


def figures(samples: Iterable[Sample]) -> dict[str, Any]:
    """The figures of these answers (:meth:`Tally.figures`)."""
    tally = Tally()
    for sample in samples:
        tally.take(sample)
    return tally.figures()


def effective(answer: Sample) -> float:
    """Tokens of an answer / forwards until the last of them was fixed."""
    return answer.tokens / answer.content_forwards if answer.content_forwards else 0.0
