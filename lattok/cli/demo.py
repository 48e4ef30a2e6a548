"""`lattok demo`: the main job on the bundled robot demonstrations, each part as the other verbs do it.

Every part leaves its result in the folder; run again after an interruption, the demo continues where it was.
"""

import shlex
import time
from pathlib import Path
from typing import Any

import lattok
from lattok.cli.flags import Device, Folder
from lattok.cli.judging import act, judge
from lattok.utils import checks, files
from lattok.utils.devices import device_called
from lattok.utils.output import Output
from lattok.utils.progress import ProgressBar

MARK = "demo.json"
FAST_STEPS = 60
SEEN, BY = "sample/dataset", {"latent": "sample/lam", "inferred": "sample/idm"}  # at once, before anything is trained
SHOWN = ("metaworld/drawer-open", "metaworld/drawer-close")  # what the bundled policy is filmed at


def demo(
    out: Folder = "lattok-demo", features: str = "pixels", seed: int = 0, fast: bool = False, device: Device = "auto"
) -> None:
    """The whole path on the bundled robot demonstrations: train, judge, annotate. A few minutes on one core.

    Example: lattok demo --out my-demo

    Args:
        out: Folder for models, reports and the annotated dataset. Run again with the same folder to continue.
        features: Frozen image features: pixels, or timm:MODEL such as timm:vit_small_patch14_reg4_dinov2.lvd142m.
        seed: Seed of everything random.
        fast: A few steps only, to see that it runs; the figures then mean nothing.
    """
    import torch

    checks.whole(seed=seed)
    folder, begun = Path(out), time.monotonic()
    again = shlex.join(["lattok", "demo", "--out", out, "--features", features, "--seed", str(seed)])
    again += f" --device {device}" + " --fast" * fast
    common: dict[str, Any] = {"seed": seed, "device": device}
    short = {"steps": FAST_STEPS, "log_every": 20, "trial": True} if fast else {}
    if device_called(device).type == "cpu":
        torch.set_num_threads(1)
        print("One thread of torch on the CPU: a second one helps on idle cores, and harms on shared machines.")
    _mark(folder, {"features": features, "seed": seed, "fast": fast})
    _look(folder)
    _label(folder, features, common, short, again)
    _show(folder, device)
    print(f"This took {time.monotonic() - begun:.0f} s.")
    if fast:
        print("\nThis was a trial run: the figures above mean nothing. Without --fast it takes a few minutes.")
    _what_next(folder)


def _look(folder: Path) -> None:
    """Show what the bundled models read from the bundled video."""
    from lattok.evaluation.page.viewer import view

    page, labelled = folder / "first-look.html", folder / "first-look"
    if page.is_file():
        return
    _say("A first look: latent actions and actions that two small models read from the bundled video")
    _annotated(SEEN, BY, labelled, embedding=False)
    with ProgressBar("view") as progress:
        view(lattok.open_dataset(labelled), page, progress=progress.stage)
    print(f"Open it in a browser: {page}")


def _label(folder: Path, features: str, common: dict[str, Any], short: dict[str, Any], again: str) -> None:
    """Train a tokenizer and a latent action model on the bundled demonstrations, judge them, and label with them."""
    print("Two models learn codes for what a robot does: one from actions, one from video. Both label data.")
    dataset = lattok.sample_dataset_path()
    print(checks.printable(lattok.data.inspect_dataset(lattok.open_dataset(dataset)).headline()))

    _say("Action tokenizer: chunks of 8 actions to 8 codes of 256")
    recipe = lattok.ActionVQRecipe.from_preset(dataset, folder / "tokenizer", "quick", **common, **short)
    tokenizer = recipe.completed(again)
    _say("Image latent action model: what changes in 0.2 s, as 4 codes of 16")
    # the preset's 64 are for pixels, this is usual of timm
    short |= {} if features == "pixels" else {"image_size": 224}
    options = {"features": features, **common, **short}
    lam = lattok.ImageLAMRecipe.from_preset(dataset, folder / "lam", "tiny+robust", **options).completed(again)

    _say("Reports on held-out episodes, every figure with its controls")
    reports = [  # the controls that are trained cost as much as all of the demo
        judge(model, str(dataset), folder / f"{name}-report", folder / name, controls="quick", **common)
        for name, model in (("tokenizer", tokenizer), ("lam", lam))
    ]
    _say("The dataset with latent actions as columns")
    annotated = folder / "dataset"
    _annotated(dataset, {"latent": lam, "tokens": tokenizer}, annotated)
    _summary(reports, folder, annotated)


def _annotated(dataset: str | Path, models: dict[str, Any], out: Path, **options: Any) -> None:
    """Label a dataset, continue with it, or leave what is there."""
    if not out.exists() or Output(out).work.exists():  # or killed when all was done
        with ProgressBar("annotate") as progress:
            lattok.annotate(dataset, models, out, progress=progress, **options)


def _show(folder: Path, device: str) -> None:
    """Film the bundled policy where a simulator is installed, and can draw."""
    films = folder / "films"
    try:
        lattok.sim.find_tasks(SHOWN)
        _say("A robot in a simulator: a policy that comes with lattok does what it is told")
        print(act(lattok.load("sample/policy"), SHOWN, 1, films, device).to_text())
        print(f"Watch it: {films / 'sheet.png'} and the films next to it")
    except checks.LattokError as error:
        print(f"\nNo film of a robot: {checks.printable(str(error))}")


def _mark(out: Path, options: dict[str, Any]) -> None:
    """Mark the folder, which must be new or belong to a demo with the same options."""
    options, output = {"made_by": "lattok demo", **options}, Output(out)
    output.check_own({MARK: files.read_json}, options, "demo", f"with other options than {options}")
    if not (out / MARK).exists():
        output.check_new(lambda _: False)
        files.check_writable(out)
        files.write_json(out / MARK, options)


def _say(title: str) -> None:
    print(f"\n== {title}", flush=True)


def _summary(reports: list[Any], out: Path, annotated: Path) -> None:
    """Print answers, and the figures behind them in a table, each with its controls."""
    from lattok.evaluation import REPORT_HTML

    _say("What came out")
    for report in reports:
        print(checks.printable(report.summary_text()))
        print()
    print("Open these two for all verdicts, with pictures and what to do about each:")
    for name in ("tokenizer", "lam"):
        print(f"  {out / f'{name}-report' / REPORT_HTML}")
    print(f"Annotated dataset, opens in LeRobot, with columns latent.* and tokens.*:\n  {annotated}")


def _what_next(folder: Path) -> None:
    """Print a command that goes on with what was made, and the first one for a dataset of one's own."""
    learn = ["train", "vla", str(folder / "dataset"), "--out", str(folder / "policy"), "--backbone", "scratch"]
    print("\nType next, to train a policy that also learns from these latent actions (four minutes on a core):\n")
    print("  " + shlex.join(["lattok", *learn, "--strategy", "la_direct", "--prefix", "latent"]))
    print("\nOr look at your own DATASET; each command says what to type after it:\n")
    print("  lattok inspect DATASET")
