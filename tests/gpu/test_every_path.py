"""On a CUDA device every recipe learns without waiting, and every artefact answers as on the CPU, within rounding.

Run with `pytest -m gpu`. It asks within rounding what tests/standin asks bit for bit; without a GPU it is rehearsed
there. Draws on the device are others than on the CPU, so that training is only asked to be finite and not to wait.
"""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

import lattok
from lattok.cli import main
from lattok.evaluation import evaluate
from lattok.evaluation.evidence import probes
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig
from lattok.inference import for_inference
from lattok.training import RUN
from lattok.training.runlog import METRICS
from tests.action_vq.families import cases, fitted
from tests.action_vq.walks import smooth
from tests.backbones.conftest import need_transformers
from tests.backbones.tiny import tiny_backbone
from tests.conftest import CAMERAS
from tests.gpu.conftest import GPU, ON, WARM, losses
from tests.image_lam.clips.fakes import clip_lam, pixels
from tests.image_lam.published.parity import open_case
from tests.image_lam.published.test_command_line import SYSTEMS
from tests.standin.conftest import IDM, ON_CPU, SIZES, folder, make
from tests.standin.test_artefacts import IMAGE_MODELS, PAIRS, POLICIES, VIDEO
from tests.vla import fakes

__all__ = ["folder"]  # a fixture
LEARN = [kind for kind in SIZES if kind not in ON_CPU]
ALIKE = 0.97  # of codes: rounding flips one now and then


def numbers(value: Any) -> list[np.ndarray]:
    """All numbers of an answer, on the host."""
    leaves = (x.detach().float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in tree_leaves(value))
    return [np.asarray(x.cpu() if isinstance(x, Tensor) else x) for x in leaves if x is not None]


def close(got: Any, expected: Any, rtol: float = 1e-2) -> None:
    """Within rounding, and hardly a code that differs."""
    ours, theirs = numbers(got), numbers(expected)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        if one.dtype.kind == "f":
            most = float(np.abs(other[np.isfinite(other)]).max(initial=0))
            np.testing.assert_allclose(one, other, rtol=rtol, atol=0.1 * rtol * max(most, 1e-3))
        else:
            assert one.size == 0 or (one == other).mean() >= ALIKE


def there(value: Any) -> Any:
    """A copy of a model, or the same inputs, on the device."""
    if isinstance(value, torch.nn.Module) or hasattr(value, "saved_tensors"):
        return copy.deepcopy(value).to(ON)
    return tree_map(lambda x: x.to(ON) if isinstance(x, Tensor) else x, value)


def check(model: Any, ask: Callable[..., Any], *given: Any, rtol: float = 1e-2) -> None:
    """`ask(model, *given)` gives there what it gives on the CPU, with inputs here and there."""
    expected, moved = ask(copy.deepcopy(model), *given), there(model)
    for inputs in (given, there(given)):
        close(ask(moved, *inputs), expected, rtol)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("kind", LEARN)
@pytest.mark.usefixtures("waiting_raises")
def test_every_recipe_learns_and_no_step_waits(kind: str, precision: str, folder: Path, tmp_path: Path):
    recipe = make(kind, folder, tmp_path / "run", ON, steps=2 * WARM, log_every=WARM, precision=precision)
    model: Any = lattok.train(recipe)
    if (tmp_path / "run" / RUN / METRICS).exists():  # tokenizers that are fitted keep no log
        assert np.isfinite(losses(tmp_path / "run")).all()
    assert not any(torch.isnan(x).any() for x in model.saved_tensors().values())
    again: Any = lattok.load(tmp_path / "run")
    assert {x.device.type for x in again.saved_tensors().values()} == {"cpu"}


@pytest.mark.parametrize("name", cases())
def test_action_tokenizers(name: str):
    model, chunks = fitted(name), smooth(50, seed=1)
    valid = torch.ones(chunks.shape, dtype=torch.bool)
    valid[-1, 2:] = False
    codes = model.encode(chunks)
    check(model, lambda m, c: m.encode(c), chunks)
    check(model, lambda m, c, v: m.encode(c, v), chunks, valid)
    check(model, lambda m, c: m.decode(c), codes)
    damaged = codes.clone()
    damaged[0, 0] = 10**6
    check(model, lambda m, c: m.decode(c, repair=True), damaged)


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_models_of_frame_pairs(name: str):
    torch.manual_seed(0)
    model = IMAGE_MODELS[name]().eval()
    views = len(model.cameras)
    pairs, video = PAIRS[:, :, :views], VIDEO[:, :views]
    check(model, lambda m, x: m.encode(x), pairs)
    check(model, lambda m: m.label_video([video[:4], video[4:]], 2))
    found = model.encode(pairs)
    with torch.no_grad():
        check(model, lambda m, x, z: m.predict(x, z), model.frame_targets(pairs[:, 0]), found)
        check(model, lambda m, x, z: m.decode(x, z), pairs[:, 0], found)
    expected = for_inference(model, "bfloat16").label_video(video, 2)
    got = for_inference(there(model), "bfloat16").label_video(video, 2)
    np.testing.assert_allclose(got.latents, expected.latents, atol=0.05 * np.abs(expected.latents).max())


@pytest.mark.parametrize("system", SYSTEMS)
def test_published_models(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LATTOK_DATA", str(tmp_path / "vit"))
    name, facts, _ = SYSTEMS[system]
    case, file = name.split("/")
    told = ["--cameras", "front", "--stride", "3", *facts(tmp_path)]
    assert main(["convert", system, str(open_case(case).folder / file), str(tmp_path / "model"), *told]) == 0
    model: Any = lattok.load(tmp_path / "model")
    draw = np.random.default_rng(0)
    video = draw.integers(0, 256, (9, 1, 40, 52, 3), dtype=np.uint8)
    pairs = torch.from_numpy(model.resize(video[:8])).unflatten(0, (4, 2))
    check(model, lambda m: m.label_video([model.resize(video)], 3))
    check(model, lambda m, x: m.encode(x), pairs)
    check(model, lambda m, x, z: m.decode(x, z), pairs[:, 0], model.encode(pairs))


def test_models_of_clips():
    model, clips = clip_lam(), pixels(3, 3, 2)
    check(model, lambda m, x: m.encode(x, ["open it", "push", "lift"]), clips)
    check(model, lambda m: m.label_video([VIDEO[:5], VIDEO[5:]], 4, "lift"))


def test_inverse_dynamics():
    torch.manual_seed(0)
    model = InverseDynamics(InverseDynamicsConfig(CAMERAS, 3, state_dim=2, proprio=True, **IDM)).eval()
    check(model, lambda m: m.label_video(VIDEO, 2))
    check(model, lambda m, s: m.infer_actions(VIDEO, 1, "lift", s), torch.randn(len(VIDEO), 2))


@pytest.mark.parametrize("name", [name for name in POLICIES if "drawn" not in name])
def test_policies(name: str):
    model = POLICIES[name]().eval()
    check(model, lambda m, x: m.predict_chunk(x), fakes.observation(model.config))
    check(model, lambda m, x: m.predict_chunk(x), fakes.batch(model.config))


@pytest.mark.parametrize("family", ["qwen3_vl", "smolvlm"])
def test_policies_over_pretrained_backbones(family: str, tmp_path: Path):
    need_transformers()
    backbone = str(tiny_backbone(family, tmp_path / family))
    model = fakes.policy("la_cond", backbone=backbone, camera_sizes=((16, 16), (16, 16))).train()
    batch = model.prepared(fakes.batch(model.config))

    def learn(policy: Any, given: Any) -> Any:
        terms = policy(given)
        torch.stack([weight * terms[name] for name, weight in policy.config.loss_weights.items()]).sum().backward()
        return [p.grad for p in policy.parameters() if p.grad is not None]

    ours, theirs = (
        np.concatenate([x.ravel() for x in numbers(learn(*each))])
        for each in ((there(model), there(batch)), (copy.deepcopy(model), batch))
    )
    assert np.linalg.norm(ours - theirs) < 1e-2 * np.linalg.norm(theirs)


@pytest.mark.parametrize("name", ["lam", "vq", "bins"])
def test_reports_and_labels(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probes, "STEPS", 5)
    model: Any = lattok.load(folder / name)
    data = lattok.open_dataset(folder / "data")
    expected, found = (evaluate(each, data, episodes=[1, 4]) for each in (model, there(model)))
    assert found.figures.keys() == expected.figures.keys()
    labelled = lattok.annotate(data, {"own": there(model)}, tmp_path / "out")
    assert lattok.verify(labelled, {"own": model}).holds
    given = ["--device", ON if GPU else f"{ON}:0"]
    assert (
        main(["annotate", str(folder / "data"), "--model", str(folder / name), "--out", str(tmp_path / "by"), *given])
        == 0
    )
    assert main(["verify", str(tmp_path / "by"), "--model", str(folder / name)]) == 0
