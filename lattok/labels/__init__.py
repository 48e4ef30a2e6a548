"""Latent labels of a dataset: what they are (`LatentSpec`), where they lie, and how a batch of them is read."""

from lattok.labels.provenance import latent_spec, only_prefix, provenance_of, tokenizer_spec
from lattok.labels.reader import read_rows, target_from_batch, target_of
from lattok.labels.sidecar import LabelledDataset, Sidecar, with_labels
from lattok.labels.spec import PARTS, LatentSpec, spec_of

__all__ = [
    "PARTS",
    "LabelledDataset",
    "LatentSpec",
    "Sidecar",
    "latent_spec",
    "only_prefix",
    "provenance_of",
    "read_rows",
    "spec_of",
    "target_from_batch",
    "target_of",
    "tokenizer_spec",
    "with_labels",
]
