#!/usr/bin/env bash
# kornia: RandomChannelDropout drops another channel in each frame of a clip, though same_on_frame=True is asked for
#
# Versions: kornia 0.9.0, torch 2.15.0
# Guess: VideoSequential(..., same_on_frame=True) does the same to all frames of a clip, whatever augmentation it holds.
# Fact: Of 36 augmentations that were tried on a clip of equal frames, 35 leave them equal, noise, JPEG and rain among them.
#   RandomChannelDropout draws anew for each frame, so that the colours of a still scene flicker: a latent action model that
#   learns from pairs of frames gets a change that no action made.
# Output: dropped channels of four equal frames differ in all of 20 clips; RandomChannelShuffle and ColorJiggle in none
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0
fi
install venv --no-deps kornia==0.9.0 kornia-rs==0.2.0 numpy==2.5.5
venv/bin/python -W ignore - <<'PY'
import kornia.augmentation as K
import torch

torch.manual_seed(0)
clips = torch.rand(2, 1, 3, 32, 32).expand(2, 8, 3, 32, 32)  # eight equal frames in each


def flickers(augmentation):
    """In how many of 20 calls some frame is not the first one of its clip."""
    video = K.VideoSequential(augmentation, data_format="BTCHW", same_on_frame=True)
    found = [video(clips.clone()) for _ in range(20)]
    return sum(not torch.equal(each, each[:, :1].expand_as(each)) for each in found)


dropped = flickers(K.RandomChannelDropout(p=1.0))
others = {
    "shuffle": flickers(K.RandomChannelShuffle(p=1.0)),
    "colours": flickers(K.ColorJiggle(0.4, 0.4, 0.4, 0.2, p=1.0)),
    "noise": flickers(K.RandomGaussianNoise(p=1.0)),
    "erasing": flickers(K.RandomErasing(p=1.0)),
}
print("clips of 20 that flicker: channel dropout", dropped, "others", others)
assert dropped >= 15 and not any(others.values())
PY
