# %% [markdown]
# # Tokenise actions
#
# A language model emits tokens, a robot needs numbers. An action tokenizer turns a chunk of actions into a few codes, and any
# codes back into a chunk. We compare five families: how many bits do they need, and how many **centimetres** of error do they make?
#
# We use the demonstrations that come with lattok. This takes slightly more than a minute on an idle core; no download, no token.
#
# In [Colab](https://colab.research.google.com): upload this file and a wheel of lattok (`pip wheel --no-deps .` in a clone) and run `%pip install "./lattok-0.1.0-py3-none-any.whl[notebooks]"`.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
import torch

import lattok
from lattok.samples import ActionWindows

COLOURS = {"residual VQ": "#1b9e77", "FSQ": "#7570b3", "FAST": "#d95f02", "P2T": "#e7298a", "uniform bins": "#66a61e"}

# %% [markdown]
# ## Chunks, and their unit
#
# The data are ten Meta-World tasks at 80 steps a second. An action is x, y, z and gripper. The simulator adds **1 cm times x, y and z to the
# place where the hand is pulled to**. So a chunk of eight actions is a piece of a path in centimetres, up to 8 cm in each
# direction. Does the recorded hand follow? We compare the sum of the actions with how far the hand moved.

# %%
HORIZON = 8
dataset = lattok.open_dataset(lattok.sample_dataset_path())
train = ActionWindows(dataset, HORIZON, episodes="train", step=2)
test = ActionWindows(dataset, HORIZON, episodes="test")  # the last episode of every task: nobody trains on it
chunks, valid = test.all()
print(
    f"{len(train)} chunks to learn from, {len(chunks)} to judge on: {list(chunks.shape[1:])} each, {train.action_names}"
)

asked, went = [], []
for episode in dataset.episodes:
    columns = dataset.columns(episode.index, ["action", "observation.state"])
    path = columns["action"][:, :3].cumsum(0)  # cm
    hand = 100 * columns["observation.state"][:, :3]  # recorded in metres
    asked.append(path[39:-1] - path[:-40])
    went.append(hand[40:] - hand[1:-39])
asked, went = np.concatenate(asked).ravel(), np.concatenate(went).ravel()
slope, correlation = float(asked @ went / (asked @ asked)), float(np.corrcoef(asked, went)[0, 1])
print(f"in 39 steps the hand goes {slope:.2f} cm for every cm that actions add up to (correlation {correlation:.2f})")

# %% tags=["check"]
assert 0.75 < slope < 1.05
assert correlation > 0.9

# %% [markdown]
# ## Five tokenizers
#
# `fit` takes chunks in the robot's units; the normaliser is part of the tokenizer. All are set to about 64 bits a chunk. The fits of
# residual VQ and FSQ are shorter than their defaults; *What to expect* in the documentation has figures of the defaults.

# %%
options = {"action_names": tuple(train.action_names)}
rounds, steps = 1, 1000  # short: rounds, steps = 0, 30
tokenizers = {
    "residual VQ": lattok.ResidualVQ.fit(*train.all(), steps=rounds, synthetic=4000, **options),
    "FSQ": lattok.FSQ.fit(*train.all(), steps=steps, synthetic=4000, **options),
    "FAST": lattok.FAST.fit(*train.all(), scale=4, vocab_size=256, **options),
    "P2T": lattok.P2TActionVQ.fit(*train.all(), steps=steps, **options),
    "uniform bins": lattok.UniformBins.fit(*train.all(), bins=4, **options),
}
for name, tokenizer in tokenizers.items():
    codes = tokenizer.encode(chunks[:1], valid[:1])[0]
    print(f"{name:13} {codes[codes >= 0].tolist()}")

# %% [markdown]
# ## Rate and distortion
#
# Bits are the number of codes times the logarithm of the vocabulary. The error is the distance between the hand's path, added up over the chunk, and the
# path that was asked for. Residual VQ and FSQ are coarse to fine: *the first few codes of the same row* give the points on
# the left. The scale is set by saying nothing: always the average action.


# %%
def off_the_path(decoded):
    """How far paths decoded are from those asked for, in cm: [N, H], and NaN beyond the episode."""
    gap = (decoded - chunks)[..., :3].cumsum(1).norm(dim=-1)
    return gap.masked_fill(~valid, torch.nan)


def measure(tokenizer, first=None):
    """Bits a chunk, and the mean error in cm, of all codes or the first ones of each row."""
    codes = tokenizer.encode(chunks, valid)[:, :first]
    bits = float((codes >= 0).sum()) / len(codes) * math.log2(tokenizer.vocab_size)
    return bits, float(off_the_path(tokenizer.decode(codes, repair=True)).nanmean())


nothing = float(off_the_path(train.actions.mean(0).expand_as(chunks)).nanmean())
curves = {
    "residual VQ": [measure(tokenizers["residual VQ"], n) for n in (2, 4, 6, 8)],
    "FSQ": [measure(tokenizers["FSQ"], n) for n in (2, 4, 6, 8)],
    "FAST": [measure(lattok.FAST.fit(*train.all(), scale=scale, vocab_size=256)) for scale in (2, 4, 8)],
    "P2T": [measure(tokenizers["P2T"])],
    "uniform bins": [measure(lattok.UniformBins.fit(*train.all(), bins=bins)) for bins in (4, 8, 16)],
}
for name, points in curves.items():
    print(f"{name:13}", "   ".join(f"{bits:5.1f} bits {error:.2f} cm" for bits, error in points))
print(f"{'nothing':13}   0.0 bits {nothing:.2f} cm")

figure, axis = plt.subplots(figsize=(7, 3.6), dpi=110, layout="constrained")
for name, points in curves.items():
    axis.plot(*zip(*points, strict=True), "o-", color=COLOURS[name], label=name)
axis.axhline(nothing, color="0.6", linestyle="--")
axis.text(130, nothing, "the average action, 0 bits", ha="right", va="bottom", color="0.4")
axis.set(xlabel="bits for a chunk of 0.1 s", ylabel="mean error of the path, cm", yscale="log", xlim=(0, 132))
axis.set_yticks([0.1, 0.2, 0.5, 1, 2, 4], ["0.1", "0.2", "0.5", "1", "2", "4"])
axis.minorticks_off()
axis.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.92))
axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %% tags=["check"]
for points in curves.values():
    errors = [error for _, error in points]
    assert errors == sorted(errors, reverse=True)  # more bits, less error
    assert errors[-1] < nothing

# %% [markdown]
# ## A trajectory before and after
#
# One held-out episode, *open the drawer*, is cut into chunks of 0.1 s, encoded, decoded and joined again. The actions are
# increments, so an error in one chunk shifts all of the path after it. P2T drifts farthest: each of its codes is one step, decoded as
# one of 256 actions. It is made to supervise a policy, not to transmit actions.

# %%
episode = next(e for e in reversed(dataset.episodes) if e.tasks == ("open the drawer",))
whole, inside = ActionWindows(dataset, HORIZON, episodes=[episode.index], step=HORIZON).all()


def path(pieces):
    """The path of the hand's target, in cm: [T + 1, 3] from pieces [N, H, m]."""
    return torch.cat([torch.zeros(1, 3), pieces[inside][:, :3].cumsum(0)])


before = path(whole)
after = {name: path(tokenizer.decode(tokenizer.encode(whole, inside))) for name, tokenizer in tokenizers.items()}
farthest = {name: float((there - before).norm(dim=1).max()) for name, there in after.items()}
for name, error in farthest.items():
    print(f"{name:13} at most {error:.1f} cm off a path of {float(before.diff(dim=0).norm(dim=1).sum()):.0f} cm")

# %% tags=["check"]
assert farthest["residual VQ"] < farthest["uniform bins"]

# %% tags=["picture"]
figure, axes = plt.subplots(1, 5, figsize=(11, 3.1), dpi=110, sharex=True, sharey=True)
figure.subplots_adjust(left=0.06, right=0.99, bottom=0.14, top=0.78, wspace=0.08)
for axis, (name, there) in zip(axes, after.items(), strict=True):
    axis.plot(*before[:, 1:].T, color="0.75", linewidth=6, solid_capstyle="round")
    axis.plot(*there[:, 1:].T, color=COLOURS[name], linewidth=1.8)
    axis.set_title(f"{name}\n{farthest[name]:.1f} cm off at most", fontsize=10)
    axis.set_xlabel("y, cm")
    axis.set_aspect("equal")
    axis.spines[["top", "right"]].set_visible(False)
axes[0].set_ylabel("z, cm")
figure.suptitle(
    "Opening a drawer: the path asked for (grey), and after about 64 bits per tenth of a second", fontsize=11, y=0.98
)
plt.show()

# %% [markdown]
# ## What would be wrong
#
# A decoder can be good by knowing what robots usually do. Then nobody would notice that its codes say nothing. So we give every decoder
# **the codes of another chunk**. If the codes carry the action, the error must rise at least to that of the average action.

# %%
shuffled = torch.randperm(len(chunks), generator=torch.Generator().manual_seed(0))
print(f"{'':13} {'own codes':>10} {'of another':>11}")
pairs = {}
for name, tokenizer in tokenizers.items():
    decoded = tokenizer.decode(tokenizer.encode(chunks, valid))
    pairs[name] = float(off_the_path(decoded).nanmean()), float(off_the_path(decoded[shuffled]).nanmean())
    print(f"{name:13} {pairs[name][0]:7.2f} cm {pairs[name][1]:8.2f} cm")

# %% tags=["check"]
assert all(other > nothing > own for own, other in pairs.values())

# %% [markdown]
# ## Nonsense decodes
#
# A policy may emit anything: too few codes, too many, numbers that are not codes. A robot must still get a chunk. `decode` never
# fails; `return_info=True` says what it repaired.

# %%
noise = torch.randint(0, 256, (32,), generator=torch.Generator().manual_seed(0)).tolist()
nonsense = {"nothing": [], "no codes": [-7, 10**9], "too many": [3] * 50, "random": noise}
for name, tokenizer in tokenizers.items():
    decoded, info = tokenizer.decode(list(nonsense.values()), return_info=True)
    print(f"{name:13} largest action {float(decoded.abs().max()):.2f}   {nonsense['no codes']}: {info.notes[1]}")

# %% tags=["check"]
for tokenizer in tokenizers.values():
    decoded = tokenizer.decode(list(nonsense.values()), repair=True)
    assert decoded.shape == (4, HORIZON, 4)
    assert decoded.isfinite().all()

# %% [markdown]
# ## The published FAST
#
# The tokenizer that its authors trained on a million chunks of many robots is on the Hub. **This cell needs a download, so it does nothing
# here.** Set `DOWNLOAD = True` to run it. The published FAST takes normalised actions, so it gets the dataset's statistics.

# %%
DOWNLOAD = False

if DOWNLOAD:
    statistics = {"q01": train.actions.quantile(0.01, 0).tolist(), "q99": train.actions.quantile(0.99, 0).tolist()}
    published = lattok.FAST.from_published(
        "physical-intelligence/fast", action_dim=4, horizon=HORIZON, statistics=statistics
    )
    print(measure(published))

# %% [markdown]
# ## Your own data
#
# Set `DATASET` to a folder or a Hub id. The report is per dimension and in your units, with the worst case; the tokenizer is saved,
# and `lattok.load("my-tokenizer")` opens it.

# %%
DATASET = lattok.sample_dataset_path()

own = lattok.open_dataset(DATASET)
windows = ActionWindows(own, HORIZON, episodes="train")
tokenizer = lattok.FAST.fit(*windows.all(), scale=4, action_names=tuple(windows.action_names))
print(tokenizer.error_report(*ActionWindows(own, HORIZON, episodes="test").all()).to_text())
tokenizer.save_pretrained("my-tokenizer")
