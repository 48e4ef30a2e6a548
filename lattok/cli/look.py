"""`lattok inspect`, `view`, `evaluate`, `compare` and `doctor`: what is there, how good it is, what is wrong."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import lattok
from lattok.cli import flags
from lattok.cli.flags import Arg, Dataset, Device, Episodes, Folder, MaybeFolder, Model, Models, Names, Revision
from lattok.cli.simulate import act
from lattok.utils import checks, files
from lattok.utils.progress import ProgressBar


def inspect(
    dataset: Dataset,
    action_key: str | None = None,
    state_key: str | None = None,
    cameras: Names = (),
    episodes: Episodes = None,
    stride: str | None = None,
    horizon: int | None = None,
) -> None:
    """Say what a dataset holds and what in it will hurt: constant dimensions, outliers, missing videos, wrong rates.

    Example: lattok inspect path/to/dataset

    Args:
        action_key: Column with the actions (default: action).
        state_key: Column with the robot state (default: observation.state).
        cameras: Cameras to look at, short names allowed (default: all).
        stride: Gap of a frame pair, frames ("16") or seconds ("0.2s"): how many frames would have no partner?
        horizon: Steps of an action chunk: how many chunks would run over the end of their episode?
    """
    from lattok.data import inspect_dataset

    options: dict[str, Any] = {"episodes": episodes, "cameras": cameras or None, "stride": stride, "horizon": horizon}
    options["columns"] = [key for key in (action_key, state_key) if key is not None]
    print(checks.printable(inspect_dataset(lattok.open_dataset(dataset), **options).render()))


def view(
    dataset: Dataset,
    out: flags.MaybeFile = None,
    labels: str | None = None,
    cameras: Names = (),
    episodes: Episodes = None,
) -> None:
    """Show episodes with their codes over time: in rerun where it is installed, otherwise on a page of one file.

    Example: lattok view path/to/annotated --out view.html

    Args:
        out: FILE.html, a page, or FILE.rrd, a recording for rerun (default: rerun itself, or view.html).
        labels: Folder of labels that belongs to the dataset.
        cameras: Cameras to show, short names allowed (default: the first two).
    """
    from lattok.evaluation.page.viewer import view
    from lattok.labels import with_labels

    opened = lattok.open_dataset(dataset)
    opened = opened if labels is None else with_labels(opened, labels)
    with ProgressBar("view") as progress:
        path = view(opened, out, episodes=episodes, cameras=cameras or None, progress=progress.stage)
    if path is not None:
        print(f"Page: {path}" if path.suffix == ".html" else f"Recording: {path}. Open it with: rerun {path}")


@dataclass(frozen=True)
class EvalFlags:
    """Which episodes judge, by what, and where chance begins.

    Attributes:
        seed: Seed of the controls.
        action_key: Column with the actions, or none; of a policy or an inverse dynamics model its own by default.
        state_key: Column with the robot state, used as a control, or none.
        cameras: Cameras to look at, short names allowed: each model takes as many as it has, in its order (default: its
            own).
        episodes: "train", "test" (the last episode of every task, more where tasks are few), "0:40", "0,3,5:9", "10%"
            or "5 per task".
    """

    seed: int = 0
    action_key: str = "action"
    state_key: str = "observation.state"
    cameras: Names = ()
    episodes: str = "test"

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of `lattok.evaluate` and `lattok.compare`."""
        keys = {"action_key": flags.column(self.action_key), "state_key": flags.column(self.state_key)}
        return {**vars(self), **keys, "cameras": self.cameras or None}


def evaluate(
    model: Model,
    dataset: Dataset,
    evaluation: EvalFlags,
    out: MaybeFolder = None,
    controls: Literal["quick", "trained"] = "quick",
    revision: Revision = None,
    env: Names = (),
    env_episodes: int = 10,
    device: Device = "auto",
) -> None:
    """Judge a tokenizer, latent action model, inverse dynamics model or policy on held-out episodes, with controls.

    Writes report.json and report.html.

    Example: lattok evaluate my-lam path/to/dataset --out my-report --controls trained

    Args:
        out: Folder for the report (default: report/ in the model's folder).
        controls: With trained, also train what needs training: the same encoder on labels alone, and a decoder without
            latents; or an inverse dynamics model that sees no later frames.
        env: Tasks in which a policy acts as well, such as metaworld-pairs; `lattok rollout` has more options.
        env_episodes: Episodes of each task.
    """
    checks.one_of("controls", controls, ("quick", "trained"))
    loaded = lattok.load(model, revision)
    folder = Path(model) if Path(model).is_dir() else None
    target = Path(out) if out else (folder or Path.cwd()) / "report"
    options = {**evaluation.keywords, "controls": controls}
    if env:
        from lattok.nn.normalize import for_dataset

        chosen = for_dataset(loaded, lattok.open_dataset(dataset).name)
        options["rollouts"] = act(chosen, env, env_episodes, target / "rollouts", device).to_json()
    report = judge(loaded, dataset, target, folder, device, **options)
    print(checks.printable(report.to_text()))
    print(f"Report: {target / 'report.html'}")


def compare(
    dataset: Dataset,
    models: Models,
    evaluation: EvalFlags,
    out: Folder = "comparison",
    stride: str | None = None,
    device: Device = "auto",
) -> None:
    """Judge latent action models, or action tokenizers, side by side on held-out episodes: report.json, report.html.

    Example: lattok compare path/to/dataset --models my-lam other-lam org/lam --out comparison

    Args:
        models: Folders or Hub ids of latent action models of video, or of action tokenizers; published ones after
            `lattok convert`.
        out: Folder for the report.
        stride: Gap of a frame pair for all of them: frames ("16") or seconds ("0.2s"); each has its own by default.
    """
    files.check_writable(Path(out))
    options = {**evaluation.keywords, "stride": stride, "device": device}
    with ProgressBar("compare") as progress:
        report = lattok.compare(dataset, models, out=out, progress=progress.stage, **options)
    print(checks.printable(f"{report.to_text()}\n\n{report.overview()}"))
    if report.speed:
        speeds = ", ".join(f"{name} {found['frames_per_second']:.3g}" for name, found in report.speed.items())
        print(checks.printable(f"Frames per second, in speed.json: {speeds}"))
    print(f"Report: {Path(out) / 'report.html'}")


def judge(model: Any, dataset: str, out: Path, folder: Path | None, device: str, **options: Any) -> Any:
    """Evaluate a loaded model with the options of `lattok.evaluate`, and update the model card in `folder`."""
    from lattok.evaluation.page import picture
    from lattok.hub import CARD
    from lattok.utils.devices import moved

    source = lattok.open_dataset(dataset)
    files.check_writable(out)
    moved(model, device)
    own = folder is not None and out.resolve().parent == folder.resolve()  # its last report, as its card
    with ProgressBar("evaluate") as progress:
        report = lattok.evaluate(model, source, out=out, progress=progress.stage, overwrite=own, **options)
    if folder is not None:
        model.evaluation, model.picture = files.finite(report.summary()), picture(report)
        try:
            if not model.save_card(folder):
                print(f"note: {folder / CARD} is not as lattok wrote it and stays as it is", file=sys.stderr)
        except OSError as error:  # a shared model on a read-only disk is still worth a report
            print(f"note: the model card in {folder} stays as it was ({error.strerror})", file=sys.stderr)
    return report


def doctor(
    subjects: Annotated[tuple[str, ...], Arg("MODEL|DATASET ...", positional=True)] = (),
    revision: str | None = None,
    preset: str | None = None,
) -> int:
    """Say what is wrong with this machine, with models and with datasets, and what to do about it. Changes nothing.

    Example: lattok doctor my-lam path/to/dataset

    Args:
        subjects: Folders or Hub ids of models and datasets; none for the environment only.
        revision: Revision of a Hub model or dataset.
        preset: Also say whether training fits here, before anything is downloaded: RECIPE/PRESET, such as vla/libero.
    """
    from lattok.cli.doctor import diagnose

    diagnosis = diagnose(subjects, revision, preset)
    print(checks.printable(diagnosis.render()))
    return 0 if diagnosis.healthy else 1
