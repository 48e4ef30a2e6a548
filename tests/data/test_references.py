"""Videos that lead to others: nothing outside of a dataset is opened, whatever FFmpeg would follow."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lattok.cli import main
from lattok.data import export, inspect_dataset, open_dataset
from lattok.data.formats.video_folder import VideoFolder
from tests.conftest import write_dataset
from tests.data.edits import edit_info
from tests.data.formats.test_video_folder import write_video
from tests.data.references import (
    SCRIPTS,
    Watched,
    containers,
    followed_by_ffmpeg,
    mov_reference,
    shows_canary,
    ways,
    write_canaries,
)
from tests.errors import refused

REFUSED = "cannot open video .*: by its {} it is no MP4"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder with videos that are nobody's business."""
    folder = tmp_path / "mine"
    folder.mkdir()
    write_canaries(folder)
    return folder


@pytest.fixture
def unread(outside: Path) -> Iterator[Callable[[], None]]:
    """Forget what was opened so far; when the test ends, no file outside has been opened since."""
    watched = [Watched(outside)]
    yield lambda: watched.append(Watched(outside))
    assert watched[-1].opened() == set()


def use(root: Path, said: str) -> None:
    """Do with a dataset what shows its videos; each is refused, and nothing is written."""
    out = root.parent / "out"
    dataset = open_dataset(root)
    refused(said, dataset.frames, 0)
    refused(said, export, dataset, out, video_codec="h264")
    assert not out.exists()
    assert main(["view", str(root), "--out", str(out.with_suffix(".html"))]) == 0
    assert "cannot open video" in out.with_suffix(".html").read_text()
    inspect_dataset(dataset).render()


def with_videos(root: Path, ending: str, content: Callable[[Path], str]) -> Path:
    """A dataset with videos of that ending and content, the last of which comes back."""
    write_dataset(root, [12])
    edit_info(root, video_path="videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}" + ending)
    for video in sorted(root.rglob("*.mp4")):
        video.unlink()
        path = video.with_name(video.stem + ending)
        path.write_text(content(path))
    return path


FOLLOWED = [(kind, way) for kind in ("HLS", "HLS with a map") for way in ("relative", "absolute", "file")]


@pytest.mark.parametrize(("kind", "way"), [*FOLLOWED, *((kind, "relative") for kind in SCRIPTS if "HLS" not in kind)])
def test_playlists_and_scripts_are_no_videos(tmp_path, outside, unread, kind, way):
    """Frames of a playlist's files used to come, and to be exported."""
    ending, text = SCRIPTS[kind]
    path = with_videos(tmp_path / "d", ending, lambda path: text.format(ways(path, outside / "canary.ts")[way]))
    if (kind, way) in FOLLOWED:
        assert followed_by_ffmpeg(path)
    unread()
    use(tmp_path / "d", REFUSED.format("name"))


@pytest.mark.parametrize("kind", SCRIPTS)
def test_nor_are_they_by_the_name_of_a_video(tmp_path, outside, unread, kind):
    text = SCRIPTS[kind][1]
    with_videos(tmp_path / "d", ".mp4", lambda path: text.format(ways(path, outside / "canary.ts")["relative"]))
    use(tmp_path / "d", REFUSED.format("first bytes"))


@pytest.mark.parametrize("kind", ["concat", "image2"])
def test_links_beside_a_video_lead_nowhere(tmp_path, outside, unread, kind):
    """Links in a script or numbered like the frames of a video are not the files of the dataset that are checked."""
    if kind == "concat":
        path = with_videos(tmp_path / "d", ".mp4", lambda path: "ffconcat version 1.0\nfile l.mp4\n")
        for video in path.parents[2].rglob(path.name):
            (video.parent / "l.mp4").symlink_to(outside / "canary.mp4")
    else:
        path = with_videos(tmp_path / "d", "%d.png", lambda path: "")
        for video in path.parents[2].rglob(path.name):
            for number in range(2):
                Path(str(video) % number).symlink_to(outside / "canary.png")
    assert followed_by_ffmpeg(path)
    unread()
    use(tmp_path / "d", REFUSED.format("first bytes" if kind == "concat" else "name"))


def test_references_of_a_mov_file_are_not_followed(tmp_path, outside, unread):
    path = tmp_path / "d" / "open" / "a.mov"
    path.parent.mkdir(parents=True)
    path.write_bytes(mov_reference(path, outside / "canary.mp4"))
    assert followed_by_ffmpeg(path, enable_drefs="1")
    unread()
    refused(r"a.mov", open_dataset, path.parent.parent)
    write_video(path.with_name("b.mp4"))
    assert [damage.episode_index for damage in open_dataset(path.parent.parent).damaged] == [0]


@pytest.mark.parametrize("kind", ["Matroska", "AVI"])
def test_what_containers_link_to_is_not_shown(tmp_path, outside, unread, kind):
    """The next file of a Matroska series, and subtitles of AVI that are a playlist."""
    path = tmp_path / "d" / "a"
    path.parent.mkdir()
    ending, content = containers(path, outside)[kind]
    path.with_suffix(ending).write_bytes(content())
    unread()
    frames = open_dataset(path.parent).frames(0)
    assert len(frames) >= 10
    assert not shows_canary(frames)


@pytest.mark.parametrize("protocol", ["concat:", "async:", "subfile,,start,0,end,0,,:"])
def test_names_like_protocols_are_names(tmp_path, outside, unread, monkeypatch, protocol):
    """In the current folder a file may be called concat:/home/me/other.mp4, and FFmpeg opens the other one.

    `open_dataset` makes paths absolute; the class of a format takes them as they are.
    """
    name = f"{protocol}{outside / 'canary.mp4'}"
    write_video(tmp_path / "d" / name)
    monkeypatch.chdir(tmp_path / "d")
    assert followed_by_ffmpeg(name)
    unread()
    assert not shows_canary(VideoFolder(".").frames(0))


def test_a_name_like_a_web_address_is_not_asked_for(tmp_path, monkeypatch):
    """`http:/127.0.0.1:9/a.mp4` in the current folder is a file; a server would refuse."""
    write_video(tmp_path / "http:" / "127.0.0.1:9" / "a.mp4")
    monkeypatch.chdir(tmp_path)
    assert VideoFolder(".").frames(0).any()
