"""On a CUDA device: training, resuming, labelling and acting there and on the CPU are the same, within rounding.

Run with `pytest -m gpu`. That no step waits for the device, and every path, is tested without one in tests/standin;
here with torch's own alarm and a device's own rounding. Without a GPU these are slow tests that run on the stand-in:
they rehearse what will be asked of one.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

import lattok
from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.data import open_dataset, sample_dataset_path
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.inference import PRECISIONS
from lattok.recipes import ActionVQRecipe, ImageLAMRecipe, VLARecipe
from lattok.training import CHECKPOINT, RUN, loop
from lattok.utils.signals import Interrupted
from tests.gpu.conftest import GPU, ON, losses

SAMPLE = sample_dataset_path()
LAM = {"features": "pixels", "image_size": 64, "episodes": "0:6", "log_every": 5}


def recipes(out: Path, device: str, **options) -> dict:
    """A short run of each family."""
    return {
        "action-vq": ActionVQRecipe.from_preset(
            SAMPLE, out / "action-vq", "quick", steps=30, log_every=10, device=device, **options
        ),
        "image-lam": ImageLAMRecipe.from_preset(
            SAMPLE,
            out / "image-lam",
            "tiny+robust",
            steps=12,
            codebook_continuous_steps=4,
            device=device,
            **LAM,
            **options,
        ),
    }


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged dataset with labels of a small image model."""
    folder = tmp_path_factory.mktemp("annotated")
    lam = lattok.train(recipes(folder, ON)["image-lam"])
    lattok.annotate(open_dataset(SAMPLE), {"latent": lam}, folder / "data")
    return folder / "data"


def policy_recipe(dataset: Path, out: Path, device: str, strategy: str, **options) -> VLARecipe:
    """A short run of a policy that learns from nothing."""
    options = {"steps": 10, "log_every": 5, "episodes": "0:6", "strategy": strategy, **options}
    return VLARecipe.from_preset(dataset, out, "scratch", device=device, **options)


@pytest.mark.parametrize("family", ["action-vq", "image-lam"])
def test_training_follows_the_cpu(tmp_path: Path, family: str):
    for device in ("cpu", ON):
        lattok.train(recipes(tmp_path / device, device, dropout=0.0)[family])
    on_cpu, on_cuda = (losses(tmp_path / device / family) for device in ("cpu", ON))
    # rounding flips a code now and then, after which the runs part
    np.testing.assert_allclose(on_cuda[0], on_cpu[0], rtol=1e-2)
    np.testing.assert_allclose(on_cuda, on_cpu, rtol=0.2)


@pytest.mark.parametrize("family", ["action-vq", "image-lam"])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch):
    whole = lattok.train(recipes(tmp_path / "whole", ON)[family])
    recipe = recipes(tmp_path / "parts", ON, save_every=6)[family]
    stop_after(7, monkeypatch)
    with pytest.raises(Interrupted):
        lattok.train(recipe)
    monkeypatch.undo()
    again = lattok.train(recipe, resume=True)
    for name, tensor in whole.saved_tensors().items():
        torch.testing.assert_close(again.saved_tensors()[name], tensor, atol=1e-3, rtol=1e-2, msg=name)


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the step with this number is under way."""
    import signal

    step, count = loop.Trainer.step, iter(range(1, 10**6))

    def counted(*arguments):
        if next(count) == steps:
            signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    monkeypatch.setattr(loop.Trainer, "step", counted)


@pytest.mark.parametrize("family", ["action-vq", "image-lam"])
def test_a_run_moves_from_the_gpu_to_the_cpu(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch):
    recipe = recipes(tmp_path, ON, save_every=6)[family]
    stop_after(7, monkeypatch)
    with pytest.raises(Interrupted):
        lattok.train(recipe)
    monkeypatch.undo()
    assert (Path(recipe.out) / RUN / CHECKPOINT).is_file()
    model = lattok.train(recipes(tmp_path, "cpu", save_every=6)[family], resume=True)
    assert all(torch.isfinite(t).all() for t in model.saved_tensors().values() if t.is_floating_point())


@pytest.mark.skipif(not GPU, reason="the stand-in counts instead")
def test_the_alarm_hears_a_step_that_waits():
    x = torch.ones(2, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            x.sum().item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_tf32_changes_no_latent():
    """torch lets convolutions use it unless told otherwise; the fixture around these tests tells it."""
    torch.manual_seed(0)
    tokenizer, chunks = P2TActionVQ(ActionVQConfig(action_dim=7, horizon=8)).eval().to(ON), torch.randn(4096, 8, 7)
    exact = tokenizer.latent_actions(chunks).latents
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    assert torch.equal(tokenizer.latent_actions(chunks).latents, exact)


@pytest.mark.parametrize("precision", [*PRECISIONS])
def test_frames_have_the_codes_of_the_cpu(precision: str):
    torch.manual_seed(0)
    cameras = ("observation.images.corner2",)
    lam = ImageLAM(ImageLAMConfig.of(cameras=cameras, features="pixels", width=128, heads=4, stride="8")).eval()
    lam.control.quantizer.codebook_vectors[0].data.mul_(0.05)
    video = open_dataset(SAMPLE).frames(0, cameras)
    expected = lam.label_video([video], 8).codes
    codes = lattok.for_inference(lam.to(ON), precision=precision).label_video([video], 8).codes
    assert (codes.cpu() == expected).float().mean() > (0.99 if precision == "float32" else 0.9)


@pytest.mark.parametrize("strategy", ["baseline", "la_direct"])
def test_a_policy_trains_and_acts_as_on_the_cpu(tmp_path: Path, strategy: str, annotated: Path):
    for device in ("cpu", ON):
        lattok.train(policy_recipe(annotated, tmp_path / device, device, strategy))
    np.testing.assert_allclose(losses(tmp_path / ON)[0], losses(tmp_path / "cpu")[0], rtol=2e-2)
    policy, dataset = lattok.load(tmp_path / ON), open_dataset(SAMPLE)
    row = dataset.columns(0, ["observation.state"])["observation.state"][:1]
    frames = dataset.frames(0, indices=[0])
    observation = {
        "observation.state": torch.from_numpy(row).float(),
        **{key: torch.from_numpy(frames[:, i]) for i, key in enumerate(dataset.cameras)},
        "task": [dataset.episodes[0].tasks[0]],
    }
    expected = policy.predict_chunk(observation)
    chunk = policy.to(ON).predict_chunk(observation)
    torch.testing.assert_close(chunk.cpu(), expected, atol=1e-3, rtol=1e-3)
