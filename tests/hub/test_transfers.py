"""Whole transfers in every release of huggingface_hub that is allowed: redirects, pauses, what breaks off, bytes."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants

import lattok
from lattok.action_vq import UniformBins
from lattok.data import open_dataset
from lattok.labels import push_dataset
from lattok.utils.checks import LattokError
from tests.conftest import CAMERAS, write_dataset
from tests.errors import refused
from tests.hub.server import PAUSE_S, READER, REPO, WRITER, LocalHub, serving

# the client itself, where it sends large files to LFS
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
MODEL = UniformBins.fit(torch.randn(40, 4, 3, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("transfers")
    source = write_dataset(folder / "arm", (6, 9), data_file_mb=1e-6, video_file_mb=1e-6)
    return Path(lattok.annotate(source, MODEL, folder / "annotated"))


@pytest.fixture(params=["models", "datasets"])
def hub(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """An empty repository of one kind, of a Hub that redirects."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    (tmp_path / "remote").mkdir()
    with serving(tmp_path / "remote", tmp_path / "cache", monkeypatch, request.param) as served:
        served.redirects = served.guarded = True
        yield served


@pytest.fixture
def folder(hub: LocalHub, annotated: Path, tmp_path: Path) -> Path:
    """What is pushed."""
    if hub.kind == "models":
        return MODEL.save_pretrained(tmp_path / "mine")
    return shutil.copytree(annotated, tmp_path / "mine")


@pytest.fixture
def waited(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that anybody has waited."""
    found: list[float] = []
    monkeypatch.setattr("time.sleep", found.append)
    return found


def push(hub: LocalHub, folder: Path) -> None:
    send = lattok.load(folder).push_to_hub if hub.kind == "models" else lambda *a, **o: push_dataset(folder, *a, **o)
    send(REPO, token=WRITER)


def fetch(hub: LocalHub, folder: Path) -> None:
    """Fetch all that is there and compare it with what was pushed."""
    if hub.kind == "models":
        loaded = lattok.load(REPO, token=READER)
        assert loaded.describe()["weights_sha256"] == lattok.load(folder).describe()["weights_sha256"]
        return
    theirs, ours = open_dataset(REPO, token=READER), open_dataset(folder)
    for index in (0, 1):
        np.testing.assert_array_equal(theirs.frames(index), ours.frames(index))
        keys = [key for key in ours.features if key not in CAMERAS]
        for key, values in theirs.columns(index, keys).items():
            np.testing.assert_array_equal(values, ours.columns(index, [key])[key])


def same_bytes(hub: LocalHub, folder: Path) -> None:
    """All that the Hub has are files of the folder, byte by byte; cards have lines of their repository."""
    there = {name: data for name, data in hub.files().items() if name != "README.md"}
    assert {"config.json", "meta/info.json"} & there.keys()
    assert there == {name: (folder / name).read_bytes() for name in there}


def test_what_is_pushed_comes_back_through_redirects(hub: LocalHub, folder: Path):
    push(hub, folder)
    same_bytes(hub, folder)
    fetch(hub, folder)
    if hub.kind == "datasets":
        whole = open_dataset(REPO, force_download=True)
        assert {"data", "meta", "videos"} <= {path.name for path in whole.root.iterdir()}
        for name, data in hub.files().items():
            assert (whole.root / name).read_bytes() == data


def test_pauses_are_made_as_the_hub_asks(hub: LocalHub, folder: Path, waited: list[float]):
    for act in (push, fetch):
        for busy in (1, 2):
            waited.clear()
            hub.busy = busy
            shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
            act(hub, folder)
            assert hub.busy == 0
            assert sum(waited) >= busy * PAUSE_S
    same_bytes(hub, folder)


def test_a_hub_that_is_always_busy_is_one_line(
    hub: LocalHub, folder: Path, waited: list[float], monkeypatch: pytest.MonkeyPatch
):
    push(hub, folder)
    monkeypatch.setattr("lattok.hub.client.PATIENCE_S", 60)
    hub.busy = 10**6
    refused("the Hub was asked too often .429.. Wait five minutes.", fetch, hub, folder)
    assert PAUSE_S < sum(waited) < 2000  # with the pauses that newer clients make


def test_a_push_that_breaks_off_is_done_again(hub: LocalHub, folder: Path, waited: list[float]):
    before = dict(hub.files())
    hub.faults["PUT"] = ["cut"] * 99
    refused("could not be pushed", push, hub, folder)
    assert hub.files() == before
    hub.faults["PUT"] = ["cut"]
    with suppress(LattokError):  # newer clients go on by themselves
        push(hub, folder)
    hub.faults.clear()
    push(hub, folder)
    same_bytes(hub, folder)


def test_a_download_that_breaks_off_goes_on_where_it_stopped(
    hub: LocalHub, folder: Path, waited: list[float], monkeypatch: pytest.MonkeyPatch
):
    push(hub, folder)
    monkeypatch.setattr("lattok.hub.fetching.AGAIN_S", 0.0)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1)  # what is lost when it breaks off
    name = next(name for name in hub.files() if name.endswith((".safetensors", ".mp4")))
    hub.faults[name] = ["cut"]
    with suppress(LattokError):
        fetch(hub, folder)
    fetch(hub, folder)
    assert hub.fetched()[name] == len(hub.files()[name])  # no byte twice
