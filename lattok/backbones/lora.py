"""Low-rank adapters (Hu et al., 2022) of frozen linear layers, under the names that peft gives them.

    y = W x + b + (alpha / rank) B A x

In float32 this is computed as peft does, bit for bit. In a lower precision, that of W or of autocast, layers that read
the same x share one product with their A's, one after the other, and all adapters of a model are rounded by one
operation, all frozen layers under them by another. A, B, their gradients and the optimiser stay in float32.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lattok.backbones import LoraSpec
from lattok.nn.rounding import autocast_dtype, rounded

ADAPTER = "default"  # peft's name of it, which checkpoints of runs have
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # layers side by side that read the same


class Factor(nn.Module):
    """A or B."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight.detach().float())


class LoraLinear(nn.Module):
    """A frozen linear layer and its adapter: A normal with deviation 1 / rank, B zero, both float32."""

    def __init__(self, base: nn.Linear, lora: LoraSpec):
        super().__init__()
        rank, place = lora.rank, base.weight.device
        self.base_layer, self.scale, self.dropout = base, lora.alpha / rank, nn.Dropout(lora.dropout)
        down, up = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)
        nn.init.normal_(down.weight, std=1 / rank)  # drawn in peft's order
        nn.init.zeros_(up.weight)
        drawn = (part.weight.to(place, base.weight.dtype) for part in (down, up))  # which peft rounds
        self.lora_A, self.lora_B = (nn.ModuleDict({ADAPTER: Factor(weight)}) for weight in drawn)
        self.group = AdapterGroup([self])

    @property
    def down(self) -> Tensor:
        """Return A [rank, in]."""
        return self.lora_A[ADAPTER].weight  # pyright: ignore[reportReturnType]

    @property
    def up(self) -> Tensor:
        """Return B [out, rank]."""
        return self.lora_B[ADAPTER].weight  # pyright: ignore[reportReturnType]

    def forward(self, x: Tensor) -> Tensor:
        """Turn [..., in] into [..., out]."""
        dtype, dropping = precision_of(x, self.base_layer.weight), self.training and self.dropout.p > 0
        if dtype == torch.float32 or dropping or torch.compiler.is_compiling():
            down, up = self.down.to(dtype), self.up.to(dtype)
            return self.base_layer(x) + F.linear(F.linear(self.dropout(x), down), up) * self.scale
        return self.group(self, x, dtype)

    def merged(self) -> nn.Linear:
        """Return the linear layer with the adapter added to its weight, in place, which is rounded once."""
        with torch.no_grad():
            self.base_layer.weight += self.up @ self.down * self.scale
        return self.base_layer


class AdapterGroup:
    """Adapters of layers that read the same x."""

    def __init__(self, members: Sequence[LoraLinear]):
        self.members, self.rounded, self.bases, self._asked = members, Passing(), Passing(), Passing()
        for member in members:
            member.group = self

    def __call__(self, member: LoraLinear, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what a member makes of x. The first computes it for all: the others are asked for the same x next."""
        source, outputs = self._asked.value or (None, {})
        if source is x and id(member) in outputs:
            found = outputs.pop(id(member))
            self._asked.value = (x, outputs) if outputs else None
            return found
        members = self.members if member is self.members[0] else [member]
        found = dict(zip(map(id, members), self._computed(members, x.to(dtype)), strict=True))
        out = found.pop(id(member))
        self._asked.value = (x, found) if found else None
        return out

    def _computed(self, members: Sequence[LoraLinear], x: Tensor) -> tuple[Tensor, ...]:
        kept, whole = self.rounded.value, len(members) == len(self.members)
        if kept is None or not whole or kept[0].dtype != x.dtype:
            kept = torch.cat([m.down for m in members]).to(x.dtype), [m.up.to(x.dtype) for m in members]
        bases = self.bases.value or {}
        parts = [part for m in members for part in (m.base_layer.weight, m.base_layer.bias)]
        low = [None if part is None else bases.get(id(part), part).to(x.dtype) for part in parts]
        weights, biases = low[::2], low[1::2]
        return _Adapted.apply(x, members[0].scale, kept[0], *kept[1], *weights, *biases)  # pyright: ignore


class Passing:
    """A value of one forward pass, which copies and files of a model do not have."""

    value: Any = None

    @contextmanager
    def during(self, value: Any) -> Iterator[None]:
        """Pass a value on to what is called inside."""
        self.value = value
        try:
            yield
        finally:
            self.value = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Passing, ()


def add_adapters(model: nn.Module, names: Iterable[str], lora: LoraSpec) -> list[AdapterGroup]:
    """Give linear layers of a model adapters, in place; return them in the groups that read the same."""
    wanted, groups = set(names), list[AdapterGroup]()
    for name, layer in [*model.named_modules()]:
        if name in wanted:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, LoraLinear(layer, lora))  # pyright: ignore
    for part in [*model.modules()]:
        own = {name: child for name, child in part.named_children() if isinstance(child, LoraLinear)}
        for together in TOGETHER:
            found = [own.pop(name) for name in together if name in own]
            if found and len({member.base_layer.in_features for member in found}) == 1:
                groups.append(AdapterGroup(found))
            else:
                own |= {str(id(member)): member for member in found}
        groups += [member.group for member in own.values()]
    return groups


def merge_adapters(model: nn.Module) -> None:
    """Add all adapters to the weights of their layers, which take their places again."""
    for name, layer in [*model.named_modules()]:
        if isinstance(layer, LoraLinear):
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, layer.merged())


def round_adapters(groups: Sequence[AdapterGroup], dtype: torch.dtype) -> None:
    """Round all adapters together for the passes that follow; shards are rounded by their layers, once put together."""
    masters = [*(m.down for g in groups for m in g.members), *(m.up for g in groups for m in g.members)]
    for group in groups:
        group.rounded.value = None
    if dtype == torch.float32 or torch.compiler.is_compiling() or any(hasattr(part, "to_local") for part in masters):
        return
    sizes = [len(group.members) for group in groups]
    parts = rounded(masters, dtype, sizes)
    ups = iter(parts[len(groups) :])
    for group, down, size in zip(groups, parts, sizes, strict=False):
        group.rounded.value = down, [next(ups) for _ in range(size)]


@contextmanager
def bases_rounded(groups: Sequence[AdapterGroup], dtype: torch.dtype) -> Iterator[None]:
    """Round the frozen layers under all adapters together for a pass, whose backward pass keeps them all anyway."""
    layers = [member.base_layer for group in groups for member in group.members]
    masters = [part for layer in layers for part in layer.parameters() if part.dtype != dtype]
    alone = torch.compiler.is_compiling() or any(hasattr(part, "to_local") for part in masters)
    if not masters or alone or not torch.is_grad_enabled():
        yield
        return
    copies = dict(zip(map(id, masters), rounded(masters, dtype), strict=True))
    with ExitStack() as passing:
        for group in groups:
            passing.enter_context(group.bases.during(copies))
        yield


def precision_of(x: Tensor, weight: Tensor) -> torch.dtype:
    """Return in which precision a linear layer computes here."""
    return autocast_dtype(x.device) or weight.dtype


class _Adapted(torch.autograd.Function):
    """W_i x + b_i + scale B_i A_i x for layers i of one x, with A [ranks, in]; no gradient for W and b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float, down: Tensor, *parts: Tensor) -> tuple[Tensor, ...]:
        count = len(parts) // 3
        ups, weights, biases = (parts[first : first + count] for first in (0, count, 2 * count))
        rows = x.reshape(-1, x.shape[-1])  # n in
        low = torch.addmm(rows.new_empty(1), rows, down.T, beta=0, alpha=scale)  # n ranks
        outputs = []
        for each, up, weight, bias in zip(low.chunk(count, 1), ups, weights, biases, strict=True):
            out = F.linear(rows, weight, bias)
            outputs.append(torch.addmm(out, each, up.T, out=out).view(*x.shape[:-1], -1))
        ctx.save_for_backward(rows, low, down, *ups, *weights)
        ctx.scale, ctx.shape = scale, x.shape
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, low, down, *rest = ctx.saved_tensors
        count = len(gradients)
        ups, weights, given = rest[:count], rest[count:], [g.reshape(-1, g.shape[-1]) for g in gradients]
        back = torch.empty_like(low)  # of A x, n ranks
        for out, g, up in zip(back.chunk(count, 1), given, ups, strict=True):
            torch.addmm(out, g, up, beta=0, alpha=ctx.scale, out=out)
        ups_back = [g.T @ each for g, each in zip(given, low.chunk(count, 1), strict=True)]
        x_back = None
        if ctx.needs_input_grad[0]:
            x_back = back @ down
            for g, weight in zip(given, weights, strict=True):
                torch.addmm(x_back, g, weight, out=x_back)
            x_back = x_back.view(ctx.shape)
        return x_back, None, back.T @ rows, *ups_back, *[None] * (2 * count)
