"""Run the harness, and say what the answers took: the same with and without its response cache."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from statistics import fmean
from typing import Any

from dlm.evaluation.harness.answers import Counters
from dlm.evaluation.harness.model import HarnessModel
from dlm.evaluation.harness.requests import Key, draws, request_hash

FILTER = "dlm"  # stands where the harness names the filter of a metric


def evaluate(model: HarnessModel, tasks: list[Any], **settings: Any) -> dict[str, Any] | None:
    """``lm_eval.simple_evaluate`` with the mean counters of each task among its results.

    They stand beside the scores as ``forwards,dlm``, ``tokens,dlm``, ``tokens_per_forward,dlm`` (mean over requests)
    and so on.

    Args:
        model: the model; processes that were started together each make their own.
        tasks: names, or configurations as dictionaries.
        settings: all else that ``simple_evaluate`` takes.

    Returns:
        What ``simple_evaluate`` returns; None on all processes but the first.
    """
    import lm_eval

    wants_samples = settings.pop("log_samples", True)
    settings.setdefault("model_args", {"pretrained": model.model.name})  # names the folder of results
    settings.setdefault("batch_size", model.batch_size)
    settings.setdefault("device", str(model.device))
    results = lm_eval.simple_evaluate(model=model, tasks=tasks, log_samples=True, **settings)
    gathered = model.gather_object(model.answers.known)
    if results is None or gathered is None:
        return None
    known: dict[Key, Counters] = {}
    for part in gathered:
        known = {**part, **known}
    add_counters(results, known, model.digest)
    if not wants_samples:
        results.pop("samples")
    return dict(results)


def add_counters(results: dict[str, Any], known: dict[Key, Counters], digest: str) -> None:
    """Put the means of each task's counters among its results; requests without counters are counted and named."""
    for task, samples in results["samples"].items():
        keys = set(_keys(samples, digest, results["configs"][task].get("repeats") or 1))
        counters = [known[key] for key in sorted(keys) if key in known]
        if missing := len(keys) - len(counters):
            logging.getLogger(__name__).warning(
                "%s: %d of %d answers came from the response cache and their counters were not found; keep the file of"
                " samples= beside the cache", task, missing, len(keys),
            )  # fmt: skip
            results["results"].setdefault(task, {})[f"uncounted,{FILTER}"] = missing
        results["results"].setdefault(task, {}).update(
            {f"{name},{FILTER}": value for name, value in means(counters).items()}
        )


def means(counters: list[Counters]) -> dict[str, float]:
    """Means over requests; nothing where there are none.

    Tokens and tokens per forward are left out where nothing was generated.
    """
    if not counters:
        return {}
    found = {
        "forwards": fmean(c.forwards for c in counters),
        "token_forwards": fmean(c.token_forwards for c in counters),
    }
    generated = [c for c in counters if c.tokens is not None]
    if generated:
        found["tokens"] = fmean(c.tokens or 0 for c in generated)
        found["tokens_per_forward"] = fmean(c.tokens_per_forward for c in generated)
    return found


def _keys(samples: list[dict[str, Any]], digest: str, repeats: int) -> Iterator[Key]:
    """The keys of the requests behind logged samples, of which there is one per document and filter.

    The last request of a rank that was filled up has more answers than repetitions.
    """
    for sample in samples:
        for arguments in sample["arguments"]:
            name = request_hash(arguments, digest)
            for repeat in range(repeats if draws(arguments) else 1):
                yield name, repeat
