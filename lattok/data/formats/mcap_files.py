"""MCAP files: which there are, what their topics hold, when messages were logged, and how these are decoded."""

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lattok.data.formats.array_listing import natural
from lattok.data.formats.ros_messages import JOINTS, ROSTopic, field_of
from lattok.utils import checks
from lattok.utils.checks import LattokError, first_line, is_our_fault
from lattok.utils.untrusted import copy_again, parse_json, safe_path, walk
from lattok.version import install_extra

ROSBAG = "metadata.yaml"  # of a folder whose files are one recording
FEW = 16  # messages of joints that are looked at
LEAVE_OUT = "Leave it out of `topics`."
READERS = ("mcap.reader", "mcap_ros2.decoder")
MESSAGE_BYTES = 31  # of an empty one: 9 of any record, and its channel, number and times


class LogTimes(NamedTuple):  # of the messages of a topic in a recording, in the order in which they are read
    log: np.ndarray  # nanoseconds [n] uint64, ascending in each file: where the library finds a message
    ends: tuple[int, ...]  # of the messages of each file
    seconds: np.ndarray  # [n] float64 by the chosen clock, ascending
    back: float  # seconds by which that clock was set back, at most, while messages were recorded


def _module(module: str) -> Any:
    try:
        return import_module(module)  # which only this format needs
    except ImportError:
        raise LattokError(f"reading MCAP recordings needs mcap. Install it: {install_extra('mcap')}") from None


def require_readers() -> None:
    """Raise an error if a package that reads such files is missing."""
    for module in READERS:
        _module(module)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Whatever the library raises over a damaged file becomes one line that names it."""
    try:
        yield
    except LattokError:
        raise
    except Exception as error:  # decoders of strangers' message definitions raise errors of many kinds
        if is_our_fault(error):
            raise
        mended = path.with_name(f"mended_{path.name}")
        way_out = copy_again(path, f"If the recorder was killed: mcap recover {path} -o {mended}")
        raise LattokError(
            f"cannot read {path} as MCAP ({type(error).__name__}: {first_line(error)}). {way_out}"
        ) from None


@contextmanager
def opened(file: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file; returns its reader, and what decodes a message of it."""
    with _reading(file), ExitStack() as stack:
        factory = _module("mcap_ros2.decoder").DecoderFactory()
        stream = stack.enter_context(file.open("rb"))
        decoders: dict[int, Any] = {}

        def decode(schema: Any, channel: Any, message: Any) -> Any:
            if channel.message_encoding == "json":
                value = parse_json(message.data, f"{file}, {channel.topic}", nan=True)
                return value if isinstance(value, dict) else {"value": value}
            if channel.id not in decoders:
                known = channel.message_encoding == schema.encoding == "protobuf" if schema else False
                make = _protobuf_decoder if known else partial(factory.decoder_for, channel.message_encoding)
                decoders[channel.id] = make(schema) if schema else None
            if decoders[channel.id] is None:
                got = f"{channel.message_encoding or '?'} as {schema.encoding if schema else '?'}"
                expected = "messages of ROS 2 (cdr), JSON or protobuf"
                ros_1 = channel.message_encoding == "ros1"
                way_out = f"Convert the .bag it was made of: {conversion('FILE.bag')}" if ros_1 else LEAVE_OUT
                checks.refuse(f"{file}, {channel.topic}", expected, got, way_out)
            return decoders[channel.id](message.data)

        yield _module("mcap.reader").make_reader(stream), decode


def _protobuf_decoder(schema: Any) -> Callable[[bytes], dict[str, Any]]:
    """Return what decodes messages of protobuf, such as Foxglove's, whose definitions are in the file."""
    descriptors, factory = _module("google.protobuf.descriptor_pb2"), _module("google.protobuf.message_factory")
    files = {each.name: each for each in descriptors.FileDescriptorSet.FromString(schema.data).file}
    pool = _module("google.protobuf.descriptor_pool").DescriptorPool()

    def add(name: str) -> None:  # after what it imports
        file = files.pop(name, None)
        for other in file.dependency if file is not None else ():
            add(other)
        if file is not None:
            pool.Add(file)

    while files:
        add(next(iter(files)))
    kind = factory.GetMessageClass(pool.FindMessageTypeByName(schema.name))
    return lambda data: _plain(kind.FromString(data))


def _plain(message: Any) -> dict[str, Any]:
    """Return a message of protobuf as JSON has it, but for bytes."""
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.message_type is None:
            found[field.name] = value if isinstance(value, str | bytes | float | int) else [*value]
        elif field.has_presence:
            found[field.name] = _plain(value) if message.HasField(field.name) else {}
        else:
            found[field.name] = [] if field.message_type.GetOptions().map_entry else [_plain(each) for each in value]
    return found


def conversion(source: str) -> str:
    """Return the command that makes MCAP of another recording."""
    return shlex.join(["rosbags-convert", "--src", source, "--dst", "converted", "--dst-storage", "mcap"])


def first_few(files: Sequence[Path], topic: ROSTopic) -> list[Any]:
    """Return the first message of a topic; of joints the first few, as several programs may send some of them each."""
    found: list[Any] = []
    wanted = FEW if topic.fields == JOINTS.get(topic.type) else 1
    for file in files:
        with opened(file) as (reader, decode):
            few = islice(reader.iter_messages(topics=[topic.name]), wanted - len(found))
            found += [decode(*each) for each in few]
        if len(found) == wanted:
            break
    if not found:
        checks.refuse(files[0], f"messages of {topic.name}, as its summary says", "none", "Copy the file again.")
    return found


def times_of(files: Sequence[Path], topics: Collection[str], header: bool) -> dict[str, LogTimes]:
    """Times of the messages of topics, of the log, and in seconds of the log or of their headers."""
    log: dict[str, list[int]] = {name: [] for name in topics}
    seconds: dict[str, list[float]] = {name: [] for name in topics}
    ends: dict[str, list[int]] = {name: [] for name in topics}
    for file in files:
        with opened(file) as (reader, decode):
            for schema, channel, message in reader.iter_messages(topics=list(topics), log_time_order=False):
                log[channel.topic].append(message.log_time)
                if header:
                    decoded = decode(schema, channel, message)
                    try:
                        stamp = field_of(field_of(decoded, "header"), "stamp")
                        seconds[channel.topic].append(field_of(stamp, "sec") + field_of(stamp, "nanosec") / 1e9)
                    except (AttributeError, TypeError):
                        checks.fail("clock", f'"log": messages of {channel.topic} have no header', '"header"')
        for name in topics:
            ends[name].append(len(log[name]))
    found = {}
    for name in topics:
        stamps = np.array(log[name], dtype=np.uint64)
        shown = np.array(seconds[name]) if header else stamps / 1e9
        back = float((np.maximum.accumulate(shown) - shown).max(initial=0))
        parts = [slice(first, last) for first, last in pairwise((0, *ends[name]))]
        order = [part.start + np.argsort(stamps[part], kind="stable") for part in parts]  # as the library reads a file
        order = np.concatenate(order) if order else np.arange(0)
        # a clock that was set back says nothing of the order
        found[name] = LogTimes(stamps[order], tuple(ends[name]), np.maximum.accumulate(shown[order]), back)
    return found


def count_messages(files: Sequence[Path], types: dict[str, str]) -> dict[str, int]:
    """Count messages by topic from the summary of the files; adds the types of topics to `types`."""
    counts: dict[str, int] = {}
    for file in files:
        with opened(file) as (reader, _):
            summary = reader.get_summary()
            if summary is None or summary.statistics is None:
                raise LattokError(f"{file} has no summary. Write one: mcap recover {file} -o mended_{file.name}")
            for channel in summary.channels.values():
                schema = summary.schemas.get(channel.schema_id)
                kind = re.split(r"[/.]", schema.name)[-1] if schema is not None else "?"
                if types.setdefault(channel.topic, kind) != kind:
                    checks.refuse(file, f"{types[channel.topic]} as type of {channel.topic}", kind, "Leave it out.")
                number = summary.statistics.channel_message_counts.get(channel.id, 0)
                if number > (room := _room(file, summary)):
                    checks.refuse(file, f"at most {room} messages of {channel.topic}", number, "Copy it again.")
                counts[channel.topic] = counts.get(channel.topic, 0) + number
    return counts


def _room(file: Path, summary: Any) -> int:
    """Return how many messages can be in a file, whose chunks may be compressed."""
    return (file.stat().st_size + sum(chunk.uncompressed_size for chunk in summary.chunk_indexes)) // MESSAGE_BYTES


def recordings_below(root: Path) -> list[tuple[Path, ...]]:
    """List the files of each recording: those of a rosbag2 folder together, every other file by itself."""
    if root.is_file():
        return [(root,)]
    found = [root / path for path in walk(root, lambda path: path.name.startswith("."), once=True)]
    files = [safe_path(root, path, str(path)) for path in found if path.suffix == ".mcap"]
    if not files:
        checks.fail("path", "a folder with files .mcap", f"none in {root}")
    together: dict[Path, list[Path]] = {}
    for file in sorted(files, key=lambda path: natural(path.as_posix())):
        together.setdefault(file.parent if (file.parent / ROSBAG).is_file() else file, []).append(file)
    return [tuple(each) for each in together.values()]
