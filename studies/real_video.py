"""What a network that sees video alone reads of a real robot's actions: attempts at a better one, and known episodes.

python -m studies.real_video --data FOLDER --folder study     # again, it continues

FOLDER holds the datasets of studies/real_sets.py; outcomes are kept in studies/results/real_video.json. The plan is
studies/pages/real_robots.md, part 5.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch

import lattok
from studies.real_robots import NETWORK, SMALL, Hidden, read_hidden
from studies.real_sets import Kept, RealSet, Recording, arguments, drawn, opened, write_frames

SMOOTH = (0, 1, 2)  # frames to each side over which what is read is averaged
WIDE = (-4, -2, 0, 2, 4, 6)
ALONE = {"frame_seen": False}
ATTEMPTS: dict[str, dict[str, Any]] = {
    "offsets 0 1 2": {"offsets": (0, 1, 2)},
    "frame and differences": {},
    "differences alone": ALONE,
    "differences alone, offsets -2 0 2 4": {**ALONE, "offsets": (-2, 0, 2, 4)},
    "differences alone, offsets -4 to 6": {**ALONE, "offsets": WIDE},
    "differences alone, weight decay .3": {**ALONE, "weight_decay": 0.3},
    "differences alone, four networks": {**ALONE, "members": 4, "batch_size": 128},
    "differences alone, 96 pixels": {**ALONE, "image_size": 96},
    "differences alone, all films predict block motion": {**ALONE, "loss_flow": 1.0},
    "differences alone, all films predict the last frame": {**ALONE, "loss_forward": 1.0},
}
BY_KNOWN = ("frame and differences", "differences alone")
KNOWN, DRAWS = (3, 10, 20), 3


class Cell(NamedTuple):
    """One attempt at one draw of known episodes."""

    attempt: str
    known: int
    draw: int

    @property
    def key(self) -> str:
        return f"{self.attempt}.{self.known}.{self.draw}"


def cells() -> Iterator[Cell]:
    """Yield attempts at one draw of three known episodes, then two of them at all draws."""
    yield from (Cell(attempt, 3, 0) for attempt in ATTEMPTS)
    for known in KNOWN:
        for draw in range(DRAWS):
            yield from (Cell(attempt, known, draw) for attempt in BY_KNOWN if (known, draw) != (3, 0))


def outcome(recording: Recording, cell: Cell, folder: Path) -> dict[str, Any]:
    """Train a network and return R² of each judged number over the hidden episodes, by how far it is averaged."""
    options = ATTEMPTS[cell.attempt]
    side = options.get("image_size", 64)
    small = write_frames(recording, folder / f"frames.{recording.name}.{side}", side)
    alike = Recording(SMALL, RealSet("", "", None, 1), small)
    known = drawn([episode.index for episode in small.episodes], cell.known, cell.draw)
    hidden = Hidden(alike, known, cell.draw)
    out = folder / f"video.{cell.key.replace(' ', '_')}"
    given = {**NETWORK, "action_episodes": ",".join(map(str, known)), **options}
    recipe = lattok.InverseDynamicsRecipe.from_preset(small.root, out, "tiny", **given)
    model: Any = lattok.load(out) if (out / "config.json").is_file() else lattok.train(recipe)
    r2 = {}
    for smooth in SMOOTH:
        model.config = replace(model.config, smooth=smooth)
        r2[str(smooth)] = hidden.judge(read_hidden(hidden, model))
    return {"known": known, "r2": r2}


def table(kept: Mapping[str, Any]) -> str:
    """Return mean R² of the attempts at one draw, and of two of them by known episodes."""

    def figures(cell: Cell) -> list[float]:
        return [mean(kept[cell.key]["r2"][str(smooth)].values()) for smooth in SMOOTH]

    lines = ["| attempt, 3 known, first draw | R² | over 3 frames | over 5 |", "|---|---|---|---|"]
    for attempt in ATTEMPTS:
        if (cell := Cell(attempt, 3, 0)).key in kept:
            lines.append(f"| {attempt} | {' | '.join(f'{each:.2f}' for each in figures(cell))} |")
    lines += ["", "| known | attempt | draws | R² | over 3 frames | over 5 | draws, over 3 |", "|---|" + "---|" * 6]
    for known in KNOWN:
        for attempt in BY_KNOWN:
            found = [figures(cell) for draw in range(DRAWS) if (cell := Cell(attempt, known, draw)).key in kept]
            if found:
                means = " | ".join(f"{mean(each):.2f}" for each in zip(*found, strict=True))
                each = " ".join(f"{draw[1]:.2f}" for draw in found)
                lines.append(f"| {known} | {attempt} | {len(found)} | {means} | {each} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    given = arguments(__doc__, ["g1"]).parse_args()
    torch.set_num_threads(1)
    kept = Kept("real_video")
    (recording,) = opened(given.data, ["g1"])
    for cell in cells():
        kept.add(cell.key, partial(outcome, recording, cell, given.folder), table)
    print(table(kept.found))


if __name__ == "__main__":
    main()
