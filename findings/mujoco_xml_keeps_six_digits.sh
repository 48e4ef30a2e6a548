#!/usr/bin/env bash
# MuJoCo: a model read back from its own XML is another model, and replays go apart
#
# Versions: mujoco 4.0.0
# Guess: to_xml writes numbers so that they can be read back: the saved model simulates the recorded episode again,
#   to the last bit.
# Fact: Numbers are written with 6 digits. The model that comes back differs in the 7th; a recorded command sequence
#   gives other states, in a chaotic mechanism wholly other ones after seconds. (Simulators store this text beside
#   their demonstrations.) Keep the source XML, or an .mjb of the same version.
# Output: pos 0.123457, body_pos off by 3.3e-07; double pendulum: apart by 0.001 rad after 3.0 s, by 1 rad after 6.4
#   s
# Needs: Python 3.12 or newer (PYTHON=), 60 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    glfw==2.11.0 mujoco==4.0.0 mujoco-core==4.0.0 mujoco-studio==4.0.0 numpy==2.5.5 pyopengl==3.1.10 \
    websockets==17.4
venv/bin/python - <<'PY'
import mujoco
import numpy as np

XML = """<mujoco><worldbody>
  <body pos="0.3333333333 0 1"><joint axis="0 1 0"/>
    <geom type="capsule" fromto="0 0 0 .3123456789 0 0" size=".02" mass=".7123456789"/>
    <body pos=".3123456789 0 0"><joint axis="0 1 0"/>
      <geom type="capsule" fromto="0 0 0 .2987654321 0 0" size=".02" mass=".4123456789"/></body>
  </body></worldbody></mujoco>"""
spec = mujoco.MjSpec.from_string(XML)
model = spec.compile()
again = mujoco.MjModel.from_xml_string(spec.to_xml())
off = abs(model.body_pos - again.body_pos).max()
print("0.333333 0 1" in spec.to_xml(), "body_pos off by", off)
assert "0.3333333" not in spec.to_xml() and 1e-7 < off < 1e-6

first, second = mujoco.MjData(model), mujoco.MjData(again)
first.qvel[:] = second.qvel[:] = 9, -4
apart = []
for _ in range(10_000):  # 20 s
    mujoco.mj_step(model, first)
    mujoco.mj_step(again, second)
    apart.append(abs(first.qpos - second.qpos).max())
after = {limit: round(float(np.argmax(np.array(apart) > limit)) * model.opt.timestep, 2) for limit in (1e-3, 1)}
print("apart by 0.001 and 1 rad after", after, "s; at most", max(apart))
assert 0 < after[1e-3] < after[1] < 15
PY
