"""Trained models for inference alone, faster: one function for all families.

labeller = lattok.for_inference(lam, precision="bfloat16")      # CPU or CUDA
fast = lattok.for_inference(tokenizer)                          # on the CPU
"""

import copy
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import skip_init

from lattok.action_vq import P2TActionVQ
from lattok.action_vq.learned import TrainedTokenizer
from lattok.action_vq.p2t import ActionVQConfig, Encoder
from lattok.image_lam import TrainedPairModel
from lattok.image_lam.base.labelling import Video, VideoEncoder, torch_encoder
from lattok.types import Gap, LatentActions, VideoLabeller
from lattok.utils import checks
from lattok.utils.arrays import Values, like
from lattok.utils.devices import float32_by_default

Learned = TypeVar("Learned", bound=TrainedTokenizer)
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CACHED = 64  # chunks that an encoder transforms at a time, so that a layer's rows stay in the cache
FEW_ROWS = 128  # fewer are faster as torch multiplies them


@overload
def for_inference(model: TrainedPairModel, precision: str = "float32") -> "FastImageLAM": ...
@overload
def for_inference(model: P2TActionVQ) -> "FastActionVQ | P2TActionVQ": ...
@overload
def for_inference(model: Learned) -> Learned: ...
@float32_by_default()
def for_inference(model: object, precision: str = "float32") -> object:
    """Return a faster form of a model for inference alone, with the weights as they are now.

    A latent action model becomes a labeller, in float32 or "bfloat16", where a few codes differ; its `describe()` says
    how labels were made. A tokenizer of actions that learned by gradients becomes a copy on the CPU, with matrices in
    the order of its kernels; a `P2TActionVQ` with the step decoder also decodes by a table.
    """
    if isinstance(model, TrainedPairModel):
        return FastImageLAM(model, precision)
    if isinstance(model, TrainedTokenizer):
        if precision != "float32":
            checks.fail("precision", "float32 for a tokenizer of actions", precision)
        if isinstance(model, P2TActionVQ) and model.config.decoder == "step":
            return FastActionVQ(model)
        return _packed(model)
    hint = "Other models have no faster form: use them as they are."
    return checks.fail("model", "an ImageLAM, a MotoLAM or a trained tokenizer of actions", type(model).__name__, hint)


class FastImageLAM(VideoLabeller):
    """What `lattok.for_inference` makes of a latent action model: it labels with a copy of the weights.

    Heads and quantizer are always float32. A label made in bfloat16 is another label: `describe` says how it was made.
    """

    def __init__(self, lam: TrainedPairModel, precision: str):
        checks.one_of("precision", precision, PRECISIONS)
        lam.check_reads_video_alone()
        self._lam, self._precision = copy.deepcopy(lam).eval(), precision
        self.cameras, self.codebook_size = lam.cameras, lam.codebook_size
        with self._lam.inference(), torch.no_grad():
            self._encoder = _encoder(self._lam, PRECISIONS[precision])

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the encoder behind: workers make their own."""
        return FastImageLAM, (self._lam, self._precision)

    def to(self, device: str) -> "FastImageLAM":
        """Return the same on another device, for workers."""
        return FastImageLAM(copy.deepcopy(self._lam).to(device), self._precision)

    @property
    def device(self) -> torch.device:
        return self._lam.device

    def stride_frames(self, fps: float) -> int:
        return self._lam.stride_frames(fps)

    def resize(self, frames: np.ndarray) -> np.ndarray:
        return self._lam.resize(frames)

    def label_video(self, frames: Video, stride: Gap = None, *, fps: float | None = None) -> LatentActions:
        return self._lam.label_video(frames, stride, self._encoder, fps=fps)

    @torch.no_grad()
    def encode(self, frames: Values) -> LatentActions:
        """Turn frame pairs uint8 [B, 2, V, H, W, 3] into latent actions; both frames of every pair are computed."""
        given, frames = frames, self._lam.checked_pairs(frames)
        if not len(frames):
            return self._lam.encode(given)
        with self._lam.inference():
            now, later = self._encoder.frames(frames.flatten(0, 1)).unflatten(0, (-1, 2)).unbind(1)
            return like(given, self._lam.from_tokens(self._encoder.pairs(now, later)))

    def describe(self) -> dict[str, Any]:
        """Return the model's identity, and in which precision labels are computed."""
        return {**self._lam.describe(), "precision": self._precision}


def _encoder(lam: TrainedPairModel, dtype: torch.dtype) -> VideoEncoder:
    """Round matrices to `dtype`; those of the frozen features act in autocast, which need not round them each time."""
    encoder = lam.encoder.for_videos(dtype)
    if dtype == torch.float32:
        return torch_encoder(lam.frame_features, encoder)
    features = copy.deepcopy(lam.features)
    for layer in features.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.to(dtype)

    def rounded(frames: Tensor) -> Tensor:
        with torch.autocast(features.mean.device.type, dtype):
            return lam.frame_features(frames, features).float()

    return torch_encoder(rounded, encoder)


class PackedLinear(nn.Linear):
    """A linear layer with a second copy of its matrix, as it was then, in the order of oneDNN's kernels.

    On CPUs of AMD torch multiplies float32 matrices by MKL, which uses half of their vector units; oneDNN uses all of
    them. The numbers are the same but for rounding; gradients do not pass.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None):
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self._matrix = torch.ops.mkldnn._reorder_linear_weight(self.weight.data, None)

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() < FEW_ROWS * self.in_features:
            return F.linear(x, self.weight, self.bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._matrix, self.bias, "none", [], "")

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the second copy behind, which is made again."""
        return PackedLinear, (self.weight, self.bias)


def packed(model: nn.Module) -> nn.Module:
    """Replace the linear layers inside `model`, on a CPU that has oneDNN; returns it."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return model
    for name, layer in model.named_children():
        if type(layer) is nn.Linear:
            setattr(model, name, PackedLinear(layer.weight, layer.bias))
        else:
            packed(layer)
    return model


def _packed(model: TrainedTokenizer) -> TrainedTokenizer:
    """Copy a tokenizer onto the CPU, for inference alone."""
    plain = copy.deepcopy(model).cpu().eval()
    made: Any = packed(copy.deepcopy(plain))
    if isinstance(plain, P2TActionVQ) and FoldedEncoder.pays(plain.config):
        made.encoder = FoldedEncoder(plain.encoder, made.encoder, plain.config)
    return made


def _product(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return x -> x weight^T + bias; at one chunk, calling a module takes as long as its product."""
    layer = skip_init(nn.Linear, *weight.T.shape, bias=bias is not None)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return cast(nn.Linear, cast(Any, packed(nn.Sequential(layer)))[0]).forward


class FoldedEncoder(Encoder):
    """P2T's encoder with all that is linear in the chunk, spectrum, projection and first convolution, as one matrix.

    Steps are the outer axis, so that each tap of a convolution reads rows side by side: nothing is padded or copied.
    """

    @torch.no_grad()
    def __init__(self, plain: Encoder, quick: Encoder, config: ActionVQConfig):
        nn.Module.__init__(self)
        for name, layer in quick.named_children():  # tensors have the names that they had
            setattr(self, name, layer)
        self.steps, self.heads, width = config.horizon, config.heads, config.horizon * config.action_dim
        probes = torch.cat([torch.zeros(1, width), torch.eye(width)]).double().unflatten(1, (self.steps, -1))
        bias, *rows = copy.deepcopy(plain).double().before(probes).transpose(1, 2).flatten(1)
        self._first = _product((torch.stack(rows) - bias).T.float(), bias.float())
        step = torch.arange(2 * self.steps) % 2
        self._apart = None, torch.zeros(len(step), len(step)).masked_fill_(step[:, None] != step, -math.inf)
        self._taps, self._layers = list[tuple[Any, ...]](), list[tuple[Any, ...]]()
        for conv in cast(Any, plain.convs[1:]):
            before, here, after = conv.weight.unbind(2)
            parts = _product(before, None), _product(here, conv.bias), _product(after, None)
            self._taps.append((conv.dilation[0], *parts))
        for block in cast(Any, quick.transformer):
            linear = [part.forward for part in (block.attention.qkv, block.attention.out, block.ff[0], block.ff[3])]
            norms = [((config.dim,), norm.weight, norm.bias, norm.eps) for norm in (block.norm1, block.norm2)]
            self._layers.append((*linear, *norms))

    @staticmethod
    def pays(config: ActionVQConfig) -> bool:
        """Tell whether the one matrix takes no more products than what it replaces."""
        columns = config.action_dim * (3 if config.fft else 1)
        return bool(config.dilations) and config.horizon * config.action_dim <= columns + 3 * config.dim

    def forward(self, actions: Tensor) -> Tensor:
        return torch.cat([self._block(block) for block in actions.split(CACHED)])

    def _block(self, actions: Tensor) -> Tensor:
        count, steps = len(actions), self.steps
        x = self._first(actions.flatten(1)).relu_().unflatten(1, (steps, -1)).transpose(0, 1).flatten(0, 1)  # (h b) d
        for reach, before, here, after in self._taps:
            y, shift = here(x), reach * count
            if reach < steps:
                y[shift:].add_(before(x[:-shift]))
                y[:-shift].add_(after(x[shift:]))
            x = y.relu_()
        # Attention calls its kernels for each head of each sequence: here of two chunks, which do not see each other.
        pair = 2 - count % 2
        shape, mask = (steps * pair, count // pair, 3, self.heads, x.shape[1] // self.heads), self._apart[pair - 1]
        for mix, out, widen, narrow, first, last in self._layers:
            parts = mix(x).view(shape).permute(2, 1, 3, 0, 4)  # qkv b n h d
            mixed = F.scaled_dot_product_attention(*parts, mask).permute(2, 0, 1, 3).reshape(x.shape)
            x = torch.layer_norm(out(mixed).add_(x), *first)
            x = torch.layer_norm(narrow(widen(x).relu_()).add_(x), *last)
        return x.unflatten(0, (steps, count)).transpose(0, 1)


class NearestCode(nn.Module):
    """Latents [..., d] to the code whose row is nearest: argmax x e_k - |e_k|^2 / 2."""

    def __init__(self, book: Tensor):
        super().__init__()
        self._scores = _product(book, -book.square().sum(1) / 2)

    def codes_of(self, latents: Tensor) -> Tensor:
        best = self._scores(latents).numpy().argmax(-1)  # of 64 chunks in a tenth of the time that torch takes
        return torch.from_numpy(best)


class FastActionVQ:
    """What `lattok.for_inference` makes of a `P2TActionVQ`: a copy of its weights, on the CPU, in float32.

    `decode` checks and repairs as the tokenizer does and looks legal codes up; `table[codes]` decodes without a check.
    """

    def __init__(self, tokenizer: P2TActionVQ):
        self._plain = plain = copy.deepcopy(tokenizer).cpu().eval()
        with torch.no_grad(), plain.inference():
            rows = plain.normalizer.inverse(plain.decoder(plain.quantizer.codebook_vectors[0]))
        self.table = np.ascontiguousarray(rows.numpy(), dtype=np.float32)
        self._encoder: Any = _packed(plain)
        self._encoder.quantizer = NearestCode(plain.quantizer.codebook_vectors[0])
        self._steps, self._size = (plain.horizon,), len(self.table)
        self.horizon, self.action_dim = plain.horizon, plain.action_dim
        self.vocab_size, self.tokens_per_chunk = plain.vocab_size, plain.tokens_per_chunk

    def encode(self, chunks: Any, valid: Values | None = None, *, repair: bool = False) -> Any:
        """Encode as `P2TActionVQ` does."""
        with torch.inference_mode():  # views cost less
            codes = self._encoder.encode(chunks, valid, repair=repair)
        return codes.clone() if isinstance(codes, Tensor) else codes  # a policy may learn from it

    def decode(self, codes: Any, return_info: bool = False, *, repair: bool = False) -> Any:
        """Decode as `P2TActionVQ` does, legal codes by the table."""
        if not return_info:
            readable = isinstance(codes, Tensor) and codes.is_cpu and codes.layout is torch.strided
            readable = readable and not (codes.is_floating_point() or codes.is_quantized)
            legal = self._legal(codes.numpy() if readable else codes)
            if legal is not None:
                chunks = self.table.take(legal, 0)
                return torch.from_numpy(chunks) if isinstance(codes, Tensor) else chunks
        return self._plain.decode(codes, return_info=return_info, repair=repair)

    def _legal(self, codes: Any) -> NDArray[np.int64] | None:
        """Return codes int64 [B, H] if all are 0..K-1, else None; seen as unsigned, a negative number is a huge one."""
        if not isinstance(codes, np.ndarray) or codes.shape[1:] != self._steps or not codes.size:
            return None
        if codes.dtype != _INT64:
            if codes.dtype.kind not in "iu":
                return None
            codes = codes.astype(np.int64)
        return codes if _largest(codes.view(np.uint64), None) < self._size else None


_largest, _INT64 = np.maximum.reduce, np.dtype(np.int64)  # at one chunk every look-up of a name counts
