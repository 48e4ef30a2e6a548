#!/usr/bin/env bash
# simple-pid: a controller called with dt=0.005 gives its first output for ever, and the joint runs past the target
#
# Versions: simple-pid 2.0.1
# Guess: pid(joint, dt=0.005) is the output for this joint and a step of 5 ms, at each call.
# Fact: Where dt is shorter than sample_time (0.01), the call gives the output of the call before and does not look at the
#   joint. As dt is the time of one step, and not that since the last output, this never ends: a simulation at 200 Hz is driven
#   by its first command. At 100 Hz, or with sample_time=None, all is well.
# Output: a joint from 0 to the target 1, after 5 s: 1.000 with dt 0.01, 10.000 with dt 0.005 (one output in all, 2.0), 1.000 with
#   sample_time=None
# Needs: Python 3.12 or newer (PYTHON=)
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv simple-pid==2.0.1
venv/bin/python - <<'PY'
from simple_pid import PID


def drive(dt, **options):
    """The joint after 5 s, and how many outputs there were."""
    pid, joint, outputs = PID(2.0, 0.0, 0.0, setpoint=1.0, **options), 0.0, set()
    for _ in range(round(5 / dt)):
        output = pid(joint, dt=dt)
        outputs.add(output)
        joint += output * dt
    print(f"dt {dt} {options}: joint {joint:.3f}, {len(outputs)} different outputs")
    return joint, len(outputs)


assert abs(drive(0.01)[0] - 1) < 1e-3
joint, outputs = drive(0.005)
assert outputs == 1 and abs(joint - 10) < 1e-6, "the first output, 2, for 5 s"
assert abs(drive(0.005, sample_time=None)[0] - 1) < 1e-3
PY
