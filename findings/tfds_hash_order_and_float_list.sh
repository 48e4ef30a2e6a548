#!/usr/bin/env bash
# TFDS: episodes are stored in the order of a hash, and a float64 time stamp is 64 seconds off
#
# Versions: tensorflow-datasets 4.9.10, tensorflow-cpu 2.21.0
# Guess: Episodes that are generated with the keys 0 to 9 come back in this order, and a float64 feature keeps its
#   digits.
# Fact: Examples are sorted by a hash of the key. tf.train.Example has no doubles: a float64 feature lies in a
#   float_list, though the reader's dtype is float64; Unix times of one episode become one number.
# Output: order 6 5 4 0 8 3 1 9 7 2; 1732795200.123 read as 1732795264.0, as are the two steps after it
# Needs: Python 3.12 or newer (PYTHON=), 700 MB
# Date: 2026-11-28
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv --no-deps \
    absl-py==2.5.1 array-record==0.8.6 astunparse==1.6.3 attrs==26.1.0 certifi==2026.10.19.post1 \
    charset-normalizer==3.5.3 dm-tree==0.1.10 docstring-parser==0.18.0 einops==0.8.2 etils==1.15.0 \
    flatbuffers==25.12.19 fsspec==2026.9.0 gast==0.7.0 google-pasta==0.2.0 googleapis-common-protos==1.76.0 \
    grpcio==1.85.3 h5py==3.14.0 idna==3.20 immutabledict==4.3.1 keras==3.15.1 libclang==18.1.1 \
    markdown-it-py==4.3.0 mdurl==0.1.2 ml-dtypes==0.6.0 namex==0.1.0 numpy==2.5.5 opt-einsum==3.4.0 \
    optree==0.20.0 packaging==26.4 promise==2.3 protobuf==7.36.2 psutil==7.2.2 pyarrow==26.0.1 \
    pygments==2.21.0 requests==2.34.2 rich==15.0.0 setuptools==84.2.1 simple-parsing==0.1.9 six==1.17.0 \
    tensorflow-cpu==2.21.0 tensorflow-datasets==4.9.10 tensorflow-metadata==1.21.0 termcolor==3.3.0 \
    toml==0.10.2 tqdm==4.70.1 typing-extensions==4.16.0 urllib3==2.8.0 wheel==0.48.0 wrapt==2.5.2 \
    zipp==4.1.2
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python - <<'PY'
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

START = 1732795200.123


class Robot(tfds.core.GeneratorBasedBuilder):
    pkg_dir_path = Path(".")  # of a script that has no file
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        step = {"time": tfds.features.Tensor(shape=(1,), dtype=np.float64), "episode": np.int64}
        steps = tfds.features.Dataset(step)
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"steps": steps}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for key in range(10):
            yield key, {"steps": [{"time": [START + k / 10], "episode": key} for k in range(3)]}


builder = Robot(data_dir="data")
builder.download_and_prepare()
episodes = [list(each["steps"]) for each in tfds.as_numpy(builder.as_dataset(split="train", shuffle_files=False))]
order = [int(steps[0]["episode"]) for steps in episodes]
times = [float(step["time"][0]) for step in episodes[0]]
print("order", *order, "| time", times, "off by", round(times[0] - START, 1), "s")
assert order == [6, 5, 4, 0, 8, 3, 1, 9, 7, 2]
assert len(set(times)) == 1 and 63 < times[0] - START < 65

(path,) = (each for each in tf.io.gfile.glob("data/robot/1.0.0/*.tfrecord*"))
example = tf.train.Example.FromString(next(tf.data.TFRecordDataset(path).as_numpy_iterator()))
print("stored as", example.features.feature["steps/time"].WhichOneof("kind"))
assert example.features.feature["steps/time"].WhichOneof("kind") == "float_list"
PY
