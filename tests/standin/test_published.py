"""Published models on the stand-in: converted on the CPU, they label, encode and predict there as here."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lattok
from lattok.cli import main
from lattok.image_lam.published.published_lam import PublishedLAM
from tests.accelerator import Device
from tests.image_lam.published.parity import open_case
from tests.image_lam.published.test_command_line import SYSTEMS
from tests.standin.test_artefacts import check

VIDEO = np.random.default_rng(0).integers(0, 256, (9, 1, 40, 52, 3), dtype=np.uint8)


@pytest.mark.parametrize("system", SYSTEMS)
def test_published_models(system: str, tmp_path: Path, device: Device, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LATTOK_DATA", str(tmp_path / "vit"))
    name, facts, _ = SYSTEMS[system]
    case, file = name.split("/")
    told = ["--cameras", "front", "--stride", "3", *facts(tmp_path)]
    assert main(["convert", system, str(open_case(case).folder / file), str(tmp_path / "model"), *told]) == 0
    model: Any = lattok.load(tmp_path / "model")
    pairs = torch.from_numpy(model.resize(VIDEO[:8])).unflatten(0, (4, 2))  # of its size: see what differs
    check(device, model, lambda m: m.label_video([VIDEO[:5], VIDEO[5:]], 3), reads=1)
    check(device, model, lambda m, x: m.encode(x), pairs, reads=0)
    found = model.encode(pairs)
    check(device, model, lambda m, x, z: m.decode(x, z), pairs[:, 0], found, reads=0)
    if isinstance(model, PublishedLAM):
        numbers = torch.rand(2, 2, 3, *model.features.frame_size)
        check(device, model, lambda m, x: m.encode_pixels(x), numbers, reads=0)
    check(device, model, lambda m, x: m.encode_features(x), model.frame_features(pairs), reads=0)
