"""The commands of docs/howto/train_a_lam.md as they stand there, on a tiny dataset and with few steps."""

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from lattok.cli import main
from tests.conftest import write_dataset

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PUBLISHED = ["--heads", "3", "--features", "pixels", "--image-size", "64"]  # of the small stand-in


def commands(kind: str, text: str) -> list[str]:
    """Lines of a block of the shell, each command on one of them; none of another block."""
    return text.replace("\\\n", "").splitlines() if kind == "bash" else []


class Encoder:
    """In place of T5: a vector for every letter."""

    def __init__(self, name):
        self.name = name

    def load(self):
        return self

    def encode(self, texts):
        mask = torch.arange(max(map(len, texts))) < torch.tensor([[len(text)] for text in texts])
        return torch.randn(*mask.shape, 5) * mask[..., None], mask


@pytest.mark.ci
def test_the_commands_work(tmp_path, monkeypatch, capsys):
    dataset = write_dataset(tmp_path / "data", [24, 26, 25, 27])
    shutil.copy(ROOT / "tests/parity/univla_stage2/checkpoint.ckpt", tmp_path / "lam-stage-2.ckpt")
    shutil.copytree(ROOT / "tests/parity/lara_lam_a", tmp_path / "latent_motion_tokenizer")
    (tmp_path / "latent_motion_tokenizer/weights.safetensors").rename(
        tmp_path / "latent_motion_tokenizer/model.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATASET", str(dataset))
    monkeypatch.setattr("lattok.recipes.image_lam.TextEncoder", Encoder)
    done = []
    page = (ROOT / "docs/howto/train_a_lam.md").read_text()
    assert "export DATASET=" in page  # the Python blocks read it
    for kind, text in BLOCK.findall(page):
        if kind == "python":
            exec(text, {})
        for line in commands(kind, text):
            if line.startswith(("lattok train", "lattok convert")):
                words = shlex.split(os.path.expandvars(line), comments=True)[1:]
                assert main(_short(words)) == 0, (line, capsys.readouterr().err)
                done.append(line)
    assert len(done) >= 10
    assert {path.parent.name for path in tmp_path.glob("runs/*/config.json")} >= {"lam", "stage-2", "tuned", "python"}


def _short(words):
    """The same command with fewer steps, for the test's dataset and checkpoint."""
    if words[0] == "convert":
        return [*words, *(PUBLISHED if words[1] == "univla-lam" else [])]
    if "--resume" in words:
        return words
    words = [{"corner2": "front", "32": "2"}.get(word, word) for word in words]
    warm = [] if "--init" in words else ["--codebook-continuous-steps", "1"]
    return [*words, "--steps", "3", *warm, "--batch-size", "8", "--device", "cpu"]
