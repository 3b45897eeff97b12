"""A regular language over a model's tokens, as tables."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dlm.errors import SettingsError
from samplers.constraints.schema import MOST

_CELLS = 1 << 24  # states x tokens that are followed at a time
_OPEN, _CLOSE = 0x1D, 0x1E  # separators: no text of a constraint holds them


class Spelling:
    """How a tokenizer spells: the bytes of every id. Equal for the same tokenizer only, so that what follows from it is
    made once.

    Raises:
        SettingsError: its decoder is of a kind that is not known.
    """

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
        names = tokenizer.convert_ids_to_tokens(list(range(min(vocab_size, len(tokenizer)))))
        kind = str(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", ""))
        spell = _byte_level if "ByteLevel" in kind else _pieces if "Metaspace" in kind or "Replace" in kind else None
        if spell is None:
            raise SettingsError(
                f"constraint: this tokenizer's decoder ({kind or type(tokenizer).__name__}) is neither byte-level nor"
                " made of pieces, so the texts of its tokens are not known one by one"
            )
        self.of: list[bytes] = [b"" if i in special or name is None else spell(name) for i, name in enumerate(names)]


@lru_cache(maxsize=1)
def _letters() -> dict[str, int]:
    """The character that stands for each byte in byte-level vocabularies (GPT-2): itself where it can be seen, else one
    of those from 256 on, in order."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def _byte_level(name: str) -> bytes:
    letters = _letters()
    return bytes(letters[c] for c in name) if all(c in letters for c in name) else name.encode()


def _pieces(name: str) -> bytes:
    if len(name) == 6 and name.startswith("<0x"):
        return bytes([int(name[3:5], 16)])
    return name.replace("\u2581", " ").encode()


@dataclass(frozen=True, eq=False)
class Language:
    """Tokens that do the same in every state are one class; ``S`` states, ``C`` classes. The last class holds the ids
    that end an answer, the last state is that of an answer that has ended, and ``S`` itself is where nothing leads on.

    Attributes:
        next: the state that a class leads to. ``[S, C]``
        final: states in which an answer may end. ``[S]``
        start: the first state.
        members: ids, those of a class side by side. ``[M]``
        first: where each class begins among them. ``[C+1]``
        of: the class of every id; C: it is in none. ``[V]``
        source, by_class, target: the edges, few of all pairs: from a state by a class to another state. ``[E]``
    """

    next: Int[Tensor, "S C"]
    final: Bool[Tensor, " S"]
    start: int
    members: Int[Tensor, " M"]
    first: Int[Tensor, " C+1"]
    of: Int[Tensor, " V"]
    source: Int[Tensor, " E"]
    by_class: Int[Tensor, " E"]
    target: Int[Tensor, " E"]

    @property
    def classes(self) -> int:
        """How many there are."""
        return self.next.shape[1]

    @property
    def dead(self) -> int:
        """Where nothing leads on."""
        return self.next.shape[0]

    def by(self, token: int) -> Int[Tensor, " S"]:
        """The state that a token leads to from each state."""
        one = int(self.of[token]) if 0 <= token < self.of.shape[0] else self.classes
        return self.next[:, one] if one < self.classes else torch.full_like(self.next[:, 0], self.dead)

    def to(self, device: torch.device) -> Language:
        """The same on another device."""
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "start"}
        return replace(self, **tensors)


@lru_cache(maxsize=16)
def language(pattern: str, spelling: Spelling, end_ids: tuple[int, ...], vocab_size: int) -> Language:
    """The texts that match a pattern as a whole, in a vocabulary.

    Raises:
        SettingsError: the pattern is none, or no sequence of tokens spells a text that matches.
    """
    by_byte, final, start = _automaton(pattern)
    ids = [i for i, text in enumerate(spelling.of) if text and i not in end_ids]
    leads = _lead(by_byte, [spelling.of[i] for i in ids])
    leads, final, start = _reachable(leads, final, start)
    states, dead = leads.shape[0], leads.shape[0]
    useful = (leads != dead).any(axis=0)
    leads, ids = leads[:, useful], [i for i, kept in zip(ids, useful, strict=True) if kept]
    if not states:
        raise SettingsError("constraint: this tokenizer's tokens spell no text that matches, whatever its length")
    _, representative, classes = np.unique(_hashed(leads), return_index=True, return_inverse=True)
    count = len(representative)
    following = np.full((states + 1, count + 1), states + 1)
    chosen = leads[:, representative]
    following[:states, :count] = np.where(chosen == dead, states + 1, chosen)
    following[:states, count] = np.where(final, states, states + 1)  # the answer ends, and stays so
    following[states, count] = states
    of = np.full(vocab_size, count + 1)
    of[ids] = classes
    of[list(end_ids)] = count
    members = np.argsort(of, kind="stable")
    first = np.searchsorted(of[members], np.arange(count + 2))
    source, by_class = np.nonzero(following <= states)
    arrays = (members[: first[-1]].copy(), first, of, source, by_class, following[source, by_class])
    return Language(
        torch.from_numpy(following), torch.from_numpy(np.append(final, True)), start, *map(torch.from_numpy, arrays)
    )


def _automaton(pattern: str) -> tuple[np.ndarray, np.ndarray, int]:
    """The pattern's automaton over bytes, its final states and its first one; the last state leads nowhere."""
    try:
        from outlines_core import Index, Vocabulary
    except ImportError as error:
        raise SettingsError("constraint: outlines-core is not installed: pip install 'dlm[constraints]'") from error
    # The library (0.2.14) loses ways on from a state in which a text may end, of "(ab)*" that of the first "a". So
    # texts are closed by a byte that none holds: where it leads to the end, one may end. And of a bounded repetition
    # right behind a text's first byte it takes a time that doubles with each one: another such byte stands in front.
    closed = f"{chr(_OPEN)}(?:{pattern}){chr(_CLOSE)}"
    try:
        index = Index(closed, Vocabulary(256, {bytes([byte]): [byte] for byte in range(256)}))
    except ValueError as error:
        raise SettingsError(f"constraint: {pattern!r:.200} is no pattern that can be used: {error}") from error
    leads = index.get_transitions()
    states = sorted(set(leads) | {s for row in leads.values() for s in row.values()})
    if len(states) > MOST:
        raise SettingsError(f"constraint: the pattern has {len(states)} states, more than {MOST}: bound it")
    place = {state: number for number, state in enumerate(states)}
    table = np.full((len(states) + 1, 256), len(states), dtype=np.int32)
    for state, row in leads.items():
        for byte, following in row.items():
            if byte < 256 and byte not in (_OPEN, _CLOSE):
                table[place[state], byte] = place[following]
    ends = index.get_final_states()
    final = np.array([leads.get(state, {}).get(_CLOSE) in ends for state in states])
    return table, final, place[leads[index.get_initial_state()][_OPEN]]


def _lead(by_byte: np.ndarray, texts: list[bytes]) -> np.ndarray:
    """The state that each text leads to from each state: all of them are followed a byte at a time."""
    states = by_byte.shape[0] - 1
    longest = max(map(len, texts), default=0)
    spelled = np.zeros((len(texts), longest), dtype=np.uint8)
    lengths = np.array([len(text) for text in texts])
    for number, text in enumerate(texts):
        spelled[number, : len(text)] = np.frombuffer(text, dtype=np.uint8)
    out = np.empty((states, len(texts)), dtype=np.int32)
    step = max(1, _CELLS // max(1, states))
    for begin in range(0, len(texts), step):
        part = slice(begin, begin + step)
        at = np.repeat(np.arange(states, dtype=np.int32)[:, None], len(lengths[part]), axis=1)
        for place in range(longest):
            going = lengths[part] > place
            at[:, going] = by_byte[at[:, going], spelled[part][going, place]]
        out[:, part] = at
    return out


def _reachable(leads: np.ndarray, final: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The automaton without states that no answer passes through; those are one that leads nowhere."""
    dead = leads.shape[0]
    edges = [np.unique(row[row != dead]) for row in leads]
    ahead = _closure({start}, lambda s: edges[s].tolist())
    back: dict[int, list[int]] = {}
    for state, row in enumerate(edges):
        for following in row.tolist():
            back.setdefault(following, []).append(state)
    alive = ahead & _closure(set(np.flatnonzero(final).tolist()), lambda s: back.get(s, []))
    kept = sorted(alive)
    place = np.full(dead + 1, len(kept))
    place[kept] = np.arange(len(kept))
    return place[leads[kept]], final[kept], int(place[start])


def _closure(begin: set[int], onward: Any) -> set[int]:
    seen, waiting = set(begin), list(begin)
    while waiting:
        for state in onward(waiting.pop()):
            if state not in seen:
                seen.add(state)
                waiting.append(state)
    return seen


def _hashed(leads: np.ndarray) -> np.ndarray:
    """A number for each column that is the same for equal ones (and differs for others, but for odds of 1 to 2^64)."""
    factors = np.random.default_rng(0).integers(1, 2**63, size=leads.shape[0], dtype=np.uint64) | np.uint64(1)
    return np.asarray(np.sum(leads.astype(np.uint64) * np.expand_dims(factors, 1), axis=0, dtype=np.uint64))
