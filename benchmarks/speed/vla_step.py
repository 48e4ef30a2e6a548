"""A policy's latent loss, hidden states, training step and latency, against a straightforward implementation.

python -m benchmarks.speed.vla_step --out benchmarks/results/vla_step.json     # about 12 minutes on a core, 8 GB

The backbone is a Qwen3-VL with random weights whose text layers are those of Qwen3-VL-2B, but few, with a small image
tower. Its weights are bfloat16, adapters and own modules float32. The straightforward way is that of
benchmarks/reference/vla.py on the same weights. `--quick` only shows that everything runs: its figures mean nothing.

Seconds are wall time, the least of interleaved rounds. Peak memory is what the allocator of torch holds at most beyond
what it held at the start (weights, AdamW's states): on a CPU by the profiler's record of every allocation and release,
on CUDA by its own counter; the call that is recorded is not one that is timed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss

from benchmarks.common import environment, finish, name_of, peak, write_results
from benchmarks.reference.vla import FIRST_CODE, IGNORED, StraightforwardVLA
from benchmarks.speed.vla_models import (
    BATCH,
    CODEBOOK,
    CODES,
    DEPTH,
    HORIZON,
    LENGTH,
    NARROW,
    WIDE,
    Setting,
    make_backbone,
    make_batch,
    make_observation,
    make_policy,
)
from benchmarks.speed.vla_states import OURS, PLAIN, hidden_states
from benchmarks.speed.vla_tables import BARS, PUBLISHED, markdown, notes
from lattok.training.runlog import peak_memory
from lattok.types import LatentTarget, PolicyBatch
from lattok.utils.devices import device_called
from lattok.vla import STRATEGIES, LatentVLA
from lattok.vla.observations import policy_batch, prompts
from lattok.vla.supervision import CodeCrossEntropy
from tests.backbones.tiny import tiny_backbone

QUICK = ("baseline", "la_align", "la_direct", "la_tok")
WHOLE, SPAN = "full vocabulary, whole sequence", "full vocabulary, placeholders only"
Cases = Mapping[str, Callable[[], Any]]
Figures = dict[str, dict[str, float]]


def measure(cases: Cases, rounds: int, device: torch.device) -> Figures:
    """Least seconds of interleaved rounds of each case, the first also warms up, and then its peak memory."""
    found = dict.fromkeys(cases, float("inf"))
    for number in range(rounds):
        for name, function in cases.items():
            repeats = 1 if number == 0 else max(1, round(0.05 / found[name]))
            begun = time.perf_counter()
            for _ in range(repeats):
                function()
            finish(device)
            found[name] = min(found[name], (time.perf_counter() - begun) / repeats)
    return {name: {"seconds": found[name], "peak_bytes": peak(case, device)} for name, case in cases.items()}


def latent_loss(setting: Setting) -> dict[str, Any]:
    """Cross-entropy over K codes against that over the vocabulary: from states [B, n, D] to their gradient."""
    torch.manual_seed(0)
    device, dim, rows = setting.device, setting.dims["hidden_size"], setting.dims["vocab_size"]
    count, first = HORIZON * CODES, min(FIRST_CODE, rows - CODEBOOK)
    vocabulary = (0.02 * torch.randn(rows, dim, device=device)).to(setting.dtype)  # frozen, as under LoRA
    whole = torch.randn(BATCH, LENGTH, dim, device=device).to(setting.dtype).requires_grad_()
    span = whole.detach()[:, -count:].clone().requires_grad_()
    codes = torch.randint(0, CODEBOOK, (BATCH, HORIZON, CODES), device=device)
    labels = torch.full((BATCH, LENGTH), IGNORED, device=device)
    labels[:, -count:] = codes.flatten(1) + first
    supervision = CodeCrossEntropy(dim, CODEBOOK, CODES, states_per_step=CODES).to(device)
    target = LatentTarget(codes, None, torch.ones(codes.shape[:2], dtype=torch.bool, device=device))

    def full(states: Tensor, wanted: Tensor) -> None:
        ForCausalLMLoss(F.linear(states, vocabulary), None, rows, shift_labels=wanted).backward()
        states.grad = None

    def ours() -> None:
        supervision(span, target)["latent"].backward()
        span.grad = None
        supervision.zero_grad(set_to_none=True)

    whole_span = partial(full, whole, labels), partial(full, span, labels[:, -count:].contiguous())
    found = measure({OURS: ours, WHOLE: whole_span[0], SPAN: whole_span[1]}, setting.rounds, device)
    return {"rows": found, "value": same_value(supervision, vocabulary, span, codes, first)}


def same_value(
    supervision: CodeCrossEntropy, vocabulary: Tensor, span: Tensor, codes: Tensor, first: int
) -> dict[str, float]:
    """lattok's loss, and float32 logits over all rows of which only those of the codes are kept; and with all rows."""
    with torch.no_grad():
        supervision.head.weight.copy_(vocabulary[first : first + CODEBOOK])
        supervision.head.bias.zero_()
    mine, theirs = (span.detach().float().requires_grad_() for _ in range(2))
    target = LatentTarget(codes, None, torch.ones(codes.shape[:2], dtype=torch.bool, device=codes.device))
    ours = supervision(mine, target)["latent"]
    logits = F.linear(theirs, vocabulary.float()).flatten(0, 1)
    restricted = F.cross_entropy(logits[:, first : first + CODEBOOK], codes.flatten())
    gradients = [torch.autograd.grad(loss, x)[0] for loss, x in ((ours, mine), (restricted, theirs))]
    return {
        OURS: ours.item(),
        "full logits, rows of the codes": restricted.item(),
        "difference": abs(ours.item() - restricted.item()),
        "relative difference of gradients": float((gradients[0] - gradients[1]).norm() / gradients[1].norm()),
        "full logits, all rows": F.cross_entropy(logits.detach(), codes.flatten() + first).item(),
    }


def training_step(model: nn.Module, policy: LatentVLA, optimizer: torch.optim.Optimizer, batch: PolicyBatch) -> None:
    """Forward, backward, AdamW."""
    terms, weights = model(batch), policy.config.loss_weights
    torch.stack([weight * terms[name] for name, weight in weights.items()]).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def steps_and_latency(folder: Path, setting: Setting) -> dict[str, Any]:
    """Training steps, and chunks for one observation: every strategy, the published ones also straightforwardly."""
    device = setting.device
    backbone = make_backbone(folder, setting.layers, setting.dims, setting.dtype, device)
    steps: dict[str, Callable[[], Any]] = {}
    chunks: dict[str, Callable[[], Any]] = {}
    policies, agreement, lengths, trained = [], {}, {}, {}
    for strategy in setting.strategies:
        policy = make_policy(strategy, backbone, device)
        weights = [weight for weight in policy.parameters() if weight.requires_grad]
        optimizer, batch = torch.optim.AdamW(weights, 1e-4), make_batch(policy, device)
        seen, plain = make_observation(policy, device), StraightforwardVLA(policy, _first(setting))
        lengths[strategy], trained[strategy] = LENGTH - HORIZON * CODES + plain.count, sum(w.numel() for w in weights)
        policies.append(policy)
        steps[strategy] = partial(training_step, policy, policy, optimizer, batch)
        chunks[strategy] = partial(policy.predict_chunk, seen)
        if strategy in PUBLISHED:
            agreement[strategy] = agreement_of(policy, plain, batch)
            steps[f"{PLAIN} {strategy}"] = partial(training_step, plain, policy, optimizer, batch)
            chunks[f"{PLAIN} {strategy}"] = partial(_predict, plain, seen)
    found = {"steps": measure(steps, setting.rounds, device)}
    for policy in policies:
        policy.eval()
    found["latency"] = measure(chunks, setting.rounds + 2, device)
    weights = sum(weight.nbytes for weight in backbone.parameters())
    return {
        **found,
        "agreement": agreement,
        "tokens": lengths,
        "trained_parameters": trained,
        "backbone_bytes": weights,
    }


def _first(setting: Setting) -> int:
    return min(FIRST_CODE, setting.dims["vocab_size"] - 256)


def _predict(plain: StraightforwardVLA, observation: Mapping[str, Any]) -> Tensor:
    return plain.predict(policy_batch(plain.policy.config, observation, learning=False))


@torch.no_grad()
def agreement_of(policy: LatentVLA, plain: StraightforwardVLA, batch: PolicyBatch) -> float:
    """Largest difference of the actions of both ways, over their deviation, from the same embedded placeholders."""
    backbone, kept = policy.backbone, policy.placeholders.clone()
    ids = backbone.prepare(batch.images, prompts(policy.config, batch.texts))["input_ids"]
    policy.placeholders.copy_(backbone.model.get_input_embeddings()(ids[0, -1].to(kept.device)))
    ours, theirs = policy.predict_chunk(batch), plain.predict(batch)
    policy.placeholders.copy_(kept)
    return float((ours - theirs).abs().max() / theirs.std())


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=2, help="text layers of the wide model")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the base model")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--strategies", nargs="+", choices=tuple(STRATEGIES), help="all unless said; with baseline")
    parser.add_argument("--quick", action="store_true", help="a narrow model, one round")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    setting = Setting(
        NARROW if asked.quick else WIDE,
        asked.layers,
        4 if asked.quick else DEPTH,
        1 if asked.quick else asked.rounds,
        getattr(torch, asked.dtype),
        device_called(asked.device),
        QUICK if asked.quick and not asked.strategies else tuple(asked.strategies or STRATEGIES),
    )
    with tempfile.TemporaryDirectory() as path:
        folder = tiny_backbone("qwen3_vl", path)
        results = {
            "environment": environment(),
            "setting": {
                "layers": setting.layers,
                "depth": setting.depth,
                "dtype": asked.dtype,
                "device": name_of(setting.device),
                "rounds": setting.rounds,
                "batch": BATCH,
                "length": LENGTH,
                "quick": asked.quick,
            },
            "bars": dict(BARS),
            "latent_loss": latent_loss(setting),
            "hidden_states": hidden_states(folder, setting),
            **steps_and_latency(folder, setting),
            "process_peak_bytes": peak_memory(torch.device("cpu")),
        }
    results["notes"] = notes(results)
    print(markdown(results))
    if asked.out:
        write_results(asked.out, results)
        asked.out.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    main()
