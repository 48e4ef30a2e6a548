"""What every published model checks of a configuration that a stranger may have written."""

from __future__ import annotations

import inspect
import json
import re

import pytest
import torch

import lattok
from lattok.cli import CONVERT
from lattok.convert import (
    adaworld_lam,
    lapa_laq,
    lary_laq,
    lawam_lam,
    moto_lam,
    p2t_image_lam,
    univla_lam,
    villax_lam,
)
from lattok.image_lam.published import AdaWorldConfig, LapaConfig, LaryConfig, LawamConfig, VillaXConfig
from lattok.utils.checks import LattokError
from tests.image_lam.published.parity import open_case

WRONG = [
    (
        LapaConfig,
        {"cameras": ("front", "wrist")},
        "`cameras`: expected 1 name: published models see one camera",
    ),
    (LapaConfig, {"stride": "soon"}, "`stride`: expected a number of frames"),
    (LapaConfig, {"std": (1.0, 0.0, 1.0)}, "`std`: expected numbers from 0.001 on"),
    (LapaConfig, {"pixels": "bits"}, "`pixels`: expected one of unit, bytes, normalized, got 'bits'"),
    (
        LapaConfig,
        {"interpolation": "nearest"},
        "`interpolation`: expected one of bicubic, bilinear, bicubic_al",
    ),
    (LapaConfig, {"tokens": 3}, "`tokens`: expected one of 1, 2, 4, 16, 64, 256, got 3."),
    (LapaConfig, {"codebook_size": 1}, "`codebook_size`: expected a whole number of at least 2, got 1."),
    (AdaWorldConfig, {"interpolation": "bicubic"}, "`interpolation`: expected one of bicubic_aliased, got 'bicubic'"),
    (AdaWorldConfig, {"tokens": 2}, "`tokens`: expected one of 1, got 2"),
    (AdaWorldConfig, {"heads": 12}, "`heads`: expected a divisor of half the width 1024, got 12."),
    (VillaXConfig, {"pool_heads": 5}, "`pool_heads`: expected a divisor of the width 768, got 5."),
    (LawamConfig, {"wide_frames": "cut"}, "`wide_frames`: expected one of crop, squeeze, got 'cut'"),
    (LawamConfig, {"vit_heads": 128}, "`vit_heads`: expected heads of 768 channels that are multiples of 4 wide"),
]


# gap, side, range of pixels, interpolation, mean of the first colour, as the authors' code has them
AS_PUBLISHED = {
    "lapa-laq": (lapa_laq, LapaConfig, ("30", 256, "unit", "bilinear", 0.0)),
    "lary-laq": (lary_laq, LaryConfig, (None, 224, "unit", "bicubic_aliased", 0.5)),
    "lawam-lam": (lawam_lam, LawamConfig, ("1.6s", 256, "normalized", "bilinear", 0.485)),
    "villax-lam": (villax_lam, VillaXConfig, ("1", 224, "bytes", "bilinear", 0.485)),
    "adaworld-lam": (adaworld_lam, AdaWorldConfig, ("2", 256, "unit", "bicubic_aliased", 0.0)),
}


@pytest.mark.parametrize("system", AS_PUBLISHED)
def test_what_no_file_holds_is_as_published_in_class_importer_and_command(system):
    convert, kind, wanted = AS_PUBLISHED[system]
    gap = wanted[0]
    config = kind(**({"stride": "5"} if gap is None else {}))
    found = (config.stride, config.image_size, config.pixels, config.interpolation, config.mean[0])
    assert found == (gap or "5", *wanted[1:])
    in_python, typed = (inspect.signature(each).parameters for each in (convert, CONVERT[system]))
    assert in_python["stride"].default == gap
    shared = (in_python.keys() & typed.keys()) - {"config"}
    assert {name: in_python[name].default for name in shared} == {name: typed[name].default for name in shared}
    assert in_python.keys() - {"path"} == typed.keys() - {"file", "out"}


@pytest.mark.parametrize(("kind", "facts", "text"), WRONG)
def test_impossible_configurations_are_said(kind, facts, text):
    with pytest.raises(LattokError, match=re.escape(text)):
        kind(**facts)


def test_a_configuration_that_asks_for_far_more_than_its_file_holds_is_refused(tmp_path):
    case = open_case("adaworld_lam_a")
    folder = adaworld_lam(case.folder / "weights.safetensors", image_size=48).save_pretrained(tmp_path / "lam")
    config = json.loads((folder / "config.json").read_text())
    for change in ({"encoder_depth": 10**6}, {"width": 2**20, "heads": 1}, {"patch": 48}):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(LattokError):
            lattok.load(folder)


def test_features_of_other_shapes_are_refused():
    model = adaworld_lam(open_case("adaworld_lam_a").folder / "weights.safetensors", image_size=48)
    for shape, text in (((1, 2, 36), "[B, 2, N, D]"), ((1, 3, 36, 192), "2 frames"), ((1, 2, 35, 192), "36 patches")):
        with pytest.raises(LattokError, match=re.escape(text)):
            model.encode_features(torch.zeros(shape))
    with pytest.raises(LattokError, match="192 channels"):
        model.encode_features(torch.zeros(1, 2, 36, 64))


@pytest.mark.parametrize("convert", [univla_lam, p2t_image_lam, moto_lam])
def test_other_importers_name_the_system_of_a_file_too(convert):
    kind = convert.__name__.replace("_", "-")
    text = f"expected a checkpoint for {kind}, got one for adaworld-lam. Run: lattok convert adaworld-lam."
    with pytest.raises(LattokError, match=re.escape(text)):
        convert(open_case("adaworld_lam_a").folder / "weights.safetensors")
