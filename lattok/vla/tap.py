"""Latent supervision inside a policy that is not ours: `Tap` finds its hidden states, `Supervised` adds the loss.

    policy = Supervised(policy, "model.action_out_proj", CodeCrossEntropy(dim=720, codebook_size=16, codes=4))
    loss, logs = policy(batch)        # loss of the policy + weight * latent loss

The policy is any module whose `forward(batch)` returns `(loss, dict)`, as LeRobot's do. Nothing in it is changed: the
hook is there during the forward pass only.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lattok.labels import LatentSpec
from lattok.types import LatentTarget
from lattok.utils import checks
from lattok.vla.supervision import LatentSupervision

Preprocessor = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Tap:
    """Names hidden states [B, n, D] of a policy: the first tensor among a module's inputs, or its outputs.

    `module` is its name in `policy.named_modules()`, such as "model.action_out_proj". `call`: which one, where the
    module is called several times in a forward pass; with "only" that is an error. `keep`: use only so many of the last
    states. `channels_first`: the module has them as [B, D, n], as convolutions over time do.
    """

    module: str
    side: str = "input"
    call: str = "only"
    keep: int | None = None
    channels_first: bool = False

    def __post_init__(self) -> None:
        checks.one_of("side", self.side, ("input", "output"))
        checks.one_of("call", self.call, ("only", "first", "last"))
        if self.keep is not None:
            checks.counts(keep=self.keep)

    @contextmanager
    def on(self, policy: nn.Module) -> "Iterator[Recording]":
        """Record while this lasts. Where gradients are enabled, calls without them are passed over."""
        module, recording = find_module(policy, self.module), Recording(self, policy, torch.is_grad_enabled())
        if self.side == "input":
            handle = module.register_forward_pre_hook(
                lambda _, args, kwargs: recording.add([*args, *kwargs.values()]), with_kwargs=True
            )
        else:
            handle = module.register_forward_hook(lambda _, args, out: recording.add(out))
        with handle:
            yield recording


class Recording:
    """Hidden states that a tap recorded in one forward pass."""

    def __init__(self, tap: Tap, policy: nn.Module, with_grad: bool):
        self._tap, self._policy, self._with_grad = tap, policy, with_grad
        self._found: list[Tensor] = []
        self._calls = self._without_grad = 0

    def add(self, given: object) -> None:
        """Record a call of the module by the first tensor of what it is given, or gives."""
        if self._with_grad and not torch.is_grad_enabled():
            self._without_grad += 1
            return
        self._calls += 1
        parts = given.values() if isinstance(given, Mapping) else given if isinstance(given, tuple | list) else [given]
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if tensors and (self._tap.call != "first" or not self._found):
            self._found = tensors[:1]  # of several calls one is kept: the others need no memory

    def states(self) -> Tensor:
        """Return the recorded states [B, n, D], which are then forgotten. Raises `LattokError` where there are none,
        more than one, of another shape, or without gradient."""
        found, self._found = self._found, []
        name, tap = self._tap.module, self._tap
        if not found and self._calls:
            checks.fail("tap", f"a tensor as the {tap.side} of `{name}`", "none in its calls")
        if not found and self._without_grad:
            hint = "It runs under `torch.no_grad()`, or in a checkpoint with `use_reentrant=True`."
            checks.fail("tap", f"a call of `{name}` with gradients", f"{self._without_grad} without", hint)
        if not found:
            children = [child for child, _ in find_module(self._policy, name).named_modules(prefix=name)][1:6]
            others = f"name one of them: {', '.join(children)}." if children else "name another module."
            hint = f"Some policies (SmolVLA, π0) call the children of a layer themselves, never the layer: {others}"
            checks.fail("tap", f"a call of `{name}` in the forward pass", "none", hint)
        if tap.call == "only" and self._calls > 1:
            hint = 'call="last" or call="first" says which one is meant.'
            checks.fail("tap", f"one call of `{name}` in a forward pass", f"{self._calls}", hint)
        states = found[0]
        if states.dim() != 3 or not states.is_floating_point():
            hint = "Name a module that works on a state for every step, such as the last projection of the actions."
            checks.fail("tap", f"states [B, n, D] as the {tap.side} of `{name}`", f"shape {list(states.shape)}", hint)
        if self._with_grad and not states.requires_grad:
            hint = "All of the policy before it is frozen: the loss would train nothing but its own head."
            checks.fail("tap", f"states with a gradient at `{name}`", "states without", hint)
        states = states.transpose(1, 2) if tap.channels_first else states
        if tap.keep is not None and states.shape[1] < tap.keep:
            checks.fail("keep", f"at most the {states.shape[1]} states at `{name}`", tap.keep)
        return states if tap.keep is None else states[:, -tap.keep :]


class Supervised(nn.Module):
    """A policy that also learns from latent actions: `forward(batch)` adds `weight` times the latent loss to its loss.

    `labels` says what the batch holds (`target_from_batch`): for a dataset, what `lattok.labels.latent_spec` returns;
    by default the columns `latent.*` of an image model. `weight` is by default the paper's for this loss (Table 7). A
    policy with another number of steps than the labels needs `resample="nearest"`. Everything else is the policy's own:
    unknown attributes are looked up there, and `Supervised.policy` is what to save and to deploy, without `loss`.
    """

    policy: Any  # an nn.Module
    loss: LatentSupervision

    def __init__(
        self,
        policy: nn.Module,
        tap: str | Tap,
        loss: LatentSupervision,
        weight: float | None = None,
        *,
        labels: LatentSpec | None = None,
        resample: str | None = None,
    ):
        super().__init__()
        checks.one_of("resample", resample, (None, "nearest"))
        weight = loss.weight if weight is None else weight
        checks.at_least_zero(weight=weight)
        self.tap = Tap(tap) if isinstance(tap, str) else tap
        find_module(policy, self.tap.module)
        self.policy, self.loss, self.weight = policy, loss, weight
        self.labels, self.resample = labels or loss.labels, resample
        self.loss.to(next((p.device for p in policy.parameters()), None))

    def forward(self, batch: Mapping[str, Any], *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """Return the policy's loss plus the latent one, and its figures with "latent_loss" and those of that loss.

        With `reduction="none"`, where the policy has it, both are [B]: a sample without labels adds nothing to its own.
        Raises `LattokError` where labels do not fit.
        """
        target = self.loss.target_of(batch, self.labels)
        padded = batch.get("action_is_pad")
        with self.tap.on(self.policy) as recording:
            out = self.policy(batch, *args, **kwargs)
        if not isinstance(out, tuple) or len(out) != 2 or not isinstance(out[0], Tensor):
            checks.fail("policy", "a policy whose forward(batch) returns (loss, dict)", type(out).__name__)
        loss, logs = out
        states = recording.states()
        if isinstance(target, LatentTarget):
            if self.resample == "nearest":
                target = target.nearest(states.shape[1] // self.loss.states_per_step)
            of_steps = self.labels.target == "steps" or self.labels.per_step
            if of_steps and padded is not None and padded.shape == target.valid.shape:
                target = target._replace(valid=target.valid & ~padded.to(target.valid.device))
        terms = self.loss(states, target, "none" if kwargs.get("reduction") == "none" else "mean")
        latent = terms.pop("latent")
        labelled = target.valid.any(1).sum().clamp(min=1) if latent.dim() else 1  # samples without labels have 0
        figures = {"latent_loss": latent.detach().sum() / labelled} | terms
        read = torch.stack(list(figures.values())).tolist()  # numbers, as policies log them; waits for a GPU once
        return loss + self.weight * latent, {**(logs or {}), **dict(zip(figures, read, strict=True))}

    def get_optim_params(self) -> Any:
        """Return the policy's parameters for its optimizer (LeRobot's name for them), and those of the latent loss."""
        own = list(self.loss.parameters())
        if not hasattr(self.policy, "get_optim_params"):
            return [*self.policy.parameters(), *own]
        params = self.policy.get_optim_params()
        if isinstance(params, Mapping):
            return {**params, "latent": own}  # an optimizer for each name
        params = list(params)
        return [*params, {"params": own}] if params and isinstance(params[0], Mapping) else [*params, *own]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "policy" not in self.__dict__.get("_modules", {}):
                raise
            return getattr(self.policy, name)


def find_module(policy: nn.Module, name: str) -> nn.Module:
    """Return the module of that name; raises `LattokError` with a name like it."""
    if name:
        with suppress(AttributeError):
            return policy.get_submodule(name)
    known = [each for each, _ in policy.named_modules() if each]
    top = ", ".join(each for each in known if "." not in each) or "none"
    hint = checks.did_you_mean(name, known) or f"At the top there are {top}."
    return checks.fail("tap", f"the name of a module of {type(policy).__name__}", repr(name), hint)


class WrappedPreprocessor:
    """A preprocessor of LeRobot inside one that does more; everything else, such as saving, is its own."""

    def __init__(self, preprocessor: Preprocessor):
        self.preprocessor = preprocessor

    def __getattr__(self, name: str) -> Any:
        if "preprocessor" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.preprocessor, name)


class KeepLabels(WrappedPreprocessor):
    """A preprocessor whose output has the labels of its input: LeRobot's drop keys that they do not know."""

    def __init__(self, preprocessor: Preprocessor, prefix: str = "latent"):
        super().__init__(preprocessor)
        self.prefix = prefix

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        labels = {key: value for key, value in batch.items() if key.startswith(f"{self.prefix}.")}
        return {**self.preprocessor(batch), **labels}


keep_labels = KeepLabels  # it is used as a function is
