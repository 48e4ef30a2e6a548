"""Fixtures of published latent action models with architectures of their own, and what tests of them share."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor

from lattok.hub.checkpoint import Join, KeyMap
from lattok.image_lam.base.pair_model import PairModel
from lattok.types import LatentActions, join

ROOT = Path(__file__).parents[3]
SHARED = ROOT.parent / "shared" / "parity"
PLACES = (ROOT / "tests" / "parity", SHARED)  # the second: what is over 1 MB, and all stages


class Case(NamedTuple):
    """One fixture."""

    folder: Path
    config: dict[str, Any]
    values: dict[str, Tensor]


def open_case(name: str) -> Case:
    """A fixture by its name."""
    folder = next((place / name for place in PLACES if (place / name).is_dir()), None)
    if folder is None:
        pytest.skip(f"{name} is not in this checkout")
    config = json.loads((folder / "config.json").read_text())
    return Case(folder, config, safetensors.torch.load_file(folder / "io.safetensors"))


def close(got: Tensor, expected: Tensor, atol: float = 2e-5, rtol: float = 1e-4) -> None:
    """Equal within the tolerances of the fixtures."""
    torch.testing.assert_close(got.detach().reshape(expected.shape), expected, atol=atol, rtol=rtol)


def key_list(system: str) -> dict[str, Tensor]:
    """Every key of a full-size file with its shape, as tensors without values; `{4}` stands for the numbers 0 to 3."""
    lists = json.loads((PLACES[0] / "zoo_keys.json").read_text())
    found = {}
    for key, shape in lists[system].items():
        head, _, tail = key.partition("{")
        count, _, tail = tail.partition("}")
        for name in (f"{head}{i}{tail}" for i in range(int(count or 1))) if tail else (key,):
            found[name] = torch.empty(shape, device="meta")
    return found


def check_full_size(model: PairModel, names: KeyMap, foreign: dict[str, Tensor], unused: list[str]) -> None:
    """Every tensor of a full-size model, built without memory, is made of keys of the file, and all keys are used."""
    ours = {name: tensor.shape for name, tensor in model.saved_tensors().items()}
    sources = {name: source if isinstance(source, Join) else Join((source,)) for name, source in names.items()}
    made = {name: source.make(*(foreign[key] for key in source.keys)).shape for name, source in sources.items()}
    assert made == ours
    assert {key for source in sources.values() for key in source.keys} | set(unused) == foreign.keys()


def check_labels(model: PairModel, stride: int = 3) -> None:
    """The same labels in one video, in pieces, pair by pair and in pairs in other batches."""
    generator = torch.Generator().manual_seed(5)
    video = torch.randint(0, 256, (37, 1, 40, 52, 3), dtype=torch.uint8, generator=generator)
    whole = model.label_video(video, stride)
    pieces = model.label_video((part.numpy() for part in video.split(10)), stride)
    later = video[torch.arange(len(video)).add(stride).clamp(max=len(video) - 1)]
    pairs = torch.stack([video, later], 1)
    for other in (pieces, model.encode(pairs[:7]), _one_by_one(model, pairs[:5]), model.encode(pairs)):
        count = len(other.latents)
        assert torch.equal(other.codes, whole.codes[:count])
        close(other.latents, whole.latents[:count])
    assert torch.equal(pieces.latents, whole.latents)
    assert whole.codes.shape == (37, 0 if model.codebook_size is None else model.config.tokens)


def _one_by_one(model: PairModel, pairs: Tensor) -> LatentActions:
    return join([model.encode(pair[None]) for pair in pairs])
