"""An annotated dataset for tests of policies, and small settings."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lattok
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.utils.options import as_flags
from tests.conftest import CAMERAS, write_dataset

SMALL = ["--backbone", "scratch", "--steps", "3", "--batch-size", "4"]
SIZES = {
    "image_size": 16,
    "backbone_patch_size": 8,
    "backbone_width": 16,
    "backbone_depth": 2,
    "backbone_heads": 2,
    "head_dim": 16,
    "head_heads": 2,
    "horizon": 4,
    "log_every": 1,
}
TINY = [*SMALL, *as_flags(SIZES)]
LAM = {"features": "pixels", "image_size": 16, "tokens": 2, "codebook_size": 4, "latent_dim": 6, "width": 16}
LAM |= {"heads": 2, "encoder_depth": 1, "decoder_depth": 1, "stride": "3"}  # configuration of a small `ImageLAM`
TRAIN_LAM = {"features": "pixels", "image_size": 32, "stride": "2", "width": 16, "heads": 2, "latent_dim": 8}
TRAIN_LAM |= {"codebook_size": 4, "codebook_continuous_steps": 2, "batch_size": 6, "labelled_per_batch": 2}
TRAIN_LAM |= {"labelled_fraction": 0.2, "device": "cpu"}  # options of its recipe


@contextmanager
def stopped(batches: type, step: int, method: str = "gather") -> Iterator[None]:
    """Let a run be interrupted where it wants the batch of a step."""
    original = getattr(batches, method)

    def stop(self: Any, number: int, *share: int) -> Any:
        if number == step:
            raise KeyboardInterrupt
        return original(self, number, *share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, method, stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def image_lam(*cameras: str, **changes: Any) -> ImageLAM:
    """A small model of pixels, by default of the first camera, with random weights."""
    torch.manual_seed(0)
    return ImageLAM(ImageLAMConfig.of(cameras=cameras or CAMERAS[:1], **{**LAM, **changes})).eval()


def annotated(folder: Path) -> Path:
    """Five episodes with `latent.*` of an image model (2 codes of 4) and `tokens.*` of bins; the models beside it."""
    data = write_dataset(folder / "data", [14, 12, 13, 12, 15])
    image_lam().save_pretrained(folder / "lam")
    recipe = lattok.ActionVQRecipe.from_preset(data, folder / "vq", "quick", horizon=4, steps=2, dim=8, codebook_size=5)
    tokenizer = lattok.train(recipe)
    models = {"latent": lattok.load(folder / "lam"), "tokens": tokenizer}
    return lattok.annotate(lattok.open_dataset(data), models, folder / "annotated")


def with_absurd_actions(dataset: Path, episodes: tuple[int, ...], other: Path, value: float = 7e3) -> Path:
    """Copy a dataset to `other` and let all actions of some episodes be 7,000, or another value."""
    shutil.copytree(dataset, other)
    for file in (other / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        rows, kind = table.to_pydict(), table.schema.field("action")
        pairs = zip(rows["episode_index"], rows["action"], strict=True)
        actions = [[value] * len(a) if e in episodes else a for e, a in pairs]
        pq.write_table(
            table.set_column(table.schema.get_field_index("action"), kind, pa.array(actions, kind.type)), file
        )
    return other
