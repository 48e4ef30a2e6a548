"""Inverse dynamics models: what they compute, from which frames, and what they learn from."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lattok
from lattok.data import Feature, LeRobotWriter, open_dataset
from lattok.image_lam.base.bottlenecks import CodebookConfig
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig, ProprioMapConfig, RobotConfig
from lattok.image_lam.inverse.model import _interleaved, around_each, state_changes
from lattok.recipes.idm import InverseOptions
from lattok.types import PolicyBatch
from lattok.utils.checks import LattokError
from tests.errors import refused

SMALL = {"features": "pixels", "image_size": 16, "channels": (8, 16), "latent_dim": 6, "hidden": 8, "members": 2}
SMALL["offsets"] = (-1, 0, 1, 2)
SEEN = {"cameras": ("front", "wrist"), "action_dim": 3, "action_names": ("x", "y", "z")}
CAMERA = "observation.images.top"


def small(**options) -> InverseDynamics:
    torch.manual_seed(0)
    given = {**SEEN, **SMALL, **options}
    if "codebook_size" in given:
        given["codebook"] = CodebookConfig(given.pop("codebook_size"), "ema", "normal")
    model = InverseDynamics(InverseDynamicsConfig(**given)).eval()
    model.set_range(torch.randn(50, 3, generator=torch.Generator().manual_seed(1)))
    return model


def video(rng: np.random.Generator, length: int = 9) -> np.ndarray:
    return rng.integers(0, 256, (length, 2, 16, 16, 3), dtype=np.uint8)


def by_hand(model: InverseDynamics, frames: np.ndarray, unit: int, more: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actions and spread, one frame at a time, from the weights alone."""
    weights = {name: value.double() for name, value in model.state_dict().items()}
    pixels = (torch.from_numpy(frames).double() / 255 - torch.tensor(model.config.mean)) / torch.tensor(
        model.config.std
    )
    place, read = model.config.offsets.index(0), []
    for t in range(len(frames)):
        clip = [pixels[min(max(t + offset * unit, 0), len(frames) - 1)] for offset in model.config.offsets]
        now = clip[place]
        maps = [now] + [2 * (clip[i] - now) for i in range(len(clip)) if i != place]
        each = []
        for member in range(model.config.members):
            views = []
            for camera in range(2):
                x = torch.cat([part[camera] for part in maps], -1).permute(2, 0, 1)[None]
                for layer, stride in ((0, 2), (3, 2)):
                    at = f"members.{member}.encoder"
                    x = F.conv2d(x, weights[f"{at}.{layer}.weight"], weights[f"{at}.{layer}.bias"], stride, 1)
                    x = F.group_norm(x, 8, weights[f"{at}.{layer + 1}.weight"], weights[f"{at}.{layer + 1}.bias"])
                    x = F.gelu(x)
                views.append(x.flatten())
            own = {name.removeprefix(f"members.{member}."): value for name, value in weights.items()}
            z = own["project.weight"] @ torch.cat(views) + own["project.bias"]
            z = torch.cat([z, torch.from_numpy(more[t]).double()])
            hidden = F.gelu(own["head.0.weight"] @ z + own["head.0.bias"])
            each.append(own["head.2.weight"] @ hidden + own["head.2.bias"])
        read.append(torch.stack(each))
    found = torch.stack(read)  # t e m
    units = found * weights["action_normalizer.scale"] + weights["action_normalizer.shift"]
    limited = torch.minimum(torch.maximum(units, weights["low"]), weights["high"])
    return limited.mean(1).numpy(), found.numpy().std(1).mean(1)


@pytest.mark.parametrize("offsets", [(-1, 0, 1, 2), (0, 1, 2), (-3, -1, 0)])
def test_actions_are_those_of_the_formula(rng, offsets):
    model, frames = small(offsets=offsets), video(rng)
    found = model.infer_actions(frames, 2)
    actions, spread = by_hand(model, frames, 2, np.zeros((9, 0)))
    np.testing.assert_allclose(found.actions, actions, atol=2e-5)
    np.testing.assert_allclose(found.spread, spread, atol=2e-5)
    assert found.latents.shape == (9, 2, 6)


@pytest.mark.parametrize("unit", [1, 2])
def test_what_is_read_of_neighbours_is_averaged_and_not_the_state(unit, rng):
    """A state that jumps stays as it is; beyond the ends of a video its first and last frame are read."""
    frames, states = video(rng), rng.normal(size=(9, 2)).astype(np.float32)
    plain, smooth = (small(smooth=reach, state_dim=2, anchors=(1, -1, 0)) for reach in (0, 1))
    told = np.c_[states[:, 1], np.zeros(9), states[:, 0]]
    read = plain.infer_actions(frames, unit, states=states).actions - told
    padded = np.concatenate([read[:1].repeat(unit, 0), read, read[-1:].repeat(unit, 0)])
    expected = np.stack([padded[t : t + 2 * unit + 1].mean(0) for t in range(9)]) + told
    np.testing.assert_allclose(smooth.infer_actions(frames, unit, states=states).actions, expected, atol=1e-5)
    assert smooth.later_frames(10) == plain.later_frames(10) + 1


def test_task_and_changes_of_state_are_read_where_they_are_asked_for(rng):
    model = small(task_given=True, tasks=("lift", "push"), proprio=True, state_dim=2)
    model.state_normalizer.fit(torch.randn(40, 2, generator=torch.Generator().manual_seed(2)))
    frames, states = video(rng), rng.standard_normal((9, 2)).astype(np.float32)
    shift, scale = (getattr(model.state_normalizer, name).numpy() for name in ("shift", "scale"))
    rows = np.clip(np.arange(9)[:, None] + np.array([-1, 0, 1, 2]), 0, 8)
    changes = (states[rows][:, [0, 2, 3]] - states[:, None] - shift) / scale
    more = np.concatenate([np.tile([0.0, 1.0], (9, 1)), changes.reshape(9, 6)], 1)
    found = model.infer_actions(frames, 1, task="push", states=states)
    np.testing.assert_allclose(found.actions, by_hand(model, frames, 1, more)[0], atol=2e-5)
    unknown = model.infer_actions(frames, 1, task="an instruction that nobody gave", states=states)
    np.testing.assert_allclose(
        unknown.actions, by_hand(model, frames, 1, np.r_["1", 0 * more[:, :2], more[:, 2:]])[0], atol=2e-5
    )
    refused("`states`", model.infer_actions, frames, 1, task="push")
    refused("states", model.infer_actions, frames, 1, states=states[:4])
    refused("`states`: expected 4 moments of a clip, got 5", model._known, ["push"], torch.zeros(1, 5, 2))


def test_there_is_a_head_for_each_loss_and_no_other():
    assert all(member.flow_head is None for member in small().members)
    assert all(member.flow_head is not None for member in small(loss_flow=0.1).members)


def test_a_video_may_come_in_pieces(rng):
    model, frames = small(), video(rng, 70)  # more than a block
    whole = model.label_video(frames, model.stride_frames(fps=10))
    pieces = model.label_video(iter(np.split(frames, [1, 5, 40, 41])), model.stride_frames(fps=10))
    assert torch.equal(torch.as_tensor(whole.latents), pieces.latents)
    assert whole.codes.shape == (70, 0)
    assert model.decode_actions(pieces.latents).actions.shape == (70, 3)


def test_saved_and_loaded_it_says_the_same(rng, tmp_path):
    model, frames = small(proprio=True, state_dim=1), video(rng)
    model.save_pretrained(tmp_path / "idm")
    again = lattok.load(tmp_path / "idm")
    states = rng.standard_normal((9, 1)).astype(np.float32)
    assert isinstance(again, InverseDynamics)
    for one, other in zip(
        model.infer_actions(frames, 1, states=states), again.infer_actions(frames, 1, states=states), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert "x, y, z" in again.summary()
    assert "proprio" in again.summary()


def batch(rng: np.random.Generator, count: int = 6) -> PolicyBatch:
    frames = torch.from_numpy(rng.integers(0, 256, (count, 4, 2, 16, 16, 3), dtype=np.uint8))
    actions = torch.from_numpy(rng.standard_normal((count, 1, 3)).astype(np.float32))
    valid = torch.ones(count, 1, dtype=torch.bool)
    return PolicyBatch(frames[:, 1], [""] * count, None, actions, valid, later=frames[:, [0, 2, 3]])


def test_the_loss_is_the_mean_error_of_known_actions_each_member_with_its_own_samples(rng):
    model, given = small().train(), batch(rng)
    given = given._replace(valid=torch.tensor([True, True, False, True, True, False])[:, None])
    loss = model(given)["action"]
    clips = torch.cat([given.later[:, :1], given.images[:, None], given.later[:, 1:]], 1).numpy()
    errors = []
    for i in (0, 1, 3, 4):
        z = model.encode_features([model.frame_features(torch.from_numpy(clips[i : i + 1, k])) for k in range(4)])
        read = model.members[i % 2].head(z[:, i % 2])
        errors.append((read - model.action_normalizer(given.actions[i])).abs().mean().item())
    assert loss.item() == pytest.approx(np.mean(errors), abs=1e-6)
    changed = given.actions.clone()
    changed[[2, 5]] = 1e6
    assert model(given._replace(actions=changed))["action"] == loss


def test_without_known_actions_only_motion_teaches(rng):
    model, given = small(loss_flow=1.0).train(), batch(rng)
    terms = model(given._replace(valid=torch.zeros(6, 1, dtype=torch.bool)))
    assert terms["action"].item() == 0
    sum(terms.values()).backward()
    assert all(member.head[0].weight.grad is None or not member.head[0].weight.grad.any() for member in model.members)
    assert all(
        member.encoder[0].weight.grad.any() and member.flow_head[0].weight.grad.any() for member in model.members
    )


def test_backwards_a_clip_is_the_opposite_motion(rng):
    model, given = small(loss_reversal=1.0, offsets=(0, 1, 2), unreversed=("z",)).train(), batch(rng)
    given = given._replace(later=given.later[:, 1:])
    clips = torch.cat([given.images[:, None], given.later], 1)
    errors, known = [], []
    for i in range(6):
        read = []
        for clip in (clips[i], clips[i].flip(0)):
            z = model.encode_features([model.frame_features(frame[None]) for frame in clip])
            read.append(model.action_normalizer.inverse(model.members[i % 2].head(z[:, i % 2]))[0])
        errors.append(((read[0] + read[1]) / model.action_normalizer.scale)[:2].abs().mean().item())
        shown = given.actions[i, 0] * torch.tensor([-1.0, -1.0, 1.0])
        each = [
            (r - a) / model.action_normalizer.scale for r, a in zip(read, (given.actions[i, 0], shown), strict=True)
        ]
        known.append(torch.cat(each).abs().mean().item())
    terms = model(given)
    assert terms["reversal"].item() == pytest.approx(np.mean(errors), abs=1e-5)
    assert terms["action"].item() == pytest.approx(np.mean(known), abs=1e-5)
    assert model(given._replace(valid=torch.zeros(6, 1, dtype=torch.bool)))["reversal"] == terms["reversal"]
    actions = torch.tensor([[1.0, -2.0, 5.0], [3.0, 1.0, 4.0]])
    model.set_range(actions)
    assert (model.low.tolist(), model.high.tolist()) == ([-3, -2, 4], [3, 2, 5])


@pytest.mark.parametrize(
    "more", [{}, {"task_given": True, "tasks": ("lift", "push")}, {"proprio": True, "state_dim": 2}]
)
def test_to_reversible_members_a_clip_backwards_is_exactly_the_opposite(more, rng):
    model = small(reversible=2, offsets=(0, 1, 2), unreversed=("z",), **more)
    given = {"states": rng.normal(size=(3, 2)).astype(np.float32)} if "proprio" in more else {}
    given |= {"task": "push"} if "tasks" in more else {}
    back = {key: value[::-1].copy() if key == "states" else value for key, value in given.items()}
    clip = video(rng, 3)
    read, other = (
        model.infer_actions(*one, **which).actions[0]
        for one, which in (((clip, 1), given), ((clip[::-1].copy(), 1), back))
    )
    np.testing.assert_allclose(other, read * [-1, -1, 1], atol=1e-6)
    assert np.abs(read).min() > 1e-3
    still = np.repeat(clip[:1], 3, 0)
    standing = {key: np.repeat(value[:1], 3, 0) if key == "states" else value for key, value in given.items()}
    assert np.abs(model.infer_actions(still, 1, **standing).actions[0, :2]).max() < 1e-6
    moved = small(offsets=(0, 1, 2), unreversed=("z",), **more).infer_actions(still, 1, **standing).actions[0, :2]
    assert np.abs(moved).max() > 1e-3  # of others it is a guess


def test_reversible_members_are_odd_and_even_parts_of_the_others(rng):
    """Against the formula, from what the same weights read one way and backwards; one member of two is reversible."""
    model, plain = (small(reversible=n, offsets=(0, 1, 2), unreversed=("z",)) for n in (1, 0))
    plain.load_state_dict(model.state_dict())
    clip = [model.frame_features(frame[None]) for frame in torch.from_numpy(video(rng, 3))]
    there, back = (plain.encode_features(each)[0] for each in (clip, clip[::-1]))
    expected = torch.cat([there[0, :3] - back[0, :3], there[0, 3:] + back[0, 3:]]) / 2
    latents = model.encode_features(clip)
    torch.testing.assert_close(latents, torch.stack([expected, there[1]])[None])
    head = plain.members[0].head
    one, two = head(expected), head(torch.cat([-expected[:3], expected[3:]]))
    read = torch.stack([torch.cat([(one - two)[:2], (one + two)[2:]]) / 2, plain.members[1].head(there[1])])
    units = plain.action_normalizer.inverse(read).clamp(plain.low, plain.high).mean(0)
    torch.testing.assert_close(model.decode_actions(latents).actions[0], units)


def test_units_of_reversible_members_have_their_zero_in_the_middle():
    model = small(reversible=1, offsets=(0, 1, 2), unreversed=("z",))
    model.set_range(torch.tensor([[1.0, -2.0, 5.0], [3.0, 1.0, 4.0]]))
    assert (model.low.tolist(), model.high.tolist()) == ([-3, -2, 4], [3, 2, 5])
    assert model.action_normalizer.shift.tolist() == pytest.approx([0, 0, 4.5])


def test_codes_are_the_nearest_rows_and_actions_are_read_from_those(rng):
    model, frames = small(quantizer="vq", tokens=3, codebook_size=8), video(rng)
    found = model.label_video(frames, 2 * model.unit_frames(fps=10))
    rows = [member.bottleneck.codebook_vectors[0] for member in model.members]
    latents = torch.as_tensor(found.latents).unflatten(2, (3, 2))  # t e p d
    nearest = torch.stack([torch.cdist(latents[:, i], rows[i]).argmin(-1) for i in range(2)], 1)
    np.testing.assert_array_equal(found.codes, nearest.flatten(1))
    vectors = torch.stack([rows[i][nearest[:, i]] for i in range(2)], 1).flatten(2)
    np.testing.assert_allclose(found.quantized, vectors, atol=1e-6)
    read = torch.stack([model.members[i].head(vectors[:, i]) for i in range(2)], 1)
    wanted = model.action_normalizer.inverse(read).clamp(model.low, model.high).mean(1)
    given = model.infer_actions(frames, 1)
    np.testing.assert_allclose(given.actions, wanted.detach(), atol=1e-5)
    np.testing.assert_array_equal(given.codes, found.codes)
    assert model.codebook_size == 8
    assert small().codebook_size is None


@pytest.mark.parametrize("quantizer", ["vq", "residual", "fsq", "none"])
def test_every_bottleneck_learns_and_is_saved(quantizer, rng, tmp_path):
    model = small(quantizer=quantizer, tokens=2, codebook_size=16, loss_kl=1e-3 if quantizer == "none" else 0.0)
    terms = model.train()(batch(rng))
    sum(model.config.loss_weights.get(name, 0.0) * term for name, term in terms.items()).backward()
    assert all(member.encoder[0].weight.grad.any() for member in model.members)
    assert {"none": "kl", "fsq": "action"}.get(quantizer, "commitment") in terms
    if quantizer == "vq":  # a codebook begins where latents are, and follows them
        assert all(member.bottleneck.count == 1 and not member.bottleneck.frozen for member in model.members)
    model.eval().save_pretrained(tmp_path / "idm")
    again, frames = lattok.load(tmp_path / "idm"), video(rng)
    np.testing.assert_array_equal(model.infer_actions(frames, 1).actions, again.infer_actions(frames, 1).actions)


def test_a_variational_bottleneck_has_the_divergence_of_its_noise(rng):
    model, given = small(loss_kl=1.0, members=1).train(), batch(rng)
    clips = torch.cat([given.later[:, :1], given.images[:, None], given.later[:, 1:]], 1)
    mean = model.encode_features([model.frame_features(clips[:, k]) for k in range(4)])[:, 0]
    own = torch.distributions.Normal(mean, model.members[0].bottleneck.log_variance(mean).exp().sqrt())
    wanted = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).mean()
    assert model(given)["kl"].item() == pytest.approx(wanted.item(), rel=1e-5)
    calm = model.eval()
    assert calm(given)["action"] == calm(given)["action"]


def test_the_last_frame_is_predicted_from_the_present_one_and_what_happened(rng):
    model, given = small(loss_forward=1.0, members=1).train(), batch(rng)
    clips = torch.cat([given.later[:, :1], given.images[:, None], given.later[:, 1:]], 1)
    moments = [model.frame_features(clips[:, k]) for k in range(4)]
    z = model.encode_features(moments)[:, 0]
    now, change = (maps.permute(0, 1, 4, 2, 3) for maps in (moments[1], moments[3] - moments[1]))
    error = (model.members[0].ahead(now, z) - change).square().mean() / change.var(unbiased=False)
    assert model(given)["forward"].item() == pytest.approx(error.item(), rel=1e-5)
    unknown = model(given._replace(valid=torch.zeros(6, 1, dtype=torch.bool)))
    unknown["forward"].backward()
    assert unknown["action"].item() == 0
    assert model.members[0].encoder[0].weight.grad.any()


def test_a_network_may_see_differences_alone(rng):
    model, frames = small(frame_seen=False), video(rng)
    brighter = (frames // 2 + 100).astype(np.uint8)
    same = model.infer_actions(brighter, 1).actions - model.infer_actions((brighter + 20).astype(np.uint8), 1).actions
    assert np.abs(same).max() < 1e-5
    seen = small()
    assert np.abs(seen.infer_actions(brighter, 1).actions - seen.infer_actions(brighter + 20, 1).actions).max() > 1e-3


def test_bad_input_says_what_was_expected(rng):
    model = small()
    refused("a multiple of 2, the largest offset, got 3", lambda: model.label_video(video(rng), 3))
    refused(r"cameras \(front, wrist\)", lambda: model.infer_actions(video(rng)[:, :1], 1))
    refused("at least one frame", lambda: model.infer_actions(video(rng, 0), 1))
    refused("members", model.decode_actions, torch.zeros(3, 1, 6))
    for options, text in (
        ({"offsets": (1, 2)}, "0 and others in order"),
        ({"offsets": (2, 0)}, "0 and others in order"),
        ({"offsets": (-1, 0, 1), "loss_reversal": 1.0}, "the same backwards, such as 0 1 2, with loss_reversal"),
        ({"offsets": (-1, 0, 1), "reversible": 1}, "the same backwards, such as 0 1 2, with reversible"),
        ({"offsets": (0, 1), "reversible": 3}, "`reversible`"),
        ({"offsets": (0, 1), "reversible": 1, "quantizer": "vq"}, '0 unless quantizer="none"'),
        ({"offsets": (0, 1), "reversible": 1, "loss_kl": 0.1}, '0 unless quantizer="none"'),
        ({"offsets": (0, 1), "reversible": 1, "latent_dim": 7}, "an even number with reversible, got 7"),
        ({"offsets": (0, 1), "reversible": 1, "latent_dim": 9}, "an even number with reversible, got 9"),
        ({"loss_reversal": 1.0, "offsets": (0, 1), "unreversed": ("grip",)}, "a dimension among x, y, z"),
        ({"channels": (12,)}, "multiples of 8"),
        ({"state_dim": -1}, "`state_dim`"),
        ({"state_dim": 2, "anchors": (0, 1, 2)}, "`anchors`"),
        ({"loss_action": 0.0}, "learns from actions"),
        ({"members": 0}, "at least 1"),
        ({"image_size": 0}, "`image_size`"),
        ({"quantizer": "vqq"}, "quantizer"),
        ({"tokens": 4}, "a divisor of latent_dim 6"),
        ({"quantizer": "vq", "loss_kl": 0.1}, '0 unless quantizer="none"'),
        ({"features": "timm:convnext_tiny"}, "features"),
        ({"reversible": 3}, "`reversible`"),
        ({"smooth": -1}, "`smooth`"),
        ({"smooth": 101}, "`smooth`"),
        ({"hidden": -1}, "`hidden`"),
        ({"projection": 0}, "`projection`"),
        ({"latent_dim": 0}, "`latent_dim`"),
        ({"channels": ()}, "channels"),
        ({"channels": (0,)}, "multiples of 8"),
        ({"channels": (8.0,)}, "multiples of 8"),
        ({"loss_flow": -0.1}, "`loss_flow`"),
        ({"action_names": ("x",)}, "`action_names`"),
        ({"state_dim": 2, "state_names": ("x",)}, "`state_names`"),
        ({"cameras": ()}, "cameras"),
        ({"views": -1}, "`views`"),
        ({"places": (0, 1)}, "none without views"),
        ({"views": 3}, "a different number below 3 for each of 2 cameras"),
        ({"views": 3, "places": (0,)}, "a different number below 3 for each of 2 cameras"),
        ({"views": 3, "places": (1, 1)}, "a different number below 3 for each of 2 cameras"),
        ({"views": 3, "places": (0, 3)}, "a different number below 3 for each of 2 cameras"),
        ({"views": 3, "places": (-1, 0)}, "a different number below 3 for each of 2 cameras"),
        ({"views": 3, "places": (0.0, 1)}, "a different number below 3 for each of 2 cameras"),
    ):
        refused(text, small, **options)


def test_a_configuration_says_what_follows_from_it():
    def config(**options) -> InverseDynamicsConfig:
        return InverseDynamicsConfig(**{**SEEN, **SMALL, **options})

    plain = config()
    assert plain.gaps(3) == [-3, 0, 3, 6]
    assert (plain.mean, plain.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of ImageNet
    assert [plain.span, config(offsets=(-3, 0, 1)).span] == [2, 3]
    assert plain.loss_weights == {"action": 1.0, "codebook": 1.0, "commitment": 0.25}
    more = config(loss_flow=0.5, loss_kl=0.1, loss_forward=2)
    assert more.loss_weights == {**plain.loss_weights, "flow": 0.5, "forward": 2.0, "kl": 0.1}
    learning = (
        {},
        {"loss_kl": 1.0},
        {"loss_flow": 0.5},
        {"loss_forward": 0.5},
        {"loss_reversal": 0.5, "offsets": (0, 1)},
    )
    assert [config(**each).learns_from_video for each in learning] == [False, False, True, True, True]
    backwards = ({}, {"reversible": 1, "offsets": (0, 1)}, {"loss_reversal": 0.5, "offsets": (0, 1, 2)})
    assert [config(**each).reverses for each in backwards] == [False, True, True]
    known = ProprioMapConfig(3, state_dim=2, offsets=(-1, 0, 5))
    reading = ({}, {"proprio": True}, {"anchors": (0, -1, 1)}, {"proprio_map": known})
    assert [config(state_dim=2, **each).reads_state for each in reading] == [False, True, True, True]
    offsets = [config(state_dim=2, **each).state_offsets for each in reading]
    assert offsets == [(0,), (-1, 0, 1, 2), (0,), (-1, 0, 5)]
    told = ({"tasks": ("a", "b")}, {"tasks": ("a", "b"), "task_given": True}, {"proprio": True}, {"task_given": True})
    assert [config(state_dim=2, **each).told for each in told] == [0, 2, 6, 0]
    assert plain.reversed_dims == [0, 1, 2]
    assert config(unreversed=("y", "z")).reversed_dims == [0]
    assert config(views=3, places=(2, 0)).places == (2, 0)
    for name, other in (("action_dim", 2), ("state_dim", 3), ("state_key", "s"), ("action_key", "a")):
        refused(f"proprio_map.{name}", config, state_dim=2, proprio_map=replace(known, **{name: other}))
    for name, other in (("anchors", (0, -1, 1)), ("proprio", True), ("reversible", 1), ("loss_reversal", 0.5)):
        given = {"state_dim": 2, "offsets": (0, 1), "proprio_map": known, name: other}
        refused(f"`{name}`: expected none beside proprio_map", config, **given)


def test_of_a_dataset_among_several_it_is_as_if_there_were_no_others():
    robots = (
        RobotConfig("all", ("front", "wrist"), (0, 1), 3),
        RobotConfig("other order", ("wrist", "front"), (1, 0), 4, anchors=(0, -1, -1, -1), state_dim=1),
        RobotConfig("one", ("front",), (0,), 2, ("u", "v")),
    )
    config = InverseDynamicsConfig(**{**SMALL, "cameras": ("front", "wrist"), "action_dim": 4, "robots": robots})
    all_, order, one = (config.of(place) for place in range(3))
    assert [each.robots for each in (all_, order, one)] == [(), (), ()]
    assert [(each.views, each.places) for each in (all_, order, one)] == [(0, ()), (2, (1, 0)), (2, (0,))]
    assert [each.cameras for each in (order, one)] == [("wrist", "front"), ("front",)]
    assert [each.action_dim for each in (all_, order, one)] == [3, 4, 2]
    assert (order.anchors, order.state_dim, one.action_names) == ((0, -1, -1, -1), 1, ("u", "v"))
    assert one.hidden == config.hidden


def test_what_is_added_to_the_state_is_said():
    assert "; 2 of 3 are added to the state" in repr(small(state_dim=2, anchors=(0, -1, 1)))


def test_rows_around_each_frame_stay_in_the_series():
    series = torch.arange(5.0)[:, None]
    assert around_each(series, [-2, 0, 1])[..., 0].tolist() == [[0, 0, 1], [0, 1, 2], [0, 2, 3], [1, 3, 4], [2, 4, 4]]
    assert state_changes(series[None, :3], (-1, 0, 1))[..., 0].tolist() == [[-1, 1]]


def pushed(root: Path, known: set[int], episodes: int = 10, lie: float = np.nan) -> Path:
    """A square that goes where its action says, from one frame to the next; `lie` in place of unknown actions."""
    rng, length = np.random.default_rng(0), 30
    features = {"action": Feature("float32", (2,), ("x", "y")), CAMERA: Feature("video", (32, 32, 3), None)}
    with LeRobotWriter.create(root, 10.0, features, video_codec="h264", encoder_threads=1) as writer:
        for episode in range(episodes):
            actions, place, frames = rng.uniform(-1, 1, (length, 2)), np.array([16.0, 16.0]), []
            for t in range(length):
                canvas = np.zeros((128, 128, 3), np.uint8)
                left, top = (4 * place).round().astype(int)
                canvas[max(top - 20, 0) : top + 20, max(left - 20, 0) : left + 20] = 255
                frames.append(canvas.reshape(32, 4, 32, 4, 3).mean((1, 3)).astype(np.uint8))
                actions[t] = np.where((place < 8) | (place > 24), np.sign(16 - place) * np.abs(actions[t]), actions[t])
                place = place + 2.5 * actions[t]
            told = actions if episode in known else np.full_like(actions, lie)
            writer.add_episode({"action": told}, {CAMERA: np.stack(frames)}, "push")
    return root


TINY = {"features": "pixels", "image_size": 32, "channels": (8, 16, 16), "latent_dim": 16, "hidden": 32, "members": 2}


def train(data: Path, out: Path, **options) -> InverseDynamics:
    given = {**TINY, "steps": 250, "batch_size": 32, "offsets": (0, 1), "device": "cpu", "shift": 0.0, **options}
    return lattok.train(lattok.InverseDynamicsRecipe.from_preset(data, out, "tiny", **given))


@pytest.mark.ci
def test_from_some_episodes_it_learns_to_read_the_others(tmp_path):
    truth = open_dataset(pushed(tmp_path / "truth", set(range(10))))
    model = train(pushed(tmp_path / "data", {0, 1, 2, 3, 4, 5, 6}), tmp_path / "out")  # of which two judge
    read, done = [], []
    for episode in range(7, 10):
        frames = truth.frames(episode, truth.cameras)
        read.append(model.infer_actions(frames, 1).actions[:-1])
        done.append(truth.columns(episode, ["action"])["action"][:-1])
    error = np.square(np.concatenate(read) - np.concatenate(done)).mean() / np.concatenate(done).var()
    assert error < 0.3
    assert model.trained_on["labels"] == {"fraction": 1.0, "unit": "episodes"}


def test_actions_that_are_not_known_are_never_seen(tmp_path):
    """NaN, or not among `action_episodes`: the weights are the same, whatever stands there."""
    hidden = train(pushed(tmp_path / "a", {0, 1}), tmp_path / "one", steps=3, loss_flow=0.5)
    for number, lie in enumerate((7.0, -3.0)):
        data = pushed(tmp_path / f"b{number}", {0, 1}, lie=lie)
        other = train(data, tmp_path / f"other{number}", steps=3, loss_flow=0.5, action_episodes="0,1")
        for name, value in hidden.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


@pytest.mark.parametrize("loss", ["loss_flow", "loss_forward", "loss_reversal"])
def test_videos_without_actions_teach_by_each_of_three_losses(loss):
    """And the help of `action_episodes` names it."""
    assert small(offsets=(0, 1), **{loss: 0.5}).config.learns_from_video
    assert not small(offsets=(0, 1)).config.learns_from_video
    assert loss in (InverseOptions.__doc__ or "")


def test_every_member_has_actions_to_learn_in_every_part_of_a_batch(tmp_path):
    with pytest.raises(LattokError, match="`batch_size`"):
        train(pushed(tmp_path / "a", {0, 1}), tmp_path / "b", members=4, loss_flow=0.5, batch_size=16, accumulate=4)
    assert not (tmp_path / "b").exists()


def test_a_dataset_without_any_known_action_is_refused(tmp_path):
    with pytest.raises(LattokError, match="known actions in one of the episodes that are trained on, got NaN in all"):
        train(pushed(tmp_path / "data", set(), 3), tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


def test_zoomed_features_have_convolutions_that_fit():
    model = small(features="pixels", image_size=64, channels=(8, 8, 8, 8, 8))
    maps = torch.zeros(1, 2, 12, 64, 64)
    assert model.members[0].encoder(maps.flatten(0, 1)).shape == (2, 8, 4, 4)  # not halved below four


def test_states_are_asked_for_by_models_that_read_them_alone():
    """Annotation reads `state_key` of every dataset, also of one that has no states."""
    assert small(state_key="observation.state").state_key is None
    reads = small(state_key="observation.state", proprio=True, state_dim=2)
    assert reads.state_key == "observation.state"
    assert ["states=" in "".join(each.usage()) for each in (small(), reads)] == [False, True]


def test_features_of_a_network_are_projected_by_each_member_for_itself():
    features = SimpleNamespace(side=4, count=16, dim=5, mean=torch.zeros(3), std=torch.ones(3))
    config = InverseDynamicsConfig(**SMALL | {"features": "dinov2_vits14", "projection": 3, "image_size": 56}, **SEEN)
    model = InverseDynamics(config, features)
    assert [tuple(each.weight.shape) for each in model.projections] == [(3, 5), (3, 5)]
    assert not torch.equal(*(each.weight for each in model.projections))
    moments = torch.randn(4, 6, 2, 4, 4, 5)
    weights, biases = ([getattr(each, name) for each in model.projections] for name in ("weight", "bias"))
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        before, now, *after = torch.einsum("fbvyxd,kd->fbvkyx", moments, weight) + bias[:, None, None]
        clip = torch.cat([now, *(2 * (other - now) for other in (before, *after))], 2)
        expected = model.members[number].encode(clip)
        torch.testing.assert_close(model.encode_features(moments.unbind(0))[:, number], expected)


def test_what_the_data_says_has_to_be_known():
    with pytest.raises(LattokError, match="`config`: expected one with cameras, action_dim, got"):
        InverseDynamics(InverseDynamicsConfig(**SMALL))


@pytest.mark.parametrize(("samples", "members"), [(7, 3), (8, 4), (2, 2), (1, 1)])
def test_what_members_read_of_their_samples_returns_to_these(samples: int, members: int):
    rows = torch.arange(2.0 * samples).view(samples, 2)
    parts = [rows[number::members].clone().requires_grad_() for number in range(members)]
    found = _interleaved(parts)
    assert torch.equal(found, rows)
    found[-1].sum().backward()
    grads = [part.grad for part in parts if part.grad is not None]
    assert grads[(samples - 1) % members][-1].tolist() == [1, 1]
    assert sum(float(grad.sum()) for grad in grads) == 2
