"""The signs of another group, as `counts.safetensors`: how far an action of one standard deviation goes."""

import os

from signs import Signs, SignsConfig

from lattok.hub.checkpoint import importer, read_checkpoint, translate

NAMES = {"normalizer.shift": "mean_action", "normalizer.scale": "deviation"}  # ours: theirs


@importer("counts", sign=r"^mean_action$")
def counts(path: str | os.PathLike[str], horizon: int, *, size: float = 1.0) -> Signs:
    """Read the counts of another group (counts.safetensors).

    Example: lattok convert counts counts.safetensors my-signs --horizon 8

    Args:
        path: The checkpoint.
        horizon: Steps of a chunk; the file does not hold it.
        size: Of a decoded action, in standard deviations.
    """
    foreign = read_checkpoint(path)
    model = Signs(SignsConfig(len(foreign["mean_action"]), horizon, size=size))
    model.load_tensors(translate(foreign, NAMES, model.saved_tensors(), str(path)), str(path))
    return model.eval()
