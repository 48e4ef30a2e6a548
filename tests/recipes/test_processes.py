"""Several processes that share a run folder, as under torchrun: the first one looks, writes and saves."""

import pytest
import torch

import lattok
from lattok.action_vq import FSQ, ResidualVQ
from lattok.cli import main
from lattok.hub import HubModel
from lattok.recipes import ActionVQRecipe, ImageLAMRecipe, InverseDynamicsRecipe, MotoLAMRecipe, recipe_for
from lattok.utils import files
from tests.process_jobs import together
from tests.recipes.test_variants import SMALL, VARIANTS

TINY = {"horizon": 4, "codebook_size": 8, "device": "cpu"}
INVERSE = {"image_size": 32, "channels": (8, 8), "latent_dim": 8, "hidden": 8, "members": 2, "device": "cpu"}
RECIPES = {
    "fsq": (recipe_for(FSQ), "default", {"tokens": 2, "hidden": 8, "steps": 2, "synthetic": 20, **TINY}),
    "residual-vq": (recipe_for(ResidualVQ), "default", {"tokens": 2, "codebook_size": 8, "steps": 1, "synthetic": 20}),
    "action-vq": (ActionVQRecipe, "quick", {"dim": 16, "heads": 2, "hidden": 16, "steps": 3, "batch_size": 8, **TINY}),
    "image-lam": (ImageLAMRecipe, "tiny+robust", SMALL),
    "pixels": (MotoLAMRecipe, "tiny", {**SMALL, **VARIANTS["pixels"][1]}),
    "idm": (InverseDynamicsRecipe, "tiny", {**INVERSE, "steps": 2, "batch_size": 8}),
    "labels-alone": (ImageLAMRecipe, "tiny+robust", {**SMALL, "loss_prediction": 0.0}),
}


MIXED = {"action-vq-mixed": RECIPES["action-vq"], "image-lam-mixed": RECIPES["image-lam"]}


def _worker(rank, datasets, out):
    for name, (kind, preset, options) in {**RECIPES, **MIXED}.items():
        calls = []
        dataset, mix = datasets[0], {}
        if name in MIXED:
            dataset, mix = None, {"mix": tuple(f"{root}:1.0" for root in datasets)}
        recipe = kind.from_preset(dataset, out / name, preset, **options, **mix)
        with pytest.MonkeyPatch.context() as patch:
            _count(patch, calls, files, "check_writable")
            _count(patch, calls, HubModel, "save_pretrained")
            if hasattr(kind, "family"):
                _count(patch, calls, kind.family, "fit")
            model = lattok.train(recipe)
        torch.save((calls, model.source, model.describe()["weights_sha256"]), out / f"{name}-{rank}.pt")


def _count(patch, calls, owner, name):
    run = getattr(owner, name)
    patch.setattr(owner, name, lambda *a, **k: calls.append(name) or run(*a, **k))


def test_of_two_processes_the_first_one_writes(make_dataset, tmp_path):
    datasets = make_dataset([12, 15]).root, make_dataset([11, 13], name="other").root
    together(_worker, datasets, tmp_path)
    fits = {"fsq": (["fit"], ["fit"]), "residual-vq": (["fit"], [])}  # FSQ's training is shared
    for name in {**RECIPES, **MIXED}:
        saved = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        calls, sources, hashes = zip(*saved, strict=True)
        expected = fits.get(name, ([], []))
        assert calls == (["check_writable", *expected[0], "save_pretrained"], expected[1])
        assert set(sources) == {name}
        assert set(hashes) == {lattok.load(tmp_path / name).describe()["weights_sha256"]}


def _command(rank, data, out):
    words = ["train", "action-vq", str(data), "--out", str(out), "--preset", "quick", "--device", "cpu"]
    assert main([*words, "--dim", "8", "--steps", "2", "--batch-size", "8"]) == 0
    assert not torch.distributed.is_initialized()


def test_a_command_leaves_the_other_processes_before_it_ends(make_dataset, tmp_path):
    """A thread of gloo that lets go of a tensor while Python is taken down would end a process that has learned."""
    together(_command, make_dataset([12, 15]).root, tmp_path / "out")
    assert lattok.load(tmp_path / "out").config.dim == 8
