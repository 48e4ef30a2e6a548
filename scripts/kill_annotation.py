"""Kills annotation at random moments and fills its disk; checks that nothing is lost and that no byte differs.

    python scripts/kill_annotation.py --kills 100 --out benchmarks/results/kill.json

Every trial forks a process that annotates, kills it with SIGKILL after a random part of the time that an undisturbed
run takes, starts it again, and compares the result byte by byte with the undisturbed one and the source with what it
was. Over Ray, whose own handlers would end it with a stack, every second one gets SIGTERM, and must end with 143 and
one line.

A disk is filled in a small tmpfs, for which one must be root; otherwise that part is left out and said so.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import lattok.annotation as annotation
from benchmarks.common import environment
from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.annotation import annotate, engines
from lattok.cli import main as main_of_lattok
from lattok.data import Feature, LeRobotWriter, open_dataset
from lattok.data.video import VideoWriter
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.utils.checks import LattokError

UNIT_FRAMES = 200  # many units in a small dataset
START_S = 120  # for Ray on a busy machine, where its servers sometimes die of their own time limits
TRIES = 5  # to start it
EPISODES, FRAMES = 36, 60
CAMERA = "observation.images.front"
FORK = multiprocessing.get_context("fork")  # everything is imported already


def models() -> dict:
    """A tokenizer of actions and a latent action model, with random weights."""
    torch.manual_seed(0)
    lam = ImageLAM(
        ImageLAMConfig.of(
            cameras=(CAMERA,),
            features="pixels",
            image_size=32,
            stride="0.5s",
            width=32,
            heads=2,
            encoder_depth=1,
            decoder_depth=1,
            latent_dim=8,
        )
    )
    return {"latent": lam.eval(), "tok": P2TActionVQ(ActionVQConfig(action_dim=3, horizon=8)).eval()}


def write_source(root: Path, known: int = EPISODES) -> Path:
    """Episodes of random walks with a drifting square, in several files; actions of the first `known` of them."""
    rng = np.random.default_rng(0)
    features = {
        "action": Feature("float32", (3,), None),
        CAMERA: Feature("video", (32, 32, 3), None),
    }
    options = {"video_codec": "h264", "encoder_threads": 1, "data_file_mb": 0.02, "video_file_mb": 0.02}
    with LeRobotWriter.create(root, 10, features, **options) as writer:
        for number in range(EPISODES):
            frames = np.zeros((FRAMES, 32, 32, 3), dtype=np.uint8)
            for t, place in enumerate(np.cumsum(rng.integers(-2, 3, (FRAMES, 2)), axis=0) % 24):
                frames[t, place[0] : place[0] + 8, place[1] : place[1] + 8] = rng.integers(100, 250)
            actions = np.cumsum(rng.standard_normal((FRAMES, 3)), axis=0)
            actions[:] = actions if number < known else np.nan
            writer.add_episode({"action": actions}, {CAMERA: frames}, "drift")
    return root


def write_videos(root: Path) -> Path:
    """The same squares as a folder of videos without actions."""
    made = open_dataset(write_source(root.with_name("as lerobot")))
    for episode in made.episodes:
        encoder = VideoWriter(root / f"{episode.index:02d}.mp4", 10, (32, 32), "h264", 1)
        encoder.add(made.frames(episode.index)[:, 0])
        encoder.close()
    shutil.rmtree(made.root)
    return root


def tree(root: Path) -> str:
    """Hash of the name, permissions and content of every file and folder."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        digest.update(f"{path.relative_to(root).as_posix()} {path.lstat().st_mode}".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"")
    return digest.hexdigest()


class Trial:
    """One way to annotate: `run()` annotates (again), `result` is what it leaves, `reset()` begins anew."""

    def __init__(self, folder: Path, mode: str):
        self.mode, self.folder = mode, folder / mode
        self.folder.mkdir()
        write = write_videos if mode == "beside" else write_source
        self.original = write(self.folder / "original")
        self.source = self.folder / "source"
        self.result = self.folder / "out"
        self.log = folder / f"{mode}.log"
        self.models = [str(folder / f"{mode} {prefix}") for prefix in models()] if mode == "ray" else []
        for path, model in zip(self.models, models().values(), strict=False):
            model.save_pretrained(path)
        self.reset()

    def reset(self) -> None:
        """A fresh source and no result."""
        for path in self.folder.iterdir():
            if path != self.original:
                shutil.rmtree(path)
        shutil.copytree(self.original, self.source)

    def run(self) -> None:
        """Annotate, as a new process would."""
        annotation.UNIT_FRAMES, engines.START_S = UNIT_FRAMES, START_S
        if self.mode == "beside":
            annotate(open_dataset(self.source), {"latent": models()["latent"]}, self.result, cameras=["video"])
        elif self.mode == "ray":
            os.environ["RAY_raylet_start_wait_time_s"] = str(START_S)  # noqa: SIM112 (Ray spells it so)
            words = ["--model", *self.models, "--prefix", *models(), "--engine", "ray", "--workers", "2"]
            sys.argv = ["lattok", "annotate", str(self.source), *words, "--out", str(self.result)]
            os.dup2(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            sys.exit(main_of_lattok())
        else:
            annotate(open_dataset(self.source), models(), self.result)

    def left_over(self) -> list[str]:
        """What lies beside source and result."""
        return sorted(p.name for p in self.folder.iterdir() if p not in (self.original, self.source, self.result))


def in_child(work: Callable[[], None], kill_after: float | None = None, number: int = signal.SIGKILL) -> int | None:
    """Exit code of a forked process that does `work`; it gets signal `number` after some seconds."""
    process = FORK.Process(target=work)
    process.start()
    process.join(kill_after)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, number)
    process.join()
    return process.exitcode


def undisturbed(trial: Trial) -> float | None:
    """Seconds that a run took which nobody killed; None if it was refused."""
    for _ in range(TRIES if trial.mode == "ray" else 1):
        begin = time.perf_counter()
        if in_child(trial.run) == 0:
            return time.perf_counter() - begin
    return None


def kill_study(folder: Path, mode: str, kills: int, seed: int) -> dict:
    """Kill `kills` runs, restart each, compare."""
    trial, rng = Trial(folder, mode), np.random.default_rng(seed)
    seconds = undisturbed(trial)
    assert seconds is not None
    expected = tree(trial.result)
    source = tree(trial.original)
    outcome = {"mode": mode, "kills": 0, "finished_before": 0, "identical": 0, "source_untouched": 0, "left_over": 0}
    outcome |= {"by SIGTERM": 0, "ended_otherwise": 0} if mode == "ray" else {}
    while outcome["kills"] < kills:
        trial.reset()
        number = signal.SIGTERM if mode == "ray" and outcome["kills"] % 2 else signal.SIGKILL
        code = in_child(trial.run, float(rng.uniform(0, seconds)), number)
        if code in (0, 2):  # 2: Ray did not start
            outcome["finished_before"] += code == 0
            continue
        outcome["kills"] += 1
        if number == signal.SIGTERM:
            outcome["by SIGTERM"] += 1
            said = [line for line in trial.log.read_text().splitlines() if line and not line.startswith("note: ")]
            if code != 128 + number or len(said) != 1:
                outcome["ended_otherwise"] += 1
                print(f"{number.name} gives {code}: {said}", file=sys.stderr)
        else:
            assert code == -number, code
        outcome["source_untouched"] += tree(trial.source) == source
        whole = trial.result.exists()
        if not whole or trial.left_over():
            # killed when all was done but an empty folder: refused, as after a run that ended
            assert undisturbed(trial) is not None or whole
        outcome["identical"] += tree(trial.result) == expected
        outcome["left_over"] += bool(trial.left_over())
    return outcome | {"seconds_undisturbed": round(seconds, 2)}


def one_line(work: Callable[[], object]) -> str:
    """The one line that a failing run says; nothing where it does not fail."""
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            work()
    except LattokError as error:
        line = str(error)
    else:
        line = "".join(str(w.message) for w in seen if "labelled" in str(w.message))
    assert "\n" not in line
    return line


def full_disk(folder: Path) -> dict:
    """Annotate onto a disk that fills up at different points; afterwards make room and finish."""
    if os.geteuid() != 0:
        return {"skipped": "only root can mount a small disk"}
    trial = Trial(folder, "full disk")
    trial.run()
    expected, source = tree(trial.result), tree(trial.source)
    size = sum(p.stat().st_size for p in trial.result.rglob("*") if p.is_file())
    lines, identical = [], 0
    parts = (0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5)
    for part in parts:
        disk = trial.folder / "disk"
        disk.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(part * size)}", "tmpfs", str(disk)], check=True)
        try:
            trial.result = disk / "out"
            lines.append(one_line(trial.run))
            assert tree(trial.source) == source
            assert not (disk / "out").exists() or tree(disk / "out") == expected
            subprocess.run(["mount", "-o", f"remount,size={100 * size}", str(disk)], check=True)
            if not (disk / "out").exists():
                trial.run()
            identical += tree(disk / "out") == expected
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return {
        "sizes": len(parts),
        "identical_after_making_room": identical,
        "first_line": lines[0].replace(str(folder), ""),
    }


def read_only(folder: Path) -> dict:
    """A target that nobody can write into."""
    if os.geteuid() != 0:
        return {"skipped": "only root can mount a read-only disk"}
    trial = Trial(folder, "read-only")
    disk, source = trial.folder / "disk", tree(trial.source)
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(disk)], check=True)
    try:
        trial.result = disk / "out"
        return {"line": one_line(trial.run).replace(str(folder), ""), "source_untouched": tree(trial.source) == source}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def main() -> None:
    """Run everything and write what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in all, half for each way")
    parser.add_argument("--ray-kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        studies = [
            kill_study(folder, mode, count, arguments.seed)
            for mode, count in (
                ("copy", arguments.kills - arguments.kills // 2),
                ("beside", arguments.kills // 2),
                ("ray", arguments.ray_kills),
            )
            if count
        ]
        results = {"kills": studies, "full_disk": full_disk(folder), "read_only": read_only(folder)}
    results["environment"] = environment()
    text = json.dumps(results, indent=1)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n")
    bad = [s for s in studies if min(s["identical"], s["source_untouched"]) < s["kills"] or s["left_over"]]
    bad += [s for s in studies if s.get("ended_otherwise")]
    disk = results["full_disk"]
    sys.exit(bool(bad) or disk.get("identical_after_making_room", disk.get("sizes")) != disk.get("sizes"))


if __name__ == "__main__":
    main()
