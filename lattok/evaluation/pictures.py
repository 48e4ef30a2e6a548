"""The pictures of the page: what is drawn, from which numbers. How it is drawn is in `svg`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from lattok.data import ActionWindows
from lattok.evaluation import svg
from lattok.evaluation.dependence import exchanged
from lattok.evaluation.pairs import PairSet, pair_features
from lattok.evaluation.report import Pictures
from lattok.image_lam import ImageLAM

EPISODES, DIMENSIONS, STEPS, POINTS = 3, 16, 400, 400  # what fits on a page
EXAMPLES, THUMBNAIL = 4, 128
KINDS = {"model": "model", "kmeans": "rival", "uniform_bins": "control", "fast": "control", "mean": "control"}


def trajectories(windows: ActionWindows, decoded: Tensor, kmeans: Tensor | None) -> tuple[Pictures, ...]:
    """Chunks put end to end [N, H, m] against the true actions, first steps of up to three held-out episodes.

    `kmeans` [F, m] is the control's version of every action in `windows.actions`.
    """
    # one window per frame, so that a window's number is also its action's row
    order = np.sort(np.unique(windows.episode_of, return_index=True)[1])
    found = []
    for start in order[np.linspace(0, len(order) - 1, min(EPISODES, len(order))).round().astype(int)]:
        length = int((windows.episode_of == windows.episode_of[start]).sum())
        steps = min(length, STEPS)
        ends = range(start, start + steps, windows.horizon)
        joined = torch.cat([decoded[i] for i in ends])[:steps]
        true = windows.actions[start : start + steps]
        panels = []
        for dim, name in enumerate(windows.action_names[:DIMENSIONS]):
            curves = [("truth", true[:, dim].tolist()), ("model", joined[:, dim].tolist())]
            if kmeans is not None:
                curves.insert(0, ("rival faint", kmeans[start : start + steps, dim].tolist()))
            panels.append(svg.lines(name, curves, "steps"))
        caption = (
            f"Episode {windows.episode_of[start]}, {'first ' if steps < length else ''}{steps} steps, physical units: "
            "{truth} true, {model} tokenizer, {rival} k-means control."
        )
        found.append(Pictures(caption, tuple(panels)))
    return tuple(found)


def error_bars(names: Sequence[str], methods: Sequence[tuple[str, str, list[float] | None]]) -> Pictures:
    """Normalised MSE per dimension, one panel each."""
    panels = [
        svg.bars(name, [(title, KINDS[key], each[i] if each else None) for title, key, each in methods], ".3g")
        for i, name in enumerate(names[:DIMENSIONS])
    ]
    return Pictures("Normalised squared error per dimension; shorter is better.", tuple(panels))


def usage_curve(methods: Sequence[tuple[str, str, list[float]]], size: int) -> Pictures:
    """Sorted share of each code."""
    curves = [(KINDS[key] + (" faint" if key != "model" else ""), shares) for _, key, shares in reversed(methods)]
    panel = svg.lines("share of the held-out tokens", curves, f"codes, most used first (of {size})", 200)
    return Pictures("Sorted code usage: {model} tokenizer, {rival} k-means control.", (panel,), wide=True)


def usage_heat(streams: Sequence[tuple[str, Tensor]], size: int) -> Pictures:
    """Share of every code at every position: (name, codes [N, P])."""
    panels = []
    for name, codes in streams:
        shares = [(torch.bincount(column, minlength=size).double() / len(codes)).tolist() for column in codes.T]
        panels.append(svg.heat(name, shares, [str(i + 1) for i in range(len(shares))]))
    return Pictures("Usage per position (rows) and code (columns); a dashed cell is never used.", tuple(panels))


def probe_bars(names: Sequence[str], probes: Sequence[tuple[str, str, list[float] | None]]) -> Pictures:
    """R² per dimension, one panel each: (name, class, values)."""
    panels = [
        svg.bars(name, [(title, kind, each[i] if each else None) for title, kind, each in probes], ".2f")
        for i, name in enumerate(names[:DIMENSIONS])
    ]
    return Pictures("Held-out R² of linear probes per action dimension; longer is better.", tuple(panels))


def probe_scatter(names: Sequence[str], predicted: Tensor, actual: Tensor) -> Pictures:
    """Predicted against true mean action [N, m], one panel per dimension."""
    chosen = torch.linspace(0, len(actual) - 1, min(POINTS, len(actual))).round().long()
    panels = [
        svg.scatter(name, actual[chosen, i].tolist(), predicted[chosen, i].tolist(), ("true", "from the codes"))
        for i, name in enumerate(names[:DIMENSIONS])
    ]
    return Pictures("Mean action over the gap, read from the one-hot codes of held-out pairs.", tuple(panels))


def dependence_bars(rows: Sequence[tuple[str, str, float | None]]) -> Pictures:
    """Prediction loss as a share of copying the first frame."""
    panel = svg.bars("loss ÷ copying the first frame", rows, ".3f", "not run")
    return Pictures(
        "Shorter is better. What the model gains over the orange bar is what its latents tell it.", (panel,)
    )


def examples(model: ImageLAM, held_out: PairSet) -> Pictures:
    """A few held-out pairs with their codes; with pixel features also the predicted frame."""
    count = len(held_out.rows)
    rows = torch.linspace(0, count - 1, min(EXAMPLES, count) * 2 + 1).round().long()[1::2]  # middles of equal parts
    frames = held_out.frames.batch(torch.from_numpy(held_out.rows)[rows]).frames  # b 2 v h w 3
    columns = [("now", frames[:, 0]), ("later", frames[:, 1])]
    if model.features.name == "pixels":
        columns.append(("predicted", predicted_frames(model, held_out, rows)))
    panels = []
    for i, row in enumerate(rows.tolist()):
        codes = " ".join(map(str, held_out.latents.codes[row].tolist())) or "none"
        cells = "".join(
            f'<td><img alt="{escape(f"{camera}, {name}", quote=True)}" src="{jpeg(images[i, v])}"></td>'
            if name
            else "</tr><tr>"
            for v, camera in enumerate(model.cameras)
            for name, images in (*columns, ("", frames))
        )
        head = "".join(f"<th>{name}</th>" for name, _ in columns)
        where = f"episode {held_out.episode_of[row]}, frame {held_out.frames.frame_of[held_out.rows[row]]}"
        table = f"<table><tr>{head}</tr><tr>{cells}</tr></table>"
        panels.append(f'<div class="strip"><p>{where}<br>codes <b>{codes}</b></p>{table}</div>')
    cameras = ", ".join(model.cameras)
    return Pictures(f"Held-out pairs and their codes; one row per camera ({escape(cameras)}).", tuple(panels))


@torch.no_grad()
def predicted_frames(model: ImageLAM, held_out: PairSet, rows: Tensor) -> Tensor:
    """The decoder's later frame for pairs `rows` [B], from pixel features back to uint8 [B, V, h, w, 3]."""
    features = model.features
    now = pair_features(model, held_out, rows)[:, 0]
    pick = held_out.latents
    patches = model.predict(now, exchanged(pick, rows, rows, 1.0, 1.0, now.device))
    side = round(features.count**0.5)
    pixels = rearrange(
        patches, "b (v y x) (p q c) -> b v (y p) (x q) c", y=side, x=side, p=features.patch, q=features.patch
    )
    return ((pixels * features.std + features.mean).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def jpeg(image: Tensor, height: int = THUMBNAIL, quality: int = 85) -> str:
    """uint8 [h, w, 3] as a data address, at most `height` pixels high."""
    picture, data = Image.fromarray(image.numpy()), BytesIO()
    if picture.height > height:
        picture = picture.resize((round(height * picture.width / picture.height), height))
    picture.save(data, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()


def separation_bars(rows: Sequence[tuple[str, str, float | None, float]]) -> Pictures:
    """R² of the action and of the distractor side by side: (name, class, action, distractor)."""
    panels = []
    if any(action is not None for _, _, action, _ in rows):
        panels.append(svg.bars("action, with a distractor", [(n, kind, a) for n, kind, a, _ in rows], ".2f"))
    panels.append(svg.bars("motion of the distractor", [(n, kind, d) for n, kind, _, d in rows], ".2f"))
    return Pictures(
        "R² under a moving distractor. Left long is good; right, short for the actions' codes.", tuple(panels)
    )
