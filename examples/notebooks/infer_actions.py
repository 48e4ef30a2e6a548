# %% [markdown]
# # Much video, few actions: the robot before and after
#
# Video of robots is easy to come by; recorded actions often are not. Here we know the actions of **two demonstrations of each task** and
# have only video of the others. A small inverse dynamics model learns from the known ones how an action looks. Then it fills in the
# unknown actions, and a policy learns from all demonstrations.
#
# It takes ten to twelve minutes of one core; no download, no token. It needs the simulator.
#
# In [Colab](https://colab.research.google.com): upload this file and a wheel of lattok (`pip wheel --no-deps .` in a clone) and run `%pip install "./lattok-0.1.0-py3-none-any.whl[notebooks,sim]"`.

# %%
import os
import shutil
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import lattok
from lattok import sim
from lattok.data import select_episodes

os.chdir(tempfile.mkdtemp(prefix="lattok-", dir="."))  # a new folder at each start: all cells can run again

# %% [markdown]
# ## Demonstrations, most of them without actions
#
# A simulator gives twenty demonstrations of each of four tasks. Their experts are noisy: `action` is what the robot was told, noise
# included, and `expert_action` what the expert would have done. Policies learn the second; a video shows the first.
#
# We write NaN over both in all demonstrations but two of each task. NaN is how lattok knows that nobody knows an action.

# %%
TASKS = [f"metaworld-pairs/{name}" for name in ("drawer-open", "drawer-close", "window-open", "window-close")]
shown, played, steps = 20, 10, {"steps": 1500}  # short: shown, played, steps = 3, 1, {}
sim.collect(TASKS, "demonstrations", episodes=shown, workers=2)
demonstrations = lattok.open_dataset("demonstrations")
KNOWN = "2 per task seed 0"
known = [episode.index for episode in select_episodes(demonstrations, KNOWN)]

shutil.copytree("demonstrations", "few")
for file in sorted(Path("few").glob("data/**/*.parquet")):
    table = pq.read_table(file)
    hidden = ~np.isin(table["episode_index"].to_numpy(), known)
    for name in ("action", "expert_action"):
        values = np.stack(table[name].to_numpy())
        values[hidden] = np.nan
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
        table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
    pq.write_table(table, file)
print(f"{len(demonstrations)} demonstrations; actions of {len(known)} are known: episodes {known}")

# %% [markdown]
# ## An inverse dynamics model fills them in
#
# Four small networks see a frame and the two after it, and say which action was carried out between them. They learn from the eight known
# demonstrations in about two minutes. Then `annotate(..., fill=True)` writes what they say wherever the action is unknown. A measured action is
# never changed, and the column `inferred.filled` says which is which.

# %%
common = {"device": "cpu", "threads": 1}  # short: common = {"device": "cpu", "threads": 1, "steps": 30, "trial": True}
idm = lattok.train(lattok.InverseDynamicsRecipe.from_preset("few", "idm", "tiny", **common))
filled = lattok.annotate("few", idm, "filled", fill=True, action_key="expert_action")

# %% [markdown]
# Since we only pretended not to know, we can look: how much of the experts' movement do the inferred actions explain?


# %%
def column(folder, name):
    rows = pa.concat_tables(pq.read_table(file) for file in sorted(Path(folder).glob("data/**/*.parquet")))
    return np.stack(rows[name].to_numpy())


def explained(folder):
    """R² of x, y and z where the action was unknown."""
    unknown = ~np.isin(column("demonstrations", "episode_index"), known)
    truth, guess = (column(each, "expert_action")[unknown, :3] for each in ("demonstrations", folder))
    return 1 - np.square(guess - truth).sum(0) / np.square(truth - truth.mean(0)).sum(0)


r2 = explained("filled")
print("R² of x, y, z:", r2.round(2), "mean:", r2.mean().round(2))

# %% tags=["check"]
assert r2.mean() > 0.5  # full

# %% [markdown]
# ## The robot before and after
#
# Two policies with the same seed, the same network and the same number of steps. The first learns from the known demonstrations alone, the
# second from all of them.


# %%
def learned(data, out, **options):
    return lattok.train(
        lattok.VLARecipe.from_preset(
            data, out, backbone="scratch", action_key="expert_action", n_action_steps=4, **options, **common | steps
        )
    )


before, after = learned("few", "before", episodes=KNOWN), learned("filled", "after")
runs = {
    name: sim.rollout(policy, TASKS, played, videos=1, out=f"rollouts-{name}")
    for name, policy in {"before": before, "after": after}.items()
}
for name, run in runs.items():
    low, high = run.score().interval
    print(f"{name:6} {run.score().success:.0%} of {run.score().episodes} rollouts [{low:.0%}, {high:.0%}]")

# %% tags=["check"]
assert runs["after"].score().success > runs["before"].score().success  # full

# %% tags=["picture"]
figure, axes = plt.subplots(4, 1, figsize=(9, 6.4), dpi=100, layout="constrained")
for place, (task, name) in enumerate((task, name) for task in TASKS[:2] for name in runs):
    run = runs[name]
    film = next(film for one, film in run.films.items() if one.task == task)
    wide = film.shape[2] // len(idm.cameras)
    moments = np.linspace(0, len(film) - 1, 7).round().astype(int)
    axes[place].imshow(np.concatenate([film[moment][:, :wide] for moment in moments], 1))
    score = run.score(task)
    done = round(score.success * score.episodes)
    axes[place].set(title=f"{task.split('/')[1]}, {name}: {done} of {score.episodes}", xticks=[], yticks=[])
    axes[place].spines[:].set_visible(False)
figure.suptitle("Actions of two demonstrations a task are known. Before: learned from these. After: from all")
plt.show()

# %% [markdown]
# One seed and forty rollouts show that it works here, not how much it helps. *Much video, few actions: a study* in the documentation has
# several seeds, eight tasks, and intervals.
#
# ## What would be wrong
#
# Perhaps the frame at the moment is enough, and nothing is inferred from what happens. An inverse model that sees **no later frame**
# can only guess what an expert would do next. It should be much worse.

# %%
options = {"offsets": (-2, -1, 0), **common}
past = lattok.train(lattok.InverseDynamicsRecipe.from_preset("few", "past", "tiny", **options))
lattok.annotate("few", past, "filled-past", fill=True, action_key="expert_action")
control = explained("filled-past")
print("R² with later frames:", r2.mean().round(2), "without:", control.mean().round(2))

# %% tags=["check"]
assert r2.mean() - control.mean() > 0.1  # full

# %% [markdown]
# ## Your own data
#
# Set `DATASET` to the full path of a folder, or to a Hub id. Episodes whose actions are NaN, or a dataset without actions, count as unknown. On
# a GPU leave out preset and backbone.

# %%
DATASET = lattok.sample_dataset_path()

print(f"{len(lattok.open_dataset(DATASET))} episodes")
print("lattok train idm DATASET --out my-idm --preset tiny")
print("lattok annotate DATASET --model my-idm --as actions --out filled")
print("lattok train vla filled --out my-policy --backbone scratch")
