"""Inverse dynamics models and filled actions on a dataset of every format, with what was measured as it was."""

from pathlib import Path

import h5py
import numpy as np
import pytest

import lattok
from lattok.annotation import RayEngine, annotate
from lattok.cli import main
from lattok.data import inspect_dataset, open_dataset, select_episodes
from lattok.labels import with_labels
from tests.annotation.fakes import tree
from tests.annotation.test_fill import KNOWN, model, write
from tests.data.specimens import LAYOUTS, write_originals

WITH_ACTIONS = ("lerobot", "lerobot_images", "lerobot_plain", "lerobot_v20", "lerobot_v21", "rlds", "hdf5")
# these go through every verb in tests/data/test_every_verb.py
OF_ARRAYS = (*LAYOUTS, "zarr", "npz", "parquet", "calvin", "unitree", "mcap", "pictures")
SMALL = ["--image-size", "16", "--channels", "8", "8", "--latent-dim", "4", "--hidden", "8", "--members", "2"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    return write_originals(tmp_path_factory.mktemp("originals"))


def test_no_format_is_forgotten(originals):
    lance = "lance"  # tests/data/formats/test_lerobot_lance.py
    assert {*WITH_ACTIONS, *OF_ARRAYS, "sidecar", "video", lance} == originals.keys()


def train(data: Path, out: Path) -> lattok.InverseDynamics:
    camera = open_dataset(data).cameras[0]
    words = ["train", "idm", str(data), "--out", str(out), "--preset", "tiny", "--features", "pixels", *SMALL]
    words += ["--cameras", camera, "--steps", "2", "--batch-size", "4", "--episodes", "0:", "--device", "cpu"]
    assert main(words) == 0
    return lattok.load(out)


def filled(source: Path, idm: lattok.InverseDynamics, out: Path):
    """The source as it is read with the labels that were made for it."""
    made, dataset = annotate(open_dataset(source), idm, out, fill=True), open_dataset(source)
    return open_dataset(made) if dataset.kind.startswith("lerobot") else with_labels(dataset, made)


@pytest.mark.parametrize("kind", WITH_ACTIONS)
def test_where_all_actions_are_known_nothing_is_filled(kind, originals, tmp_path, capsys):
    """It is said before any label is made; the model that was trained there names no command that would be refused."""
    train(originals[kind], tmp_path / "idm")
    assert "fill in unknown actions with it: lattok annotate DATASET " in capsys.readouterr().out
    words = ["annotate", str(originals[kind]), "--model", str(tmp_path / "idm"), "--out", str(tmp_path / "out")]
    before = tree(tmp_path)
    assert main([*words, "--as", "actions"]) == 2
    said = capsys.readouterr().err
    assert "`action_key`: expected unknown actions to fill in, an episode whose `action` is NaN or null" in said
    assert "got numbers in all " in said
    assert len(said.strip().splitlines()) == 1
    assert tree(tmp_path) == before


@pytest.mark.parametrize("format", ["lerobot", "rlds"])
def test_measured_actions_stay_in_every_format(format, tmp_path):
    root = lattok.export(write(tmp_path / "data"), tmp_path / "copy", format=format, images="image").path
    source, idm, before = open_dataset(root), model(), tree(root)
    seen = filled(root, idm, tmp_path / "out")
    for episode in source.episodes:
        columns = seen.columns(episode.index, ["action", "inferred.filled", "inferred.action"])
        known = episode.index in KNOWN
        wanted = source.columns(episode.index, ["action"])["action"] if known else columns["inferred.action"]
        np.testing.assert_array_equal(columns["action"], wanted)
        assert columns["inferred.filled"].all() != known
    assert tree(root) == before


def test_unknown_actions_of_hdf5_are_filled(originals, tmp_path):
    idm = train(originals["hdf5"], tmp_path / "idm")
    for path in originals["hdf5"].glob("*.hdf5"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / path.name).write_bytes(path.read_bytes())
        with h5py.File(tmp_path / "data" / path.name, "a") as file:
            file["data/demo_1/actions"][...] = np.nan
    whole, source = open_dataset(originals["hdf5"]), open_dataset(tmp_path / "data")
    unknown = [e.index for e in source.episodes if np.isnan(source.columns(e.index, ["action"])["action"]).all()]
    assert len(unknown) == 2
    assert any("actions are unknown: 2" in finding.what for finding in inspect_dataset(source).findings)
    seen = filled(tmp_path / "data", idm, tmp_path / "out")
    for episode in source.episodes:
        columns = seen.columns(episode.index, ["action", "inferred.action", "inferred.filled"])
        measured = whole.columns(episode.index, ["action"])["action"]
        wanted = columns["inferred.action"] if episode.index in unknown else measured
        np.testing.assert_allclose(columns["action"], wanted, rtol=1e-6)
        assert columns["inferred.filled"].all() == (episode.index in unknown)
    exported = lattok.export(seen, tmp_path / "exported", video_codec="h264").path
    policy = ["train", "vla", str(exported), "--out", str(tmp_path / "policy"), "--backbone", "scratch"]
    assert main([*policy, "--steps", "1", "--batch-size", "4", "--horizon", "2", "--image-size", "32"]) == 0


def test_videos_get_the_column_that_they_lack(originals, tmp_path):
    source = open_dataset(originals["video"])
    idm = model(cameras=source.cameras[:1])
    seen = filled(originals["video"], idm, tmp_path / "out")
    for episode in select_episodes(source, None):
        columns = seen.columns(episode.index, ["action", "inferred.action", "inferred.filled"])
        assert columns["inferred.filled"].all()
        np.testing.assert_array_equal(columns["action"], columns["inferred.action"])


@pytest.mark.slow
def test_workers_of_ray_fill_in_what_one_process_does(tmp_path):
    pytest.importorskip("ray")
    source, idm = open_dataset(write(tmp_path / "data")), model()
    expected = tree(annotate(source, idm, tmp_path / "local", fill=True))
    annotate(source, idm, tmp_path / "ray", fill=True, engine=RayEngine(workers=2))
    assert tree(tmp_path / "ray") == expected
