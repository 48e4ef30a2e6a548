"""`lattok demo`: the main job on the bundled robot demonstrations, each part as the other verbs do it.

Every part leaves its result in the folder; run again after an interruption, the demo goes on where it was.
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import torch

from lattok import checks, files
from lattok.annotation import annotate
from lattok.data import inspect_dataset, open_dataset, sample_dataset_path
from lattok.data.staging import Staging
from lattok.evaluation import REPORT_HTML, Report
from lattok.hub import CONFIG
from lattok.loading import load
from lattok.recipes import ActionVQRecipe, ImageLAMRecipe, train
from lattok.recipes.progress import bar
from lattok.recipes.verbs import judge
from lattok.training import RECIPE, RUN

MARK = "demo.json"
FAST_STEPS = 60


def run_demo(out: Path, features: str, seed: int, fast: bool, device: str) -> None:
    """Inspect, train a tokenizer and a latent action model, judge both, annotate, and say what to type next."""
    options = {"features": features, "seed": seed, "fast": fast}
    _mark(out, options)
    dataset, begun = sample_dataset_path(), time.monotonic()
    print(inspect_dataset(open_dataset(dataset)).headline())
    again = shlex.join(["lattok", "demo", "--out", str(out), "--features", features, "--seed", str(seed)])
    again += f" --device {device}" + " --fast" * fast

    _say("Action tokenizer: chunks of 8 actions to 8 codes of 256")
    common: dict[str, Any] = {"seed": seed, "device": device}
    short = {"steps": FAST_STEPS, "log_every": 20, "trial": True} if fast else {}
    recipe = ActionVQRecipe.from_preset(dataset, out / "tokenizer", "quick", **common, **short)
    tokenizer = _train(recipe, again)
    _say("Image latent action model: what changes in 0.2 s, as 4 codes of 16")
    short = {**short, "continuous_steps": FAST_STEPS // 3} if fast else {}
    lam_recipe = ImageLAMRecipe.from_preset(
        dataset, out / "lam", "tiny+robust", features=features, **_image_size(features), **common, **short
    )
    lam = _train(lam_recipe, again)

    _say("Reports on held-out episodes, every figure with its controls")
    reading = {"device": device}
    reports = [
        judge(
            model,
            str(dataset),
            out / f"{name}-report",
            controls="quick",  # the others cost as much as all of the demo
            seed=seed,
            folder=out / name,
            reading=reading,
        )
        for name, model in (("tokenizer", tokenizer), ("lam", lam))
    ]
    _say("The dataset with latent actions as columns")
    annotated = out / "dataset"
    if not annotated.exists() or Staging(annotated, "").folder.exists():  # or killed when all was done
        with bar("annotate") as progress:
            annotate(open_dataset(dataset), {"latent": lam, "tokens": tokenizer}, annotated, progress=progress)
    _summary(reports, out, annotated, time.monotonic() - begun)
    _what_next(features, fast)


def _mark(out: Path, options: dict[str, Any]) -> None:
    """A demo folder is new, or belongs to a demo with the same options."""
    mark = out / MARK
    options = {"made_by": "lattok demo", **options}
    if mark.is_file():
        before = files.read_json(mark)
        if before != options:
            checks.fail("out", f"a folder of a demo with {options}", f"{out} with {before}", "Choose another `out`.")
    elif not files.is_free(out):
        checks.fail("out", "a new or empty folder, or one of this demo", f"{out}, which holds files")
    else:
        files.check_writable(out)
        files.write_json(mark, options)


def _train(recipe: Any, again: str) -> Any:
    """Train, or go on, or take what is there."""
    out = Path(recipe.out)
    if (out / CONFIG).is_file():
        return load(out)
    return train(recipe, (out / RUN / RECIPE).is_file(), resume_command=again)


def _image_size(features: str) -> dict[str, int]:
    """The tiny preset's 64 pixels are for pixel features; a timm network gets its usual 224."""
    return {} if features == "pixels" else {"image_size": 224}


def _say(title: str) -> None:
    print(f"\n== {title}", flush=True)


def _summary(reports: list[Report], out: Path, annotated: Path, seconds: float) -> None:
    """Print answers, and the figures behind them in a table, each with its controls."""
    _say("What came out")
    for report in reports:
        print(report.summary_text())
        print()
    print("Open these two for all verdicts, with pictures and what to do about each:")
    for name in ("tokenizer", "lam"):
        print(f"  {out / f'{name}-report' / REPORT_HTML}")
    print(f"Annotated dataset, opens in LeRobot, with columns latent.* and tokens.*:\n  {annotated}")
    print(f"This took {seconds:.0f} s.")


def _what_next(features: str, fast: bool) -> None:
    """Commands that run on this machine as they stand, but for the dataset."""
    if fast:
        print("\nThis was a trial run: the figures above mean nothing. Without --fast it takes a few minutes.")
    small = not torch.cuda.is_available()
    size = ["--preset", "tiny+robust", "--features", features] if small else []
    print("\nType next, with your own dataset in place of DATASET:\n")
    for words in (
        ["inspect", "DATASET"],
        ["train", "image-lam", "DATASET", "--out", "my-lam", *size],
        ["annotate", "DATASET", "--model", "my-lam", "--out", "my-annotated-dataset"],
        ["train", "vla", "my-annotated-dataset", "--out", "my-policy", "--backbone", "scratch"],
    ):
        print("  " + shlex.join(["lattok", *words]))
    if small:
        print("\nWith a GPU leave out --preset and --features: you get DINOv2 features and a larger model.")
