"""A point on a line, which has to go where it is told."""

from types import SimpleNamespace

import gymnasium
import numpy as np

from lattok.sim import SimEnv
from lattok.sim.rendering import OFF
from lattok.sim.worlds import EpisodeOutcome


class Line(SimEnv):
    """An action is a speed. The further right the point is, the brighter is the image."""

    world, robot = "line", "point"
    rate, limit, repeat = 40.0, 120, 4
    action_names, state_names = ("speed",), ("place",)

    def __init__(self, task, *, size=128, repeat=None, variation=OFF):
        super().__init__(task, repeat=repeat)
        self.instruction, self.sign = f"go {task}", 1 if task == "right" else -1
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        still = {"vary": lambda rng: None, "close": lambda: None}
        self.cameras = SimpleNamespace(names=("front",), size=size, image=self._image, **still)

    def _image(self, name):
        return np.full((self.cameras.size, self.cameras.size, 3), 128 + 100 * self.place, np.uint8)

    @classmethod
    def tasks(cls):
        return {"left": "go left", "right": "go right"}

    def _start(self, rng):
        self.place = rng.uniform(-0.3, 0.3)

    def _act(self, action):
        self.place = float(np.clip(self.place + action[0] * self.repeat / 40, -1, 1))
        return EpisodeOutcome(self.place * self.sign >= 1, self.place * self.sign <= -1)

    def expert(self):
        return np.full(1, self.sign, np.float32)

    def state(self):
        return np.full(1, self.place, np.float32)

    objects = state
