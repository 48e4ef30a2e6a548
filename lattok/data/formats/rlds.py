"""RLDS datasets as TFDS writes them (Open X-Embodiment), read without TensorFlow.

An episode is one `tf.train.Example` in a TFRecord file, the features of its steps one after the other.
"""

import math
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lattok.data import problems
from lattok.data.formats import last_step
from lattok.data.formats import rlds_meta as meta
from lattok.data.formats.tfrecord import Example, RecordFile
from lattok.data.images import BEGINNINGS, decode_image
from lattok.data.schema import (
    INDEX_FEATURES,
    PROVENANCE,
    Damage,
    Feature,
    RobotDataset,
    in_a_description,
    index_column,
    readable,
)
from lattok.data.video import BLOCK, BLOCK_BYTES
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.files import read_json
from lattok.utils.spread import evenly_spread
from lattok.utils.untrusted import copy_again, safe_path

MAX_MISSING_EPISODES = 100_000  # episodes that are listed as damaged one by one
EPISODES_LOOKED_AT = 256  # for their last actions
SUCCESS = re.compile(r"(^|/)(is_|episode_)?success$")  # a whole number for each episode
LAST_MARKS = ("is_last", "is_terminal")
SHORT_FEATURES = ("steps/is_first", "steps/is_last", "steps/is_terminal", "steps/action")  # short, and in every dataset


class RLDS(RobotDataset):
    """One split of an RLDS dataset; see `lattok.data.RobotDataset` for what it offers.

    Opening reads how long the episodes are and their instructions, in passing; the checksum of an episode is checked
    the first time that anything else of it is read. Episodes count the records over all files, as dataset_info.json
    says how many each file holds. `left_out` has the features that are not offered, with the reason.

    `last_action` "drop" offers no episode's last step, "keep" all of them. By default those with `is_last` are dropped
    where their actions only fill the row (`last_step`), as `findings` then say; not in what lattok wrote itself.
    """

    kind = "rlds"
    options = MappingProxyType({"fps": float, "split": str, "last_action": str})
    text = "RLDS (dataset_info.json and features.json, here or in one version folder)"

    def __init__(
        self,
        root: Path,
        name: str | None = None,
        *,
        fps: float | None = None,
        split: str = "train",
        last_action: str | None = None,
    ):
        self.root = root = Path(root)
        if last_action is not None:
            checks.one_of("last_action", last_action, ("drop", "keep"))
        info = meta.read_info(root)
        self.name, self.origin = name or info["name"], info["name"]
        self.split = split
        self.fps = _frames_per_second(root, info["name"], fps)
        fields, self._language, self.left_out = meta.read_layout(root)
        self._fields = {field.key: field for field in fields}
        self._ruler = _ruler(root, fields)
        shards = meta.read_shards(root, info, split)
        self._files, counts = [RecordFile(path) for path, _ in shards], [count for _, count in shards]
        self._ends = np.cumsum(counts)  # of the episode indices of each file
        self._success = next(filter(SUCCESS.search, self.left_out), "")  # flag of an episode
        self._failed = list[int]()  # filled by `_list`
        self.episodes, self.damaged = self._list(counts)
        fields = self._with_encoded_pictures(fields)
        self._cut = frozenset(self._without_last(last_action))  # episodes whose last step is not offered
        self._drop_last_steps()
        if 0 < len(self._failed) < len(self.episodes):
            sign = f"`{self._success}`"
            self.findings += (problems.FAILED.finding(self._failed, all=len(self.episodes), sign=sign),)
        self.tasks = tuple(dict.fromkeys(task for episode in self.episodes for task in episode.tasks))
        self._task_numbers = {task: number for number, task in enumerate(self.tasks)}
        self._check_names(fields)
        self.features = {field.key: self._feature(field) for field in fields} | INDEX_FEATURES
        self.cameras = tuple(key for key, feature in self.features.items() if feature.dtype == "image")

    def _with_encoded_pictures(self, fields: Sequence[meta.Field]) -> list[meta.Field]:
        """Take texts that begin as JPEG or PNG do for pictures that were encoded before TFDS saw them."""
        found = list[meta.Field]()
        for field in fields:
            key = meta.camera_key(field.path)
            if field.dtype == "string" and field.path not in self._language and key not in self._fields:
                with suppress(LattokError), self._example(self.episodes[0].index, False) as example:
                    if example.blobs(field.path, [0])[0].startswith(BEGINNINGS):
                        field = field._replace(key=key, dtype="image", shape=(0, 0, 3))
            found.append(field)
        self._fields = {field.key: field for field in found}
        return found

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        below = (path for path in sorted(folder.iterdir()) if path.is_dir())
        return [folder] if _holds_records(folder) else [path for path in below if _holds_records(path)]

    def provenance(self) -> tuple[dict[str, Any], Path]:
        """Read what export wrote into lattok.json."""
        path = self.root / meta.LATTOK
        known = read_json(safe_path(self.root, path, str(path))) if path.is_file() else {}
        entries = known.get(PROVENANCE.stem)
        return (entries if isinstance(entries, dict) else {}), path

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        return (self._place(episode_index)[0].path,)

    def outlines(self) -> dict[int, int]:
        places = ((index, *self._place(index)) for index in (episode.index for episode in self.episodes))
        return {index: int(file.sizes[number]) for index, file, number in places}

    def columns(self, episode_index: int, keys: Sequence[str], check: bool = True) -> dict[str, np.ndarray]:
        self.check_columns(keys)
        with self._example(episode_index, check) as example:
            return {key: self._column(example, key, episode_index) for key in keys}

    def unchecked_columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        return self.columns(episode_index, keys, check=False)  # of the checksum all pictures would be read

    def encoded_images(self, episode_index: int, camera: str) -> list[bytes] | None:
        return (
            None if self._fields[camera].raw else self._stored(episode_index, camera, range(self.length(episode_index)))
        )

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        shape = self.features[camera].shape
        step = max(1, min(BLOCK, BLOCK_BYTES // math.prod(shape)))
        for i in range(0, len(indices), step):
            chosen = indices[i : i + step].tolist()
            if self._fields[camera].raw:
                with self._example(episode_index) as example:
                    yield _numbers(example, self._fields[camera], self._steps(episode_index), chosen)
                continue
            where = f"{self.files_of(episode_index)[0]}: `{camera}` of episode {episode_index}, frame"
            pixels = np.empty((len(chosen), *shape), dtype=np.uint8)
            for row, data in enumerate(self._stored(episode_index, camera, chosen)):
                image = decode_image(data, f"{where} {chosen[row]}")
                if image.shape != shape:
                    expected, got = ("x".join(map(str, size)) for size in (shape, image.shape))
                    source = "the first episode" if 0 in self._fields[camera].shape else "features.json"
                    raise LattokError(f"{where} {chosen[row]}: expected {expected} as in {source}, got {got}.")
                pixels[row] = image
            yield pixels

    def _stored(self, episode_index: int, key: str, indices: Sequence[int]) -> list[bytes]:
        field = self._fields[key]
        with self._example(episode_index) as example:
            _check_count(example, field, self._steps(episode_index))
            return example.blobs(field.path, indices)

    def _steps(self, episode_index: int) -> int:
        """Count the steps in the file."""
        return self.length(episode_index) + (episode_index in self._cut)

    def _without_last(self, last_action: str | None) -> Iterator[int]:
        """Find the episodes whose last step is to be dropped, and say why unless it was asked for."""
        mark = self._fields.get("is_last")
        marked = mark is not None and mark.shape == () and mark.stored != "bytes"
        if last_action is None and marked and not (self.root / meta.LATTOK).is_file():
            ends = [*filter(len, map(self._last_actions, evenly_spread(self.episodes, EPISODES_LOOKED_AT)))]
            if last_step.fills_rows(ends):
                self.findings = (problems.LAST_ACTION_DROPPED.finding(),)
                yield from (each.index for each in self.episodes if self._ends_with_last(each))
            elif last_step.all_equal(ends):
                self.findings = (problems.LAST_ACTION_EQUAL.finding(),)
        elif last_action == "drop":
            yield from (episode.index for episode in self.episodes)

    def _ends_with_last(self, episode: Episode) -> bool:
        with suppress(LattokError), self._example(episode.index, False) as example:
            return bool(_values(example, self._fields["is_last"], episode.length)[-1])
        return False

    def _last_actions(self, episode: Episode) -> np.ndarray:
        """Read the last actions [up to 4, m] of an episode; none where its last step has no `is_last`."""
        found = [np.empty((episode.length, 0))]
        if self._ends_with_last(episode):
            with suppress(LattokError), self._example(episode.index, False) as example:
                numbers = (
                    f
                    for key, f in self._fields.items()
                    if key.split(".")[0] == "action" and f.dtype not in ("string", "image")
                )
                found += [_values(example, field, episode.length).reshape(episode.length, -1) for field in numbers]
        rows = np.concatenate(found, 1)[-last_step.ROWS :]
        return rows if rows.size else rows[:0]

    def _drop_last_steps(self) -> None:
        kept = [Episode(e.index, e.length - (e.index in self._cut), e.tasks) for e in self.episodes]
        alone = (Damage(e.index, "its only step is the last one, which has no action.") for e in kept if not e.length)
        self.damaged = tuple(sorted((*self.damaged, *alone)))
        self.episodes = tuple(episode for episode in kept if episode.length)
        vars(self).pop("_lengths", None)  # those of before

    def _list(self, counts: list[int]) -> tuple[tuple[Episode, ...], tuple[Damage, ...]]:
        """List the episodes whose length can be told, and the others."""
        episodes: list[Episode] = []
        damaged: list[Damage] = []
        missing = sum(max(0, count - len(file)) for file, count in zip(self._files, counts, strict=True))
        if missing > MAX_MISSING_EPISODES:
            listed = (
                f"{self.root}: dataset_info.json lists {checks.counted(sum(counts), 'episode')} in split `{self.split}`"
            )
            raise LattokError(f"{listed}, but {missing:,} of them are not in the files. Copy the dataset again.")
        for file, count, end in zip(self._files, counts, self._ends.tolist(), strict=True):
            if len(file) > count or (len(file) == count and file.damage):
                got = f"expected {checks.counted(count, 'record')} as dataset_info.json says, got more"
                raise LattokError(f"{file.path}: {got}. It is of another version of the dataset: copy both again.")
            for number in range(count):
                index = end - count + number
                try:
                    episodes.append(self._measure(index, file, number))
                except LattokError as error:
                    damaged.append(Damage(index, str(error)))
        if not episodes:
            reason = f": {damaged[0].reason}" if damaged else "."
            raise LattokError(f"{self.root}: no episode of split `{self.split}` can be read{reason}")
        return tuple(episodes), tuple(damaged)

    def _measure(self, index: int, file: RecordFile, number: int) -> Episode:
        """Read length and instructions, without a look at the rest."""
        if number >= len(file):
            reason = file.damage or f"the file ends after {checks.counted(len(file), 'record')}"
            raise LattokError(f"{file.path}: record {len(file)}: {reason}. {copy_again(file.path)}")
        with file.example(number, f"episode {index}", check=False) as example:
            length, rest = divmod(example.count(self._ruler.path), self._ruler.per_step)
            if rest or not length:
                example.fail(f"`{self._ruler.path}` has {'part of' if rest else 'no'} steps")
            texts = dict.fromkeys(self._instructions(example))
            with suppress(LattokError):  # of another type
                if self._success in example.places and not example.integers(self._success).all():
                    self._failed.append(index)
        return Episode(index, length, tuple(sorted(texts, key=lambda text: text == "")))  # what says something first

    def _instructions(self, example: Example) -> list[str]:
        """Read the instruction of every step, or one for all of them; empty where there is none."""
        for name in self._language:
            texts = self._texts(example, name) if name in example.places else []
            if any(texts):
                return texts
        return [""]

    def _texts(self, example: Example, name: str) -> list[str]:
        if example.places[name][0] != "int64":
            return [data.decode("utf-8", "replace") for data in example.blobs(name)]
        steps = example.count(self._ruler.path) // self._ruler.per_step
        codes = example.integers(name)
        if not steps or len(codes) % steps or (codes < 0).any() or (codes >= 0x110000).any():
            example.fail(f"`{name}`: expected characters as numbers for every step")
        rows, members = np.unique(codes.reshape(steps, -1), axis=0, return_inverse=True)
        texts = [readable("".join(map(chr, row[row > 0].tolist())).strip()) for row in rows]
        return [texts[member] for member in members.reshape(-1).tolist()]

    def _check_names(self, fields: Sequence[meta.Field]) -> None:
        """Check that an episode with a right checksum has every feature that features.json promises."""
        for episode in self.episodes:
            try:
                with self._example(episode.index) as example:
                    missing = [field.path for field in fields if field.path not in example.places]
            except LattokError:
                continue
            if missing:
                what = f"episode {episode.index} has no {', '.join(missing)}, which features.json promises"
                raise LattokError(f"{self.files_of(episode.index)[0]}: {what}. Copy both again.")
            return
        raise LattokError(f"{self.root}: every episode of split `{self.split}` is damaged: the checksums are wrong.")

    def _feature(self, field: meta.Field) -> Feature:
        shape = field.shape or (1,)
        if field.dtype == "image" and 0 in field.shape:  # features.json does not say
            shape = self._first_image(field.key).shape
        return Feature(field.dtype.replace("bfloat16", "float32"), shape, None)

    def _first_image(self, key: str) -> np.ndarray:
        errors = []
        for episode in self.episodes:
            try:
                (data,) = self._stored(episode.index, key, [0])
                return decode_image(data, f"{self.files_of(episode.index)[0]}: `{key}` of episode {episode.index}")
            except LattokError as error:
                errors.append(error)
        raise errors[0]

    def _column(self, example: Example, key: str, episode_index: int) -> np.ndarray:
        offered, length = self.length(episode_index), self._steps(episode_index)
        if key in self._fields:
            values = _values(example, self._fields[key], length)
            if offered < length and key in LAST_MARKS:
                values[offered - 1] = np.maximum(values[offered - 1], values[offered])
            return values[:offered]
        if key != "task_index":
            return index_column(key, offered, episode_index, 0, self.fps)
        if len(texts := self._instructions(example)) not in (1, length):
            example.fail(f"expected an instruction for each of {checks.counted(length, 'step')}, got {len(texts)}")
        if not self._task_numbers.keys() >= set(texts):
            example.fail("the file is not the one that was opened")
        return np.array([self._task_numbers[text] for text in texts] * (length // len(texts)), dtype=np.int64)[:offered]

    def _example(self, episode_index: int, check: bool = True) -> AbstractContextManager[Example]:
        file, number = self._place(episode_index)
        return file.example(number, f"episode {episode_index}", check)

    def _place(self, episode_index: int) -> tuple[RecordFile, int]:
        self.length(episode_index)
        shard = int(np.searchsorted(self._ends, episode_index, side="right"))
        return self._files[shard], episode_index - (int(self._ends[shard - 1]) if shard else 0)


def _frames_per_second(root: Path, dataset: str, fps: float | None) -> float:
    if fps is not None:
        return float(fps)
    if (said := root / meta.LATTOK).is_file():
        written: Any = read_json(safe_path(root, said, str(said))).get("fps")
        checks.frame_rate(**{f"fps` of `{said}": written})
        return float(written)
    if (rate := meta.control_rate(dataset)) is None:
        hint = in_a_description(root, '"fps": 5', dataset)
        checks.fail("fps", f"the frames per second of {dataset}, which RLDS does not store", "none", hint)
    return rate


def _ruler(root: Path, fields: Sequence[meta.Field]) -> meta.Field:
    """Return the feature that episodes are measured with: cheap to count, and there in every record."""
    if not fields:
        raise LattokError(f"{root / 'features.json'}: no feature of `steps` can be read.")
    costs = {"float": 0, "int64": 1, "bytes": 2}
    return min(fields, key=lambda f: (f.path not in SHORT_FEATURES, costs[f.stored], f.dtype == "image", f.per_step))


def _numbers(example: Example, field: meta.Field, length: int, indices: Sequence[int]) -> np.ndarray:
    """Read numbers of some steps [n, *shape] of which the bytes are stored, or pixels that are stored one by one."""
    _check_count(example, field, length)
    if not field.encoding:
        return example.integers(field.path).reshape(length, *field.shape)[list(indices)].astype(field.raw)
    kind = np.dtype(field.raw).newbyteorder("<")
    size, rows = math.prod(field.shape) * kind.itemsize, list[np.ndarray]()
    for data in example.blobs(field.path, indices):
        if field.encoding == "zlib":
            try:
                data = zlib.decompressobj().decompress(data, size + 1)
            except zlib.error as error:
                example.fail(f"`{field.path}`: {error}")
        if len(data) != size:
            example.fail(f"`{field.path}`: expected {size} bytes for a step, got {len(data)}")
        rows.append(np.frombuffer(data, kind).reshape(field.shape))
    return np.stack(rows).astype(field.raw)


def _values(example: Example, field: meta.Field, length: int) -> np.ndarray:
    """Read values of one feature, [T] or [T, *shape]."""
    shape = () if field.shape == (1,) else field.shape
    if field.raw:
        return _numbers(example, field, length, range(length)).reshape(length, *shape)
    _check_count(example, field, length)
    if field.stored == "bytes":
        return np.array([data.decode("utf-8", "replace") for data in example.blobs(field.path)], dtype=object)
    if field.stored == "float":
        values = example.floats(field.path).astype(field.dtype.replace("bfloat16", "float32"))
        return values.reshape(length, *shape)
    stored = example.integers(field.path)
    values = stored.astype(field.dtype)
    if field.dtype != "uint64" and (values != stored).any():
        example.fail(f"`{field.path}` holds numbers that are no {field.dtype}")
    return values.reshape(length, *shape)


def _check_count(example: Example, field: meta.Field, length: int) -> None:
    count, expected = example.count(field.path), length * field.per_step
    if count != expected:
        example.fail(f"`{field.path}`: expected {expected} values ({length} steps of {field.per_step}), got {count}")


def _holds_records(folder: Path) -> bool:
    described = all((folder / name).is_file() for name in ("dataset_info.json", "features.json"))
    return described or any(folder.glob("*.tfrecord*"))
