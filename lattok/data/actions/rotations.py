"""Rotations in the six forms that action datasets use, and back, through matrices R [N, 3, 3] in float64.

euler_xyz           R = Rz(yaw) Ry(pitch) Rx(roll): angles about fixed axes, radians
axis_angle          axis * angle, the angle in 0..pi
quaternion_xyzw     and quaternion_wxyz: the one of both signs with w > 0 (w = 0: the first of x, y, z positive)
rot6d, rot6d_rows   the first two columns of R (Zhou et al., 2019), or its first two rows (pytorch3d)
matrix              R row by row

In gimbal lock, pitch = +-90 degrees, where roll and yaw turn about one axis, yaw is 0 and roll takes both.
"""

from typing import Literal, get_args

import numpy as np

from lattok.utils import checks

Form = Literal["euler_xyz", "axis_angle", "quaternion_xyzw", "quaternion_wxyz", "rot6d", "rot6d_rows", "matrix"]
SIZES: dict[Form, int] = dict(zip(get_args(Form), (3, 3, 4, 4, 6, 6, 9), strict=True))
MAX_ROUNDING = 1e-3  # how far numbers may be from a rotation: more than float32 and a few digits explain is an error
GIMBAL_LOCK_COSINE = 1e-9  # cosine of the pitch below which roll and yaw are one


def to_matrix(numbers: np.ndarray, form: str) -> np.ndarray:
    """Numbers [N, k] of one form to matrices [N, 3, 3]. What is no rotation is an error that names the row."""
    if form == "euler_xyz":
        return _from_euler(numbers)
    if form == "axis_angle":
        angle = np.linalg.norm(numbers, axis=1, keepdims=True)
        half = np.sinc(angle / (2 * np.pi)) / 2  # sin(angle / 2) / angle
        return _from_quaternion(np.concatenate([numbers * half, np.cos(angle / 2)], axis=1))
    if form.startswith("quaternion"):
        xyzw = numbers if form == "quaternion_xyzw" else np.roll(numbers, -1, axis=1)
        size = np.linalg.norm(xyzw, axis=1, keepdims=True)
        _check_rounding(form, np.abs(size[:, 0] - 1), "a quaternion of length 1")
        return _from_quaternion(xyzw / np.where(size == 0, 1, size))
    if form == "matrix":
        matrix = numbers.reshape(-1, 3, 3)
        gap = np.abs(np.swapaxes(matrix, 1, 2) @ matrix - np.eye(3)).max((1, 2), initial=0)
        _check_rounding(form, np.where(np.linalg.det(matrix) > 0, gap, np.inf), "a rotation matrix (determinant 1)")
        return _completed(matrix[:, :, 0], matrix[:, :, 1])
    pair = numbers.reshape(-1, 2, 3)
    gap = np.abs(pair @ np.swapaxes(pair, 1, 2) - np.eye(2)).max((1, 2), initial=0)
    _check_rounding(form, gap, "two perpendicular vectors of length 1")
    matrix = _completed(pair[:, 0], pair[:, 1])
    return np.swapaxes(matrix, 1, 2) if form == "rot6d_rows" else matrix


def from_matrix(matrix: np.ndarray, form: str) -> np.ndarray:
    """Turn rotation matrices [N, 3, 3] into numbers [N, k] of one form."""
    if form == "euler_xyz":
        return _to_euler(matrix)
    if form == "matrix":
        return matrix.reshape(-1, 9)
    if form.startswith("rot6d"):
        return (matrix if form == "rot6d_rows" else np.swapaxes(matrix, 1, 2))[:, :2].reshape(-1, 6)
    xyzw = _to_quaternion(matrix)
    if form == "axis_angle":
        sine = np.linalg.norm(xyzw[:, :3], axis=1, keepdims=True)
        angle = 2 * np.arctan2(sine, xyzw[:, 3:])
        return xyzw[:, :3] * np.where(sine > 0, angle / np.where(sine > 0, sine, 1), 2)
    return xyzw if form == "quaternion_xyzw" else np.roll(xyzw, 1, axis=1)


def wrapped(angles: np.ndarray) -> np.ndarray:
    """Return the same angles in (-pi, pi]."""
    return np.pi - (np.pi - angles) % (2 * np.pi)


def _check_rounding(form: str, gap: np.ndarray, expected: str) -> None:
    if len(bad := np.flatnonzero(~(gap <= MAX_ROUNDING))):
        checks.fail(form, expected, f"a row that is none (row {bad[0]})", "Is the declared form the right one?")


def _from_euler(angles: np.ndarray) -> np.ndarray:
    (cr, cp, cy), (sr, sp, sy) = np.cos(angles).T, np.sin(angles).T
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def _to_euler(m: np.ndarray) -> np.ndarray:
    level = np.hypot(m[:, 0, 0], m[:, 1, 0])
    pitch = np.arctan2(-m[:, 2, 0], level)
    yaw = np.where(level > GIMBAL_LOCK_COSINE, np.arctan2(m[:, 1, 0], m[:, 0, 0]), 0.0)
    # roll is what is left once yaw is turned back: near the lock it makes up for the rounding of yaw
    sine, cosine = np.sin(yaw), np.cos(yaw)
    roll = np.arctan2(sine * m[:, 0, 2] - cosine * m[:, 1, 2], cosine * m[:, 1, 1] - sine * m[:, 0, 1])
    return np.stack([roll, pitch, yaw], axis=1)


def _from_quaternion(xyzw: np.ndarray) -> np.ndarray:
    x, y, z, w = xyzw.T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.moveaxis(np.array(rows), 2, 0)


def _to_quaternion(m: np.ndarray) -> np.ndarray:
    """Rows of the matrix 4 q q^T are the quaternion times 4 of its numbers: the longest row loses no digits."""
    trace = np.trace(m, axis1=1, axis2=2)
    outer = np.empty((len(m), 4, 4))
    outer[:, :3, :3] = m + np.swapaxes(m, 1, 2) + (1 - trace)[:, None, None] * np.eye(3)
    turn = np.stack([m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]], axis=1)
    outer[:, 3, :3] = outer[:, :3, 3] = turn
    outer[:, 3, 3] = 1 + trace
    longest = np.diagonal(outer, axis1=1, axis2=2).argmax(1)
    xyzw = outer[np.arange(len(m)), longest]
    xyzw = xyzw / np.linalg.norm(xyzw, axis=1, keepdims=True)
    order = xyzw[:, [3, 0, 1, 2]]
    decisive = order[np.arange(len(m)), (np.abs(order) > 1e-12).argmax(1)]
    return np.where(decisive[:, None] < 0, -xyzw, xyzw) + 0.0  # no negative zeros


def _completed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the rotation whose first two columns are nearest to those given, by Gram and Schmidt."""
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    second = second - (first * second).sum(1, keepdims=True) * first
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], axis=2)
