"""What README and the studies show: a film of missing actions, inferred, and of a robot that acts; results as bars.

python scripts/make_pictures.py film  # docs/films/robot.gif; a minute on one core, with the extras sim and notebooks
python scripts/make_pictures.py bars  # docs/pictures/*.png, from the runs in studies/results
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

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

TASKS = {"metaworld/drawer-open": "open the drawer", "metaworld/button-press-topdown": "press the button from above"}
WATCHED = {24: "open the drawer", 49: "slide the window open"}  # held-out demonstrations by episode
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
SIDE, GAP, TEXT, ROW = 200, 8, 48, 12  # pixels: a picture, between columns, what stands above it, a row below it
ROWS = 4  # below a picture: positions of codes, or axes of an action
FASTER, HELD = 4, 12  # one frame of so many is shown; for so many the last one stays
REACH = 0.15  # metres that an arrow shows of an action of 1
INFERRED, TRUE = (31, 119, 180), (255, 255, 255)
CAMERA: dict[
    str, Any
] = {  # MuJoCo's place, axes and field of view, degrees, of Meta-World's corner2 where LeRobot has it
    "place": (0.75, 0.075, 0.7),
    "axes": ((-0.5499, 0.3762, 0.7457), (-0.8332, -0.3095, -0.4582), (0.0584, -0.8733, 0.4837)),
    "field": 60,
}
CODES = (plt.get_cmap("tab20")(range(16))[:, :3] * 255).astype(np.uint8)


def panel(picture: np.ndarray, title: str, said: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Draw a camera image below its title and instruction."""
    image = Image.new("RGB", (SIDE, TEXT + SIDE + GAP + ROW * ROWS), "white")
    draw = ImageDraw.Draw(image)
    draw.text((2, 3), title, "black", font(19, "-Bold"))  # can be read on a phone
    draw.text((2, 28), f"“{said}”", "black", font(13))
    image.paste(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.LANCZOS), (0, TEXT))
    return image, draw


def font(size: int, weight: str = "") -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / f"fonts/ttf/DejaVuSans{weight}.ttf"), size)


def acting(film: np.ndarray, codes: np.ndarray, moment: int, longest: int, said: str) -> Image.Image:
    """Draw a policy that acts at a moment, and the codes [T, P] until then."""
    moment = min(moment, len(film) - 1)
    image, _ = panel(film[moment][:, :128], "policy acts", said)
    strip = np.full((ROWS, longest, 3), 238, np.uint8)
    strip[:, : moment + 1] = CODES[codes[: moment + 1].T]
    image.paste(Image.fromarray(strip).resize((SIDE, ROW * ROWS), Image.Resampling.NEAREST), (0, TEXT + SIDE + GAP))
    return image


class Watched(NamedTuple):
    """A demonstration without actions: film [T, H, W, 3], pixels of the hand [T, 2], and what an action of 1 in x, y
    or z moves it by [T, 3, 2]; actions as they were and as they are inferred [T, D]."""

    film: np.ndarray
    hand: np.ndarray
    axes: np.ndarray
    true: np.ndarray
    inferred: np.ndarray

    def draw(self, moment: int, longest: int, said: str) -> Image.Image:
        """Draw the image of a moment with both actions as arrows, and their x, y and z until then below."""
        moment = min(moment, len(self.film) - 1)
        image, draw = panel(self.film[moment], "read from video", said)
        start = self.hand[moment] + (0, TEXT)
        for action, color, width in ((self.true, TRUE, 5), (self.inferred, INFERRED, 3)):
            end = start + np.clip(action[moment, :3], -1, 1) @ self.axes[moment]
            draw.line([*start, *end], color, width)
            draw.ellipse([*(end - width), *(end + width)], color)
        for axis in range(3):
            middle = TEXT + SIDE + GAP + (axis + 0.5) * ROW * ROWS / 3
            for action, color, width in ((self.true, (170, 170, 170), 3), (self.inferred, INFERRED, 1)):
                values = np.clip(action[: moment + 1, axis], -1, 1)
                places = np.arange(moment + 1) * SIDE / longest, middle - values * ROW * ROWS / 8
                draw.line(np.stack(places, 1).ravel().tolist(), color, width)
        return image


def watched(episode: int) -> Watched:
    """Infer the actions of a held-out demonstration from its video."""
    dataset, model = lattok.open_dataset("sample/dataset"), lattok.InverseDynamics.from_pretrained("sample/idm")
    found = dataset.columns(episode, ["observation.state", "action"])
    place = found["observation.state"][:, :3]
    hand, *moved = (seen_at(place + step) for step in (np.zeros(3), *(REACH * np.eye(3))))
    actions = np.asarray(model.infer_actions(dataset.frames(episode, model.cameras), fps=dataset.fps).actions)
    frames = dataset.frames(episode, ["corner2"])[:, 0]
    return Watched(frames, hand, np.stack(moved, 1) - hand[:, None], found["action"], actions)


def seen_at(points: np.ndarray) -> np.ndarray:
    """Return the pixels [T, 2] of points [T, 3] in a picture of the camera `corner2`, which the sample shows turned."""
    aside, up, back = np.array(CAMERA["axes"]).T
    from_camera = points - CAMERA["place"]
    depth = -from_camera @ back
    focal = SIDE / 2 / np.tan(np.radians(CAMERA["field"]) / 2)
    return SIDE / 2 - focal * np.stack([from_camera @ aside / depth, -(from_camera @ up) / depth], -1)


def film() -> None:
    """Infer the actions of demonstrations, let the policy act, label its video, and write all side by side."""
    from lattok import sim  # an extra

    lam = lattok.ImageLAM.from_pretrained("sample/lam")
    played = sim.rollout(lattok.load("sample/policy"), [*TASKS], 1, videos=1)
    films = {episode.task: film for episode, film in played.films.items()}  # [T, H, V W, 3]
    codes = {}
    for task, frames in films.items():
        video = np.stack(np.split(frames, len(lam.cameras), axis=2), 1)  # [T, V, H, W, 3]
        codes[task] = np.asarray(lam.label_video(video, lam.stride_frames(played.fps[task])).codes)
    seen = {episode: watched(episode) for episode in WATCHED}
    longest = max(*map(len, films.values()), *(len(each.film) for each in seen.values()))
    pictures = []
    for moment in range(0, longest, FASTER):
        columns = [seen[episode].draw(moment, longest, said) for episode, said in WATCHED.items()]
        columns += [acting(films[task], codes[task], moment, longest, said) for task, said in TASKS.items()]
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
