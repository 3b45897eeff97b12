"""What a part answers the first time in a run, held against what its role promises.

A wrong shape would be broadcast over the batch in silence, and then a row's answer depends on its neighbours; a memory
that is not handed back would begin anew at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from dlm.engine.step import State
from dlm.errors import SettingsError

Kind = Literal["bool", "int", "float"]


class Answers:
    """Asks the parts of one run, and looks at the first answer of each of their methods.

    Nothing here waits for the device. All methods take a bound method of a part with its arguments, return its answer,
    and raise SettingsError, which names the part, for one that is not of the ``kind`` and ``shape`` asked for.
    """

    def __init__(self) -> None:
        self._known: set[tuple[int, int]] = set()

    def one(self, method: Callable[..., Any], arguments: tuple[Any, ...], kind: Kind, shape: Sequence[int]) -> Any:
        """A tensor, or None from a method that may have nothing to say."""
        answer = method(*arguments)
        if self._first(method) and answer is not None:
            _check(method, answer, kind, shape)
        return answer

    def several(
        self, method: Callable[..., Any], arguments: tuple[Any, ...], kinds: Sequence[Kind], shape: Sequence[int]
    ) -> Any:
        """Tensors of one shape and, behind them, the memory the method was given last; or None."""
        answer = method(*arguments)
        if self._first(method) and answer is not None:
            _check_tuple(method, answer, len(kinds) + 1)
            for value, kind in zip(answer, kinds, strict=False):
                _check(method, value, kind, shape)
            _check_memory(method, arguments[-1], answer[-1])
        return answer

    def memory(self, method: Callable[..., Any], arguments: tuple[Any, ...], rows: int) -> State:
        """A memory whose tensors have one entry for each of ``rows``."""
        state = method(*arguments)
        if self._first(method):
            for tensor in _tensors(method, state):
                if tensor.dim() == 0 or tensor.shape[0] != rows:
                    raise _wrong(
                        method, f"a memory of shape {_size(tensor)}; its first axis is the batch's {rows} rows"
                    )
        return state

    def report(self, method: Callable[..., Any], arguments: tuple[Any, ...], rows: int) -> Any:
        """A memory, the method's last argument, and what the host is to know: names with a number for each row."""
        answer = method(*arguments)
        if self._first(method):
            if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], dict):
                raise _wrong(method, f"{_told(answer)}; it must be a tuple of the memory and a dict, {{}} for no news")
            _check_memory(method, arguments[-1], answer[0])
            for value in answer[1].values():
                _check(method, value.long() if isinstance(value, Tensor) else value, "int", (rows,))
        return answer

    def plain(self, method: Callable[..., Any], arguments: tuple[Any, ...], kind: type) -> Any:
        """A number or a truth value of Python's."""
        answer = method(*arguments)
        if self._first(method) and not (isinstance(answer, kind) and isinstance(answer, bool) == (kind is bool)):
            raise _wrong(method, f"{_told(answer)}; it must be a plain {kind.__name__}")
        return answer

    def _first(self, method: Callable[..., Any]) -> bool:
        """Whether the method is asked for the first time."""
        key = (id(method.__self__), id(method.__func__))  # type: ignore[attr-defined]
        if key in self._known:
            return False
        self._known.add(key)
        return True


def _check_tuple(method: Callable[..., Any], answer: Any, length: int) -> None:
    if not isinstance(answer, tuple) or len(answer) != length:
        values = "its answer" if length == 2 else f"{length - 1} answers"
        raise _wrong(method, f"{_told(answer)}; it must be a tuple of {values} and its memory (None for none)")


def _check(method: Callable[..., Any], value: Any, kind: Kind, shape: Sequence[int]) -> None:
    size = tuple(shape)
    fits = isinstance(value, Tensor) and tuple(value.shape) == size and _kind(value) == kind
    if not fits:
        raise _wrong(method, f"{_told(value)}; it must be a {kind} tensor of shape {list(size)}, one row for each row")


def _check_memory(method: Callable[..., Any], before: State, after: State) -> None:
    given, found = _tensors(method, before), _tensors(method, after)
    # Only rows are counted: a memory may find out its other sizes at the first step.
    same = len(given) == len(found) and all(a.shape[:1] == b.shape[:1] for a, b in zip(given, found, strict=False))
    if not same:
        was, now = ("nothing" if not state else [_size(t) for t in state] for state in (given, found))
        raise _wrong(method, f"a memory of {now} where it was given {was}; hand back what init() made, renewed")


def _tensors(method: Callable[..., Any], state: State) -> list[Tensor]:
    if state is None:
        return []
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, tuple):
        return [tensor for part in state for tensor in _tensors(method, part)]
    raise _wrong(method, f"{_told(state)} for a memory; it must be None, a tensor or a tuple of such")


def _kind(tensor: Tensor) -> Kind | None:
    if tensor.dtype == torch.bool:
        return "bool"
    if tensor.is_floating_point():
        return "float"
    return None if tensor.is_complex() else "int"


def _size(tensor: Tensor) -> list[int]:
    return list(tensor.shape)


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {_size(value)}"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, tuple | list) else "")


def _wrong(method: Callable[..., Any], what: str) -> SettingsError:
    part = method.__self__  # type: ignore[attr-defined]
    return SettingsError(f"{type(part).__name__}.{method.__name__}() answers {what}")
