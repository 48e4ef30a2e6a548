#!/usr/bin/env bash
# One URDF, five programs: a joint about "1 1 0" or without an axis moves the hand to four places
#
# Versions: yourdfpy 0.0.60, ikpy 4.2.1, pytorch-kinematics 0.10.0, pin 4.1.0, mujoco 4.0.0
# Guess: A joint turns by its angle about the direction of <axis>, slides by metres along it, and takes x where there is no
#   axis, as the format says: all programs agree.
# Fact: MuJoCo and Pinocchio do. ikpy takes the axis at its length: the rotation of a hinge about "1 1 0" is none, for its
#   determinant is not 1. Sliders go 1.41 times as far in ikpy and yourdfpy. Without an axis
#   pytorch-kinematics takes z. Nothing is said.
# Output: determinant of a hinge at 0.5 rad about 1 1 0: ikpy 1.38, others 1; slider at 0.5 along 1 1 0 goes: ikpy and
#   yourdfpy 0.707, others 0.5; hinge without an axis: pytorch-kinematics turns about z, others about x
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps absl-py==2.5.1 arm-pytorch-utilities==0.5.0 contourpy==1.4.0 cycler==0.12.1 fonttools==4.68.0 \
    ikpy==4.2.1 kiwisolver==1.5.1 lxml==6.1.3 matplotlib==3.11.2 mpmath==1.3.0 numpy==2.5.5 packaging==26.4 pillow==13.0.0 \
    pyparsing==3.3.3 python-dateutil==4.0.0 pytorch-kinematics==0.10.0 pytorch-seed==0.2.0 pyyaml==6.0.4 scipy==1.18.1 \
    six==1.17.0 sympy==1.14.0 trimesh==5.2.0 yourdfpy==0.0.60
install venv mujoco==4.0.0 numpy==2.5.5 pin==4.1.0
venv/bin/python -W ignore - <<'PY'
import logging

import ikpy.chain
import mujoco
import numpy as np
import pinocchio
import pytorch_kinematics
import torch
import yourdfpy

logging.disable(logging.CRITICAL)
MASS = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
TURNED = '<axis xyz="1 1 0"/>'


def write(axis, kind):
    with open("arm.urdf", "w") as file:
        file.write(f'''<robot name="arm"><link name="base">{MASS}</link><link name="hand">{MASS}</link>
            <joint name="j" type="{kind}"><parent link="base"/><child link="hand"/><origin xyz="0 0 0" rpy="0 0 0"/>{axis}
            <limit lower="-3" upper="3" effort="1" velocity="1"/></joint></robot>''')


def in_pinocchio(file, q):
    model = pinocchio.buildModelFromUrdf(file)
    data = model.createData()
    pinocchio.framesForwardKinematics(model, data, np.array([q]))
    return data.oMf[model.getFrameId("hand")].homogeneous


def in_mujoco(file, q):
    model = mujoco.MjModel.from_xml_path(file)
    data = mujoco.MjData(model)
    data.qpos[:] = q
    mujoco.mj_forward(model, data)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = data.body("hand").xmat.reshape(3, 3), data.body("hand").xpos
    return pose


def in_yourdfpy(file, q):
    robot = yourdfpy.URDF.load(file)
    robot.update_cfg([q])
    return robot.get_transform("hand", "base")


def in_ikpy(file, q):
    return ikpy.chain.Chain.from_urdf_file(file, base_elements=["base"]).forward_kinematics([0, q])


def in_pytorch(file, q):
    with open(file) as text:
        chain = pytorch_kinematics.build_serial_chain_from_urdf(text.read(), "hand")
    return chain.forward_kinematics(torch.tensor([q])).get_matrix()[0]


found = {}
for program, pose in (
    ("MuJoCo", in_mujoco), ("Pinocchio", in_pinocchio), ("yourdfpy", in_yourdfpy), ("ikpy", in_ikpy),
    ("pytorch-kinematics", in_pytorch),
):
    answers = []
    for axis, kind in ((TURNED, "revolute"), (TURNED, "prismatic"), ("", "revolute")):
        write(axis, kind)
        answers.append(np.asarray(pose("arm.urdf", 0.5), dtype=float))
    hinge, slider, plain = answers
    kept = "xyz"[int(np.argmax(np.diag(plain)[:3]))]  # the axis that stays is the one turned about
    found[program] = float(np.linalg.det(hinge[:3, :3]).round(3)), float(np.linalg.norm(slider[:3, 3]).round(3)), kept
    print(program, "determinant, way, axis:", *found[program])
assert found == {
    "MuJoCo": (1.0, 0.5, "x"), "Pinocchio": (1.0, 0.5, "x"), "yourdfpy": (1.0, 0.707, "x"), "ikpy": (1.38, 0.707, "x"),
    "pytorch-kinematics": (1.0, 0.5, "z"),
}
PY
