"""LeRobot v3 datasets, read without the `lerobot` package: JSON and Parquet tables, videos by timestamp."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import lattok
from lattok import checks
from lattok.checks import LattokError
from lattok.data.schema import IMAGE_DTYPES, Feature, FrameTransform, camera_keys
from lattok.data.tables import ColumnReader, column_to_numpy, read_table
from lattok.data.video import BLOCK, decode_at
from lattok.files import read_json
from lattok.types import Episode

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_EPISODE_COLUMNS = ("episode_index", "length", "tasks", "data/chunk_index", "data/file_index")
_VIDEO_COLUMNS = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")


def sample_dataset_path() -> Path:
    """Folder of the small dataset that comes with the package: 10 Meta-World tasks x 5 episodes, two cameras."""
    return Path(lattok.__file__).parent / "assets" / "metaworld_sample"


def open_dataset(path: str | Path, revision: str | None = None) -> LeRobotV3:
    """Open a LeRobot v3 dataset: a local folder, or a Hub id such as "org/name" (downloaded, `revision` optional)."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if revision is not None:
            checks.fail("revision", "none for a local folder", repr(revision))
        return LeRobotV3(folder)
    if folder.exists() or not _HUB_ID.fullmatch(str(path)):
        checks.fail("dataset", "a folder with meta/info.json, or a Hub id such as org/name", f"`{path}`")
    return LeRobotV3(_download(str(path), revision), name=str(path))


def _download(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # heavy, and needed for Hub ids only

    try:
        return Path(snapshot_download(hub_id, repo_type="dataset", revision=revision))
    except Exception as error:  # the client's own error types differ between its versions
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LattokError(
            f"dataset `{hub_id}`: no such folder here, and the Hub answered: {reason} "
            "Check the name, the network, or `hf auth login` for a private dataset."
        ) from None


class LeRobotV3:
    """A LeRobot v3 dataset on disk; see `lattok.data.RobotDataset` for what it offers."""

    def __init__(self, root: Path, name: str | None = None):
        self.root = root
        self.name = name or root.resolve().name
        self.info = self._read_info()
        self.fps = float(self.info["fps"])
        self.features = {key: _feature(value) for key, value in self.info["features"].items()}
        self.cameras = tuple(key for key, feature in self.features.items() if feature.dtype in IMAGE_DTYPES)
        self.tasks = self._read_tasks()
        self._table = self._read_episodes()  # columns of meta/episodes as lists, without statistics
        self._row = {index: row for row, index in enumerate(self._table["episode_index"])}
        rows = zip(self._table["episode_index"], self._table["length"], self._table["tasks"], strict=True)
        self.episodes = tuple(Episode(index, length, tuple(tasks)) for index, length, tasks in rows)
        self._reader = ColumnReader()

    def __repr__(self) -> str:
        frames = sum(self._table["length"])
        return f"{type(self).__name__}({self.name!r}, {len(self._row)} episodes, {frames} frames, {self.fps:g} fps)"

    def data_file(self, episode_index: int) -> Path:
        """Parquet file that holds the rows of an episode."""
        row = self._episode_row(episode_index)
        return self.root / self.info["data_path"].format(
            chunk_index=self._table["data/chunk_index"][row], file_index=self._table["data/file_index"][row]
        )

    def video_span(self, episode_index: int, camera: str) -> tuple[Path, float, float]:
        """Video file of an episode, with the times (seconds) at which the episode starts and ends in it."""
        row = self._episode_row(episode_index)
        chunk, file, start, stop = (self._table[f"videos/{camera}/{name}"][row] for name in _VIDEO_COLUMNS)
        path = self.info["video_path"].format(video_key=camera, chunk_index=chunk, file_index=file)
        return self.root / path, start, stop

    def episode_rows(self, path: Path) -> dict[int, tuple[int, int]]:
        """Rows [first, last) of every episode in a data file, in the file's order."""
        return self._reader.file(path).rows

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Columns of one episode: [T] for scalars (shape (1,)), else [T, *shape]. Row groups are cached."""
        path = self.data_file(episode_index)
        data = self._reader.file(path)
        first, last = data.rows.get(episode_index, (0, 0))
        length = self._table["length"][self._episode_row(episode_index)]
        if last - first != length:
            raise LattokError(
                f"{path}: expected {length} rows of episode {episode_index}, got {last - first}. "
                "The file is not the one that meta/episodes describes: copy the dataset again."
            )
        for key in keys:
            if key not in self.features or key not in data.names:
                checks.fail("keys", "columns among " + ", ".join(data.names), repr(key), f"Looked in {path}.")
        return {
            key: column_to_numpy(
                self._reader.read(path, key, first, last), self.features[key].shape, f"{path}: `{key}`"
            )
            for key in keys
        }

    def frames(
        self,
        episode_index: int,
        cameras: Sequence[str] | None = None,
        indices: Sequence[int] | np.ndarray | None = None,
        transform: FrameTransform | None = None,
    ) -> np.ndarray:
        """Images of one episode, uint8 [T, V, H, W, 3]; `transform` acts on blocks [n, H, W, 3] as they are decoded.

        `indices` are frame indices in the episode, in any order; all frames by default.
        """
        keys = camera_keys(self, cameras)
        length = self._table["length"][self._episode_row(episode_index)]
        wanted = np.arange(length) if indices is None else np.asarray(indices, dtype=np.int64)
        if wanted.ndim != 1 or len(wanted) == 0 or wanted.min() < 0 or wanted.max() >= length:
            checks.fail("indices", f"frame indices from 0 to {length - 1}", f"{wanted.tolist()[:5]}")
        ascending, back = np.unique(wanted, return_inverse=True)
        store: np.ndarray | None = None
        for v, key in enumerate(keys):
            done = 0
            for block in self._blocks_of_frames(episode_index, key, ascending):
                block = block if transform is None else transform(block)
                if store is None:
                    store = np.empty((len(ascending), len(keys), *block.shape[1:]), dtype=np.uint8)
                if block.dtype != np.uint8 or block.shape[-1] != 3:
                    got = f"{block.dtype} {list(block.shape)}"
                    checks.fail("transform", "blocks of RGB pixels, uint8 [n, h, w, 3]", got, "Pixels are 0 to 255.")
                if block.shape[1:] != store.shape[2:]:
                    raise LattokError(_size_message(keys, key, store, block))
                store[done : done + len(block), v] = block
                done += len(block)
        assert store is not None
        return store if np.array_equal(wanted, ascending) else store[back.reshape(-1)]

    def _blocks_of_frames(self, episode_index: int, key: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        if self.features[key].dtype == "image":
            for i in range(0, len(indices), BLOCK):
                images = self._stored_images(episode_index, key, indices[i : i + BLOCK])
                yield from (np.stack(list(same)) for _, same in groupby(images, key=np.shape))
            return
        path, start, _ = self.video_span(episode_index, key)
        times = start + self.columns(episode_index, ["timestamp"])["timestamp"].astype(np.float64)[indices]
        yield from decode_at(path, times, self.fps)

    def _stored_images(self, episode_index: int, key: str, indices: np.ndarray) -> list[np.ndarray]:
        from PIL import Image  # LeRobot decodes stored images with it; only datasets without videos need it

        path = self.data_file(episode_index)
        first, _ = self._reader.file(path).rows[episode_index]
        images = []
        for index in indices.tolist():
            (cell,) = self._reader.read(path, key, first + index, first + index + 1).to_pylist()
            try:
                source = BytesIO(cell["bytes"]) if cell["bytes"] else self.root / cell["path"]
                image = Image.open(source)
                images.append(np.asarray(image))
            except (OSError, TypeError):
                raise LattokError(
                    f"{path}: `{key}` of episode {episode_index}, frame {index} is not a readable image."
                ) from None
            if image.mode != "RGB":
                raise LattokError(
                    f"{path}: `{key}` of episode {episode_index}, frame {index}: expected an RGB image, got "
                    f"mode {image.mode}. Write the dataset with RGB images, or choose other cameras with `cameras`."
                )
        return images

    def _episode_row(self, episode_index: int) -> int:
        if episode_index not in self._row:
            checks.fail("episode_index", f"an episode of `{self.name}` (0 to {max(self._row)})", repr(episode_index))
        return self._row[episode_index]

    def _read_info(self) -> dict[str, Any]:
        path = self.root / "meta" / "info.json"
        if not path.is_file():
            raise LattokError(
                f"{self.root} is no LeRobot dataset: it has no meta/info.json. Give the folder that holds `meta`."
            )
        info = read_json(path)
        version = str(info.get("codebase_version", "unknown"))
        if not version.startswith("v3."):
            older = version.startswith(("v1.", "v2."))
            way_out = (
                "Convert it: python -m lerobot.datasets.v30.convert_dataset_v21_to_v30 --repo-id=ORG/NAME"
                if older
                else "A newer lattok may read it."
            )
            raise LattokError(f"{self.root}: expected LeRobot format v3, got {version}. {way_out}")
        missing = [key for key in ("fps", "features", "data_path") if not info.get(key)]
        if missing:
            raise LattokError(f"{path}: missing {', '.join(missing)}. Copy the dataset again.")
        return info

    def _read_tasks(self) -> tuple[str, ...]:
        path = self.root / "meta" / "tasks.parquet"
        table = read_table(path)
        # the instruction is the index of a pandas table; newer versions of LeRobot name it
        text = next((name for name in ("task", "__index_level_0__") if name in table.column_names), None)
        if text is None or "task_index" not in table.column_names:
            raise LattokError(f"{path}: expected columns task_index and task, got {', '.join(table.column_names)}.")
        return tuple(row[text] for row in table.sort_by("task_index").to_pylist())

    def _read_episodes(self) -> dict[str, list[Any]]:
        folder = self.root / "meta" / "episodes"
        paths = sorted(folder.glob("*/*.parquet"))
        if not paths:
            raise LattokError(f"{folder} holds no parquet file. Copy the dataset again.")
        videos = [key for key in self.cameras if self.features[key].dtype == "video"]
        names = [*_EPISODE_COLUMNS, *(f"videos/{key}/{name}" for key in videos for name in _VIDEO_COLUMNS)]
        table = pa.concat_tables([read_table(path, names) for path in paths], promote_options="permissive")
        if not table.num_rows:
            raise LattokError(f"{folder} lists no episodes. Copy the dataset again.")
        return table.sort_by("episode_index").to_pydict()


def _feature(entry: dict[str, Any]) -> Feature:
    shape = tuple(int(size) for size in entry["shape"])
    names = entry.get("names")
    if isinstance(names, dict) and len(names) == 1:  # {"motors": [...]}
        (names,) = names.values()
    if not isinstance(names, list) or len(shape) != 1 or len(names) != shape[0]:
        names = None
    return Feature(str(entry["dtype"]), shape, None if names is None else tuple(map(str, names)))


def _size_message(keys: Sequence[str], key: str, store: np.ndarray, block: np.ndarray) -> str:
    expected = "x".join(map(str, store.shape[2:]))
    got = "x".join(map(str, block.shape[1:]))
    return (
        f"`cameras`: expected frames of one size, got {expected} from {keys[0]} and {got} from {key}. "
        "Choose one camera, or give a `transform` that resizes, such as a model's `resize`."
    )
