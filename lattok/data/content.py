"""What a dataset is by its content, under any name and in any place.

One hash says whether a run goes on from the same data: actions and other columns that it reads, lengths, instructions,
how views show them, and pictures, if it looks at any: size and three samples of every video file (of one on the Hub,
which need not be fetched for that, what the Hub says of its content), a few frames of pictures that have no files of
their own. Neither names, places and times of files nor their compression are part of it, nor columns of labels.

Of very many episodes it is of the rows and pictures of a sample (see `many`), and of what is known of all without
them; single episodes are then known by dataset and number alone.

Digests of single episodes, 6 bytes each, tell which of them a model has seen: in a copy that was renamed, annotated,
exported, re-numbered or cut down to fewer episodes as well. One is of the actions; where cameras have video files,
another of those, which an edit of the actions leaves as they are. Two episodes of which one follows from the other
(actions in another space, frames cut off, other videos and other actions) have nothing in common.
"""

import base64
import binascii
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lattok.data.instructions import TASK, frame_instructions
from lattok.data.many import sample_of
from lattok.data.schema import IMAGE_DTYPES, INDEX_KEYS, RobotDataset
from lattok.data.views import action_spaces, unwrap
from lattok.hub.fetching import HubFiles
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.runs import index_runs, run_of
from lattok.utils.spread import evenly_spread
from lattok.utils.untrusted import walk

DIGEST_BYTES = 6  # bytes of a digest: one in 268 million that a strange episode is among 2**20 of them
MAX_DIGESTS = 2**20  # in an artefact, 8 MB of text; more episodes are known by dataset and number alone
MIN_DIFFERENT_ROWS = 4  # different actions that an episode must have to be told from others by them
MAX_ROW_NUMBERS = 4096  # numbers in a row of a column that is a state, not a picture
SAMPLE_BYTES = 8192  # bytes at the beginning, the middle and the end of a video file
MISSING = b"missing"  # in place of the hash of a file that cannot be opened
THREADS = 8  # that read samples of video files
EPISODES_LOOKED_AT = 8  # episodes whose pictures are looked at where they have no files

Digests = dict[int, bytes]  # by episode index
Values = dict[str, np.ndarray]  # columns by key
SKIPPED = (".git", ".cache")  # of a clone or of the Hub's client, no part of the dataset
META_BYTES = 2**28  # of a file of meta/ whose content counts; larger ones by size and time


class Content(NamedTuple):
    digest: str  # of all of it
    actions: Digests  # without episodes that hardly move
    videos: Digests  # empty where cameras have no video files, or where these are not used


def content_of(
    dataset: RobotDataset, episodes: Sequence[Episode], columns: Iterable[str] = (), cameras: Sequence[str] = ()
) -> Content:
    """Return the content of `episodes`: their actions, further `columns`, and pictures of `cameras`, if any."""
    source, columns = unwrap(dataset), list(columns)
    named = [name for key in columns for name in dataset.joined.get(key, (key,))]
    keys = _columns(source, [dataset.parts[name].column if name in dataset.parts else name for name in named])
    facts: dict[str, Any] = {name: getattr(dataset, name) for name in ("kind", "fps", "split", "seen_as")}
    facts |= {"action_spaces": {key: space.to_json() for key, space in action_spaces(dataset).items()}, "columns": keys}
    facts["names"] = {key: dataset.features[key].names for key in {*keys, *columns} & dataset.features.keys()}
    whole = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for episode in dataset.episodes:  # also the others: which are held out depends on them
        whole.update(repr(tuple(episode)).encode())
    sample = sample_of(dataset, episodes)
    if some := len(sample) < len(episodes):
        outlines, episodes = source.outlines(), sample
        whole.update(repr(sorted(outlines.items())).encode())
    rows, actions = Digests(), Digests()
    for index, values in _all_values(source, episodes, keys):
        rows[index] = hashlib.blake2b(b"".join(_bytes(values[key]) for key in sorted(values))).digest()
        actions |= _digest_of_actions(index, values)
    for episode in episodes:  # in their order, wherever they lie
        whole.update(rows[episode.index])
    own = dataset.instruction_key != TASK
    if several := [episode for episode in episodes if own or len(episode.tasks) > 1]:  # who trains reads which when
        with suppress(checks.LattokError):
            texts, numbers = frame_instructions(dataset if own else source, several)
            whole.update(repr(texts).encode() + numbers.tobytes())
    videos = Digests()
    for camera in sorted(dataset.original_camera(camera) for camera in cameras):
        found = _digests_of_videos(source, camera, episodes)
        for seen in found.values() if found else _pictures(source, episodes, camera):
            whole.update(seen)
        videos = videos or found  # one camera is enough to know an episode again
    return Content(whole.hexdigest(), {}, {}) if some else Content(whole.hexdigest(), actions, videos)


def digests(dataset: RobotDataset, indices: Iterable[int], what: str) -> list[Digests]:
    """Digests of some episodes: of their "actions", of all "states", or of the "videos" of each camera, any of which
    may be the one that was looked at. Episodes that cannot be told from others have none."""
    source, wanted = unwrap(dataset), set(indices)
    episodes = [episode for episode in dataset.episodes if episode.index in wanted]
    if what == "videos":
        with suppress(checks.LattokError):  # of videos on the Hub, which cannot be asked
            each = (_digests_of_videos(source, camera, episodes) for camera in source.cameras)
            return [found for found in each if found]
        return []
    found, keys = Digests(), _columns(source, ())
    if what == "states":
        known = _columns(source, (key for key in source.features if key.startswith("observation")))
        keys = [key for key in known if not _is_action(key)]
    for index, values in _all_values(source, episodes, keys):
        if what == "actions":
            found |= _digest_of_actions(index, values)
        elif values:
            data = b"".join(_bytes(values[key]) for key in keys)
            found[index] = hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()
    return [found]


def record_of(content: Content) -> dict[str, Any]:
    """What an artefact keeps: digests of each kind in base64, sorted, and a hash of them in the order of episodes."""
    record = {}
    for name, found in (("actions", content.actions), ("videos", content.videos)):
        if 0 < len(found) <= MAX_DIGESTS:
            text = base64.b64encode(b"".join(sorted(set(found.values())))).decode()
            record[name] = {"in_order": in_order(found), "digests": text}
    return record


def in_order(found: Digests) -> str:
    """Hash of the digests of episodes by their numbers: the same where they are numbered the same."""
    ordered = (index.to_bytes(8, "little") + found[index] for index in sorted(found))
    return hashlib.blake2b(b"".join(ordered), digest_size=8).hexdigest()


def column_digests(dataset: RobotDataset, keys: Sequence[str], indices: Iterable[int]) -> Digests:
    """Digests of columns in single episodes, as one vector in float32; none of those that cannot be read."""
    wanted, found = set(indices), Digests()
    chosen = [episode for episode in dataset.episodes if episode.index in wanted]
    for index, values in dataset.columns_of(chosen, keys, checked=False):
        if not isinstance(values, checks.LattokError):
            found[index] = digest_of_rows([values[key] for key in keys])
    return found


def digest_of_rows(columns: Sequence[np.ndarray]) -> bytes:
    """Return the digest of columns [T, ...] as one vector in float32, whose NaN are all the same."""
    with np.errstate(over="ignore"):
        rows = np.concatenate([values.reshape(len(values), -1).astype(np.float32) for values in columns], 1)
    return hashlib.blake2b(_bytes(np.where(np.isnan(rows), np.nan, rows)), digest_size=DIGEST_BYTES).digest()


def file_digests(dataset: RobotDataset, indices: Iterable[int]) -> Digests:
    """Digests of the files that episodes are read from and of their places in these, whatever files are called; none
    of those on the Hub, where a commit says it, nor of those without files."""
    source, wanted, before = unwrap(dataset), {*indices}, Counter[Path]()
    if source.files.commit is not None:
        return {}
    places = dict[int, tuple[list[Path], int, int]]()
    for episode in source.episodes:
        if own := source.files_of(episode.index):
            if episode.index in wanted:  # a picture each may be a file
                some = [*dict.fromkeys((own[0], own[len(own) // 2], own[-1]))]
                places[episode.index] = some, len(own), before[own[0]]
            before[own[0]] += 1
    stamps, found = _stamps([*dict.fromkeys(path for some, _, _ in places.values() for path in some)]), Digests()
    for index, (some, *numbers) in places.items():
        if MISSING not in (parts := [stamps[path] for path in some]):
            found[index] = hashlib.blake2b(
                b"".join([*parts, repr(numbers).encode()]), digest_size=DIGEST_BYTES
            ).digest()
    return found


def digests_to_json(found: Digests) -> dict[str, Any]:
    """Digests of episodes as JSON keeps them: runs of episodes, and the digests in their order in base64."""
    indices = sorted(found)
    data = b"".join(found[index] for index in indices)
    return {"episodes": index_runs(indices), "digests": base64.b64encode(data).decode()}


def digests_from_json(record: Any, indices: Iterable[int], where: str = "measured` in `fills") -> Digests:
    """Return what `digests_to_json` made of some episodes, but of no others; anything else is a `LattokError`."""
    try:
        data, runs = base64.b64decode(record["digests"], validate=True), record["episodes"]
        before = [0, *accumulate(last + 1 - first for first, last in runs)]
        if DIGEST_BYTES * before[-1] != len(data):
            raise ValueError
        found = Digests()
        for index in indices:
            if (run := run_of(index, runs)) is not None:
                place = DIGEST_BYTES * (before[run] + index - runs[run][0])
                found[index] = data[place : place + DIGEST_BYTES]
    except (TypeError, ValueError, KeyError, binascii.Error):
        checks.fail(where, "digests of episodes", f"{record!r:.60}", "Copy meta/lattok.json again.")
    return found


class StoredDigests(NamedTuple):
    digests: frozenset[bytes]
    in_order: str


def read_record(record: Any) -> dict[str, StoredDigests]:
    """Return what `record_of` made, read back; anything else is a `LattokError`."""
    try:
        return {name: _known(record[name]) for name in ("actions", "videos") if name in record}
    except (TypeError, ValueError, KeyError, binascii.Error):
        expected = "digests of the episodes that a model was trained on"
        checks.fail("content` in `training.json", expected, f"{record!r:.60}", "Copy the file again.")


def _known(entry: Any) -> StoredDigests:
    data, order = base64.b64decode(entry["digests"], validate=True), entry["in_order"]
    if len(data) % DIGEST_BYTES or not isinstance(order, str):
        raise ValueError
    return StoredDigests(frozenset(data[i : i + DIGEST_BYTES] for i in range(0, len(data), DIGEST_BYTES)), order)


def _is_action(key: str) -> bool:
    return key.split(".")[0] == "action"


def _columns(source: RobotDataset, more: Iterable[str]) -> list[str]:
    """List the columns of numbers that are actions, or asked for."""
    wanted = {*more, *filter(_is_action, source.features)} & source.features.keys() - {*INDEX_KEYS}
    numbers = (key for key in wanted if source.features[key].dtype not in (*IMAGE_DTYPES, "string"))
    return sorted(key for key in numbers if np.prod(source.features[key].shape) <= MAX_ROW_NUMBERS)


def _all_values(source: RobotDataset, episodes: Sequence[Episode], keys: Sequence[str]) -> Iterator[tuple[int, Values]]:
    """Columns of every episode, in any order; none where they are damaged, which those say who learn from them."""
    if not keys or not episodes:
        return ((episode.index, {}) for episode in episodes)
    found = source.columns_of(episodes, keys, checked=False)
    return ((index, {} if isinstance(values, checks.LattokError) else values) for index, values in found)


def _bytes(values: np.ndarray) -> bytes:
    """Return numbers as models see them: in float32, or whole."""
    return np.ascontiguousarray(values, dtype="<f4" if values.dtype.kind == "f" else "<i8").tobytes()


def _digest_of_actions(index: int, values: Values) -> Digests:
    """Return the digest of the action columns of an episode; none where they hardly change."""
    keys = sorted(filter(_is_action, values))
    actions = [values[key].reshape(len(values[key]), -1).astype(np.float32) for key in keys]
    changes = ((a[1:] != a[:-1]) & ~(np.isnan(a[1:]) & np.isnan(a[:-1])) for a in actions)  # unknown ones do not change
    if all(np.count_nonzero(change.any(1)) < MIN_DIFFERENT_ROWS - 1 for change in changes):
        return {}
    data = b"".join(len(rows).to_bytes(8, "little") + _bytes(rows) for rows in actions)
    return {index: hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()}


def _digests_of_videos(source: RobotDataset, camera: str, episodes: Iterable[Episode]) -> Digests:
    """Return digests of files, and of when episodes begin in them; none where pictures lie among the numbers."""
    if camera not in source.features or source.features[camera].dtype != "video":
        return {}
    spans = {episode.index: source.video_span(episode.index, camera) for episode in episodes}
    places = {index: span[:2] for index, span in spans.items() if span is not None}
    files = list(dict.fromkeys(path for path, _ in places.values()))  # each may hold many episodes
    if isinstance(source.files, HubFiles):
        stored = source.files.stored(files)
        stamps = {path: repr(tuple(stored.get(path, ("missing",)))).encode() for path in files}
    else:
        stamps = _stamps(files)
    seen = {index: stamps[path] + repr(round(start, 3)).encode() for index, (path, start) in places.items()}
    return {index: hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest() for index, data in seen.items()}


def _stamps(files: Sequence[Path]) -> dict[Path, bytes]:
    with ThreadPoolExecutor(THREADS) as pool:  # on network drives each read is a wait
        return dict(zip(files, pool.map(_stamp, files), strict=True))


def _stamp(path: Path) -> bytes:
    """Hash size and samples of a file: encoding a video again changes its table of frames, almost surely its size."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            parts = []
            for place in (0, size // 2, max(0, size - SAMPLE_BYTES)):
                file.seek(place)
                parts.append(file.read(SAMPLE_BYTES))
    except OSError:
        return MISSING  # which who reads it says
    return hashlib.sha256(b"|".join([str(size).encode(), *parts])).digest()


def _pictures(source: RobotDataset, episodes: Sequence[Episode], camera: str) -> Iterator[bytes]:
    for episode in evenly_spread(episodes, EPISODES_LOOKED_AT):
        try:
            where = sorted({0, episode.length // 2, episode.length - 1})
            yield hashlib.sha256(np.ascontiguousarray(source.frames(episode.index, (camera,), where)).data).digest()
        except checks.LattokError:
            yield b"damaged"


def dataset_files(root: Path) -> Iterator[Path]:
    """Paths of all files of a dataset, relative to its root, sorted by folder; a dataset may be one file."""
    if root.is_file():
        return iter([Path()])
    return walk(root, lambda path: len(path.parts) == 1 and path.name in SKIPPED and (root / path).is_dir())


def dataset_fingerprint(dataset: RobotDataset) -> str:
    """Tell what a dataset is made of: a folder of a commit on the Hub, or the files here by their `fingerprint`."""
    if isinstance(dataset.files, HubFiles):
        return f"{dataset.files.commit} {os.path.relpath(dataset.root, dataset.files.folder)}"
    return fingerprint(dataset.root)


def fingerprint(root: Path, linked: bool = False) -> str:
    """Hash of a dataset on this machine: contents of meta/, size and modification time of everything else. Of a copy
    with `linked` videos these count by name only: they change with those of the source."""
    digest = hashlib.sha256()
    for path in dataset_files(root):
        name = os.fsencode(path.as_posix())  # which may be no text
        if linked and path.parts[:1] == ("videos",):
            digest.update(name)
        elif path.parts[:1] == ("meta",) and (root / path).is_file() and (root / path).stat().st_size <= META_BYTES:
            content = (root / path).read_bytes()
            digest.update(name + f" {len(content)}".encode() + content)
        else:
            digest.update(name + f" {file_facts(root / path)}".encode())
    return digest.hexdigest()


def file_facts(path: Path) -> str:
    """Tell size and modification time of a file, or why they cannot be told."""
    try:
        facts = path.stat()
    except OSError as error:  # missing: it is said where it is read
        return str(error.strerror)
    return f"{facts.st_size} {facts.st_mtime_ns}"


def facts_of(dataset: RobotDataset, path: Path) -> str:
    """Tell where in a dataset a file is, and what changes when it does: the commit of the Hub, or `file_facts`."""
    return f"{os.path.relpath(path, dataset.root)} {dataset.files.commit or file_facts(path)}"
