# %% [markdown]
# # Published models side by side
#
# LAPA, villa-X, AdaWorld and others publish latent action models, each with its own file format, range of pixels and gap between
# frames. `lattok convert` makes them all loadable by `lattok.load`. So they can be asked the same question on the same episodes:
# **how much do your labels say about what the robot did, and how much of that would something say that has learned nothing?**
#
# **Nothing is downloaded, so random weights replace the published ones.** The files are small and have the published names, and
# the steps are the same. Their scores are those of a network that knows nothing. They say *nothing* about the published models.
# [Where the weights are](#The-real-weights) comes at the end. One model here is trained: a small one that comes with lattok, like
# the fifty demonstrations. This takes a minute and a half on an idle core; no download, no token.
#
# In [Colab](https://colab.research.google.com): upload this file and a wheel of lattok (`pip wheel --no-deps .` in a clone) and run `%pip install "./lattok-0.1.0-py3-none-any.whl[notebooks]"`.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import safetensors.torch
import torch

import lattok
from lattok.data import inspect_dataset
from lattok.image_lam.published.adaworld import AdaWorldConfig, AdaWorldLAM, adaworld_names
from lattok.image_lam.published.lapa import LapaConfig, LapaLAQ, lapa_names
from lattok.image_lam.published.villax import VillaXConfig, VillaXLAM, villax_names
from lattok.nn.kmeans import kmeans
from lattok.utils.checks import LattokError

CAMERA, GAP = "observation.images.corner2", "0.2s"
dataset = lattok.open_dataset(lattok.sample_dataset_path())
stride = round(0.2 * dataset.fps)  # frames
episode = next(each for each in reversed(dataset.episodes) if each.tasks == ("open the drawer",))  # held out
clip = dataset.frames(episode.index)  # uint8 [T, V, H, W, 3]

# %% [markdown]
# ## Stand-ins
#
# **You can skip reading this cell, and leave it out once you have weights.** It builds each architecture small, with as many codes as published. It writes random
# weights as the authors' code does: with their names, their shapes and their kind of file. Codebooks are made from the
# network's own latents; otherwise all pairs would get the same code.


# %%
def stand_in(model, names, changes):
    """Weights of `model` by the names that its authors give them; `changes` are of tensors with other shapes there."""
    if model.codebook is not None:
        latents = model.label_video(torch.from_numpy(clip[:, :1]), stride).latents.flatten(0, 1)
        model.codebook.data = kmeans(latents, len(model.codebook), generator=torch.Generator().manual_seed(0))
    ours, theirs = model.saved_tensors(), {}
    for name, source in names.items():
        keys = [source] if isinstance(source, str) else source.keys
        change = next((changes[end] for end in changes if keys[0].endswith(end)), lambda tensor: [tensor])
        theirs |= {key: part.detach().clone() for key, part in zip(keys, change(ours[name]), strict=True)}
    return theirs


torch.manual_seed(0)
small = {"image_size": 64, "width": 32, "heads": 2, "decoder_depth": 1}

lapa = LapaLAQ(LapaConfig(patch=8, head_dim=16, space_depth=1, time_depth=1, **small))
weights = stand_in(lapa, lapa_names(lapa.config), {"dsconv.weight": lambda kernel: [kernel[:, None]]})
weights["enc_spatial_transformer.layers.0.1.null_kv"] = torch.zeros(2, 0, 16)
torch.save(weights, "laq_openx.pt")

sizes = {
    "hidden": 64,
    "pool_heads": 2,
    "pool_hidden": 64,
    "decoder_width": 32,
    "decoder_heads": 2,
    "decoder_hidden": 64,
}
villax = VillaXLAM(VillaXConfig(patch=16, depth=1, latent_dim=32, **sizes, **small))
for table in (villax.places, villax.times, villax.decoder_places):
    table.normal_()
changes = dict.fromkeys((".pe", "pe_spatial", "pe_temporal"), lambda table: [table[None]])
changes |= dict.fromkeys((".q.weight", ".q.bias"), lambda qkv: qkv.split([len(qkv) // 3, 2 * len(qkv) // 3]))
changes["embed.proj.weight"] = lambda matrix: [matrix.view(-1, 3, 16, 16)]
Path("villa-x").mkdir(exist_ok=True)
safetensors.torch.save_file(stand_in(villax, villax_names(villax.config), changes), "villa-x/model.safetensors")
heads = dict.fromkeys(("encoder_n_heads", "map_heads", "decoder_n_heads"), 2)
Path("villa-x/model_config.json").write_text(json.dumps(heads))

adaworld = AdaWorldLAM(AdaWorldConfig(patch=16, encoder_depth=1, **small))
changes = dict.fromkeys(("fc.weight", "fc.bias"), lambda mean: [torch.cat([mean, mean])])  # mean and variance
changes |= {"to_q.weight": lambda qkv: qkv.chunk(3), "action_prompt": lambda prompt: [prompt.view(1, 1, 1, -1)]}
weights = stand_in(adaworld, adaworld_names(adaworld.config), changes)
torch.save({"state_dict": {f"lam.{name}": tensor for name, tensor in weights.items()}}, "lam.ckpt")

# %% [markdown]
# ## Convert
#
# Once per model; in a terminal `lattok convert lapa-laq laq_openx.pt lapa --cameras observation.images.corner2 --stride 0.2s`. Every tensor
# of the file must have its place. What no file holds is said here: the camera, and the gap between the frames of a pair.

# %%
facts = {"cameras": (CAMERA,), "stride": GAP}
lattok.convert.lapa_laq("laq_openx.pt", **facts).save_pretrained("lapa")
lattok.convert.villax_lam("villa-x", **facts).save_pretrained("villax")
lattok.convert.adaworld_lam("lam.ckpt", image_size=64, **facts).save_pretrained("adaworld")

MODELS = {
    "lattok, trained": "sample/lam",
    "LAPA, random": "lapa",
    "villa-X, random": "villax",
    "AdaWorld, random": "adaworld",
}
models = {name: lattok.load(place) for name, place in MODELS.items()}
for name, model in models.items():
    config = model.config
    codes = "no codes" if model.codebook_size is None else f"{config.tokens} codes of {config.codebook_size}"
    print(
        f"{name:18} {codes:14} {len(model.cameras)} camera{'s' * (len(model.cameras) > 1)}, {config.image_size} pixels"
    )

# %% [markdown]
# The wrong file for a command is refused, with the right one:

# %%
try:
    lattok.convert.adaworld_lam("laq_openx.pt")
except LattokError as error:
    print(error)

# %% [markdown]
# ## One clip
#
# `label_video` labels every pair of a clip, and computes each frame only once. The label of a pair depends only on its two frames. That does
# not hold for all of the published code.

# %%
labels = {}
for name, model in models.items():
    views = clip[:, [dataset.cameras.index(camera) for camera in model.cameras]]
    labels[name] = model.label_video(views, stride)
    example = labels[name].codes[40].tolist() or [round(float(x), 2) for x in labels[name].latents[40, 0, :6]]
    print(f"{name:18} frames 40 and {40 + stride}: {example}")

# %% tags=["check"]
rows = np.arange(0, len(clip) - stride, 7)
for name, model in models.items():
    views = clip[:, [dataset.cameras.index(camera) for camera in model.cameras]]
    alone = model.encode(np.stack([views[rows], views[rows + stride]], 1))
    assert np.array_equal(alone.codes, labels[name].codes[rows])
    assert np.allclose(alone.latents, labels[name].latents[rows], atol=2e-5, rtol=1e-4)

# %% [markdown]
# ## The same probes, one table
#
# `compare` fits the same linear regression from every model's labels to the mean action of the gap, on the training episodes, and judges
# it on held-out ones. Every figure is that of a single `lattok evaluate`. It also writes a page with intervals, tasks that the probe has
# not seen, speed, memory and a plot of bits against R²: `comparison/report.html`.

# %%
episodes = 200  # short: episodes = 16
figures = lattok.compare(dataset, MODELS, out="comparison", max_episodes=episodes).figures

# %% tags=["check"]
assert figures["lattok, trained/r2_from_codes/codes"] > 0.6  # full

# %% [markdown]
# Each row next to its own controls, with the bits or the width of that model: k-means on the frame change and, where there is one, on the
# motion that block matching finds, the same architecture untrained, and the current frame alone, from which much of the action can
# be guessed.

# %%
CONTROLS = {
    "codes": ("residual_kmeans", "flow_kmeans", "untrained", "current_frame"),
    "latents": ("pca_change_equal_width", "pca_flow", "untrained", "current_frame"),
}
table = {}
for name, model in models.items():
    kind = "latents" if model.codebook_size is None else "codes"
    known = {key: figures.get(f"{name}/r2_from_{kind}/{key}") for key in CONTROLS[kind]}
    controls = {key: r2 for key, r2 in known.items() if r2 is not None}  # small patches have no block flow
    span = [figures[f"{name}/r2_from_{kind}_{end}/{kind}"] for end in ("low", "high")]
    table[name] = figures[f"{name}/r2_from_{kind}/{kind}"], span, controls

print(f"{'':18} bits    R²   95 % of episodes   untrained   best control")
for name, (value, (low, high), controls) in table.items():
    bits, best = figures.get(f"{name}/bits"), max(controls, key=controls.get)
    print(
        f"{name:18} {'  –' if bits is None else f'{bits:3.0f}'}  {value:5.2f}    {low:5.2f} … {high:.2f}"
        f"      {controls['untrained']:5.2f}    {controls[best]:5.2f}  {best}"
    )

# %% tags=["picture"]
figure, axes = plt.subplots(5, 1, figsize=(9, 5.8), dpi=110, layout="constrained", height_ratios=(1.7, 1, 1, 1, 1.3))
labelled = len(clip) - stride  # the last pairs of a clip end in its last frame: no action to compare with
moments = np.linspace(0, labelled - 1, 8).round().astype(int)
axes[0].imshow(np.concatenate(clip[moments, dataset.cameras.index(CAMERA)], 1), aspect="auto")
axes[0].set(title=f'One clip, "{episode.tasks[0]}", and four kinds of labels over time', xticks=[], yticks=[])
for axis, (name, label) in zip(axes[1:], labels.items(), strict=True):
    codes, latents = label.codes[:labelled], label.latents[:labelled, 0]
    if codes.size:
        axis.imshow(codes.T, aspect="auto", cmap="tab20", interpolation="nearest")
    else:  # every number by its own deviation
        axis.imshow(((latents - latents.mean(0)) / latents.std(0)).T, aspect="auto", cmap="RdBu", vmin=-2, vmax=2)
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(name.replace(", ", "\n"), rotation=0, ha="right", va="center", fontsize=10)
axes[4].set_xlabel(f"frame; each label is about the {stride} frames that follow")
figure.suptitle("Random weights stand in for the published ones: this shows the formats, not the models")
plt.show()

# %% [markdown]
# ## What would be wrong
#
# **Reading these R² without the controls would be wrong.** Knowing nothing does not give zero: any function of two frames says something about the scene, and
# the scene says something about the action. The latents of LAPA's random weights, before they become codes, say about as much as the current
# frame. Random weights must not beat their best control, and the trained model must beat its own.

# %%
random = figures["LAPA, random/r2_from_latents/latents"]
print(
    f"latents of LAPA's random weights: R² {random:.2f}; the current frame: {table['LAPA, random'][2]['current_frame']:.2f}"
)
for name, (value, _, controls) in table.items():
    print(f"{name:18} {value - max(controls.values()):+.2f} against its best control")

# %% tags=["check"]
for name, (value, _, controls) in table.items():
    assert value < 0.95
    assert (value > max(controls.values())) == name.endswith("trained")  # full

# %% [markdown]
# There are two more traps. *Gaps*: every published model has its own, and the mean action over a second is a different target from that over
# a fifth of one. `compare` says so, and `--stride` asks all about the same gap. *Cameras*: the published ones here see one camera,
# ours sees two.
#
# ## The real weights
#
# | system | where | then |
# |---|---|---|
# | LAPA | Hub: `latent-action-pretraining/LAPA-7B-openx`, `laq_openx.pt` | `lattok convert lapa-laq laq_openx.pt lapa` |
# | villa-X | Hub: `microsoft/villa-x`, the folder with `model_config.json` | `lattok convert villax-lam FOLDER villax` |
# | AdaWorld | Hub: `Little-Podi/AdaWorld`, `lam.ckpt` | `lattok convert adaworld-lam lam.ckpt adaworld` |
#
# UniVLA, Moto, LARA, LaWAM and LARYBench's models can be converted too. *Models* in the documentation has their licences and sizes, what they read, and
# how each differs from its published code. Keep the row with random weights in your table: it is the control for the real one.
#
# ## Your own data
#
# Set `DATASET` to a folder or a Hub id, and type what this says.

# %%
DATASET = lattok.sample_dataset_path()

print(inspect_dataset(lattok.open_dataset(DATASET)).headline())
print("lattok convert lapa-laq laq_openx.pt lapa --cameras CAMERA --stride 0.2s")
print("lattok compare DATASET --models sample/lam lapa --stride 0.2s --out my-comparison")
