"""Speed benchmarks still run on today's code: what none of the fast tests would notice until figures are wanted."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUNS = {
    "action_tokenizer": "--quick --no-fast",
    "annotate": "--only small --rounds 1 --steps 2",
    "clip_step": "--rounds 1",
    "compiled": "--quick --only action-vq",
    "gpu": "--quick --steps 2 --device cpu",
    "joint_step": "--rounds 1",
    "ray_engine": "--depth 1 --out ray.json",
    "scale": "--frames 2000 --rounds 1 --scratch data --out ",
    "video": "--rounds 1",
    "vla_step": "--quick",
    "windows": "--rounds 1",
    "zoo": "--sizes small --only lapa-laq",
}
NEEDS = {
    "action_tokenizer": "scipy",
    "video": "torchcodec",
    "windows": "torchcodec",
    "ray_engine": "ray",
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", RUNS)
def test_benchmarks_of_speed_run(tmp_path, name):
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs {NEEDS[name]}")
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[1:] = {RUNS[name].split(' ')!r}"
    code += f"; runpy.run_module('benchmarks.speed.{name}', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
