"""Record scripted Meta-World demonstrations as a LeRobot v3.0 dataset; the bundled sample was made this way.

    pip install '.[sim]'
    apt-get install libegl1 libgl1-mesa-dri          # rendering without a screen, on the CPU
    MUJOCO_GL=egl python scripts/make_metaworld_sample.py --out sample

A frame holds the executed (noisy) action, the expert's own action in that state, the proprioceptive and the full
state, reward and success. Failed episodes are dropped. meta/metaworld.json maps instructions to environments.
"""

import argparse
import json
from pathlib import Path

import metaworld
import mujoco
import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from lattok.data import Feature, LeRobotWriter

TASKS = {
    "reach-v3": "reach the red target",
    "push-v3": "push the puck to the target",
    "pick-place-v3": "pick up the puck and place it at the target",
    "button-press-topdown-v3": "press the button from above",
    "drawer-open-v3": "open the drawer",
    "drawer-close-v3": "close the drawer",
    "door-open-v3": "open the door",
    "faucet-open-v3": "turn the faucet counter-clockwise",
    "faucet-close-v3": "turn the faucet clockwise",
    "window-open-v3": "slide the window open",
}
CONTROL_HZ = 80  # 2.5 ms physics step x 5 steps per action
CAMERAS = ("corner2", "gripperPOV")
NO_EFFECTS = [int(mujoco.mjtRndFlag.mjRND_SHADOW), int(mujoco.mjtRndFlag.mjRND_REFLECTION)]
MAX_STEPS, TAIL = 250, 4  # longest attempt, frames kept after the first success
AXES = ("x", "y", "z", "gripper")
COLUMNS = {
    "observation.state": Feature("float32", (4,), AXES),
    "observation.environment_state": Feature("float32", (39,), None),
    "action": Feature("float32", (4,), AXES),
    "expert_action": Feature("float32", (4,), AXES),
    "next.reward": Feature("float32", (1,), None),
    "next.success": Feature("bool", (1,), None),
}
Arrays = dict[str, np.ndarray]


class Scene:
    """A Meta-World task with a cheap off-screen renderer (no shadows, no multisampling)."""

    def __init__(self, name: str, seed: int, size: int):
        benchmark = metaworld.MT1(name, seed=seed)
        self.goals = benchmark.train_tasks  # 50 placements of goal and objects, drawn from `seed`
        self.env = benchmark.train_classes[name]()
        self.expert = ENV_POLICY_MAP[name]()
        model = self.env.model
        model.vis.quality.shadowsize = model.vis.quality.offsamples = 0
        model.camera("corner2").pos[:] = (0.75, 0.075, 0.7)  # closer, as LeRobot's Meta-World does
        self.renderer = mujoco.Renderer(model, size, size)

    def reset(self, index: int) -> np.ndarray:
        """Place goal and objects; returns the first observation."""
        self.env.set_task(self.goals[index % len(self.goals)])
        return self.env.reset()[0]

    def image(self, camera: str) -> np.ndarray:
        """What a camera sees now, uint8 [size, size, 3]."""
        self.renderer.update_scene(self.env.data, camera)
        self.renderer.scene.flags[NO_EFFECTS] = 0
        turn = -1 if camera == "corner2" else 1  # corner2 is mounted upside down
        return self.renderer.render()[::turn, ::turn].copy()


def rollout(scene: Scene, index: int, rng: np.random.Generator, noise: float) -> tuple[Arrays, Arrays] | None:
    """Columns and frames of one episode; smooth noise of random strength is added to the expert. None if it failed."""
    obs, drift, done_at = scene.reset(index), np.zeros(4), MAX_STEPS
    scale = noise * rng.uniform(0.3, 1.0) * np.array([1.0, 1.0, 1.0, 0.3])
    columns: dict[str, list] = {key: [] for key in COLUMNS}
    frames: dict[str, list] = {camera: [] for camera in CAMERAS}
    for step in range(MAX_STEPS):
        expert = np.clip(scene.expert.get_action(obs), -1, 1).astype(np.float32)
        drift = 0.8 * drift + 0.6 * rng.standard_normal(4)  # unit variance, correlated in time
        action = np.clip(expert + scale * drift, -1, 1).astype(np.float32)
        for camera in CAMERAS:
            frames[camera].append(scene.image(camera))
        before = obs
        obs, reward, _, _, info = scene.env.step(action)
        row = (before[:4], before, action, expert, reward, info["success"] > 0)
        for key, value in zip(COLUMNS, row, strict=True):
            columns[key].append(np.asarray(value, dtype=COLUMNS[key].dtype))
        if info["success"]:
            done_at = min(done_at, step)
        if step >= done_at + TAIL:
            images = {f"observation.images.{camera}": np.stack(frames[camera]) for camera in CAMERAS}
            return {key: np.stack(values) for key, values in columns.items()}, images
    return None


def record(writer: LeRobotWriter, tasks: dict[str, str], episodes: int, seed: int, size: int, noise: float) -> None:
    """`episodes` successful episodes of every task, at most four attempts for each."""
    for number, (name, instruction) in enumerate(tasks.items()):
        scene, saved, tried = Scene(name, seed, size), 0, 0
        while saved < episodes and tried < 4 * episodes:
            episode = rollout(scene, tried, np.random.default_rng([seed, number, tried]), noise)
            tried += 1
            if episode is not None:
                writer.add_episode(*episode, task=instruction)
                saved += 1
        print(f"{name:26s} kept {saved} of {tried} episodes", flush=True)
        scene.renderer.close()


def main() -> None:
    """Read the arguments and record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist yet")
    parser.add_argument("--tasks", type=Path, help="JSON file {environment: instruction}; default: the ten above")
    parser.add_argument("--episodes", type=int, default=5, help="episodes per task")
    parser.add_argument("--seed", type=int, default=0, help="seed of the goals and of the noise")
    parser.add_argument("--codec", default="libsvtav1", help="libsvtav1 or h264")
    parser.add_argument("--size", type=int, default=128, help="side of the images")
    parser.add_argument("--noise", type=float, default=0.25, help="largest std of the action noise")
    args = parser.parse_args()

    tasks = json.loads(args.tasks.read_text(encoding="utf-8")) if args.tasks else TASKS
    cameras = {f"observation.images.{name}": Feature("video", (args.size, args.size, 3), None) for name in CAMERAS}
    features = cameras | COLUMNS
    with LeRobotWriter.create(args.out, CONTROL_HZ, features, robot_type="sawyer", video_codec=args.codec) as writer:
        record(writer, tasks, args.episodes, args.seed, args.size, args.noise)
    environments = {"seed": args.seed, "env": {instruction: name for name, instruction in tasks.items()}}
    (args.out / "meta" / "metaworld.json").write_text(json.dumps(environments, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
