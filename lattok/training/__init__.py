"""The training loop, its checkpoints and its log."""

from lattok.training.distributed import init_process_group
from lattok.training.loop import CHECKPOINT, RECIPE, RUN, LoopOptions, fit, learning_rate

__all__ = ["CHECKPOINT", "RECIPE", "RUN", "LoopOptions", "fit", "init_process_group", "learning_rate"]
