"""Video files that would lead FFmpeg to others: playlists, scripts, references inside of containers.

`canary` is what a reader that follows them would find: every frame of it is `COLOUR`.
"""

import ctypes
import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from PIL import Image

COLOUR = (255, 0, 255)
CANARIES = ("canary.mp4", "canary.ts", "canary.mkv", "canary.png")
HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:60\n#EXT-X-MEDIA-SEQUENCE:0\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="0" bandwidth="1" codecs="avc1.64000a" width="32" height="32"><BaseURL>{0}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>"
)
SCRIPTS = {  # ending and text, by kind; {0} is the place of the canary
    "HLS": (".m3u8", HLS + "#EXTINF:2.0,\n{0}\n#EXT-X-ENDLIST\n"),
    "live HLS": (".m3u8", HLS + "#EXTINF:2.0,\n{0}\n"),
    "HLS with a map": (".m3u8", HLS + '#EXT-X-MAP:URI="{0}"\n#EXTINF:2.0,\n{0}\n#EXT-X-ENDLIST\n'),
    "HLS of playlists": (".m3u8", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{0}\n"),
    "concat": (".ffconcat", "ffconcat version 1.0\nfile '{0}'\n"),
    "DASH": (".mpd", DASH),
    "SDP": (".sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=control:{0}\n"),
    "AviSynth": (".avs", 'DirectShowSource("{0}")\n'),
    "filters": (".lavfi", "movie={0}"),
}


def write_still(path: Path, colour: tuple[int, int, int], **options: str) -> None:
    """Write a video of one colour."""
    image = np.full((32, 32, 3), colour, np.uint8)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", 10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def write_canaries(folder: Path) -> None:
    """Write videos and a picture of a colour that no dataset of the tests shows."""
    for name in CANARIES[:3]:
        write_still(folder / name, COLOUR)
    Image.new("RGB", (32, 32), COLOUR).save(folder / CANARIES[3])


def shows_canary(frames: np.ndarray) -> bool:
    """Whether one of the frames [..., H, W, 3] is that of the canary, but for what codecs lose."""
    return bool((np.abs(frames.mean((-3, -2)) - COLOUR).max(-1) < 20).any())


def followed_by_ffmpeg(path: str | os.PathLike[str], **options: str) -> bool:
    """Whether FFmpeg, left to choose, shows the canary there: otherwise nothing was tested."""
    with av.open(os.fspath(path), container_options=options) as container:
        return shows_canary(next(container.decode(video=0)).to_ndarray(format="rgb24"))


class Watched:
    """Which files of a folder any process opens, by Linux's inotify."""

    OPENED, FOLDER = 0x20, 0x40000000

    def __init__(self, folder: Path):
        libc = ctypes.CDLL(None, use_errno=True)
        self._handle = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self._handle, os.fsencode(folder), self.OPENED) >= 0, ctypes.get_errno()

    def opened(self) -> set[str]:
        """Names of those opened so far; nothing more is watched."""
        found, at = set[str](), 0
        try:
            events = os.read(self._handle, 2**20)
        except BlockingIOError:
            events = b""
        os.close(self._handle)
        while at < len(events):
            _, mask, _, length = struct.unpack_from("iIII", events, at)
            if not mask & self.FOLDER:
                found.add(os.fsdecode(events[at + 16 : at + 16 + length].rstrip(b"\0")))
            at += 16 + length
        return found


def ways(path: Path, canary: Path) -> dict[str, str]:
    """Ways to name the canary in a script at `path`."""
    relative = os.path.relpath(canary, path.parent)
    return {"relative": relative, "absolute": str(canary), "file": f"file://{canary}", "concat": f"concat:{canary}"}


def mov_reference(path: Path, canary: Path) -> bytes:
    """A MOV file whose samples lie in the canary, another MP4 file, as QuickTime's data references have it."""
    data = canary.read_bytes()
    begin = data.index(b"moov") - 4
    head, moov = data[: _size(data, 0)], data[begin : begin + _size(data, begin)]
    up, _, down = os.path.relpath(canary, path.parent).rpartition("../")
    levels = struct.pack(">hh", up.count("..") + (2 if down else 1), down.count("/") + 1)
    name, whole = canary.name.encode(), b"vol" + str(canary).replace("/", ":").encode()
    volume = bytes(10) + b"\3" + b"vol".ljust(27, b"\0") + bytes(12)
    alias = volume + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16) + levels + bytes(16)
    alias += struct.pack(">hh", 2, len(whole)) + whole + bytes(len(whole) % 2) + struct.pack(">hh", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    place = moov.index(b"dref") - 4
    old, new = _size(moov, place), struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    out = bytearray(moov[:place] + new + moov[place + old :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf"):
        at = out.index(box) - 4
        out[at : at + 4] = struct.pack(">I", _size(out, at) + len(new) - old)
    return head + bytes(out)


def _size(data: bytes | bytearray, place: int) -> int:
    return struct.unpack_from(">I", data, place)[0]


def matroska_link(source: Path, canary: Path) -> bytes:
    """A Matroska file, made from a live one, that says that the canary comes next."""
    data = source.read_bytes()
    place = data.index(b"\x15\x49\xa9\x66") + 4
    width = 9 - data[place].bit_length()  # of the size, a number whose first bits tell its own length
    length = int.from_bytes(data[place : place + width], "big") & ~(1 << 7 * width)
    name = str(canary).encode()
    link = b"\x3e\xb9\x23\x90" + bytes(range(16)) + b"\x3e\x83\xbb" + (0x4000 | len(name)).to_bytes(2, "big") + name
    body = data[place + width : place + width + length] + link
    return data[:place] + (1 << 56 | len(body)).to_bytes(8, "big") + body + data[place + width + length :]


def avi_subtitles(text: str, frames: int = 10) -> bytes:
    """An AVI file of grey pictures whose subtitles are `text`, which a reader may take for a file of its own."""

    def chunk(name: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)

    def stream(kind: bytes, codec: bytes, form: bytes) -> bytes:
        head = struct.pack("<4s4sIHHIIIIIIIIhhhh", kind, codec, 0, 0, 0, 0, 1, 10, 0, frames, 0, 0, 0, 0, 0, 32, 32)
        return chunk(b"LIST", b"strl", chunk(b"strh", head), chunk(b"strf", form))

    picture = io.BytesIO()
    Image.new("RGB", (32, 32), (90, 90, 90)).save(picture, "JPEG")
    size = struct.pack("<IIIHH4sIIIII", 40, 32, 32, 1, 24, b"MJPG", 3072, 0, 0, 0, 0)
    head = chunk(b"avih", struct.pack("<14I", 100_000, 0, 0, 0, frames, 0, 2, 0, 32, 32, 0, 0, 0, 0))
    streams = stream(b"vids", b"MJPG", size) + stream(b"txts", bytes(4), b"")
    words = b"GAB2\0" + struct.pack("<HI", 2, 2) + bytes(2) + struct.pack("<HI", 4, len(text)) + text.encode()
    movie = chunk(b"LIST", b"movi", chunk(b"01tx", words), chunk(b"00dc", picture.getvalue()) * frames)
    return chunk(b"RIFF", b"AVI ", chunk(b"LIST", b"hdrl", head, streams), movie)


def containers(path: Path, outside: Path) -> dict[str, tuple[str, Callable[[], bytes]]]:
    """Ending and content of files at `path` that are what they seem, but refer to a canary."""

    def live() -> bytes:
        place = path.with_name("live.mkv")
        write_still(place, (90, 90, 90), live="1")
        linked = matroska_link(place, outside / "canary.mkv")
        place.unlink()
        return linked

    _, playlist = SCRIPTS["HLS"]
    return {
        "MOV": (".mov", lambda: mov_reference(path, outside / "canary.mp4")),
        "Matroska": (".mkv", live),
        "AVI": (".avi", lambda: avi_subtitles(playlist.format(outside / "canary.ts"))),
    }
