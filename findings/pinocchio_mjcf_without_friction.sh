#!/usr/bin/env bash
# Pinocchio: a MuJoCo model is read with its damping and friction, and moves and is held without them
#
# Versions: pin 4.1.0, mujoco 4.0.0
# Guess: buildModelFromMJCF reads damping and dry friction (model.damping and model.friction have the numbers), so aba() gives
#   the acceleration that MuJoCo gives, and rnea() the torque that holds the arm.
# Fact: Mass matrix, gravity and armature agree. No algorithm of Pinocchio uses damping or friction; stiffness and gravcomp
#   are not read at all, so that an arm whose own controller carries its weight is given its weight as torque. A
#   rotation as axisangle="0 1 1 0.5" is another one, as the length of the axis enters it. Nothing is said.
# Output: acceleration at 1 rad/s in MuJoCo: plain 21.8, with damping -42.4, stiffness -26.4, frictionloss 5.7, gravcomp
#   0.0; Pinocchio 21.8 in all of them; torque that holds the arm with gravcomp: 0.0 and -0.678
# Needs: Python 3.12 or newer (PYTHON=), 500 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv mujoco==4.0.0 numpy==2.5.5 pin==4.1.0
venv/bin/python -W ignore - <<'PY'
import mujoco
import numpy as np
import pinocchio

ARM = """<mujoco><option timestep="0.001"/><worldbody><body name="arm" {body}><joint name="j" axis="0 1 0" {joint}/>
<geom type="capsule" fromto="0 0 0 0 0 .3" size=".03"/></body></worldbody></mujoco>"""


def both(joint="", body="", q=0.5, v=1.0):
    """The acceleration without torque, and the torque that holds the arm at rest, of MuJoCo and of Pinocchio."""
    with open("arm.xml", "w") as file:
        file.write(ARM.format(joint=joint, body=body))
    model = mujoco.MjModel.from_xml_path("arm.xml")
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = q, v
    mujoco.mj_forward(model, data)
    moved = float(data.qacc[0])
    data.qvel[:], data.qacc[:] = 0, 0
    mujoco.mj_inverse(model, data)
    other = pinocchio.buildModelFromMJCF("arm.xml")
    space, q, v, none = other.createData(), np.array([q]), np.array([v]), np.zeros(1)
    held = float(pinocchio.rnea(other, space, q, none, none)[0])
    accelerations = moved, float(pinocchio.aba(other, space, q, v, none)[0])
    return accelerations, (float(data.qfrc_inverse[0]), held), (other.damping[0], other.friction[0])


same = {"plain": {}, "armature": {"joint": 'armature="0.1"'}}
not_same = {
    "damping": {"joint": 'damping="2"'}, "stiffness": {"joint": 'stiffness="3"'},
    "frictionloss": {"joint": 'frictionloss="0.5"'}, "gravcomp": {"body": 'gravcomp="1"'},
    "axisangle": {"body": 'axisangle="0 1 1 0.5"'},
}
found = {name: both(**options) for name, options in {**same, **not_same}.items()}
for name, (accelerations, torques, known) in found.items():
    print(f"{name}: acceleration {np.round(accelerations, 3)}, torque that holds {np.round(torques, 3)}, read {known}")
assert all(np.allclose(*found[name][0], rtol=1e-4) for name in same)
assert all(not np.isclose(*found[name][0], rtol=0.003) for name in not_same)
assert found["damping"][2][0] == 2 and found["frictionloss"][2][1] == 0.5, "they are read"
assert abs(found["gravcomp"][1][0]) < 1e-9 and abs(found["gravcomp"][1][1]) > 0.5
PY
