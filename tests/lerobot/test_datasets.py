"""The unmodified `lerobot` package opens what lattok writes, and both read the same values and frames.

An annotated dataset it reads in every way it has: whole, in part, as a stream, and through the data loader of its
training script. Its own tools, which drop `meta/lattok.json`, leave the labels known.
"""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from lattok import annotate, open_dataset, verify
from tests.data.edits import edit_info, read_info
from tests.lerobot.common import Labeller, same_values

pytestmark = pytest.mark.lerobot
NEW = {"latent.codes": 4, "latent.embedding": 12, "latent.quantized": 12, "latent.valid": 0, "tok.codes": 4}


@pytest.fixture(scope="module")
def annotated(sample, tmp_path_factory):
    """The sample with the labels of a video model and of an action tokenizer."""
    models = {"latent": Labeller("video"), "tok": Labeller("actions")}
    return open_dataset(annotate(sample, models, tmp_path_factory.mktemp("annotated") / "out", quantized=True))


def assert_labels(ours, item, starts) -> None:
    """The labels of one item, or of one row of a batch, are those of its frame, and belong to its action."""
    episode, frame = int(item["episode_index"]), int(item["frame_index"])
    assert int(item["index"]) == starts[episode] + frame
    expected = ours.columns(episode, list(NEW))
    for key, width in NEW.items():
        value = torch.as_tensor(item[key])
        assert value.shape == ((width,) if width else ())
        np.testing.assert_array_equal(value.numpy(), expected[key][frame], err_msg=key)
    assert bool(item["latent.valid"]) == (frame + 16 < ours.episodes[episode].length)
    action = torch.as_tensor(item["action"])
    assert int(item["tok.codes"][0]) == (action.reshape(-1, 4)[0, 0] * 10).round()


@pytest.fixture(scope="module")
def starts(annotated):
    """Index of the first frame of every episode."""
    return np.cumsum([0, *(episode.length for episode in annotated.episodes)])


def test_whole(lerobot_dataset, annotated, sample, starts):
    theirs = lerobot_dataset(annotated.root)
    same_values(annotated, theirs, per_episode=2)
    old = lerobot_dataset(sample.root)
    before, after = old.hf_dataset.with_format("arrow")[:], theirs.hf_dataset.with_format("arrow")[:]
    assert after.select(before.column_names).equals(before)
    item = theirs[100]
    assert_labels(annotated, item, starts)
    assert item["latent.codes"].dtype == torch.int64
    assert item["latent.embedding"].dtype == torch.float32
    assert item["latent.valid"].dtype == torch.bool


def test_episodes(lerobot_dataset, annotated, starts):
    """A subset, with the codes of further frames as a policy asks for them."""
    chosen = [3, 17, 41]
    steps = {"latent.codes": [0.0, 1 / 80, 2 / 80], "action": [0.0, 1 / 80], "observation.images.corner2": [0.0, 0.2]}
    theirs = lerobot_dataset(annotated.root, episodes=chosen, delta_timestamps=steps)
    lengths = [annotated.episodes[index].length for index in chosen]
    assert len(theirs) == sum(lengths)
    row = 0
    for index, length in zip(chosen, lengths, strict=True):
        codes = annotated.columns(index, ["latent.codes"])["latent.codes"]
        for frame in (0, length // 2, length - 1):
            item = theirs[row + frame]
            assert (int(item["episode_index"]), int(item["frame_index"])) == (index, frame)
            window = codes[np.minimum(frame + np.arange(3), length - 1)]
            np.testing.assert_array_equal(item["latent.codes"], window)
            assert item["latent.codes_is_pad"].tolist() == [frame + k >= length for k in range(3)]
            assert_labels(annotated, {**item, "latent.codes": item["latent.codes"][0]}, starts)
        row += length


def test_as_a_stream(lerobot_dataset, annotated, starts, monkeypatch):
    module = importlib.import_module("lerobot.datasets.streaming_dataset")
    decode = importlib.import_module("lerobot.datasets.video_utils").decode_video_frames

    def with_pyav(path, times, tolerance, decoder_cache=None, **options):
        """Decode as the stream would with torchcodec, which needs FFmpeg's libraries."""
        return decode(path, times, tolerance, "pyav", **options)

    monkeypatch.setattr(module, "decode_video_frames_torchcodec", with_pyav)
    stream = module.StreamingLeRobotDataset("org/name", root=annotated.root, shuffle=False, buffer_size=8)
    seen = set()
    for item in stream:
        assert_labels(annotated, item, starts)
        if len(seen) % 50 == 0:
            episode, frame = int(item["episode_index"]), int(item["frame_index"])
            image = (item["observation.images.corner2"] * 255).round().to(torch.uint8).permute(1, 2, 0)
            np.testing.assert_array_equal(image, annotated.frames(episode, ["corner2"], [frame])[0, 0])
        seen.add(int(item["index"]))
        if len(seen) == 300:
            break
    assert len(seen) == 300


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_the_training_script(lerobot_dataset, annotated, starts, workers):
    """`lerobot-train` makes its dataset and its loader like this (0.4.4)."""
    default, train = (importlib.import_module(f"lerobot.configs.{name}") for name in ("default", "train"))
    policy = importlib.import_module("lerobot.policies.act.configuration_act").ACTConfig(
        chunk_size=6, n_action_steps=6, push_to_hub=False, device="cpu"
    )
    data = default.DatasetConfig(repo_id="org/name", root=str(annotated.root), video_backend="pyav")
    config = train.TrainPipelineConfig(dataset=data, policy=policy, batch_size=8, num_workers=workers)
    dataset = importlib.import_module("lerobot.datasets.factory").make_dataset(config)
    loader = torch.utils.data.DataLoader(
        dataset,
        num_workers=config.num_workers,
        batch_size=config.batch_size,
        shuffle=True,
        drop_last=False,
        prefetch_factor=2 if workers else None,
        generator=torch.Generator().manual_seed(0),
    )
    for _, batch in zip(range(3), loader, strict=False):
        assert batch["action"].shape == (8, 6, 4)
        assert batch["observation.images.corner2"].shape == (8, 3, 128, 128)
        assert batch["latent.codes"].shape == (8, 4)
        assert batch["latent.valid"].dtype == torch.bool
        for row in range(8):
            assert_labels(annotated, {key: value[row] for key, value in batch.items()}, starts)


def test_plain_datasets(sample, tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    out = annotate(sample, {"tok": Labeller("actions")}, tmp_path / "out")
    files = [str(path) for path in sorted((out / "data").rglob("*.parquet"))]
    table = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert len(table) == 4059
    assert len(table[0]["tok.codes"]) == 4


def test_the_sample(lerobot_dataset, sample):
    same_values(sample, lerobot_dataset(sample.root), per_episode=2)


@pytest.mark.parametrize("codec", ["h264", "libsvtav1"])
def test_what_the_writer_writes(lerobot_dataset, make_dataset, codec):
    ours = make_dataset([12, 7, 30, 1, 9], data_file_mb=0.004, video_file_mb=0.001, chunk_files=2, video_codec=codec)
    theirs = lerobot_dataset(ours.root)
    same_values(ours, theirs, per_episode=40)
    assert theirs.meta.total_episodes == 5
    assert list(theirs.meta.tasks.index) == list(ours.tasks)
    windowed = lerobot_dataset(ours.root, episodes=[1, 2], delta_timestamps={"action": [0.0, 0.1, 0.2]})
    assert windowed[0]["action"].shape == (3, 3)


def test_statistics_equal_those_that_lerobot_computes(lerobot_dataset, make_dataset):
    ours = make_dataset([40, 25])
    theirs = lerobot_dataset(ours.root)
    compute = importlib.import_module("lerobot.datasets.compute_stats")
    episodes = []
    for episode in ours.episodes:
        columns = ours.columns(episode.index, ["action", "reward", "timestamp", "index"])
        features = {key: {"dtype": str(values.dtype)} for key, values in columns.items()}
        episodes.append(compute.compute_episode_stats(columns, features))
    expected = compute.aggregate_stats(episodes)
    for key, stats in expected.items():
        for name, value in stats.items():
            # LeRobot takes quantiles from a histogram
            tolerance = 0.25 * np.ptp([stats["min"], stats["max"]]) if name.startswith("q") else 1e-5
            np.testing.assert_allclose(theirs.meta.stats[key][name], value, atol=tolerance, err_msg=f"{key} {name}")
    assert set(theirs.meta.stats) == set(ours.features)
    assert theirs.meta.stats[ours.cameras[0]]["mean"].shape == (3, 1, 1)


def test_split_delete_and_merge_keep_what_is_known_of_the_labels(make_dataset, lerobot_dataset, tmp_path):
    tools = importlib.import_module("lerobot.datasets.dataset_tools")
    source = make_dataset([30, 31, 32, 33], name="source")
    models = {"tok": Labeller("actions")}
    models["tok"].action_dim = 3
    annotated = annotate(source, models, tmp_path / "annotated")
    edit_info(annotated, mine="kept by lattok")
    whole = lerobot_dataset(annotated)
    parts = tools.split_dataset(whole, {"a": [0, 1], "b": [2, 3]}, output_dir=tmp_path / "parts")
    fewer = tools.delete_episodes(whole, [1], output_dir=tmp_path / "fewer", repo_id="me/fewer")
    merged = tools.merge_datasets(list(parts.values()), "me/merged", output_dir=tmp_path / "merged")
    for edited, episodes in ((parts["a"], 2), (parts["b"], 2), (fewer, 3), (merged, 4)):
        ours = open_dataset(edited.root)
        assert len(ours.episodes) == episodes
        assert not (edited.root / "meta" / "lattok.json").exists()
        assert "mine" not in read_info(edited.root)
        found = verify(ours, models, episodes=episodes)
        assert found.holds, found
        assert "not annotated" not in str(found)
