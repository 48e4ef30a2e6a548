"""`lattok train vla --study`: all strategies and controls with one seed, data order, backbone and head, in one table.

Runs that are finished are not repeated: an interrupted study goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lattok import checks, files
from lattok.data import split_by_task
from lattok.evaluation.policy import policy_errors
from lattok.evaluation.svg import WIDTH, lines
from lattok.hub import CONFIG
from lattok.normalize import Normalizer
from lattok.recipes.vla import HELD_OUT, PolicyBatches, VLARecipe, labels_of, read_windows, train_vla
from lattok.runlog import METRICS
from lattok.training import RECIPE, RUN, fit
from lattok.types import LossTerms, PolicyBatch
from lattok.vla import STRATEGIES
from lattok.vla.config import PROMPT
from lattok.vla.losses import action_loss

RESULTS, TABLE, CURVES = "study.json", "study.md", "study.svg"
BLIND, PROPRIO = "blind", "proprio_mlp"
NAMES = {
    "baseline": "Baseline",
    "ph_direct": "PH-Direct",
    "ph_cond": "PH-Cond",
    "la_align": "LA-Align",
    "la_direct": "LA-Direct",
    "la_cond": "LA-Cond",
    "la_tok": "LA-Tok",
    "la_direct_c": "LA-Direct(C)",
    "la_tok_c": "LA-Tok(C)",
    BLIND: "*control:* baseline without instructions",
    PROPRIO: "*control:* MLP on proprio alone",
}


class ProprioPolicy(nn.Module):
    """Control: two hidden layers from proprio to the chunk, nothing seen and nothing read."""

    def __init__(self, proprio_dim: int, horizon: int, action_dim: int, width: int = 256):
        super().__init__()
        chunk = (nn.Linear(width, horizon * action_dim), nn.Unflatten(1, (horizon, action_dim)))
        self.net = nn.Sequential(nn.Linear(proprio_dim, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), *chunk)
        self.proprio_normalizer, self.action_normalizer = Normalizer(proprio_dim), Normalizer(action_dim)

    def forward(self, batch: PolicyBatch) -> LossTerms:
        """The action loss of a policy."""
        predicted = self.net(self.proprio_normalizer(batch.proprio))
        return {"action": action_loss(predicted, self.action_normalizer(batch.actions), batch.valid)}

    @torch.no_grad()
    def predict_chunk(self, batch: PolicyBatch) -> Tensor:
        """Chunks [B, H, m] in physical units."""
        return self.action_normalizer.inverse(self.net(self.proprio_normalizer(batch.proprio)))


@dataclass(frozen=True)
class Row:
    """A run of the study."""

    name: str
    errors: dict[str, Any]  # what held_out.json says
    last: dict[str, float]  # what was logged last

    @property
    def cells(self) -> list[str]:
        """Of the table."""
        errors = self.errors
        latent = errors.get("latent", {})
        learnt = next((f"{kind.removeprefix('latent_')} {latent[kind]:.2f}" for kind in latent if "_" in kind), "–")
        seconds = 1 / self.last["steps_per_second"] if self.last.get("steps_per_second") else None
        return [
            NAMES.get(self.name, self.name),
            f"{errors['error']:.3f}",
            f"{errors['gain']:.0%}",
            f"{errors['by_step'][0]:.3f}",
            f"{errors['by_step'][-1]:.3f}",
            learnt,
            "–" if seconds is None else f"{seconds:.3f}",
        ]


def train_study(
    recipe: VLARecipe, resume: bool = False, resume_command: str = "", strategies: Sequence[str] = tuple(STRATEGIES)
) -> None:
    """Train every strategy and the controls into folders of `recipe.out`; write the table and the curves there."""
    out = recipe.folder(resume)
    dataset = recipe.open_labelled()
    if recipe.data.episodes != "train" or not split_by_task(dataset)[1]:
        expected = "train, with an episode of every task to spare"
        checks.fail("episodes", expected, recipe.data.episodes, "A study compares on held-out episodes.")
    runs = {name: _member(recipe, name) for name in strategies}
    for member in runs.values():  # labels that are missing are an error now, not after hours
        labels_of(member, dataset)
    recipe.begin(resume, recipe.open())
    runs[BLIND] = _member(recipe, "baseline", BLIND, prompt=PROMPT.replace("{task} ", ""))
    for name, member in runs.items():
        if not (out / name / HELD_OUT).is_file():
            print(f"\n== {NAMES[name]}", flush=True)
            folder = Path(member.out)
            begun = (folder / RUN / RECIPE).is_file() and not (folder / CONFIG).is_file()
            train_vla(member, begun, resume_command)
    if recipe.data.proprio and not (out / PROPRIO / HELD_OUT).is_file():
        print(f"\n== {NAMES[PROPRIO]}", flush=True)
        _train_proprio(replace(runs["baseline"] if "baseline" in runs else runs[BLIND], out=str(out / PROPRIO)))
    names = [*runs, *([PROPRIO] if recipe.data.proprio else [])]
    write_table(out, [_row(out, name) for name in names])


def _member(recipe: VLARecipe, strategy: str, name: str | None = None, **model: Any) -> VLARecipe:
    """The recipe of one run. Layer and weight are each strategy's own."""
    data = replace(recipe.data, strategy=strategy, layer=None, latent_weight=None)
    return replace(recipe, out=str(Path(recipe.out) / (name or strategy)), data=data, model={**recipe.model, **model})


def _train_proprio(recipe: VLARecipe) -> None:
    """The control that sees only proprio, with the same batches and the same loop."""
    dataset, out = recipe.open_labelled(), Path(recipe.out)
    windows = read_windows(recipe, dataset, None, "latent")
    if windows.states is None:
        raise RuntimeError("a control on proprio without proprio")
    torch.manual_seed(recipe.loop.seed)
    model = ProprioPolicy(windows.states.shape[1], windows.horizon, windows.actions.shape[1])
    kind = recipe.model.get("normalize", "quantile")
    model.action_normalizer.fit(windows.actions, kind)
    model.proprio_normalizer.fit(windows.states, kind)
    fit(model, PolicyBatches(windows, recipe), recipe.loop, out, loss_weights={"action": 1.0}, resume=out.exists())
    held_out = read_windows(recipe, dataset, None, "latent", episodes="test")
    errors = policy_errors(model.cpu().predict_chunk, windows, held_out, recipe.data.eval_key or recipe.data.action_key)
    files.write_json(out / HELD_OUT, errors.to_json())
    print(errors.text)


def _row(out: Path, name: str) -> Row:
    logged = _metrics(out / name)
    return Row(name, files.read_json(out / name / HELD_OUT), logged[-1])


def _metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / RUN / METRICS).read_text(encoding="utf-8").splitlines()]


def write_table(out: Path, rows: Sequence[Row]) -> None:
    """study.json, study.md and study.svg of finished runs."""
    key, mean = rows[0].errors["key"], rows[0].errors["mean_action"]
    head = ["run", f"held-out error against `{key}`", "below the mean action", "first step", "last step"]
    head += ["latent actions, held out", "seconds a step"]
    table = [head, ["---"] * len(head), *(row.cells for row in rows)]
    table += [["*control:* mean action", f"{mean:.3f}", "0%", "–", "–", "–", "–"]]
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
    note = f"Mean squared error in units of the variance of the training actions; {rows[0].errors['windows']} windows."
    files.write_text(out / TABLE, f"{text}\n\n{note}\n\n![Losses]({CURVES})\n")
    files.write_text(out / CURVES, curves({row.name: _metrics(out / row.name) for row in rows}))
    results = {row.name: {"held_out": row.errors, "last": row.last} for row in rows}
    files.write_json(out / RESULTS, results)
    print(f"\n{text}\n\n{note}")


def curves(runs: dict[str, list[dict[str, float]]], columns: int = 3) -> str:
    """Losses of every run, small multiples in one SVG: action in blue, latent in orange, on a logarithmic scale."""
    height, panels = 150, []
    for i, (name, logged) in enumerate(runs.items()):
        found = {kind: [entry[f"loss/{kind}"] for entry in logged if f"loss/{kind}" in entry] for kind in COLOURS}
        logs = [(kind, [_log10(value) for value in values]) for kind, values in found.items() if values]
        steps = logged[-1]["step"]
        panel = lines(f"{NAMES[name].replace('*', '')}, log10", logs, f"{steps:g} steps", height)
        x, y = (i % columns) * (WIDTH + 20), (i // columns) * (height + 10)
        panels.append(panel.replace("<svg ", f'<svg x="{x}" y="{y}" width="{WIDTH}" height="{height}" ', 1))
    rows = -(-len(panels) // columns)
    width, tall = columns * (WIDTH + 20), rows * (height + 10)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 -6 {width} {tall + 6}" width="{width}" '
        f'font-family="sans-serif" font-size="11"><style>{STYLE}</style>'
        f'<rect x="-10" y="-6" width="100%" height="100%" fill="#fff"/>{"".join(panels)}</svg>\n'
    )


COLOURS = {"action": "#2563eb", "latent": "#ea7317"}
STYLE = ".t{font-weight:600}.m{fill:#666}.grid{stroke:#ddd;fill:none}.line{fill:none;stroke-width:1.6}" + "".join(
    f".{kind}{{stroke:{colour}}}" for kind, colour in COLOURS.items()
)


def _log10(value: float) -> float:
    return float(torch.log10(torch.tensor(max(value, 1e-9))))
