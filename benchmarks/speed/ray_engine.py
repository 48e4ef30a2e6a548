"""What the Ray engine costs: the same annotation by the local engine and by 1, 2 and 4 workers of one machine.

    python -m benchmarks.speed.ray_engine --out benchmarks/results/ray_engine.json

Seconds of each engine (Ray's start-up apart), and whether all files are equal.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

import lattok.annotation as annotation
from benchmarks.common import environment, write_results
from lattok.annotation import LocalEngine, RayEngine, annotate, engines
from lattok.data import open_dataset, sample_dataset_path
from lattok.image_lam import ImageLAM, ImageLAMConfig
from scripts.kill_annotation import tree

WORKERS = (1, 2, 4)
UNIT_FRAMES = 256  # the sample is small: 16 units


def model(depth: int) -> ImageLAM:
    """Two cameras at 64 x 64; deeper means longer."""
    torch.manual_seed(0)
    cameras = tuple(open_dataset(sample_dataset_path()).cameras)
    options = {"features": "pixels", "image_size": 112, "stride": "0.2s", "width": 384, "heads": 6, "decoder_depth": 1}
    return ImageLAM(ImageLAMConfig.of(cameras=cameras, encoder_depth=depth, **options)).eval()


def timed(engine: LocalEngine | RayEngine, lam: ImageLAM, out: Path) -> dict[str, float]:
    """Seconds of an annotation, without the start of Ray."""
    dataset, first = open_dataset(sample_dataset_path()), []
    begin = time.perf_counter()

    def progress(done: int, total: int) -> None:
        first.append(time.perf_counter() - begin)

    ray = engines._ray()
    if isinstance(engine, RayEngine):
        ray.init(num_cpus=engine.workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    started = time.perf_counter()
    annotate(dataset, {"latent": lam}, out, engine=engine, progress=progress)
    seconds = time.perf_counter() - started
    ray.shutdown()
    startup = started - begin if isinstance(engine, RayEngine) else 0.0
    return {"seconds": seconds, "startup_seconds": startup, "first_unit_seconds": first[0]}


def main() -> None:
    """Measure, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    annotation.UNIT_FRAMES = UNIT_FRAMES
    lam, rows, hashes = model(arguments.depth), {}, set()
    with tempfile.TemporaryDirectory() as name:
        for round_ in range(arguments.rounds):
            for label in ("local", *WORKERS):
                engine = LocalEngine() if label == "local" else RayEngine(workers=int(label))
                row = timed(engine, lam, Path(name) / f"{label}-{round_}")
                hashes.add(tree(Path(name) / f"{label}-{round_}"))
                rows.setdefault(str(label), []).append(row)
                print(label, row, flush=True)
    best = {label: min(runs, key=lambda row: row["seconds"]) for label, runs in rows.items()}
    results = {
        "engines": best,
        "overhead_of_one_worker": best["1"]["seconds"] / best["local"]["seconds"] - 1,
        "identical": len(hashes) == 1,
        "frames": sum(e.length for e in open_dataset(sample_dataset_path()).episodes),
        "environment": environment(),
    }
    print(json.dumps(results, indent=1))
    write_results(arguments.out, results)


if __name__ == "__main__":
    main()
