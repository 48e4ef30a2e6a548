"""What angles that wrap and quaternions that flip cost a tokenizer: RMS errors on chunks that it was not fitted to.

    python -m benchmarks.quality.angles --out benchmarks/results/angles.json

A roll that swings around half a turn is given as it wraps into [-pi, pi), and unwrapped; the quaternion of the turn
with signs that change every two seconds or so, and with one. Errors of angles are counted around the circle, those of
quaternions up to their sign.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import environment, write_results
from lattok.action_vq import FAST, UniformBins

HORIZON, CHUNKS, STRETCH = 8, 600, 20


def columns(seed: int = 0) -> dict[str, np.ndarray]:
    """Draw what tokenizers are given, [CHUNKS * HORIZON, m] each."""
    rng = np.random.default_rng(seed)
    t = np.arange(CHUNKS * HORIZON) / 10
    roll = np.pi + 0.8 * np.sin(0.9 * t) + 0.4 * np.sin(0.37 * t)
    turns = np.stack([np.sin(roll / 2), np.cos(roll / 2)], 1)
    signs = np.sign(rng.standard_normal(len(t) // STRETCH + 1)).repeat(STRETCH)[: len(t), None]
    wrapped = (roll + np.pi) % (2 * np.pi) - np.pi
    return {"unwrapped": roll[:, None], "wrapped": wrapped[:, None], "one sign": turns, "flipping": turns * signs}


def error(family: type[FAST] | type[UniformBins], values: np.ndarray, angle: bool) -> float:
    """Fit a tokenizer to every other chunk; return the RMS error on the others."""
    chunks = torch.from_numpy(values.reshape(CHUNKS, HORIZON, -1).astype(np.float32))
    model, told = family.fit(chunks[::2]), chunks[1::2].numpy()
    given = model.decode(model.encode(chunks[1::2])).detach().numpy()
    if angle:
        off = (given - told + np.pi) % (2 * np.pi) - np.pi
    else:
        off = np.minimum(np.abs(given - told), np.abs(given + told))
    return float(np.sqrt((off**2).mean()))


def main() -> None:
    """Measure and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    given = columns()
    results = {
        family.__name__: {name: error(family, values, "wrap" in name) for name, values in given.items()}
        for family in (FAST, UniformBins)
    }
    write_results(parser.parse_args().out, {"environment": environment(), "rms error": results})


if __name__ == "__main__":
    main()
