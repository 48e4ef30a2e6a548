"""Formats that `export` writes: what every writer does, and those that there are, ours and other packages'.

[project.entry-points."lattok.exports"]
zarr = "my_package.zarr_writer"     which holds a DatasetWriter of this `kind`
"""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pyarrow as pa
from typing_extensions import Self

from lattok.data.image_writer import Frames, VideoSpan
from lattok.data.schema import NONE, Feature
from lattok.data.summaries import Stats
from lattok.utils.files import sync_files, write_json
from lattok.utils.output import Output
from lattok.utils.registry import Registry


class Extra(NamedTuple):
    """What goes into an episode beside its columns and frames; see `DatasetWriter.carries`."""

    videos: Mapping[str, VideoSpan] = NONE  # of depth cameras, copied whole
    stats: Mapping[str, Stats] = NONE  # of what is not measured here


class DatasetWriter(ABC):
    """Writes the episodes of an export: a subclass stores each in `folder`, and in `close` what is to come last.

    `folder` takes its place when all is written; of an export that fails nothing is left.
    """

    kind: ClassVar[str]  # what `export` calls the format
    text: ClassVar[str] = ""  # what errors call it
    # how it keeps what cameras see, the best way first: "video", "image" (encoded JPEG or PNG), or "pixels", where it
    # is given blocks uint8 [n, H, W, 3]
    stores: ClassVar[tuple[str, ...]] = ("pixels",)
    # whether it also takes what only datasets of Parquet files have: columns of any type, depth cameras, what
    # info.json says of features. What it does not take, a warning names
    carries: ClassVar[bool] = False

    folder: Path
    fps: float
    features: Mapping[str, Feature]  # of columns and cameras
    robot_type: str | None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "kind" in vars(cls):
            WRITERS.add(cls.kind, cls)

    @classmethod
    def check_place(cls, out: Path) -> None:
        """Check that a dataset may be written at `out`."""
        Output(out).check_absent()

    @classmethod
    def create(
        cls,
        root: str | Path,
        fps: float,
        features: Mapping[str, Feature],
        *,
        robot_type: str | None = None,
        video_codec: str = "libsvtav1",
        kept: Mapping[str, pa.DataType] | None = None,
    ) -> AbstractContextManager[Self]:
        """Write at `root` as long as the `with` lasts. `kept` has the types of columns that only some writers carry."""
        return cls._written(Path(root), fps, features, robot_type)

    @classmethod
    @contextmanager
    def _written(
        cls, root: Path, fps: float, features: Mapping[str, Feature], robot_type: str | None
    ) -> Iterator[Self]:
        cls.check_place(root)
        with Output(root) as output:
            try:
                shutil.rmtree(output.made, ignore_errors=True)  # what a killed one left
                output.made.mkdir()
                writer = cls()
                writer.folder, writer.fps, writer.features, writer.robot_type = output.made, fps, features, robot_type
                yield writer
                writer.close()
                sync_files(output.made)
                cls.check_place(root)
                output.publish()
            finally:
                output.remove()

    @abstractmethod
    def add_episode(
        self, columns: Mapping[str, Any], frames: Mapping[str, Frames], task: str | Sequence[str], length: int
    ) -> None:
        """Store an episode of T steps: columns [T, *shape] ([T] for shape (1,)), frames by camera, and the instruction,
        one for all steps or one for each."""

    def add_whole_episode(
        self,
        columns: Mapping[str, Any],
        frames: Mapping[str, Frames],
        task: str | Sequence[str],
        length: int,
        extra: Extra,
    ) -> None:
        """Store an episode with what a writer that `carries` takes beside it."""
        self.add_episode(columns, frames, task, length)

    def write_meta(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep facts about the dataset, such as how its labels were made, under the file name `name`."""
        write_json(self.folder / "meta" / name, value, indent=4)

    def number_tasks(self, texts: Sequence[str]) -> None:
        """Number these instructions in this order, also those of no frame: columns of the export hold the numbers."""
        return  # of those that do not carry such columns

    def write_subtasks(self, texts: Sequence[str]) -> None:
        """Keep the texts that the numbers of a column `subtask_index` stand for."""
        self.write_meta("subtasks.json", {"subtasks": list(texts)})

    def carry(
        self, notes: Mapping[str, Any], told: Mapping[str, Mapping[str, Any]], told_of_all: Mapping[str, Any]
    ) -> None:
        """Take what info.json says beside types and shapes: notes at columns, facts about features and about all."""
        return  # of those that do not carry it

    def close(self) -> None:
        """Write what comes after the last episode."""
        return  # most have nothing


WRITERS: Registry[type[DatasetWriter]] = Registry("lattok.exports", "lattok.data.formats")
