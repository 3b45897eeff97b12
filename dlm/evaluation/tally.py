"""The figures of a point, from its answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import fmean
from typing import Any

from dlm.evaluation.intervals import wilson
from dlm.evaluation.sample import Sample


def figures(samples: Iterable[Sample]) -> dict[str, Any]:
    """What ``metrics.json`` holds; means are over answers.

    ``tokens_per_forward`` is tokens / forwards until the last of them was fixed, ``canvas_tokens_per_forward`` all
    positions / forwards (specs/parallelbench.md 2.2); both are means of the answers' ratios. The 95 % interval of the
    accuracy is Wilson's over questions: several seeds of one question count as one, with their mean score.
    """
    answers = list(samples)
    if not answers:
        return {"n": 0}
    by_question: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        by_question[answer.instance_id].append(answer.score)
    means = [fmean(scores) for scores in by_question.values()]
    low, high = wilson(min(sum(means), len(means)), len(means))
    strict = [a.score_strict for a in answers if a.score_strict is not None]
    seconds = sum(a.seconds for a in answers)
    return {
        "n": len(answers),
        "questions": len(by_question),
        "seeds": sorted({a.seed for a in answers}),
        "accuracy": fmean(a.score for a in answers),
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_strict": fmean(strict) if strict else None,
        "forwards": fmean(a.forwards for a in answers),
        "token_forwards": fmean(a.token_forwards for a in answers),
        "tokens": fmean(a.tokens for a in answers),
        "tokens_per_forward": fmean(effective(a) for a in answers),
        "canvas_tokens_per_forward": fmean(a.canvas / a.forwards if a.forwards else 0.0 for a in answers),
        "tokens_per_second": sum(a.tokens for a in answers) / seconds if seconds else 0.0,
        "seconds": seconds,
        "seconds_model": sum(a.seconds_model for a in answers),
        "errors": dict(Counter(a.error_type for a in answers if a.error_type is not None).most_common()),
        "parts": _parts(answers),
    }


def effective(answer: Sample) -> float:
    """Tokens of an answer / forwards until the last of them was fixed."""
    return answer.tokens / answer.content_forwards if answer.content_forwards else 0.0


def _parts(answers: list[Sample]) -> dict[str, float]:
    """The mean of every further score."""
    found: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        for name, value in answer.parts.items():
            found[name].append(value)
    return {name: fmean(values) for name, values in sorted(found.items())}
