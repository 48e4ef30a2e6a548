"""Frames from and to video files (PyAV): decoding by timestamp, encoding with short groups of pictures."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from lattok.data.orientation import SEI, Orientation, orientation_of, orientation_of_container
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.untrusted import copy_again

BLOCK = 64  # frames per decoded block: 64 x 480 x 640 x 3 bytes = 59 MB
BLOCK_BYTES = 2**28  # of larger frames a block holds fewer
MOST_PIXELS = 2**25  # per frame, 8K: a damaged header may claim anything, and memory is claimed before a pixel is read
EMPTY_END = 2**26  # bytes: no video ends in as many zeros, and a demuxer searches them one by one
# The containers that are opened, by FFmpeg's names. Left to choose, it also takes playlists and scripts, which lead to
# other files; inside of a container, subtitles and references could do the same.
SUFFIXES = (".mp4", ".m4v", ".webm", ".mkv", ".mov", ".avi", ".ts")
OTHER_SUFFIXES = (  # videos, not opened
    *(".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".ogv", ".vob", ".mxf", ".divx"),
    *(".h264", ".h265", ".hevc", ".mjpeg", ".y4m", ".gif", ".apng"),
)
MOV = b"ftyp styp moov moof mdat sidx wide free skip junk pict pnot prfl udta uuid emsg".split()  # first box of a file
KEEP_IN = {"format_whitelist": "mov,matroska,avi,mpegts", "protocol_whitelist": "file", "enable_drefs": "0"}
STILL = frozenset(["mjpeg", "png", "bmp", "gif", "webp"])  # codecs of covers, beside others
EXACT_FPS = 1e5  # for decode_at: wanted times are those of existing frames to within 5 µs
SEEK_GAP_S = 1.0  # a longer hole between wanted frames is skipped by seeking
# from 17 on PyAV converts colours with as many threads as there are cores: for one frame the hand-over costs more
VERSION = int(av.__version__.split(".")[0])
ONE_THREAD = {"threads": 1} if VERSION >= 17 else {}

# GOP of 2 as LeRobot writes: any frame costs at most two decodes
CODECS = {
    "libsvtav1": {"g": "2", "crf": "30", "preset": "10"},
    "h264": {"g": "2", "crf": "23", "preset": "veryfast", "tune": "zerolatency"},
}
SMALLEST_AV1 = 32 if VERSION < 17 else 1  # pixels a side: below, the encoder of PyAV 15 ends Python, of 16 hangs
CODEC_OF = {"libsvtav1": "av1", "h264": "h264"}  # what each encoder makes


class VideoFacts(NamedTuple):  # header of a video file
    frames: int  # 0 where the container does not say
    fps: float
    width: int
    height: int
    codec: str
    hdr: str = ""  # the curve of brightness of HDR, which is decoded as if it were the usual one


HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's numbers of the curves


def probe(path: Path) -> VideoFacts:
    """Read the header of a video, without decoding it."""
    with open_video(path) as container:
        stream = track_of(container)
        rate = stream.average_rate or stream.base_rate or 0
        hdr = HDR.get(stream.codec_context.color_trc, "")
        return VideoFacts(stream.frames, float(rate), stream.width, stream.height, stream.codec.canonical_name, hdr)


def track_of(container: InputContainer) -> VideoStream:
    """Return the track that is read of a file: the first that is no cover."""
    tracks = container.streams.video
    kinds = {track.codec_context.name for track in tracks if track.codec_context}
    covers = STILL if kinds - STILL else frozenset[str]()
    films = (track for track in tracks if track.codec_context is None or track.codec_context.name not in covers)
    return next((track for track in films if track.frames != 1), tracks[0])


def decode_at(path: Path, timestamps: np.ndarray, fps: float) -> Iterator[np.ndarray]:
    """Frames nearest to ascending `timestamps` (seconds), in blocks uint8 [n, H, W, 3] with n <= 64.

    Whatever the video holds (grey, with transparency) comes as RGB. A block is a view of one buffer: use or copy it
    before asking for the next. A time without a frame within half a frame interval is an error with file and time, and
    so is a frame that the decoder had to repair, also one that only others between the wanted ones are made from.

    What no decoder can tell stays unnoticed: containers and most codecs have no checksums, so that a changed bit may
    decode to other pixels, colours or times that are just as possible.
    """
    breaks = np.flatnonzero(np.diff(timestamps) > SEEK_GAP_S) + 1
    to_rgb = VideoReformatter()  # kept: setting one up for every frame costs more than decoding
    buffer, filled = np.empty((0, 0, 0, 3), dtype=np.uint8), 0
    orientation: Orientation | None = None
    with open_video(path) as container:
        for run in np.split(timestamps, breaks):
            for frame in _nearest(path, container, run, 0.5 / fps):
                orientation = orientation or _orientation(path, container, frame)
                image = orientation.apply(to_rgb.reformat(frame, format="rgb24", **ONE_THREAD).to_ndarray())
                if filled and (filled == len(buffer) or image.shape != buffer.shape[1:]):
                    yield buffer[:filled]
                    filled = 0
                if image.shape != buffer.shape[1:]:
                    size = max(1, min(BLOCK, len(timestamps), BLOCK_BYTES // image.nbytes))
                    buffer = np.empty((size, *image.shape), dtype=np.uint8)
                buffer[filled] = image
                filled += 1
        if filled:
            yield buffer[:filled]


def _orientation(path: Path, container: InputContainer, frame: av.VideoFrame) -> Orientation:
    """Return how a video is turned, from any of its frames: each has the container's matrix, if there is one."""
    found = orientation_of(frame)
    if found is None or track_of(container).codec.canonical_name not in SEI:
        return found or Orientation()
    with open_video(path) as again:  # the frame's may be its own
        return orientation_of_container(again, track_of(again))


def _nearest(path: Path, container: InputContainer, wanted: np.ndarray, tolerance: float):
    """Yield one decoded frame for each of the ascending times `wanted`."""
    before, i = None, 0
    for frame in _decoded(path, container, float(wanted[0])):
        while i < len(wanted) and wanted[i] <= frame.time:
            closer_before = before is not None and wanted[i] - before.time < frame.time - wanted[i]
            yield _checked(path, before if closer_before else frame, wanted[i], tolerance)
            i += 1
        if i == len(wanted):
            return
        before = frame
    for time in wanted[i:]:
        yield _checked(path, before, time, tolerance)


def _checked(path: Path, frame: av.VideoFrame | None, wanted: float, tolerance: float) -> av.VideoFrame:
    if frame is None or abs(frame.time - wanted) > tolerance:
        nearest = "none" if frame is None else f"the nearest at {frame.time:.3f} s"
        reason = "The video is truncated or does not belong to this dataset"
        way_out = "copy it again, or leave its episodes out with `episodes`"
        raise LattokError(f"{path}: expected a frame at {wanted:.3f} s, got {nearest}. {reason}: {way_out}.")
    return frame


def _decoded(path: Path, container: InputContainer, start: float) -> Iterator[av.VideoFrame]:
    """Yield frames in order of time, the first of them at or before `start` seconds if there is one."""
    stream = track_of(container)
    tick = float(stream.time_base or 1)
    begin = min(0.0, (stream.start_time or 0) * tick)
    back = 0.0
    while True:
        target = max(begin, start - back)
        container.seek(int(target / tick), stream=stream, backward=True)
        frames = _sound(path, container, start if target == begin else None)
        first = next(frames, None)
        if target == begin or (first is not None and first.time <= start):
            break
        # files tell when key frames are decoded, not when they are shown: with B frames that may be too late
        back = max(SEEK_GAP_S, 4 * back)
    if first is not None:
        yield first
        yield from frames


def _sound(path: Path, container: InputContainer, start: float | None) -> Iterator[av.VideoFrame]:
    """Frames that the decoder had all parts of. Those before the first key frame may be made from ones that seeking
    left out, and are passed over. After a seek to the very beginning all from `start` seconds on must be there."""
    known = False
    for frame in container.decode(track_of(container)):
        if frame.time is None:
            continue
        known = known or bool(frame.key_frame)
        if not frame.is_corrupt:
            yield frame
        elif known or (start is not None and frame.time >= start):
            raise _damaged(path, f"the frame at {frame.time:.3f} s is incomplete")


def _demuxer(path: Path) -> str:
    """Return the container that a file is by its name and its first bytes, whatever FFmpeg would make of it."""
    try:
        with path.open("rb", buffering=0) as file:
            head = file.read(12)
    except OSError as error:
        raise _damaged(path, error.strerror or type(error).__name__) from None
    known = path.suffix.lower() in SUFFIXES
    if known and head[4:8] in MOV:
        return "mov"
    if known and head[:4] == b"\x1a\x45\xdf\xa3":
        return "matroska"
    if known and head[:4] == b"RIFF" and head[8:11] == b"AVI":
        return "avi"
    if known and head[:1] == b"G" and path.suffix.lower() == ".ts":  # every packet begins so
        return "mpegts"
    what = f"by its {'first bytes' if known else 'name'} it is no MP4, MOV, Matroska, WebM, AVI or MPEG-TS file"
    way_out = copy_again(path, "It is truncated or damaged, or of another kind: copy it again, or convert it to mp4.")
    raise LattokError(f"cannot open video {path}: {what}. {way_out}")


def _ends_empty(path: Path) -> bool:
    """Return whether the last 64 MB are zeros, judged by one page of every MB."""
    if (size := path.stat().st_size) < EMPTY_END:
        return False
    with suppress(OSError), path.open("rb", buffering=0) as file:  # opening it says what is wrong
        for back in range(2**20, EMPTY_END + 1, 2**20):
            file.seek(size - back)
            if file.read(4096).strip(b"\0"):
                return False
        return True
    return False


@contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """Open a file with a video stream. Whatever PyAV raises over a damaged one becomes a `LattokError` of one line."""
    try:
        if not path.is_file():
            way_out = copy_again(path, "Download or copy it again, or choose other cameras with `cameras`.")
            raise LattokError(f"missing video file {path}. {way_out}")
        if _ends_empty(path):
            what = "only zeros follow, as after a download that stopped"
            raise LattokError(f"{path} is truncated: {what}. Copy it again.")
        # `file:`, as a name may look like one of FFmpeg's protocols: concat:/home/me/other.mp4
        with av.open(f"file:{path}", format=_demuxer(path), container_options=KEEP_IN) as container:
            if not container.streams.video:
                raise LattokError(f"{path} holds no video stream. Copy the file again.")
            if (decoder := track_of(container).codec_context) is None:
                raise _damaged(path, "of an unknown codec")
            # one thread: a decoder's own threads log through Python and wait for each other for ever when the file is
            # closed; whoever has cores to spare decodes several episodes at once
            decoder.thread_count = 1
            decoder.options = {"max_pixels": str(MOST_PIXELS)}
            yield container
    except LattokError:
        raise
    except (av.error.FFmpegError, ValueError, ArithmeticError, MemoryError, EOFError, UnicodeError) as error:
        raise _damaged(path, getattr(error, "strerror", None) or type(error).__name__) from None


def _damaged(path: Path, reason: str) -> LattokError:
    return LattokError(f"cannot decode video {path} ({reason}). It is truncated or damaged: copy it again.")


def check_codec(codec: str, size: tuple[int, ...]) -> None:
    """Check that the installed PyAV can encode frames of a size (height, width)."""
    checks.one_of("video_codec", codec, CODECS)
    if codec == "libsvtav1" and min(size) < SMALLEST_AV1:
        got = f"{codec} for {size[0]} x {size[1]} with PyAV {av.__version__}"
        checks.fail("video_codec", f"h264 for frames below {SMALLEST_AV1} pixels a side, or PyAV 17", got)


def codec_for(cameras: Iterable[tuple[int, ...]], codec: str = "libsvtav1") -> str:
    """Return `codec`, or h264 where the installed PyAV cannot encode cameras of shapes (height, width, ...) in it."""
    return "h264" if any(min(shape[:2]) < SMALLEST_AV1 for shape in cameras) else codec


def exact_rate(fps: float) -> Fraction:
    """Return frames per second as the fraction that is meant, as 30000/1001 for 29.97."""
    return Fraction(fps).limit_denominator(1001) if fps >= 1 else 1 / exact_rate(1 / fps)


class VideoWriter:
    """Writes one video file of a constant frame rate, episode after episode."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int], codec: str, threads: int | None = None):
        """Open `path` for frames of `size` = (height, width), both even."""
        self._closed = True  # until there is something to close
        check_codec(codec, size)
        if size[0] % 2 or size[1] % 2:
            checks.fail("frames", "an even height and width (yuv420p)", f"{size[0]} x {size[1]}", "Crop one row.")
        os.environ.setdefault("SVT_LOG", "1")  # errors only: the AV1 encoder prints its settings for every file
        options = dict(CODECS[codec])
        if threads is not None:
            options |= {"svtav1-params": f"lp={threads}"} if codec == "libsvtav1" else {"threads": str(threads)}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(f"file:{path}", "w", format="mp4")  # as when reading: "run-12:30" is no protocol
        self._stream = cast(VideoStream, self._container.add_stream(codec, exact_rate(fps), options=options))
        self._stream.pix_fmt, self._stream.height, self._stream.width = "yuv420p", *size
        # the AV1 encoder makes whoever opens it as root real-time, which starves other processes
        scheduling = (os.sched_getscheduler(0), os.sched_getparam(0)) if hasattr(os, "sched_getscheduler") else None
        try:
            self._container.start_encoding()
        finally:
            if scheduling is not None:
                os.sched_setscheduler(0, *scheduling)
        self._closed = False
        self.frames = 0  # frames written
        self.bytes = 0  # bytes that left the encoder so far

    def add(self, frames: np.ndarray) -> None:
        """Append frames uint8 [T, H, W, 3] of the size that the file has."""
        for image in frames:
            self._mux(self._stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
            self.frames += 1

    def close(self) -> None:
        self._closed = True
        self._mux(self._stream.encode())
        self._container.close()

    def __del__(self) -> None:
        """End what an error left open: the AV1 encoder complains otherwise."""
        if not self._closed:
            with suppress(Exception):
                self._stream.encode()

    def _mux(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            self.bytes += packet.size
            self._container.mux(packet)


class VideoJoiner:
    """Writes one video file from clips of `VideoWriter`, with the same arguments, without encoding again."""

    def __init__(self, path: Path, fps: float, size: tuple[int, int], codec: str):
        self._kind = (*size, CODEC_OF[codec])
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(f"file:{path}", "w", format="mp4")
        self._frame = 1 / exact_rate(fps)
        self._stream: VideoStream | None = None
        self.frames = 0  # frames written
        self.bytes = 0  # their size

    def add(self, clip: Path) -> None:
        with open_video(clip) as source:
            given = source.streams.video[0]
            kind = (given.height, given.width, given.codec.canonical_name)
            if kind != self._kind:
                checks.fail("frames", "a clip {1} x {0} of {2}".format(*self._kind), "{1} x {0} of {2}".format(*kind))
            self._stream = self._stream or self._container.add_stream_from_template(given, opaque=True)
            for packet in source.demux(given):
                if packet.size:  # the last one is the demuxer's end
                    packet.stream, packet.time_base = self._stream, self._frame
                    packet.pts = packet.dts = self.frames  # shown in the order in which they are stored
                    packet.duration = 1
                    self._container.mux(packet)
                    self.frames += 1
                    self.bytes += packet.size

    def close(self) -> None:
        self._container.close()
