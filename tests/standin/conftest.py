"""What tests on the stand-in accelerator share: tiny datasets, and recipes of every kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lattok
from lattok.recipes import Recipe, recipe_of
from lattok.training import loop
from lattok.types import LatentActions
from lattok.vla import STRATEGIES
from tests.accelerator import AVAILABLE, NAME, Device, standin
from tests.image_lam.clips.fakes import SIZES as CLIP
from tests.image_lam.clips.fakes import clip_lam
from tests.recipes.policies import SIZES as POLICY
from tests.recipes.policies import annotated


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.accelerator)
            item.add_marker(pytest.mark.ci)
            item.add_marker(pytest.mark.skipif(not AVAILABLE, reason="this torch has no devices in Python"))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    """The stand-in, with the optimiser of the CPU: one call for all parameters."""
    monkeypatch.setattr(loop, "FUSED", (*loop.FUSED, NAME))
    with standin() as lent:
        yield lent


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`annotated`, a dataset with labels and tokens; the models that made them; a teacher of clips."""
    place = tmp_path_factory.mktemp("standin")
    annotated(place)
    clip_lam(interpolation="bilinear").save_pretrained(place / "teacher")
    policy: dict[str, Any] = {**POLICY, "backbone": "scratch", "steps": 1, "batch_size": 4, "device": "cpu"}
    student = lattok.LatBotRecipe.from_preset(
        place / "data", place / "student", teacher=str(place / "teacher"), **policy
    )
    lattok.train(student)
    bins: dict[str, Any] = {"horizon": 4, "bins": 8}
    lattok.train(lattok.recipe_for(lattok.UniformBins).from_preset(place / "data", place / "bins", **bins))
    return place


LAM = {"features": "pixels", "image_size": 16, "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1}
LAM |= {"codebook_size": 4, "latent_dim": 8, "stride": "3", "interpolation": "bilinear"}
IDM = {"features": "pixels", "image_size": 16, "channels": (8,), "latent_dim": 4, "hidden": 8, "members": 2}
ALL_OF_IDM = {f"loss_{name}": 0.1 for name in ("flow", "forward", "kl", "reversal")}
VLA = {**POLICY, "backbone": "scratch"}
HELD = {f"image_encoder_{name}": size for name, size in (("width", 8), ("depth", 1), ("heads", 2), ("hidden", 16))}
LEVELS = {"dim": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1}
SIZES: dict[str, tuple[str, dict[str, Any]]] = {  # recipe, options
    "action-vq": ("action-vq", {"preset": "quick", "dim": 8, "codebook_size": 5}),
    "action-vq, masked": (
        "action-vq",
        {"preset": "quick", "dim": 8, "codebook_size": 5, "mask_weight": 0.1, "perturb": 0.3, "balance": 0.1},
    ),
    "action-vq, context": ("action-vq", {"preset": "quick+context", "dim": 8, "codebook_size": 5}),
    "fsq": ("fsq", {"tokens": 2, "codebook_size": 4, "synthetic": 20, "hidden": 8, "perturb": 0.3}),
    "oat": ("oat", {**LEVELS, "perturb": 0.3}),
    "quest": ("quest", LEVELS),
    "vqbet": ("vqbet", {"dim": 16, "hidden": 8, "perturb": 0.3}),
    "beast": ("beast", {}),
    "residual-vq": ("residual-vq", {"tokens": 2, "codebook_size": 4, "synthetic": 20}),
    "fast": ("fast", {"vocab_size": 300}),
    "toast": ("toast", {"vocab_size": 300}),
    "uniform-bins": ("uniform-bins", {"bins": 8}),
    "idm": ("idm", {"preset": "tiny", **IDM, "task_given": True, "proprio": True, **ALL_OF_IDM}),
    "idm, reversible": ("idm", {"preset": "tiny", **IDM, "reversible": 1, "task_given": True, "proprio": True}),
    "image-lam": ("image-lam", {"preset": "tiny", **LAM}),
    "image-lam, p2t": ("image-lam", {"preset": "tiny+p2t", **LAM, "latent_dim": 4, "codebook_continuous_steps": 0}),
    "image-lam, robust": ("image-lam", {"preset": "tiny+robust", **LAM, "codebook_continuous_steps": 2}),
    "image-lam, flow": ("image-lam", {"preset": "tiny+robust+flow", **LAM, "codebook_continuous_steps": 2}),
    "image-lam, shared": ("image-lam", {"preset": "tiny+shared", **LAM, "codebook_continuous_steps": 2}),
    "moto-lam": ("moto-lam", {"preset": "tiny", **LAM, "features": "held", **HELD}),
    "clip-lam": ("clip-lam", {"preset": "tiny", **CLIP}),
    "clip-lam, known actions": ("clip-lam", {"preset": "tiny", **CLIP, "action_episodes": "0:2"}),
    "vla, flow": ("vla", {**VLA, "head": "flow"}),
    "vla, tokens": ("vla", {**VLA, "head": "tokens", "tokenizer": "bins"}),
    "vla, tokens in turn": ("vla", {**VLA, "head": "tokens", "tokenizer": "bins", "head_order": "autoregressive"}),
    "lara": ("lara", {**VLA, "lam": "lam", "interpolation": "bicubic", "align_weight": 0.3, "lam_weight": 0.3}),
    "latbot": ("latbot", {**VLA, "teacher": "teacher"}),
    "latbot, finetune": ("latbot", {"phase": "finetune", "student": "student"}),
    **{f"vla, {name}": ("vla", {**VLA, "strategy": name}) for name in STRATEGIES},
}
ON_CPU = ("fast", "toast", "uniform-bins", "beast", "residual-vq")  # fitted with numpy or in closed form: no device


def make(kind: str, folder: Path, out: Path, device: str, **options: Any) -> Recipe[Any]:
    """A short run."""
    name, sizes = SIZES[kind]
    recipe: Any = recipe_of(name)
    known = recipe.option_types()
    given = {**sizes, "seed": 0, "steps": 5, "batch_size": 4, "log_every": 5, "device": device, **options}
    given |= {"horizon": 4} if "horizon" in known and name not in ("clip-lam", "latbot") else {}
    given |= {key: str(folder / given[key]) for key in ("lam", "teacher", "student", "tokenizer") if key in given}
    preset = given.pop("preset", None)
    data = None if "mix" in given else folder / ("annotated" if name in ("vla", "lara") else "data")
    return recipe.from_preset(data, out, preset, **{key: v for key, v in given.items() if key in known})


def on_host(model: Any) -> dict[str, Tensor]:
    """A model's tensors on the CPU."""
    return {name: tensor.detach().cpu() for name, tensor in model.saved_tensors().items()}


def plain(value: Any) -> Any:
    """Labels of frames as dictionaries, through which torch and `assert_same` walk."""
    if isinstance(value, LatentActions):
        return {name: plain(part) for name, part in vars(value).items()}
    return value


def assert_same(got: Any, expected: Any, what: str = "") -> None:
    """Bit for bit, wherever the tensors are."""
    got, expected = plain(got), plain(expected)
    if isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for name, one in expected.items():
            assert_same(got[name], one, name)
    elif isinstance(expected, tuple | list):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other, what)
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(got, expected, what)
    elif isinstance(expected, Tensor):
        torch.testing.assert_close(
            got.detach().cpu(), expected.detach().cpu(), rtol=0, atol=0, equal_nan=True, msg=what
        )
    else:
        assert got == expected, what
