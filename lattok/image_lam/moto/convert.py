"""Published latent action models of Moto and LARA, as `MotoLAM`.

LARA: a folder with `model.safetensors` (or `pytorch_model.bin`) and `config.json` or `config.yaml`; Moto: the file
`pytorch_model.bin`, `config.yaml` next to it. Inside a LARA policy the same names have a prefix. Sizes follow from the
shapes; the settings add what weights cannot tell (heads, whether the frames have types of their own, loss weights).
"""

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from einops import rearrange
from torch import Tensor

from lattok.hub import checkpoint
from lattok.hub.checkpoint import FilePath, Join, KeyMap, Settings, axis_of, layer_names, numbered, squeezed, stacked
from lattok.image_lam.base.convert import check_view, note_assumed, settings_near
from lattok.image_lam.base.features import IMAGENET
from lattok.image_lam.moto.model import HELD, MotoLAM, MotoLAMConfig
from lattok.utils import checks
from lattok.utils.options import built

ENCODER = "facebook/vit-mae-large"  # where the file holds no image encoder
SCALINGS = {"imagenet": IMAGENET, "unit": ((0.0,) * 3, (1.0,) * 3)}  # of pixels between 0 and 1
WEIGHT_FILES, SETTING_FILES = ("model.safetensors", "pytorch_model.bin"), ("config.json", "config.yaml")
MARK = "m_former.embeddings.latent_motion_token"  # a name that every such file has
HEAD_WIDTH = 64  # of every published attention
# settings that are no choice here
FIXED: dict[str, Any] = {
    "hidden_act": "gelu",
    "qkv_bias": True,
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# the decoder of features is in no published file
NOT_NEEDED = ("image_encoder.", "loss_fn_lpips.", "m_former.pooler.", "hidden_state_decoder.")
LAYER = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attention.out": "attention.output.dense",
    "ff.0": "intermediate.dense",
    "ff.3": "output.dense",
}


@checkpoint.importer(
    "moto-lam",
    sign=r"m_former\.embeddings\.",
    mind="Patches keep their order; published labels were drawn with a random one. LARA's first stage was trained "
    "on pixels from 0 to 1 (`--pixels unit`), everything after it and Moto on ImageNet's normalisation.",
)
def moto_lam(
    path: FilePath,
    config: Settings | None = None,
    *,
    cameras: tuple[str, ...] = ("image",),
    stride: str = "15",
    pixels: str = "imagenet",
    features: str | None = None,
    features_revision: str | None = None,
) -> MotoLAM:
    """Read the latent action model of Moto or LARA, which predicts pixels.

    An image encoder in the file is used, and saved with the model. Patches keep their order. Published labels were made
    with a random one, so they differ.

    Example: lattok convert moto-lam LARA_full/latent_motion_tokenizer my-lam

    Args:
        path: LARA's folder, or the .safetensors or .bin file of Moto or LARA.
        config: Published settings, a dictionary or a .json or .yaml file (default: config.json or config.yaml next to
            the weights, or published values).
        cameras: The one camera of a dataset that the model looks at, short name allowed.
        stride: Gap of a frame pair: frames ("15") or seconds ("0.5s").
        pixels: Range of its pixels: imagenet (Moto, LARA's policies) or unit (LARA's first stage alone).
        features: Frozen features in place of those in the file (default: these, or else hf:facebook/vit-mae-large).
        features_revision: Revision of features from the Hub.
    """
    checks.one_of("pixels", pixels, SCALINGS)
    check_view(cameras, stride)
    path = Path(path).expanduser()
    if path.is_dir():
        files = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
        if not files:
            checks.fail("path", f"a folder with {' or '.join(WEIGHT_FILES)}", f"{path} without them")
        path = files[0]
    foreign = _own_names(checkpoint.read_checkpoint(path), path)
    settings = settings_near(config, (path.parent / name for name in SETTING_FILES), "config")
    mean, std = SCALINGS[pixels]
    facts = {"cameras": tuple(cameras), "stride": str(stride), "mean": mean, "std": std}
    held = features is None and any(name.startswith("image_encoder.") for name in foreign)
    facts |= {"features": HELD if held else features or f"hf:{ENCODER}", "features_revision": features_revision}
    facts |= _image_encoder(foreign, settings) if held else {}
    encoder = settings.get("image_encoder")
    named = encoder.get("pretrained_model_name_or_path") if isinstance(encoder, Mapping) else None
    if named and not held and features is None and not str(named).endswith(ENCODER.rpartition("/")[2]):
        hint = "Name them with `features`, or `--features`."
        checks.fail("config", f"the image encoder {ENCODER}, or features in its place", repr(named), hint)
    made = built(MotoLAMConfig, facts | sizes(foreign, settings))
    network = None if held else MotoLAM.frozen_features(made)  # of a known name, not of the file's sizes
    unused = [name for name in foreign if name.startswith(NOT_NEEDED[held:])]
    kept = ("quantizer.steps", "cluster_size")
    model = checkpoint.converted(lambda: MotoLAM(made, network), foreign, key_map(made), str(path), unused, kept)
    model.control.quantizer.get_buffer("steps").fill_(1)  # the codebook has started, training must not restart it
    return model


def _own_names(foreign: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Take off what stands before every name of the model; what has other beginnings belongs to something else."""
    prefix = next((name[: -len(MARK)] for name in foreign if name.endswith(MARK)), None)
    if prefix is None:
        checkpoint.check_kind(foreign, "moto-lam", str(path))
        got = f"{len(foreign)} others, such as {next(iter(foreign))}" if foreign else "no tensors"
        checks.fail(str(path), f"a model of Moto or LARA with {MARK}", got)
    return {name[len(prefix) :]: tensor for name, tensor in foreign.items() if name.startswith(prefix)}


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the settings of a part: `m_former_config` (LARA) or `m_former` (Moto), or what it holds as `config`."""
    part = settings.get(f"{name}_config", settings.get(name))
    inner = part.get("config", part) if isinstance(part, Mapping) else {}
    inner = inner if isinstance(inner, Mapping) else {}
    for key, value in FIXED.items():
        if key in inner and checkpoint.as_number(inner[key]) != value:
            checks.fail("config", f"{key} {value} of {name}", repr(inner[key]))
    return inner


def sizes(foreign: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Find the config fields that shapes and settings give; published ones where a tensor is missing, said later."""
    size, table = partial(axis_of, foreign), "decoder.transformer.embeddings."
    former, quantizer = (_section(settings, name) for name in ("m_former", "vector_quantizer"))
    width, patch = size(MARK, 2, 768), size(f"{table}patch_embeddings.projection.weight", 2, 16)
    decoder_width, tokens = size("vq_up_resampler.2.weight", 0, 768), size(MARK, 1, 8)
    decoder = _transformer(foreign, "decoder.transformer.encoder.layer.", _section(settings, "decoder"), decoder_width)
    pooled = any(name.startswith(f"{table}query_pooling_layer.") for name in foreign)
    decoder |= {"mask_tokens": f"{table}mask_token" in foreign, "conditioning": "pool" if pooled else "tokens"}
    places = size(f"{table}position_embeddings", 1, 196) - (0 if pooled else tokens)
    side = round((places // 2 if decoder["mask_tokens"] else places) ** 0.5) if places > 0 else 1
    encoder = _transformer(foreign, "m_former.encoder.layer.", former, width)
    codebook = checkpoint.setting(settings, "commit_loss_w", float, 1.0)
    weight = checkpoint.setting(quantizer, "beta", float, 0.25)
    legacy = checkpoint.setting(quantizer, "legacy", bool, True)  # beta weights the codebook's term, not the encoder's
    if checkpoint.setting(settings, "use_abs_recons_loss", bool, False):
        checks.fail("config", "use_abs_recons_loss false", "true")
    return {
        **{f"decoder_{name}": value for name, value in decoder.items()},
        "image_size": max(1, side) * patch,
        "encoder_frame_types": 1 if checkpoint.setting(former, "legacy", bool, True) else 2,
        "width": width,
        "heads": encoder["heads"],
        "encoder_hidden": encoder["hidden"],
        "encoder_depth": encoder["depth"],
        "tokens": tokens,
        "codebook_size": size("vector_quantizer.embedding.weight", 0, 128),
        "latent_dim": size("vector_quantizer.embedding.weight", 1, 32),
        "decoder_patch": patch,
        "decoder_width": decoder_width,
        "loss_prediction": checkpoint.setting(settings, "recon_loss_w", float, 1.0),
        "loss_codebook": codebook * weight if legacy else codebook,
        "loss_commitment": codebook if legacy else codebook * weight,
    }


def _transformer(foreign: Mapping[str, Tensor], layers: str, section: Mapping[str, Any], width: int) -> dict[str, Any]:
    """Find depth, heads and the width inside the MLPs; as many heads as published where the settings do not say."""
    heads = checkpoint.setting(section, "num_attention_heads", int, max(1, width // HEAD_WIDTH))
    if "num_attention_heads" not in section:
        note_assumed(f"{layers.split('.')[0]} in the settings", num_attention_heads=heads)
    if heads < 1 or width % heads:
        checks.fail("config", f"num_attention_heads that divide the width {width} of {layers.split('.')[0]}", heads)
    hidden = axis_of(foreign, f"{layers}0.intermediate.dense.bias", 0, 4 * width)
    return {"depth": numbered(foreign, rf"{re.escape(layers)}(\d+)\.") or 1, "heads": heads, "hidden": hidden}


def _image_encoder(foreign: Mapping[str, Tensor], settings: Mapping[str, Any]) -> dict[str, Any]:
    section, part = _section(settings, "image_encoder"), "image_encoder"
    section = {"num_attention_heads": section["heads"], **section} if "heads" in section else section
    width = axis_of(foreign, f"{part}.embeddings.cls_token", 2, 1024)
    patch = axis_of(foreign, f"{part}.embeddings.patch_embeddings.projection.weight", 2, 16)
    found = _transformer(foreign, f"{part}.encoder.layer.", section, width)
    return {f"{part}_{name}": value for name, value in {**found, "width": width, "patch": patch}.items()}


def key_map(config: MotoLAMConfig) -> KeyMap:
    former = "m_former.embeddings."
    tensors: dict[str, str | Join] = {
        "encoder.queries": squeezed(f"{former}latent_motion_token"),
        "encoder.separator": Join((f"{former}sep_token",), lambda x: x.flatten()),
        "encoder.places": squeezed(f"{former}position_embeddings"),
        "encoder.types": Join((f"{former}token_type_embeddings",), lambda x: x[: config.encoder.frame_types]),
        "control.quantizer.codebooks.0.vectors": "vector_quantizer.embedding.weight",
    }
    layers = {"encoder.project": f"{former}projection", "encoder.norm": "m_former.layernorm"}
    layers |= {f"control.heads.0.{i}": f"vq_down_resampler.{i}" for i in (0, 2)}
    tensors |= _blocks("encoder.blocks", "m_former.encoder.layer", config.encoder.depth)
    layers |= {f"decoder.latent_up.0.{i}": f"vq_up_resampler.{i}" for i in (0, 2)}
    layers["decoder.norm"] = "decoder.transformer.layernorm"
    table, decoder = "decoder.transformer.embeddings.", config.decoder
    if decoder.conditioning == "pool":
        layers["decoder.pool"] = f"{table}query_pooling_layer"
    if decoder.mask_tokens:
        tensors["decoder.mask"] = Join((f"{table}mask_token",), lambda x: x.flatten())
    tensors["decoder.places"] = squeezed(f"{table}position_embeddings")
    tensors |= _blocks("decoder.blocks", "decoder.transformer.encoder.layer", decoder.depth)
    patches = f"{table}patch_embeddings.projection"
    tensors["decoder.patch_up.weight"] = Join((f"{patches}.weight",), lambda x: x.permute(0, 2, 3, 1).flatten(1))
    tensors["decoder.patch_up.bias"] = f"{patches}.bias"

    def last(outputs: Tensor) -> Tensor:  # a pixel shuffle counts colours before places, and follows a convolution
        return rearrange(outputs.reshape(len(outputs), -1).squeeze(1), "(c s) ... -> (s c) ...", c=3)

    tensors |= {f"decoder.out.{part}": Join((f"decoder.decoder.0.{part}",), last) for part in ("weight", "bias")}
    if config.features == HELD:
        table, ours = "image_encoder.embeddings.", "features.network."
        projection = f"{table}patch_embeddings.projection"
        tensors[f"{ours}patch_up.weight"] = Join((f"{projection}.weight",), lambda x: x.flatten(1))
        tensors[f"{ours}patch_up.bias"] = f"{projection}.bias"
        tensors[f"{ours}first"] = Join((f"{table}cls_token",), lambda x: x.flatten())
        tensors[f"{ours}places"] = squeezed(f"{table}position_embeddings")
        tensors |= _blocks(f"{ours}blocks", "image_encoder.encoder.layer", config.image_encoder.depth)
        layers[f"{ours}norm"] = "image_encoder.layernorm"
    return tensors | layer_names(layers)


def _blocks(ours: str, theirs: str, depth: int) -> dict[str, str | Join]:
    found: dict[str, str | Join] = {}
    for i in range(depth):
        for part in ("weight", "bias"):
            keys = (f"{theirs}.{i}.attention.attention.{name}.{part}" for name in ("query", "key", "value"))
            found[f"{ours}.{i}.attention.qkv.{part}"] = stacked(*keys)
            found |= {f"{ours}.{i}.{mine}.{part}": f"{theirs}.{i}.{their}.{part}" for mine, their in LAYER.items()}
    return found
