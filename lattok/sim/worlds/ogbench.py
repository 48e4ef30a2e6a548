"""OGBench's cubes and its scene of drawer, window and buttons: a UR5e arm with scripted oracles (MIT licence).

Every task has an opposite one that starts the same, so that only the instruction says what to do, and who does the
opposite first has failed. Left and right are those of the image of the camera `front`, which faces the robot.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
from ogbench.manipspace.envs import cube_env, scene_env
from ogbench.manipspace.oracles.markov import button_markov, cube_markov, drawer_markov, window_markov

from lattok.sim.rendering import OFF, SceneCameras, Stage, Variation, Viewpoint, mujoco
from lattok.sim.worlds import EpisodeOutcome, SimEnv

SLIDES = {"drawer": (-0.16, 0.0), "window": (0.0, 0.2)}  # metres: the drawer is open at its low end
SIZES = {"block_0": 3, "block_1": 3, "drawer": 1, "window": 1}  # numbers that say where something is
JITTER = 0.05  # of a slide's range, around its middle
AT_END, AT_PLACE, AT_HEIGHT = 0.02, 0.04, 0.01  # metres off the goal, at most: slides, cubes sideways, cubes upwards
SHIFT, CUBE = 0.12, 0.04  # metres: how far a cube is to be moved, its edge
HAND = np.array([[0.3, -0.15, 0.2], [0.55, 0.1, 0.3]])  # corners of the box in which the hand starts
STRAIGHT = 0.8  # least cosine of its yaw: it turns slowly, and would close the drawer that it is to open
REST = np.array([0.425, 0.0, 0.3])  # where oracles go when all is done
IN_DRAWER, AT_WINDOW = (0.33, -0.24, 0.066), (0.42, 0.15, 0.02)  # the drawer is open
UP = (0, 0, 1)
VIEWS = {"front": Viewpoint("lattok_front"), "wrist": Viewpoint("ur5e/robotiq/lattok_wrist")}
STAGE = Stage(("grid",), (0.25, -0.35, 0.0), (0.65, 0.35, 0.0))


class SceneState(NamedTuple):
    """What goals are judged by: MuJoCo's data, OGBench's summary of it, where cubes were at first [cubes, 3]."""

    data: Any
    info: dict[str, Any]
    first: np.ndarray


@dataclass(frozen=True)
class SlideGoal:
    """A drawer or a window at one end of its range."""

    part: str  # drawer, window
    end: int  # 0 low, 1 high

    def reached(self, seen: SceneState) -> bool:
        return bool(abs(self._missing(seen)) <= AT_END)

    def aim(self, seen: SceneState) -> dict[str, Any]:
        """Return where the handle has to go, by the name that the oracle reads it from."""
        way = (0.0, -1.0, 0.0) if self.part == "drawer" else (1.0, 0.0, 0.0)  # of the handle as the joint increases
        handle = seen.info[f"privileged/{self.part}_handle_pos"] + self._missing(seen) * np.array(way)
        return {f"target_{self.part}_handle_pos": handle}

    def _missing(self, seen: SceneState) -> float:
        return SLIDES[self.part][self.end] - seen.info[f"privileged/{self.part}_pos"][0]


@dataclass(frozen=True)
class ButtonGoal:
    """A button that has been pressed, which changes its colour."""

    button: int
    part: ClassVar[str] = "button"

    def reached(self, seen: SceneState) -> bool:
        return bool(seen.info["button_states"][self.button] == 0)

    def aim(self, seen: SceneState) -> dict[str, Any]:
        top = seen.data.site(f"btntop_{self.button}").xpos
        return {"target_button": self.button, "target_button_top_pos": top, "target_button_state": 0}


@dataclass(frozen=True)
class CubeGoal:
    """A cube that was moved from its start, or lies at a place or else on the other cube, and is not held any more."""

    cube: int
    by: tuple[int, int, int] | None = None  # a direction
    at: tuple[float, float, float] | None = None  # metres
    part: ClassVar[str] = "cube"

    def reached(self, seen: SceneState) -> bool:
        off = seen.info[f"privileged/block_{self.cube}_pos"] - self._goal(seen)
        there = np.hypot(*off[:2]) <= AT_PLACE if self.by is None else off @ self.by >= -AT_PLACE
        lies = abs(off[2]) <= AT_HEIGHT and seen.info["proprio/gripper_contact"][0] < 0.1
        return bool(there and (lies or self.by == UP))

    def aim(self, seen: SceneState) -> dict[str, Any]:
        return {"target_block": self.cube, "target_block_pos": self._goal(seen), "target_block_yaw": np.zeros(1)}

    def _goal(self, seen: SceneState) -> np.ndarray:
        if self.by is not None:
            return seen.first[self.cube] + SHIFT * np.array(self.by)
        if self.at is not None:
            return np.array(self.at)
        return seen.info[f"privileged/block_{1 - self.cube}_pos"] + CUBE * np.array(UP)


class Scenery(NamedTuple):  # what OGBench is asked to build, and how it is looked at. Lengths in metres
    made: type[Any]
    kind: str  # of the environment, as OGBench calls it
    box: tuple[tuple[float, float], tuple[float, float]]  # corners of where the middle of the cubes starts, x and y
    aim: tuple[float, float, float]  # of the camera `front`
    fovy: float  # degrees


ONE = Scenery(cube_env.CubeEnv, "single", ((0.385, -0.1), (0.465, 0.1)), (0.38, 0, 0.12), 38)
TWO = Scenery(cube_env.CubeEnv, "double", ((0.39, -0.08), (0.46, 0.08)), (0.38, 0, 0.12), 38)
ROOM = Scenery(scene_env.SceneEnv, "scene", ((0.34, -0.02), (0.46, 0.06)), (0.37, 0.02, 0.1), 46)


class SceneTask(NamedTuple):
    scene: Scenery
    goal: SlideGoal | ButtonGoal | CubeGoal
    opposite: str  # name of the task that starts the same, whose goal is the failure of this one
    instruction: str


TASKS = {
    "cube-left": SceneTask(ONE, CubeGoal(0, by=(0, -1, 0)), "cube-right", "move the cube to the left"),
    "cube-right": SceneTask(ONE, CubeGoal(0, by=(0, 1, 0)), "cube-left", "move the cube to the right"),
    "cube-near": SceneTask(ONE, CubeGoal(0, by=(-1, 0, 0)), "cube-far", "move the cube towards the robot"),
    "cube-far": SceneTask(ONE, CubeGoal(0, by=(1, 0, 0)), "cube-near", "move the cube away from the robot"),
    "lift-red": SceneTask(TWO, CubeGoal(0, by=UP), "lift-blue", "lift the red cube"),
    "lift-blue": SceneTask(TWO, CubeGoal(1, by=UP), "lift-red", "lift the blue cube"),
    "stack-red": SceneTask(TWO, CubeGoal(0), "stack-blue", "put the red cube on the blue cube"),
    "stack-blue": SceneTask(TWO, CubeGoal(1), "stack-red", "put the blue cube on the red cube"),
    "drawer-open": SceneTask(ROOM, SlideGoal("drawer", 0), "drawer-close", "open the drawer"),
    "drawer-close": SceneTask(ROOM, SlideGoal("drawer", 1), "drawer-open", "close the drawer"),
    "window-open": SceneTask(ROOM, SlideGoal("window", 1), "window-close", "slide the window open"),
    "window-close": SceneTask(ROOM, SlideGoal("window", 0), "window-open", "slide the window closed"),
    "button-left": SceneTask(ROOM, ButtonGoal(0), "button-right", "press the left button"),
    "button-right": SceneTask(ROOM, ButtonGoal(1), "button-left", "press the right button"),
    "cube-drawer": SceneTask(ROOM, CubeGoal(0, at=IN_DRAWER), "cube-window", "put the cube into the drawer"),
    "cube-window": SceneTask(ROOM, CubeGoal(0, at=AT_WINDOW), "cube-drawer", "put the cube in front of the window"),
}
ORACLES = {
    "cube": cube_markov.CubeMarkovOracle,
    "button": button_markov.ButtonMarkovOracle,
    "drawer": drawer_markov.DrawerMarkovOracle,
    "window": window_markov.WindowMarkovOracle,
}


class OGBench(SimEnv):
    """A task in one of three scenes: a cube, two cubes, or a cube with drawer, window and two buttons."""

    world = "ogbench"
    robot = "ur5e"
    rate = 20.0
    limit = 100
    repeat = 1
    action_names = ("x", "y", "z", "yaw", "gripper")
    state_names = ("x", "y", "z", "cos_yaw", "sin_yaw", "gripper", "contact")

    def __init__(self, task: str, *, size: int = 128, repeat: int | None = None, variation: Variation = OFF):
        super().__init__(task, repeat=repeat)
        self._scene, self._goal, opposite, self.instruction = TASKS[task]
        self._avoided, self.opposite = TASKS[opposite].goal, TASKS[opposite].instruction
        self._env: Any = _build(self._scene, size)
        self._oracle: Any = ORACLES[self._goal.part](env=self._env)
        self._oracle._final_pos, self._oracle._final_yaw, self._oracle._step = REST, 0.0, 0
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (5,), np.float32)
        self._start(np.random.default_rng(0))  # buttons give handles their colour
        self.cameras = SceneCameras(self._env.model, self._env.data, VIEWS, size, STAGE, variation)

    @classmethod
    def tasks(cls) -> Mapping[str, str]:
        return {name: task.instruction for name, task in TASKS.items()}

    def _start(self, rng: np.random.Generator) -> None:
        env = self._env
        env.np_random = rng
        env.reset()  # which places the arm and turns the cubes
        while np.cos(env.compute_ob_info()["proprio/effector_yaw"][0]) < STRAIGHT:
            env.initialize_arm()
        middle, angle, apart = rng.uniform(*self._scene.box), rng.uniform(-np.pi, np.pi), rng.uniform(0.06, 0.08)
        offset = (env._num_cubes - 1) * apart * np.array([np.cos(angle), np.sin(angle)])  # of two cubes
        for number, place in enumerate((middle + offset, middle - offset)[: env._num_cubes]):
            env.data.joint(f"object_joint_{number}").qpos[:2] = place
        if self._scene is ROOM:
            for part, (low, high) in SLIDES.items():
                middle = 0.5 + rng.uniform(-JITTER, JITTER)
                place = 0.0 if self._goal.part == "cube" else middle  # it goes into an open drawer
                env.data.joint(f"{part}_slide").qpos[0] = low + place * (high - low)
            env._cur_button_states[:] = 1  # drawer and window are not locked
            env._apply_button_states()
        mujoco.mj_forward(env.model, env.data)
        info = env.compute_ob_info()
        first = np.stack([info[f"privileged/block_{number}_pos"] for number in range(env._num_cubes)])
        self._seen = SceneState(env.data, info, first)

    def _act(self, action: np.ndarray) -> EpisodeOutcome:
        outcome = EpisodeOutcome()
        for _ in range(self.repeat):
            self._seen = self._seen._replace(info=self._env.step(action)[-1])
            if not outcome.decided:
                outcome = EpisodeOutcome(self._goal.reached(self._seen), self._avoided.reached(self._seen))
        return outcome

    def expert(self) -> np.ndarray:
        goal = {f"privileged/{name}": value for name, value in self._goal.aim(self._seen).items()}
        return self._oracle.select_action(None, self._seen.info | goal).astype(np.float32)

    def state(self) -> np.ndarray:
        """Return position (metres), yaw and opening (1 closed) of the hand, and how firmly it holds, 0 to 1."""
        info = self._seen.info
        yaw = info["proprio/effector_yaw"]
        parts = info["proprio/effector_pos"], np.cos(yaw), np.sin(yaw), info["proprio/gripper_opening"]
        return np.concatenate([*parts, info["proprio/gripper_contact"]]).astype(np.float32)

    def objects(self) -> np.ndarray:
        """Return where two cubes [6], drawer and window are, in metres, and the state of two buttons; or zeros."""
        info = self._seen.info
        places = [info.get(f"privileged/{part}_pos", np.zeros(size)) for part, size in SIZES.items()]
        return np.concatenate([*places, info.get("button_states", np.zeros(2))]).astype(np.float32)


def _build(scene: Scenery, size: int) -> Any:
    """Make OGBench's environment with cameras of ours, a gripper that is seen, and a floor whose colour can change."""
    env: Any = scene.made(env_type=scene.kind, mode="data_collection", visualize_info=False, width=size, height=size)
    env._arm_sampling_bounds = HAND
    model = env.build_mjcf_model()
    model.worldbody.add("camera", name="lattok_front", fovy=scene.fovy, **_facing((0.95, 0, 0.8), scene.aim))
    wrist = _facing((0.1, 0, 0.03), (0.01, 0, 0.15), up=(1, 0, 0))
    model.find("body", "ur5e/robotiq/base").add("camera", name="lattok_wrist", fovy=70, **wrist)
    for part in ("black", "pad_gray"):  # as in OGBench's own images
        model.find("material", f"ur5e/robotiq/{part}").rgba = env._colors["purple"]
    floor = model.find("texture", "grid")  # dark in itself; now bright and its material, which multiplies it, dark
    floor.rgb1, floor.rgb2 = (0.32, 0.37, 0.38), (0.6, 0.6, 0.6)  # and not so bright that white things disappear
    model.find("material", "grid").rgba = (0.25, 0.3, 0.42, 1)
    env._mjcf_model = model
    env.reset()  # which compiles it
    return env


def _facing(position: Sequence[float], at: Sequence[float], up: Sequence[float] = UP) -> dict[str, Any]:
    """Return place and axes of a camera that looks at a point."""
    ahead = np.subtract(at, position)
    right = np.cross(ahead, up)
    return {"pos": position, "xyaxes": [*right, *np.cross(right, ahead)]}
