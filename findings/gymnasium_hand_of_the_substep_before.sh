#!/usr/bin/env bash
# gymnasium: the hand in Pusher's observation is millimetres from where the joints of the same observation put it
#
# Versions: gymnasium 1.4.0, mujoco 4.0.0
# Guess: An observation shows one moment: the hand of Pusher-v5 is the forward kinematics of its seven joint angles.
# Fact: After mj_step MuJoCo's joint angles are new, and positions of bodies are those before the last substep, a
#   fifth of a step of Pusher. The environment mixes both in its observation, and so does its reward. What learns or
#   checks kinematics from such data finds an error that grows with speed. MuJoCo's page explains it, gymnasium's does
#   not; issue 1690 reports it of Reacher, where it is far smaller. mj_kinematics before reading helps.
# Output: hand away from the forward kinematics, random actions: mean 3.6 mm, largest 9.0 mm, of 17.6 mm that it moves
#   a step; after reset 0.0 mm
# Needs: Python 3.12 or newer (PYTHON=), 200 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps absl-py==2.5.1 cloudpickle==3.1.3 etils==1.15.0 farama-notifications==0.0.6 fsspec==2026.9.0 glfw==2.11.0 \
    gymnasium==1.4.0 imageio==2.38.1 mujoco==4.0.0 mujoco-core==4.0.0 numpy==2.5.5 packaging==26.4 pillow==13.0.0 pyopengl==3.1.10 \
    typing-extensions==4.16.0 zipp==4.1.2
venv/bin/python -W ignore - <<'PY'
import gymnasium
import mujoco
import numpy as np

env = gymnasium.make("Pusher-v5").unwrapped
observation, _ = env.reset(seed=0)
env.action_space.seed(0)
data = mujoco.MjData(env.model)


def hand(observation):
    """Where the joint angles of an observation put the hand."""
    data.qpos[:] = env.data.qpos
    assert np.array_equal(data.qpos[:7], observation[:7])
    mujoco.mj_kinematics(env.model, data)
    return data.body("tips_arm").xpos.copy()


at_reset = np.linalg.norm(hand(observation) - observation[14:17])
places, away = [], []
for _ in range(60):
    observation, *_ = env.step(env.action_space.sample())
    places.append(hand(observation))
    away.append(np.linalg.norm(places[-1] - observation[14:17]))
moved = np.linalg.norm(np.diff(places, axis=0), axis=1).mean()
mean, most = 1000 * np.mean(away), 1000 * max(away)
print(f"away: mean {mean:.1f} mm, largest {most:.1f} mm, moves {1000 * moved:.1f} mm a step; after reset {at_reset}")
assert at_reset < 1e-9
assert 0.15 < np.mean(away) / moved < 0.25 and max(away) > 0.005
PY
