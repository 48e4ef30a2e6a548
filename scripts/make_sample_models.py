"""Train the models that come with lattok on the bundled demonstrations: `lattok.load("sample/lam")` and its like.

    python scripts/make_sample_models.py --out lattok/assets/models
    python scripts/make_sample_models.py --out lattok/assets/models --only fast # one of them
    python scripts/make_sample_models.py --out lattok/assets/models --cards     # their cards alone
    python scripts/make_sample_models.py --out lattok/assets/models --reports   # what their cards say of them, alone
    python scripts/make_sample_models.py --out lattok/assets/models --codes     # which codes they give, alone

A quarter of an hour on one core; the same bytes on the same kind of machine. They are small, to be had at once and
without a network: good enough to try every verb, too small and too little taught for anything else.
"""

import argparse
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import lattok
from lattok.action_vq import ResidualVQ
from lattok.cli.judging import judge
from lattok.hub import CARD, OWN, WEIGHTS, HubModel, trials
from lattok.recipes import ImageLAMRecipe, InverseDynamicsRecipe, VLARecipe, recipe_for
from lattok.utils import files

SMALL = {"backbone_width": 64, "head_dim": 64, "head_heads": 4}  # of a policy; a third of the preset's size
STEPS = {"tokenizer": 12, "lam": 1200, "idm": 600, "policy": 1500}
FITTED = {"fast": "fast", "beast": "beast", "toast": "toast", "bins": "uniform-bins"}  # tokenizers, by their kind
NAMES = (*STEPS, *FITTED)
LICENSE = "apache-2.0"


def make(folder: Path, names: Collection[str] = NAMES, quick: bool = False) -> dict[str, HubModel]:
    """Train the models of these names into `folder`, and judge each on held-out episodes; the policy's recipe does
    that."""
    torch.set_num_threads(1)
    sample = lattok.sample_dataset_path()
    made = trained(folder, sample, quick) if {*names} & {*STEPS} else {}
    made |= {
        name: lattok.train(kind, sample, out=folder / name, seed=0) for name, kind in FITTED.items() if name in names
    }
    made = {name: model for name, model in made.items() if name in names}
    for name, model in made.items():
        model.license = LICENSE
        if name != "policy":
            judge(model, str(sample), folder / f"{name}-report", folder / name, "cpu", seed=0)
        model.save_pretrained(folder / name, f"sample/{name}")
    return made


def trained(folder: Path, sample: Path, quick: bool) -> dict[str, HubModel]:
    """Train the models that take steps; the policy learns from labels of the model of video."""
    steps = dict.fromkeys(STEPS, 2) if quick else STEPS
    short: dict[str, Any] = {"codebook_continuous_steps": 1} if quick else {}
    made: dict[str, HubModel] = {
        "tokenizer": lattok.train(
            recipe_for(ResidualVQ).from_preset(sample, folder / "tokenizer", steps=steps["tokenizer"], seed=0)
        ),
        "lam": lattok.train(
            ImageLAMRecipe.from_preset(
                sample, folder / "lam", "tiny+robust", features="pixels", steps=steps["lam"], device="cpu", **short
            )
        ),
    }
    known: dict[str, Any] = {"action_episodes": "2 per task", "steps": steps["idm"], "device": "cpu"}
    made["idm"] = lattok.train(InverseDynamicsRecipe.from_preset(sample, folder / "idm", "tiny", **known))
    labelled = lattok.annotate(lattok.open_dataset(sample), {"latent": made["lam"]}, folder / "metaworld_sample")
    options = {"strategy": "la_direct", "steps": steps["policy"], "action_key": "expert_action", "device": "cpu"}
    made["policy"] = lattok.train(VLARecipe.from_preset(labelled, folder / "policy", "scratch", **SMALL, **options))
    made["policy"].to(torch.bfloat16)  # half the size; normalisers stay float32
    return made


def judge_again(folder: Path) -> None:
    """Put today's report of a model that is there into its card, beside the same weights."""
    model = lattok.load(folder)
    with tempfile.TemporaryDirectory() as scratch:
        judge(model, str(lattok.sample_dataset_path()), Path(scratch) / "report", folder, "cpu", seed=0)


def record_codes(folder: Path) -> None:
    """Put into a model's file which codes it gives of a fixed input, beside the same weights."""
    said = trials.recorded(lattok.load(folder))
    if said:
        weights = safetensors.torch.load_file(folder / WEIGHTS)
        (folder / WEIGHTS).write_bytes(safetensors.torch.save(weights, said))


def main() -> None:
    """Make them and put what belongs to an artefact into place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cards", action="store_true", help="write the cards of those that are there")
    parser.add_argument("--reports", action="store_true", help="judge those that are there again")
    parser.add_argument("--codes", action="store_true", help="record which codes those that are there give")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="these alone")
    args = parser.parse_args()
    out, chosen = args.out, args.only
    if args.codes:
        for name in chosen:
            record_codes(out / name)
        return
    if args.reports:
        for name in chosen:
            if name != "policy":  # which its recipe judges
                judge_again(out / name)
        args.cards = True  # under their own names
    if args.cards:
        for name in chosen:
            files.write_text(out / name / CARD, lattok.load(out / name).card(f"sample/{name}"))
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name in make(Path(scratch), chosen):
            (out / name).mkdir(parents=True, exist_ok=True)
            for file in OWN:
                if (Path(scratch) / name / file).is_file():
                    shutil.copy(Path(scratch) / name / file, out / name / file)
            size = sum(path.stat().st_size for path in (out / name).iterdir())
            print(f"{name}: {size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
