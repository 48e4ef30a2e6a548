"""Tasks in simulators, on Gymnasium's interface: `make` finds them by name. A module for each family of worlds.

    env = make("metaworld-pairs/drawer-open")
    observation, _ = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(env.expert())

`step` is one decision of a policy, which is held for `repeat` steps of the simulator. `act` is the same without images:
who carries out a chunk of actions renders only when the next one is planned.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
from typing_extensions import Self

from lattok.data.schema import Feature
from lattok.sim.rendering import OFF, SceneCameras, Variation
from lattok.utils import checks
from lattok.utils.parallel import Processes
from lattok.utils.registry import Registry
from lattok.version import install_extra, no_wheel

KEPT_ENVIRONMENTS = 8  # open in a process, of some 110 MB each; a new one costs half a second with its renderer
MODULES = {"metaworld": "metaworld", "metaworld-pairs": "metaworld", "ogbench": "ogbench"}  # and packages, by world
WORLDS: "Registry[type[SimEnv]]" = Registry(
    "lattok.worlds", named={world: f"lattok.sim.worlds.{module}" for world, module in MODULES.items()}
)
IMAGES = "observation.images."
STATE, OBJECTS = "observation.state", "observation.environment_state"


class TaskFacts(NamedTuple):
    name: str
    instruction: str
    opposite: str | None  # instruction of the other task in its scene
    rate: float  # steps of the simulator in a second
    repeat: int  # of them in a decision
    fps: float  # decisions in a second
    robot: str
    features: dict[str, Feature]  # of its observations
    action_names: tuple[str, ...]


class EpisodeOutcome(NamedTuple):  # what has happened so far in an episode
    success: bool = False
    failure: bool = False  # what cannot become a success any more

    @property
    def decided(self) -> bool:
        """Whether the episode is over."""
        return self.success or self.failure


class SimEnv(gymnasium.Env[dict[str, Any], np.ndarray], ABC):
    """One task of a world. Subclasses set the attributes below; those from `cameras` on may be set in the constructor.

    Observations have the keys of the dataset that `lattok collect` records: `observation.images.NAME` uint8 [H, W, 3],
    `observation.state` float32 [s], `observation.environment_state` float32 [e]. Episodes are equal for equal seeds,
    whatever was done before.
    """

    world: ClassVar[str]  # first part of the name of its tasks
    rate: ClassVar[float]  # steps of the simulator in a second
    limit: ClassVar[int]  # steps of the simulator in an episode
    repeat: int  # steps of the simulator that a decision is held; in the class the default
    action_names: ClassVar[tuple[str, ...]]
    state_names: ClassVar[tuple[str, ...]]
    robot: ClassVar[str]
    rearranges: ClassVar[bool] = False  # whether `Variation.layout` is possible

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's own)
    render_mode = "rgb_array"

    task: str  # name in its world
    instruction: str
    opposite: str | None = None  # instruction of the other task in its scene, where there is one
    cameras: SceneCameras
    action_space: gymnasium.spaces.Box  # [m] in the units that datasets have

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "world" in vars(cls):
            WORLDS.add(cls.world, cls)

    @classmethod
    @abstractmethod
    def tasks(cls) -> Mapping[str, str]:
        """Return all tasks: names with instructions."""

    def __init__(self, task: str, *, size: int = 128, repeat: int | None = None, variation: Variation = OFF):
        """Check the arguments; a subclass goes on to build the task with square images of `size` pixels."""
        checks.one_of("task", task, self.tasks())
        if repeat is not None:
            checks.counts(repeat=repeat)
            self.repeat = repeat
        self.task = task

    @abstractmethod
    def _start(self, rng: np.random.Generator) -> None:
        """Put robot and objects into a start state."""

    @abstractmethod
    def _act(self, action: np.ndarray) -> EpisodeOutcome:
        """Carry out one decision, an action within the limits."""

    @abstractmethod
    def expert(self) -> np.ndarray:
        """Return the action of the scripted expert in the present state, float32 [m] within the limits."""

    @abstractmethod
    def state(self) -> np.ndarray:
        """Return the robot's own state, float32 [s]."""

    @abstractmethod
    def objects(self) -> np.ndarray:
        """Return the state of the objects, float32 [e]: for probes, never for policies."""

    @property
    def name(self) -> str:
        """World and task."""
        return f"{self.world}/{self.task}"

    @property
    def fps(self) -> float:
        """Decisions a second."""
        return self.rate / self.repeat

    @property
    def max_steps(self) -> int:
        """Decisions of an episode."""
        return math.ceil(self.limit / self.repeat)

    @property
    def features(self) -> dict[str, Feature]:
        """Features of the observations as datasets have them."""
        image = (self.cameras.size, self.cameras.size, 3)
        images = {f"{IMAGES}{name}": Feature("video", image, None) for name in self.cameras.names}
        state = Feature("float32", (len(self.state_names),), self.state_names)
        return images | {STATE: state, OBJECTS: Feature("float32", self.objects().shape, None)}

    @property
    def facts(self) -> TaskFacts:
        """All that policies and datasets must know of a task that has been started."""
        return TaskFacts(*(getattr(self, name) for name in TaskFacts._fields))

    @property
    def observation_space(self) -> gymnasium.spaces.Dict:  # type: ignore[override]
        """Spaces of `features`."""
        spaces: dict[str, gymnasium.Space[Any]] = {}
        for key, feature in self.features.items():
            low, high, dtype = (0, 255, np.uint8) if feature.dtype == "video" else (-np.inf, np.inf, np.float32)
            spaces[key] = gymnasium.spaces.Box(low, high, feature.shape, dtype)  # type: ignore[arg-type]
        return gymnasium.spaces.Dict(spaces)

    def start(self, seed: int) -> None:
        """Begin episode number `seed`, without images. Variations have their own random streams: all but `layout` leave
        starts as they are."""
        checks.whole(seed=seed)
        self._start(np.random.default_rng([seed, 0]))
        self.cameras.vary(np.random.default_rng([seed, 1]))
        self.outcome, self.steps = EpisodeOutcome(), 0

    def act(self, action: np.ndarray) -> EpisodeOutcome:
        """Carry out one decision without images; what exceeds the limits is cut off.

        The first outcome counts, whatever happens later. Raises `LattokError` for anything but m finite numbers.
        """
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape:
            expected = (
                f"{checks.counted(len(self.action_names), 'number')} ({', '.join(self.action_names)}) for {self.name}"
            )
            checks.fail("action", expected, f"shape {list(action.shape)}")
        if not np.isfinite(action).all():
            dim = int(np.flatnonzero(~np.isfinite(action))[0])
            checks.fail("action", "finite numbers", f"{action[dim]} in dimension {self.action_names[dim]}")
        outcome = self._act(np.clip(action, self.action_space.low, self.action_space.high))
        self.steps += 1
        if not self.outcome.decided:
            self.outcome = outcome
        return self.outcome

    def observe(self, keys: Collection[str] | None = None) -> dict[str, Any]:
        """Return the observation of the present state; only these `keys` of it, if any are given."""
        parts: dict[str, Callable[[], np.ndarray]]
        parts = {f"{IMAGES}{name}": partial(self.cameras.image, name) for name in self.cameras.names}
        parts |= {STATE: self.state, OBJECTS: self.objects}
        return {key: part() for key, part in parts.items() if keys is None or key in keys}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin episode number `seed`; without one the next number of Gymnasium's generator."""
        super().reset(seed=seed)
        self.start(int(self.np_random.integers(2**31)) if seed is None else seed)
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Carry out one decision: `info` has "success" and "failure", either of which ends the episode."""
        outcome = self.act(action)
        return self.observe(), float(outcome.success), outcome.decided, self.steps >= self.max_steps, outcome._asdict()

    def render(self) -> np.ndarray:  # type: ignore[override]
        """Return the image of the first camera, uint8 [H, W, 3]."""
        return self.cameras.image(self.cameras.names[0])

    def close(self) -> None:
        """Free the renderer: MuJoCo must not do so while Python exits."""
        self.cameras.close()


def find_tasks(names: str | Sequence[str]) -> list[str]:
    """Names of tasks: "metaworld-pairs" is all of that world, "metaworld/reach" one task. Unknown ones are errors."""
    if not names:
        checks.fail("tasks", f"at least one task of {', '.join(WORLDS)}, such as metaworld/reach", "none")
    found: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        world, _, task = name.partition("/")
        try:
            checks.one_of("tasks", world, WORLDS)
            known = WORLDS[world].tasks()
        except ModuleNotFoundError as error:  # of a world that nobody has looked at before
            what = f"{world} needs {error.name}, which is not installed"
            barred = no_wheel(MODULES.get(world, ""))
            why = f": {barred[0]} has no wheel for this Python. Use {barred[1]}." if barred else None
            raise checks.LattokError(what + (why or f". Run: {install_extra('sim')}")) from None
        if task:
            checks.one_of("tasks", name, [f"{world}/{other}" for other in known])
        found += [name] if task else [f"{world}/{other}" for other in known]
    return list(dict.fromkeys(found))


def tasks_by_instructions(instructions: Collection[str], fps: float | None) -> list[str]:
    """Return the tasks that have these instructions: those of the world with most, acting at `fps` if given.
    Worlds that cannot be read without a package are left out."""
    found = list[str]()
    for name, (world, tasks) in _readable().items():
        known = [f"{name}/{task}" for task, instruction in tasks.items() if instruction in instructions]
        if len(known) > len(found) and fps in (None, world.rate / world.repeat):
            found = known
    return found


def _readable() -> dict[str, tuple[type[SimEnv], Mapping[str, str]]]:
    """Return the worlds whose packages are installed, with their tasks."""
    found = {}
    for name in WORLDS:
        with suppress(ModuleNotFoundError):
            found[name] = WORLDS[name], WORLDS[name].tasks()
    return found


def make(name: str, *, size: int = 128, repeat: int | None = None, variation: Variation = OFF) -> SimEnv:
    """Return the task called `name`, such as "metaworld/reach", with images of `size` pixels.

    An action is held for `repeat` steps of the simulator, by default as many as the world sets.
    """
    if find_tasks(name) != [name]:
        checks.fail("name", "one task, such as metaworld/reach", repr(name))
    world, _, task = name.partition("/")
    if variation.layout and not WORLDS[world].rearranges:
        able = " and ".join(other for other, (found, _) in _readable().items() if found.rearranges)
        checks.fail("variation", f"layout only in {able}", f"it in {world}")
    return WORLDS[world](task, size=size, repeat=repeat, variation=variation)


class SimJob(NamedTuple):
    """Call `function(env, seed, *arguments)`, which stands in a module, with an environment as the last job left it."""

    function: Callable[..., Any]
    task: str  # "metaworld/reach"
    seed: int
    arguments: tuple[Any, ...] = ()
    slot: int | None = None  # jobs of one slot go to one worker; while their task is the same, to one environment

    def __str__(self) -> str:
        return f"{self.task}, seed {self.seed}"


class Environments:
    """Does jobs with environments that it makes with `options`, those of `make`, and keeps until its end. Of those that
    no slot has used last, the newest are kept, so that there are `keep` in all."""

    def __init__(self, options: Mapping[str, Any], keep: int = KEPT_ENVIRONMENTS):
        self._options, self._keep = options, keep
        self._open: dict[tuple[str, int | None], SimEnv] = {}  # by task and slot

    def __call__(self, job: SimJob) -> Any:
        key = (job.task, job.slot)
        env = self._open[key] = self._open.pop(key, None) or make(job.task, **self._options)
        slots = [slot for _, slot in self._open]
        spare = [old for number, old in enumerate(self._open) if old[1] is None or old[1] in slots[number + 1 :]]
        for old in spare[: max(0, len(self._open) - self._keep)]:
            if old != key:
                self._open.pop(old).close()
        return job.function(env, job.seed, *job.arguments)

    def map(self, jobs: Iterable[SimJob]) -> Iterator[Any]:
        """Yield what comes of `jobs`, as `Workers` do."""
        return map(self, jobs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for env in self._open.values():
            env.close()


class Workers(Processes):
    """`count` processes, by default one for each core, whose environments are made with `options`, those of `make`."""

    def __init__(self, count: int | None = None, **options: Any):
        super().__init__(partial(Environments, options), count)
