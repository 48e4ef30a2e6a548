# %% [markdown]
# # Several robots, one inverse model
#
# Two robots act in different numbers: other axes, other units, another count. One model can still learn from both, since a motion
# looks the same whoever is told to make it: **one encoder for all, a small head for each**. How many known actions does a third robot then
# need?
#
# It takes five minutes of one core; no download, no token.
#
# In [Colab](https://colab.research.google.com): upload this file and a wheel of lattok (`pip wheel --no-deps .` in a clone) and run `%pip install "./lattok-0.1.0-py3-none-any.whl[notebooks]"`.

# %%
import json
import os
import tempfile
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np

import lattok
from lattok.samples import ActionWindows

os.chdir(tempfile.mkdtemp(prefix="lattok-", dir="."))  # a new folder at each start: all cells can run again

# %% [markdown]
# ## Three robots
#
# The bundled demonstrations are of one robot and ten tasks. We make three robots of them, each with tasks and a language of its own: a matrix
# turns, mixes and scales the numbers. The files are like robomimic's. A small description says what a file does not: the frame rate. lattok is
# not told the matrices.
#
# Of the third robot a few actions are known, scattered over its demonstrations; the others are NaN.

# %%
rng = np.random.default_rng(0)
sample = lattok.open_dataset(lattok.sample_dataset_path())
told = {one.index: ActionWindows(sample, 1, "action", [one.index]).actions.numpy() for one in sample.episodes}


def record(name, tasks, numbers):
    """Write the demonstrations of some tasks in the numbers of a robot."""
    language = np.linalg.qr(rng.standard_normal((numbers, numbers)))[0][:4] * rng.uniform(0.5, 2, numbers)
    write(name, [told[one.index] @ language for one in of(tasks)], tasks)


def of(tasks):
    return [one for one in sample.episodes if one.index // 5 in tasks]  # five demonstrations of each


def write(name, actions, tasks):
    with h5py.File(f"{name}.hdf5", "w") as file:
        for place, (one, values) in enumerate(zip(of(tasks), actions, strict=True)):
            file[f"data/demo_{place}/actions"] = values.astype(np.float32)
            file[f"data/demo_{place}/obs/agentview_image"] = sample.frames(one.index)[:, 0]
    Path(f"{name}.json").write_text(json.dumps({"dataset": f"{name}.hdf5", "fps": sample.fps}))


def actions_of(dataset, column="action"):
    return ActionWindows(lattok.open_dataset(dataset), 1, column, "0:").actions.numpy()


def with_few_known(name, of_name, count):
    """Write the third robot again; `count` of its actions are known, evenly spread."""
    actions = actions_of(f"{of_name}.json")
    known = np.isin(np.arange(len(actions)), np.linspace(0, len(actions) - 1, count).round())
    lengths = np.cumsum([one.length for one in of(NEW)])[:-1]
    write(name, np.split(np.where(known[:, None], actions, np.nan), lengths), NEW)
    return known


ARM, GANTRY, NEW = range(4), range(4, 7), range(7, 10)
record("arm", ARM, 4)
record("gantry", GANTRY, 6)
record("new", NEW, 5)
for name in ("arm", "gantry", "new"):
    print(lattok.open_dataset(f"{name}.json"))

# %% [markdown]
# ## One model of two robots
#
# `lattok train idm arm.json gantry.json` in the terminal. The latent has 16 numbers; each robot's head turns them into its own.

# %%
options = {"device": "cpu", "threads": 1, "members": 1, "latent_dim": 16, "offsets": (0, 2, 4), "episodes": "0:"}
steps = {"steps": 600}  # short: steps = {"steps": 3}
mix = ("arm.json:1.0", "gantry.json:1.0")
shared = lattok.train(lattok.InverseDynamicsRecipe.from_preset(None, "shared", "tiny", mix=mix, **options, **steps))
print([robot.name for robot in shared.config.robots])

# %% [markdown]
# ## A new robot
#
# Three ways to a model of the third robot, each from the same few known actions:
#
# - **head**: `--init shared --freeze encoder` fits a head alone, by ridge regression, in seconds;
# - **further**: `--init shared` trains the encoder as well, from where the two robots left it;
# - **own**: a model that has never seen another robot.
#
# How much of the *hidden* actions do they explain?


# %%
def explained(known, labels):
    truth, said = actions_of("new.json")[~known], actions_of(labels, "latent.action")[~known]
    return float(np.mean(1 - np.square(said - truth).sum(0) / np.square(truth - truth.mean(0)).sum(0)))


def learned(count, out, **more):
    known = with_few_known(f"new{count}", "new", count)
    recipe = lattok.InverseDynamicsRecipe.from_preset(f"new{count}.json", out, "tiny", **options, **more)
    return explained(known, lattok.annotate(f"new{count}.json", lattok.train(recipe), f"{out}-labels"))


COUNTS = (16, 48, 128)  # short: COUNTS = (128,)
fewer = {"steps": 300}  # short: fewer = {"steps": 3}
ways = {"head": {"init": "shared", "freeze": "encoder"}, "further": {"init": "shared", **fewer}, "own": fewer}
found = {way: {n: learned(n, f"{way}{n}", **more) for n in COUNTS} for way, more in ways.items()}
for way, by_count in found.items():
    print(f"{way:8}", {count: round(r2, 2) for count, r2 in by_count.items()})

# %% tags=["check"]
assert found["head"][16] > 0.3  # full

# %% tags=["picture"]
figure, axis = plt.subplots(figsize=(7, 4), dpi=100, layout="constrained")
for way, by_count in found.items():
    axis.plot([*by_count], [*by_count.values()], marker="o", label=way)
axis.set(xlabel="known actions of the new robot", ylabel="R² of the hidden ones", xscale="log", xticks=COUNTS)
axis.set_xticks(COUNTS, [str(count) for count in COUNTS])
axis.minorticks_off()
axis.legend()
figure.suptitle("A robot that nobody has seen before")
plt.show()

# %% [markdown]
# With 16 known actions the head alone is the best by far, and takes seconds. With more, train the encoder as well: two other robots then help
# little. They acted in 35 demonstrations; with many robots and hours of video this may be different. One seed:
# in our study of eight robots (five seeds) training further is better from 16 known actions on.
#
# ## What would be wrong
#
# Perhaps any network would do, and the two other robots taught the encoder nothing. Then a head on an encoder of **random weights** should be as
# good.

# %%
blind = lattok.load("shared").fresh().save_pretrained("blind")
count = max(COUNTS)
try:
    control = f"{learned(count, 'control', init=str(blind), freeze='encoder'):.2f}"
except lattok.LattokError as error:  # a head that is no better than the mean is refused
    control = str(error).split(". ")[0]
print(f"from {count} known actions: shared {found['head'][count]:.2f}; random: {control}")

# %% [markdown]
# ## Your own robots
#
# Set `DATASET` to a folder, a file or a Hub id; name as many as you have.

# %%
DATASET = lattok.sample_dataset_path()

print(f"{len(lattok.open_dataset(DATASET))} episodes")
print("lattok train idm DATASET ANOTHER --out shared --preset tiny --latent-dim 16")
print("lattok train idm NEW --out new --preset tiny --init shared")
print("lattok annotate NEW --model new --as actions --out filled")
