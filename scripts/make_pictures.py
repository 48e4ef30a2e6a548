"""What README shows: a film of `sample/policy` with the codes of `sample/lam`, and one result as bars.

python scripts/make_pictures.py film  # docs/films/robot.gif; a minute on one core, with the extras sim and notebooks
python scripts/make_pictures.py bars  # docs/pictures/few_actions.png, from benchmarks/results/closed_loop.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import lattok
from lattok.utils import files

ROOT = Path(__file__).parents[1]
FILM, BARS = ROOT / "docs/films/robot.gif", ROOT / "docs/pictures/few_actions.png"
RESULTS = ROOT / "benchmarks/results/closed_loop.json"

TASKS = {
    "metaworld/drawer-open": "open the drawer",
    "metaworld/window-open": "slide the window open",
    "metaworld/button-press-topdown": "press the button from above",
    "metaworld/door-open": "open the door",
}
ROWS = (  # regime, row, what stands next to its bar
    ("plentiful", "baseline", "all 19 demonstrations with actions"),
    ("action-free", "baseline", "2 with actions, 17 not used"),
    ("action-free", "la_align", "2 with actions, 17 as video: LA-Align"),
    ("action-free", "la_align-shuffled", "control: labels of another episode"),
)
SIDE, GAP, TEXT, ROW = 200, 8, 26, 12  # pixels: a picture, between columns, the instruction, a row of codes
FASTER, HELD = 4, 12  # one frame of so many is shown; for so many the last one stays
CODES = (plt.get_cmap("tab20")(range(16))[:, :3] * 255).astype(np.uint8)


def column(film: np.ndarray, codes: np.ndarray, moment: int, longest: int, said: str) -> Image.Image:
    """Draw one task at a moment: instruction, camera image, and the codes [T, P] until then."""
    moment = min(moment, len(film) - 1)
    image = Image.new("RGB", (SIDE, TEXT + SIDE + GAP + ROW * codes.shape[1]), "white")
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 13)
    ImageDraw.Draw(image).text((2, 4), f"“{said}”", "black", font)
    image.paste(Image.fromarray(film[moment][:, :128]).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (0, TEXT))
    strip = np.full((codes.shape[1], longest, 3), 238, np.uint8)
    strip[:, : moment + 1] = CODES[codes[: moment + 1].T]
    size = (SIDE, ROW * codes.shape[1])
    image.paste(Image.fromarray(strip).resize(size, Image.Resampling.NEAREST), (0, TEXT + SIDE + GAP))
    return image


def film() -> None:
    """Let the policy act in each task, label its video, and write both side by side."""
    from lattok import sim  # an extra

    lam = lattok.ImageLAM.from_pretrained("sample/lam")
    played = sim.rollout(lattok.load("sample/policy"), [*TASKS], 1, videos=1)
    films = {episode.task: film for episode, film in played.films.items()}  # [T, H, V W, 3]
    codes = {}
    for task, frames in films.items():
        video = np.stack(np.split(frames, len(lam.cameras), axis=2), 1)  # [T, V, H, W, 3]
        codes[task] = np.asarray(lam.label_video(video, lam.stride_frames(played.fps[task])).codes)
    longest = max(map(len, films.values()))
    pictures = []
    for moment in range(0, longest, FASTER):
        columns = [column(films[task], codes[task], moment, longest, said) for task, said in TASKS.items()]
        pictures.append(
            np.concatenate(
                [np.pad(np.asarray(each), [(0, 0), (0, GAP), (0, 0)], constant_values=255) for each in columns], axis=1
            )
        )
    palette = Image.fromarray(pictures[-1]).quantize(128, Image.Quantize.MEDIANCUT)
    shown = [Image.fromarray(each).quantize(palette=palette, dither=Image.Dither.NONE) for each in pictures]
    times = [1000 * FASTER // 80] * (len(shown) - 1) + [HELD * 1000 * FASTER // 80]
    with files.whole_file(FILM) as path:
        shown[0].save(path, "GIF", save_all=True, append_images=shown[1:], duration=times, loop=0, optimize=True)


def bars() -> None:
    """Draw the success of `ROWS`, each with its 95 % interval over seeds."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    figure, axes = plt.subplots(figsize=(7.2, 2.2), dpi=110, layout="constrained")
    for place, (regime, row, _) in enumerate(ROWS):
        mean, half, _, seeds = found[regime][row]["success"]
        color = "#bbbbbb" if "-" in row else "#1f77b4"
        axes.barh(place, mean, xerr=half, color=color, height=0.6, error_kw={"capsize": 3, "elinewidth": 1})
        axes.text(0.02, place, f"{mean:.2f} ± {half:.2f}", va="center", color="white" if "-" not in row else "black")
    axes.set_yticks(range(len(ROWS)), [said for _, _, said in ROWS])
    axes.set(xlim=(0, 1), xlabel=f"success of rollouts, mean of {seeds} seeds with 95 % interval")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    with files.whole_file(BARS) as path:
        figure.savefig(path, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("film", "bars"))
    {"film": film, "bars": bars}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
