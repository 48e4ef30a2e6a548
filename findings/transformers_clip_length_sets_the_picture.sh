#!/usr/bin/env bash
# transformers: of a clip of 40 pictures Qwen3-VL sees 4, and how large a picture is depends on how many there are
#
# Versions: transformers 5.24.0, torch 2.15.0, torchvision 0.29.2
# Guess: A video processor that is given pictures, not a film, gives all of them to the model, each at one size that its
#   height and width decide; Qwen3-VL as Qwen2-VL, whose default it is.
# Fact: Qwen3-VL takes the pictures for 24 a second and keeps 2 a second, but at least 4: of 8, 16 or 40 it sees 4, of
#   100 it sees 8 (at 10 a second, if told, 8 of 40). It says once that it takes 24, not that pictures go. And it scales
#   for a sum over the clip: a picture of 64 by 64 is 192 wide in a clip of 4 frames, 128 in one of 8 and 64 in one of
#   40, though do_sample_frames=False keeps all. Cosmos3-Edge keeps 4 or 8 as well. For a policy with a history pass
#   do_sample_frames=False, and clips of one length, or pictures as images.
# Output: kept 4 of 4, 4 of 8, 4 of 16, 4 of 40, 8 of 100; Qwen2-VL all; unsampled width 192, 128, 96, 64, 64
# Needs: Python 3.12 or newer (PYTHON=), torch and torchvision (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0 torchvision==0.29.2
fi
install venv --no-deps transformers==5.24.0 anyio==4.16.0 certifi==2026.10.19.post1 click==8.5.1 filelock==4.3.1 fsspec==2026.9.0 \
    h11==0.16.0 hf-xet==1.8.0 httpcore2==2.16.2 httpx2==2.16.2 huggingface-hub==2.4.0 idna==3.20 numpy==2.5.5 \
    packaging==26.4 pillow==13.0.0 pyyaml==6.0.4 regex==2026.11.19 safetensors==0.8.0 tokenizers==0.23.3 tqdm==4.70.1 \
    truststore==0.10.5 typer==0.29.2 typing-extensions==4.16.0
venv/bin/python -W ignore - <<'PY'
import numpy as np
from transformers import Cosmos3EdgeVideoProcessor, Qwen2VLVideoProcessor, Qwen3VLVideoProcessor, logging
from transformers.video_utils import VideoMetadata

logging.set_verbosity_error()


def seen(processor, count, **options):
    """How many pictures of `count` the model sees, and how wide each is."""
    clip = np.stack([np.full((64, 64, 3), 2 * i, np.uint8) for i in range(count)])
    times, _, columns = processor(clip, return_tensors="pt", **options)["video_grid_thw"][0].tolist()
    return processor.temporal_patch_size * times, processor.patch_size * columns


LENGTHS = (4, 8, 16, 40, 100)
third, second = Qwen3VLVideoProcessor(), Qwen2VLVideoProcessor()
kept = [seen(third, count)[0] for count in LENGTHS]
widths = [seen(third, count, do_sample_frames=False)[1] for count in LENGTHS]
told = seen(third, 40, video_metadata=[VideoMetadata(total_num_frames=40, fps=10)])[0]
print("Qwen3-VL keeps", kept, "at 10 a second", told, "of 40; unsampled width", widths)
print("Qwen2-VL keeps", [seen(second, count)[0] for count in LENGTHS])
print("Cosmos3-Edge keeps", [seen(Cosmos3EdgeVideoProcessor(), count)[0] for count in LENGTHS])
assert kept == [4, 4, 4, 4, 8] and told == 8
assert [seen(third, count, do_sample_frames=False)[0] for count in LENGTHS] == list(LENGTHS)
assert widths == [192, 128, 96, 64, 64]
assert [seen(second, count)[0] for count in LENGTHS] == list(LENGTHS)
PY
