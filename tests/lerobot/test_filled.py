"""A dataset whose unknown actions were filled in: LeRobot opens it and trains on it as on any other."""

import json
from pathlib import Path

import numpy as np
import pytest

from lattok import annotate, open_dataset
from tests.annotation.test_fill import KNOWN, model, write
from tests.lerobot.policies import lerobot, run_training

pytestmark = pytest.mark.lerobot
ACT = {"dim_model": 32, "n_heads": 2, "dim_feedforward": 32, "n_encoder_layers": 1, "n_vae_encoder_layers": 1}
ACT |= {"type": "act", "device": "cpu", "push_to_hub": "false", "chunk_size": 4, "n_action_steps": 4, "latent_dim": 4}
ACT |= {"pretrained_backbone_weights": "null"}


def test_lerobot_trains_on_what_was_filled(tmp_path: Path):
    out = annotate(write(tmp_path / "data"), model(), tmp_path / "filled", fill=True, embedding=False)
    theirs = lerobot("datasets.lerobot_dataset").LeRobotDataset("org/name", root=out, video_backend="pyav")
    ours, row = open_dataset(out), 0
    for episode in ours.episodes:
        columns = ours.columns(episode.index, ["action", "inferred.filled"])
        for t in range(episode.length):
            item = theirs[row + t]
            np.testing.assert_array_equal(item["action"].numpy(), columns["action"][t])
            assert bool(item["inferred.filled"]) == (episode.index not in KNOWN)
        row += episode.length
    told = theirs.meta.stats["action"]
    assert all(np.isfinite(told[name]).all() for name in ("min", "max", "mean", "std"))
    folder = run_training(out, tmp_path / "run", 2, ACT, batch_size=4, log_freq=1)
    assert json.loads((folder / "config.json").read_text())["output_features"]["action"]["shape"] == [3]
