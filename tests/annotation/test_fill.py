"""`annotate --as actions`: unknown actions are filled in, what was measured stays, and all of it is said."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lattok
from lattok.annotation import annotate, verify
from lattok.annotation.labels import Options, Work, _unknown
from lattok.cli import main
from lattok.data import Feature, LeRobotWriter, export, inspect_dataset, open_dataset
from lattok.data.content import content_of
from lattok.data.episodes import split_by_task, unmeasured
from lattok.data.vectors import read_vectors
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.labels import with_labels
from lattok.labels.spec import inferred_episodes, measured_episodes
from lattok.samples.batches import BatchOptions, PolicyBatches
from lattok.samples.policy import PolicyWindows, WindowOptions
from lattok.utils.files import read_json
from tests.annotation.fakes import stop, tree
from tests.annotation.test_gaps import corrupt_page
from tests.conftest import CAMERAS, moving_square, put_video, write_dataset
from tests.errors import refused
from tests.recipes.policies import TINY

KNOWN, LENGTHS = {0, 3}, [12, 7, 9, 25]
ADDED = {"inferred.action", "inferred.confidence", "inferred.filled", "inferred.valid"}


def model(**options) -> InverseDynamics:
    torch.manual_seed(0)
    given = {"cameras": ("front",), "action_dim": 3, "action_names": ("x", "y", "z"), "features": "pixels"}
    given |= {"image_size": 16, "channels": (8, 8), "latent_dim": 4, "hidden": 8, "members": 2}
    made = InverseDynamics(InverseDynamicsConfig(**given | options)).eval()
    made.set_range(torch.randn(30, made.config.action_dim, generator=torch.Generator().manual_seed(1)))
    return made


def write(root: Path, known: set[int] = KNOWN, gap: bool = False, **options: float) -> Path:
    """Four episodes; of those that are not known every action is NaN (`gap`: but for one frame of the second)."""
    rng = np.random.default_rng(0)
    features = {"action": Feature("float32", (3,), ("x", "y", "z")), CAMERAS[0]: Feature("video", (32, 32, 3), None)}
    features["observation.state"] = Feature("float32", (2,), None)
    with LeRobotWriter.create(root, 10.0, features, video_codec="h264", encoder_threads=1, **options) as writer:
        for episode, length in enumerate(LENGTHS):
            actions = rng.standard_normal((length, 3)).astype(np.float32)
            if episode not in known:
                actions[:] = np.nan
            if gap and episode == 1:
                actions[2] = 1.0
            columns = {"action": actions, "observation.state": rng.standard_normal((length, 2))}
            writer.add_episode(columns, {CAMERAS[0]: moving_square(rng, length)}, "lift")
    return root


def write_parts(root: Path, known: Sequence[str] = (), cameras: bool = True, **parts: Feature) -> Path:
    """The same four episodes with these columns, of which some are known everywhere."""
    rng, seen = np.random.default_rng(0), {CAMERAS[0]: Feature("image", (32, 32, 3), None)} if cameras else {}
    with LeRobotWriter.create(root, 10.0, parts | seen) as writer:
        for episode, length in enumerate(LENGTHS):
            columns = {key: 9 * rng.standard_normal((length, part.shape[0])) for key, part in parts.items()}
            if episode not in KNOWN:
                floats = [key for key, part in parts.items() if "float" in part.dtype and key not in known]
                columns |= {key: np.full_like(columns[key], np.nan) for key in floats}
            typed = {key: values.astype(parts[key].dtype) for key, values in columns.items()}
            writer.add_episode(typed, {key: moving_square(rng, length) for key in seen}, "lift")
    return root


def with_nulls(root: Path, form: str, key: str = "action") -> Path:
    """Write NaN in a column as null, as Arrow and pandas do: cells, the numbers in them, or the whole type."""
    for path in (root / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        rows = [row if isinstance(row, list) else [row] for row in table[key].to_pylist()]
        empty = None if form.endswith("cells") else [None] * len(rows[0])
        rows = [[None if np.isnan(x) else x for x in row] if form == "each" else row for row in rows]
        rows = [empty if form != "each" and np.isnan(row).all() else row for row in rows]
        kinds = {"list": pa.list_(pa.float32()), "large": pa.large_list(pa.float64()), "each": pa.list_(pa.float32())}
        kind = kinds.get(form.split()[0], pa.list_(pa.float32(), len(rows[0] or [0] * 3)))
        # of pandas' own where every row of the file is empty
        column = pa.array(rows) if form.startswith("pandas") else pa.array(rows, kind)
        pq.write_table(table.set_column(table.column_names.index(key), key, column), path)
    return root


def change(out: Path, key: str, row: int) -> None:
    """Add 5 to a row of a column."""
    (path,) = sorted((out / "data").rglob("*.parquet"))
    table = pq.read_table(path)
    values = np.stack(table[key].to_numpy())
    values[row] += 5
    field = table.schema.field(key)
    changed = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1]).cast(field.type)
    pq.write_table(table.set_column(table.column_names.index(key), field, changed), path)


def expected(source, idm, **given) -> list[np.ndarray]:
    """What the column should hold, episode by episode."""
    found = []
    for episode in source.episodes:
        frames = idm.resize(source.frames(episode.index, source.cameras).reshape(-1, 32, 32, 3))[:, None]
        read = idm.infer_actions(frames, 1, **given).actions
        own = source.columns(episode.index, ["action"])["action"] if "action" in source.features else None
        found.append(read if own is None or np.isnan(own).all() else own)
    return found


def test_unknown_actions_are_filled_and_measured_ones_stay_bit_for_bit(tmp_path):
    source, idm = open_dataset(write(tmp_path / "data")), model()
    out = open_dataset(annotate(source, idm, tmp_path / "out", fill=True, embedding=False))
    assert out.features.keys() - source.features.keys() == ADDED
    for episode, wanted in zip(source.episodes, expected(source, idm), strict=True):
        got = out.columns(episode.index, ["action", *sorted(ADDED)])
        np.testing.assert_array_equal(got["action"], wanted)
        assert (got["inferred.filled"] == (episode.index not in KNOWN)).all()
        assert ((got["inferred.confidence"] > 0) & (got["inferred.confidence"] <= 1)).all()
        assert np.isfinite(got["inferred.action"]).all()
    for path in sorted((source.root / "data").rglob("*.parquet")):
        old, new = pq.ParquetFile(path), pq.ParquetFile(out.root / path.relative_to(source.root))
        assert new.schema_arrow.field("action").equals(old.schema_arrow.field("action"))
        others = [name for name in old.schema_arrow.names if name != "action"]
        assert new.read(columns=others).equals(old.read(columns=others), check_metadata=False)


def test_one_network_alone_does_not_say_how_sure_it_is(tmp_path):
    out = annotate(open_dataset(write(tmp_path / "data")), model(members=1), tmp_path / "out", fill=True)
    assert "inferred.action" in open_dataset(out).features
    assert "inferred.confidence" not in open_dataset(out).features


def test_statistics_are_those_of_the_filled_column(tmp_path):
    source, idm = open_dataset(write(tmp_path / "data")), model()
    out = annotate(source, idm, tmp_path / "out", fill=True)
    every = np.concatenate(expected(source, idm)).astype(np.float64)
    told = json.loads((out / "meta" / "stats.json").read_text())["action"]
    np.testing.assert_allclose(told["mean"], every.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(told["std"], every.std(0), rtol=1e-5)
    assert told["count"] == [len(every)]
    (path,) = (out / "meta/episodes").rglob("*.parquet")
    rows = pq.read_table(path).to_pylist()
    for row, wanted in zip(rows, expected(source, idm), strict=True):  # LeRobot's tools merge these
        np.testing.assert_allclose(row["stats/action/mean"], wanted.astype(np.float64).mean(0), rtol=1e-5, atol=1e-6)
        assert row["stats/action/count"] == [len(wanted)]
    assert pq.read_schema(path).equals(pq.read_schema(next((source.root / "meta/episodes").rglob("*.parquet"))))


def test_provenance_says_it_and_verify_makes_it_again(tmp_path):
    idm = model()
    idm.save_pretrained(tmp_path / "idm")
    out = annotate(write(tmp_path / "data"), str(tmp_path / "idm"), tmp_path / "out", fill=True)
    entry = json.loads((out / "meta" / "lattok.json").read_text())["inferred"]
    assert entry["fills"].pop("measured")["episodes"] == [[0, 0], [3, 3]]
    assert entry["fills"] == {"column": "action", "names": ["x", "y", "z"], "filled": [[1, 2]]}
    assert entry["model"]["type"] == "idm"
    assert verify(out, {"inferred": str(tmp_path / "idm")}).holds
    torch.manual_seed(1)
    other = InverseDynamics(idm.config)
    other.set_range(torch.randn(30, 3))
    assert not verify(out, {"inferred": other.eval()}).holds


def test_filled_actions_that_were_changed_since_are_noticed(tmp_path):
    idm = model()
    out = annotate(write(tmp_path / "data"), idm, tmp_path / "out", fill=True)
    change(out, "action", LENGTHS[0] + 2)  # in an episode that was filled
    found = verify(out, {"inferred": idm})
    assert not found.holds
    assert any("action" in line and line.strip().startswith("-") for line in found.lines)


def test_a_dataset_without_the_column_gets_it(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, length in (("a", 9), ("b", 14)):
        put_video(folder / f"{name}.mp4", moving_square(rng, length), 10)
    source = open_dataset(folder)
    idm = model(cameras=(source.cameras[0],))
    labels = annotate(source, idm, tmp_path / "labels", fill=True)
    joined = with_labels(source, labels)
    assert joined.features["action"] == Feature("float32", (3,), ("x", "y", "z"))
    for episode in source.episodes:
        own = joined.columns(episode.index, ["action", "inferred.action", "inferred.filled"])
        np.testing.assert_array_equal(own["action"], own["inferred.action"])
        assert own["inferred.filled"].all()
    assert verify(joined, {"inferred": idm}).holds
    lerobot = open_dataset(export(joined, tmp_path / "lerobot").path)
    for episode in source.episodes:
        ours = lerobot.columns(episode.index, ["action"])["action"]
        np.testing.assert_array_equal(ours, joined.columns(episode.index, ["action"])["action"])


def test_a_part_of_a_lerobot_dataset_without_the_column_gets_it_too(tmp_path):
    root = write(tmp_path / "data")
    info = json.loads((root / "meta" / "info.json").read_text())
    del info["features"]["action"]
    (root / "meta" / "info.json").write_text(json.dumps(info))
    for path in sorted((root / "data").rglob("*.parquet")):
        table = pq.read_table(path)
        pq.write_table(table.drop_columns(["action"]), path)
    source, idm = open_dataset(root), model()
    out = open_dataset(annotate(source, idm, tmp_path / "out", fill=True))
    assert out.features["action"] == Feature("float32", (3,), ("x", "y", "z"))
    for episode, wanted in zip(source.episodes, expected(source, idm), strict=True):
        np.testing.assert_array_equal(out.columns(episode.index, ["action"])["action"], wanted)


def test_columns_that_are_joined_are_filled_each(tmp_path):
    """What was measured stays in its own columns, and what was inferred comes into them, in the right order."""
    idm, joined = model(), {"columns": {"action": ["move.xy", "move.grip"]}}
    features = {"move.grip": Feature("float64", (1,), None), "move.xy": Feature("float32", (2,), None)}
    write_parts(tmp_path / "data", **features)
    for path in (tmp_path / "data/data").rglob("*.parquet"):  # others write one number as a list, too
        table = pq.read_table(path)
        place, values = table.schema.names.index("move.grip"), table["move.grip"].to_pylist()
        listed = pa.array([[value] for value in values], pa.list_(pa.float64()))
        pq.write_table(table.set_column(place, "move.grip", listed), path)
    source = open_dataset(tmp_path / "data", **joined)
    out = annotate(source, idm, tmp_path / "out", fill=True)
    plain, described = open_dataset(out), open_dataset(out, **joined)
    assert plain.features.keys() == open_dataset(tmp_path / "data").features.keys() | ADDED | {"inferred.embedding"}
    for episode, wanted in zip(source.episodes, expected(source, idm), strict=True):
        np.testing.assert_array_equal(described.columns(episode.index, ["action"])["action"], wanted)
        got = plain.columns(episode.index, ["move.xy", "move.grip"])
        np.testing.assert_array_equal(got["move.xy"], wanted[:, :2])
        np.testing.assert_array_equal(got["move.grip"].reshape(-1).astype(np.float32), wanted[:, 2])
    statistics = json.loads((out / "meta/stats.json").read_text())
    assert statistics["move.xy"]["count"] == [sum(LENGTHS)]
    assert verify(described, {"inferred": idm}).holds
    other = open_dataset(out, columns={"act": ["move.xy", "move.grip"]})
    for dataset, key in ((described, "action"), (plain, "move.xy"), (plain, "move.grip"), (other, "act")):
        assert inferred_episodes(dataset, key, dataset.episodes) == [1, 2]
    assert verify(plain, {"inferred": idm}).holds
    change(out, "move.xy", LENGTHS[0] + 2)
    for dataset in (open_dataset(out), open_dataset(out, **joined)):
        assert not verify(dataset, {"inferred": idm}).holds


def test_a_joined_column_may_have_the_name_of_one_of_its_parts(tmp_path):
    idm, joined = model(), {"columns": {"action": ["grip", "action"]}}
    data = write_parts(tmp_path / "data", action=Feature("float32", (2,), None), grip=Feature("float32", (1,), None))
    source = open_dataset(data, **joined)
    out = annotate(source, idm, tmp_path / "out", fill=True)
    described, plain = open_dataset(out, **joined), open_dataset(out)
    for episode, wanted in zip(source.episodes, expected(source, idm), strict=True):
        np.testing.assert_array_equal(described.columns(episode.index, ["action"])["action"], wanted)
        np.testing.assert_array_equal(plain.columns(episode.index, ["action"])["action"], wanted[:, 1:])
    assert verify(described, {"inferred": idm}).holds
    assert verify(plain, {"inferred": idm}).holds
    assert inferred_episodes(plain, "grip", plain.episodes) == [1, 2]


def test_an_export_of_joined_columns_is_checked_by_the_joined_one(tmp_path):
    idm, joined = model(), {"columns": {"action": ["grip", "action"]}}
    data = write_parts(tmp_path / "data", action=Feature("float32", (2,), None), grip=Feature("float32", (1,), None))
    out = annotate(open_dataset(data, **joined), idm, tmp_path / "out", fill=True)
    copied = export(open_dataset(out, **joined), tmp_path / "copy", images="image").path
    assert verify(open_dataset(copied), {"inferred": idm}).holds


def test_dimensions_in_another_order_are_not_filled(tmp_path):
    refused(
        "`action`: expected z, y, x in this order, as in training, got x, y, z",
        lambda: annotate(write(tmp_path / "data"), model(action_names=("z", "y", "x")), tmp_path / "out", fill=True),
    )


@pytest.mark.parametrize("format", ["lerobot", "rlds"])
def test_an_export_knows_what_was_inferred(format, tmp_path):
    filled = open_dataset(annotate(write(tmp_path / "data"), model(), tmp_path / "out", fill=True))
    copied = export(filled, tmp_path / "copy", format=format).path
    if format == "lerobot":  # whose tools drop files that they do not know
        (copied / "meta/lattok.json").unlink()
    left = open_dataset(copied)
    assert inferred_episodes(left, "action", left.episodes) == [1, 2]


def test_labels_beside_a_dataset_fill_it_as_it_was(tmp_path):
    """Elsewhere the measured ones would be gone, and a mark of a stranger puts nothing over them."""
    idm, joined = model(), {"columns": {"action": ["move", "grip"]}}
    made = write_parts(tmp_path / "made", move=Feature("float32", (2,), None), grip=Feature("float32", (1,), None))
    data = export(made, tmp_path / "rlds", format="rlds").path
    labels = annotate(open_dataset(data, **joined), idm, tmp_path / "labels", fill=True)
    beside = with_labels(open_dataset(data, **joined), labels)
    assert verify(beside, {"inferred": idm}).holds
    refused("which fill `action` of 3 numbers, joined of move, grip", with_labels, data, labels)
    path = next((labels / "labels").rglob("*.parquet"))
    table = pq.read_table(path)
    place = table.column_names.index("inferred.filled")
    marked = pa.array(np.ones(len(table), dtype=bool)).cast(table.schema.field("inferred.filled").type)
    pq.write_table(table.set_column(place, table.schema.field("inferred.filled"), marked), path)
    assert not verify(with_labels(open_dataset(data, **joined), labels), {"inferred": idm}).holds


OLD_ARROW = pytest.mark.skipif(int(pa.__version__.split(".")[0]) < 26, reason="reads no null in lists of fixed size")
FORMS = (
    "list cells",
    "list numbers",
    pytest.param("fixed cells", marks=OLD_ARROW),
    "fixed numbers",
    "large cells",
    "pandas cells",
    "pandas numbers",
)


@pytest.mark.parametrize("form", FORMS)
def test_null_is_unknown_as_nan_is(form, tmp_path):
    """Whoever writes tables with pandas or Arrow has nulls; episodes 1 and 2 lie in files of their own."""
    plain, nulls = (write(tmp_path / name / "data", data_file_mb=0.001) for name in ("nan", "null"))
    assert len({*with_nulls(nulls, form).rglob("data/**/*.parquet")}) > 2
    one, two = open_dataset(plain), open_dataset(nulls)
    for (_, ours), (_, theirs) in zip(
        *(each.columns_of(each.episodes, ["action"]) for each in (one, two)), strict=True
    ):
        np.testing.assert_array_equal(ours["action"], theirs["action"])
    assert unmeasured(two, "action", range(4)) == {1, 2}
    assert split_by_task(one) == split_by_task(two)
    assert content_of(one, one.episodes).digest == content_of(two, two.episodes).digest
    assert inspect_dataset(one).render() == inspect_dataset(two).render()
    assert tree(export(two, tmp_path / "two").path) == tree(export(one, tmp_path / "one").path)
    filled = [open_dataset(annotate(each, model(), each.root.with_name("out"), fill=True)) for each in (one, two)]
    for episode in one.episodes:
        ours, theirs = (each.columns(episode.index, ["action", *sorted(ADDED)]) for each in filled)
        for key, values in ours.items():
            np.testing.assert_array_equal(theirs[key], values)
    ours, theirs = (json.loads((each.root / "meta/stats.json").read_text())["action"] for each in filled)
    assert ours == theirs
    assert verify(filled[1], {"inferred": model()}).holds
    labels = [annotate(each, {"latent": model()}, each.root.with_name("labels"), fill=False) for each in (one, two)]
    assert read_json(labels[0] / "meta/lattok.json") == read_json(labels[1] / "meta/lattok.json")


def test_null_in_some_rows_is_damage_as_nan_is(tmp_path):
    data = with_nulls(write(tmp_path / "data", gap=True), "each")
    found = [each for each in inspect_dataset(data).findings if each.severity == "error"]
    assert "(x, y, z) holds 18 values that are not finite, first in episode 1, frame 0" in found[0].what
    with pytest.warns(UserWarning, match="in all frames of an episode or in none, got NaN in frame 0 of episode 1"):
        annotate(data, model(), tmp_path / "out", fill=True)
    refused(
        "`action`: expected finite numbers, got nan in episode 1, frame 0",
        lambda: read_vectors(open_dataset(data), "action_key", "action", open_dataset(data).episodes, missing=True),
    )
    known = write(tmp_path / "known", known={0, 1, 2, 3})
    for path in (known / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        rows = table["action"].to_pylist()
        rows[LENGTHS[0] + 3] = [1.0, None, 1.0]
        column = pa.array(rows, pa.list_(pa.float32()))
        pq.write_table(table.set_column(table.column_names.index("action"), "action", column), path)
    refused(
        "in all frames of an episode or in none, got NaN in frame 3 of episode 1",
        lambda: _unknown(Work(open_dataset(known), {"inferred": model()}, Options()), "inferred", 1),
    )


@pytest.mark.parametrize("kind", ["lam", "idm", "vla"])
def test_models_learn_the_same_where_null_is_unknown(kind, tmp_path):
    plain, nulls = write(tmp_path / "nan/data"), with_nulls(write(tmp_path / "null/data"), "list cells")
    small = {"steps": 2, "batch_size": 4, "device": "cpu", "episodes": "0:4"}
    pixels = {"features": "pixels", "image_size": 16}
    recipes: dict[str, tuple] = {
        "lam": (lattok.ImageLAMRecipe, "tiny+robust", {**pixels, "labelled_fraction": 1.0}),
        "idm": (lattok.InverseDynamicsRecipe, "tiny", {**pixels, "channels": (8,), "members": 1}),
        "vla": (lattok.VLARecipe, "scratch", {"strategy": "baseline", "horizon": 4}),
    }
    recipe, preset, options = recipes[kind]
    made = (recipe.from_preset(each, each.with_name("m"), preset, **small, **options) for each in (plain, nulls))
    first, second = (lattok.train(each).state_dict() for each in made)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_column_of_whole_numbers_in_the_files_is_not_rounded(tmp_path):
    data = write(tmp_path / "data")
    for path in (data / "data").rglob("*.parquet"):
        table = pq.read_table(path)
        rows = [None if np.isnan(row).any() else [int(x) for x in row] for row in table["action"].to_pylist()]
        column = pa.array(rows, pa.list_(pa.int64()))
        pq.write_table(table.set_column(table.column_names.index("action"), "action", column), path)
    refused("`action`: expected floats, to fill in", lambda: annotate(data, model(), tmp_path / "out", fill=True))


def test_a_file_in_which_no_action_can_be_read_ends_nothing(tmp_path):
    """Neither its statistics nor those of its episodes can be renewed: the rest is filled, and it is said."""
    data = write(tmp_path / "data", data_file_mb=0.001)
    source = open_dataset(data)
    whole = open_dataset(annotate(source, model(), tmp_path / "whole", fill=True))
    corrupt_page(source.data_file(1), "action")
    with pytest.warns(UserWarning, match=r"not episode 1 \(cannot read `action`"):
        out = open_dataset(annotate(data, model(), tmp_path / "out", fill=True))
    for episode in (0, 2, 3):
        np.testing.assert_array_equal(
            out.columns(episode, ["action"])["action"], whole.columns(episode, ["action"])["action"]
        )


def test_a_damaged_page_of_actions_ends_nothing(tmp_path):
    data = write(tmp_path / "data")
    corrupt_page(next((data / "data").rglob("*.parquet")), "action")
    with pytest.warns(UserWarning, match="`action` in rows"):
        out = annotate(data, model(), tmp_path / "out", fill=True)
    assert open_dataset(out).columns(3, ["inferred.action"])["inferred.action"].shape == (LENGTHS[3], 3)


def test_statistics_of_episodes_that_are_to_be_renewed_are_read_first(tmp_path, monkeypatch):
    data = write(tmp_path / "data")
    path = next((data / "meta/episodes").rglob("*.parquet"))
    corrupt_page(path, "stats/action/mean")
    monkeypatch.setattr(InverseDynamics, "infer_actions", stop)
    refused(f"cannot read {path}: truncated or damaged", lambda: annotate(data, model(), tmp_path / "out", fill=True))


def test_unknown_actions_of_another_space_stay_unknown(tmp_path):
    plane, opened = {"part": "position", "axes": ["x", "y"]}, {"part": "gripper", "convention": "open_is_1"}
    spaces = {
        "action_space": {"action": [plane, opened]},
        "actions": {"as": [plane, {**opened, "convention": "closed_is_1"}]},
    }
    converted = open_dataset(write(tmp_path / "data"), **spaces)
    assert [each.index for each in measured_episodes(converted, "action", converted.episodes)] == [0, 3]
    assert np.isnan(converted.columns(1, ["action"])["action"]).all()
    assert not any(finding.severity == "error" for finding in inspect_dataset(converted).findings)


def test_whole_numbers_are_not_filled(tmp_path):
    data = write_parts(tmp_path / "data", arm=Feature("float32", (2,), None), grip=Feature("int64", (1,), None))
    refused(
        "joined of floats, got whole numbers in `grip`",
        lambda: annotate(open_dataset(data, columns={"action": ["arm", "grip"]}), model(), tmp_path / "out", fill=True),
    )
    assert not (tmp_path / "out").exists()
    refused("`columns`: expected names by a new one", open_dataset, data, columns={"action": [["arm"]]})


def test_what_was_inferred_is_known_without_the_record_too(tmp_path):
    """Tools of LeRobot drop files in meta/ that they do not know."""
    out = annotate(write(tmp_path / "data"), model(), tmp_path / "out", fill=True)
    (out / "meta/lattok.json").unlink()
    left = open_dataset(out)
    assert inferred_episodes(left, "action", left.episodes) == [1, 2]


def test_a_column_is_filled_once(tmp_path):
    data, idm = write(tmp_path / "data"), model()
    filled = annotate(data, idm, tmp_path / "filled", fill=True)
    refused(r"no model has filled, got `action`", annotate, filled, {"again": idm}, tmp_path / "twice", fill=True)
    again = annotate(filled, {"again": idm}, tmp_path / "labels")  # as labels they may stand beside
    assert verify(again, {"inferred": idm}).holds
    assert verify(again, {"again": idm}).holds


def test_actions_that_a_description_converts_are_not_filled(tmp_path):
    root = write(tmp_path / "data")
    plane, opened = {"part": "position", "axes": ["x", "y"]}, {"part": "gripper", "convention": "open_is_1"}
    closed = {"as": [plane, {**opened, "convention": "closed_is_1"}]}
    converted = open_dataset(root, action_space={"action": [plane, opened]}, actions=closed)
    refused("`action_key`: expected a column as the", lambda: annotate(converted, model(), tmp_path / "out", fill=True))
    assert not (tmp_path / "out").exists()


def test_states_and_tasks_reach_the_model(tmp_path):
    source = open_dataset(write(tmp_path / "data"))
    idm = model(proprio=True, state_dim=2, task_given=True, tasks=("lift",))
    idm.state_normalizer.fit(torch.randn(20, 2, generator=torch.Generator().manual_seed(3)))
    out = open_dataset(annotate(source, idm, tmp_path / "out", fill=True))
    frames = idm.resize(source.frames(1, source.cameras).reshape(-1, 32, 32, 3))[:, None]
    states = source.columns(1, ["observation.state"])["observation.state"]
    wanted = idm.infer_actions(frames, 1, task="lift", states=states).actions
    np.testing.assert_array_equal(out.columns(1, ["action"])["action"], wanted)
    other = model(proprio=True, state_dim=3)
    refused("`observation.state`: expected 3 numbers", annotate, source, other, tmp_path / "x", fill=True)
    assert not (tmp_path / "x").exists()


def test_policies_learn_from_a_filled_dataset(tmp_path):
    out = annotate(write(tmp_path / "data"), model(), tmp_path / "out", fill=True)
    options = {"strategy": "baseline", "steps": 2, "batch_size": 4, "horizon": 4, "device": "cpu", "episodes": "0:4"}
    policy = lattok.train(lattok.VLARecipe.from_preset(out, tmp_path / "policy", "scratch", **options))
    assert policy.config.action_dim == 3
    assert policy.trained_on["inferred_actions"] == {"episodes": 2, "of": 4}
    said = "The actions of 2 of 4 episodes that it learned from were inferred, not measured"
    assert said in (tmp_path / "policy" / "README.md").read_text()
    report = lattok.evaluate(lattok.load(tmp_path / "policy"), write(tmp_path / "truth", {0, 1, 2, 3}), episodes="0")
    assert said in {verdict.text for verdict in report.verdicts}
    recipe = lattok.VLARecipe.from_preset(out, tmp_path / "few", "scratch", **options, action_episodes="0,1")
    assert lattok.train(recipe).trained_on["inferred_actions"] == {"episodes": 1, "of": 4}


@pytest.mark.parametrize("filled", [False, True])
def test_policies_are_judged_by_what_was_measured_alone(filled, tmp_path):
    data = write(tmp_path / "data", {0, 1})
    data = annotate(data, model(), tmp_path / "filled", fill=True) if filled else data
    options = {"strategy": "baseline", "steps": 1, "batch_size": 4, "horizon": 4, "device": "cpu"}

    def held_out(episodes: str) -> dict | None:
        out = tmp_path / f"policy-{episodes}"
        recipe = lattok.VLARecipe.from_preset(data, out, "scratch", **options, episodes=episodes)
        lattok.train(recipe)
        first, *others = recipe.next_step().splitlines()
        words = first.removeprefix("Evaluate it: lattok evaluate ").split()
        assert (out / "held_out.json").exists() == bool(others) == (words[:2] == [str(out), str(data)])
        return json.loads((out / "held_out.json").read_text()) if (out / "held_out.json").exists() else None

    found = held_out("0,2")  # the last one is held out by default, but nobody knows its actions
    assert found is not None
    assert (found["episodes"], found["windows"]) == ([[1, 1]], LENGTHS[1])
    assert held_out("0,1") is None
    policy = lattok.load(tmp_path / "policy-0,2")
    report = lattok.evaluate(policy, data, episodes="1:3")
    assert json.loads(report.to_json())["provenance"]["held_out_windows"] == LENGTHS[1]
    said = "`action`: expected known actions in a held-out episode, got .* Known are episodes 0, 1: train without the "
    refused(f"{said}last and evaluate on it, by episodes=1", lattok.evaluate, policy, data, episodes="3")


def test_an_inverse_model_does_not_learn_from_what_another_one_inferred(tmp_path):
    data, idm = write(tmp_path / "data"), model()
    filled = annotate(data, idm, tmp_path / "filled", fill=True)
    options = {"features": "pixels", "image_size": 16, "channels": (8,), "members": 1, "steps": 3, "batch_size": 4}
    made = []
    for name, source in (("a", data), ("b", filled)):
        recipe = lattok.InverseDynamicsRecipe.from_preset(source, tmp_path / name, "tiny", episodes="0:4", **options)
        made.append(lattok.train(recipe).state_dict())
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())
    assert "inferred_actions" not in lattok.load(tmp_path / "b").trained_on
    refused(
        "actions that were measured in one of the episodes, got those that a model",
        lambda: lattok.train(
            lattok.InverseDynamicsRecipe.from_preset(filled, tmp_path / "c", "tiny", episodes="1:3", **options)
        ),
    )


def test_what_cannot_be_filled_is_said(tmp_path):
    data, idm = write(tmp_path / "data", gap=True), model()
    with pytest.warns(
        UserWarning,
        match=r"`action`: expected actions in all frames of an episode or in none, got NaN in frame 0 of episode 1",
    ):
        out = open_dataset(annotate(data, idm, tmp_path / "out", fill=True))
    own = out.columns(1, ["action", "inferred.filled"])
    assert np.isnan(own["action"][0]).all()
    assert not own["inferred.filled"].any()
    assert own["action"][2].tolist() == [1, 1, 1]  # measured
    refused(
        "expected 3 numbers, as `action` of data has",
        lambda: annotate(data, model(action_dim=2, action_names=("x", "y")), tmp_path / "other", fill=True),
    )
    lam = lattok.load("sample/lam")
    refused("a model that infers actions for `inferred`, got one", annotate, data, lam, tmp_path / "other", fill=True)
    refused("a model that infers actions for", annotate, data, "sample/tokenizer", tmp_path / "other", fill=True)
    refused("expected 1 model to fill in actions", annotate, data, {"a": idm, "b": idm}, tmp_path / "other", fill=True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("asked", "there", "said"),
    [
        ("action", "actions", r"one of actions, observation\.state, got 'action'.*Did you mean actions\?"),
        ("acton", "action", r"got 'acton'.*Did you mean action\?"),
        ("action", "action.x action.y", r"To join them, write a file .* \"columns\": {\"action\": \[\"action.x\", "),
    ],
)
def test_a_column_that_is_there_under_another_name_is_not_inferred(asked, there, said, tmp_path):
    """All actions would count as unknown, and what was measured would lie unused beside what was inferred."""
    parts = {name: Feature("float32", (3,), None) for name in (*there.split(), "observation.state")}
    data = write_parts(tmp_path / "data", [*parts], **parts)
    refused("`action_key`: expected", lambda: annotate(data, model(), tmp_path / "out", fill=True, action_key=asked))
    assert not (tmp_path / "out").exists()
    out = annotate(data, model(), tmp_path / "out", fill=True, action_key="expert")  # which is none of them
    assert open_dataset(out).features["expert"].shape == (3,)


def test_an_earlier_latent_annotation_is_as_it_was(tmp_path):
    """Without `fill` a model that infers actions writes columns and touches none."""
    source, idm = open_dataset(write(tmp_path / "data")), model()
    out = open_dataset(annotate(source, idm, tmp_path / "out"))
    added = {f"latent.{name}" for name in ("action", "confidence", "embedding", "valid")}
    assert out.features.keys() - source.features.keys() == added
    assert np.isnan(out.columns(1, ["action"])["action"]).all()


def test_policies_learn_from_the_most_confident_and_draw_measured_ones_more_often(tmp_path):
    annotate(open_dataset(write(tmp_path / "data")), model(), tmp_path / "out", fill=True)
    filled = open_dataset(tmp_path / "out")
    given = {"cameras": (), "size": 1, "state_key": None, "episodes": "0:4"}
    windows = PolicyWindows(filled, WindowOptions(1, confident_share=0.25, **given))
    sure = np.concatenate([filled.columns(e, ["inferred.confidence"])["inferred.confidence"] for e in range(4)])
    inferred = np.isin(np.repeat(np.arange(4), LENGTHS), [1, 2])
    wanted = ~inferred | (sure.reshape(-1) >= np.quantile(sure[inferred], 0.75))
    batch = windows.batch(torch.arange(len(windows)))
    assert batch.valid[:, 0].tolist() == wanted.tolist()
    assert wanted[inferred].sum() == 4
    assert windows.measured.tolist() == (~inferred).tolist()
    assert torch.equal(windows.teaching, batch.valid[:, 0])
    chunks = PolicyWindows(filled, WindowOptions(3, confident_share=0.25, **given))
    whole = chunks.batch(torch.arange(len(chunks)))
    assert torch.equal(chunks.teaching, whole.valid.any(1))
    assert torch.equal(whole.valid[:, 0], batch.valid[:, 0])
    batches = PolicyBatches(chunks, BatchOptions(8, 0, acted_share=0.75))
    for step in range(3):
        drawn = batches.stream.samples(step)
        assert int(chunks.measured[drawn].sum()) == 6
        assert int(batches(step, 0, 1).shares.acted) == int(chunks.teaching[drawn].sum())
    coded = PolicyBatches(chunks, BatchOptions(8, 0, codes=True))
    drawn = coded.stream.samples(0)
    whole = chunks.batch(drawn).valid
    want = int((whole[:, 0] & (whole[:, 1:] <= whole[:, :-1]).all(1)).sum())
    assert want == int(chunks.coding[drawn].sum()) == int(coded(0, 0, 1).shares.acted)
    refused(
        "`acted_share`: expected 0 where no action was measured",
        lambda: PolicyWindows(filled, WindowOptions(1, **{**given, "episodes": "1:3"})).check_share(0.5),
    )
    everything = PolicyWindows(filled, WindowOptions(1, **given))
    assert everything.batch(torch.arange(len(windows))).valid.all()
    words = ["train", "vla", str(tmp_path / "out"), "--out", str(tmp_path / "p"), "--confident-share", "0", *TINY]
    assert main(words) == 2


def test_the_command_weighs_what_was_inferred(tmp_path, capsys):
    annotate(open_dataset(write(tmp_path / "data")), model(), tmp_path / "out", fill=True)
    words = ["train", "vla", str(tmp_path / "out"), "--out", str(tmp_path / "p"), "--episodes", "0:3", *TINY]
    assert main([*words, "--confident-share", "0.5", "--acted-share", "0.5"]) == 0
    words[2:5] = [str(write(tmp_path / "all", {0, 1, 2, 3})), "--out", str(tmp_path / "q")]
    assert main([*words, "--acted-share", "0.5"]) == 2
    assert "`acted_share` was given, but all actions are known" in capsys.readouterr().err


def test_inspecting_says_whose_actions_nobody_knows(tmp_path):
    found = inspect_dataset(open_dataset(write(tmp_path / "data", gap=True))).findings
    told = [finding for finding in found if "action" in finding.what]
    assert [finding.severity for finding in told] == ["error", "note"]
    assert "holds 18 values that are not finite, first in episode 1, frame 0" in told[0].what  # one frame is known
    assert "Episodes whose actions are unknown: 1 (first: 2). All of their `action` are missing, NaN" in told[-1].what


@pytest.mark.parametrize(("offsets", "beyond"), [((-2, 0, 1), 1), ((-3, -1, 0), 0), ((-1, 0, 1, 2), 2)])
def test_rows_are_valid_where_no_later_frame_is_beyond_the_end(offsets: tuple[int, ...], beyond: int):
    assert model(offsets=offsets, stride="2").later_frames(10) == 2 * beyond


def test_a_stride_beyond_every_episode_is_refused_before_training(tmp_path, capsys):
    source, words = write_dataset(tmp_path / "source", [12, 12]), ["--preset", "tiny", "--out", str(tmp_path / "out")]
    for options, name in ((("--offsets", "0", "1"), "stride"), ((), "stride with offsets")):
        assert main(["train", "idm", str(source), "--stride", "99", *options, *words]) == 2
        said = capsys.readouterr().err
        assert f"`{name}`: expected a gap that leaves at least half of the frames with a partner in their" in said
        assert "leaves 0 of 24. The largest usable gap is 6 (0.6 s)." in said
    assert not (tmp_path / "out").exists()
