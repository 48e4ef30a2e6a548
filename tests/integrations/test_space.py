"""The Space's own work, with a stand-in for gradio: clips to codes and pictures, and what it refuses."""

import importlib.util
import sys
from html import unescape
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np
import pytest

import lattok
from tests.evaluation.drawn import drawn_codes

APP = Path(__file__).parents[2] / "integrations/space/app.py"


class Refused(Exception):
    """gradio's error, which a visitor sees."""

    def __init__(self, text: str, **options: object):
        super().__init__(text)


@pytest.fixture(scope="module")
def app():
    return run_with("sample/lam")


def run_with(model):
    """Run the Space's file for this model."""
    pytest.importorskip("matplotlib")
    gradio = ModuleType("gradio")
    gradio.__getattr__ = lambda name: MagicMock()  # type: ignore[method-assign]
    gradio.Markdown = MagicMock()
    gradio.Error = Refused
    spec = importlib.util.spec_from_file_location("space_app", APP)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gradio", gradio)
        patch.setenv("LATTOK_MODEL", str(model))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def test_codes_are_those_of_the_model_and_every_picture_is_there(app, tmp_path, monkeypatch):
    clips = app.example()
    assert [Path(clip).stem for clip in clips] == ["corner2", "gripperPOV"]
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    page, pictures = app.label(*clips)
    assert not list(tmp_path.iterdir())  # a visit leaves nothing
    assert len(pictures) == app.MOMENTS
    assert all(np.asarray(picture).std() > 10 for picture in pictures)
    frames, fps = app.read(clips)
    codes = lattok.load("sample/lam").label_video(frames, fps=fps).codes
    (told,) = drawn_codes(unescape(page))
    assert len(told) == len(frames) == len(codes)
    assert told[0] == codes[0].tolist()
    assert told[-1] == [None] * codes.shape[1]  # no later frame to compare with


def test_what_cannot_be_labelled_is_said(app, tmp_path, monkeypatch):
    first, second = app.example()
    with monkeypatch.context() as patch:
        patch.setattr(app, "LARGEST", 71 * 128 * 128 - 1)
        patch.setattr("lattok.data.formats.video_folder.VideoFolder.frames", None)  # nothing is decoded
        with pytest.raises(Refused, match="corner2: expected frames of at most 1,163,263 pixels in all, got 71 of 128"):
            app.label(first, second)
    with pytest.raises(Refused, match="gripperPOV: a clip of this camera is missing"):
        app.label(first, None)
    playlist = tmp_path / "clip.mp4"
    playlist.write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    with pytest.raises(Refused, match="clip.mp4"):
        app.label(first, str(playlist))
    short = tmp_path / "short.mp4"
    frames, fps = app.read([first, second])
    from lattok.evaluation.page.episode import film

    short.write_bytes(film(frames[:20, 0], fps))
    with pytest.raises(Refused, match="clips of the same length, size and rate, got .71, 128, 128., .20, 128, 128."):
        app.label(first, str(short))
