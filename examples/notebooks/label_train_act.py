# %% [markdown]
# # Label a dataset, train a policy, watch it act
#
# This notebook goes the whole way. A simulator gives demonstrations. A latent action model labels them, as columns that any code can read.
# A policy learns actions *and* latent actions from camera images and an instruction. Then the robot does
# what it is told, and its success has **an interval**.
#
# It takes about six minutes of an idle core; no download, no token. It needs the simulator.
#
# In [Colab](https://colab.research.google.com): upload this file and a wheel of lattok (`pip wheel --no-deps .` in a clone) and run `%pip install "./lattok-0.1.0-py3-none-any.whl[notebooks,sim]"`.

# %%
import importlib.util
import os
import tempfile

import matplotlib.pyplot as plt
import numpy as np

import lattok
from lattok import sim
from lattok.data import inspect_dataset
from lattok.vla import STRATEGIES

os.chdir(tempfile.mkdtemp(prefix="lattok-", dir="."))  # a new folder at each start: all cells can run again

# %% [markdown]
# ## Demonstrations
#
# There are two scenes of Meta-World with two opposite tasks in each. Both tasks of a scene begin alike, with drawer or window half open.
# Reaching the wrong end first counts as failure. So **only the instruction says what to do**. Scripted experts show each task
# twenty times.

# %%
TASKS = [f"metaworld-pairs/{name}" for name in ("drawer-open", "drawer-close", "window-open", "window-close")]
shown, played, steps = 20, 10, {"steps": 1500}  # short: shown, played, steps = 2, 1, {}
sim.collect(TASKS, "demonstrations", episodes=shown, workers=2)
dataset = lattok.open_dataset("demonstrations")
print(f"{len(dataset.episodes)} episodes, {dataset.fps:.0f} decisions a second, cameras {', '.join(dataset.cameras)}")

# %% [markdown]
# ## A latent action model labels them
#
# `annotate` writes a LeRobot dataset with the old columns, the old videos (as links) and new columns `latent.*`. LeRobot reads them
# like any others, if it is installed.

# %%
common = {"device": "cpu", "threads": 1}  # short: common = {"device": "cpu", "threads": 1, "steps": 30, "trial": True}
robust = {"features": "pixels", **common}
lam = lattok.train(lattok.ImageLAMRecipe.from_preset("demonstrations", "lam", "tiny+robust", **robust))
lattok.annotate(dataset, {"latent": lam}, "annotated")

if importlib.util.find_spec("lerobot") is None:
    row = lattok.open_dataset("annotated").columns(0, ["latent.codes", "latent.valid"])
    print("read by lattok:", row["latent.codes"][0].tolist(), "valid:", bool(row["latent.valid"][0]))
else:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    row = LeRobotDataset("local/annotated", root="annotated", video_backend="pyav")[0]
    print("read by LeRobot:", row["latent.codes"].tolist(), "valid:", bool(row["latent.valid"]))

# %% [markdown]
# ## Four ways to use the labels
#
# A strategy says which tokens a policy has, what they learn, and what remains when the policy acts. We take LA-Direct. It has one
# token for each code, trained by cross-entropy next to the actions, and never decodes them while the robot acts.

# %%
for name in ("baseline", "la_align", "la_direct", "la_cond", "la_tok"):
    strategy = STRATEGIES[name]
    learns = ", ".join(f"{loss.loss} at {loss.span}" for loss in strategy.losses) or "nothing but actions"
    print(f"{strategy.title:10} tokens: {', '.join(span.name for span in strategy.spans):18} learns: {learns}")

recipe = lattok.VLARecipe.from_preset(
    "annotated",
    "policy",
    backbone="scratch",  # three layers; leave it out for Qwen3-VL-2B and the paper's recipe
    strategy="la_direct",
    action_key="expert_action",  # demonstrations are noisy on purpose: learn what the expert would have done
    n_action_steps=4,  # of a chunk of 8, carried out before the next look
    **common | steps,
)
policy = lattok.train(recipe)

# %% [markdown]
# ## It acts
#
# The robot starts from states that no demonstration had. The interval is Wilson's, 95 %. With forty rollouts it is wide, and a
# difference of ten points between two policies means nothing yet.

# %%
rollouts = sim.rollout(policy, TASKS, played, videos=1, out="rollouts")
print(rollouts.to_text())
score = rollouts.score()

# %% tags=["check"]
assert score.success > 0.6  # full

# %% tags=["picture"]
films = {one.task: film for one, film in rollouts.films.items()}
figure, axes = plt.subplots(4, 1, figsize=(9, 7.2), dpi=110, layout="constrained", height_ratios=(3, 1, 3, 1))
for (top, bottom), task in zip(axes.reshape(2, 2), TASKS[:2], strict=True):
    film = films[task]
    wide = film.shape[2] // len(lam.cameras)
    moments = np.linspace(0, len(film) - 1, 7).round().astype(int)
    top.imshow(np.concatenate([film[moment][:, :wide] for moment in moments], 1))
    told = next(each.tasks[0] for each in dataset.episodes if task.split("-")[-1] in each.tasks[0])
    won = next(one.success for one in rollouts.episodes if one.task == task)
    top.set(title=f'"{told}": {"done" if won else "failed"}', xticks=[], yticks=[])
    top.spines[:].set_visible(False)
    video = np.stack(np.split(film, len(lam.cameras), axis=2), 1)  # [T, V, H, W, 3]
    bottom.imshow(lam.label_video(video, lam.stride_frames(rollouts.fps[task])).codes.T, aspect="auto", cmap="tab20")
    bottom.set(yticks=[], ylabel="codes", xlabel="decision" if task == TASKS[1] else "")
low, high = score.interval
figure.suptitle(
    f"Same start, two instructions. {score.success:.0%} of {score.episodes} rollouts [{low:.0%}, {high:.0%}]"
)
plt.show()

# %% [markdown]
# ## What would be wrong
#
# A policy that ignores the instruction could still open drawers. So we tell it the **opposite** of what we score. Success must
# collapse, and the opposite end must be reached first. Without an instruction, it may do either.

# %%
controls = {}
for told in ("swapped", "blank"):
    control = controls[told] = sim.rollout(policy, TASKS, (played + 1) // 2, instruction=told).score()
    print(f"{told:8} success {control.success:.2f}, opposite first {control.failure:.2f}")

# %% tags=["check"]
assert controls["swapped"].success < 0.3 < controls["swapped"].failure  # full

# %% [markdown]
# Do the latent actions help? One policy cannot answer that. It takes a Baseline with the same seed and data, several seeds, and more
# rollouts. *Do latent actions help?* in the documentation has all that.
#
# ## Your own data
#
# Set `DATASET` to the full path of a folder, or to a Hub id. The three steps are the same. On a GPU leave out preset, features and backbone.

# %%
DATASET = lattok.sample_dataset_path()

print(inspect_dataset(lattok.open_dataset(DATASET)).headline())
print("lattok train image-lam DATASET --out my-lam --preset tiny+robust --features pixels")
print("lattok annotate DATASET --model my-lam --out my-annotated-dataset")
print("lattok train vla my-annotated-dataset --out my-policy --strategy la_direct --backbone scratch")
