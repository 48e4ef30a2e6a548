"""What every published model checks of a configuration that a stranger may have written."""

import inspect
import json
import re
from dataclasses import fields, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import lattok
from lattok.convert import adaworld_lam, lapa_laq, lary_laq, lawam_lam, villax_lam
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.published import (
    AdaWorldConfig,
    AdaWorldLAM,
    LapaConfig,
    LapaLAQ,
    LaryConfig,
    LaryLAQ,
    LawamConfig,
    LawamLAM,
    VillaXConfig,
    VillaXLAM,
)
from lattok.image_lam.published.adaworld import FREQUENCIES, adaworld_config, adaworld_names
from lattok.image_lam.published.lapa import lapa_config, lapa_names, laq_names, laq_unused
from lattok.image_lam.published.lary import lary_config
from lattok.image_lam.published.lawam import PUBLISHED, lawam_config, lawam_names, lawam_unused
from lattok.image_lam.published.villax import HEADS, villax_config, villax_names
from lattok.utils.checks import LattokError
from tests.errors import refused
from tests.image_lam.published.parity import check_full_size, check_labels, key_list, open_case

DEEP: dict[str, Any] = {"space_depth": 1, "time_depth": 1, "decoder_depth": 1}
WRONG = [
    (LapaConfig, {"cameras": ("front", "wrist")}, "`cameras`"),
    (LapaConfig, {"stride": "soon"}, "`stride`"),
    (LapaConfig, {"std": (1.0, 0.0, 1.0)}, "`std`"),
    (LapaConfig, {"pixels": "bits"}, "`pixels`"),
    (LapaConfig, {"interpolation": "nearest"}, "`interpolation`"),
    (LapaConfig, {"tokens": 3}, "`tokens`"),
    (LapaConfig, {"codebook_size": 1}, "`codebook_size`"),
    (AdaWorldConfig, {"interpolation": "bicubic"}, "`interpolation`"),
    (AdaWorldConfig, {"tokens": 2}, "`tokens`"),
    (AdaWorldConfig, {"heads": 12}, "`heads`"),
    (VillaXConfig, {"pool_heads": 5}, "`pool_heads`"),
    (VillaXConfig, {"decoder_heads": 3, "decoder_width": 8}, "`decoder_heads`"),
    (LawamConfig, {"vit_heads": 5}, "`vit_heads`"),
    (LawamConfig, {"image_width": 100}, "`image_size`"),
    (LawamConfig, {"image_width": 4096}, "`image_width`"),
    (LawamConfig, {"wide_frames": "cut"}, "`wide_frames`"),
    (LawamConfig, {"vit_heads": 128}, "`vit_heads`"),
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
    assert inspect.signature(convert).parameters["stride"].default == gap


@pytest.mark.parametrize(("kind", "facts", "text"), WRONG)
def test_impossible_configurations_are_said(kind, facts, text):
    refused(re.escape(text), kind, **facts)


@pytest.mark.parametrize("kind", [AdaWorldConfig, LapaConfig, LaryConfig, LawamConfig, VillaXConfig])
def test_whole_numbers_have_bounds(kind):
    """1, but two codes where there are any, and no register; sides end at 2,048 pixels."""
    least = {"codebook_size": 1 if kind.quantizer == "none" else 2, "vit_registers": 0}
    numbers: dict[str, Any] = {field.name: least.get(field.name, 1) for field in fields(kind) if field.type is int}
    even: dict[str, Any] = {"width": 2} if kind is AdaWorldConfig else {"vit_width": 4} if kind is LawamConfig else {}
    assert kind(stride="5", **numbers | even).image_size == 1
    assert kind(stride="5", image_size=2048).image_size == 2048
    for name, number in numbers.items():
        for wrong in (number - 1, 1.5, True, "4"):
            given: dict[str, Any] = {name: wrong}
            refused(f"`{name}`: expected a whole number of at least {number}, got", kind, stride="5", **given)
    refused("`image_size`", kind, stride="5", image_size=2049)


def test_what_tensors_do_not_tell_is_as_published():
    """Of a file without them, which has one block, so that all that is missing can be listed."""
    assert adaworld_config({}) == AdaWorldConfig(decoder_depth=1, encoder_depth=1)
    refused("`heads`", adaworld_config, {FREQUENCIES: torch.empty(0)})
    assert lapa_config({"vq.cnn_encoder.2.weight": torch.empty(0, 0, 3, 3)}, None, None) == LapaConfig(**DEEP)
    found = lary_config({"vq.cnn_encoder.2.weight": torch.empty(0, 0, 3, 3)}, stride="5")
    assert found == LaryConfig(stride="5", **DEEP)
    wanted = VillaXConfig(depth=1, decoder_depth=1, decoder_heads=8, head_norms=False, decoder_head_norms=False)
    assert villax_config({}, dict.fromkeys(HEADS.values(), 8)) == wanted
    blocks = {f"vision_encoder.model.layer.{i}.norm1.weight": torch.empty(0) for i in range(12)}
    wanted = LawamConfig(encoder_depth=1, decoder_depth=1, latent_layer_norm=False, last_norm=False)
    assert lawam_config(blocks, PUBLISHED) == wanted
    assert lawam_config(blocks, PUBLISHED | {"norm_latents": False}) == replace(wanted, feature_norm="none")
    front = "vision_encoder.model.embeddings."
    narrow = {f"{front}cls_token": torch.empty(1, 1, 32), f"{front}patch_embeddings.weight": torch.empty(32, 3, 8, 8)}
    assert lawam_config(blocks | narrow, PUBLISHED) == replace(wanted, vit_width=32, vit_heads=1, patch=8)


FULL_SIZE = {  # model, its configuration by the file's keys, names and unused keys, how many parameters
    "adaworld": (AdaWorldLAM, adaworld_config, lambda c, keys: (adaworld_names(c), []), 474.7e6),
    "lapa": (LapaLAQ, lambda keys: lapa_config(keys, None, None), lambda c, k: (lapa_names(c), laq_unused(k)), 343.9e6),
    "lary": (LaryLAQ, partial(lary_config, stride="5"), lambda c, keys: (laq_names(c), laq_unused(keys)), 169.4e6),
    "lawam": (
        LawamLAM,
        partial(lawam_config, settings=PUBLISHED),
        lambda c, keys: (lawam_names(c, keys), lawam_unused(c, keys)),
        616.3e6,  # 725.1 with what is left out
    ),
    "villax": (
        VillaXLAM,
        partial(villax_config, settings=dict(zip(HEADS.values(), (8, 8, 16), strict=True))),
        lambda c, keys: (villax_names(c), []),
        201.3e6,
    ),
}


@pytest.mark.parametrize("system", FULL_SIZE)
def test_the_full_size_file_is_recognised(system):
    (kind, find, read, parameters), foreign = FULL_SIZE[system], key_list(system)
    config, parts = find(foreign), {}
    assert config == kind.config_class(**{"stride": "5"} if system == "lary" else {})
    if system == "lary":  # of its features' network only the width is asked for
        parts["features"] = FrozenFeatures("pixels", config.image_size)
        parts["features"].dim = config.width
    with torch.device("meta"):
        model = kind(config, **parts)
    names, unused = read(config, foreign)
    check_full_size(model, names, foreign, unused)
    assert sum(tensor.numel() for tensor in model.parameters()) == pytest.approx(parameters, rel=3e-3)


SMALL = {
    AdaWorldLAM: {"image_size": 32, "patch": 8, "width": 32, "heads": 2, "encoder_depth": 1, "decoder_depth": 1},
    LapaLAQ: {"image_size": 64, "patch": 8, "width": 24, "heads": 2, "head_dim": 8, **DEEP},
    LawamLAM: {"image_size": 64, "image_width": 96, "width": 32, "hidden": 128, "encoder_depth": 1, "decoder_depth": 1}
    | {"vit_width": 16, "vit_heads": 2, "vit_depth": 1, "vit_hidden": 24, "queries": 1},
    VillaXLAM: {"image_size": 56, "width": 16, "hidden": 64, "depth": 1, "pool_hidden": 8, "decoder_depth": 1},
}


@pytest.mark.parametrize("kind", SMALL)
def test_what_a_frame_takes_is_counted_and_a_fresh_model_begins_anew_with_small_weights(kind):
    """The largest output of a layer for a pair is that of two frames. What stands for places and queries is small."""
    model = kind(kind.config_class(**SMALL[kind]))
    shape, numbers = (1, model.features.count, model.features.dim), []
    for layer in model.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda layer, given, found: numbers.append(found.numel()))
    with torch.no_grad():
        model.of_pair(*(model.of_frame(torch.randn(shape)) for _ in range(2)))
    assert model.numbers_per_frame == pytest.approx(max(numbers) / 2, rel=0.03)
    fresh = model.fresh()
    assert fresh.features is model.features
    before, sizes = model.state_dict(), {"queries": 0.02, "table": 0.02, "prefix": 0.02, "places.weight": 0.1}
    for name, tensor in fresh.state_dict().items():
        size = sizes.get(".".join(name.split(".")[-2:]), sizes.get(name.rpartition(".")[2]))
        assert size is None or float(tensor.std()) == pytest.approx(size, rel=0.4)
        assert name.startswith("features.") or not tensor.std() or not torch.equal(tensor, before[name])


FILES = {
    adaworld_lam: ("adaworld_lam_a/weights.safetensors", lambda case: {"image_size": case.config["image_size"]}),
    lapa_laq: ("lapa_laq_a/weights.pt", lambda case: {}),
    lawam_lam: ("lawam_lam_a/weights.safetensors", lambda case: {"config": case.config["model"]}),
    villax_lam: ("villax_lam_b/weights.safetensors", lambda case: {}),
}


@pytest.mark.parametrize("convert", FILES)
def test_labels_depend_on_frames_alone(convert, tmp_path):
    """Not on batches, pieces, earlier calls, training mode or whether the model was saved, which needs no download."""
    folder, _, file = FILES[convert][0].partition("/")
    case = open_case(folder)
    model = convert(case.folder / file, stride="0.5s", cameras=("front",), **FILES[convert][1](case))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for stride in (1, 3):  # a block of frames just reaches 1
        check_labels(model, stride)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    again = lattok.load(model.save_pretrained(tmp_path / "lam"))
    refused("`backbone`", lattok.load, tmp_path / "lam", backbone="timm:x")
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.stride_frames(30) == 15
    frames = torch.randint(0, 256, (2, 2, 1, 40, 50, 3), dtype=torch.uint8)
    assert torch.equal(again.encode(frames).latents, model.encode(frames).latents)
    assert torch.equal(again.train().encode(frames).latents, model.encode(frames).latents)
    for wrong in (np.zeros((40, 50), np.uint8), np.zeros((2, 40, 50, 3), np.float32)):
        refused("`frames`", model.resize, wrong)


def test_a_configuration_that_asks_for_far_more_than_its_file_holds_is_refused(tmp_path):
    case = open_case("adaworld_lam_a")
    folder = adaworld_lam(case.folder / "weights.safetensors", image_size=48).save_pretrained(tmp_path / "lam")
    config = json.loads((folder / "config.json").read_text())
    for change in ({"encoder_depth": 10**6}, {"width": 2**20, "heads": 1}, {"patch": 48}):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(LattokError):
            lattok.load(folder)
    wide = {"action_prompt": torch.zeros(1, 1, 1, 192), "fc.weight": torch.zeros(2, 2**16)}
    safetensors.torch.save_file(wide, tmp_path / "wide.safetensors")
    refused("expected tensors about as large as its own", adaworld_lam, tmp_path / "wide.safetensors", image_size=48)


def test_features_of_other_shapes_are_refused():
    model = adaworld_lam(open_case("adaworld_lam_a").folder / "weights.safetensors", image_size=48)
    for shape, text in (((1, 2, 36), "[B, 2, N, D]"), ((1, 3, 36, 192), "2 frames"), ((1, 2, 35, 192), "36 patches")):
        refused(re.escape(text), model.encode_features, torch.zeros(shape))
    refused("192 channels", model.encode_features, torch.zeros(1, 2, 36, 64))
