"""Episodes that cannot be read: what is left out, what is said, and how a repaired source fills the gaps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import lattok.annotation as module
from lattok.annotation import annotate, label
from lattok.annotation.labels import Options, Work
from lattok.checks import LattokError
from lattok.data import open_dataset
from tests.annotation.fakes import MODELS, FakeLAM, FakeTokenizer, tree


def broken_episodes(source, path: Path) -> list[int]:
    return [e.index for e in source.episodes if path in source.files_of(e.index)]


def run(source, out, models=MODELS, **options):
    return label(Work(source, models, Options()), out, **options)


@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage"])
def test_a_damaged_video_costs_its_episodes_only(source, tmp_path, damage):
    whole = open_dataset(annotate(source, MODELS, tmp_path / "whole"))
    path = source.video_span(3, source.cameras[0])[0]
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"x" * len(content))
    before = tree(source.root)
    result = run(open_dataset(source.root), tmp_path / "out")
    assert tree(source.root) == before
    assert set(result.unlabelled) <= set(broken_episodes(source, path))
    assert result.unlabelled
    assert result.episodes == 7 - len(result.unlabelled)
    assert str(path) in result.report()
    assert "\n" not in result.report()
    labelled = open_dataset(tmp_path / "out")
    keys = [key for key in labelled.features if key.startswith(("latent.", "tok."))]
    for episode in labelled.episodes:
        rows, expected = labelled.columns(episode.index, keys), whole.columns(episode.index, keys)
        if episode.index not in result.unlabelled:
            for key in keys:
                np.testing.assert_array_equal(rows[key], expected[key])
        else:
            assert (rows["latent.codes"] == -1).all()
            assert (rows["latent.env.codes"] == -1).all()
            assert (rows["tok.codes"] == -1).all()
            assert not rows["latent.embedding"].any()
            assert not rows["latent.valid"].any()
            assert not rows["tok.valid"].any()
    record = json.loads((tmp_path / "out/meta/lattok.json").read_text())
    assert [i for part in record["latent"]["unlabelled"] for i in part["episodes"]] == sorted(result.unlabelled)
    assert str(tmp_path) not in json.dumps(record)


def test_a_repaired_source_fills_the_gaps(source, tmp_path, monkeypatch):
    path = source.video_span(3, source.cameras[0])[0]
    content = path.read_bytes()
    path.write_bytes(content[:100])
    broken = set(broken_episodes(source, path))
    with pytest.warns(UserWarning, match=r"\d of 7 episodes labelled; not episode"):
        annotate(open_dataset(source.root), MODELS, tmp_path / "out")
    first = tree(tmp_path / "out")
    assert set(run(open_dataset(source.root), tmp_path / "out").unlabelled) == broken  # nothing new
    assert tree(tmp_path / "out") == first
    path.write_bytes(content)
    labelled: list[int] = []
    real = module.engines.label_decoded
    monkeypatch.setattr(module.engines, "label_decoded", lambda w, u, f: labelled.extend(u.episodes) or real(w, u, f))
    assert not run(open_dataset(source.root), tmp_path / "out").unlabelled
    assert broken <= set(labelled) != set(range(7))
    assert tree(tmp_path / "out") == tree(annotate(open_dataset(source.root), MODELS, tmp_path / "expected"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "tiny"]


def corrupt_page(path: Path, column: str) -> None:
    """Overwrite the pages of a column of the first row group."""
    metadata = pq.ParquetFile(path).metadata.row_group(0)
    (chunk,) = (
        c for c in map(metadata.column, range(metadata.num_columns)) if c.path_in_schema.split(".")[0] == column
    )
    start = min(o for o in (chunk.dictionary_page_offset, chunk.data_page_offset) if o)
    data = bytearray(path.read_bytes())
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)


def test_a_damaged_page_of_actions(source, tmp_path):
    path = source.data_file(3)
    corrupt_page(path, "action")
    result = run(open_dataset(source.root), tmp_path / "out")
    (group, *_) = (
        pq.ParquetFile(path).read_row_group(0, columns=["episode_index"])["episode_index"].unique().to_pylist()
    )
    assert set(result.unlabelled) == {group}
    assert "cannot read `action`" in result.report()
    labelled = open_dataset(tmp_path / "out")
    for episode in labelled.episodes:
        rows = labelled.columns(episode.index, ["tok.valid", "observation.state"])
        assert rows["tok.valid"].all() == (episode.index != group)
    with pytest.raises(LattokError, match="`action`"):
        labelled.columns(group, ["action"])
    (unreadable,) = json.loads((tmp_path / "out/meta/lattok.json").read_text())["tok"]["unreadable"]
    assert unreadable["column"] == "action"


def test_a_damaged_page_that_no_label_needs(source, tmp_path):
    corrupt_page(source.data_file(3), "reward")
    result = run(open_dataset(source.root), tmp_path / "out")
    assert not result.unlabelled
    labelled = open_dataset(tmp_path / "out")
    assert labelled.columns(3, ["tok.valid"])["tok.valid"].all()


@pytest.mark.parametrize("column", ["episode_index", "index"])
def test_without_its_index_a_file_cannot_be_placed(source, tmp_path, column):
    corrupt_page(source.data_file(3), column)
    with pytest.raises(LattokError, match=column) as error:
        run(open_dataset(source.root), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_where_nothing_succeeds_nothing_is_written(source, tmp_path):
    shutil.rmtree(source.root / "videos")
    with pytest.raises(LattokError, match=r"missing video file .* none of the first 7 episodes could be labelled"):
        run(open_dataset(source.root), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_an_episode_is_tried_twice(source, tmp_path):
    calls = []

    class Moody(FakeLAM):
        def label_video(self, frames, stride):
            calls.append(1)
            if len(calls) in (2, 3):  # the first attempt of the second episode, and its second
                raise RuntimeError("once in a while\nand more")
            if len(calls) == 5:
                raise OSError("the network is slow")
            return super().label_video(frames, stride)

    result = run(source, tmp_path / "out", {"latent": Moody()})
    assert result.unlabelled == {1: "RuntimeError: once in a while"}
    assert len(calls) == 7 + 2


def test_labels_that_are_not_finite(source, tmp_path):
    class Broken(FakeTokenizer):
        def latent_actions(self, chunks, valid=None):
            out = super().latent_actions(chunks, valid)
            return out._replace(latents=out.latents / (chunks.shape[0] != 25))

    result = run(source, tmp_path / "out", {"tok": Broken()})
    assert list(result.unlabelled) == [3]
    assert "expected finite numbers, got NaN or infinity in episode 3" in result.report()
