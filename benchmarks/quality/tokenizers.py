"""Every family of action tokenizers beside two controls, on held-out episodes and on tasks nobody trained on.

python -m benchmarks.quality.tokenizers --out benchmarks/results/tokenizers               # about 15 CPU-minutes
    writes tokenizers.json, tokenizers.md, and the rate-distortion plot as tokenizers.png and tokenizers.svg

Trained on the bundled demonstrations (10 tasks, 80 Hz) but for the last episode of every task; chunks of 8 steps start
at every frame. Nobody trained on the tasks in benchmarks/data/new_tasks.json, nor on those in blind_tasks.json, which
were recorded after every setting had been fixed, so that nothing could be chosen by them. The actions lie beside the
lists, as scripts/make_metaworld_sample.py --tasks LIST recorded them.

Errors are in the units of the actions (-1..1), squared errors also divided by the training actions' variance.
Controls: k-means on single actions, and Lloyd-Max quantisers, one per dimension.
"""

# ruff: noqa: E402
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[2])  # run as a file, this one would hide the package `tokenizers`

import argparse
import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import lattok
from benchmarks.common import environment, spread, write_results
from lattok.action_vq.base import families
from lattok.evaluation.evidence.unlearned import ResidualKMeans
from lattok.nn.kmeans import kmeans
from lattok.samples import ActionWindows

HORIZON, FPS = 8, 80
ROOT = Path(__file__).parents[1]


class Windows(NamedTuple):
    """Overlapping chunks of several episodes, one after the other."""

    chunks: Tensor  # [N, H, m]
    valid: Tensor  # [N, H]


@dataclass
class Control:
    """A quantiser of single actions with the interface of a tokenizer: one code per step and book."""

    books: list[Tensor]  # each [K, dims of the group]
    groups: list[list[int]]
    vocab_size: int

    def encode(self, chunks: Tensor, valid: Tensor) -> Tensor:
        codes = [
            torch.cdist(chunks[..., g].double(), b.double()).argmin(-1)
            for b, g in zip(self.books, self.groups, strict=True)
        ]
        return torch.stack(codes, -1).flatten(1)

    def decode(self, codes: Tensor, return_info: bool = False, repair: bool = False) -> Any:
        steps = codes.view(len(codes), -1, len(self.books))
        chunks = torch.empty(*steps.shape[:2], sum(map(len, self.groups)))
        for i, (book, group) in enumerate(zip(self.books, self.groups, strict=True)):
            chunks[..., group] = book[steps[..., i]]
        return chunks


def kmeans_control(actions: Tensor, size: int, seed: int) -> Control:
    """`size` centres of single actions, in units of their deviation."""
    scale = actions.std(0)
    centres = ResidualKMeans.fit(actions / scale, size, seed=seed).books[0] * scale
    return Control([centres], [list(range(actions.shape[1]))], size)


def lloyd_max_control(actions: Tensor, levels: int, seed: int) -> Control:
    """`levels` centres for each dimension alone."""
    generator = torch.Generator().manual_seed(seed)
    books = [kmeans(actions[:, i : i + 1], levels, 50, generator) for i in range(actions.shape[1])]
    return Control(books, [[i] for i in range(len(books))], levels)


class Setting(NamedTuple):
    """One row of the table."""

    name: str
    family: str
    options: dict[str, Any]
    at_64_bits: bool = False


SETTINGS = [
    Setting("P2T, step decoder", "P2TActionVQ", {}, True),
    Setting("P2T, context decoder", "P2TActionVQ", {"decoder": "context"}, True),
    Setting("residual VQ, 8 tokens", "ResidualVQ", {}, True),
    *(Setting(f"residual VQ, {n} tokens", "ResidualVQ", {"tokens": n}) for n in (4, 12)),
    Setting("FSQ, 8 tokens", "FSQ", {}, True),
    *(Setting(f"FSQ, {n} tokens", "FSQ", {"tokens": n}) for n in (4, 12)),
    *(Setting(f"FAST, scale {s}", "FAST", {"scale": s, "vocab_size": 256}, s == 4) for s in (2, 3, 4, 6, 10, 16)),
    Setting("FAST, scale 10, vocabulary 1024", "FAST", {"scale": 10, "vocab_size": 1024}),
    Setting("TOAST, scale 4", "TOAST", {"scale": 4, "vocab_size": 256}, True),
    Setting("TOAST, scale 10, vocabulary 1024", "TOAST", {"scale": 10, "vocab_size": 1024}),
    Setting("BEAST, 4 coefficients, 16 bins", "BEAST", {"bases": 4, "degree": 3, "bins": 16}, True),
    Setting("BEAST, 5 coefficients, 256 bins", "BEAST", {}),
    Setting("OAT, width 64, 8 codes of 256", "OAT", {"levels": (8, 8, 4), "dim": 64, "decoder_depth": 2}, True),
    Setting("QueST, width 64, 8 codes of 256", "QueST", {"levels": (8, 8, 4), "dim": 64, "downsample": 1}, True),
    Setting("VQ-BeT, 2 codes of 16", "VQBeT", {}),
    Setting("VQ-BeT, 8 codes of 256", "VQBeT", {"tokens": 8, "codebook_size": 256}, True),
    *(Setting(f"uniform bins, {n}", "UniformBins", {"bins": n}, n == 4) for n in (4, 8, 16, 256)),
    *(Setting(f"control: k-means, {n}", "kmeans", {"size": n}, n == 256) for n in (16, 256, 1024)),
    *(Setting(f"control: Lloyd-Max, {n}", "lloyd_max", {"levels": n}, n == 4) for n in (2, 4, 8, 16)),
]


def settings() -> list[Setting]:
    """Rows of the table: those above, and one with its own defaults for every other family that there is."""
    named = {setting.family for setting in SETTINGS}
    others = [family.__name__ for family in families().values() if family.__name__ not in named]
    return SETTINGS + [Setting(f"{name}, as it comes", name, {}) for name in others]


def build(setting: Setting, train: Windows, seed: int) -> Any:
    """Fit a tokenizer or control to the training windows."""
    actions = train.chunks[:, 0]  # every frame starts a window
    if setting.family == "kmeans":
        return kmeans_control(actions, seed=seed, **setting.options)
    if setting.family == "lloyd_max":
        return lloyd_max_control(actions, seed=seed, **setting.options)
    family = next(family for family in families().values() if family.__name__ == setting.family)
    return family.fit(*train, **setting.options, seed=seed)


def windows_of(actions: Tensor, lengths: list[int]) -> Windows:
    """A window at every frame; beyond the end the last action repeats and is not valid."""
    last = torch.repeat_interleave(torch.tensor(lengths).cumsum(0) - 1, torch.tensor(lengths))[:, None]
    rows = torch.arange(len(actions))[:, None] + torch.arange(HORIZON)
    return Windows(actions[torch.minimum(rows, last)], rows <= last)


def load_splits() -> dict[str, Windows]:
    """Training, held-out episodes, and two sets of tasks nobody trained on."""
    dataset = lattok.open_dataset(lattok.sample_dataset_path())
    splits = {name: Windows(*ActionWindows(dataset, HORIZON, episodes=name).all()) for name in ("train", "test")}
    for name in ("new_tasks", "blind_tasks"):
        stored = np.load(ROOT / "data" / f"{name}.npz")
        splits[name] = windows_of(torch.from_numpy(stored["actions"]), stored["lengths"].tolist())
    return splits


def flip(codes: Tensor, share: float, size: int, seed: int) -> Tensor:
    """Codes where each is replaced by a random one with probability `share`; padding stays."""
    generator = torch.Generator().manual_seed(seed)
    hit = (torch.rand(codes.shape, generator=generator) < share) & (codes >= 0)
    return torch.where(hit, torch.randint(size, codes.shape, generator=generator), codes)


def jerk(chunks: Tensor, valid: Tensor) -> float:
    """Mean absolute third difference inside chunks."""
    return float(chunks.diff(n=3, dim=1).abs()[valid[:, 3:]].mean())


def consistency(decoded: Tensor, valid: Tensor, scale: Tensor) -> float:
    """RMS difference of what neighbouring windows say about the same steps, in deviations."""
    both = valid[:-1, 1:]  # not where an episode ends: its last window has one valid step
    gap = ((decoded[:-1, 1:] - decoded[1:, :-1]) / scale)[both]
    return float(gap.square().mean().sqrt())


@torch.no_grad()
def measure(tokenizer: Any, windows: Windows, train: Tensor, seed: int) -> dict[str, float]:
    """All figures of one tokenizer on one split; `train` [F, m] gives the units."""
    chunks, valid = windows
    scale = train.std(0, unbiased=False)
    codes = tokenizer.encode(chunks, valid)
    decoded = tokenizer.decode(codes).float()

    def mse(rows: Tensor) -> float:
        return float(((tokenizer.decode(rows, repair=True).float() - chunks) / scale)[valid].square().mean())

    gap = (decoded - chunks)[valid]
    low, high = np.quantile(train[:, -1].double().numpy(), [0.01, 0.99])
    closed = [(x[..., -1] > (low + high) / 2)[valid] for x in (chunks, decoded)]
    bits = float((codes >= 0).sum()) / len(codes) * math.log2(tokenizer.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(tokenizer.vocab_size, codes.shape, generator=generator)
    return {
        "tokens_per_chunk": float((codes >= 0).sum()) / len(codes),
        "bits_per_chunk": bits,
        "bits_per_second": bits * FPS / HORIZON,
        "mse_normalised": mse(codes),
        "mse": float(gap.square().mean()),
        "l1": float(gap.abs().mean()),
        "max": float(gap.abs().max()),
        "gripper_accuracy": float((closed[0] == closed[1]).float().mean()),
        "share_of_codes_used": len(codes[codes >= 0].unique()) / tokenizer.vocab_size,
        "jerk_ratio": jerk(decoded, valid) / jerk(chunks, valid),
        "consistency": consistency(decoded, valid, scale),
        "mse_after_flipping_1%": mse(flip(codes, 0.01, tokenizer.vocab_size, seed)),
        "mse_after_flipping_5%": mse(flip(codes, 0.05, tokenizer.vocab_size, seed)),
        "repaired_after_flipping_5%": repaired(tokenizer, flip(codes, 0.05, tokenizer.vocab_size, seed)),
        "repaired_of_random_codes": repaired(tokenizer, torch.where(codes >= 0, noise, codes)),
    }


def repaired(tokenizer: Any, codes: Tensor) -> float:
    """Share of rows that a strict decoder would have failed on."""
    if isinstance(tokenizer, Control):
        return 0.0
    return float(tokenizer.decode(codes, return_info=True)[1].repaired.float().mean())


def weights(tokenizer: Any) -> str:
    """What tells two fits of a family apart; nothing of a control."""
    return "" if isinstance(tokenizer, Control) else tokenizer.describe()["weights_sha256"]


def plot(results: dict[str, Any], out: Path) -> None:
    """Rate against distortion, on both splits."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    families: dict[str, list[str]] = {}
    for row in results["rows"]:
        label = row.split(",")[0].removeprefix("control: ") if not row.startswith("P2T") else row
        families.setdefault(label, []).append(row)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    titles = {"test": "held-out episodes", "new_tasks": "tasks not trained on"}
    for axis, (split, title) in zip(axes, titles.items(), strict=True):
        for number, (family, rows) in enumerate(families.items()):
            points = sorted(
                (
                    results["rows"][r][split]["bits_per_second"]["mean"],
                    results["rows"][r][split]["mse_normalised"]["mean"],
                )
                for r in rows
            )
            control = any(r.startswith("control") for r in rows)
            axis.plot(
                *zip(*points, strict=True),
                marker="os^DvPX*h"[number % 9],
                ls=":" if control else "-",
                label=family,
                color=f"C{number}",
            )
        axis.set(title=title, xlabel="bits per second", xscale="log", yscale="log")
        axis.axvline(64 * FPS / HORIZON, color="0.8", lw=1, zorder=0)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("mean squared error (normalised)")
    axes[1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))  # beside the points, not on them
    figure.tight_layout()
    figure.savefig(out.with_suffix(".png"), dpi=150)
    figure.savefig(out.with_suffix(".svg"), metadata={"Date": None})


def table(results: dict[str, Any]) -> str:
    """All rows in Markdown, held-out / new tasks."""
    columns = {
        "bits_per_second": ("bits/s", ".0f"),
        "tokens_per_chunk": ("tokens", ".1f"),
        "mse_normalised": ("MSE (normalised)", ".4f"),
        "l1": ("L1", ".3f"),
        "max": ("max", ".2f"),
        "gripper_accuracy": ("gripper", ".3f"),
        "share_of_codes_used": ("codes used", ".2f"),
        "jerk_ratio": ("jerk ratio", ".2f"),
        "consistency": ("overlap RMS", ".2f"),
        "mse_after_flipping_1%": ("MSE, 1 % flipped", ".3f"),
        "mse_after_flipping_5%": ("MSE, 5 % flipped", ".3f"),
        "repaired_of_random_codes": ("random rows repaired", ".2f"),
    }
    lines = [
        "| tokenizer | " + " | ".join(title for title, _ in columns.values()) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name, row in results["rows"].items():
        cells = []
        for key, (_, form) in columns.items():
            splits = ("test", "new_tasks", "blind_tasks")[: 3 if key == "mse_normalised" else 2]
            cells.append(" / ".join(format(row[split][key]["mean"], form) for split in splits))
        lines.append(f"| {'**' * row['at_64_bits']}{name}{'**' * row['at_64_bits']} | " + " | ".join(cells) + " |")
    head = (
        "Held-out episodes / tasks nobody trained on (MSE also: / tasks nobody tuned on); mean of seeds "
        f"{', '.join(map(str, results['seeds']))}. Bold: about 64 bits per chunk of 8 steps.\n"
        "Made by `python -m benchmarks.quality.tokenizers`, which says what the columns are.\n\n"
    )
    return head + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", help="update these families: names of classes, kmeans, lloyd_max")
    parser.add_argument("--out", type=Path, required=True, help="without ending")
    args = parser.parse_args()
    torch.set_num_threads(1)
    splits = load_splits()
    train = splits["train"].chunks[:, 0]
    results: dict[str, Any] = {"environment": environment(), "seeds": args.seeds, "rows": {}}
    stored = args.out.with_suffix(".json")
    if args.only and stored.exists():  # the other rows stay; each says which commit it is from
        results["rows"] = json.loads(stored.read_text())["rows"]
    for setting in settings():
        if args.only and setting.family not in args.only:
            continue
        runs: dict[str, list[dict[str, float]]] = {split: [] for split in splits if split != "train"}
        before = ""
        for seed in args.seeds:
            tokenizer = build(setting, splits["train"], seed)
            if before and before == weights(tokenizer):  # nothing in it is random
                break
            before = weights(tokenizer)
            for split, measured in runs.items():
                measured.append(measure(tokenizer, splits[split], train, seed))
        row = {split: spread(measured) for split, measured in runs.items()}
        facts = {"options": setting.options, "at_64_bits": setting.at_64_bits}
        results["rows"][setting.name] = {"commit": results["environment"]["commit"], **facts, **row}
        results["rows"] = {s.name: results["rows"][s.name] for s in settings() if s.name in results["rows"]}
        shown = {split: round(row[split]["mse_normalised"]["mean"], 4) for split in row}
        print(f"{setting.name}: {row['test']['bits_per_chunk']['mean']:.1f} bits, {shown}", flush=True)
        write_results(stored, results)
    args.out.with_suffix(".md").write_text(table(results))
    plot(results, args.out)


if __name__ == "__main__":
    main()
