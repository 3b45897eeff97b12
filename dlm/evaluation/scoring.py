"""A model's answers to a task, judged in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from dlm.api import SamplerLike, ready
from dlm.engine.calls import checked_call
from dlm.evaluation.asking import Asker, Query, decoded, has_template
from dlm.evaluation.identity import Questions
from dlm.evaluation.sample import Sample
from dlm.evaluation.tally import figures
from dlm.models.language_model import LanguageModel
from dlm.tasks.base import Task
from dlm.tasks.registry import open_task
from dlm.trace import Recorder


@checked_call
def score(
    model: LanguageModel | str | Path,
    task: Task | str,
    sampler: SamplerLike,
    *,
    n: int = 100,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """The figures (:meth:`dlm.evaluation.tally.figures`) of the task's first ``n`` questions, asked as chats.

    Model, task and sampler may be names.

    Raises:
        DlmError: a question that cannot be answered; settings that do not fit the model.
    """
    model, task = ready(model), open_task(task) if isinstance(task, str) else task
    asker = Asker(
        model,
        task,
        "chat" if has_template(model) else "text",
        task.canvas if max_new_tokens is None else max_new_tokens,
    )
    queries = [Query(instance, index, seed=0) for index, instance in enumerate(Questions(task).first(n))]
    faults: list[BaseException] = []

    def judged() -> Iterator[Sample]:
        recorder = Recorder(())
        rows = decoded(
            asker, queries, asker.decoder(sampler), batch_size, recorder, lambda _, fault: faults.append(fault)
        )
        for row in chain.from_iterable(rows):
            query, text = queries[row.index], asker.text(row)
            yield asker.sample(query, row, text, task.judge(query.instance, text))

    found = figures(judged())
    if faults:
        raise faults[0]
    return found
