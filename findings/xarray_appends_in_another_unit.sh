#!/usr/bin/env bash
# xarray: of an episode appended to a zarr store the time stamps are a thousand or a million times as far from the start
#
# Versions: xarray 2026.9.0, zarr 3.4.2
# Guess: to_zarr(append_dim="time") of a second episode gives its own times back, or is refused.
# Fact: The first write chooses the coarsest unit that its times need, and the store keeps that unit. Times that need a finer one are stored in
#   the finer one, while the file still says the coarser: 3.033 s is read as 3033 s. xarray warns that it serializes "with units
#   milliseconds instead", which reads as if all were well. A packed column (int16 with scale_factor) wraps as silently as any cast:
#   40 is read as -25.536. encoding={"time": {"units": "nanoseconds since ..."}} at the first write keeps all times.
# Output: 0 1 2 s and 3.033 3.066 s -> 0 1 2 3033 3066 s; 0 33 66 ms and 3/30 4/30 s -> 99,999.999 and 133,333.332 s; with units given: right
# Needs: Python 3.12 or newer (PYTHON=), 250 MB
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps donfig==0.8.1.post1 google-crc32c==1.9.0 msgspec==0.23.0 numcodecs==0.17.1 numpy==2.5.5 packaging==26.4 pandas==3.1.1 \
    python-dateutil==4.0.0 pyyaml==6.0.4 typing-extensions==4.16.0 xarray==2026.9.0 zarr==3.4.2
venv/bin/python -W ignore - <<'PY'
import numpy as np
import xarray

START = np.datetime64("2026-01-01T10:00:00", "ns")


def appended(first, then, name, **options):
    """Seconds since the start, as they are read after a second episode was appended; both in nanoseconds."""
    for times, how in ((first, options), (then, {"append_dim": "time"})):
        stamps = START + np.array(times, "timedelta64[ns]")
        xarray.Dataset({"joint": ("time", np.zeros(len(stamps)))}, {"time": stamps}).to_zarr(name, **how)
    return ((xarray.open_zarr(name)["time"].values - START) / np.timedelta64(1, "s")).tolist()


seconds, late = [0, 10**9, 2 * 10**9], [3_033_000_000, 3_066_000_000]
one = appended(seconds, late, "one.zarr")
two = appended([0, 33_000_000, 66_000_000], [99_999_999, 133_333_332], "two.zarr")
given = {"encoding": {"time": {"units": "nanoseconds since 2026-01-01"}}}
right = appended(seconds, late, "right.zarr", **given)
print("seconds, then 33 ms", one, "milliseconds, then thirtieths", two, "with units", right)
assert one == [0, 1, 2, 3033, 3066]
assert np.allclose(two, [0, 0.033, 0.066, 99_999.999, 133_333.332])
assert np.allclose(right, [0, 1, 2, 3.033, 3.066])

packed = {"encoding": {"joint": {"dtype": "int16", "scale_factor": 0.001}}}
xarray.Dataset({"joint": ("time", [1.0, 2.0])}).to_zarr("packed.zarr", **packed)
xarray.Dataset({"joint": ("time", [1.5, 40.0])}).to_zarr("packed.zarr", append_dim="time")
joints = xarray.open_zarr("packed.zarr")["joint"].values
print("packed", joints)
assert np.allclose(joints, [1, 2, 1.5, -25.536])
PY
