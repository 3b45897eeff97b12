"""The figures of a point, from its answers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from statistics import fmean
from typing import Any

from dlm.evaluation.intervals import wilson
from dlm.evaluation.sample import Sample


def brief(answer: Sample) -> Sample:
    """What of an answer is counted: without its texts and lists, which take most of the memory."""
    return replace(answer, output_text="", output_ids=[], commit_step=[], confidence=[], parsed=None)


def figures(samples: Iterable[Sample]) -> dict[str, Any]:
    """What ``metrics.json`` holds of these answers; means are over answers.

    ``tokens_per_forward`` is tokens / forwards until the last of them was fixed, ``canvas_tokens_per_forward`` all
    positions / forwards (the figure of most papers); both are means of the answers' ratios. The 95 % interval of the
    accuracy is Wilson's over questions: several seeds of one question count as one, with their mean score.
    """
    answers = list(map(brief, samples))
    if not answers:
        return {"n": 0}
    scores, parts = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for answer in answers:
        scores[answer.instance_id].append(answer.score)
        for name, value in answer.parts.items():
            parts[name].append(value)
    means = [fmean(each) for each in scores.values()]
    low, high = wilson(min(sum(means), len(means)), len(means))
    strict = [a.score_strict for a in answers if a.score_strict is not None]
    seconds = sum(a.seconds for a in answers)
    return {
        "n": len(answers),
        "questions": len(means),
        "seeds": sorted({a.seed for a in answers}),
        "accuracy": fmean(a.score for a in answers),
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_strict": fmean(strict) if strict else None,
        **{name: fmean(getattr(a, name) for a in answers) for name in ("forwards", "token_forwards", "tokens")},
        "tokens_per_forward": fmean(map(effective, answers)),
        "canvas_tokens_per_forward": fmean(a.canvas / a.forwards if a.forwards else 0.0 for a in answers),
        "tokens_per_second": sum(a.tokens for a in answers) / seconds if seconds else 0.0,
        "seconds": seconds,
        "seconds_model": sum(a.seconds_model for a in answers),
        "errors": dict(Counter(a.error_type for a in answers if a.error_type is not None).most_common()),
        "parts": {name: fmean(values) for name, values in sorted(parts.items())},
    }


def effective(answer: Sample) -> float:
    """Tokens of an answer / forwards until the last of them was fixed."""
    return answer.tokens / answer.content_forwards if answer.content_forwards else 0.0
