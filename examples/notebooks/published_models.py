# %% [markdown]
# # Published models side by side
#
# LAPA, villa-X, AdaWorld and others publish latent action models, each with its own file format, range of pixels and gap between
# frames. `lattok convert` puts them all behind one `lattok.load`, so they can be asked the same question on the same episodes:
# **how much do your labels say about what the robot did, and how much of that does something know that has learned nothing?**
#
# **Nothing is downloaded, so random weights stand in for the published ones.** The files are small and have the published names;
# the steps are the same. What they score is what a network scores that knows nothing: it says *nothing* about the published models.
# [Where the weights are](#The-real-weights) comes at the end. One model here has learned: a small one that comes with lattok, like
# the fifty demonstrations. A minute and a half on an idle core; no download, no token.
#
# In [Colab](https://colab.research.google.com): upload this file and a wheel of lattok (`pip wheel --no-deps .` in a clone) and run `%pip install lattok-*.whl`, then `%pip install "lattok[notebooks]"`.

# %%
import json
import os
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

SHORT = bool(os.environ.get("LATTOK_SHORT"))  # the tests of this notebook judge on fewer episodes, and assert less

CAMERA, GAP = "observation.images.corner2", "0.2s"
dataset = lattok.open_dataset(lattok.sample_dataset_path())
stride = round(0.2 * dataset.fps)  # frames
episode = next(each for each in reversed(dataset.episodes) if each.tasks == ("open the drawer",))  # held out
clip = dataset.frames(episode.index)  # uint8 [T, V, H, W, 3]

# %% [markdown]
# ## Stand-ins
#
# **Skip this cell once you have weights.** It builds each architecture small, with as many codes as published, and writes random
# weights as the authors' code does: under their names, in their shapes, in their kind of file. Codebooks are made from the
# network's own latents, or all pairs would get the same code.


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
# `label_video` labels every pair of a clip, computing each frame once. The label of a pair depends on its two frames alone: encoded
# alone, it is the same, which does not hold for all of the published code.

# %%
rows = np.arange(0, len(clip) - stride, 7)
labels = {}
for name, model in models.items():
    views = clip[:, [dataset.cameras.index(camera) for camera in model.cameras]]
    labels[name] = model.label_video(views, stride)
    alone = model.encode(np.stack([views[rows], views[rows + stride]], 1))
    assert np.array_equal(alone.codes, labels[name].codes[rows])
    assert np.allclose(alone.latents, labels[name].latents[rows], atol=2e-5, rtol=1e-4)
    example = labels[name].codes[40].tolist() or [round(float(x), 2) for x in labels[name].latents[40, 0, :6]]
    print(f"{name:18} frames 40 and {40 + stride}: {example}")

# %% [markdown]
# ## The same probes, one table
#
# `compare` fits the same linear regression from every model's labels to the mean action of the gap, on the training episodes, and judges
# it on held-out ones. Every figure is that of a single `lattok evaluate`. It also writes a page with intervals, tasks that the probe has
# not seen, speed, memory and a plot of bits against R²: `comparison/report.html`.

# %%
figures = lattok.compare(dataset, MODELS, out="comparison", max_episodes=16 if SHORT else 200).figures
assert SHORT or figures["lattok, trained/r2_from_codes/codes"] > 0.6

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
figure, axes = plt.subplots(
    5, 2, figsize=(11, 5.8), dpi=110, layout="constrained", width_ratios=(3, 1), height_ratios=(1.7, 1, 1, 1, 1.3)
)
labelled = len(clip) - stride  # the last pairs of a clip end in its last frame: no action to compare with
moments = np.linspace(0, labelled - 1, 8).round().astype(int)
axes[0, 0].imshow(np.concatenate(clip[moments, dataset.cameras.index(CAMERA)], 1), aspect="auto")
axes[0, 0].set(title=f'One clip, "{episode.tasks[0]}", and its labels over time', xticks=[], yticks=[])
axes[0, 1].axis("off")
axes[0, 1].text(
    0, 0.05, "R² of the action, held-out episodes\n| the best control of this model", va="bottom", fontsize=9
)
for (left, right), (name, (value, (low, high), controls)) in zip(axes[1:], table.items(), strict=True):
    codes, latents = labels[name].codes[:labelled], labels[name].latents[:labelled, 0]
    if codes.size:
        left.imshow(codes.T, aspect="auto", cmap="tab20", interpolation="nearest")
    else:  # every number by its own deviation
        left.imshow(((latents - latents.mean(0)) / latents.std(0)).T, aspect="auto", cmap="RdBu", vmin=-2, vmax=2)
    left.set_yticks([])
    left.set_xticks([])
    left.set_ylabel(name.replace(", ", "\n"), rotation=0, ha="right", va="center", fontsize=10)
    trained = name.endswith("trained")
    right.barh([0], [max(value, 0)], color="#1b9e77" if trained else "0.75", height=0.55)
    right.errorbar([value], [0], xerr=[[value - low], [high - value]], color="black", capsize=3, linewidth=1)
    right.plot([max(controls.values())] * 2, [-0.45, 0.45], color="#d95f02", linewidth=2.5)
    right.text(1.0, 0, f"{value:.2f}", ha="right", va="center", fontsize=11, fontweight="bold" if trained else None)
    right.set(xlim=(0, 1), ylim=(-0.6, 0.6), yticks=[], xticks=[])
    right.spines[["top", "right", "bottom"]].set_visible(False)
axes[4, 0].set_xlabel(f"frame; each label is about the {stride} frames that follow")
axes[4, 1].set_xticks([0, 0.5, 1])
figure.suptitle(
    "Same clip, same probes. Random weights stand in for the published ones: what knowing nothing looks like"
)
plt.show()

# %% [markdown]
# ## What would be wrong
#
# **To read these R² without the controls.** Knowing nothing is not zero: any function of two frames says something about the scene, and
# the scene something about the action. The latents of LAPA's stand-in, before they become codes, say about as much as the current frame
# does. The stand-ins must not beat their best control, and the trained model must beat its own.

# %%
random = figures["LAPA, random/r2_from_latents/latents"]
print(
    f"latents of LAPA's random weights: R² {random:.2f}; the current frame: {table['LAPA, random'][2]['current_frame']:.2f}"
)
for name, (value, _, controls) in table.items():
    print(f"{name:18} {value - max(controls.values()):+.2f} against its best control")
    assert value < 0.95
    if not SHORT:
        assert (value > max(controls.values())) == name.endswith("trained")

# %% [markdown]
# Two more traps. *Gaps*: every published model has its own, and the mean action over a second is another target than that over
# a fifth of one; `compare` says so, and `--stride` asks all about the same gap. *Cameras*: the published ones here see one camera,
# ours two.
#
# ## The real weights
#
# | system | where | then |
# |---|---|---|
# | LAPA | Hub: `latent-action-pretraining/LAPA-7B-openx`, `laq_openx.pt` | `lattok convert lapa-laq laq_openx.pt lapa` |
# | villa-X | Hub: `microsoft/villa-x`, the folder with `model_config.json` | `lattok convert villax-lam FOLDER villax` |
# | AdaWorld | Hub: `Little-Podi/AdaWorld`, `lam.ckpt` | `lattok convert adaworld-lam lam.ckpt adaworld` |
#
# UniVLA, Moto, LARA, LaWAM and LARYBench's models as well: *Models* in the documentation has their licences and sizes, what they read, and
# what each does otherwise than its published code. Keep a stand-in's row in your table: it is the control for the real one.
#
# ## Your own data
#
# Set `DATASET` to a folder or a Hub id, and type what this says.

# %%
DATASET = lattok.sample_dataset_path()

print(inspect_dataset(lattok.open_dataset(DATASET)).headline())
print("lattok convert lapa-laq laq_openx.pt lapa --cameras CAMERA --stride 0.2s")
print("lattok compare DATASET --models sample/lam lapa --stride 0.2s --out my-comparison")
