#!/usr/bin/env bash
# Minari: pictures come back changed, for they are stored as JPEG by default
#
# Versions: minari 0.5.4, gymnasium 1.4.0
# Guess: DataCollector stores uint8 observations bit for bit.
# Fact: jpeg_encoding=True is the default: pictures are coded with loss, in HDF5 as in Arrow, and dtype and shape do
#   not show it.
# Output: noise of 32 x 32: largest difference 243 of 255; jpeg_encoding=False: 0
# Needs: Python 3.12 or newer (PYTHON=), 250 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    annotated-doc==0.0.7 annotated-types==0.8.0 cloudpickle==3.1.3 farama-notifications==0.0.6 \
    gymnasium==1.4.0 h5py==3.16.0 jax==0.12.0.1 jaxlib==0.12.0.1 markdown-it-py==4.3.0 mdurl==0.1.2 \
    minari==0.5.4 ml-dtypes==0.6.0 numpy==2.5.5 opt-einsum==3.4.0 packaging==26.4 pillow==13.0.0 \
    pydantic-core==2.50.5 pydantic==2.14.4 pygments==2.21.0 rich==15.0.0 scipy==1.18.1 shellingham==1.5.4 \
    typer==0.29.2 typing-extensions==4.16.0 typing-inspection==0.4.5
MINARI_DATASETS_PATH="$work/data" venv/bin/python - <<'PY'
import gymnasium
import minari
import numpy as np


class Camera(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def picture(self):
        return self.np_random.integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = [self.picture()]
        return self.seen[-1], {}

    def step(self, action):
        self.seen.append(self.picture())
        return self.seen[-1], 0.0, len(self.seen) > 5, False, {}


found = {}
for name, options in (("default", {}), ("plain", {"jpeg_encoding": False})):
    env = Camera()
    collector = minari.DataCollector(env, **options)
    collector.reset(seed=0)
    while not collector.step(np.zeros(2, np.float32))[2]:
        pass
    facts = dict.fromkeys(("algorithm_name", "author", "author_email", "code_permalink", "description"), "x")
    made = collector.create_dataset(f"camera/{name}-v0", **facts)
    (episode,) = made.iterate_episodes()
    found[name] = int(abs(episode.observations.astype(int) - np.array(env.seen)).max())
    print(name, episode.observations.shape, episode.observations.dtype, "largest difference", found[name])
assert found["plain"] == 0 and found["default"] > 50
PY
