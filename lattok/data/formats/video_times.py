"""When the frames of video files are shown, told from their packets, without decoding: of one file, and of thousands.

Of a folder of a thousand videos or more it is kept, in Hugging Face's cache for assets (HF_ASSETS_CACHE), by size and
time of each file: opening it again reads only new and changed ones. A damaged or read-only cache counts as none.
"""

import hashlib
import os
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.container import InputContainer
from av.video.stream import VideoStream

from lattok.data.tables import DAMAGE, read_table
from lattok.data.video import open_video, track_of
from lattok.utils.checks import LattokError, counted
from lattok.utils.devices import cores
from lattok.utils.files import whole_file
from lattok.utils.progress import ProgressBar

IRREGULAR = 0.25  # of a frame interval: a frame further from its place in the grid of a rate does not fit the rate
CUT_SHORT_S = 0.5  # a file whose packets end this much before the end that its header promises is truncated
MAX_SPAN_S = 7 * 86400  # a week; a changed bit in a time can claim centuries
FEW = 2  # frames of a film, at least
VP8_SHOWN = 0x10  # bit of a frame's first byte; frames without it only serve others
THREADS = 8  # that open files, or one for each core: on network drives the wait is longer than the work
FILES_PER_TASK = 16  # files that a thread takes at once
MIN_CACHED_VIDEOS = 1000  # videos of which a progress bar tells and a cache is kept


class VideoTimes(NamedTuple):
    """What the packets of a video file say, in a few bytes, as most frames are equally far apart; and which file."""

    first: int  # when the first frame is shown, by the file's clock
    gaps: bytes  # between frames, int64, by zlib
    end: float  # when the last frame stops being shown, in seconds
    tick: float  # resolution of the file's clock, in seconds
    rate: float  # frames per second; of a variable rate the average, rounded; 0 where nothing tells
    height: int  # as coded
    width: int
    file: bytes = b""  # its path
    bytes: int = 0
    modified_ns: int = 0
    tracks: int = 1  # films in the file, of which one is read

    @classmethod
    def of(cls, ticks: np.ndarray, end: float, tick: float, rate: float, size: tuple[int, int]) -> "VideoTimes":
        """Pack the times [n] int64 of frames, ascending, by the file's clock."""
        gaps = zlib.compress(np.diff(ticks).astype("<i8").tobytes(), 1)
        return cls(int(ticks[0]), gaps, end, tick, rate, *size)

    @property
    def times(self) -> np.ndarray:
        """When each frame is shown, in seconds, float64 [n]."""
        gaps = np.frombuffer(zlib.decompress(self.gaps), dtype="<i8")
        return np.cumsum(np.append(self.first, gaps)) * self.tick


WHOLE, REAL = pa.int64(), pa.float64()
KINDS = (WHOLE, pa.binary(), REAL, REAL, REAL, WHOLE, WHOLE, pa.binary(), WHOLE, WHOLE, WHOLE)
SCHEMA = pa.schema(zip(VideoTimes._fields, KINDS, strict=True))


def read_times(path: Path) -> VideoTimes:
    """Read all packets of a video file. A file that is damaged or cut short is a `LattokError`."""
    with open_video(path) as container:
        stream = track_of(container)
        if container.format.name == "avi" and stream.codec_context.has_b_frames:
            raise LattokError(f"{path}: AVI does not say when B frames are shown. Convert it to mp4.")
        tick = float(stream.time_base or 1)
        ticks, durations, end = _shown(path, container, stream)
        if not ticks:
            raise LattokError(f"{path} holds no frame that can be decoded. Copy it again or remove it.")
        order = np.argsort(ticks, kind="stable")
        ordered = np.array(ticks, dtype=np.int64)[order]
        times = ordered * tick
        _check_span(path, container, stream, float(times[0]), end)
        last = durations[order[-1]] * tick or (float(np.median(np.diff(times))) if len(times) > 1 else 0.0)
        rates = [float(rate or 0) for rate in (stream.base_rate, stream.average_rate)]
        size = (stream.codec_context.height, stream.codec_context.width)
        tracks = sum((each.frames or FEW) >= FEW for each in container.streams.video)  # a cover has one
    found = VideoTimes.of(ordered, float(times[-1]) + last, tick, _rate(times, rates), size)
    return found._replace(tracks=tracks)


def _shown(path: Path, container: InputContainer, stream: VideoStream) -> tuple[list[int], list[int], float]:
    """List times and durations (ticks) of the frames that decoding gives; and when the last stream ends (s)."""
    ticks: list[int] = []
    durations: list[int] = []
    first_key, ends = None, {each.index: 0 for each in container.streams}
    for packet in container.demux([stream, *container.streams.audio]):
        if packet.is_corrupt:
            raise LattokError(f"{path} is truncated: a packet is incomplete. Copy it again.")
        if not packet.size:  # an empty one ends each stream
            continue
        if packet.pts is not None:
            ends[packet.stream_index] = max(ends[packet.stream_index], packet.pts + (packet.duration or 0))
        if packet.stream_index != stream.index:
            continue
        if packet.pts is None:
            raise LattokError(f"{path}: its frames have no presentation times. Convert it to mp4.")
        if first_key is None and packet.is_keyframe:
            first_key = packet.pts
        # before the first key frame there is nothing to decode from; edit lists discard frames
        if first_key is None or packet.pts < first_key or packet.is_discard:
            continue
        if stream.codec_context.name == "vp8" and not bytes(packet)[0] & VP8_SHOWN:
            continue
        ticks.append(packet.pts)
        durations.append(packet.duration or 0)
    shown = (float(last * (container.streams[index].time_base or 0)) for index, last in ends.items() if last)
    return ticks, durations, max(shown, default=0.0)


def _check_span(path: Path, container: InputContainer, stream: VideoStream, start: float, end: float) -> None:
    """Check that packets reach the end that the header promises, where it does, and are of this world."""
    if end - start > MAX_SPAN_S:
        raise LattokError(f"{path} is damaged: its frames lie {end - start:.0f} s apart. Copy it again.")
    if container.format.name.startswith("matroska"):  # counts from zero, for the longest stream
        promised = (container.duration or 0) / av.time_base
    else:
        promised = start + float((stream.duration or 0) * (stream.time_base or 0))
    if end < promised - CUT_SHORT_S:
        raise LattokError(f"{path} is truncated: {promised:.1f} s long, ends after {end:.1f} s. Copy it again.")


def _rate(times: np.ndarray, header: list[float]) -> float:
    """Return the first rate that the times keep to: the header's, a whole number, their average; otherwise rounded."""
    span = float(times[-1] - times[0])
    if span <= 0:
        return next((rate for rate in header if rate > 0), 0.0)
    average = (len(times) - 1) / span
    rounded = float(max(1, round(average)))
    return next((rate for rate in (*header, rounded, average) if keeps_to(times, rate)), rounded)


def keeps_to(times: np.ndarray, fps: float) -> bool:
    """Return whether frame i is shown at start + i / fps, for all frames."""
    return fps > 0 and bool(np.all(np.abs((times - times[0]) * fps - np.arange(len(times))) <= IRREGULAR))


def read_all(root: Path, files: Sequence[str]) -> tuple[dict[int, VideoTimes], dict[int, str]]:
    """Return what the packets of every readable video say, and why the others are not; by their numbers. Reads several
    files at once. What is read is kept for the next time, also when an interrupt ends it."""
    known = _kept(root) if len(files) >= MIN_CACHED_VIDEOS else {}
    read: dict[int, VideoTimes] = {}
    reasons: dict[int, str] = {}

    def task(start: int) -> list[VideoTimes | str]:
        return [_read(root, file, known) for file in files[start : start + FILES_PER_TASK]]

    pool = ThreadPoolExecutor(min(max(THREADS, cores()), len(files)))
    starts = range(0, len(files), FILES_PER_TASK)
    try:
        with ProgressBar("videos", quiet=len(files) < MIN_CACHED_VIDEOS) as progress:
            for start, part in zip(starts, pool.map(task, starts), strict=True):
                for number, found in enumerate(part, start):
                    if isinstance(found, VideoTimes):
                        read[number] = found
                    else:
                        reasons[number] = found
                progress(min(start + FILES_PER_TASK, len(files)), len(files))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt must not wait for 10^5 files
        if len(files) >= MIN_CACHED_VIDEOS and any(known.get(video.file) is not video for video in read.values()):
            columns = dict(zip(VideoTimes._fields, map(list, zip(*read.values(), strict=True)), strict=True))
            with suppress(*DAMAGE), whole_file(_place(root)) as temporary:  # a full or read-only disk
                pq.write_table(pa.table(columns, SCHEMA), temporary, write_page_checksum=True)
    if not read:
        raise LattokError(f"{root}: none of {counted(len(files), 'video')} can be read, first {reasons[0]}")
    return read, reasons


def _read(root: Path, file: str, known: Mapping[bytes, VideoTimes]) -> VideoTimes | str:
    name = os.fsencode(file)
    try:
        facts = os.stat(root / file)
        before = known.get(name)
        if before is not None and (before.bytes, before.modified_ns) == (facts.st_size, facts.st_mtime_ns):
            return before
        return read_times(root / file)._replace(file=name, bytes=facts.st_size, modified_ns=facts.st_mtime_ns)
    except LattokError as error:
        return str(error)
    except OSError as error:
        return f"cannot read {root / file} ({error.strerror}). Copy it again or remove it."


def _place(root: Path) -> Path:
    from huggingface_hub import constants

    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
    return Path(constants.HF_ASSETS_CACHE) / "lattok" / "videos" / f"{name}.parquet"


def _kept(root: Path) -> dict[bytes, VideoTimes]:
    """Return what an earlier opening kept, by path; nothing where that is damaged or of another version."""
    with suppress(LattokError, *DAMAGE):
        table = read_table(_place(root))
        if table.schema.equals(SCHEMA):
            columns = [table[name].to_pylist() for name in VideoTimes._fields]
            return {video.file: video for video in map(VideoTimes, *columns)}
    return {}
