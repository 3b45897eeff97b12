"""One answer to one question: a line of ``samples.jsonl``."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from typing import Any

SCHEMA_VERSION = 1
MOST = 1e12  # of anything that is counted
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


@dataclass(frozen=True)
class Sample:
    """Everything that is kept of one answer (docs/evaluation.md).

    All but the times, ``attempt`` and ``rank`` depend on the configuration, the instance and the seed alone, so that
    an interrupted run, a sharded one and a plain one write the same values.
    """

    instance_id: str  # hash of the question and what is right
    index: int  # the instance's place in its task
    task: str  # the task's name
    seed: int  # the seed of the noise
    prompt_sha256: str  # of the prompt's token ids, the conversation around the question included
    prompt_tokens: int  # how many they are
    output_text: str  # the answer up to its first end token; in infill form the filled template
    output_ids: list[int]  # the whole generated region, filler included
    target: str  # one right answer
    parsed: Any  # what the task read out of the answer
    score: float  # the headline, in [0, 1]
    score_strict: float | None  # with the strict parser; None where the task has one only
    parts: dict[str, float]  # further scores by name
    error_type: str | None  # in one word what is wrong; None: nothing
    canvas: int  # positions that were to be filled (M)
    forwards: int  # model evaluations (NFE); a guidance pair counts 2
    content_forwards: int  # those until the last token before the first end token was fixed (S_e)
    token_forwards: int  # positions pushed through the transformer
    tokens: int  # generated tokens before the first end token (e)
    # per generated position the 0-based step that fixed it; -1 where the sampler did not. The decoding order.
    commit_step: list[int]
    # per generated position the probability at which it was committed, 4 digits; None where it was not
    confidence: list[float | None]
    # accepted_drafts, positions_cut: as in :class:`dlm.engine.result.Counts`
    accepted_drafts: int
    positions_cut: int
    stop: str  # why the row ended: ``filled``, ``end_token`` or ``early_exit``
    seconds: float  # wall time of its steps, shared equally among the rows of a batch
    seconds_model: float  # the part of it inside forwards
    attempt: int = 1  # 1, or more after failures
    rank: int = 0  # the process that decoded it
    schema_version: int = SCHEMA_VERSION

    @property
    def key(self) -> tuple[str, int]:
        """What makes the line unique within its configuration."""
        return self.instance_id, self.seed

    def line(self) -> str:
        """The sample as one line of JSON, its newline included."""
        # Not asdict(), which copies every list an entry at a time.
        return _ENCODER.encode(vars(self)) + "\n"

    def checked(self) -> Sample:
        """Itself. Raises TypeError: a figure that no answer can have, as a damaged file may hold."""
        for name in ("score", "forwards", "content_forwards", "token_forwards", "tokens", "canvas", "seconds"):
            value, most = getattr(self, name), 1 if name == "score" else MOST
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
                raise TypeError(f"{value!r:.80} as {name}")
        for name, kinds in (("seconds_model", float | int), ("score_strict", float | int | None), ("parts", dict),
                            ("error_type", str | None), ("instance_id", str), ("seed", int)):  # fmt: skip
            if not isinstance(getattr(self, name), kinds):
                raise TypeError(f"{getattr(self, name)!r:.80} as {name}")
        if not all(isinstance(value, int | float) for value in self.parts.values()):
            raise TypeError(f"{self.parts!r:.80} as parts")
        return self

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Sample:
        """The inverse of :meth:`line` after ``json.loads``; keys that a later version added are passed over. Raises
        KeyError: a value without a default is missing."""
        if not values.keys() >= _REQUIRED:
            raise KeyError(next(f.name for f in fields(cls) if f.name in _REQUIRED and f.name not in values))
        if not values.keys() <= _KNOWN:
            values = {key: value for key, value in values.items() if key in _KNOWN}
        return cls(**values)


_KNOWN = frozenset(f.name for f in fields(Sample))
_REQUIRED = frozenset(f.name for f in fields(Sample) if f.default is MISSING)
TIMES = ("seconds", "seconds_model", "attempt", "rank")  # what two runs of one configuration may differ in
