"""A dataset whose annotation takes several units and several files."""

from collections.abc import Callable

import pytest

import lattok.annotation as module


@pytest.fixture
def source(make_dataset, monkeypatch):
    """Seven episodes in several data files; a unit holds at most 20 frames, so that there are five or more."""
    monkeypatch.setattr(module, "UNIT_FRAMES", 20)
    dataset = make_dataset([12, 7, 9, 25, 3, 6, 8], data_file_mb=0.004, video_file_mb=0.002, chunk_files=2)
    assert len({dataset.data_file(e.index) for e in dataset.episodes}) > 1
    return dataset


@pytest.fixture
def torn(source) -> Callable[[], int]:
    """A video of `source` is cut short: this makes it whole again."""
    path = source.video_span(3, source.cameras[0])[0]
    content = path.read_bytes()
    path.write_bytes(content[:100])
    return lambda: path.write_bytes(content)
