"""VQ-BeT's residual VQ-VAE the straightforward way, as a baseline of benchmarks/speed/action_tokenizer.py.

Our re-implementation from a description of the published operations and tensor names, in torch's own modules; nothing
here is tuned and nothing is slowed down.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def mlp(inputs: int, hidden: int, outputs: int) -> nn.ModuleDict:
    first = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU())
    return nn.ModuleDict({"encoder": first, "fc": nn.Linear(hidden, outputs)})


class Codebook(nn.Module):
    """Codes [1, K, d], with what training keeps of them."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        codes = 0.05 * torch.randn(1, size, dim)  # about as far apart as latents are
        given = {"embed": codes, "embed_avg": codes.clone(), "cluster_size": torch.ones(1, size)}
        for name, value in (given | {"initted": torch.ones(1)}).items():
            self.register_buffer(name, value)
        self.embed: Tensor


class StraightforwardVQBeT(nn.Module):
    """`encode` and `decode` of actions; tensors have the published names."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        self.shape, latent = (config["input_dim_h"], config["input_dim_w"]), config["n_latent_dims"]
        self.scale, numbers = config.get("act_scale", 1.0), self.shape[0] * self.shape[1]
        self.encoder, self.decoder = mlp(numbers, 128, latent), mlp(latent, 128, numbers)
        books = [Codebook(config["vqvae_n_embed"], latent) for _ in range(config["vqvae_groups"])]
        layers = nn.ModuleList(nn.ModuleDict({"_codebook": book}) for book in books)
        self.vq_embedding = nn.ModuleDict({"layers": layers})
        self.eval()

    @property
    def books(self) -> list[Tensor]:
        layers: Any = self.vq_embedding["layers"]
        return [layer["_codebook"].embed[0] for layer in layers]

    @torch.no_grad()
    def encode(self, actions: Tensor) -> Tensor:
        """Actions [B, H, m] to codes [B, G]: each stage takes the nearest of what is left."""
        left = self.encoder["fc"](self.encoder["encoder"]((actions / self.scale).flatten(1)))
        codes = []
        for book in self.books:
            squares = left.square().sum(1, keepdim=True) + book.square().sum(1) - 2 * left @ book.T
            codes.append(squares.sqrt().argmin(1))
            left = left - book[codes[-1]]
        return torch.stack(codes, 1)

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, G] to actions [B, H, m]."""
        latents = torch.stack([book[codes[:, i]] for i, book in enumerate(self.books)]).sum(0)
        return self.decoder["fc"](self.decoder["encoder"](latents)).unflatten(1, self.shape) * self.scale
