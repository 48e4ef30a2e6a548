"""What a policy is given: observations with LeRobot's keys, checked before anything is computed; what it then plans.

Planned actions wait in a queue for each environment, so that environments need not reset together.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lattok.data.pixels import check_floats, frames_at
from lattok.data.schema import short_name
from lattok.labels import target_from_batch
from lattok.types import PolicyBatch
from lattok.utils import checks
from lattok.utils.arrays import as_tensor
from lattok.utils.untrusted import plain_format
from lattok.vla.config import TokenSpec, VLAConfig

Observation = Mapping[str, Any]
Check = Callable[[Observation], None]
Planner = Callable[[Observation], Tensor]  # observation -> chunks [B, H, m]


def prompts(config: VLAConfig, texts: Sequence[str]) -> list[str]:
    """Put instructions into the prompt (appendix B.1)."""
    return [plain_format(config.prompt, task=text.strip(), horizon=config.horizon) for text in texts]


def as_batch(config: VLAConfig, observation: object) -> tuple[Any, bool]:
    """Return an observation with tensors in place of arrays, and whether it was a single one, which is a batch of one.
    The task of a single one is a text, and its images and state have no axis for samples."""
    if not isinstance(observation, Mapping):
        return observation, False
    found = dict(observation)
    for key, value in found.items():
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
            found[key] = torch.tensor(value)
    ranks = dict.fromkeys(config.cameras, 3) | ({config.state_key: 1} if config.proprio_dim else {})
    alone = all(getattr(found.get(key), "ndim", rank) == rank for key, rank in ranks.items())
    if alone and "task" not in found and ranks.keys() & found.keys():
        known = config.instructions[0] if config.instructions else "open the drawer"
        hint = f'Put it into the observation: {{"task": {known!r:.60}, ...}}'
        checks.fail("task", "the instruction of this single observation, a text", "none", hint)
    if not (alone and isinstance(found.get("task"), str)):
        return found, False
    batched = {key: value[None] for key, value in found.items() if isinstance(value, Tensor)}
    return {**found, **batched, "task": [found["task"]]}, True


def policy_batch(config: VLAConfig, batch: PolicyBatch | Mapping[str, Any], learning: bool) -> PolicyBatch:
    """Read a batch with LeRobot's keys, or collated samples of `PolicyWindows`; one that was read already is as it is.
    It is checked here, and only here. Actions and labels are needed for learning only. Of a policy of one dataset the
    batch says which action dimensions its robot lacks."""
    batch = _read_batch(config, batch, learning)
    if batch.known is not None or len(config.absent) != 1:
        return batch
    known = torch.ones(len(batch.actions), config.action_dim, dtype=torch.bool)
    known[:, list(config.absent[0])] = False
    return batch._replace(known=known)


def _read_batch(config: VLAConfig, batch: PolicyBatch | Mapping[str, Any], learning: bool) -> PolicyBatch:
    if isinstance(batch, Mapping) and {"images", "texts", "actions"} <= batch.keys():
        batch = PolicyBatch.of(batch)
    if isinstance(batch, PolicyBatch):
        _check(config, batch, learning, "proprio", "actions")
        if learning and config.strategy.learns_labels and batch.latent is None:
            checks.fail("latent", f"latent actions, which {config.strategy.name} learns from", "none")
        return batch
    if not isinstance(batch, Mapping):
        checks.fail("batch", "a mapping with LeRobot's keys, or a PolicyBatch", type(batch).__name__)
    images, texts, proprio = _images(config, batch), instructions_of(batch), _proprio(config, batch)
    checks.size("task", "instructions, one for each sample", len(texts), len(images))
    if learning:
        actions = _required(batch, config.action_key, "the actions")
    else:
        actions = torch.zeros(len(images), config.horizon, config.action_dim, device=images.device)
    padded, name = batch.get(f"{config.action_key}_is_pad") if learning else None, f"{config.action_key}_is_pad"
    padded = None if padded is None else as_tensor(name, padded)
    if padded is not None and (padded.dtype != torch.bool or padded.shape != actions.shape[:2]):
        checks.fail(name, f"bool {list(actions.shape[:2])}", f"{padded.dtype} {list(padded.shape)}")
    valid = torch.ones(actions.shape[:2], dtype=torch.bool, device=actions.device) if padded is None else ~padded
    found = PolicyBatch(images, texts, proprio, actions.float(), valid)
    _check(config, found, learning, config.state_key, config.action_key)
    if not (learning and config.strategy.learns_labels):
        return found
    return found._replace(latent=target_from_batch(batch, config.latent, valid=valid, parts=config.strategy.needs))


def check_observation(config: VLAConfig, observation: Observation) -> None:
    """Check an observation as `policy_batch` does, without resizing its images: it may be that nobody looks at it."""
    if not isinstance(observation, Mapping):
        checks.fail("observation", "a mapping with LeRobot's keys", type(observation).__name__)
    texts, proprio, count = instructions_of(observation), _proprio(config, observation), None
    for key, images in _views(config, observation):
        count = len(images)
        if images.is_floating_point():
            check_floats(images, key)
    checks.size("task", "instructions, one for each sample", len(texts), len(texts) if count is None else count)
    if proprio is not None:
        _check_proprio(config, proprio, len(texts), config.state_key)


def _proprio(config: VLAConfig, batch: Mapping[str, Any]) -> Tensor | None:
    if not config.proprio_dim:
        return None
    return _required(batch, config.state_key, "the robot's state, which this policy was trained with").float()


def _check_proprio(config: VLAConfig, proprio: Tensor, count: int, state: str, learning: bool = False) -> None:
    checks.rank(state, proprio, "B s")
    named = f" ({', '.join(config.proprio_names)})" if config.proprio_names else ""
    checks.size(state, f"numbers{named}", proprio.shape[1], config.proprio_dim)
    checks.size(state, "samples, as there are images", len(proprio), count)
    if not learning and not torch.isfinite(proprio).all():  # it would become an action
        row, dim = torch.nonzero(~torch.isfinite(proprio))[0].tolist()
        name = config.proprio_names[dim] if config.proprio_names else dim
        checks.fail(state, "finite numbers", f"{float(proprio[row, dim])} in sample {row}, dimension {name}")


def _check(config: VLAConfig, batch: PolicyBatch, learning: bool, state: str, action: str) -> None:
    """Compare a batch with the policy; `state` and `action` are what its giver calls proprio and actions."""
    checks.tensor("images", batch.images)
    count = len(batch.images)
    if not count and not learning:
        checks.fail("observation", "at least one sample", "none")
    checks.rank("images", batch.images, "B V h w 3")
    if batch.images.dtype != torch.uint8:
        checks.fail("images", "uint8", batch.images.dtype)
    hint = f"In order: {_short(config)}." if config.cameras else ""
    checks.size("images", "cameras", batch.images.shape[1], len(config.cameras), hint)
    if batch.images.shape[2:4] != (config.image_size,) * 2:
        got = f"{batch.images.shape[2]}x{batch.images.shape[3]}"
        checks.fail("images", f"{config.image_size}x{config.image_size} pixels, as the policy has them", got)
    if isinstance(batch.texts, str) or not all(isinstance(text, str) for text in batch.texts):
        checks.fail("texts", "a list of instructions", repr(batch.texts))
    checks.size("texts", "instructions, one for each sample", len(batch.texts), count)
    proprio, actions = batch.proprio, batch.actions
    if (proprio is None) != (config.proprio_dim == 0):
        got = "none" if proprio is None else checks.counted(proprio.shape[-1], "number")
        checks.fail(state, f"{checks.counted(config.proprio_dim, 'number')}, as in training", got)
    if proprio is not None:
        _check_proprio(config, proprio, count, state, learning)
    if learning:
        checks.rank(action, actions, "B H m")
        checks.size(action, "samples, as there are images", len(actions), count)
        checks.size(action, "steps (horizon)", actions.shape[1], config.horizon)
        checks.size(action, "dimensions", actions.shape[2], config.action_dim)
        masks = {"valid": (batch.valid, actions.shape[:2]), "known": (batch.known, actions.shape[::2])}
        for name, (mask, shape) in masks.items():
            if mask is not None and (mask.dtype != torch.bool or mask.shape != shape):
                checks.fail(name, f"bool {list(shape)}", f"{mask.dtype} {list(mask.shape)}")
        if config.tokens is not None:
            _check_tokens(config.tokens, batch)


def _check_tokens(spec: TokenSpec, batch: PolicyBatch) -> None:
    """Check the codes of a batch; on an accelerator, which would have to be waited for, without their values."""
    if batch.known is not None:
        checks.fail("known", "none, as a tokenizer codes all dimensions", "a mask")
    if (codes := batch.tokens) is None:
        return
    checks.rank("tokens", codes, "B P")
    count, width, least = len(batch.images), spec.tokens, spec.tokens if spec.fixed else 1
    if codes.dtype != torch.int64 or len(codes) != count or not least <= codes.shape[1] <= width:
        expected = f"int64 [{count}, {'' if spec.fixed else 'at most '}{width}]"
        checks.fail("tokens", expected, f"{codes.dtype} {list(codes.shape)}")
    if codes.is_cpu and bool(((codes < spec.fixed - 1) | (codes >= spec.codes)).any()):  # -1 behind a row's end
        checks.fail("tokens", f"codes from 0 to {spec.codes - 1}", f"{int(codes.min())} to {int(codes.max())}")


def _images(config: VLAConfig, batch: Mapping[str, Any]) -> Tensor:
    """Return the cameras of a batch at the size of the policy, uint8 [B, V, h, w, 3]."""
    found = _views(config, batch)
    views = [frames_at(images, key, config.image_size, config.interpolation) for key, images in found]
    if not views:
        return torch.zeros(len(instructions_of(batch)), 0, config.image_size, config.image_size, 3, dtype=torch.uint8)
    return torch.stack(views, 1)


def _views(config: VLAConfig, batch: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the cameras of a batch as they come, checked but for the values of their pixels."""
    count: int | None = None
    for key, size in zip(config.cameras, config.camera_sizes, strict=True):
        images = _required(batch, key, f"one of the {checks.counted(len(config.cameras), 'camera')} ({_short(config)})")
        floats = images.is_floating_point()
        checks.rank(key, images, "B 3 H W" if floats else "B H W 3")
        if not floats and (images.dtype != torch.uint8 or images.shape[-1] != 3):
            expected = "float [B, 3, H, W] in [0, 1] or uint8 [B, H, W, 3]"
            checks.fail(key, expected, f"{images.dtype} {list(images.shape)}")
        if floats and images.shape[1] != 3 == images.shape[3]:
            expected = "float [B, 3, H, W] in [0, 1] or uint8 [B, H, W, 3]"
            checks.fail(key, expected, f"floats {list(images.shape)}", "Of floats, channels come first.")
        height, width = images.shape[2:] if floats else images.shape[1:3]
        if (height, width) != tuple(size):
            hint = "Record or resize it as the dataset's were: another size or shape looks different to the policy."
            checks.fail(key, f"images of {size[0]}x{size[1]}, as in training", f"{height}x{width}", hint)
        count = len(images) if count is None else count
        checks.size(key, "samples, as the other cameras have", len(images), count)
        yield key, images


def instructions_of(batch: Mapping[str, Any]) -> list[str]:
    """Read the instruction of each sample of a batch."""
    if not isinstance(batch, Mapping):
        checks.fail("observation", "a mapping with LeRobot's keys", type(batch).__name__)
    texts = batch.get("task")
    listed = isinstance(texts, Sequence) and not isinstance(texts, str)
    if not listed or not texts or not all(isinstance(text, str) for text in texts):
        checks.fail("task", "a list of instructions, one for each sample", repr(texts))
    return list(texts)


def note_unknown(config: VLAConfig, observation: Observation) -> None:
    """Note instructions that a policy did not learn, where it lists those that it did."""
    known = [text.strip() for text in config.instructions] if "{task}" in config.prompt else []
    for text in {each.strip() for each in instructions_of(observation)} if known else ():
        if text not in known:
            hint = checks.did_you_mean(text, known) or f"It knows {checks.listed(known)}."
            checks.note(f"the policy did not learn the instruction {text!r:.80}. {hint}")


def _required(batch: Mapping[str, Any], key: str, what: str) -> Tensor:
    value = batch.get(key)
    if value is None:
        checks.fail("batch", f"`{key}`, {what}", f"only {', '.join(map(str, batch))}" if batch else "none")
    checks.tensor(key, value)
    return value


def _short(config: VLAConfig) -> str:
    return ", ".join(map(short_name, config.cameras))


class ActionQueues:
    """A queue for each environment; of a predicted chunk the first `n_action_steps` are carried out.

    Another instruction empties the queue of its environment.
    """

    def __init__(self, horizon: int, n_action_steps: int | None = None):
        self.horizon = horizon
        self.n_action_steps = horizon if n_action_steps is None else n_action_steps
        self._planned: dict[int, tuple[str, deque[Tensor]]] = {}  # for which instruction, and what

    @property
    def n_action_steps(self) -> int:
        """Number of actions of a chunk that are carried out before the next one is planned; at first all."""
        return self._steps

    @n_action_steps.setter
    def n_action_steps(self, steps: int) -> None:
        checks.counts(n_action_steps=steps)
        if steps > self.horizon:
            checks.fail("n_action_steps", f"at most the {checks.counted(self.horizon, 'action')} of a chunk", steps)
        self._steps = steps

    def select(self, observation: Observation, env_ids: Sequence[int] | None, predict: Planner, check: Check) -> Tensor:
        """Return the next action of each environment, [B, m]; `predict` plans for those whose queue is empty, or was
        planned for another instruction, and `check` looks at the observations of the others."""
        texts = [text.strip() for text in instructions_of(observation)]
        count = len(texts)
        ids = list(range(count)) if env_ids is None else _ids(env_ids)
        if len(ids) != count or len(set(ids)) != count:
            checks.fail("env_ids", f"{count} different environments, one for each sample", ids)
        planned = [self._planned.get(env, ("", ())) for env in ids]
        empty = [row for row, (text, left) in enumerate(planned) if not left or text != texts[row]]
        if waiting := [row for row in range(count) if row not in empty]:
            check(_rows(observation, waiting, count))
        if empty:
            chunks = predict(_rows(observation, empty, count))[:, : self.n_action_steps]
            for row, chunk in zip(empty, chunks, strict=True):
                self._planned[ids[row]] = texts[row], deque(chunk)
        return torch.stack([self._planned[env][1].popleft() for env in ids])

    def reset(self, env_ids: Sequence[int] | None = None) -> None:
        """Forget what is planned for these environments, or for all."""
        for env in list(self._planned) if env_ids is None else _ids(env_ids):
            self._planned.pop(env, None)


def _ids(env_ids: Iterable[int]) -> list[int]:
    """Read numbers of environments, also from an array or a tensor, whose own elements are never equal."""
    if not isinstance(env_ids, Iterable):
        checks.fail("env_ids", "a list of environment numbers", repr(env_ids))
    try:
        return [int(env) for env in env_ids]
    except (TypeError, ValueError):
        checks.fail("env_ids", "a list of environment numbers", f"{env_ids!r:.60}")


def _rows(observation: Observation, rows: list[int], count: int) -> Observation:
    """Take some of the `count` samples of an observation."""
    if len(rows) == count:  # also spares a GPU a copy of the rows
        return observation
    tensors = {key: value for key, value in observation.items() if isinstance(value, Tensor)}
    chosen = {key: value[rows] for key, value in tensors.items() if value.ndim and len(value) == count}
    return {**observation, **chosen, "task": [observation["task"][row] for row in rows]}
