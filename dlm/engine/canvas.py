"""The token matrix being filled: per-row layout, what is still masked, and when each token was committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dlm.engine.stops import Stops
from dlm.errors import PromptError


@dataclass(frozen=True)
class Job:
    """One row to decode, as it comes from the caller (host side, plain Python).

    Attributes:
        index: place of the row in the caller's list; results are returned in this order.
        tokens: the whole row, prompt first, mask id wherever something is to be filled.
        start: first position of the generated region (blocks are counted from here).
        writable: positions that may be filled; everything else is never written.
        key: 64-bit key of the row's noise stream (see :mod:`dlm.engine.noise`).
        length: positions of the generated region that the row begins with; None: all of them.
        surplus: positions at its end that nobody asked for: they complete the last attention block, are filled as long
            as something else is open, and not handed out.
        stops: the stop strings that end it; None: it has none.
        temperature: its own, in a batch whose rows differ in it (then all of them have one); None: the proposer's.
    """

    index: int
    tokens: tuple[int, ...]
    start: int
    writable: tuple[int, ...]
    key: int
    length: int | None = None
    surplus: int = 0
    stops: Stops | None = None
    temperature: float | None = None

    def completed(self, attention_block: int, mask_id: int, context: int) -> Job:
        """The row with masks up to the end of its last attention block, as block diffusion is trained. Raises
        PromptError: that is more than the model's ``context``."""
        surplus = -self.end % attention_block
        if self.end + surplus > context:
            raise PromptError(
                f"prompt {self.index}: its {self.end} positions are {self.end + surplus} in whole attention blocks of"
                f" {attention_block}, more than the model's context of {context}: shorten it or ask for fewer tokens"
            )
        more = range(self.end, self.end + surplus)
        tokens, writable = (*self.tokens, *[mask_id] * surplus), (*self.writable, *more)
        return replace(self, tokens=tokens, writable=writable, surplus=surplus)

    @property
    def shown_end(self) -> int:
        """The end of what was asked for."""
        return self.end - self.surplus

    @property
    def end(self) -> int:
        """The end of the row, as long as it may get."""
        return len(self.tokens)

    @property
    def first_end(self) -> int:
        """The end of the row as it begins."""
        return self.end if self.length is None else self.start + self.length


@dataclass(frozen=True)
class SpecialIds:
    """The ids a model gives a meaning to.

    Attributes:
        mask_id: stands for "not yet filled".
        end_ids: end an answer; the first is the filler that follows it.
    """

    mask_id: int
    end_ids: tuple[int, ...]


@dataclass
class Canvas:
    """Left-aligned rows ``[prompt | generation | dead tail]`` plus one scratch column at the far right.

    ``L`` is the width of the widest row of the whole run. Column ``L`` belongs to nobody: unused entries of a
    position list point there, so that gathers and scatters need no branches. Only :meth:`commit`,
    :meth:`remask`, :meth:`insert`, :meth:`withdraw`, :meth:`fill` and :meth:`shorten` write tokens.

    Attributes:
        tokens: token ids. ``[B, L+1]``
        writable: positions the decoder may fill. ``[B, L+1]``
        commit_step: 0-based step of the row at which a position was committed, -1 if it was not. ``[B, L+1]``
        commit_confidence: probability of the committed token at that step, NaN if none. ``[B, L+1]``
        start, end: the generated region ``[start, end)`` of each row; a stop rule may lower the end, a schedule may
            move it. ``[B]``
        asked: the end of what was asked for, beyond which no row grows; behind it lies what completes the last
            attention block. ``[B]``
        cut_away: masked positions that a stop rule filled. ``[B]``
        key: noise key of each row. ``[B]``
        mask_id: the id that stands for "not yet filled".
        end_ids: the ids that end an answer, the filler (end of text) first.
        columns: ``0 .. L``, the column numbers. ``[L+1]``
        temperature: of each row; None: that of the proposer. ``[B]``
    """

    tokens: Int[Tensor, "B W"]
    writable: Bool[Tensor, "B W"]
    commit_step: Int[Tensor, "B W"]
    commit_confidence: Float[Tensor, "B W"]
    start: Int[Tensor, " B"]
    end: Int[Tensor, " B"]
    asked: Int[Tensor, " B"]
    cut_away: Int[Tensor, " B"]
    key: Int[Tensor, " B"]
    mask_id: int
    end_ids: tuple[int, ...]
    columns: Int[Tensor, " W"]
    temperature: Float[Tensor, " B"] | None = None
    _masked: Bool[Tensor, "B W"] | None = field(default=None, init=False, repr=False)
    _kept: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)
    _numbers: dict[tuple[float, torch.dtype], Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(cls, jobs: Sequence[Job], length: int, ids: SpecialIds, device: torch.device) -> Canvas:
        """A canvas that holds ``jobs``, one a row, and can later hold any job of up to ``length`` positions."""
        canvas = cls._empty(len(jobs), length, ids, device)
        if any(job.temperature is not None for job in jobs):
            canvas.temperature = torch.zeros(len(jobs), dtype=canvas.commit_confidence.dtype, device=device)
        for slot, job in enumerate(jobs):
            canvas.place(slot, job)
        return canvas

    @classmethod
    def _empty(cls, rows: int, length: int, ids: SpecialIds, device: torch.device) -> Canvas:
        shape = (rows, length + 1)
        per_row = torch.zeros(rows, dtype=torch.long, device=device)
        return cls(
            tokens=torch.zeros(shape, dtype=torch.long, device=device),
            writable=torch.zeros(shape, dtype=torch.bool, device=device),
            commit_step=torch.full(shape, -1, dtype=torch.long, device=device),
            # Apple's accelerator has no float64.
            commit_confidence=torch.full(
                shape, torch.nan, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device
            ),
            start=per_row,
            end=per_row.clone(),
            asked=per_row.clone(),
            cut_away=per_row.clone(),
            key=per_row.clone(),
            mask_id=ids.mask_id,
            end_ids=ids.end_ids,
            columns=torch.arange(length + 1, device=device),
        )

    @property
    def scratch(self) -> int:
        """Index of the column that belongs to nobody."""
        return self.tokens.shape[1] - 1

    @property
    def masked(self) -> Bool[Tensor, "B W"]:
        """Positions that are still to be filled. Within a run, which nobody else writes to, kept until tokens are
        written."""
        if self._masked is None or not self.tokens.is_inference():
            self._masked = self.writable & (self.tokens == self.mask_id)
        return self._masked

    @property
    def wanting(self) -> Bool[Tensor, " B"]:
        """Rows with masks before the end of what was asked for."""
        return (self.masked & (self.columns < self.asked[:, None])).any(dim=1)

    @property
    def live(self) -> Bool[Tensor, "B W"]:
        """Positions before each row's end."""
        return self.kept("live", lambda: self.columns < self.end[:, None])

    @property
    def generated(self) -> Bool[Tensor, "B W"]:
        """Positions of the generated region."""
        return self.kept("generated", lambda: self.inside(self.start, self.end))

    @property
    def region(self) -> Int[Tensor, " B"]:
        """Generated positions that were asked for, which is what schedules are laid out over."""
        return self.kept("region", lambda: self.asked - self.start)

    @property
    def rows(self) -> Int[Tensor, " B"]:
        """``0 .. B-1``, the numbers of the rows."""
        return self.kept("rows", lambda: torch.arange(self.start.shape[0], device=self.start.device))

    def kept(self, name: Any, make: Callable[[], Tensor]) -> Tensor:
        """What follows from the rows and their ends alone, under a name of its own: within a run made once, and again
        when they change."""
        if name not in self._kept or not self.tokens.is_inference():
            self._kept[name] = make()
        return self._kept[name]

    def number(self, value: int | float, dtype: torch.dtype) -> Tensor:
        """A number that stays on the device: one of the host's costs a kernel each time that it is needed there."""
        if (value, dtype) not in self._numbers:
            self._numbers[value, dtype] = torch.full((), value, dtype=dtype, device=self.tokens.device)
        return self._numbers[value, dtype]

    def touched(self) -> None:
        """Tokens or ends are others now: nothing that was derived from them holds."""
        self._masked = None
        self._kept.clear()

    def place(self, slot: int, job: Job) -> None:
        """Put a fresh row into ``slot``; whatever was there is gone. A row that begins with less than was asked for has
        end-of-text ids behind its first end."""
        device, end = self.tokens.device, job.first_end
        self.touched()
        self.tokens[slot] = 0
        self.tokens[slot, : job.end] = torch.tensor(job.tokens, device=device)
        self.writable[slot] = False
        self.writable[slot, torch.tensor(job.writable, dtype=torch.long, device=device)] = True
        if end < job.end:
            self.tokens[slot, end : job.end] = self.end_ids[0]
            self.writable[slot, end:] = False
        self.commit_step[slot] = -1
        self.commit_confidence[slot] = torch.nan
        self.start[slot], self.end[slot], self.key[slot] = job.start, end, job.key
        self.asked[slot], self.cut_away[slot] = job.shown_end, 0
        if self.temperature is not None:
            self.temperature[slot] = job.temperature or 0.0

    def keep(self, slots: list[int]) -> None:
        """Drop every row that is not in ``slots`` (row compaction)."""
        index = torch.tensor(slots, dtype=torch.long, device=self.tokens.device)
        self.touched()
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Tensor) and each.name != "columns":
                setattr(self, each.name, value.index_select(0, index))

    def branched(self, tokens: Int[Tensor, "R W"], owner: Int[Tensor, " R"]) -> Canvas:
        """A canvas whose rows are versions, with these tokens, of the rows ``owner``."""
        rows = ("writable", "commit_step", "commit_confidence", "start", "end", "asked", "cut_away", "key")
        chosen: dict[str, Any] = {name: versions(getattr(self, name), owner) for name in rows}
        if self.temperature is not None:
            chosen["temperature"] = versions(self.temperature, owner)
        branched = replace(self, tokens=tokens, **chosen)
        branched._numbers = self._numbers
        return branched

    def inside(self, start: Int[Tensor, " B"], end: Int[Tensor, " B"]) -> Bool[Tensor, "B W"]:
        """Positions in ``[start, end)`` of each row."""
        return (self.columns >= start[:, None]) & (self.columns < end[:, None])

    def commit(
        self,
        positions: Int[Tensor, "B N"],
        tokens: Int[Tensor, "B N"],
        chosen: Bool[Tensor, "B N"],
        step: Int[Tensor, " B"],
        confidence: Float[Tensor, "B N"],
    ) -> None:
        """Write ``tokens`` where ``chosen``, and remember at which step and with which confidence."""
        self._masked = None
        target = torch.where(chosen, positions, self.columns[-1])
        self.tokens.scatter_(1, target, tokens)
        self.commit_step.scatter_(1, target, step[:, None].expand_as(target))
        self.commit_confidence.scatter_(1, target, confidence.to(self.commit_confidence.dtype))

    def fill(self, where: Bool[Tensor, "B W"], token: int | Int[Tensor, " B"]) -> None:
        """A stop rule writes ``token`` into all of ``where``: no step has committed it."""
        where, self._masked = where & self.writable, None
        self.cut_away = self.cut_away + (where & (self.tokens == self.mask_id)).sum(dim=1)
        filler = token[:, None] if isinstance(token, Tensor) else self.tokens.new_full((), token)
        self.tokens = torch.where(where, filler, self.tokens)
        self.commit_step = self.commit_step.masked_fill(where, -1)
        self.commit_confidence = self.commit_confidence.masked_fill(where, torch.nan)

    def shorten(self, end: Int[Tensor, " B"]) -> None:
        """Let rows end at ``end`` where that is earlier; what lies behind becomes the end-of-text id.

        A given token, of a prompt or an infill, is never cut off: the row keeps all up to its last one.
        """
        given = (self.columns < self.end[:, None]) & ~self.writable
        least = (self.columns + 1).expand_as(given).masked_fill(~given, 0).amax(dim=1)
        last = torch.minimum(self.end, torch.maximum(end, least))
        self.fill(self.inside(last, self.end), self.end_ids[0])
        self.end = last
        self._kept.clear()

    def insert(self, at: Int[Tensor, " B"], count: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Put ``count`` masks before the position ``at`` of each row; what follows moves to the right, and the end with
        it. Returns how many were put in: no row grows beyond what was asked for."""
        count = torch.minimum(count, self.asked - self.end)
        first, behind = at[:, None], (at + count)[:, None]
        fresh = (self.columns >= first) & (self.columns < behind)
        moved = (self.columns >= behind) & (self.columns < self.asked[:, None])
        source = torch.where(moved, self.columns - count[:, None], self.columns)
        self.end = self.end + count
        self.touched()
        inside = self.columns < self.end[:, None]
        self.tokens = self.tokens.gather(1, source).masked_fill(fresh, self.mask_id)
        self.writable = (self.writable.gather(1, source) | fresh) & inside
        self.commit_step = self.commit_step.gather(1, source).masked_fill(fresh, -1)
        self.commit_confidence = self.commit_confidence.gather(1, source).masked_fill(fresh, torch.nan)
        return count

    def withdraw(self, count: Int[Tensor, " B"]) -> None:
        """Take so many masks off the end of each row, as if they had never been put in; never a token."""
        last = (self.columns + 1).expand_as(self.masked).masked_fill(self.masked | ~self.live, 0).amax(dim=1)
        self.end = torch.maximum(self.end - count, last)
        self.touched()
        self.tokens = self.tokens.masked_fill(self.writable & ~self.live, self.end_ids[0])
        self.writable = self.writable & self.live

    def remask(self, where: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W"]:
        """Take committed tokens back, of positions that may be written: they are masked again and forget when they were
        committed. Returns which these are."""
        where = where & self.writable
        self._masked = None if self._masked is None else self._masked | where
        self.tokens.masked_fill_(where, self.mask_id)
        self.commit_step.masked_fill_(where, -1)
        self.commit_confidence.masked_fill_(where, torch.nan)
        return where


def versions(rows: Tensor, owner: Int[Tensor, " R"]) -> Tensor:
    """The row that each of several versions is one of, to be read only: of a single row no copies are made."""
    return rows.expand(owner.shape[0], *rows.shape[1:]) if rows.shape[0] == 1 else rows[owner]


def pack_positions(wanted: Bool[Tensor, "B W"], columns: Int[Tensor, " W"], count: int) -> Int[Tensor, "B N"]:
    """The True columns of each row, ascending, padded to ``count`` entries with the last column (scratch).

    ``count`` must be at least the largest number of True columns in a row; the caller knows it on the host, so
    nothing waits for the device here.
    """
    return packed(wanted.cumsum(dim=1), columns, count)


def packed(order: Int[Tensor, "B W"], columns: Int[Tensor, " W"], count: int) -> Int[Tensor, "B N"]:
    """As :func:`pack_positions`, from the running number of True columns: the n-th one is where it passes n."""
    numbers = columns[:count].expand(order.shape[0], -1).contiguous()
    # Without the last column a number that is never passed finds the scratch column.
    return torch.searchsorted(order[:, :-1].contiguous(), numbers, right=True)
