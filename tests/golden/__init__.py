"""A small artefact of every family as each release saved it, what it gives for fixed input, and its identity.

Later versions must load it and give the same. `scripts/make_golden.py` adds those of a release.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from lattok.types import InfersActions, lacks
from lattok.utils import files
from lattok.version import __version__
from tests.fuzz_artefacts import small_models

HERE = Path(__file__).parent
GIVES, IDENTITY = "gives.safetensors", "identity.json"
HASHES = ("type", "config_sha256", "weights_sha256")


def add(version: str = ".".join(__version__.split(".")[:2])) -> Path:
    """Store the artefacts of this version that are not there yet; those of a release never change again."""
    for name, model in small_models(4).items():
        if (HERE / version / name).exists():
            continue
        folder = model.eval().save_pretrained(HERE / version / name)
        save_file(gives(model), folder / GIVES)
        files.write_json(folder / IDENTITY, identity(model))
    return HERE / version


def stored() -> list[Path]:
    """Return the folders of all artefacts."""
    return sorted(path.parent for path in HERE.glob(f"*/*/{IDENTITY}"))


def expected(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return what an artefact gave, and its identity."""
    return load_file(folder / GIVES), files.read_json(folder / IDENTITY)


def identity(model: Any) -> dict[str, Any]:
    """Return what provenance knows a model by."""
    described = model.describe()
    return {name: described[name] for name in HASHES}


@torch.no_grad()
def gives(model: Any) -> dict[str, torch.Tensor]:
    """Return what a model makes of fixed input: no random numbers, since those differ between versions of torch."""
    if model.type == "p2t-released-vla":  # it needs hidden states of a backbone
        return {"loads": torch.ones(1)}
    if model.type == "latent-vla":
        shapes = zip(model.config.cameras, model.config.camera_sizes, strict=True)
        seen: dict[str, Any] = {key: (wave(1, 3, *size) + 1) / 2 for key, size in shapes}
        seen |= {model.config.state_key: wave(1, model.config.proprio_dim), "task": ["open the drawer"]}
        return {"chunk": model.predict_chunk(seen)}
    if model.label_source == "video":
        video = ((wave(5, len(model.cameras), 16, 16, 3) + 1) * 127).to(torch.uint8)
        if not lacks(model, InfersActions):
            states = {"states": wave(5, model.config.state_dim)} if model.state_key else {}
            read = model.infer_actions(video, 1, **states)._asdict()
            return {name: torch.as_tensor(read[name]) for name in ("actions", "spread", "latents")}
        labels = model.label_video(video.numpy(), 1)
        return {"codes": torch.as_tensor(labels.codes), "latents": torch.as_tensor(labels.latents)}
    codes = model.encode(wave(3, model.horizon, model.action_dim))
    return {"codes": codes, "chunks": model.decode(codes)}


def wave(*shape: int) -> torch.Tensor:
    """Numbers from -1 to 1 that are the same everywhere."""
    return torch.from_numpy(np.sin(np.arange(np.prod(shape)) * 0.7).astype("float32").reshape(shape))
