"""LeRobot in Lance tables, written by pylance as lerobot-lancedb 0.1 and 0.2 do, against their v3 source."""

import io
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lattok.cli import main
from lattok.data import LeRobotV3, open_dataset
from tests.errors import refused

BLOB = {b"lance-encoding:blob": b"true"}
SCHEMA = pa.schema(
    [
        pa.field("video_key", pa.string()),
        pa.field("chunk_index", pa.int64()),
        pa.field("file_index", pa.int64()),
        pa.field("video_bytes", pa.large_binary(), metadata=BLOB),
    ]
)


def rows_of(source: LeRobotV3) -> pa.Table:
    """Rows in the order of `index`, with _ for . in names and lists of one length, as both versions write them."""
    table = pa.concat_tables(pq.read_table(path) for path in source.data_files()).sort_by("index")
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_list(column.type):
            column = pa.FixedSizeListArray.from_arrays(column.flatten(), len(column[0]))
        columns[name.replace(".", "_")] = column
    return pa.table(columns)


def with_videos(source: LeRobotV3, root: Path, frames: str = "frames", videos: str = "videos") -> Path:
    lance = pytest.importorskip("lance")
    shutil.copytree(source.root / "meta", root / "meta")
    lance.write_dataset(rows_of(source), str(root / f"{frames}.lance"))
    films = []
    for path in sorted((source.root / "videos").rglob("*.mp4")):
        numbers = (int(part.split("-")[1]) for part in (path.parent.name, path.stem))
        films.append(dict(zip(SCHEMA.names, (path.parts[-3], *numbers, path.read_bytes()), strict=True)))
    lance.write_dataset(pa.Table.from_pylist(films, SCHEMA), str(root / f"{videos}.lance"))
    return root


def with_pictures(source: LeRobotV3, root: Path) -> Path:
    lance = pytest.importorskip("lance")
    shutil.copytree(source.root / "meta", root / "meta")
    table = rows_of(source)
    for camera in source.cameras:
        frames = np.concatenate([source.frames(episode.index, [camera])[:, 0] for episode in source.episodes])
        table = table.append_column(camera.replace(".", "_"), pa.array([png(frame) for frame in frames], pa.binary()))
    lance.write_dataset(table, str(root / "arm.lance"))
    return root


def png(frame: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "PNG")
    return out.getvalue()


def older(source: LeRobotV3, root: Path) -> Path:
    return with_videos(source, root, "arm", "arm_videos")


@pytest.mark.parametrize("write", [with_videos, older, with_pictures])
def test_it_is_what_the_parquet_files_are(make_dataset, tmp_path: Path, write: Callable):
    source = make_dataset([12, 9, 15])
    dataset = pickle.loads(pickle.dumps(open_dataset(write(source, tmp_path / "lance"))))
    assert (dataset.kind, dataset.fps, dataset.tasks) == ("lerobot-lance", source.fps, source.tasks)
    assert [*dataset.episodes] == [*source.episodes]
    keys = [key for key in source.features if key not in source.cameras]
    assert {key: dataset.features[key] for key in keys} == {key: source.features[key] for key in keys}
    for episode in source.episodes:
        for key, values in source.columns(episode.index, keys).items():
            np.testing.assert_array_equal(dataset.columns(episode.index, [key])[key], values, err_msg=key)
        np.testing.assert_array_equal(dataset.frames(episode.index), source.frames(episode.index))
        picked = dataset.frames(episode.index, ["wrist"], [7, 2])
        np.testing.assert_array_equal(picked, source.frames(episode.index, ["wrist"], [7, 2]))


@pytest.mark.ci
def test_it_goes_through_the_verbs(make_dataset, tmp_path: Path):
    root = with_videos(make_dataset([12, 9, 15]), tmp_path / "lance")
    bins, labels, out = (str(tmp_path / name) for name in ("bins", "labels", "out"))
    assert main(["inspect", str(root)]) == 0
    assert main(["train", "uniform-bins", str(root), "--out", bins, "--horizon", "4"]) == 0
    assert main(["annotate", str(root), "--model", bins, "--out", labels]) == 0
    assert main(["verify", str(root), "--labels", labels, "--model", bins]) == 0
    assert main(["export", str(root), "--labels", labels, "--out", out, "--images", "image"]) == 0
    np.testing.assert_array_equal(open_dataset(out).frames(1), open_dataset(root).frames(1))


def test_without_pylance_it_says_how_to_install_it(make_dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "lance"
    shutil.copytree(make_dataset([4]).root / "meta", root / "meta")
    (root / "frames.lance").mkdir()
    monkeypatch.setitem(sys.modules, "lance", None)
    refused(r"reading Lance tables needs pylance\. Install it: pip install", open_dataset, root)


def cut(root: Path) -> None:
    (path,) = (root / "frames.lance/data").glob("*.lance")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_type(root: Path) -> None:
    """One letter of a manifest: the library gives up, with an exception that is no `Exception`."""
    (path,) = (root / "videos.lance/_versions").glob("*.manifest")
    data = path.read_bytes()
    assert b"int64" in data
    path.write_bytes(data.replace(b"int64", b"inT64"))


def link(root: Path) -> None:
    (path,) = (root / "frames.lance/data").glob("*.lance")
    path.rename(root.parent / "mine.lance")
    path.symlink_to(root.parent / "mine.lance")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (cut, r"cannot read .*frames\.lance as Lance"),
        (link, r"frames\.lance"),
        (other_type, r"cannot read .*videos\.lance as Lance"),
        (lambda root: shutil.rmtree(root / "frames.lance/_versions"), r"cannot read .*frames\.lance as Lance"),
        (lambda root: shutil.rmtree(root / "videos.lance"), r"expected videos\.lance"),
        (lambda root: shutil.copytree(root / "frames.lance", root / "other.lance"), "expected one table of frames"),
    ],
    ids=["cut", "link", "other type", "no version", "no videos", "two tables"],
)
def test_what_is_damaged_is_said_in_one_line(make_dataset, tmp_path: Path, harm: Callable, says: str):
    root = with_videos(make_dataset([6, 5]), tmp_path / "lance")
    harm(root)
    refused(says, lambda: open_dataset(root).columns(0, ["action"]))


def test_beside_parquet_files_it_is_none(make_dataset):
    source = make_dataset([4])
    (source.root / "frames.lance").mkdir()
    assert open_dataset(source.root).kind == "lerobot"
