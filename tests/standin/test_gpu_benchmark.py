"""`python -m benchmarks.speed.gpu`, ten minutes of a machine with a GPU, rehearsed in full at small sizes."""

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks.speed import gpu
from tests.accelerator import NAME, Device
from tests.backbones.conftest import need_transformers


def test_it_writes_one_file_and_the_sentence(tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch, capsys):
    need_transformers()
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(
        sys, "argv", ["gpu", "--quick", "--device", f"{NAME}:0", "--out", str(out), "--peak-tflops", "1"]
    )
    gpu.main()
    found = json.loads(out.read_text())
    assert set(found) == set(gpu.PARTS)
    assert {part["device"] for part in found.values()} == {"stand-in"}
    assert found["codes"]["action-vq"] == found["codes"]["image-lam"] == 1.0
    assert {"frames_per_s", "share_of_peak", "share_of_product"} <= found["labelling"]["bfloat16"].keys()
    assert {"seconds_per_step", "data_wait", "memory_gb", "share_of_peak", "tflop_per_step"} <= found["la_cond"].keys()
    for kind in ("action-vq", "image-lam"):
        assert {"samples_per_s", "data_wait", "memory_gb"} <= found["families"][kind].keys()
    said = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(
        r"On stand-in lattok labels [\d,]+ frames a second and takes [\d.]+ s for a step of LA-Cond.*\.", said
    )


def test_without_an_accelerator_it_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "needs an accelerator" in capsys.readouterr().err
