"""Names of the tensors of Transformer blocks in UniVLA, and in models that come from it."""

from __future__ import annotations

import torch

from lattok.hub.checkpoint import Join

ATTENTIONS = {"encoder": {"space": "spatial_attn", "time": "temporal_attn"}, "decoder": {"attention": "spatial_attn"}}


def block_names(part: str, ours: str, theirs: str) -> dict[str, str | Join]:
    """Map a Transformer block of the encoder or decoder to its names there."""
    names: dict[str, str | Join] = {}
    layers = {f"norm{j}": f"norm{j}" for j in range(1, len(ATTENTIONS[part]) + 2)} | {"ff.0": "ffn.0", "ff.3": "ffn.3"}
    for our_name, their_name in ATTENTIONS[part].items():
        keys = tuple(f"{theirs}.{their_name}.to_{letter}.weight" for letter in "qkv")
        names[f"{ours}.{our_name}.qkv.weight"] = Join(keys, lambda *qkv: torch.cat(qkv))
        layers[f"{our_name}.out"] = f"{their_name}.to_out.0"
    return names | {f"{ours}.{a}.{x}": f"{theirs}.{b}.{x}" for a, b in layers.items() for x in ("weight", "bias")}
