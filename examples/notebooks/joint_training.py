# %% [markdown]
# # Joint training, watched
#
# Labels are fixed: a policy cannot learn what they leave out. LARA
# ([arXiv 2606.07100](https://arxiv.org/abs/2606.07100)) lets **both learn at once**. The policy is pulled towards what the video shows, and the
# latent action model towards actions.
#
# Here we watch three small joint trainings, in which most episodes have no actions. Then we test what happened to the latent action model. It
# is a lesson in reading curves: **the run that looks best is the one that went wrong.**
#
# This takes about four minutes of one core; no download, no token.
#
# In [Colab](https://colab.research.google.com): upload this file and a wheel of lattok (`pip wheel --no-deps .` in a clone) and run `%pip install "./lattok-0.1.0-py3-none-any.whl[notebooks]"`.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import lattok
from lattok.data import inspect_dataset, select_episodes
from lattok.evaluation.evidence.probes import linear_probe, one_hot
from lattok.samples import FramePairs
from lattok.training.runlog import read_metrics

os.chdir(tempfile.mkdtemp(prefix="lattok-", dir="."))  # a new folder at each start: all cells can run again

# %% [markdown]
# ## A latent action model that never saw an action
#
# Pairs of frames 0.2 s apart become 4 codes of 16. The model learns only from one camera's video, and only briefly, so there is room
# for improvement.

# %% tags=["check"]
LESS = {"episodes": "50%", "trial": True}
SMALL = {"features": "pixels", "labelled_fraction": 0.0, "steps": 20, "codebook_continuous_steps": 10} | LESS
SHORT_JOINT = {"steps": 10, "batch_size": 16, "log_every": 2} | LESS

# %%
DATA = lattok.sample_dataset_path()
dataset = lattok.open_dataset(DATA)
common = {"cameras": dataset.cameras[:1], "device": "cpu", "threads": 1}
lam_steps, joint_steps = {"steps": 500, "codebook_continuous_steps": 150}, {"steps": 400, "log_every": 20}
options = {"features": "pixels", "labelled_fraction": 0.0} | lam_steps | common  # short: options = SMALL | common
lam = lattok.train(lattok.ImageLAMRecipe.from_preset(DATA, "lam", "tiny+robust", **options))

# %% [markdown]
# ## Joint training
#
# $$L = L_{action} + \lambda\,(1 - \cos(W h, e)) + \lambda_{LAM}\,L_{LAM} \qquad \lambda = \lambda_{LAM} = 0.01$$
#
# $h$ is a state inside the policy's flow head, which sees the true actions with noise; $e$ is what the latent action model says about the
# frame 0.2 s later, before quantization, and $W$ one linear layer. The actions of one episode of each task are known, and half of every
# batch comes from those; the other half has no actions: there the head sees noise alone.
#
# - **as published**: both weights 0.01, and gradients go both ways;
# - **its own loss counts more**: $\lambda_{LAM} = 1$;
# - **control, not pulled**: `detach="lam"`. The latent action model gets no gradient of the alignment. It makes as many steps, on the same
#   pairs, by its own loss, as if there were no policy; the policy follows it.

# %%
known, everything = (select_episodes(dataset, which) for which in ("10%", "train"))
print(f"the actions of {len(known)} of {len(everything)} episodes are known")
RUNS = {"as published": {}, "own loss counts more": {"lam_weight": 1.0}, "control, not pulled": {"detach": "lam"}}
for number, changes in enumerate(RUNS.values()):
    options = {"lam": "lam", "action_episodes": "10%", "acted_share": 0.5} | changes | common
    options |= joint_steps  # short: options |= SHORT_JOINT
    # preset `scratch`: a small policy that begins with nothing
    lattok.train(lattok.LARARecipe.from_preset(DATA, f"run{number}", "scratch", **options))

# %% [markdown]
# ## What can be watched
#
# Every run writes `metrics.jsonl`. It has the alignment (1 minus `loss/lara`), how many bits the four codes carry together, the latent action
# model's own loss, and that of the actions.

# %%
WATCHED = {
    "alignment, cos(W h, e)": lambda line: 1 - line["loss/lara"],
    "bits in the codes": lambda line: line["codebook/lam.lam.control.quantizer/joint_bits"],
    "prediction loss of the LAM": lambda line: line["loss/lam_prediction"],
    "action loss of the policy": lambda line: line["loss/action"],
}
steps, curves, last = [], {}, {}
for number, how in enumerate(RUNS):
    lines = read_metrics(Path(f"run{number}/run/metrics.jsonl"))
    steps = [line["step"] for line in lines]
    curves[how] = {what: [read(line) for line in lines] for what, read in WATCHED.items()}
    last[how] = {what: sum(values[-5:]) / 5 for what, values in curves[how].items()}
    print(f"{how:20}", ", ".join(f"{what} {value:.3f}" for what, value in last[how].items()))

# %% [markdown]
# The alignment rises highest as published. Had we watched that curve alone, we would be pleased.
#
# ## What became of the latent action model
#
# Probes on held-out episodes, by ridge regression, answer this: how much of the mean action over the 0.2 s can be predicted from the codes? The control
# of the probe is the first frame without any codes.

# %%
cameras, stride = lam.cameras, lam.stride_frames(dataset.fps)
halves = [FramePairs(dataset, stride, cameras, episodes=half, transform=lam.resize) for half in ("train", "test")]
groups, actions = halves[0].episode_of, [torch.as_tensor(pairs.actions) for pairs in halves]
first = [torch.as_tensor(pairs.frames[pairs.first, 0, ::4, ::4]).flatten(1) / 255 for pairs in halves]  # 16 x 16 pixels


def r2(inputs, targets):
    """R² on held-out episodes, a mean over dimensions."""
    return float(linear_probe(inputs[0], targets[0], groups, inputs[1], targets[1]).r2.nanmean())


def judged(model):
    """R² of the action from the codes; and two ways to be aligned without saying what happens."""
    seen = [
        [model.encode(pairs.batch(rows).frames) for rows in torch.arange(len(pairs)).split(256)] for pairs in halves
    ]
    codes = [torch.cat([part.codes for part in parts]) for parts in seen]
    latents = [torch.cat([part.latents for part in parts]).flatten(1) for parts in seen]
    return {
        "R² of the action from the codes": r2([one_hot(half, codes[0]) for half in codes], actions),
        "R² of e from the first frame": r2(first, latents),
        "alignment of a constant": float(F.normalize(latents[1], dim=1).mean(0).norm()),
    }


found = {"before": judged(lam)} | {how: judged(lattok.load(f"run{number}/lam")) for number, how in enumerate(RUNS)}
frame = r2(first, actions)
for how, figures in found.items():
    print(f"{how:20}", ", ".join(f"{what} {value:.2f}" for what, value in figures.items()))
print(f"control: R² of the action from the first frame {frame:.2f}")

# %% tags=["picture"]
COLOURS = dict(zip(found, ("0.6", "#d95f02", "#7570b3", "#1b9e77"), strict=True))
places = [[*list(WATCHED)[:2], "bars"], [*list(WATCHED)[2:], "bars"]]
figure, axes = plt.subplot_mosaic(places, figsize=(11, 5), dpi=110, layout="constrained")
for what in WATCHED:
    for how, curve in curves.items():
        axes[what].plot(steps, curve[what], color=COLOURS[how], label=how)
    axes[what].set_title(what, fontsize="medium")
    axes[what].set_xlabel("step")
figure.legend(
    *axes[next(iter(WATCHED))].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
)
codes = [figures["R² of the action from the codes"] for figures in found.values()]
axes["bars"].bar(range(len(found)), codes, color=list(COLOURS.values()))
axes["bars"].set_xticks(range(len(found)), [how.replace(" ", "\n") for how in found], fontsize="small")
axes["bars"].axhline(max(frame, 0), color="black", linestyle=":")
axes["bars"].set_title("R² of the action from the codes\n(dotted: from the first frame alone)", fontsize="medium")
for axis in axes.values():
    axis.spines[["top", "right"]].set_visible(False)
figure.suptitle(
    "They agree best where one of them has stopped talking; with more weight on its own loss it learns from the actions"
)
plt.show()

# %% [markdown]
# ## What would be wrong
#
# The policy sees the first frame, and actions with noise, but not the second frame. A latent action model that is
# pulled towards it has an easy way to agree: **say less**. Two figures above look for that. If $e$ is nearly the same for all pairs, a
# constant is aligned with it, whatever the scene. If ridge regression from 16 × 16 pixels of the first frame predicts $e$, the second
# frame is not needed. With the published weights the alignment of a constant rises. The price is fewer bits and a higher prediction loss. So watch those, and
# the control that is not pulled.
#
# With $\lambda_{LAM} = 1$ the bits stay, and the codes say more about the action than those of the control. That is the purpose of joint training.
# A little more of $e$ can then be predicted from the first frame too: these demonstrations are an expert's, whose actions follow from what
# it sees.

# %% tags=["check"]
pulled, heavier, control = (found[how] for how in RUNS)
ours, _, theirs = (last[how] for how in RUNS)
assert ours["alignment, cos(W h, e)"] > theirs["alignment, cos(W h, e)"] + 0.15  # full
assert ours["bits in the codes"] < theirs["bits in the codes"] / 2  # full
assert ours["prediction loss of the LAM"] > theirs["prediction loss of the LAM"]  # full
assert pulled["alignment of a constant"] > 2 * control["alignment of a constant"]  # full
assert pulled["R² of the action from the codes"] < control["R² of the action from the codes"] / 2  # full
assert heavier["R² of the action from the codes"] > control["R² of the action from the codes"] + 0.05  # full

# %% [markdown]
# ## What this shows, and what not
#
# This is one seed of a tiny model that was hardly trained, for 400 steps. Joint training **can** empty a latent action model, and this is
# what it looks like. With other weights it **can** also teach the model about actions. Adam does not see how large a loss is, only how large its
# parts are relative to each other. Here the prediction loss begins at a twentieth of the alignment's, so with equal weights the
# alignment decides. The published models are far larger and their losses have other sizes, so 0.01 pulls differently there.
#
# It says nothing about success either. The action losses of one run mean little. Whether robots do better is measured with several seeds and
# rollouts (*Do latent actions help?* in the documentation).
#
# ## Your own data
#
# Set `DATASET` to the full path of a folder, or to a Hub id. If the bits fall, raise `--lam-weight`, or let the policy follow (`--detach lam`); `compare` judges the
# model before and after.

# %%
DATASET = lattok.sample_dataset_path()

print(inspect_dataset(lattok.open_dataset(DATASET)).headline())
print("lattok train image-lam DATASET --out my-lam --preset tiny+robust --features pixels")
print("lattok train lara DATASET --out my-policy --lam my-lam --backbone scratch --lam-weight 1")
print("lattok compare DATASET --models my-lam my-policy/lam")
