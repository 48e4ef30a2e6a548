"""What docs/howto/lerobot.md says to type, by LeRobot's own script: each policy with a few steps, and resumed."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

import lattok
from tests.lerobot.policies import lerobot
from tests.recipes.test_howto import BLOCK, ROOT

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.usefixtures("plugin"),
    pytest.mark.filterwarnings("ignore"),  # of LeRobot and of what it uses
]
ACT = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1, "n_vae_encoder_layers": 1}
ACT |= {"latent_dim": 4, "pretrained_backbone_weights": None}  # which would be a download
FEW = {"--steps=1000": "--steps=2", "--steps=1500": "--steps=3", "--batch_size=16": "--batch_size=4"}
FEW |= {"--num_workers=2": "--num_workers=0"}
SMALL = {
    "lattok_supervised": [],
    "lattok": ["--policy.backbone_width=16", "--policy.backbone_depth=2", "--policy.head_dim=16"],
}


def shortened(line: str) -> list[str]:
    """The same command for a small policy and a few steps."""
    words = [FEW.get(word, word) for word in shlex.split(line)[1:]]
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        if name == "--policy.inner_options":
            options = dict(part.split(": ") for part in value.strip("{}").split(", "))
            words[i] = f"{name}={json.dumps({**{key: int(number) for key, number in options.items()}, **ACT})}"
        if name == "--policy.type":
            words += [*SMALL[value], "--policy.device=cpu", "--log_freq=1"]
    return words


def test_the_page(point, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = point.demonstrations(tmp_path / "demonstrations", 4)
    lattok.annotate(lattok.open_dataset(source), point.Where("video"), "runs/annotated")
    page = (ROOT / "docs/howto/lerobot.md").read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for kind, text in BLOCK.findall(page) if kind == "bash" for line in text.splitlines()]
    trainings = [line for line in lines if line.startswith("lerobot-train ")]
    assert len(trainings) == 4
    for line in trainings:
        monkeypatch.setattr(sys, "argv", ["lerobot-train", *shortened(line)])
        lerobot("scripts.lerobot_train").main()
    for run, kind in (("act-align", "act"), ("lerobot", "lattok")):
        checkpoint = tmp_path / "runs" / run / "checkpoints/last/pretrained_model"
        assert json.loads((checkpoint / "config.json").read_text())["type"] == kind
        assert checkpoint.parent.resolve().name == "000003"
