"""scripts/interop.sh: a step that fails stops no other; what it measured becomes a table with a column each."""

import subprocess
from pathlib import Path

from benchmarks.speed.interop import measured, table

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
case "$*" in
    *"-m pytest"*) echo "1 failed, 20 passed, 3 skipped in 1.00s"; exit 1 ;;
    *"lattok train vla"*) exit 3 ;;
    *find_spec*) exit 1 ;;
    *benchmarks.speed.interop*) cp "$4" "$6" ;;
esac
"""


def test_what_follows_a_failure_runs_as_well(tmp_path):
    python = tmp_path / "envs/newest/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    command = [ROOT / "scripts/interop.sh", "newest", "--folder", tmp_path / "envs", "--out", tmp_path / "steps.tsv"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("failed: newest: suite\nfailed: newest: policy\n")
    found = measured(tmp_path / "steps.tsv")
    assert [name for name, step in found.items() if not step["ok"]] == ["suite", "policy"]
    assert {"demo", "train", "annotate", "examples"} < found.keys()
    assert not {"environment", "lerobot", "rollout", "plugin"} & found.keys()  # not made here; not installed
    assert found["suite"]["tests"] == "1 failed, 20 passed, 3 skipped"
    refused = subprocess.run([ROOT / "scripts/interop.sh", "latest"], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "usage: scripts/interop.sh [COLUMN ...]" in refused.stderr


def test_the_table_has_a_column_for_each_environment():
    steps = {"suite": {"ok": True, "seconds": 1300, "tests": "20 passed"}, "demo": {"ok": False, "seconds": 4}}
    first = {"environment": {"python": "3.10.13", "cores": 2}, "packages": {"torch": "2.6.0"}, "steps": steps}
    second = {"environment": {"python": "3.13.0"}, "packages": {"torch": "2.15.0", "lerobot": "0.6.1"}, "steps": {}}
    lines = table({"oldest": first, "newest": second}).splitlines()
    assert lines == [
        "| | oldest | newest |",
        "|---|---|---|",
        "| python | 3.10.13 | 3.13.0 |",
        "| torch | 2.6.0 | 2.15.0 |",
        "| lerobot | – | 0.6.1 |",
        "| cores | 2 | – |",
        "| *suite* | 20 passed, 1,300 s | – |",
        "| *demo* | **failed**, 4 s | – |",
    ]
