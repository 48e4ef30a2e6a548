"""`lattok view`: hostile names stay text, films and codes are those of the dataset, the page asks for nothing."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest

import lattok
from lattok.cli import main
from lattok.evaluation.page import POLICY, SCRIPT, svg, viewer
from lattok.evaluation.page.viewer import (
    MAX_FILM_FRAMES,
    EpisodeCodes,
    codes_picture,
    episode_panel,
    equal_runs,
    film,
    film_frames,
)
from lattok.utils.checks import LattokError
from lattok.version import install_extra
from tests.conftest import write_dataset
from tests.data.memory import SPEC, labels_for
from tests.errors import refused
from tests.process_jobs import forked

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


class Reader(HTMLParser):
    """Tags with their attributes, and all text outside script and style."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text, self._open = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        self._open = tag

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open not in ("script", "style"):
            self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def asks_for_nothing(page: str) -> Reader:
    """One script, ours, that the page's policy lets run; no address outside of the page."""
    found = Reader(page)
    assert page.count("<script") == 1
    assert f"<script>{SCRIPT}</script>" in page
    assert POLICY in [each.get("content") for each in found.of("meta")]
    assert not re.findall(r"https?:|@import|url\(|<link|<iframe", page)
    for _, attributes in found.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:").startswith("data:")
    return found


@pytest.fixture
def labelled(tmp_path) -> Path:
    """A dataset with two cameras, and codes that tell episode and frame."""
    root = tmp_path / "dataset"
    write_dataset(root, [12, 9, 11], ("lift", HOSTILE))
    return root


def test_runs_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    codes, valid = rng.integers(0, 2, (50, 2)), rng.random(50) > 0.3
    rows = [tuple(row) if ok else None for row, ok in zip(codes.tolist(), valid, strict=True)]
    found = {t: (start, end) for start, end in equal_runs(codes, valid) for t in range(start, end)}
    assert set(found) == set(np.flatnonzero(valid).tolist())
    for t in range(49):
        same = rows[t] is not None and rows[t] == rows[t + 1]
        assert same == (t in found and t + 1 in found and found[t] == found[t + 1])
    assert list(equal_runs(codes[:0], valid[:0])) == []


def test_a_film_has_the_frames():
    frames = np.zeros((7, 130, 90, 3), dtype=np.uint8)
    frames[np.arange(7), :, :, 0] = np.arange(7)[:, None, None] * 40
    with av.open(BytesIO(film(frames, 10.0))) as container:
        seen = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(seen) == 7
    assert seen[0].shape[0] == 96
    np.testing.assert_allclose([image[..., 0].mean() for image in seen], np.arange(7) * 40, atol=12)
    assert len(film_frames(1000)) <= MAX_FILM_FRAMES
    assert film_frames(5).tolist() == [0, 1, 2, 3, 4]


def test_a_fork_makes_films_too():
    """Threads that convert colours in this process are missing in a fork of it."""
    frames = np.zeros((2, 240, 320, 3), dtype=np.uint8)
    film(frames, 10.0)
    with forked(film, frames, 10.0) as process:
        process.join(30)
        assert process.exitcode == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 40_000), (40_000, 2)])
def test_images_of_any_shape_make_a_film(size):
    with av.open(BytesIO(film(np.zeros((2, *size, 3), dtype=np.uint8), 999_999.0))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 2


def test_several_values_of_validity_in_a_frame_are_told_on_the_page(labelled, monkeypatch):
    source = lattok.open_dataset(labelled)
    rows = {"latent.codes": np.zeros((12, 2), int), "latent.valid": np.ones((12, 3), bool)}
    monkeypatch.setattr(viewer, "prefixes", lambda dataset: ["latent"])
    monkeypatch.setattr(type(source), "columns", lambda self, index, keys: rows)
    page = asks_for_nothing(viewer.page(source, source.episodes[:1], (), lambda *_: None))
    assert "`latent.valid`: expected 12 values, one for each frame, got 36." in "".join(page.text)


def test_codes_of_strangers_draw():
    """Codes beyond any codebook, and rows without a label."""
    codes = np.array([[-(2**62), 2**62]] * 3 + [[0, 1]])
    drawn = codes_picture(EpisodeCodes(HOSTILE, codes, np.array([True, True, False, True])))
    assert drawn.count("<rect") == 4
    assert "<script" not in drawn
    unlabelled = EpisodeCodes("a", codes, np.zeros(4, dtype=bool))
    html = episode_panel("Episode 0", HOSTILE, {}, [unlabelled], np.arange(4), 10.0)
    assert "no frame has a label" in html
    assert "<script" not in html


def test_the_page(labelled, tmp_path, capsys):
    source = lattok.open_dataset(labelled)
    folder = labels_for(source, tmp_path / "labels", spec=SPEC.to_json())
    out = tmp_path / "view.html"
    assert main(["view", str(labelled), "--labels", str(folder), "--out", str(out)]) == 0
    assert f"Page: {out}" in capsys.readouterr().out
    page = asks_for_nothing(out.read_text(encoding="utf-8"))
    text = " ".join("".join(page.text).split())
    assert "3 of 3 episodes" in text
    assert HOSTILE in {each["data-task"] for each in page.of("div") if "data-task" in each}
    tracks = [each for each in page.of("div") if each.get("class") == "timeline"]
    told = [[row.split(",")[0] for row in each["data-codes"].split(";")] for each in tracks]
    assert [len(rows) for rows in told] == [12, 9, 11]
    assert len(page.of("video")) == 3 * len(source.cameras)
    data = base64.b64decode(page.of("video")[0]["src"].partition(",")[2])
    with av.open(BytesIO(data)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12
    assert main(["view", str(labelled), "--out", str(out)]) == 0  # an earlier page is replaced
    assert "no label columns" in out.read_text()
    out.write_text("mine")
    assert main(["view", str(labelled), "--out", str(out)]) == 2
    assert "is not a page of lattok's" in capsys.readouterr().err
    assert out.read_text() == "mine"
    refused("`out`", viewer.view, source, tmp_path / "view.txt")


def test_as_many_episodes_as_there_is_room_for(labelled, monkeypatch):
    """Those of other tasks first; what does not fit is counted."""
    source = lattok.open_dataset(labelled)
    order = [episode.index for episode in viewer.by_task(source.episodes)]
    first = {episode.tasks for episode in viewer.by_task(source.episodes)[: len({e.tasks for e in source.episodes})]}
    assert first == {episode.tasks for episode in source.episodes}
    assert sorted(order) == [0, 1, 2]
    monkeypatch.setattr(viewer, "MAX_PAGE_BYTES", 10)
    html = viewer.page(source, source.episodes, source.cameras, lambda *_: None)
    assert "1 of 3 episodes" in html
    assert "lattok view --episodes shows others" in html


def test_a_damaged_episode_leaves_the_others(labelled, monkeypatch):
    source = lattok.open_dataset(labelled)
    frames = type(source).frames

    def broken(self, episode_index, *more, **named):
        if episode_index == 1:
            raise LattokError(f"cannot decode {HOSTILE}")
        return frames(self, episode_index, *more, **named)

    monkeypatch.setattr(type(source), "frames", broken)
    page = asks_for_nothing(viewer.page(source, source.episodes, source.cameras, lambda *_: None))
    assert "cannot decode" in "".join(page.text)
    assert len(page.of("video")) == 2 * len(source.cameras)


def test_rerun(labelled, tmp_path, monkeypatch, capsys):
    """A recording where rerun is installed, one line where it is not."""
    out = tmp_path / "view.rrd"
    monkeypatch.setattr(viewer, "find_spec", lambda name: None)
    assert main(["view", str(labelled), "--out", str(out)]) == 2
    assert f"need rerun-sdk. Install it: {install_extra('rerun')}" in capsys.readouterr().err
    monkeypatch.undo()
    pytest.importorskip("rerun")
    source = lattok.open_dataset(labelled)
    folder = labels_for(source, tmp_path / "labels", spec=SPEC.to_json())
    assert viewer.view(lattok.labels.with_labels(source, folder), out) == out
    assert out.stat().st_size > 1000
    refused("`out`", viewer.view, source, out)


def test_a_recording_takes_nobodys_place(labelled, tmp_path):
    """Not even that of a link that leads nowhere: what is written would be where it leads."""
    for out in (tmp_path / "there.rrd", tmp_path / "link.rrd"):
        out.write_text("mine") if out.stem == "there" else out.symlink_to(tmp_path / "elsewhere.rrd")
        refused("`out`", viewer.view, lattok.open_dataset(labelled), out)
    assert (tmp_path / "there.rrd").read_text() == "mine"
    assert not (tmp_path / "elsewhere.rrd").exists()


def test_figures_under_the_pointer_are_those_that_were_drawn():
    """What the script reads back from a plot: positions of points, and the values at the frame's ends."""
    values = [0.1, -2.5, 7.25, 3.0]
    drawn = svg.plot("t", [("model", values)])
    left, right, top, bottom, low, high = map(float, re.search(r'data-frame="([^"]*)"', drawn)[1].split())
    points = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]*)"', drawn)[1].split()]
    found = [low + (bottom - y) / (bottom - top) * (high - low) for _, y in points]
    np.testing.assert_allclose(found, values, atol=0.005 * (high - low))
    assert [points[0][0], points[-1][0]] == [left, right]
