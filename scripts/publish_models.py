"""Train, judge and publish models of public robot data: one command on a machine with a GPU, again where it stopped.

    python scripts/publish_models.py list                                # what, of which data, hours and price
    python scripts/publish_models.py ORG --folder models                 # all of them; log in before: hf auth login
    python scripts/publish_models.py ORG --folder models --only bridge libero-beast --dry-run
    python scripts/publish_models.py ORG --folder trial --rehearse       # on the bundled sample, in minutes, on a CPU

Every model is `lattok train`, `lattok evaluate` on held-out episodes and `lattok push`, with the commands printed. Only
the rehearsal has been run so far: against a Hub on this machine, by a test.
"""

import argparse
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lattok.cli import main as lattok
from lattok.hub import CONFIG
from lattok.recipes import recipe_of
from lattok.training import RECIPE, RUN
from lattok.utils import files

RESULTS = Path(__file__).parents[1] / "benchmarks/results"
PUSHED = "pushed.json"


class Data(NamedTuple):  # a dataset of the Hub, and the camera of its models
    repo: str
    camera: str
    frames: int  # of the whole dataset, as its card says


class Model(NamedTuple):
    data: str
    kind: str
    preset: str
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.data}-{self.kind}"


DATA = {
    "bridge": Data("IPEC-COMMUNITY/bridge_orig_lerobot", "image_0", 1_893_026),
    "droid": Data("lerobot/droid_1.0.1", "exterior_1_left", 27_044_326),
    "libero": Data("HuggingFaceVLA/libero", "image", 273_465),
}
ON_GPU = ("--device", "cuda", "--precision", "bf16")
MODELS = [
    model
    for data in DATA
    for model in (
        Model(data, "image-lam", "small+robust+flow", ON_GPU),
        Model(data, "idm", "small", ON_GPU),
        Model(data, "action-vq", "p2t"),
        Model(data, "beast", "default"),
        Model(data, "fast", "default"),
        Model(data, "oat", "default"),
    )
]
TRIAL = {  # a rehearsal's preset and options
    "image-lam": ("tiny+robust", ("--features", "pixels", "--codebook-continuous-steps", "1")),
    "idm": ("tiny", ()),
    "action-vq": ("quick", ()),
}


def hours(model: Model) -> float | None:
    """Return hours of training on an H100, as its kind was measured there, or else by counted products at the rate that
    the image model reached; None where nothing counts or measures a step. Reading the data is not in it."""
    measured = json.loads((RESULTS / "gpu.json").read_text())["families"]
    if model.kind in measured:
        rate = measured[model.kind]["samples_per_s"]
    else:
        counts = json.loads((RESULTS / "launches.json").read_text())["published"]
        own, lam = counts.get(f"{model.kind}/{model.preset}"), counts["image-lam/small+robust+flow"]
        if own is None:
            return None
        rate = measured["image-lam"]["samples_per_s"] * lam["flop"] / own["flop"]
    loop = recipe_of(model.kind).from_preset("data", "out", model.preset).loop
    return loop.steps * loop.batch_size / rate / 3600


def commands(model: Model, org: str, folder: Path, rehearse: bool, dry_run: bool) -> Iterator[list[str]]:
    """Yield what makes a model public, without what is done already."""
    out, data, camera = folder / model.name, DATA[model.data].repo, DATA[model.data].camera
    preset, options = model.preset, model.options
    recipe = recipe_of(model.kind).from_preset("data", "out", preset)
    if rehearse:
        data, camera = "sample/dataset", "corner2"
        preset, options = TRIAL.get(model.kind, (preset, ()))
        options += ("--steps", "2") if "steps" in recipe.options() else ()
        options += ("--trial",) if "trial" in recipe.options() else ()  # nothing is claimed of it
    if not (out / CONFIG).is_file():
        words = ["train", model.kind, data, "--out", str(out)]
        words += ["--preset", preset] if preset != "default" else []
        words += ["--cameras", camera] if "cameras" in recipe.options() else []
        yield [*words, *options, *["--resume"] * (out / RUN / RECIPE).is_file()]
    if not (out / "report").is_dir():
        yield ["evaluate", str(out), data, *(["--max-episodes", "10"] if rehearse else [])]
    if dry_run or not (out / PUSHED).is_file():
        yield ["push", str(out), f"{org}/lattok-{model.name}", "--license", "apache-2.0", *["--dry-run"] * dry_run]


def publish(models: Sequence[Model], org: str, folder: Path, rehearse: bool, dry_run: bool) -> int:
    """Make all of them public; return the status of the command that failed, or 0."""
    for model in models:
        for words in commands(model, org, folder, rehearse, dry_run):
            print(f"\n$ {shlex.join(['lattok', *words])}", flush=True)
            if status := lattok(words):
                return status
            if words[0] == "push" and not dry_run:
                files.write_json(folder / model.name / PUSHED, {"repository": words[2]})
    return 0


def listing(price: float) -> str:
    """Return a table of the models: data, preset, hours on an H100, price."""
    rows = [f"| model | data | preset | hours | at {price:g} an hour |", "|---|---|---|---|---|"]
    total = 0.0
    for model in MODELS:
        took = hours(model)
        total += took or 0
        cells = ("not counted", "") if took is None else (f"{took:.1f}", f"{took * price:.0f}")
        rows.append(f"| {model.name} | {DATA[model.data].repo} | {model.preset} | {' | '.join(cells)} |")
    return "\n".join([*rows, f"| all that is counted | | | {total:.1f} | {total * price:.0f} |"])


def main(arguments: Sequence[str] | None = None) -> int:
    """List, or publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("org", metavar="ORG|list", help="who publishes, or `list`")
    parser.add_argument("--folder", type=Path, help="folder for the models")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="bridge, or bridge-idm, ...")
    parser.add_argument("--price", type=float, default=3.0, help="of an hour, for the list")
    parser.add_argument("--rehearse", action="store_true", help="on the bundled sample, a few steps, on a CPU")
    parser.add_argument("--dry-run", action="store_true", help="train and judge, and say what would be pushed")
    args = parser.parse_args(arguments)
    if args.org == "list":
        print(listing(args.price))
        return 0
    if args.folder is None:
        parser.error("--folder: where the models are kept")
    known = {*DATA, *(model.name for model in MODELS)}
    if unknown := [name for name in args.only if name not in known]:
        parser.error(f"--only: no model {unknown[0]}; there are {', '.join(sorted(known))}")
    chosen = [each for each in MODELS if not args.only or {each.data, each.name} & {*args.only}]
    return publish(chosen, args.org, args.folder, args.rehearse, args.dry_run)


if __name__ == "__main__":
    raise SystemExit(main())
