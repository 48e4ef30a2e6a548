"""The commands and snippets of docs/howto/train_a_vla.md work as printed, on a few episodes and with few steps."""

import os
import shlex

import pytest
import torch

import lattok
from lattok.cli import main
from lattok.vla import STRATEGIES
from tests.recipes.test_howto import BLOCK, ROOT, commands

FEW = ["--steps", "2", "--batch-size", "4", "--log-every", "1"]
SHORT = {
    "image-lam": [*FEW, "--codebook-continuous-steps", "1"],
    "action-vq": FEW,
    "beast": [],
    "residual-vq": ["--steps", "0", "--synthetic", "0", "--tokens", "2", "--codebook-size", "8"],
    "vla": [*FEW, "--backbone-width", "16", "--backbone-depth", "2", "--head-dim", "16"],
}


@pytest.mark.ci
def test_the_page(sample, tmp_path, monkeypatch, capsys):
    few = [episode.index for episode in sample.episodes if episode.length < 60][:4]
    lattok.export(sample, tmp_path / "data", episodes=few, video_codec="h264")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATASET", "data")
    monkeypatch.setattr(STRATEGIES, "_known", dict(STRATEGIES._known))  # the page registers one
    done = []
    for kind, text in BLOCK.findall((ROOT / "docs/howto/train_a_vla.md").read_text()):
        if kind == "python":
            torch.manual_seed(0)
            exec(text, {})
        for line in commands(kind, text):
            if line.startswith("lattok"):
                words = shlex.split(os.path.expandvars(line))[1:]
                words += SHORT[words[1]] if words[0] == "train" else []
                words += ["--episodes", "0:4"] if "vla" in words and "--study" not in words else []
                assert main(words) == 0, (line, capsys.readouterr().err)
                done.append(line)
    assert len(done) == 10
    assert "| LA-Both |" in (tmp_path / "runs/study/study.md").read_text()
