"""Datasets made to harm: they are refused in one line, and nothing outside of them is read or written."""

import hashlib
import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lattok.annotation import annotate
from lattok.data import Feature, LeRobotWriter, RobotDataset, export, inspect_dataset, open_dataset
from lattok.data.tables import DataFile
from lattok.labels import with_labels
from lattok.utils.checks import LattokError
from tests.annotation.fakes import FakeTokenizer
from tests.conftest import write_dataset
from tests.data import hostile_runs
from tests.data.attacks import CAMERA, png
from tests.data.edits import add_feature, edit_info, set_column
from tests.data.fuzz import summary
from tests.data.specimens import write_originals
from tests.errors import refused

MODELS = {"tok": FakeTokenizer()}


def use(root: Path, out: Path) -> None:
    """Everything that a user does with a dataset of somebody else."""
    dataset = open_dataset(root)
    inspect_dataset(dataset).render()
    annotate(dataset, MODELS, out / "annotated")
    export(dataset, out / "exported")


def snapshot(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A dataset whose data file lies outside of it, where something valuable has that name."""
    root = write_dataset(tmp_path / "theirs" / "dataset", [12, 15], cameras=False)
    (tmp_path / "mine" / "data").mkdir(parents=True)
    shutil.move(root / "data" / "chunk-000" / "file-000.parquet", tmp_path / "mine" / "data" / "victim.parquet")
    (tmp_path / "mine" / "secret.txt").write_text("theirs to read?")
    return root


@pytest.mark.parametrize("up", ["../../mine/data/victim.parquet", "data/../../../mine/data/victim.parquet", None])
def test_a_data_path_that_leads_out_is_refused_and_no_file_changes(hostile, tmp_path, up):
    """`annotate` used to write its columns into that file."""
    edit_info(hostile, data_path=up or str(tmp_path / "mine" / "data" / "victim.parquet"))
    before = snapshot(tmp_path / "mine")
    refused(r"meta/info.json: `data_path`: expected a path below .*dataset, got '", use, hostile, tmp_path / "out")
    assert snapshot(tmp_path / "mine") == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_data_file_that_is_a_link_to_somewhere_else_is_refused(hostile, tmp_path, linked):
    if linked == "file":
        target = tmp_path / "mine" / "data" / "victim.parquet"
        (hostile / "data" / "chunk-000" / "file-000.parquet").symlink_to(target)
    else:
        shutil.rmtree(hostile / "data")
        (hostile / "data").symlink_to(tmp_path / "mine" / "data")
        edit_info(hostile, data_path="data/victim.parquet")
    before = snapshot(tmp_path / "mine")
    refused(r"`data_path`: expected a path below .*, but .* leads to .*victim.parquet", use, hostile, tmp_path / "out")
    assert snapshot(tmp_path / "mine") == before


@pytest.mark.parametrize("place", ["meta/notes.txt", "notes.txt", "extra", "videos/notes.txt", "meta/stats.json"])
def test_links_to_other_files_are_not_copied_into_what_people_publish(tmp_path, place):
    root = write_dataset(tmp_path / "theirs", [12, 15], cameras=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "secret.json").write_text('{"password": 1}')
    (root / place).parent.mkdir(exist_ok=True)
    (root / place).unlink(missing_ok=True)
    (root / place).symlink_to(tmp_path / "mine" / ("" if place == "extra" else "secret.json"))
    refused(f"{place}: expected a path below .*, but", lambda: annotate(open_dataset(root), MODELS, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / ".out.partial").exists()


def test_links_within_a_dataset_are_copied_and_loops_end(tmp_path):
    root = write_dataset(tmp_path / "theirs", [12, 15], cameras=False)
    (root / "README.md").write_text("read")
    (root / "meta" / "README.md").symlink_to("../README.md")
    for name in ("self", "meta/up"):
        (root / name).symlink_to("." if name == "self" else "..")
    out = annotate(open_dataset(root), MODELS, tmp_path / "out")
    assert (out / "meta" / "README.md").read_text() == "read"
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert not (out / "self").exists()


def test_a_dataset_in_the_cache_of_the_hub_is_read_and_copied(tmp_path):
    """There every file of a snapshot is a link to a blob of its repository."""
    plain = write_dataset(tmp_path / "plain", [12, 15])
    blobs, snapshot_ = (tmp_path / "datasets--a--b" / name for name in ("blobs", "snapshots/6f5e"))
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in plain.rglob("*") if path.is_file())):
        place = snapshot_ / path.relative_to(plain)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blobs / str(number))
        place.symlink_to(
            Path(*[".."] * len(place.relative_to(snapshot_.parent.parent).parts[:-1])) / "blobs" / str(number)
        )
    out = annotate(open_dataset(snapshot_), MODELS, tmp_path / "out")
    again = annotate(open_dataset(plain, name="6f5e"), MODELS, tmp_path / "again")
    assert sorted(snapshot(out).values()) == sorted(snapshot(again).values())


@pytest.mark.parametrize("field", ["data_path", "video_path"])
@pytest.mark.parametrize(
    "template",
    [
        *("{chunk_index:09000000000d}", "{chunk_index.__class__}", "{file_index!r}", "{chunk_index:{file_index}d}"),
        *("{0}", "{", "a\\..\\..\\b", "meta/../../x", "/dev/zero", "~root/../../x"),
    ],
)
def test_templates_are_plain(tmp_path, field, template):
    """`str.format` made nine gigabytes of the first one."""
    root = write_dataset(tmp_path / "theirs", [12, 15])
    edit_info(root, **{field: template})
    refused(f"info.json: `{field}`: expected a path ", open_dataset, root)


@pytest.mark.parametrize("template", ["meta/tasks.parquet", "meta/{chunk_index}{file_index}.parquet"])
def test_data_lies_outside_of_meta(tmp_path, template):
    root = write_dataset(tmp_path / "theirs", [12, 15], cameras=False)
    edit_info(root, data_path=template)
    refused("`data_path`: expected a path outside of meta/", open_dataset, root)


def test_files_have_paths_of_their_own(tmp_path):
    """Episodes of all files but the last were lost without a word."""
    root = write_dataset(tmp_path / "theirs", [12, 15, 9], data_file_mb=0.0001, cameras=False)
    edit_info(root, data_path="data/chunk-000/file-000.parquet")
    refused("`data_path`: expected a path for each file, got file-000.parquet for sever", open_dataset, root)
    root = write_dataset(tmp_path / "cameras", [12])
    edit_info(root, video_path="videos/observation.images.front/chunk-000/file-000.mp4")
    refused("`video_path`: expected a path for each camera, got one for several", open_dataset, root)


def rename_camera(root: Path, name: str) -> None:
    path = root / "meta" / "info.json"
    path.write_text(path.read_text().replace("observation.images.front", name.replace("\\", "\\\\")))
    for path in (root / "meta" / "episodes").rglob("*.parquet"):
        table = pq.read_table(path)
        names = [column.replace("observation.images.front", name) for column in table.column_names]
        pq.write_table(table.rename_columns(names), path)


@pytest.mark.parametrize("name", ["..", "../../mine", "a/b", "a\\..\\b", " ", "C:x"])
def test_cameras_have_names_of_folders(tmp_path, name):
    root = write_dataset(tmp_path / "theirs", [12])
    rename_camera(root, name)
    refused("info.json: feature '.*': expected a name that a folder can have", open_dataset, root)
    root = write_dataset(tmp_path / "images", [12], cameras=False)
    add_feature(root, name, "image", [8, 8, 3])
    refused("info.json: feature '.*': expected a name that a folder can have", open_dataset, root)


@pytest.mark.parametrize("names", [[".."], ["a\\b"], ["Front", "front"], ["a" * 201]])
def test_cameras_are_written_under_names_of_folders(tmp_path, names):
    features = {name: Feature("video", (32, 32, 3), None) for name in names}
    refused(
        "`features`: expected (names of cameras that a folder|cameras with diff)",
        LeRobotWriter.create,
        tmp_path / "new",
        10,
        features,
    )
    assert not list(tmp_path.iterdir())


def with_cells(root: Path, cells: list[dict[str, Any]]) -> Path:
    """The dataset with a camera whose images stand in the data file."""
    path = root / "data" / "chunk-000" / "file-000.parquet"
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    set_column(path, "observation.images.top", pa.array(cells, kind))
    add_feature(root, "observation.images.top", "image", [8, 8, 3])
    return root


SOUND = png(8, 8)
BOMB = zlib.compress(bytes(80 * 2**20), 9)
CELLS = {
    "a header of 3.6 gigapixels": {"bytes": png(60_000, 60_000)},
    "a header of 60 megapixels": {"bytes": png(10_000, 6_000)},
    "a text that unpacks to 80 MB": {"bytes": png(8, 8, (b"iTXt", b"a\0\1\0\0\0" + BOMB))},
    "a profile that unpacks to 80 MB": {"bytes": png(8, 8, (b"iCCP", b"a\0\0" + BOMB))},
    "no image": {"bytes": b"GIF89a"},
    "a path with NUL": {"path": "a\0b"},
    "a device": {"path": "/dev/zero"},
    "a path that leads out": {"path": "../secret.png"},
    "a folder": {"path": "meta"},
    "a path that is too long": {"path": "a" * 5000},
    "nothing": {},
}


@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_that_harm_are_damage_of_their_episode(tmp_path, kind):
    """`skip_damaged` leaves the episode out; the pictures used to end in tracebacks, or in no end at all."""
    empty = {"bytes": None, "path": None}
    cells = [{**empty, "bytes": SOUND}] * 5 + [empty | CELLS[kind]] + [{**empty, "bytes": SOUND}] * 4
    (tmp_path / "secret.png").write_bytes(SOUND)
    dataset = open_dataset(with_cells(write_dataset(tmp_path / "theirs", [4, 3, 3], cameras=False), cells))
    assert dataset.frames(0).max() == 128
    refused("file-000.parquet: `observation.images.top` of episode 1, frame 1", dataset.frames, 1)
    for images in ("auto", "video"):
        refused("`?observation.images.top`?", export, dataset, tmp_path / "out", images=images, video_codec="h264")
        done = export(dataset, tmp_path / f"out-{images}", images=images, skip_damaged=True, video_codec="h264")
        assert done.episodes == (0, 2)
        assert [damage.episode_index for damage in done.left_out] == [1]


def test_images_beside_the_table_are_read_within_the_dataset(tmp_path):
    cells = [{"bytes": None, "path": "images/a.png"}] * 4
    root = with_cells(write_dataset(tmp_path / "theirs", [4], cameras=False), cells)
    (root / "images").mkdir()
    (root / "images" / "a.png").write_bytes(SOUND)
    assert open_dataset(root).frames(0).shape == (4, 1, 8, 8, 3)


def test_rows_that_no_file_of_that_size_holds_are_not_made_room_for(tmp_path):
    """A column of one value takes a few bytes, whatever number of rows it claims."""
    root = write_dataset(tmp_path / "theirs", [12], cameras=False)
    path = root / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(pa.table({"episode_index": np.zeros(2**27, dtype=np.int64)}), path, compression="zstd")
    assert path.stat().st_size < 2**20
    refused(r"file-000.parquet: expected at most .* rows in ", lambda: open_dataset(root).columns(0, ["action"]))


def test_episodes_that_no_file_of_that_size_holds(tmp_path):
    root = write_dataset(tmp_path / "theirs", [12], cameras=False)
    (path,) = (root / "meta" / "episodes").rglob("*.parquet")
    row = pq.read_table(path).to_pylist()[0] | {"length": 2**30}
    pq.write_table(pa.Table.from_pylist([row]), path)
    edit_info(root, total_frames=2**30)
    refused(r"file-000.parquet: expected at most .* rows in .* bytes, got 1,073,741,824", open_dataset, root)


def test_a_description_leads_downwards(tmp_path, monkeypatch):
    write_dataset(tmp_path / "mine", [12], cameras=False)
    (tmp_path / "theirs").mkdir()
    file = tmp_path / "theirs" / "arm.json"
    for target in ("../mine", str(tmp_path / "mine")):
        file.write_text(json.dumps({"dataset": target}))
        refused(r"`dataset` of `.*arm.json`: expected a path below .*theirs", open_dataset, file)
    monkeypatch.setenv("LATTOK_DATA", str(tmp_path / "mine"))
    assert len(open_dataset(file).episodes) == 1


def test_labels_beside_a_dataset_are_files_of_their_folder(tmp_path):
    from tests.data.rlds_sample import write_rlds

    dataset = open_dataset(write_rlds(tmp_path / "toy", [4, 6]), fps=5)
    labels = annotate(dataset, MODELS, tmp_path / "labels")
    file = labels / "labels" / "file-000.parquet"
    shutil.move(file, tmp_path / "elsewhere.parquet")
    file.symlink_to(tmp_path / "elsewhere.parquet")
    refused("file-000.parquet: expected a path below .*labels, but .* leads to", with_labels, dataset, labels)


def test_frame_indices_given_as_cameras(sample):
    refused(r"`cameras`: expected names of cameras, got array\(\[0, 1, 2\]\).*None", sample.frames, 0, np.arange(3))


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_some_attacks_of_every_kind_of_dataset(tmp_path):
    """More: python scripts/fuzz_datasets.py --attack --cases 1000."""
    pytest.importorskip("h5py")
    outcomes = list(hostile_runs.run(28, 500_000, tmp_path))
    assert not [o for o in outcomes if o.verdict in hostile_runs.FAILURES], summary(outcomes, 0, hostile_runs.FAILURES)
    assert sum(outcome.verdict == "refused" for outcome in outcomes) > 10


def broken_text(count: int) -> pa.Array:
    ends = pa.py_buffer(np.arange(count + 1, dtype=np.int32).tobytes())
    return pa.StringArray.from_buffers(count, ends, pa.py_buffer(b"\xff" * count))


UNREADABLE = {
    "text that is no UTF-8": broken_text,
    "times that no calendar has": lambda count: pa.array([2**62] * count, pa.duration("s")),
    "days that no calendar has": lambda count: pa.array([2**31 - 1] * count, pa.int32()).cast(pa.date32()),
    "a zone that no clock has": lambda count: pa.array([0] * count, pa.timestamp("ns", "Nowhere/City")),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_values_that_are_none_are_refused_wherever_they_stand(tmp_path, kind):
    """pyarrow reads them from the file, and raises what is no LattokError once they become Python's."""
    make, said = UNREADABLE[kind], "expected values, got damaged ones"
    root = write_dataset(tmp_path / "tasks", [12], cameras=False)
    tasks = root / "meta" / "tasks.parquet"
    set_column(tasks, "task", make(pq.read_metadata(tasks).num_rows))
    refused(f"tasks.parquet: {said}", open_dataset, root)
    root = write_dataset(tmp_path / "messages", [12], cameras=False)
    (data,) = (root / "data").rglob("*.parquet")
    set_column(data, "note", make(12))
    add_feature(root, "note", "language", [1])
    refused(f"`note`: {said}", lambda: open_dataset(root).columns(0, ["note"]))
    images = write_originals(tmp_path / "originals", ["lerobot_images"])["lerobot_images"]
    data = min((images / "data").rglob("*.parquet"))
    set_column(data, CAMERA, make(pq.read_metadata(data).num_rows))
    refused(f"`{CAMERA}` of episode 0, frame 0: {said}", lambda: list(open_dataset(images).frames(0, indices=[0])))


def test_broken_text_in_lists_and_where_numbers_belong_is_refused(tmp_path):
    root = write_dataset(tmp_path / "dataset", [12], cameras=False)
    (episodes,) = (root / "meta" / "episodes").rglob("*.parquet")
    whole = episodes.read_bytes()
    set_column(episodes, "tasks", pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), broken_text(1)))
    refused("meta/episodes: expected values, got damaged ones", open_dataset, root)
    episodes.write_bytes(whole)
    (data,) = (root / "data").rglob("*.parquet")
    set_column(data, "action", broken_text(12))
    refused(r"`action`: expected float32 of shape \[3\] as", lambda: open_dataset(root).columns(0, ["action"]))


def noted(root: Path, values: pa.Array, dtype: str, shape: list[int]) -> RobotDataset:
    (path,) = (write_dataset(root, [len(values)], cameras=False) / "data").rglob("*.parquet")
    set_column(path, "note", values)
    add_feature(root, "note", dtype, shape)
    return open_dataset(root)


MISFITS = {  # column, what info.json declares, what the error says of both
    "map": (lambda: pa.array([[(0.5, 1.0)]] * 4, pa.map_(pa.float64(), pa.float64())), "float32", [2], "map<double"),
    "map of text": (lambda: pa.array([[("a", "b")]] * 4, pa.map_(pa.string(), pa.string())), "string", [2], "map<str"),
    "words": (lambda: pa.array(["a", "b"] * 2).dictionary_encode(), "float32", [1], "dictionary<values=string"),
    "numbers": (lambda: pa.array([1, 2] * 2), "string", [1], "int64"),
    "decimal": (lambda: pa.array([1] * 4).cast(pa.decimal128(30, 2)), "float32", [1], "decimal128(30, 2)"),
    "decimals": (lambda: pa.array([[1, 2]] * 4, pa.list_(pa.decimal128(9))), "float32", [2], "list<"),
    "times": (lambda: pa.array([0] * 4, pa.timestamp("ns")), "int64", [1], "timestamp[ns]"),
    "bytes": (lambda: pa.array([b"ab"] * 4), "string", [1], "binary"),
    "struct": (lambda: pa.array([{"a": 1.0, "b": 2.0}] * 4), "float32", [2], "struct<a: double, b: double>"),
    "fractions": (lambda: pa.array([0.5] * 4), "int64", [1], "double"),
    "fractions for truth": (lambda: pa.array([0.5] * 4), "bool", [1], "double"),
    "text": (lambda: broken_text(4), "float32", [1], "string"),
    "nothing": (lambda: pa.nulls(4), "int64", [1], "null"),
    "scalars": (lambda: pa.array([1.0] * 4), "float32", [2], "double"),
    "deeper lists": (lambda: pa.array([[[1.0, 2.0]]] * 4), "float32", [2], "list<element: list<element: double>>"),
    "lists between": (lambda: pa.array([[[1.0], [2.0]]] * 4), "float32", [1, 2, 1], "list<element: list<element: dou"),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_a_column_of_another_type_is_refused_before_its_values_are_read(tmp_path, monkeypatch, kind):
    make, dtype, shape, got = MISFITS[kind]
    dataset = noted(tmp_path / "theirs", make(), dtype, shape)
    dataset.length(0)  # opens the file, which reads its index
    for name in ("read", "whole"):
        monkeypatch.setattr(DataFile, name, lambda *args, name=name: pytest.fail(f"values were read by {name}"))
    said = re.escape(f"file-000.parquet: `note`: expected {dtype} of shape {shape} as info.json says, got {got}")
    refused(said, dataset.columns, 0, ["note"])
    ((_, outcome),) = dataset.columns_of(dataset.episodes, ["note"])
    assert isinstance(outcome, LattokError)
    assert re.search(said, str(outcome))


@pytest.mark.parametrize(
    ("rows", "shape", "says"),
    [
        ([[1.0, 2.0, 3.0], [4.0]] * 2, [2], "expected lists of 2 values (shape [2]), got one of 3"),
        ([[1.0, 2.0], [4.0]] * 2, [2], "expected lists of 2 values (shape [2]), got one of 1"),
        ([[[1.0], [2.0]]] * 4, [1, 2], "expected lists of 1 values (shape [1, 2]), got one of 2"),
        ([[[1.0, 2.0], [3.0]]] * 4, [2, 2], "expected lists of 2 values (shape [2, 2]), got one of 1"),
    ],
)
def test_lists_of_other_lengths_are_refused_though_their_sum_is_right(tmp_path, rows, shape, says):
    """Else values of one row would become those of another."""
    dataset = noted(tmp_path / "theirs", pa.array(rows), "float32", shape)
    refused(re.escape(f"file-000.parquet: `note`: {says}"), dataset.columns, 0, ["note"])


@pytest.mark.parametrize("kind", [pa.null(), pa.list_(pa.float32())])
def test_empty_values_that_take_no_room_in_the_file_get_little_in_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("lattok.data.tables.FEW_VALUES", 100)
    dataset = noted(tmp_path / "theirs", pa.nulls(4, kind), "float32", [40])
    refused("`note`: expected at most 100 empty values, got 160", dataset.columns, 0, ["note"])


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    root = write_dataset(tmp_path / "dataset", [12, 15], cameras=False)
    for path in (root / "meta" / "tasks.parquet", root / "data" / "chunk-000" / "file-000.parquet"):
        whole = path.read_bytes()
        table = pq.read_table(path)
        name = table.column_names[0]
        pq.write_table(table.append_column(name, table[name]), path)
        refused(f"{path.name}: expected every column once, got `{name}` 2 times", use, root, tmp_path / path.stem)
        path.write_bytes(whole)
    use(root, tmp_path / "whole")


@pytest.mark.parametrize("shape", [[2**20, 2**20], [2] * 9, [2**31]])
def test_features_of_absurd_shapes(tmp_path, shape):
    root = write_dataset(tmp_path / "theirs", [12], cameras=False)
    add_feature(root, "action", "float32", shape)
    refused("`features.action` in .*info.json`: expected dtype and shape", open_dataset, root)


def test_names_of_files_that_are_no_text(tmp_path):
    """A Latin-1 name in an archive; it is part of hashes and of messages."""
    import os

    root = write_dataset(tmp_path / "theirs", [12], cameras=False)
    Path(os.fsdecode(os.path.join(os.fsencode(root), b"caf\xe9.txt"))).write_text("x")
    out = annotate(open_dataset(root), MODELS, tmp_path / "out")
    assert os.path.exists(os.path.join(os.fsencode(out), b"caf\xe9.txt"))


def test_a_text_column_that_holds_numbers_is_refused(tmp_path):
    root = write_dataset(tmp_path / "theirs", [12], cameras=False)
    (path,) = (root / "data").rglob("*.parquet")
    set_column(path, "note", pa.array([2**63] * 12, pa.uint64()))
    add_feature(root, "note", "string", [1])
    refused(r"`note`: expected string of shape \[1\] as", lambda: export(open_dataset(root), tmp_path / "out"))


@pytest.mark.parametrize(
    ("values", "dtype", "shape"),
    [
        (pa.array([1.0, 2.0]).dictionary_encode(), "float32", [1]),
        (pa.array(["a", "b"]).dictionary_encode(), "string", [1]),
        (pa.array(["a", "b"], pa.large_string()), "string", [1]),
        (pa.array([1, 2]), "float32", [1]),
        (pa.array([True, False]), "float32", [1]),
        (pa.array([[1.0], [2.0]]), "float32", [1]),
        (pa.array([[1.0, 2.0]] * 2, pa.large_list(pa.float32())), "float32", [2, 1]),
        (pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32(), 2)), "float32", [1, 2]),
        (pa.array([[[1.0], [2.0]]] * 2), "float32", [2, 1]),
    ],
)
def test_columns_that_hold_what_is_declared_are_read(tmp_path, values, dtype, shape):
    read = noted(tmp_path / "theirs", values, dtype, shape).columns(0, ["note"])["note"]
    expected = np.array(values.to_pylist())
    assert (read == (expected.reshape(2) if shape == [1] else expected.reshape(2, *shape))).all()


def test_long_names_and_many_are_cut_in_messages(tmp_path):
    root = write_dataset(tmp_path / "dataset", [12, 15], cameras=False)
    for i in range(9):
        add_feature(root, f"{i}{'a' * 500}", "float32", [1])
    dataset = open_dataset(root)
    for keys in (["b" * 5000], ["0" + "a" * 500]):
        with pytest.raises(LattokError) as caught:
            dataset.columns(0, keys)
        assert len(str(caught.value)) < 2000
    with pytest.raises(LattokError, match="…") as caught:
        inspect_dataset(dataset, columns=["c" * 5000])
    assert len(str(caught.value)) < 2000


def test_a_vector_too_long_to_name_its_numbers_is_refused(tmp_path):
    root = write_dataset(tmp_path / "dataset", [12, 15], cameras=False)
    add_feature(root, "action", "float32", [2**31 - 1])
    refused(r"`features.action` in .*a vector has up to 2.20 numbers.*got .*2147483647", open_dataset, root)
