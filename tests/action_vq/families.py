"""Small options for whatever family of action tokenizers there is, by the names that sizes have everywhere.

One whose sizes have other names is tried as large as it is by default: add the name here.
"""

import copy
from dataclasses import fields
from functools import cache
from typing import Any

from lattok.action_vq.base import ChunkTokenizer, families
from tests.action_vq.walks import NAMES, saturating, smooth

SMALL: dict[str, Any] = {"steps": 2, "synthetic": 50, "device": "cpu", "vocab_size": 300, "scale": 4.0, "bins": 16}
SMALL |= {"tokens": 3, "codebook_size": 16, "levels": (4, 4), "downsample": 2, "bases": 4, "degree": 2}
SMALL |= {"dim": 16, "hidden": 16, "heads": 2, "decoder_heads": 2, "encoder_depth": 1, "decoder_depth": 1}
LEARN = {**SMALL, "tokens": 4, "dim": 32, "hidden": 32, "dropout": 0.0, "normalize": "mean_std"}
LEARN |= {"synthetic": 300, "steps": 120, "lr": 1e-2, "batch_size": 64}
VARIANTS = {"decoder": "context"}  # of a family that has this option


def small(family: type[ChunkTokenizer], sizes: dict[str, Any] = SMALL) -> dict[str, Any]:
    """Options of `fit` for a small tokenizer, within a second."""
    known = {field.name for owner in (family.config_class, family.fit_options) for field in fields(owner)}
    return {name: value for name, value in sizes.items() if name in known}


def learning(family: type[ChunkTokenizer]) -> dict[str, Any]:
    """Options of `fit` for one that has learned something, within a few seconds."""
    options = small(family, LEARN)
    return options if "lr" in options or "steps" not in options else options | {"steps": 2}  # refits, not gradients


def cases(variants: bool = True) -> dict[str, tuple[type[ChunkTokenizer], dict[str, Any]]]:
    """All families of this package with small options, and their variants."""
    ours = {name: family for name, family in families().items() if family.__module__.startswith("lattok.")}
    found = {name: (family, small(family)) for name, family in ours.items()}
    for option, value in VARIANTS.items() if variants else ():
        for name, family in ours.items():
            if option in {field.name for field in fields(family.config_class)}:
                found[f"{name}, {value}"] = (family, small(family) | {option: value})
    return found


@cache
def _fitted(name: str) -> ChunkTokenizer:
    family, options = cases()[name]
    return family.fit(smooth(), action_names=NAMES, **options)


def fitted(name: str) -> ChunkTokenizer:
    """A small tokenizer of a case, for chunks of six steps x, y, gripper: yours to change."""
    return copy.deepcopy(_fitted(name))


@cache
def learned(name: str) -> ChunkTokenizer:
    """The tokenizer of a family that has learned from `saturating()`. Do not change it."""
    family = families()[name]
    return family.fit(saturating(), **learning(family))
