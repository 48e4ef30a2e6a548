"""Demonstrations of scripted experts as a LeRobot v3 dataset: `collect("metaworld-pairs", "demonstrations")`.

An episode is what its task, its seed and the settings make of it, whoever records it and when: with any number of
workers, and after any number of interruptions, the same dataset comes out. Until then finished episodes lie next to it:

.<out>.collecting/lock                        held by the process at work
.<out>.collecting/<settings>/<task>/SEED.npz  numbers of a successful episode, written after its videos SEED.*.mp4
"""

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lattok.data.formats.lerobot_writer import LeRobotWriter
from lattok.data.image_writer import Clip, encode_clip
from lattok.data.schema import Feature, Progress
from lattok.data.video import CODECS, probe
from lattok.sim.rendering import OFF, Variation
from lattok.sim.worlds import IMAGES, OBJECTS, STATE, SimEnv, SimJob, TaskFacts, Workers, find_tasks
from lattok.utils import checks
from lattok.utils.checks import LattokError, first_line
from lattok.utils.files import json_hash, make_room, read_json, whole_file
from lattok.utils.output import Output
from lattok.utils.signals import restate
from lattok.version import SIMULATORS, __version__, installed

RECORD = "simulation.json"  # in meta/
TAIL = 4  # decisions after the first success
NOISE_CORRELATION = 0.8  # of the noise from one decision to the next
GRIPPER_NOISE = 0.3  # of the noise for the gripper, which has two sensible states
MAX_FAILURES = 20  # failures after which one success in as many attempts is too few
EXPERT, NEXT = "expert_action", "next."


class CollectionResult(NamedTuple):
    """Path of the demonstrations, and how often the expert succeeded."""

    path: Path
    frames: int
    attempts: dict[str, tuple[int, int]]  # by task: successful ones, all


def collect(
    tasks: str | Sequence[str],
    out: str | os.PathLike[str],
    *,
    episodes: int = 20,
    noise: float = 0.3,
    seed: int = 0,
    size: int = 128,
    repeat: int | None = None,
    variation: Variation = OFF,
    codec: str = "libsvtav1",
    workers: int | None = None,
    progress: Progress | None = None,
) -> CollectionResult:
    """Record `episodes` successful demonstrations of each task (see `find_tasks`) into the new dataset `out`.

    Actions are those of the expert with smooth noise, of a strength that is uniform in [.3, 1] of `noise` from one
    episode to the next. Seeds count from `seed`; those whose episode fails are skipped. `size`, `repeat` and
    `variation` as in `make`. `workers` processes, by default one for each core, do not change the outcome. After an
    interruption the same call continues. `progress(episodes done, episodes in all)` is called after each.

    Columns: those of `SimEnv.features`, `action` (executed), `expert_action` (what the expert would have done without
    noise), `next.reward` (1 with success), `next.success`, `next.done`. meta/simulation.json says how to make each
    episode again, and how often experts succeeded.
    """
    checks.counts(1, 10**9, episodes=episodes, size=size, **({} if workers is None else {"workers": workers}))
    checks.counts(0, checks.WIDEST - episodes * (MAX_FAILURES + 1), seed=seed)  # with all that may fail
    checks.at_least_zero(noise=noise)
    checks.one_of("codec", codec, CODECS)
    if size % 2:
        checks.fail("size", "an even number, as videos need", size)
    names = find_tasks(tasks)
    settings = {"noise": noise, "size": size, "repeat": repeat, "variation": asdict(variation), "codec": codec}
    request = {"tasks": names, "episodes": episodes, "seed": seed, **settings}
    run = _Collection(Path(os.path.abspath(Path(out).expanduser())), request, settings)
    with run.alone() as finished:
        if not finished:
            run.check_absent()
            count = None if workers is None else min(workers, len(names) * episodes)
            with Workers(count, size=size, repeat=repeat, variation=variation) as pool:
                scenes = dict(zip(names, pool.map([SimJob(describe, name, seed) for name in names]), strict=True))
                _check_alike(scenes)
                seeds, tried = run.demonstrate(pool, progress)
            run.assemble(scenes, seeds, tried)
        return run.result()


class _Collection(Output):
    """One call of `collect`, with the folder in which its episodes wait."""

    def __init__(self, out: Path, request: dict[str, Any], settings: dict[str, Any]):
        super().__init__(out, kind="collecting")
        self.request, self.versions = request, {"lattok": __version__} | installed((*SIMULATORS, "numpy", "av"))
        self.episodes = self.work / json_hash([settings, self.versions])[:16]

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Hold the folder for this process; whether an earlier call was killed when all was done. Removed at the end.
        What ends the process early leaves finished episodes there, for the next call."""
        began, done = self.work.exists(), False
        with self:
            try:
                yield began and self._published()
                done = True
            except KeyboardInterrupt as stop:
                wait = f"finished episodes wait in {self.work}. " if any(self.work.rglob("*.npz")) else ""
                raise restate(stop, f"collection interrupted; {wait}Run the same command to continue.") from None
            except (OSError, pa.ArrowException) as error:
                why = f"cannot write {self.place}: {getattr(error, 'strerror', None) or first_line(error)}"
                way_out = f"{make_room(error)} and run the same command, or choose another `out`."
                raise LattokError(f"{why}. {way_out}") from None
            finally:
                if done or not any(self.work.rglob("*.npz")):
                    self.remove()

    def demonstrate(self, pool: Workers, progress: Progress | None) -> tuple[dict[str, list[int]], dict[str, int]]:
        """Let workers record what is missing. Returns seeds with success by task, and how many were tried. A seed is
        tried when it is needed even if all that are under way succeed: the same ones in any order."""
        names, wanted, first = (self.request[key] for key in ("tasks", "episodes", "seed"))
        won: dict[str, list[int]] = {name: [] for name in names}
        tried, under_way = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
        options = (self.request["noise"], self.request["codec"], self.episodes)

        def go_on(name: str) -> None:
            while len(won[name]) + under_way[name] < wanted:
                seed = first + tried[name]
                tried[name] += 1
                if self._waits(name, seed):
                    won[name].append(seed)
                else:
                    under_way[name] += 1
                    pool.submit(SimJob(record, name, seed, options))

        for name in names:
            go_on(name)
        for job, success in pool.results():
            under_way[job.task] -= 1
            won[job.task] += [job.seed] * success
            failed = tried[job.task] - under_way[job.task] - len(won[job.task])
            if failed >= MAX_FAILURES and len(won[job.task]) * MAX_FAILURES < failed:
                got = f"{len(won[job.task])} of {failed + len(won[job.task])} attempts at {job.task}"
                checks.fail("tasks", "those at which experts succeed", got, "Lower `noise` or leave it out.")
            go_on(job.task)
            if progress is not None:
                progress(sum(map(len, won.values())), wanted * len(names))
        return {name: sorted(seeds) for name, seeds in won.items()}, tried

    def assemble(self, scenes: Mapping[str, TaskFacts], seeds: Mapping[str, list[int]], tried: dict[str, int]) -> None:
        scene = next(iter(scenes.values()))
        listed: list[dict[str, Any]] = []
        about: dict[str, dict[str, Any]] = {}
        with LeRobotWriter.create(self.place, scene.fps, scene.features, scene.robot, self.request["codec"]) as writer:
            for name, own in scenes.items():
                about[name] = {"instruction": own.instruction, "repeat": own.repeat}
                about[name] |= {"episodes": f"{len(listed)}:{len(listed) + len(seeds[name])}"}  # as `--episodes` has it
                about[name] |= {"attempts": tried[name], "success_rate": len(seeds[name]) / tried[name]}
                for seed in seeds[name]:
                    noise, columns, clips = self._load(name, seed)
                    writer.add_episode(columns, clips, own.instruction)
                    listed.append({"task": name, "seed": seed, "noise": noise})
            known = {"request": self.request, "versions": self.versions}
            writer.write_meta(RECORD, {**known, "tasks": about, "episodes": listed})

    def result(self) -> CollectionResult:
        tasks = read_json(self.place / "meta" / RECORD)["tasks"]
        frames = read_json(self.place / "meta" / "info.json")["total_frames"]
        attempts = {name: (self.request["episodes"], task["attempts"]) for name, task in tasks.items()}
        return CollectionResult(self.place, frames, attempts)

    def _load(self, name: str, seed: int) -> tuple[float, dict[str, np.ndarray], dict[str, Clip]]:
        path = self.episodes / name / f"{seed}.npz"
        columns: dict[str, np.ndarray] = {}
        stats: dict[str, dict[str, np.ndarray]] = {}
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            for key in stored:
                camera, _, what = key.partition("/")
                (stats.setdefault(camera, {}) if what else columns)[what or key] = stored[key]
        noise, length = float(columns.pop("noise")), len(columns["action"])
        return noise, columns, {camera: Clip(_video(path, camera), length, found) for camera, found in stats.items()}

    def _waits(self, name: str, seed: int) -> bool:
        """Return whether an earlier call stored an episode. One that a disk or a power cut broke is recorded again."""
        try:
            return all(probe(clip.path).frames == len(clip) for clip in self._load(name, seed)[2].values())
        except Exception:  # numpy and zipfile raise many kinds for a damaged file, all with the same way out
            return False

    def _published(self) -> bool:
        """Whether what lies at `out` is what this call would put there."""
        path = self.place / "meta" / RECORD
        known = read_json(path) if path.exists() else {}
        return (known.get("request"), known.get("versions")) == (self.request, self.versions)


def describe(env: SimEnv, seed: int) -> TaskFacts:
    """Return what the dataset must know of a task, with the features of its columns."""
    env.start(seed)
    action = Feature("float32", (len(env.action_names),), env.action_names)
    features = {**env.features, "action": action, EXPERT: action, f"{NEXT}reward": Feature("float32", (1,), None)}
    features |= {f"{NEXT}{what}": Feature("bool", (1,), None) for what in ("success", "done")}
    return env.facts._replace(features=features)


def record(env: SimEnv, seed: int, noise: float, codec: str, folder: Path) -> bool:
    """Store an episode in `folder`, videos first; whether it was a success, which only the stored ones are."""
    strength, columns = demonstrate(env, seed, noise)
    if not columns[f"{NEXT}success"][-1]:
        return False
    path, kept = folder / env.name / f"{seed}.npz", dict(columns)
    for key, frames in film(env, seed, columns).items():
        with whole_file(_video(path, key)) as temporary:
            clip = encode_clip(temporary, frames, env.fps, codec)
        kept |= {f"{key}/{name}": values for name, values in clip.stats.items()}
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, noise=strength, **kept)  # type: ignore[arg-type]
    return True


def demonstrate(env: SimEnv, seed: int, noise: float) -> tuple[float, dict[str, np.ndarray]]:
    """Let the expert act in episode `seed`; it ends `TAIL` decisions after a success. Returns the standard deviation of
    its noise, and columns [T, ...] by feature, all but images."""
    rng = np.random.default_rng([seed, 2, zlib.crc32(env.name.encode())])  # the world has streams 0 and 1
    strength = noise * rng.uniform(0.3, 1.0)
    scale = strength * np.where(["gripper" in name for name in env.action_names], GRIPPER_NOISE, 1.0)
    drift = rng.standard_normal(len(scale))
    fresh = np.sqrt(1 - NOISE_CORRELATION**2)  # so that the noise is of unit variance all along
    env.start(seed)
    rows: list[dict[str, Any]] = []
    left = env.max_steps
    while left:
        expert, decided = env.expert(), env.outcome.decided
        action = np.clip(expert + scale * drift, env.action_space.low, env.action_space.high).astype(np.float32)
        drift = NOISE_CORRELATION * drift + fresh * rng.standard_normal(len(scale))
        row = {STATE: env.state(), OBJECTS: env.objects(), "action": action, EXPERT: expert}
        success = env.act(action).success
        left = TAIL * success if env.outcome.decided and not decided else left - 1
        rows.append(row | {f"{NEXT}reward": np.float32(success), f"{NEXT}success": success, f"{NEXT}done": not left})
    return strength, {key: np.array([row[key] for row in rows]) for key in rows[0]}


def film(env: SimEnv, seed: int, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Play an episode again and return its images by camera, uint8 [T, H, W, 3]. Physics costs a tenth of rendering: to
    look only at what will be kept is cheaper than to look once."""
    env.start(seed)
    seen: list[dict[str, Any]] = []
    for t, action in enumerate(columns["action"]):
        now = env.observe()
        if not all(np.array_equal(now[key], columns[key][t]) for key in (STATE, OBJECTS)):
            raise LattokError(f"{env.name} took another course at decision {t} when the same actions were repeated.")
        seen.append(now)
        env.act(action)
    return {key: np.stack([now[key] for now in seen]) for key in seen[0] if key.startswith(IMAGES)}


def _video(path: Path, camera: str) -> Path:
    return path.with_name(f"{path.stem}.{camera.removeprefix(IMAGES)}.mp4")


def _check_alike(scenes: Mapping[str, TaskFacts]) -> None:
    """A dataset has one rate, one robot and one set of features."""
    (name, scene), *others = scenes.items()
    for other, its in others:
        for what in ("fps", "robot", "features"):
            one, two = getattr(scene, what), getattr(its, what)
            if one != two:
                shown = "other features" if what == "features" else f"{what} {two}, not {one}"
                checks.fail("tasks", f"tasks that fit into one dataset with {name}", f"{other} ({shown})", "Make two.")
