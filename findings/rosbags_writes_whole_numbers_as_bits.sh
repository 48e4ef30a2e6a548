#!/usr/bin/env bash
# rosbags: whole numbers given for a field of float64 are written as their bits: positions 1 and -2 are read as 0 and nan
#
# Versions: rosbags 0.11.9
# Guess: An array of another type than the message's is converted, or refused, as an array of float32 is.
# Fact: Only the length in bytes must fit. An int64 array, as np.array([0, 90]) is, is written bit by bit: 1 becomes 5e-324, -2 nan.
#   So is a big-endian float64 in CDR (it is converted in ROS 1 bags). A list, a float32 array and a slice with steps raise, each with
#   another error. Neither page nor docstring says a word; the annotation of the class does (ndarray of float64).
# Output: int64 1 -2 -> 5e-324 nan; big-endian 1.0 -2.0 -> 3e-319 9.5e-322; float32: ValueError
# Needs: Python 3.12 or newer (PYTHON=), 100 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv numpy==2.5.5 rosbags==0.11.9
venv/bin/python -W ignore - <<'PY'
import numpy as np
from rosbags.typesys import Stores, get_typestore

store = get_typestore(Stores.ROS2_JAZZY)
header = store.types["std_msgs/msg/Header"](store.types["builtin_interfaces/msg/Time"](0, 0), "base")
State = store.types["sensor_msgs/msg/JointState"]


def through(positions):
    empty = np.zeros(0)
    message = State(header, ["shoulder", "elbow"], positions, empty, empty)
    try:
        return store.deserialize_cdr(store.serialize_cdr(message, State.__msgtype__), State.__msgtype__).position
    except (ValueError, AttributeError) as error:
        return type(error).__name__


whole, swapped = through(np.array([1, -2])), through(np.array([1.0, -2.0], ">f8"))
others = [through(np.array([1, -2], np.float32)), through([1.0, -2.0]), through(np.array([1.0, 0, -2.0])[::2])]
print("int64", whole, "big-endian", swapped, "float32, list, every second", others, "float64", through(np.array([1.0, -2.0])))
assert 0 < whole[0] < 1e-300 and np.isnan(whole[1])
assert 0 < swapped.min() and swapped.max() < 1e-300
assert through(np.array([1.0, -2.0])).tolist() == [1, -2]
assert others[0] == "ValueError"
PY
