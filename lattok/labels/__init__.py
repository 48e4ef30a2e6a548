"""Latent labels of a dataset: what they are (`LatentSpec`), where they lie, and how a batch of them is read."""

from lattok.labels.reader import read_rows as read_rows
from lattok.labels.reader import target_from_batch as target_from_batch
from lattok.labels.reader import target_of as target_of
from lattok.labels.sharing import push_dataset as push_dataset
from lattok.labels.sidecar import Sidecar as Sidecar
from lattok.labels.sidecar import with_labels as with_labels
from lattok.labels.spec import PARTS as PARTS
from lattok.labels.spec import LatentSpec as LatentSpec
from lattok.labels.spec import latent_spec as latent_spec
from lattok.labels.spec import only_prefix as only_prefix
from lattok.labels.spec import tokenizer_spec as tokenizer_spec
