"""Held-out tasks, and episodes that a model has learned from: nobody is judged on what was fitted to."""

import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lattok
from lattok.action_vq import UniformBins
from lattok.data import Feature, LeRobotWriter
from lattok.data.content import content_of, record_of
from lattok.data.video import VideoWriter
from lattok.evaluation.evidence.unlearned import FOLDS, task_folds
from lattok.evaluation.questions.history import seen_episodes
from lattok.labels import with_labels
from lattok.recipes import ImageLAMRecipe, recipe_for
from lattok.samples import ActionWindows
from lattok.types import Episode
from tests.data.rlds_sample import describe, example, open_rlds, record, shard_path, write_rlds
from tests.data.rlds_sample import episode as recorded


@pytest.mark.parametrize("tasks", [2, 3, 5, 12])
def test_every_pair_is_judged_once_and_without_its_task(tasks: int):
    episodes = [Episode(i, 10, (f"task {i % tasks}",)) for i in range(3 * tasks)]
    train, held_out = np.repeat(np.arange(2 * tasks), 4), np.repeat(np.arange(2 * tasks, 3 * tasks), 4)
    folds, text = task_folds(episodes, train, held_out)
    assert len(folds) == min(tasks, FOLDS)
    assert sorted(row for fold in folds for row in fold.held_out.tolist()) == list(range(len(held_out)))
    for fold in folds:
        fitted = {int(train[row]) % tasks for row in fold.train.tolist()}
        judged = {int(held_out[row]) % tasks for row in fold.held_out.tolist()}
        assert not fitted & judged
        assert fitted | judged == set(range(tasks))  # nothing else is left out
    assert f"{tasks} tasks" in text


def test_one_task_has_nothing_to_leave_out():
    episodes = [Episode(i, 10, ("go",)) for i in range(4)]
    folds, text = task_folds(episodes, np.array([0, 1, 2]), np.array([3]))
    assert folds == []
    assert text.startswith("not applicable")


def test_training_pairs_of_the_judged_task_alone_cannot_judge_it():
    episodes = [Episode(0, 10, ("go",)), Episode(1, 10, ("go",)), Episode(2, 10, ("stop",))]
    assert task_folds(episodes, np.array([0]), np.array([1, 2]))[0] == []


@pytest.fixture
def splits(tmp_path):
    """An RLDS dataset with the splits train (3 episodes) and val (4), which are numbered from 0 both."""
    root = write_rlds(tmp_path / "rlds", (12, 9, 10))
    val = shard_path(root, 0, 1).name.replace("-train.", "-val.")
    (root / val).write_bytes(b"".join(record(example(recorded(7 + i, 9))) for i in range(4)))
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    counts = {"train": ["3"], "val": ["4"]}
    entries = [{"name": name, "shardLengths": n, "filepathTemplate": template} for name, n in counts.items()]
    describe(root, [3], splits=entries)
    return SimpleNamespace(root=root, train=open_rlds(root), val=open_rlds(root, split="val"))


def test_episodes_of_another_split_were_not_trained_on(splits, tmp_path):
    file = tmp_path / "toy.json"
    file.write_text('{"dataset": "rlds", "fps": 5}')
    lattok.train(recipe_for(UniformBins).from_preset(file, tmp_path / "tok", horizon=2, episodes="0:3"))
    tok = lattok.load(tmp_path / "tok")
    assert tok.trained_on["split"] == "train"
    honest = lattok.evaluate(tok, splits.val, episodes=[0, 1])
    assert not any("trained on" in verdict.text for verdict in honest.verdicts)
    cheating = lattok.evaluate(tok, splits.train, episodes=[1])
    assert cheating.verdicts[0].text.startswith("1 of 1 held-out episodes were trained on")
    del tok.trained_on["split"], tok.trained_on["content"]  # as older versions wrote it
    assert any("trained on" in verdict.text for verdict in lattok.evaluate(tok, splits.val, episodes=[0]).verdicts)


def test_labels_and_exports_say_which_split_it_is(splits, tmp_path):
    windows = ActionWindows(splits.val, 2).all()
    tok = lattok.UniformBins.fit(*windows)
    out = lattok.annotate(splits.val, {"tok": tok}, tmp_path / "labels")
    assert lattok.utils.files.read_json(out / "meta/lattok.json")["tok"]["dataset"]["split"] == "val"
    exported = lattok.export(with_labels(splits.val, out), tmp_path / "exported").path
    assert lattok.utils.files.read_json(exported / "meta/export.json")["source"]["split"] == "val"
    with pytest.raises(lattok.LattokError, match="expected labels of split `train`, got `tok` of split `val`"):
        with_labels(splits.train, out)


def among(known, name, split=None, count=10):
    dataset = SimpleNamespace(name=name, split=split)
    return sorted(seen_episodes(known, dataset, range(count)).trained)


def test_entries_of_mixtures_and_of_models_before():
    known = {
        "mixture": [{"dataset": "a", "episodes": [[0, 2]], "weight": 1.0}, {"dataset": "b", "episodes": [[5, 5]]}],
        "earlier": [{"dataset": "c", "split": "train", "episodes": [[1, 1], [3, 4]]}],
    }
    assert among(known, "a") == [0, 1, 2]
    assert among(known, "c", "train") == among(known, "c") == [1, 3, 4]
    assert among(known, "c", "val") == among(known, "d") == among(None, "a") == []
    assert among({"loop": {}}, "a") == []


def test_ranges_of_episodes_are_never_written_out():
    known = {"dataset": "a", "episodes": [[3, 10**18]]}
    assert among(known, "a") == [3, 4, 5, 6, 7, 8, 9]


@pytest.fixture
def source(tmp_path):
    """Six episodes of the same length each, of two tasks, with a camera."""
    return _record(tmp_path / "recorded", seed=0)


def _record(root, seed, order=range(6)):
    rng = np.random.default_rng(seed)
    actions = rng.standard_normal((6, 12, 3)).astype(np.float32)
    pixels = rng.integers(0, 255, (6, 12, 16, 16, 3), dtype=np.uint8)
    features = {"action": Feature("float32", (3,), None), CAMERA: Feature("video", (16, 16, 3), None)}
    with LeRobotWriter.create(root, 10, features, video_codec="h264", encoder_threads=1) as writer:
        for i in order:
            writer.add_episode({"action": actions[i]}, {CAMERA: pixels[i]}, f"task {i % 2}")
    return lattok.open_dataset(root)


CAMERA = "observation.images.front"


def _verdict(model, dataset, episodes):
    text = lattok.evaluate(model, dataset, episodes=episodes).verdicts[0].text
    return text.split(" held-out")[0] if "were trained on" in text else ""


@pytest.mark.ci
def test_a_copy_is_known_again_whatever_it_is_called_and_however_it_is_numbered(source, tmp_path):
    recipe = recipe_for(UniformBins).from_preset(source.root, tmp_path / "tok", horizon=2, episodes="0:4")
    tok = lattok.train(recipe)
    shutil.copytree(source.root, tmp_path / "renamed")
    annotated = lattok.annotate(source, {"tok": tok}, tmp_path / "annotated")
    exported = lattok.export(source, tmp_path / "exported", video_codec="h264").path
    for root in (source.root, tmp_path / "renamed", annotated, exported):
        copy = lattok.open_dataset(root)
        assert _verdict(tok, copy, [2, 3, 4, 5]) == "2 of 4"
        assert _verdict(tok, copy, [4, 5]) == ""
    part = lattok.export(source, tmp_path / "part", episodes=[5, 1, 4], video_codec="h264").path
    assert _verdict(tok, lattok.open_dataset(part), [0, 2]) == "1 of 2"  # sorted: 1, 4, 5
    assert _verdict(tok, lattok.open_dataset(part), [1, 2]) == ""
    turned = _record(tmp_path / "turned", seed=0, order=range(5, -1, -1))
    assert _verdict(tok, turned, [0, 1]) == ""
    assert _verdict(tok, turned, [0, 1, 2]) == "1 of 3"


def test_other_data_of_the_same_lengths_is_other_data_even_by_the_same_name(source, tmp_path):
    tok = lattok.train(recipe_for(UniformBins).from_preset(source.root, tmp_path / "tok", horizon=2, episodes="0:4"))
    (tmp_path / "another").mkdir()
    other = _record(tmp_path / "another" / "recorded", seed=1)
    assert other.name == source.name
    assert _verdict(tok, other, [0, 1, 2]) == ""
    del tok.trained_on["content"]  # as older versions wrote it: the name is all there is
    assert _verdict(tok, other, [0, 1, 2]) == "3 of 3"


def test_a_held_out_episode_that_repeats_one_of_training_is_held_out_where_numbers_say_so(tmp_path):
    repeated = _record(tmp_path / "repeated", seed=0, order=[0, 1, 2, 3, 0, 5])
    tok = lattok.train(recipe_for(UniformBins).from_preset(repeated.root, tmp_path / "tok", horizon=2, episodes="0:4"))
    assert _verdict(tok, repeated, [4, 5]) == ""
    found = [(each.text, each.holds) for each in lattok.evaluate(tok, repeated, episodes=[4, 5]).verdicts]
    assert ("1 of 2 held-out episodes equal training episodes: these figures are too good", False) in found
    part = lattok.export(repeated, tmp_path / "part", episodes=[1, 4, 5], video_codec="h264").path
    assert _verdict(tok, lattok.open_dataset(part), [1, 2]) == "1 of 2"


def test_a_model_of_video_knows_its_videos_where_actions_were_edited(source, tmp_path):
    options = {"steps": 1, "batch_size": 4, "image_size": 16, "width": 16, "heads": 2, "encoder_depth": 1}
    options |= {"decoder_depth": 1, "stride": "1", "features": "pixels", "device": "cpu", "episodes": "0:4"}
    lam = lattok.train(ImageLAMRecipe.from_preset(source.root, tmp_path / "lam", "tiny+p2t", **options))
    root = tmp_path / "edited"
    shutil.copytree(source.root, root)
    for path in root.glob("data/*/*.parquet"):
        table = pq.read_table(path)
        column = pa.FixedSizeListArray.from_arrays(table["action"].combine_chunks().flatten().to_numpy() * 2 + 1, 3)
        pq.write_table(table.set_column(table.column_names.index("action"), "action", column), path)
    seen = seen_episodes(lam.trained_on, lattok.open_dataset(root), [2, 3, 4, 5])
    assert (seen.trained, seen.complete) == ({2, 3}, True)


def test_human_video_is_known_by_its_files(tmp_path):
    for i in range(4):
        encoder = VideoWriter(tmp_path / f"clips/{i}.mp4", 10, (16, 16), "h264", 1)
        encoder.add(np.random.default_rng(i).integers(0, 255, (12, 16, 16, 3), dtype=np.uint8))
        encoder.close()
    dataset = lattok.open_dataset(tmp_path / "clips")
    content = content_of(dataset, dataset.episodes[:3], cameras=dataset.cameras)
    trained = {"dataset": "clips", "episodes": [[0, 2]], "content": record_of(content)}
    (tmp_path / "moved").mkdir()
    for new, old in (("a", 3), ("b", 1), ("c", 0)):
        shutil.copy(tmp_path / f"clips/{old}.mp4", tmp_path / f"moved/{new}.mp4")
    seen = seen_episodes(trained, lattok.open_dataset(tmp_path / "moved"), [0, 1, 2])
    assert (seen.trained, seen.complete) == ({1, 2}, True)


def test_of_too_many_episodes_to_keep_number_and_dataset_count(source, tmp_path, monkeypatch):
    monkeypatch.setattr("lattok.data.content.MAX_DIGESTS", 3)
    tok = lattok.train(recipe_for(UniformBins).from_preset(source.root, tmp_path / "tok", horizon=2, episodes="0:5"))
    shutil.copytree(source.root, tmp_path / "renamed")
    assert _verdict(tok, lattok.open_dataset(tmp_path / "renamed"), [0, 1, 2, 3, 4]) == ""
    assert _verdict(tok, source, [0, 1, 2, 3, 4]) == "5 of 5"


def test_an_episode_of_several_tasks_is_judged_without_any_of_them():
    episodes = [Episode(0, 10, ("open",)), Episode(1, 10, ("close",)), Episode(2, 10, ("push",))]
    both = Episode(3, 10, ("open", "close"))
    (fold,) = task_folds([*episodes, both], np.array([0, 1, 2]), np.array([3]))[0]
    assert fold.train.tolist() == [2]
