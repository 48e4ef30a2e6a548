"""Damage to datasets of every format, and what came of it: an error of one line, the right values, or other ones.

Cases are read in a child process with a time limit, which is replaced when it crashes or hangs. What comes back without
an error is compared with the undamaged dataset, value by value.
"""

import hashlib
import json
import random
import resource
import select
import shutil
import subprocess
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.damage import damage_one
from tests.data.specimens import LABELS, LAYOUTS, write_originals

ROOT = Path(__file__).parents[2]
LIMIT_S = 30.0
START_S = 120.0  # more for the first case of a child, which imports everything
MEMORY = 12 * 2**30  # address space of a child: a claim for more than this is a crash
CHILD = "from tests.data.fuzz import child; child()"
FILLS = 3  # of so many cases in one, unknown actions are filled in as well
OPTIONS: dict[str, dict[str, Any]] = {
    "sidecar": {"fps": 5},
    **{name: {"fps": 5} for name in (*LAYOUTS, "zarr", "npz", "parquet", "pictures")},
    "mcap": {"fps": 5, "topics": {"observation.images.front": "/front/image/compressed", "action": "/command"}},
}


class Case(NamedTuple):
    """One damaged dataset."""

    format: str
    file: str  # what was damaged
    damage: str
    seed: int


class Outcome(NamedTuple):
    """What came of a case."""

    case: Case
    verdict: str  # refused, right, renumbered (other files, other numbers), unchecked (see UNCHECKED), or a failure
    detail: str


WHOLE_FILES = ("delete", "swap", "double", "rename", "replace")
NUMBERS = ("episode_index", "index", "task_index")
FAILURES = ("exception", "crash", "hang", "different")


def digest(path: Path, options: dict[str, Any]) -> dict[str, str]:
    """What a dataset says and holds, item by item: a hash, or "error: ..." where it refuses. With the option `fill`
    unknown actions are filled in, and what then are the actions is told, too."""
    from lattok import LattokError
    from lattok.data import inspect_dataset, open_dataset
    from lattok.labels import with_labels

    fill = options.pop("fill", False)
    try:
        beside = (path / LABELS).is_dir()
        dataset = (
            with_labels(open_dataset(path / "source", **options), path / LABELS)
            if beside
            else open_dataset(path, **options)
        )
        found = {"facts": repr((dataset.fps, dataset.robot, dataset.cameras, dataset.features))}
    except LattokError as error:
        return {"open": _refusal(error)}
    found |= {f"damaged {d.episode_index}": _refusal(LattokError(d.reason)) for d in dataset.damaged}
    try:
        inspect_dataset(dataset).render()
    except LattokError as error:
        found["inspect"] = _refusal(error)
    for episode in dataset.episodes:
        found[f"episode {episode.index}"] = repr(episode)
        for key, feature in dataset.features.items():
            camera = feature.dtype in ("video", "image")
            try:
                values = dataset.frames(episode.index, [key]) if camera else dataset.columns(episode.index, [key])[key]
                if key == "task_index":  # numbers instructions, which may be fewer where an episode is damaged
                    values = np.array([dataset.tasks[number] for number in values.tolist()], dtype=object)
                found[f"{episode.index} {key}"] = _hash(values)
            except LattokError as error:
                found[f"{episode.index} {key}"] = _refusal(error)
    return found | (_filled(dataset, path.with_name(f"{path.name}-filled")) if fill and dataset.cameras else {})


def _hash(values: np.ndarray) -> str:
    content = values.tobytes() if values.dtype != object else repr(values.tolist()).encode()
    return hashlib.sha256(content).hexdigest()[:16] + f" {values.dtype}"


def _filled(dataset: Any, out: Path) -> dict[str, str]:
    """Do `annotate --as actions` to a column that has unknown actions, or to a new one where all are known."""
    from lattok import LattokError
    from lattok.annotation import label
    from lattok.annotation.labels import Work
    from lattok.data import open_dataset
    from lattok.labels import with_labels
    from lattok.labels.spec import Options
    from tests.annotation.test_fill import model

    for folder in (out, out.with_name(f".{out.name}.partial")):
        shutil.rmtree(folder, ignore_errors=True)
    # the specimens of these have unknown actions
    lerobot = dataset.kind in ("lerobot", "lerobot-v2")
    key = "action" if lerobot or dataset.name == "hdf5" else "expert"
    indices, keys = [episode.index for episode in dataset.episodes], (key, "inferred.action", "inferred.filled")
    try:
        width = dataset.features[key].shape[0] if key in dataset.features else 3
        idm = model(cameras=dataset.cameras[:1], action_dim=width, action_names=())
        result = label(Work(dataset, {"inferred": idm}, Options(fill=True, action_key=key)), out)
        seen = open_dataset(out) if lerobot else with_labels(dataset, out)
        failed = {index: f"error: {why}" for index, why in result.unlabelled.get("inferred", {}).items()}
        found = dict[str, str]()
        for index in indices:
            values = {} if index in failed else seen.columns(index, keys)
            found |= {f"{index} filled {name}": failed.get(index) or _hash(values[name]) for name in keys}
        return found
    except LattokError as error:
        return {f"{index} filled {name}": _refusal(error) for index in indices for name in keys}


def forget(name: str, root: Path) -> None:
    """Make actions of some episodes unknown, as NaN and as null."""
    for path in (root / "data").rglob("*.parquet") if name.startswith("lerobot") else ():
        table = pq.read_table(path)
        episodes, actions = table["episode_index"].to_pylist(), table["action"].to_pylist()
        unknown = {1: [float("nan")] * 3, 2: None}
        column = pa.array([unknown.get(i, row) for i, row in zip(episodes, actions, strict=True)], table["action"].type)
        table = table.set_column(table.column_names.index("action"), table.schema.field("action"), column)
        pq.write_table(table, path, write_page_checksum=name in ("lerobot", "lerobot_images"))
    for path in root.glob("*.hdf5") if name == "hdf5" else ():
        import h5py

        with h5py.File(path, "a") as file:
            file["data/demo_1/actions"][...] = np.nan  # type: ignore[index]


def _refusal(error: Exception) -> str:
    text = str(error)
    if not text or "\n" in text or len(text) > 2000:
        raise RuntimeError(f"an error is one line of text, got {text!r}") from error
    return f"error: {text}"


def child() -> None:
    """Digest the folders named on stdin, one JSON per line on stdout."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        path, options = json.loads(line)
        try:
            answer: dict[str, Any] = {"found": digest(Path(path), options)}
        except BaseException as error:  # exactly what must not happen
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "lattok" in f.filename]
            where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
            answer = {"exception": f"{type(error).__name__}: {error}"[:500] + where}
        print(json.dumps(answer), flush=True)


class Reader:
    """A child process that digests datasets; a new one after a crash or a hang."""

    def __init__(self, program: str | None = None) -> None:
        self._program = program
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def read(self, path: Path, options: dict[str, Any]) -> dict[str, Any]:
        """The child's answer, or {"crash": ...} or {"hang": ...}."""
        limit = LIMIT_S
        if self._child is None:
            limit += START_S
            self._child = subprocess.Popen(
                [sys.executable, "-c", self._program or CHILD], cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps([str(path), options]) + "\n")
        self._child.stdin.flush()
        ready, _, _ = select.select([self._child.stdout], [], [], limit)
        line = self._child.stdout.readline() if ready else ""
        if line:
            return json.loads(line)
        if ready:
            return {"crash": f"exit status {self.stop()}"}
        self.stop()
        return {"hang": f"no answer in {LIMIT_S:g} s"}

    def stop(self) -> int | None:
        """End the child; the next case starts another one."""
        if self._child is None:
            return None
        if self._child.stdin is not None:
            self._child.stdin.close()
        try:
            status = self._child.wait(1)
        except subprocess.TimeoutExpired:
            self._child.kill()
            status = self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()
        self._child = None
        return status


def run(count: int, seed: int, scratch: Path, formats: Sequence[str] | None = None) -> Iterator[Outcome]:
    """Damage datasets `count` times, formats (all, or these) in turn, and yield what came of each."""
    originals = write_originals(scratch / "originals", formats)
    with Reader() as reader:
        expected = {}
        for name, path in originals.items():
            forget(name, path)
            answer = reader.read(path, {**OPTIONS.get(name, {}), "fill": True})
            assert "found" in answer, (name, answer)
            assert not any(value.startswith("error") for value in answer["found"].values()), (name, answer)
            expected[name] = answer["found"]
        for i in range(count):
            name = list(originals)[i % len(originals)]
            target = scratch / "damaged" / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(originals[name], target)
            file, damage = damage_one(target / LABELS if name == "sidecar" else target, random.Random(seed + i))
            fill = i // len(originals) % FILLS == 0
            answer = reader.read(target, {**OPTIONS.get(name, {}), "fill": fill})
            wanted = {key: value for key, value in expected[name].items() if fill or " filled " not in key}
            yield judge(Case(name, file, damage, seed + i), answer, wanted)


UNCHECKED_HDF5 = "HDF5 has checksums only on request, and nothing lists the files of a folder"
# where other values may come back without an error, and why; RLDS records and our Parquet pages are not among them
UNCHECKED = (
    ("*", "*.json", "*", "JSON has no checksum"),
    ("video", "captions.csv", "*", "text has no checksum"),
    *((name, "*", "*", UNCHECKED_HDF5) for name in LAYOUTS),
    ("zarr", "*", "*", "zarr has no checksum, and takes a chunk that is missing for one of fill values"),
    ("lance", "*", "*", "Lance has no checksum, nor have videos"),
    ("npz", "*", "*", "nothing lists the files of a folder"),
    *(("parquet", "*.parquet", damage, "nothing lists the rows of a file") for damage in ("swap", "double", "replace")),
    ("calvin", "*", "*", "nothing says what is in the file of a step"),
    ("unitree", "*", "*", "nothing lists the recordings, and JPEG has no checksum"),
    ("mcap", "*", "*", "MCAP has checksums only on request, and nothing lists the files of a folder"),
    ("pictures", "*", "*", "JPEG has no checksum, and nothing lists the files of a folder"),
    ("video", "*", "*", "video has no checksum, and nothing lists the files of a folder"),
    ("hdf5", "*", "*", UNCHECKED_HDF5),
    ("lerobot*", "videos/*", "*", "video has no checksum"),
    ("lerobot_v2*", "*.jsonl", "*", "JSON has no checksum"),
    ("lerobot_v2*", "*.parquet", "*", "Parquet has checksums only on request, which LeRobot does not make"),
    ("lerobot_plain", "*.parquet", "*", "Parquet has checksums only on request, which LeRobot does not make"),
    ("rlds", "*.tfrecord*", "swap", "files are numbered by their names, and nothing says what is in them"),
    ("rlds", "*.tfrecord*", "replace", "files are numbered by their names, and nothing says what is in them"),
)


def judge(case: Case, answer: dict[str, Any], expected: dict[str, str]) -> Outcome:
    """Compare a child's answer with the undamaged dataset."""
    for verdict in FAILURES:
        if verdict in answer:
            return Outcome(case, verdict, answer[verdict])
    found: dict[str, str] = answer["found"]
    errors = [f"{key}: {value}" for key, value in found.items() if value.startswith("error")]
    readable = {key.split()[0] for key, value in found.items() if not value.startswith("error")}
    other = [
        key
        for key, value in found.items()
        if not value.startswith("error") and expected.get(key) != value
        # how an episode is listed does not matter where all of it is refused: RLDS lists before it checks
        if not (key.startswith("episode ") and key.split()[1] not in readable)
    ]
    listed = {key.split()[1] for key in found if key.startswith("damaged")}
    if "open" not in found:
        other += [key for key in expected if key not in found and not listed & {key.split()[0], key.split()[-1]}]
    if not other:
        return Outcome(case, "refused" if errors else "right", errors[0] if errors else "")
    detail = f"{', '.join(other[:6])} ({len(errors)} errors)"
    if case.damage in WHOLE_FILES and case.format in ("hdf5", "video") and _renumbered(other, found, expected):
        return Outcome(case, "renumbered", detail)
    for name, file, damage, why in UNCHECKED:
        if fnmatch(case.format, name) and fnmatch(case.file, file) and fnmatch(case.damage, damage):
            return Outcome(case, "unchecked", f"{why}: {detail}")
    return Outcome(case, "different", detail)


def _renumbered(other: list[str], found: dict[str, str], expected: dict[str, str]) -> bool:
    """Whether all values are those of the undamaged dataset, under the numbers of other episodes."""
    known: dict[str, set[str]] = {}
    for key, value in expected.items():
        known.setdefault(key.partition(" ")[2], set()).add(value)
    named = (key.partition(" ")[::2] for key in other if key in found)
    values = [(name, found[f"{index} {name}"]) for index, name in named if index.isdigit()]
    return all(value in known.get(name, ()) for name, value in values if name not in NUMBERS)


def summary(outcomes: list[Outcome], seconds: float, failures: Sequence[str] = FAILURES) -> str:
    """Counts by format and verdict, and every case that is neither refused nor right."""
    counts = Counter((outcome.case.format, outcome.verdict) for outcome in outcomes)
    verdicts = ["refused", "right", *(["renumbered", "unchecked"] if failures is FAILURES else []), *failures]
    lines = [f"{'':16}" + "".join(f"{verdict:>11}" for verdict in verdicts)]
    for name in dict.fromkeys(outcome.case.format for outcome in outcomes):
        lines.append(f"{name:16}" + "".join(f"{counts[name, verdict]:>11}" for verdict in verdicts))
    lines.append(f"{'all':16}" + "".join(f"{sum(o.verdict == v for o in outcomes):>11}" for v in verdicts))
    lines.append(f"{len(outcomes)} cases in {seconds:.0f} s")
    where = Counter(
        (o.case.format, PurePath(o.case.file).suffix, o.detail.split(":")[0])
        for o in outcomes
        if o.verdict == "unchecked"
    )
    lines += [f"unchecked {count:>4}  {name} {suffix}: {why}" for (name, suffix, why), count in sorted(where.items())]
    for outcome in outcomes:
        if outcome.verdict in failures:
            case = outcome.case
            lines.append(
                f"{outcome.verdict}: {case.format} {case.file} {case.damage} (seed {case.seed}): {outcome.detail}"
            )
    return "\n".join(lines)
