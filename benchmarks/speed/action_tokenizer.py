"""Speed of the action tokenizer against a straightforward module with the same weights, and against FAST.

python -m benchmarks.speed.action_tokenizer --out benchmarks/results/action_tokenizer_speed.json     # 4 minutes

Published size (H 8, m 7, d 128, K 256), random weights, smooth synthetic chunks, one thread. The straightforward module
gets its chunks normalised already; lattok's take physical units and check them. OAT, QueST, VQ-BeT and BEAST have
published sizes and straightforward modules of their own, FSQ has neither. Ratios are of the least CPU time of
interleaved rounds (medians in brackets). It needs scipy, and for FAST transformers.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.common import Case, Timing, environment, interleaved, ratios, write_results
from benchmarks.reference.beast import StraightforwardBEAST
from benchmarks.reference.oat import StraightforwardOAT
from benchmarks.reference.p2t import StraightforwardP2T
from benchmarks.reference.quest import StraightforwardQueST
from benchmarks.reference.vqbet import StraightforwardVQBeT
from lattok import FSQ, P2TActionVQ, convert
from lattok.action_vq import ActionVQConfig
from tests.action_vq.margins import ROUNDING, float64_codes

BATCHES = (1, 64, 1024)
# Least ratios over the straightforward module, CPU time, by batch.
KINDS = ("encode", "decode")
WANTED: dict[str, dict[str, tuple[float, ...]]] = {
    "encode": {"lattok": (0.85, 0.95, 0.95)},
    **{f"{kind}, beast": {"beast": (2, 2, 2)} for kind in KINDS},
}
MOST_OTHER = 0.001  # share of codes that may differ, on a border between two
REFERENCES: dict[str, Any] = {
    "oat": StraightforwardOAT,
    "quest": StraightforwardQueST,
    "vqbet": StraightforwardVQBeT,
    "beast": StraightforwardBEAST,
}
WIDE = {"emb_dim": 256, "head_dim": 64, "sample_dim": 7, "sample_horizon": 32, "latent_dim": 4, "pdropout": 0.1}
SETTINGS: dict[str, dict[str, Any]] = {  # of the published sizes, in the published words
    "oat": {
        "encoder": {**WIDE, "depth": 2, "num_registers": 8},
        "decoder": {**WIDE, "depth": 4, "latent_horizon": 8, "token_dropout_mode": "pow2", "use_causal_decoder": True},
        "quantizer": {"levels": [8, 5, 5, 5]},
    },
    "quest": {
        "action_dim": 7,
        "encoder_dim": 256,
        "skill_block_size": 32,
        "downsample_factor": 4,
        "attn_pdrop": 0.1,
        "encoder_heads": 4,
        "encoder_layers": 2,
        "decoder_heads": 4,
        "decoder_layers": 4,
        "use_causal_encoder": True,
        "use_causal_decoder": True,
        "fsq_level": None,
        "codebook_size": 1024,
    },
    "vqbet": {"input_dim_h": 5, "input_dim_w": 7, "n_latent_dims": 512, "vqvae_n_embed": 16, "vqvae_groups": 2},
    "beast": {"num_dof": 7, "num_basis": 10, "seq_len": 20, "gripper_zero_order": True},
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


def time_p2t(model: P2TActionVQ, batch: int, rounds: int) -> dict[str, dict[str, Timing]]:
    """Encode and decode of the straightforward module and of lattok."""
    plain, tensor = StraightforwardP2T(model), smooth_chunks(batch, seed=2)
    normalised = model.normalizer(tensor)
    encode = {P2T: Case(plain.encode, normalised), "lattok": Case(model.encode, tensor)}
    codes = plain.encode(normalised)
    decode = {P2T: Case(plain.decode, codes), "lattok": Case(model.decode, codes)}
    return {"encode": interleaved(encode, rounds), "decode": interleaved(decode, rounds)}


def time_fast(model: P2TActionVQ, batch: int, rounds: int, folder: Path) -> dict[str, dict[str, Timing]]:
    """FAST as published against lattok's FAST and P2T tokenizers, on the same chunks."""
    from benchmarks.reference.fast import ReferenceFAST, fit_published
    from lattok.action_vq.fast import FAST as LattokFAST

    if not folder.exists():
        fit_published(model.normalizer(smooth_chunks(4096, seed=1)).numpy(), folder)
    published = ReferenceFAST.load(folder, model.horizon, model.action_dim)
    ours = LattokFAST.from_published(folder, action_dim=model.action_dim, horizon=model.horizon)
    tensor = smooth_chunks(batch, seed=2)
    normalised = model.normalizer(tensor)
    encode = {
        FAST: Case(published.encode, normalised.numpy()),
        "lattok FAST": Case(ours.encode, normalised),
        "P2T, lattok": Case(model.encode, tensor),
    }
    decode = {
        FAST: Case(published.decode, published.encode(normalised.numpy())),
        "lattok FAST": Case(ours.decode, ours.encode(normalised)),
        "P2T, lattok": Case(model.decode, model.encode(tensor)),
    }
    return {"encode against FAST": interleaved(encode, rounds), "decode against FAST": interleaved(decode, rounds)}


def reference_pair(name: str, folder: Path) -> tuple[Any, Any]:
    """A straightforward module of published size with random weights, and lattok's tokenizer that reads its file."""
    torch.manual_seed(0)
    plain, path = REFERENCES[name](SETTINGS[name]), folder / f"{name}.safetensors"
    save_file({key: value.contiguous() for key, value in plain.state_dict().items()}, path)
    return plain, getattr(convert, name)(path, SETTINGS[name])


def time_families(batch: int, rounds: int, folder: Path) -> dict[str, dict[str, Timing]]:
    """Every other family that learns by gradients, and BEAST: a straightforward module where there is one, and lattok's
    tokenizer with the same weights."""
    found: dict[str, dict[str, Timing]] = {}
    for name in (*REFERENCES, "fsq"):
        torch.manual_seed(0)
        if name in REFERENCES:
            plain, model = reference_pair(name, folder)
        else:
            plain, model = None, FSQ(FSQ.config_class(action_dim=7)).eval()
            model.normalizer.fit(smooth_chunks(1024, seed=1).flatten(0, 1))
        chunks = smooth_chunks(batch, 2, model.horizon, model.action_dim)
        codes, ways = model.encode(chunks), {name: model}
        if plain is not None:
            if (other := float((plain.encode(chunks) != codes).float().mean())) > MOST_OTHER:
                raise SystemExit(f"{name}: {other:.2%} of codes differ from the straightforward module's")
            ways = {f"{name} straightforward": plain, **ways}
        found[f"encode, {name}"] = interleaved({way: Case(each.encode, chunks) for way, each in ways.items()}, rounds)
        found[f"decode, {name}"] = interleaved({way: Case(each.decode, codes) for way, each in ways.items()}, rounds)
    return found


def compare_codes(model: P2TActionVQ, count: int) -> dict[str, dict[str, float]]:
    """Codes of every way to encode against the straightforward module's, with the float64 margin where they differ."""
    chunks = smooth_chunks(count, seed=3)
    exact, margins = float64_codes(model, chunks)
    base = StraightforwardP2T(model).encode(model.normalizer(chunks))
    ways = {P2T: base, "lattok": model.encode(chunks)}
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


def row(timings: dict[str, Timing], batch: int) -> dict[str, dict[str, float]]:
    """One table row per case: time per call, ratio to the first case, and rate."""
    out = {}
    for name, (ratio, ratio_median) in ratios(timings, next(iter(timings))).items():
        time = timings[name].cpu
        out[name] = {"us": time * 1e6, "ratio": ratio, "ratio_median": ratio_median, "chunks_per_s": batch / time}
    return out


def show(title: str, rows: dict[str, dict[str, float]], wanted: dict[str, float]) -> None:
    """Print one table and, where a least ratio is asked for, whether it is reached."""
    print(f"\n{title}")
    for name, figures in rows.items():
        goal = wanted.get(name)
        verdict = "" if goal is None else f"  wanted ×{goal:g}: {'reached' if figures['ratio'] >= goal else 'MISSED'}"
        ratio = f"×{figures['ratio']:.2f} (×{figures['ratio_median']:.2f})"
        print(f"  {name:24s} {figures['us']:10.2f} µs  {ratio:22s}{verdict}", flush=True)


def run(rounds: int, checked: int, with_fast: bool) -> dict[str, Any]:
    """All measurements."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {"environment": environment(), "rounds": rounds, "tables": {}}
    model = tokenizer_of_published_size()
    with tempfile.TemporaryDirectory() as scratch:
        for batch in BATCHES:
            tables = time_p2t(model, batch, rounds)
            tables |= time_fast(model, batch, rounds, Path(scratch) / "fast") if with_fast else {}
            tables |= time_families(batch, rounds, Path(scratch))
            for kind, timings in tables.items():
                rows = results["tables"][f"{kind}, batch {batch}"] = row(timings, batch)
                wanted = {name: goals[BATCHES.index(batch)] for name, goals in WANTED.get(kind, {}).items()}
                show(f"{kind}, batch {batch}", rows, wanted)
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
