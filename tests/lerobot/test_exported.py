"""The unmodified `lerobot` package opens what `lattok export` makes of datasets of other formats."""

import importlib
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from lattok import annotate, export, open_dataset
from lattok.data import Feature, LeRobotWriter
from lattok.data.video import VideoWriter
from lattok.labels import with_labels
from tests.conftest import moving_square
from tests.data.memory import CAMERA, MemoryDataset, labels_for
from tests.lerobot.common import Labeller, same_values
from tests.real import REAL

pytestmark = pytest.mark.lerobot


@pytest.fixture
def stored(tmp_path):
    """A dataset with stored images and labels, exported."""
    source = MemoryDataset(tmp_path / "source", [4, 1, 6, 3, 5], encoded=True)
    return source, open_dataset(
        export(with_labels(source, labels_for(source, tmp_path / "labels")), tmp_path / "out").path
    )


def pixels_of(image: torch.Tensor) -> np.ndarray:
    return (image * 255).round().to(torch.uint8).movedim(-3, -1).numpy()


def test_stored_images_and_labels(lerobot_dataset, stored):
    source, ours = stored
    theirs = lerobot_dataset(ours.root)
    same_values(ours, theirs, per_episode=10)
    row = 0
    for index, length, tasks in source.episodes:
        for frame in range(length):
            item = theirs[row + frame]
            expected = np.asarray(Image.open(BytesIO(source.jpegs[index][frame])))
            np.testing.assert_array_equal(pixels_of(item[CAMERA]), expected)
            assert item["latent.codes"].tolist() == [index, frame]
            assert item["task"] == tasks[0]
            assert item["pose"].shape == (2, 2)
        row += length
    part = lerobot_dataset(ours.root, episodes=[2, 4], delta_timestamps={CAMERA: [0.0, 0.4]})
    np.testing.assert_array_equal(pixels_of(part[6 + 1][CAMERA]), source.frames(4, None, [1, 3])[:, 0])


def test_stored_images_as_a_stream(lerobot_dataset, stored):
    source, ours = stored
    module = importlib.import_module("lerobot.datasets.streaming_dataset")
    items = list(module.StreamingLeRobotDataset("org/name", root=ours.root, shuffle=False, buffer_size=4))
    assert sorted(int(item["index"]) for item in items) == list(range(19))
    for item in items:
        episode, frame = int(item["episode_index"]), int(item["frame_index"])
        assert item["latent.codes"].tolist() == [episode, frame]
        image = np.asarray(item[CAMERA])
        if image.dtype != np.uint8:  # from 0.6 on the stream gives what batches have
            image = np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0)
        np.testing.assert_array_equal(image, source.frames(episode, None, [frame])[0, 0])


def test_stored_images_in_plain_datasets(stored, tmp_path):
    datasets = pytest.importorskip("datasets")
    source, ours = stored
    files = [str(path) for path in sorted((ours.root / "data").rglob("*.parquet"))]
    table = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    np.testing.assert_array_equal(np.asarray(table[4][CAMERA]), source.frames(1)[0, 0])


def test_labels_on_top_of_stored_images(lerobot_dataset, stored, tmp_path):
    """Annotated after the export: the description of the images in the data files must stay."""
    ours = open_dataset(annotate(stored[1], {"again": StoredLabeller("video")}, tmp_path / "more"))
    theirs = lerobot_dataset(ours.root)
    same_values(ours, theirs, per_episode=3)
    assert theirs[3]["again.codes"].shape == (4,)


class StoredLabeller(Labeller):
    cameras = ("top",)

    def stride_frames(self, fps):
        return 1


@pytest.mark.parametrize("images", ["auto", "image"])
def test_a_folder_of_videos(lerobot_dataset, tmp_path, images):
    rng = np.random.default_rng(0)
    for number, size in enumerate([32, 48]):
        encoder = VideoWriter(tmp_path / "videos" / "pour" / f"{number}.mp4", 10, (size, size), "h264", 1)
        encoder.add(moving_square(rng, 12, size))
        encoder.close()
    source = open_dataset(tmp_path / "videos")
    labels = labels_for(source, tmp_path / "labels")
    out = export(with_labels(source, labels), tmp_path / "out", images=images, size=(32, 32), video_codec="h264").path
    ours, theirs = open_dataset(out), lerobot_dataset(out)
    same_values(ours, theirs, per_episode=12)
    assert theirs[13]["task"] == "pour"
    assert theirs[13]["latent.codes"].tolist() == [1, 1]


def test_columns_of_all_kinds(lerobot_dataset, tmp_path, rng):
    kinds = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
    shapes = [(1,), (3,), (2, 3), (2, 1, 2)]
    features = {f"{kind}.{len(s)}.{s[0]}": Feature(kind, s, None) for kind in kinds for s in shapes}
    features["text"] = Feature("string", (1,), None)
    columns = {
        key: rng.integers(0, 2, (4, *feature.shape)).astype(feature.dtype)
        for key, feature in features.items()
        if key != "text"
    }
    columns["text"] = np.array(["a", "", "b", "é"], dtype=object)
    with LeRobotWriter.create(tmp_path / "d", 12.5, features) as writer:
        writer.add_episode(columns, {}, "push")
    same_values(open_dataset(tmp_path / "d"), lerobot_dataset(tmp_path / "d"), per_episode=4)
    item = lerobot_dataset(tmp_path / "d", delta_timestamps={"float32.2.2": [0.0, 0.08]})[1]
    np.testing.assert_array_equal(item["float32.2.2"], columns["float32.2.2"][1:3])
    assert item["text"] == ""


@pytest.mark.skipif(not (REAL / "bridge_dataset").is_dir(), reason="needs the real-robot samples")
def test_the_bridge_sample(lerobot_dataset, tmp_path):
    source = open_dataset(REAL / "bridge_dataset")
    ours = open_dataset(export(with_labels(source, labels_for(source, tmp_path / "labels")), tmp_path / "out").path)
    theirs = lerobot_dataset(ours.root)
    same_values(ours, theirs, per_episode=4)
    item, episode = theirs[12], source.episodes[1]
    for v, key in enumerate(source.cameras):
        np.testing.assert_array_equal(pixels_of(item[key]), source.frames(episode.index, None, [2])[0, v])
    np.testing.assert_array_equal(item["action"], source.columns(1, ["action"])["action"][2])
