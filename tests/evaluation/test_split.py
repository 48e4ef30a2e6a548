"""Episodes that a model has seen: by dataset and split, in mixtures and in the models before it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import lattok
from lattok.data import ActionWindows
from lattok.evaluation.split import trained_episodes
from lattok.recipes import UniformBinsRecipe
from tests.data.rlds_sample import describe, example, open_rlds, record, shard_path, write_rlds
from tests.data.rlds_sample import episode as recorded


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
    lattok.train(UniformBinsRecipe.from_preset(file, tmp_path / "tok", horizon=2, episodes="0:3"))
    tok = lattok.load(tmp_path / "tok")
    assert tok.trained_on["split"] == "train"
    honest = lattok.evaluate(tok, splits.val, episodes=[0, 1])
    assert not any("trained on" in verdict.text for verdict in honest.verdicts)
    cheating = lattok.evaluate(tok, splits.train, episodes=[1])
    assert cheating.verdicts[0].text.startswith("1 of 1 held-out episodes were trained on")
    del tok.trained_on["split"]  # as older versions wrote it
    assert any("trained on" in verdict.text for verdict in lattok.evaluate(tok, splits.val, episodes=[0]).verdicts)


def test_labels_and_exports_say_which_split_it_is(splits, tmp_path):
    windows = ActionWindows(splits.val, 2).all()
    tok = lattok.UniformBins.fit(*windows)
    out = lattok.annotate(splits.val, {"tok": tok}, tmp_path / "labels")
    assert lattok.files.read_json(out / "meta/lattok.json")["tok"]["dataset"]["split"] == "val"
    exported = lattok.export(splits.val, tmp_path / "exported", labels=out).path
    assert lattok.files.read_json(exported / "meta/export.json")["source"]["split"] == "val"
    with pytest.raises(lattok.LattokError, match="expected labels of split `train`, got `tok` of split `val`"):
        lattok.data.with_labels(splits.train, out)


def test_entries_of_mixtures_and_of_models_before():
    known = {
        "mixture": [{"dataset": "a", "episodes": [[0, 2]], "weight": 1.0}, {"dataset": "b", "episodes": [[5, 5]]}],
        "earlier": [{"dataset": "c", "split": "train", "episodes": [[1, 1], [3, 4]]}],
    }
    assert trained_episodes(known, "a") == {0, 1, 2}
    assert trained_episodes(known, "c", "train") == trained_episodes(known, "c") == {1, 3, 4}
    assert trained_episodes(known, "c", "val") == trained_episodes(known, "d") == trained_episodes(None, "a") == set()
    assert trained_episodes({"loop": {}}, "a") == set()
