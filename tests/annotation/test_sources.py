"""Annotation of everything that is no LeRobot dataset, real recordings among them: labels beside the data."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from lattok.action_vq import UniformBins
from lattok.annotation import annotate, label, verify
from lattok.annotation.labels import Work
from lattok.data import open_dataset
from lattok.data.exporting import export
from lattok.data.video import VideoWriter
from lattok.image_lam import ImageLAM
from lattok.labels import with_labels
from lattok.labels.spec import Options
from tests.annotation.fakes import tree
from tests.conftest import write_dataset
from tests.data.formats.test_hdf5 import write_libero
from tests.real import BRIDGE, franka, needs_real
from tests.recipes.policies import image_lam


def small_lam(camera: str, stride: str = "2") -> ImageLAM:
    """Random weights, pixels of one camera."""
    return image_lam(camera, image_size=32, stride=stride, width=32, latent_dim=8)


def bins_of(dataset, horizon: int = 4) -> UniformBins:
    """Uniform bins, fitted to the dataset's actions."""
    actions = np.concatenate([dataset.columns(e.index, ["action"])["action"] for e in dataset.episodes])
    count = len(actions) // horizon
    return UniformBins.fit(actions[: count * horizon].reshape(count, horizon, -1))


def check(dataset, models, out: Path) -> None:
    """Labels beside the data follow the contract, verify, and survive an export."""
    annotate(dataset, models, out)
    before = tree(out)
    assert sorted(before) == ["labels/file-000.parquet", "meta/lattok.json", "meta/source.json"]
    labelled = with_labels(dataset, out)
    result = verify(labelled, models)
    assert result.holds, result.render()
    assert "rows equal" in result.render()
    for episode in dataset.episodes:
        rows = labelled.columns(episode.index, ["latent.codes", "latent.valid"])
        assert len(rows["latent.codes"]) == episode.length
        np.testing.assert_array_equal(rows["latent.valid"], np.arange(episode.length) < episode.length - 2)
    size = (32, 32) if dataset.kind == "video" else None
    export(with_labels(dataset, out), out.with_name("exported"), size=size, video_codec="h264")
    exported = open_dataset(out.with_name("exported"))
    assert {key for key in labelled.features if key.startswith(tuple(models))} <= set(exported.features)
    for old, new in zip(dataset.episodes, exported.episodes, strict=True):
        expected = labelled.columns(old.index, ["latent.codes"])["latent.codes"]
        np.testing.assert_array_equal(exported.columns(new.index, ["latent.codes"])["latent.codes"], expected)


@needs_real
def test_real_bridge_recordings(tmp_path):
    dataset = open_dataset(BRIDGE)
    models = {"latent": small_lam("image_0"), "tok": bins_of(dataset)}
    check(dataset, models, tmp_path / "labels")
    # the export keeps the JPEG files, so that labels can be made anew from it
    exported = open_dataset(tmp_path / "exported")
    assert verify(exported, models).holds


@needs_real
def test_a_real_recording_with_one_flipped_bit(tmp_path):
    whole = annotate(open_dataset(BRIDGE), {"latent": small_lam("image_0")}, tmp_path / "whole")
    shutil.copytree(BRIDGE, tmp_path / "bridge_dataset")
    (path,) = (tmp_path / "bridge_dataset").rglob("*.tfrecord-*")
    path.chmod(0o644)
    data, start = bytearray(path.read_bytes()), 0
    for _ in range(3):  # into the fourth record
        start += 16 + struct.unpack_from("<Q", data, start)[0]
    data[start + 5000] ^= 4
    path.write_bytes(data)
    damaged = open_dataset(tmp_path / "bridge_dataset")
    result = label(Work(damaged, {"latent": small_lam("image_0")}, Options()), tmp_path / "out")
    assert list(result.unlabelled["latent"]) == [3]
    assert "checksum" in result.report()
    one, other = with_labels(damaged, tmp_path / "out"), with_labels(damaged, whole)
    for episode in damaged.episodes:
        rows, expected = (d.columns(episode.index, ["latent.codes", "latent.valid"]) for d in (one, other))
        if episode.index == 3:
            assert (rows["latent.codes"] == -1).all()
            assert not rows["latent.valid"].any()
        else:
            np.testing.assert_array_equal(rows["latent.codes"], expected["latent.codes"])
    (entry,) = json.loads((tmp_path / "out/meta/lattok.json").read_text())["latent"]["unlabelled"]
    assert entry["episodes"] == [3]


def test_libero_demonstrations(tmp_path):
    pytest.importorskip("h5py")
    (tmp_path / "libero").mkdir()
    for name in ("open", "close"):
        write_libero(tmp_path / "libero" / f"{name}_demo.hdf5", f"{name} the drawer", lengths=(8, 9, 12))
    dataset = open_dataset(tmp_path / "libero")
    check(dataset, {"latent": small_lam("agentview_rgb"), "tok": bins_of(dataset, 2)}, tmp_path / "labels")


POSE = [{"part": "position", "mode": "absolute"}]


@pytest.mark.parametrize("kind", ["lerobot", "hdf5"])
def test_labels_of_converted_actions(kind, tmp_path):
    """Through description files, as on the command line: what provenance says is what the dataset says."""
    if kind == "hdf5":
        pytest.importorskip("h5py")
        write_libero(tmp_path / "source.hdf5")
        source, space = tmp_path / "source.hdf5", "libero"
        actions = {"as": [{"part": "position"}, {"part": "gripper", "convention": "open_is_1"}], "drop": ["rotation"]}
    else:
        source = write_dataset(tmp_path / "source", [12, 9], cameras=False)
        space, actions = POSE, {"as": [{**POSE[0], "axes": ["y", "-x", "z"], "scale": 0.01}]}
    file = tmp_path / "described.json"
    described = {"dataset": str(source), "name": "source", "action_space": {"action": space}, "actions": actions}
    file.write_text(json.dumps(described))
    dataset = open_dataset(file)
    tok = bins_of(dataset, 2)
    out = annotate(dataset, {"tok": tok}, tmp_path / "out")
    if kind == "lerobot":
        file.write_text(json.dumps({**described, "dataset": str(out)}))
        labelled, plain = open_dataset(file), open_dataset(out)
    else:
        labelled, plain = with_labels(open_dataset(file), out), with_labels(open_dataset(source, name="source"), out)
    result = verify(labelled, {"tok": tok})
    assert result.holds, result.render()
    assert "- `action` was converted to another action space" in verify(plain, {"tok": tok}).render()


def write_videos(root: Path, sizes=((32, 48), (40, 32))) -> None:
    rng = np.random.default_rng(0)
    for i, size in enumerate(sizes):
        encoder = VideoWriter(root / f"wave/{i}.mp4", 10, size, "h264", 1)
        encoder.add(np.cumsum(rng.integers(0, 9, (14, *size, 3)), axis=0).astype(np.uint8))
        encoder.close()


def test_videos_of_several_sizes(tmp_path):
    write_videos(tmp_path / "videos")
    check(open_dataset(tmp_path / "videos"), {"latent": small_lam("video")}, tmp_path / "labels")


def test_a_video_that_cannot_be_listed(tmp_path):
    write_videos(tmp_path / "videos")
    (tmp_path / "videos/wave/0a.mp4").write_bytes(b"no video")
    result = label(Work(open_dataset(tmp_path / "videos"), {"latent": small_lam("video")}, Options()), tmp_path / "out")
    assert list(result.unlabelled["latent"]) == [1]
    assert "2 of 3 episodes labelled" in result.report()
    assert with_labels(open_dataset(tmp_path / "videos"), tmp_path / "out").columns(2, ["latent.valid"])
    (tmp_path / "videos/wave/0a.mp4").write_bytes((tmp_path / "videos/wave/0.mp4").read_bytes())
    repaired = open_dataset(tmp_path / "videos")
    assert label(Work(repaired, {"latent": small_lam("video")}, Options()), tmp_path / "out").complete
    rows = with_labels(repaired, tmp_path / "out")
    codes = [rows.columns(index, ["latent.codes"])["latent.codes"] for index in (0, 1)]
    np.testing.assert_array_equal(*codes)


@needs_real
def test_the_real_franka_transition(tmp_path):
    """One pair of frames: as a video without actions, and as a robomimic file with the states."""
    h5py = pytest.importorskip("h5py")
    frames, states = franka()
    with h5py.File(tmp_path / "franka.hdf5", "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps(
            {"env_name": "franka", "env_kwargs": {"control_freq": 4}}
        )
        demo = file["data"].create_group("demo_0")
        demo["actions"] = np.diff(states, axis=0, append=states[-1:])
        demo["obs/exterior_image"], demo["obs/state"] = frames, states
        demo.attrs["num_samples"] = 2
    dataset = open_dataset(tmp_path / "franka.hdf5")
    np.testing.assert_array_equal(dataset.frames(0)[:, 0], frames)
    lam = small_lam("exterior_image", "1")
    labelled = with_labels(dataset, annotate(dataset, {"latent": lam}, tmp_path / "labels"))
    rows = labelled.columns(0, ["latent.codes", "latent.valid"])
    expected = lam.encode(torch.from_numpy(np.stack([lam.resize(frames)])[:, :, None])).codes
    np.testing.assert_array_equal(rows["latent.codes"][:1], expected)
    np.testing.assert_array_equal(rows["latent.valid"], [True, False])
