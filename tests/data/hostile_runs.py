"""Attacked datasets, used as a user would, in a child process: what they say, write, read and take.

Opened, inspected, annotated into a copy and exported: anything but a `LattokError` of one line is a failure, and so are
a file that changes outside of the output, one outside that is opened, a secret from outside in the output,
another program that is started, an address that is asked, more than `MEMORY` and more than `LIMIT_S`. Whoever asks
something on standard input is told yes.
"""

import hashlib
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data import fuzz
from tests.data.attacks import MARKER, attack_one
from tests.data.fuzz import OPTIONS, Case, Outcome, Reader
from tests.data.references import Watched
from tests.data.specimens import LABELS, write_originals

LIMIT_S = 20.0
MEMORY = 2 * 2**30  # peak resident; claims of more address space than this, beyond the libraries, fail at once
CHILD = "from tests.data.hostile_runs import child; child()"
FAILURES = ("exception", "crash", "hang", "memory", "written", "leaked", "opened", "ran")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "socket.connect")


def use(root: Path, out: Path, options: dict[str, Any]) -> list[str]:
    """What a user does with somebody's dataset; what it was refused with."""
    from lattok.annotation import annotate
    from lattok.data import export, inspect_dataset, open_dataset
    from lattok.labels import with_labels
    from tests.annotation.fakes import FakeLAM, FakeTokenizer

    said: list[str] = []

    def attempt(step: Any) -> Any:
        from lattok import LattokError

        try:
            return step()
        except LattokError as error:
            said.append(fuzz._refusal(error))
            return None

    dataset = attempt(lambda: open_dataset(root / "source" if (root / LABELS).is_dir() else root, **options))
    if dataset is not None and (root / LABELS).is_dir():
        dataset = attempt(lambda: with_labels(dataset, root / LABELS))
    if dataset is None:
        return said
    attempt(lambda: inspect_dataset(dataset).render())
    width = (dataset.features["action"].shape[0],) if "action" in dataset.features else None
    tokenizer, labeller = FakeTokenizer(), FakeLAM()
    tokenizer.action_dim = 3 if width is None else width[0]
    labeller.cameras = tuple(dataset.cameras[:1])
    labeller.label_video = first_pixels
    model = labeller if width is None or width[0] < 3 else tokenizer
    attempt(lambda: annotate(dataset, {"fake": model}, out / "annotated"))
    attempt(lambda: export(dataset, out / "exported", video_codec="h264", size=(32, 32), skip_damaged=True))
    return said


def first_pixels(frames: Any, stride: int) -> Any:
    """Labels of any video."""
    import numpy as np
    import torch

    from lattok.types import LatentActions

    values = torch.from_numpy(np.concatenate(list(frames))[:, 0, 0, 0, :1].astype(np.float32))[:, None]
    return LatentActions(values[:, :, 0].long(), values, values)


def child() -> None:
    """Use the folders named on stdin, one JSON per line on stdout."""
    import torch  # its libraries do not count

    import lattok.annotation  # noqa: F401
    from lattok.training.runlog import peak_memory

    warnings.simplefilter("ignore")
    cases, ran = os.fdopen(os.dup(0)), list[str]()
    yes = subprocess.Popen(["yes"], stdout=subprocess.PIPE)
    assert yes.stdout is not None
    os.dup2(yes.stdout.fileno(), 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  as long as this process
    platform.processor()  # asks a program, once
    sys.addaudithook(lambda event, given: ran.append(f"{event} {given!r:.200}") if event in PROGRAMS else None)
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + 2 * MEMORY, own + 2 * MEMORY))
    for line in cases:
        path, options = json.loads(line)
        ran.clear()
        try:
            said = use(Path(path), Path(path).parent / "out", options)
            answer: dict[str, Any] = {"said": said, "peak": peak_memory(torch.device("cpu")), "ran": ran}
        except BaseException as error:  # exactly what must not happen
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "/lattok/" in f.filename]
            where = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-3:]))
            answer = {"exception": f"{type(error).__name__}: {error!s:.300} ({where})"}
        print(json.dumps(answer), flush=True)
    yes.kill()


def run(count: int, seed: int, scratch: Path, formats: Sequence[str] | None = None) -> Iterator[Outcome]:
    """Attack datasets `count` times, formats (all, or these) in turn, and yield what came of each."""
    originals = write_originals(scratch / "originals", formats)
    fuzz.LIMIT_S = LIMIT_S
    with Reader(CHILD) as reader:
        for i in range(count):
            name = list(originals)[i % len(originals)]
            yield one(reader, name, originals[name], seed + i, scratch / "case")


def one(reader: Reader, name: str, original: Path, seed: int, folder: Path) -> Outcome:
    """One attack on a copy of `original`."""
    shutil.rmtree(folder, ignore_errors=True)
    target, outside, out = folder / "dataset", folder / "mine", folder / "out"
    shutil.copytree(original, target)
    outside.mkdir()
    out.mkdir()
    (outside / "secret.json").write_text(json.dumps({"secret": MARKER}))
    pq.write_table(
        pa.table({"episode_index": [0, 0, 0], "secret": [MARKER] * 3}), outside / "victim.parquet", compression="none"
    )
    os.mkfifo(outside / "pipe")
    case = Case(name, "", attack_one(target, random.Random(seed), outside), seed)
    before, watched = _contents(folder, out), Watched(outside)
    answer = reader.read(target, OPTIONS.get(name, {}))
    opened = watched.opened()
    for verdict in ("exception", "crash", "hang"):
        if verdict in answer:
            return Outcome(case, verdict, answer[verdict])
    if _contents(folder, out) != before:
        return Outcome(case, "written", "a file outside of the output changed")
    leaked = [path.name for path in out.rglob("*") if path.is_symlink() or _tells(path)]
    if leaked:
        return Outcome(case, "leaked", f"the output holds {leaked[0]}")
    if opened:
        return Outcome(case, "opened", ", ".join(sorted(opened)))
    if answer.get("ran"):
        return Outcome(case, "ran", "; ".join(answer["ran"])[:300])
    if answer["peak"] > MEMORY:
        reader.stop()  # the next case starts with a fresh one
        return Outcome(case, "memory", f"{answer['peak'] / 2**30:.1f} GB")
    return Outcome(case, "refused" if answer["said"] else "right", "; ".join(answer["said"])[:300])


def _tells(path: Path) -> bool:
    """Whether a file holds what only a file outside held; larger ones than those cannot."""
    return path.is_file() and path.stat().st_size < 2**24 and MARKER.encode() in path.read_bytes()


def _contents(folder: Path, out: Path) -> dict[str, str]:
    """Every file below `folder` but for those in `out`: its content, or where it leads."""
    found = {}
    for place, folders, names in os.walk(os.fsencode(folder)):
        if place == os.fsencode(out):
            folders.clear()
            continue
        for name in (*names, *folders):
            path = os.path.join(place, name)
            found[os.fsdecode(path)] = _fact(path)
    return found


def _fact(path: bytes) -> str:
    if os.path.islink(path):
        return os.fsdecode(os.readlink(path))
    if os.path.isfile(path) and os.path.getsize(path) < 2**24:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    return str(os.stat(path).st_mtime_ns if not os.path.isdir(path) else "folder")
