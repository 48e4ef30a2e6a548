"""`python -m lattok_larybench`: tokens and tables for LARYBench, and what its probe says."""

from __future__ import annotations

import sys
from functools import partial

from lattok.cli import main, run_verb
from lattok.cli.flags import Dataset, Folder, Models, Names, Verb
from lattok.utils import checks
from lattok.utils.progress import ProgressBar
from lattok_larybench.larybench import REPORT, export


def tokens(
    dataset: Dataset,
    models: Models,
    out: Folder = "tokens",
    seed: int = 0,
    stride: str | None = None,
    action_key: str = "action",
    cameras: Names = (),
    episodes: str = "test",
    device: str = "auto",
) -> None:
    """Write latent action models' tokens as LARYBench reads them, and judge them by its probe (minutes for each).

    Example: python -m lattok_larybench path/to/dataset --models my-lam org/lam --out tokens

    Args:
        models: Folders or Hub ids of latent action models of video, published ones after `lattok convert`.
        out: New folder for tokens, actions and tables.
        seed: Seed of the probe.
        stride: Gap of a frame pair for all of them: frames ("16") or seconds ("0.2s"); each has its own by default.
        action_key: Column with the actions.
        cameras: Cameras to look at, short names allowed: each model takes as many as it has (default: its own).
        episodes: "train", "test" (the last episode of every task, more where tasks are few), "0:40", "0,3,5:9", "10%"
          or "5 per task".
        device: auto, cpu, cuda or mps.
    """
    options = {"episodes": episodes, "action_key": action_key, "cameras": cameras or None, "stride": stride}
    with ProgressBar("LARYBench") as progress:
        found = export(dataset, models, out, **options, seed=seed, device=device, progress=progress.stage)
    for name, errors in found.items():
        each = ", ".join(f"{dimension} {error:.3f}" for dimension, error in errors.items())
        print(checks.printable(f"{name}: mean squared error {each}"))
    print(f"Tokens and tables in {out}, these errors in {REPORT} there. What goes where: docs/howto/zoo.md")


if __name__ == "__main__":
    sys.exit(main(run=partial(run_verb, "python -m lattok_larybench", Verb(tokens))))
