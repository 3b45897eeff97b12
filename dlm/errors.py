"""The ways a run can fail: one class per cause. Every message says what to change."""

from __future__ import annotations

from typing import Any


class DlmError(Exception):
    """Root of every error this package raises on purpose.

    Attributes:
        finished: answers that were done before the error, by their place in the list of prompts.
    """

    finished: dict[int, Any]

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.finished = {}


class SettingsError(DlmError, ValueError):
    """A setting is out of range, unknown, or contradicts another one."""


class CheckpointError(DlmError):
    """Model files are absent, damaged, or do not fit the architecture they claim."""


class PromptError(DlmError, ValueError):
    """A prompt is empty, too long for the model's context, or contains ids it may not contain.

    Attributes:
        prompt: its place in the list of prompts; None where the error is not about one of a list.
    """

    prompt: int | None = None


class NumericsError(DlmError):
    """The model produced NaN or infinite logits."""


class ProgressError(DlmError):
    """A row went past the bound on decoding steps without being finished."""


class OutOfMemoryError(DlmError):
    """The device ran out of memory at the smallest batch that could be tried."""


class StorageError(DlmError):
    """Results cannot be written: the disk is full, or another process writes the same files."""


class ServerError(DlmError):
    """A server cannot be reached, refuses what it is asked, or breaks off."""


class SandboxError(DlmError):
    """Generated code cannot be confined on this machine, or its sandbox did not start."""


class Terminated(KeyboardInterrupt):
    """The process was told to end (SIGTERM): like an interrupt, so that what is done is kept."""
