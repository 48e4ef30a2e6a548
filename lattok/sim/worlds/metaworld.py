"""Meta-World: 50 tasks of a Sawyer arm with scripted experts (MIT licence), and paired scenes made of them.

Most of its scenes tell the task apart without words. The paired scenes do not: both tasks of a pair share a scene whose
joint starts in the middle, so that only the instruction says which way to go, and who reaches the opposite end first
has failed. A policy that does not read can win at most half of them.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium
import metaworld.policies
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from lattok.sim.rendering import OFF, SceneCameras, Stage, Variation, Viewpoint
from lattok.sim.worlds import EpisodeOutcome, SimEnv

JOINT = 9  # of the scene, after seven of the arm and two of the gripper
JITTER = 0.05  # of the joint's range, around its middle
BEYOND = 0.05  # metres, of `Variation.layout`
REACHED = 0.85  # of the joint's range, from the other end
VIEWS = {
    "corner2": Viewpoint("corner2", turned=True, position=(0.75, 0.075, 0.7)),  # where LeRobot has it
    "gripperPOV": Viewpoint("gripperPOV"),
}
STAGE = Stage(("table_wood", "basic_floor", "wall_metal"), (-0.4, 0.45, 0.0), (0.4, 0.95, 0.0))

INSTRUCTIONS = {
    "assembly": "put the ring on the peg",
    "basketball": "dunk the ball into the hoop",
    "bin-picking": "move the block to the other bin",
    "box-close": "put the lid on the box",
    "button-press-topdown": "press the button from above",
    "button-press-topdown-wall": "press the button behind the wall from above",
    "button-press": "press the button",
    "button-press-wall": "press the button behind the wall",
    "coffee-button": "press the button of the coffee machine",
    "coffee-pull": "pull the mug away from the coffee machine",
    "coffee-push": "push the mug under the coffee machine",
    "dial-turn": "turn the dial",
    "disassemble": "take the ring off the peg",
    "door-close": "close the door",
    "door-lock": "lock the door",
    "door-open": "open the door",
    "door-unlock": "unlock the door",
    "hand-insert": "put the hand into the hole",
    "drawer-close": "close the drawer",
    "drawer-open": "open the drawer",
    "faucet-open": "turn the faucet counter-clockwise",
    "faucet-close": "turn the faucet clockwise",
    "hammer": "hammer the nail into the wall",
    "handle-press-side": "press the handle down from the side",
    "handle-press": "press the handle down",
    "handle-pull-side": "pull the handle up from the side",
    "handle-pull": "pull the handle up",
    "lever-pull": "pull the lever up",
    "pick-place-wall": "pick up the puck and place it at the target behind the wall",
    "pick-out-of-hole": "pick the puck out of the hole",
    "pick-place": "pick up the puck and place it at the target",
    "plate-slide": "slide the plate into the cabinet",
    "plate-slide-side": "slide the plate into the cabinet from the side",
    "plate-slide-back": "slide the plate out of the cabinet",
    "plate-slide-back-side": "slide the plate out of the cabinet to the side",
    "peg-insert-side": "insert the peg into the hole from the side",
    "peg-unplug-side": "pull the peg out of the hole to the side",
    "soccer": "kick the ball into the goal",
    "stick-push": "push the box with the stick",
    "stick-pull": "pull the box with the stick",
    "push": "push the puck to the target",
    "push-wall": "push the puck around the wall to the target",
    "push-back": "push the puck back to the target",
    "reach": "reach the target",
    "reach-wall": "reach the target behind the wall",
    "shelf-place": "place the puck on the shelf",
    "sweep-into": "sweep the puck into the hole",
    "sweep": "sweep the puck off the table",
    "window-open": "slide the window open",
    "window-close": "slide the window closed",
}


class MetaWorld(SimEnv):
    """A standard task: the places of goal and objects are drawn anew for each episode."""

    world = "metaworld"
    robot = "sawyer"
    rate = 80.0
    limit = 500
    repeat = 1  # experts drop what they grasped when their actions are held for longer
    action_names = state_names = ("x", "y", "z", "gripper")
    rearranges = True

    def __init__(self, task: str, *, size: int = 128, repeat: int | None = None, variation: Variation = OFF):
        super().__init__(task, repeat=repeat)
        self.instruction = INSTRUCTIONS[task]
        self._build(task, size, variation)

    @classmethod
    def tasks(cls) -> Mapping[str, str]:
        return INSTRUCTIONS

    def _build(self, scene: str, size: int, variation: Variation) -> None:
        """Make the world whose class Meta-World calls `scene`."""
        self._env: Any = ALL_V3_ENVIRONMENTS[f"{scene}-v3"]()
        self._env._partially_observable = False  # experts see the goal
        del self._env.sawyer_observation_space  # made again on its next use, with the goal
        self._env._freeze_rand_vec, self._env.seeded_rand_vec, self._env._set_task_called = False, True, True
        self._env.max_path_length = np.inf  # `max_steps` of decisions counts
        self._layout, self._places = variation.layout, self._env._random_reset_space
        self._expert: Any = metaworld.policies.ENV_POLICY_MAP[f"{self.task}-v3"]()
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
        known = {self._env.model.material(number).name for number in range(self._env.model.nmat)}
        stage = STAGE._replace(materials=tuple(name for name in STAGE.materials if name in known))
        self.cameras = SceneCameras(self._env.model, self._env.data, VIEWS, size, stage, variation)
        self._seen = np.zeros(39)

    def _start(self, rng: np.random.Generator) -> None:
        if self._layout:
            self._env._random_reset_space = beyond(self._places, rng.spawn(1)[0])
        self._env.np_random = rng  # from which places are drawn, by some tasks more than once
        self._seen, _ = self._env.reset()

    def _act(self, action: np.ndarray) -> EpisodeOutcome:
        success = False
        for _ in range(self.repeat):
            self._seen, _, _, _, info = self._env.step(action)
            success |= bool(info["success"])
        return EpisodeOutcome(success)

    def expert(self) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they exceed the limits, which are kept here
            action = self._expert.get_action(self._seen)
        return np.clip(action, -1, 1).astype(np.float32)

    def state(self) -> np.ndarray:
        return self._seen[:4].astype(np.float32)

    def objects(self) -> np.ndarray:
        return self._seen.astype(np.float32)


def beyond(places: gymnasium.spaces.Box, rng: np.random.Generator) -> gymnasium.spaces.Box:
    """Return what lies next to a box, up to `BEYOND` outside, on a side drawn for each axis that has a width."""
    above = rng.integers(2, size=places.low.shape).astype(bool)
    out = np.where(places.high > places.low, BEYOND, 0.0)
    low, high = np.where(above, places.high, places.low - out), np.where(above, places.high + out, places.low)
    return gymnasium.spaces.Box(low, high, dtype=np.float64)


# the task of Meta-World in whose class both of a pair happen, and the end of the joint's range to reach: 0 low, 1 high
PAIRS = {
    "drawer-open": ("drawer-open", 0),
    "drawer-close": ("drawer-open", 1),
    "faucet-open": ("faucet-open", 1),
    "faucet-close": ("faucet-open", 0),
    "window-open": ("window-open", 1),
    "window-close": ("window-open", 0),
    "door-lock": ("door-lock", 1),
    "door-unlock": ("door-lock", 0),
}


class PairedScenes(MetaWorld):
    """A task that only its instruction tells from the opposite one: equal starts, and no goal to be seen."""

    world = "metaworld-pairs"
    limit = 200
    repeat = 4  # experts win all the same, and neighbouring frames differ

    def _build(self, scene: str, size: int, variation: Variation) -> None:
        scene, self._end = PAIRS[self.task]
        super()._build(scene, size, variation)
        other = next(name for name, (shared, _) in PAIRS.items() if shared == scene and name != self.task)
        self.opposite = INSTRUCTIONS[other]
        self._handle: Any = ALL_V3_ENVIRONMENTS[f"{self.task}-v3"]  # knows where the expert of this task takes hold
        model = self._env.model
        self._low, self._high = model.jnt_range[JOINT]
        for site in range(model.nsite):
            if model.site(site).name.startswith("goal"):
                model.site_rgba[site, 3] = 0

    @classmethod
    def tasks(cls) -> Mapping[str, str]:
        return {name: INSTRUCTIONS[name] for name in PAIRS}

    def _start(self, rng: np.random.Generator) -> None:
        super()._start(rng)
        data = self._env.data
        qpos, qvel = data.qpos.copy(), data.qvel.copy()
        middle = 0.5 + rng.uniform(-JITTER, JITTER)
        qpos[JOINT], qvel[JOINT] = self._low + middle * (self._high - self._low), 0
        self._env.set_state(qpos, qvel)
        self._look(first=True)

    def _act(self, action: np.ndarray) -> EpisodeOutcome:
        outcome = EpisodeOutcome()
        for _ in range(self.repeat):
            self._env.step(action)
            place = (self._env.data.qpos[JOINT] - self._low) / (self._high - self._low)
            reached = place if self._end else 1 - place
            if not outcome.decided:
                outcome = EpisodeOutcome(bool(reached >= REACHED), bool(reached <= 1 - REACHED))
        self._look()
        return outcome

    def _look(self, first: bool = False) -> None:
        """Take down what the expert sees: hand, gripper and handle, now and at the decision before, and no goal."""
        env = self._env
        now = env._get_curr_obs_combined_no_goal()
        now[4:] = 0
        now[4:7] = self._handle._get_pos_objects(env)
        self._seen = np.concatenate([now, now if first else self._seen[:18], np.zeros(3)])

    def objects(self) -> np.ndarray:
        """Return where the joint is in its range [1] and where its handle is, x, y, z in metres."""
        place = (self._env.data.qpos[JOINT] - self._low) / (self._high - self._low)
        handle = self._env._get_pos_objects()  # of the scene's own class: the same for both tasks
        return np.concatenate([[place], handle]).astype(np.float32)
