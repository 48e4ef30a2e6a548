#!/usr/bin/env bash
# openpi-client: ActionChunkBroker cuts every array of an answer by the step, so a state becomes one of its numbers
#
# Versions: openpi-client 0.1.2, numpy 2.5.5
# Guess: The broker gives one action of the chunk at a time and passes on what else the policy answers.
# Fact: It takes row i of every array: of a state of 8 numbers the i-th number at step i. A state that has fewer
#   numbers than the chunk has steps ends in an IndexError in the middle of the chunk, and an array without axes in one
#   at once. Floats, texts and lists pass. Return nothing but actions as arrays, or give others the horizon as first axis.
# Output: state at steps 0, 1, 2: 0.0, 1.0, 2.0; a state of 3 numbers: IndexError at step 3; a scalar array: at step 0
# Needs: Python 3.12 or newer (PYTHON=)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps openpi-client==0.1.2 dm-tree==0.1.10 attrs==26.1.0 wrapt==2.5.2 absl-py==2.5.1 numpy==2.5.5 typing-extensions==4.16.0
venv/bin/python - <<'PY'
import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.base_policy import BasePolicy

HORIZON = 5


class Policy(BasePolicy):
    """Answers a chunk of two numbers a step, and what else it is made with."""

    def __init__(self, beside):
        self.beside = beside

    def infer(self, obs):
        return {"actions": np.arange(2.0 * HORIZON).reshape(HORIZON, 2), **self.beside}


def acted(**beside):
    """What the broker gives step by step, or how it ends."""
    broker, found = ActionChunkBroker(Policy(beside), HORIZON), []
    try:
        for _ in range(HORIZON):
            found.append(broker.infer({}))
    except IndexError:
        found.append("IndexError")
    return found


states = [float(each["state"]) for each in acted(state=np.arange(8.0))]
short, scalar = acted(state=np.arange(3.0)), acted(value=np.array(0.5))
print("state of 8:", states, "| of 3:", len(short) - 1, "steps, then", short[-1], "| scalar:", scalar)
assert states == [0.0, 1.0, 2.0, 3.0, 4.0]
assert len(short) == 4 and short[-1] == "IndexError" and scalar == ["IndexError"]
assert [each["ms"] for each in acted(ms=2.5)] == [2.5] * HORIZON
assert [each["actions"].tolist() for each in acted()] == np.arange(2.0 * HORIZON).reshape(HORIZON, 2).tolist()
PY
