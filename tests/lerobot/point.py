"""A point that is to be moved to a place that the instruction names: an environment of LeRobot, demonstrations of it,
and an image model whose labels say where it is. Needs lerobot and gymnasium."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig

from lattok import annotate, open_dataset
from lattok.data import Feature, LeRobotWriter
from lattok.types import ActionTokenizer, LatentActions, VideoLabeller

CAMERA, SIZE, STEP, NEAR, LONGEST = "observation.images.front", 32, 0.1, 0.15, 25
TARGETS = {"lift the point": (0.5, 0.9), "push the point": (0.9, 0.5)}


def picture(place: np.ndarray) -> np.ndarray:
    """A light square on grey, uint8 [32, 32, 3]."""
    image = np.full((SIZE, SIZE, 3), 60, dtype=np.uint8)
    row, column = ((1 - place[1], place[0]) * np.array(SIZE - 8)).round().astype(int)
    image[row : row + 8, column : column + 8] = 230
    return image


def expert(place: np.ndarray, task: str) -> np.ndarray:
    """Straight to the place, at most a step."""
    return np.clip((np.array(TARGETS[task]) - place) / STEP, -1, 1).astype(np.float32)


class Point(gymnasium.Env):
    """Observation: image and place; action: how many steps to the right and up."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # gymnasium's name for it
    _max_episode_steps = LONGEST

    def __init__(self, task: str, render_mode: str = "rgb_array"):
        self.task = self.task_description = task
        self.render_mode = render_mode
        image = gymnasium.spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        place = gymnasium.spaces.Box(0, 1, (2,), np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {"pixels": gymnasium.spaces.Dict({"front": image}), "agent_pos": place}
        )
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(0, 0.6, 2), 0
        return self._seen(), {"is_success": False}

    def step(self, action):
        self.place = np.clip(self.place + STEP * np.clip(action, -1, 1), 0, 1)
        self.steps += 1
        near = bool(np.linalg.norm(self.place - TARGETS[self.task_description]) < NEAR)
        return self._seen(), float(near), near, self.steps >= LONGEST, {"is_success": near}

    def render(self):
        return picture(self.place)

    def _seen(self):
        return {"pixels": {"front": picture(self.place)}, "agent_pos": self.place.astype(np.float32)}


@EnvConfig.register_subclass("point")
@dataclass
class PointConfig(EnvConfig):
    """`--env.type=point --env.task="lift the point"`."""

    task: str = "lift the point"
    fps: int = 10
    features: dict[str, PolicyFeature] = field(
        default_factory=lambda: {
            "action": PolicyFeature(FeatureType.ACTION, (2,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (2,)),
            "pixels/front": PolicyFeature(FeatureType.VISUAL, (SIZE, SIZE, 3)),
        }
    )
    features_map: dict[str, str] = field(
        default_factory=lambda: {"action": "action", "agent_pos": "observation.state", "pixels/front": CAMERA}
    )

    @property
    def gym_id(self) -> str:
        return "lattok/Point-v0"

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        return {"task": self.task}


# without wrappers: LeRobot looks for the instruction at the outermost
gymnasium.register("lattok/Point-v0", Point, order_enforce=False, disable_env_checker=True)


def demonstrations(root: Path, episodes: int = 24) -> Path:
    """A LeRobot dataset of the expert, both tasks in turn."""
    rng = np.random.default_rng(0)
    features = {
        "action": Feature("float32", (2,), ("right", "up")),
        "observation.state": Feature("float32", (2,), ("x", "y")),
        CAMERA: Feature("video", (SIZE, SIZE, 3), None),
    }
    with LeRobotWriter.create(root, 10, features, video_codec="h264", encoder_threads=1) as writer:
        for number in range(episodes):
            task, place = list(TARGETS)[number % 2], rng.uniform(0, 0.6, 2)
            places, actions = [], []
            for _ in range(14):
                places.append(place)
                actions.append(expert(place, task))
                place = np.clip(place + STEP * actions[-1], 0, 1)
            frames = np.stack([picture(place) for place in places])
            writer.add_episode(
                {"action": np.stack(actions), "observation.state": np.stack(places)}, {CAMERA: frames}, task
            )
    return root


class Where(ActionTokenizer, VideoLabeller):
    """Codes of the two coordinates (0 to 7) two frames later, and how far it moved; or those of a chunk's actions."""

    cameras, codebook_size, vocab_size, horizon, action_dim, per_step = (CAMERA,), 8, 5, 4, 2, True

    def __init__(self, source: str):
        self.label_source = source

    def stride_frames(self, fps):
        return 2

    def resize(self, frames):
        return frames

    def label_video(self, frames, stride):
        light = np.concatenate(list(frames))[:, 0, ..., 0] > 150  # t h w
        places = np.stack([np.stack(np.nonzero(one)).mean(1) for one in light])  # t 2
        later = places[np.minimum(np.arange(len(places)) + stride, len(places) - 1)]
        codes = torch.from_numpy(later / 4).long().clamp(0, 7)
        moved = torch.from_numpy((later - places) / SIZE).float()[:, None]
        return LatentActions(codes, moved, moved)

    def latent_actions(self, chunks, valid=None):
        codes = (chunks[..., 0] * 2).round().long() + 2  # b h
        return LatentActions(codes, chunks, chunks)

    def describe(self):
        return {"type": "test"}


def annotated(folder: Path, episodes: int) -> Path:
    """Demonstrations with labels of where the point goes, and of its actions."""
    source = open_dataset(demonstrations(folder / "demonstrations", episodes))
    return Path(annotate(source, {"latent": Where("video"), "tok": Where("actions")}, folder / "annotated"))
