"""Several processes that share a run folder, as under torchrun: the first one looks, writes and saves."""

import os

import pytest
import torch

import lattok
from lattok.hub import HubModel
from lattok.recipes import ActionVQRecipe, FSQRecipe, ImageLAMRecipe, MotoLAMRecipe, ResidualVQRecipe
from lattok.utils import files
from tests.recipes.test_variants import SMALL, VARIANTS

TINY = {"horizon": 4, "codebook_size": 8, "device": "cpu"}
RECIPES = {
    "fsq": (FSQRecipe, "default", {"tokens": 2, "hidden": 8, "steps": 2, "synthetic": 20, **TINY}),
    "residual-vq": (ResidualVQRecipe, "default", {"tokens": 2, "codebook_size": 8, "steps": 1, "synthetic": 20}),
    "action-vq": (ActionVQRecipe, "quick", {"dim": 16, "heads": 2, "hidden": 16, "steps": 3, "batch_size": 8, **TINY}),
    "image-lam": (ImageLAMRecipe, "tiny+robust", SMALL),
    "pixels": (MotoLAMRecipe, "tiny", {**SMALL, **VARIANTS["pixels"][1]}),
    "labels-alone": (ImageLAMRecipe, "tiny+robust", {**SMALL, "loss_prediction": 0.0}),
}


MIXED = {"action-vq-mixed": RECIPES["action-vq"], "image-lam-mixed": RECIPES["image-lam"]}


def _worker(rank, datasets, out):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
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
    torch.distributed.destroy_process_group()


def _count(patch, calls, owner, name):
    run = getattr(owner, name)
    patch.setattr(owner, name, lambda *a, **k: calls.append(name) or run(*a, **k))


def test_of_two_processes_the_first_one_writes(make_dataset, tmp_path):
    datasets = make_dataset([12, 15]).root, make_dataset([11, 13], name="other").root
    torch.multiprocessing.spawn(_worker, args=(datasets, tmp_path), nprocs=2)
    fits = {"fsq": (["fit"], ["fit"]), "residual-vq": (["fit"], [])}  # FSQ's training is shared
    for name in {**RECIPES, **MIXED}:
        saved = (torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        calls, sources, hashes = zip(*saved, strict=True)
        expected = fits.get(name, ([], []))
        assert calls == (["check_writable", *expected[0], "save_pretrained"], expected[1])
        assert set(sources) == {name}
        assert set(hashes) == {lattok.load(tmp_path / name).describe()["weights_sha256"]}
