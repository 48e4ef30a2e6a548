#!/usr/bin/env bash
# rosbags-image: pictures whose rows are padded come out sheared, as the step of the message is not read
#
# Versions: rosbags-image 0.10.4, rosbags 0.11.9
# Guess: message_to_cvimage of a sensor_msgs/Image takes `step`, the "full row length in bytes", so that bytes that a
#   camera's driver appends to each row, or those of a larger picture that it was cut from, are left out.
# Fact: The first height * width * channels bytes are the picture. With 4 bytes after each row, every row starts 4 bytes
#   further off, colours change places, and the lowest rows are gone. The shape is right, and nothing is said.
# Output: second row of 12 to 23: with step 12 the same, with step 16 0 0 0 0 12 13 14 15 16 17 18 19
# Needs: Python 3.12 or newer (PYTHON=), 250 MB
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv numpy==2.5.5 opencv-python-headless==5.0.0.93 rosbags==0.11.9 rosbags-image==0.10.4
venv/bin/python - <<'PY'
import numpy as np
from rosbags.image import message_to_cvimage
from rosbags.typesys import Stores, get_typestore

types = get_typestore(Stores.ROS2_JAZZY).types
header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](0, 0), "camera")
picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def read(step):
    rows = np.zeros((2, step), np.uint8)
    rows[:, :12] = picture.reshape(2, 12)
    message = types["sensor_msgs/msg/Image"](header, 2, 4, "rgb8", 0, step, rows.ravel())
    return message_to_cvimage(message)


found = {step: read(step) for step in (12, 16)}
for step, image in found.items():
    print("step", step, *image.reshape(2, 12).tolist())
assert np.array_equal(found[12], picture)
assert np.array_equal(found[16][0], picture[0])
assert found[16][1].ravel().tolist() == [0, 0, 0, 0, *range(12, 20)]
PY
