"""Planned actions of several environments, each with a queue of its own, so that they need not reset together."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lattok import checks


class ActionQueues:
    """A queue for each environment; of a predicted chunk the first `n_action_steps` are carried out."""

    def __init__(self, horizon: int):
        self.horizon = self._steps = horizon
        self._planned: dict[int, deque[Tensor]] = {}

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk that are carried out before the next one is planned; at first all."""
        return self._steps

    @n_action_steps.setter
    def n_action_steps(self, steps: int) -> None:
        checks.counts(n_action_steps=steps)
        if steps > self.horizon:
            checks.fail("n_action_steps", f"at most the {self.horizon} actions of a chunk", steps)
        self._steps = steps

    def select(
        self,
        observation: Mapping[str, Any],
        env_ids: Sequence[int] | None,
        predict: Callable[[Mapping[str, Any]], Tensor],
    ) -> Tensor:
        """Return the next action of each environment, [B, m]; `predict` plans for those whose queue is empty."""
        count = _count(observation)
        ids = list(range(count)) if env_ids is None else _ids(env_ids)
        if len(ids) != count or len(set(ids)) != count:
            checks.fail("env_ids", f"{count} different environments, one for each sample", ids)
        empty = [row for row, env in enumerate(ids) if not self._planned.get(env)]
        if empty:
            chunks = predict(_rows(observation, empty, count))[:, : self.n_action_steps]
            for row, chunk in zip(empty, chunks, strict=True):
                self._planned[ids[row]] = deque(chunk)
        return torch.stack([self._planned[env].popleft() for env in ids])

    def reset(self, env_ids: Sequence[int] | None = None) -> None:
        """Forget what is planned for these environments, or for all."""
        for env in list(self._planned) if env_ids is None else _ids(env_ids):
            self._planned.pop(env, None)


def _count(observation: Mapping[str, Any]) -> int:
    """Samples of an observation."""
    tasks = observation.get("task")
    if isinstance(tasks, str) or not isinstance(tasks, Sequence) or not tasks:
        checks.fail("task", "a list of instructions, one for each sample", repr(tasks))
    return len(tasks)


def _ids(env_ids: Iterable[int]) -> list[int]:
    """Numbers of environments, also from an array or a tensor, whose own elements are never equal."""
    if not isinstance(env_ids, Iterable):
        checks.fail("env_ids", "a list of numbers of environments", repr(env_ids))
    return [int(env) for env in env_ids]


def _rows(observation: Mapping[str, Any], rows: list[int], count: int) -> Mapping[str, Any]:
    """Some samples of an observation."""
    if len(rows) == count:
        return observation
    tensors = {key: value for key, value in observation.items() if isinstance(value, Tensor)}
    chosen = {key: value[rows] for key, value in tensors.items() if value.ndim and len(value) == count}
    return {**observation, **chosen, "task": [observation["task"][row] for row in rows]}
