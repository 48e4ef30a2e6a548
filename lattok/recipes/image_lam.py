"""Recipe of the image latent action model: dataset, frame pairs, frozen features, model and loop put together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from lattok import checks, files
from lattok.data import FramePairs, camera_keys, open_dataset
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.image_lam.features import known_scaling
from lattok.recipes.action_vq import finish
from lattok.recipes.common import DataOptions, Recipe
from lattok.recipes.progress import bar
from lattok.training import RUN, SeededBatches, fit, mix
from lattok.types import PairBatch


@dataclass(frozen=True)
class PairOptions(DataOptions):
    """What is read from the dataset, and which actions may supervise."""

    labelled_fraction: float = 0.05
    labelled: str = "pairs"  # or "episodes": whole episodes, for people who have only some labelled ones
    labelled_per_batch: int = 0  # extra labelled pairs in every batch, beyond those drawn by chance
    env_codebook: str | None = None  # stage-1 model whose codebook `streams="control+env"` keeps frozen


@dataclass(frozen=True)
class ImageLAMRecipe(Recipe):
    """Sizes `full` (paper), `small` (one GPU), `tiny` (two cores), joined with `p2t` (paper) or `robust`."""

    kind = "image-lam"
    model_class = ImageLAMConfig
    data_class = PairOptions
    from_dataset = ()
    default_preset = "small+robust"
    presets = MappingProxyType(
        {
            "full": {"steps": 100_000, "batch_size": 64, "lr": 1e-4, "optimizer": "adamw", "log_every": 100},
            "small": {
                "width": 384,
                "heads": 6,
                "encoder_depth": 6,
                "decoder_depth": 6,
                "steps": 30_000,
                "batch_size": 64,
                "lr": 3e-4,
                "optimizer": "adamw",
                "schedule": "one_cycle",
                "weight_decay": 0.01,
                "log_every": 100,
            },
            "tiny": {
                "image_size": 64,
                "interpolation": "bilinear",  # bicubic keeps fine detail that nothing predicts
                "stride": "0.2s",
                "latent_dim": 64,
                "width": 64,
                "heads": 4,
                "encoder_depth": 2,
                "decoder_depth": 2,
                "steps": 1200,
                "batch_size": 32,
                "lr": 2e-3,
                "optimizer": "adamw",
                "schedule": "one_cycle",
                "weight_decay": 0.01,
                "labelled_per_batch": 8,
            },
            "p2t": {},
            "robust": {
                "encoder": "fused",
                "latent_heads": "per_token",
                "latent_norm": "batch",
                "quantizer": "residual",
                "codebook_update": "ema",
                "codebook_start": "kmeans",
                "continuous_steps": 300,
                "revive_below": 0.03,
                "conditioning": "add",
                "predict_change": True,
                "commitment_weight": 0.02,  # a moving-average codebook follows the latents by itself
            },
            "shared": {"quantizer": "vq", "decorrelation_weight": 0.1},
        }
    )


def train_image_lam(recipe: ImageLAMRecipe, resume: bool = False, resume_command: str = "") -> ImageLAM:
    """Train as the recipe says and save the model, without its action head, into `recipe.out`."""
    out = recipe.folder(resume)
    dataset = open_dataset(recipe.dataset)
    torch.manual_seed(recipe.loop.seed)
    cameras = camera_keys(dataset, recipe.data.cameras)
    model = ImageLAM(_config(recipe, cameras))
    stride = model.stride_frames(dataset.fps)
    if recipe.data.env_codebook is not None:
        model.set_env_codebook(ImageLAM.from_pretrained(recipe.data.env_codebook).control.quantizer.codebook_vectors)
    elif model.config.streams == "control+env":
        checks.fail("env_codebook", "a stage-1 model for streams=control+env", "none", "Or use streams=joint.")
    files.check_writable(out)
    recipe.save()
    model.features.load()
    with bar("decode") as progress:
        pairs = FramePairs(
            dataset,
            stride,
            cameras,
            action_key=recipe.data.action_key if recipe.data.labelled_fraction > 0 else None,
            episodes=recipe.data.episodes,
            transform=model.resize,
            labelled_fraction=recipe.data.labelled_fraction,
            labelled=recipe.data.labelled,
            seed=recipe.loop.seed,
            cache_dir=out / RUN,
            progress=progress,
        )
    if pairs.labelled.any():
        model.attach_action_head(torch.from_numpy(pairs.actions[pairs.labelled]))
    batches = PairBatches(pairs, recipe.loop.batch_size, recipe.data.labelled_per_batch, recipe.loop.seed)
    model.trained_on = recipe.trained_on(dataset, batches.samples)
    weights = model.config.loss_weights
    fit(model, batches, recipe.loop, out, loss_weights=weights, resume=resume, resume_command=resume_command)
    model.action_head = None
    return finish(model, out)


def _config(recipe: ImageLAMRecipe, cameras: tuple[str, ...]) -> ImageLAMConfig:
    """The recipe's model for these cameras; mean and deviation of the pixels are the ones the features know."""
    config = ImageLAMConfig(cameras=cameras, **recipe.model)
    mean, std = known_scaling(config.features, config.image_size, config.features_revision)
    return replace(config, mean=recipe.model.get("mean", mean), std=recipe.model.get("std", std))


class PairBatches:
    """Random pairs of step t, and `labelled` extra ones whose actions are known."""

    def __init__(self, pairs: FramePairs, size: int, labelled: int, seed: int):
        self.pairs = pairs
        self.draw = SeededBatches(len(pairs), size, seed)
        self.known = torch.from_numpy(pairs.labelled.nonzero()[0])
        extra = labelled if len(self.known) else 0
        self.samples = size + extra  # per step
        self.draw_known = SeededBatches(len(self.known), extra, mix(seed, 1)) if extra else None

    def __call__(self, step: int, process: int, processes: int) -> PairBatch:
        chosen = self.draw(step)
        if self.draw_known is not None:
            chosen = torch.cat([chosen, self.known[self.draw_known(step)]])
        return self.pairs.batch(chosen[process::processes])
