# %% [markdown]
# # Train and judge a latent action model
#
# A latent action model looks at two frames and says in a few codes what happened in between. Nobody tells it what an action is, so
# it may just as well say that the light changed. How do you find out? **Every figure gets a control**: something that
# knows nothing about actions and may still look good.
#
# We use the fifty demonstrations that come with lattok. This takes four minutes on an idle core; no download, no token.
#
# In [Colab](https://colab.research.google.com): upload this file and a wheel of lattok (`pip wheel --no-deps .` in a clone) and run `%pip install "./lattok-0.1.0-py3-none-any.whl[notebooks]"`.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import lattok
from lattok.data import inspect_dataset
from lattok.samples import FramePairs

os.chdir(tempfile.mkdtemp(prefix="lattok-", dir="."))  # a new folder at each start: all cells can run again

# %% [markdown]
# ## Train
#
# Pairs of frames 0.2 s apart become 4 codes of 16. A decoder has to predict the later frame from the earlier one and the codes.
# 5 % of the pairs also show their action. The last episode of every task is held out.

# %% tags=["check"]
SMALL = {"features": "pixels", "device": "cpu", "threads": 1, "steps": 60, "trial": True}

# %%
dataset = lattok.open_dataset(lattok.sample_dataset_path())
options = {"features": "pixels", "device": "cpu", "threads": 1}  # short: options = SMALL
recipe = lattok.ImageLAMRecipe.from_preset(lattok.sample_dataset_path(), "lam", "tiny+robust", **options)
lam = lattok.train(recipe)
stride = lam.stride_frames(dataset.fps)
print(f"{sum(p.numel() for p in lam.parameters()):,} parameters; a pair is {stride} frames apart")

# %% [markdown]
# ## Is it good enough to annotate with?
#
# `evaluate` tests the model on episodes that it has not seen, and answers in a sentence. It shows the figures behind the answer with their
# controls: codes of k-means on what changed or on optical flow, an untrained model's codes, and the current frame without any codes.
# It also writes a full report. `lattok evaluate` does the same from a terminal.

# %%
at_most = 200  # short: at_most = 16
report = lattok.evaluate(lam, dataset, out="report", max_episodes=at_most)
print(report.summary_text())
print(f"\nreport/report.html: {Path('report/report.html').stat().st_size / 1e6:.1f} MB, {report.tally}")
figures = report.figures

# %% tags=["check"]
assert figures["r2_from_codes/codes"] > figures["r2_from_codes/current_frame"]  # full
assert figures["r2_from_codes/codes"] > figures["r2_from_codes/residual_kmeans"] > 0.3  # full

# %% [markdown]
# ## What do the codes mean?
#
# We take the four codes used most at the first position. For each, the picture shows the most typical held-out pair, and the actions of all pairs
# with that code, in the plane that the camera sees best. All other pairs are grey.

# %%
pairs = FramePairs(dataset, stride, lam.cameras, episodes="test")
latents = [lam.encode(pairs.batch(rows).frames) for rows in torch.arange(len(pairs)).split(64)]
codes = torch.cat([part.codes for part in latents])[:, 0]
flat = torch.cat([part.latents for part in latents]).flatten(1)
y, z = (list(dataset.features["action"].names).index(name) for name in "yz")
moves = pairs.actions[:, [y, z]]


def most_typical(code):
    """The pair whose latent is nearest to the middle of all with this code."""
    rows = (codes == code).nonzero()[:, 0]
    return int(rows[(flat[rows] - flat[rows].mean(0)).square().sum(1).argmin()])


used = torch.bincount(codes, minlength=16)
chosen = used.argsort(descending=True)[:4].tolist()
spread = {code: moves[codes == code].std(0).mean() / moves.std(0).mean() for code in chosen}
for code in chosen:
    mean = moves[codes == code].mean(0)
    print(
        f"code {code:2}: {int(used[code]):3} pairs, y {mean[0]:+.2f}, z {mean[1]:+.2f}, spread {spread[code]:.2f} of all"
    )

# %% tags=["picture"]
figure, axes = plt.subplots(2, 4, figsize=(10.5, 4.4), dpi=110, height_ratios=(1, 1.15), layout="constrained")
for (top, bottom), code in zip(axes.T, chosen, strict=True):
    before, after = pairs.frames[[pairs.first[most_typical(code)], pairs.second[most_typical(code)]], 0]
    top.imshow(np.concatenate([before, np.full((len(before), 4, 3), 255, np.uint8), after], 1))
    top.set(title=f"code {code}, before and after", xticks=[], yticks=[])
    top.spines[:].set_visible(False)
    these, mean = moves[codes == code], moves[codes == code].mean(0)
    bottom.plot(*moves.T, ".", color="0.85", markersize=4)
    bottom.plot(*these.T, ".", color="#1b9e77", markersize=4)
    bottom.annotate("", mean, (0, 0), arrowprops={"color": "black", "width": 1.5, "headwidth": 8})
    bottom.set(xlabel="action, y", xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
    bottom.spines[["top", "right"]].set_visible(False)
axes[1, 0].set_ylabel("action, z")
plt.show()

# %% [markdown]
# ## What would be wrong
#
# If a code means *the hand goes down*, it should mean that in every scene. So we take the codes of one clip and let the decoder apply them to
# a frame of **another task**. We encode the result and predict the action from it. The controls are that clip's own codes, and codes of a
# third clip. The best one can hope for is the same cycle within one clip.
#
# Do not expect much. A tiny model trained on fifty episodes hardly knows what its codes look like in a different scene. No figure about
# held-out episodes of *known* tasks shows that. Do not replay latents of one clip in another before this
# figure is good.

# %%
kinds = {
    "same_scene": "in the same clip",
    "model": "in another task's clip",
    "own": "control: that clip's own codes",
    "random": "control: codes of a third clip",
}
values = [figures[f"transfer_action/{kind}"] for kind in kinds]
for name, value in zip(kinds.values(), values, strict=True):
    print(f"{name:32} R² of the action {value:5.2f}")
figure, axis = plt.subplots(figsize=(7, 2.2), dpi=110, layout="constrained")
axis.barh(list(kinds.values()), np.maximum(values, -1), color=["0.6", "#1b9e77", "#d95f02", "#d95f02"])
axis.axvline(0, color="black", linewidth=0.8)
axis.set(xlabel="R² of the action read from what comes back (0: the average action)", xlim=(-1, 1))
axis.invert_yaxis()
axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %% tags=["check"]
assert values[0] > values[1] > max(values[2:])  # full

# %% [markdown]
# ## Your own data
#
# Set `DATASET` to the full path of a folder, or to a Hub id. This cell inspects it and says what to type. On a GPU leave out preset and features: you get
# DINOv2 features and a larger model.

# %%
DATASET = lattok.sample_dataset_path()

print(inspect_dataset(lattok.open_dataset(DATASET)).headline())
print("lattok train image-lam DATASET --out my-lam --preset tiny+robust --features pixels")
print("lattok evaluate my-lam DATASET --out my-report --controls trained")
