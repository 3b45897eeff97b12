"""A pretended accelerator: its tensors compute on the CPU, and what a GPU would be asked to do is counted.

Views are free; an operation that PyTorch runs as one kernel is one launch, others have the numbers of
:data:`KERNELS`. What makes the host wait for the device, or copies to it, is counted apart, and each count remembers
the line of the caller that caused it. An operation between devices, or between float32 and float64, raises as a GPU's
would (or computes slowly without a word). Time cannot be read from it.

Allocations are results that own new memory. The counts are exact for the operations that are issued; how many kernels
one of them takes on a given card is what the table says, good to some ten per cent.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from dlm.errors import SettingsError

NAME = "counting"
DEVICE = "counting:0"
Kind = Literal["launch", "wait", "copy", "allocation"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Kernels of an operation where they are not one.
KERNELS = {
    "scatter": 2, "masked_fill": 2, "index_copy": 2, "index_put": 2, "index_add": 2, "constant_pad_nd": 2,
    "sort": 3, "argsort": 3, "topk": 2, "nonzero": 3, "isin": 3, "logsumexp": 5,
}  # fmt: skip
# Operations that only describe memory in another way, or claim some without touching it.
FREE = _words(
    "view _unsafe_view expand permute transpose t slice select unsqueeze squeeze as_strided detach alias split"
    " split_with_sizes unbind lift_fresh lift empty empty_strided empty_like new_empty new_empty_strided diagonal"
    " narrow detach_ unfold view_as movedim _reshape_alias resize_ set_ is_same_size size stride dim numel chunk"
    " tensor_split result_type can_cast view_as_real view_as_complex flatten unflatten squeeze_ unsqueeze_"
)
# Composite operations that one kernel of a GPU does, and that are therefore not taken apart.
WHOLE = _words(
    "scaled_dot_product_attention item to rms_norm linear matmul reshape contiguous is_nonzero embedding _grouped_mm"
)
_READS = frozenset(["item", "_local_scalar_dense", "is_nonzero", "equal"])
_SIZED_BY_VALUES = frozenset(["nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"])
_ACROSS = frozenset(["copy_", "to", "_to_copy", "lift_fresh"])
_INDEXING = frozenset(["index", "index_put", "index_put_", "_index_put_impl_"])


@dataclass
class Tally:
    """What was asked of the device.

    Attributes:
        part: to which part of the program what comes next belongs.
        counts: by part and kind.
        lines: the same by part, kind, operation and line of the caller.
        forbidden: whether a wait or a copy raises RuntimeError instead of being counted.
    """

    part: str = "outside"
    counts: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    lines: Counter[tuple[str, Kind, str, str]] = field(default_factory=Counter)
    forbidden: bool = False

    def add(self, kind: Kind, operation: str, times: int = 1) -> None:
        """Count something. Raises RuntimeError: a wait or a copy where none is allowed."""
        if not times:
            return
        if self.forbidden and kind in ("wait", "copy"):
            raise RuntimeError(f"{operation} at {_caller()} makes a {kind} where the host must not stop")
        self.counts[self.part, kind] += times
        self.lines[self.part, kind, operation, _caller()] += times

    def taken(self) -> Tally:
        """What was counted so far; the count begins anew."""
        so_far = Tally(counts=self.counts, lines=self.lines)
        self.counts, self.lines = Counter(), Counter()
        return so_far

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Book on ``part`` what is asked for inside."""
        before, self.part = self.part, part
        try:
            yield
        finally:
            self.part = before

    @contextmanager
    def without_waits(self) -> Iterator[None]:
        """Inside, a wait for the device or a copy to it raises RuntimeError."""
        before, self.forbidden = self.forbidden, True
        try:
            yield
        finally:
            self.forbidden = before


class CountedTensor(Tensor):
    """A tensor that says it is on the pretended device; ``held`` has its numbers on the CPU."""

    held: Tensor
    home: CountingDevice

    @staticmethod
    def __new__(cls, inner: Tensor, home: CountingDevice) -> CountedTensor:
        """Around a CPU tensor."""
        made: CountedTensor = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            layout=inner.layout, device=torch.device(DEVICE), requires_grad=False,
        )  # fmt: skip
        made.held, made.home = inner, home
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __repr__(self) -> str:  # type: ignore[override]
        return f"CountedTensor({self.held})"

    def tolist(self) -> Any:
        """A wait, like the rest that reads."""
        self.home.tally.add("wait", "tolist")
        return self.held.tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Refused, as for a GPU's."""
        raise TypeError(f"can't convert a tensor of {DEVICE} to numpy")

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        home = next(x.home for x in tree_leaves([args, kwargs or {}]) if isinstance(x, CountedTensor))
        return _Call(home, func, args, kwargs or {}).answer()


class CountingDevice(TorchDispatchMode):
    """The device, switched on as a context: only inside can tensors be made on it.

    Attributes:
        tally: what it was asked to do.
        device: what tensors say they are on.
    """

    def __init__(self) -> None:
        super().__init__()
        register()
        self.tally, self.device = Tally(), torch.device(DEVICE)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _Call(self, func, args, kwargs or {}).answer()

    @contextmanager
    def holding(self, module: nn.Module, **parts: str) -> Iterator[None]:
        """Inside, a module's parameters and buffers are on the device, and what its methods ask for is counted as
        ``parts`` says: ``hidden="body"``."""
        tables = [table for part in module.modules() for table in (part._parameters, part._buffers)]
        before: list[dict[str, Any]] = [dict(table) for table in tables]
        with torch.inference_mode():  # in which views of them are taken
            for table in tables:
                for name, value in table.items():
                    if value is not None:
                        there = CountedTensor(value.data, self)
                        kept = nn.Parameter(there, requires_grad=False) if isinstance(value, nn.Parameter) else there
                        table[name] = kept  # type: ignore[assignment]
        for method, part in parts.items():
            setattr(module, method, self._booked(getattr(module, method), part))
        try:
            yield
        finally:
            for table, values in zip(tables, before, strict=True):
                table.update(values)
            for method in parts:
                delattr(module, method)

    def _booked(self, method: Callable[..., Any], part: str) -> Callable[..., Any]:
        def booked(*args: Any, **kwargs: Any) -> Any:
            with self.tally.within(part):
                return method(*args, **kwargs)

        return booked


def register() -> None:
    """Tell PyTorch of the device, once in a process. Raises SettingsError: this PyTorch has no place for it."""
    from torch.utils import backend_registration

    if getattr(torch, NAME, None) is not None:
        return
    setup = getattr(backend_registration, "_setup_privateuseone_for_python_backend", None)
    if setup is None:
        raise SettingsError(f"counting launches needs torch 2.10 or newer, this is {torch.__version__}")
    setup(NAME)
    torch._C._set_only_lift_cpu_tensors(True)


@dataclass
class _Call:
    """One operation."""

    home: CountingDevice
    func: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def answer(self) -> Any:
        """Compute it on the CPU, and count."""
        self.name = self.func._schema.name.split("::")[-1]
        target = self._aside_device()
        self.tensors = [x for x in tree_leaves([self.args, self.kwargs]) if isinstance(x, Tensor)]
        self.counted = [x for x in self.tensors if isinstance(x, CountedTensor)]
        if not self.counted and (target is None or target.type != NAME):
            return self.func(*self.args, **self.kwargs)
        if self._composite(target):
            with self.home:
                taken_apart = self.func.decompose(*self.args, **self.kwargs)
            if taken_apart is not NotImplemented:
                return taken_apart
        leaves = target is not None and target.type == "cpu"
        if self.name == "to" and self.func._overloadname == "other":
            leaves = not isinstance(self.args[1], CountedTensor)
        self._refuse_mixtures()
        args, kwargs = tree_map(_inner, (list(self.args), dict(self.kwargs)))
        result = self.func(*args, **kwargs)
        return self._counted_result(result, args, leaves)

    def _aside_device(self) -> torch.device | None:
        """The device that is asked for; the call is made on the CPU instead."""
        args, kwargs, target = list(self.args), dict(self.kwargs), None
        for place, argument in enumerate(self.func._schema.arguments):
            if argument.name == "device":
                target = args[place] if place < len(args) else kwargs.get("device")
                if target is not None and place < len(args):
                    args[place] = torch.device("cpu")
                elif target is not None:
                    kwargs["device"] = torch.device("cpu")
        if target is not None:
            kwargs.pop("pin_memory", None)
        self.args, self.kwargs = args, kwargs
        return None if target is None else torch.device(target)

    def _composite(self, target: torch.device | None) -> bool:
        key = "CompositeImplicitAutograd"
        whole = self.name in WHOLE or target is not None
        return not whole and torch._C._dispatch_has_kernel_for_dispatch_key(self.func.name(), key)

    def _refuse_mixtures(self) -> None:
        """Raise RuntimeError where a GPU would."""
        if self.name in _ACROSS:
            return
        if any(not isinstance(x, CountedTensor) and x.dim() for x in self.tensors) and self.counted:
            if self.name not in _INDEXING:
                raise RuntimeError(f"{self.name} at {_caller()} mixes tensors of {DEVICE} and of the CPU")
            self.home.tally.add("copy", "an index from the host")
        wide = {x.dtype for x in self.tensors if x.dim() and x.is_floating_point() and x.dtype.itemsize >= 4}
        if len(wide) > 1:
            raise RuntimeError(f"{self.name} at {_caller()} mixes float32 and float64")

    def _counted_result(self, result: Any, args: Sequence[Any], leaves: bool) -> Any:
        name, add = self.name, self.home.tally.add
        if name in _READS:
            add("wait", name)
            return result
        if name in _SIZED_BY_VALUES or self._indexes_by_truth():
            add("wait", name)
        if name == "repeat_interleave" and self.func._overloadname in ("Tensor", "self_Tensor"):
            add("wait", name)
        if name in ("to", "_to_copy"):
            source = self.tensors[0]
            if not isinstance(source, CountedTensor):
                add("copy", name)
                return CountedTensor(result.clone(), self.home)
            if leaves:
                add("wait", "to the host")
                return result
            if result.data_ptr() == source.held.data_ptr() and result.dtype == source.dtype:
                return source
        if name == "copy_" and len({type(x) for x in self.tensors}) > 1:
            if not isinstance(self.args[0], CountedTensor):
                add("wait", "copy_ to the host")
                return self.args[0]
            if self.tensors[1].dim():
                add("copy", name)
        kernels = self._kernels(result, args)
        add("launch", name, kernels)
        writes = (name.endswith("_") and not name.startswith("__")) or name == "_index_put_impl_"
        if kernels and not writes:
            add("allocation", name)
        return self.args[0] if writes else tree_map(self._wrapped, result)

    def _kernels(self, result: Any, args: Sequence[Any]) -> int:
        if self.name in ("reshape", "contiguous"):
            return int(result.data_ptr() != args[0].data_ptr())
        return 0 if self.name in FREE else KERNELS.get(self.name, 1)

    def _indexes_by_truth(self) -> bool:
        if self.name not in _INDEXING:
            return False
        truths = any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in self.args[1])
        return truths and (self.name == "index" or self.args[2].numel() != 1)

    def _wrapped(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        same = next((x for x in self.counted if x.held is value), None)
        return CountedTensor(value, self.home) if same is None else same


def _inner(value: Any) -> Any:
    return value.held if isinstance(value, CountedTensor) else value


def _caller() -> str:
    """The nearest line that is neither ours nor PyTorch's."""
    frame = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file != __file__ and "/torch/" not in file and not file.endswith("contextlib.py") and file[:1] != "<":
            short = "/".join(file.rsplit("/", 3)[-3:]).split("site-packages/")[-1]
            return f"{short}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "?"
