"""One video file: its labels are those of its frames, and they are read by frame, by second and as a table."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import lattok
from lattok.cli import main
from tests.annotation.test_fill import model
from tests.conftest import moving_square, put_video
from tests.errors import refused
from tests.recipes.policies import image_lam


@pytest.fixture
def clip(tmp_path) -> Path:
    (tmp_path / "films").mkdir()
    put_video(tmp_path / "films" / "clip.mp4", moving_square(np.random.default_rng(0), 40, 48), 10)
    return tmp_path / "films" / "clip.mp4"


@pytest.mark.parametrize("made", [image_lam, model])
def test_labels_of_a_file_are_those_of_its_frames(made, clip):
    lam = made()
    gap, later = lam.stride_frames(10), lam.later_frames(10)
    labels = lam.label_video(clip)
    frames = lattok.open_dataset(clip.parent).frames(0, None, None, lam.resize)
    expected = lam.label_video(frames, gap)
    for name in ("codes", "latents", "quantized", "valid"):
        np.testing.assert_array_equal(getattr(labels, name), getattr(expected, name))
    assert labels.valid.tolist() == [True] * (40 - later) + [False] * later
    assert (len(labels), len(repr(labels).splitlines())) == (40, 2)
    np.testing.assert_array_equal(labels[5:9].codes, expected.codes[5:9])
    np.testing.assert_array_equal(labels[0.5:0.9].latents, expected.latents[5:9])
    parts = (labels[3], labels[-1], labels[1.5:], labels[:0.5], labels[labels.valid])
    assert [len(part) for part in parts] == [1, 1, 25, 5, 40 - later]
    assert [len(each) for each in labels] == [1] * 40
    for again in (pickle.loads(pickle.dumps(labels)), copy.deepcopy(labels)):
        np.testing.assert_array_equal(again[2:].latents, labels[2:].latents)
    with pytest.raises(IndexError):
        _ = labels[40]
    at_half = lam.label_video(clip, gap, fps=5)  # every other frame
    np.testing.assert_array_equal(at_half.latents, lam.label_video(frames[::2], gap).latents)


def test_several_cameras_have_a_file_each(clip):
    lam, other = image_lam("front", "wrist"), clip.with_name("other.mp4")
    put_video(other, moving_square(np.random.default_rng(1), 40, 32), 10)
    labels = lam.label_video([clip, str(other)])
    folder = lattok.open_dataset(clip.parent)
    frames = np.concatenate([folder.frames(i, None, None, lam.resize) for i in (0, 1)], 1)
    np.testing.assert_array_equal(labels.codes, lam.label_video(frames).codes)
    put_video(other, moving_square(np.random.default_rng(1), 39, 32), 10)
    refused("files of one rate and length", lam.label_video, [clip, other])
    refused("2 video files, one for each camera", lam.label_video, clip)


def test_the_command_writes_a_table_and_a_page(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lam, idm = image_lam(), model()
    lam.save_pretrained("lam")
    idm.save_pretrained("idm")
    labels = lam.label_video(str(clip))
    assert main(["label", str(clip), "--model", "lam"]) == 0
    assert f"{labels!r}\nTable with timestamp, valid, codes, embedding: clip-labels.parquet" in capsys.readouterr().out
    table = pq.read_table("clip-labels.parquet")
    assert table.equals(labels.to_arrow())
    assert table["codes"].to_pylist() == labels.codes.tolist()
    page = Path("clip-labels.html").read_text()
    assert page.count("<video") == 1
    assert f'data-code="{labels.codes[0, 0]}"' in page
    assert main(["label", str(clip), "--model", "idm", "--out", "read.parquet"]) == 0
    read = idm.decode_actions(idm.label_video(clip).latents)
    np.testing.assert_array_equal(np.stack(pq.read_table("read.parquet")["action"].to_pylist()), read.actions)
    assert main(["label", str(clip), "--model", "lam", "--out", "read.parquet"]) == 2  # another's file stays
    assert main(["label", str(clip), "--model", "lam", "--out", "read.csv"]) == 2
    capsys.readouterr()
    assert main(["label", str(clip), "--model", "lam", "--stride", "999"]) == 2
    assert "Give a shorter stride" in capsys.readouterr().err
    assert main(["label", str(clip), "--model", "sample/tokenizer"]) == 2
    assert sorted(path.name for path in tmp_path.glob("*.*")) == [
        "clip-labels.html",
        "clip-labels.parquet",
        "read.parquet",
    ]


def test_what_cannot_be_read_or_fits_no_rate_ends_in_one_line(clip):
    lam = image_lam()
    refused("a folder. Videos in a folder are a dataset", lam.label_video, clip.parent)
    refused("`frames`: expected a video file", lam.label_video, clip.with_name("none.mp4"))
    broken = clip.with_name("broken.mp4")
    broken.write_bytes(b"no video")
    refused("broken.mp4", lam.label_video, broken)
    lam.trained_on = {"fps": 30}
    refused(r"`stride`: expected seconds, since .* Give stride=\"", lam.label_video, clip)
    assert len(lam.label_video(clip, "0.2s")) == 40
