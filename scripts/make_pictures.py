"""What README and the studies show: a film of `sample/policy` with the codes of `sample/lam`, and results as bars.

python scripts/make_pictures.py film  # docs/films/robot.gif; a minute on one core, with the extras sim and notebooks
python scripts/make_pictures.py bars  # docs/pictures/*.png, from the runs in studies/results
"""

import argparse
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import lattok
from lattok.utils import files
from studies.comparisons import read, successes
from studies.statistics import Interval

ROOT = Path(__file__).parents[1]
FILM, RESULTS = ROOT / "docs/films/robot.gif", ROOT / "studies/results"

TASKS = {
    "metaworld/drawer-open": "open the drawer",
    "metaworld/window-open": "slide the window open",
    "metaworld/button-press-topdown": "press the button from above",
    "metaworld/door-open": "open the door",
}
ALL = ("closed_loop", "plentiful", "baseline", "all 19 demonstrations with actions")
ALIGNED = ("closed_loop", "action-free", "la_align", "2 with actions, 17 as video: LA-Align")
TOKENS = ("acting_by_tokens", "acting_by_tokens_again")  # whose Baseline has the settings of the study of few actions
SUBJECTS = {"la_align": "la_align", "few_actions": "idm"}  # the row that a picture is about: its bar is blue
BARS = {  # picture: study (or several, with other seeds), regime, row, and what stands next to its bar
    "la_align": (
        ALL,
        ("closed_loop", "action-free", "baseline", "2 with actions, 17 not used"),
        ALIGNED,
        ("closed_loop", "action-free", "la_align-shuffled", "control: labels of another episode"),
    ),
    "few_actions": (
        (TOKENS, *ALL[1:]),
        ("few_actions", "action-free", "idm", "2 with actions, 17 as video: actions inferred"),
        ALIGNED,
        ("few_actions", "action-free", "baseline", "2 with actions, 17 not used"),
    ),
}
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
    """Draw the success of the rows of each picture, with 95 % intervals over seeds."""
    for name, rows in BARS.items():
        figure, axes = plt.subplots(figsize=(7.2, 2.2), dpi=110, layout="constrained")
        for place, (study, regime, row, _) in enumerate(rows):
            runs = {}
            for each in [study] if isinstance(study, str) else study:
                runs |= successes(read(RESULTS / each)[regime][row])
            mean, half, _, seeds = Interval.of(list(runs.values()))
            subject = row == SUBJECTS[name]
            color = "#1f77b4" if subject else "#bbbbbb"
            axes.barh(place, mean, xerr=half, color=color, height=0.6, error_kw={"capsize": 3, "elinewidth": 1})
            text = f"{mean:.2f} ± {half:.2f}, {seeds} seeds"
            axes.text(0.02, place, text, va="center", color="white" if subject else "black")
        axes.set_yticks(range(len(rows)), [said for *_, said in rows])
        axes.set(xlim=(0, 1), xlabel="success of rollouts, mean of seeds with 95 % interval")
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        with files.whole_file(ROOT / f"docs/pictures/{name}.png") as path:
            figure.savefig(path, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("film", "bars"))
    {"film": film, "bars": bars}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
