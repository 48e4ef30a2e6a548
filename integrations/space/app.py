"""A Space: upload a clip of each camera, see the codes of what changes in it, and where it moves.

    python app.py            # LATTOK_MODEL names another latent action model: a folder or a Hub id

Codes are the model's. Arrows are not: they are the motion that block matching finds between the same two frames, so
that one can see what a code goes with.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
import matplotlib
import numpy as np
import torch
from PIL import Image

import lattok
from lattok.data.schema import short_name
from lattok.data.video import probe
from lattok.evaluation.page import document
from lattok.evaluation.page.episode import EpisodeCodes, EpisodeView, episode_panel
from lattok.image_lam.base.losses import CELLS, SIDE, block_flow
from lattok.image_lam.base.trained import TrainedPairModel
from lattok.types import VideoLabeller
from lattok.utils import checks
from lattok.utils.checks import LattokError

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MOMENTS, LONGEST, EXAGGERATED = 6, 600, 3  # pictures, frames of a clip, length of arrows
LARGEST = 100_000_000  # pixels of all frames of a clip: in memory 300 MB

NAME = os.environ.get("LATTOK_MODEL", "sample/lam")


def opened(name: str) -> tuple[Any, Any]:
    """Return a model that reads codes from video as `lattok.load` gives it, and its faster form where it has one."""
    found: Any = lattok.load(name)
    if isinstance(found, VideoLabeller) and found.cameras and found.codebook_size is not None:
        fast = lattok.for_inference(found) if isinstance(found, TrainedPairModel) else found
        black = np.zeros((2, len(found.cameras), SIDE, SIDE, 3), np.uint8)
        if fast.label_video(black, fps=1000.0).codes.shape[1]:  # a bottleneck may have none
            return found, fast
    return checks.fail("LATTOK_MODEL", "a latent action model that reads codes from video", f"{name} ({found.type})")


try:
    loaded, model = opened(NAME)
except LattokError as error:
    sys.exit(f"lattok: {error}")
names = [short_name(camera) for camera in model.cameras]


def read(clips: list[str]) -> tuple[np.ndarray, float]:
    """Return frames uint8 [T, V, H, W, 3] of one clip for each camera, and their rate; as strict as any dataset."""
    views, rates = [], set()
    for name, clip in zip(names, clips, strict=True):
        if clip is None:
            raise LattokError(f"{name}: a clip of this camera is missing")
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copy(clip, folder))
            dataset = lattok.open_dataset(folder)
            length, facts = dataset.episodes[0].length, probe(copy)
            if length > LONGEST:
                raise LattokError(f"{name}: expected a clip of at most {LONGEST} frames, got {length}")
            if length * facts.width * facts.height > LARGEST:
                got = f"{length} of {facts.width} x {facts.height}. Upload a shorter or smaller clip."
                raise LattokError(f"{name}: expected frames of at most {LARGEST:,} pixels in all, got {got}")
            views.append(dataset.frames(0)[:, 0])
            rates.add(dataset.fps)
    if len({view.shape for view in views}) > 1 or len(rates) > 1:
        got = ", ".join(str(view.shape[:3]) for view in views)
        raise LattokError(f"expected clips of the same length, size and rate, got {got} [T, H, W]")
    return np.stack(views, 1), rates.pop()


def drawn(now: np.ndarray, later: np.ndarray, codes: list[int]) -> Image.Image:
    """Draw frame `now` [H, W, 3] with arrows of what moves until `later`."""
    pairs = torch.from_numpy(np.stack([[now, later], [now, now]]))[:, :, None]
    moved, still = block_flow(pairs).view(2, 2, CELLS, CELLS).numpy()  # pixels of a picture of SIDE
    flow = moved - still  # what edges alone seem to move
    height, width = now.shape[:2]
    places = (np.arange(CELLS) + 0.5) / CELLS
    x, y = np.meshgrid(places * width, places * height)
    figure, axis = plt.subplots(figsize=(3, 3 * height / width + 0.3))
    axis.imshow(now)
    long = flow * np.array([width, height])[:, None, None] / SIDE * EXAGGERATED
    axis.quiver(x, y, *long, color="#ffcc00", angles="xy", scale_units="xy", scale=1, width=0.012)
    axis.set(title=" ".join(map(str, codes)), xlim=(0, width), ylim=(height, 0))
    axis.axis("off")
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return Image.open(picture)


def label(*clips: str) -> tuple[str, list[Image.Image]]:
    """Return the films with their codes below, and pictures with arrows."""
    try:
        video, fps = read(list(clips))
        found = model.label_video(video, fps=fps)
    except LattokError as error:
        raise gr.Error(str(error), duration=None, print_exception=False) from None  # stays until it is closed
    codes, stride = np.asarray(found.codes), model.stride_frames(fps)
    valid = np.arange(len(codes)) < len(codes) - stride
    films = {name: video[:: -(-len(video) // 120), i] for i, name in enumerate(names)}
    title = f"{len(video)} frames at {fps:g} a second; what changes within {stride} frames"
    panel = episode_panel(
        EpisodeView(title, "", fps, np.arange(len(codes)), codes=[EpisodeCodes("code", codes, valid)]), films
    )
    page = document("lattok", [f'<div style="max-width: 40rem; margin: 0 auto">{panel}</div>'], "")
    moments = np.linspace(0, max(0, valid.sum() - 1), min(MOMENTS, max(1, valid.sum()))).round().astype(int).tolist()
    last = len(video) - 1
    pictures = [drawn(video[t, 0], video[min(t + stride, last), 0], codes[t].tolist()) for t in moments]
    return f'<iframe style="width:100%;height:520px;border:0" srcdoc="{escape(page, quote=True)}"></iframe>', pictures


def example() -> list[str]:
    """Write the first bundled episode as one clip for each camera; return the files."""
    from lattok.evaluation.page.episode import film

    dataset = lattok.open_dataset("sample/dataset")
    folder = Path(tempfile.mkdtemp())
    files = []
    for camera, name in zip(model.cameras, names, strict=True):
        files.append(str(folder / f"{name}.mp4"))
        Path(files[-1]).write_bytes(film(dataset.frames(0, [camera])[:, 0], dataset.fps))
    return files


with gr.Blocks(title="lattok: what changes in a video, in codes") as demo:
    gr.Markdown(
        "# What changes in a video, in codes\n"
        "Upload a clip of each camera. A latent action model reads, for every frame, short codes of what changes until "
        "a moment later. A colour is a code. Arrows show where block matching sees motion between the same two "
        "frames.\n\n"
        f"Model: `{NAME}`, {loaded.summary()}."
    )
    with gr.Row():
        uploads = [gr.Video(label=name) for name in names]
    button = gr.Button("Show the codes", variant="primary")
    shown = gr.HTML()
    gr.Markdown("Codes, and what moves, from the first frame to the last:")
    pictures = gr.Gallery(show_label=False, columns=MOMENTS, height=230)
    button.click(label, uploads, [shown, pictures])
    if all(camera in lattok.open_dataset("sample/dataset").cameras for camera in model.cameras):
        gr.Examples([example()], uploads, label="Or take this example")

if __name__ == "__main__":
    demo.launch()
