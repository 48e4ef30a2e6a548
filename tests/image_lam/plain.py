"""The published image latent action model in plain arithmetic, from its description alone.

Weights go by their published names; nothing here comes from lattok or from torch.nn. Features [B, 2, N, F].
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

Weights = dict[str, Tensor]
STREAMS = {"control": ("to_codebook", "vq_action"), "env": ("to_codebook_uncontrol", "vq")}  # of stage 2


class Facts(NamedTuple):
    """Sizes of a model, and what its weights do not tell."""

    stage: int = 2
    feature_dim: int = 768
    width: int = 24
    heads: int = 3
    encoder_depth: int = 2
    decoder_depth: int = 2
    latent_dim: int = 10
    tokens: int = 4
    codes: int = 16
    env_codes: int = 16
    language_dim: int = 20
    actions: tuple[int, int] | None = None  # steps and dimensions of the action decoder


PUBLISHED = Facts(width=768, heads=12, encoder_depth=12, decoder_depth=12, latent_dim=128, language_dim=768)


def shapes(facts: Facts) -> dict[str, list[int]]:
    """Every tensor of a checkpoint without its frozen networks."""
    d, feature, latent = facts.width, facts.feature_dim, facts.latent_dim
    found = {"action_latent": [1, 1, facts.tokens, feature], "to_codebook": [latent, d], "action_up": [d, latent]}
    found |= {"patch_up": [d, feature], "decoder.out": [feature, d]}
    if facts.stage == 1:
        found |= {"lang_proj": [d, facts.language_dim], "vq.codebook": [facts.codes, latent]}
    else:
        found |= {"action_latent_controllable": [1, 1, facts.tokens, feature], "to_codebook_uncontrol": [latent, d]}
        found |= {"action_up_uncontrol": [d, latent], "vq_action.codebook": [facts.codes, latent]}
        found |= {"vq.codebook": [facts.env_codes, latent]}
    for part, depth, inside in (("encoder", facts.encoder_depth, feature), ("decoder", facts.decoder_depth, d)):
        found |= {f"{part}.ffn.0": [inside], f"{part}.ffn.1": [d, inside], f"{part}.ffn.2": [d]}
        for i in range(depth):
            block = f"{part}.transformer_blocks.{i}"
            for attention in ("spatial_attn", "temporal_attn") if part == "encoder" else ("spatial_attn",):
                found |= {f"{block}.{attention}.to_{x}": [d, d] for x in ("q", "k", "v", "out.0")}
            norms = ("norm1", "norm2", "norm3") if part == "encoder" else ("norm1", "norm2")
            found |= {f"{block}.{norm}": [d] for norm in norms}
            found |= {f"{block}.ffn.0": [4 * d, d], f"{block}.ffn.3": [d, 4 * d]}
    whole: dict[str, list[int]] = {}
    for name, shape in found.items():
        if name.startswith("action_latent"):
            whole[f"lam.{name}"] = shape
            continue
        whole[f"lam.{name}.weight"] = shape
        if not name.endswith((".to_q", ".to_k", ".to_v", ".codebook")):
            whole[f"lam.{name}.bias"] = shape[:1]
    if facts.actions is not None:
        out = math.prod(facts.actions)
        whole |= {"action_decoder.0.weight": [128, latent], "action_decoder.0.bias": [128]}
        whole |= {"action_decoder.2.weight": [out, 128], "action_decoder.2.bias": [out]}
    return whole


def random_weights(wanted: dict[str, list[int]], seed: int = 0) -> Weights:
    """Gains away from 1, biases away from 0, no two rows alike: what is dropped, swapped or turned shows up."""
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in wanted.items():
        noise = torch.randn(shape, generator=draw)
        if len(shape) == 1:
            weights[name] = 1 + 0.3 * noise if name.endswith("weight") else 0.2 * noise
        elif len(shape) == 2 and ".codebook.weight" not in name:
            weights[name] = noise / math.sqrt(shape[1])
        else:
            weights[name] = noise
    return weights


def relu(x: Tensor) -> Tensor:
    """What is positive."""
    return x.clamp_min(0)


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """x W^T + b, or without b where there is none."""
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if f"{name}.bias" in w else y


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """Layer norm with epsilon 1e-5."""
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / scale * w[f"{name}.weight"] + w[f"{name}.bias"]


def attend(w: Weights, name: str, x: Tensor, heads: int, hidden: Tensor) -> Tensor:
    """Self-attention over the second-last axis, one head after the other; True in `hidden` is not looked at."""
    width = x.shape[-1] // heads
    q, k, v = (linear(w, f"{name}.to_{part}", x) for part in "qkv")
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = (q[..., part] @ k[..., part].transpose(-1, -2) / math.sqrt(width)).masked_fill(hidden, -math.inf)
        weight = (scores - scores.amax(-1, keepdim=True)).exp()
        mixed.append(weight / weight.sum(-1, keepdim=True) @ v[..., part])
    return linear(w, f"{name}.to_out.0", torch.cat(mixed, -1))


def feed_forward(w: Weights, name: str, x: Tensor) -> Tensor:
    """Linear, x times the normal distribution function, linear."""
    inner = linear(w, f"{name}.ffn.0", x)
    return linear(w, f"{name}.ffn.3", inner * (1 + torch.erf(inner / math.sqrt(2))) / 2)


def embed(w: Weights, part: str, x: Tensor) -> Tensor:
    """Norm, linear, norm; then the sines and cosines of each token's place [..., n, D]."""
    x = norm(w, f"{part}.ffn.2", linear(w, f"{part}.ffn.1", norm(w, f"{part}.ffn.0", x)))
    table = torch.zeros(x.shape[-2:], dtype=x.dtype)
    for place in range(x.shape[-2]):
        for channel in range(x.shape[-1]):
            angle = place * math.exp(-(channel // 2 * 2) * math.log(10000) / x.shape[-1])
            table[place, channel] = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
    return x + table


def words(w: Weights, text: Tensor | None, mask: Tensor | None, tokens: int) -> tuple[Tensor | None, Tensor]:
    """Language tokens [B, S, D], and which of tokens and words are hidden from attention [B, 1, tokens + S]."""
    if text is None or mask is None:
        return None, torch.zeros(1, 1, tokens, dtype=torch.bool)
    shown = torch.cat([torch.ones(len(mask), tokens, dtype=torch.bool), mask], 1)
    return linear(w, "lam.lang_proj", text), ~shown[:, None]


def encode(
    w: Weights, facts: Facts, features: Tensor, text: Tensor | None = None, mask: Tensor | None = None
) -> dict[str, Tensor]:
    """Latents [B, tokens, L] of every stream, by its name."""
    queries = [w["lam.action_latent"]]
    if facts.stage == 2:
        queries = [w["lam.action_latent_controllable"], w["lam.action_latent"]]
    both = torch.cat([*(q[0].expand(*features.shape[:2], -1, -1) for q in queries), features], 2)
    x = embed(w, "lam.encoder", both)
    language, hidden = words(w, text, mask, x.shape[2])
    if language is not None:
        x = torch.cat([x, language[:, None].expand(-1, 2, -1, -1)], 2)
    future = torch.tensor([[False, True], [False, False]])
    for i in range(facts.encoder_depth):
        block = f"lam.encoder.transformer_blocks.{i}"
        x = x + attend(w, f"{block}.spatial_attn", norm(w, f"{block}.norm1", x), facts.heads, hidden[:, None])
        over_time = norm(w, f"{block}.norm2", x).transpose(1, 2)
        x = x + attend(w, f"{block}.temporal_attn", over_time, facts.heads, future).transpose(1, 2)
        x = x + feed_forward(w, block, norm(w, f"{block}.norm3", x))
    later, p = x[:, 1], facts.tokens
    if facts.stage == 1:
        return {"control": linear(w, "lam.to_codebook", later[:, :p])}
    return {
        "control": linear(w, "lam.to_codebook", later[:, :p]),
        "env": linear(w, "lam.to_codebook_uncontrol", later[:, p : 2 * p]),
    }


def codebook(w: Weights, facts: Facts, stream: str) -> Tensor:
    """Rows [K, L] of a stream's codebook."""
    return w[f"lam.{STREAMS[stream][1] if facts.stage == 2 else 'vq'}.codebook.weight"]


def distances(w: Weights, facts: Facts, latents: dict[str, Tensor]) -> dict[str, Tensor]:
    """Squared distance of each latent to each code of its stream, [B, tokens, K]."""
    return {s: (x[..., None, :] - codebook(w, facts, s)).square().sum(-1) for s, x in latents.items()}


def decode(
    w: Weights,
    facts: Facts,
    now: Tensor,
    vectors: dict[str, Tensor],
    text: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Features of the first frame [B, N, F] and code vectors of every stream to features of the later one."""
    tokens = [linear(w, "lam.action_up", vectors["control"])]
    if facts.stage == 2:
        tokens.append(linear(w, "lam.action_up_uncontrol", vectors["env"]))
    x = embed(w, "lam.decoder", torch.cat([*tokens, linear(w, "lam.patch_up", now)], 1))
    count = x.shape[1]
    language, hidden = words(w, text, mask, count)
    x = x if language is None else torch.cat([x, language], 1)
    for i in range(facts.decoder_depth):
        block = f"lam.decoder.transformer_blocks.{i}"
        x = x + attend(w, f"{block}.spatial_attn", norm(w, f"{block}.norm1", x), facts.heads, hidden)
        x = x + feed_forward(w, block, norm(w, f"{block}.norm2", x))
    return linear(w, "lam.decoder.out", x[:, count - now.shape[1] : count])


def losses(
    w: Weights,
    facts: Facts,
    features: Tensor,
    text: Tensor | None = None,
    mask: Tensor | None = None,
    actions: Tensor | None = None,
    labelled: Tensor | None = None,
) -> dict[str, Any]:
    """One training pass: every term by our name, as the published code computes it."""
    latents = encode(w, facts, features, text, mask)
    codes = {s: d.argmin(-1) for s, d in distances(w, facts, latents).items()}
    rows = {s: codebook(w, facts, s)[codes[s]] for s in latents}
    through = {s: x + (rows[s] - x).detach() for s, x in latents.items()}
    predicted = decode(w, facts, features[:, 0], through, text, mask)
    terms = {"prediction": (predicted - features[:, 1]).square().mean()}
    for s, ending in (("control", ""), ("env", "_env")):
        if s in latents:
            terms[f"codebook{ending}"] = (rows[s] - latents[s].detach()).square().mean()
            terms[f"commitment{ending}"] = (latents[s] - rows[s].detach()).square().mean()
    if actions is not None and labelled is not None:
        inner = relu(linear(w, "action_decoder.0", through["control"].mean(1)))
        error = (linear(w, "action_decoder.2", inner).reshape(actions.shape) - actions).square().mean((1, 2))
        terms["action"] = (error * labelled).sum() / (labelled.sum() + 1e-6)
    return terms
