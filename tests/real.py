"""The real recordings, which lie beside the repository and not in it."""

from pathlib import Path

import pytest

REAL = Path(__file__).parents[2] / "shared" / "data" / "real"
BRIDGE = REAL / "bridge_dataset"
FRANKA = REAL / "franka_example_traj.npz"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real recordings lie beside the repository")
