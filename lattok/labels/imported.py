"""Actions that another program's inverse model inferred, as it wrote them: of the episodes of a dataset.

    Cosmos 3        FOLDER/NAME/sample_outputs.json, at `outputs[0].content.action` (Cosmos Framework, its notebooks);
                    NAME.json or NAME/action.json with `data` (what vLLM-Omni answers); NAME.safetensors with a tensor
                    `action` (TensorRT-LLM). n rows say what happens between n + 1 frames
    GR00T-Dreams    the LeRobot dataset that dump_idm_actions.py writes: its column of actions
    others          NAME.npy [n, m]; NAME.npz with `action` [n, m] and, where it is known, `confidence` [n] in (0, 1]

NAME is that of the episode's video, or ends with the number of the episode; `_from_160` after it: the rows begin at
frame 160, for long episodes that were inferred in pieces. Read from NVIDIA/cosmos (cookbooks/cosmos3/generator/ action)
and copies of NVIDIA/GR00T-Dreams (IDM_dump); the programs themselves were never run here.
"""

import hashlib
import math
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from lattok.data.alike import named
from lattok.data.episodes import unmeasured
from lattok.data.opening import open_dataset
from lattok.data.schema import RobotDataset, dimension_names, vector_key
from lattok.types import Labeller
from lattok.utils import checks
from lattok.utils.untrusted import parse_json, safe_path

Between = Literal["hold", "divide"]
SUFFIXES = (".json", ".npy", ".npz", ".safetensors")
IN_FOLDERS = ("sample_outputs.json", "action.json")  # of each NAME, the first of them that is there
NAME = re.compile(r"(?P<stem>.*?)(?:_from_(?P<first>\d{1,9}))?", re.DOTALL)
OTHER_UNIT = 20.0  # times that actions vary more or less in another unit: degrees, 57; millimetres, 1000
FAR_OFF = 10.0  # standard deviations of the known actions that the mean of inferred ones is apart from theirs at most
MOST_COMPARED = 20  # episodes
NUMBER = re.compile(r"(?<!\d)(\d{1,9})$")
JSON_PLACES = "outputs[0].content.action, action.data or data"


class ActionRows(NamedTuple):  # a stretch of actions, as a file has it
    actions: np.ndarray  # [n, m] float32
    confidence: np.ndarray | None  # [n] float32


class Inferred(NamedTuple):
    """What was inferred for the T frames of an episode."""

    actions: np.ndarray  # [T, m] float32
    confidence: np.ndarray | None  # [T] float32 in (0, 1]
    valid: np.ndarray  # [T] bool: frames that have a row; those at the end may repeat the last one


class Facts(NamedTuple):  # what pipelines ask a model's configuration
    action_dim: int
    action_names: tuple[str, ...]


class ImportedActions(Labeller):
    """Holds actions by the number of their episode, brought to the dataset's unit and rate."""

    label_source = "video"
    type: ClassVar[str] = "imported"
    cameras: tuple[str, ...] = ()
    codebook_size = state_key = language = None

    def __init__(
        self,
        dataset: RobotDataset,
        files: str | Path,
        *,
        fps: float | None = None,
        between: Between | None = None,
        names: Sequence[str] = (),
        unit: str = "",
        made_by: str = "",
        every: bool = False,
        scale: Sequence[float] = (),
        offset: Sequence[float] = (),
    ):
        """`fps`: rows a second, by default the dataset's frames. With fewer rows than frames, `between` says what a row
        is for its frames: the same for each ("hold", targets), or shared out ("divide", increments). `every`: all
        actions of the dataset are inferred ones, whatever its column holds. Into its unit they come by
        `scale * row + offset`, each one number, or one for each of a row."""
        self.source, self.every = str(files), every
        self._unit, self._made_by, self._between = unit, made_by, between
        self._lengths = {episode.index: episode.length for episode in dataset.episodes}
        self._fps, self._rate = dataset.fps, dataset.fps if fps is None else float(fps)
        checks.frame_rate(fps=self._rate)
        self._check_rate()
        self._dataset = self._dumped(Path(files).expanduser())
        self._files = {} if self._dataset else _listed(dataset, Path(files).expanduser())
        some = self._any_rows()
        self._sure, width = some.confidence is not None, some.actions.shape[1]
        if len(np.unique(some.actions)) > 2 and not ((some.actions < 0) | (some.actions % 1 != 0)).any():
            what = f"{self.source} has whole numbers alone, which are taken as actions"
            checks.warn(f"{what}. If they are codes, import them as latents", stacklevel=3)
        checks.named(width, names=tuple(names))
        names = names or (None if self._dataset is None else named(self._dataset, "action")) or ()
        self.config = Facts(width, tuple(names))
        self.scaled = bool(scale or offset)
        self._scale, self._offset = _each("scale", scale, 1, width), _each("offset", offset, 0, width)
        self.trained_on = {"fps": dataset.fps}  # rows were brought to its frames

    def describe(self) -> dict[str, Any]:
        facts = {"made_by": self._made_by, "unit": self._unit, "rate": self._rate, "between": self._between}
        if self.scaled:
            facts |= {"scale": self._scale.tolist(), "offset": self._offset.tolist()}
        return {"type": self.type, "files_sha256": self._sha256} | {k: v for k, v in facts.items() if v}

    def stride_frames(self, fps: float) -> int:
        return 1

    def resize(self, frames: np.ndarray) -> np.ndarray:
        return frames

    def actions_of(self, episode: int) -> Inferred:
        """Return the actions of the T frames of an episode. Raises `LattokError` where any but the end has none."""
        length, per_row = self._lengths[episode], self._fps / self._rate
        if not self.has(episode):
            raise checks.LattokError(f"nothing in {self.source} is of this episode")
        if self._dataset:
            parts = [(0, self._dump_rows(self._dataset, episode))]
        else:
            parts = [(first, _read(path)) for first, path in self._files[episode]]
        actions = np.full((length, self.config.action_dim), np.nan, np.float32)
        sure = np.full(length, np.nan, np.float32)
        for first, (rows, confidence) in parts:
            if rows.shape[1] != self.config.action_dim:
                raise checks.LattokError(f"{rows.shape[1]} numbers in a row, elsewhere {self.config.action_dim}")
            rows = (self._scale * rows + self._offset).astype(np.float32)
            frames = first + np.arange(max(1, round(len(rows) * per_row)))
            if frames[-1] >= length:
                raise checks.LattokError(f"{len(rows)} rows from frame {first} on end after its {length} frames")
            if not np.isnan(actions[frames]).all():
                raise checks.LattokError(f"several files have rows for frame {frames[0]} or after it")
            chosen = np.minimum(((frames - first) / per_row + 1e-6).astype(int), len(rows) - 1)
            actions[frames] = rows[chosen] / (per_row if self._between == "divide" else 1)
            sure[frames] = 1 if confidence is None else confidence[chosen]
        valid = np.asarray(~np.isnan(actions).any(1))
        last = int(np.flatnonzero(valid)[-1])
        if length - 1 - last <= max(1, math.ceil(per_row)):  # n rows are what happens between n + 1 frames
            actions[last + 1 :], sure[last + 1 :] = actions[last], sure[last]
        if (missing := np.flatnonzero(np.isnan(actions).any(1))).size:
            rows = f"{checks.counted(sum(len(part.actions) for _, part in parts), 'row')} in {self.source}"
            lacking = f"no row for {checks.counted(len(missing), 'frame')}, first {missing[0]}"
            raise checks.LattokError(f"{lacking}: {rows} for its {checks.counted(length, 'frame')}")
        return Inferred(actions, sure if self._sure else None, valid)

    def has(self, episode: int) -> bool:
        """Return whether there are actions of an episode."""
        if self._dataset:
            return episode in {each.index for each in self._dataset.episodes}
        return episode in self._files

    def none_of(self, episode: int) -> Inferred:
        """Return placeholders for an episode without actions: zeros that are not valid."""
        nothing = np.zeros((self._lengths[episode], self.config.action_dim), np.float32)
        return Inferred(nothing, nothing[:, 0] if self._sure else None, np.zeros(len(nothing), bool))

    def check_unit(self, dataset: RobotDataset, key: str) -> None:
        """Require actions that vary about as much as the known ones of the column `key`, and about as large: others
        have another unit, or are targets where those are changes."""
        every = {episode.index for episode in dataset.episodes}
        unknown = unmeasured(dataset, key, every)
        known = [dataset.columns(index, [key])[key] for index in sorted(every - unknown)[:MOST_COMPARED]]
        given = list(islice(self._sound(sorted(unknown)), MOST_COMPARED))
        if self.scaled or not known or not given or known[0].ndim != 2 or known[0].shape[1] != given[0].shape[1]:
            return
        known, given = np.concatenate(known), np.concatenate(given)
        ours, theirs = (np.nanstd(rows, axis=0) for rows in (known, given))
        names, hint = self.config.action_names or dimension_names(dataset.features[key]), "As they are: scale=1."
        if ours.any() and not theirs.any():
            checks.fail("files", f"actions that change, as those of `{key}` do", "the same in all rows", hint)
        moving = (ours > 0) & (theirs > 0)
        ratio = np.where(moving, theirs / np.where(moving, ours, 1), 1)
        worst = int(np.abs(np.log(ratio)).argmax())
        if not 1 / OTHER_UNIT < ratio[worst] < OTHER_UNIT:
            expected = f"actions in the unit of `{key}`, whose {names[worst]} varies by {ours[worst]:.3g}"
            hint = f"Convert them: scale=0.001, or a number for each, and offset. {hint}"
            checks.fail("files", expected, f"{theirs[worst]:.3g}", hint)
        apart = np.where(moving, np.abs(given.mean(0) - np.nanmean(known, axis=0)) / np.where(moving, ours, 1), 0)
        far = np.flatnonzero(apart > FAR_OFF)
        if len(far) >= min(2, moving.sum()) > 0:  # one may stand still in all that is known
            dim = far[0]
            expected = f"actions about as large as those of `{key}`, whose {names[dim]} is {known[:, dim].mean():.3g}"
            expected += f" in the mean, give or take {ours[dim]:.3g}"
            hint = f"Are these targets, and those changes, or the reverse? Write the same, or give offset. {hint}"
            checks.fail("files", expected, f"{given[:, dim].mean():.3g} in the mean", hint)

    def _sound(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Yield the actions of episodes that have them for all frames; `label` says why others have not."""
        for index in indices:
            with suppress(checks.LattokError):
                yield self.actions_of(index).actions

    def _check_rate(self) -> None:
        if self._rate > self._fps * 1.001:
            hint = "Take a dataset of that rate."
            checks.fail("fps", f"at most the {self._fps:g} frames a second of the dataset", f"{self._rate:g}", hint)
        same = abs(self._rate - self._fps) <= 1e-3 * self._fps
        if same and self._between is not None:
            checks.fail("between", "nothing, since each frame has its own row", self._between)
        if not same and self._between is None:
            got = f"{self._rate:g} rows for {self._fps:g} frames a second"
            hint = "hold repeats them, as for targets; divide shares them out, as for increments."
            checks.fail("between", "what a row is for its frames, hold or divide", got, hint)
        self._rate = self._fps if same else self._rate

    def _dumped(self, place: Path) -> RobotDataset | None:
        """Open the dataset of a dump, if it is one, whose episodes are those that are labelled."""
        if not (place / "meta" / "info.json").is_file():
            return None
        found = open_dataset(place)
        vector_key(found, "files", "action")
        if self._rate != self._fps:
            checks.fail("fps", "none, since a dump has a row for each frame", f"{self._rate:g}")
        if abs(found.fps - self._fps) > 1e-3 * self._fps:
            checks.fail("files", f"a dump at the dataset's {self._fps:g} frames a second", f"{found.fps:g} in {place}")
        lengths = {episode.index: episode.length for episode in found.episodes}
        if odd := [index for index, length in lengths.items() if self._lengths.get(index) != length]:
            got = f"episode {odd[0]} of {lengths[odd[0]]}"
            checks.fail("files", "a dump of the dataset's own episodes and frames", got)
        return found

    def _dump_rows(self, dump: RobotDataset, episode: int) -> ActionRows:
        return _checked(dump.columns(episode, ["action"])["action"], None, self.source)

    def _any_rows(self) -> ActionRows:
        if self._dataset:
            return self._dump_rows(self._dataset, self._dataset.episodes[0].index)
        return _read(next(iter(self._files.values()))[0][1])

    @cached_property
    def _sha256(self) -> str:
        """Hash all that was read, with the episodes that it is of."""
        done = hashlib.sha256()
        if self._dataset:
            for episode in self._dataset.episodes:
                done.update(self._dump_rows(self._dataset, episode.index).actions.tobytes())
        for index, parts in sorted(self._files.items()):
            for first, path in parts:
                done.update(f"{index} {first}\n".encode() + path.read_bytes())
        return done.hexdigest()


def _each(name: str, given: Sequence[float], default: float, width: int) -> np.ndarray:
    """Return a number for each of a row, from one for all or one for each."""
    values = np.asarray(given or [default], np.float64)
    if values.ndim != 1 or len(values) not in (1, width) or not np.isfinite(values).all():
        checks.fail(name, f"a finite number, or {width}, one for each of a row", checks.listed(given))
    if name == "scale" and not values.all():
        checks.fail(name, "numbers other than 0", checks.listed(given))
    return np.broadcast_to(values, (width,))


def _listed(dataset: RobotDataset, place: Path) -> dict[int, list[tuple[int, Path]]]:
    """Find the files of each episode, with the frames at which their rows begin."""
    if not place.is_dir():
        checks.fail("files", "a folder of files with actions, or a LeRobot dataset", str(place))
    named = [(path.stem, path) for path in sorted(place.iterdir()) if path.suffix in SUFFIXES]
    for folder in sorted(path for path in place.iterdir() if path.is_dir()):
        own = next((folder / name for name in IN_FOLDERS if (folder / name).is_file()), None)
        named += [] if own is None else [(folder.name, own)]
    if not named:
        wanted = f"NAME{', NAME'.join(SUFFIXES)}, or folders with {' or '.join(IN_FOLDERS)}"
        checks.fail("files", wanted, f"none of them in {place}")
    videos = _videos(dataset)
    found, strange = defaultdict[int, list[tuple[int, Path]]](list), list[str]()
    for name, path in named:
        match = NAME.fullmatch(name)
        stem, first = (match["stem"], int(match["first"] or 0)) if match else (name, 0)
        number = NUMBER.search(stem)
        index = videos.get(stem, int(number[1]) if number else None)
        if index is None or index not in {each.index for each in dataset.episodes}:
            strange.append(str(path.relative_to(place)))
        else:
            found[index].append((first, safe_path(place, path, str(path))))
    if strange:
        expected = f"names that end with the number of an episode of {dataset.name}, or that are those of its videos"
        checks.fail("files", expected, checks.listed(strange))
    return dict(found)


def _videos(dataset: RobotDataset) -> dict[str, int]:
    """Return episodes by the name of their video, where each has one of its own."""
    if dataset.kind != "video":
        return {}
    files = [
        (path.stem, each.index)
        for each in dataset.episodes
        for path in dataset.files_of(each.index)
        if path.suffix != ".npz"
    ]
    return {} if len({stem for stem, _ in files}) < len(files) else dict(files)


def _read(path: Path) -> ActionRows:
    """Read the rows of a file; raises `LattokError` where it has none, or other things than numbers."""
    try:
        if path.suffix == ".json":
            return _checked(_in_json(parse_json(path.read_bytes(), str(path)), path), None, path)
        if path.suffix == ".npy":
            return _checked(np.load(path, mmap_mode="r", allow_pickle=False), None, path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                if "action" not in arrays:
                    checks.refuse(path, "an array `action`", checks.listed(list(arrays)))
                return _checked(arrays["action"], arrays.get("confidence"), path)
        with safe_open(path, "numpy") as tensors:
            if "action" not in tensors.keys():  # noqa: SIM118, it is no mapping
                checks.refuse(path, "a tensor `action`", checks.listed(list(tensors.keys())))
            return _checked(tensors.get_tensor("action"), None, path)
    except (ValueError, EOFError, OSError, TypeError, zipfile.BadZipFile, SafetensorError) as error:
        if isinstance(error, checks.LattokError):
            raise
        return checks.refuse(path, "actions, rows of numbers", checks.first_line(error))


def _in_json(value: Any, path: Path) -> Any:
    outputs = value.get("outputs") if isinstance(value, Mapping) else None
    if isinstance(outputs, list):
        if len(outputs) != 1:
            checks.refuse(path, "one output", f"{len(outputs)}", "Import one draw at a time.")
        value = outputs[0].get("content") if isinstance(outputs[0], Mapping) else None
    for key in ("action", "data"):
        value = value[key] if isinstance(value, Mapping) and key in value else value
    if not isinstance(value, list):
        checks.refuse(path, f"rows of numbers at {JSON_PLACES}", type(value).__name__)
    return value


def _checked(actions: Any, confidence: Any, where: Any) -> ActionRows:
    try:
        rows = np.asarray(actions)
    except ValueError:  # of other lengths
        rows = np.empty(0, object)
    if rows.dtype.kind not in "iuf" or rows.ndim != 2 or not rows.size:
        checks.refuse(where, "actions [n, m], rows of numbers", f"{rows.dtype} {list(rows.shape)}")
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    if not np.isfinite(rows).all():
        checks.refuse(where, "finite actions", f"NaN or infinity in row {int((~np.isfinite(rows)).any(1).argmax())}")
    if confidence is None:
        return ActionRows(rows, None)
    sure = np.asarray(confidence)
    if sure.dtype.kind != "f" or sure.size != len(rows) or not ((sure > 0) & (sure <= 1)).all():
        checks.refuse(
            where, f"`confidence` of {len(rows)} rows, above 0 and at most 1", f"{sure.dtype} {list(sure.shape)}"
        )
    return ActionRows(rows, sure.reshape(-1).astype(np.float32))
