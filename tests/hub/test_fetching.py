"""Datasets on the Hub, file by file: the real client against a Hub on this machine."""

import os
import pickle
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

import lattok
from lattok.action_vq import UniformBins
from lattok.data import RobotDataset, inspect_dataset, open_dataset, select_episodes
from lattok.data.content import content_of, dataset_fingerprint, digests
from lattok.hub.fetching import HubFiles, _quiet
from lattok.utils.parallel import Prefetcher, Request
from tests.conftest import CAMERAS, write_dataset
from tests.data.rlds_sample import write_rlds
from tests.errors import refused
from tests.hub.server import REPO, WRITER, LocalHub, forget, serving, use

LENGTHS = (6, 9, 7, 8)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Four episodes, each with a data file and two videos of its own."""
    return write_dataset(tmp_path_factory.mktemp("hub") / "arm", LENGTHS, data_file_mb=1e-6, video_file_mb=1e-6)


@pytest.fixture
def hub(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A Hub that has the dataset, and a client with an empty cache."""
    folder = tmp_path / "remote"
    shutil.copytree(source, folder)
    (folder / "README.md").write_text("# Arm\n")
    with serving(folder, tmp_path / "cache", monkeypatch) as served:
        yield served


def files_of(dataset: RobotDataset, *episodes: int) -> list[str]:
    return sorted({p.relative_to(dataset.root).as_posix() for i in episodes for p in dataset.files_of(i)})


def size_of(source: Path, *names: str) -> int:
    return sum((source / name).stat().st_size for name in names)


def kept(cache: Path) -> list[Path]:
    """Files that the cache with a bound has."""
    return [path for path in (cache / "lattok-bounded").rglob("*.*") if path.is_symlink() and path.exists()]


def test_opening_fetches_meta_and_reading_an_episode_its_files_once(hub: LocalHub, source: Path):
    dataset, local = open_dataset(REPO), open_dataset(source)
    assert (dataset.name, dataset.tasks, list(dataset.episodes)) == (REPO, local.tasks, list(local.episodes))
    chosen, names = select_episodes(dataset, "2"), files_of(dataset, 2)
    assert {name.split("/")[0] for name in hub.fetched()} == {"meta"}
    assert len(names) == 3
    frames = dataset.frames(chosen[0].index)
    assert hub.fetched() == {name: size_of(source, name) for name in names}
    np.testing.assert_array_equal(frames, local.frames(2))
    np.testing.assert_array_equal(dataset.columns(2, ["action"])["action"], local.columns(2, ["action"])["action"])
    dataset.frames(2, indices=[0, 3])
    again = open_dataset(REPO)
    np.testing.assert_array_equal(again.frames(2), frames)
    assert hub.fetched() == {}
    columns = again.columns(0, ["action"])  # needs no video
    assert list(hub.fetched()) == files_of(dataset, 0)[:1]
    np.testing.assert_array_equal(columns["action"], local.columns(0, ["action"])["action"])


def test_one_camera_needs_one_video_under_any_name(hub: LocalHub):
    view = open_dataset(REPO, cameras={"eye": CAMERAS[1]})
    view.frames(1)
    fetched = sorted(name for name in hub.fetched() if not name.startswith("meta/"))
    assert fetched == [name for name in files_of(view, 1) if CAMERAS[0] not in name]


def test_threads_fetch_a_file_once(hub: LocalHub, source: Path):
    hub.delay = 0.05
    dataset = open_dataset(REPO)
    hub.fetched()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(dataset.frames, [0, 0, 0, 3, 3, 1, 1, 0]))
    assert hub.fetched() == {name: size_of(source, name) for name in files_of(dataset, 0, 1, 3)}
    local = open_dataset(source)
    for index, frames in zip([0, 0, 0, 3, 3, 1, 1, 0], found, strict=True):
        np.testing.assert_array_equal(frames, local.frames(index))


def test_all_files_are_of_the_commit_that_was_opened(hub: LocalHub, source: Path):
    dataset, first = open_dataset(REPO), hub.head
    name = files_of(dataset, 0)[0]
    shutil.copy(hub.folder / files_of(dataset, 1)[0], hub.folder / name)  # main goes on
    assert hub.commit() != first
    np.testing.assert_array_equal(dataset.frames(0), open_dataset(source).frames(0))
    refused("expected 6 rows of episode 0, got 0", lambda: open_dataset(REPO).columns(0, ["action"]))
    assert open_dataset(REPO, revision=first).columns(0, ["action"])


def test_a_dataset_can_be_pickled_and_says_nothing_of_tokens(hub: LocalHub, source: Path):
    dataset = open_dataset(REPO, token=WRITER)
    dataset.columns(0, ["action"])
    assert WRITER not in repr(dataset.files) + repr(dataset)
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy.frames(3), open_dataset(source).frames(3))


def test_content_is_known_without_videos(hub: LocalHub):
    """A run hashes what it reads before it reads it: of videos the Hub knows a hash, fetched or not."""
    dataset = open_dataset(REPO)
    hub.fetched()
    known = content_of(dataset, dataset.episodes, (), CAMERAS)
    assert all(name.startswith("data/") for name in hub.fetched())
    seen = digests(dataset, [1, 2], "videos")
    dataset.frames(1)
    again = open_dataset(REPO)
    assert content_of(again, again.episodes, (), CAMERAS) == known
    assert digests(again, [1, 2], "videos") == seen

    (hub.folder / "README.md").write_text("# The same arm\n")
    hub.commit()
    other = open_dataset(REPO)
    assert dataset_fingerprint(other) != dataset_fingerprint(dataset)
    assert content_of(other, other.episodes, (), CAMERAS) == known
    video = hub.folder / files_of(dataset, 0)[1]
    video.write_bytes(video.read_bytes() + b"\0")
    hub.commit()
    other = open_dataset(REPO)
    changed = content_of(other, other.episodes, (), CAMERAS)
    assert changed.digest != known.digest
    assert changed.actions == known.actions


def test_offline_a_warm_cache_will_do(hub: LocalHub, source: Path, monkeypatch: pytest.MonkeyPatch):
    online = open_dataset(REPO)
    frames, known = online.frames(2), content_of(online, select_episodes(online, "2"), (), CAMERAS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget()
    hub.asked.clear()
    asked: list[dict[str, Any]] = [{}, {"local_files_only": True}, {"cache_gb": 1}, {"revision": hub.head}]
    for options in asked:
        dataset = open_dataset(REPO, **options)
        np.testing.assert_array_equal(dataset.frames(2), frames)
        assert content_of(dataset, select_episodes(dataset, "2"), (), CAMERAS) == known
        refused(r"'data/.*' of 'org/arm' at .* not in the cache, and downloads are", dataset.columns, 0, ["action"])
        refused("switched off", content_of, dataset, dataset.episodes[:1], (), CAMERAS)
        assert digests(dataset, [0], "videos") == []
    assert not hub.asked


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("missing", r"it is not there. See .*/tree/[0-9a-f]{40}; episodes can be left out with `episodes`"),
        ("401", "there is no such repository, or it is private"),
        ("403", "your token does not allow it"),
        ("500", "HTTPError: .*500.*Check the network"),
        ("short", "Consistency check failed.*Check the network"),
        ("full", r"cannot be written .*No space left.*Free space, keep less of a LeRobot dataset with `cache_gb`"),
        ("dead", "the network failed. Check it|Connect(ion)?Error.*Check the network"),
    ],
)
@pytest.mark.parametrize("bound", [None, 1.0])
def test_a_file_that_cannot_be_fetched_is_one_line_and_damage_of_its_episode(
    fault: str, says: str, bound: float | None, hub: LocalHub, source: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lattok.hub.fetching.AGAIN_S", 0.0)
    name = files_of(open_dataset(source), 1)[2]
    if fault == "missing":
        (hub.folder / name).unlink()
        hub.commit()
    dataset = open_dataset(REPO, cache_gb=bound)
    dataset.columns(1, ["action"])
    hub.faults[name] = [] if fault in ("missing", "full", "dead") else [fault] * 9
    with monkeypatch.context() as patch:
        if fault == "full":
            patch.setattr("huggingface_hub.file_download.http_get", no_space)
        if fault == "dead":
            use("http://127.0.0.1:9", Path(constants.HF_HUB_CACHE), patch)
        said = refused(says, dataset.frames, 1, [CAMERAS[1]])
    assert "\n" not in said
    assert name in said
    np.testing.assert_array_equal(dataset.frames(2), open_dataset(source).frames(2))
    hub.faults.clear()
    if fault != "missing":  # and nothing of it stays
        np.testing.assert_array_equal(dataset.frames(1), open_dataset(source).frames(1))


def test_a_file_that_just_failed_is_not_asked_for_again_by_every_episode(hub: LocalHub, monkeypatch):
    dataset = open_dataset(REPO)
    name = files_of(dataset, 1)[1]
    hub.faults[name], left = ["500"] * 99, []
    for _ in range(3):
        refused("HTTPError: .*500", dataset.frames, 1)
        left.append(len(hub.faults[name]))
    assert left[0] == left[1] == left[2] < 99  # some versions of huggingface_hub ask again at once
    hub.faults.clear()
    monkeypatch.setattr("time.time", lambda: 2e9 + 1e9)  # a minute later
    assert dataset.frames(1).shape[0] == LENGTHS[1]


def no_space(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device", "/cache/blobs/x")


def test_an_episode_whose_file_is_not_there_is_left_out_where_that_is_allowed(hub: LocalHub, tmp_path: Path):
    name = files_of(open_dataset(hub.folder), 1)[1]
    (hub.folder / name).unlink()
    hub.commit()
    exported = lattok.export(REPO, tmp_path / "out", skip_damaged=True)
    ((index, reason),) = exported.left_out
    assert (exported.episodes, index) == ((0, 2, 3), 1)
    assert name in reason


@pytest.mark.skipif(not _quiet(), reason="this huggingface_hub takes no progress bars")
def test_who_ends_early_waits_for_no_download(hub: LocalHub, monkeypatch: pytest.MonkeyPatch):
    dataset = open_dataset(REPO)
    name = files_of(dataset, 1)[1]
    hub.faults[name] = ["slow"]
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    with Prefetcher(dataset.frames, [Request((1,), 1)], 1):
        while not hub.sent[name]:
            threading.Event().wait(0.01)
    assert hub.sent[name] < (hub.folder / name).stat().st_size
    assert dataset.frames(1).shape[0] == LENGTHS[1]


def test_a_revision_that_is_not_there(hub: LocalHub):
    refused("it has no revision 'v9'. .*: https://huggingface.co/datasets/org/arm/", open_dataset, REPO, revision="v9")
    refused("'org/leg' could not be fetched: there is no such repository", open_dataset, "org/leg")


def test_a_bound_removes_what_was_not_used_for_longest(hub: LocalHub, source: Path, tmp_path: Path):
    local = open_dataset(source)
    sizes = {i: size_of(source, *files_of(local, i)) for i in range(4)}
    room = sizes[0] + sizes[1] + sizes[2] + 100
    dataset = open_dataset(REPO, cache_gb=room / 1e9)
    for index in (0, 1, 2, 0):
        dataset.frames(index)
    hub.fetched()
    pickle.loads(pickle.dumps(dataset)).frames(3)  # the copy has no file open
    assert len(hub.fetched()) == 3
    assert sum(path.stat().st_size for path in kept(tmp_path / "cache")) <= room
    open_dataset(REPO, cache_gb=room / 1e9).frames(0)
    assert not any("videos" in name for name in hub.fetched())
    np.testing.assert_array_equal(open_dataset(REPO, cache_gb=room / 1e9).frames(1), local.frames(1))
    assert any("videos" in name for name in hub.fetched())
    assert sum(path.stat().st_size for path in kept(tmp_path / "cache")) <= room
    assert not list((tmp_path / "cache" / "lattok-bounded" / "claims").iterdir())


def test_threads_claim_the_room_of_a_file_once(hub: LocalHub, source: Path):
    hub.delay = 0.05
    names = files_of(open_dataset(source), 0)
    dataset = open_dataset(REPO, cache_gb=(size_of(source, *names) + 1) / 1e9)
    hub.fetched()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(dataset.frames, [0] * 8))
    assert hub.fetched() == {name: size_of(source, name) for name in names}


def test_files_that_were_there_before_are_used_and_stay(hub: LocalHub, source: Path, tmp_path: Path):
    whole = huggingface_hub.snapshot_download(REPO, repo_type="dataset")
    before = {path: path.stat().st_mtime_ns for path in Path(whole).rglob("*") if path.is_file()}
    hub.fetched()
    dataset = open_dataset(REPO, cache_gb=1e-9)  # a byte
    for index in range(4):
        dataset.frames(index)
    assert hub.fetched() == {}
    assert kept(tmp_path / "cache") == []
    assert {path: path.stat().st_mtime_ns for path in Path(whole).rglob("*") if path.is_file()} == before


def test_a_file_in_use_is_never_removed(hub: LocalHub, source: Path):
    local = open_dataset(source)
    videos = [max(size_of(source, name) for name in files_of(local, i)) for i in range(4)]
    dataset = open_dataset(REPO, cache_gb=(max(videos) + 1) / 1e9)
    path = dataset.files_of(0)[1]
    with dataset.files.at_hand(path) as place:
        for index in (1, 2, 3):
            dataset.frames(index)
        assert place.read_bytes() == (source / path.relative_to(dataset.root)).read_bytes()
    dataset.frames(1)
    assert not place.exists()


def test_a_file_that_is_larger_than_the_bound(hub: LocalHub):
    dataset = open_dataset(REPO, cache_gb=1e-6)
    refused("`cache_gb`: expected at least .*, the size of .*, got 1e-06. Files are", dataset.frames, 0)


def test_claims_of_killed_processes_and_old_parts_of_files_go(hub: LocalHub, source: Path, tmp_path: Path):
    dataset = open_dataset(REPO, cache_gb=(size_of(source, *files_of(open_dataset(source), 0)) + 100) / 1e9)
    cache = tmp_path / "cache" / "lattok-bounded"
    (cache / "claims" / f"999999999999-{'f' * 64}").touch()
    (other := cache / "claims" / ".nfs000000000001").touch()  # a file system's own
    part = cache / "datasets--org--arm" / "blobs" / f"{'0' * 64}.12345678.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"0" * 10**6)
    os.utime(part, (1e9, 1e9))
    dataset.frames(0)
    assert not part.exists()
    assert list((cache / "claims").iterdir()) == [other]
    hub.fetched()
    dataset.frames(0)
    assert hub.fetched() == {}


READER = """
    import sys
    import numpy as np
    from huggingface_hub import constants
    from lattok.data import open_dataset
    from concurrent.futures import ThreadPoolExecutor
    dataset, local = open_dataset("org/arm", cache_gb=float(sys.argv[1])), open_dataset(sys.argv[2])
    expected = [local.frames(i) for i in range(4)]
    order = np.random.default_rng(int(sys.argv[3])).integers(0, 4, 24).tolist()
    with ThreadPoolExecutor(2) as pool:
        for index, frames in zip(order, pool.map(dataset.frames, order)):
            assert np.array_equal(frames, expected[index])
    print("read", len(order))
"""


@pytest.mark.ci
def test_processes_share_a_cache_that_is_too_small_for_them(hub: LocalHub, source: Path, tmp_path: Path):
    """Each file is whole whenever it is read, and in the end the bound holds."""
    hub.delay = 0.002
    room = size_of(source, *files_of(open_dataset(source), 0, 1))
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", textwrap.dedent(READER), str(room / 1e9), str(source)]
    readers = [
        subprocess.Popen([*command, str(seed)], env=os.environ | settings, stdout=subprocess.PIPE, text=True)
        for seed in (1, 2)
    ]
    assert [(reader.communicate()[0], reader.returncode) for reader in readers] == [("read 24\n", 0)] * 2
    open_dataset(REPO, cache_gb=room / 1e9).frames(0)
    assert sum(path.stat().st_size for path in kept(tmp_path / "cache")) <= room


def test_inspection_looks_at_few_videos(hub: LocalHub, source: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lattok.data.inspection.FILES_FETCHED", 2)
    dataset = open_dataset(REPO)
    hub.fetched()
    found = inspect_dataset(dataset)
    videos = [name for name in hub.fetched() if name.startswith("videos/")]
    assert videos == [name for i in (0, 3) for name in files_of(dataset, i) if name in videos] or len(videos) == 4
    assert "frames from 2 of 4 files" in found.scope
    assert [facts for _, facts in found.cameras] == [facts for _, facts in inspect_dataset(source).cameras]


def test_annotation_fetches_what_it_copies(hub: LocalHub, source: Path, tmp_path: Path):
    actions = np.random.default_rng(0).standard_normal((64, 4, 3)).astype("float32")
    model = UniformBins.fit(actions, bins=8)
    out = lattok.annotate(open_dataset(REPO), model, tmp_path / "out")
    assert set(hub.fetched()) >= set(files_of(open_dataset(source), 0, 1, 2, 3))
    annotated, local = open_dataset(out), lattok.annotate(source, model, tmp_path / "local")
    for index in range(4):
        (codes,) = annotated.columns(index, ["latent.codes"]).values()
        np.testing.assert_array_equal(codes, open_dataset(local).columns(index, ["latent.codes"])["latent.codes"])
        np.testing.assert_array_equal(annotated.frames(index), open_dataset(source).frames(index))


def test_other_formats_and_forced_downloads_come_whole(hub: LocalHub, tmp_path: Path):
    assert open_dataset(REPO, force_download=True).files.commit is None
    names = {path.relative_to(hub.folder).as_posix() for path in hub.folder.rglob("*") if path.is_file()}
    assert hub.fetched().keys() == names
    shutil.rmtree(hub.folder)
    write_rlds(hub.folder / "toy", [3])
    hub.commit()
    dataset = open_dataset(REPO, fps=5)
    assert (dataset.kind, dataset.files.commit) == ("rlds", None)
    assert len(hub.fetched()) == sum(path.is_file() for path in hub.folder.rglob("*"))


def test_a_folder_of_a_repository_and_a_description(hub: LocalHub, source: Path, tmp_path: Path):
    shutil.copytree(source, hub.folder / "deep" / "arm")
    hub.commit()
    dataset = open_dataset(REPO, subfolder="deep/arm")
    assert dataset_fingerprint(dataset) != dataset_fingerprint(open_dataset(REPO))
    hub.fetched()
    np.testing.assert_array_equal(dataset.frames(1), open_dataset(source).frames(1))
    assert all(name.startswith("deep/arm/") for name in hub.fetched())
    described = tmp_path / "arm.json"
    described.write_text('{"dataset": "org/arm", "cache_gb": 1, "name": "mine"}')
    dataset = open_dataset(described)
    dataset.frames(1)
    assert (dataset.name, len(kept(tmp_path / "cache"))) == ("mine", 3)
    for wrong in (0, "much"):
        refused("`cache_gb`: expected a number greater than 0, got", open_dataset, REPO, cache_gb=wrong)
    assert open_dataset(source, cache_gb=1).files.commit is None  # means nothing for a folder


def test_a_claim_of_more_rows_than_a_file_on_the_hub_holds(hub: LocalHub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lattok.data.formats.lerobot.MANY_FRAMES", 20)
    dataset = open_dataset(REPO)
    assert isinstance(dataset.files, HubFiles)
    monkeypatch.setattr("lattok.data.tables.ROWS_PER_BYTE", 0)
    hub.fetched()
    refused("expected at most 0 rows in .* bytes, got 6", open_dataset, REPO)
    assert hub.fetched() == {}
