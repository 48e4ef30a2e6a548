"""Tiny frozen networks in local folders, as timm and transformers read them. Random weights, no downloads."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

SMALL = {"embed_dim": 24, "depth": 2, "num_heads": 2}


def random_timm(architecture: str, size: int = 32, **arguments: Any) -> dict[str, torch.Tensor]:
    """Random weights of a timm network, the same at every call."""
    network = timm.create_model(architecture, num_classes=0, img_size=size, dynamic_img_size=False, **arguments)
    draw = torch.Generator().manual_seed(3)
    return {name: torch.randn(x.shape, generator=draw) * 0.3 for name, x in network.state_dict().items()}


def local_timm(
    folder: Path,
    architecture: str,
    weights: dict[str, torch.Tensor] | None = None,
    facts: dict[str, Any] | None = None,
    **arguments: Any,
) -> str:
    """A folder that timm reads like a repository of the Hub; its name as features."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = random_timm(architecture, **arguments) if weights is None else weights
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    config = {"architecture": architecture, "num_classes": 0, "model_args": arguments, "pretrained_cfg": facts or {}}
    (folder / "config.json").write_text(json.dumps(config))
    return f"timm:local-dir:{folder}"


def transformers_with_vjepa() -> Any:
    """The package, where it is and knows V-JEPA 2."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "VJEPA2Model"):
        pytest.skip("transformers without V-JEPA 2")
    return transformers


def local_vjepa(folder: Path) -> str:
    """A random V-JEPA 2 as transformers saves it; its name as features."""
    transformers = transformers_with_vjepa()
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2, "mlp_ratio": 2}
    sizes |= {"pred_hidden_size": 12, "pred_num_attention_heads": 1, "pred_num_hidden_layers": 1}
    config = transformers.VJEPA2Config(crop_size=64, frames_per_clip=4, pred_num_mask_tokens=1, **sizes)
    transformers.VJEPA2Model(config).save_pretrained(folder)
    return f"hf:{folder}"
