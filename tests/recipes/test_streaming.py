"""Training from streamed frames: exact repetition, resume and sharing; what is chosen is said, and damage is named."""

import threading

import pytest
import torch

import lattok
from lattok.backbones.model import ScratchBackbone
from lattok.data import LeRobotV3
from lattok.image_lam.base.features import FrozenFeatures
from lattok.recipes import ImageLAMRecipe, VLARecipe
from lattok.samples.batches import PairBatches, PolicyBatches
from lattok.utils import files
from lattok.utils.checks import LattokError
from lattok.vla import LatentVLA
from tests.conftest import write_dataset
from tests.errors import refused
from tests.hub.server import REPO, serving
from tests.process_jobs import together
from tests.recipes.policies import SIZES, stopped
from tests.recipes.test_variants import SMALL

pytestmark = pytest.mark.ci

LENGTHS = [25, 31, 28, 40, 22, 36, 30, 27, 33, 29]
# frames take 0.9 MB, or 0.2 at 16 pixels; one of 32 pixels is 3 kB
LITTLE = {"shuffle_window": 96, "memory_gb": 6e-4, "steps": 8, "save_every": 5, "device": "cpu"}
POLICY = {**{key: value for key, value in SIZES.items() if key != "log_every"}, "batch_size": 6, "threads": 1}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", LENGTHS)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    """Eight lanes and short windows, so that a tiny dataset is much larger than they are."""
    for name, value in {"order.LANES": 8, "stream.LANES": 8}.items():
        monkeypatch.setattr(f"lattok.samples.{name}", value)


def lam(dataset, out, **options):
    return ImageLAMRecipe.from_preset(dataset, out, "tiny+robust", **{**SMALL, "episodes": "0:", **LITTLE, **options})


def policy(dataset, out, **options):
    given = {**POLICY, **LITTLE, "memory_gb": 1e-4, "episodes": "0:8", **options}
    return VLARecipe.from_preset(dataset, out, "scratch", cameras=("front",), **given)


def weights(model):
    return model.describe()["weights_sha256"]


ROOM = {"kept": 0.0, "streamed": 6e-4, "again": 2e-4}  # GB


@pytest.mark.parametrize(("window", "whole"), [(0, True), (96, False)])
def test_the_same_model_is_learned_whatever_the_memory(window, whole, dataset, tmp_path, capsys):
    """And the artefact and the run say which window it was; what memory does to it is said while it trains."""
    options = {"shuffle_window": window, "steps": 4, "labelled_per_batch": 2}
    models = [lattok.train(lam(dataset, tmp_path / name, memory_gb=ROOM[name], **options)) for name in ROOM]
    assert len({weights(model) for model in models}) == 1
    given = 8e9 // (32 * 32 * 3) if window == 0 else window
    assert {lattok.load(tmp_path / name).trained_on["shuffle_window"] for name in ROOM} == {given}
    assert files.read_json(tmp_path / "kept/run/recipe.json")["options"]["shuffle_window"] == window
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Frames take 0.925 MB of")]
    slowly = ", slowly: the shuffle window takes 0.925 MB" if whole else ""
    assert [line.split(": ", 1)[1] for line in said] == [
        "kept in memory",
        f"streamed through {'0.6' if whole else '0.295'} MB of it{slowly}",
        f"streamed through 0.2 MB of it{slowly or ', slowly: the shuffle window takes 0.295 MB'}",
    ]


@pytest.mark.parametrize("memory", [float("nan"), float("inf"), -1.0])
def test_memory_that_is_no_amount_is_refused(memory):
    refused(f"`memory_gb`: expected a number of at least 0, got {memory}", lam, "d", "o", memory_gb=memory)


def test_too_small_a_window_or_memory_is_refused(dataset, tmp_path):
    too_small = {"shuffle_window": (20, "64 frames for 8 lanes"), "memory_gb": (5e-5, "0.0002 for images")}
    for name, (value, least) in too_small.items():
        refused(f"`{name}`: expected at least {least}", lattok.train, lam(dataset, tmp_path / name, **{name: value}))
    refused("`shuffle_window`", lam, dataset, tmp_path / "x", shuffle_window=-1)


@pytest.mark.parametrize(("made", "batches"), [(lam, PairBatches), (policy, PolicyBatches)])
def test_a_run_that_goes_on_learns_what_it_would_have_learned(made, batches, dataset, tmp_path):
    whole = lattok.train(made(dataset, tmp_path / "whole"))
    with stopped(batches, 6):
        lattok.train(made(dataset, tmp_path / "parts"))
    elsewhere = made(dataset, tmp_path / "parts", memory_gb=0.0)  # on a machine that keeps all
    assert weights(lattok.train(elsewhere, resume=True)) == weights(whole)
    refused(
        "`shuffle_window`", lambda: lattok.train(made(dataset, tmp_path / "parts", shuffle_window=100), resume=True)
    )


def test_a_mixture_with_known_and_unknown_actions_is_streamed(dataset, tmp_path):
    other = write_dataset(tmp_path / "other", [23, 34, 21, 38])
    mix = (f"{dataset}:1.0", f"{other}:2.0")
    mixed = lattok.train(lam(None, tmp_path / "lam", mix=mix, shuffle_window=400, memory_gb=1.25e-3, steps=3))
    assert len(mixed.trained_on["mixture"]) == 2
    options = {"action_episodes": "0:3", "acted_share": 0.5, "strategy": "la_direct", "steps": 3}
    annotated = lattok.annotate(dataset, mixed, tmp_path / "annotated")
    trained = lattok.train(policy(annotated, tmp_path / "policy", **options))
    assert trained.trained_on["labels"] == {"episodes": "0:3"}
    again = lattok.train(policy(annotated, tmp_path / "kept", **options, memory_gb=0.0))
    assert weights(again) == weights(trained)


def test_images_and_prompts_are_made_ready_ahead_of_the_step(dataset, tmp_path, monkeypatch):
    prepare, threads = ScratchBackbone.prepare, []

    def watched(self, images, texts):
        threads.append(threading.current_thread().name)
        return prepare(self, images, texts)

    monkeypatch.setattr(ScratchBackbone, "prepare", watched)
    policy_ = lattok.train(policy(dataset, tmp_path / "ahead", episodes="0:"))
    assert len(threads) == 8
    assert all(name.startswith("lattok-ahead") for name in threads)
    monkeypatch.setattr(LatentVLA, "prepared", lambda self, batch: batch)
    assert weights(lattok.train(policy(dataset, tmp_path / "in_step", episodes="0:"))) == weights(policy_)


@pytest.fixture
def damaged(monkeypatch):
    """Let episode 3 of every dataset be one that cannot be decoded."""
    read = LeRobotV3.frames

    def torn(self, episode_index, *arguments, **options):
        if episode_index == 3:
            raise LattokError("cannot decode video file-003.mp4")
        return read(self, episode_index, *arguments, **options)

    monkeypatch.setattr(LeRobotV3, "frames", torn)


def test_a_damaged_video_is_left_out_named_and_remembered(dataset, tmp_path, damaged):
    models = []
    for name, memory in ROOM.items():
        with pytest.warns(UserWarning, match=r"episode 3 of tiny is left out: cannot decode video file-003\.mp4"):
            models.append(lattok.train(lam(dataset, tmp_path / name, steps=12, memory_gb=memory)))
        assert lattok.load(tmp_path / name).trained_on["left_out"] == [["tiny", 3]]
    assert len({weights(model) for model in models}) == 1


def _worker(rank, dataset, out):
    for name, memory in {"two": (1e-4, 1e-4), "unlike": (1e-4, 5e-5), "kept": (1.0, 1.0)}.items():
        lattok.train(policy(dataset, out / name, memory_gb=memory[rank]))


def test_two_processes_learn_what_one_does(dataset, tmp_path):
    one = lattok.train(policy(dataset, tmp_path / "one"))
    together(_worker, dataset, tmp_path)
    for name in ("two", "unlike", "kept"):
        two = lattok.load(tmp_path / name)
        for (where, value), other in zip(one.named_parameters(), two.parameters(), strict=True):
            torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-5, msg=f"{name} {where}")
    assert weights(lattok.load(tmp_path / "unlike")) == weights(two) == weights(lattok.load(tmp_path / "two"))


def test_training_from_the_hub_fetches_files_when_they_are_needed(tmp_path, monkeypatch, recwarn):
    """Into a cache that holds a part of them at a time, or into the client's; what is not there is left out."""
    remote, described = write_dataset(tmp_path / "remote", LENGTHS, video_file_mb=1e-6, data_file_mb=1e-6), []
    videos = sorted(path.relative_to(remote).as_posix() for path in (remote / "videos").rglob("*.mp4"))
    (remote / videos[3]).unlink()
    size = sum(path.stat().st_size for path in remote.rglob("*.*"))
    for bound in (None, size / 2e9):
        described.append(tmp_path / f"{bound}.json")
        files.write_json(described[-1], {"dataset": REPO, "cache_gb": bound})
    with serving(remote, tmp_path / "cache", monkeypatch) as hub:
        models = []
        for number, path in enumerate(reversed(described)):  # first the bound, as what the other fetches stays
            models.append(lattok.train(lam(path, tmp_path / str(number))))
            sent = hub.fetched()
            assert {name for name in sent if name.startswith("videos/")} <= set(videos)
            if number:
                assert all(sent[name] == (remote / name).stat().st_size for name in sent)
    assert weights(models[0]) == weights(models[1])
    assert models[0].trained_on["left_out"] == models[1].trained_on["left_out"] == [[REPO, 3]]
    assert any(videos[3] in str(warning.message) for warning in recwarn)
    kept = [
        path for path in (tmp_path / "cache" / "lattok-bounded").rglob("*.*") if path.is_file() and path.is_symlink()
    ]
    assert 0 < sum(path.stat().st_size for path in kept) <= size / 2


@pytest.mark.parametrize("labelled", [0, 2])
def test_features_are_computed_and_kept_while_streaming(dataset, tmp_path, monkeypatch, labelled):
    """Before the first step nothing is computed; the weights are those of a run that streams frames in that order."""
    options = {"steps": 30, "labelled_per_batch": labelled, "memory_gb": 2e-3}
    cache = str(tmp_path / "cache")
    kept = lattok.train(lam(dataset, tmp_path / "kept", feature_cache=cache, **options))
    frames = lattok.train(lam(dataset, tmp_path / "frames", **options | {"memory_gb": 4e-4}))
    assert weights(frames) == weights(kept)
    monkeypatch.setattr(FrozenFeatures, "forward", None)  # a second run reads them
    assert weights(lattok.train(lam(dataset, tmp_path / "again", feature_cache=cache, **options))) == weights(kept)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == len(LENGTHS)
    assert not list((tmp_path / "cache").rglob("*.lock"))


def test_features_of_a_damaged_episode_are_left_out(dataset, tmp_path, damaged):
    """Whether they fit into memory or not: the same model is learned."""
    found, options = [], {"feature_cache": str(tmp_path / "cache"), "steps": 12}
    for memory in (2e-3, 1.0):
        with pytest.warns(UserWarning, match=r"episode 3 of tiny is left out: cannot decode video file-003\.mp4"):
            found.append(lattok.train(lam(dataset, tmp_path / f"{memory}", memory_gb=memory, **options)))
        assert found[-1].trained_on["left_out"] == [["tiny", 3]]
    assert weights(found[0]) == weights(found[1])


@pytest.mark.parametrize("memory", [6e-4, 1.0])
def test_frames_and_features_of_a_damaged_episode_are_left_out(dataset, tmp_path, damaged, recwarn, memory):
    """A loss that looks at frames too trains as without a cache, which cannot hold every episode."""
    options, found = {"loss_flow": 0.1, "steps": 3, "memory_gb": memory}, []
    for name, cache in (("with", {"feature_cache": str(tmp_path / "cache")}), ("without", {})):
        found.append(lattok.train(lam(dataset, tmp_path / name, **options, **cache)))
        assert found[-1].trained_on["left_out"] == [["tiny", 3]]
    assert any(str(warning.message).startswith("no feature cache in") for warning in recwarn)
    assert weights(found[0]) == weights(found[1])
