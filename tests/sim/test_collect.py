"""Collections: the same bytes with any number of workers and after a kill, episodes that can be made again."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

if find_spec("metaworld") is None:
    pytest.skip("the sim extra is not installed", allow_module_level=True)

import lattok
from lattok.cli import main
from lattok.data import open_dataset
from lattok.sim import CollectionResult, Variation, collect, make
from lattok.sim.collect import TAIL, _Collection, demonstrate, record
from lattok.sim.worlds import SimJob, Workers
from lattok.utils.output import MARK
from lattok.version import install_extra
from tests.errors import refused
from tests.sim.conftest import marked

pytestmark = pytest.mark.ci

TASKS = ["metaworld-pairs/door-lock", "metaworld-pairs/drawer-close"]
OPTIONS = {"episodes": 3, "noise": 0.5, "seed": 4, "size": 32, "codec": "h264"}
COMMAND = ["collect", *TASKS, "--noise", "0.5", "--seed", "4", "--size", "32", "--codec", "h264"]
COMMAND += ["--variation", "light", "distractors=2", "--episodes", "3"]
VARIATION = Variation(light=True, distractors=2)
STATE, OBJECTS = "observation.state", "observation.environment_state"


@pytest.fixture(scope="module")
def collected(images: None, tmp_path_factory: pytest.TempPathFactory) -> CollectionResult:
    return collect(TASKS, tmp_path_factory.mktemp("sim") / "d", variation=VARIATION, workers=2, **OPTIONS)


def digests(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_episodes_are_made_again_from_what_is_recorded(collected: CollectionResult) -> None:
    dataset = open_dataset(collected.path)
    about = json.loads((collected.path / "meta/simulation.json").read_text())
    asked = about["request"]
    variation = Variation(**asked["variation"])
    envs = {name: make(name, size=asked["size"], repeat=asked["repeat"], variation=variation) for name in TASKS}
    try:
        for number, episode in enumerate(about["episodes"]):
            columns = dataset.columns(number, ["action", "expert_action", STATE, OBJECTS, "next.success"])
            env = envs[episode["task"]]
            env.start(episode["seed"])
            seen = env.observe()["observation.images.corner2"].astype(float)
            assert np.abs(seen - dataset.frames(number)[0, 0]).mean() < 12  # but for the video's losses
            for t, action in enumerate(columns["action"]):
                np.testing.assert_array_equal(columns[STATE][t], env.state())
                np.testing.assert_array_equal(columns[OBJECTS][t], env.objects())
                np.testing.assert_array_equal(columns["expert_action"][t], env.expert())
                assert columns["next.success"][t] == env.act(action).success
    finally:
        for env in envs.values():
            env.close()


def test_only_successes_are_kept_and_every_attempt_counts(collected: CollectionResult) -> None:
    dataset = open_dataset(collected.path)
    about = json.loads((collected.path / "meta/simulation.json").read_text())
    assert dataset.tasks == ("lock the door", "close the drawer")
    assert (dataset.fps, dataset.robot) == (20, "sawyer")
    for number, (name, (won, tried)) in enumerate(collected.attempts.items()):
        task = about["tasks"][name]
        seeds = [episode["seed"] for episode in about["episodes"] if episode["task"] == name]
        assert task["episodes"] == f"{3 * number}:{3 * number + 3}"
        assert (won, tried) == (3, task["attempts"])
        assert task["success_rate"] == won / tried
        assert seeds == sorted(seeds)
        assert seeds[-1] == 4 + tried - 1  # the last attempt was the one that was missing
    assert collected.attempts[TASKS[0]][1] > 3  # this much noise makes the expert fail
    for episode in dataset.episodes:
        columns = dataset.columns(episode.index, ["next.success", "next.reward", "next.done", "action"])
        first = int(np.flatnonzero(columns["next.success"])[0])
        assert episode.length == first + 1 + TAIL
        np.testing.assert_array_equal(columns["next.reward"], columns["next.success"])
        assert np.flatnonzero(columns["next.done"]).tolist() == [episode.length - 1]
        assert np.abs(columns["action"]).max() <= 1


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked for in /proc")
def test_a_killed_run_continues_to_the_same_bytes(
    collected: CollectionResult, tmp_path: Path, capsys, monkeypatch
) -> None:
    out, folder, mark = tmp_path / "d", tmp_path / ".d.collecting", f"LATTOK_MARK={os.getpid()}-collect"
    command = [*COMMAND, "--out", str(out), "--workers", "1"]
    process = _started(command, mark)
    while not (kept := list(folder.rglob("*.npz"))):
        assert process.poll() is None
        time.sleep(0.02)
    with process:
        process.kill()
    assert not out.exists()
    deadline = time.monotonic() + 60  # a busy machine lets them notice late
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not marked(mark)
    done: list[SimJob] = []
    submit = Workers.submit
    monkeypatch.setattr(Workers, "submit", lambda self, job: (done.append(job), submit(self, job))[1])
    assert main(command) == 0
    recorded = {f"{job.task}/{job.seed}" for job in done if job.function is record}
    assert recorded
    assert not recorded & {f"metaworld-pairs/{path.parent.name}/{path.stem}" for path in kept}
    assert digests(out) == digests(collected.path)
    assert os.listdir(tmp_path) == ["d"]
    won, tried = collected.attempts[TASKS[0]]
    assert f"metaworld-pairs/door-lock     expert succeeded in {won} of {tried}" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    mark = f"LATTOK_MARK={os.getpid()}-interrupt"
    process = _started([*COMMAND, "--out", str(tmp_path / "d"), "--workers", "2"], mark)
    while not any(tmp_path.rglob("*.npz")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == (
        f"lattok: collection interrupted; finished episodes wait in {tmp_path / '.d.collecting'}. "
        "Run the same command to continue."
    )
    assert not marked(mark)
    assert os.listdir(tmp_path) == [".d.collecting"]


def _started(command: list[str], mark: str) -> subprocess.Popen[str]:
    environment = os.environ | dict([mark.split("=")])
    words = [sys.executable, "-m", "lattok", *command]
    return subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_run_killed_after_all_was_done_only_cleans_up(collected: CollectionResult) -> None:
    folder = collected.path.with_name(".d.collecting")
    folder.mkdir()
    (folder / "lock").write_text(MARK)
    before = digests(collected.path)
    assert collect(TASKS, collected.path, variation=VARIATION, workers=1, **OPTIONS) == collected
    assert not folder.exists()
    refused("`out`: expected a folder that", collect, TASKS, collected.path, variation=VARIATION, workers=1, **OPTIONS)
    assert digests(collected.path) == before
    assert not folder.exists()


class Rehearsal:
    """A pool whose attempts succeed with a given chance, drawn from task and seed, and end in a random order."""

    def __init__(self, chance: float, order: int):
        self.chance, self.rng, self.jobs = chance, np.random.default_rng(order), []

    def submit(self, job: SimJob) -> None:
        self.jobs.append(job)

    def wins(self, task: str, seed: int) -> bool:
        return bool(np.random.default_rng([len(task), seed]).random() < self.chance)

    def results(self) -> Iterator[tuple[SimJob, bool]]:
        while self.jobs:
            job = self.jobs.pop(self.rng.integers(len(self.jobs)))
            yield job, self.wins(job.task, job.seed)


class Here:
    """A pool that does its jobs in this process, and remembers them."""

    def __init__(self, env: Any):
        self.env, self.waiting, self.done = env, list[SimJob](), list[int]()

    def submit(self, job: SimJob) -> None:
        self.waiting.append(job)

    def results(self) -> Iterator[tuple[SimJob, bool]]:
        while self.waiting:
            job = self.waiting.pop(0)
            self.done.append(job.seed)
            yield job, job.function(self.env, job.seed, *job.arguments)


def test_episodes_whose_files_are_broken_are_recorded_again(images: None, tmp_path: Path) -> None:
    """They used to end in a traceback, or in an error that stayed until a hidden folder was removed."""
    name = TASKS[1]
    request = {"tasks": [name], "episodes": 6, "seed": 0, "noise": 0.0, "codec": "h264"}
    run, pool = _Collection(tmp_path / "d", request, {}), Here(make(name, size=32))
    try:
        seeds, _ = run.demonstrate(cast(Any, pool), None)
        before = digests(run.work)
        empty, cut, lost, other, short, whole = (run.episodes / name / f"{seed}.npz" for seed in seeds[name])
        empty.write_bytes(b"")
        os.truncate(cut, cut.stat().st_size // 2)
        next(lost.parent.glob(f"{lost.stem}.*.mp4")).unlink()
        other.write_text("a text")
        video = next(short.parent.glob(f"{short.stem}.*.mp4"))
        os.truncate(video, video.stat().st_size // 2)
        pool.done.clear()
        assert run.demonstrate(cast(Any, pool), None)[0] == seeds
    finally:
        pool.env.close()
    assert sorted(pool.done) == sorted(int(path.stem) for path in (empty, cut, lost, other, short))
    assert digests(run.work) == before
    assert whole.exists()


def test_files_that_a_system_leaves_in_the_folder_do_not_matter(collected: CollectionResult) -> None:
    """Such a file used to fail every later call, when the dataset was there already."""
    folder = collected.path.with_name(".d.collecting")
    (folder / "settings").mkdir(parents=True)
    (folder / "lock").write_text(MARK)
    (folder / ".DS_Store").write_text("Finder")
    for _ in range(2):
        assert collect(TASKS, collected.path, variation=VARIATION, workers=1, **OPTIONS) == collected
        assert sorted(os.listdir(folder)) == [".DS_Store", "lock"]
    (folder / ".DS_Store").unlink()
    assert collect(TASKS, collected.path, variation=VARIATION, workers=1, **OPTIONS) == collected
    assert not folder.exists()


@pytest.mark.parametrize("order", range(5))
def test_the_first_successful_seeds_are_taken_in_whatever_order_attempts_end(tmp_path: Path, order: int) -> None:
    names = ["one", "another"]
    request = {"tasks": names, "episodes": 12, "seed": 100, "noise": 0.0, "codec": "h264"}
    pool: Any = Rehearsal(0.4, order)
    progress: list[tuple[int, int]] = []
    seeds, tried = _Collection(tmp_path / "d", request, {}).demonstrate(pool, lambda *done: progress.append(done))
    for name in names:
        expected = [seed for seed in range(100, 300) if pool.wins(name, seed)][:12]
        assert seeds[name] == expected
        assert tried[name] == expected[-1] - 99
    assert progress[-1] == (24, 24)
    assert len(progress) == sum(tried.values())  # no attempt that was not needed


def test_a_task_that_experts_cannot_do_is_given_up(tmp_path: Path) -> None:
    request = {"tasks": ["one"], "episodes": 3, "seed": 0, "noise": 0.0, "codec": "h264"}
    pool: Any = Rehearsal(0.0, 0)
    text = (
        "`tasks`: expected those at which experts succeed, got 0 of 20 attempts at one. Lower `noise` or leave it out."
    )
    refused(text, lambda: _Collection(tmp_path / "d", request, {}).demonstrate(pool, None))


class Still:
    """A world in which nothing happens and the expert does nothing."""

    name, action_names, max_steps = "test/still", ("x", "y", "gripper"), 4000
    action_space = SimpleNamespace(low=np.full(3, -10.0), high=np.full(3, 10.0))
    outcome = SimpleNamespace(decided=False, success=False)

    def start(self, seed: int) -> None:
        pass

    def expert(self) -> np.ndarray:
        return np.zeros(3, np.float32)

    def act(self, action: np.ndarray) -> SimpleNamespace:
        return self.outcome

    state = objects = expert


def test_noise_is_smooth_of_unit_variance_and_of_random_strength() -> None:
    env: Any = Still()
    played = [demonstrate(env, seed, 0.5) for seed in range(12)]
    strengths = np.array([strength for strength, _ in played])
    assert strengths.min() >= 0.15
    assert strengths.max() <= 0.5
    assert strengths.std() > 0.05
    noise = np.stack([columns["action"] / strength for strength, columns in played])  # 12 4000 3
    np.testing.assert_allclose(noise.std((0, 1)), [1, 1, 0.3], rtol=0.06)
    np.testing.assert_allclose((noise[:, 1:] * noise[:, :-1]).mean((0, 1)) / noise.var((0, 1)), 0.8, atol=0.03)
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.06
    _, quiet = demonstrate(env, 0, 0.0)
    np.testing.assert_array_equal(quiet["action"], quiet["expert_action"])


@pytest.mark.parametrize(
    ("tasks", "options", "text"),
    [
        (TASKS, {"size": 33}, "`size`: expected an even number, as videos need, got 33."),
        (TASKS, {"noise": -0.1}, "`noise`: expected a number of at least 0, got -0.1."),
        (TASKS, {"episodes": 0}, "`episodes`: expected a whole number of at least 1, got 0."),
        (TASKS, {"workers": 0}, "`workers`: expected a whole number of at least 1, got 0."),
        (TASKS, {"seed": 10**25}, r"`seed`: expected at most 9,223,372,036,854,775,\d+, got 1000"),
        (TASKS, {"seed": 2**63 - 1 - 19 * 21, "episodes": 20}, "`seed`: expected at most "),
        (TASKS, {"codec": "gif"}, "`codec`: expected one of libsvtav1, h264, got 'gif'."),
        ([], {}, "`tasks`: expected at least one task of metaworld, .*, such as metaworld/reach, got none."),
        (["metaworld-pair"], {}, "`tasks`: expected one of .* Did you mean metaworld-pairs?"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path: Path, tasks: list[str], options: dict[str, Any], text: str) -> None:
    refused(text, collect, tasks, tmp_path / "d", **options)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_worlds_that_do_not_fit_into_one_dataset_are_refused(tmp_path: Path) -> None:
    text = r"metaworld-pairs/door-lock, got metaworld/reach \(fps 80.0, not 20.0\). Make two."
    refused(text, collect, [TASKS[0], "metaworld/reach"], tmp_path / "d", workers=1)
    assert not any(tmp_path.iterdir())


def test_without_the_extra_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for name in [name for name in sys.modules if name.split(".")[:2] == ["lattok", "sim"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(lattok, "sim", raising=False)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    assert main(["collect", "metaworld-pairs", "--out", "d"]) == 2
    text = f"lattok: simulations need mujoco, which is not installed. Run: {install_extra('sim')}\n"
    assert capsys.readouterr().err == text
