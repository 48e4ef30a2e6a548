"""The published action tokenizer in plain arithmetic, from its description alone: what conversion is compared with.

Weights go by their published names; nothing here comes from lattok or from torch.nn.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tests.image_lam.plain import Weights, linear, norm, relu


class Facts(NamedTuple):
    """Sizes of a tokenizer, and what its weights do not tell."""

    horizon: int = 8
    action_dim: int = 7
    dim: int = 32
    codes: int = 16
    hidden: int = 40
    depth: int = 2
    heads: int = 4
    dilations: tuple[int, ...] = (1, 2, 4)
    fft: bool = True


def shapes(facts: Facts) -> dict[str, list[int]]:
    """Every tensor of a checkpoint."""
    m, d, k, hidden = facts.action_dim, facts.dim, facts.codes, facts.hidden
    found = {"encoder.in_proj.weight": [d, 3 * m if facts.fft else m], "encoder.in_proj.bias": [d]}
    for i in range(len(facts.dilations)):
        found |= {f"encoder.conv{i + 1}.weight": [d, d, 3], f"encoder.conv{i + 1}.bias": [d]}
    for i in range(facts.depth):
        layer = {
            "self_attn.in_proj_weight": [3 * d, d],
            "self_attn.in_proj_bias": [3 * d],
            "self_attn.out_proj.weight": [d, d],
            "self_attn.out_proj.bias": [d],
            "linear1.weight": [hidden, d],
            "linear1.bias": [hidden],
            "linear2.weight": [d, hidden],
            "linear2.bias": [d],
            **{f"norm{j}.{part}": [d] for j in (1, 2) for part in ("weight", "bias")},
        }
        found |= {f"encoder.transformer.layers.{i}.{name}": shape for name, shape in layer.items()}
    found |= {"vq.embedding": [k, d], "vq.cluster_size": [k], "vq.ema_w": [k, d]}
    found |= {"decoder.net.0.weight": [hidden, d], "decoder.net.0.bias": [hidden]}
    return found | {"decoder.net.2.weight": [m, hidden], "decoder.net.2.bias": [m]}


def random_weights(wanted: dict[str, list[int]], seed: int = 0) -> Weights:
    """Gains away from 1, biases away from 0, no two rows alike: what is dropped, swapped or turned shows up."""
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in wanted.items():
        noise = torch.randn(shape, generator=draw)
        if name == "vq.cluster_size":
            weights[name] = noise.abs() * 3 + 0.5
        elif ".norm" in name and name.endswith("weight"):
            weights[name] = 1 + 0.3 * noise
        elif len(shape) == 1:
            weights[name] = 0.2 * noise
        else:
            weights[name] = noise if name.startswith("vq.") else noise / math.sqrt(math.prod(shape[1:]))
    weights["vq.ema_w"] *= weights["vq.cluster_size"][:, None]
    return weights


def spectrum(x: Tensor) -> Tensor:
    """Sums of x[t] exp(-2 pi i k t / H) over t, [B, H, m] to [B, H, 2m]: real parts, then imaginary parts."""
    steps = torch.arange(x.shape[1], dtype=torch.float64)
    angle = -2 * math.pi * steps[:, None] * steps / x.shape[1]  # k t
    return torch.cat([torch.einsum("kt,btm->bkm", f(angle).to(x), x) for f in (torch.cos, torch.sin)], -1)


def convolve(w: Weights, name: str, x: Tensor, dilation: int) -> Tensor:
    """[B, H, d]: tap 0 looks back, tap 2 ahead, zeros outside."""
    h, y = x.shape[1], w[f"{name}.bias"].expand_as(x)
    for tap in range(3):
        shift = (tap - 1) * dilation
        moved = torch.zeros_like(x)
        if abs(shift) < h:
            moved[:, max(-shift, 0) : h - max(shift, 0)] = x[:, max(shift, 0) : h - max(-shift, 0)]
        y = y + moved @ w[f"{name}.weight"][:, :, tap].T
    return y


def attend(w: Weights, name: str, x: Tensor, heads: int) -> Tensor:
    """Self-attention, one head after the other."""
    d, width = x.shape[-1], x.shape[-1] // heads
    q, k, v = (x @ w[f"{name}.in_proj_weight"].T + w[f"{name}.in_proj_bias"]).split(d, -1)
    mixed = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(width)).exp()
        mixed.append(scores / scores.sum(-1, keepdim=True) @ v[..., part])
    return linear(w, f"{name}.out_proj", torch.cat(mixed, -1))


def encode(w: Weights, facts: Facts, actions: Tensor) -> Tensor:
    """Actions [B, H, m] to latents [B, H, d]."""
    x = linear(w, "encoder.in_proj", torch.cat([actions, spectrum(actions)], -1) if facts.fft else actions)
    for i, dilation in enumerate(facts.dilations):
        x = relu(convolve(w, f"encoder.conv{i + 1}", x, dilation))
    for i in range(facts.depth):
        layer = f"encoder.transformer.layers.{i}"
        x = norm(w, f"{layer}.norm1", x + attend(w, f"{layer}.self_attn", x, facts.heads))
        inner = relu(linear(w, f"{layer}.linear1", x))
        x = norm(w, f"{layer}.norm2", x + linear(w, f"{layer}.linear2", inner))
    return x


def distances(w: Weights, latents: Tensor) -> Tensor:
    """Squared distance of each latent [B, H, d] to each code, [B, H, K]."""
    return (latents[..., None, :] - w["vq.embedding"]).square().sum(-1)


def decode(w: Weights, rows: Tensor) -> Tensor:
    """Code vectors [B, H, d] to actions [B, H, m]."""
    return linear(w, "decoder.net.2", relu(linear(w, "decoder.net.0", rows)))


def losses(w: Weights, facts: Facts, actions: Tensor, masked: Tensor) -> dict[str, Tensor]:
    """One training pass with the steps in `masked` [B, H] zeroed."""
    latents = encode(w, facts, actions)
    damaged = latents * ~masked[..., None]
    rows = w["vq.embedding"][distances(w, damaged).argmin(-1)].detach()
    predicted = decode(w, damaged + (rows - damaged).detach())
    again = encode(w, facts, predicted)
    return {
        "reconstruction": (predicted - actions).square().mean(),
        "commitment": (rows - damaged).square().mean(),
        "mask": (again - latents)[masked].square().mean(),
    }


def moving_average(w: Weights, latents: Tensor) -> Weights:
    """The quantizer's tensors after one update with latents [B, H, d]."""
    codes, flat = distances(w, latents).argmin(-1).flatten(), latents.flatten(0, 1)
    size, total = 0.99 * w["vq.cluster_size"], 0.99 * w["vq.ema_w"]
    for code, latent in zip(codes.tolist(), flat, strict=True):
        size[code] += 0.01
        total[code] += 0.01 * latent
    smooth = (size + 1e-5) / (size.sum() + len(size) * 1e-5) * size.sum()
    return {"vq.cluster_size": size, "vq.ema_w": total, "vq.embedding": total / smooth[:, None]}
