"""The training loop, its checkpoints and its log."""

from lattok.training.loop import CHECKPOINT, RECIPE, RUN, LoopOptions, ParameterGroup, fit, learning_rate, meet

__all__ = ["CHECKPOINT", "RECIPE", "RUN", "LoopOptions", "ParameterGroup", "fit", "learning_rate", "meet"]
