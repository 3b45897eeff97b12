"""A model's answers to a task, judged in memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from dlm.engine.sampler import Sampler
from dlm.evaluation.asking import Asker, Query, decoded
from dlm.evaluation.identity import Questions
from dlm.evaluation.sample import Sample
from dlm.evaluation.tally import figures
from dlm.models.language_model import LanguageModel
from dlm.tasks.base import Task
from dlm.trace import Recorder


def score(
    model: LanguageModel,
    task: Task,
    sampler: Sampler,
    *,
    n: int = 100,
    max_new_tokens: int | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """The figures (:meth:`dlm.evaluation.tally.figures`) of the task's first ``n`` questions, asked as chats.

    Raises:
        DlmError: a question that cannot be answered; settings that do not fit the model.
    """
    asker = Asker(model, task, "chat", task.canvas if max_new_tokens is None else max_new_tokens)
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
