"""Training from cached features equals training from frames, and the cache is whole and shared."""

import errno
import json
import os
import resource
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import lattok
from lattok.data import open_dataset
from lattok.data.views import with_cameras
from lattok.image_lam.base.feature_cache import FeatureFile, FeatureReader, _names, features_key, open_features
from lattok.image_lam.base.features import FrozenFeatures
from lattok.recipes import ImageLAMRecipe
from lattok.recipes.pairs import PairOptions
from lattok.samples.frames import FrameReader
from lattok.utils.files import lock, sweep
from tests.conftest import write_dataset
from tests.errors import refused
from tests.image_lam.backbones import SMALL, local_timm
from tests.process_jobs import forked, together
from tests.recipes.policies import TRAIN_LAM

LAM = {name: value for name, value in TRAIN_LAM.items() if name != "features"} | {"steps": 5, "log_every": 1}
VIT = "vit_tiny_patch16_224"


@pytest.fixture
def dataset(make_dataset):
    return make_dataset([12, 15, 11, 14])


@pytest.fixture(params=["pixels", "timm"])
def features(request, tmp_path) -> str:
    return "pixels" if request.param == "pixels" else local_timm(tmp_path / "vit", VIT, patch_size=8, **SMALL)


def trained(dataset, out: Path, preset: str = "tiny+robust+flow", **options) -> tuple[str, list[str]]:
    """Hash of the weights and the logged losses of a few steps."""
    model = lattok.train(ImageLAMRecipe.from_preset(dataset and dataset.root, out, preset, **{**LAM, **options}))
    lines = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    return model.describe()["weights_sha256"], [
        {name: value for name, value in line.items() if "loss" in name} for line in lines
    ]


def kept(folder: Path) -> dict[str, int]:
    """Files of features and their sizes."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*.npy")}


def leftovers(folder: Path) -> list[str]:
    """Files that are no features."""
    return [path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".npy"]


def frozen_pixels() -> FrozenFeatures:
    return FrozenFeatures("pixels", 32)


def cached(dataset, folder: Path, frozen: FrozenFeatures | None = None, **options) -> torch.Tensor:
    """Features [F, V*N, D] of all frames of the dataset."""
    frames = FrameReader(dataset, dataset.episodes, dataset.cameras)
    found = open_features(folder, frozen or frozen_pixels(), frames, **options)
    found.compute()
    return found(np.arange(sum(e.length for e in dataset.episodes)))


@pytest.mark.parametrize("preset", ["tiny+robust", "tiny+robust+flow", "tiny+p2t"])
def test_training_is_the_same_without_a_cache_cold_and_warm(dataset, tmp_path, features, preset, monkeypatch):
    cache = tmp_path / "cache"
    options = {"features": features, "extra_strides": ["4"]}
    without = trained(dataset, tmp_path / "without", preset, **options)
    cold = trained(dataset, tmp_path / "cold", preset, **options, feature_cache=str(cache))
    files = kept(cache)
    assert len(files) == (2 if "p2t" in preset else 4)  # one or two cameras, two of four episodes are for training
    with monkeypatch.context() as patch:
        patch.setattr(FrozenFeatures, "forward", None)  # nothing is computed any more
        if "flow" not in preset:
            patch.setattr("lattok.data.formats.lerobot.LeRobotV3.frames", None)  # nor decoded
        warm = trained(dataset, tmp_path / "warm", preset, **options, feature_cache=str(cache))
    assert len(without[1]) == 5
    assert without == cold == warm
    assert kept(cache) == files


def test_half_precision_takes_half_the_room_and_is_close(dataset, tmp_path, features):
    frozen = FrozenFeatures(features, 32).load()
    whole, half = (cached(dataset, tmp_path / dtype, frozen, dtype=dtype) for dtype in ("float32", "float16"))
    assert (whole.dtype, half.dtype) == (torch.float32, torch.float16)
    assert (whole - half.float()).abs().max() <= 2**-11 * whole.abs().max()
    files = [[np.load(tmp_path / dtype / name) for name in kept(tmp_path / dtype)] for dtype in ("float32", "float16")]
    assert [sum(each.nbytes for each in every) for every in files] == [whole.numel() * 4, whole.numel() * 2]


def test_training_in_half_precision_is_close(dataset, tmp_path, features):
    options = {"features": features, "feature_cache": str(tmp_path / "cache")}
    whole, half = (
        trained(dataset, tmp_path / dtype, "tiny+robust", feature_cache_dtype=dtype, **options)[1]
        for dtype in ("float32", "float16")
    )
    assert whole[0] != half[0]
    for name, value in whole[0].items():
        assert half[0][name] == pytest.approx(value, rel=2e-2), name


def test_rows_of_several_episodes_in_any_order(dataset, tmp_path):
    frozen = frozen_pixels()
    found = open_features(tmp_path / "cache", frozen, FrameReader(dataset, dataset.episodes, dataset.cameras))
    found.compute()
    frames = np.concatenate([dataset.frames(e.index) for e in dataset.episodes])
    rows = np.array([[51, 0], [12, 11], [27, 26], [0, 51]])
    expected = frozen(torch.from_numpy(frames[rows].reshape(-1, 32, 32, 3))).reshape(4, 2, -1, frozen.dim)
    assert torch.equal(found(rows), expected)


FILL = """
import sys, numpy as np
from pathlib import Path
from lattok.data import open_dataset
from lattok.image_lam.base.feature_cache import open_features
from lattok.image_lam.base.features import FrozenFeatures
from lattok.samples.frames import FrameReader
dataset = open_dataset(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
frames = FrameReader(dataset, dataset.episodes, dataset.cameras)
found = open_features(Path(sys.argv[2]), FrozenFeatures("pixels", 32), frames)
found.compute()
print(found(np.arange(sum(e.length for e in dataset.episodes))).double().sum().item())
"""


def test_two_threads_fill_one_cache(dataset, tmp_path):
    frozen, together = frozen_pixels(), threading.Barrier(2)

    def fill(_: int) -> torch.Tensor:
        together.wait()
        return cached(dataset, tmp_path / "cache", frozen)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(fill, range(2)))
    assert torch.equal(*found)
    assert torch.equal(found[0], cached(dataset, tmp_path / "alone"))
    assert kept(tmp_path / "cache") == kept(tmp_path / "alone")
    assert leftovers(tmp_path / "cache") == []


@pytest.mark.slow
def test_two_processes_fill_one_cache(dataset, tmp_path):
    command = [sys.executable, "-c", FILL]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([*command, str(dataset.root), str(tmp_path / "cache")], **pipes) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    outputs = [process.communicate("go\n", timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1] == f"{cached(dataset, tmp_path / 'alone').double().sum().item()}\n"
    assert kept(tmp_path / "cache") == kept(tmp_path / "alone")
    assert leftovers(tmp_path / "cache") == []


def test_long_episodes_are_computed_piece_by_piece(dataset, tmp_path, monkeypatch):
    whole, seen = cached(dataset, tmp_path / "whole"), []
    monkeypatch.setattr("lattok.image_lam.base.feature_cache.BLOCK", 2)
    monkeypatch.setattr("lattok.image_lam.base.feature_cache.PIECE", 4)
    real = FrozenFeatures.forward
    monkeypatch.setattr(FrozenFeatures, "forward", lambda self, frames: seen.append(len(frames)) or real(self, frames))
    assert torch.equal(cached(dataset, tmp_path / "pieces"), whole)
    assert max(seen) == 2
    assert sum(seen) == 104
    for path in (tmp_path / "pieces").rglob("*.npy"):
        path.with_suffix(".lock").write_bytes(b"")  # as if somebody wrote it when frames were to be prepared
        path.unlink()
    assert torch.equal(cached(dataset, tmp_path / "pieces"), whole)
    assert kept(tmp_path / "pieces") == kept(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "type", "other", "header"])
def test_damaged_files_are_made_again(dataset, tmp_path, damage):
    whole = cached(dataset, tmp_path)
    path = tmp_path / min(kept(tmp_path))
    content = path.read_bytes()
    changed = {
        "cut": content[:-1],
        "longer": content + b"0",
        "empty": b"",
        "type": content.replace(b"<f4", b"<i4"),
        "other": b"PK\x03\x04" + content,
        "header": content.replace(b"(", b"[", 1),
    }[damage]
    path.write_bytes(changed)
    assert torch.equal(cached(dataset, tmp_path), whole)
    assert path.read_bytes() == content


def test_other_features_data_and_episodes_have_other_files(make_dataset, tmp_path):
    dataset, cache = make_dataset([6, 7]), tmp_path / "cache"
    cached(dataset, cache)
    before = set(kept(cache))
    assert len(before) == 4
    for frozen in (FrozenFeatures("pixels", 16), FrozenFeatures("pixels", 32, mean=(0.5, 0.5, 0.5))):
        cached(dataset, cache, frozen)
    assert len(kept(cache)) == 12
    path = dataset.video_span(0, dataset.cameras[0])[0]
    os.utime(path, (1, 1))  # as a file that was replaced
    cached(open_dataset(dataset.root), cache)
    assert len(kept(cache)) == 16


def test_cameras_are_known_by_what_they_are_not_by_their_names(dataset, tmp_path):
    whole = cached(dataset, tmp_path)
    files = kept(tmp_path)
    turned = with_cameras(dataset, {"front": "wrist", "wrist": "front"})
    assert turned.cameras == dataset.cameras
    again = with_cameras(turned, {"a": "front", "b": "wrist"})
    for view in (turned, again):
        assert torch.equal(cached(view, tmp_path), torch.cat([whole[:, 4:], whole[:, :4]], 1))
    assert kept(tmp_path) == files


@pytest.mark.parametrize("name", ["x/../../../../mine", "..", "a/b", "a" * 300, "a\0b"])
def test_no_name_of_a_camera_leads_out_of_the_cache(dataset, tmp_path, monkeypatch, name):
    """Formats differ in what a camera may be called; two cameras have two places."""
    monkeypatch.setattr(dataset, "original_camera", lambda key: f"{name}{key}")
    cache = tmp_path / "deep" / "a" / "b" / "cache"
    cached(dataset, cache)
    assert len(kept(cache)) == len(kept(tmp_path)) == 8
    assert {len(Path(path).parts) for path in kept(cache)} == {4}


def test_another_rate_is_another_dataset(dataset, tmp_path):
    cached(dataset, tmp_path)
    dataset.fps = 5.0  # of a folder of videos, that chooses other frames
    names = _names([(0, dataset.cameras[0])], dataset, features_key(frozen_pixels(), "float32"))
    assert not set(names.values()) & set(kept(tmp_path))


def test_a_mixture_trains_the_same_and_needs_features_of_all(dataset, tmp_path, monkeypatch):
    other = open_dataset(write_dataset(tmp_path / "other", [9, 12, 5, 6, 5, 7], video_codec="h264"))
    options = {"features": "pixels", "preset": "tiny+robust"}
    options["mix"] = (f"{dataset.root}:1.0", f"{other.root}:0.5")
    without = trained(None, tmp_path / "without", **options)
    for name in ("cold", "warm"):
        assert trained(None, tmp_path / name, **options, feature_cache=str(tmp_path / "cache")) == without
    for path in (tmp_path / "cache").rglob("*.npy"):
        if "000001" in path.name:  # only the second dataset trains on its second episode
            path.unlink()
    monkeypatch.setattr("lattok.image_lam.base.feature_cache.whole_file", failing(errno.ENOSPC))
    with pytest.warns(UserWarning, match="^no feature cache"):
        assert trained(None, tmp_path / "full", **options, feature_cache=str(tmp_path / "cache")) == without


def test_the_key_knows_the_weights(tmp_path):
    keys = set()
    for seed in range(2):
        frozen = FrozenFeatures(local_timm(tmp_path / "vit", VIT, patch_size=8, **SMALL), 32).load()
        with torch.no_grad():
            next(frozen.parameters()).add_(seed)
        keys |= {features_key(frozen, dtype) for dtype in ("float32", "float16")}
    assert len(keys) == 4


def test_a_disk_that_is_too_small_says_so_before_anything_is_computed(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    text = r"0\.00128 GB of features do not fit into the 0\.001 GB that are free; feature_cache_dtype=float16 halves"
    with pytest.raises(OSError, match=text):
        cached(dataset, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert cached(dataset, tmp_path / "cache", dtype="float16").shape == (52, 8, 768)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert cached(dataset, tmp_path / "cache", dtype="float16").shape == (52, 8, 768)  # all there
    refused("`feature_cache_dtype`: expected one of float32, float16, got", PairOptions, feature_cache_dtype="bfloat16")


def failing(code: int):
    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("preset", ["tiny+robust", "tiny+robust+flow"])
def test_a_full_disk_is_a_warning_and_training_goes_on(dataset, tmp_path, preset, monkeypatch):
    without = trained(dataset, tmp_path / "without", preset, features="pixels")
    monkeypatch.setattr("lattok.image_lam.base.feature_cache.whole_file", failing(errno.ENOSPC))
    with pytest.warns(UserWarning, match=r"^no feature cache in .*cache: No space left on device\. Features are comp"):
        full = trained(dataset, tmp_path / "full", preset, features="pixels", feature_cache=str(tmp_path / "cache"))
    assert full == without
    assert kept(tmp_path / "cache") == {}
    assert leftovers(tmp_path / "cache") == []


def test_a_read_only_folder_serves_what_it_holds(dataset, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    whole = cached(dataset, cache)
    monkeypatch.setattr("lattok.image_lam.base.feature_cache.whole_file", failing(errno.EROFS))
    monkeypatch.setattr(Path, "mkdir", failing(errno.EROFS))
    assert torch.equal(cached(dataset, cache), whole)
    (cache / min(kept(cache))).unlink()
    with pytest.raises(OSError, match="Read-only file system"):
        cached(dataset, cache)


def numbers(value: float) -> np.ndarray:
    return np.full((5, 4, 3), value, dtype=np.float32)


@pytest.fixture
def place(tmp_path) -> FeatureFile:
    return FeatureFile(tmp_path / "0" / "7.npy", (5, 4, 3), "float32")


def test_what_a_killed_writer_left_is_taken_over(dataset, tmp_path):
    whole = cached(dataset, tmp_path)
    path = tmp_path / min(kept(tmp_path))
    path.with_suffix(".lock").write_bytes(b"")
    path.with_name(f".{'0' * 16}.lattok-tmp").write_bytes(b"half" * 5000)
    content = path.read_bytes()
    path.unlink()
    sweep(path.parent)  # as the next process does
    assert torch.equal(cached(dataset, tmp_path), whole)
    assert path.read_bytes() == content
    assert leftovers(path.parent) == []


def test_no_header_is_parsed_to_see_that_a_file_is_whole(place, monkeypatch):
    """Numpy parses it as Python, which raises a SystemError at times where several threads of Python 3.11 do."""
    place.write([numbers(7)])
    np.testing.assert_array_equal(np.load(place.path), numbers(7))
    monkeypatch.setattr("ast.parse", None)
    assert place.whole()
    content = place.path.read_bytes()
    for other in (content[:-1], content + b"0", content.replace(b"<f4", b"<i4"), content[:9], b""):
        place.path.write_bytes(other)
        assert not place.whole()


def test_a_file_is_there_when_all_of_it_is(place):
    def parts(last: int) -> Iterator[np.ndarray]:
        yield numbers(7)[:3]
        assert not place.whole()
        yield numbers(7)[3:] / (1 // last)

    with pytest.raises(ZeroDivisionError):
        place.write(parts(0))
    assert list(place.path.parent.iterdir()) == []
    place.write(parts(1))
    read = np.zeros((2, 4, 3), dtype=np.float32)
    place.read([(4, read[0]), (0, read[1])])
    np.testing.assert_array_equal(read, numbers(7)[[4, 0]])
    assert [path.name for path in place.path.parent.iterdir()] == ["7.npy"]
    with pytest.raises(RuntimeError, match=r"expected \(5, 4, 3\) numbers"):
        place.write([numbers(7)[:2]])
    place.path.unlink()
    refused(r"cannot read features from .*7.npy \(No such file .*resume the run", place.read, [(0, read[0])])


def _few_files(folder: Path) -> None:
    most = max(map(int, os.listdir("/proc/self/fd"))) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    takes = [(i, "front") for i in range(2 * most)]
    places = {take: FeatureFile(folder / f"{take[0]}.npy", (3, 2, 2), "float32") for take in takes}
    for take, place in places.items():
        place.write([np.full((3, 2, 2), take[0], np.float32)])
    episodes = [SimpleNamespace(index=take[0], length=3) for take in takes]
    frames = SimpleNamespace(dataset=None, episodes=episodes, cameras=("front",))
    found = FeatureReader(SimpleNamespace(count=2, dim=2), frames, places)(np.arange(6 * most))
    assert (found.numpy() == np.arange(6 * most).reshape(-1, 1, 1) // 3).all()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="open files are counted in /proc")
def test_more_files_than_a_process_may_open(tmp_path):
    """Under a limit on open files, features of twice as many takes are kept and read."""
    with forked(_few_files, tmp_path) as process:
        process.join()
        assert process.exitcode == 0


def test_who_is_at_work_is_waited_for(dataset, tmp_path, monkeypatch):
    """An episode that another process computes comes last, and is not computed twice."""
    whole = cached(dataset, tmp_path)
    path = tmp_path / min(kept(tmp_path))
    content, computed = path.read_bytes(), []
    path.unlink()
    other = path.with_suffix(".lock").open("ab")
    assert lock(other, wait=False)

    def finish(_: float) -> None:
        path.write_bytes(content)
        path.with_suffix(".lock").unlink()
        other.close()

    monkeypatch.setattr("lattok.image_lam.base.feature_cache.time.sleep", finish)
    monkeypatch.setattr(FrozenFeatures, "forward", lambda self, frames: computed.append(len(frames)))
    assert torch.equal(cached(dataset, tmp_path), whole)
    assert computed == []


def _one_fails(rank, root, out):
    options = {**LAM, "features": "pixels", "feature_cache": str(out / "cache"), "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if rank:
            patch.setattr("lattok.image_lam.base.feature_cache.whole_file", failing(errno.ENOSPC))
            patch.setattr(FeatureFile, "whole", lambda _: False)  # the other process does not help it
        model = lattok.train(ImageLAMRecipe.from_preset(root, out / "run", "tiny+robust", **options))
    warned = any("no feature cache" in str(each.message) for each in said)
    torch.save((warned, model.describe()["weights_sha256"]), out / f"{rank}.pt")


def test_a_cache_that_fails_in_one_process_is_none_for_all(dataset, tmp_path):
    together(_one_fails, dataset.root, tmp_path)
    (first, weights), (second, same) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert (first, second) == (False, True)
    assert weights == same
