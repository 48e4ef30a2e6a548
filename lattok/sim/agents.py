"""Who acts in a rollout: a `LatentVLA`, a `Policy` of another package, one of LeRobot, or a plain function; a rollout
knows only `Agent`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, cast

import numpy as np
import torch

from lattok import hub
from lattok.data.alike import said
from lattok.data.views import trained_space
from lattok.hub.weights import weights_hash
from lattok.loading import load
from lattok.sim.worlds import TaskFacts
from lattok.types import Acts, Policy, PolicyBatch, lacks
from lattok.utils import checks, files
from lattok.utils.arrays import as_tensor
from lattok.utils.checks import LattokError
from lattok.utils.devices import device_called, moved
from lattok.vla import LatentVLA
from lattok.vla.spaces import from_robot, robot_spaces, to_robot

Observation = Mapping[str, Any]
Processor = Callable[[Any], Any]  # of LeRobot
SIZE = 128  # pixels of images for a function
ACTION = "action"
ON_ROBOT = "On a robot of your own: policy.select_action(observation)."


class Agent(ABC):
    """Plans chunks of actions from observations and instructions."""

    keys: tuple[str, ...] | None = None  # of the observations that it reads; None: all
    size: int = SIZE  # of its images in pixels
    steps: int | None = None  # actions of a chunk that are carried out; None: all
    fps: float | None = None  # of the episodes that it learned from, where it knows
    instructions: tuple[str, ...] = ()  # that it knows; none: any
    cameras: Sequence[str] = ()  # that a task must have
    states: Mapping[str, int] | None = None  # columns that a task must have, and how many numbers are in each
    action_dim: int | None = None  # numbers of an action; None: any
    names: Mapping[str, Sequence[str]] = {}  # of the dimensions of "action" and of states, where it knows

    def stacked(self, observations: Sequence[Observation]) -> dict[str, torch.Tensor]:
        """Return what it reads of all observations, [B, ...] by column."""
        return {key: torch.from_numpy(np.stack([each[key] for each in observations])) for key in self.keys or ()}

    @abstractmethod
    def plan(self, observations: Sequence[Observation], instructions: Sequence[str]) -> Sequence[Any]:
        """Return a chunk [H, m] for each observation."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return facts for rollouts.json that identify the agent."""

    def check(self, facts: TaskFacts) -> None:
        """Raise `LattokError` where it cannot act in a task: compare what it reads and writes with what is there."""
        there = facts.features
        for key in self.cameras:
            if key not in there or len(there[key].shape) != 3:
                has = ", ".join(key for key in there if len(there[key].shape) == 3)
                raise LattokError(f"the policy looks at {key}, and {facts.name} has only {has}. {ON_ROBOT}")
        for key, count in (self.states or {}).items():
            if key not in there or there[key].shape != (count,):
                has = f"{there[key].shape[0]} ({', '.join(there[key].names or ())})" if key in there else "none"
                raise LattokError(
                    f"the policy reads {checks.counted(count, 'number')} of {key}, and {facts.name} has {has}."
                )
        if self.action_dim not in (None, len(facts.action_names)):
            takes = f"{len(facts.action_names)} ({', '.join(facts.action_names)})"
            own = checks.counted(self.action_dim, "number")
            raise LattokError(f"the policy's actions have {own}, and {facts.name} takes {takes}.")
        for key, own in self.names.items():
            theirs = said(facts.action_names if key == ACTION else there[key].names)
            if theirs and said(own) and theirs != tuple(own):
                what = f"the policy knows {key} as {', '.join(own)}, and {facts.name} as {', '.join(theirs)}"
                raise LattokError(f"{what}. If they are the same by other names, correct them in its config.json.")


class FunctionAgent(Agent):
    """A function of one observation and its instruction, which returns a chunk [H, m] or one action [m]."""

    def __init__(self, function: Callable[[Observation, str], Any]):
        self.function = function

    def plan(self, observations: Sequence[Observation], instructions: Sequence[str]) -> Sequence[Any]:
        return [self.function(seen, text) for seen, text in zip(observations, instructions, strict=True)]

    def describe(self) -> dict[str, Any]:
        name = getattr(self.function, "__qualname__", type(self.function).__name__)
        return {"type": "function", "model": f"{getattr(self.function, '__module__', '')}.{name}"}


class PolicyAgent(Agent):
    """A `LatentVLA`, with its own cameras and in its own units; one of the unified spaces in those of its robot."""

    def __init__(self, policy: LatentVLA):
        policy.check_acts()
        self.policy, config = policy.eval(), policy.config
        self.keys = (*config.cameras, *([config.state_key] if config.proprio_dim else []))
        self.size = _square(config.cameras, config.camera_sizes)
        self.steps, self.fps = policy.queues.n_action_steps, config.fps
        self.instructions = config.instructions if "{task}" in config.prompt else ()
        own = trained_space(policy.trained_on)
        self.robot = robot_spaces(policy) if own is not None and own.is_unified else {}
        self.cameras, self.action_dim = config.cameras, config.action_dim
        self.names = {} if "actions" in self.robot else {ACTION: config.action_names}
        if config.proprio_dim and "state" not in self.robot:
            self.names |= {config.state_key: config.proprio_names}
        state_dim = config.proprio_dim
        self._to_robot: Callable[[np.ndarray], np.ndarray] = lambda actions: actions
        self._from_robot: Callable[[torch.Tensor], torch.Tensor] | None = None
        if own is not None and "actions" in self.robot:
            self.action_dim = self.robot["actions"].dim
            self._to_robot = to_robot(policy, own, self.robot["actions"])
            try:
                self._to_robot(np.empty((0, config.action_dim)))
            except LattokError as error:
                raise LattokError(f"the policy's unified actions are not enough for its robot: {error}") from None
        if config.proprio_dim and "state" in self.robot:
            state_dim, self._from_robot = from_robot(policy, self.robot["state"], "robot_spaces")
        self.states = {config.state_key: state_dim} if state_dim else {}

    def plan(self, observations: Sequence[Observation], instructions: Sequence[str]) -> Sequence[Any]:
        seen = self.stacked(observations)
        if self._from_robot is not None:
            key = self.policy.config.state_key
            seen[key] = torch.stack([self._from_robot(state) for state in seen[key]])
        return [*self._to_robot(self.policy.predict_chunk({**seen, "task": list(instructions)}).cpu().numpy())]

    def describe(self) -> dict[str, Any]:
        spaces = {part: space.to_json() for part, space in self.robot.items()}
        return self.policy.describe() | ({"robot_spaces": spaces} if spaces else {})


class OtherPolicyAgent(Agent):
    """A policy of another package, which does what `lattok.types.Policy` says."""

    def __init__(self, policy: Policy):
        self.policy, self.cameras, self.size = policy, tuple(policy.cameras), policy.image_size
        self.keys = (*self.cameras, *([] if policy.state_key is None else [policy.state_key]))
        if isinstance(policy, torch.nn.Module):
            policy.eval()

    def plan(self, observations: Sequence[Observation], instructions: Sequence[str]) -> Sequence[Any]:
        seen = self.stacked(observations)
        proprio = None if self.policy.state_key is None else seen[self.policy.state_key].float()
        count, horizon = len(observations), self.policy.horizon
        images = [seen[key] for key in self.cameras]
        nothing = torch.zeros(count, horizon, 0), torch.zeros(count, horizon, dtype=torch.bool)
        shown = torch.stack(images, 1) if images else torch.zeros(count, 0, self.size, self.size, 3, dtype=torch.uint8)
        with torch.no_grad():
            chunks = self.policy.predict_chunk(PolicyBatch(shown, list(instructions), proprio, *nothing))
        return [*as_tensor("the policy's actions", chunks).float().cpu().numpy()]

    def check(self, facts: TaskFacts) -> None:
        super().check(facts)
        if (key := self.policy.state_key) is not None and key not in facts.features:
            raise LattokError(f"the policy reads {key}, and {facts.name} has none.")

    def describe(self) -> dict[str, Any]:
        return self.policy.describe()


class LeRobotAgent(Agent):
    """A policy of LeRobot that looks at one observation at a time, with its processors where it has any."""

    def __init__(self, policy: Any, before: Processor | None = None, after: Processor | None = None):
        """`before` and `after` are its pre- and post-processor: most policies of LeRobot need theirs."""
        self.policy, self.before, self.after = policy.eval(), before, after
        inputs, config = policy.config.input_features, policy.config
        if getattr(config, "n_obs_steps", 1) != 1:
            checks.fail("model", "a policy that looks at one observation", f"one of {config.n_obs_steps}")
        self.cameras = [key for key, feature in inputs.items() if len(feature.shape) == 3]
        self.states = {key: feature.shape[0] for key, feature in inputs.items() if len(feature.shape) == 1}
        self.keys = (*self.cameras, *self.states)
        self.size = _square(self.cameras, [tuple(inputs[key].shape[1:]) for key in self.cameras])
        self.steps = getattr(config, "n_action_steps", None)
        self.action_dim = config.output_features["action"].shape[0]

    def plan(self, observations: Sequence[Observation], instructions: Sequence[str]) -> Sequence[Any]:
        device = next(self.policy.parameters()).device
        seen: dict[str, Any] = {"task": list(instructions)}
        for key, values in self.stacked(observations).items():
            seen[key] = (values.permute(0, 3, 1, 2).float() / 255 if key in self.cameras else values).to(device)
        with torch.no_grad():
            chunks = self.policy.predict_action_chunk(seen if self.before is None else self.before(seen))
            return [*(chunks if self.after is None else self.after(chunks)).float().cpu().numpy()]

    def describe(self) -> dict[str, Any]:
        name, source = self.policy.config.type, getattr(self.policy.config, "pretrained_path", None)
        hashed = weights_hash(self.policy.state_dict())
        return {"type": f"lerobot/{name}", "model": source and str(source), "weights_sha256": hashed}


def as_agent(model: Any, name: str = "agent") -> Agent:
    """Return what acts as `model` does: an agent, a policy of lattok, LeRobot or another package, or a function."""
    if isinstance(model, Agent):
        return model
    if isinstance(model, LatentVLA):
        return PolicyAgent(model)
    if hasattr(model, "predict_action_chunk"):
        return LeRobotAgent(model)
    if callable(model) and not isinstance(model, torch.nn.Module | type):
        return FunctionAgent(model)
    if not lacks(model, Acts):
        return OtherPolicyAgent(cast(Policy, model))
    expected = (
        "a policy of lattok or LeRobot, a lattok.types.Policy or a function of an observation and its instruction"
    )
    hint = "Train one: lattok train vla DATASET --out my-policy."
    return checks.fail(name, expected, getattr(model, "type", type(model).__name__), hint)


def open_agent(name: str, revision: str | None = None, device: str = "auto") -> Agent:
    """Return the policy in a folder or on the Hub as an agent: an artefact of lattok, or a checkpoint of LeRobot."""
    place = hub.resolve(name, revision)
    if files.read_json(place.folder / hub.CONFIG).get("type") in hub.FAMILIES:
        return as_agent(moved(load(name, revision), device), "model")
    try:
        policies = import_module("lerobot.policies.factory")
        configs, plugins = import_module("lerobot.configs.policies"), import_module("lerobot.utils.import_utils")
    except ImportError as error:
        return checks.fail("model", "a policy of lattok, or LeRobot installed", f"{place.folder} and {error}")
    plugins.register_third_party_plugins()
    config = configs.PreTrainedConfig.from_pretrained(place.folder)
    config.device = str(device_called(device))
    policy = policies.get_policy_class(config.type).from_pretrained(place.folder, config=config)
    placed = {"preprocessor_overrides": {"device_processor": {"device": config.device}}}
    return LeRobotAgent(policy, *policies.make_pre_post_processors(config, str(place.folder), **placed))


def _square(cameras: Sequence[str], sizes: Sequence[tuple[int, ...]]) -> int:
    """Return the side of the images, which simulators make square and all alike."""
    if len({side for size in sizes for side in size}) > 1:
        got = ", ".join(f"{key} {'x'.join(map(str, size))}" for key, size in zip(cameras, sizes, strict=True))
        checks.fail("model", "a policy with square images of one size, as simulators render them", got, ON_ROBOT)
    return sizes[0][0] if sizes else SIZE
