"""Artefacts in folders and on the Hub: strict saving and loading, model cards, and the only access to
huggingface_hub."""

from lattok.hub.model import FAMILIES, OWN, PARTS, WEIGHTS, HubModel, Place, config_of, family_of, resolve
from lattok.hub.records import CARD, CONFIG, EVALUATION, TRAINING, parse_config, read_config

__all__ = ["CARD", "CONFIG", "EVALUATION", "FAMILIES", "OWN", "PARTS", "TRAINING", "WEIGHTS", "HubModel", "Place"]
__all__ += ["config_of", "family_of", "parse_config", "read_config", "resolve"]
