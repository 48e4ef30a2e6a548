"""What every importer says of a file that is not whole, or of another system."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from lattok.hub.checkpoint import IMPORTERS, read_checkpoint
from tests.errors import refused
from tests.image_lam.published.parity import open_case

PIXELS = {"features": "pixels", "image_size": 64}
FILES: dict[str, tuple[str, dict[str, Any] | None]] = {  # a fixture's file, what is told besides; None: its settings
    "adaworld-lam": ("adaworld_lam_a/weights.safetensors", {"image_size": 48}),
    "beast": ("beast_a/weights.safetensors", None),
    "lapa-laq": ("lapa_laq_a/weights.pt", {}),
    "lary-laq": ("lary_laq_b/weights.safetensors", {"stride": "5"}),
    "lawam-lam": ("lawam_lam_a/weights.safetensors", None),
    "moto-lam": ("lara_lam_a/weights.safetensors", {}),
    "oat": ("oat_a/weights.safetensors", None),
    "p2t-action-vq": ("action_tokenizer_h20_m7/weights.safetensors", {"horizon": 20}),
    "p2t-image-lam": ("univla_stage2/checkpoint.ckpt", {"heads": 3, **PIXELS}),
    "quest": ("quest_a/weights.safetensors", None),
    "univla-lam": ("univla_stage2/checkpoint.ckpt", {"heads": 3, **PIXELS}),
    "villax-lam": ("villax_lam_b/weights.safetensors", None),
    "vqbet": ("vqbet_a/weights.safetensors", None),
}
OTHERWISE = ("beast", "lary-laq")  # two tensors out of a policy; features whose width is asked for first


def opened(system: str) -> tuple[Path, dict[str, Any]]:
    name, _, file = FILES[system][0].partition("/")
    case = open_case(name)
    told = FILES[system][1]
    if told is None:
        own = case.folder / "model_config.json"
        told = {"config": json.loads(own.read_text()) if own.is_file() else case.config["model"]}
    return case.folder / file, told


def test_every_importer_is_asked():
    assert {*FILES} == {*IMPORTERS}


@pytest.mark.parametrize("system", [system for system in FILES if system not in OTHERWISE])
def test_what_is_missing_and_what_is_left_over_are_listed(system, tmp_path):
    path, told = opened(system)
    tensors = read_checkpoint(path, "state_dict" if path.suffix == ".ckpt" else None)
    last = max(tensors, key=lambda name: (name.endswith("bias"), name))  # biases tell nothing of sizes
    rest = {name: tensor.contiguous() for name, tensor in tensors.items() if name != last}
    safetensors.torch.save_file({**rest, f"{last}.more": torch.ones(1)}, tmp_path / "file.safetensors")
    listed = rf"missing {re.escape(last)}.*unexpected {re.escape(last)}\.more"
    refused(listed, IMPORTERS[system].read, tmp_path / "file.safetensors", **told)


@pytest.mark.parametrize("system", FILES)
def test_the_importer_of_another_systems_file_is_named(system):
    """What p2t-image-lam reads is said to be univla-lam, which is the same importer."""
    other = "adaworld-lam" if system != "adaworld-lam" else "lapa-laq"
    found = rf"expected a checkpoint for ({system}|univla-lam), got one for {other}\. Run: lattok convert {other}"
    refused(found, IMPORTERS[system].read, opened(other)[0], **opened(system)[1])


@pytest.mark.parametrize("system", FILES)
def test_a_file_that_is_none_is_one_line(system, tmp_path):
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("empty.pt", "nowhere.pt", "table.csv"):
        refused(name, IMPORTERS[system].read, tmp_path / name, **opened(system)[1])
