#!/usr/bin/env bash
# robosuite: two observations of one hand are a quarter turn apart, and a step of 5 cm moves 1 cm
#
# Versions: robosuite 1.5.2, mujoco 3.3.0
# Guess: robot0_eef_quat and robot0_eef_quat_site describe one orientation; ten actions of 1 move the hand by ten
#   times the controller's 5 cm; row 0 of a picture is its upper edge.
# Fact: The two differ by 90 degrees about z. The hand follows slowly: about 11 cm after ten steps. Pictures are
#   stored from the lower edge up ("opengl"); robomimic turns them when it writes observations, LIBERO does not.
# Output: apart [0, 0, -90] degrees; 11.13 cm; opengl
# Needs: Python 3.12 (numpy 1.26; PYTHON=), 400 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    absl-py==2.5.1 etils==1.15.0 evdev==2.0.0 fsspec==2026.9.0 glfw==2.11.0 iniconfig==2.3.1 \
    llvmlite==0.50.0 mink==0.0.5 mujoco==3.3.0 numba==0.68.1 numpy==1.26.4 opencv-python==4.11.0.86 \
    packaging==26.4 pillow==13.0.0 pluggy==1.7.0 pygments==2.21.0 pynput==1.8.2 pyopengl==3.1.10 \
    pytest==9.2.0 python-xlib==0.33 qpsolvers==4.13.0 quadprog==0.1.14 robosuite==1.5.2 scipy==1.17.1 \
    six==1.17.0 termcolor==3.3.0 tqdm==4.70.1 typing-extensions==4.16.0 zipp==4.1.2
venv/bin/python - <<'PY'
import numpy as np
import robosuite
from robosuite import macros
from scipy.spatial.transform import Rotation

env = robosuite.make("Lift", robots="Panda", has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False)
seen = env.reset()
hand, site = Rotation.from_quat(seen["robot0_eef_quat"]), Rotation.from_quat(seen["robot0_eef_quat_site"])
apart = (hand.inv() * site).as_rotvec(degrees=True).round(3)
print("eef_quat", seen["robot0_eef_quat"].round(3), "site", seen["robot0_eef_quat_site"].round(3), "apart", apart)
assert np.allclose(apart, [0, 0, -90], atol=0.01)
start = seen["robot0_eef_pos"].copy()
for _ in range(10):
    seen, *_ = env.step(np.array([1.0, 0, 0, 0, 0, 0, -1]))
moved = (seen["robot0_eef_pos"] - start) * 100
print("ten steps of +1 in x: cm", moved.round(2), "image rows:", macros.IMAGE_CONVENTION)
assert 10 < moved[0] < 12, "though ten steps of 5 cm were commanded"
assert seen["robot0_gripper_qpos"][0] > 0.03, "-1 opens"
assert macros.IMAGE_CONVENTION == "opengl", "row 0 is the lower edge"
PY
