"""What verbs do with their flags: load, check what the model fixes, call, report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal, cast

from lattok import checks, files
from lattok.data import Exported, export, open_dataset
from lattok.data.schema import short_name
from lattok.devices import moved
from lattok.evaluation import Report, evaluate
from lattok.hub import CARD
from lattok.loading import load
from lattok.recipes.progress import bar


def evaluate_verb(
    model_name: str,
    dataset_name: str,
    out: str | None,
    controls: str,
    seed: int,
    revision: str | None,
    reading: dict[str, Any],
) -> Report:
    """Evaluate, write the report, and put its summary on the model card of a local model."""
    checks.one_of("controls", controls, ("quick", "trained"))
    model = load(model_name, revision)
    folder = Path(model_name) if Path(model_name).is_dir() else None
    target = Path(out) if out else (folder or Path.cwd()) / "report"
    report = judge(model, dataset_name, target, controls=controls, seed=seed, folder=folder, reading=reading)
    print(report.to_text())
    print(f"Report: {target / 'report.html'}")
    return report


def judge(
    model: Any,
    dataset_name: str,
    out: Path,
    *,
    controls: str,
    seed: int,
    folder: Path | None,
    reading: dict[str, Any],
) -> Report:
    """Evaluate a loaded model and update the model card in `folder`."""
    dataset = open_dataset(dataset_name)
    check_fixed(model, reading, dataset.fps)
    files.check_writable(out)
    moved(model, reading.get("device", "auto"))
    options = {k: v for k, v in reading.items() if k in ("action_key", "state_key", "episodes")}
    with bar("evaluate") as progress:
        report = evaluate(
            model,
            dataset,
            out=out,
            controls=cast(Literal["quick", "trained"], controls),
            seed=seed,
            progress=progress.stage,
            overwrite=folder is not None and out.resolve().parent == folder.resolve(),  # its last report, as its card
            **options,
        )
    if folder is not None:
        model.evaluation = files.finite(report.summary())
        try:
            if not model.save_card(folder):
                print(f"note: {folder / CARD} is not as lattok wrote it and stays as it is", file=sys.stderr)
        except OSError as error:  # a shared model on a read-only disk is still worth a report
            print(f"note: the model card in {folder} stays as it was ({error.strerror})", file=sys.stderr)
    return report


def export_verb(
    dataset_name: str,
    out: str,
    labels: str | None,
    episodes: str | None,
    images: str,
    video_codec: str,
    size: tuple[int, int] | None,
    skip_damaged: bool,
) -> Exported:
    """Write a dataset of any format as LeRobot v3; a line for every episode that had to be left out."""
    with bar("export") as progress:
        done = export(
            open_dataset(dataset_name),
            out,
            labels=labels,
            episodes=episodes,
            images=images,
            video_codec=video_codec,
            size=size,
            skip_damaged=skip_damaged,
            progress=progress,
        )
    for damage in done.left_out:
        print(f"left out: episode {damage.episode_index}: {damage.reason}", file=sys.stderr)
    print(f"Exported {len(done.episodes)} episodes, {done.frames} frames: {done.path}")
    return done


def check_fixed(model: Any, reading: dict[str, Any], fps: float) -> None:
    """Flags that contradict what the model was trained with are errors, not silent guesses."""
    stride = reading.get("stride")
    if stride is not None and model.label_source == "video":
        wanted, given = model.stride_frames(fps), checks.stride_in_frames(stride, fps)
        checks.size("stride", f"frames at {fps:g} fps, which the model was trained with", given, wanted)
    horizon = reading.get("horizon")
    if horizon is not None and horizon != getattr(model, "horizon", horizon):
        checks.fail("horizon", f"{model.horizon}, which the tokenizer was trained with", horizon)
    cameras = reading.get("cameras")
    if cameras is not None and model.label_source == "video":
        short = tuple(map(short_name, model.cameras))
        if tuple(map(short_name, cameras)) != short:
            checks.fail("cameras", f"{' '.join(short)}, which the model was trained with", " ".join(cameras))
