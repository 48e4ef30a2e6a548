"""Hidden states that a policy keeps alive, for benchmarks/speed/vla_step.py.

Found by weak references to the storages of what the layers of a model put out, so that it does not matter who keeps
them: the policy, transformers, or autograd. In a narrow model with all 28 layers; ratios do not depend on the width.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from benchmarks.reference.vla import StraightforwardVLA
from benchmarks.speed.vla_models import BATCH, NARROW, Setting, make_backbone, make_batch, make_policy
from lattok.backbones.hf import HFBackbone
from lattok.vla import LatentVLA

MODES = ("inference", "training", "training, checkpointed")
OURS, PLAIN = "lattok", "straightforward"


class Alive:
    """Watches the hidden states 0..N of a model: input of the first layer, outputs of layers, the last normalised."""

    def __init__(self, backbone: HFBackbone):
        text = backbone.model.get_decoder()
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}
        self.length = 0
        self.hooks = [text.layers[0].register_forward_pre_hook(self._first, with_kwargs=True)]
        self.hooks += [part.register_forward_hook(self._output) for part in (*text.layers[:-1], text.norm)]

    def _first(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._add(args[0] if args else kwargs["hidden_states"])

    def _output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._add(output if isinstance(output, Tensor) else output[0])

    def _add(self, hidden: Tensor) -> None:
        storage, self.length = hidden.untyped_storage(), hidden.shape[1]
        reference = StorageWeakRef(storage)
        self.seen[reference.cdata] = reference, storage.nbytes()

    def bytes(self) -> int:
        """Those that somebody still holds."""
        return sum(size for reference, size in self.seen.values() if not reference.expired())

    def copies(self, tensors: Sequence[Tensor]) -> int:
        """Storages of further tensors that are none of theirs."""
        sizes = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
        return sum(size for key, size in sizes.items() if key not in self.seen)

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self.hooks:
            hook.remove()


def alive_states(policy: LatentVLA, call: Callable[[], Any]) -> dict[str, int]:
    """Bytes during a call: alive when the head starts, copies of them, given to head and loss, alive at the end."""
    alive, found = Alive(policy.backbone), {}

    def head(module: nn.Module, args: tuple[Any, ...]) -> None:
        parts = [part for state in args[0].values() for part in state if part is not None]
        parts = [part for part in parts if part.is_floating_point()]
        found.update(states=alive.bytes(), copies=alive.copies(parts), given=sum(part.nbytes for part in parts))

    def loss(module: nn.Module, args: tuple[Any, ...]) -> None:
        found["given"] += args[0].nbytes

    hooks = [policy.head.register_forward_pre_hook(head)]
    hooks += [supervision.register_forward_pre_hook(loss) for supervision in policy.supervision.values()]
    out = call()
    found |= {"after": alive.bytes(), "length": alive.length}
    for hook in hooks:
        hook.remove()
    alive.close()
    del out
    return found


def hidden_states(folder: Path, setting: Setting) -> dict[str, Any]:
    """By strategy and mode: bytes of both ways, and how many times less lattok has."""
    rows: dict[str, Any] = {strategy: {} for strategy in setting.strategies}
    for mode in MODES:
        backbone = make_backbone(
            folder, setting.depth, NARROW, torch.float32, setting.device, checkpointing="checkpointed" in mode
        )
        for strategy, row in rows.items():
            policy = make_policy(strategy, backbone, setting.device).train(mode != MODES[0])
            batch = make_batch(policy, setting.device)
            found = {}
            for name, model in ((OURS, policy), (PLAIN, StraightforwardVLA(policy, first_code=0))):
                with torch.set_grad_enabled(mode != MODES[0]):
                    found[name] = alive_states(policy, partial(model, batch))
            row[mode] = found
    for row in rows.values():
        one = row[MODES[0]]
        row["length"] = one[OURS]["length"]
        row["all_layers"] = (setting.depth + 1) * BATCH * row["length"] * NARROW["hidden_size"] * 4
        row["ratio_given"] = row["all_layers"] / one[OURS]["given"]
        row["ratio_alive"] = {mode: _alive(row[mode][PLAIN]) / _alive(row[mode][OURS]) for mode in MODES}
    return rows


def _alive(found: Mapping[str, int]) -> int:
    return found["states"] + found["copies"]
