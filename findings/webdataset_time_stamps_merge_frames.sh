#!/usr/bin/env bash
# webdataset: files named by a time stamp with a dot become one sample a second
#
# Versions: webdataset 1.0.2
# Guess: 1732795200.123.jpg and 1732795200.223.jpg are two samples, or an error.
# Fact: The name of a sample ends at the first dot: all frames of a second are fields (123.jpg, 223.jpg) of one
#   sample. There is no error or warning; an episode of 30 frames in 3 s has 3 or 4 samples, and a loader that asks
#   for `jpg` finds none.
# Output: 30 frames -> 4 samples with 9, 10, 10, 1 pictures; with the dot replaced: 30 samples
# Needs: Python 3.12 or newer (PYTHON=), 30 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    braceexpand==0.1.7 numpy==2.5.5 pyyaml==6.0.4 webdataset==1.0.2
venv/bin/python - <<'PY'
import io
import tarfile
import warnings

import webdataset as wds

warnings.simplefilter("ignore", ResourceWarning)


def write(path, dot):
    with tarfile.open(path, "w") as tar:
        for k in range(30):
            name = f"{1732795200.123 + k / 10:.3f}".replace(".", dot)
            for ending, data in ((".jpg", bytes([k])), (".json", b"{}")):
                info = tarfile.TarInfo(name + ending)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def samples(path):
    return list(wds.WebDataset(path, shardshuffle=False))


write("dots.tar", ".")
write("lines.tar", "_")
found, right = samples("dots.tar"), samples("lines.tar")
counts = [sum(key.endswith("jpg") for key in sample) for sample in found]
print(len(found), "samples with", counts, "pictures, keys", [each["__key__"] for each in found], "| without dots", len(right))
assert counts == [9, 10, 10, 1] and not any("jpg" in sample for sample in found)
assert len(right) == 30 and all("jpg" in sample for sample in right)
PY
