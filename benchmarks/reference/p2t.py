"""The P2T action tokenizer the straightforward way, as the baseline of benchmarks/speed/action_tokenizer.py.

Our re-implementation from the paper's description and the published tensor names, in torch's own modules; nothing here
is tuned and nothing is slowed down. In evaluation mode without gradients torch takes its fused Transformer path.
"""

import torch
from torch import Tensor, nn

from lattok import P2TActionVQ


class Encoder(nn.Module):
    """Actions [B, H, m] to latents [B, H, d]."""

    def __init__(self, action_dim: int, dim: int, hidden: int, heads: int, depth: int):
        super().__init__()
        self.in_proj = nn.Linear(3 * action_dim, dim)
        self.conv1 = nn.Conv1d(dim, dim, 3, padding=1, dilation=1)
        self.conv2 = nn.Conv1d(dim, dim, 3, padding=2, dilation=2)
        self.conv3 = nn.Conv1d(dim, dim, 3, padding=4, dilation=4)
        layer = nn.TransformerEncoderLayer(dim, heads, hidden, dropout=0.1, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, depth)

    def forward(self, actions: Tensor) -> Tensor:
        spectrum = torch.fft.fft(actions, dim=1)
        x = self.in_proj(torch.cat([actions, spectrum.real, spectrum.imag], dim=-1)).transpose(1, 2)
        for conv in (self.conv1, self.conv2, self.conv3):
            x = torch.relu(conv(x))
        return self.transformer(x.transpose(1, 2))


class Quantizer(nn.Module):
    """Nearest code in squared Euclidean distance."""

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.register_buffer("embedding", torch.randn(size, dim))
        self.embedding: Tensor

    def forward(self, latents: Tensor) -> Tensor:
        flat = latents.reshape(-1, latents.shape[-1])
        distance = flat.pow(2).sum(1, keepdim=True) - 2 * flat @ self.embedding.t() + self.embedding.pow(2).sum(1)[None]
        return distance.argmin(1).view(latents.shape[:-1])


class Decoder(nn.Module):
    """One code vector at a time to an action."""

    def __init__(self, dim: int, hidden: int, action_dim: int):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, action_dim))

    def forward(self, vectors: Tensor) -> Tensor:
        return self.net(vectors)


class StraightforwardP2T(nn.Module):
    """`encode` and `decode` on normalised actions, with the weights of a lattok tokenizer."""

    def __init__(self, tokenizer: P2TActionVQ):
        super().__init__()
        config = tokenizer.config
        self.encoder = Encoder(config.action_dim, config.dim, config.hidden, config.heads, config.depth)
        self.vq = Quantizer(config.codebook_size, config.dim)
        self.decoder = Decoder(config.dim, config.hidden, config.action_dim)
        self.load_state_dict(_published_names(tokenizer))
        self.eval()

    @torch.no_grad()
    def encode(self, actions: Tensor) -> Tensor:
        """Actions [B, H, m] to codes [B, H]."""
        return self.vq(self.encoder(actions))

    @torch.no_grad()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes [B, H] to actions [B, H, m]."""
        return self.decoder(nn.functional.embedding(codes, self.vq.embedding))


def _published_names(tokenizer: P2TActionVQ) -> dict[str, Tensor]:
    """The tokenizer's tensors under the names of the published files; explicit, so that nothing is left out."""
    layer = {
        "attention.qkv.weight": "self_attn.in_proj_weight",
        "attention.qkv.bias": "self_attn.in_proj_bias",
        "attention.out": "self_attn.out_proj",
        "ff.0": "linear1",
        "ff.3": "linear2",
    }
    tensors = {"vq.embedding": tokenizer.quantizer.codebook_vectors[0]}
    tensors |= {f"decoder.{name}": tensor for name, tensor in tokenizer.decoder.state_dict().items()}
    for name, tensor in tokenizer.encoder.state_dict().items():
        name = name.replace("project.", "in_proj.").replace("transformer.", "transformer.layers.")
        for place in range(3):
            name = name.replace(f"convs.{place}.", f"conv{place + 1}.")
        for ours, published in layer.items():
            name = name.replace(ours, published)
        tensors[f"encoder.{name}"] = tensor
    return tensors
