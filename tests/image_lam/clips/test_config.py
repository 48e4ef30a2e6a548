"""What a configuration of `ClipLAM` may be: anybody may have written it."""

import re

import pytest

from lattok.backbones import LoraSpec
from lattok.image_lam.base.features import IMAGENET
from lattok.image_lam.clips import ClipLAMConfig
from lattok.utils.options import flat
from tests.errors import refused
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
    ({"cameras": ()}, "`cameras`"),
    ({"cameras": "front"}, "`cameras`"),
    ({"cameras": ("x",) * 65}, "`cameras`"),
    ({"mean": (0.1, 0.2)}, "`mean`"),
    ({"mean": (0.1, 0.2, float("nan"))}, "`mean`"),
    ({"std": (0.0, 1.0, 1.0)}, "`std`"),
    ({"stride": "soon"}, "`stride`"),
    ({"action_names": ("x",) * 9}, "`action_names`"),
    ({"action_dim": 4, "horizon": 16_385}, "`action_dim`"),
    ({"absent": (3,)}, "`absent`"),
    ({"absent": (-1,)}, "`absent`"),
    ({"features_size": 20}, "`features_patch`"),
    ({"normalizers": ("a",)}, "`normalizers`"),
    ({"decoder_heads": 5}, "`decoder_heads`"),
    ({"decoder": "tall"}, "`decoder`"),
    ({"decoder_sana": {"x": 1}}, "`decoder_sana`"),
    (SANA, "`decoder_sana`"),
    (SANA | {"decoder_sana": {"x": [1]}}, "`decoder_sana: x`: expected a number or a word, got [1]"),
    (SANA | {"decoder_sana": {"x": -1}}, "`decoder_sana: x`: expected 0 to 65,536, got -1"),
    (SANA | {"decoder_sana": {"x": 65_537}}, "`decoder_sana: x`: expected 0 to 65,536, got 65537"),
    (SANA | {"decoder_sana": {"x": 1}, "decoder_output": "frame"}, "`decoder_output`"),
    ({"decoder_sees_now": False}, "`decoder_output`"),
    ({"prompt": "{word}"}, "`prompt`"),
    ({"backbone_train": "lora"}, "`backbone_train`"),
    ({"backbone_train": "none", "backbone": "x"}, "`backbone_train`"),
    ({"frame_weight": 0.0, "action_weight": 0.0}, "Nothing would be learned"),
    ({"separation_weight": 0.1, "scene_tokens": 0}, "`separation_weight`"),
]


def test_numbers_have_bounds():
    for end in (0, 1):
        numbers = {name: bounds[end] for name, bounds in BOUNDS.items()}
        assert config(**numbers).decoder.width == numbers["decoder_width"]
    for name, (least, most) in BOUNDS.items():
        for wrong in (least - 1, 1.5, "4"):
            refused(f"`{name}`: expected a whole number of at least {least}, got", config, **{name: wrong})
        if most < OPEN and name not in ("action_dim", "horizon"):
            refused(f"`{name}`: expected at most {most:,}, got {most + 1}", config, **{name: most + 1})
    assert config(latent_norm="none", latent_dim=1).latent_dim == 1


def test_what_can_be():
    assert config(cameras=("x",) * 64, action_dim=4, horizon=16_384, absent=(0, 3), features="timm:x", features_size=20)
    assert config(**SANA, decoder_sana={"a": 0, "b": 65_536, "c": None, "d": "word", "e": True, "f": 1e9})
    assert config(frame_weight=0.0).loss_weights == {"frame": 0.0, "action": 1.0}
    assert config(
        action_weight=0.0, separation_weight=0.1, decoder_sees_now=False, decoder_output="frame"
    ).loss_weights == {"frame": 1.0, "action": 0.0, "separation": 0.1}
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
    refused(re.escape(text), config, **changes)


def test_what_is_left_out_is_as_said():
    found = flat(ClipLAMConfig(("front",), 7))
    assert {name: found[name] for name in AS_SAID} == AS_SAID
    assert {name for name, value in found.items() if isinstance(value, int | float)} <= {*AS_SAID, "action_dim"}


def test_frames_of_a_clip_are_evenly_spaced():
    assert config(frames=4).gaps(9) == [0, 3, 6, 9]
    assert config(frames=4).gaps(3) == [0, 1, 2, 3]
    refused("`stride`", lambda: config(frames=4).gaps(2, " of x"))
