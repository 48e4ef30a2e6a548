"""What docs/howto/lerobot.md says to type, by LeRobot's own script: each policy with a few steps, and resumed."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import lattok
from tests.lerobot.policies import lerobot, run_training
from tests.lerobot.test_supervised_plugin import INNER, options_of
from tests.recipes.test_howto import BLOCK, ROOT

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.usefixtures("plugin"),
    pytest.mark.filterwarnings("ignore"),  # of LeRobot and of what it uses
]
FEW = {"--steps=1000": "--steps=2", "--steps=1500": "--steps=3", "--steps=20000": "--steps=2"}
FEW |= {"--batch_size=16": "--batch_size=4", "--batch_size=64": "--batch_size=4"}
FEW |= {"--num_workers=2": "--num_workers=0", "--num_workers=4": "--num_workers=0"}
SMALL = ["--policy.backbone_width=16", "--policy.backbone_depth=2", "--policy.head_dim=16"]  # lattok's own policy
BASE, CAMERA = "lerobot/smolvla_base", "observation.images.camera1"


def shortened(line: str, base: Path) -> list[str]:
    """The same command for a small policy and a few steps."""
    words = [FEW.get(word, word) for word in shlex.split(line)[1:]]
    asked = {name: value for name, _, value in (word.partition("=") for word in words)}
    inner, small = asked.get("--policy.inner", ""), {}
    if options := asked.get("--policy.inner_options"):
        assert {*re.findall(r"(\w+):", options)} <= INNER[inner].keys()
        small["--policy.inner_options"] = json.dumps(INNER[inner])
    if inner == BASE:
        assert CAMERA in json.loads(asked["--rename_map"]).values()
        small |= {"--policy.inner": str(base), "--rename_map": json.dumps({"observation.images.front": CAMERA})}
    words = [f"{name}={value}" for name, value in {**asked, **small}.items()]
    if "--policy.type" in asked:
        words += [*(SMALL if asked["--policy.type"] == "lattok" else []), "--policy.device=cpu", "--log_freq=1"]
    return words


@pytest.fixture
def base(point, tmp_path) -> Path:
    """A small SmolVLA that knows its camera by the name of the published one."""
    data = point.annotated(tmp_path / "base", 2)
    policy = {"type": "smolvla", "device": "cpu", "push_to_hub": "false", **options_of("smolvla", tmp_path)}
    found = run_training(data, tmp_path / "smolvla", 1, policy, batch_size=4)
    for path in (each for each in found.glob("*.json") if each.name != "train_config.json"):
        path.write_text(path.read_text().replace("observation.images.front", CAMERA))
    return found


def test_the_page(point, base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = point.demonstrations(tmp_path / "demonstrations", 4)
    lattok.annotate(lattok.open_dataset(source), point.Where("video"), "runs/annotated")
    page = (ROOT / "docs/howto/lerobot.md").read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for kind, text in BLOCK.findall(page) if kind == "bash" for line in text.splitlines()]
    trainings = [line for line in lines if line.startswith("lerobot-train ")]
    (large,) = [line for line in trainings if "pi0_base" in line]  # its transformers is not on the package index
    options = next(word for word in shlex.split(large) if "inner_options" in word).partition("=")[2]
    given = {name: {"true": True}.get(value, value) for name, value in re.findall(r"(\w+): (\w+)", options)}
    kinds = lerobot("configs.policies").PreTrainedConfig
    asked = kinds.get_choice_class("lattok_supervised")(inner="pi0", inner_options=given, device="cpu")
    assert (asked.wrapped.dtype, asked.wrapped.gradient_checkpointing) == ("bfloat16", True)
    assert asked.plan.losses
    assert len(trainings) == 7
    for line in trainings:
        if line != large:
            monkeypatch.setattr(sys, "argv", ["lerobot-train", *shortened(line, base)])
            lerobot("scripts.lerobot_train").main()
    resumed, others = (
        {"act-align": "act", "lerobot": "lattok"},
        {"diffusion-align": "diffusion", "smolvla-align": "smolvla"},
    )
    for run, kind in (resumed | others).items():
        checkpoint = tmp_path / "runs" / run / "checkpoints/last/pretrained_model"
        assert json.loads((checkpoint / "config.json").read_text())["type"] == kind
        assert int(checkpoint.parent.resolve().name) == (3 if run in resumed else 2)
