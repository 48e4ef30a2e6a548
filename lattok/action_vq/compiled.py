"""`P2TActionVQ` for inference: the folded encoder, and the step decoder as a K x m table. The same codes, faster.

    compiled = tokenizer.compile("onnxruntime")        # or "torch"
    codes = compiled.encode(chunks)                    # arrays in, arrays out; tensors in, tensors out
    chunks = compiled.decode(codes)

Codes differ from the plain modules' only where two code vectors are equally near up to float32 rounding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lattok import checks
from lattok.action_vq.folding import Array, Folded, FoldedBlock, Taps, fold
from lattok.action_vq.model import P2TActionVQ
from lattok.action_vq.onnx_graph import OnnxScorer, open_session

__all__ = ["CompiledTokenizer", "compile_tokenizer"]

BACKENDS = ("torch", "onnxruntime")
BLOCK = 32  # chunks at a time: activations stay in a core's cache

Values = TypeVar("Values", Tensor, np.ndarray)


def compile_tokenizer(model: P2TActionVQ, backend: str = "torch", threads: int = 1) -> CompiledTokenizer:
    """Compile for `backend`. `threads` share the blocks of a large batch (onnxruntime; torch has its own setting)."""
    checks.one_of("backend", backend, BACKENDS)
    checks.counts(threads=threads)
    if backend == "torch" and threads != 1:
        checks.fail("threads", "1 with the backend torch", threads, "Use torch.set_num_threads.")
    return CompiledTokenizer(model, backend, threads)


class Scorer(Protocol):
    """The folded encoder with its own buffers: used by one thread at a time."""

    def buffer(self, rows: int) -> Array:
        """Where the next `rows` centred chunks [rows, H * m] go."""
        ...

    def __call__(self, buffer: Array) -> Array:
        """Scores [rows * H, K] of a filled buffer; valid until the next call."""
        ...


class CompiledTokenizer:
    """What `P2TActionVQ.compile` gives: bound to a copy of the weights, on the CPU, in float32.

    `encode` and `decode` check, pad, repair and fail like the plain tokenizer's. With the step decoder there are also
    `table`, float32 [K, m] in physical units, and `lookup(codes)`, `decode` without any check: for codes known to be
    legal, that is those of `encode` or of a constrained generator. Several threads may use one object.
    """

    def __init__(self, model: P2TActionVQ, backend: str, threads: int):
        self._plain = copy.deepcopy(model).cpu().eval()
        self._backend, self._threads = backend, threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        folded = fold(self._plain)
        self._shift, self._reach = folded.shift, folded.reach
        self._new_scorer = _scorer_factory(folded, backend)
        self._idle = [self._new_scorer()]
        self._shape, self._size = (self.horizon, self.action_dim), self.vocab_size
        self._group = folded.order.index(1) if self.horizon > 1 else 1  # stored steps that are neighbours in a group
        self.table: Array | None = _table(self._plain)
        self.lookup: Callable[[Any], Any] = _lookup(self.table)

    def __reduce__(self) -> tuple[Any, ...]:
        """Sessions and closures stay behind: workers compile anew."""
        return CompiledTokenizer, (self._plain, self._backend, self._threads)

    @property
    def horizon(self) -> int:
        """Steps per chunk, H."""
        return self._plain.horizon

    @property
    def action_dim(self) -> int:
        """Action dimensions m."""
        return self._plain.action_dim

    @property
    def vocab_size(self) -> int:
        """Number of codes K."""
        return self._plain.vocab_size

    @property
    def tokens_per_chunk(self) -> int:
        """One code per step."""
        return self._plain.tokens_per_chunk

    def encode(self, chunks: Values, valid: Any = None) -> Values:
        """Chunks [B, H, m] in physical units to codes int64 [B, H]: arrays in, arrays out."""
        if isinstance(chunks, Tensor):
            plain = chunks.layout is torch.strided and chunks.device.type != "meta" and not chunks.is_quantized
        else:
            plain = chunks.__class__ is np.ndarray
        array = _single_precision(chunks) if plain else None
        if array is None or array.shape[1:] != self._shape or valid is not None:
            codes = self._codes_of_unusual(chunks, valid)
        else:
            codes, finite = self._codes(array, self._shift)
            if not finite:
                self._plain._prepare(chunks, None)  # raises
        return codes if isinstance(chunks, np.ndarray) else torch.from_numpy(codes)  # pyright: ignore

    def decode(self, codes: Any, return_info: bool = False) -> Any:
        """Any integers [B, L] to chunks [B, H, m], as the plain tokenizer decodes and repairs them."""
        if self.table is not None and not return_info:
            readable = isinstance(codes, Tensor) and codes.is_cpu and codes.layout is torch.strided
            readable = readable and not (codes.is_floating_point() or codes.is_quantized)
            legal = self._legal(codes.numpy() if readable else codes)
            if legal is not None:
                chunks = self.table.take(legal, 0)
                return torch.from_numpy(chunks) if isinstance(codes, Tensor) else chunks
        return self._plain.decode(codes, return_info=return_info)

    def _legal(self, codes: Any) -> NDArray[np.int64] | None:
        """Codes int64 [B, H] if they all are 0..K-1, else None; seen as unsigned, a negative number is a huge one."""
        if not isinstance(codes, np.ndarray) or codes.shape[1:] != self._shape[:1] or not codes.size:
            return None
        if codes.dtype != _INT64:
            if codes.dtype.kind not in "iu":
                return None
            codes = codes.astype(np.int64)
        return codes if _largest(codes.view(np.uint64), None) < self._size else None

    def _codes_of_unusual(self, chunks: Any, valid: Any) -> NDArray[np.int64]:
        """Short or masked chunks, and whatever is wrong, go through the plain tokenizer's checks and padding."""
        actions, _ = self._plain._prepare(chunks, valid)
        return self._codes((actions * self._plain.normalizer.scale).numpy(), 0.0)[0]

    def _codes(self, chunks: Array, shift: Array | float) -> tuple[NDArray[np.int64], bool]:
        """Codes of float32 chunks [B, H, m] that lie `shift` off the centre; and what `_fill` says."""
        rows = chunks.reshape(len(chunks), -1 if len(chunks) else 0)
        codes = np.empty((len(chunks), self.horizon), np.int64)
        # storage order: groups of steps that lie `horizon / group` apart
        stored = codes.reshape(len(codes), self._group, self.horizon // self._group).transpose(0, 2, 1)
        if self._pool is None or len(rows) <= BLOCK:
            return codes, self._fill(rows, shift, stored)
        share = BLOCK * math.ceil(len(rows) / BLOCK / self._threads)
        parts = [slice(start, start + share) for start in range(0, len(rows), share)]
        return codes, all(list(self._pool.map(lambda part: self._fill(rows[part], shift, stored[part]), parts)))

    def _fill(self, rows: Array, shift: Array | float, codes: NDArray[np.int64]) -> bool:
        """Codes of rows [n, H * m] into `codes`, block by block; false where a number is not finite."""
        try:
            scorer = self._idle.pop()
        except IndexError:
            scorer = self._new_scorer()
        finite = True
        for start in range(0, len(rows), BLOCK):
            block, target = rows[start : start + BLOCK], codes[start : start + BLOCK]
            buffer = scorer.buffer(len(block))
            np.subtract(block, shift, out=buffer)
            finite = finite and 0 not in np.isfinite(buffer).tobytes()  # half the time of `all`
            if self._reach is not None:
                np.clip(buffer, -self._reach, self._reach, out=buffer)
            scorer(buffer).reshape(*target.shape, -1).argmax(-1, out=target)
        self._idle.append(scorer)
        return finite


_largest = np.maximum.reduce
_FLOAT32, _INT64 = np.dtype(np.float32), np.dtype(np.int64)


def _single_precision(values: Any) -> Array | None:
    """A tensor or an array as a float32 array; None for an array of anything but real numbers."""
    if isinstance(values, Tensor):
        values = values.detach()
        return (values if values.dtype == torch.float32 and values.is_cpu else values.to("cpu", torch.float32)).numpy()
    if values.dtype == _FLOAT32:
        return values
    if values.dtype.kind not in "fiu" or values.dtype.itemsize > 8:
        return None
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is refused
        return values.astype(np.float32)


def _table(model: P2TActionVQ) -> Array | None:
    """Every action that the step decoder can emit, physical units [K, m]; None for a decoder with context."""
    if model.config.decoder != "step":
        return None
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        rows = model.normalizer.inverse(model.decoder(model.quantizer.codebook_vectors[0]))
    return np.ascontiguousarray(rows.numpy(), dtype=np.float32)


def _lookup(table: Array | None) -> Callable[[Any], Any]:
    """The table's rows of legal codes; a closure, since at one chunk a method's overhead would double the time."""
    if table is None:

        def refuse(codes: Any) -> Any:
            checks.fail("lookup", "a tokenizer with the step decoder", "decoder 'context'", "Use decode.")

        return refuse
    take, array = table.take, np.ndarray

    def lookup(codes: Any) -> Any:
        return take(codes, 0) if codes.__class__ is array else torch.from_numpy(take(codes.numpy(), 0))

    return lookup


def _scorer_factory(folded: Folded, backend: str) -> Callable[[], Scorer]:
    if backend == "torch":
        return lambda: TorchScorer(folded)
    session, width, size = open_session(folded), len(folded.shift), len(folded.scores.bias)
    return lambda: OnnxScorer(session, width, len(folded.order), size, bound=(1, BLOCK))


class TorchScorer:
    """The folded encoder in eager torch."""

    def __init__(self, folded: Folded):
        self._horizon, self._width, self._dim = len(folded.order), len(folded.shift), len(folded.offset)
        self._entry, self._entry_relu = _tensors(*folded.entry), folded.entry_relu
        self._convs = [(_index(conv), *_tensors(*conv.affine)) for conv in folded.convs]
        self._offset = torch.from_numpy(folded.offset)
        self._blocks = [TorchBlock(block, self._horizon) for block in folded.blocks]
        self._scores = _tensors(*folded.scores)

    def buffer(self, rows: int) -> Array:
        """See `Scorer`."""
        return np.empty((rows, self._width), np.float32)

    def __call__(self, buffer: Array) -> Array:
        """See `Scorer`."""
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self(buffer)
        with torch.inference_mode():
            return self._run(torch.from_numpy(buffer)).numpy()

    def _run(self, rows: Tensor) -> Tensor:
        weight, bias = self._entry
        x = torch.addmm(bias, rows, weight)
        x = x.relu_() if self._entry_relu else x
        for place, (index, weight, bias) in enumerate(self._convs):
            if index is not None:
                x = x.view(len(rows), -1, self._dim)
                x = x if place == 0 else F.pad(x, (0, 0, 0, 1))  # the entry gives a step of zeros
                x = x.index_select(1, index)  # n (H 3) d
            x = torch.addmm(bias, x.view(-1, len(weight)), weight).relu_()
        x = x.view(-1, self._dim).add_(self._offset)
        for block in self._blocks:
            x = block(x)
        weight, bias = self._scores
        return torch.addmm(bias, x, weight)


class TorchBlock:
    """A folded Transformer layer: rows [n * H, d] to the same."""

    def __init__(self, block: FoldedBlock, horizon: int):
        dim = len(block.mix)
        self._dim, self._split = [dim], (-1, horizon, 3, block.heads, dim // block.heads)
        self._qkv = torch.from_numpy(np.concatenate([block.query.weight, block.key, block.value.weight], 1))
        none = np.zeros_like(block.query.bias)
        self._qkv_bias = torch.from_numpy(np.concatenate([block.query.bias, none, block.value.bias]))
        self._mix, self._narrow = _tensors(block.mix, block.narrow)
        self._norm1, self._widen = _tensors(*block.norm1), _tensors(*block.widen)
        self._gain2, self._offset2 = (None, None) if block.norm2 is None else _tensors(*block.norm2)
        self._eps = block.eps

    def __call__(self, x: Tensor) -> Tensor:
        qkv = torch.addmm(self._qkv_bias, x, self._qkv).view(self._split)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()  # n heads H d/heads
        mixed = F.scaled_dot_product_attention(query, key, value, scale=1.0)
        x = x.addmm_(mixed.transpose(1, 2).reshape(x.shape), self._mix)
        gain, offset = self._norm1
        x = F.layer_norm(x, self._dim, gain, offset, self._eps[0])
        weight, bias = self._widen
        x = x.addmm_(torch.addmm(bias, x, weight).relu_(), self._narrow)
        return F.layer_norm(x, self._dim, self._gain2, self._offset2, self._eps[1])


def _tensors(*arrays: Array) -> list[Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def _index(conv: Taps) -> Tensor | None:
    return None if conv.index is None else torch.from_numpy(conv.index.flatten())
