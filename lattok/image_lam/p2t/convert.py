"""Published image latent action models (UniVLA `lam-stage-N.ckpt`, P2T) as `ImageLAM`.

Sizes and stage follow from the names and shapes. What weights cannot tell (heads, cameras, stride, which frozen
networks, dropout) is asked for, with the published values as defaults. Stage 1 has one stream, `control`: its codebook
is the environment codebook of stage 2. The published names of stage 2 are crossed: `vq` and `action_latent` are there
the environment's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lattok.hub import CONFIG, WEIGHTS, checkpoint
from lattok.hub.checkpoint import FilePath, Join, KeyMap, axis_of, layer_names, numbered
from lattok.hub.weights import Size, plan_module
from lattok.image_lam.base.convert import block_names, check_view
from lattok.image_lam.base.features import IMAGENET
from lattok.image_lam.base.parts import GapActionHead
from lattok.image_lam.base.trained import PairLearner
from lattok.image_lam.p2t.model import ImageLAM, ImageLAMConfig
from lattok.utils import checks, files
from lattok.utils.options import built
from lattok.utils.output import Output

BACKBONE, TEXT, HEAD = "lam.dino_encoder.", "lam.text_encoder.", "action_decoder."
T5 = "t5:google-t5/t5-base"
FACTS = ("cameras", "dropout", "features", "features_revision", "image_size", "language", "stride")
OURS_ALONE = ("quantizer.steps", "cluster_size", "normalizer.shift", "normalizer.scale")


@checkpoint.importer(
    "univla-lam",
    sign=r"action_latent$",
    mind="Stage 1 reads instructions and cannot annotate. The published names of stage 2 are crossed: `vq` and "
    "`action_latent` are the environment's.",
)
def univla_lam(
    path: FilePath,
    heads: int = 12,
    *,
    cameras: tuple[str, ...] = ("image",),
    stride: str = ImageLAMConfig.stride,
    features: str = ImageLAMConfig.features,
    features_revision: str | None = None,
    image_size: int = ImageLAMConfig.image_size,
    language: str = T5,
    dropout: float = 0.0,
    features_out: FilePath | None = None,
) -> ImageLAM:
    """Read UniVLA's latent action model, stage 1 or 2 (lam-stage-1.ckpt, lam-stage-2.ckpt or safetensors).

    Example: lattok convert univla-lam lam-stage-2.ckpt my-lam

    Args:
        path: The checkpoint.
        heads: Attention heads.
        cameras: The one camera of a dataset that the model looks at, short name allowed.
        stride: Gap of a frame pair: frames ("32") or seconds ("0.2s").
        features: Frozen features the model was trained on.
        features_revision: Revision of features from the Hub.
        image_size: Side of the frames in pixels.
        language: Text encoder of a stage-1 model: t5:MODEL or precomputed.
        dropout: In the Transformer layers, if it is trained further.
        features_out: New folder for the image backbone in the file; the model then uses that, at this place, and needs
            no download.
    """
    given: dict[str, Any] = {"cameras": cameras, "stride": stride, "image_size": image_size, "dropout": dropout}
    given |= {"features": features, "features_revision": features_revision, "language": language}
    return _convert(path, heads, None, features_out, given).lam


@checkpoint.importer(
    "p2t-image-lam",
    sign=r"action_latent$",
    mind="UniVLA's architecture with an action head, which is checked and left out.",
)
def p2t_image_lam(
    path: FilePath,
    heads: int = 12,
    action_dim: int = 7,
    *,
    cameras: tuple[str, ...] = ("image",),
    stride: str = ImageLAMConfig.stride,
    features: str = ImageLAMConfig.features,
    features_revision: str | None = None,
    image_size: int = ImageLAMConfig.image_size,
    language: str = T5,
    dropout: float = 0.0,
    features_out: FilePath | None = None,
) -> ImageLAM:
    """Read a published latent action model of P2T, stage 1 or 2 (Lightning checkpoint or safetensors).

    It is UniVLA's, with an action head, which must fit and is left out: `p2t_learner` has it.

    Example: lattok convert p2t-image-lam last.ckpt my-lam --stride 11

    Args:
        path: The checkpoint.
        action_dim: Dimensions of the action head, which is checked and left out.
        heads: Attention heads.
        cameras: The one camera of a dataset that the model looks at, short name allowed.
        stride: Gap of a frame pair: frames ("32") or seconds ("0.2s").
        features: Frozen features the model was trained on.
        features_revision: Revision of features from the Hub.
        image_size: Side of the frames in pixels.
        language: Text encoder of a stage-1 model: t5:MODEL or precomputed.
        dropout: In the Transformer layers, if it is trained further.
        features_out: New folder for the image backbone in the file; the model then uses that, at this place, and needs
            no download.
    """
    given: dict[str, Any] = {"cameras": cameras, "stride": stride, "image_size": image_size, "dropout": dropout}
    given |= {"features": features, "features_revision": features_revision, "language": language}
    return p2t_learner(path, heads, action_dim, features_out, **given).lam


def p2t_learner(
    path: FilePath, heads: int = 12, action_dim: int = 7, features_out: FilePath | None = None, **facts: Any
) -> PairLearner[ImageLAM]:
    """Read the same together with its action head, for losses and training; `facts` are keywords of `p2t_image_lam`."""
    checks.counts(action_dim=action_dim)
    checks.known_keys("facts", facts, FACTS)
    published = {"cameras": ("image",), "stride": ImageLAMConfig.stride, "language": T5}
    return _convert(path, heads, action_dim, features_out, {**published, **facts})


def _convert(
    path: FilePath, heads: int, action_dim: int | None, own: FilePath | None, given: Mapping[str, Any]
) -> PairLearner[ImageLAM]:
    checks.counts(heads=heads)
    facts = {**given, "heads": heads, "cameras": tuple(given["cameras"])}
    language = facts.pop("language")
    check_view(facts["cameras"], facts["stride"])
    path = Path(path).expanduser()
    told = checkpoint.read_settings(path, "hyper_parameters").get("lam_num_heads", heads)
    if told != heads:
        checks.fail("heads", f"{told}, as the settings in the file say", heads)
    foreign = checkpoint.read_checkpoint(path, entry="state_dict" if path.suffix in checkpoint.PICKLED else None)
    if not any(name.startswith("lam.") for name in foreign):  # somebody took the prefix off
        foreign = {name if name.startswith(HEAD) else f"lam.{name}": tensor for name, tensor in foreign.items()}
    checkpoint.check_kind(foreign, "univla-lam" if action_dim is None else "p2t-image-lam", str(path))
    found = sizes(foreign, action_dim)
    checks.divides(found["width"], f"the width {found['width']} in the file", heads=heads)
    if found["streams"] == "control":
        found["language"] = language
    if own is None:
        return _filled(built(ImageLAMConfig, facts | found), foreign, action_dim, path)
    with _own_backbone(foreign, Path(own).expanduser()) as features:
        facts |= {"features": features, "features_revision": None}
        learner = _filled(built(ImageLAMConfig, facts | found), foreign, action_dim, path)
        learner.lam.features.load()
    return learner


def _filled(
    config: ImageLAMConfig, foreign: Mapping[str, Tensor], action_dim: int | None, path: Path
) -> PairLearner[ImageLAM]:
    """Make a model of this config with the file's tensors."""
    features = ImageLAM.frozen_features(config)

    def build() -> PairLearner[ImageLAM]:
        learner = PairLearner(ImageLAM(config, features))
        learner.action_head = None if action_dim is None else GapActionHead(config, action_dim)
        return learner

    plan_module(build, {name: Size.of(tensor) for name, tensor in foreign.items()}, str(path))  # before memory is taken
    learner = build()
    model, head = learner.lam, learner.action_head
    queries, hint = foreign.get("lam.action_latent"), f"It was trained on other features than {config.features}."
    if queries is not None and queries.ndim == 4:
        checks.size("features", "channels, as in the file", model.features.dim, queries.shape[3], hint)
    ours = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("features.")}
    ours |= {} if head is None else head.state_dict(prefix="action_head.")
    kept = [name for name in ours if name.endswith(OURS_ALONE)]
    unused = [name for name in foreign if name.startswith((BACKBONE, TEXT))]
    names = key_map(config, head is not None)
    tensors = checkpoint.translate(foreign, names, ours, str(path), unused=unused, kept=kept)
    for name, tensor in ours.items():  # shares memory with the model
        tensor.copy_(tensors[name])
        if name.endswith("quantizer.steps"):
            tensor.fill_(1)  # the codebook has started, training must not restart it
    return learner.eval()


def key_map(config: ImageLAMConfig, acts: bool = False) -> KeyMap:
    """Map our tensors to the published names, those of its action head as well if it `acts`."""
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
    names = {ours: f"lam.{theirs}" for ours, theirs in layers.items()}
    if acts:
        names |= {f"action_head.net.{i}": f"{HEAD}{i}" for i in (0, 2)}
    return tensors | layer_names(names)


def sizes(foreign: Mapping[str, Tensor], action_dim: int | None) -> dict[str, Any]:
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
    if action_dim is not None:
        outputs = size(f"{HEAD}2.weight", 0, 32 * action_dim)
        checks.divides(outputs, f"the {outputs} outputs of the file's action head", action_dim=action_dim)
        found |= {"action_head": "codes", "action_target": "chunk", "action_steps": outputs // action_dim}
    return found


@contextmanager
def _own_backbone(foreign: Mapping[str, Tensor], folder: Path) -> Iterator[str]:
    """Write the file's DINOv2 as a folder that timm reads; yields its name as features. Removed on failure."""
    own = {name.removeprefix(BACKBONE): tensor for name, tensor in foreign.items() if name.startswith(BACKBONE)}
    if "cls_token" not in own:
        checks.fail("features_out", f"a file with {BACKBONE}*", "one without the image backbone")
    weights = safetensors.torch.save({name: tensor.contiguous() for name, tensor in own.items()})
    output = Output(folder, "features_out")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names != {WEIGHTS, CONFIG} or (folder / WEIGHTS).read_bytes() != weights:  # if equal, it was killed after them
        output.check_new()
    width = own["cls_token"].shape[-1]
    depth = len({name.split(".")[1] for name in own if name.startswith("blocks.")})
    if depth * width**2 > sum(tensor.numel() for tensor in own.values()):  # of the twelve such matrices of a block
        checks.fail("features_out", f"the weights of {depth} blocks of width {width}", f"far fewer in {BACKBONE}*")
    arguments = {"embed_dim": width, "depth": depth, "num_heads": max(1, width // 64)}  # as in every DINOv2
    facts = {"input_size": [3, 518, 518], "interpolation": "bicubic", "mean": IMAGENET[0], "std": IMAGENET[1]}
    config = {"architecture": "vit_base_patch14_reg4_dinov2", "num_classes": 0, "model_args": arguments}
    with output.filled((WEIGHTS, CONFIG)):
        with files.whole_file(folder / WEIGHTS) as path:  # timm translates the original names by itself
            path.write_bytes(weights)
        files.write_json(folder / CONFIG, {**config, "pretrained_cfg": {**facts, "num_classes": 0}})
        yield f"timm:local-dir:{folder.resolve()}"
