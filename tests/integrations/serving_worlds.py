"""A benchmark of the harness without a simulator: it draws observations, and keeps what it sent and what came back."""

from typing import Any

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.specs import GRIPPER_CLOSE_POS, IMAGE_RGB, LANGUAGE, POSITION_DELTA, RAW, DimSpec

STEPS = 7


def drawn(seed: int) -> dict[str, Any]:
    """An observation as benchmarks send it."""
    rng = np.random.default_rng(seed)
    return {
        "images": {
            "agentview": rng.integers(0, 256, (24, 32, 3)).astype(np.uint8),
            "wrist": rng.integers(0, 256, (16, 16, 3)).astype(np.uint8),
        },
        "states": rng.standard_normal(5),
        "task_description": f"task number {seed}",
    }


class Table(StepBenchmark):
    """Two tasks; an episode has `STEPS` steps."""

    log: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012  # tests empty it

    def __init__(self, send_state: bool = False, seed: int = 0):
        super().__init__()
        self.send_state, self.seed, self.count = send_state, seed, 0

    def get_tasks(self):
        return [{"name": "lift"}, {"name": "push"}]

    def reset(self, task):
        self.count = 0
        Table.log.append(("episode", dict(task)))
        return self.seed

    def step(self, action):
        Table.log.append(("action", action))
        self.count += 1
        done = self.count == STEPS
        return StepResult(self.seed + self.count, 0.0, done, {"success": done})

    def make_obs(self, raw_obs, task):
        obs = drawn(raw_obs) | {"task_description": task["name"]}
        if not self.send_state:
            del obs["states"]
        Table.log.append(("observation", obs))
        return obs

    def get_step_result(self, step_result):
        return {"success": step_result.info.get("success", False)}

    def get_metadata(self):
        return {"max_steps": 20}

    def get_action_spec(self) -> dict[str, DimSpec]:
        return {"position": POSITION_DELTA, "gripper": GRIPPER_CLOSE_POS}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        return {"agentview": IMAGE_RGB, "wrist": IMAGE_RGB, "language": LANGUAGE, "state": RAW}


class Small(Table):
    """The same with a state of two numbers, as in the datasets of tests."""

    def make_obs(self, raw_obs, task):
        obs = super().make_obs(raw_obs, task)
        return obs | {"states": obs["states"][:2]}
