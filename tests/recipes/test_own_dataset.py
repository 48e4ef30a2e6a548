"""The commands and snippets of docs/howto/own_dataset.md work as printed, on small datasets of their formats."""

import shlex
import subprocess

import numpy as np
import pytest

from lattok.cli import main
from lattok.data import open_dataset
from lattok.data.video import VideoWriter
from tests.conftest import moving_square, write_dataset
from tests.data import planted
from tests.data.rlds_sample import write_rlds
from tests.hub.server import serving
from tests.recipes.test_howto import BLOCK, ROOT, commands

SHORT = ["--steps", "2", "--stride", "2", "--codebook-continuous-steps", "1", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with `my_arm` (RLDS), `videos` of two sizes and `flawed`; on the Hub is `org/arm`."""
    write_rlds(tmp_path / "my_arm")
    rng = np.random.default_rng(0)
    for name, size in (("cut/0", 32), ("pour/1", 32), ("pour/2", 48)):
        encoder = VideoWriter(tmp_path / "videos" / f"{name}.mp4", 10, (size, size), "h264", 1)
        encoder.add(moving_square(rng, 20, size))
        encoder.close()
    write_dataset(tmp_path / "remote", (12, 12, 12))
    planted.write(tmp_path / "flawed", planted.clean())
    planted.other_statistics(tmp_path / "flawed")
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path / "remote", tmp_path / "cache", monkeypatch):
        yield tmp_path


def test_the_page(place, capsys):
    found = {}
    for kind, text in BLOCK.findall((ROOT / "docs/howto/own_dataset.md").read_text()):
        if kind == "python":
            exec(text, found)
        for line in commands(kind, text):
            if not line.startswith("lattok "):
                subprocess.run(line, shell=True, check=True)
                continue
            words = shlex.split(line, comments=True)[1:]
            more = SHORT if words[0] == "train" else ["--video-codec", "h264"] if words[0] == "export" else []
            assert main([*words, *more]) == 0, (line, capsys.readouterr().err)
            assert words[0] != "annotate" or "Labels, in a folder of their own: " in capsys.readouterr().out
    assert found["codes"].shape[0] == 20
    exported = open_dataset("exported")
    assert exported.tasks == ("slice the onion", "pour the tea", "pour")
    assert exported.frames(2).shape == (20, 1, 128, 128, 3)
    assert exported.columns(0, ["latent.codes"])["latent.codes"].tolist() == found["codes"].tolist()
    assert [episode.length for episode in open_dataset("arm-lerobot").episodes] == [4, 6]
    assert len(open_dataset("from-arrays").episodes) == 3
