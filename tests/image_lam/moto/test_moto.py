"""Latent action models of Moto and LARA, converted: fixtures of the published classes (tests/parity/README.md)."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

import lattok
from lattok.cli import main
from lattok.convert import moto_lam
from lattok.hub.checkpoint import Join
from lattok.hub.weights import Size, plan_module
from lattok.image_lam import FrozenFeatures, MotoLAM, MotoLAMConfig
from lattok.image_lam.moto.convert import key_map, sizes
from lattok.nn.blocks import PreNormBlock
from lattok.types import PairBatch
from lattok.utils.options import built, flat
from tests.errors import refused
from tests.image_lam.parity import close

PARITY = Path(__file__).parents[2] / "parity"
NAMES = ("lara_lam_a", "lara_lam_b")
ENCODER = "image_encoder."
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]


class Published(NamedTuple):
    """One fixture: settings, tensors by published name, what the published classes compute."""

    config: dict[str, Any]
    weights: dict[str, Tensor]
    values: dict[str, Tensor]
    file: Path

    @property
    def pairs(self) -> Tensor:
        """The first frame with each later one, [B * F, 2, 3, H, W]."""
        frames = self.values["images"]
        return torch.stack([torch.stack([frames[:, 0], later], 1) for later in frames[:, 1:].unbind(1)], 1).flatten(
            0, 1
        )


@pytest.fixture(params=NAMES)
def case(request) -> Published:
    return opened(request.param)


def opened(name: str) -> Published:
    folder = PARITY / name
    tensors = [safetensors.torch.load_file(folder / f"{part}.safetensors") for part in ("weights", "io")]
    return Published(json.loads((folder / "config.json").read_text()), *tensors, folder / "weights.safetensors")


def learn(model: MotoLAM, frames: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Loss terms and latents of normalised frames [B, F, 3, H, W], with gradients."""
    for network in (model.features, model.pixels):
        network.resize = lambda images: images  # pyright: ignore
        network.forward = network.of_pixels
    batch = PairBatch(rearrange(frames, "b f c h w -> b f 1 h w c"), torch.zeros(len(frames), 0), torch.zeros(0))
    model.config = replace(model.config, extra_strides=("16", "17")[: frames.shape[1] - 2])
    terms, control, _ = model.learn(batch)
    return terms, control.latents


def total(model: MotoLAM, terms: dict[str, Tensor]) -> Tensor:
    return sum(model.config.loss_weights[name] * term for name, term in terms.items())


def patches(model: MotoLAM, images: Tensor) -> Tensor:
    side = model.config.decoder.patch
    return rearrange(images, "n c (y p) (x q) -> n (y x) (p q c)", p=side, q=side)


def gradients(model: MotoLAM) -> dict[str, Tensor]:
    """Gradients by published name, of parameters that are one tensor there."""
    found, trained = {}, dict(model.named_parameters())
    for name, source in key_map(model.config).items():
        if name in trained and trained[name].grad is not None:
            key = source.keys[0] if isinstance(source, Join) and len(source.keys) == 1 else source
            found[key] = trained[name].grad
    return found


def close_gradients(model: MotoLAM, values: dict[str, Tensor], prefix: str, count: int) -> None:
    ours = gradients(model)
    expected = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    assert len(expected) == count
    for name, value in expected.items():
        if name == "decoder.decoder.0.weight":  # a matrix here, and colours last
            value = rearrange(value[..., 0, 0], "(c s) d -> (s c) d", c=3)
        difference = (ours[name].reshape(value.shape) - value).abs().max()
        assert difference <= 1e-5 * value.abs().max(), name


# What the published classes compute.


def test_codes_latents_and_rows(case):
    model, values = moto_lam(case.file), case.values
    out = model.encode_pixels(case.pairs)
    assert torch.equal(out.codes, values["indices"])
    close(out.latents, values["embed"])
    close(out.quantized, values["quant"])
    assert len(out.codes.unique()) == values["active_code_num"]
    images = (values["frames01"] - IMAGENET[0]) / IMAGENET[1]
    close(images, values["images"])


def test_predicted_pixels(case):
    model = moto_lam(case.file)
    out = model.encode_pixels(case.pairs)
    with torch.no_grad():
        recon = model.pixels.pixels_of(model.predict(patches(model, case.pairs[:, 0]), out)).movedim(-1, 1)
    for name in ("decode.recon", "stage.recon"):
        close(recon, case.values[name])


def test_stages(case):
    model, values, seen = moto_lam(case.file).train(), case.values, {}

    def note(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda _, inputs, output: seen.update({name: output}))

    def first(name: str, module: torch.nn.Module) -> None:
        module.register_forward_pre_hook(lambda _, inputs: seen.update({name: inputs[0]}))

    first("m_former_embeddings", model.encoder.blocks[0])
    note("m_former_out", model.encoder.blocks[-1])
    note("motion_up", model.decoder.latent_up[0])
    first("decoder_embeddings", model.decoder.blocks[0])
    note("decoder_out", model.decoder.blocks[-1])
    learn(model, values["images"])
    for name, norm in (("m_former_out", model.encoder.norm), ("decoder_out", model.decoder.norm)):
        seen[name] = norm(seen[name])
    for i, name in enumerate(("cond_hidden", "target_hidden")):
        seen[name] = model.features.of_pixels(case.pairs[:, i].movedim(1, -1))
    for name, value in seen.items():
        close(value, values[f"stage.{name}"])
    assert {f"stage.{name}" for name in seen} == {name for name in values if name.startswith("stage.")} - {
        "stage.commit",
        "stage.recon",
    }


def test_losses_and_gradients(case):
    model, values = moto_lam(case.file).train(), case.values
    terms, _ = learn(model, values["images"])
    weights = model.config.loss_weights
    commit = weights["commitment"] * terms["commitment"] + weights["codebook"] * terms["codebook"]
    assert (weights["commitment"], weights["codebook"]) == (1.0, 0.25)
    for name in ("loss.commit", "stage.commit"):
        close(commit, values[name])
    close(terms["prediction"], values["loss.recon"])
    close(total(model, terms), values["loss.total"])
    total(model, terms).backward()
    close_gradients(model, values, "grad_lam.", 6)
    assert all(parameter.grad is None for parameter in model.features.parameters())


def test_the_alignment_and_its_gradients_both_ways(case):
    """L_action + 0.01 (1 - cos(W h, e)) + 0.01 L_LAM, e the mean of the pairs' latents, nothing detached."""
    values, samples = case.values, len(case.values["images"])
    state = values["align.state"].clone().requires_grad_()
    weight, bias = values["align.head.weight"].clone().requires_grad_(), values["align.head.bias"]
    for alone in (False, True):
        model = moto_lam(case.file).train()
        terms, latents = learn(model, values["images"])
        target = latents.unflatten(0, (samples, -1)).flatten(2).mean(1)
        target.retain_grad()
        predicted = state @ weight.T + bias
        loss = (1 - F.cosine_similarity(predicted, target)).mean()
        whole = values["align.action_loss"] + 0.01 * loss + 0.01 * total(model, terms)
        for got, name in ((target, "target"), (predicted, "pred"), (loss, "loss"), (whole, "total")):
            close(got, values[f"align.{name}"])
        (loss if alone else whole).backward()
        if alone:
            close_gradients(model, values, "align_only.grad.", 1)
            assert model.control.quantizer.codebook_vectors[0].grad is None
            continue
        close_gradients(model, values, "align.grad.", 3)
        for got, name in ((target, "target"), (state, "state"), (weight, "head.weight")):
            expected = values[f"align.grad_{name}"]
            assert (got.grad - expected).abs().max() <= 1e-5 * expected.abs().max(), name


def test_published_labels_had_a_random_order_of_patches(case):
    """A given order gives the published values; without one each call drew its own."""
    model, values = moto_lam(case.file).train(), case.values
    tokens = torch.stack([model.features.of_pixels(image.movedim(1, -1)) for image in case.pairs.unbind(1)], 1)
    orders = torch.stack([values["noise.cond"], values["noise.target"]], 1).argsort(-1) + 1
    shuffled = torch.cat([tokens[:, :, :1], tokens.take_along_dim(orders[..., None], 2)], 2)
    out = model.encode_features(shuffled)
    assert torch.equal(out.codes, values["noise.indices"])
    close(out.latents, values["noise.embed"])
    model.frame_targets = lambda frames: patches(model, case.pairs.flatten(0, 1)).unflatten(0, (-1, 2))  # pyright: ignore
    batch = PairBatch(torch.zeros(len(tokens), 2, 0), torch.zeros(len(tokens), 0), torch.zeros(0), features=shuffled)
    close(total(model, model(batch)), values["noise.loss"])
    drawn = [values[f"shuffled.indices_seed{seed}"] for seed in (0, 1)]
    assert not torch.equal(*drawn)
    assert all(0.3 < (codes == values["indices"]).float().mean() < 1 for codes in drawn)


def test_labels_are_the_same_at_every_call(case):
    model = moto_lam(case.file)
    first, second = model.encode_pixels(case.pairs), model.encode_pixels(case.pairs)
    assert torch.equal(first.latents, second.latents)


@pytest.mark.parametrize("encoder", ["in the file", "of transformers"])
def test_the_image_encoder_is_that_of_transformers(case, encoder, tmp_path):
    """From the file, or read by transformers from a folder, as facebook/vit-mae-large is: the same features."""
    features = moto_lam(case.file).features
    if encoder == "of transformers":
        features = FrozenFeatures(
            mae_folder(case, tmp_path), case.config["image_encoder"]["image_size"], class_token=True
        )
        features.load()
    for i, name in enumerate(("cond", "target")):
        close(features.of_pixels(case.pairs[:, i].movedim(1, -1)), case.values[f"stage.{name}_hidden"])


def mae_folder(case: Published, folder: Path) -> str:
    """The fixture's image encoder as a folder of transformers; its name as features."""
    pytest.importorskip("transformers")
    size = case.config["image_encoder"]
    facts = {"model_type": "vit_mae", "image_size": size["image_size"], "patch_size": size["patch_size"]}
    facts |= {"hidden_size": size["hidden_size"], "num_hidden_layers": size["layers"]}
    facts |= {"num_attention_heads": size["heads"], "intermediate_size": size["inter"]}
    tensors = {f"vit.{k.removeprefix(ENCODER)}": v for k, v in case.weights.items() if k.startswith(ENCODER)}
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(facts))
    return f"hf:{folder}"


# Files.


def lara_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings as LARA writes them."""
    parts = {f"{name}_config": {"_target_": "x", "config": config[name]} for name in ("m_former", "decoder")}
    parts["vector_quantizer_config"] = {"_target_": "x", **config["vector_quantizer"]}
    parts["image_encoder_config"] = {"_target_": "x.from_pretrained", "pretrained_model_name_or_path": "/somewhere"}
    losses = {name: config[name] for name in ("codebook_dim", "commit_loss_w", "recon_loss_w", "perceptual_loss_w")}
    return {"model_type": "latent_motion_tokenizer", "hidden_state_decoder_config": None, **losses, **parts}


def test_the_folder_of_lara(case, tmp_path, monkeypatch):
    encoder = mae_folder(case, tmp_path / "mae")
    own = {name: tensor for name, tensor in case.weights.items() if not name.startswith(ENCODER)}
    folder = tmp_path / "latent_motion_tokenizer"
    folder.mkdir()
    safetensors.torch.save_file(own, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(lara_settings(case.config)))
    model = moto_lam(folder, features=encoder)
    model.features.load()
    assert torch.equal(model.encode_pixels(case.pairs).codes, case.values["indices"])
    model.save_pretrained(tmp_path / "saved")
    assert not any(name.startswith("features.") for name in model.saved_tensors())
    monkeypatch.setenv("LATTOK_DATA", str(tmp_path / "mae"))
    again = MotoLAM.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.encode_pixels(case.pairs).codes, case.values["indices"])


@pytest.mark.parametrize("whole", [False, True])
def test_the_file_of_moto(case, whole, tmp_path):
    """With Hydra's settings next to it, where YAML makes 1e-12 a text; LARA's own file has them under `config`."""
    yaml = pytest.importorskip("yaml")
    settings = {name: {"_target_": "x", "config": case.config[name]} for name in ("m_former", "decoder")}
    settings["m_former"]["config"] |= {"layer_norm_eps": "1e-12"}
    settings["vector_quantizer"] = case.config["vector_quantizer"]
    settings["image_encoder"] = {"num_attention_heads": case.config["image_encoder"]["heads"]}
    torch.save(case.weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"config": settings} if whole else settings))
    model = moto_lam(tmp_path / "pytorch_model.bin", cameras=("top",), stride="5", pixels="unit")
    assert (model.cameras, model.config.stride, model.config.mean, model.config.std) == (
        ("top",),
        "5",
        (0,) * 3,
        (1,) * 3,
    )
    assert torch.equal(model.encode_pixels(case.pairs).codes, case.values["indices"])


@pytest.mark.parametrize(
    "prefix", ["module.", "state_dict.", "model.latent_motion_tokenizer.", "action_head.latent_motion_tokenizer."]
)
def test_a_prefix_and_what_else_is_in_the_file(prefix, tmp_path):
    case = opened("lara_lam_a")
    others = {"action_head.model.weight": torch.ones(2)} if "action" in prefix else {}
    more = {f"{prefix}loss_fn_lpips.lin0.weight": torch.ones(1)}
    named = {f"{prefix}{name}": tensor for name, tensor in case.weights.items()}
    safetensors.torch.save_file({**named, **others, **more}, tmp_path / "model.safetensors")
    model = moto_lam(tmp_path, case.config)
    assert torch.equal(model.encode_pixels(case.pairs).codes, case.values["indices"])


def test_every_key_of_the_published_size_has_its_place():
    listed = json.loads((PARITY / "moto_lam_keys.json").read_text())
    shapes = {}
    for key, shape in listed.items():
        count = key.partition("{")[2].partition("}")[0]
        shapes |= {
            key.replace(f"{{{count}}}", str(i)): torch.empty(shape, device="meta") for i in range(int(count or 1))
        }
    assert len(shapes) == 282
    config = MotoLAMConfig.of(("image",), features="held", **sizes(shapes, {}))
    assert (config.tokens, config.codebook_size, config.latent_dim, config.heads) == (8, 128, 32, 12)
    assert (config.encoder.depth, config.decoder.depth, config.image_size, config.decoder.conditioning) == (
        4,
        12,
        224,
        "pool",
    )
    model = plan_module(lambda: MotoLAM(config), {name: Size.of(tensor) for name, tensor in shapes.items()}, "file")
    ours, used = model.saved_tensors(), set()
    for name, source in key_map(model.config).items():
        keys = source.keys if isinstance(source, Join) else (source,)
        if not name.startswith("features."):
            made = source.make(*map(shapes.get, keys)) if isinstance(source, Join) else shapes[source]
            assert made.shape == ours[name].shape, name
            used |= {*keys}
    assert used == shapes.keys()
    kept = ("control.quantizer.steps", "control.quantizer.codebooks.0.cluster_size")
    assert ours.keys() - key_map(model.config).keys() == {*kept}


def test_wrong_files_get_one_line(tmp_path):
    case = opened("lara_lam_a")
    (tmp_path / "empty").mkdir()
    for given, text in {
        PARITY / "univla_stage2": "expected a folder with model.safetensors or pytorch_model.bin, got",
        tmp_path / "empty": "expected a folder with model.safetensors or pytorch_model.bin, got",
        tmp_path / "nothing.bin": "expected a checkpoint file, got",
        PARITY / "dinov2_reg" / "weights.safetensors": "expected a model of Moto or LARA with m_former.embeddings.",
    }.items():
        refused(re.escape(text), moto_lam, given)
    for name in case.weights:
        rest = {key: tensor for key, tensor in case.weights.items() if key != name}
        if name.endswith(("latent_motion_token", "pooling_layer.bias", "layer.1.output.dense.bias", "norm.weight")):
            refused(
                f"missing {re.escape(name)}|expected a model of Moto or LARA",
                moto_lam,
                written(tmp_path, rest),
                case.config,
            )
    more = {**case.weights, "m_former.extra": torch.ones(1), "vq_down_resampler.2.bias": torch.ones(7)}
    said = refused(None, lambda: moto_lam(written(tmp_path, more), case.config))
    ending = "unexpected m_former.extra; vq_down_resampler.2.bias has shape [7], expected [8]."
    assert said.endswith(ending)


def test_a_file_that_asks_for_far_more_memory_than_it_takes_is_refused(tmp_path):
    weights = dict(opened("lara_lam_a").weights)
    weights["image_encoder.embeddings.cls_token"] = torch.zeros(1, 1, 64_000)
    weights["image_encoder.encoder.layer.0.intermediate.dense.bias"] = torch.zeros(900_000)
    refused("expected tensors about as large as its own, got a", lambda: moto_lam(written(tmp_path, weights)))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"m_former": {"num_attention_heads": 7}}, "`config`: expected num_attention_heads that divide the width 40"),
        ({"m_former": {"num_attention_heads": "x"}}, "`num_attention_heads`"),
        ({"decoder": {"hidden_act": "relu"}}, "`config`: expected hidden_act gelu of decoder, got 'relu'"),
        ({"image_encoder": {"heads": 5}}, "`config`: expected num_attention_heads that divide the width 48 of"),
        ({"use_abs_recons_loss": True}, "`config`: expected use_abs_recons_loss false, got true"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(change, text):
    case = opened("lara_lam_a")
    refused(re.escape(text), moto_lam, case.file, {**case.config, **change})


def test_another_image_encoder_than_the_default_has_to_be_named(tmp_path):
    """Its features have as many channels and places, so that no shape told of it."""
    case = opened("lara_lam_a")
    file = written(tmp_path, {name: each for name, each in case.weights.items() if not name.startswith(ENCODER)})
    settings = {**case.config, "image_encoder": {"pretrained_model_name_or_path": "facebook/vit-msn-large"}}
    refused(r"`config`: expected the image encoder facebook/vit-mae-large, .*vit-msn-l", moto_lam, file, settings)


def test_facts_and_settings_files_that_do_not_fit_are_one_line(tmp_path):
    file = opened("lara_lam_a").file
    for options, text in (
        ({"pixels": "bytes"}, "`pixels`"),
        ({"cameras": ("a", "b")}, "`cameras`"),
        ({"stride": "soon"}, "`stride`"),
        ({"config": tmp_path / "none.json"}, "`config`: expected a .json or .yaml file, or a dictionary"),
        ({"features": "pixels"}, "`class_token`"),
    ):
        refused(text, moto_lam, file, **options)
    for text in ("- a\n- b", "a: [", "\0"):
        (tmp_path / "config.yaml").write_text(text)
        refused("`config`: expected", moto_lam, file, tmp_path / "config.yaml")


def test_settings_say_which_way_the_quantizer_weights_its_terms():
    case = opened("lara_lam_a")
    usual = {**case.config, "vector_quantizer": {"beta": 0.25, "legacy": False}, "commit_loss_w": 2.0}
    found = moto_lam(case.file, usual).config
    assert (found.loss.commitment, found.loss.codebook) == (0.5, 2.0)
    without = {name: value for name, value in case.weights.items() if not name.startswith("decoder.")}
    assert sizes(without, {})["decoder_depth"] == 1  # said later, with all that is missing


def written(folder: Path, weights: dict[str, Tensor]) -> Path:
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    return folder


LIKE_PIXELS = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "query_fusion_mode": "add"}
OTHERWISE = {
    "as that of pixels": {},
    "deeper": {"num_hidden_layers": 3},
    "other heads": {"num_attention_heads": 8},
    "narrower inside": {"intermediate_size": 24},
    "latents in front": {"query_fusion_mode": "concat"},
    "mask tokens": {"use_mask_token": True},
    "all of it": {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "query_fusion_mode": "concat",
        "use_mask_token": True,
    },
}


def decoder_weights(part: str, section: dict[str, Any], places: int, draw: torch.Generator) -> dict[str, Tensor]:
    """Random tensors of a decoder 32 wide for 8 latents, of pixels or of features; places with the class token."""
    width, tokens, table = 32, 8, f"{part}.transformer.embeddings."
    first, last, outer = ("patch_embeddings", "decoder", width)
    if part == "decoder":
        first, last, outer = "patch_embeddings.projection", "decoder.0", 768
    shapes = {f"{table}{first}.weight": (width, 3, 16, 16) if part == "decoder" else (width, width)}
    shapes |= {f"{part}.{last}.weight": (outer, width, 1, 1) if part == "decoder" else (outer, width)}
    shapes |= {f"{table}{first}.bias": (width,), f"{part}.{last}.bias": (outer,)}
    if section["query_fusion_mode"] == "add":
        shapes |= {f"{table}query_pooling_layer.weight": (width, tokens * width)}
        shapes |= {f"{table}query_pooling_layer.bias": (width,)}
    masked = section.get("use_mask_token", False)
    shapes |= {f"{table}mask_token": (1, 1, width)} if masked else {}
    before = 0 if section["query_fusion_mode"] == "add" else tokens
    shapes |= {f"{table}position_embeddings": (1, places * (1 + masked) + before, width)}
    for i in range(section["num_hidden_layers"]):
        layer, inner = f"{part}.transformer.encoder.layer.{i}.", section["intermediate_size"]
        for name in ("attention.attention.query", "attention.attention.key", "attention.attention.value"):
            shapes |= {f"{layer}{name}.weight": (width, width), f"{layer}{name}.bias": (width,)}
        shapes |= {f"{layer}attention.output.dense.weight": (width, width)}
        shapes |= {f"{layer}intermediate.dense.weight": (inner, width), f"{layer}intermediate.dense.bias": (inner,)}
        shapes |= {f"{layer}output.dense.weight": (width, inner)}
        shapes |= {f"{layer}{name}.bias": (width,) for name in ("attention.output.dense", "output.dense")}
        shapes |= {f"{layer}layernorm_{x}.{y}": (width,) for x in ("before", "after") for y in ("weight", "bias")}
    shapes |= {f"{part}.transformer.layernorm.{x}": (width,) for x in ("weight", "bias")}
    return {name: torch.randn(shape, generator=draw) * 0.3 for name, shape in shapes.items()}


def with_features(case: Published, section: dict[str, Any]) -> dict[str, Tensor]:
    """The fixture's file with a decoder of features as well, whose width makes that of both decoders."""
    width, draw = 32, torch.Generator().manual_seed(0)
    weights = {name: tensor for name, tensor in case.weights.items() if not name.startswith(("decoder.", "vq_"))}
    weights |= decoder_weights("decoder", LIKE_PIXELS, 9, draw)
    weights |= decoder_weights("hidden_state_decoder", section, 10, draw)
    for name, shape in (("down", ((width, 48), (16, width))), ("up", ((16, 16), (width, 16)))):
        for i, size in zip((0, 2), shape, strict=True):
            weights[f"vq_{name}_resampler.{i}.weight"] = torch.randn(size, generator=draw) * 0.3
            weights[f"vq_{name}_resampler.{i}.bias"] = torch.zeros(size[0])
    return weights


def features_by_hand(weights: dict[str, Tensor], section: dict[str, Any], x: Tensor, rows: Tensor) -> Tensor:
    """What the published decoder of features computes of tokens [B, N, 32] and code rows [B, 8, 16]."""
    part, heads, count = "hidden_state_decoder.", section["num_attention_heads"], x.shape[1]
    table = f"{part}transformer.embeddings."

    def linear(name: str, values: Tensor) -> Tensor:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, values: Tensor) -> Tensor:
        centred = values - values.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    latents, x = (
        linear("vq_up_resampler.2", linear("vq_up_resampler.0", rows).tanh()),
        linear(f"{table}patch_embeddings", x),
    )
    if section.get("use_mask_token", False):
        x = torch.cat([x, weights[f"{table}mask_token"].expand_as(x)], 1)
    if section["query_fusion_mode"] == "add":
        x = x + linear(f"{table}query_pooling_layer", latents.flatten(1))[:, None]
    else:
        x = torch.cat([latents, x], 1)
    x = x + weights[f"{table}position_embeddings"]
    for i in range(section["num_hidden_layers"]):
        layer = f"{part}transformer.encoder.layer.{i}."
        seen = norm(f"{layer}layernorm_before", x)
        q, k, v = (linear(f"{layer}attention.attention.{name}", seen) for name in ("query", "key", "value"))
        mixed = []
        for head in range(heads):
            own = slice(head * 32 // heads, (head + 1) * 32 // heads)
            scores = q[..., own] @ k[..., own].transpose(1, 2) / (32 // heads) ** 0.5
            mixed.append(scores.softmax(-1) @ v[..., own])
        x = x + linear(f"{layer}attention.output.dense", torch.cat(mixed, -1))
        wide = linear(f"{layer}intermediate.dense", norm(f"{layer}layernorm_after", x))
        x = x + linear(f"{layer}output.dense", wide * (1 + torch.erf(wide / 2**0.5)) / 2)
    return linear(f"{part}decoder", norm(f"{part}transformer.layernorm", x)[:, -count:])


def renamed(weights: dict[str, Tensor], section: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of the decoder of features under our names, but for what both decoders share."""
    part, ours = "hidden_state_decoder.", {}
    table, layers = f"{part}transformer.embeddings.", {"layernorm_before": "norm1", "layernorm_after": "norm2"}
    layers |= {"attention.output.dense": "attention.out", "intermediate.dense": "ff.0", "output.dense": "ff.3"}
    for x in ("weight", "bias"):
        names = {
            f"{part}decoder": "out",
            f"{part}transformer.layernorm": "norm",
            f"{table}patch_embeddings": "patch_up",
        }
        names |= {f"{table}query_pooling_layer": "pool"} if section["query_fusion_mode"] == "add" else {}
        names |= {f"vq_up_resampler.{i}": f"latent_up.0.{i}" for i in (0, 2)}
        for i in range(section["num_hidden_layers"]):
            layer = f"{part}transformer.encoder.layer.{i}."
            names |= {f"{layer}{theirs}": f"blocks.{i}.{mine}" for theirs, mine in layers.items()}
            qkv = [weights[f"{layer}attention.attention.{name}.{x}"] for name in ("query", "key", "value")]
            ours[f"blocks.{i}.attention.qkv.{x}"] = torch.cat(qkv)
        ours |= {f"{mine}.{x}": weights[f"{theirs}.{x}"] for theirs, mine in names.items()}
    ours["places"] = weights[f"{table}position_embeddings"][0]
    return ours | ({"mask": weights[f"{table}mask_token"].flatten()} if section.get("use_mask_token", False) else {})


@pytest.mark.parametrize("otherwise", OTHERWISE)
def test_a_decoder_of_features_as_its_own_options_say(otherwise, tmp_path):
    """An option of the published code that no published file uses. Only its width is that of the decoder of pixels."""
    case, section = opened("lara_lam_b"), LIKE_PIXELS | OTHERWISE[otherwise]
    weights = with_features(case, section)
    alone = moto_lam(written(tmp_path, weights), {**case.config, "decoder": {"num_attention_heads": 2}})
    assert alone.feature_decoder is None  # which importers leave out
    heads, pooled = section["num_attention_heads"], section["query_fusion_mode"] == "add"
    options = {"depth": section["num_hidden_layers"], "heads": heads, "hidden": section["intermediate_size"]}
    options |= {"mask_tokens": section.get("use_mask_token", False), "conditioning": "pool" if pooled else "tokens"}
    own = {"loss_features": 0.5} | {f"feature_decoder_{name}": value for name, value in options.items()}
    model = MotoLAM(built(MotoLAMConfig, flat(alone.config) | own), alone.features)
    mine = {f"feature_decoder.{name}": tensor for name, tensor in renamed(weights, section).items()}
    model.load_tensors(alone.saved_tensors() | mine, "mine")
    terms, _ = learn(model.train(), case.values["images"])
    assert model.config.loss_weights["features"] == 0.5
    out = model.eval().encode_pixels(case.pairs)
    assert torch.equal(out.latents, alone.encode_pixels(case.pairs).latents)
    now, later = (model.features.of_pixels(images.movedim(1, -1)) for images in case.pairs.unbind(1))
    wanted = features_by_hand(weights, section, now, out.quantized)
    close(model.feature_decoder(now, out.quantized), wanted)
    close(terms["features"], (wanted - later).square().mean())
    other = features_by_hand(weights, section | {"num_attention_heads": 16}, now, out.quantized)
    assert (other - wanted).abs().max() > 0.01  # so that heads matter here
    again = lattok.load(model.save_pretrained(tmp_path / "lam"))
    assert again.config == model.config
    assert torch.equal(again.feature_decoder(now, out.quantized), model.feature_decoder(now, out.quantized))


def test_a_decoder_of_features_cannot_be_described_without_one():
    for change, text in (
        ({"feature_decoder_depth": 2}, "`feature_decoder_depth`"),
        ({"feature_decoder_mask_tokens": False}, "`feature_decoder_mask_tokens`"),
        ({"loss_features": 1.0, "feature_decoder_heads": 0}, "`feature_decoder_heads`"),
        ({"loss_features": 1.0, "feature_decoder_conditioning": "add"}, "`feature_decoder_conditioning`"),
    ):
        refused(re.escape(text), MotoLAMConfig.of, cameras=("image",), **change)


# The model that it becomes.


def test_it_is_saved_with_its_image_encoder(case, tmp_path, monkeypatch):
    model = moto_lam(case.file)
    model.save_pretrained(tmp_path)
    again = lattok.load(tmp_path)
    assert again.describe()["weights_sha256"] == model.describe()["weights_sha256"]
    out = again.encode_pixels(case.pairs.numpy())  # arrays in, arrays out
    assert (out.codes == case.values["indices"].numpy()).all()
    raw = json.loads((tmp_path / "config.json").read_text())
    raw["image_encoder"]["depth"] = 9999
    (tmp_path / "config.json").write_text(json.dumps(raw))
    init, places = PreNormBlock.__init__, []
    noted = lambda *a, **k: places.append(torch.empty(0).device.type) or init(*a, **k)  # noqa: E731
    monkeypatch.setattr(PreNormBlock, "__init__", noted)
    refused("about as many tensors as its", lattok.load, tmp_path)
    assert (len(places) < 100, {*places}) == (True, {"meta"})  # before any memory is taken


def test_frames_are_resized_and_normalised_by_the_model(case):
    model = moto_lam(case.file)
    frames = torch.randint(0, 256, (7, 60, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pairs = torch.stack([frames, frames[(torch.arange(7) + 2).clamp_max(6)]], 1)
    small = torch.from_numpy(model.resize(frames.numpy())).movedim(-1, 1) / 255
    pixels = (small - IMAGENET[0]) / IMAGENET[1]
    by_hand = model.encode_pixels(torch.stack([pixels, pixels[(torch.arange(7) + 2).clamp_max(6)]], 1))
    for out in (model.encode(pairs), model.label_video(frames, 2)):
        assert torch.equal(out.codes, by_hand.codes)
        close(out.latents, by_hand.latents)


def test_pixels_of_other_shapes_are_one_line():
    model = moto_lam(opened("lara_lam_a").file)
    expected = "`pixels`: expected normalized floats [B, 2, 1, 3, 32, 32], got"
    for pixels in (torch.zeros(4, 2, 3, 32, 16), torch.zeros(4, 2, 3, 32, 32, dtype=torch.uint8)):
        refused(re.escape(expected), model.encode_pixels, pixels)
    refused("`pixels`", model.encode_pixels, torch.zeros(2, 3, 32, 32))


def test_the_command_line(case, tmp_path, capsys):
    out = tmp_path / "lam"
    assert main(["convert", "moto-lam", str(case.file), str(out), "--cameras", "top", "--stride", "0.5s"]) == 0
    text = capsys.readouterr().out
    assert f"Found: {case.config['m_former']['query_num']} codes of {case.config['vector_quantizer']['n_e']}," in text
    assert "published labels were drawn with a random one" in text
    assert torch.equal(lattok.load(out).encode_pixels(case.pairs).codes, case.values["indices"])
    assert main(["convert", "moto-lam", str(tmp_path), str(tmp_path / "other")]) == 2
    assert "expected a folder with model.safetensors" in capsys.readouterr().err
