"""Datasets whose rows are in Parquet files, such as LeRobot's: what annotation and export can do with these alone.

`annotate` writes labels as further columns into a copy of the files; of any other dataset it makes a folder of labels.
`export` takes over columns as they are stored, whatever their type, and depth cameras.
"""

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from lattok.data.schema import NONE, Feature, RobotDataset
from lattok.data.summaries import Stats
from lattok.data.views import unwrap


class NewColumns(NamedTuple):
    """Columns that a copy has and its source has not, or of which the copy holds other rows."""

    features: Mapping[str, Feature]
    notes: Mapping[str, Mapping[str, Any]]  # facts about a column that belong beside its feature
    statistics: Mapping[str, dict[str, Any]]  # of all rows, by column; empty if the source has none
    changed: Mapping[str, Collection[int]]  # old columns of which some episodes are filled in


class TableDataset(RobotDataset):
    """A dataset of Parquet files. Paths of `label_layout` and `declare` are relative to `root`."""

    info: dict[str, Any]  # what meta/info.json of LeRobot says, or nothing
    depth: Mapping[str, Feature] = NONE  # cameras that measure distances: copied, never shown
    subtask_texts: tuple[str, ...] = ()  # by the numbers of a column `subtask_index`

    @abstractmethod
    def data_files(self) -> list[Path]:
        """Return the files that hold rows."""

    @abstractmethod
    def label_layout(self) -> Iterator[tuple[str, list[tuple[int, int, int]]]]:
        """Yield data files with the index, first row and end of each episode in them, in the files' order."""

    @abstractmethod
    def schemas(self, indices: Sequence[int]) -> dict[Path, pa.Schema]:
        """Return the schemas of the data files that hold these episodes, as far as they can be read."""

    @abstractmethod
    def stored(self, episode_index: int, keys: Sequence[str]) -> dict[str, pa.ChunkedArray]:
        """Return columns of one episode as Arrow holds them, whether they are declared or not."""

    @abstractmethod
    def depth_span(self, episode_index: int, camera: str) -> tuple[Path, float, float]:
        """Return what `video_span` does, of a depth camera."""

    @abstractmethod
    def episode_statistics(self, keys: Sequence[str]) -> dict[int, dict[str, Stats]]:
        """Return stored statistics of these columns by episode, in their units."""

    @abstractmethod
    def check_copy(self, filled: bool) -> None:
        """Read the metadata that a labelled copy needs, also those of old columns that are `filled` in."""

    @abstractmethod
    def declare(self, made: Path, new: NewColumns) -> set[str]:
        """Write metadata with new columns into the copy `made`; return the files that were written."""

    @abstractmethod
    def finish(self, made: Path, new: NewColumns) -> None:
        """Renew what the copy says of single episodes, now that all other files are in it."""


def tables_of(dataset: RobotDataset) -> TableDataset | None:
    """Return the dataset behind all views if its rows are in Parquet files, else None."""
    source = unwrap(dataset)
    return source if isinstance(source, TableDataset) else None
