#!/usr/bin/env bash
# Meta-World 3.0.0, which LeRobot 0.6.1 asks for, makes no environment with the MuJoCo that pip chooses
#
# Versions: metaworld 3.0.0, mujoco 4.0.0 against 3.3.0, gymnasium 1.4.0
# Guess: pip install 'lerobot[metaworld]', then lerobot-eval --env.type=metaworld runs: metaworld asks for mujoco>=3.0.0.
# Fact: MuJoCo has 12 numbers to an equality constraint now (mjNEQDATA), 3.17 as well as 4.0; it had 11 up to 3.9.
#   Meta-World writes 11: ValueError in the constructor of every task. Install mujoco==3.3.0 beside it, which
#   Meta-World 3.1.1 pins itself.
# Output: 3.3.0: 11 numbers, reach-v3 made; 4.0.0: 12 numbers, ValueError (11,) into shape (12,)
# Needs: Python 3.12 (wheels of mujoco 3.3.0), 450 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps absl-py==2.5.1 cloudpickle==3.1.3 etils==1.15.0 farama-notifications==0.0.6 \
    fsspec==2026.9.0 glfw==2.11.0 gymnasium==1.4.0 imageio==2.38.1 metaworld==3.0.0 numpy==2.5.5 packaging==26.4 \
    pillow==13.0.0 pyopengl==3.1.10 scipy==1.18.1 typing-extensions==4.16.0 zipp==4.1.2 \
    mujoco==4.0.0 mujoco-core==4.0.0 mujoco-studio==4.0.0 websockets==17.4
environment before
install before --no-deps absl-py==2.5.1 cloudpickle==3.1.3 etils==1.15.0 farama-notifications==0.0.6 \
    fsspec==2026.9.0 glfw==2.11.0 gymnasium==1.4.0 imageio==2.38.1 metaworld==3.0.0 numpy==2.5.5 packaging==26.4 \
    pillow==13.0.0 pyopengl==3.1.10 scipy==1.18.1 typing-extensions==4.16.0 zipp==4.1.2 \
    mujoco==3.3.0
venv/bin/python - <<'PY'
import subprocess

ASK = """
import metaworld, mujoco
try:
    metaworld.MT1("reach-v3", seed=42)
    print(mujoco.__version__, mujoco.mjNEQDATA, "made")
except ValueError as error:
    print(mujoco.__version__, mujoco.mjNEQDATA, error)
"""


def asked(folder):
    said = subprocess.check_output([f"{folder}/bin/python", "-W", "ignore", "-c", ASK], text=True).strip()
    print(said)
    return said


assert asked("before") == "3.3.0 11 made"
assert asked("venv") == "4.0.0 12 could not broadcast input array from shape (11,) into shape (12,)"
PY
