"""Counted bytes: shapes alone give those of real numbers, and the page and `doctor` say what the table says."""

import gc
import json
import re
import tempfile
from pathlib import Path

import pytest
import torch

from lattok.cli import doctor, main
from lattok.cli.doctor import COUNTED, parts_that_fit
from tests.accelerator import NAME, Device, standin

pytest.importorskip("transformers")
from benchmarks.speed import memory

ROOT = Path(__file__).parents[2]
TABLE = json.loads(COUNTED.read_text())


def peak(kind: str, preset: str, samples: int, values: bool) -> float:
    """Bytes of a step of a preset, the second of a run."""
    recipe = memory.recipe_of(kind).from_preset("data", "out", preset)  # type: ignore[union-attr]
    with standin(values) as device:
        found = memory.count(device, memory.FAMILIES[kind][0](recipe), "no", (samples, 2 * samples))
    return found["fixed"] + samples * found["sample"]


def test_the_bytes_of_shapes_are_those_of_numbers_and_of_the_table():
    kind, preset = "idm", "tiny"
    entry, samples = TABLE[f"{kind}/{preset}"], 16
    counted = peak(kind, preset, samples, values=False)
    assert peak(kind, preset, samples, values=True) == pytest.approx(counted, rel=0.02)
    assert entry["no"]["fixed"] + samples * entry["no"]["sample"] == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize("name", TABLE)
def test_presets_of_the_table_can_be_typed(name: str):
    kind, _, words = name.partition("/")
    memory.recipe_of(kind).from_preset("data", "out", words.split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TABLE if name.partition("/")[0] in memory.FAMILIES])
def test_the_command_counts_what_the_table_says(name: str):
    found = memory.measured(*name.split("/"))
    for precision in ("no", "bf16"):
        got, said = (
            each[precision]["fixed"] + each["batch"] * each[precision]["sample"] for each in (found, TABLE[name])
        )
        assert got == pytest.approx(said, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vla/scratch", "clip-lam/tiny"])
def test_models_without_a_base_model_take_what_the_table_says(name: str, tmp_path: Path):
    found = memory.over_layers(name, memory.opener(tmp_path), 1, 1, "bf16")
    assert found == pytest.approx(TABLE[name]["bf16"], rel=0.1)


@pytest.mark.slow
def test_layers_of_a_policy_add_up():
    from benchmarks.speed.vla_models import NARROW

    tower = {"hidden_size": 32, "intermediate_size": 64, "num_heads": 2}
    with standin(values=False) as device, tempfile.TemporaryDirectory() as folder:
        opened = memory.opener(Path(folder), NARROW, tower)
        expected = memory.count(device, memory.over_base("vla/libero", opened, 10, 8), "no", memory.MANY)
        gc.collect()
        found = memory.over_layers("vla/libero", opened, 10, 8, "no")
    assert found == pytest.approx(expected, rel=0.02)


def test_live_bytes_are_those_of_storages(device: Device):
    before = device.live
    x = torch.zeros(1000, device=NAME)
    y = x[:500].view(5, 100)  # shares them
    z = x + 1
    assert device.live - before == 8000
    del x, z
    assert device.live - before == 4000
    del y
    assert device.live == before


def test_the_page_has_the_table():
    page = ROOT / "docs" / "hardware.md"
    assert memory.written(page.read_text(), TABLE) == page.read_text()


def test_doctor_says_whether_a_preset_fits(
    device: Device, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor, "PROBES", ())
    assert main(["doctor", "--preset", "image-lam/small+robust+flow"]) == 0
    said = capsys.readouterr().out
    assert "preset image-lam/small+robust+flow" in said
    parts = parts_that_fit(TABLE["image-lam/small+robust+flow"], "no", 24e9)  # the stand-in says that it has 24 GB
    assert f"{NAME}:0" in said
    assert parts is not None
    assert ("fits" if parts == 1 else f"--accumulate {parts}") in said
    assert re.findall(r"^ +(\d+ GB)  +(.*)$", said, re.MULTILINE) == [(f"{s} GB", "fits") for s in (24, 48, 80)] * 2
    assert main(["doctor", "--preset", "image-lam/libero"]) == 0
    said = re.findall(r"^ +(24|48) GB  +(.*)$", capsys.readouterr().out, re.MULTILINE)
    assert said == [
        (size, says) for n in (4, 2) for size, says in (("24", f"fits with --accumulate {n}"), ("48", "fits"))
    ]
    assert main(["doctor", "--preset", "image-lam/large"]) == 1
    assert "`preset`: expected one of action-vq/p2t" in capsys.readouterr().out


def test_parts_divide_the_batch():
    entry = {"batch": 12, "no": {"fixed": 1e9, "sample": 1e9}}
    assert [parts_that_fit(entry, "no", room * 1e9) for room in (16, 14, 8, 5, 4, 3)] == [1, 2, 3, 6, 12, None]
