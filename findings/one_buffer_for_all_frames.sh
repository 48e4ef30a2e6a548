#!/usr/bin/env bash
# Minari and torchrl: of an environment that returns its own array every recorded frame is the last one
#
# Versions: minari 0.5.4, torchrl 0.14.1, gymnasium 1.4.0, torch 2.15.0
# Guess: A recorder copies what step() returns. Environments may return their state itself, as a view such as MuJoCo's data.qpos;
#   Gymnasium's check passes them.
# Fact: Minari's DataCollector keeps the arrays of an episode until it ends, and torchrl's rollout() makes tensors that share their
#   memory: both hold one array many times. The observation before and after an action are the same in every row.
#   Gymnasium's vector environments copy, so the same environment trains well and is recorded wrongly.
# Output: true 0 1 2 3 4; minari 4 4 4 4 4; torchrl 4 4 4 4 and next 4 4 4 4; a vector environment 0 1 2 3 4
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps annotated-doc==0.0.7 annotated-types==0.8.0 cloudpickle==3.1.3 farama-notifications==0.0.6 filelock==4.3.1 \
    gymnasium==1.4.0 h5py==3.16.0 hoptorch==0.1.4 importlib-metadata==10.2.0 jax==0.12.0.1 jaxlib==0.12.0.1 \
    lazy-importer==0.1.0 markdown-it-py==4.3.0 mdurl==0.1.2 ml-dtypes==0.6.0 opt-einsum==3.4.0 scipy==1.18.1 \
    minari==0.5.4 numpy==2.5.5 orjson==3.13.0 packaging==26.4 pydantic==2.14.4 pydantic-core==2.50.5 pygments==2.21.0 pyvers==0.2.3 \
    rich==15.0.0 shellingham==1.5.4 tensordict==0.14.3 torchrl==0.14.1 typer==0.29.2 typing-extensions==4.16.0 \
    typing-inspection==0.4.5 zipp==4.1.2
MINARI_DATASETS_PATH="$work/datasets" venv/bin/python -W ignore - <<'PY'
import gymnasium
import numpy as np
from minari import DataCollector
from torchrl.envs import GymWrapper


class Arm(gymnasium.Env):
    """Its joints turn by 1 with each step."""

    observation_space = gymnasium.spaces.Box(-100, 100, (2,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self):
        self.joints = np.zeros(2, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.joints[:] = 0
        return self.joints, {}

    def step(self, action):
        self.joints += 1
        return self.joints, 0.0, False, bool(self.joints[0] >= 4), {}


still = np.zeros(1, np.float32)
collector = DataCollector(Arm())
collector.reset()
while not collector.step(still)[3]:
    pass
dataset = collector.create_dataset("arm/steps-v0", algorithm_name="still")
(episode,) = dataset
minari = episode.observations[:, 0].tolist()

rolled = GymWrapper(Arm()).rollout(4)
torchrl = rolled["observation"][:, 0].tolist(), rolled["next", "observation"][:, 0].tolist()

many = gymnasium.vector.SyncVectorEnv([Arm])
vector = [many.reset()[0][0, 0], *(many.step(still[None])[0][0, 0] for _ in range(4))]
print("minari", minari, "torchrl", *torchrl, "vector", [float(each) for each in vector])
assert minari == [4] * 5
assert torchrl == ([4] * 4, [4] * 4)
assert vector == [0, 1, 2, 3, 4]
PY
