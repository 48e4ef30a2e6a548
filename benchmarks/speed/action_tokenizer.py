"""Speed of the action tokenizer: compiled against a straightforward module with the same weights, and against FAST.

python -m benchmarks.speed.action_tokenizer --out benchmarks/results/action_tokenizer_speed.json     # < 4 minutes

Published size (H 8, m 7, d 128, K 256), random weights, smooth synthetic chunks. The straightforward modules get their
chunks normalised already; lattok's take physical units and check them. Ratios are of the least CPU time of interleaved
rounds (medians in brackets); with two threads, of wall time. Needs the extra `onnx`, for FAST transformers and scipy.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Case, Timing, environment, gemm_rates, interleaved, ratios, write_results
from benchmarks.reference.p2t import StraightforwardP2T
from lattok import P2TActionVQ
from lattok.action_vq import ActionVQConfig
from lattok.action_vq.compiled import compile_tokenizer
from lattok.action_vq.folding import Folded, fold
from tests.action_vq.margins import ROUNDING, float64_codes

BATCHES = (1, 64, 1024)
THREADS = (1, 2)
# Least ratios over the straightforward module, CPU time at one thread, by batch. Encode with onnxruntime counts where
# torch's GEMM rate is at most half of onnxruntime's; elsewhere the figures of torch are asked of it.
WANTED = {
    "encode": {"onnxruntime, numpy": (8, 2.3, 2), "torch": (3, 1.15, 1)},
    "decode": {"lookup, torch": (5, 80, 350), "lookup, numpy": (100, 350, 450)},
    "decode against FAST": {"lookup, numpy": (30, 500, 900)},
}
P2T, FAST = "P2T straightforward", "FAST straightforward"


def tokenizer_of_published_size() -> P2TActionVQ:
    """Random weights, a codebook around latents of smooth chunks, and a normaliser that has something to do."""
    torch.manual_seed(0)
    model = P2TActionVQ(ActionVQConfig(action_dim=7)).eval()
    chunks = smooth_chunks(1024, seed=1)
    model.normalizer.fit(chunks.flatten(0, 1))
    latents = model.latent_actions(chunks).latents.flatten(0, 1)
    rows = latents[torch.randperm(len(latents))[: model.vocab_size]]
    model.quantizer.codebook_vectors[0].copy_(rows + 0.3 * latents.std() * torch.randn_like(rows))
    return model


def smooth_chunks(count: int, seed: int, horizon: int = 8, dims: int = 7) -> Tensor:
    """Chunks [count, H, m]: random walks of random speed, so that neighbours resemble each other."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(count, 1, dims, generator=generator)
    slope = 0.2 * torch.randn(count, 1, dims, generator=generator)
    noise = 0.03 * torch.randn(count, horizon, dims, generator=generator)
    return start + slope * torch.arange(horizon)[:, None] + noise


def floor_flops(folded: Folded) -> float:
    """Multiplications and additions per chunk that the folded encoder cannot do without."""
    horizon, dim = len(folded.order), len(folded.offset)
    products = len(folded.shift) * horizon * dim + horizon * folded.scores.weight.size
    for conv in folded.convs:
        if conv.index is not None:
            products += int((conv.index < horizon).sum()) * dim * dim
        else:
            products += horizon // conv.group * (3 * conv.group - 2) * dim * dim
    for block in folded.blocks:
        matrices = (block.query.weight, block.key, block.value.weight, block.mix, block.widen.weight, block.narrow)
        products += horizon * sum(matrix.size for matrix in matrices) + 2 * horizon * horizon * dim
    return 2.0 * products


def time_p2t(model: P2TActionVQ, batch: int, threads: int, rounds: int) -> dict[str, dict[str, Timing]]:
    """Encode and decode of the straightforward module and of both backends."""
    plain, tensor = StraightforwardP2T(model), smooth_chunks(batch, seed=2)
    normalised, array = model.normalizer(tensor), tensor.numpy()
    torch_one, onnx_one = compile_tokenizer(model, "torch"), compile_tokenizer(model, "onnxruntime", threads=threads)
    encode = {
        P2T: Case(plain.encode, normalised),
        "plain lattok": Case(model.encode, tensor),
        "torch": Case(torch_one.encode, tensor),
        "onnxruntime": Case(onnx_one.encode, tensor),
        "onnxruntime, numpy": Case(onnx_one.encode, array),
    }
    codes = plain.encode(normalised)
    decode = {
        P2T: Case(plain.decode, codes),
        "checked, torch": Case(torch_one.decode, codes),
        "lookup, torch": Case(torch_one.lookup, codes),
        "checked, numpy": Case(torch_one.decode, codes.numpy()),
        "lookup, numpy": Case(torch_one.lookup, codes.numpy()),
    }
    return {"encode": interleaved(encode, rounds), "decode": interleaved(decode, rounds)}


def time_fast(model: P2TActionVQ, batch: int, rounds: int, folder: Path) -> dict[str, dict[str, Timing]]:
    """FAST as published against lattok's FAST and the compiled P2T tokenizer, on the same chunks."""
    from benchmarks.reference.fast import ReferenceFAST, fit_published
    from lattok.action_vq.fast import FAST as LattokFAST

    if not folder.exists():
        fit_published(model.normalizer(smooth_chunks(4096, seed=1)).numpy(), folder)
    published = ReferenceFAST.load(folder, model.horizon, model.action_dim)
    ours = LattokFAST.from_published(folder, action_dim=model.action_dim, horizon=model.horizon)
    compiled = compile_tokenizer(model, "onnxruntime")
    tensor = smooth_chunks(batch, seed=2)
    normalised, array = model.normalizer(tensor), tensor.numpy()
    rows, codes = published.encode(normalised.numpy()), compiled.encode(array)
    encode = {
        FAST: Case(published.encode, normalised.numpy()),
        "lattok FAST": Case(ours.encode, normalised),
        "P2T, onnxruntime, numpy": Case(compiled.encode, array),
    }
    decode = {
        FAST: Case(published.decode, rows),
        "lattok FAST": Case(ours.decode, ours.encode(normalised)),
        "checked, numpy": Case(compiled.decode, codes),
        "lookup, numpy": Case(compiled.lookup, codes),
    }
    return {"encode against FAST": interleaved(encode, rounds), "decode against FAST": interleaved(decode, rounds)}


def compare_codes(model: P2TActionVQ, count: int) -> dict[str, dict[str, float]]:
    """Codes of every way to encode against the straightforward module's, with the float64 margin where they differ."""
    chunks = smooth_chunks(count, seed=3)
    exact, margins = float64_codes(model, chunks)
    base = StraightforwardP2T(model).encode(model.normalizer(chunks))
    ways = {P2T: base, "plain lattok": model.encode(chunks)}
    ways |= {backend: compile_tokenizer(model, backend).encode(chunks) for backend in ("torch", "onnxruntime")}
    return {name: _agreement(codes, base, exact, margins) for name, codes in ways.items()}


def _agreement(codes: Tensor, base: Tensor, exact: Tensor, margins: Tensor) -> dict[str, float]:
    other = codes != base
    return {
        "codes": codes.numel(),
        "differ": int(other.sum()),
        "differ_at_margin_over_1e-5": int((other & (margins >= ROUNDING)).sum()),
        "largest_margin": float(margins[other].max()) if other.any() else 0.0,
        "wrong_by_float64": int((codes != exact).sum()),
    }


def row(timings: dict[str, Timing], batch: int, clock: str, floor: float | None) -> dict[str, dict[str, float]]:
    """One table row per case: time per call, ratio to the first case, rate, and share of the GEMM floor."""
    base = next(iter(timings))
    out = {}
    for name, (ratio, ratio_median) in ratios(timings, base, clock).items():
        time = getattr(timings[name], clock)
        out[name] = {"us": time * 1e6, "ratio": ratio, "ratio_median": ratio_median, "chunks_per_s": batch / time}
        if floor is not None:
            out[name]["share_of_floor"] = floor * batch / time
    return out


def show(title: str, rows: dict[str, dict[str, float]], wanted: dict[str, float]) -> None:
    """Print one table and, where a least ratio is asked for, whether it is reached."""
    print(f"\n{title}")
    for name, figures in rows.items():
        share = f"  {figures['share_of_floor']:4.0%} of the floor" if "share_of_floor" in figures else ""
        goal = wanted.get(name)
        verdict = "" if goal is None else f"  wanted ×{goal:g}: {'reached' if figures['ratio'] >= goal else 'MISSED'}"
        ratio = f"×{figures['ratio']:.2f} (×{figures['ratio_median']:.2f})"
        print(f"  {name:24s} {figures['us']:10.2f} µs  {ratio:22s}{share}{verdict}", flush=True)


def goals(kind: str, batch: int, threads: int, rates: dict[str, float]) -> dict[str, float]:
    """The least ratios asked for in one table."""
    if threads != 1:
        return {}
    wanted = dict(WANTED.get(kind, {}))
    if kind == "encode" and rates["torch"] > rates["onnxruntime"] / 2:
        wanted["onnxruntime, numpy"] = wanted["torch"]
    return {name: values[BATCHES.index(batch)] for name, values in wanted.items()}


def run(rounds: int, checked: int, with_fast: bool) -> dict[str, Any]:
    """All measurements."""
    results: dict[str, Any] = {"environment": environment(), "rounds": rounds, "gemm_gflops": {}, "tables": {}}
    model = tokenizer_of_published_size()
    work = floor_flops(fold(model))
    results["floor_mflop_per_chunk"] = work / 1e6
    with tempfile.TemporaryDirectory() as scratch:
        for threads in THREADS:
            torch.set_num_threads(threads)
            rates = gemm_rates(threads)
            timed: dict[tuple[str, int], dict[str, Timing]] = {}
            for batch in BATCHES:
                tables = time_p2t(model, batch, threads, rounds if threads == 1 else min(rounds, 9))
                if with_fast and threads == 1:
                    tables |= time_fast(model, batch, rounds, Path(scratch) / "fast")
                timed |= {(kind, batch): timings for kind, timings in tables.items()}
                rates = {name: max(rate, rates[name]) for name, rate in gemm_rates(threads).items()}
            results["gemm_gflops"][str(threads)] = rates
            print(f"\n{threads} thread(s), GEMM GF/s: " + ", ".join(f"{n} {r:.0f}" for n, r in rates.items()))
            for (kind, batch), timings in timed.items():
                floor = work / max(rates.values()) / 1e9 if kind == "encode" else None
                rows = row(timings, batch, "cpu" if threads == 1 else "wall", floor)
                results["tables"][f"{kind}, batch {batch}, threads {threads}"] = rows
                show(f"{kind}, batch {batch}, {threads} thread(s)", rows, goals(kind, batch, threads, rates))
    torch.set_num_threads(1)
    results["codes"] = compare_codes(model, checked)
    print("\ncodes against the straightforward module")
    for name, figures in results["codes"].items():
        print(f"  {name:24s} {figures}")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and chunks: a look, not a figure to quote")
    parser.add_argument("--no-fast", action="store_true", help="leave FAST out")
    args = parser.parse_args()
    results = run(3 if args.quick else 15, 1024 if args.quick else 16384, not args.no_fast)
    if args.out is not None:
        write_results(args.out, results)


if __name__ == "__main__":
    main()
