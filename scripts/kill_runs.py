"""Kills training, fits, exports, reports and conversions at random moments; checks that they go on to the same end.

    python scripts/kill_runs.py --kills 80 --out benchmarks/results/kill_runs.json
    python scripts/kill_runs.py --format zarr mcap --kills 12 --out benchmarks/results/kill_formats.json

Every trial forks a process that runs one command line, sends it SIGKILL, SIGTERM or SIGINT after a random part of the
time that an undisturbed run takes, and does what it then says, or types the same command again, until it ends. Files
must equal those of the undisturbed run (checkpoints: their tensors; logs are left out), the source must be what it was,
and nothing may lie beside. Some trials start `python -m lattok` as a user does, imports and all.

With `--format` a model is trained on, and labels, a small dataset of each of these formats, or of all; with `--repair`
datasets of these formats, two of whose episodes have black pictures, are repaired.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import lattok.annotation
import lattok.recipes  # all that verbs import, before anything is forked
from benchmarks.common import environment
from lattok.cli import main as lattok_main
from lattok.utils.options import as_flags
from scripts.kill_annotation import FORK, tree, write_source
from tests.data import planted, sound
from tests.data.fuzz import OPTIONS
from tests.data.specimens import WRITERS

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LOGS = ("metrics.jsonl", "checkpoint.pt", "events.out.tfevents")  # times, and archives whose bytes may differ
PARITY = Path(__file__).parents[1] / "tests" / "parity"
PATIENCE_S = 600  # to stop when asked to, or to end
TRIES = 4  # commands until a job has ended
FEW_FRAMES = 4  # of a unit of labels, so that a small dataset has several
FORMATS = tuple(name for name in WRITERS if name not in ("sidecar", "lance"))  # Lance hangs in a forked process

REPAIRED = {make.__name__: make for make in sound.OTHERS}

LOOP = ["--device", "cpu", "--save-every", "5", "--log-every", "5"]
SMALL = ["--width", "16", "--heads", "2", "--encoder-depth", "1", "--decoder-depth", "1"]
POLICY = {"image_size": 16, "backbone_patch_size": 8, "backbone_width": 16, "backbone_depth": 2, "backbone_heads": 2}
POLICY |= {"head_dim": 16, "head_heads": 2}
TINY = [*as_flags(POLICY)]
LEVELS = ["--dim", "16", "--heads", "2", "--encoder-depth", "1", "--decoder-depth", "1", "--levels", "4", "4"]
QUICK = ["--preset", "quick", "--dim", "16", "--heads", "2", "--hidden", "16"]


class Job(NamedTuple):
    """A command that ends with a folder."""

    name: str
    words: Callable[[Path, Path], list[str]]  # from the folder with the sources and from the folder to make


def image_lam(sources: Path, out: Path) -> list[str]:
    """Train a small latent action model of video."""
    return [
        *["train", "image-lam", f"{sources}/data", "--out", str(out), "--preset", "tiny+robust"],
        *["--features", "pixels"],
        *["--steps", "60", "--batch-size", "8", "--image-size", "32", *SMALL, *LOOP],
    ]


def vla(sources: Path, out: Path) -> list[str]:
    """Train a small policy."""
    return [
        *["train", "vla", f"{sources}/data", "--out", str(out), "--backbone", "scratch", "--horizon", "4"],
        *["--steps", "60", "--batch-size", "4", "--no-proprio", *TINY, *LOOP],
    ]


def tokenizer(family: str, *sizes: str) -> "Job":
    """Train a small tokenizer of a family that `fit` trains."""
    words = ["--steps", "120", "--batch-size", "16", "--horizon", "8", *sizes, *LOOP]
    return Job(f"train {family}", lambda s, o: ["train", family, f"{s}/data", "--out", str(o), *words])


def idm(sources: Path, out: Path) -> list[str]:
    """Train a small inverse dynamics model where few actions are known."""
    return [
        *["train", "idm", f"{sources}/few", "--out", str(out), "--preset", "tiny", "--image-size", "16"],
        *["--steps", "60", "--batch-size", "8", "--members", "2", "--loss-flow", "0.3", *LOOP],
    ]


JOBS = (
    Job(
        "train action-vq",
        lambda s, o: ["train", "action-vq", f"{s}/data", "--out", str(o), "--steps", "120", *QUICK, *LOOP],
    ),
    Job("train image-lam", image_lam),
    Job("train vla", vla),
    Job("train idm", idm),
    Job("train image-lam streamed", lambda s, o: [*image_lam(s, o), "--memory-gb", "4e-3"]),  # frames take 6.6 MB
    Job("train vla streamed", lambda s, o: [*vla(s, o), "--memory-gb", "1e-3"]),  # 1.7 MB
    tokenizer("oat", *LEVELS),
    tokenizer("quest", *LEVELS),
    tokenizer("vqbet", "--dim", "16", "--hidden", "16", "--codebook-size", "8"),
    tokenizer("fsq", "--hidden", "16", "--tokens", "2", "--synthetic", "200"),
    Job("train uniform-bins", lambda s, o: ["train", "uniform-bins", f"{s}/data", "--out", str(o)]),
    Job("export", lambda s, o: ["export", f"{s}/data", "--out", str(o), "--video-codec", "h264"]),
    Job(
        "annotate --as actions",
        lambda s, o: ["annotate", f"{s}/few", "--model", f"{s}/idm", "--as", "actions", "--out", str(o)],
    ),
    Job("evaluate", lambda s, o: ["evaluate", f"{s}/tok", f"{s}/data", "--out", str(o), "--device", "cpu"]),
    Job("convert", lambda s, o: ["convert", "p2t-action-vq", f"{s}/checkpoint.pt", str(o), "--horizon", "20"]),
)


def place_of(sources: Path, name: str) -> str:
    """Return what to type for the dataset of a format."""
    return str(sources / (f"{name}.json" if name in OPTIONS else name))


def train_on(name: str) -> "Job":
    """Train on a small dataset of a format: a model of video, without cameras one of actions."""
    video = ["--preset", "tiny+robust", "--features", "pixels", "--labelled-fraction", "0", "--stride", "1"]
    video += ["--image-size", "32", *SMALL]
    kind, sizes = ("action-vq", [*QUICK, "--horizon", "2"]) if name == "d4rl" else ("image-lam", video)
    words = [*sizes, "--steps", "15", "--batch-size", "4", *LOOP]
    return Job(f"train on {name}", lambda s, o: ["train", kind, place_of(s, name), "--out", str(o), *words])


def annotate_format(name: str) -> "Job":
    """Label a small dataset of a format."""
    return Job(
        f"annotate {name}",
        lambda s, o: ["annotate", place_of(s, name), "--model", f"{s}/model-{name}", "--out", str(o)],
    )


def repair_flawed(name: str) -> "Job":
    """Repair a dataset of a format."""

    def words(sources: Path, out: Path) -> list[str]:
        place = next(path for path in (sources / f"flawed-{name}.json", sources / f"flawed-{name}") if path.exists())
        return ["repair", str(place), "--out", str(out), "--also", "blank"]

    return Job(f"repair {name}", words)


class Ended(NamedTuple):
    """How a command ended, and all that it said."""

    code: int  # negative: killed by that signal
    text: str


def forked(words: Sequence[str], log: Path, after: float | None = None, number: int = signal.SIGKILL) -> Ended:
    """Run a command line in a forked process, which gets signal `number` after some seconds."""

    def work() -> None:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115  as long as the process lives
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        os._exit(lattok_main(list(words)))

    process = FORK.Process(target=work)
    process.start()
    process.join(PATIENCE_S if after is None else after)
    if process.is_alive() and after is not None:
        assert process.pid is not None
        os.kill(process.pid, number)
        process.join(PATIENCE_S)
    if process.is_alive():
        process.kill()
        process.join()
        raise RuntimeError(f"does not end: {shlex.join(words)}")
    assert process.exitcode is not None
    return Ended(process.exitcode, log.read_text(errors="replace") if log.exists() else "")


def started(words: Sequence[str], log: Path, after: float | None = None, number: int = signal.SIGKILL) -> Ended:
    """The same with `python -m lattok`."""
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "lattok", *words], stdout=file, stderr=file)
    try:
        process.wait(PATIENCE_S if after is None else after)
    except subprocess.TimeoutExpired:
        process.send_signal(number if after is not None else signal.SIGKILL)
        process.wait(PATIENCE_S)
        if after is None:
            raise RuntimeError(f"does not end: {shlex.join(words)}") from None
    return Ended(process.returncode, log.read_text(errors="replace"))


def content(root: Path) -> dict[str, str]:
    """Hash of every file below `root`, logs left out; of a checkpoint those of its tensors."""
    found = {}
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        if path.name == "checkpoint.pt":
            found[name] = hashlib.sha256(repr(_plain(torch.load(path, weights_only=True))).encode()).hexdigest()
        elif not path.name.startswith(LOGS):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return [str(value.dtype), tuple(value.shape), hashlib.sha256(value.detach().numpy().tobytes()).hexdigest()]
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value


def next_words(words: list[str], text: str) -> list[str]:
    """What a command that did not end says to type; otherwise itself again."""
    said = re.search(r"Continue with: lattok (.+)", text)
    if said is not None:
        return shlex.split(said[1])
    return [*words, "--resume"] if "or add --resume" in text and "--resume" not in words else words


def kill_study(folder: Path, job: Job, kills: int, seed: int, by_hand: int = 0) -> dict:
    """Kill `kills` runs of a job, `by_hand` of them started as users do; continue each, compare."""
    sources, rng, log = folder / "sources", np.random.default_rng(seed), folder / "log.txt"
    place = folder / job.name.replace(" ", "-")
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
    out, words = place / "out", job.words(sources, place / "out")

    def fresh() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()

    lasting = {}
    for run in (forked, started)[: 1 + bool(by_hand)]:
        fresh()
        begun = time.perf_counter()
        ended = run(words, log)
        assert ended.code == 0, ended.text
        lasting[run], expected, source = time.perf_counter() - begun, content(out), tree(sources)
    outcome = {"job": job.name, "kills": 0, **{f"by {s.name}": 0 for s in SIGNALS}, "as a user": 0}
    outcome |= dict.fromkeys(("finished_before", "identical", "source_untouched", "left_over", "dead_ends"), 0)
    outcome |= {"commands": 0}
    trial = 0
    while outcome["kills"] < kills and trial < 6 * kills:
        number, run = SIGNALS[trial % 3], started if outcome["kills"] < by_hand else forked
        trial += 1
        fresh()
        ended = run(words, log, float(rng.uniform(0, lasting[run])), number)
        if ended.code == 0 or (content(out) == expected and [*place.iterdir()] == [out]):  # killed while Python ended
            outcome["finished_before"] += 1
            continue
        asked = -number if number == signal.SIGKILL else 128 + number
        # asked while Python starts or a process is forked, before anybody listens
        assert ended.code in (asked, -number), f"{job.name}: {number.name} gives {ended}"
        assert "Traceback" not in ended.text or ended.code == -number or run is started, ended.text
        outcome["kills"] += 1
        outcome[f"by {number.name}"] += 1
        outcome["as a user"] += run is started
        again = words
        for _ in range(TRIES):
            again = next_words(again, ended.text)
            ended = forked(again, log)
            outcome["commands"] += 1
            if ended.code == 0:
                break
        outcome["dead_ends"] += ended.code != 0
        outcome["identical"] += ended.code == 0 and content(out) == expected
        outcome["source_untouched"] += tree(sources) == source
        left = [*place.iterdir(), *scratch.iterdir()]
        outcome["left_over"] += [path.name for path in left] != ["out"]
    return outcome | {"seconds_undisturbed": round(lasting[forked], 2)}


def write_sources(folder: Path) -> None:
    """A dataset, one with few actions, a tokenizer, an inverse dynamics model and a published checkpoint."""
    folder.mkdir()
    write_source(folder / "data")
    write_source(folder / "few", known=3)
    assert forked(["train", "uniform-bins", f"{folder}/data", "--out", f"{folder}/tok"], folder / "log").code == 0
    assert forked(idm(folder, folder / "idm"), folder / "log").code == 0
    (folder / "log").unlink()
    shutil.copy(PARITY / "action_tokenizer_h20_m7" / "checkpoint.pt", folder)


def write_format(folder: Path, name: str) -> None:
    """A small dataset of a format, described where it does not say all, and a model that was trained on it."""
    WRITERS[name](folder / name)
    if name in OPTIONS:
        (folder / f"{name}.json").write_text(json.dumps({"dataset": name, **OPTIONS[name]}))
    ended = forked(train_on(name).words(folder, folder / f"model-{name}"), folder / "log")
    assert ended.code == 0, ended.text
    (folder / "log").unlink()


def write_flawed(folder: Path, name: str) -> None:
    """A dataset of a format with black pictures in two episodes."""
    arm = planted.clean()
    for film in arm.films.values():
        film[2], film[5, 20:40] = 0, 0
    REPAIRED[name](folder / f"flawed-{name}", arm)


def main() -> None:
    """Run everything and write what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=80, help="in all; long jobs get twice as many as short ones")
    names = [job.name for job in JOBS]
    parser.add_argument("--jobs", nargs="+", choices=names, default=names, metavar="JOB", help="such as `train vla`")
    shown = ", ".join(FORMATS)
    parser.add_argument("--format", nargs="*", choices=FORMATS, metavar="FORMAT", help=f"in place of jobs: {shown}")
    parser.add_argument("--repair", nargs="+", choices=REPAIRED, default=[], metavar="FORMAT", help=", ".join(REPAIRED))
    parser.add_argument("--by-hand", type=int, default=1, help="of each job, started as users do")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of what a user starts: artefacts say how many there were
    jobs = [job for job in JOBS if job.name in arguments.jobs]
    formats = FORMATS if arguments.format == [] else arguments.format or ()
    if formats or arguments.repair:
        lattok.annotation.UNIT_FRAMES = FEW_FRAMES
        jobs = [make(name) for name in formats for make in (train_on, annotate_format)]
        jobs += map(repair_flawed, arguments.repair)
    shares = [2 if job.name.startswith("train ") and "bins" not in job.name and not formats else 1 for job in jobs]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "torch")  # which torch else makes among temporary files
        if formats or arguments.repair:
            (folder / "sources").mkdir()
            for name in formats:
                write_format(folder / "sources", name)
            for name in arguments.repair:
                write_flawed(folder / "sources", name)
        else:
            write_sources(folder / "sources")
        studies = []
        for job, share in zip(jobs, shares, strict=True):
            count = -(-arguments.kills * share // sum(shares))
            studies.append(kill_study(folder, job, count, arguments.seed, arguments.by_hand))
            print(json.dumps(studies[-1]), flush=True)
    results = {"kills": studies, "environment": environment()}
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    perfect = all(s["kills"] == s["identical"] == s["source_untouched"] for s in studies)
    sys.exit(not perfect or any(s["left_over"] or s["dead_ends"] for s in studies))


if __name__ == "__main__":
    main()
