"""A trace: all steps of one row, as plain numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from dlm.engine.settings import checked
from dlm.errors import SettingsError

# 1: commits and confidence. 2: candidates, logits, cache, drafts; who it is about, and its tokens as text.
VERSION = 2


@dataclass(frozen=True)
class CacheEvent:
    """What a forward recomputed of one row.

    Attributes:
        fed: positions of the row that went through the model, those of drafts and branches included.
        refresh: whether a cache recomputed the whole row.
        recomputed: the recomputed positions as ``[first, behind the last]`` ranges; None: the whole row, or a cache
            that does not recompute by position.
        reported: what the cache says of the row, by name.
    """

    fed: int
    refresh: bool
    recomputed: list[tuple[int, int]] | None = None
    reported: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain Python values, without what is empty."""
        values: dict[str, Any] = {"fed": self.fed, "refresh": self.refresh}
        if self.recomputed is not None:
            values["recomputed"] = [list(span) for span in self.recomputed]
        return {**values, "reported": dict(self.reported)} if self.reported else values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CacheEvent:
        """The inverse of :meth:`as_dict`."""
        spans = values.get("recomputed")
        recomputed = None if spans is None else [(first, end) for first, end in spans]
        found = {"fed": values["fed"], "refresh": values["refresh"], "reported": dict(values.get("reported", {}))}
        return cls(**checked(cls, {**found, "recomputed": recomputed}, "cache"))


@dataclass(frozen=True)
class TraceStep:
    """One forward of one row. Probabilities have six digits.

    Attributes:
        step: 0-based forward of the row.
        block: the active block, ``[start, end)`` in canvas positions.
        positions, tokens, probs: what was committed, at which probability.
        remasked: positions a reviser took back.
        filled: the token a stop rule wrote into every position that was still masked, or, with ``cut``, into every
            one that it let the row end before; None if it did not.
        cut: canvas position at which a stop rule, or a schedule, let the row end; None if it did not.
        confidence: position -> probability of the proposal, for every eligible position, when it was asked for.
        candidates: position -> the likeliest ``(token, probability)`` pairs, the best first, when they were asked for.
        logits: position -> the logits of these, in the same order, when they were asked for.
        cache: what was recomputed, when it was asked for.
        drafts: drafts that this forward evaluated beside the row.
        accepted: those of them that were right: steps that needed no forward of their own.
        grown: masks that were put in behind the step, as ``(position before which, how many)``; all positions are
            counted with them. None: none were.
    """

    step: int
    block: tuple[int, int]
    positions: list[int]
    tokens: list[int]
    probs: list[float]
    remasked: list[int] = field(default_factory=list)
    filled: int | None = None
    confidence: dict[int, float] | None = None
    cut: int | None = None
    candidates: dict[int, list[tuple[int, float]]] | None = None
    logits: dict[int, list[float]] | None = None
    cache: CacheEvent | None = None
    drafts: int = 0
    accepted: int = 0
    grown: tuple[int, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain Python values, without what is empty."""
        always = ("step", "positions", "tokens", "probs")
        values: dict[str, Any] = {name: getattr(self, name) for name in always}
        values["block"] = list(self.block)
        if self.grown is not None:
            values["grown"] = list(self.grown)
        for name in ("filled", "confidence", "cut", "logits"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        if self.candidates is not None:
            values["candidates"] = {p: [list(pair) for pair in pairs] for p, pairs in self.candidates.items()}
        if self.cache is not None:
            values["cache"] = self.cache.as_dict()
        return values | {name: value for name in ("remasked", "drafts", "accepted") if (value := getattr(self, name))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TraceStep:
        """The inverse of :meth:`as_dict`, also after a trip through JSON; keys of later versions are passed over."""
        known = {f.name for f in fields(cls)}
        found = {key: value for key, value in values.items() if key in known}
        found["block"] = tuple(found["block"])
        found["grown"] = tuple(found["grown"]) if found.get("grown") else None
        for name in ("confidence", "logits"):
            if found.get(name) is not None:
                found[name] = {int(position): value for position, value in found[name].items()}
        if found.get("candidates") is not None:
            found["candidates"] = {
                int(position): [(token, prob) for token, prob in pairs]
                for position, pairs in found["candidates"].items()
            }
        if found.get("cache") is not None:
            found["cache"] = CacheEvent.from_dict(found["cache"])
        return cls(**checked(cls, found))

    def check(self, width: int) -> None:
        """Raise SettingsError unless the step fits a row of so many positions."""
        at, length = self.grown or (0, 0)
        named = {
            "positions": self.positions, "remasked": self.remasked, "block": self.block, "grown": (at, at + length),
            "cut": [] if self.cut is None else [self.cut],
            **{name: list(getattr(self, name) or ()) for name in ("confidence", "candidates", "logits")},
            "cache.recomputed": [end for span in ((self.cache and self.cache.recomputed) or ()) for end in span],
        }  # fmt: skip
        last = {name: width if name in ("block", "grown", "cut", "cache.recomputed") else width - 1 for name in named}
        for name, places in named.items():
            if bad := [place for place in places if not 0 <= place <= last[name]]:
                raise SettingsError(f"step {self.step}: {name} names position {bad[0]} of a row of {width}")
        if not len(self.positions) == len(self.tokens) == len(self.probs):
            raise SettingsError(f"step {self.step}: positions, tokens and probs are of unequal length")
        if self.block[0] > self.block[1] or length < 0:
            raise SettingsError(f"step {self.step}: block and grown do not end before they begin")


@dataclass
class Trace:
    """All steps of one row; enough to rebuild its canvas at any step.

    Attributes:
        canvas: the row before the first step, mask id at open positions.
        start: first generated position.
        mask_id: the mask id.
        steps: one entry per forward, in order.
        about: what it belongs to, by name (``instance_id``, ``seed``, ``task``, ``prompt``, ``score``, ...).
        pieces: token id -> its text, for the tokens that occur; empty without a tokenizer.
    """

    canvas: list[int]
    start: int
    mask_id: int
    steps: list[TraceStep] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)
    pieces: dict[int, str] = field(default_factory=dict)

    @property
    def tokens(self) -> set[int]:
        """Every token id that occurs."""
        found = {*self.canvas}
        for step in self.steps:
            found.update(step.tokens)
            if step.filled is not None:
                found.add(step.filled)
            for pairs in (step.candidates or {}).values():
                found.update(token for token, _ in pairs)
        return found

    def replay(self) -> Iterator[list[int]]:
        """The canvas before the first step and after each step."""
        canvas, given = list(self.canvas), list(self.canvas)
        yield list(canvas)
        for step in self.steps:
            if step.grown is not None:
                at, length = step.grown
                for row in (canvas, given):
                    row[at:] = [self.mask_id] * length + row[at : len(row) - length]
            for position, token in zip(step.positions, step.tokens, strict=True):
                canvas[position] = token
            for position in step.remasked:
                canvas[position] = self.mask_id
            if step.filled is not None:
                # A cut takes committed tokens away too, but none that was given.
                first, kept = (0, canvas) if step.cut is None else (step.cut, given)
                open_ = (i >= first and token == self.mask_id for i, token in enumerate(kept))
                canvas = [step.filled if now else token for now, token in zip(open_, canvas, strict=True)]
            yield list(canvas)

    def as_dict(self) -> dict[str, Any]:
        """Plain Python values, without what is empty."""
        values: dict[str, Any] = {"version": VERSION}
        if self.about:
            values["about"] = self.about
        values |= {"start": self.start, "mask_id": self.mask_id, "canvas": self.canvas}
        if self.pieces:
            values["pieces"] = self.pieces
        return values | {"steps": [step.as_dict() for step in self.steps]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Trace:
        """The inverse of :meth:`as_dict`, also after a trip through JSON.

        Raises:
            SettingsError: a later version of dlm wrote it.
            KeyError, TypeError, ValueError: it is no trace.
        """
        if values.get("version", 1) > VERSION:
            raise SettingsError(
                f"a trace of version {values['version']}; this dlm reads up to {VERSION}: install a later dlm"
            )
        pieces = {int(token): str(text) for token, text in values.get("pieces", {}).items()}
        steps = [TraceStep.from_dict(step) for step in values["steps"]]
        about = dict(values.get("about", {}))
        found = {key: values[key] for key in ("canvas", "start", "mask_id")}
        trace = cls(**checked(cls, {**found, "about": about, "pieces": pieces}), steps=steps)
        if not 0 <= trace.start <= len(trace.canvas):
            raise SettingsError(f"start is {trace.start} in a row of {len(trace.canvas)}")
        for step in steps:
            step.check(len(trace.canvas))
        return trace
