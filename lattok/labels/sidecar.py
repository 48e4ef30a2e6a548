"""Labels in folders of their own, for datasets that are not LeRobot: `with_labels(dataset, folder)` joins them.

`labels/file-*.parquet` hold `episode_index`, `frame_index` and the label columns, `meta/lattok.json` says how they were
made. Reading is lazy; memory does not grow with the dataset but for 32 bytes per episode.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lattok.data.content import digests_from_json, file_digests
from lattok.data.opening import BESIDE, as_dataset
from lattok.data.schema import LABELS, LEROBOT_INDEX, PROVENANCE, Feature, RobotDataset, same_split
from lattok.data.tables import ColumnReader, column_to_numpy, open_table
from lattok.data.views import ColumnsView
from lattok.labels.spec import check_records, taking
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.commands import command
from lattok.utils.files import read_json
from lattok.utils.spread import evenly_spread
from lattok.utils.untrusted import inside, safe_path

INDEX = ("episode_index", "frame_index")
MOST_COMPARED = 2048  # episodes, evenly spaced, whose files are compared with those that were labelled


class Sidecar:
    """A folder of labels: `features` by column, `provenance` by prefix, `columns(episode_index, keys)`."""

    def __init__(self, root: str | Path):
        self.root = root = Path(root).expanduser()
        if (self.root / "meta" / "info.json").is_file():
            hint = "Its labels are columns of its own: use it as it is."
            checks.fail("labels", "a folder of labels", f"the LeRobot dataset {self.root}", hint)
        self._files = [safe_path(root, path, str(path)) for path in sorted(root.glob(LABELS))]
        if not self._files or not (self.root / PROVENANCE).is_file():
            expected = f"a folder with {PROVENANCE} and {LABELS}, as `lattok annotate` writes it"
            own = command(*taking(str(root)), "--out", "OUT")
            hint = f"Labels of another program: {own}" if any(root.glob("*.npy")) else ""
            checks.fail("labels", expected, str(self.root), hint)
        self.provenance = check_records(read_json(inside(root, PROVENANCE, str(root))), str(root / PROVENANCE))
        self.features = _features(self._files)
        # names in Parquet have no checksum
        columns = {name: facts for e in self.provenance.values() for name, facts in e.get("columns", {}).items()}
        declared = {name: (facts["dtype"], math.prod(facts["shape"])) for name, facts in columns.items()}
        found = {name: (feature.dtype, feature.shape[0]) for name, feature in self.features.items()}
        if found != declared:
            got = ", ".join(f"{name} {dtype}[{width}]" for name, (dtype, width) in found.items())[:300]
            raise LattokError(f"{root}: expected the columns that {PROVENANCE} declares, got {got}. Annotate again.")
        self._reader = ColumnReader()
        files = enumerate(self._reader.file(path).rows for path in self._files)
        spans = [(index, number, first, end - first) for number, own in files for index, (first, end) in own.items()]
        # of each episode, in order, its index, the number of its file, its first row there, and its frames
        self.episodes, self._file, self._first, self.lengths = np.array(spans, dtype=np.int64).reshape(-1, 4).T
        if not len(spans) or (np.diff(self.episodes) <= 0).any():
            raise LattokError(f"{self.root / 'labels'}: expected episodes in ascending order. Annotate again.")

    def file_of(self, episode_index: int) -> Path:
        """Return the file that holds the labels of an episode."""
        return self._files[self._file[self._row(episode_index)]]

    def columns(self, episode_index: int, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Labels of one episode: [T] for scalars (shape (1,)), else [T, n]."""
        row = self._row(episode_index)
        path, first, length = self._files[self._file[row]], int(self._first[row]), int(self.lengths[row])
        features = {"frame_index": LEROBOT_INDEX["frame_index"]} | {key: self.features[key] for key in keys}
        read = {key: self._reader.read(path, key, first, first + length) for key in features}
        values = {key: column_to_numpy(read[key], feature, f"{path}: `{key}`") for key, feature in features.items()}
        if not np.array_equal(values.pop("frame_index"), np.arange(length)):
            raise LattokError(f"{path}: the frames of episode {episode_index} are not in order. Annotate again.")
        return values

    def _row(self, episode_index: int) -> int:
        row = int(np.searchsorted(self.episodes, episode_index))
        if row == len(self.episodes) or self.episodes[row] != episode_index:
            checks.fail("episode_index", f"an episode with labels in {self.root}", repr(episode_index))
        return row


class Joined(NamedTuple):
    """What a dataset says of the labels in all folders that are read beside it."""

    provenance: dict[str, Any]  # by prefix


class LabelledDataset(ColumnsView):
    """A dataset and its labels as one dataset: all label columns stand among its features."""

    def __init__(self, dataset: RobotDataset, labels: Sidecar):
        super().__init__(dataset)
        self.sidecar = labels
        before = {} if dataset.labels is None else dataset.labels.provenance
        self.labels = Joined({**before, **labels.provenance})
        self.features = dataset.features | labels.features
        self.filled = {}  # by column: the prefix of what fills it
        for prefix, entry in labels.provenance.items():
            if "fills" in entry and {f"{prefix}.action", f"{prefix}.filled"} <= labels.features.keys():
                key, width = entry["fills"]["column"], labels.features[f"{prefix}.action"].shape
                parts, own = entry["fills"].get("parts", []), dataset.features.get(key)
                if [*dataset.joined.get(key, ())] != parts or (own is not None and own.shape != width):
                    expected = f"`{key}` of {checks.counted(width[0], 'number')}" + (
                        f", joined of {', '.join(parts)}" if parts else ""
                    )
                    hint = "Describe the dataset as it was when it was annotated."
                    got = f"{dataset.name}, whose own is another"
                    checks.fail("dataset", f"the one of the labels, which fill {expected}", got, hint)
                names = tuple(entry["fills"].get("names", ()))
                self.filled[key] = prefix
                feature = Feature("float32", width, names if len(names) == width[0] else None)
                self.features = {key: feature} | self.features  # that of the dataset, where it has one

    def __repr__(self) -> str:
        return f"{self.dataset!r} with labels {', '.join(self.sidecar.provenance)}"

    def files_of(self, episode_index: int) -> tuple[Path, ...]:
        return (*self.dataset.files_of(episode_index), self.sidecar.file_of(episode_index))

    def _read_for(self, keys: Sequence[str]) -> list[str]:
        checks.names("keys", keys)
        own, labels = self.dataset.features, self.sidecar.features
        return [key for key in keys if (key in own if key in self.filled else key not in labels)]

    def _made(self, episode_index: int, keys: Sequence[str], read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        labels = [key for key in keys if key in self.sidecar.features and key not in self.filled]
        values = {**read, **(self.sidecar.columns(episode_index, labels) if labels else {})}
        values |= {key: self._filled(episode_index, key, read.get(key)) for key in keys if key in self.filled}
        return {key: values[key] for key in keys}

    def _filled(self, episode_index: int, key: str, own: np.ndarray | None) -> np.ndarray:
        """Return the dataset's own column, if it has one, with what was inferred where nobody knows it."""
        keys = [f"{self.filled[key]}.{name}" for name in ("action", "filled")]
        inferred, rows = self.sidecar.columns(episode_index, keys).values()
        own = np.full(inferred.shape, np.nan, dtype=np.float32) if own is None else own
        chosen = rows.reshape(len(rows), *[1] * (own.ndim - 1))
        return np.where(chosen, inferred.reshape(own.shape), own).astype(own.dtype)


def with_labels(
    dataset: RobotDataset | str | os.PathLike[str], labels: str | Path | Sequence[str | Path]
) -> RobotDataset:
    """Return `dataset`, or the one at this path, with the labels in one or several folders `labels` as further
    columns."""
    dataset = as_dataset(dataset)
    for folder in (labels,) if isinstance(labels, str | os.PathLike) else labels:
        sidecar = Sidecar(folder)
        _check_source(dataset, sidecar)
        if taken := dataset.features.keys() & sidecar.features.keys():
            hint = "Name a folder once, and none beside a DATASET that is one; two models need two prefixes (--prefix)."
            checks.fail("labels", "columns that are not there already", f"`{min(taken)}` in {folder}", hint)
        dataset = LabelledDataset(dataset, sidecar)
    return dataset


BESIDE.add("labels", with_labels)


def _features(files: Sequence[Path]) -> dict[str, Feature]:
    """Find the label columns, the same in all files."""
    schema = open_table(files[0]).schema_arrow
    for path in files:
        if not {*INDEX} <= {*schema.names} or not open_table(path).schema_arrow.equals(schema):
            raise LattokError(f"{path}: expected {', '.join(INDEX)} and the columns of {files[0]}. Annotate again.")
    features = {}
    for name, given in ((field.name, field.type) for field in schema if field.name not in INDEX):
        kind, width = (given.value_type, given.list_size) if isinstance(given, pa.FixedSizeListType) else (given, 1)
        if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            checks.refuse(f"{files[0]}: `{name[:60]}`", "numbers or lists of one length", str(given)[:60])
        features[name] = Feature(pa.array([], kind).to_numpy(zero_copy_only=False).dtype.name, (width,), None)
    return features


def _check_source(dataset: RobotDataset, sidecar: Sidecar) -> None:
    """Check that names, episodes and lengths are the same; what has become unreadable since may have labels."""
    for prefix, entry in sidecar.provenance.items():
        made_from: dict[str, Any] = entry.get("dataset", {})
        name, split = made_from.get("name"), made_from.get("split")
        if name is not None and name != dataset.name:
            hint = f"Open the dataset that they were made from; if it is this one, under a new name, add name={name!r}."
            checks.fail("labels", f"labels of `{dataset.name}`", f"`{prefix}` of `{name}` in {sidecar.root}", hint)
        if not same_split(split, dataset.split):
            expected, got = f"labels of split `{dataset.split}`", f"`{prefix}` of split `{split}` in {sidecar.root}"
            checks.fail("labels", expected, got, f"Open `{dataset.name}` with split={split!r}.")
        _check_files(dataset, entry, prefix, sidecar.root)
    lengths = {episode.index: episode.length for episode in dataset.episodes}
    labelled = dict(zip(sidecar.episodes.tolist(), sidecar.lengths.tolist(), strict=True))
    for damage in dataset.damaged:
        labelled.pop(damage.episode_index, None)
    if lengths == labelled:
        return
    odd = min(i for i in {*lengths, *labelled} if lengths.get(i) != labelled.get(i))
    here, there = (
        checks.counted(found[odd], "frame") if odd in found else "no such episode" for found in (lengths, labelled)
    )
    expected = f"labels of the {checks.counted(len(lengths), 'episode')} of `{dataset.name}`"
    got = f"{len(labelled)} in {sidecar.root}, and episode {odd} differs ({here} in the dataset, {there} labelled)"
    checks.fail("labels", expected, got, "Annotate the dataset again, or open the one they were made from.")


def _check_files(dataset: RobotDataset, entry: Mapping[str, Any], prefix: str, root: Path) -> None:
    """Refuse labels of files that have other episodes now; note where files have changed since."""
    if "files" not in entry:
        return
    indices = [episode.index for episode in dataset.episodes]
    now = file_digests(dataset, evenly_spread(indices, MOST_COMPARED))
    then = digests_from_json(entry["files"], indices, f"files` of `{prefix}` in `{PROVENANCE}")
    changed = [index for index in now if then.get(index, now[index]) != now[index]]
    were = {digest: index for index, digest in then.items()}
    if moved := [index for index in changed if now[index] in were]:
        first = moved[0]
        expected = f"labels of the episodes of `{dataset.name}` as they are now"
        got = f"`{prefix}` in {root}, made when what is episode {first} was episode {were[now[first]]}"
        checks.fail("labels", expected, got, "Annotate it again: files were added, removed or renamed.")
    if changed:
        files = f"{len(changed)} of {checks.counted(len(now), 'episode')} of {dataset.name}"
        what = f"the files of {files} (first: {changed[0]}) have changed since `{prefix}` in {root} was made"
        checks.note(f"{what}: lattok verify tells whether its labels are still theirs")
