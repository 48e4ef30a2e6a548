#!/usr/bin/env bash
# pupil-apriltags, OpenCV: the poses of one tag are a half turn apart, and OpenCV's tag is half a percent too far away
#
# Versions: pupil-apriltags 1.0.4.post11, opencv-python-headless 5.0.0.93
# Guess: Two detectors of tag36h11 that both find tag 5 give one pose, so a hand-eye calibration made with one serves the other.
# Fact: In pupil-apriltags z goes into the tag, and x to the left of the picture that OpenCV draws of this tag; with OpenCV's corners and
#   SOLVEPNP_IPPE_SQUARE z comes out of it, and x goes to the right. The corners begin at opposite ends of a side. OpenCV's are the middles
#   of the outermost pixels, so a tag of 200 pixels has 199, unless corners are refined; pupil-apriltags' are its edges.
# Output: one tag of 0.1 m, 200 pixels wide, at 0.3 m: rotations diag(-1, -1, 1) and diag(1, -1, -1), distances 0.3000 and 0.3015, first
#   corners at the right and at the left
# Needs: Python 3.12 or newer (PYTHON=), 150 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv numpy==2.5.5 opencv-python-headless==5.0.0.93 pupil-apriltags==1.0.4.post11
venv/bin/python -W ignore - <<'PY'
import cv2
import numpy as np
from pupil_apriltags import Detector

SIZE, FOCAL = 0.1, 600.0
dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_APRILTAG_36h11)
picture = np.full((480, 640), 255, np.uint8)
picture[140:340, 220:420] = cv2.aruco.generateImageMarker(dictionary, 5, 200)

[tag] = Detector(families="tag36h11").detect(picture, True, (FOCAL, FOCAL, 320, 240), SIZE)
[corners], names, _ = cv2.aruco.ArucoDetector(dictionary, cv2.aruco.DetectorParameters()).detectMarkers(picture)
[name] = names.ravel().tolist()
half = SIZE / 2
square = np.array([[-half, half, 0], [half, half, 0], [half, -half, 0], [-half, -half, 0]])
camera = np.array([[FOCAL, 0, 320], [0, FOCAL, 240], [0, 0, 1]])
_, turn, place = cv2.solvePnP(square, corners[0].astype(float), camera, None, flags=cv2.SOLVEPNP_IPPE_SQUARE)
turn = cv2.Rodrigues(turn)[0]
apart = np.degrees(np.linalg.norm(cv2.Rodrigues(tag.pose_R.T @ turn)[0]))
far = float(tag.pose_t[2, 0]), float(place[2, 0])
first = tag.corners[0].round(1).tolist(), corners[0][0].tolist()
print("tags", tag.tag_id, name, "rotations", np.diag(tag.pose_R).round(2), np.diag(turn).round(2), f"{apart:.1f} degrees apart")
print("distances", np.round(far, 4), "first corners", first)
assert tag.tag_id == name == 5
assert np.allclose(np.diag(tag.pose_R), [-1, -1, 1], atol=0.02) and np.allclose(np.diag(turn), [1, -1, -1], atol=0.02)
assert apart > 179 and abs(far[0] - 0.3) < 3e-4 < 1e-3 < far[1] - 0.3
assert first[0][0] > 400 > 300 > first[1][0]
PY
