"""The training loop, its checkpoints and its log."""

from lattok.training.distributed import init_process_group
from lattok.training.loop import LoopOptions, fit, learning_rate
from lattok.utils.run_files import CHECKPOINT, RECIPE, RUN

__all__ = ["CHECKPOINT", "RECIPE", "RUN", "LoopOptions", "fit", "init_process_group", "learning_rate"]
