"""Artefacts in folders and on the Hub: strict saving and loading, model cards, one door to huggingface_hub."""

from lattok.hub.model import (
    ADDED,
    CARD,
    CONFIG,
    EVALUATION,
    FAMILIES,
    OWN,
    PARTS,
    WEIGHTS,
    HubModel,
    Place,
    family_of,
    parse_config,
    read_config,
    resolve,
)

__all__ = [
    "ADDED",
    "CARD",
    "CONFIG",
    "EVALUATION",
    "FAMILIES",
    "OWN",
    "PARTS",
    "WEIGHTS",
    "HubModel",
    "Place",
    "family_of",
    "parse_config",
    "read_config",
    "resolve",
]
