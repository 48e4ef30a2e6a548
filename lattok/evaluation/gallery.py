"""What a code looks like: for the codes used most at each position, held-out pairs that are typical of it."""

from __future__ import annotations

from html import escape

import torch
from torch import Tensor

from lattok.evaluation.latent import Evidence
from lattok.evaluation.pictures import jpeg
from lattok.evaluation.report import Pictures, Section, printed

POSITIONS, CODES, CLIPS, CAMERAS = 4, 4, 3, 2  # what fits on a page of 3 MB
SIDE, QUALITY = 64, 70


def gallery(evidence: Evidence) -> Section:
    """Pictures per position; the first one is open."""
    codes = evidence.held_out.latents.codes
    shown = []
    for position in range(min(POSITIONS, codes.shape[1])):
        counts = torch.bincount(codes[:, position], minlength=evidence.size)
        most = counts.argsort(descending=True, stable=True)[:CODES]
        panels = tuple(_panel(evidence, position, int(code)) for code in most if counts[code])
        shown.append(
            Pictures(
                f"The {len(panels)} codes used most at position {position + 1}. Before | after, one clip per row.",
                panels,
                title=f"Position {position + 1}",
                folded=position > 0,
            )
        )
    text = (
        "Held-out pairs whose latents are nearest to the middle of all pairs with that code, each from another "
        "episode where there are enough. Mean action: in standard deviations from the training mean. Codes of a "
        "residual quantizer refine one another, so that later positions look less pure."
    )
    return Section("What do single codes look like?", text, (), tuple(shown))


def typical(evidence: Evidence, position: int, code: int) -> list[int]:
    """Rows of held-out pairs with a code, nearest first to the mean latent of all of them, one per episode first."""
    latents, episodes = evidence.held_out.latents, evidence.held_out.episode_of
    rows = (latents.codes[:, position] == code).nonzero()[:, 0]
    flat = latents.latents[rows].flatten(1)
    order = rows[(flat - flat.mean(0)).square().sum(1).argsort(stable=True)].tolist()
    first = {}
    for row in order:
        first.setdefault(int(episodes[row]), row)
    chosen = list(first.values())
    return (chosen + [row for row in order if row not in chosen])[:CLIPS]


def _panel(evidence: Evidence, position: int, code: int) -> str:
    held_out, cameras = evidence.held_out, evidence.model.cameras[:CAMERAS]
    rows = typical(evidence, position, code)
    frames = held_out.frames.batch(torch.from_numpy(held_out.rows[rows])).frames  # b 2 v h w 3
    lines = []
    for row, pair in zip(rows, frames, strict=True):
        where = f"episode {held_out.episode_of[row]}, frame {held_out.frames.frame_of[held_out.rows[row]]}"
        images = "".join(
            f'<img alt="{escape(f"{camera}, {moment}", quote=True)}" src="{jpeg(pair[i, v], SIDE, QUALITY)}">'
            for v, camera in enumerate(cameras)
            for i, moment in enumerate(("before", "after"))
        )
        lines.append(f'<div title="{escape(where, quote=True)}">{images}</div>')
    used = held_out.latents.codes[:, position] == code
    head = f"<p>code <b>{code}</b> · {int(used.sum())} pairs{_mean_action(evidence, used)}</p>"
    return f'<div class="strip">{head}<div class="gallery">{"".join(lines)}</div></div>'


def _mean_action(evidence: Evidence, used: Tensor) -> str:
    """The three dimensions in which the pairs' actions depart most from the training mean."""
    if evidence.target is None:
        return ""
    train = evidence.target.train
    scaled = (evidence.target.held_out[used].mean(0) - train.mean(0)) / train.std(0).clamp_min(1e-9)
    top = scaled.abs().argsort(descending=True)[:3]
    parts = (f"{escape(evidence.names[int(i)])} {printed(float(scaled[i]), '+.1f')}" for i in top)
    return f"<br>mean action {', '.join(parts)}"
