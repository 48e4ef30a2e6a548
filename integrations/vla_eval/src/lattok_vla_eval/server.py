"""A policy as a model server of vla-eval, the harness that runs LIBERO, CALVIN, SimplerEnv and RoboTwin in containers.

    vla-eval serve --config integrations/vla_eval/model_servers/libero.yaml
        --arg model=my-policy
    vla_eval.evaluate(PolicyServer(policy, **args), "integrations/vla_eval/benchmarks/libero.yaml")     in Python

How a benchmark calls its cameras, and what the numbers of its actions mean, stands in the server's configuration. A
policy that contradicts it is refused before the first episode.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib import import_module
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from torch import Tensor

from lattok import hub
from lattok.data import ActionSpace
from lattok.data.actions.space import GRIPPERS, Gripper, Joints, Position, Rotation
from lattok.data.pixels import resize_pixels
from lattok.data.schema import short_name
from lattok.data.views import trained_space
from lattok.types import PolicyBatch
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.devices import moved
from lattok.vla import LatentVLA
from lattok.vla.observations import ActionQueues, policy_batch
from lattok.vla.spaces import from_robot, to_robot

try:
    from anyio.to_thread import run_sync
    from vla_eval import specs
    from vla_eval.model_servers import serve as harness
    from vla_eval.model_servers.base import SessionContext
    from vla_eval.model_servers.predict import PredictModelServer
    from vla_eval.model_servers.serve import run_server
    from vla_eval.specs import DimSpec
    from websockets.asyncio.server import serve as ws_serve
except ModuleNotFoundError as error:
    if error.name not in ("anyio", "vla_eval"):
        raise
    raise LattokError(
        f"serving needs {error.name}, which is not installed. Run: pip install ./integrations/vla_eval"
    ) from None

LOOPBACK = "127.0.0.1"  # whoever wants to be reached from other machines gives --address
MESSAGE_BYTES = 64 << 20  # of an observation: ten cameras of 1080 x 1920 as they are
SEEN = "lattok.seen"  # an observation that has been checked
LEROBOT = "lattok"  # `type` in the config.json of a checkpoint of the LeRobot plugin
KNOWN = [spec for spec in vars(specs).values() if isinstance(spec, DimSpec)]
STATES = frozenset(spec.format for spec in KNOWN if spec.name in ("state", "raw"))  # which one it is nobody checks
GRIPPER_FORMATS = {
    "closed_is_plus_1": specs.GRIPPER_CLOSE_POS.format,
    "open_is_plus_1": specs.GRIPPER_CLOSE_NEG.format,
    "closed_is_1": specs.GRIPPER_CLOSE_01.format,
    "open_is_1": specs.GRIPPER_01.format,
}


class PolicyServer(PredictModelServer):
    """Answers observations of the harness with the actions of a policy, a chunk for each session.

    What each error says reaches the harness as it stands, and fails that episode alone. Clients set nothing: `/config`
    tells the settings and takes none.
    """

    def __init__(
        self,
        model: Any,
        cameras: dict[str, str],
        benchmark_actions: Any,
        policy_actions: Any = None,
        state: str | None = None,
        benchmark_state: Any = None,
        limits: dict[str, list[float]] | None = None,
        resize: bool = False,
        n_action_steps: int | None = None,
        observation_params: dict[str, Any] | None = None,
        device: str = "auto",
        **options: Any,
    ) -> None:
        """Load the policy and compare it with the benchmark.

        Args:
            model: Folder or Hub id of a policy, or of a checkpoint of the LeRobot plugin; or a `LatentVLA`.
            cameras: For each camera of the benchmark the one of the dataset that it stands for, short names allowed.
                Those that the policy does not have are left out.
            benchmark_actions: Action space that the benchmark expects: a named one, or a list of parts.
            policy_actions: The same for the policy's; left out, what the artefact says of the dataset it learned from.
            state: Key of the robot's state in the observations; policies with proprio need it.
            benchmark_state: What the numbers of that state mean, a list of parts: for policies of the unified state,
                which is made of them. Parts that no demonstration of the policy had are left out.
            limits: Least and greatest number for kinds of parts, such as {"position": [-1, 1]}, in the benchmark's
                numbers. Grippers end where their convention does.
            resize: Bring images to the size that they had in the dataset; otherwise another size is an error.
            n_action_steps: Actions of a chunk that are carried out; by default as many as the policy says, or all.
            observation_params: What the benchmark is asked to send, such as {"send_state": true}.
            device: cpu, cuda, cuda:1, mps or auto. A `LatentVLA` stays where it is.
            options: Those of the harness, such as max_batch_size.
        """
        self.policy = model if isinstance(model, LatentVLA) else moved(open_policy(model), device)
        self.policy.check_acts()
        config = self.policy.config
        steps = self.policy.queues.n_action_steps if n_action_steps is None else n_action_steps
        super().__init__(chunk_size=ActionQueues(config.horizon, steps).n_action_steps, **options)
        checks.counts(max_batch_size=self.max_batch_size)
        checks.at_least_zero(max_wait_time=self.max_wait_time)
        self.cameras = _sources(cameras, config.cameras)
        self.state, self.resize, self.params = state, resize, dict(observation_params or {})
        if config.proprio_dim and state is None:
            hint = "Where the benchmark has none that fits, train the policy without proprio."
            checks.fail("state", f"the key of the {config.proprio_dim} numbers of proprio", "none", hint)
        self.space = ActionSpace.of(benchmark_actions, "benchmark_actions")
        self.policy_space = _policy_space(self.policy, policy_actions)
        self._to_benchmark = to_robot(self.policy, self.policy_space, self.space)
        self._to_benchmark(np.empty((0, config.action_dim)))  # raises where it cannot
        self.state_dim, self._to_proprio = from_robot(self.policy, benchmark_state, "benchmark_state")
        self.low, self.high = _ends(self.space, limits or {})
        self._planned_for = dict[str, str]()  # the instruction, by session

    async def on_observation(self, obs: dict[str, Any], ctx: SessionContext) -> None:
        """Check an observation alone, so that a bad one does not fail those that share its batch, and act on it.

        What was planned before CALVIN's next task (`episode_restart`), or for another instruction, is forgotten.
        """
        text = str(obs.get("task_description", "")).strip()
        if obs.get("episode_restart") or self._planned_for.setdefault(ctx.session_id, text) != text:
            await self.on_episode_start({}, ctx)
            self._planned_for[ctx.session_id] = text
        planned = self._chunk_buffers.get(ctx.session_id)
        if planned is None or planned.empty:  # otherwise nobody looks: RoboTwin then leaves the images out
            obs = {SEEN: await run_sync(self.see, obs)}
        await super().on_observation(obs, ctx)

    async def on_episode_end(self, result: dict[str, Any], ctx: SessionContext) -> None:
        self._planned_for.pop(ctx.session_id, None)
        await super().on_episode_end(result, ctx)

    def see(self, obs: Mapping[str, Any]) -> PolicyBatch:
        """Return an observation of the harness as the policy reads it; raises `LattokError` where it cannot."""
        config, images = self.policy.config, obs.get("images")
        there = images if isinstance(images, Mapping) else {}
        seen: dict[str, Any] = {"task": [obs.get("task_description")]}
        for (key, camera), size in zip(self.cameras.items(), config.camera_sizes, strict=True):
            if camera not in there:
                expected = f"`{camera}`, which stands for the policy's camera {short_name(key)}"
                checks.fail("images", expected, f"only {checks.listed(there)}" if there else "none")
            frame = _numbers(f"images.{camera}", there[camera])
            if frame.dtype != torch.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
                checks.fail(f"images.{camera}", "uint8 [H, W, 3]", f"{frame.dtype} {list(frame.shape)}")
            seen[key] = (resize_pixels(frame, size, config.interpolation) if self.resize else frame)[None]
        if config.proprio_dim and self.state is not None:
            if obs.get(self.state) is None:
                hint = "Ask the benchmark for it in observation_params, as in send_state."
                checks.fail(self.state, f"the {self.state_dim} numbers of proprio", "none", hint)
            seen[config.state_key] = self._to_proprio(_numbers(self.state, obs[self.state]))[None]
        return policy_batch(config, seen, learning=False)

    def predict_batch(
        self, obs_batch: list[dict[str, Any]], ctx_batch: Sequence[SessionContext]
    ) -> list[dict[str, Any]]:
        """Return a chunk `actions` [H, n] for each observation, in the benchmark's numbers."""
        seen = [obs[SEEN] if SEEN in obs else self.see(obs) for obs in obs_batch]
        chunks = self.policy.predict_chunk(_joined(seen)).float().numpy(force=True)
        actions = self._to_benchmark(chunks)
        return [{"actions": chunk} for chunk in np.clip(actions, self.low, self.high)]

    def get_action_spec(self) -> dict[str, DimSpec]:
        """Return what the actions mean, which the harness compares with what its benchmark expects."""
        return _spec(self.space)

    def get_observation_spec(self) -> dict[str, DimSpec]:
        """Return what the policy looks at, under the benchmark's names."""
        spec = dict.fromkeys(self.cameras.values(), specs.IMAGE_RGB) | {"language": specs.LANGUAGE}
        proprio = {"state": DimSpec("state", self.state_dim, "raw", accepts=STATES)}
        return spec | (proprio if self.policy.config.proprio_dim else {})

    def get_observation_params(self) -> dict[str, Any]:
        """Return what the benchmark is asked to send."""
        return self.params


def open_policy(name: str) -> LatentVLA:
    """Return the policy in a folder or on the Hub: an artefact of lattok, or a checkpoint of its LeRobot plugin."""
    place = hub.resolve(name)
    kind = hub.read_config(place.folder)["type"]
    if kind == LEROBOT:
        try:
            plugin = import_module("lerobot_policy_lattok.modeling_lattok")
        except ImportError as error:
            hint = "pip install ./integrations/lerobot_policy_lattok"
            checks.fail("model", "the plugin installed, for a checkpoint of LeRobot", str(error), hint)
        return plugin.LattokPolicy.from_pretrained(place.folder).model
    if not issubclass(hub.family_of(place.folder), LatentVLA):
        checks.fail("model", f"a policy ({LatentVLA.type})", f"{kind!r} in {place.folder}")
    return LatentVLA.from_place(place)


def _bounded(handler: Any, *place: Any, process_request: Any, **options: Any) -> Any:
    """Serve as the harness does, but with messages of bounded size, for programs alone, and settings as they are.

    The harness takes messages of any size, connections of web pages, and settings from whoever asks /config for them.
    """

    def process(connection: Any, request: Any) -> Any:
        asked = urlparse(request.path)  # as the harness takes it apart
        if asked.path == "/config" and asked.query:
            return connection.respond(HTTPStatus.FORBIDDEN, "Settings are those of the command line.\n")
        return process_request(connection, request)

    bounds = {"max_size": MESSAGE_BYTES, "origins": [None]}
    return ws_serve(handler, *place, process_request=process, **options | bounds)


harness.ws_serve = _bounded  # pyright: ignore[reportAttributeAccessIssue]


def serve() -> None:
    """Serve the policy that the command line asks for, to this machine unless it gives an address.

    Bad input ends it with one line.
    """
    sys.argv = [sys.argv[0], "--host", LOOPBACK, *sys.argv[1:]]  # of several hosts the last counts
    try:
        run_server(PolicyServer)
    except LattokError as error:
        sys.exit(f"lattok: {error}")


def _sources(cameras: Mapping[str, str], wanted: Sequence[str]) -> dict[str, str]:
    """Return the benchmark's camera for each of the policy's, in its order."""
    found = {}
    for key in wanted:
        standing = [camera for camera, name in cameras.items() if name in (key, short_name(key))]
        if len(standing) != 1:
            expected = f"one that stands for the policy's camera {short_name(key)}"
            pairs = checks.listed(f"{camera}: {name}" for camera, name in cameras.items())
            checks.fail("cameras", expected, f"{len(standing)} of {{{pairs}}}")
        found[key] = standing[0]
    return found


def _policy_space(policy: LatentVLA, given: Any) -> ActionSpace:
    """Return what the policy's actions mean: as is said here, and not otherwise than the artefact says."""
    own = trained_space(policy.trained_on)
    space = own if given is None else ActionSpace.of(given, "policy_actions")
    if space is None:
        hint = 'Its dataset did not say. Give a named space, such as "libero", or a list of parts.'
        checks.fail("policy_actions", "what the policy's actions mean", "none", hint)
    if own is not None and own != space:
        hint = "Leave it out to take the artefact's own."
        checks.fail("policy_actions", f"{own.text}, as in the policy's training", space.text, hint)
    checks.size("policy_actions", "dimensions, as the policy's actions have", space.dim, policy.config.action_dim)
    return space


def _ends(space: ActionSpace, limits: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest number of every dimension, [n] each."""
    checks.known_keys("limits", limits, [part.kind for part in space.parts])
    low, high = np.full(space.dim, -np.inf, np.float32), np.full(space.dim, np.inf, np.float32)
    for part, span in space.spans():
        ends = limits.get(part.kind)
        if ends is not None and not _is_pair(ends):
            checks.fail(f"limits.{part.kind}", "the least number and a greater one", repr(ends))
        if isinstance(part, Gripper) and part.convention in GRIPPERS:
            own = sorted(GRIPPERS[part.convention])
            if ends is not None and [*ends] != own:
                checks.fail(f"limits.{part.kind}", f"{own}, as {part.text} has them", repr(ends), "Or leave them out.")
            ends = own
        if ends is not None:
            low[span], high[span] = ends
    return low, high


def _is_pair(ends: Any) -> bool:
    listed = isinstance(ends, list | tuple) and len(ends) == 2 and all(map(checks.is_number, ends))
    return listed and ends[0] < ends[1]


def _spec(space: ActionSpace) -> dict[str, DimSpec]:
    """The harness's words for an action space; what it has none for is called by ours, and it warns."""
    joints = [part for part in space.parts if isinstance(part, Joints)]
    if joints:  # the harness counts grippers of arms among the joints
        form = "joint_positions" if joints[0].mode == "absolute" else f"joint_{joints[0].mode}"
        return {"joints": DimSpec("joints", space.dim, form)}
    found = {}
    for part in space.parts:
        form = part.text
        if isinstance(part, Position):
            form = f"{part.mode}_xyz"
        elif isinstance(part, Rotation):
            form = part.form
        elif isinstance(part, Gripper):
            form = GRIPPER_FORMATS.get(part.convention, part.convention)
        found[part.kind] = DimSpec(part.kind, part.size, form)
    return found


def _numbers(name: str, value: Any) -> Tensor:
    """A tensor of its own: the array that came may be one that must not be written to."""
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0, dtype=object)
    if array.dtype.kind not in "biuf":
        checks.fail(name, "an array of numbers", f"{array.dtype} {list(array.shape)}")
    return torch.tensor(array)


def _joined(batches: Sequence[PolicyBatch]) -> PolicyBatch:
    """Observations of several sessions as one batch."""
    texts = [text for batch in batches for text in batch.texts]
    proprio = [batch.proprio for batch in batches if batch.proprio is not None]
    images, actions = torch.cat([batch.images for batch in batches]), torch.cat([batch.actions for batch in batches])
    valid = torch.cat([batch.valid for batch in batches])
    return PolicyBatch(images, texts, torch.cat(proprio) if proprio else None, actions, valid)
