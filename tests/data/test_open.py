"""Opening datasets: what is read, several files and chunks, and one clear line for everything that is broken."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lattok.data import Feature, camera_keys, open_dataset, sample_dataset_path
from lattok.data.images import encode_png
from lattok.data.schema import FORMATS, INDEX_KEYS, vector_key
from tests.data.edits import edit_info
from tests.data.formats.test_video_folder import write_video
from tests.data.fuzz import OPTIONS
from tests.data.rlds_sample import write_rlds
from tests.data.specimens import write_originals
from tests.errors import refused


def test_columns_equal_an_independent_read(sample):
    table = pq.read_table(sample_dataset_path() / "data", partitioning=None).to_pydict()
    rows = np.flatnonzero(np.array(table["episode_index"]) == 7)
    got = sample.columns(7, ["action", "next.success", "task_index", "observation.environment_state"])
    assert got["action"].dtype == np.float32
    assert got["next.success"].dtype == bool
    for key, values in got.items():
        np.testing.assert_array_equal(values, np.array([table[key][r] for r in rows], dtype=values.dtype))


@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_a_folder_that_is_not_of_the_format_it_is_said_to_be(kind, tmp_path):
    said = r"expected a folder|`\w+`: expected|is no \w+ dataset: it has no"
    refused(said, open_dataset, tmp_path, format=kind)


def test_an_empty_folder_that_is_said_to_be_zarr_lacks_what_stores_are_called(tmp_path):
    refused(r"a folder with files \.zarr or \.zarr\.zip", open_dataset, tmp_path, format="zarr")


def test_a_dataset_without_any_vector_says_what_can_learn_from_it(make_dataset):
    """Columns of labels are none: they are not what a policy should learn as actions."""
    dataset = make_dataset([4, 6], cameras=False)
    labels = {"latent.codes": Feature("int64", (4,), None), "latent.valid": Feature("bool", (1,), None)}
    dataset.features = {"observation.images.front": Feature("video", (8, 8, 3), None), **labels}
    refused(r"`action_key`: tiny has no 'action', nor any other vector", vector_key, dataset, "action_key", "action")


def test_camera_names(sample):
    assert camera_keys(sample) == sample.cameras
    assert camera_keys(sample, ["gripperPOV", "observation.images.corner2"]) == sample.cameras[::-1]
    refused(r"`cameras`: expected names among corner2, gripperPOV, got 'wrist'\.", camera_keys, sample, ["wrist"])
    refused("different names", camera_keys, sample, ["corner2", "corner2"])
    refused("a sequence of names", camera_keys, sample, "corner2")


def test_columns_are_named_in_a_sequence(sample):
    expected = r"`keys`: expected a sequence of names, got 'action'\. Write \['action'\]"
    refused(expected, sample.columns, 0, "action")


@pytest.mark.parametrize(
    ("version", "says"),
    [
        ("v1.6", "Convert it to v2.0"),
        ("v4.0", "A newer lattok may read it"),
        ("unknown", "Another program wrote it: give a folder with its videos"),
    ],
)
def test_other_format_versions(make_dataset, version, says):
    root = make_dataset([4], cameras=False).root
    edit_info(root, codebase_version=None if version == "unknown" else version)
    refused(rf"expected LeRobot format v3, got {version}.*{says}", open_dataset, root)


def test_a_folder_that_is_no_dataset(tmp_path):
    what = r"`dataset`: expected one of .*LeRobot v3 \(meta/info\.json\), .*HDF5 .*, RLDS .*, videos .*, got .* with "
    refused(r"`dataset`: expected a dataset, got .* with nothing in it\.", open_dataset, tmp_path)
    for i in range(10):
        (tmp_path / f"{i}.txt").touch()
    (tmp_path / "0" / "deeper").mkdir(parents=True)
    refused(what + r"0\.txt, 0/, 1\.txt, .*, 6\.txt and 3 more\.", open_dataset, tmp_path)
    (tmp_path / "arm" / "meta").mkdir(parents=True)
    (tmp_path / "arm" / "meta" / "info.json").write_text("{}")
    refused(what + r".* Give one of the datasets in it: arm\.", open_dataset, tmp_path)
    (tmp_path / "meta" / "episodes").mkdir(parents=True)
    refused(r"LeRobot's meta/info\.json is missing: copy the dataset again\.", open_dataset, tmp_path)
    (tmp_path / "meta" / "lattok.json").write_text("{}")
    refused(r"holds only the labels of one\. Give both: lattok inspect DATASET --labels", open_dataset, tmp_path)


def test_neither_a_folder_nor_a_hub_id(tmp_path):
    for path in (tmp_path / "a" / "b" / "nothing", "x" * 5000, "a\0b", "~nobody"):
        refused(r"`dataset`: expected a folder, a description file, or a Hub id", open_dataset, path)
    file = tmp_path / "file"
    file.touch()
    refused(r"`dataset`: expected a folder, a \.hdf5 or \.h5 file, .*, or a", open_dataset, file)


def test_hub_ids_are_downloaded(monkeypatch):
    asked = []

    def download(hub_id: str, repo_type: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((hub_id, repo_type, revision, allow_patterns))
        return str(sample_dataset_path())

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    dataset = open_dataset("org/name", revision="v3.0")
    assert asked == [("org/name", "dataset", "v3.0", ["meta/*"])]
    assert dataset.name == "org/name"


def test_broken_info(make_dataset):
    root = make_dataset([4], cameras=False).root
    edit_info(root, fps=None)
    refused(r"info\.json: missing fps", open_dataset, root)
    (root / "meta" / "info.json").write_text("{")
    refused(r"info\.json is not valid JSON", open_dataset, root)


def test_missing_and_truncated_parquet(make_dataset):
    dataset = make_dataset([4, 5], cameras=False)
    path = dataset.data_file(0)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(r"file-000\.parquet is no complete Parquet", lambda: open_dataset(dataset.root).columns(0, ["action"]))
    path.unlink()
    refused(r"missing data file .*file-000\.parquet", lambda: open_dataset(dataset.root).columns(0, ["action"]))
    shutil.rmtree(dataset.root / "meta" / "episodes")
    refused("episodes holds no parquet file", open_dataset, dataset.root)


def test_unknown_column_and_episode(sample):
    refused(r"`keys`: expected columns among .*, got 'actoin'", sample.columns, 0, ["actoin"])
    refused(r"`episode_index`: expected an episode of .* \(0 to 49\), got 50", sample.columns, 50, ["action"])


def test_missing_columns_of_the_episode_table(make_dataset):
    root = make_dataset([4], cameras=False).root
    path = next((root / "meta" / "episodes").rglob("*.parquet"))
    pq.write_table(pq.read_table(path).drop_columns(["length"]), path)
    refused("missing column length", open_dataset, root)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("run.bag", "rosbags-convert --src .*run.bag --dst converted --dst-storage mcap"),
        ("run/run_0.db3", "rosbags-convert --src .*run --dst"),
        ("a.gif", "ffmpeg -i FILE FILE.mp4"),
        ("ep0/0.webp", "ffmpeg -i FILE FILE.png"),
        ("ep0.npy", "LeRobotWriter"),
        ("train-00000-of-00001.parquet", "is no complete Parquet file"),
        ("train.arrow", "LeRobotWriter"),
        ("shard-000000.tar", "tar -xf FILE.tar"),
        ("run/run_0.mcap.zstd", "unzstd FILE.zstd"),
        ("meta_data/info.json", "convert_dataset_v1_to_v2"),
        ("pick/run1/demo.hdf5", "Give one of the datasets in it: pick"),
    ],
)
def test_a_folder_of_what_is_not_read_says_how_to_get_it_in(tmp_path, name, says):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"0")
    refused(says, open_dataset, tmp_path)


def test_a_pointer_of_git_lfs_is_called_so_by_every_format(tmp_path):
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{7:064d}\nsize 123456\n"
    originals = write_originals(tmp_path, ("rlds", "hdf5", "zarr", "npz", "parquet", "mcap", "video"))
    files = {"rlds": "*.tfrecord*", "hdf5": "*.hdf5", "zarr": "*/data/img/*", "npz": "*.npz", "mcap": "*.mcap"}
    files["parquet"] = "data/*.parquet"
    for name, root in originals.items():
        for path in [each for each in root.rglob(files.get(name, "*.m*")) if each.name[0] != "."]:
            path.write_text(pointer)
        refused("git lfs pull", open_dataset, root, **OPTIONS.get(name, {}))
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "a.mp4").write_text(pointer)
    refused("git lfs pull", open_dataset, tmp_path / "alone" / "a.mp4")


def test_every_format_is_recognised(tmp_path):
    rlds = write_rlds(tmp_path / "toy" / "1.0.0", [3])
    assert open_dataset(rlds, fps=5).kind == "rlds"
    dataset = open_dataset(tmp_path / "toy", fps=5, name="mine")
    assert (dataset.kind, dataset.name, dataset.root) == ("rlds", "mine", rlds)
    write_video(tmp_path / "classes" / "push" / "a.mp4")
    dataset = open_dataset(tmp_path / "classes")
    assert (dataset.kind, dataset.tasks) == ("video", ("push",))
    assert open_dataset(write_video(tmp_path / "flat" / "a.mkv").parent, fps=10).kind == "video"


def test_hdf5_is_recognised(tmp_path):
    pytest.importorskip("h5py")
    from tests.data.formats.test_hdf5 import write_robomimic

    path = write_robomimic(tmp_path / "demo.hdf5", demos=1)
    assert open_dataset(path).kind == open_dataset(tmp_path).kind == "hdf5"
    assert open_dataset(path, fps=10).fps == 10
    write_video(tmp_path / "a.mp4")
    refused(r"holds several \(hdf5, video\), got none. Name one: lattok inspect", open_dataset, tmp_path)


def test_recordings_beside_their_videos_are_not_read_as_videos_alone(tmp_path):
    for folder in ("episode_0", "episode_1"):
        (tmp_path / folder).mkdir()
        write_video(tmp_path / folder / "cam.mp4")
        (tmp_path / folder / "data.hdf5").write_bytes(b"")
    refused(r"holds several \(hdf5, video\), got none. Name one: lattok inspect", open_dataset, tmp_path)


def test_files_far_below_and_what_their_options_say_of_the_format(tmp_path):
    """Folders like DROID's: numbers in HDF5, films beside them. The draft that is printed opens them."""
    h5py = pytest.importorskip("h5py")
    values = np.arange(12.0).reshape(4, 3)
    for day in "12":
        place = tmp_path / "droid" / "lab" / "success" / day / "noon"
        place.mkdir(parents=True)
        with h5py.File(place / "trajectory.h5", "w") as file:
            file["action/gripper"], file["action/joint"] = values[:, :1], values
            file["observation/state/joint"] = values
        write_video(place / "films" / "1.mp4")
    refused(r"holds several \(hdf5, video\)", open_dataset, tmp_path / "droid")
    said = refused("expected a layout of", open_dataset, tmp_path / "droid", format="hdf5")
    (tmp_path / "droid.json").write_text(said.partition("Write ")[2].partition(" into a file")[0])
    dataset = open_dataset(tmp_path / "droid.json")
    assert (dataset.kind, len(dataset.episodes)) == ("hdf5", 2)
    np.testing.assert_array_equal(dataset.actions(1), values)
    assert {"action.gripper", "observation.state"} < dataset.features.keys()


@pytest.mark.parametrize("kind", ["video", "npz", "pictures"])
def test_folders_that_split_are_no_instructions(tmp_path, kind):
    for place in ("train/pour/a", "train/pour/b", "val/c", "raw/wipe/videos/d"):
        path = tmp_path / place / {"video": "0.mp4", "npz": "0.npz", "pictures": "0.png"}[kind]
        path.parent.mkdir(parents=True)
        if kind == "video":
            write_video(path)
        elif kind == "npz":
            np.savez(path, action=np.ones((3, 2)))
        else:
            path.write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    dataset = open_dataset(tmp_path, **({} if kind == "video" else {"fps": 10}))
    told = {}
    for episode in dataset.episodes:
        folder = dataset.files_of(episode.index)[0].relative_to(tmp_path).parts[0]
        told.setdefault(folder, []).append(episode.index)
    assert dataset.held_out == tuple(told["val"])
    assert "folders: train: 2 episodes, val: 1 episode" in dataset.findings[0].what
    assert not {"train", "val", "raw", "videos"} & set(dataset.tasks)
    assert kind != "pictures" or {"pour", "wipe"} < set(dataset.tasks)


def test_what_else_lies_in_a_lerobot_dataset_changes_nothing(make_dataset):
    root = make_dataset([4, 6]).root
    (root / "extra.zarr").mkdir()
    (root / "extra.zarr" / ".zgroup").write_text("{}")
    (root / "more.hdf5").write_bytes(b"")
    (root / "frames.lance").mkdir()
    write_video(root / "loose.mp4")
    assert open_dataset(root).kind == "lerobot"


def test_several_versions(tmp_path):
    for version in ("1.0.0", "2.0.0"):
        write_rlds(tmp_path / version, [3])
    refused(r"with several versions \(1\.0\.0, 2\.0\.0\); give one of them", open_dataset, tmp_path, fps=5)


@pytest.mark.parametrize("what", ["is_file", "is_dir", "iterdir"])
def test_a_folder_that_may_not_be_entered(tmp_path, monkeypatch, what):
    (tmp_path / "closed").mkdir()

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, what, refuse)  # whoever runs the tests may read everything
    refused("cannot read .*closed: Permission denied. Check its permissions", open_dataset, tmp_path / "closed")


def test_options_that_a_format_has_no_use_for(tmp_path):
    root = write_rlds(tmp_path / "toy", [3])
    refused(r"`captions`: expected an option that .*toy has a use for", open_dataset, root, fps=5, captions="x.csv")
    refused(r"`fps`: expected an option that .*metaworld_sample", lambda: open_dataset(sample_dataset_path(), fps=5))
    assert open_dataset(sample_dataset_path(), fps=None).fps == 80
    for name in (3, "x" * 256):
        refused("`name`: expected text of at most 255 characters, got ", open_dataset, root, fps=5, name=name)


def describe(folder: Path, **entry) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps(entry))
    return path


def test_a_description_file(tmp_path):
    root = write_rlds(tmp_path / "deep" / "toy", [3])
    dataset = open_dataset(describe(tmp_path, dataset="deep/toy", fps=4, split="train", name="mine"))
    assert (dataset.kind, dataset.fps, dataset.name) == ("rlds", 4, "mine")
    assert open_dataset(describe(tmp_path, dataset=str(root)), fps=6).fps == 6
    video = write_video(tmp_path / "videos" / "a.mp4")
    (tmp_path / "words.csv").write_text("file,caption\na.mp4,push the cup\n")
    dataset = open_dataset(str(describe(tmp_path, dataset="videos", captions="words.csv")))
    assert dataset.episodes[0].tasks == ("push the cup",)
    assert dataset.files_of(0) == (video,)


def test_a_description_of_a_hub_id(tmp_path, monkeypatch):
    """RLDS is no format that opens with a few files, so everything of the same commit is fetched then."""

    def download(hub_id: str, repo_type: str, revision: str | None, allow_patterns: list[str] | None = None) -> str:
        asked.append((hub_id, revision, allow_patterns))
        return str(root)

    asked: list = []
    root = write_rlds(tmp_path / "toy", [3])
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    dataset = open_dataset(describe(tmp_path, dataset="org/name", revision="v1", fps=5))
    assert (asked, dataset.name, dataset.kind) == (
        [("org/name", "v1", ["meta/*"]), ("org/name", root.name, None)],
        "org/name",
        "rlds",
    )


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"dataset": "toy", "fsp": 5}, r"dataset\.json`: expected names among .*fps.*, got fsp"),
        ({"fps": 5}, r"`dataset` of `.*dataset\.json`: expected a path relative to that file, or a Hub id, got None"),
        ({"dataset": 3}, "got 3"),
        ({"dataset": "dataset.json"}, "got 'dataset.json'"),
        ({"dataset": "dataset.json/"}, "got 'dataset.json/'"),
        ({"dataset": "nothing"}, r"got 'nothing', which is neither\. There is no .*nothing"),
        ({"dataset": "toy", "fps": "five"}, "`fps`: expected a number greater than 0, got 'five'"),
        ({"dataset": "toy", "fps": 5, "split": ["train"]}, "`split`: expected one of train"),
        ({"dataset": "~nobody"}, "got '~nobody'"),
        ({"dataset": "videos", "captions": 3}, "`captions`: expected a path, got 3"),
        ({"dataset": "toy", "fps": 5, "revision": "v1"}, "`revision` .* is for datasets of the Hub"),
        ({"dataset": "toy", "fps": 5, "action_space": {"actoin": "bridge"}}, "actoin"),
        ({"dataset": "toy", "fps": 5, "columns": {"action": ["action"] * 100_000}}, "got 'action' 100,000 times"),
        ({"dataset": "toy", "fps": 5, "columns": {"": ["action"]}}, "new names that a file can have, got ''"),
        ({"dataset": "toy", "fps": 5, "columns": {f"a{i}": ["action"] for i in range(257)}}, "got 257"),
        *(
            ({"dataset": "toy", "fps": 5, "cameras": ["wrist"], "columns": {name: ["action"]}}, f"got '{name}'")
            for name in (*INDEX_KEYS, "observation.images.image", "observation.images.wrist")
        ),
    ],
)
def test_broken_descriptions(tmp_path, entry, says):
    write_rlds(tmp_path / "toy", [3])
    write_video(tmp_path / "videos" / "a.mp4")
    refused(says, lambda: open_dataset(describe(tmp_path, **entry)))


def test_more_about_description_files(tmp_path):
    write_rlds(tmp_path / "toy", [3])
    path = describe(tmp_path, dataset="toy", fps=5)
    refused(r"`fps`: expected one value, here or in .*dataset\.json, got two", open_dataset, path, fps=5)
    refused(r"`revision` cannot be given for a description file", open_dataset, path, revision="main")
    refused(r"cannot read .*other\.json: No such file", open_dataset, tmp_path / "other.json")
    path.write_text("[1]")
    refused("expected a JSON object, got list", open_dataset, path)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("meta/info.json", "Give the whole dataset, "),
        ("meta/tasks.parquet", "Give the whole dataset, "),
        ("data/chunk-000/file-000.parquet", "Give the whole dataset, "),
        ("../arm.zip", "Unpack it, and give the folder."),
        ("../arm.tgz", "Unpack it first: tar -xf "),
        ("../arrays.npy", "Write arrays as a dataset first, with lattok.data.LeRobotWriter"),
        ("../lonely/clip.mp4", "Give the whole dataset, "),
        ("../notes.txt", "Give the folder of the dataset that it belongs to."),
        ("../rlds/features.json", "Give the whole dataset, "),
    ],
)
def test_a_file_of_something_says_what_to_give_instead(make_dataset, name, way_out):
    root = make_dataset([5]).root
    file = (root / name).resolve()
    file.parent.mkdir(exist_ok=True)
    if not file.exists():
        file.write_bytes(b"{}")
    (root.parent / "rlds").mkdir(exist_ok=True)
    (root.parent / "meta").mkdir()  # of something else
    (root.parent / "rlds/dataset_info.json").write_text("{}")
    said = refused(None, open_dataset, file)
    assert way_out in said
    assert str(file) in said
    if "whole" in way_out:
        assert said.endswith(f"{file.parent if name.startswith('..') else root}.")


def test_a_dataset_is_a_sequence_of_episodes(make_dataset):
    dataset = make_dataset([5, 3, 4])
    found = list(dataset)
    assert len(dataset) == len(found) == 3
    assert [each["episode"] for each in found] == list(dataset.episodes)
    assert len(dataset[-1]["action"]) == 4
    np.testing.assert_array_equal(dataset[1]["action"], dataset.columns(1, ["action"])["action"])
    assert set(found[0]) == {"episode", *(key for key in dataset.features if key not in dataset.cameras)}
    with pytest.raises(IndexError):
        dataset[3]


def test_two_threads_never_read_one_parquet_file_at_once(make_dataset, monkeypatch):
    """They may wait for each other for ever in pyarrow's cache of ranges."""
    dataset, inside, most = make_dataset([6, 7, 8]), [], []
    read = pq.ParquetFile.read

    def watched(file, *arguments, **options):
        inside.append(file)
        most.append(inside.count(file))
        time.sleep(0.01)
        found = read(file, *arguments, **options)
        inside.remove(file)
        return found

    monkeypatch.setattr(pq.ParquetFile, "read", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(dataset.frames, [0, 1, 2, 0]))
    assert set(most) == {1}


def test_facts_of_the_sample(sample):
    assert sample.fps == 80
    assert len(sample.episodes) == 50
    assert sum(e.length for e in sample.episodes) == 4059
    assert sample.features["action"] == Feature("float32", (4,), ("x", "y", "z", "gripper"))
    assert sample.cameras == ("observation.images.corner2", "observation.images.gripperPOV")
    assert len(sample.tasks) == 10
    assert sample.episodes[0].tasks == ("reach the red target",)
    assert sample.name == "metaworld_sample"


def test_columns_from_one_row_group_of_many_episodes(make_dataset):
    dataset = make_dataset([4, 6, 5], cameras=False)
    expected = [dataset.columns(i, ["action", "reward"]) for i in range(3)]
    path = dataset.data_file(0)
    pq.write_table(pq.read_table(path), path)  # as converted datasets are: one row group, lists of any length
    merged = open_dataset(dataset.root)
    for i in range(3):
        got = merged.columns(i, ["action", "reward"])
        for key in got:
            np.testing.assert_array_equal(got[key], expected[i][key])


def test_instructions_may_be_called_task(make_dataset):
    dataset = make_dataset([4, 5], cameras=False)
    path = dataset.root / "meta" / "tasks.parquet"
    table = pq.read_table(path).rename_columns(["task_index", "task"])
    pq.write_table(table, path)
    assert open_dataset(dataset.root).tasks == ("lift", "push")


def test_paths_go_up_only_where_a_link_needs_it(make_dataset, tmp_path):
    root = make_dataset([5, 5]).root
    (tmp_path / "beside").mkdir()
    assert open_dataset(tmp_path / "beside" / ".." / root.relative_to(tmp_path)).root == root
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep/er")
    (tmp_path / "deep/data").symlink_to(root)
    assert open_dataset(tmp_path / "link/../data").root == tmp_path / "link/../data"


def test_hub_failure_is_one_line(monkeypatch):
    def download(*args, **kwargs):
        raise RuntimeError("404 Client Error.\nlong story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    refused(r"`dataset`: 'org/name' could not be fetched: RuntimeError: 404 Client Error\.", open_dataset, "org/name")


def test_revision_of_a_folder_is_refused():
    refused("`revision` .* is for datasets of the Hub", lambda: open_dataset(sample_dataset_path(), revision="main"))


def test_damaged_column_chunk(make_dataset):
    dataset = make_dataset([40], cameras=False)
    path = dataset.data_file(0)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396  # pages of the first columns; the footer stays whole
    path.write_bytes(content)
    refused(
        r"file-000\.parquet", lambda: open_dataset(dataset.root).columns(0, ["action", "observation.state", "reward"])
    )


def test_rows_that_do_not_fit_the_episode_table(make_dataset):
    dataset = make_dataset([4, 5], cameras=False)
    path = dataset.data_file(0)
    pq.write_table(pq.read_table(path).slice(0, 7), path)
    refused("expected 5 rows of episode 1, got 3", lambda: open_dataset(dataset.root).columns(1, ["action"]))


def test_records_without_descriptions(tmp_path):
    root = write_rlds(tmp_path / "toy", [3])
    (root / "features.json").unlink()
    refused(r"cannot read .*features\.json: No such file", open_dataset, root, fps=5)
    (root / "dataset_info.json").unlink()
    refused(r"toy is no RLDS dataset: it has no dataset_info\.json", open_dataset, root, fps=5)
