"""`lattok collect` and `lattok rollout`: demonstrations out of simulators, policies in them."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from lattok.cli.flags import Arg, Device, Folder, MaybeFolder, Model, Names, Revision
from lattok.utils import checks
from lattok.utils.progress import ProgressBar

Tasks = Annotated[tuple[str, ...], Arg("TASK ...")]
KNOWN = "All tasks of a world (metaworld, metaworld-pairs, ogbench) or some of it (metaworld/reach)."


def collect(
    tasks: Annotated[tuple[str, ...], Arg("TASK ...", KNOWN, positional=True)],
    out: Folder,
    episodes: int = 20,
    noise: float = 0.3,
    seed: int = 0,
    size: int = 128,
    repeat: int | None = None,
    variation: Names = (),
    codec: Literal["libsvtav1", "h264"] = "libsvtav1",
    workers: int | None = None,
) -> None:
    """Record demonstrations of scripted experts in a simulator as a LeRobot v3 dataset.

    Example: lattok collect metaworld-pairs --episodes 20 --out demonstrations

    Args:
        out: New folder for the dataset. Run again to continue after an interruption.
        episodes: Successful demonstrations of each task.
        noise: Largest standard deviation of the smooth noise on the expert's actions, whose range is 2; 0 for none.
        seed: Seed of the first attempt; the next ones follow.
        size: Pixels of the sides of an image.
        repeat: Steps of the simulator that an action is held (default: the world's own).
        variation: What changes in the scene with each episode: background, light, camera, distractors=N.
        codec: Codec of the videos.
        workers: Processes (default: one for each core); the dataset is the same with any number.
    """
    import lattok.sim as sim

    options: dict[str, Any] = {"episodes": episodes, "noise": noise, "seed": seed, "size": size, "repeat": repeat}
    options |= {"variation": _variation(sim, variation), "codec": codec, "workers": workers}
    with ProgressBar("collect") as progress:
        done = sim.collect(tasks, out, **options, progress=progress)
    width = max(map(len, done.attempts))
    for task, (won, tried) in done.attempts.items():
        print(f"{task:<{width}}  expert succeeded in {won} of {tried}")
    print(f"Collected {sum(won for won, _ in done.attempts.values())} episodes, {done.frames} frames: {done.path}")


def rollout(
    model: Model,
    env: Tasks = (),
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
    """Let a policy act in a simulator: success per task with intervals, videos, and rollouts.json.

    Example: lattok rollout my-policy --env metaworld-pairs --episodes 10

    Args:
        env: Tasks such as metaworld/reach, or whole worlds such as metaworld-pairs (default: those with instructions
            and the frame rate that the policy was trained on).
        episodes: Episodes of each task.
        out: Folder for results and videos (default: rollouts/ in the model's folder).
        seed: Seed of the first start state; the next follow. Demonstrations are collected from 0 on.
        execute: Actions of a chunk that are carried out before the next is planned (default: the policy's own, or all).
        repeat: Steps of the simulator that an action is held (default: the world's own).
        ensemble: Plan at every decision, and carry out the mean of all plans; the i-th oldest weighs exp(-X i) (ACT).
        instruction: Instruction of the task, that of the other task in the scene (swapped), or none (blank).
        variation: What changes in the scene with each episode: background, light, camera, distractors=N.
        batch: Environments that run side by side; the policy plans for all at once.
        workers: Processes for the environments; 0: only this one.
        videos: Episodes of each task that are filmed.
    """
    import lattok.sim as sim
    from lattok.sim.agents import open_agent
    from lattok.sim.worlds import tasks_told

    agent = open_agent(model, revision, device)
    folder = Path(model) if Path(model).is_dir() else Path.cwd()
    options = {"seed": seed, "execute": execute, "repeat": repeat, "ensemble": ensemble, "instruction": instruction}
    options |= {"batch": batch, "workers": workers, "videos": videos, "variation": _variation(sim, variation)}
    target = Path(out) if out else folder / "rollouts"
    if not env:
        env = tuple(tasks_told(agent.instructions, agent.fps))
        print(f"Tasks with instructions that the policy knows: {', '.join(env) or 'none'}")
    with ProgressBar("rollout") as progress:
        found = sim.rollout(agent, env, episodes, **options, out=target, progress=progress)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    print(found.to_text())
    print(f"Results: {target / 'rollouts.json'}")
    if videos:
        print(f"Watch it: {target / 'sheet.png'} and the films next to it")


def act(policy: Any, tasks: str | tuple[str, ...], episodes: int, out: Path, device: str, videos: int = 1) -> Any:
    """Let a loaded policy act as `lattok rollout` does by itself; return the `Rollouts`."""
    import lattok.sim as sim
    from lattok.utils.devices import moved

    with ProgressBar("rollout") as progress:
        return sim.rollout(moved(policy, device), tasks, episodes, videos=videos, out=out, progress=progress)


def _variation(sim: Any, names: tuple[str, ...]) -> Any:
    """Read "light" and "distractors=5"."""
    given: dict[str, Any] = {}
    for name in names:
        key, _, number = name.partition("=")
        checks.one_of("variation", key, [field.name for field in fields(sim.Variation)])
        if key == "distractors" and not number.isdecimal():
            checks.fail("variation", "distractors=N with a whole number", repr(name))
        given[key] = int(number) if key == "distractors" else True
    return sim.Variation(**given)
