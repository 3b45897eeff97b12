"""A mixture of experts: a router, many small MLPs computed by grouped products, and one that every position sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from dlm.models.architecture import Architecture, Experts, Names
from dlm.models.parts import linear, place


class Router(nn.Module):
    """Which experts a position is sent to, and what each weighs. Computed in at least float32."""

    expert_bias: Tensor

    def __init__(self, arch: Architecture, experts: Experts) -> None:
        super().__init__()
        self.experts = experts
        self.weight = nn.Parameter(torch.empty(experts.count, arch.width))
        self.init_std = arch.init_std or arch.width**-0.5
        if experts.bias:
            self.register_buffer("expert_bias", torch.zeros(experts.count, dtype=torch.float32))

    def forward(self, n: Float[Tensor, "T D"]) -> tuple[Int[Tensor, "T k"], Float[Tensor, "T k"]]:
        """The experts of each position, the best first, and their weights."""
        about = self.experts
        precise = torch.promote_types(n.dtype, torch.float32)
        if about.scoring == "softmax":
            # The product in the model dtype, as these models were trained.
            scores = functional.linear(n, self.weight).to(precise).softmax(dim=-1)
        else:
            scores = functional.linear(n.to(precise), self.weight.to(precise)).sigmoid()
        ranked = scores + self.expert_bias.to(precise) if about.bias else scores
        if about.groups:
            ranked = ranked.masked_fill(~self._in_best_groups(ranked), -torch.inf)
        choice = ranked.topk(about.chosen, dim=-1).indices
        weights = scores.gather(-1, choice)
        if about.renormalise and about.chosen > 1:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return choice, weights if about.scale == 1 else weights * about.scale

    def _in_best_groups(self, ranked: Float[Tensor, "T E"]) -> Tensor:
        about = self.experts
        grouped = ranked.unflatten(-1, (about.groups, -1))
        best = grouped.topk(2, dim=-1).values.sum(dim=-1).topk(about.kept_groups, dim=-1).indices
        kept = torch.zeros(grouped.shape[:-1], dtype=torch.bool, device=ranked.device).scatter_(-1, best, True)
        return kept[..., None].expand_as(grouped).flatten(-2)


class Bank(nn.Module):
    """The experts of a layer: apart, as most checkpoints store them (numbered modules), or merged into one tensor a
    projection, as they are computed (:meth:`merge`). State dicts keep the checkpoint's names."""

    def __init__(self, arch: Architecture, experts: Experts, leaves: tuple[str, str, str], deep: float) -> None:
        super().__init__()
        self.leaves, self.init_std = leaves, arch.init_std or arch.width**-0.5
        self.stored_merged = self.merged = experts.merged
        sizes = [(experts.width, arch.width)] * 2 + [(arch.width, experts.width)]
        if experts.merged:
            for leaf, size in zip(leaves, sizes, strict=True):
                self.register_parameter(leaf, nn.Parameter(torch.empty(experts.count, *size)))
        else:
            for index in range(experts.count):
                self.add_module(str(index), mlp(arch, experts.width, leaves, deep))
        self.register_state_dict_post_hook(_saved_apart)
        self.register_load_state_dict_pre_hook(_loaded_apart)

    def merge(self) -> None:
        """Lay the experts together, a projection after the other: the memory of one is free before the next."""
        if self.merged:
            return
        experts: list[Any] = [self._modules[name] for name in list(self._modules)]
        for leaf in self.leaves:
            weights = [getattr(expert, leaf).weight for expert in experts]
            whole = torch.stack([weight.detach() for weight in weights])
            self.register_parameter(leaf, nn.Parameter(whole, requires_grad=weights[0].requires_grad))
            for expert in experts:
                delattr(expert, leaf)
        for name in list(self._modules):
            del self._modules[name]
        self.merged = True

    def tensors(self) -> Iterator[Float[Tensor, "E O I"]]:
        """Gate, up and down of all experts; laid together anew at every call where they are still apart."""
        for leaf in self.leaves:
            if self.merged:
                yield getattr(self, leaf)
            else:
                yield torch.stack([getattr(expert, leaf).weight for expert in self._modules.values()])


class MixtureOfExperts(nn.Module):
    """What stands in place of an MLP; parts have the checkpoint's names.

    Attributes:
        hit: how many experts the last call sent a position to, as a number on the device.
    """

    hit: Int[Tensor, ""] | None = None

    def __init__(self, arch: Architecture, names: Names, deep: float) -> None:
        super().__init__()
        experts = arch.experts
        assert experts is not None
        leaves = (_leaf(names.gate), _leaf(names.up), _leaf(names.down))
        self._router, self._experts, self._shared = _leaf(names.router), _leaf(names.experts), ""
        self.count = experts.count
        self.add_module(self._router, Router(arch, experts))
        self.add_module(self._experts, Bank(arch, experts, leaves, deep))
        if experts.shared_width:
            self._shared, self.leaves = _leaf(names.shared), leaves
            self.add_module(self._shared, mlp(arch, experts.shared_width, leaves, deep))

    @property
    def router(self) -> Router:
        """Who decides."""
        return getattr(self, self._router)

    @property
    def bank(self) -> Bank:
        """Who computes."""
        return getattr(self, self._experts)

    def forward(self, n: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """What normed rows add to the stream.

        Positions are laid in the order of their experts, so that each expert is one group of a grouped product; how
        long the groups are is never asked of the device.
        """
        flat = n.reshape(-1, n.shape[-1])
        choice, weights = self.router(flat)
        chosen = choice.shape[-1]
        expert, order = choice.flatten().sort(stable=True)
        ends = torch.searchsorted(expert, torch.arange(self.count, device=n.device), right=True)
        self.hit = (ends.diff(prepend=ends.new_zeros(1)) > 0).sum()
        gate, up, down = self.bank.tensors()
        rows = flat[order // chosen]
        inner = functional.silu(grouped(rows, gate, ends)) * grouped(rows, up, ends)
        outer = grouped(inner, down, ends)
        each = torch.empty_like(outer).index_copy(0, order, outer).unflatten(0, (-1, chosen))
        total = (each.to(weights.dtype) * weights[..., None]).sum(dim=1).to(n.dtype)
        if self._shared:
            total = total + _gated(getattr(self, self._shared), self.leaves, flat)
        return total.view(n.shape)


def grouped(
    rows: Float[Tensor, "R I"], weights: Float[Tensor, "E O I"], ends: Int[Tensor, " E"]
) -> Float[Tensor, "R O"]:
    """Rows by the matrix of their group; those of group ``e`` end before ``ends[e]``."""
    if hasattr(functional, "grouped_mm") and rows.dtype is not torch.float64 and not torch.is_grad_enabled():
        return functional.grouped_mm(rows, weights.transpose(1, 2), offs=ends.int())
    # The library knows neither float64 nor, everywhere, gradients: one product after the other, of those that are hit.
    counts = ends.diff(prepend=ends.new_zeros(1)).tolist()
    parts = zip(rows.split(counts), weights, strict=True)
    return torch.cat([part @ weight.T for part, weight in parts if len(part)])


def mlp(arch: Architecture, width: int, leaves: tuple[str, str, str], deep: float) -> nn.Module:
    """Gate, up and down projection of one expert."""
    made = nn.Module()
    place(made, leaves[0], linear(arch, arch.width, width))
    place(made, leaves[1], linear(arch, arch.width, width))
    place(made, leaves[2], linear(arch, width, arch.width, shrink=deep))
    return made


def _gated(expert: Any, leaves: tuple[str, str, str], n: Tensor) -> Tensor:
    gate, up, down = (getattr(expert, leaf) for leaf in leaves)
    return down(functional.silu(gate(n)) * up(n))


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _saved_apart(bank: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Merged experts leave one by one where the checkpoint has them so."""
    if bank.merged and not bank.stored_merged:
        for leaf in bank.leaves:
            whole = state.pop(prefix + leaf)
            state.update({f"{prefix}{index}.{leaf}.weight": part for index, part in enumerate(whole)})


def _loaded_apart(bank: Any, state: dict[str, Any], prefix: str, *others: Any) -> None:
    """And come back from there."""
    if bank.merged and not bank.stored_merged:
        for leaf in bank.leaves:
            keys = [f"{prefix}{index}.{leaf}.weight" for index in range(getattr(bank, leaf).shape[0])]
            if all(key in state for key in keys):
                state[prefix + leaf] = torch.stack([state.pop(key) for key in keys])
