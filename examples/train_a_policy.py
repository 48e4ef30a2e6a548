"""Train a small policy that also predicts the tokens of its actions (LA-Tok), and let it act in two environments.

    python train_a_policy.py                # five minutes on two cores; --steps 4 to see that it runs

The tokenizer labels the batches as they are drawn, so the dataset needs no annotation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

import lattok


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    steps = parser.parse_args().steps
    data = lattok.sample_dataset_path()

    recipe = lattok.ActionVQRecipe.from_preset(data, "tokenizer", "quick", steps=min(1000, 2 * steps))
    lattok.train(recipe)
    policy = lattok.train(
        lattok.VLARecipe.from_preset(
            data,
            "policy",
            backbone="scratch",  # leave it out for Qwen3-VL-2B and the paper's recipe
            strategy="la_tok",
            tokenizer="tokenizer",
            steps=steps,
            eval_key="expert_action",
        )
    )
    print(json.loads(Path("policy/held_out.json").read_text())["latent"])

    dataset = lattok.open_dataset(data)
    episode = dataset.episodes[-1]
    frames = dataset.frames(episode.index, policy.config.cameras, [0, 1])  # [2, V, H, W, 3]
    observation: dict = {camera: torch.from_numpy(frames[:, i]) for i, camera in enumerate(policy.config.cameras)}
    states = dataset.columns(episode.index, ["observation.state"])["observation.state"]
    observation["observation.state"] = torch.from_numpy(states[:2])
    observation["task"] = [episode.tasks[0]] * 2
    print(episode.tasks[0])
    print(policy.select_action(observation, env_ids=[0, 1]))  # [2, 4], the first action of a chunk each
    policy.reset([1])  # environment 1 starts again, environment 0 keeps its plan


if __name__ == "__main__":
    main()
