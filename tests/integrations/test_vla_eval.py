"""The model server for vla-eval, over the protocol of the harness: its own connection, runner and orchestrator."""

import importlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lattok.action_vq import FAST, UniformBins
from lattok.data.actions.space import UNIFIED_STATE
from lattok.vla import LatentVLA
from tests.vla import fakes

pytest.importorskip("vla_eval", reason="needs vla-eval")
pytest.importorskip("anyio")

import anyio
import vla_eval
from vla_eval.cli.config_loader import load_config
from vla_eval.cli.main import _build_serve_cmd
from vla_eval.connection import Connection
from vla_eval.orchestrator import _accepted_init_params
from vla_eval.registry import resolve_import_string
from vla_eval.specs import check_specs

from lattok_vla_eval import PolicyServer
from lattok_vla_eval import server as serving
from tests.errors import refused
from tests.integrations.serving_worlds import STEPS, Table, drawn

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "integrations" / "vla_eval"
SERVERS = sorted((FOLDER / "model_servers").glob("*.yaml"))
BENCHMARKS = sorted((FOLDER / "benchmarks").glob("*.yaml"))
DIMS = 4
OURS = [{"part": "position", "scale": 0.05}, {"part": "gripper", "convention": "open_is_1"}]
THEIRS = [{"part": "position"}, {"part": "gripper", "convention": "closed_is_plus_1"}]
ARGS: dict[str, Any] = {
    "cameras": {"agentview": "front", "wrist": "observation.images.wrist"},
    "benchmark_actions": THEIRS,
    "policy_actions": OURS,
    "state": "states",
    "limits": {"position": [-0.15, 0.15]},
    "observation_params": {"send_state": True},
}


@pytest.fixture(scope="module")
def policy() -> LatentVLA:
    made = fakes.policy(action_dim=DIMS, horizon=4)
    generator = torch.Generator().manual_seed(0)
    made.action_normalizer.fit(1 + torch.randn((50, DIMS), generator=generator))
    return made.eval()


@pytest.fixture(autouse=True)
def own_steps(policy):
    Table.log.clear()
    yield
    policy.queues.n_action_steps = policy.config.horizon  # a test sets it


def expected(policy: LatentVLA, *observations: dict[str, Any]) -> np.ndarray:
    """Chunks of a policy in the benchmark's numbers, from the policy itself and by hand."""
    seen = {
        "observation.images.front": torch.from_numpy(np.stack([obs["images"]["agentview"] for obs in observations])),
        "observation.images.wrist": torch.from_numpy(np.stack([obs["images"]["wrist"] for obs in observations])),
        "observation.state": torch.from_numpy(np.stack([obs["states"] for obs in observations])),
        "task": [obs["task_description"] for obs in observations],
    }
    chunks = policy.predict_chunk(seen).numpy().astype(np.float64)
    position, opened = chunks[..., :3] * 0.05, chunks[..., 3:]
    return np.concatenate([position.clip(-0.15, 0.15), (1 - 2 * opened).clip(-1, 1)], -1)


def asked(server: PolicyServer, talk: Any, *, connections: int = 1) -> None:
    """Run `talk(*connections)` against the server."""

    async def run(url: str) -> None:
        opened = [Connection(url, timeout=60) for _ in range(connections)]
        for connection in opened:
            await connection.connect()
            await connection.start_episode({"task": {"name": "lift"}})
        await talk(*opened)
        for connection in opened:
            await connection.close()

    with vla_eval.serve_background(server) as handle:
        anyio.run(run, handle.url)
    for stream in (server._send_stream, server._receive_stream):  # the harness leaves them open, which warns somewhere
        if stream is not None:
            stream.close()


def test_the_harness_gets_the_actions_of_the_policy(policy, caplog):
    server = PolicyServer(policy, **ARGS, n_action_steps=3)
    config = {
        "benchmarks": [
            {"benchmark": "tests.integrations.serving_worlds:Table", "episodes_per_task": 2, "params": {"seed": 5}}
        ]
    }
    with caplog.at_level(logging.INFO, "vla_eval"):
        (result,) = vla_eval.evaluate(server, config, no_save=True, docker=False)
    assert (result["mean_success"], len(result["tasks"]), result.get("num_errors", 0)) == (1.0, 2, 0)
    assert "Spec validation passed" in caplog.text
    assert "Auto-configured from model server: send_state=True" in caplog.text
    log, episodes = Table.log, [i for i, (kind, _) in enumerate(Table.log) if kind == "episode"]
    assert len(episodes) == 4
    for start, end in zip(episodes, [*episodes[1:], len(log)], strict=True):
        observations = [value for kind, value in log[start:end] if kind == "observation"]
        actions = np.stack([value["actions"] for kind, value in log[start:end] if kind == "action"])
        planned = [expected(policy, obs)[0, :3] for obs in observations[::3]]  # every third step looks again
        assert actions.dtype == np.float32
        np.testing.assert_allclose(actions, np.concatenate(planned)[:STEPS], rtol=0, atol=1e-6)


def test_what_went_wrong_stands_in_the_results(policy):
    """Every episode fails by itself, with the line that says why."""
    server = PolicyServer(policy, **ARGS | {"observation_params": None})
    config = {"benchmarks": [{"benchmark": "tests.integrations.serving_worlds:Table"}]}
    (result,) = vla_eval.evaluate(server, config, no_save=True, docker=False)
    episodes = [episode for task in result["tasks"] for episode in task["episodes"]]
    assert [episode["failure_reason"] for episode in episodes] == ["model_act"] * 2
    text = "LattokError: `states`: expected the 5 numbers of proprio, got none. Ask the benchmark for it"
    assert all(text in episode["failure_detail"] for episode in episodes)


def test_several_sessions_share_a_batch(policy):
    server = PolicyServer(policy, **ARGS, max_batch_size=4, max_wait_time=0.2)
    sizes, predict = [], server.predict_batch
    server.predict_batch = lambda obs, ctx: sizes.append(len(obs)) or predict(obs, ctx)  # type: ignore[method-assign]
    answers: dict[int, Any] = {}

    async def talk(*connections):
        async def one(i, connection):
            obs = drawn(i)
            if i == 1:
                obs["images"]["wrist"] = obs["images"]["wrist"][:8]
            try:
                answers[i] = (await connection.act(obs))["actions"]
            except RuntimeError as error:
                answers[i] = str(error)

        async with anyio.create_task_group() as group:
            for i, connection in enumerate(connections):
                group.start_soon(one, i, connection)

    asked(server, talk, connections=3)
    assert "expected images of 16x16, as in training, got 8x16" in answers[1]  # and the others know nothing of it
    np.testing.assert_allclose(
        np.stack([answers[0], answers[2]]), expected(policy, drawn(0), drawn(2))[:, 0], atol=1e-5
    )
    assert sum(sizes) == 2


@pytest.mark.parametrize("kind", [UniformBins, FAST])
def test_a_policy_that_acts_by_tokens_is_served(kind):
    chunks = 1 + torch.randn(50, 4, DIMS, generator=torch.Generator().manual_seed(0))
    made, answers = fakes.policy(action_dim=DIMS, horizon=4, tokenizer=kind.fit(chunks)).eval(), []

    async def talk(connection):
        answers.extend([(await connection.act(drawn(0)))["actions"] for _ in range(4)])

    asked(PolicyServer(made, **ARGS), talk)
    np.testing.assert_allclose(np.stack(answers), expected(made, drawn(0))[0], atol=1e-5)


def without(*path: str) -> dict[str, Any]:
    obs = drawn(0)
    place = obs
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return obs


def with_image(image: Any) -> dict[str, Any]:
    obs = drawn(0)
    obs["images"]["agentview"] = image
    return obs


BAD = {
    "no images": (without("images"), "`images`: expected `agentview`, which stands for .* camera front, got none"),
    "no camera": (without("images", "wrist"), "`images`: expected `wrist`, .* got only agentview"),
    "size": (with_image(np.zeros((32, 24, 3), np.uint8)), "`observation.images.front`: expected images of 24x32, as"),
    "grey": (with_image(np.zeros((24, 32), np.uint8)), r"`images.agentview`: expected uint8 \[H, W, 3\], got"),
    "float": (with_image(np.zeros((24, 32, 3), np.float32)), r"`images.agentview`: expected .*, got torch.float32"),
    "text": (with_image("a picture"), "`images.agentview`: expected an array of numbers, got <U9"),
    "ragged": (with_image([[1, 2], [3]]), "`images.agentview`: expected an array of numbers, got object"),
    "no state": (without("states"), "`states`: expected the 5 numbers of proprio, got none. Ask the benchmark for it"),
    "short state": (drawn(0) | {"states": np.zeros(4)}, r"`observation.state`: expected 5 numbers \(a, b, c, d, e\)"),
    "nan state": (drawn(0) | {"states": np.array([0, 1, np.nan, 0, 0])}, "`observation.state`: expected finite"),
    "no task": (without("task_description"), "`task`: expected a list of instructions"),
}


@pytest.fixture(scope="module")
def answers(policy) -> dict[str, str]:
    """What the harness is told about every bad observation, over one connection, and that good ones are answered."""
    found = {}

    async def talk(connection):
        for name, (obs, _) in BAD.items():
            try:
                await connection.act(obs)
            except RuntimeError as error:
                found[name] = str(error)
        found["good"] = (await connection.act(drawn(3)))["actions"]

    asked(PolicyServer(policy, **ARGS), talk)
    return found


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_observation_is_one_line_for_the_harness(answers, name):
    assert "Server error: {'error': " in answers[name]
    assert "observation_failed: LattokError: " in answers[name]
    assert "\n" not in answers[name].replace("\\n", "\n")
    with pytest.raises(RuntimeError, match=BAD[name][1]):
        raise RuntimeError(answers[name])


def test_a_plan_ends_with_its_episode_and_its_task(policy):
    """A new episode, and CALVIN's next task in the same one, look again; in between nobody needs images."""
    got = []

    async def talk(connection):
        async def act(obs):
            got.append((await connection.act(obs))["actions"])

        await act(drawn(0))
        await act({"task_description": drawn(0)["task_description"]})  # RoboTwin with render_every
        await act(drawn(1) | {"episode_restart": True})
        await act(drawn(2) | {"task_description": " task number 1"})  # the prompt is the same
        await connection.end_episode({})
        await connection.start_episode({"task": {"name": "push"}})
        await act(drawn(3))

    asked(PolicyServer(policy, **ARGS), talk)
    chunks = expected(policy, drawn(0), drawn(1), drawn(3))
    np.testing.assert_allclose(got, [*chunks[0, :2], *chunks[1, :2], chunks[2, 0]], atol=1e-5)


def test_another_instruction_is_planned_for_in_its_session_alone(policy):
    got: dict[str, list[np.ndarray]] = {"one": [], "other": []}

    async def talk(one, other):
        for step in range(3):
            text = {"task_description": "open the drawer"} if step == 2 else {}
            got["one"].append((await one.act(drawn(step) | {"task_description": "lift"} | text))["actions"])
            got["other"].append((await other.act(drawn(7)))["actions"])

    asked(PolicyServer(policy, **ARGS), talk, connections=2)
    lift, drawer = drawn(0) | {"task_description": "lift"}, drawn(2) | {"task_description": "open the drawer"}
    chunks = expected(policy, lift, drawer, drawn(7))
    np.testing.assert_allclose(got["one"], [*chunks[0, :2], chunks[1, 0]], atol=1e-5)
    np.testing.assert_allclose(got["other"], chunks[2, :3], atol=1e-5)


def test_images_are_resized_only_on_request(policy):
    large = drawn(0)
    large["images"]["agentview"] = large["images"]["agentview"].repeat(2, 0).repeat(2, 1)
    refused("expected images of 24x32, as in training, got 48x64", lambda: PolicyServer(policy, **ARGS).see(large))
    assert PolicyServer(policy, **ARGS, resize=True).see(large).images.shape == (1, 2, 16, 16, 3)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cameras": {"agentview": "front"}}, "`cameras`: expected one .* camera wrist, got 0 of {agentview: front}"),
        ({"cameras": {"a": "front", "b": "front", "c": "wrist"}}, "front, got 2 of {a: front, b: front, c: wrist}"),
        ({"state": None}, "`state`: expected the key of the 5 numbers of proprio, got none. .* without proprio"),
        ({"policy_actions": None}, "`policy_actions`: expected what .* mean, got none. Its dataset did not"),
        ({"policy_actions": "libero"}, "`policy_actions`: expected 4 dimensions, .*, got 7"),
        ({"benchmark_actions": "libero"}, "`target`: expected parts that the source has .*, got rotation"),
        ({"benchmark_actions": "franka_joints"}, "`target`: .* inverse kinematics"),
        ({"limits": {"rotation": [-1, 1]}}, "`limits`: expected names among gripper, position, got rotation"),
        ({"limits": {"position": [1, -1]}}, r"`limits.position`: expected the least .*, got \[1, -1\]"),
        ({"limits": {"position": 1}}, "`limits.position`: expected the least number and a greater one, got 1"),
        ({"limits": {"gripper": [0, 1]}}, r"`limits.gripper`: expected \[-1.0, 1.0\], as .* has them, got"),
        ({"n_action_steps": 5}, "`n_action_steps`: expected at most the 4 actions of a chunk, got 5"),
    ],
)
def test_what_contradicts_is_refused_before_the_first_episode(policy, changes, text):
    refused(text, PolicyServer, policy, **ARGS | changes)


@pytest.mark.parametrize("arm", ["left", "right"])
def test_a_policy_of_the_unified_space_acts_with_the_arm_that_it_has(arm):
    first = 7 if arm == "right" else 0
    absent = tuple(dim for dim in range(44) if not first <= dim < first + 7)
    made = fakes.policy(action_dim=44, horizon=4, proprio_dim=0, proprio_names=(), absent=(absent,))
    args = ARGS | {"policy_actions": "unified", "state": None, "observation_params": None}
    server = PolicyServer(made, **args)
    actions = server.predict(drawn(0), SimpleNamespace())["actions"]  # type: ignore[arg-type]
    obs = drawn(0)
    seen = {
        "observation.images.front": torch.from_numpy(obs["images"]["agentview"])[None],
        "observation.images.wrist": torch.from_numpy(obs["images"]["wrist"])[None],
        "task": [obs["task_description"]],
    }
    chunk = made.predict_chunk(seen)[0].numpy()[:, first : first + 7]
    wanted = np.concatenate([chunk[:, :3].clip(-0.15, 0.15), (1 - 2 * chunk[:, 6:]).clip(-1, 1)], -1)
    np.testing.assert_allclose(actions, wanted, atol=1e-6)


STATE = [
    {"part": "position", "mode": "absolute", "axes": ["y", "-x"]},
    {"part": "rotation", "form": "quaternion_wxyz", "mode": "absolute"},
    {"part": "joints", "n": 3},
]


def unified_policy(*moved: int) -> LatentVLA:
    """A policy of the unified spaces with a left arm, in whose demonstrations these numbers of the state were not 0."""
    absent = tuple(dim for dim in range(44) if dim >= 7)
    made = fakes.policy(action_dim=44, horizon=4, proprio_dim=46, proprio_names=UNIFIED_STATE.names, absent=(absent,))
    states = torch.zeros(20, 46)
    states[:, list(moved)] = torch.randn(20, len(moved), generator=torch.Generator().manual_seed(0))
    assert made.proprio_normalizer is not None
    made.proprio_normalizer.fit(states)
    return made.eval()


UNIFIED_ARGS: dict[str, Any] = ARGS | {"policy_actions": "unified", "benchmark_state": STATE}


def test_a_policy_of_the_unified_state_reads_the_state_of_the_robot(monkeypatch):
    """Left x, y and quaternion of y, -x, a quaternion that begins with w, and joints, which have no place there."""
    made = unified_policy(0, 1, *range(3, 7))
    server = PolicyServer(made, **UNIFIED_ARGS)
    assert server.get_observation_spec()["state"].dims == 9
    obs = drawn(0) | {"states": np.array([0.5, -0.25, 0.5, 0.5, -0.5, 0.5, 7.0, 8.0, 9.0])}
    wanted = np.zeros(46, np.float32)
    wanted[:7] = [0.25, 0.5, 0.0, 0.5, -0.5, 0.5, 0.5]
    proprio = server.see(obs).proprio
    assert proprio is not None
    np.testing.assert_allclose(proprio[0].numpy(), wanted)
    seen = {
        "observation.images.front": torch.from_numpy(obs["images"]["agentview"])[None],
        "observation.images.wrist": torch.from_numpy(obs["images"]["wrist"])[None],
        "observation.state": torch.from_numpy(wanted)[None],
        "task": [obs["task_description"]],
    }
    chunk = made.predict_chunk(seen)[0].numpy()
    actions = np.concatenate([chunk[:, :3].clip(-0.15, 0.15), (1 - 2 * chunk[:, 6:7]).clip(-1, 1)], -1)
    np.testing.assert_allclose(server.predict(obs, SimpleNamespace())["actions"], actions, atol=1e-6)  # type: ignore[arg-type]
    only = PolicyServer(unified_policy(0), **UNIFIED_ARGS).see(obs).proprio
    assert only is not None
    assert only.nonzero().tolist() == [[0, 0]]  # the rest was 0 in all demonstrations, and stays 0


@pytest.mark.parametrize(
    ("moved", "changes", "text"),
    [
        ((0, 1), {"benchmark_state": None}, "`benchmark_state`: expected what the state's numbers mean, .*, got none"),
        ((0, 2, 7), {}, "`benchmark_state`: expected left_z, left_gripper too, as in the policy's training, got"),
        ((8,), {}, "`benchmark_state`: expected right_x too"),
    ],
)
def test_a_state_that_lacks_what_the_policy_knows_is_refused(moved, changes, text):
    refused(text, lambda: PolicyServer(unified_policy(*moved), **UNIFIED_ARGS | changes))


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (np.zeros(5), "`state`: expected 9 numbers \\(y, -x, .*, got 5"),
        (np.full(9, np.nan), "`state`: expected finite numbers, got \\[nan"),
    ],
)
def test_a_state_of_another_robot_fails_its_episode(state, text):
    refused(text, lambda: PolicyServer(unified_policy(0, 1), **UNIFIED_ARGS).see(drawn(0) | {"states": state}))


def test_the_state_of_other_policies_is_given_as_it_is(policy):
    refused("`benchmark_state`: expected none unless the", PolicyServer, policy, **ARGS | {"benchmark_state": STATE})


# what the harness warns about although it is right: see model_servers/simpler_widowx.yaml
WARNED = {"simpler_widowx": {"rotation", "gripper"}, "simpler_google": {"rotation", "gripper"}}
CAMERA_SIZES = {"image": (256, 256), "image2": (256, 256), "rgb_static": (200, 200), "rgb_gripper": (84, 84)}
STATE_SIZES = {"libero": 8, "calvin": 8, "robotwin": 14}


def trained_on_its_data(name: str, args: dict[str, Any]) -> LatentVLA:
    """A policy that has what the configuration says of its dataset."""
    space = serving.ActionSpace.of(args["policy_actions"])
    cameras = tuple(f"observation.images.{camera}" for camera in args["cameras"].values())
    sizes = tuple(CAMERA_SIZES.get(camera, (240, 320)) for camera in args["cameras"].values())
    states = STATE_SIZES.get(name, 0)
    return fakes.policy(cameras=cameras, camera_sizes=sizes, action_dim=space.dim, proprio_dim=states, proprio_names=())


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_benchmarks_and_servers_fit(path, monkeypatch):
    """The harness's own classes take what the files say, and both sides mean the same by it."""
    monkeypatch.setenv("TASK", "move_can_pot")
    name = path.stem.removesuffix("_plus")
    args = load_config(str(FOLDER / "model_servers" / f"{name}.yaml"))["args"]
    server = PolicyServer(trained_on_its_data(name, args), **args)
    config = load_config(str(path))
    assert config["docker"]["image"].startswith("ghcr.io/allenai/vla-evaluation-harness/")
    for entry in config["benchmarks"]:
        kind = resolve_import_string(entry["benchmark"])
        params = entry["params"] | server.get_observation_params()
        assert params.keys() <= _accepted_init_params(kind)
        assert not entry["params"].keys() & server.get_observation_params().keys()
        benchmark = kind(**params)
        found = check_specs(
            server.get_action_spec(),
            benchmark.get_action_spec(),
            server.get_observation_spec(),
            benchmark.get_observation_spec(),
        )
        assert {line.split("[")[1].split("]")[0] for line in found} == WARNED.get(name, set()), found
        chunk = server.predict(sent(name.split("_")[0], benchmark, monkeypatch), SimpleNamespace())["actions"]  # type: ignore[arg-type]
        assert chunk.shape == (4, sum(spec.dims for spec in benchmark.get_action_spec().values()))


def sent(name: str, benchmark: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the harness's own class of a benchmark sends, of what its simulator would say."""
    image = np.zeros((480, 640, 3), np.uint8)
    if name == "libero":
        still = SimpleNamespace(ee_pos=np.zeros(3), ee_ori_mat=np.eye(3))
        benchmark._env = SimpleNamespace(robots=[SimpleNamespace(controller=still)])
        raw = {f"robot0_{part}": np.eye(n)[-1] for part, n in (("eef_pos", 3), ("eef_quat", 4), ("gripper_qpos", 2))}
        raw |= dict.fromkeys(("agentview_image", "robot0_eye_in_hand_image"), image[:256, :256])
    elif name == "calvin":
        benchmark._eval_sequence = ["open_drawer"]
        frames = dict.fromkeys(("rgb_static", "rgb_gripper"), torch.zeros(1, 1, 3, 200, 200))
        raw = {"rgb_obs": frames, "robot_obs_raw": torch.zeros(15)}
    elif name == "robotwin":
        frames = {f"{which}_camera": {"rgb": image[:240, :320]} for which in ("head", "left", "right")}
        raw = {"observation": frames, "joint_action": {"vector": [0.0] * 14}, "language": "move the can"}
    else:
        module = SimpleNamespace(get_image_from_maniskill2_obs_dict=lambda env, obs: image)
        monkeypatch.setitem(sys.modules, "simpler_env.utils.env.observation_utils", module)
        raw, benchmark._task_description = {}, "stack the cubes"
    return benchmark.make_obs(raw, {"name": "lift"})


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_the_harness_can_start_every_server(path, monkeypatch):
    """`vla-eval serve` turns a file into flags of its script, which the harness's parser reads into arguments."""
    config = load_config(str(path))
    script = ROOT / config["script"]
    assert "# /// script" in script.read_text()
    words = _build_serve_cmd("uv", script, config, overrides=["model=my-policy", "max_batch_size=8"])
    made = trained_on_its_data(path.stem.removesuffix("_lerobot"), config["args"])
    asked_for, served = [], []
    monkeypatch.setattr(serving, "open_policy", lambda name: asked_for.append(name) or made)
    monkeypatch.setattr("vla_eval.model_servers.serve.serve", lambda server, **where: served.append(server))
    monkeypatch.setattr(sys, "argv", ["serve.py", *words[3:]])
    serving.serve()
    (server,) = served
    assert (asked_for, server.max_batch_size) == (["my-policy"], 8)
    assert list(server.cameras.values()) == list(config["args"]["cameras"])
    assert server.space == serving.ActionSpace.of(config["args"]["benchmark_actions"])
    assert server.get_observation_params() == config["args"].get("observation_params", {})


def test_a_checkpoint_of_the_lerobot_plugin_is_its_policy(policy, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"type": "lattok"}))
    monkeypatch.setitem(sys.modules, "lerobot_policy_lattok", None)
    refused(r"the plugin installed, .* pip install", serving.open_policy, str(tmp_path))
    plugin = SimpleNamespace(LattokPolicy=SimpleNamespace(from_pretrained=lambda folder: SimpleNamespace(model=policy)))
    monkeypatch.setitem(sys.modules, "lerobot_policy_lattok", SimpleNamespace(modeling_lattok=plugin))
    monkeypatch.setitem(sys.modules, "lerobot_policy_lattok.modeling_lattok", plugin)
    policy.queues.n_action_steps = 2  # as its checkpoint says
    assert PolicyServer(str(tmp_path), **ARGS, device="cpu").chunk_size == 2


class Idle:
    def __init__(self, model: str):
        self.model = model


def test_it_listens_on_this_machine_unless_an_address_is_given(monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr("vla_eval.model_servers.serve.serve", lambda server, host, port: asked.append(f"{host}:{port}"))
    monkeypatch.setattr(serving, "PolicyServer", Idle)
    words = ["serve.py", "--args.model=my-policy"]
    for more in ([], ["--port=9"], ["--address", "0.0.0.0:8001"], ["--host=0.0.0.0"], ["--address", ":7"]):
        monkeypatch.setattr(sys, "argv", [*words, *more])
        serving.serve()
    assert asked == ["127.0.0.1:8000", "127.0.0.1:9", "0.0.0.0:8001", "0.0.0.0:8000", "127.0.0.1:7"]


def test_strangers_set_nothing_and_send_no_more_than_images_take(policy, monkeypatch):
    from websockets.exceptions import ConnectionClosedError, InvalidStatus
    from websockets.sync.client import connect

    monkeypatch.setattr(serving, "MESSAGE_BYTES", 1 << 20)
    server = PolicyServer(policy, **ARGS)
    with vla_eval.serve_background(server) as handle:
        page = handle.url.replace("ws:", "http:")
        with urllib.request.urlopen(f"{page}/config") as answer:
            assert json.load(answer)["config"] == {"max_batch_size": 1, "max_wait_time": 0.01}
        for asked in ("?max_batch_size=-5", "?max_wait_time=nan", "?max_batch_size=8", ";x?max_batch_size=8", "?x=1"):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(f"{page}/config{asked}")
        assert (server.max_batch_size, server.max_wait_time) == (1, 0.01)
        with pytest.raises(InvalidStatus, match="403"):
            connect(handle.url, origin="https://example.org")  # type: ignore[arg-type]
        with connect(handle.url) as large:
            large.send(bytes(2 << 20))
            with pytest.raises(ConnectionClosedError, match="1009"):
                large.recv(timeout=60)
        with urllib.request.urlopen(f"{page}/health") as answer:
            assert json.load(answer) == {"status": "ok"}


@pytest.mark.slow
def test_the_script_serves_an_artefact(policy, tmp_path):
    """The command of `vla-eval serve`, with this Python in place of uv."""
    policy.save_pretrained(tmp_path / "policy")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = {"script": str(FOLDER / "serve.py"), "args": ARGS | {"model": str(tmp_path / "policy"), "port": port}}
    words = [sys.executable, *_build_serve_cmd("uv", Path(config["script"]), config)[2:]]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}  # as if it were installed
    process = subprocess.Popen(words, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process)
        entry = {"benchmark": "tests.integrations.serving_worlds:Table", "params": {"seed": 1}}
        results = vla_eval.run({"benchmarks": [entry]}, server_url=f"ws://127.0.0.1:{port}", no_save=True, docker=False)
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert results[0]["mean_success"] == 1.0
    first = next(value for kind, value in Table.log if kind == "action")["actions"]
    np.testing.assert_allclose(first, expected(policy, drawn(1) | {"task_description": "lift"})[0, 0], atol=1e-6)


def test_without_the_harness_it_says_what_to_install(monkeypatch):
    for name in ("lattok_vla_eval.server", "vla_eval"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "vla_eval", None)
    refused(r"needs vla_eval, .* pip install", importlib.import_module, "lattok_vla_eval.server")


def wait_for(url: str, process: subprocess.Popen[str]) -> None:
    for _ in range(600):
        assert process.poll() is None, process.communicate()[0]
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError("no server")
