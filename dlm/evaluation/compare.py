"""The held-out questions of a task, as the benchmarks ask them."""

from __future__ import annotations

from dataclasses import dataclass

from dlm import tasks
from dlm.api import Message
from dlm.errors import SettingsError
from dlm.tasks import Generated, Instance


@dataclass(frozen=True)
class Questions:
    """The held-out questions of a task, asked as chats.

    Attributes:
        task: scores the answers.
        instances: the questions, split "test".
        max_new_tokens: positions to fill per question.
    """

    task: Generated
    instances: tuple[Instance, ...]
    max_new_tokens: int

    @classmethod
    def of(cls, name: str, n: int, max_new_tokens: int | None = None) -> Questions:
        """The first ``n`` held-out questions; None takes a canvas that holds any answer of the task.

        Raises:
            SettingsError: an unknown task, ``n`` below 1.
        """
        task = tasks.get(name)
        if n < 1:
            raise SettingsError(f"n must be at least 1, got {n}")
        canvas = task.canvas if max_new_tokens is None else max_new_tokens
        return cls(task, tuple(task.instance(i, "test") for i in range(n)), canvas)

    @property
    def chats(self) -> list[list[Message]]:
        """The questions as a user's messages."""
        return [[{"role": "user", "content": instance.prompt}] for instance in self.instances]
