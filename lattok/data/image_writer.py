"""How a dataset keeps what its cameras see: video files that roll over, or encoded images in the data table."""

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lattok.data.images import decode_image, encode_png, is_rgb
from lattok.data.summaries import QUANTILES, Stats
from lattok.data.tables import MEGABYTE
from lattok.data.video import VideoJoiner, VideoWriter
from lattok.utils import checks

VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
PLACE_COLUMNS = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})  # as `datasets` stores images


class ImageStats:
    """Statistics per channel, scaled to [0, 1] and shaped [3, 1, 1], of sampled pixels of T frames, block by block."""

    def __init__(self, length: int):
        count = min(length, max(100, min(int(length**0.75), 10_000)))
        self._wanted = np.round(np.linspace(0, length - 1, count)).astype(int)
        self._seen = 0
        self._counts = np.zeros((3, 256), dtype=np.int64)  # pixels by channel and value

    def add(self, frames: np.ndarray) -> None:
        """Take in the next frames, uint8 [n, H, W, 3]."""
        first, last = np.searchsorted(self._wanted, [self._seen, self._seen + len(frames)])
        coarse = max(1, max(frames.shape[1:3]) // 150)
        for index in self._wanted[first:last] - self._seen:
            for counts, channel in zip(self._counts, frames[index, ::coarse, ::coarse].reshape(-1, 3).T, strict=True):
                counts += np.bincount(channel, minlength=256)
        self._seen += len(frames)

    def result(self) -> Stats:
        value = np.arange(256) / 255
        ends = self._counts.cumsum(1)
        total = int(ends[0, -1])

        def ranked(rank: float) -> np.ndarray:  # pixel of each channel, between two where the rank is no whole number
            both = (int(rank), math.ceil(rank))
            low, high = (value[[np.searchsorted(end, r, side="right") for end in ends]] for r in both)
            return low + (rank - int(rank)) * (high - low)

        mean = self._counts @ value / total
        spread = (self._counts * (value - mean[:, None]) ** 2).sum(1) / total
        stats = {"min": ranked(0), "max": ranked(total - 1), "mean": mean, "std": np.sqrt(spread)}
        stats |= {name: ranked(q * (total - 1)) for name, q in QUANTILES.items()}
        sampled = int((self._wanted < self._seen).sum())
        return {name: part.reshape(3, 1, 1) for name, part in stats.items()} | {"count": np.array([sampled])}


@dataclass(frozen=True)
class Clip:
    """One camera of an episode, encoded already: see `encode_clip`."""

    path: Path
    length: int
    stats: Stats  # of its frames

    def __len__(self) -> int:
        return self.length


def encode_clip(path: Path, frames: np.ndarray, fps: float, codec: str) -> Clip:
    """Encode frames uint8 [T, H, W, 3] to the file `path`, by one thread: the same bytes on every machine."""
    stats = ImageStats(len(frames))
    stats.add(frames)
    video = VideoWriter(path, fps, (frames.shape[1], frames.shape[2]), codec, threads=1)
    video.add(frames)
    video.close()
    return Clip(path, len(frames), stats.result())


Frames = np.ndarray | Sequence[bytes] | Iterator[np.ndarray] | Clip


class EpisodeFrames:
    """What one camera sees in an episode of T frames, on its way into the dataset: checked, counted, measured. `frames`
    are uint8 [T, H, W, 3], or blocks of them in order, or T encoded images, or a clip. `shape` is (H, W, 3)."""

    def __init__(self, key: str, shape: tuple[int, ...], frames: Frames, length: int):
        self.key, self.size = key, (shape[0], shape[1])
        self.encoded = not isinstance(frames, np.ndarray | Iterator)
        self.clip = frames if isinstance(frames, Clip) else None  # encoded as a video
        self._frames, self._length, self._seen = frames, length, 0
        self._stats = ImageStats(length)

    def blocks(self) -> Iterator[np.ndarray]:
        if self.encoded:
            checks.fail(self.key, "uint8 frames for a video", "encoded images", 'Declare its dtype "image".')
        given: Any = [self._frames] if isinstance(self._frames, np.ndarray) else self._frames
        for block in given:
            self._see(block)
            yield block
        checks.size(self.key, "frames", self._seen, self._length)

    def images(self) -> list[bytes]:
        """All frames as encoded images: pixels become PNG, images that are encoded in colour stay as they are."""
        if not self.encoded:
            return [encode_png(image) for block in self.blocks() for image in block]
        if self.clip:
            checks.fail(self.key, "images", "a video", 'Declare its dtype "video".')
        kept = []
        for number, data in enumerate(self._frames):  # type: ignore[arg-type]
            # decoded to the end although only some are measured: half an image must not pass for a whole one
            pixels = decode_image(data, f"`{self.key}`, frame {number}")
            self._see(pixels[None])
            kept.append(data if is_rgb(data) else encode_png(pixels))  # LeRobot gives a grey one a single channel
        checks.size(self.key, "frames", self._seen, self._length)
        return kept

    def stats(self) -> Stats:
        return self.clip.stats if self.clip else self._stats.result()

    def _see(self, block: np.ndarray) -> None:
        if block.dtype != np.uint8:
            checks.fail(self.key, "uint8 frames", str(block.dtype))
        if block.shape[1:] != (*self.size, 3):
            checks.fail(self.key, f"frames of shape {[*self.size, 3]}", f"{list(block.shape[1:])}")
        self._stats.add(block)
        self._seen += len(block)


class RollingVideos:
    """Video files of one camera: episodes go to the end of the current file; a full one is closed first."""

    def __init__(
        self, folder: Path, key: str, fps: float, codec: str, threads: int | None, chunk_files: int, limit_mb: float
    ):
        self._folder, self._key, self._fps = folder, key, fps
        self._codec, self._threads = codec, threads
        self._chunk_files, self._limit = chunk_files, limit_mb * MEGABYTE
        self._number = 0  # of the current file, over all folders
        self._file: VideoWriter | VideoJoiner | None = None

    def write(self, frames: EpisodeFrames) -> dict[str, Any]:
        """Encode an episode; returns where it is, as columns of its row in meta/episodes."""
        clip = frames.clip
        kind = VideoJoiner if clip else VideoWriter
        if self._file is not None and (self._file.bytes >= self._limit or not isinstance(self._file, kind)):
            self.close()
            self._number += 1
        place = chunk, file = divmod(self._number, self._chunk_files)
        if self._file is None:
            path = VIDEO_PATH.format(video_key=self._key, chunk_index=chunk, file_index=file)
            options = () if clip else (self._threads,)
            self._file = kind(self._folder / path, self._fps, frames.size, self._codec, *options)
        first = self._file.frames
        if isinstance(self._file, VideoWriter):
            for block in frames.blocks():
                self._file.add(block)
        elif clip:
            self._file.add(clip.path)
            checks.size(self._key, "frames", self._file.frames - first, len(clip))
        values = (*place, first / self._fps, self._file.frames / self._fps)
        return {f"videos/{self._key}/{name}": value for name, value in zip(PLACE_COLUMNS, values, strict=True)}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


class VideoCopies:
    """Video files of one camera that are copied whole: where episodes lie within them stays as it is."""

    def __init__(self, folder: Path, key: str, chunk_files: int):
        self._folder, self._key, self._chunk_files = folder, key, chunk_files
        self._places: dict[Path, tuple[int, int]] = {}

    def write(self, span: "VideoSpan") -> dict[str, Any]:
        """Copy the file, unless it is there already; returns where the episode is, as columns of meta/episodes."""
        if span.path not in self._places:
            place = chunk, file = divmod(len(self._places), self._chunk_files)
            target = self._folder / VIDEO_PATH.format(video_key=self._key, chunk_index=chunk, file_index=file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(span.here, target)
            self._places[span.path] = place
        values = (*self._places[span.path], span.start, span.stop)
        return {f"videos/{self._key}/{name}": value for name, value in zip(PLACE_COLUMNS, values, strict=True)}


class VideoSpan(NamedTuple):
    """Where an episode lies in a video: seconds of a file, which is at `here` for now."""

    path: Path
    start: float
    stop: float
    here: Path
