#!/usr/bin/env bash
# One URDF, three programs: the joints have another order in each, and another count
#
# Versions: pin 4.1.0, mujoco 4.0.0, yourdfpy 0.0.60, numpy 2.5.5
# Guess: A vector of joint positions is in the order of the file, and a finger that mimics the other has no number.
# Fact: yourdfpy keeps the order of the file and leaves out the finger that mimics. MuJoCo goes down each branch in the
#   order of the file, and the finger stays a joint of its own with a soft constraint. Pinocchio sorts branches by the
#   name of the joint, so that the left arm stands before the right one, keeps the finger without a constraint unless
#   mimic=True, and a continuous joint has two numbers, cosine and sine. The same vector moves other joints in each:
#   go by names.
# Output: file       right_shoulder left_shoulder wrist grip grip_other
#   yourdfpy   right_shoulder left_shoulder wrist grip: 4 numbers
#   MuJoCo     right_shoulder wrist left_shoulder grip grip_other: 5 numbers
#   Pinocchio  left_shoulder grip grip_other right_shoulder wrist: 6 numbers
# Needs: Python 3.12 or newer (PYTHON=)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv mujoco==4.0.0 numpy==2.5.5 pin==4.1.0 yourdfpy==0.0.60
venv/bin/python - <<'PY'
import logging

import mujoco
import pinocchio
from yourdfpy import URDF

JOINTS = {  # in the order of the file: type, parent, child
    "right_shoulder": ("revolute", "base", "right_arm"),
    "left_shoulder": ("revolute", "base", "left_arm"),
    "wrist": ("continuous", "right_arm", "right_hand"),
    "grip": ("prismatic", "left_arm", "finger"),
    "grip_other": ("prismatic", "left_arm", "finger_other"),
}
INERTIA = '<inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/>'
text = '<robot name="arms"><link name="base"/>'
for _, _, child in JOINTS.values():
    text += f'<link name="{child}"><inertial><mass value="1"/>{INERTIA}</inertial></link>'
for name, (kind, parent, child) in JOINTS.items():
    limit = "" if kind == "continuous" else '<limit lower="0" upper="1" effort="1" velocity="1"/>'
    mimic = '<mimic joint="grip" multiplier="1"/>' if name == "grip_other" else ""
    text += f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>'
    text += f'<axis xyz="0 0 1"/>{limit}{mimic}</joint>'
open("arms.urdf", "w").write(f"{text}</robot>")

logging.disable()
theirs, ours = mujoco.MjModel.from_xml_path("arms.urdf"), URDF.load("arms.urdf")
sorted_, joined = (pinocchio.buildModelFromUrdf("arms.urdf", mimic) for mimic in (False, True))
found = {
    "yourdfpy": ([*ours.actuated_joint_names], ours.num_dofs),
    "MuJoCo": ([theirs.joint(i).name for i in range(theirs.njnt)], theirs.nq),
    "Pinocchio": ([*sorted_.names][1:], sorted_.nq),
}
print("file".ljust(10), *JOINTS)
for program, (names, count) in found.items():
    print(program.ljust(10), " ".join(names) + f": {count} numbers")
file = [*JOINTS]
assert found["yourdfpy"] == (file[:-1], 4)
assert found["MuJoCo"] == ([file[0], file[2], file[1], *file[3:]], 5) and theirs.neq == 1
assert found["Pinocchio"] == ([file[1], *file[3:], file[0], file[2]], 6) and joined.nq == 5
PY
