"""What a configuration of `ClipLAM` may be: anybody may have written it."""

import re

import pytest

from lattok import LattokError
from lattok.backbones import LoraSpec
from lattok.image_lam.base.features import IMAGENET
from lattok.image_lam.clips import ClipLAMConfig
from lattok.utils.options import flat
from tests.image_lam.clips.fakes import config

OPEN = 10**6  # without an upper bound
BOUNDS = {"frames": (2, 256), "scene_tokens": (0, 4096), "motion_tokens": (1, 4096), "latent_dim": (2, 65_536)}
BOUNDS |= dict.fromkeys(("image_size", "features_size", "features_patch"), (1, 2048))
BOUNDS |= {
    "decoder_flow_steps": (1, 1000),
    "action_dim": (1, 65_536),
    "horizon": (1, 1),
    "backbone_lora_rank": (1, OPEN),
}
BOUNDS |= dict.fromkeys(("backbone_width", "backbone_depth", "backbone_heads", "backbone_patch_size"), (1, OPEN))
BOUNDS |= dict.fromkeys(("decoder_width", "decoder_depth", "decoder_heads"), (1, OPEN))
# by the paper, or by docs/decisions/clips.md and docs/howto/latbot.md
AS_SAID = {"frames": 16, "stride": "15", "horizon": 15, "scene_tokens": 64, "motion_tokens": 64, "latent_dim": 128}
AS_SAID |= {"latent_norm": "layer", "image_size": 224, "features_size": 224, "features_patch": 16, "features": "pixels"}
AS_SAID |= {
    "backbone_train": "lora",
    "backbone_lora_rank": 64,
    "backbone_lora_alpha": 16,
    "backbone_lora_dropout": 0,
    "backbone_lora_vision": False,
}
AS_SAID |= {"backbone_lora_projector": False, "backbone_gradient_checkpointing": False, "backbone_dtype": "float32"}
AS_SAID |= {
    "backbone_width": 128,
    "backbone_depth": 4,
    "backbone_heads": 4,
    "backbone_patch_size": 16,
    "interpolation": "bicubic",
}
AS_SAID |= {
    "decoder": "compact",
    "decoder_sees_now": True,
    "decoder_exchange": True,
    "decoder_output": "change",
    "decoder_flow_steps": 10,
}
AS_SAID |= {"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 8, "mean": IMAGENET[0], "std": IMAGENET[1]}
AS_SAID |= {"frame_weight": 1, "action_weight": 1, "separation_weight": 0}
AS_SAID |= {"normalize": "quantile", "normalize_clip": False}
SANA = {"decoder": "sana:x", "decoder_output": "velocity"}
WRONG = [
    ({"cameras": ()}, "`cameras`: expected a whole number of at least 1, got 0"),
    ({"cameras": "front"}, "`cameras`: expected a value of type tuple[str, ...], got 'front'"),
    ({"cameras": ("x",) * 65}, "`cameras`: expected at most 64, got 65"),
    ({"mean": (0.1, 0.2)}, "`mean`: expected 3 numbers, one per colour, got 2"),
    ({"mean": (0.1, 0.2, float("nan"))}, "`mean`: expected numbers between -1000 and 1000"),
    ({"std": (0.0, 1.0, 1.0)}, "`std`: expected numbers from 0.001 on"),
    ({"stride": "soon"}, "`stride`: expected a number of frames"),
    ({"action_names": ("x",) * 9}, "`action_names`: expected 3 names, one for each dimension, or none, got 9"),
    ({"action_dim": 4, "horizon": 16_385}, "`action_dim`: expected at most 65,536 numbers in a chunk, got 16385 steps"),
    ({"absent": (3,)}, "`absent`: expected dimensions from 0 to 2, got (3,)"),
    ({"absent": (-1,)}, "`absent`: expected dimensions from 0 to 2, got (-1,)"),
    ({"features_size": 20}, "`features_patch`: expected a divisor of features_size 20, got"),
    ({"normalizers": ("a",)}, "`normalizers`: expected none, or different names of datasets, got a"),
    ({"normalize": "half"}, "`normalize`: expected one of"),
    ({"latent_norm": "batch"}, "`latent_norm`: expected one of layer, none"),
    ({"interpolation": "nearest"}, "`interpolation`: expected one of bicubic, bilinear"),
    ({"decoder_heads": 5}, "`decoder_heads`: expected a divisor of decoder_width 32, got 5"),
    ({"decoder": "tall"}, '`decoder`: expected "compact" or "sana:MODEL", got \'tall\''),
    (
        {"decoder_sana": {"x": 1}},
        "`decoder_sana`: expected sizes of a transformer with decoder=sana:MODEL, and only there",
    ),
    (SANA, "`decoder_sana`: expected sizes of a transformer with decoder=sana:MODEL, and only there"),
    (SANA | {"decoder_sana": {"x": [1]}}, "`decoder_sana: x`: expected a number or a word, got [1]"),
    (SANA | {"decoder_sana": {"x": -1}}, "`decoder_sana: x`: expected 0 to 65,536, got -1"),
    (SANA | {"decoder_sana": {"x": 65_537}}, "`decoder_sana: x`: expected 0 to 65,536, got 65537"),
    (
        SANA | {"decoder_sana": {"x": 1}, "decoder_output": "frame"},
        "`decoder_output`: expected velocity with SANA as the decoder",
    ),
    ({"decoder_output": "noise"}, "`decoder_output`: expected one of change, frame, velocity"),
    (
        {"decoder_sees_now": False},
        "`decoder_output`: expected frame or velocity with decoder_sees_now=False, got 'change'",
    ),
    ({"prompt": "{word}"}, "`prompt`: expected a text with {task} at most"),
    ({"backbone_train": "lora"}, "`backbone_train`: expected one of full"),
    (
        {"backbone_train": "none", "backbone": "x"},
        "`backbone_train`: expected one of lora, full, all_but_vision, frozen",
    ),
    ({"backbone_dtype": "float16"}, "`backbone_dtype`: expected one of float32, bfloat16"),
    ({"frame_weight": -0.1}, "`frame_weight`: expected a number of at least 0"),
    ({"action_weight": -0.1}, "`action_weight`: expected a number of at least 0"),
    ({"separation_weight": -0.1}, "`separation_weight`: expected a number of at least 0"),
    ({"frame_weight": 0.0, "action_weight": 0.0}, "Nothing would be learned"),
    ({"separation_weight": 0.1, "scene_tokens": 0}, "`separation_weight`: expected 0 with scene_tokens=0"),
]


def test_numbers_have_bounds():
    for end in (0, 1):
        numbers = {name: bounds[end] for name, bounds in BOUNDS.items()}
        assert config(**numbers).decoder.width == numbers["decoder_width"]
    for name, (least, most) in BOUNDS.items():
        for wrong in (least - 1, 1.5, "4"):
            with pytest.raises(LattokError, match=f"`{name}`: expected a whole number of at least {least}, got"):
                config(**{name: wrong})
        if most < OPEN and name not in ("action_dim", "horizon"):
            with pytest.raises(LattokError, match=f"`{name}`: expected at most {most:,}, got {most + 1}"):
                config(**{name: most + 1})
    assert config(latent_norm="none", latent_dim=1).latent_dim == 1


def test_what_can_be():
    assert config(cameras=("x",) * 64, action_dim=4, horizon=16_384, absent=(0, 3), features="timm:x", features_size=20)
    assert config(**SANA, decoder_sana={"a": 0, "b": 65_536, "c": None, "d": "word", "e": True, "f": 1e9})
    assert config(frame_weight=0.0).loss_weights == {"frame": 0.0, "action": 1.0}
    assert config(
        action_weight=0.0, separation_weight=0.1, decoder_sees_now=False, decoder_output="frame"
    ).loss_weights == {
        "frame": 1.0,
        "action": 0.0,
        "separation": 0.1,
    }
    given = config(
        backbone_lora_rank=2,
        backbone_lora_alpha=3.0,
        backbone_lora_dropout=0.5,
        backbone_lora_vision=True,
        backbone_lora_projector=True,
    )
    assert given.backbone.lora == LoraSpec(2, 3.0, 0.5, True, True)


@pytest.mark.parametrize(("changes", "text"), WRONG)
def test_what_cannot_be_is_refused(changes, text):
    with pytest.raises(LattokError, match=re.escape(text)):
        config(**changes)


def test_what_is_left_out_is_as_said():
    found = flat(ClipLAMConfig(("front",), 7))
    assert {name: found[name] for name in AS_SAID} == AS_SAID
    assert {name for name, value in found.items() if isinstance(value, int | float)} <= {*AS_SAID, "action_dim"}


def test_frames_of_a_clip_are_evenly_spaced():
    assert config(frames=4).gaps(9) == [0, 3, 6, 9]
    assert config(frames=4).gaps(3) == [0, 1, 2, 3]
    text = "`stride`: expected at least 3 frames, since a clip has 4 of them, got 2 of x"
    with pytest.raises(LattokError, match=text):
        config(frames=4).gaps(2, " of x")
