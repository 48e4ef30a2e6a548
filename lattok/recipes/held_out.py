"""Episodes that a policy is judged on when its training ends, and what held_out.json says of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lattok.data import RobotDataset, select_episodes, split_by_task
from lattok.data.copies import with_copies
from lattok.data.episodes import EpisodeSpec
from lattok.evaluation.evidence.policy_evidence import PolicyErrors, policy_errors
from lattok.labels.spec import measured_episodes
from lattok.nn.normalize import for_dataset
from lattok.recipes.policy_data import PolicyData
from lattok.recipes.policy_sources import PolicySource
from lattok.samples.policy import PolicyWindows
from lattok.types import PolicyBatch
from lattok.utils import checks, files
from lattok.utils.devices import moved
from lattok.utils.progress import ProgressBar
from lattok.utils.runs import index_runs
from lattok.vla import LatentVLA

HELD_OUT = "held_out.json"


def held_out_episodes(dataset: RobotDataset, episodes: EpisodeSpec, key: str) -> list[int]:
    """Return what a policy that is trained on `episodes` is judged on: the test episodes that are not among them, so
    that runs on different shares of the others are judged on the same ones; where none is left, all others. Only
    those in which the column `key` was measured: nobody knows what is right in the others. None that equals one of
    `episodes`."""
    chosen = with_copies(dataset, (episode.index for episode in select_episodes(dataset, episodes)))
    test = {*split_by_task(dataset)[1]}
    others = [episode for episode in dataset.episodes if episode.index not in chosen]
    left = [episode.index for episode in measured_episodes(dataset, key, others)]
    return [index for index in left if index in test] or left


def judge(policy: LatentVLA, data: PolicyData, parts: Sequence[PolicyWindows], out: Path) -> None:
    """Write held_out.json, if episodes are held out: errors of the actions, and how well latents are predicted; of a
    mixture those of each dataset, under its name in `mixture`. `parts` are the windows that it was trained on."""
    reports, figures = dict[str, Any](), dict[str, Any]()
    verdicts, texts = [], []
    for source, part in zip(data.sources, parts, strict=True):
        name = source.dataset.name
        if not (others := held_out_episodes(source.dataset, data.options.episodes, data.options.compared_key)):
            continue
        chosen = for_dataset(policy, name)
        if source.own is not None:  # a chosen policy has the numbers and cameras of its own dataset alone
            source = source._replace(dataset=source.own, cameras=chosen.config.cameras, blocks={})
            part = data.windows(source)
        errors, report = _errors(chosen, data, source, part, others)
        reports[name] = report
        where, which = (f"{name}: ", f"{name}/") if policy.datasets else ("", "")
        known = {key: report[key] for key in ("error", "mean_action", "windows")} | report.get("latent", {})
        figures.update((which + key, value) for key, value in known.items())
        verdicts.append(errors.verdict | {"text": where + errors.verdict["text"]})
        texts.append(where + errors.text)
    if not reports:
        print("Not evaluated: no held-out episode has measured actions.")
        return
    files.write_json(out / HELD_OUT, {"mixture": reports} if policy.datasets else next(iter(reports.values())))
    if policy.evaluation is None:  # a report may have judged it already
        named = {"headline": " ".join(texts), "dataset": ", ".join(reports)}
        policy.evaluation = {**named, "verdicts": verdicts, "figures": figures}
        policy.save_card(out)
    print(checks.printable("\n".join(texts)))


def _errors(
    policy: LatentVLA, data: PolicyData, source: PolicySource, windows: PolicyWindows, others: list[int]
) -> tuple[PolicyErrors, dict[str, Any]]:
    """Return the errors, and what held_out.json says of a dataset."""
    held_out = data.windows(source, episodes=others)
    sums: dict[str, float] = {}
    labelled = 0

    def predict(batch: PolicyBatch) -> Tensor:
        nonlocal labelled
        chunk, terms = policy.imitate(batch)
        here = 0 if batch.latent is None else int(batch.latent.valid.any(1).sum())
        labelled += here
        for name, value in terms.items():  # each a mean over the samples with labels
            sums[name] = sums.get(name, 0.0) + float(value) * here
        return chunk

    moved(policy, data.loop.device)
    with ProgressBar("judge") as progress:
        errors = policy_errors(predict, windows, held_out, data.options.compared_key, progress)
    policy.cpu()
    report = errors.to_json() | {"episodes": index_runs(others)}
    latent = {name: value / labelled for name, value in sorted(sums.items()) if name != "action" and labelled}
    return errors, {**report, "latent": latent} if latent else report
