"""Episodes that cannot be read: what is left out, what is said, and how a repaired source fills the gaps."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lattok.annotation as module
from lattok.annotation import annotate, label
from lattok.annotation.labels import Work
from lattok.data import Feature, LeRobotWriter, open_dataset
from lattok.labels.spec import Options
from tests.annotation.fakes import MODELS, FakeLAM, FakeTokenizer, stop, tree
from tests.conftest import CAMERAS
from tests.errors import refused


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
    lost = set(result.unlabelled["latent"])
    assert set(result.unlabelled) == {"latent"}  # actions are there
    assert lost
    assert lost <= set(broken_episodes(source, path))
    assert f"{7 - len(lost)} of 7 episodes labelled" in result.report()
    assert str(path) in result.report()
    assert "\n" not in result.report()
    labelled = open_dataset(tmp_path / "out")
    keys = [key for key in labelled.features if key.startswith(("latent.", "tok."))]
    for episode in labelled.episodes:
        rows, expected = labelled.columns(episode.index, keys), whole.columns(episode.index, keys)
        for key in keys:
            if episode.index not in lost or key.startswith("tok."):
                np.testing.assert_array_equal(rows[key], expected[key])
            else:
                assert (rows[key] == (-1 if key.endswith(".codes") else 0)).all()
    record = json.loads((tmp_path / "out/meta/lattok.json").read_text())
    assert [i for part in record["latent"]["unlabelled"] for i in part["episodes"]] == sorted(lost)
    assert "unlabelled" not in record["tok"]
    assert str(tmp_path) not in json.dumps(record)


def test_a_repaired_source_fills_the_gaps(source, torn, tmp_path, monkeypatch):
    broken = set(broken_episodes(source, source.video_span(3, source.cameras[0])[0]))
    with pytest.warns(UserWarning, match=r"\d of 7 episodes labelled; not episode") as warned:
        annotate(open_dataset(source.root), MODELS, tmp_path / "out")
    assert [each.filename for each in warned if "labelled" in str(each.message)] == [__file__]  # of who asked
    first = tree(tmp_path / "out")
    assert set(run(open_dataset(source.root), tmp_path / "out").unlabelled["latent"]) == broken  # nothing new
    assert tree(tmp_path / "out") == first
    torn()
    labelled: list[int] = []
    real = module.engines.label_decoded
    monkeypatch.setattr(module.engines, "label_decoded", lambda w, u, f: labelled.extend(u.episodes) or real(w, u, f))
    assert run(open_dataset(source.root), tmp_path / "out").complete
    assert broken <= set(labelled) != set(range(7))
    assert tree(tmp_path / "out") == tree(annotate(open_dataset(source.root), MODELS, tmp_path / "expected"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expected", "out", "tiny"]


def test_labels_of_a_damaged_image_are_the_same_again(tmp_path, rng, monkeypatch):
    """Reasons stand in the output, and decide whether there is anything new: they may not differ from run to run."""
    features = {key: Feature("image", (32, 32, 3), None) for key in CAMERAS}
    with LeRobotWriter.create(tmp_path / "data", 10, features) as writer:
        for length in (6, 9):
            shape = (length, 32, 32, 3)
            writer.add_episode({}, {key: rng.integers(0, 255, shape, dtype=np.uint8) for key in CAMERAS}, "push")
    (path,) = (tmp_path / "data/data").rglob("*.parquet")
    table = pq.read_table(path)
    place, images = table.column_names.index(CAMERAS[0]), table[CAMERAS[0]].to_pylist()
    images[8]["bytes"] = b"no image"
    damaged = pa.array(images, table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), damaged), path)
    for name in ("one", "other"):
        run(open_dataset(tmp_path / "data"), tmp_path / name, {"latent": FakeLAM()})
    assert tree(tmp_path / "one") == tree(tmp_path / "other")
    (gap,) = json.loads((tmp_path / "one/meta/lattok.json").read_text())["latent"]["unlabelled"]
    assert gap["episodes"] == [1]
    assert "frame 2: not a readable JPEG or PNG image (it begins like neither)" in gap["reason"]
    monkeypatch.setattr(module, "assemble", lambda *_: pytest.fail("there was nothing new"))
    assert not run(open_dataset(tmp_path / "data"), tmp_path / "one", {"latent": FakeLAM()}).complete


def corrupt_page(path: Path, column: str) -> None:
    """Overwrite the pages of a column of the first row group."""
    metadata = pq.ParquetFile(path).metadata.row_group(0)
    chunks = map(metadata.column, range(metadata.num_columns))
    (chunk,) = (each for each in chunks if re.sub(r"(\.list\.\w+)+$", "", each.path_in_schema) == column)
    start = min(o for o in (chunk.dictionary_page_offset, chunk.data_page_offset) if o)
    data = bytearray(path.read_bytes())
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)


@pytest.mark.parametrize("column", ["timestamp", "frame_index", "index", "task_index"])
def test_rows_without_a_place_are_said_before_anything_is_labelled(source, tmp_path, monkeypatch, column):
    """Labelling may take days, and no output can be put together after it."""
    path = source.data_file(source.episodes[-1].index)
    corrupt_page(path, column)
    monkeypatch.setattr(FakeTokenizer, "latent_actions", stop)
    refused(
        rf"{path}: `{column}` of row group \d is damaged\. Without it rows have no",
        lambda: annotate(open_dataset(source.root), {"tok": FakeTokenizer()}, tmp_path / "out"),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("name", ["stats.json", "lattok.json"])
def test_metadata_that_the_output_needs_is_read_first_as_well(source, tmp_path, monkeypatch, name):
    (source.root / "meta" / name).write_text("{")
    monkeypatch.setattr(FakeTokenizer, "latent_actions", stop)
    refused(name, lambda: annotate(open_dataset(source.root), {"tok": FakeTokenizer()}, tmp_path / "out"))


def test_a_damaged_page_of_actions(source, tmp_path):
    path = source.data_file(3)
    corrupt_page(path, "action")
    result = run(open_dataset(source.root), tmp_path / "out")
    (group, *_) = (
        pq.ParquetFile(path).read_row_group(0, columns=["episode_index"])["episode_index"].unique().to_pylist()
    )
    assert {prefix: set(part) for prefix, part in result.unlabelled.items()} == {"tok": {group}}
    assert "cannot read `action`" in result.report()
    assert "`action` in rows 0 to " in result.report()
    labelled = open_dataset(tmp_path / "out")
    for episode in labelled.episodes:
        rows = labelled.columns(episode.index, ["tok.valid", "observation.state"])
        assert rows["tok.valid"].all() == (episode.index != group)
    assert np.isnan(labelled.columns(group, ["action"])["action"]).all()  # nobody knows them any more
    (unreadable,) = json.loads((tmp_path / "out/meta/lattok.json").read_text())["tok"]["unreadable"]
    assert unreadable["column"] == "action"


def test_a_damaged_page_that_no_label_needs(source, tmp_path):
    corrupt_page(source.data_file(3), "reward")
    result = run(open_dataset(source.root), tmp_path / "out")
    assert not result.unlabelled
    assert not result.complete
    assert "all episodes labelled; `reward` in rows 0 to" in result.report()
    labelled = open_dataset(tmp_path / "out")
    assert labelled.columns(3, ["tok.valid"])["tok.valid"].all()


@pytest.mark.parametrize("column", ["episode_index", "index"])
def test_without_its_index_a_file_cannot_be_placed(source, tmp_path, column):
    corrupt_page(source.data_file(3), column)
    refused(column, lambda: run(open_dataset(source.root), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_where_nothing_succeeds_nothing_is_written(source, tmp_path):
    shutil.rmtree(source.root / "videos")
    refused(r"missing video file ", lambda: run(open_dataset(source.root), tmp_path / "out", {"latent": FakeLAM()}))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_what_is_not_about_the_data_stops_early(make_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNIT_FRAMES", 20)
    calls = []

    class Lost(FakeTokenizer):
        def latent_actions(self, chunks, valid=None):
            calls.append(1)
            if len(calls) > 6:
                raise RuntimeError("the device is gone")
            return super().latent_actions(chunks, valid)

    dataset = make_dataset([5] * 60, cameras=False)
    refused(r"RuntimeError: the device is gone .*in a row", lambda: run(dataset, tmp_path / "out", {"tok": Lost()}))
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / ".out.partial").rglob("*.npz"))
    calls[:] = []
    Lost.latent_actions = FakeTokenizer.latent_actions
    assert run(dataset, tmp_path / "out", {"tok": Lost()}).complete


def test_failures_that_are_not_in_a_row_are_of_their_episodes(make_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "UNIT_FRAMES", 5)
    monkeypatch.setattr(module, "MAX_FAILURES_IN_A_ROW", 2)
    order = dict[bytes, int]()

    class Moody(FakeTokenizer):
        def latent_actions(self, chunks, valid=None):
            if order.setdefault(chunks.numpy().tobytes(), len(order)) % 2:
                raise RuntimeError("not these")
            return super().latent_actions(chunks, valid)

    result = run(make_dataset([5] * 8, cameras=False), tmp_path / "out", {"tok": Moody()})
    assert 2 < len(result.unlabelled["tok"]) < 8


def test_many_damaged_episodes_at_the_start(make_dataset, tmp_path):
    dataset = make_dataset([7] * 50, video_file_mb=0.012)
    first = dataset.video_span(0, dataset.cameras[0])[0]
    first.write_bytes(first.read_bytes()[:300])
    lost = broken_episodes(dataset, first)
    assert 20 < len(lost) < 50
    result = run(open_dataset(dataset.root), tmp_path / "out", {"latent": FakeLAM()})
    assert set(result.unlabelled["latent"]) == set(lost)


def test_a_later_loss_costs_no_labels(source, tmp_path):
    first, second = (source.video_span(index, source.cameras[0])[0] for index in (0, 6))
    kept = {path: path.read_bytes() for path in (first, second)}
    first.unlink()
    run(open_dataset(source.root), tmp_path / "out")
    before = tree(tmp_path / "out")
    second.unlink()
    refused(r"out has labels of episode \d, which cannot be", lambda: run(open_dataset(source.root), tmp_path / "out"))
    assert tree(tmp_path / "out") == before
    for path, content in kept.items():
        path.write_bytes(content)
    assert run(open_dataset(source.root), tmp_path / "out").complete
    assert tree(tmp_path / "out") == tree(annotate(open_dataset(source.root), MODELS, tmp_path / "expected"))


def test_what_the_user_changed_in_the_output_stays(source, torn, tmp_path):
    run(open_dataset(source.root), tmp_path / "out")
    (tmp_path / "out/README.md").write_text("mine")
    torn()
    refused("`out`: expected a folder that does not exist", lambda: run(open_dataset(source.root), tmp_path / "out"))
    assert (tmp_path / "out/README.md").read_text() == "mine"


def test_a_column_that_is_repaired_comes_into_the_output(source, tmp_path):
    video, data = source.video_span(6, source.cameras[0])[0], source.data_file(0)
    video.unlink()
    content = data.read_bytes()
    corrupt_page(data, "reward")
    assert run(open_dataset(source.root), tmp_path / "out").unreadable
    data.write_bytes(content)
    result = run(open_dataset(source.root), tmp_path / "out")
    assert not result.unreadable
    assert result.unlabelled
    assert np.isfinite(open_dataset(tmp_path / "out").columns(0, ["reward"])["reward"]).all()
    assert "unreadable" not in (tmp_path / "out/meta/lattok.json").read_text()


def test_a_source_that_changes_meanwhile_is_noticed(source, tmp_path):
    def change(done, total):
        (source.root / "notes.md").write_text("new")

    refused("changed while it was annotated", annotate, source, MODELS, tmp_path / "out", progress=change)
    assert (source.root / "notes.md").read_text() == "new"
    assert "latent.codes" not in open_dataset(source.root).features
    assert not (tmp_path / "out").exists()


def test_a_damaged_unit_is_made_again(source, tmp_path, monkeypatch):
    expected = tree(annotate(source, MODELS, tmp_path / "expected"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            annotate(source, MODELS, tmp_path / "out")
    first, second, third, *_ = sorted((tmp_path / ".out.partial").rglob("*.npz"))
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[:100])
    data = bytearray(third.read_bytes())
    data[len(data) // 2] ^= 255  # found when its arrays are read
    third.write_bytes(data)
    refused("was damaged since it was written, and is removed. Run the", annotate, source, MODELS, tmp_path / "out")
    annotate(source, MODELS, tmp_path / "out")
    assert tree(tmp_path / "out") == expected


class Payload:
    def __reduce__(self):
        return Path.touch, (Path("was-run"),)


def test_what_is_pickled_among_finished_units_is_not_run(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = tree(annotate(source, MODELS, tmp_path / "expected"))
    with monkeypatch.context() as patch:
        patch.setattr(module, "assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            annotate(source, MODELS, tmp_path / "out")
    first, second, *_ = sorted((tmp_path / ".out.partial").rglob("*.npz"))
    with np.load(first) as stored:
        names = list(stored)
        arrays = {name: stored[name] for name in names}
    bad = np.array([[Payload()] * 3], dtype=object)
    for path, replaced in ((first, [name for name in names if name.startswith("tok.")][:1]), (second, names)):
        with open(path, "wb") as file:
            np.savez(file, **arrays | dict.fromkeys(replaced, bad))
    refused("was damaged since it was written, and is removed. Run the", annotate, source, MODELS, tmp_path / "out")
    assert tree(annotate(source, MODELS, tmp_path / "out")) == expected
    assert not Path("was-run").exists()


def test_another_request_keeps_finished_units(source, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(module, "assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            annotate(source, MODELS, tmp_path / "out")
        with pytest.raises(KeyboardInterrupt):
            annotate(source, MODELS, tmp_path / "out", embedding=False)
    labelled = []
    real = module.engines.label_decoded
    monkeypatch.setattr(module.engines, "label_decoded", lambda w, u, f: labelled.append(u) or real(w, u, f))
    annotate(source, MODELS, tmp_path / "out")
    assert not labelled


@pytest.mark.parametrize("name", ["theirs", "lock", "done"])
def test_a_folder_of_somebody_else_is_not_touched(source, tmp_path, name):
    """Names are no proof: the files say themselves that lattok wrote them."""
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / name).write_text("kept")
    refused("is in the way and was not made by lattok", annotate, source, MODELS, tmp_path / "out")
    assert (tmp_path / ".out.partial" / name).read_text() == "kept"


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
    assert result.unlabelled == {"latent": {1: "RuntimeError: once in a while"}}
    assert len(calls) == 7 + 2


def test_labels_that_are_not_finite(source, tmp_path):
    class Broken(FakeTokenizer):
        def latent_actions(self, chunks, valid=None):
            out = super().latent_actions(chunks, valid)
            return replace(out, latents=out.latents / (chunks.shape[0] != 25))

    result = run(source, tmp_path / "out", {"tok": Broken()})
    assert list(result.unlabelled["tok"]) == [3]
    assert "expected finite numbers, got NaN or infinity in episode 3" in result.report()


def test_labels_of_another_width_than_before_are_no_labels(make_dataset, tmp_path):
    class Widening(FakeTokenizer):
        def latent_actions(self, chunks, valid=None):
            found = super().latent_actions(chunks, valid)
            return replace(found, codes=found.codes.repeat(1, 1 + (len(chunks) == 9)))

    result = run(make_dataset([12, 7, 9, 8], cameras=False), tmp_path / "out", {"tok": Widening()})
    assert result.unlabelled["tok"].keys() == {2}
    assert "as in other episodes" in result.unlabelled["tok"][2]
