"""What to run for a recorded case, and how the reference's loop is built around the same rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dlm.engine.interfaces import Cache
from dlm.engine.sampler import Sampler

# The recorded Dream runs cut every distribution to its 50 largest logits, unasked: the checkpoint's
# generation_config.json leaves top_k out, and transformers (4.46) then fills in 50. Entropies, margins and
# probabilities are all of the cut distribution.
DREAM_TOP_K = 50

Draw = Literal["gumbel", "order", "origin", "categorical", "alg_temp"]


class UntranslatedError(Exception):
    """The case cannot be expressed yet; the message says why."""


@dataclass(frozen=True)
class Fault:
    """Our decoder with faults of the reference put in; a run of it that equals the record in every token, step,
    forward and fed position is the explanation.

    Attributes:
        rules: names of the faults, from :data:`scripts.goldens.rules.RULES`.
        sampler, cache: what replaces ours; None: nothing does.
        idle: the reference makes a call without work after a block that its first call has completed, and feeds this
            many positions from the beginning of the block on (no more than there are); None: it does not.
    """

    rules: tuple[str, ...]
    sampler: Sampler | None = None
    cache: Cache | None = None
    idle: int | None = None


@dataclass(frozen=True)
class Plan:
    """What to run for a case, and how the reference's loop is built around the same rule.

    Attributes:
        sampler: our sampler.
        new_tokens: positions to generate.
        block: length of a block.
        calls_per_block: forwards the reference spends on every block, needed or not; None: until all rows of
            the batch have completed the block.
        left_bound: whether the reference keeps to the active block on its left side too.
        draws: what the reference takes from torch's global generator, in the order in which it does.
        alg_temp: temperature of the draw of positions.
        end_ids: end ids the reference was given, where they are not those of the checkpoint.
        pinned: generated position -> token that stands there from the beginning.
        dtype: the number format the reference was run in.
        spans: the blocks the reference reports, as sizes; None: blocks of ``block``.
        draft_length: states per forward of FreeDave; None: no drafts.
        shortens: whether the reference returns rows that it has cut short.
        stops_at_end: whether the reference ends after a block with the end of the text, leaving masks behind it.
        attention_block: length of an attention block, which is a setting of the run; 0: the checkpoint's attention.
        acceptance: of drafts, as :class:`dlm.drafting.FreeDave` has it.
        cache: our cache; None: the reference has none, and feeds whole rows.
        faults: what may explain a difference of a run that is compared as a whole, simplest first.
        breaks: which rules of ours the reference is known to break, see :func:`scripts.goldens.stepwise.judge`.
    """

    sampler: Sampler
    new_tokens: int
    block: int
    calls_per_block: int | None = None
    left_bound: bool = False
    draws: tuple[Draw, ...] = ()
    alg_temp: float = 0.0
    end_ids: tuple[int, ...] | None = None
    pinned: dict[int, int] = field(default_factory=dict)
    dtype: Literal["float32", "float64"] = "float32"
    spans: tuple[int, ...] | None = None
    shortens: bool = False
    stops_at_end: bool = False
    draft_length: int | None = None
    attention_block: int = 0
    acceptance: Literal["standard", "eager"] = "standard"
    cache: Cache | None = None
    faults: tuple[Fault, ...] = ()
    breaks: tuple[Literal["rewrites", "leaves masks", "overshoots", "fills the tail", "drops at the bound"], ...] = ()

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.spans) if self.spans is not None else -(-self.new_tokens // self.block)

    def span(self, block: int) -> tuple[int, int]:
        """Where a block begins and ends, as generated positions."""
        if self.spans is not None:
            return sum(self.spans[:block]), sum(self.spans[: block + 1])
        return block * self.block, min((block + 1) * self.block, self.new_tokens)


@dataclass
class Settings:
    """A case's settings, with a note of what has been read.

    ``extra`` is the folder of further inputs, ``cases`` the one the case lies in.
    """

    values: dict[str, Any]
    extra: Path = Path()
    cases: Path = Path()
    seen: set[str] = field(default_factory=lambda: {"attention_mask", "pad_id"})  # read by Case.pads

    def get(self, name: str, default: Any = None) -> Any:
        """The setting, or ``default`` where it is absent."""
        self.seen.add(name)
        return self.values.get(name, default)

    def file(self, name: str) -> Path:
        """A file of further inputs; its name is the first word of the setting."""
        return self.extra / Path(self.get(name).split()[0]).name

    def only(self, name: str, *accepted: Any) -> None:
        """Refuse the case when a setting is present with a value that has no translation."""
        if name in self.values and self.get(name) not in accepted:
            raise UntranslatedError(f"{name}={self.values[name]!r}")

    def close(self) -> None:
        """Refuse the case when some setting was not read."""
        left = sorted(set(self.values) - self.seen)
        if left:
            raise UntranslatedError(f"settings without a translation: {', '.join(left)}")

    def layout(self) -> tuple[int, int]:
        """Generated positions and block length."""
        return self.get("gen_length"), self.get("block_length")
