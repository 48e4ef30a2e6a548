"""A world without physics or OpenGL: a point on a line, two opposite tasks that only the instruction tells apart."""

from typing import Any

import gymnasium
import numpy as np

from lattok.sim import SimEnv, Variation
from lattok.sim.rendering import OFF
from lattok.sim.worlds import EpisodeOutcome

TEXTS = {"left": "go left", "right": "go right"}


class ToyCameras:
    """The place of the point as the brightness of the image."""

    names = ("front", "wrist")

    def __init__(self, env: "Toy", size: int):
        self.env, self.size = env, size
        self.rendered: list[str] = []  # names of all images so far
        self.closed = 0

    def vary(self, rng: np.random.Generator) -> None:
        pass

    def image(self, name: str) -> np.ndarray:
        self.rendered.append(name)
        return np.full((self.size, self.size, 3), 128 + 100 * self.env.place, dtype=np.uint8)

    def images(self) -> dict[str, np.ndarray]:
        return {name: self.image(name) for name in self.names}

    def close(self) -> None:
        self.closed += 1


class Toy(SimEnv):
    """An action is a speed in [-1, 1], of which a tenth is gone each decision; at -1 and 1 the line ends."""

    world = "toy"
    robot = "point"
    rate, limit, repeat = 40.0, 120, 4
    action_names = ("x", "y")
    state_names = ("place",)
    made: "list[Toy]" = []  # noqa: RUF012 (for tests to look at)

    def __init__(self, task: str, *, size: int = 128, repeat: int | None = None, variation: Variation = OFF):
        super().__init__(task, repeat=repeat)
        self.instruction, self.opposite = TEXTS[task], TEXTS["left" if task == "right" else "right"]
        self.cameras: Any = ToyCameras(self, size)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.place, self.actions = 0.0, list[np.ndarray]()
        self.made.append(self)

    @classmethod
    def tasks(cls) -> dict[str, str]:
        return TEXTS

    def _start(self, rng: np.random.Generator) -> None:
        self.place, self.actions = rng.uniform(-0.3, 0.3), []

    def _act(self, action: np.ndarray) -> EpisodeOutcome:
        self.actions.append(action)
        self.place = float(np.clip(self.place + action[0] * self.repeat / 40, -1, 1))
        wanted = self.place if self.task == "right" else -self.place
        return EpisodeOutcome(wanted >= 1, wanted <= -1)

    def expert(self) -> np.ndarray:
        return np.array([1 if self.task == "right" else -1, 0], np.float32)

    def state(self) -> np.ndarray:
        return np.array([self.place], np.float32)

    def objects(self) -> np.ndarray:
        return np.array([self.place], np.float32)
