#!/usr/bin/env bash
# MuJoCo 4: an enum on the left never equals the model's number, nor is the number `in` a tuple of enums
#
# Versions: mujoco 4.0.0 against 3.3.0, gymnasium-robotics 1.4.2, gymnasium 1.4.0
# Guess: model.jnt_type[j] in (mjJNT_HINGE, mjJNT_SLIDE) is True for a hinge, as in 3.x; gymnasium-robotics
#   (mujoco>=2.2) runs with what pip chooses for it.
# Fact: enum == numpy number is False without a warning, number == enum is True; `in` asks the enum first. Joints
#   fall through such tests. Packages that pin only from below break: FetchReach-v4 cannot be reset
#   (AssertionError). int(enum) or the enum on the right is safe.
# Output: 3.3.0 True True True; 4.0.0: number == enum True, enum == number False, in False; FetchReach-v4
#   AssertionError
# Needs: Python 3.12 (wheels of mujoco 3.3.0), 200 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    cloudpickle==3.1.3 etils==1.15.0 farama-notifications==0.0.6 fsspec==2026.9.0 glfw==2.11.0 \
    gymnasium==1.4.0 gymnasium-robotics==1.4.2 imageio==2.38.1 jinja2==3.1.6 markupsafe==3.0.4 mujoco==4.0.0 \
    mujoco-core==4.0.0 mujoco-studio==4.0.0 numpy==2.5.5 packaging==26.4 pettingzoo==1.27.0 pillow==13.0.0 \
    pyopengl==3.1.10 typing-extensions==4.16.0 websockets==17.4 zipp==4.1.2 absl-py==2.5.1
environment before
install before --no-deps mujoco==3.3.0 absl-py==2.5.1 etils==1.15.0 fsspec==2026.9.0 glfw==2.11.0 \
    numpy==2.5.5 pyopengl==3.1.10 typing-extensions==4.16.0 zipp==4.1.2
venv/bin/python - <<'PY'
import subprocess

import gymnasium
import gymnasium_robotics

ASK = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><body><joint/><geom size='.1'/></body></worldbody></mujoco>")
number, hinge, slide = model.jnt_type[0], mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE
print(mujoco.__version__, bool(number == hinge), bool(hinge == number), number in (hinge, slide), hinge == int(number))
"""


def asked(folder):
    return subprocess.check_output([f"{folder}/bin/python", "-c", ASK], text=True).split()


old, new = asked("before"), asked("venv")
print("number == enum, enum == number, number in enums, enum == int:", *old, "|", *new)
assert old == ["3.3.0", "True", "True", "True", "True"]
assert new == ["4.0.0", "True", "False", "False", "True"]

gymnasium.register_envs(gymnasium_robotics)
try:
    gymnasium.make("FetchReach-v4").reset(seed=0)
except AssertionError:
    print("FetchReach-v4 AssertionError")
else:
    raise AssertionError("FetchReach-v4 resets beside mujoco 4.0.0 now")
PY
