"""The document of the packaged model's benchmark: its claims are judged by the figures, either way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.quality.bench import BUDGETS, CACHES, LENGTHS, LEVELS, MANY_ANSWERS, ONE_ANSWER, TASKS, Bench
from scripts.quality.claims import claims_of
from scripts.quality.page import page
from tests.report.stores import at_speed, config, write

N = 20
Scores = Callable[[str, str, float], int]  # task, what is varied, its value -> right answers of N


def as_published(task: str, what: str, value: float) -> int:
    """A model that does what the paper says."""
    many = task in MANY_ANSWERS
    steep = 2 if task == "waiting_line/shuffle" else 1
    if what in ("topk", "rcr", "remdm"):
        return max(0, N - (round(steep * 2 * value) if many and value > 1 else 0))
    if what == "random":
        return max(0, N - round(value)) if many else N - 3
    if what == "threshold":
        return N if value >= 0.9 or not many else N // 2
    if what == "length":
        return N - round(value / 4) if task != "text/story" else round(N * value / 32)
    return N if what == "none" else N - 2


def against(task: str, what: str, value: float) -> int:
    """A model to which everything is the same."""
    return N - 4


def made(out: Path, scores: Scores) -> Bench:
    for task in TASKS:

        def add(right: int, speed: float, sampler: str, task: str = task, **settings: object) -> None:
            rows = at_speed([1] * right + [0] * (N - right), max(1, round(speed)), task=task)
            write(out, config(sampler, task, **settings), rows)

        for sampler in ("topk", "random", "rcr", "remdm"):
            for k in BUDGETS[: 3 if sampler == "remdm" else 4]:
                add(scores(task, sampler, k), k, sampler, sampler__tokens_per_step=k, blocks__length=16)
        for level in LEVELS:
            add(scores(task, "threshold", level), 4, "threshold", sampler__threshold=level, blocks__length=16)
        for size in (size for size in LENGTHS if size != 16):
            add(scores(task, "length", size), 2, "topk", sampler__tokens_per_step=2, blocks__length=size)
        for cache in CACHES:
            add(
                scores(task, cache, 0),
                4,
                "threshold",
                sampler__threshold=0.9,
                blocks__length=8,
                cache={"choice": cache},
            )
    return Bench(out)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return made(tmp_path_factory.mktemp("published"), as_published)


def test_a_model_as_published_bears_the_claims_out(published: Bench) -> None:
    verdicts = {claim.text: claim.verdict for claim in claims_of(published)}
    assert set(verdicts.values()) == {"**reproduced**", "**cannot be tested** on this model"}, verdicts


def test_a_model_to_which_all_is_the_same_does_not(tmp_path: Path) -> None:
    claims = {claim.text: claim.verdict for claim in claims_of(made(tmp_path, against))}
    still = [text for text, verdict in claims.items() if verdict == "**reproduced**"]
    # What says that nothing changes holds where nothing changes; equal scores are no worse.
    assert sorted(still) == [
        "A confidence threshold beats a fixed budget at a safe setting",
        "RCR and ReMDM do not help",
        "Tasks with one right answer stay flat as more tokens are committed at once",
    ], claims


def test_the_document_has_every_table(published: Bench) -> None:
    text = page(published)
    assert f"{len(TASKS) * 35:,} points" in text or f"{len(published.figures):,} points" in text
    assert text.count("| waiting_line/copy |") == 5
    assert "| `threshold` |" in text.split("## Every preset")[1]
    assert "0 failures, 0 unfinished" in " ".join(text.split())


def test_a_benchmark_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    write(tmp_path, config("topk", ONE_ANSWER[0], sampler__tokens_per_step=1, blocks__length=16), at_speed([1], 1))
    with pytest.raises(SystemExit, match="run `make bench-quality` to its end"):
        claims_of(Bench(tmp_path))
