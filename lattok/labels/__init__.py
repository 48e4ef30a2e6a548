"""Latent labels of a dataset: what they are (`LatentSpec`), where they are stored, and how a batch of them is read."""

from lattok.labels.given import GivenLabels, given_labels
from lattok.labels.reader import read_rows, target_from_batch, target_of
from lattok.labels.sharing import push_dataset
from lattok.labels.sidecar import Sidecar, with_labels
from lattok.labels.spec import PARTS, LatentSpec, latent_spec, only_prefix, tokenizer_spec

__all__ = [
    "PARTS",
    "GivenLabels",
    "LatentSpec",
    "Sidecar",
    "given_labels",
    "latent_spec",
    "only_prefix",
    "push_dataset",
]
__all__ += ["read_rows"]
__all__ += ["target_from_batch", "target_of", "tokenizer_spec", "with_labels"]
