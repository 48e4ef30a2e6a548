import math

import numpy as np
import pytest
import torch

from lattok.image_lam.clips.decoder import UnifiedDecoder
from tests.image_lam.clips.fakes import config, decoded

PATCHES, PATCH = 5, 12


def decoder(**changes) -> UnifiedDecoder:
    torch.manual_seed(0)
    return UnifiedDecoder(config(**{"decoder_output": "velocity", **changes}), PATCH, PATCHES).eval()


def inputs(count: int = 2) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    sizes = {"frame": (PATCHES, PATCH), "actions": (4, 3), "scene": (2, 8), "motion": (3, 8), "now": (PATCHES, PATCH)}
    found = {name: torch.randn(count, *size, generator=draw) for name, size in sizes.items()}
    return found | {"times": torch.rand(count, generator=draw)}


def reference(model: UnifiedDecoder, given: dict[str, torch.Tensor], known: np.ndarray) -> tuple[np.ndarray, ...]:
    """The decoder in numpy, sample by sample and head by head."""
    w = {name: tensor.detach().double().numpy() for name, tensor in model.state_dict().items()}
    erf = np.vectorize(math.erf)

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)

    def norm(x, name):
        scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def mixed(q, k, v):
        width, parts = q.shape[1] // 4, []
        for part in (slice(h * width, (h + 1) * width) for h in range(4)):
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(width))
            parts.append(scores / scores.sum(-1, keepdims=True) @ v[:, part])
        return np.concatenate(parts, -1)

    def look(x, others, name):
        q, kv = linear(norm(x, f"{name}.norm"), f"{name}.attention.q"), norm(others, f"{name}.norm_keys")
        return linear(mixed(q, *np.split(linear(kv, f"{name}.attention.kv"), 2, -1)), f"{name}.attention.out")

    def block(x, name):
        q, k, v = np.split(linear(norm(x, f"{name}.norm1"), f"{name}.attention.qkv"), 3, -1)
        x = x + linear(mixed(q, k, v), f"{name}.attention.out")
        hidden = linear(norm(x, f"{name}.norm2"), f"{name}.ff.0")
        return x + linear(0.5 * hidden * (1 + erf(hidden / np.sqrt(2))), f"{name}.ff.3")

    frames, chunks = [], []
    for b in range(len(given["times"])):
        part = {name: value[b].double().numpy() for name, value in given.items()}
        dim = w["places"].shape[1]
        angles = 1000 * part["times"] / 10000 ** (np.arange(0, dim, 2) / dim)
        hidden = linear(np.stack([np.sin(angles), np.cos(angles)], -1).reshape(dim), "time.0")
        when = linear(hidden / (1 + np.exp(-hidden)), "time.2")
        x = linear(part["frame"], "patches") + w["places"] + when
        x = x + (linear(part["now"], "now") if model.now is not None else 0)
        y = np.where(known[b][:, None], linear(part["actions"], "actions"), w["unknown"]) + w["steps"] + when
        z_scene, z_motion = linear(part["scene"], "scene_up"), linear(part["motion"], "motion_up")
        for i in range(2):
            at = f"layers.{i}"
            x, y = x + look(x, z_scene, f"{at}.scene_latents"), y + look(y, z_motion, f"{at}.motion_latents")
            if f"{at}.scene_motion.norm.weight" in w:
                x, y = x + look(x, y, f"{at}.scene_motion"), y + look(y, x, f"{at}.motion_scene")
            x, y = block(x, f"{at}.scene"), block(y, f"{at}.motion")
        frames.append(linear(norm(x, "frame_out.0"), "frame_out.1"))
        chunks.append(linear(norm(y, "action_out.0"), "action_out.1"))
    return np.stack(frames), np.stack(chunks)


@pytest.mark.parametrize(("exchange", "sees_now"), [(True, True), (False, True), (True, False)])
def test_the_decoder_equals_plain_arithmetic(exchange: bool, sees_now: bool):
    """What is not known is not read: there may be anything."""
    model, given = decoder(decoder_exchange=exchange, decoder_sees_now=sees_now), inputs()
    known = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    strange = given | {"actions": given["actions"].masked_fill(~known[..., None], 1e4)}
    with torch.no_grad():
        found = decoded(model, **strange, known=known)
    for ours, plain in zip(found, reference(model, given, known.numpy()), strict=True):
        np.testing.assert_allclose(ours, plain, atol=2e-5)


@pytest.mark.parametrize("says", ["frame", "change"])
def test_a_decoder_that_says_the_frame_gives_its_velocity(says: str):
    """From x_t straight to what it says, and not faster than in a twentieth of the time."""
    given = inputs() | {"times": torch.tensor([0.25, 0.99])}
    plain = reference(model := decoder(decoder_output=says), given, np.ones((2, 4), dtype=bool))
    with torch.no_grad():
        frame, actions = decoded(model, **given)
    for b, left in enumerate((0.75, 0.05)):
        later = plain[0][b] + (given["now"][b].numpy() if says == "change" else 0)
        np.testing.assert_allclose(frame[b], (later - given["frame"][b].numpy()) / left, atol=5e-4)
    np.testing.assert_allclose(actions, plain[1], atol=2e-5)


@pytest.mark.parametrize("exchange", [True, False])
def test_streams_hear_of_each_other_by_the_exchange_alone(exchange: bool):
    model, given = decoder(decoder_exchange=exchange), inputs()
    for name, own, other in (("scene", 0, 1), ("motion", 1, 0)):
        with torch.no_grad():
            before, after = decoded(model, **given), decoded(model, **given | {name: -given[name]})
        assert not torch.equal(before[own], after[own])
        assert torch.equal(before[other], after[other]) != exchange


def test_what_stands_for_places_begins_small():
    model = decoder(decoder_width=256)
    for part in (model.places, model.steps, model.unknown):
        assert float(part.detach().std()) == pytest.approx(0.02, rel=0.2)
