"""Action tokenizers on the actions of real robots, at about 64 bits a chunk: are those first that lead in simulation?

python -m studies.real_tokenizers --data FOLDER --folder study --seeds 0    # again, it continues

FOLDER holds the datasets of studies/real_sets.py; outcomes are kept in studies/results/real_tokenizers.json. Tokenizers
are fitted to all episodes but every fifth one, which judges, as it does the small policies that act by their codes.
The plan is studies/pages/real_robots.md.
"""

import itertools
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

import lattok
from benchmarks.quality.tokenizers import Setting, Windows, build
from lattok.evaluation.evidence.tokenizer_evidence import Scale, encode_all
from lattok.evaluation.questions.learnability import Inputs, ReferencePolicy, chunk_errors
from lattok.samples import ActionWindows
from studies.real_policies import HORIZON, inputs
from studies.real_sets import Kept, Recording, arguments, opened, write_vectors

NAMES = ("g1", "bridge", "piper", "cloth")
SEEDS = (0, 1, 2)
BITS = 64
FIGURES = {"bits": ".0f", "reconstruction": ".4f", "error": ".3f", "mean_of_draws": ".3f"}


def settings(dims: int) -> list[Setting]:
    """Return the families, each with the sizes nearest to BITS that it allows for so many numbers of an action."""
    bases = max(1, min(4, BITS // (2 * dims)))  # of at least four bins
    bins = max(2, round(2 ** (BITS / bases / dims)))
    return [
        Setting("BEAST", "BEAST", {"bases": bases, "degree": min(3, bases - 1), "bins": bins}),
        Setting("P2T, step decoder", "P2TActionVQ", {}),
        Setting("residual VQ", "ResidualVQ", {}),
        Setting("FSQ", "FSQ", {}),
        Setting("FAST", "FAST", {"vocab_size": 256}),
        Setting("OAT", "OAT", {"levels": (8, 8, 4), "dim": 64, "decoder_depth": 2}),
        Setting("QueST", "QueST", {"levels": (8, 8, 4), "dim": 64, "downsample": 1}),
        Setting("VQ-BeT", "VQBeT", {"tokens": 8, "codebook_size": 256}),
        Setting("uniform bins", "UniformBins", {"bins": max(2, round(2 ** (BITS / HORIZON / dims)))}),
    ]


def fitted(setting: Setting, train: ActionWindows, folder: Path) -> Any:
    """Return the tokenizer of a row, fitted unless it is there; FAST with the scale that comes nearest to BITS."""
    if not folder.exists():
        windows = Windows(*train.all())
        options = [{}] if setting.family != "FAST" else [{"scale": scale} for scale in (0.25, 0.5, 1, 2, 3, 4, 6)]
        made = [build(setting._replace(options=setting.options | each), windows, 0) for each in options]
        best = min(made, key=lambda tokenizer: abs(bits_of(tokenizer, encode_all(tokenizer, train)) - BITS))
        best.save_pretrained(folder)
    return lattok.load(folder)


def bits_of(tokenizer: Any, codes: torch.Tensor) -> float:
    return float((codes >= 0).sum()) / len(codes) * float(np.log2(tokenizer.vocab_size))


def figures(tokenizer: Any | None, train: Inputs, judged: Inputs, scale: Scale, seed: int) -> dict[str, float]:
    """Let a policy of that seed learn and act, by the codes of a tokenizer or without one."""
    normalizer, dims = scale.normalizer, len(scale.low)
    known = torch.empty(0) if tokenizer is None else encode_all(tokenizer, train.windows)
    torch.manual_seed(seed)
    policy = ReferencePolicy(train.inputs.shape[1], dims, HORIZON, tokenizer, known.shape[-1])
    chunks, _ = policy.fit(train, known, normalizer, seed).act(judged, normalizer)
    found = {"error": float(chunk_errors(scale, chunks, judged).mean())}
    if tokenizer is None:
        return found
    meant = tokenizer.encode(*judged.windows.batch(judged.rows))
    found["bits"] = bits_of(tokenizer, meant)
    found["reconstruction"] = float(chunk_errors(scale, tokenizer.decode(meant), judged).mean())
    chunks, _ = policy.by_mean().act(judged, normalizer)
    return found | {"mean_of_draws": float(chunk_errors(scale, chunks, judged).mean())}


def outcome(recording: Recording, name: str, seed: int, folder: Path) -> dict[str, float]:
    """Return the figures of a row; `name` "regression" is the policy without codes."""
    may, judges = recording.holders()
    dataset = write_vectors(recording, folder / f"vectors.{recording.name}", {})
    train, judged = inputs(dataset, may, judges, "action")
    scale = Scale.fit(train.windows.actions, recording.names)
    if name == "regression":
        return figures(None, train, judged, scale, seed)
    setting = next(each for each in settings(len(recording.names)) if each.name == name)
    place = folder / f"{recording.name}.{''.join(c if c.isalnum() else '-' for c in name)}"
    return figures(fitted(setting, train.windows, place), train, judged, scale, seed)


def table(kept: Mapping[str, Any]) -> str:
    """Return means over the seeds of the policy, the least error by likeliest codes first."""
    lines = ["| set | tokenizer | bits | decoded | likeliest codes | mean of draws | seeds |", "|---" * 7 + "|"]
    for name in NAMES:
        rows = dict[str, list[Mapping[str, float]]]()
        for key, cell in kept.items():
            if key.startswith(f"{name}."):
                rows.setdefault(key.split(".")[1], []).append(cell)
        for row in sorted(rows, key=lambda row: mean(cell["error"] for cell in rows[row])):
            cells = [
                f"{mean(cell[figure] for cell in rows[row]):{digits}}" if figure in rows[row][0] else "–"
                for figure, digits in FIGURES.items()
            ]
            shown = f"*control:* {row}" if row == "regression" else row
            lines.append(f"| {name} | {shown} | {' | '.join(cells)} | {len(rows[row])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__, NAMES)
    parser.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=[*SEEDS], help="of the policy")
    given = parser.parse_args()
    torch.set_num_threads(1)
    kept = Kept("real_tokenizers")
    recordings, names = opened(given.data, given.sets), ["regression", *(each.name for each in settings(4))]
    for seed, name, recording in itertools.product(given.seeds, names, recordings):
        found = partial(outcome, recording, name, seed, given.folder)
        kept.add(f"{recording.name}.{name}.{seed}", found, table)
    print(table(kept.found))


if __name__ == "__main__":
    main()
