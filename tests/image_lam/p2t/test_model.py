"""The image latent action model: shapes, streams, gradient routing, labels that do not depend on the caller."""

import numpy as np
import pytest
import torch

from lattok.image_lam import FrozenFeatures, ImageLAM, ImageLAMConfig, PairLearner
from lattok.image_lam.base import losses
from lattok.image_lam.base.bottlenecks import grid_levels
from lattok.types import PairBatch
from lattok.utils import checks
from tests.errors import refused
from tests.learning import learn

SMALL = {
    "cameras": ("front", "wrist"),
    "stride": "2",
    "features": "pixels",
    "image_size": 32,
    "tokens": 3,
    "codebook_size": 5,
    "latent_dim": 8,
    "width": 16,
    "heads": 2,
    "encoder_depth": 1,
    "decoder_depth": 1,
}
ROBUST = {
    "encoder": "fused",
    "latent_heads": "per_token",
    "latent_norm": "batch",
    "codebook_update": "ema",
    "codebook_start": "kmeans",
    "decoder_conditioning": "add",
    "decoder_predict_change": True,
}
VARIANTS = {
    "p2t": {},
    "robust": {**ROBUST, "quantizer": "residual"},
    "shared": {**ROBUST, "loss_decorrelation": 0.1},
    "joint": {**ROBUST, "streams": "joint"},
    "control+env": {"streams": "control+env"},
    "fsq": {**ROBUST, "quantizer": "fsq", "codebook_size": 6},
    "continuous": {**ROBUST, "quantizer": "none"},
    "variational": {**ROBUST, "quantizer": "none", "loss_kl": 0.1, "streams": "joint"},
    "futures": {"extra_strides": ("4", "6"), "loss_additivity": 0.1},
    "flow": {**ROBUST, "quantizer": "residual", "loss_flow": 0.3, "extra_strides": ("4",)},
    "robust futures": {**ROBUST, "quantizer": "residual", "extra_strides": ("4",)},
    "robust control+env": {**ROBUST, "quantizer": "residual", "streams": "control+env", "codebook_continuous_steps": 3},
}


def make(variant="p2t", **changes) -> ImageLAM:
    torch.manual_seed(0)
    return ImageLAM(ImageLAMConfig.of(**{**SMALL, **VARIANTS[variant], **changes}))


def batch(size=12, image=32, cameras=2, later=1):
    torch.manual_seed(1)
    frames = torch.randint(0, 256, (size, 1 + later, cameras, image, image, 3), dtype=torch.uint8)
    return PairBatch(frames, torch.randn(size, 4), torch.arange(size) % 3 == 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_shapes_of_every_variant(variant):
    lam = make(variant)
    terms = PairLearner(lam).train()(batch(later=1 + len(lam.config.extra_strides)))
    assert set(terms) <= set(lam.config.loss_weights)
    assert {name for name in ("additivity", "flow", "kl") if lam.config.loss_weights[name] > 0} <= set(terms)
    assert all(term.ndim == 0 and torch.isfinite(term) for term in terms.values())
    out = lam.eval().encode(batch().frames)
    positions = 1 if lam.config.quantizer == "residual" else 3
    assert out.codes.shape == (12, 0 if lam.config.quantizer == "none" else 3)
    assert out.codes.dtype == torch.int64
    assert out.latents.shape == out.quantized.shape == (12, positions, 8)
    assert (out.env is not None) == (lam.config.streams != "control")
    assert lam.predict(lam.frame_features(batch().frames[:, 0]), out).shape == (12, 8, 768)


@pytest.mark.parametrize("encoder", ["spacetime", "fused"])
def test_instructions_condition_stage_1_each_sample_by_its_own(encoder):
    lam = make(language="precomputed", language_dim=7, encoder=encoder)
    features, text = lam.frame_features(batch().frames), torch.randn(12, 5, 7)
    mask = torch.arange(5) < torch.randint(1, 6, (12, 1))
    out = lam.encode_features(features, text, mask)
    alone = [lam.encode_features(features[i : i + 1], text[i : i + 1, mask[i]]) for i in range(12)]
    torch.testing.assert_close(out.latents, torch.cat([one.latents for one in alone]), atol=1e-5, rtol=1e-5)
    padded = torch.where(mask[..., None], text, 9.0)
    assert torch.equal(lam.encode_features(features, padded, mask).latents, out.latents)
    torch.testing.assert_close(
        lam.predict(features[:, 0], out, padded, mask), lam.predict(features[:, 0], out, text, mask)
    )
    assert not torch.allclose(lam.encode_features(features, text.flip(0), mask.flip(0)).latents, out.latents)
    terms = lam.train()(batch()._replace(text=text, text_mask=mask))
    sum(terms.values()).backward()
    assert lam.language_up.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "text", "message"),
    [
        ({}, torch.zeros(12, 5, 7), "`text` .* was given, but this model does not read instructions"),
        ({"language": "precomputed"}, None, "`text`"),
        ({"language": "precomputed"}, torch.zeros(12, 5, 7), "`text`"),
        ({"language": "precomputed"}, torch.zeros(3, 5, 768), "`text`"),
    ],
)
def test_bad_instructions(options, text, message):
    lam = make(**options)
    refused(message, lambda: lam.encode_features(lam.frame_features(batch().frames), text))


def test_a_mask_of_other_words_is_refused():
    lam = make(language="precomputed")
    refused(
        "`text_mask`",
        lambda: lam.encode_features(lam.frame_features(batch().frames), torch.zeros(12, 5, 768), torch.ones(12, 4)),
    )


def test_features_of_other_precision_and_arrays():
    lam = make().eval()
    features = lam.frame_features(batch().frames)
    assert torch.equal(lam.encode_features(features.double()).latents, lam.encode_features(features).latents)
    assert np.array_equal(lam.encode_features(features.numpy()).latents, lam.encode_features(features).latents)
    video = batch().frames[:, 0]
    assert np.array_equal(lam.label_video(video.numpy(), 2).codes, lam.label_video(video, 2).codes)


def test_further_futures_are_predicted_and_labels_stay_those_of_the_stride():
    lam = make("futures", loss_additivity=0.0)
    three, learner = batch(later=3), PairLearner(lam)
    learner.attach_action_head(torch.randn(50, 4))
    terms = learner.eval()(three)
    features = lam.frame_features(three.frames)
    errors = [
        losses.prediction(lam.predict(features[:, 0], lam.encode_features(features[:, [0, later]])), features[:, later])
        for later in (1, 2, 3)
    ]
    torch.testing.assert_close(terms["prediction"], torch.stack(errors).mean())
    latents = lam.encode_features(features[:, :2]).latents
    target = learner.action_head.normalizer(three.actions)
    got = learner.action_head.net(latents.flatten(1))
    torch.testing.assert_close(terms["action"], losses.action(got, target, three.labelled))
    refused("`frames`", lambda: lam(batch(later=2)))


def test_flow_teaches_the_codes_and_its_head_is_not_saved():
    lam = make("flow", extra_strides=())
    learner = PairLearner(lam)
    terms = learner.train()(batch())
    terms["flow"].backward()
    assert lam.control.heads[0].weight.grad.abs().sum() > 0
    assert lam.decoder.out.weight.grad is None
    assert not any("flow_head" in name for name in lam.saved_tensors())
    both = make("flow", extra_strides=(), streams="joint")
    PairLearner(both).train()(batch())["flow"].backward()
    assert both.control.heads[0].weight.grad is None  # what moves beyond its codes is for the other stream
    assert both.env.heads[0].weight.grad.abs().sum() > 0


def test_finite_scalars_give_every_code_and_its_row():
    lam = make("fsq", codebook_size=12)
    stream = lam.control.quantizer
    out = lam.encode(batch(40).frames)
    assert out.codes.max() < 12
    torch.testing.assert_close(out.quantized, stream.lookup(out.codes))
    assert torch.unique(stream.lookup(torch.arange(12)[None]), dim=1).shape == (1, 12, 8)
    assert [grid_levels(size) for size in (2, 16, 256, 1000, 22)] == [[2], [4, 4], [8, 8, 4], [8, 5, 5, 5], [11, 2]]


def test_variational_noise_is_in_training_only_and_paid_for():
    lam = make("variational", streams="control")
    lam.control.norm = None
    features = lam.frame_features(batch().frames)
    torch.manual_seed(0)
    first, _ = lam.train()._quantized(lam.encoder(features))
    second, _ = lam._quantized(lam.encoder(features))
    assert torch.equal(first.latents, second.latents)
    assert not torch.equal(first.vectors, second.vectors)
    out = lam.eval().encode_features(features)
    assert torch.equal(out.latents, out.quantized)
    mean, spread = first.latents.double(), lam.control.quantizer.log_variance(first.latents).double()
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (spread / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(first.losses["kl"].double(), divergence.mean())


def test_published_action_head_reads_the_mean_of_the_codes_vectors():
    lam = make("p2t", action_head="codes", action_target="chunk", action_steps=6)
    learner = PairLearner(lam)
    learner.attach_action_head(torch.randn(50, 6, 4))
    chunks = batch()._replace(actions=torch.randn(12, 6, 4))
    terms = learner.train()(chunks)
    control, _ = lam._quantized(lam.encoder(lam.frame_features(chunks.frames)))
    got = learner.action_head.net(control.vectors.mean(1)).reshape(12, 6, 4)
    error = (got - learner.action_head.normalizer(chunks.actions)).square()[chunks.labelled].mean()
    torch.testing.assert_close(terms["action"], error)
    terms["action"].backward()
    assert lam.encoder.queries.grad.abs().sum() > 0
    assert lam.control.quantizer.codebook_vectors[0].grad is None


def test_stage_2_takes_codebook_and_queries_of_stage_1():
    stage1 = make(language="precomputed")
    lam = make("control+env", env_codebook_size=5)
    before = lam.encoder.queries[:3].clone()
    lam.take_environment(stage1)
    assert torch.equal(lam.env.quantizer.codebook_vectors[0], stage1.control.quantizer.codebook_vectors[0])
    assert torch.equal(lam.encoder.queries[3:], stage1.encoder.queries)
    assert torch.equal(lam.encoder.queries[:3], before)
    refused("`env_codebook`", lambda: lam.take_environment(make("robust")))


def test_labels_ignore_an_autocast_around_them():
    lam = make("robust")
    lam.train()(batch())
    before = lam.encode(batch().frames)
    with torch.autocast("cpu", torch.bfloat16):
        inside = lam.encode(batch().frames)
    assert torch.equal(inside.latents, before.latents)


@pytest.mark.parametrize("levels", [1, 3])
def test_quantized_is_the_sum_of_the_codes_rows(levels):
    lam = make("robust", tokens=levels)
    lam.train()(batch())
    out = lam.eval().encode(batch().frames)
    book = lam.control.quantizer.codebook_vectors
    assert out.quantized.shape == (12, 1, 8)
    torch.testing.assert_close(out.quantized[:, 0], sum(book[i][out.codes[:, i]] for i in range(levels)))


def test_video_labels_equal_pair_labels_and_do_not_depend_on_the_caller():
    lam = make("robust")
    lam.train()(batch())
    video = np.random.default_rng(0).integers(0, 256, (70, 2, 48, 48, 3), dtype=np.uint8)
    out = lam.train().label_video(torch.from_numpy(video), 2)
    assert lam.training  # left as it was found
    later = np.minimum(np.arange(70) + 2, 69)
    pairs = torch.from_numpy(np.stack([video, video[later]], 1))
    single = [lam.encode(pairs[i : i + 1]) for i in (0, 3, 63, 64, 69)]
    for i, label in zip((0, 3, 63, 64, 69), single, strict=True):
        assert torch.equal(label.codes[0], out.codes[i])
        torch.testing.assert_close(label.latents[0], out.latents[i], atol=1e-5, rtol=1e-5)
    small = np.stack([lam.resize(video[:, v]) for v in range(2)], 1)
    assert torch.equal(lam.label_video(torch.from_numpy(small), 2).codes, out.codes)


def test_a_gap_is_frames_seconds_or_the_models_own():
    lam, video = make("robust"), np.random.default_rng(0).integers(0, 256, (9, 2, 48, 48, 3), np.uint8)
    own = checks.stride_in_frames(lam.config.stride, 10)
    for gap, frames in ((None, own), ("3", 3), ("0.2s", 2), (4, 4)):
        found, wanted = lam.label_video(video, gap, fps=10), lam.label_video(video, frames)
        assert np.array_equal(found.codes, wanted.codes)
    refused("`fps`", lam.label_video, video, "0.2s")


def test_camera_axis_is_optional_with_one_camera():
    lam = make(cameras=("front",))
    frames = batch(cameras=1).frames
    assert torch.equal(lam.encode(frames).codes, lam.encode(frames[:, :, 0]).codes)


def test_environment_codebook_stays_frozen_but_teaches_the_encoder():
    lam = make("control+env", env_codebook_size=7)
    lam.set_env_codebook([torch.randn(7, 8)])
    before = lam.env.quantizer.codebook_vectors[0].clone()
    terms = lam.train()(batch())
    terms["commitment_env"].backward()
    assert lam.env.heads[0].weight.grad.abs().sum() > 0
    assert lam.env.quantizer.codebook_vectors[0].grad is None
    assert torch.equal(lam.env.quantizer.codebook_vectors[0], before)
    refused("`env_codebook`", lam.set_env_codebook, [torch.randn(4, 8)])
    refused("`env_codebook` needs streams=control\\+env", lambda: make("joint").set_env_codebook([torch.randn(5, 8)]))


def test_a_frozen_environment_stream_is_quantized_from_the_first_step():
    lam = make("robust control+env")
    book = [torch.randn(16, 8) for _ in range(3)]
    lam.set_env_codebook(book)
    features = lam.frame_features(batch().frames)
    _, env = lam.train()._quantized(lam.encoder(features))
    torch.testing.assert_close(env.vectors[:, 0], sum(book[i][env.codes[:, i]] for i in range(3)))


def test_action_head_teaches_latents_before_quantization_and_is_dropped(tmp_path):
    lam = make("p2t")
    learner = PairLearner(lam)
    learner.attach_action_head(torch.randn(50, 4))
    terms = learner.train()(batch())
    terms["action"].backward()
    assert lam.control.heads[0].weight.grad.abs().sum() > 0
    assert lam.control.quantizer.codebook_vectors[0].grad is None
    assert lam.decoder.out.weight.grad is None
    folder = lam.save_pretrained(tmp_path / "lam")
    again = ImageLAM.from_pretrained(folder)
    assert not any("action_head" in name or "features" in name for name in again.saved_tensors())
    assert torch.equal(again.encode(batch().frames).codes, lam.eval().encode(batch().frames).codes)


def test_predicting_change_starts_from_the_current_frame():
    lam = make("robust")
    features = lam.frame_features(batch().frames[:, 0])
    assert torch.equal(lam.decoder(features, torch.randn(12, 1, 8)), features)


def test_pixels_are_normalised_patches():
    features = FrozenFeatures("pixels", 32)
    frames = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    got = features(frames).reshape(2, 2, 2, 16, 16, 3)
    x = (frames.numpy() / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(got[1, 1, 0], x[1, 16:32, 0:16], atol=1e-5)


def test_resize_leaves_right_sized_frames_alone_and_keeps_uint8():
    features = FrozenFeatures("pixels", 32)
    frames = torch.randint(0, 256, (2, 3, 32, 32, 3), dtype=torch.uint8)
    assert features.resize(frames) is frames
    big = torch.full((2, 3, 50, 70, 3), 128, dtype=torch.uint8)
    assert torch.equal(features.resize(big), torch.full((2, 3, 32, 32, 3), 128, dtype=torch.uint8))


def test_timm_features_from_a_local_folder(tmp_path, monkeypatch):
    import json

    import timm
    from safetensors.torch import save_file

    name = "vit_tiny_patch16_224"
    torch.manual_seed(0)
    arguments = {"img_size": 32, "num_classes": 0, "embed_dim": 24, "depth": 2, "num_heads": 2}
    network = timm.create_model(name, **arguments).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": name, "num_features": 24, "num_classes": 0, "model_args": arguments}
    (tmp_path / "config.json").write_text(json.dumps({**config, "pretrained_cfg": {"input_size": [3, 32, 32]}}))
    features = FrozenFeatures(f"timm:local-dir:{tmp_path}", 32)
    with pytest.raises(RuntimeError, match="call .load"):
        features(torch.zeros(1, 32, 32, 3, dtype=torch.uint8))
    frames = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    got = features.load()(frames)
    pixels = (frames / 255 - features.mean) / features.std
    torch.testing.assert_close(got, network.forward_features(pixels.permute(0, 3, 1, 2))[:, 1:])
    lam = make(features=f"timm:local-dir:{tmp_path}", cameras=("front",))
    lam.features.load()
    saved = lam.save_pretrained(tmp_path / "lam")
    refused(f"If you trust it, say so: LATTOK_DATA={tmp_path} ", ImageLAM.from_pretrained, saved)
    monkeypatch.setenv("LATTOK_DATA", str(tmp_path))
    again = ImageLAM.from_pretrained(saved)
    assert again.features.loaded
    pairs = batch(cameras=1).frames
    assert torch.equal(again.encode(pairs).codes, lam.eval().encode(pairs).codes)


def test_an_empty_batch():
    lam = make("robust")
    lam.train()(batch())
    assert lam.encode(batch().frames[:0]).codes.shape == (0, 3)


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        (np.zeros((2, 2, 2, 32, 32, 3)), "`frames`"),
        (torch.zeros(2, 2, 2, 32, 32, 3), "`frames`"),
        (torch.zeros(2, 2, 1, 32, 32, 3, dtype=torch.uint8), "`frames`"),
        (torch.zeros(2, 3, 2, 32, 32, 3, dtype=torch.uint8), "`frames`"),
        (torch.zeros(2, 2, 32, 32, 3, dtype=torch.uint8), "`frames`"),
        (torch.zeros(2, 2, 2, 3, 32, 32, dtype=torch.uint8), "`frames`"),
    ],
)
def test_bad_frames_name_what_was_expected(frames, text):
    refused(text, lambda: make().encode(frames))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"streams": "both"}, "`streams`"),
        ({"cameras": ()}, "`config`: expected one with cameras"),
        ({"features": "clip"}, "`features`"),
        ({"image_size": 40}, "`image_size`"),
        ({"interpolation": "nearest"}, "`interpolation`"),
        ({"mean": (0.5,)}, "`mean`"),
        ({"std": (0.0, 1.0, 1.0)}, "`std`"),
        ({"loss_additivity": 0.1}, "`loss_additivity`"),
        ({"loss_kl": 0.1}, "`loss_kl`"),
        ({"dropout": 2.0}, "`dropout`"),
        ({"codebook_update": "mean"}, "`codebook_update`"),
        ({"quantizer": "residual"}, "`codebook_update`"),
        ({"quantizer": "fsq", "streams": "control+env"}, "`quantizer`"),
        ({"language": "clip"}, "`language`"),
        ({"language": "precomputed", "streams": "joint"}, "`language` needs streams=control"),
        ({"codebook_size": 1}, "`codebook_size`"),
        ({"features": "timm:no_such_model"}, "`features`"),
        ({"codebook_restart_every": 5, "codebook_update": "ema"}, "`codebook_restart_every`"),
        ({"codebook_restart_every": 5, "codebook_revive_below": 0.1}, "`codebook_restart_every`"),
        ({"encoder_query_start": "zeros"}, "`encoder_query_start`"),
        ({"codebook_start": "magic"}, "`codebook_start`"),
        ({"action_target": "last"}, "`action_target`"),
        ({"action_steps": 3}, "`action_steps`"),
    ],
)
def test_bad_config(change, text):
    refused(text, make, **change)


@pytest.mark.parametrize("encoder", ["spacetime", "fused"])
def test_queries_start_as_those_of_the_lineage_or_small(encoder):
    uniform, normal = (
        make(encoder=encoder, encoder_query_start=start).encoder.queries.detach() for start in ("uniform", "normal")
    )
    assert 0.9 < uniform.abs().max() <= 1
    assert uniform.std() == pytest.approx(1 / 3**0.5, rel=0.2)
    assert normal.std() == pytest.approx(0.02, rel=0.3)


def moving_squares(count: int, seed: int) -> PairBatch:
    """A white square that goes one of four ways."""
    draw = torch.Generator().manual_seed(seed)
    now = 8 + torch.randint(0, 9, (count, 2), generator=draw)
    later = (now + 14 * torch.randint(0, 2, (count, 2), generator=draw) - 7).clamp(0, 24)
    frames = torch.zeros(count, 2, 1, 32, 32, 3, dtype=torch.uint8)
    for i, places in enumerate(zip(now.tolist(), later.tolist(), strict=True)):
        for frame, (y, x) in enumerate(places):
            frames[i, frame, 0, y : y + 8, x : x + 8] = 255
    return PairBatch(frames, torch.zeros(count, 0), torch.zeros(count, dtype=torch.bool))


def test_the_papers_model_comes_alive_from_its_lineages_start_and_not_from_deviation_one():
    """Eq. 11 to 13 from random weights; benchmarks/quality/lam_start.py has the size of the effect."""
    rows = {}
    for start in ("uniform", "normal"):
        lam = make(cameras=("front",), width=32, latent_dim=16, codebook_size=16, codebook_start=start).train()
        seeds = iter(range(31))
        learn(lam, lambda: lam(moving_squares(16, next(seeds))), 31, 3e-3, lam.config.loss_weights)  # noqa: B023
        rows[start] = len(lam.encode(moving_squares(64, 999).frames).codes.unique(dim=0))
    assert rows["normal"] == 1
    assert rows["uniform"] > 1


@pytest.mark.parametrize("quantizer", ["vq", "residual", "fsq"])
def test_a_codebook_follows_only_latents_that_count(quantizer: str):
    """The others are encoded, and change neither codebook nor counts; terms and latents are those of `forward`."""
    changes = {"quantizer": quantizer, "codebook_start": "normal", "codebook_continuous_steps": 0}
    valid, data, found = torch.arange(12) < 9, batch(), []
    for part in (data._replace(valid=valid), PairBatch(*(None if x is None else x[:9] for x in data))):
        model = make("robust", **changes).train()
        model.control.norm = None  # its statistics are those of the batch, whatever counts
        terms, encoded, _ = model.learn(part)
        assert encoded.latents.requires_grad
        assert terms["prediction"].requires_grad
        found.append((dict(model.control.quantizer.named_buffers()), encoded.latents[:9].detach()))
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=0)
    for name, buffer in found[1][0].items():
        kept = found[0][0][name]
        kept = kept[(kept >= 0).all(-1)] if name == "recent" else kept
        torch.testing.assert_close(kept, buffer, atol=1e-5, rtol=1e-5)
