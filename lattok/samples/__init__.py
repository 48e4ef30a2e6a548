"""Training samples of policies."""

from lattok.samples.policy import PolicyWindows

__all__ = ["PolicyWindows"]
