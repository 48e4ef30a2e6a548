#!/usr/bin/env bash
# LeRobot 0.6.1: quantiles, clocks, chosen episodes and edits are not what their names say
#
# Versions: lerobot 0.6.1 with its own pins (torch 2.11, datasets 4.8.5, numpy 2.2.6)
# Guess: q01 to q99 of meta/stats.json are quantiles of all frames, a float64 column is read as float64,
#   episodes=[1, 0] begins with episode 1, an edited dataset has statistics of its rows, and a picture that does not
#   fit its declaration is refused.
# Fact: Quantiles are means over episodes, weighted by frames, and over datasets again after a merge; the deviation
#   of a clock at 1e9 is twice the true one; float64 is read as float32; episodes come sorted; after delete_episodes
#   the statistics of episode_index stay those of before; resume begins new files. [height, width, channels] is also
#   met by [width, channels, height], and not by [channels, height, width].
# Output: q01 6.7 (true 0.29), q99 22.3 (28.71), std 17.5 (8.7), merged q50 86.5 (109.5)
# Needs: Python 3.12 or newer (PYTHON=), 8 GB, or BORROW_SITE=SITE-PACKAGES of an environment with
#   lerobot[dataset]==0.6.1 of the same Python
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv aiohappyeyeballs==2.7.1 aiohttp==3.14.5 aiosignal==1.4.0 anyio==4.16.0 \
        attrs==26.1.0 av==15.1.0 certifi==2026.10.19.post1 charset-normalizer==3.5.3 \
        click==8.5.1 cloudpickle==3.1.3 cmake==4.1.3 cuda-bindings==13.5.0 \
        cuda-pathfinder==1.9.1 cuda-toolkit==13.0.2 datasets==4.8.5 dill==0.4.1 \
        draccus==0.11.6 einops==0.8.2 farama-notifications==0.0.6 filelock==4.3.1 \
        frozenlist==1.8.0 fsspec==2026.2.0 gymnasium==1.4.0 h11==0.16.0 \
        hf-xet==1.8.0 httpcore==1.0.9 httpx==0.28.1 huggingface-hub==1.33.0 \
        idna==3.20 jinja2==3.1.6 jsonlines==4.0.0 lerobot==0.6.1 \
        markupsafe==3.0.4 mergedeep==1.3.4 mpmath==1.3.0 multidict==7.2.1 \
        multiprocess==0.70.19 mypy-extensions==1.2.0 networkx==3.7 numpy==2.2.6 \
        nvidia-cublas==13.1.0.3 nvidia-cuda-cupti==13.0.85 nvidia-cuda-nvrtc==13.0.88 nvidia-cuda-runtime==13.0.96 \
        nvidia-cudnn-cu13==9.19.0.56 nvidia-cufft==12.0.0.61 nvidia-cufile==1.15.1.6 nvidia-curand==10.4.0.35 \
        nvidia-cusolver==12.0.4.66 nvidia-cusparse==12.6.3.3 nvidia-cusparselt-cu13==0.8.0 nvidia-nccl-cu13==2.28.9 \
        nvidia-nvjitlink==13.0.88 nvidia-nvshmem-cu13==3.4.5 nvidia-nvtx==13.0.85 opencv-python-headless==4.13.0.92 \
        packaging==25.0 pandas==2.3.3 pillow==12.3.0 propcache==0.5.4 \
        pyarrow==26.0.1 python-dateutil==4.0.0 pytz==2026.6 pyyaml==6.0.4 \
        requests==2.34.2 safetensors==0.8.0 setuptools==81.0.0 sympy==1.14.0 \
        termcolor==3.3.0 toml==0.10.2 torch==2.11.0 torchcodec==0.11.1 \
        torchvision==0.26.0 tqdm==4.70.1 triton==3.6.0 typing-extensions==4.16.0 \
        typing-inspect==0.9.0 tzdata==2026.6 urllib3==2.8.0 xxhash==4.1.0 \
        yarl==1.25.1
fi
install venv --no-deps \
    lerobot==0.6.1
HF_HUB_OFFLINE=1 HF_HOME=home venv/bin/python - <<'PY'
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from lerobot.datasets.dataset_tools import delete_episodes, merge_datasets
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (2,), "names": None},
    "action": {"dtype": "float32", "shape": (2,), "names": None},
    "observation.clock": {"dtype": "float64", "shape": (1,), "names": None},
}


def record(folder, lengths, start=0.0):
    data = LeRobotDataset.create("me/arm", fps=10, root=folder, features=FEATURES, use_videos=False)
    count = 0
    for length in lengths:
        for _ in range(length):
            value = np.full(2, count + start, np.float32)
            clock = np.array([1e9 + count + 1 / 3])
            data.add_frame({"observation.state": value, "action": value, "observation.clock": clock, "task": "pick"})
            count += 1
        data.save_episode()
    data.finalize()
    return LeRobotDataset("me/arm", root=folder)


def episodes_of(folder):
    return pq.read_table(sorted(Path(folder).glob("meta/episodes/*/*.parquet"))[0])


def check(said, found, wanted):
    print(f"{said}: {found}")
    assert found == wanted, wanted


data = record("a", [10, 20])
stats = data.meta.stats["action"]
rows = np.arange(30)
check("q01 and q99 of 0..29", (round(float(stats["q01"][0]), 1), round(float(stats["q99"][0]), 1)), (6.7, 22.3))
print("true:", np.quantile(rows, [0.01, 0.99]))
clock = data.meta.stats["observation.clock"]
print("std of the clock", float(clock["std"][0]), "true", rows.std())
assert abs(float(clock["std"][0]) - rows.std()) > 1
check("clock read as", (str(data[0]["observation.clock"].dtype), float(data[0]["observation.clock"])), ("torch.float32", 1e9))
check("clock stored as", str(pq.read_schema(next(Path("a/data").rglob("*.parquet"))).field("observation.clock").type), "double")

some = LeRobotDataset("me/arm", root="a", episodes=[1, 0])
check("episodes=[1, 0] begins with episode", int(some[0]["episode_index"]), 0)

merged = merge_datasets([record("b", [10]), record("c", [30], 100)], output_repo_id="me/both", output_dir="both")
check("merged q50 (true 109.5)", round(float(merged.meta.stats["action"]["q50"][0]), 1), 86.5)

delete_episodes(record("d", [4, 6, 5]), [0], output_dir="less", repo_id="me/less")
cells = episodes_of("less")
check("after delete_episodes([0]): episode_index", cells["episode_index"].to_pylist(), [0, 1])
check("but stats/episode_index/min", [each[0] for each in cells["stats/episode_index/min"].to_pylist()], [1, 2])

more = LeRobotDataset.resume("me/arm", root="a")
for k in range(5):
    value = np.full(2, k, np.float32)
    more.add_frame({"observation.state": value, "action": value, "observation.clock": np.array([1e9]), "task": "pick"})
more.save_episode()
more.finalize()
check("files after resume", sorted(path.name for path in Path("a/data").rglob("*.parquet")), ["file-000.parquet", "file-001.parquet"])

camera = {"observation.images.top": {"dtype": "image", "shape": (48, 64, 3), "names": ["height", "width", "channels"]}}
pictures = LeRobotDataset.create("me/cam", fps=10, root="e", features=camera, use_videos=False)
taken = {}
ORDERS = (("height, width, channels", (48, 64, 3)), ("channels, height, width", (3, 48, 64)), ("width, channels, height", (64, 3, 48)))
for name, shape in ORDERS:
    try:
        pictures.add_frame({"observation.images.top": np.zeros(shape, np.uint8), "task": "pick"})
        taken[name] = True
    except ValueError:
        taken[name] = False
check("pictures taken", taken, {"height, width, channels": True, "channels, height, width": False, "width, channels, height": True})
PY
