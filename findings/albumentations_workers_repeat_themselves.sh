#!/usr/bin/env bash
# albumentations 2.0.8: both workers of a DataLoader make the same augmentations, and each epoch those of the first one
#
# Versions: albumentations 2.0.8, albucore 0.0.24, torch 2.15.0
# Guess: Each picture of each epoch is augmented anew, with two workers as without, as by torchvision, whose random
#   numbers DataLoader seeds in each worker.
# Fact: Compose has a generator of its own, which workers inherit by fork in one and the same state: the k-th picture
#   of each worker is changed alike, and each epoch begins again where the first began, with a seed and without.
#   persistent_workers=True helps between epochs, not between workers. The page says "no seed means truly random". It
#   is issues 266 and 2473; the last release under the MIT licence has it, AlbumentationsX 2.5.1 (AGPL) is right.
# Output: brightness of eight grey pictures: 2 workers: 4 of 8 values different, epochs equal: True; 0 workers: 8 of 8,
#   False; torchvision, 2 workers: 8 of 8, False
# Needs: Python 3.12 or newer (PYTHON=), torch (BORROW_SITE=SITE-PACKAGES of the same Python, else 3 GB)
# Date: 2026-11-30
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
if ! borrow venv; then
    install venv torch==2.15.0 torchvision==0.29.2
fi
install venv --no-deps albucore==0.0.24 albumentations==2.0.8 annotated-types==0.8.0 numpy==2.5.5 opencv-python-headless==5.0.0.93 \
    pydantic-core==2.50.5 pydantic==2.14.4 pyyaml==6.0.4 scipy==1.18.1 simsimd==6.5.16 stringzilla==5.3.2 typing-extensions==4.16.0 \
    typing-inspection==0.4.5 pillow==13.0.0
NO_ALBUMENTATIONS_UPDATE=1 OMP_NUM_THREADS=1 venv/bin/python -W ignore - <<'PY'
import albumentations
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2


class Grey(Dataset):
    def __init__(self, change):
        self.change = change

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return self.change(np.full((8, 8, 3), 128, np.uint8)).mean()


make = albumentations.Compose([albumentations.RandomBrightnessContrast((-0.4, 0.4), 0, p=1)])
jitter = v2.ColorJitter(brightness=0.4)
changes = {
    "albumentations": lambda picture: make(image=picture)["image"],
    "torchvision": lambda picture: jitter(torch.tensor(picture).permute(2, 0, 1).float() / 255).numpy() * 255,
}
found = {}
for name, workers in (("albumentations", 2), ("albumentations", 0), ("torchvision", 2)):
    loader = DataLoader(Grey(changes[name]), batch_size=2, num_workers=workers)
    epochs = [[round(float(value), 2) for batch in loader for value in batch] for _ in range(2)]
    different, equal = found[name, workers] = len({*epochs[0]}), epochs[0] == epochs[1]
    print(f"{name}, {workers} workers: {different} of 8 values different, epochs equal: {equal}", *epochs[0])
assert found["albumentations", 2][0] <= 4 and found["albumentations", 2][1]
assert found["albumentations", 0][0] > 4 and not found["albumentations", 0][1]
assert found["torchvision", 2] == (8, False)
PY
