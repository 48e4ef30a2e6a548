"""One cell of the study: train a policy, let it act, write what happened.

python -m studies.cell action-free.la_align.0 --folder study --results DIR
"""

import argparse
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

import lattok
from benchmarks.common import environment, name_of, write_results
from lattok.data import select_episodes
from lattok.sim import find_tasks
from lattok.sim.rollout import rollout
from lattok.sim.worlds.metaworld import INSTRUCTIONS, PAIRS
from lattok.vla import STRATEGIES
from lattok.vla.tokens import TokenHead
from studies.labels import (
    dataset_name,
    filled_dataset,
    films,
    known_episodes,
    label_model,
    labelled_dataset,
)
from studies.plan import (
    ACTED_SHARE,
    DEVICE,
    DISTIL_STEPS,
    ELSEWHERE,
    EXECUTE,
    FEW_STARTS,
    FIRST_STEPS,
    LABELS,
    OWN_PAGE,
    POLICY,
    REGIMES,
    ROWS,
    STARTS,
    WORLD,
    Cell,
)

SUCCESS, FAILURE = "success", "failure"  # the opposite was reached first
SHOWN = 30  # decisions whose latency is measured
Outcome = tuple[int, str, int]


def recipe_of(cell: Cell, folder: Path, out: Path, task: str | None = None) -> lattok.VLARecipe:
    """Return the training of a cell, or of its policy for one task; makes its labels if they are not there yet."""
    row, regime = ROWS[cell.row], REGIMES[cell.regime]
    data = regime.dataset(folder)
    seen = regime.episodes(cell.seed)
    given: dict[str, Any] = {**POLICY, **row.options, "strategy": row.strategy, "seed": cell.seed, "episodes": seen}
    if task is not None:
        train = select_episodes(lattok.open_dataset(data), "train")
        ours = [episode.index for episode in train if episode.tasks[0] == INSTRUCTIONS[task]]
        given |= {"episodes": ",".join(map(str, ours)), "steps": regime.apart}
    acting = known_episodes(data, regime, cell.seed)
    labels = None if row.labels is None else LABELS[row.labels]
    if row.filled:
        if acting is None:
            raise SystemExit(f"{cell.row} is of a regime in which some actions are unknown")
        # a dataset that says which actions were measured is split otherwise: all rows learn from the same episodes
        given["episodes"] = ",".join(str(each.index) for each in select_episodes(lattok.open_dataset(data), seen))
        data = filled_dataset(folder, data, str(row.labels), regime, cell.seed)
        return lattok.VLARecipe.from_preset(data, out, "scratch", **given)
    if row.latent:
        labelled = labelled_dataset(folder, data, str(row.labels), regime, cell.seed)
        model = label_model(folder, data, str(row.labels), regime, cell.seed)
        given |= {"action_episodes": acting, "decoder": str(model)}
        return lattok.VLARecipe.from_preset(labelled, out, "scratch", **given)
    if row.first:
        before = begun_by(cell, folder, folder / "begun" / cell.name, given)
        given |= {"init": str(before), "episodes": acting}
        return lattok.VLARecipe.from_preset(data, out, "scratch", **given)
    learns = row.joint or bool(STRATEGIES[row.strategy].losses)
    if acting is not None and labels is not None and labels.source == "video" and learns:
        given |= {"action_episodes": acting, "acted_share": ACTED_SHARE}
    elif acting is not None:
        given["episodes"] = acting  # the others teach nothing
    if row.joint:
        given["lam"] = str(label_model(folder, data, str(row.labels), regime, cell.seed))
        return lattok.LARARecipe.from_preset(data, out, "scratch", **given)
    if row.distilled is not None:
        teacher = label_model(folder, data, str(row.labels), regime, cell.seed)
        first = {**given, "episodes": seen, **row.distilled}
        student = distilled(data, folder / "students" / cell.name, teacher, first)
        return lattok.LatBotRecipe.from_preset(data, out, "scratch", phase="finetune", student=str(student), **given)
    if labels is not None and labels.source == "video":
        data = labelled_dataset(folder, data, str(row.labels), regime, cell.seed)
    elif labels is not None:
        given["tokenizer"] = str(label_model(folder, data, str(row.labels), regime, cell.seed))
    return lattok.VLARecipe.from_preset(data, out, "scratch", **given)


def train_once(out: Path, recipe: Callable[[], Any]) -> Path:
    """Return the folder of a model, trained if it is not there yet; what was begun goes on. Its checkpoint goes."""
    if not (out / "config.json").exists():
        lattok.train(recipe(), resume=out.exists())
        shutil.rmtree(out / "run", ignore_errors=True)
    return out


def begun_by(cell: Cell, folder: Path, out: Path, given: Mapping[str, Any]) -> Path:
    """Return a policy that learned labels of all videos first, trained if it is not there yet."""
    row, regime = ROWS[cell.row], REGIMES[cell.regime]
    assert row.first is not None
    options = {**given, "strategy": row.first.strategy, "steps": FIRST_STEPS}
    own = regime.dataset(folder)
    videos = REGIMES[ELSEWHERE].dataset(folder) if row.first.elsewhere else own
    data = labelled_dataset(folder, own, str(row.labels), regime, cell.seed, videos)
    if row.first.films:
        data = films(data)
        options |= {"stages": "pretrain"}
    else:
        acting = known_episodes(own, regime, cell.seed)
        options |= {"action_episodes": acting, "acted_share": ACTED_SHARE}
    return train_once(out, lambda: lattok.VLARecipe.from_preset(data, out, "scratch", **options))


def distilled(data: Path, out: Path, teacher: Path, given: Mapping[str, Any]) -> Path:
    """Return the student of a teacher, trained as the policy will be, on all videos, if it is not there yet."""
    options = {**given, "teacher": str(teacher), "steps": DISTIL_STEPS}
    return train_once(out, lambda: lattok.LatBotRecipe.from_preset(data, out, "scratch", **options))


def run(cell: Cell, folder: Path) -> dict[str, Any]:
    """Train the cell's policy, or one for each task, unless its artefact is there, and let it act."""
    row, apart = ROWS[cell.row], REGIMES[cell.regime].apart
    learned = cell._replace(row=row.of or cell.row)
    out = folder / "policies" / learned.name
    where = {**environment(), "device": name_of(torch.device(DEVICE))}
    results: dict[str, Any] = {"cell": cell._asdict(), "environment": where, "own": {}}
    trainings, rollouts, waits, codes = list[float | None](), 0.0, list[float](), list[int]()
    for task in PAIRS if apart else [None]:
        world = REGIMES[cell.regime].tasks if task is None else [f"{WORLD[0]}/{task}"]
        policy, cost = trained(learned, folder, out if task is None else out / task, task)
        for name, value in (row.options if row.of else {}).items():
            setattr(policy.head, name, value)
        trainings.append(cost)
        begun, shown = time.process_time(), list[dict[str, Any]]()
        results["model"] = policy.describe()
        if (labels := model_of_labels(cell, folder)) is not None:
            results["label_model"] = lattok.load(labels).describe()
        alone = not policy.config.prompt or OWN_PAGE & {cell.row, cell.regime}  # whose page asks nothing else
        for how, episodes in {"own": STARTS, "swapped": FEW_STARTS, "blank": FEW_STARTS}.items():
            if how == "own" or not alone:
                with noted_decisions(policy, shown, codes) if how == "own" else nullcontext():
                    by_task = outcomes(policy, world, episodes, instruction=how)
                results.setdefault("outcomes", {}).setdefault(how, {}).update(by_task)
                results.setdefault(how, {}).update({task: counts(ends) for task, ends in by_task.items()})
        rollouts += time.process_time() - begun
        waits += latencies(policy, shown)
    known = [cost for cost in trainings if cost is not None]
    training = sum(known) if len(known) == len(trainings) else None
    return results | {
        "cpu_s": {"training": training, "rollouts": rollouts},
        "decision": {"cpu_ms": 1000 * median(waits), "codes": mean(codes) if codes else None},
    }


@contextmanager
def noted_decisions(policy: lattok.LatentVLA, shown: list[dict[str, Any]], codes: list[int]) -> Iterator[None]:
    """Keep what is shown in some of the decisions that rollouts ask for, side by side, each as a batch of one; and, of
    a policy that acts by tokens, how many codes each decision takes, those of all chunks that are drawn for it."""
    head: Any = policy.head
    plan, sample = policy.predict_chunk, head.sample

    def predict_chunk(observation: Any, seed: int = 0) -> torch.Tensor:
        chunks = plan(observation, seed)
        if (row := len(shown)) < SHOWN:
            row %= len(chunks)
            shown.append({key: value[row : row + 1] for key, value in observation.items()})
        return chunks

    def sampled(*given: Any) -> torch.Tensor:
        found = sample(*given)
        if isinstance(head, TokenHead):
            codes.extend((found >= 0).unflatten(0, (-1, head.draws)).sum((1, 2)).tolist())
        return found

    policy.predict_chunk, head.sample = predict_chunk, sampled
    try:
        yield
    finally:
        del policy.predict_chunk, head.sample


def latencies(policy: lattok.LatentVLA, shown: Sequence[dict[str, Any]]) -> list[float]:
    """Return the CPU seconds of each decision alone; one more goes before them, as the first call is slower."""
    taken = []
    for observation in (shown[0], *shown):
        begun = time.process_time()
        policy.predict_chunk(observation)
        taken.append(time.process_time() - begun)
    return taken[1:]


def model_of_labels(cell: Cell, folder: Path) -> Path | None:
    """Return the folder of the trained model that labelled, None where no model did."""
    labels = ROWS[cell.row].labels
    if labels is None:
        return None
    name = dataset_name(LABELS[labels].of or labels, REGIMES[cell.regime], cell.seed)
    return out if ((out := folder / "models" / name) / "config.json").exists() else None


def trained(cell: Cell, folder: Path, out: Path, task: str | None) -> tuple[lattok.LatentVLA, float | None]:
    """Return the policy in `out`, trained if it is not there, and its CPU seconds; None where it was begun before."""
    begun, cost = out.exists(), time.process_time()
    train_once(out, lambda: recipe_of(cell, folder, out, task))
    return lattok.LatentVLA.from_pretrained(out), None if begun else time.process_time() - cost


def outcomes(policy: lattok.LatentVLA, tasks: Sequence[str], episodes: int, **options: Any) -> dict[str, list[Outcome]]:
    """Return by task, of each rollout: the seed of its start state, how it ended, after how many decisions."""
    played = rollout(policy, tasks, episodes, execute=EXECUTE, **options).episodes
    by_task: dict[str, list[Outcome]] = {name: [] for name in find_tasks(tasks)}
    for one in played:
        end = SUCCESS if one.success else FAILURE if one.failure else "none"
        by_task[one.task].append((one.seed, end, one.decisions))
    return by_task


def counted(policy: lattok.LatentVLA, tasks: Sequence[str], episodes: int, **options: Any) -> dict[str, list[int]]:
    """Return successes, failures and number of rollouts by task."""
    return {task: counts(ends) for task, ends in outcomes(policy, tasks, episodes, **options).items()}


def counts(ends: Sequence[Outcome]) -> list[int]:
    """Return successes, failures and number of rollouts."""
    kinds = [end for _, end, _ in ends]
    return [kinds.count(SUCCESS), kinds.count(FAILURE), len(kinds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cell", help="REGIME.ROW.SEED")
    parser.add_argument("--folder", type=Path, required=True, help="demonstrations, labels and policies")
    parser.add_argument("--results", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cell = Cell.of(args.cell)
    write_results(args.results / f"{cell.name}.json", run(cell, args.folder))


if __name__ == "__main__":
    main()
