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
from tests.annotation.test_fill import model, write
from tests.data.specimens import write_originals

WITH_ACTIONS = ("lerobot", "lerobot_images", "lerobot_plain", "rlds", "hdf5")
SMALL = ["--image-size", "16", "--channels", "8", "8", "--latent-dim", "4", "--hidden", "8", "--members", "2"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    return write_originals(tmp_path_factory.mktemp("originals"))


def test_no_format_is_forgotten(originals):
    assert {*WITH_ACTIONS, "sidecar", "video"} == originals.keys()


def train(data: Path, out: Path) -> lattok.InverseDynamics:
    camera = open_dataset(data).cameras[0]
    words = ["train", "idm", str(data), "--out", str(out), "--preset", "tiny", "--features", "pixels", *SMALL]
    words += ["--cameras", camera, "--steps", "2", "--batch-size", "4", "--episodes", "0:", "--device", "cpu"]
    assert main(words) == 0
    return lattok.load(out)


def filled(source: Path, idm: lattok.InverseDynamics, out: Path):
    """The source as it is read with the labels that were made for it."""
    made, dataset = annotate(open_dataset(source), idm, out, fill=True), open_dataset(source)
    return open_dataset(made) if dataset.kind == "lerobot" else with_labels(dataset, made)


@pytest.mark.parametrize("kind", WITH_ACTIONS)
def test_measured_actions_stay_in_every_format(kind, originals, tmp_path):
    idm, source = train(originals[kind], tmp_path / "idm"), open_dataset(originals[kind])
    before = tree(originals[kind])
    seen = filled(originals[kind], idm, tmp_path / "out")
    for episode in source.episodes:
        columns = seen.columns(episode.index, ["action", "inferred.filled", "inferred.action"])
        np.testing.assert_array_equal(columns["action"], source.columns(episode.index, ["action"])["action"])
        assert not columns["inferred.filled"].any()
        assert np.isfinite(columns["inferred.action"]).all()
    assert tree(originals[kind]) == before


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
