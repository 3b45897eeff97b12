"""How many tokens answers have."""

from __future__ import annotations

from typing import Any

from dlm.tasks.base import Task


def longest_answer(task: Task, tokenizer: Any, n: int) -> int:
    """Tokens of the longest right answer among the first ``n`` instances; to compare with the canvas.

    Args:
        tokenizer: has ``encode(text) -> list of ids``, as a :class:`dlm.models.LanguageModel` and a transformers
            tokenizer have. Ids that a tokenizer adds to every text are counted with it.
        n: instances to look at, at most as many as the task has.
    """
    count = n if task.size is None else min(n, task.size)
    return max((len(tokenizer.encode(task.instance(i).target)) for i in range(count)), default=0)
