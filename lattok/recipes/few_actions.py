"""What a few known actions would be worth on a dataset: `try_few_actions(dataset, out)`.

    known           a policy that learns from the episodes whose actions are known
    video, proprio  one that learns from all, the other actions inferred from video, or from how the robot's state moves
    all             one that learns from all true actions

The same policy and the same seeds; errors of the actions in the same held-out episodes, in units of the variance of all
true training actions. Every step is kept in `out`: an interrupted study continues, and ends with the same numbers.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lattok.annotation import annotate, hide
from lattok.backbones import SCRATCH
from lattok.data import RobotDataset, as_dataset, export, open_dataset, select_episodes, split_by_task
from lattok.data.schema import vector_key
from lattok.data.table_dataset import tables_of
from lattok.data.video import codec_for
from lattok.evaluation import student
from lattok.evaluation.evidence.policy_evidence import policy_errors
from lattok.evaluation.wording import Interval
from lattok.recipes.idm import InverseDynamicsRecipe
from lattok.recipes.vla import VLARecipe
from lattok.samples.policy import PolicyWindows, WindowOptions
from lattok.utils import checks, files
from lattok.utils.devices import moved
from lattok.utils.output import Output
from lattok.vla import LatentVLA

KNOWN, ALL = "known", "all"
ROUTES = {"video": "video", "proprio": "the robot's state", "both": "state and video"}
ARMS = {
    KNOWN: "known actions alone",
    **{route: f"and those inferred from {words}" for route, words in ROUTES.items()},
    ALL: "all true actions",
}
STATE = "observation.state"
STEPS = 500  # of a policy: enough to rank what they learn from, in a minute of two cores
SETTINGS, RESULTS, TABLE, ERRORS, LOCK = "settings.json", "few_actions.json", "few_actions.md", "errors.json", "lock"
FEW = "few"  # the dataset with hidden actions
FEWEST = 5  # held-out episodes of an interval


class FewActions(NamedTuple):
    """Errors by arm [seeds, episodes]; the table and the answer as text."""

    errors: dict[str, np.ndarray]
    route: str  # what actions are best inferred from: see `ROUTES`
    gain: Interval | None  # of what actions inferred so take from the error of known ones alone
    answer: str
    table: str


def try_few_actions(
    dataset: RobotDataset | str | os.PathLike[str],
    out: str | os.PathLike[str],
    keep: str | Sequence[int] = "2 per task",
    *,
    routes: Sequence[str] = (),
    seeds: int = 3,
    action_key: str = "action",
    idm: Mapping[str, Any] | None = None,
    policy: Mapping[str, Any] | None = None,
    resume_command: str = "the same call",
) -> FewActions:
    """Hide all actions but those of the episodes `keep`, infer them, and train policies on known, inferred and all
    actions. `routes`: what they are inferred from, "video", "proprio" or "both" (default: video and, if the dataset has
    a state, proprio). `idm` and `policy` are options of `lattok train idm` and `lattok train vla` (there 500 steps);
    `resume_command` is named where an interruption saved a checkpoint. Raises `LattokError` where no episode is held
    out, or where `out` holds a study with other settings."""
    checks.counts(seeds=seeds)
    for route in routes:
        checks.one_of("routes", route, ROUTES)
    source, out = as_dataset(dataset), Path(out).expanduser()
    vector_key(source, "action_key", action_key)  # before all pictures are copied
    files.check_writable(out)
    with Output(out).locked(out / LOCK):
        if tables_of(source) is None:  # so that all arms see the same pictures
            if not (out / "all").exists():
                export(source, out / "all", video_codec=codec_for(source.features[key].shape for key in source.cameras))
            source = open_dataset(out / "all")
        test = sorted(split_by_task(source)[1])
        if not test:
            checks.fail("dataset", "episodes that are held out", "none", "Record more episodes of a task.")
        kept = [episode.index for episode in select_episodes(source, keep) if episode.index not in test]
        settings = {"dataset": source.name, "kept": kept, "test": test, "seeds": seeds, "action_key": action_key}
        routes = tuple(dict.fromkeys(routes)) or ("video", *["proprio"] * (STATE in source.features))
        settings |= {"routes": [*routes], "idm": dict(idm or {}), "policy": {"steps": STEPS, **(policy or {})}}
        settings["episodes"] = [len(source.episodes), sum(episode.length for episode in source.episodes)]
        before = files.read_json(out / SETTINGS) if (out / SETTINGS).is_file() else None
        if before is not None and before != files.finite(settings):
            odd = ", ".join(name for name, value in settings.items() if before.get(name) != value)
            checks.fail("out", "a study with the same settings, or a new folder", f"{out}, of another {odd}")
        files.write_json(out / SETTINGS, settings)
        if not (out / FEW).exists():
            hide(source, out / FEW, [*kept, *test], action_key=action_key)
        for route in routes:
            _infer(out, route, settings, resume_command)
        errors = {
            arm: np.array([_errors(source, out, arm, seed, settings, resume_command) for seed in range(seeds)])
            for arm in (KNOWN, *routes, ALL)
        }
        found = _answer(errors)
        facts = {"errors": {arm: values.tolist() for arm, values in errors.items()}, "answer": found.answer}
        files.write_json(out / RESULTS, {**facts, "route": found.route, "gain": found.gain, "settings": settings})
        files.write_text(out / TABLE, f"{found.table}\n\n{found.answer}\n")
    return found


def _infer(out: Path, route: str, settings: Mapping[str, Any], resume_command: str) -> None:
    """Fill in the hidden actions by a model that a route trains."""
    model, filled, key = out / "models" / route, out / "filled" / route, settings["action_key"]
    print(f"\n== actions from {route}", flush=True)
    options: dict[str, Any] = {"from_": route, "action_key": key, **settings["idm"]}
    InverseDynamicsRecipe.from_preset(out / FEW, model, "tiny", **options).completed(resume_command)
    if not filled.exists():
        annotate(out / FEW, str(model), filled, fill=True, action_key=key)


def _errors(
    source: RobotDataset, out: Path, arm: str, seed: int, settings: Mapping[str, Any], resume_command: str
) -> list[float]:
    """Train a policy of an arm, and return its error in each held-out episode."""
    place, key = out / "policies" / f"{arm}-{seed}", settings["action_key"]
    if (place / ERRORS).is_file():
        return files.read_json(place / ERRORS)["errors"]
    print(f"\n== policy: {ARMS[arm]}, seed {seed}", flush=True)
    data = {KNOWN: out / FEW, ALL: source.address or source.root}.get(arm, out / "filled" / arm)
    options: dict[str, Any] = {"backbone": SCRATCH, "action_key": key, "seed": seed}
    options["episodes"] = ",".join(map(str, settings["kept"])) if arm == KNOWN else "train"
    if STATE not in source.features:
        options["proprio"] = False
    VLARecipe.from_preset(str(data), place, **{**options, **settings["policy"]}).completed(resume_command)
    policy = moved(LatentVLA.from_pretrained(place), settings["policy"].get("device", "auto"))
    config = policy.config
    about: dict[str, Any] = {"horizon": config.horizon, "size": config.image_size, "action_key": key}
    units = PolicyWindows(source, WindowOptions(cameras=(), state_key=None, episodes="train", **about))
    about |= {"cameras": config.cameras, "interpolation": config.interpolation}
    about["state_key"] = config.state_key if config.proprio_dim else None
    found = []
    for index in settings["test"]:
        held_out = PolicyWindows(source, WindowOptions(episodes=[index], **about))
        found.append(policy_errors(policy.predict_chunk, units, held_out, key).error)
    files.write_json(place / ERRORS, {"errors": found})
    return found


def _answer(errors: Mapping[str, np.ndarray]) -> FewActions:
    """Compare the arms over held-out episodes, each with the mean of its errors over the seeds."""
    each = {arm: values.mean(0) for arm, values in errors.items()}
    rows = ["| the policy learns from | error of held-out actions |", "|---|---|"]
    rows += [f"| {ARMS[arm]} | {_with_interval(values)} |" for arm, values in each.items()]
    routes = [arm for arm in each if arm in ROUTES]
    best = min(routes, key=lambda route: each[route].mean())
    gains = each[KNOWN] - each[best]
    gain, episodes = _interval(gains, tests=len(routes)), checks.counted(len(gains), "held-out episode")
    change = gains.mean() / each[KNOWN].mean() if each[KNOWN].mean() else 0.0
    by = f"the error is {abs(change):.0%} {'lower' if change >= 0 else 'higher'} than with known actions alone"
    what = f"Inferring the other actions (from {ROUTES[best]})"
    if gain is None:
        answer = f"Unclear from {episodes}, and an interval needs {FEWEST}: {by} (from {ROUTES[best]})."
    elif gain[0] > 0:
        answer = f"{what} is worth it here: {by} ({episodes})."
    elif gain[1] < 0:
        answer = f"{what} is not worth it here: {by} ({episodes})."
    else:
        answer = f"{what} is not shown to be worth it here: {by}, and the interval includes no change ({episodes})."
    return FewActions(dict(errors), best, gain, answer, "\n".join(rows))


def _interval(values: np.ndarray, tests: int = 1) -> Interval | None:
    """Return the 95 % interval of a mean over episodes (Student's t), wider where the best of several is tested
    (Bonferroni); None where they are too few."""
    if (count := len(values)) < FEWEST:
        return None
    half = student.quantile(1 - 0.025 / tests, count - 1) * float(values.std(ddof=1)) / math.sqrt(count)
    return float(values.mean()) - half, float(values.mean()) + half


def _with_interval(values: np.ndarray) -> str:
    found = _interval(values)
    return f"{values.mean():.3f}" + ("" if found is None else f" ± {(found[1] - found[0]) / 2:.3f}")
