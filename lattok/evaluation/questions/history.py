"""What did the model learn from: is it judged on episodes that it was trained on, was it trained in earnest?"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lattok.data import RobotDataset, split_by_task
from lattok.data.content import digests, in_order, read_record
from lattok.data.copies import first_of_copies, known_to_differ
from lattok.data.episodes import FEW_HELD_OUT, split_otherwise
from lattok.data.instructions import task_group
from lattok.data.schema import same_split
from lattok.evaluation.evidence import Case, measured
from lattok.evaluation.questions import question
from lattok.evaluation.report import Criterion, Decision, Outcome, Verdict
from lattok.hub.records import inferred_text
from lattok.utils import checks
from lattok.utils.commands import DATASET, MODEL, UNKNOWN, Advice, Command, advise, command
from lattok.utils.run_files import RECIPE, RUN, recorded

OVERLAP = Criterion(
    "held_out_seen",
    advise("Evaluate on episodes that were not trained on, or train with {episodes}.", episodes="train"),
    use=True,
)
ALIKE = Criterion(
    "held_out_alike", advise("See whether they are copies whose pictures were changed", command("view", DATASET))
)
TRIAL = Criterion("trial")
OF_ACTIONS = Criterion(
    "labels_of_actions",
    advise("Where a tokenizer made them, judge that", command("evaluate", MODEL, DATASET)),
    use=True,
)
INFERRED = Criterion(
    "inferred_actions", advise("It cannot be better than they are: evaluate the model that inferred them.")
)


IDLE = (OVERLAP, TRIAL, OF_ACTIONS)  # of figures that are none to compare


@question("history", of=("chunks", "labels", "actions", "policy"), criteria=(OVERLAP, ALIKE, INFERRED), place=0)
def history_outcome(evidence: Any) -> Outcome:
    """Look for held-out episodes among those of the training, and for the mark of a trial run."""
    case = evidence.case
    verdicts, decision = overlap(case), None
    inferred = inferred_text(case.model.trained_on)
    if any(each.about is OVERLAP for each in verdicts):
        text = "Unclear from this report: the model was trained on episodes that are held out here."
        decision = Decision(60, None, text, caveats=False)
    if (steps := trial_steps(case.model.trained_on)) is not None:
        run = f"a trial run of {checks.counted(steps, 'step')}"
        text = f"No: this was {run}, to see that everything works. Its figures mean nothing."
        decision = Decision(100, False, text, caveats=False)
    if inferred:
        verdicts = (*verdicts, Verdict(inferred, None, INFERRED))
    return Outcome(verdicts=verdicts, decision=decision)


def overlap(case: Case) -> tuple[Verdict, ...]:
    """Return failing verdicts where held-out episodes were trained on, here or in a dataset that this one copies, or
    where they equal such episodes; an open one where they equal them in their actions alone."""
    wanted = case.split.held_out
    seen = seen_episodes(case.model.trained_on, case.dataset, wanted)
    too_good, least = "these figures are too good", "" if seen.complete else "at least "
    found = [
        (seen.trained, f"held-out episodes were trained on: {too_good}", False, OVERLAP),
        (seen.equal, f"held-out episodes equal training episodes: {too_good}", False, OVERLAP),
        (seen.alike, "held-out episodes have the actions of training episodes, and look different", None, ALIKE),
    ]
    return tuple(Verdict(f"{least}{len(of)} of {len(wanted)} {text}", *more) for of, text, *more in found if of)


def about_tasks(case: Case) -> str:
    """Say that nothing is asked about a new task, where other episodes have all that are held out; else nothing."""
    held, both = set(case.split.held_out), (set[tuple[str, ...]](), set[tuple[str, ...]]())
    for episode in case.dataset.episodes:
        both[episode.index in held].add(task_group(episode))
    if len(both[0]) < 2 or both[1] - both[0]:
        return ""
    text = " Other episodes have all held-out tasks, too, so this says nothing about a new task: for that train without"
    return f"{text} the episodes of one, and evaluate with these (`episodes`)."


def trial_steps(trained_on: Mapping[str, Any] | None) -> int | None:
    """Return the steps of a trial run; None for a model that was trained in earnest, or that does not say."""
    loop = (trained_on or {}).get("loop")
    return loop.get("steps", 0) if isinstance(loop, Mapping) and loop.get("trial") else None


def doubts(verdicts: Sequence[Verdict], trained_on: Mapping[str, Any] | None) -> list[Verdict]:
    """Return why the figures of a model are none to compare: it was trained on what judges it, or for a trial."""
    found = [each for each in verdicts if each.about is OVERLAP]
    if (steps := trial_steps(trained_on)) is not None:
        found.append(
            Verdict(f"a trial run of {checks.counted(steps, 'step')}, whose figures mean nothing", False, TRIAL)
        )
    return found


def doubted(found: Mapping[str, Sequence[Verdict]]) -> str:
    """Say of which models, by name, figures are none to compare; empty where there are none."""
    names = [name for name, verdicts in found.items() if any(each.about in IDLE for each in verdicts)]
    return f"Unclear from this page: see the verdicts about {' and '.join(names)}." if names else ""


def hold_out_more(cases: Sequence[Case], judge: Callable[[list[str]], Command]) -> Advice:
    """Say how enough episodes judge the models of these cases; `judge` makes the command from where these lie."""
    dataset, steps, found = cases[0].dataset, list[Command](), list[str]()
    held_out, known = split_by_task(dataset)[1], [each.index for each in dataset.episodes]
    key, needed, noun = cases[0].column or cases[0].options.action_key, 3 * FEW_HELD_OUT, "episodes"
    if key in dataset.features and len(found_known := measured(dataset, key, known)) < len(known):
        known, noun = [each.index for each in found_known], "episodes with known actions"
    if len({*held_out} & {*known}) < FEW_HELD_OUT:
        firsts = first_of_copies(dataset)
        count = len({firsts.get(index, index) for index in known})
        if dataset.held_out and count >= needed:
            return advise(f"The files hold out too few: {split_otherwise(known)}.")
        told = f"{count} that differ" if count < len(known) else f"{count}"
        return advise(f"Record {needed} {noun} or more, of which {FEW_HELD_OUT} are held out: you have {told}.")
    for model in (case.model for case in cases):
        found.append(getattr(model, "address", "") or MODEL)
        if any(seen_episodes(model.trained_on, dataset, held_out)[:2]):
            again, how = f"{found[-1]}-again", (UNKNOWN,)
            if (kind := recorded(Path(found[-1]), "kind")) is not None:
                config = str(Path(found[-1], RUN, RECIPE))
                how = (kind, dataset.address or DATASET, "--out", again, "--config", config)
            steps.append(command("train", *how, "--episodes", "train"))
            found[-1] = again
    return advise("Run", *steps, judge(found))


def training_entries(trained_on: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """List what a model and those before it (`earlier`) have learned from, as its training.json says: `dataset`,
    `split` if it has any, `episodes`, and `content`, by which they are known again."""
    known = trained_on or {}
    entries = [*known.get("mixture", [known]), *known.get("earlier", ())]
    wanted = ("dataset", "split", "episodes", "content")
    return [{name: entry[name] for name in wanted if name in entry} for entry in entries if "dataset" in entry]


class Seen(NamedTuple):
    """Which episodes a model has seen, by their numbers."""

    trained: set[int]  # episodes that a model learned from
    equal: set[int]  # others of the same dataset that equal such episodes
    alike: set[int]  # or have their actions alone, with other pictures or states
    complete: bool  # whether there may be no others


def seen_episodes(trained_on: Mapping[str, Any] | None, dataset: RobotDataset, wanted: Sequence[int]) -> Seen:
    """Find which of the `wanted` episodes a model has learned from, as far as its training.json says. Episodes are
    known again by their content, under any name of the dataset and any numbers. Where content is not unique, or not
    recorded, dataset and number count."""
    seen, equal, alike, complete = set[int](), set[int](), set[int](), True
    for entry in training_entries(trained_on):
        named = entry["dataset"] == dataset.name and same_split(entry.get("split"), dataset.split)
        numbers = {index for index in wanted if _among(index, entry.get("episodes", ()))}
        if "content" not in entry:
            seen |= numbers if named else set()
            continue
        found, undecided, copies, doubtful = _by_content(entry, dataset, wanted, numbers)
        complete = complete and (named or not undecided)
        seen |= found | (numbers & undecided if named else set())
        equal, alike = equal | copies, alike | doubtful
    return Seen(seen, equal - seen, alike - equal - seen, complete)


def _by_content(
    entry: Mapping[str, Any], dataset: RobotDataset, wanted: Sequence[int], numbers: set[int]
) -> tuple[set[int], ...]:
    """Find which of the `wanted` episodes were trained on by their content, for which it does not tell, and in the same
    dataset others: those that equal such episodes, and those with their actions alone."""
    found, undecided, kinds = set[int](), set(wanted), read_record(entry["content"])
    equal, alike = set[int](), set[int]()
    for kind, known in kinds.items():
        for here in digests(dataset, wanted, kind):
            matching = {index for index, digest in here.items() if digest in known.digests}
            if not matching <= numbers:
                runs = entry.get("episodes", ())
                trained = [episode.index for episode in dataset.episodes if _among(episode.index, runs)]
                for other in digests(dataset, trained, kind):
                    if in_order(other) != known.in_order:
                        continue
                    for index in matching - numbers:  # the same dataset: this one was not trained on, one like it was
                        same = (each for each, digest in other.items() if digest == here[index])
                        differ = kind == "actions" and all(known_to_differ(dataset, index, each) for each in same)
                        (alike if differ else equal).add(index)
                    matching &= numbers
            found |= matching
            if kind == next(iter(kinds)):  # actions, where they were recorded: videos are encoded again sooner
                undecided &= {index for index in wanted if index not in here}
    return found, undecided - found, equal, alike - equal


def _among(index: int, runs: Sequence[Sequence[int]]) -> bool:
    return any(first <= index <= last for first, last in runs)
