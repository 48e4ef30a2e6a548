#!/usr/bin/env bash
# MuJoCo: a joint made in Python with range=[-1.5, 1.5] moves by 1.5 degrees, and in a spec read from its own XML by 1.5 radians
#
# Versions: mujoco 4.0.0
# Guess: MjSpec takes radians, as MjModel, qpos and keyframes do.
# Fact: A new MjSpec has compiler.degree = True: range, ref, springref and euler are degrees, while ctrlrange of an actuator and
#   qpos of a keyframe in the same spec are radians. What to_xml() writes is in radians, so the same line of Python means
#   something else in a spec that was saved and read again.
# Output: range in the compiled model: 0.026 of a new spec, 1.5 of one that was read from to_xml(); ref 0.5: 0.009 and 0.5;
#   ctrlrange and qpos of a keyframe 1.5 in both
# Needs: Python 3.12 or newer (PYTHON=), 100 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv mujoco==4.0.0 numpy==2.5.5
venv/bin/python -W ignore - <<'PY'
import mujoco
import numpy as np


def arm(spec):
    body = spec.worldbody.add_body()
    body.add_geom(size=[0.1, 0, 0])
    body.add_joint(name="elbow", type=mujoco.mjtJoint.mjJNT_HINGE, axis=[0, 0, 1], range=[-1.5, 1.5], ref=0.5)
    motor = spec.add_actuator(name="motor", target="elbow", trntype=mujoco.mjtTrn.mjTRN_JOINT, ctrlrange=[-1.5, 1.5])
    motor.ctrllimited = True
    spec.add_key(qpos=[1.5])
    model = spec.compile()
    return [float(each) for each in (model.jnt_range[0, 1], model.qpos0[0], model.actuator_ctrlrange[0, 1], model.key_qpos[0, 0])]


empty = mujoco.MjSpec()
empty.compile()
found = {"new": arm(mujoco.MjSpec()), "read again": arm(mujoco.MjSpec.from_string(empty.to_xml()))}
for name, values in found.items():
    print(f"{name}: range {values[0]:.3f}, ref {values[1]:.3f}, ctrlrange {values[2]}, keyframe {values[3]}")
assert np.allclose(found["new"], [np.radians(1.5), np.radians(0.5), 1.5, 1.5])
assert np.allclose(found["read again"], [1.5, 0.5, 1.5, 1.5])
PY
