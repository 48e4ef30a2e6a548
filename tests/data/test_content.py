"""What makes a dataset another one to runs, and how its episodes are known again in copies."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from lattok.data import Feature, LeRobotWriter, declare, open_dataset, with_actions, with_cameras
from lattok.data.content import content_of, read_record
from tests.data.memory import MemoryDataset
from tests.errors import refused

SPACE = [{"part": "position", "axes": ["x", "y"]}]
FRONT = "observation.images.front"
TURNED = [{"part": "position", "axes": ["y", "x"]}]


def _set(**values):
    def change(dataset):
        vars(dataset).update(values)
        return dataset

    return change


def _episode(**values):
    def change(dataset):
        dataset.episodes = (dataset.episodes[0]._replace(**values), *dataset.episodes[1:])
        return dataset

    return change


def _value(key):
    def change(dataset):
        dataset.values[2][key][5] += 1
        return dataset

    return change


def _picture(dataset):
    dataset.jpegs[0][0], dataset.jpegs[0][3] = dataset.jpegs[0][3], dataset.jpegs[0][0]
    return dataset


CHANGES = {
    "kind": _set(kind="hdf5"),
    "fps": _set(fps=10.0),
    "split": _set(split="val"),
    "length": _episode(length=5),
    "caption": _episode(tasks=("pull",)),
    "one action": _value("action"),
    "one number of another column": _value("pose"),
    "pictures": _picture,
    "cameras": lambda dataset: with_cameras(dataset, {"front": "top"}),
    "meaning": lambda dataset: declare(dataset, {"action": SPACE}),
    "another meaning": lambda dataset: declare(dataset, {"action": TURNED}),
    "conversion": lambda dataset: with_actions(declare(dataset, {"action": SPACE}), TURNED),
}
SAME = {
    "nothing": _set(),
    "name": _set(name="other"),
    "place": lambda dataset: _set(root=dataset.root / "elsewhere")(dataset),
    "a column that nobody reads": _value("timestamp"),
    "more columns": lambda dataset: dataset.features.update({"latent.codes": Feature("int64", (4,), None)}) or dataset,
}


def _digest(dataset):
    return content_of(dataset, dataset.episodes, ["pose"], dataset.cameras).digest


def test_every_change_is_another_dataset_and_names_and_labels_are_none(tmp_path):
    fresh = {name: MemoryDataset(tmp_path / "source", [4, 1, 6]) for name in (*SAME, *CHANGES)}
    hashes = {name: _digest({**SAME, **CHANGES}[name](dataset)) for name, dataset in fresh.items()}
    assert len({hashes[name] for name in SAME}) == 1, hashes
    assert len(set(hashes.values())) == len(CHANGES) + 1, hashes


def test_episodes_that_nobody_learns_from_may_change_but_not_come_or_go(tmp_path):
    first, other, shorter = (MemoryDataset(tmp_path, [8, 8, 8]) for _ in range(3))
    other.values[2]["action"] += 1
    shorter.episodes = shorter.episodes[:2]
    one, two, three = (content_of(dataset, dataset.episodes[:2]).digest for dataset in (first, other, shorter))
    assert one == two != three


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Ten episodes of ten frames each with a camera, in several data and video files."""
    root, rng = tmp_path_factory.mktemp("content") / "source", np.random.default_rng(0)
    features = {
        "action": Feature("float32", (3,), None),
        "observation.images.front": Feature("video", (32, 32, 3), None),
    }
    options = {"video_codec": "h264", "encoder_threads": 1, "data_file_mb": 0.0005, "video_file_mb": 0.001}
    with LeRobotWriter.create(root, 10, features, **options) as writer:
        for i in range(10):
            frames = rng.integers(0, 255, (10, 32, 32, 3), dtype=np.uint8)
            actions = rng.standard_normal((10, 3)).astype(np.float32)
            writer.add_episode({"action": actions}, {FRONT: frames}, f"task {i % 2}")
    return open_dataset(root)


def _of(dataset):
    return content_of(dataset, dataset.episodes, cameras=dataset.cameras)


def _copy(source, root):
    shutil.copytree(source.root, root)
    return root


def test_edited_actions_leave_the_videos_and_rewritten_videos_the_actions(source, tmp_path):
    whole, root = _of(source), _copy(source, tmp_path / "edited")
    for path in root.glob("data/*/*.parquet"):
        table = pq.read_table(path)
        flat = table["action"].combine_chunks().flatten().to_numpy() * -3 + 1
        column = type(table["action"].combine_chunks()).from_arrays(flat, 3)
        pq.write_table(table.set_column(table.column_names.index("action"), "action", column), path)
    edited = _of(open_dataset(root))
    assert edited.videos == whole.videos
    assert not set(edited.actions.values()) & set(whole.actions.values())
    files = sorted(source.root.glob("videos/**/*.mp4"))
    swapped = _copy(source, tmp_path / "swapped")
    for one, other in zip(files[:2], files[1::-1], strict=True):
        shutil.copy(one, swapped / other.relative_to(source.root))
    assert _of(open_dataset(swapped)).actions == whole.actions
    assert _of(open_dataset(swapped)).digest != whole.digest
    last = swapped / files[-1].relative_to(source.root)
    content = bytearray(last.read_bytes())
    content[len(content) // 2 + 100] ^= 1  # the same size
    last.write_bytes(content)
    assert _of(open_dataset(swapped)).videos != {**_of(source).videos}


@pytest.mark.parametrize(
    "record",
    [7, [], {"actions": 7}, {"actions": {}}, {"actions": {"digests": "x", "in_order": "a"}}]
    + [{"videos": {"digests": "AAAA", "in_order": "a"}}]
    + [{"actions": {"digests": "AAAAAAAA", "in_order": value}} for value in (True, 1, None)],
)
def test_records_of_another_kind_are_one_line(record):
    if record == []:
        assert read_record(record) == {}
        return
    refused(r"`content` in `training.json`: expected digests of the episodes", read_record, record)


def test_pictures_count_for_those_who_look(tmp_path):
    first, other = (MemoryDataset(tmp_path, [4, 1, 6]) for _ in range(2))
    _picture(other)
    assert content_of(first, first.episodes).digest == content_of(other, other.episodes).digest


def test_damage_is_for_others_to_report(tmp_path):
    dataset = MemoryDataset(tmp_path, [8, 8])
    dataset.broken.add(1)
    assert list(_of(dataset).actions) == [0]
