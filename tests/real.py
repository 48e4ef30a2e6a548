"""The real recordings, which lie beside the repository and not in it."""

from pathlib import Path

import numpy as np
import pytest

REAL = Path(__file__).parents[2] / "shared" / "data" / "real"
BRIDGE = REAL / "bridge_dataset"
FRANKA = REAL / "franka_example_traj.npz"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real recordings lie beside the repository")


def franka() -> tuple[np.ndarray, np.ndarray]:
    """One transition of an arm: images uint8 [2, 256, 256, 3], and states [2, 7]."""
    with np.load(FRANKA) as stored:
        return stored["observations"][0], stored["states"][0]
