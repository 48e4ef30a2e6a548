"""Published checkpoints of the P2T action tokenizer (`tokenizer_step_N.pt`) as `P2TActionVQ`.

Sizes follow from the shapes. What weights cannot tell (horizon, heads, dilations, dropout, action statistics) is
asked for, with the published values as defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from lattok.action_vq.model import ActionVQConfig, P2TActionVQ
from lattok.hub import checkpoint
from lattok.nn.normalize import read_statistics
from lattok.utils import checks

# Training goes on as the published code trains; it also does not revive codes.
PUBLISHED = {"mask_weight": 1.0, "mask_passes": 1, "mask_detach_target": False, "revive_below": 0.0}
TRAINING = ("commitment_weight", "mask_ratio", "loss_reduction", "decay", *PUBLISHED)
LAYERS = {"attention.out": "self_attn.out_proj", "ff.0": "linear1", "ff.3": "linear2"}  # of a block: ours, published
LAYERS |= {"norm1": "norm1", "norm2": "norm2"}
OURS_ALONE = ("normalizer.shift", "normalizer.scale", "quantizer.steps")


@checkpoint.importer(
    "p2t-action-vq",
    sign=r"vq\.ema_w$",
    mind="The file does not say which statistics actions were normalised with: `--statistics`.",
)
def p2t_action_vq(
    path: checkpoint.FilePath,
    horizon: int,
    *,
    heads: int = 4,
    dilations: Sequence[int] = (1, 2, 4),
    dropout: float = 0.1,
    statistics: checkpoint.Settings | None = None,
    normalize: str | None = None,
    action_names: Sequence[str] = (),
    action_kind: str = "unspecified",
    **training: Any,
) -> P2TActionVQ:
    """Read a published action tokenizer (P2T, tokenizer_step_N.pt or safetensors).

    The .pt is nested, with encoder, vq and decoder; the safetensors are flat. `training` replaces options that
    fine-tuning uses, which follow the published code.

    Example: lattok convert p2t-action-vq tokenizer_step_50000.pt my-tokenizer --horizon 8

    Args:
        path: The checkpoint.
        horizon: Steps of an action chunk; the file does not hold it (8 on LIBERO, 25 on RoboTwin, 20 on JAKA).
        heads: Attention heads; the file does not hold it.
        dilations: Dilation of each convolution; the file does not hold it.
        dropout: In the Transformer layers, if it is trained further.
        statistics: A mapping or JSON file with the statistics that actions were normalised with in training: mean and
            std, q01 and q99, or min and max, one number per dimension; or meta/stats.json of a LeRobot dataset. Without
            it, actions are not normalised.
        normalize: Which of several statistics: mean_std, quantile or min_max (default: the first one found).
        action_names: Names of the action dimensions, for reports.
        action_kind: relative, absolute or unspecified.
    """
    checks.known_keys("options", training, TRAINING)
    known, kind = read_statistics(statistics, normalize)
    foreign = checkpoint.read_checkpoint(path)
    checkpoint.check_kind(foreign, "p2t-action-vq", str(path))
    config = ActionVQConfig(
        horizon=horizon,
        heads=heads,
        dilations=tuple(dilations),
        dropout=dropout,
        normalize=kind,
        action_names=tuple(action_names),
        action_kind=action_kind,
        **sizes(foreign),
        **{**PUBLISHED, **training},
    )
    convolutions = checkpoint.numbered(foreign, r"encoder\.conv(\d+)\.") or len(dilations)
    if len(dilations) != convolutions:
        expected = f"{convolutions} numbers, one for each convolution in the file"
        checks.fail("dilations", expected, " ".join(map(str, dilations)) or "none")
    checks.divides(config.dim, f"the width {config.dim} in the file", heads=heads)
    model = checkpoint.converted(lambda: P2TActionVQ(config), foreign, key_map(config), str(path), kept=OURS_ALONE)
    model.quantizer.steps.fill_(config.continuous_steps + 1)  # the codebook has started, training must not restart it
    if known is not None:
        model.normalizer.set(known)
    return model


def key_map(config: ActionVQConfig) -> checkpoint.KeyMap:
    """Map our tensors to the published names."""
    names = {"encoder.project": "encoder.in_proj", **{f"decoder.net.{i}": f"decoder.net.{i}" for i in (0, 2)}}
    names |= {f"encoder.convs.{i}": f"encoder.conv{i + 1}" for i in range(len(config.dilations))}
    book = {"vectors": "embedding", "cluster_sum": "ema_w", "cluster_size": "cluster_size"}
    tensors: dict[str, Any] = {f"quantizer.codebooks.0.{ours}": f"vq.{theirs}" for ours, theirs in book.items()}
    for i in range(config.depth):
        place, their_place = f"encoder.transformer.{i}", f"encoder.transformer.layers.{i}"
        names |= {f"{place}.{ours}": f"{their_place}.{theirs}" for ours, theirs in LAYERS.items()}
        for name in ("weight", "bias"):  # q, k and v stand on one another in both
            tensors[f"{place}.attention.qkv.{name}"] = f"{their_place}.self_attn.in_proj_{name}"
    return checkpoint.layer_names(names) | tensors


def sizes(foreign: Mapping[str, Tensor]) -> dict[str, Any]:
    """Find the config fields that follow from the shapes; published ones where a tensor is missing, said later."""
    size = partial(checkpoint.axis_of, foreign)
    action_dim = size("decoder.net.2.weight", 0, 7)
    return {
        "action_dim": action_dim,
        "dim": size("encoder.in_proj.weight", 0, 128),
        "codebook_size": size("vq.embedding", 0, 256),
        "hidden": size("decoder.net.0.weight", 0, 256),
        "depth": checkpoint.numbered(foreign, r"encoder\.transformer\.layers\.(\d+)\.") or 2,
        "fft": size("encoder.in_proj.weight", 1, 3 * action_dim) != action_dim,
    }
