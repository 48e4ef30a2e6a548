"""`lattok evaluate`, `compare`, `rollout` and `doctor`: how good models are, what policies do, what is wrong."""

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import lattok
from lattok.cli import flags
from lattok.cli.datasets import variation_of
from lattok.cli.flags import (
    Arg,
    Dataset,
    Device,
    Folder,
    Format,
    MaybeDataset,
    MaybeFolder,
    Model,
    Models,
    Names,
    Revision,
    column,
)
from lattok.utils import checks, files
from lattok.utils.devices import moved
from lattok.utils.progress import ProgressBar

RESULTS = "CSV files with columns method, task and score, or folders of `lattok rollout`, also as NAME=FOLDER."


@dataclass(frozen=True)
class EvalFlags:
    """Which episodes judge, by what, and where chance begins.

    Attributes:
        seed: Seed of the controls.
        action_key: Column with the actions, or none (default for a policy or an inverse dynamics model: its own
            column).
        state_key: Column with the robot state, used as a control, or none.
        cameras: Cameras to look at, short names allowed: each model takes as many as it has, in order (default: own).
        any_rate: Also evaluate if the frame rate differs from the model's training data; the report says so.
        max_episodes: Most episodes that controls learn from, evenly spaced; at most half as many judge. Fewer are
            faster, and intervals wider.
    """

    seed: int = 0
    action_key: str = "action"
    state_key: str = "observation.state"
    cameras: Names = ()
    any_rate: bool = False
    max_episodes: int = 200
    episodes: Annotated[str, Arg(said=flags.CHOSEN)] = "test"

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords of `lattok.evaluate` and `lattok.compare`."""
        keys = {"action_key": column(self.action_key), "state_key": column(self.state_key)}
        return {**vars(self), **keys, "cameras": self.cameras or None}


def evaluate(
    model: Annotated[str, Arg("MODEL", "Folder of a model, or a Hub id; none with --labels.", positional=True)],
    dataset: MaybeDataset = None,
    evaluation: EvalFlags = EvalFlags(),
    out: MaybeFolder = None,
    labels: str | None = None,
    stride: str | None = None,
    controls: Literal["quick", "trained"] = "quick",
    revision: Revision = None,
    env: Names = (),
    env_episodes: int = 10,
    device: Device = "auto",
    format: Format = None,
) -> None:
    """Evaluate a tokenizer, latent action model, inverse dynamics model or policy on held-out episodes, with controls.

    Also labels that are there already: lattok evaluate DATASET --labels COLUMN_OR_FOLDER.

    Writes report.json and report.html.

    Example: lattok evaluate my-lam path/to/dataset --out my-report --controls trained

    Args:
        labels: What to evaluate in place of a model: a column (codes, vectors or actions), a prefix of columns, a
            folder that annotate wrote, or one of episode_000012.npy.
        stride: Gap of a frame pair, over which actions are averaged: frames ("16") or seconds ("0.2s"); default: the
            model's own, or what is known of labels, else 1.
        out: Folder for the report (default: report/ in the model's folder, or here if the model is not a folder).
        controls: With trained, also train what needs training: the same encoder on labels alone, and a decoder without
            latents; or an inverse dynamics model that sees no later frames, and two of fewer known episodes.
        env: Tasks in which a policy acts as well, such as metaworld-pairs; `lattok rollout` has more options.
        env_episodes: Episodes of each task.
    """
    from lattok.data.opening import in_format
    from lattok.evaluation.evidence import facts_of
    from lattok.evaluation.page import REPORT_HTML, check_folder, check_place
    from lattok.hub import CONFIG
    from lattok.hub.client import find_local

    if labels is not None and dataset is None:
        if env:
            checks.fail("env", "no tasks for labels, which do not act", " ".join(env))
        options = {**evaluation.keywords, "stride": stride, "controls": controls}
        _evaluate_labels(in_format(model, format), labels, out, options)
        return
    if dataset is None:
        flags.refuse("lattok evaluate", f" needs DATASET {flags.WHERE.rstrip('.')}, after MODEL.")
    if labels is not None:
        words = shlex.join(["lattok", "compare", dataset, "--models", model, "--labels", labels])
        flags.refuse("lattok evaluate", f" takes no model beside labels. Both: {words}.")
    given, second = find_local(model), find_local(dataset)
    if given and second and (second / CONFIG).is_file() and not (given / CONFIG).is_file():
        words = shlex.join(["lattok", "evaluate", dataset, model])
        flags.refuse("lattok evaluate", f" takes the model before the dataset: {words}.")
    dataset = in_format(dataset, format)
    loaded = lattok.load(model, revision)
    folder = Path(model) if Path(model).is_dir() else None
    target = Path(out) if out else (folder or Path.cwd()) / "report"
    check_folder(target)
    replaces = (target / REPORT_HTML).exists()
    options = {**evaluation.keywords, "controls": controls, "stride": stride}
    if env:
        from lattok.nn.normalize import for_dataset

        source = lattok.open_dataset(dataset)
        chosen = for_dataset(loaded, source.name)
        about = {"model": chosen.describe(), "dataset": facts_of(source)}
        check_place(target, about, overwrite=_own(target, folder))  # before anything is played
        options["rollouts"] = _with_films(act(chosen, env, env_episodes, target / "rollouts", device))
    report = judge(loaded, dataset, target, folder, device, **options)
    if out:  # reports do not say where they lie
        report = replace(report, steps=tuple(step.with_words("evaluate", "--out", out) for step in report.steps))
    print(checks.printable(report.to_text()))
    print(f"Report{', in place of the last one' * replaces}: {target / REPORT_HTML}")


def _evaluate_labels(dataset: str, labels: str, out: str | None, options: dict[str, Any]) -> None:
    from lattok.evaluation.page import REPORT_HTML, check_folder

    target = Path(out) if out else Path.cwd() / "report"
    check_folder(target)
    with ProgressBar("evaluate") as progress:
        report = lattok.evaluate(dataset, labels=labels, out=target, progress=progress.stage, **options)
    if out:
        report = replace(report, steps=tuple(step.with_words("evaluate", "--out", out) for step in report.steps))
    print(checks.printable(report.to_text()))
    print(f"Report: {target / REPORT_HTML}")


def compare(
    dataset: Dataset,
    evaluation: EvalFlags,
    models: Models = (),
    labels: Names = (),
    out: Folder = "comparison",
    stride: str | None = None,
    device: Device = "auto",
    format: Format = None,
) -> None:
    """Compare latent action models and labels, action tokenizers, or inverse models, on held-out episodes.

    Writes report.json and report.html.

    Example: lattok compare path/to/dataset --models my-lam other-lam org/lam --out comparison

    Args:
        models: Folders or Hub ids of latent action models of video, of action tokenizers, or of inverse models;
            published ones after `lattok convert`.
        labels: Labels that are there already, beside latent action models: columns, prefixes or folders, as
            `lattok evaluate --labels` takes them.
        out: Folder for the report.
        stride: Gap of a frame pair for all of them: frames ("16") or seconds ("0.2s"); each has its own by default.
    """
    from lattok.data.opening import in_format

    files.check_writable(Path(out))
    options = {**evaluation.keywords, "stride": stride, "device": device, "labels": labels}
    with ProgressBar("compare") as progress:
        report = lattok.compare(in_format(dataset, format), models, out=out, progress=progress.stage, **options)
    print(checks.printable(f"{report.to_text()}\n\n{report.overview()}"))
    if report.speed:
        speeds = ", ".join(f"{name} {found['frames_per_second']:.3g}" for name, found in report.speed.items())
        print(checks.printable(f"Frames per second, in speed.json: {speeds}"))
    print(f"Report: {Path(out) / 'report.html'}")


def few_actions(
    dataset: Dataset,
    out: Folder = "few-actions",
    keep: Annotated[str, Arg(said=flags.CHOSEN)] = "2 per task",
    from_: Annotated[tuple[str, ...], Arg("ROUTE ...")] = (),
    seeds: int = 3,
    steps: int | None = None,
    idm_steps: int | None = None,
    action_key: str = "action",
    cameras: Names = (),
    device: Device = "auto",
    format: Format = None,
) -> None:
    """Hide most actions of a dataset, infer them, and compare policies: is it worth it on this data?

    Small policies with the same seeds learn from known, inferred and all actions; one table of their errors on
    held-out episodes. Run it again to continue after an interruption.

    Example: lattok try few-actions path/to/dataset --keep "2 per task"

    Args:
        out: Folder for all that is made: few_actions.md has the table.
        keep: Episodes whose actions stay known.
        from_: What actions are inferred from: video, proprio or both (default: video, and proprio if there is a state).
        seeds: Trainings of each policy.
        steps: Steps of a policy (default: 500).
        idm_steps: Steps of the inverse dynamics model.
        action_key: Column with the actions.
        cameras: Cameras to look at, short names allowed (default: all).
    """
    from lattok.recipes.few_actions import TABLE, try_few_actions

    source = lattok.open_dataset(dataset, format=format)
    both: dict[str, Any] = {"device": device} | ({"cameras": list(cameras)} if cameras else {})
    idm, policy = ({**both, **({} if each is None else {"steps": each})} for each in (idm_steps, steps))
    options: dict[str, Any] = {"idm": idm, "policy": policy, "resume_command": "the same command"}
    found = try_few_actions(source, out, keep, routes=from_, seeds=seeds, action_key=action_key, **options)
    print(f"\n{found.table}\n\n{found.answer}\nTable: {Path(out) / TABLE}")


def compare_rollouts(
    results: Annotated[tuple[str, ...], Arg("FILE ...", RESULTS, positional=True)],
    baseline: str | None = None,
    by: str | None = None,
    paired: bool = False,
    difference: float = 0.1,
    columns: Annotated[tuple[str, ...], Arg("KIND=NAME ...")] = (),
    out: MaybeFolder = None,
) -> None:
    """Compare methods by rollouts of a real or simulated robot: differences with intervals, and whether to run more.

    Example: lattok compare-rollouts results.csv --baseline Baseline --by scene

    Args:
        baseline: Method that the others are compared with (default: each with every other).
        by: Column of what is compared apart, such as seen and new scenes.
        paired: Episode N of a task begins alike for all methods, as it does in folders of `lattok rollout`.
        difference: True difference of scores for which further rollouts are counted.
        columns: What columns are called, where not method, task, score, episode, seed (of the training).
        out: Folder for report.json and report.html.
    """
    from lattok.evaluation.comparison_of_rollouts import compare_rollouts as compared
    from lattok.evaluation.comparison_of_rollouts import to_text

    named = dict[str, str]()
    for word in columns:
        kind, mark, name = word.partition("=")
        if not mark:
            checks.fail("columns", "KIND=NAME, such as score=success", word)
        named[kind] = name
    options: dict[str, Any] = {"baseline": baseline, "by": by, "paired": paired, "difference": difference}
    report = compared(results, columns=named, out=out, **options)
    print(checks.printable(to_text(report)))
    if out is not None:
        print(f"Report: {Path(out) / 'report.html'}")


def judge(model: Any, dataset: str, out: Path, folder: Path | None, device: str, **options: Any) -> Any:
    """Evaluate a loaded model with the options of `lattok.evaluate`, and update the model card in `folder`."""
    from lattok.evaluation.page import picture
    from lattok.hub import CARD

    source = lattok.open_dataset(dataset)
    files.check_writable(out)
    moved(model, device)
    with ProgressBar("evaluate") as progress:
        options |= {"out": out, "progress": progress.stage, "overwrite": _own(out, folder), "tasks": tasks_of(model)}
        report = lattok.evaluate(model, source, **options)
    if folder is not None:
        model.evaluation, model.picture = files.finite(report.summary()), picture(report)
        try:
            if not model.save_card(folder):
                print(f"note: {folder / CARD} is not as lattok wrote it and stays as it is", file=sys.stderr)
        except OSError as error:  # a shared model on a read-only disk is still worth a report
            print(f"note: the model card in {folder} stays as it was ({error.strerror})", file=sys.stderr)
    return report


def _own(out: Path, folder: Path | None) -> bool:
    """Return whether a report lies in its model's folder, where it replaces the last one, as the card does."""
    return folder is not None and out.resolve().parent == folder.resolve()


def rollout(
    model: Model,
    env: Annotated[tuple[str, ...], Arg("TASK ...")] = (),
    episodes: int = 10,
    out: MaybeFolder = None,
    seed: int = 1_000_000,
    execute: int | None = None,
    repeat: int | None = None,
    ensemble: float | None = None,
    instruction: Literal["own", "swapped", "blank"] = "own",
    variation: Names = (),
    batch: int = 8,
    workers: int = 0,
    videos: int = 1,
    revision: Revision = None,
    device: Device = "auto",
) -> None:
    """Let a policy act in a simulator: success per task with intervals, and a page with films.

    Example: lattok rollout my-policy --env metaworld-pairs --episodes 10

    Args:
        env: Tasks such as metaworld/reach, or whole worlds such as metaworld-pairs (default: those with instructions
            and the frame rate that the policy was trained on).
        episodes: Episodes of each task.
        out: Folder for results and videos (default: rollouts/ in the model's folder, or here if the model is
            not a folder).
        seed: Seed of the first start state; the next follow. Demonstrations are collected from 0 on.
        execute: Actions of a chunk that are carried out before the next is planned (default: the policy's own, or all).
        repeat: Steps of the simulator that an action is held (default: the world's own).
        ensemble: Plan at every decision, and carry out the mean of all plans; the i-th oldest weighs exp(-X i) (ACT).
        instruction: The task's own instruction (own), the other task's in the scene (swapped), or an empty one (blank).
        variation: What changes in the scene with each episode: background, light, camera, distractors=N, layout.
        batch: Environments that run side by side; the policy plans for all at once.
        workers: Processes for the environments; 0: only this one.
        videos: Episodes of each task that are filmed.
    """
    from lattok.evaluation.rollouts_page import write_page
    from lattok.sim.agents import open_agent

    agent = open_agent(model, revision, device)
    folder = Path(model) if Path(model).is_dir() else Path.cwd()
    options = {"seed": seed, "execute": execute, "repeat": repeat, "ensemble": ensemble, "instruction": instruction}
    options |= {"batch": batch, "workers": workers, "videos": videos, "variation": variation_of(variation)}
    target = Path(out) if out else folder / "rollouts"
    env = env or _known_tasks(agent)
    with ProgressBar("rollout") as progress:
        found = lattok.sim.rollout(agent, env, episodes, **options, out=target, progress=progress)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    print(found.to_text())
    print(f"Results: {target / 'rollouts.json'}")
    if videos:
        print(f"Watch it: {write_page(_with_films(found), target, model)}")


def _known_tasks(agent: Any) -> tuple[str, ...]:
    from lattok.sim.agents import ON_ROBOT
    from lattok.sim.worlds import tasks_by_instructions

    found = tuple(tasks_by_instructions(agent.instructions, agent.fps))
    if not found:
        hint = "Name tasks, such as env=metaworld/reach, if it knows their cameras."
        hint += f" {ON_ROBOT}"
        checks.fail("env", "tasks, or a policy that knows the instruction of one", "neither", hint)
    print(f"Tasks with instructions that the policy knows: {', '.join(found)}")
    return found


def tasks_of(model: Any) -> list[str]:
    """Return the tasks of simulators in which a policy can act, found by its instructions; none of any other model."""
    from lattok.sim.worlds import tasks_by_instructions
    from lattok.vla import LatentVLA

    if not isinstance(model, LatentVLA) or "{task}" not in model.config.prompt:
        return []
    found = tasks_by_instructions(model.config.instructions, model.config.fps)
    return found if found and _can_act(model, found[0]) else []


def _can_act(policy: Any, task: str) -> bool:
    """Whether a task has the policy's cameras, state and actions; nothing is rendered."""
    from lattok.sim import make
    from lattok.sim.agents import PolicyAgent

    env = make(task)
    try:
        env.start(seed=0)
        PolicyAgent(policy).check(env.facts)
    except checks.LattokError:
        return False
    finally:
        env.close()
    return True


def act(policy: Any, tasks: str | tuple[str, ...], episodes: int, out: Path, device: str) -> Any:
    """Let a loaded policy act as `lattok rollout` does by itself; return the `Rollouts`."""
    with ProgressBar("rollout") as progress:
        return lattok.sim.rollout(moved(policy, device), tasks, episodes, videos=1, out=out, progress=progress)


def _with_films(found: Any) -> dict[str, Any]:
    return {**found.to_json(), "films": found.films, "fps": found.fps}


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
