"""Published latent action models with architectures of their own, one file per system: for labels and evaluation."""

from lattok.zoo.lapa import LapaConfig, LapaLAQ

__all__ = ["LapaConfig", "LapaLAQ"]
