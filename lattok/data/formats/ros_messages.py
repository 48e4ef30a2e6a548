"""What messages of ROS 2 say, and those of the same names in JSON or protobuf: numbers, names of joints, pictures."""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from lattok.data.images import decode_image
from lattok.data.schema import readable
from lattok.utils import checks
from lattok.utils.checks import LattokError, first_line

PICTURES = ("CompressedImage", "Image", "RawImage")  # the last one is Foxglove's
JOINTS: Mapping[str, tuple[str, ...]] = {  # what is read of messages that name their joints
    "JointState": ("position",),
    "JointTrajectory": ("points.0.positions",),
}


def _point(above: str) -> tuple[str, ...]:
    return tuple(f"{above}{axis}" for axis in "xyz")


def _pose(above: str, position: str = "position", orientation: str = "orientation") -> tuple[str, ...]:
    return (*_point(f"{above}{position}."), *(f"{above}{orientation}.{axis}" for axis in "xyzw"))


FIELDS: Mapping[str, tuple[str, ...]] = {  # what is read of a message, by the end of its type's name
    **JOINTS,
    "Twist": (*_point("linear."), *_point("angular.")),
    "TwistStamped": (*_point("twist.linear."), *_point("twist.angular.")),
    "Pose": _pose(""),
    "PoseStamped": _pose("pose."),
    "PoseWithCovarianceStamped": _pose("pose.pose."),
    "Odometry": _pose("pose.pose."),
    "TransformStamped": _pose("transform.", "translation", "rotation"),
    "PointStamped": _point("point."),
    "Vector3Stamped": _point("vector."),
    "Wrench": (*_point("force."), *_point("torque.")),
    "WrenchStamped": (*_point("wrench.force."), *_point("wrench.torque.")),
    "Float64MultiArray": ("data",),
    "Float32MultiArray": ("data",),
    "Float64": ("data",),
    **dict.fromkeys(("Float32", "Bool", "Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64"), ("data",)),
    "JointTrajectoryPoint": ("positions",),
}
# channels, whether blue is first, and bytes of each; what OpenCV calls 8UC3 has blue first
RAW = {
    "rgb8": (3, False, 1),
    "bgr8": (3, True, 1),
    "mono8": (1, False, 1),
    "rgba8": (4, False, 1),
    "bgra8": (4, True, 1),
}
RAW |= {"8UC1": (1, False, 1), "8UC3": (3, True, 1), "8UC4": (4, True, 1)}
RAW |= {"rgb16": (3, False, 2), "bgr16": (3, True, 2), "mono16": (1, False, 2)}
DISTANCES = ("16UC1", "16SC1", "32FC1", "32SC1", "64FC1")  # encodings of depth, or of labels
PACKED_DEPTH = "compresseddepth"  # in the format of a CompressedImage
PACKED = {  # encodings of ROS by what FFmpeg calls them
    **dict.fromkeys(("yuv422", "uyvy"), "uyvy422"),
    **dict.fromkeys(("yuv422_yuy2", "yuyv"), "yuyv422"),
    **{name: name for name in ("bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8")},
}
# fields that say when, or how sure, not what
LEAVE_OUT = "Leave the topic out of `topics`."
TIMES = re.compile(r"time|stamp|header|seq|^n?sec|^nanosec|covariance", re.IGNORECASE)


class ROSTopic(NamedTuple):
    name: str
    type: str  # without the package, such as JointState
    fields: tuple[str, ...]


def number_fields(message: Any, above: str = "") -> Iterator[str]:
    """Yield the fields of a message, and of messages in it, that hold numbers: "velocity", "twist.linear"."""
    names = [*message] if isinstance(message, Mapping) else getattr(message, "__slots__", ())
    for name in names:
        value = None if TIMES.search(name) or "." in name else field_of(message, name)
        numbers = [value] if isinstance(value, float | int) else value
        if isinstance(numbers, list | tuple) and numbers and all(isinstance(each, float | int) for each in numbers):
            yield f"{above}{name}"
        elif value is not None and not above:
            yield from number_fields(value, f"{name}.")


def field_of(message: Any, name: str) -> Any:
    """Return a field of a message of ROS, or of JSON; of a list the place with this number."""
    if isinstance(message, list | tuple) and name.isdecimal():
        return message[int(name)]
    if (isinstance(message, Mapping) and name not in message) or name.startswith("_"):
        raise AttributeError(f"no field {name!r:.60}")
    return message[name] if isinstance(message, Mapping) else getattr(message, name)


@contextmanager
def _as_typed(topic: ROSTopic, where: str) -> Iterator[None]:
    """A message that lacks what its type has, as where a definition is damaged, becomes one line."""
    try:
        yield
    except LattokError:
        raise
    except (AttributeError, TypeError, ValueError, IndexError, OverflowError) as error:
        checks.refuse(where, f"messages as {topic.type} has them", first_line(error), "Copy the file again.")


def names_of(message: Any, topic: ROSTopic) -> tuple[str, ...]:
    """Return what the numbers of a message are called: joints by their names, fields as they are named."""
    with _as_typed(topic, "the first message"):
        if topic.fields == JOINTS.get(topic.type) and (given := joints_of(message)):
            return tuple(given)
        return topic.fields if len(topic.fields) > 1 else ()


def joints_of(message: Any) -> list[str]:
    """Return the names of joints; JSON of others may have none."""
    key = "name" if _has(message, "name") else "joint_names"
    return [*map(readable, field_of(message, key))] if _has(message, key) else []


def _has(message: Any, name: str) -> bool:
    return name in message if isinstance(message, Mapping) else hasattr(message, name)


def numbers_of(message: Any, topic: ROSTopic, names: Sequence[str], where: str) -> list[float]:
    """Return the numbers that are read of a message; joints in the order of `names`."""
    with _as_typed(topic, where):
        numbers: list[float] = []
        for field in topic.fields:
            value = message
            for part in field.split("."):
                try:
                    value = field_of(value, part)
                except AttributeError:
                    checks.refuse(where, f"a field {field} in messages of {topic.type}", "none")
            numbers += [float(each) for each in value] if isinstance(value, Sequence) else [float(value)]
        if names and topic.fields == JOINTS.get(topic.type):
            given = joints_of(message)
            if given != list(names):
                if set(given) < set(names) or not set(names) <= set(given):
                    checks.refuse(where, f"the joints {checks.listed(names)}", checks.listed(given), "Leave it out.")
                numbers = [numbers[given.index(name)] for name in names]
        return numbers


def picture_of(message: Any, topic: ROSTopic, where: str) -> np.ndarray:
    """Turn a message into a frame uint8 [H, W, 3]."""
    with _as_typed(topic, where):
        if topic.type == "CompressedImage":
            data = field_of(message, "data")
            if is_depth(message):
                checks.refuse(where, "pictures", f"distances ({field_of(message, 'format')})", LEAVE_OUT)
            return decode_image(base64.b64decode(data, validate=True) if isinstance(data, str) else bytes(data), where)
        encoding, data = field_of(message, "encoding"), field_of(message, "data")
        if encoding in DISTANCES:
            checks.refuse(where, "pictures", f"distances or labels ({encoding})", LEAVE_OUT)
        height, width, step = (int(field_of(message, name)) for name in ("height", "width", "step"))
        if encoding not in (*RAW, *PACKED):
            expected = f"pictures as {checks.listed([*RAW, *PACKED])}"
            checks.refuse(where, expected, encoding, LEAVE_OUT)
        rows = np.frombuffer(base64.b64decode(data, validate=True) if isinstance(data, str) else bytes(data), np.uint8)
        packed = (1 if encoding.startswith("bayer") else 2, False, 1)
        channels, reverse, size = RAW.get(encoding, packed)
        if len(rows) != height * step or step < width * channels * size:
            checks.refuse(where, f"{height} rows of {step} bytes", f"{len(rows)} bytes", "Copy it again.")
        if encoding in PACKED:
            return _unpacked(rows.reshape(height, step), width, PACKED[encoding])
        first = _has(message, "is_bigendian") and field_of(message, "is_bigendian")
        high = 0 if first else size - 1  # the byte that is kept
        used = rows.reshape(height, step)[:, : width * channels * size]
        pixels = used.reshape(height, width, channels, size)[..., high]
        if channels == 1:
            return np.repeat(pixels, 3, axis=2)
        return np.ascontiguousarray(pixels[..., 2::-1] if reverse else pixels[..., :3])


def is_depth(message: Any) -> bool:
    """Return whether a message of a camera holds distances, or labels, by the encoding that it names."""
    told = ("encoding", "format")
    named = [str(field_of(message, name)) for name in told if _has(message, name)]
    return any(name in DISTANCES or PACKED_DEPTH in name.lower() for name in named)


def _unpacked(rows: np.ndarray, width: int, layout: str) -> np.ndarray:
    """Turn rows of bytes [H, S] that FFmpeg knows by `layout` into a frame uint8 [H, W, 3]."""
    import av

    frame = av.VideoFrame(width, len(rows), layout)
    (plane,) = frame.planes
    padded = np.zeros((len(rows), plane.line_size), np.uint8)
    used = min(rows.shape[1], plane.line_size)
    padded[:, :used] = rows[:, :used]
    plane.update(padded.tobytes())
    return frame.to_ndarray(format="rgb24")
