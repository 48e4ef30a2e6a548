"""Time and memory of opening, inspecting, planning and annotating against the size of a dataset.

python -m benchmarks.speed.scale                                     # 10^4, 10^5, 10^6 frames: about 10 minutes
python -m benchmarks.speed.scale --frames 10000 --out ''             # a minute, nothing written

Generated LeRobot datasets (see large_dataset.py) are kept in --scratch. Every case is a process of its own, so that its
peak of resident memory is its own; what the imports take is measured and given beside it. One thread. Cases: `open`,
`inspect`, `plan` (units of annotation), `actions` (annotation with a small action tokenizer) and `video` (with a tiny
latent action model of random weights, on up to 10^5 frames). Then lines through the sizes, and what they say of 10^8.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lattok
from benchmarks.common import environment, write_results
from benchmarks.speed.large_dataset import ACTION, generate
from lattok.annotation.units import plan_units
from lattok.data import LeRobotV3, inspect_dataset
from lattok.training.runlog import peak_memory

RESULTS = Path(__file__).parents[1] / "results" / "scale.json"
VIDEO_LIMIT = 100_000  # frames that are decoded; larger sizes are extrapolated
UNIT_FRAMES = 4096
FAR, WORKERS = 10**8, 64
CASES = ("open", "inspect", "plan", "actions", "video")


def peak_mb() -> float:
    """Highest resident memory of this process so far."""
    return (peak_memory(torch.device("cpu")) or 0.0) / 2**20


def action_tokenizer() -> Any:
    """A small tokenizer with random weights."""
    from lattok.action_vq import ActionVQConfig, P2TActionVQ

    torch.manual_seed(0)
    return P2TActionVQ(ActionVQConfig(action_dim=ACTION, horizon=8, dim=32, codebook_size=64)).eval()


def image_lam() -> Any:
    """A tiny latent action model with random weights."""
    from lattok.image_lam import ImageLAM, ImageLAMConfig

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "image_size": 32,
        "tokens": 2,
        "codebook_size": 8,
        "latent_dim": 8,
        "width": 32,
        "heads": 2,
    }
    sizes |= {"encoder_depth": 1, "decoder_depth": 1}
    return ImageLAM(ImageLAMConfig.of(cameras=("front",), stride="5", features="pixels", **sizes)).eval()


def measure(case: str, root: Path, scratch: Path) -> dict[str, float]:
    """One case in this process."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):  # one core: files of the output are not put together by several processes
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    model = {"actions": action_tokenizer, "video": image_lam}.get(case, lambda: None)()
    base = peak_mb()
    begun, begun_cpu = time.perf_counter(), time.process_time()
    dataset = lattok.open_dataset(root)
    figures: dict[str, float] = {"open_s": time.perf_counter() - begun}
    assert isinstance(dataset, LeRobotV3)
    if case != "open":
        begun, begun_cpu = time.perf_counter(), time.process_time()
    if case == "inspect":
        inspect_dataset(dataset)
    elif case == "plan":
        figures["units"] = len(plan_units(dataset, UNIT_FRAMES))
    elif model is not None:
        figures |= annotate(dataset, model, scratch)
    figures |= {"s": time.perf_counter() - begun, "cpu_s": time.process_time() - begun_cpu}
    return figures | {"imports_mb": base, "peak_mb": peak_mb()}


def annotate(dataset: LeRobotV3, model: Any, scratch: Path) -> dict[str, float]:
    """Annotate into a folder that is removed again; memory at 10 % and when all is labelled, and seconds until then."""
    out = scratch / f"annotated-{dataset.name}"
    shutil.rmtree(out, ignore_errors=True)
    figures: dict[str, float] = {}
    begun = time.perf_counter()

    def progress(done: int, total: int) -> None:
        if done >= 0.1 * total:
            figures.setdefault("peak_10_mb", peak_mb())
        figures["label_s"] = time.perf_counter() - begun
        figures["peak_labelled_mb"] = peak_mb()

    lattok.annotate(dataset, {"latent": model}, out, progress=progress)
    figures["assemble_s"] = time.perf_counter() - begun - figures["label_s"]
    shutil.rmtree(out)
    return figures


def in_process(case: str, root: Path, scratch: Path, rounds: int) -> dict[str, float]:
    """The quickest of some rounds of a case, each a new process; memory is the largest seen."""
    runs = []
    for _ in range(rounds):
        command = [sys.executable, "-m", "benchmarks.speed.scale", "--case", case, "--scratch", str(scratch)]
        done = subprocess.run([*command, "--dataset", str(root)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{case} on {root} failed:\n{done.stderr[-2000:]}")
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    best = min(runs, key=lambda run: run["s"])
    return best | {"peak_mb": max(run["peak_mb"] for run in runs)}


def line(sizes: list[int], seconds: list[float]) -> tuple[float, float]:
    """Seconds at no frames and per frame, weighted so that every size counts alike (relative errors)."""
    weights = 1 / np.maximum(np.array(seconds), 1e-3)
    if len(sizes) == 1:
        return 0.0, seconds[0] / sizes[0]
    matrix = np.stack([np.ones(len(sizes)), np.array(sizes, dtype=float)], axis=1)
    solution = np.linalg.lstsq(matrix * weights[:, None], np.array(seconds) * weights, rcond=None)[0]
    return float(max(solution[0], 0.0)), float(solution[1])


def fits(cases: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """A line for each step; annotation is labelling, which workers share, and putting together, which one does."""
    found = {}
    for case, by_size in cases.items():
        if not by_size:
            continue
        annotated = "label_s" in next(iter(by_size.values()))
        for part, key in (("label", "label_s"), ("assemble", "assemble_s")) if annotated else (("", "s"),):
            fixed, each = line([int(n) for n in by_size], [run[key] for run in by_size.values()])
            found[f"{case} {part}".strip()] = {"fixed_s": fixed, "per_frame_us": each * 1e6}
    return found


def table(results: dict[str, Any]) -> list[str]:
    """Time and memory by size, Markdown."""
    rows = ["| frames | case | time | CPU | peak memory | above imports | at 10 % / all labelled |", "|" + "---|" * 7]
    for case, by_size in results["cases"].items():
        for frames, run in by_size.items():
            split = f" ({run['label_s']:.1f} + {run['assemble_s']:.1f})" if "label_s" in run else ""
            labelled = f"{run['peak_10_mb']:.0f} / {run['peak_labelled_mb']:.0f} MB" if "label_s" in run else ""
            cells = [f"{int(frames):,}", case, f"{run['s']:.3g} s{split}", f"{run['cpu_s']:.3g} s"]
            cells += [f"{run['peak_mb']:.0f} MB", f"{run['peak_mb'] - run['imports_mb']:.0f} MB", labelled]
            rows.append(f"| {' | '.join(cells)} |")
    return rows


def arithmetic(results: dict[str, Any]) -> list[str]:
    """What the lines say about 10^8 frames on 64 workers, with every product written out."""
    lines, fitted = [], results["fits"]

    def product(name: str, what: str, share: int) -> float:
        each = fitted[name]["per_frame_us"]
        seconds = fitted[name]["fixed_s"] + each * 1e-6 * FAR / share
        over = f" / {share} workers" if share > 1 else ""
        lines.append(f"- {what}: {fitted[name]['fixed_s']:.2g} s + {each:.3g} µs × 10^8{over} = {span(seconds)}")
        return seconds

    opening = product("open", "opening, in every worker at the same time", 1)
    planning = product("plan", "planning, once, before the workers begin", 1)
    for model in ("actions", "video"):
        if f"{model} label" in fitted:
            labelling = product(f"{model} label", f"labelling with `{model}`", WORKERS)
            ending = product(f"{model} assemble", "putting the files together, by one core; others take other files", 1)
            total = opening + planning + labelling + ending
            alone = (opening + planning + ending) / total
            lines.append(f"- **{model}: {span(total)}** in all, {alone:.0%} of it in one process")
    return lines


def span(seconds: float) -> str:
    """Seconds as people say them."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} s"


NOTES = """
Inspection beyond 4 million frames looks at evenly spread runs of episodes, so it does not grow with the values any
more, only with the table of episodes. Workers read their own files: the line of labelling holds as long as disk or
network serve {rate:.0f} MB/s, which is all files of 10^8 such frames in the time of labelling with `actions`. Not in
these figures: Ray's start, a slower shared file system, and real video (the tiny model and 32 x 32 pixels cost
microseconds where a full model and 224 x 224 cost milliseconds). The one process also stores what workers send it; here
that is part of the labelling time, on 64 workers it comes on top.
"""


def markdown(results: dict[str, Any]) -> str:
    """The page."""
    facts = results["environment"]
    head = f"{facts['cpu']}, {facts['cores']} cores, one thread, torch {facts['torch']}, commit {facts['commit']}"
    fit_rows = ["| step | fixed | per frame |", "|---|---|---|"]
    fit_rows += [f"| {n} | {f['fixed_s']:.3g} s | {f['per_frame_us']:.3g} µs |" for n, f in results["fits"].items()]
    seconds = results["fits"].get("actions label", {"per_frame_us": 1.0})["per_frame_us"] * FAR / WORKERS * 1e-6
    notes = NOTES.format(rate=results["bytes_per_frame"] * FAR / 1e6 / seconds)
    text = ["# Size", "", head, "", *table(results), "", "Times of annotation in brackets: labelling + assembly.", ""]
    text += ["## Lines through the sizes", "", *fit_rows, "", "## 10^8 frames on 64 workers", "", *arithmetic(results)]
    return "\n".join([*text, notes])


def run(sizes: list[int], scratch: Path, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Generate what is not there and measure every case."""
    results: dict[str, Any] = {"environment": environment(), "cases": {case: {} for case in CASES}}
    for frames in sizes:
        root = generate(scratch / f"generated-{frames}", frames)
        results["bytes_per_frame"] = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / frames
        for case in CASES:
            if case == "video" and frames > VIDEO_LIMIT:
                continue
            once = case in ("actions", "video")
            figures = in_process(case, root, scratch, 1 if once else rounds)
            results["cases"][case][str(frames)] = figures
            say(f"{frames:>9,} {case:8} {figures['s']:8.2f} s  {figures['peak_mb']:6.0f} MB")
    results["fits"] = fits(results["cases"])
    return results


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--scratch", type=Path, default=Path("/tmp/lattok-scale"))
    parser.add_argument("--out", default=str(RESULTS), help="results file; the page is written beside it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--dataset", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    if args.case:
        print(json.dumps(measure(args.case, args.dataset, args.scratch)))
        return
    results = run(args.frames, args.scratch, args.rounds, lambda text: print(text, flush=True))
    page = markdown(results)
    print(page)
    if args.out:
        write_results(Path(args.out), results)
        Path(args.out).with_suffix(".md").write_text(page)


if __name__ == "__main__":
    main()
