"""Tasks: questions that are asked of a model, and judges of the answers."""

from dlm.tasks.base import (
    Family,
    Generated,
    Instance,
    Split,
    Stream,
    Task,
    Template,
    Verdict,
    instance_id,
    longest_answer,
    split_of,
)
from dlm.tasks.registry import Outline, every, get, names, outline
from dlm.tasks.registry import open_task as open

# fmt: off
__all__ = [
    "Family", "Generated", "Instance", "Outline", "Split", "Stream", "Task", "Template", "Verdict", "every", "get",
    "instance_id", "longest_answer", "names", "open", "outline", "split_of",
]
