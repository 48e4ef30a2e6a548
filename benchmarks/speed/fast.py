"""Speed of FAST against its straightforward form, benchmarks/reference/fast.py, with the same vocabularies.

python -m benchmarks.speed.fast --out benchmarks/results/fast_speed.json     # about 2 minutes

Smooth synthetic chunks, one thread, ratios of the least CPU time of interleaved rounds (medians in brackets). The
reference takes normalised arrays and lists of ids. "core" (`_encode`, `_decode`) takes the same as tensors, "tokenizer"
is the whole interface: physical units, checks, repair. Needs transformers and scipy.

Vocabularies of 1024: one by `FAST.fit`, one trained as the published processor does, and one trained like that with the
min_token of the universal tokenizer, whose coefficients take two bytes each. Ids must be identical where the reference
computes in float64; in float32, which it is timed in, a few coefficients in a million round the other way.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Case, Timing, environment, gemm_rate, interleaved, ratios, write_results
from benchmarks.reference.fast import ReferenceFAST, fit_published
from lattok.action_vq.fast import FAST

BATCHES = (1, 64, 1024)
SHAPES = ((8, 7, 4096), (50, 14, 1024))  # H, m, chunks to train on
UNIVERSAL_MIN_TOKEN = -354
REFERENCE = "straightforward"


def smooth_chunks(count: int, horizon: int, dims: int, seed: int) -> Tensor:
    """Chunks [count, H, m]: sums of a few slow waves of random phase."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, horizon)[:, None]
    chunks = np.zeros((count, horizon, dims))
    for wave in range(4):
        size, phase = rng.normal(size=(count, 1, dims)), rng.uniform(size=(count, 1, dims))
        chunks += size / (wave + 1) * np.sin(2 * np.pi * (wave * time / 2 + phase))
    return torch.from_numpy(chunks).float()


def vocabularies(horizon: int, dims: int, train: int, folder: Path) -> dict[str, FAST]:
    """The same normaliser with three vocabularies."""
    chunks = smooth_chunks(train, horizon, dims, seed=0)
    fitted = FAST.fit(chunks)
    normalised = fitted.normalizer(chunks).numpy()
    tokenizers = {"lattok": fitted}
    for name, low in {"published": None, "universal": UNIVERSAL_MIN_TOKEN}.items():
        files = fit_published(normalised, folder / name, min_token=low)
        tokenizers[name] = FAST.from_published(files, action_dim=dims, horizon=horizon)
        tokenizers[name].normalizer.load_state_dict(fitted.normalizer.state_dict())
    return tokenizers


def compare_ids(tokenizer: FAST, reference: ReferenceFAST, actions: Tensor) -> dict[str, int]:
    """Chunks whose ids differ: none in float64 among those that the vocabulary can write."""
    clipped = tokenizer.subwords.clipped(tokenizer._coefficients(actions)).any(1).tolist()
    ours = [[code for code in row if code >= 0] for row in tokenizer._encode(actions).tolist()]
    counts = {"chunks": len(actions), "not_expressible": sum(clipped)}
    for name, array in {"float32": actions.numpy(), "float64": actions.double().numpy()}.items():
        pairs = zip(ours, reference.encode(array), clipped, strict=True)
        counts[f"differ_in_{name}"] = sum(a != b for a, b, cut in pairs if not cut)
    if counts["differ_in_float64"]:
        raise SystemExit(f"ids differ from the reference: {counts}")
    return counts


@torch.no_grad()
def time_one(tokenizer: FAST, reference: ReferenceFAST, batch: int, rounds: int) -> dict[str, dict[str, Timing]]:
    """Encode and decode of `batch` chunks by the reference, the core and the whole tokenizer."""
    chunks = smooth_chunks(batch, tokenizer.horizon, tokenizer.action_dim, seed=2)
    actions = tokenizer.normalizer(chunks)
    codes = tokenizer._encode(actions)
    rows = [[code for code in row if code >= 0] for row in codes.tolist()]
    encode = {
        REFERENCE: Case(reference.encode, actions.numpy()),
        "core": Case(tokenizer._encode, actions),
        "tokenizer": Case(tokenizer.encode, chunks),
    }
    decode = {
        REFERENCE: Case(reference.decode, rows),
        "core": Case(lambda codes: tokenizer._decode(tokenizer._repair(codes).found), codes),
        "tokenizer": Case(tokenizer.decode, codes),
    }
    return {"encode": interleaved(encode, rounds), "decode": interleaved(decode, rounds)}


def report(title: str, timings: dict[str, dict[str, Timing]], batch: int) -> list[dict[str, Any]]:
    """Print and return one row per operation and case."""
    out = []
    for operation, cases in timings.items():
        gains = ratios(cases, REFERENCE)
        texts = []
        for name, timing in cases.items():
            ratio, middle = gains[name]
            out.append(
                {
                    "case": title,
                    "operation": operation,
                    "by": name,
                    "batch": batch,
                    "us_per_chunk": timing.cpu / batch * 1e6,
                }
                | {"ratio": ratio, "ratio_of_medians": middle}
            )
            gain = "" if name == REFERENCE else f" = x{ratio:.2f} ({middle:.2f})"
            texts.append(f"{name} {timing.cpu / batch * 1e6:.2f} us{gain}")
        print(f"{title:28} batch {batch:4} {operation}: " + ", ".join(texts), flush=True)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "environment": environment(),
        "gemm_gflops": {"torch": gemm_rate()},
        "ids": {},
        "timings": [],
    }
    print(results["environment"], "float32 GEMM, GFLOP/s:", {k: round(v) for k, v in results["gemm_gflops"].items()})
    with tempfile.TemporaryDirectory() as scratch:
        for horizon, dims, train in SHAPES:
            tokenizers = vocabularies(horizon, dims, train, Path(scratch) / str(horizon))
            for name, tokenizer in tokenizers.items():
                title = f"H={horizon} m={dims} {name}"
                files = tokenizer.save_published(Path(scratch) / title)
                reference = ReferenceFAST.load(files, horizon, dims)
                actions = tokenizer.normalizer(smooth_chunks(1024, horizon, dims, seed=1))
                results["ids"][title] = compare_ids(tokenizer, reference, actions)
                mean = float((tokenizer._encode(actions) >= 0).sum(1).float().mean())
                results["ids"][title]["tokens_per_chunk"] = round(mean, 2)
                print(f"{title:28} {results['ids'][title]}", flush=True)
                for batch in BATCHES:
                    timings = time_one(tokenizer, reference, batch, arguments.rounds)
                    results["timings"] += report(title, timings, batch)
    if arguments.out:
        write_results(arguments.out, results)


if __name__ == "__main__":
    main()
