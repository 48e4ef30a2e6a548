"""Published image latent action models (UniVLA `lam-stage-N.ckpt`, P2T) as `ImageLAM`.

Sizes and stage follow from the names and shapes. What weights cannot tell (heads, cameras, stride, which frozen
networks) is asked for, with the published values as defaults. Stage 1 has one stream, `control`: its codebook is the
environment codebook of stage 2, whose published names are crossed: `vq` and `action_latent` are the environment's.
"""

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lattok.hub import checkpoint
from lattok.hub.checkpoint import FilePath, Join, KeyMap, Tensors, axis_of, layer_names, numbered
from lattok.image_lam.base.convert import block_names, check_view, note_assumed
from lattok.image_lam.p2t.model import ImageLAM, ImageLAMConfig
from lattok.utils import checks
from lattok.utils.options import built

HEADS = 12  # of the published models
BACKBONE, TEXT, HEAD = "lam.dino_encoder.", "lam.text_encoder.", "action_decoder."


@checkpoint.importer(
    "p2t-image-lam", sign=r"action_latent$", mind="UniVLA's architecture with an action head, which is left out."
)
@checkpoint.importer(
    "univla-lam",
    sign=r"action_latent$",
    mind="Stage 1 reads instructions and cannot annotate. The published names of stage 2 are crossed: `vq` and "
    "`action_latent` are the environment's.",
)
def univla_lam(
    path: FilePath,
    heads: int = HEADS,
    action_dim: int = 7,
    *,
    cameras: tuple[str, ...] = ("image",),
    stride: str = ImageLAMConfig.stride,
    features: str = ImageLAMConfig.features,
    features_revision: str | None = None,
    image_size: int = ImageLAMConfig.image_size,
    language: str = "t5:google-t5/t5-base",
) -> ImageLAM:
    """Read a latent action model of UniVLA or P2T, stage 1 or 2 (lam-stage-2.ckpt, last.ckpt or safetensors).

    P2T's is UniVLA's with an action head, which is left out: a model that is trained further begins with a new one.

    Example: lattok convert univla-lam lam-stage-2.ckpt my-lam
    Example: lattok convert p2t-image-lam last.ckpt my-lam --stride 11

    Args:
        path: The checkpoint.
        heads: Attention heads.
        action_dim: Dimensions of the actions that P2T's head predicts.
        cameras: The one camera of a dataset that the model looks at, short name allowed.
        stride: Gap of a frame pair: frames ("32") or seconds ("0.2s").
        features: Frozen features the model was trained on.
        features_revision: Revision of features from the Hub.
        image_size: Side of the frames in pixels.
        language: Text encoder of a stage-1 model: t5:MODEL or precomputed.
    """
    checks.counts(heads=heads, action_dim=action_dim)
    check_view(cameras, stride)
    path = Path(path).expanduser()
    stored = checkpoint.read_settings(path, "hyper_parameters").get("lam_num_heads")
    if stored is not None and stored != heads:
        checks.fail("heads", f"{stored}, as the settings in the file say", heads)
    foreign = checkpoint.read_checkpoint(path, entry="state_dict" if path.suffix in checkpoint.PICKLED else None)
    if not any(name.startswith("lam.") for name in foreign):  # somebody took the prefix off
        foreign = {name if name.startswith(HEAD) else f"lam.{name}": tensor for name, tensor in foreign.items()}
    checkpoint.check_kind(foreign, "univla-lam", str(path))
    facts: dict[str, Any] = {"cameras": tuple(cameras), "stride": str(stride), "heads": heads}
    facts |= {"features": features, "features_revision": features_revision, "image_size": image_size}
    facts |= sizes(foreign, action_dim)
    checks.divides(facts["width"], f"the width {facts['width']} in the file", heads=heads)
    if stored is None and heads == HEADS:
        note_assumed(path.name, heads=heads)
    if facts["streams"] == "control":
        facts["language"] = language
    config = built(ImageLAMConfig, facts)
    network = ImageLAM.frozen_features(config)
    queries, hint = foreign.get("lam.action_latent"), f"It was trained on other features than {features}."
    if queries is not None and queries.ndim == 4:
        checks.size("features", "channels, as in the file", network.dim, queries.shape[3], hint)
    unused = [name for name in foreign if name.startswith((BACKBONE, TEXT, HEAD))]
    kept = ("quantizer.steps", "cluster_size")
    model = checkpoint.converted(lambda: ImageLAM(config, network), foreign, key_map(config), str(path), unused, kept)
    for name, buffer in model.named_buffers():
        if name.endswith("quantizer.steps"):
            buffer.fill_(1)  # the codebook has started, training must not restart it
    return model


def key_map(config: ImageLAMConfig) -> KeyMap:
    both = config.streams == "control+env"
    queries = ("lam.action_latent_controllable", "lam.action_latent") if both else ("lam.action_latent",)
    tensors: dict[str, str | Join] = {}
    tensors["encoder.queries"] = Join(queries, lambda *streams: torch.cat(streams, 2).flatten(0, 2))
    tensors["control.quantizer.codebooks.0.vectors"] = f"lam.{'vq_action' if both else 'vq'}.codebook.weight"
    layers = {"control.heads.0": "to_codebook", "decoder.latent_up.0": "action_up"}
    layers |= {"decoder.patch_up": "patch_up", "decoder.out": "decoder.out"}
    if both:
        tensors["env.quantizer.codebooks.0.vectors"] = "lam.vq.codebook.weight"
        layers |= {"env.heads.0": "to_codebook_uncontrol", "decoder.latent_up.1": "action_up_uncontrol"}
    else:
        layers["language_up"] = "lang_proj"
    for part, depth in (("encoder", config.encoder.depth), ("decoder", config.decoder.depth)):
        layers |= {f"{part}.embed.{i}": f"{part}.ffn.{i}" for i in range(3)}
        for i in range(depth):
            tensors |= block_names(part, f"{part}.blocks.{i}", f"lam.{part}.transformer_blocks.{i}")
    return tensors | layer_names({ours: f"lam.{theirs}" for ours, theirs in layers.items()})


def sizes(foreign: Tensors, action_dim: int) -> dict[str, Any]:
    """Find the config fields that names and shapes give; published ones where a tensor is missing, said later."""
    size = partial(axis_of, foreign)
    of_stage_2 = re.compile(r"lam\.(action_latent_controllable|vq_action\.|\w+_uncontrol\.)")
    second = any(of_stage_2.match(name) for name in foreign)
    found: dict[str, Any] = {
        "streams": "control+env" if second else "control",
        "tokens": size("lam.action_latent", 2, 4),
        "codebook_size": size(f"lam.{'vq_action' if second else 'vq'}.codebook.weight", 0, 16),
        "env_codebook_size": size("lam.vq.codebook.weight", 0, 16),
        "latent_dim": size("lam.to_codebook.weight", 0, 128),
        "width": size("lam.to_codebook.weight", 1, 768),
        "language_dim": size("lam.lang_proj.weight", 1, 768),
    }
    for part in ("encoder", "decoder"):
        found[f"{part}_depth"] = numbered(foreign, rf"lam\.{part}\.transformer_blocks\.(\d+)\.") or 1
    if any(name.startswith(HEAD) for name in foreign):
        outputs = size(f"{HEAD}2.weight", 0, 32 * action_dim)
        checks.divides(outputs, f"the {outputs} outputs of the file's action head", action_dim=action_dim)
        found |= {"action_head": "codes", "action_target": "chunk", "action_steps": outputs // action_dim}
    return found
