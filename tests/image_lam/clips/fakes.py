"""Small models of clips, and batches for them."""

from pathlib import Path
from typing import Any

import torch

from lattok.image_lam.clips import ClipLAM, ClipLAMConfig
from lattok.types import PolicyBatch
from lattok.utils.options import built, options_of
from tests.conftest import CAMERAS

SIZES: dict[str, Any] = {
    "frames": 3,
    "stride": "4",
    "horizon": 4,
    "scene_tokens": 2,
    "motion_tokens": 3,
    "latent_dim": 8,
    "image_size": 16,
    "backbone_patch_size": 8,
    "backbone": "scratch",
    "backbone_train": "full",
    "prompt": "{task}",
    "backbone_width": 32,
    "backbone_depth": 2,
    "backbone_heads": 4,
    "features_size": 16,
    "features_patch": 8,
    "decoder_width": 32,
    "decoder_depth": 2,
    "decoder_heads": 4,
}

SANA_CHANNELS = 8


def config(**changes: Any) -> ClipLAMConfig:
    assert changes.keys() <= {option.name for option in options_of(ClipLAMConfig)}
    return built(ClipLAMConfig, {"cameras": CAMERAS, "action_dim": 3, **SIZES, **changes})


def clip_lam(seed: int = 0, **changes: Any) -> ClipLAM:
    torch.manual_seed(seed)
    return ClipLAM.build(config(**changes)).eval()


def decoded(model: Any, scene: torch.Tensor, motion: torch.Tensor, **given: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return model(latents=(scene, motion), **given)


def sana_pipeline(folder: Path) -> Path:
    """A folder as a pipeline of diffusers has them: `transformer` and `vae`, with safetensors."""
    import diffusers

    torch.manual_seed(0)
    stages = {"block_out_channels": (8, 16, 16), "qkv_multiscales": ((), (), ())}
    options = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in stages.items()}
    options |= {"encoder_layers_per_block": (1, 1, 1), "decoder_layers_per_block": (1, 1, 1)}
    vae = diffusers.AutoencoderDC(latent_channels=SANA_CHANNELS, attention_head_dim=8, scaling_factor=0.5, **options)
    vae.save_pretrained(folder / "vae")
    diffusers.SanaTransformer2DModel(
        in_channels=SANA_CHANNELS,
        out_channels=SANA_CHANNELS,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=12,
        sample_size=4,
    ).save_pretrained(folder / "transformer")
    return folder


def sana_options(pipeline: Path) -> dict[str, Any]:
    return {"decoder": f"sana:{pipeline}", "features": f"dc-ae:{pipeline}", "decoder_output": "velocity"}


def pixels(*shape: int, seed: int = 1, side: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, side, side, 3), generator=generator).to(torch.uint8)


def batch(count: int = 4, valid: torch.Tensor | None = None) -> PolicyBatch:
    actions = torch.randn(count, 4, 3, generator=torch.Generator().manual_seed(2))
    valid = torch.ones(count, 4, dtype=torch.bool) if valid is None else valid
    texts = ["open it", "close the drawer", "lift", "push"][:count]
    return PolicyBatch(pixels(count, 2), texts, None, actions, valid, later=pixels(count, 2, 2, seed=3))
