#!/usr/bin/env bash
# gym-pusht: reset_to_state puts the block elsewhere than asked
#
# Versions: gym-pusht 0.1.8, gymnasium 1.4.0, pymunk 6.11.1
# Guess: reset(options={"reset_to_state": observation}) gives the state of this observation back, so an episode can
#   be replayed from any frame.
# Fact: The block stands centimetres away: it is turned about its centre of mass after it was placed, so the
#   distance depends on the angle. The agent and the angle are right. Set block.angle, then block.position to get
#   the state that was asked for.
# Output: asked 300, 200, angle 1.0: 337.9, 220.7, 1.0 (43 of 512 pixels away); angle first: 300, 200, 1.0
# Needs: Python 3.12 or newer (PYTHON=), 200 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    cffi==2.1.1 cloudpickle==3.1.3 farama-notifications==0.0.6 gym-pusht==0.1.8 gymnasium==1.4.0 \
    numpy==2.5.5 opencv-python-headless==5.0.0.93 pycparser==3.12 pygame==2.6.1 pymunk==6.11.1 \
    shapely==2.2.0 typing-extensions==4.16.0
venv/bin/python - <<'PY'
import gym_pusht  # noqa: F401
import gymnasium
import numpy as np

env = gymnasium.make("gym_pusht/PushT-v0", obs_type="state")
asked = np.array([100.0, 120.0, 300.0, 200.0, 1.0])  # agent, block, angle of the block
found, _ = env.reset(seed=0, options={"reset_to_state": asked})
away = float(np.linalg.norm(found[2:4] - asked[2:4]))
print("asked", asked.tolist(), "found", found.round(1).tolist(), "away", round(away, 1))
assert np.allclose(found[[0, 1, 4]], asked[[0, 1, 4]]) and 40 < away < 50

again, _ = env.reset(options={"reset_to_state": found})
print("its own observation:", round(float(np.linalg.norm(again[2:4] - found[2:4])), 1), "away")
assert np.linalg.norm(again[2:4] - found[2:4]) > 40

block = env.unwrapped.block
block.angle = float(asked[4])
block.position = tuple(map(float, asked[2:4]))
state = env.unwrapped.get_obs()
print("angle first", state.round(1).tolist())
assert np.allclose(state, asked)
PY
