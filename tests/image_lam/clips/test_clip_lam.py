import base64
import re
import subprocess
import sys
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

import lattok
from lattok.annotation import annotate, verify
from lattok.data import open_dataset
from lattok.evaluation import evaluate
from lattok.image_lam.clips import ClipLAM
from lattok.nn.losses import draw_flow
from lattok.nn.normalize import for_dataset
from lattok.types import Shares
from tests.errors import refused
from tests.image_lam.clips.fakes import batch, clip_lam, pixels


def video(length: int = 11) -> np.ndarray:
    return pixels(length, 2).numpy()


@pytest.mark.parametrize("says", ["change", "frame", "velocity"])
def test_the_loss_is_that_of_the_velocities(says: str, monkeypatch: pytest.MonkeyPatch):
    """Of sample 1 two actions are known, of sample 2 none: it teaches by its frame alone."""
    lam = clip_lam(decoder_output=says)
    valid = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    given, draws = batch(valid=valid), draw_flow((4, 4, 3), torch.Generator().manual_seed(5))
    seen = {}

    def answers(frame, actions, times, latents, now, known):
        seen.update(frame=frame, actions=actions, now=now, known=known)
        return torch.full_like(frame, 0.5), torch.full_like(actions, 0.25)

    monkeypatch.setattr(lam.decoder, "forward", answers)
    torch.manual_seed(3)
    with torch.no_grad():
        terms = lam(given._replace(draws=draws, actions=given.actions.masked_fill(~valid[..., None], torch.nan)))
    torch.manual_seed(3)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    assert given.later is not None
    ends = np.stack([given.images.numpy(), given.later[:, -1].numpy()]) / 255
    ends = ((ends - mean) / std).reshape(2, 4, 2, 2, 8, 2, 8, 3).transpose(0, 1, 2, 3, 5, 4, 6, 7).reshape(2, 4, 8, 192)
    noise = torch.randn(4, 8, 192).numpy()
    t = draws.times.numpy()[:, None, None]
    np.testing.assert_allclose(seen["now"], ends[0], atol=1e-5)
    np.testing.assert_allclose(seen["frame"], (1 - t) * noise + t * ends[1], atol=1e-5)
    known = (given.actions * valid[..., None]).numpy()
    np.testing.assert_allclose(seen["actions"], (1 - t) * draws.noise.numpy() + t * known, atol=1e-5)
    wanted = np.mean((0.5 - (ends[1] - noise)) ** 2)
    if says != "velocity":  # where a line from x_t with this velocity ends, as a share of copying the first frame
        said = seen["frame"].numpy() + (1 - t) * 0.5
        wanted = np.mean((said - ends[1]) ** 2) / np.mean((ends[0] - ends[1]) ** 2)
    assert float(terms["frame"]) == pytest.approx(wanted, rel=1e-5)
    errors = ((0.25 - (given.actions - draws.noise).numpy()) ** 2).mean(-1)
    wanted = np.mean([errors[0].mean(), errors[1, :2].mean(), errors[3].mean()])
    assert float(terms["action"]) == pytest.approx(wanted, rel=1e-5)
    assert torch.equal(seen["known"], valid)


def test_shares_of_a_batch_add_up_to_its_loss_of_actions():
    """Also where they differ in how many samples have known actions: three of four here."""
    lam, draws = clip_lam(decoder_exchange=False), draw_flow((4, 4, 3), torch.Generator().manual_seed(5))
    given = batch(valid=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]).bool())
    wanted, found = float(lam(given._replace(draws=draws))["action"].detach()), 0.0
    assert given.later is not None
    for rows in (slice(0, 2), slice(2, 4)):
        parts = {name: getattr(given, name)[rows] for name in ("images", "texts", "actions", "valid", "later")}
        drawn = type(draws)(*(part[rows] for part in draws))
        share = given._replace(**parts, draws=drawn, shares=Shares(acted=torch.tensor(1.5)))
        found += float(lam(share)["action"].detach()) / 2
    assert found == pytest.approx(wanted, rel=1e-5)


def test_the_error_of_a_frame_that_does_not_change_is_a_share_of_a_thousandth(monkeypatch: pytest.MonkeyPatch):
    lam, given, draws = clip_lam(), batch(), draw_flow((4, 4, 3), torch.Generator().manual_seed(5))

    def one_off(frame, actions, times, latents, now, known):
        return (now - frame) / (1 - times)[:, None, None] + 1, actions

    monkeypatch.setattr(lam.decoder, "forward", one_off)
    terms = lam(given._replace(later=given.images[:, None].expand(-1, 2, -1, -1, -1, -1), draws=draws))
    assert float(terms["frame"].detach()) == pytest.approx(float(((1 - draws.times) ** 2).mean()) / 1e-3, rel=1e-4)


def test_dimensions_that_a_robot_lacks_change_nothing():
    """Whatever stands there, and whatever noise: loss, gradients and what is drawn; they are 0 in a drawn chunk."""
    lam, known = clip_lam(absent=(1,)), torch.tensor([[1, 0, 1]] * 3 + [[1, 0, 0]]).bool()
    given, draws, found = batch(), draw_flow((4, 4, 3), torch.Generator().manual_seed(5)), []
    for garbage in (0.0, 1e6):
        lam.zero_grad()
        torch.manual_seed(3)
        noise = draws.noise + garbage * ~known[:, None]
        actions = given.actions + garbage * ~known[:, None]
        terms = lam(given._replace(actions=actions, known=known, draws=draws._replace(noise=noise)))
        torch.stack(list(terms.values())).sum().backward()
        found.append([*terms.values(), *(p.grad.clone() for p in lam.parameters() if p.grad is not None)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    lam.action_normalizer.shift += 1  # also where 0 normalised is something else
    latents = lam.encode(pixels(2, 3, 2), "lift")
    _, drawn = lam.generate(pixels(2, 2), latents)
    assert not drawn[..., 1].any()
    assert drawn[..., [0, 2]].all()
    assert not lam.generate(pixels(2, 2), latents, known=known[3])[1][..., 1:].any()


def test_everything_that_is_trained_gets_a_gradient():
    lam = clip_lam().train()
    terms = lam(batch(valid=torch.tensor([[1, 1, 0, 0]] * 4).bool()))
    torch.stack(list(terms.values())).sum().backward()
    assert not [name for name, p in lam.named_parameters() if p.grad is None or not p.grad.any()]


def test_clips_without_actions_teach_motion_by_the_exchange_alone():
    for exchange in (True, False):
        lam = clip_lam(decoder_exchange=exchange).train()
        terms = lam(batch(valid=torch.zeros(4, 4, dtype=torch.bool)))
        assert float(terms["action"].detach()) == 0
        torch.stack(list(terms.values())).sum().backward()
        scene, motion = (head.weight.grad for head in (lam.scene_head, lam.motion_head))
        assert scene is not None
        assert scene.any()
        assert (motion is not None and bool(motion.any())) == exchange


@pytest.mark.parametrize("exchange", [True, False])
def test_without_scene_tokens_the_frame_is_decoded_from_motion(exchange: bool, make_dataset, tmp_path):
    """One group of latents (LatBot, Table 5 without DLA): both losses teach it, labels and reports have one stream."""
    lam, seen = clip_lam(scene_tokens=0, decoder_exchange=exchange).train(), []
    lam.decoder.register_forward_pre_hook(lambda module, given: seen.append(given[3]))
    terms = lam(batch(valid=torch.tensor([[1, 1, 0, 0]] * 4).bool()))
    terms["frame"].backward(retain_graph=True)
    assert torch.equal(*seen[0])
    assert seen[0][0].shape == (4, 3, 8)
    taught = lam.motion_head.weight.grad
    assert taught is not None
    assert taught.any()
    terms["action"].backward()
    assert not [name for name, p in lam.named_parameters() if p.grad is None or not p.grad.any()]
    lam, dataset = lam.eval(), make_dataset([9])
    found = lam.encode(pixels(2, 3, 2), ["a", "b"])
    assert found.env is None
    again = lattok.load(lam.save_pretrained(tmp_path / "lam"))
    assert isinstance(again, ClipLAM)
    frame, actions = lam.generate(pixels(2, 2), found)
    assert all(torch.equal(*pair) for pair in zip(again.generate(pixels(2, 2), found), (frame, actions), strict=True))
    assert not torch.equal(lam.generate(pixels(2, 2), replace(found, quantized=-found.quantized))[0], frame)
    two = clip_lam().encode(pixels(2, 3, 2), "lift")
    refused("`latents`", lambda: lam.generate(pixels(2, 2), two))
    refused("`encode` gives, of motion and scene, got those of", lambda: clip_lam().generate(pixels(2, 2), found))
    annotate(dataset, lam, tmp_path / "out")
    assert not [name for name in open_dataset(tmp_path / "out").features if name.startswith("latent.env")]


@pytest.mark.slow
def test_a_report_of_one_group_of_latents_has_one_stream(make_dataset, tmp_path):
    dataset = make_dataset([12, 11, 12, 13, 12, 11])
    figures = evaluate(clip_lam(scene_tokens=0), dataset, out=tmp_path / "report").figures
    assert "prediction_loss/zero" in figures
    assert not [name for name in figures if "env_" in name]


@pytest.mark.parametrize("tokens", [2, 0])
def test_without_their_loss_actions_are_not_seen_either(tokens: int):
    """The frame would hear of noised ones by the exchange, in training and never again (Table 5 without UAD)."""
    lam, given = clip_lam(action_weight=0.0, scene_tokens=tokens).train(), batch()
    losses = []
    for actions in (given.actions, 5 - 3 * given.actions):
        torch.manual_seed(3)
        losses.append(lam(given._replace(actions=actions))["frame"])
    assert torch.equal(*losses)
    found = lam.eval().encode(pixels(2, 3, 2), "lift")
    now, noise, z = lam.frame_features(pixels(2, 2)), lam._noise(2, 0), (found.env or found).quantized
    said = lam.predict(now, found)
    with torch.no_grad():
        seen = lam.decoder(*noise[:2], torch.zeros(2), (z, found.quantized), now)[0]
        lam.decoder.actions.weight.zero_()
        lam.decoder.actions.bias.copy_(lam.decoder.unknown)
        unseen = lam.decoder(*noise[:2], torch.zeros(2), (z, found.quantized), now)[0]
    assert not torch.allclose(seen, unseen, atol=1e-4)
    torch.testing.assert_close(said, noise[0] + unseen)


@pytest.mark.parametrize("changes", [{}, {"action_weight": 0.0}, {"frame_weight": 0.0}, {"separation_weight": 0.1}])
def test_processes_have_a_gradient_of_every_parameter(changes: dict):
    """Several of them wait for each, also of what has no weight."""
    lam = clip_lam(**changes).train()
    terms = lam(batch())
    torch.stack([weight * terms[name] for name, weight in lam.config.loss_weights.items()]).sum().backward()
    assert not [name for name, p in lam.named_parameters() if p.grad is None]


def test_separation_moves_the_scene_away_from_motion_and_not_the_reverse():
    assert "separation" not in clip_lam()(batch())
    lam = clip_lam(separation_weight=0.5).train()
    terms = lam(batch())
    assert lam.config.loss_weights == {"frame": 1.0, "action": 1.0, "separation": 0.5}
    terms["separation"].backward()
    assert lam.scene_head.weight.grad is not None
    assert lam.scene_head.weight.grad.any()
    assert all(p.grad is None for part in (lam.motion_head, lam.decoder) for p in part.parameters())


def test_labels_are_those_of_clips_in_any_pieces(tmp_path):
    """At the end the last frame stands for those that are not there; another instruction is another label."""
    lam, frames = clip_lam(), video()
    found = lam.label_video(frames, 4, "lift it")
    assert found.codes.shape == (11, 0)
    clips = np.stack([np.stack([frames[min(t + gap, 10)] for gap in (0, 2, 4)]) for t in range(11)])
    one = lam.encode(clips, "lift it")
    np.testing.assert_allclose(found.latents, one.latents, atol=1e-6)
    assert found.env
    assert one.env
    np.testing.assert_allclose(found.env.latents, one.env.latents, atol=1e-6)
    pieces = lam.label_video(iter([frames[:5], frames[5:6], frames[6:]]), 4, "lift it")
    assert np.array_equal(found.latents, pieces.latents)
    assert not np.array_equal(found.latents, lam.label_video(frames, 4, "push it").latents)
    assert np.allclose(found.latents.mean(-1), 0, atol=1e-5)  # latent_norm="layer"
    assert np.allclose(found.latents.std(-1), 1, atol=1e-2)
    again = lattok.load(lam.save_pretrained(tmp_path / "lam"))
    assert isinstance(again, lattok.ClipLAM)
    assert np.array_equal(found.latents, again.label_video(frames, 4, "lift it").latents)


def test_the_prompt_has_the_instruction_without_spaces_around_it(monkeypatch: pytest.MonkeyPatch):
    lam, seen = clip_lam(prompt="Do {task}!"), []
    prepare = lam.backbone.prepare
    monkeypatch.setattr(lam.backbone, "prepare", lambda images, texts: seen.extend(texts) or prepare(images, texts))
    lam.encode(pixels(2, 3, 2), [" open it\n", "lift"])
    assert seen == ["Do open it!", "Do lift!"]


def test_a_frame_is_predicted_and_a_chunk_drawn():
    """The prediction is noise plus the velocity at t = 0, which is the mean of what may come."""
    lam, frames = clip_lam(decoder_flow_steps=1), pixels(2, 2)
    latents = lam.encode(pixels(2, 3, 2), ["a", "b"])
    now = lam.frame_features(frames)
    patches, actions = lam.generate(frames, latents)
    assert actions.shape == (2, 4, 3)
    assert torch.allclose(lam.predict(now, latents), patches, atol=1e-5)
    lam.action_normalizer.shift += 1
    assert torch.allclose(lam.generate(frames, latents)[1], actions + 1, atol=1e-5)


def test_actions_are_drawn_in_the_units_of_the_dataset_that_is_chosen(tmp_path):
    lam, frames = clip_lam(normalizers=("a", "b")), pixels(2, 2)
    latents, alone = lam.encode(pixels(2, 3, 2), "lift"), clip_lam()
    actions = alone.generate(frames, latents)[1]
    lam.normalizers[1].shift += 1  # pyright: ignore
    for dataset, shift in (("a", 0), ("b", 1)):
        chosen = lam.for_dataset(dataset)
        again = ClipLAM.from_pretrained(chosen.save_pretrained(tmp_path / dataset))
        for model in (chosen, again):
            torch.testing.assert_close(model.generate(frames, latents)[1], actions + shift)
        assert again.config.normalizers == ()
        assert chosen.backbone is lam.backbone
    assert for_dataset(lam, "another") is lam  # to label: that is the same for all
    refused("`model`", lam.generate, frames, latents)
    refused("`dataset`", lam.for_dataset, "c")
    refused("`dataset`", alone.for_dataset, "a")


def test_numbers_in_which_a_model_begins_and_says_latents(monkeypatch: pytest.MonkeyPatch):
    """As large as embeddings; whatever products are rounded to. Blocks of a video hold its clips' patches."""
    monkeypatch.setattr("lattok.backbones.model.ScratchBackbone.embedding_rms", 5.0)
    lam, sizes = clip_lam(latent_norm="none", scene_tokens=30), []
    assert "features_sha256" not in lam.describe()  # of pixels there are no weights
    assert float(lam.queries.detach().std()) == pytest.approx(5, rel=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        assert {part.dtype for part in lam.latents(pixels(2, 3, 2), ["", ""])} == {torch.float32}
    monkeypatch.setattr("lattok.image_lam.clips.model.block_size", lambda *given: sizes.append(given[0]) or 3)
    assert lam.label_video(video(), 4).latents.shape == (11, 3, 8)
    assert sizes == [3 * 2 * (2 * 2) * 32]


def test_one_camera_may_be_left_out():
    lam, clips = clip_lam(cameras=("front",)), pixels(2, 3, 1)
    latents = lam.encode(clips, "lift")
    assert torch.equal(lam.encode(clips[:, :, 0], "lift").latents, latents.latents)
    frames = clips[:, 0]
    for ours, theirs in zip(lam.generate(frames[:, 0], latents), lam.generate(frames, latents), strict=True):
        assert torch.equal(ours, theirs)
    refused("`clips`", lambda: clip_lam().encode(clips[:, :, 0], "lift"))
    refused("`clips`", lambda: clip_lam().encode(clips, "lift"))
    refused("`texts`", lam.encode, clips, ["lift"])


def test_straight_lines_end_where_they_lead():
    """Euler's method over five steps; what a robot lacks is 0 at each of them."""
    lam, frames, seen = clip_lam(decoder_flow_steps=5, absent=(1,)), pixels(2, 2), []
    latents, ways = lam.encode(pixels(2, 3, 2), "lift"), (torch.randn(2, 8, 192), torch.randn(2, 4, 3))

    def velocity(x, y, times, now, latents):
        seen.append((float(times[0]), y[..., 1].clone()))
        return ways

    lam._velocity = velocity
    found, (patches, actions, _) = lam.generate(frames, latents), lam._noise(2, 0)
    assert [time for time, _ in seen] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert not any(lacked.any() for _, lacked in seen)
    torch.testing.assert_close(found[0], patches + ways[0])
    torch.testing.assert_close(found[1], actions + ways[1] * torch.tensor([1.0, 0.0, 1.0]))


def test_arrays_give_arrays_that_are_the_same():
    lam, frames, clips = clip_lam(), pixels(2, 2), pixels(2, 3, 2)
    drawn = lam.generate(frames.numpy(), lam.encode(clips.numpy(), "lift"))
    for ours, theirs in zip(drawn, lam.generate(frames, lam.encode(clips, "lift")), strict=True):
        assert isinstance(ours, np.ndarray)
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-6)


def test_latents_that_are_not_of_these_frames_are_refused():
    lam, frames = clip_lam(), pixels(2, 2)
    latents = lam.encode(pixels(2, 3, 2), "lift")
    wide = clip_lam(latent_dim=6).encode(pixels(2, 3, 2), "lift")
    for given, argument, options in (
        ((frames[:1], latents), "`latents`", {}),
        ((frames[:, :1], latents), "`frames`", {}),
        ((frames[0], latents), "`frames`", {}),
        ((frames, wide), "`latents`", {}),
        ((frames, latents.env), "`latents`", {}),
        ((frames, latents.latents), "`latents`", {}),
        ((frames, latents), "`known`", {"known": [True]}),
        ((frames, latents), "`known`", {"known": [1.0, 1.0, 0.0]}),
        ((frames, latents), "`seed`", {"seed": "a"}),
        ((frames, latents), "`seed`", {"seed": -1}),
        ((frames, latents), "`seed`", {"seed": 2**63}),
    ):
        refused(argument, lam.generate, *given, **options)
    assert not torch.equal(*(lam.generate(frames, latents, seed)[1] for seed in (0, 2**63 - 1)))


RATES = {"4": 10, "0.2s": 20, "0.11s": 30, "0.06s": 50, "0.03s": 100, "0.0011s": 1000}  # the last has none that fits


@pytest.mark.parametrize("stride", RATES)
def test_the_card_has_an_example_that_runs(stride, monkeypatch):
    """Also where a stride in seconds has frames enough at high rates only."""
    lam, names = clip_lam(stride=stride, frames=4), {}
    assert f"label_video(video, fps={RATES[stride]}, " in lam.card("clips")
    monkeypatch.setattr(lattok, "load", lambda name: lam)
    if RATES[stride] < 1000:
        exec(re.findall("```python\n(.*?)```", lam.card("clips"), re.S)[0], names)
        assert names["labels"].latents.shape == (20, 3, 8)


def test_what_is_drawn_starts_from_frames_as_they_were_in_training():
    """Frames of any size are resized to `image_size` first, and from there to the latent space."""
    lam = clip_lam(image_size=16, features_size=32)
    frames, latents = pixels(2, 2, side=48), lam.encode(pixels(2, 3, 2), ["a", "b"])
    small = torch.from_numpy(lam.resize(frames.numpy()))
    assert small.shape == (2, 2, 16, 16, 3)
    for ours, theirs in zip(lam.generate(frames, latents), lam.generate(small, latents), strict=True):
        assert torch.equal(ours, theirs)


def test_streams_are_kept_apart_by_three_samples_at_least():
    """Of two samples all channels correlate fully, whatever is learned."""
    lam = clip_lam(separation_weight=0.1)
    assert float(lam(batch(3))["separation"].detach()) < 1
    refused("`batch_size`", lambda: lam(batch(2)))


def test_a_dataset_is_annotated_and_verified(make_dataset, tmp_path):
    """Each episode with its own instruction; scene and motion are columns."""
    dataset, lam = make_dataset([12, 9]), clip_lam()
    annotate(dataset, lam, tmp_path / "out")
    labelled = open_dataset(tmp_path / "out")
    assert labelled.features["latent.embedding"].shape == (24,)
    assert labelled.features["latent.env.embedding"].shape == (16,)
    for index, task in enumerate(("lift", "push")):
        frames = dataset.frames(index, dataset.cameras, transform=lam.resize)
        wanted = lam.label_video(frames, 4, task)
        found = labelled.columns(index, ["latent.embedding", "latent.env.embedding", "latent.valid"])
        assert np.array_equal(found["latent.embedding"], wanted.latents.reshape(len(frames), -1))
        assert wanted.env is not None
        assert np.array_equal(found["latent.env.embedding"], wanted.env.latents.reshape(len(frames), -1))
        assert found["latent.valid"].sum() == len(frames) - 4
    assert verify(labelled, {"latent": lam}).holds


def test_a_stride_shorter_than_the_clip_is_refused():
    refused("`stride`", lambda: clip_lam().label_video(video(), 1))
    refused("`stride`", lambda: clip_lam().label_video(video(), "four"))
    refused("`frames`", lambda: clip_lam().label_video(iter([]), 4))
    refused("`task`: expected an instruction, or a list of them, got 3", lambda: clip_lam().label_video(video(), 4, 3))  # type: ignore[arg-type]
    refused("`task`", lambda: clip_lam().label_video(video(), 4, ["lift"] * 9))
    refused("`task`", lambda: clip_lam().label_video(video(), 4, ["lift"] * 12))
    for texts in (None, [1, 2]):
        refused("`texts`: expected an instruction, or a list of them", clip_lam().encode, pixels(2, 3, 2), texts)
    for fps in (0, -5, float("nan"), "10", None):
        refused("`fps`: expected", clip_lam(stride="0.2s").stride_frames, fps)
    refused("frames per sample", lambda: clip_lam().encode(pixels(2, 2, 2), "a"))
    refused("a PolicyBatch with later frames", lambda: clip_lam()(batch()._replace(later=None)))


def test_the_report_reads_actions_from_motion_and_from_the_scene(make_dataset, tmp_path, monkeypatch):
    """It sees whole clips with the instructions of their episodes, and shows the frame that is predicted.

    Next to it is the one with the motion of another clip, and the same scene.
    """
    dataset, lam, seen = make_dataset([12, 11, 12, 13, 12, 11]), clip_lam(features_size=24), set()
    encode, predict, given = ClipLAM.encode, ClipLAM.predict, []

    def told(self, clips, texts):
        assert clips.shape[1:3] == (3, 2)
        seen.update(texts)
        return encode(self, clips, texts)

    def predicted(self, now, latents):
        given.append(latents)
        return predict(self, now, latents)

    monkeypatch.setattr(ClipLAM, "encode", told)
    monkeypatch.setattr(ClipLAM, "predict", predicted)
    monkeypatch.setattr("lattok.evaluation.evidence.probes.STEPS", 5)  # what probes find does not matter here
    figures = evaluate(lam, dataset, out=tmp_path / "report").figures
    assert seen == {"lift", "push"}
    assert {"r2_from_latents/latents", "r2_from_latents/env_latents"} <= figures.keys()
    losses = [figures[f"prediction_loss/{which}"] for which in ("true", "zero", "env_zero", "shuffled_in_episode")]
    assert len(set(losses)) == 4  # whatever is taken away, another frame is predicted
    own, control = given[-2:]
    assert torch.equal(control.quantized, own.quantized.roll(-1, 0))
    assert torch.equal(control.env.quantized, own.env.quantized)
    assert not torch.equal(control.quantized, own.quantized)
    page = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    assert "read from the latents" in page.lower()  # it has no codes
    assert "one-hot" not in page
    shown = re.findall(r'<img alt="([\w.]+), (now|later|predicted|control)" src="data:image/jpeg;base64,([^"]+)', page)
    for camera in lam.cameras:
        for column, side in {"now": 16, "later": 16, "predicted": 24, "control": 24}.items():
            pictures = [data for name, which, data in shown if (name, which) == (camera, column)]
            sizes = [Image.open(BytesIO(base64.b64decode(data))).size for data in pictures]
            assert sizes == [(side, side)] * 4, (camera, column)
    assert page.count("<br>instruction <b>lift</b>") + page.count("<br>instruction <b>push</b>") == 4
    assert "Control: predicted with the latents of motion" in page
    refused("`controls`", evaluate, lam, dataset, controls="trained")


@pytest.mark.slow
def test_another_process_gives_the_same_latents(tmp_path):
    """Of a saved model, with nothing but its folder: no state of this process goes into them."""
    lam, frames = clip_lam(), video()
    lam.save_pretrained(tmp_path / "lam")
    np.save(tmp_path / "video.npy", frames)
    script = (
        "import sys, numpy as np, lattok\n"
        "folder = sys.argv[1]\n"
        "found = lattok.load(f'{folder}/lam').label_video(np.load(f'{folder}/video.npy'), 4, task='lift it')\n"
        "np.savez(f'{folder}/found.npz', motion=found.latents, scene=found.env.latents)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    wanted = lam.label_video(frames, 4, "lift it")
    assert wanted.env is not None
    with np.load(tmp_path / "found.npz") as found:
        assert np.array_equal(found["motion"], wanted.latents)
        assert np.array_equal(found["scene"], wanted.env.latents)
