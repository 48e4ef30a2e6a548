"""`lattok view`: hostile names stay text, films and codes are those of the dataset, the page asks for nothing."""

import base64
import re
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch

import lattok
from lattok.cli import main
from lattok.data import dimension_names
from lattok.evaluation.episode_errors import error_tables
from lattok.evaluation.page import POLICY, SCRIPT, viewer
from lattok.evaluation.page.episode import (
    MAX_FILM_FRAMES,
    MAX_POINTS,
    Curve,
    EpisodeCodes,
    EpisodeView,
    curves,
    episode_panel,
    equal_runs,
    film,
    film_frames,
    over_time,
)
from lattok.utils.checks import LattokError
from lattok.version import install_extra
from tests.conftest import write_dataset
from tests.data.memory import SPEC, labels_for
from tests.errors import refused
from tests.evaluation.drawn import drawn_codes, drawn_curves
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
    frames = np.zeros((7, 300, 90, 3), dtype=np.uint8)
    frames[np.arange(7), :, :, 0] = np.arange(7)[:, None, None] * 40
    with av.open(BytesIO(film(frames, 10.0))) as container:
        seen = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(seen) == 7
    assert seen[0].shape[0] == 256
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
    monkeypatch.setattr(viewer, "prefixes", lambda dataset, part="codes": ["latent"] if part == "codes" else [])
    monkeypatch.setattr(type(source), "columns", lambda self, index, keys: rows)
    page = asks_for_nothing(viewer.page(source, source.episodes[:1], (), lambda *_: None))
    assert "`latent.valid`: expected 12 values, one for each frame, got 36." in "".join(page.text)


def test_codes_of_strangers_draw():
    """Codes beyond any codebook, and rows without a label."""
    codes = np.array([[-(2**62), 2**62]] * 3 + [[0, 1]])
    labels = [EpisodeCodes(HOSTILE, codes, np.array([True, True, False, True]))]
    labels.append(EpisodeCodes("a", codes, np.zeros(4, dtype=bool)))
    html = episode_panel(EpisodeView("Episode 0", HOSTILE, 10.0, np.arange(4), codes=labels), {})
    first, last, none = codes[0].tolist(), codes[-1].tolist(), [None, None]
    assert drawn_codes(html) == [[row + none for row in (first, first, none, last)]]
    assert "no frame has a label" in html
    assert "<script" not in html
    other = [Curve(HOSTILE, {"truth": np.array([np.nan, np.inf, -np.inf, np.nan])}), Curve("x", {"truth": np.zeros(4)})]
    other.append(Curve("y", {"truth": np.array([1e308, -1e308, 0, 1])}))
    html = episode_panel(EpisodeView("Episode 0", HOSTILE, 10.0, np.arange(4), other, legend={"truth": HOSTILE}), {})
    assert "<script" not in html
    assert "nan" not in html.lower()
    assert "inf" not in html.replace("info", "")


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
    told = drawn_codes(out.read_text(encoding="utf-8"))
    assert [len(rows) for rows in told] == [12, 9, 11]
    drawn = drawn_curves(out.read_text(encoding="utf-8"))
    for index, found in enumerate(drawn):
        actions = source.actions(index)
        assert found
        for name, lines in found.items():
            true = actions[:, dimension_names(source.features["action"]).index(name.removeprefix("action "))]
            np.testing.assert_allclose(lines["truth"][:, 1], true, atol=0.002 * np.ptp(true))
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


@pytest.mark.parametrize("end", [".html", ".rrd"])
def test_where_nothing_can_be_written_is_told_before_films_are_read(end, labelled, monkeypatch, capsys):
    monkeypatch.setattr(viewer, "_episode", lambda *_: pytest.fail("an episode was read"))
    assert main(["view", str(labelled), "--out", f"/dev/null/page{end}"]) == 2
    said = f"lattok: cannot write into /dev/null: Not a directory. Choose another place: --out FILE{end}\n"
    assert capsys.readouterr().err.replace("File exists", "Not a directory") == said


def test_curves_are_the_numbers_and_gaps_stay_gaps():
    """Read back from the page, as its script does: long ones at fewer places, what is not known nowhere."""
    rng = np.random.default_rng(0)
    for length in (1, 5, 3 * MAX_POINTS + 7):
        true, step = rng.normal(size=length), -(-length // MAX_POINTS)
        html = episode_panel(EpisodeView("E", "t", 10.0, np.arange(length), [Curve("x", {"truth": true})]), {})
        places, values = drawn_curves(html)[0]["x"]["truth"].T
        assert places.tolist() == list(range(0, length, step))
        np.testing.assert_allclose(values, true[::step], atol=0.002 * (np.ptp(true) or 1))
    true[2] = np.nan
    html = episode_panel(EpisodeView("E", "t", 10.0, np.arange(5), [Curve("x", {"truth": true[:5]})]), {})
    assert [len(points.split()) for points in re.findall('points="([^"]*)"', html)] == [2, 2]


def test_dimensions_that_never_move_are_not_drawn_beside_those_that_do():
    rows = np.array([[0.0, 1.0, 2.0], [0.0, 2.0, 2.0]])
    assert [each.name for each in curves("abc", {"truth": rows})] == ["b"]
    assert [each.name for each in curves("abc", {"truth": 0 * rows})] == ["a", "b", "c"]


def test_rows_of_many_episodes_become_a_strip_and_the_films_of_a_task_each(labelled):
    """The values in the strip are those of its episode, at its frames."""
    source = lattok.open_dataset(labelled)
    lengths = [each.length for each in source.episodes]
    episode_of = np.repeat(np.arange(3), lengths)
    frame_of = np.concatenate([np.arange(length) for length in lengths])
    true = torch.from_numpy(np.concatenate([source.actions(i) for i in range(3)]))
    kept = np.flatnonzero(episode_of > 0)  # the first episode does not judge
    lines = {"truth": ("true", true[kept]), "model": ("said", true[kept] + 1)}
    names = dimension_names(source.features["action"])
    rows = episode_of[kept], frame_of[kept]
    section = over_time(source, source.cameras, rows, names, lines, "Caption.", torch.zeros(len(kept), 1).long())
    assert section.reading.startswith("Worst in episode ")
    top, films = section.pictures
    assert top.top
    assert films.folded
    assert top.panels[0].count("<img") == 8
    shown = [int(re.search(r"Episode (\d+)", panel)[1]) for panel in films.panels]
    assert len(shown) == len({source.episodes[i].tasks for i in (1, 2)})
    assert all(panel.count("<video") == 2 for panel in films.panels)
    for panel, index in zip((top.panels[0], *films.panels), (shown[0], *shown), strict=True):
        (found,) = drawn_curves(panel)
        for name, drawn in found.items():
            wanted = true[episode_of == index, names.index(name)].numpy()
            np.testing.assert_allclose(drawn["truth"][:, 1], wanted, atol=0.005)
            np.testing.assert_allclose(drawn["model"][:, 1], wanted + 1, atol=0.005)
    said, kept_of = torch.zeros_like(true[kept]), episode_of[kept]
    said[kept_of == 1] = true[kept][kept_of == 1] + 0.5
    said[kept_of == 2] = true[kept][kept_of == 2] + 2
    (table, *_) = error_tables(source, kept_of, {"truth": ("true", true[kept]), "model": ("said", said)})
    variance = true[kept].double().var(0, correction=0)
    assert [row.key.partition(":")[0] for row in table.rows] == ["episode 2", "episode 1"]
    wanted = [float((gap**2 / variance[variance > 0]).mean()) for gap in (2, 0.5)]
    np.testing.assert_allclose([row.values[0] for row in table.rows], wanted, rtol=1e-5)
    assert not error_tables(source, kept_of, {"truth": ("true", 0 * said), "model": ("said", said)})
