"""SANA and its autoencoder as decoder and latent space (extra sana): tiny random ones, read as those on the Hub are."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import lattok
from lattok.image_lam.base.features import FrozenFeatures
from lattok.image_lam.clips import ClipLAM
from lattok.image_lam.clips.decoder import Exchange, SanaDecoder, open_sana, sizes_of
from tests.conftest import write_dataset
from tests.errors import refused
from tests.image_lam.clips.fakes import SANA_CHANNELS, SIZES, config, decoded, pixels, sana_options, sana_pipeline

diffusers = pytest.importorskip("diffusers", reason="needs the extra sana")

PATCH = 4


class Mixes(torch.nn.Module):
    """In place of attention: what it is given, told apart by order."""

    def forward(self, x: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return x + 3 * others


def test_streams_exchange_what_they_were_before():
    exchange = Exchange(4, 6, 2)
    exchange.scene_motion, exchange.motion_scene = Mixes(), Mixes()
    torch.nn.init.normal_(exchange.up.weight)
    scene, motion = torch.randn(2, 5, 4), torch.randn(2, 5, 6)
    found = exchange(scene, motion)
    small = scene @ exchange.down.weight.T + exchange.down.bias
    torch.testing.assert_close(found[0], scene + (small + 3 * motion) @ exchange.up.weight.T)
    torch.testing.assert_close(found[1], motion + motion + 3 * small)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sana_pipeline(tmp_path_factory.mktemp("sana"))


def options(pipeline: Path) -> dict:
    small = {"preset": "tiny", "steps": 2, "batch_size": 4, "log_every": 1, **SIZES}
    return small | sana_options(pipeline)


def test_latents_are_those_of_the_autoencoder_and_turn_back(pipeline):
    features = FrozenFeatures(f"dc-ae:{pipeline}", 16, (0.5,) * 3, (0.5,) * 3).load()
    assert (features.patch, features.side, features.dim) == (PATCH, 4, SANA_CHANNELS)
    vae = diffusers.AutoencoderDC.from_pretrained(pipeline / "vae").eval()
    frames = pixels(3)
    with torch.no_grad():
        wanted = 0.5 * vae.encode(frames.permute(0, 3, 1, 2) / 127.5 - 1).latent
        found = features(frames)
        torch.testing.assert_close(found, wanted.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-6)
        back = vae.decode(wanted / 0.5).sample.permute(0, 2, 3, 1)
        torch.testing.assert_close(features.pixels_of(found), back, rtol=1e-4, atol=1e-5)
    other = FrozenFeatures(f"dc-ae:{pipeline / 'vae'}", 16, (0.5,) * 3, (0.5,) * 3).load()  # without its pipeline
    assert other.weights_hash() == features.weights_hash()


def test_the_extra_trains_labels_and_comes_back(pipeline, tmp_path, monkeypatch):
    """It begins with the pretrained weights, and as SANA alone: what is new at its start adds nothing."""
    data = write_dataset(tmp_path / "data", [12, 9])
    pretrained = diffusers.SanaTransformer2DModel.from_pretrained(pipeline / "transformer").eval()
    recipe = lattok.ClipLAMRecipe.from_preset(data, tmp_path / "lam", **options(pipeline))
    forward, seen = SanaDecoder.forward, []

    def spied(self, *args):
        if not seen:
            ours = self.transformer.state_dict()
            assert all(torch.equal(ours[name], tensor) for name, tensor in pretrained.state_dict().items())
            frame, _, times, (scene, _), *_ = args
            grid = frame.unflatten(1, (-1, 4)).movedim(3, 1)  # two cameras, one below the other
            with torch.no_grad():
                level = 1000 * (1 - times)
                wanted = -pretrained(grid, encoder_hidden_states=self.caption(scene), timestep=level).sample
                seen.append((forward(self, *args)[0], wanted.flatten(2).transpose(1, 2)))
        return forward(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SanaDecoder, "forward", spied)
        lam = lattok.train(recipe)
    torch.testing.assert_close(*seen[0], rtol=1e-4, atol=1e-5)
    logged = [json.loads(line) for line in (tmp_path / "lam/run/metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(entry["loss/frame"]) and np.isfinite(entry["loss/action"]) for entry in logged)
    monkeypatch.setenv("LATTOK_DATA", str(pipeline))
    again = lattok.ClipLAM.from_pretrained(tmp_path / "lam")
    video = pixels(7, 2)
    labels = lam.label_video(video, 4, "lift it")
    assert torch.equal(labels.latents, again.label_video(video, 4, "lift it").latents)
    assert lam.describe()["features_sha256"] == again.features.weights_hash()
    frame, actions = again.generate(pixels(2, 2), lam.encode(pixels(2, 3, 2), "lift"))
    assert frame.shape == (2, 2 * 16, SANA_CHANNELS)
    assert actions.shape == (2, 4, 3)
    assert again.features.pixels_of(frame.unflatten(1, (2, 16)).flatten(0, 1)).shape == (4, 16, 16, 3)


def test_a_run_that_is_resumed_before_its_first_checkpoint_begins_with_the_pretrained_weights(pipeline, tmp_path):
    """It began with random ones, and said nothing."""
    data, began = write_dataset(tmp_path / "data", [12, 9]), []
    recipe = lattok.ClipLAMRecipe.from_preset(data, tmp_path / "lam", **options(pipeline))
    pretrained = diffusers.SanaTransformer2DModel.from_pretrained(pipeline / "transformer").state_dict()

    def stopped(model, *_, **named):
        ours = model.decoder.transformer.state_dict()
        began.append((named["resume"], all(torch.equal(ours[name], tensor) for name, tensor in pretrained.items())))
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lattok.recipes.clip_lam.fit", stopped)
        for resume in (False, True):
            with pytest.raises(KeyboardInterrupt):
                recipe.train(resume=resume)
    assert began == [(False, True), (True, True)]


@pytest.mark.parametrize(("sees", "exchange"), [(False, False), (False, True), (True, False)])
def test_what_streams_hear_of_each_other_and_of_the_first_frame(sees: bool, exchange: bool, pipeline):
    told = {"decoder": f"sana:{pipeline}", "decoder_output": "velocity", "decoder_sees_now": sees}
    told |= {"decoder_exchange": exchange, "decoder_sana": sizes_of(open_sana(f"sana:{pipeline}"))}
    torch.manual_seed(0)
    model = SanaDecoder(config(**told), SANA_CHANNELS, 32).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    draw = torch.Generator().manual_seed(1)
    sizes = {
        "frame": (32, SANA_CHANNELS),
        "actions": (4, 3),
        "scene": (2, 8),
        "motion": (3, 8),
        "now": (32, SANA_CHANNELS),
    }
    given = {name: torch.randn(2, *size, generator=draw) for name, size in sizes.items()} | {"times": torch.rand(2)}
    with torch.no_grad():
        before = decoded(model, **given)
        for name, heard in {
            "scene": (True, exchange),
            "motion": (exchange, True),
            "now": (sees, sees and exchange),
        }.items():
            after = decoded(model, **given | {name: -given[name]})
            assert tuple(not torch.equal(*pair) for pair in zip(before, after, strict=True)) == heard, name


def test_everything_learns_but_the_autoencoder(pipeline, tmp_path):
    data = write_dataset(tmp_path / "data", [12, 9])
    recipe = lattok.ClipLAMRecipe.from_preset(data, tmp_path / "lam", **options(pipeline) | {"steps": 1})
    lam = lattok.train(recipe).train()
    windows = lattok.samples.PolicyWindows(
        lattok.open_dataset(data),
        lattok.samples.WindowOptions(4, size=16, interpolation="bilinear", state_key=None, gaps=[2, 4]),
    )
    given = windows.batch(torch.arange(4))
    terms = lam(given._replace(valid=given.valid & (torch.arange(4) < 2)))
    torch.stack(list(terms.values())).sum().backward()
    assert not [name for name, p in lam.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert all(name.startswith("features.") for name, p in lam.named_parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"decoder": "sana:/nowhere"}, "`decoder`"),
        ({"features": "pixels"}, "`decoder`"),
        ({"features": "dc-ae:/nowhere"}, "`features`"),
    ],
)
def test_what_cannot_be_is_one_line(changes, text, pipeline, tmp_path):
    data = write_dataset(tmp_path / "data", [12, 9])
    refused(
        re.escape(text),
        lambda: lattok.train(lattok.ClipLAMRecipe.from_preset(data, tmp_path / "lam", **options(pipeline) | changes)),
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"num_layers": 0}, "`decoder_sana: num_layers`: expected"),
        ({"caption_channels": None}, "`decoder_sana: caption_channels`: expected"),
        ({"mystery": 1}, "`decoder_sana`"),
        ({"patch_size": 2}, "`decoder`"),
        ({"interpolation_scale": 2}, "`decoder`"),
        ({"guidance_embeds": True}, "`decoder`"),
    ],
)
def test_sizes_out_of_a_strangers_file(change, text, pipeline):
    sizes = sizes_of(open_sana(f"sana:{pipeline}")) | change
    refused(
        re.escape(text),
        lambda: ClipLAM.build(
            config(
                decoder=f"sana:{pipeline}", features=f"dc-ae:{pipeline}", decoder_output="velocity", decoder_sana=sizes
            )
        ),
    )
