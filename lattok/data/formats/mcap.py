"""Recordings of ROS 2, or of JSON or protobuf messages, in MCAP files, also in rosbag2 folders. Needs the extra mcap.

A frame is a message of the first camera. Of every other topic a frame has the last message at or before its time (the
first one, where none came yet); of the action it has the first one at or after, which is what was sent next (the last
one, where none came any more). Times are when messages were logged, or with `clock` "header" those in their headers.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from lattok.data import problems
from lattok.data.flaws import lost_steps
from lattok.data.formats.folder_names import folder_splits, instruction_of
from lattok.data.formats.mcap_files import (
    ROSBAG,
    LogTimes,
    conversion,
    count_messages,
    first_few,
    opened,
    recordings_below,
    require_readers,
    times_of,
)
from lattok.data.formats.ros_messages import (
    FIELDS,
    PICTURES,
    ROSTopic,
    field_of,
    is_depth,
    joints_of,
    names_of,
    number_fields,
    numbers_of,
    picture_of,
)
from lattok.data.schema import (
    INDEX_FEATURES,
    Damage,
    Feature,
    RobotDataset,
    holds,
    in_a_description,
    index_column,
    readable,
)
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.findings import Finding
from lattok.utils.untrusted import is_file_name

CAMERA = "observation.images."
OTHER_BAGS = (".bag", ".db3")  # of ROS 1, and databases of rosbag2
CLOCKS = ("log", "header")
SET_BACK_S = 0.5  # less are messages that were stored late
PAUSE_S = 0.5  # between pictures: less may be messages that were late
OTHER_RATE = 0.1  # of the dataset's: less may be a clock
NEAR = 0.02  # of a whole number of frames a second
BLOCK = 32  # frames
FAR = 32  # messages: what lies between two that are further apart is not read
SHOWN = 20  # topics in a message
DRAFTED = 8  # columns in a draft
SENT = re.compile(r"command|cmd|action|target|goal|leader|master", re.IGNORECASE)
SAID = re.compile(r"task|instruct|lang|prompt", re.IGNORECASE)  # topics of text
INSTRUCTION = "instruction"  # key of `topics`
FILMS = ("CompressedVideo", "FFMPEGPacket")  # messages that hold parts of a film


class ROSRecording(NamedTuple):
    name: str  # relative to the root
    files: tuple[Path, ...]
    counts: Mapping[str, int]  # messages by topic


class MCAPRecordings(RobotDataset):
    """MCAP files, each an episode, or rosbag2 folders, each an episode of one or several files.

    `topics` says which topic is which column or camera: {"observation.images.front": "/camera/image/compressed",
    "observation.state": "/joint_states", "action": "/command"}; "/odom:pose.pose.position.x" names a field. Joints are
    put in the order of the first message by their names. `fps` is by default that of the first camera of the first
    recording. The instruction is the first text of the topic that `topics` calls "instruction", else the name of the
    folder that a recording is in, else empty.
    """

    kind = "mcap"
    options = MappingProxyType({"fps": float, "topics": object, "clock": str})
    text = "MCAP (.mcap files of ROS 2, or rosbag2 folders)"
    suffixes = (".mcap",)

    def __init__(
        self,
        path: str | Path,
        name: str | None = None,
        *,
        fps: float | None = None,
        topics: Any = None,
        clock: str = "log",
    ):
        self.root = Path(path)
        self.name = name or (self.root.stem if self.root.is_file() else self.root.resolve().name)
        checks.one_of("clock", clock, CLOCKS)
        self._clock = clock
        require_readers()
        found: list[ROSRecording | str] = []
        types: dict[str, str] = {}
        for files in recordings_below(self.root):
            try:
                counts = count_messages(files, types)
            except LattokError as error:
                found.append(str(error))
                continue
            place = files[0].parent if (files[0].parent / ROSBAG).is_file() else files[0]
            found.append(
                ROSRecording(place.relative_to(self.root).as_posix() if place != self.root else "", files, counts)
            )
        if not types:
            raise LattokError(next((each for each in found if isinstance(each, str)), f"{self.root}: no messages."))
        files = next((each.files for each in found if isinstance(each, ROSRecording)), ())
        said = topics.get(INSTRUCTION) if isinstance(topics, Mapping) and len(topics) > 1 else None
        if said is not None and types.get(said) != "String":
            texts = [name for name, kind in sorted(types.items()) if kind == "String"]
            checks.fail(
                "topics.instruction", f"a topic of text (String): {checks.listed(texts) or 'there is none'}", said
            )
        columns = {key: name for key, name in topics.items() if key != INSTRUCTION} if said else topics
        self._topics = self._chosen(columns, types, files)
        base = self._base
        for index, each in enumerate(found):
            if isinstance(each, ROSRecording):
                missing = [topic.name for topic in self._topics.values() if not each.counts.get(topic.name)]
                if missing:
                    found[index] = (
                        f"{each.files[0]}: expected messages of {checks.listed(missing)}, got none. Leave it out."
                    )
        self._recordings = {i: each for i, each in enumerate(found) if isinstance(each, ROSRecording)}
        self.damaged = tuple(Damage(i, each) for i, each in enumerate(found) if isinstance(each, str))
        if not self._recordings:
            raise LattokError(self.damaged[0].reason)
        instructions = {i: _instruction(each, said) for i, each in self._recordings.items()}
        self._instructions = instructions
        self.tasks = tuple(dict.fromkeys(instructions.values()))
        self.episodes = tuple(
            Episode(i, each.counts[base.name], (instructions[i],)) for i, each in self._recordings.items()
        )
        self.held_out, self.findings = folder_splits({i: Path(each.name).parts for i, each in self._recordings.items()})
        self._times: dict[int, dict[str, LogTimes]] = {}
        self._in_turn: set[str] = set()  # columns whose messages tell a part of the joints each; filled by `features`
        self.fps = self._rate() if fps is None else float(fps)
        self.cameras = tuple(key for key, topic in self._topics.items() if topic.type in PICTURES)

    @classmethod
    def recognise(cls, folder: Path) -> Sequence[Path]:
        places = (folder, *(path for path in folder.iterdir() if path.is_dir()))
        return [folder] if any(path.suffix == ".mcap" for place in places for path in place.iterdir()) else ()

    @classmethod
    def hint(cls, folder: Path) -> str:
        if not holds(folder, OTHER_BAGS):
            return ""
        path = min(path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.suffix in OTHER_BAGS)
        source = str(path if path.suffix == ".bag" else path.parent)
        return f"Convert it (pip install rosbags): {conversion(source)}"

    @cached_property
    def features(self) -> dict[str, Feature]:
        """Only messages say how long their vectors and how large their pictures are: the first use decodes one each."""
        index = next(iter(self._recordings))
        found: dict[str, Feature] = {}
        for key, topic in self._topics.items():
            message, *others = first_few(self._recordings[index].files, topic)
            if topic.type in PICTURES:
                found[key] = Feature("image", picture_of(message, topic, str(self.root)).shape, None)
                continue
            of_each = [names_of(each, topic) for each in (message, *others)]
            names = tuple(dict.fromkeys(name for each in of_each for name in each))
            width = len(numbers_of(message, topic, (), str(self.root)))
            if not width:
                where = f"{self._recordings[index].files[0]}, {topic.name}"
                checks.refuse(where, f"numbers as {', '.join(topic.fields)}", "none", "Name another field.")
            if len({frozenset(each) for each in of_each}) > 1:
                self._in_turn.add(key)
                width = len(names)
            found[key] = Feature("float64", (width,), names if width > 1 else None)
        return found | INDEX_FEATURES

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        return self._recording(episode_index).files

    def file_findings(self) -> Iterator[Finding]:
        """Find recordings whose clock was set back, and those with pictures missing."""
        back: dict[int, float] = {}
        jumps: list[tuple[int, int]] = []
        rates: dict[int, float] = {}
        longest = 0.0
        for index in self._recordings:
            with suppress(LattokError):  # which is said where its rows are read
                back[index] = max(self._log_times(index, topic).back for topic in self._topics.values())
                steps = np.diff(self._times_of(index, self._base))
                rates[index] = float(1 / np.median(steps)) if len(steps) and np.median(steps) > 0 else self.fps
                lost = lost_steps(steps) & (steps > PAUSE_S)
                jumps += [(index, int(row) + 1) for row in np.flatnonzero(lost)]
                longest = max(longest, float(steps[lost].max(initial=0)))
        if wrong := [index for index, seconds in back.items() if seconds > SET_BACK_S]:
            file = self.files_of(wrong[0])[0]
            yield problems.CLOCK_SET_BACK.finding(wrong, file=file, seconds=back[wrong[0]])
        if others := [index for index, rate in rates.items() if abs(rate / self.fps - 1) > OTHER_RATE]:
            told = {"count": len(others), "rate": rates[others[0]], "first": others[0], "fps": self.fps}
            yield problems.OTHER_RATES.finding(others, **told)
        if jumps := [place for place in jumps if place[0] not in wrong]:
            yield problems.PICTURES_LOST.finding((), jumps, count=len(jumps), seconds=longest)

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        length, columns = self.length(episode_index), {}
        self.check_columns(keys)
        task = self.tasks.index(self._instructions[episode_index])
        for key in keys:
            if key in INDEX_FEATURES:
                columns[key] = index_column(key, length, episode_index, task, self.fps)
                continue
            topic, names = self._topics[key], self.features[key].names or ()
            rows = self._rows(episode_index, topic, key == "action" or key.startswith("action."))
            where = f"{self.files_of(episode_index)[0]}, {topic.name}"
            if key in self._in_turn:
                columns[key] = self._joined(episode_index, key, where)[rows]
                continue
            wanted = np.unique(rows)
            read = [numbers_of(each, topic, names, where) for each in self._messages(episode_index, topic, wanted)]
            if {len(each) for each in read} != {self.features[key].shape[0]}:
                got = ", ".join(map(str, sorted({len(each) for each in read})))
                checks.refuse(where, f"{self.features[key].shape[0]} numbers in every message", got, "Leave it out.")
            values = np.array(read, dtype=np.float64)[np.searchsorted(wanted, rows)]
            columns[key] = values[:, 0] if self.features[key].shape == (1,) else values
        return columns

    def blocks(self, episode_index: int, camera: str, indices: np.ndarray) -> Iterator[np.ndarray]:
        topic = self._topics[camera]
        rows = self._rows(episode_index, topic, False)[indices]
        wanted = np.unique(rows)
        where = f"{self.files_of(episode_index)[0]}, {topic.name}"
        held: list[np.ndarray] = []
        repeats = np.bincount(np.searchsorted(wanted, rows))
        for message, times in zip(self._messages(episode_index, topic, wanted), repeats, strict=True):
            held += [picture_of(message, topic, where)] * int(times)
            while len(held) >= BLOCK:
                yield np.stack(held[:BLOCK])
                held = held[BLOCK:]
        if held:
            yield np.stack(held)

    def _joined(self, episode_index: int, key: str, where: str) -> np.ndarray:
        """Return all joints at each message of a topic [n, J]: those that it does not tell as the one before did, of
        actions as the next one does."""
        topic, names = self._topics[key], self.features[key].names or ()
        every = np.arange(len(self._times_of(episode_index, topic)))
        table = np.zeros((len(every), len(names)))
        known = np.zeros(table.shape, dtype=bool)
        for row, message in enumerate(self._messages(episode_index, topic, every)):
            given = joints_of(message)
            if unknown := {*given} - {*names}:
                checks.refuse(where, f"the joints {checks.listed(names)}", checks.listed(sorted(unknown)))
            places, numbers = [names.index(name) for name in given], numbers_of(message, topic, (), where)
            if len(numbers) != len(places):
                checks.refuse(where, f"{len(places)} numbers, one for each joint", len(numbers), "Leave it out.")
            table[row, places], known[row, places] = numbers, True
        if missing := [names[place] for place in np.flatnonzero(~known.any(axis=0)).tolist()]:
            checks.refuse(where, f"the joints {checks.listed(names)}", f"none called {checks.listed(missing)}")
        before = np.maximum.accumulate(np.where(known, every[:, None], -1), axis=0)
        after = np.minimum.accumulate(np.where(known, every[:, None], len(every))[::-1], axis=0)[::-1]
        ahead = key == "action" or key.startswith("action.")
        place = np.where(after < len(every), after, before) if ahead else np.where(before >= 0, before, after)
        return np.take_along_axis(table, place, axis=0)

    @property
    def _base(self) -> ROSTopic:
        """ROSTopic whose messages are the frames."""
        cameras = (topic for topic in self._topics.values() if topic.type in PICTURES)
        return next(cameras, next(iter(self._topics.values())))

    def _recording(self, episode_index: int) -> ROSRecording:
        return self._recordings.get(episode_index) or self.no_episode(episode_index)

    def _chosen(self, topics: Any, types: Mapping[str, str], files: Sequence[Path]) -> dict[str, ROSTopic]:
        if topics is None:
            shown = [f"{name} ({kind})" for name, kind in sorted(types.items())][:SHOWN]
            draft = _draft(types, files)
            if not draft:  # of no topic that can be read: the first one says why
                first_few(files, ROSTopic(min(types), "", ()))
                draft = {"action": "/TOPIC:FIELD"}
            described = in_a_description(self.root, f'"topics": {json.dumps(draft)}')
            films = [name for name, kind in sorted(types.items()) if kind in FILMS]
            unread = f" {checks.listed(films)}: parts of a film are not read; send CompressedImage." if films else ""
            way_out = f"Correct this draft: {described}{unread}"
            got = f"none for {', '.join(shown)}"
            checks.fail("topics", "which topic of this MCAP recording is which column", got, way_out)
        if not isinstance(topics, Mapping) or not topics or not all(isinstance(each, str) for each in topics.values()):
            checks.fail("topics", 'an object such as {"action": "/command"}', f"{topics!r:.80}")
        chosen: dict[str, ROSTopic] = {}
        for key, text in topics.items():
            name, _, field = text.partition(":")
            if name not in types:
                checks.fail(
                    f"topics.{key}", f"one of {checks.listed(sorted(types))}", name, checks.did_you_mean(name, types)
                )
            if not is_file_name(key):
                checks.fail("topics", "names of columns that a file can have", f"{key!r:.60}")
            kind = types[name]
            fields = (field,) if field else FIELDS.get(kind, ())
            if kind in PICTURES and not key.startswith(CAMERA):
                checks.fail("topics", f"pictures as {CAMERA}NAME", key)
            if kind not in PICTURES and not fields:
                checks.fail(f"topics.{key}", f"a field of {kind}, as {name}:data", name)
            chosen[key] = ROSTopic(name, kind, fields)
        return chosen

    def _rate(self) -> float:
        times = self._times_of(next(iter(self._recordings)), self._base)
        steps = np.diff(times)
        if not len(steps) or np.median(steps) <= 0:
            checks.fail("fps", "the rate of the first camera, which one message does not tell", "none", "Give fps.")
        rate = float(1 / np.median(steps))
        return float(round(rate)) if round(rate) and abs(rate / round(rate) - 1) <= NEAR else round(rate, 3)

    def _rows(self, episode_index: int, topic: ROSTopic, ahead: bool) -> np.ndarray:
        """Return which message of a topic each frame has, [T]."""
        base = self._times_of(episode_index, self._base)
        if topic == self._base:
            return np.arange(len(base))
        times = self._times_of(episode_index, topic)
        rows = np.searchsorted(times, base, side="left") if ahead else np.searchsorted(times, base, side="right") - 1
        return rows.clip(0, len(times) - 1)

    def _times_of(self, episode_index: int, topic: ROSTopic) -> np.ndarray:
        """Seconds of the messages of a topic, in order."""
        return self._log_times(episode_index, topic).seconds

    def _log_times(self, episode_index: int, topic: ROSTopic) -> LogTimes:
        """Times of a topic; those of all topics are read together, as every chunk of a file holds all of them."""
        if episode_index not in self._times:
            recording = self._recording(episode_index)
            chosen = {each.name for each in self._topics.values()}
            found = times_of(recording.files, chosen, self._clock == "header")
            for name, times in found.items():
                if len(times.log) != recording.counts[name]:
                    what = f"{recording.counts[name]} messages of {name}, as its summary says"
                    checks.refuse(recording.files[0], what, len(times.log), "Copy it again.")
            self._times[episode_index] = found
        return self._times[episode_index][topic.name]

    def _messages(self, episode_index: int, topic: ROSTopic, rows: np.ndarray) -> Iterator[Any]:
        """Decoded messages of a topic at ascending places; of a file only the chunks around them are read."""
        times, start = self._log_times(episode_index, topic), 0
        for file, end in zip(self._recording(episode_index).files, times.ends, strict=True):
            own, log = rows[(rows >= start) & (rows < end)] - start, times.log[start:end]
            start = end
            if not len(own):
                continue
            with opened(file) as (reader, decode):
                for run in np.split(own, np.flatnonzero(np.diff(own) > FAR) + 1):
                    first, last = int(log[run[0]]), int(log[run[-1]])
                    wanted = set((run - np.searchsorted(log, log[run[0]])).tolist())
                    found = reader.iter_messages(topics=[topic.name], starting_at=first, ending_before=last + 1)
                    for place, (schema, channel, message) in enumerate(found):
                        if place in wanted:
                            wanted.remove(place)
                            yield decode(schema, channel, message)
                    if wanted:
                        what = f"messages of {topic.name} as when the dataset was opened"
                        checks.refuse(file, what, f"{len(wanted)} fewer", "Open it again.")


def _instruction(recording: ROSRecording, topic: str | None) -> str:
    """Return the first text of a topic, else what the folder of a recording says is done."""
    if topic is not None and recording.counts.get(topic):
        (message,) = first_few(recording.files, ROSTopic(topic, "String", ("data",)))
        if text := str(field_of(message, "data")).strip():
            return readable(text)
    return instruction_of(Path(recording.name).parent.parts)


def _draft(types: Mapping[str, str], files: Sequence[Path]) -> dict[str, str]:
    """Guess which topics, or fields of messages of other types, are what, for a file that users correct."""
    draft: dict[str, str] = {}
    for name, kind in sorted(types.items()):
        words = [word for word in name.split("/") if word not in ("image", "image_raw", "compressed", "color", "")]
        short = "_".join(words) or "camera"
        if kind in PICTURES:
            draft |= {} if "depth" in name or _holds_depth(name, files) else {f"{CAMERA}{short}": name}
            continue
        if kind == "String":
            draft |= {INSTRUCTION: name} if SAID.search(name) and INSTRUCTION not in draft else {}
            continue
        for field in [""] if kind in FIELDS else _number_fields(name, files):
            sent = kind == "JointTrajectory" or SENT.search(name) or SENT.search(field)
            key = "action" if sent else "observation.state"
            key = key if key not in draft else f"{key}.{'_'.join(filter(None, (short, *field.split('.'))))}"
            if len(draft) < DRAFTED:
                draft[key] = f"{name}:{field}" if field else name
    return draft


def _holds_depth(topic: str, files: Sequence[Path]) -> bool:
    """Return whether the first picture of a topic is one of distances, or of labels."""
    with suppress(LattokError, IndexError):  # which is said where it is read
        return is_depth(first_few(files, ROSTopic(topic, "", ()))[0])
    return False


def _number_fields(topic: str, files: Sequence[Path]) -> list[str]:
    """List the fields with numbers in the first message of a topic, of any type: "left.position" is one in another."""
    with suppress(LattokError, IndexError):  # of a file without messages
        return list(number_fields(first_few(files, ROSTopic(topic, "", ()))[0]))
    return []
