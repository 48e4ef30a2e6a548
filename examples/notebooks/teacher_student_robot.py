# %% [markdown]
# # Teacher, distillation, robot
#
# LatBot (Li et al., 2025) learns in three steps. A **teacher** watches a whole clip with its instruction. Its latents say what the
# robot does (*motion*) and what changes around it (*scene*). A **student** sees only the first frame and learns to predict these
# latents. Then the student learns to **act**. Here are all three steps, as small as possible. After each step we test whether the result means
# anything, compared with something that cannot know.
#
# We use the demonstrations that come with lattok. This takes two minutes on an idle core; no download, no token.
#
# In [Colab](https://colab.research.google.com): upload this file and a wheel of lattok (`pip wheel --no-deps .` in a clone) and run `%pip install "./lattok-0.1.0-py3-none-any.whl[notebooks]"`.

# %%
import json
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import lattok
from lattok.data import inspect_dataset, select_episodes
from lattok.types import LatentActions, LatentTarget, PolicyBatch

os.chdir(tempfile.mkdtemp(prefix="lattok-", dir="."))  # a new folder at each start: all cells can run again
SAMPLE = lattok.sample_dataset_path()
dataset = lattok.open_dataset(SAMPLE)
common = {"cameras": ("corner2",), "device": "cpu", "threads": 1}

# %% [markdown]
# ## The teacher
#
# Four frames over 0.2 s and the words of the instruction become 4 latents of the scene and 4 of motion, of 32 numbers each. A decoder has
# two streams that exchange information. One must predict the last frame of the clip from the scene latents, the other the actions from those of motion. The last
# episode of every task is held out.

# %%
sizes = {"backbone_width": 64, "decoder_width": 64, "decoder_depth": 2}  # half of what the preset has
teacher_steps, steps = 300, 200  # short: teacher_steps, steps, common["trial"] = 10, 10, True
recipe = lattok.ClipLAMRecipe.from_preset(SAMPLE, "teacher", "tiny", steps=teacher_steps, **sizes, **common)
teacher = lattok.train(recipe)
stride, camera = teacher.stride_frames(dataset.fps), teacher.cameras[0]
print(
    f"{sum(p.numel() for p in teacher.parameters()):,} parameters; a clip is {teacher.config.frames} of {stride + 1} frames"
)

# %% [markdown]
# ## What do the latents say?
#
# A linear probe predicts the mean action over the clip, and how far the object is moved in it, on held-out episodes. Motion
# latents have to beat the scene latents, and **the raw change of the frame**, which learned nothing at all.
#
# In the stored run both kinds know more than the raw change, and the scene knows as much as motion. The arm is most of what changes in a
# frame, and with 300 steps, ten held-out episodes and one seed a few hundredths mean nothing. After the 1,500 steps of the preset, at
# twice the width, motion is ahead of the scene by .04 to .08 of the action in each of three seeds. `separation_weight` keeps what motion
# says out of the scene.


# %%
def read(split):
    """All clips of a split: first and last frames, latents, what is to be read from them."""
    rows = []
    for episode in select_episodes(dataset, split):
        frames = dataset.frames(episode.index, [camera], transform=teacher.resize)
        latents = teacher.label_video(frames, stride, episode.tasks[0])
        columns = dataset.columns(episode.index, ["action", "observation.state", "observation.environment_state"])
        objects = columns["observation.environment_state"][:, 4:7]
        for t in range(0, len(frames) - stride, 2):
            rows.append(
                {
                    "first": frames[t],
                    "last": frames[t + stride],
                    "motion": latents.latents[t].ravel(),
                    "scene": latents.env.latents[t].ravel(),
                    "action": columns["action"][t : t + stride].mean(0),
                    "moved": objects[t + stride] - objects[t],
                    "state": columns["observation.state"][t],
                    "task": episode.tasks[0],
                }
            )
    stacked = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    before, after = (stacked[key][:, 0, ::4, ::4].reshape(len(rows), -1).astype(float) for key in ("first", "last"))
    return stacked | {"change": after - before}


def probe(key, target):
    """R² of ridge regression on held-out clips, mean over dimensions; wide inputs by their 64 principal components."""
    x, x_test = train[key], test[key]
    if x.shape[1] > 128:
        basis = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:64].T
        x, x_test = x @ basis, x_test @ basis
    scale, mean = x.std(0) + 1e-6, x.mean(0)
    x, x_test, y, y_test = (x - mean) / scale, (x_test - mean) / scale, train[target], test[target]
    weights = np.linalg.solve(x.T @ x + 0.01 * len(x) * np.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    left = ((y_test - y.mean(0) - x_test @ weights) ** 2).sum(0)
    return float(np.mean(1 - left / ((y_test - y.mean(0)) ** 2).sum(0)))


train, test = read("train"), read("test")
names = {"motion": "motion latents", "scene": "scene latents", "change": "raw frame change"}
r2 = {target: {key: probe(key, target) for key in names} for target in ("action", "moved")}
for target, title in {"action": "mean action", "moved": "way of the object"}.items():
    print(f"{title:18}", "  ".join(f"{name} {r2[target][key]:.2f}" for key, name in names.items()))
best = max(names, key=r2["action"].get)
print(f"most of the action is in the {names[best]}")

# %% tags=["check"]
assert r2["action"]["motion"] > 0.2  # full

# %% [markdown]
# ## What does the decoder make of them?
#
# The picture shows held-out clips: the first frame, the last one, the decoder's prediction from the first frame and the latents, and the control, with
# the motion of another task's clip.
#
# The prediction is the first frame, smeared where the arm will be and where it was. With other motion it hardly changes: after
# 300 steps the scene latents also say where the arm goes, and they were not exchanged. A decoder that predicts the velocity of noisy patches
# instead of the change (`decoder_output="velocity"`) shows a silhouette in noise here.

# %% tags=["picture"]
some = np.linspace(0, len(test["task"]) - 1, 9).astype(int)[1::3]
frames = torch.from_numpy(test["first"][some])


def latents_of(rows, motion):
    """Scene latents of held-out clips `rows`, and motion latents of clips `motion`."""
    scene, moves = (
        torch.from_numpy(part).unflatten(1, (4, -1)) for part in (test["scene"][rows], test["motion"][motion])
    )
    none = torch.empty(len(rows), 0, dtype=torch.long)  # there are no codes
    return LatentActions(none, moves, moves, LatentActions(none, scene, scene))


def predicted(motion):
    """The last frames, as images."""
    patches = teacher.predict(teacher.frame_features(frames), latents_of(some, motion))
    return (teacher.features.pixels_of(patches) * teacher.features.std + teacher.features.mean).clamp(0, 1)


columns = {
    "first frame": test["first"][some][:, 0],
    "last frame": test["last"][some][:, 0],
    "predicted": predicted(some),
    "motion of another": predicted(np.roll(some, 1)),
}
figure = plt.figure(figsize=(10.5, 5), dpi=110, layout="constrained")
left, right = figure.subfigures(1, 2, width_ratios=(1, 1.6))
axes = left.subplots(2, 1)
for axis, (target, title) in zip(axes, {"action": "mean action", "moved": "way of the object"}.items(), strict=True):
    values = [r2[target][key] for key in names]
    axis.barh(list(names.values()), np.maximum(values, 0), color=["#1b9e77", "#7570b3", "0.6"])
    axis.set(xlabel=f"R² of the {title}", xlim=(0, 1))
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
grid = right.subplots(len(some), len(columns))
for i, row in enumerate(grid):
    for axis, (title, images) in zip(row, columns.items(), strict=True):
        axis.imshow(images[i])
        axis.set(xticks=[], yticks=[], title=title if i == 0 else "")
plt.show()

# %% [markdown]
# ## What would be wrong
#
# The decoder also sees the first frame. If only one thing can happen next, it needs no latents at all, and pretty predictions
# prove nothing. So we keep the first frame and the scene, exchange the **motion** for that of another held-out clip, and let it sample
# actions. Do they follow the clip that the motion was taken from, or the one that it was put into? In the stored run they follow the first, though
# not as well as in its own scene: the scene latents, which were not exchanged, also have an effect.

# %%
rows = np.arange(0, len(test["task"]), 4)
donors = np.random.default_rng(0).permutation(rows)
frames = torch.from_numpy(test["first"][rows])


def explained(actions, wanted):
    """R² of drawn mean actions, over all dimensions."""
    left = ((actions - test["action"][wanted]) ** 2).sum(0)
    return float(np.mean(1 - left / ((test["action"][wanted] - train["action"].mean(0)) ** 2).sum(0)))


own, other = (
    teacher.generate(frames, latents_of(rows, motion))[1][:, :stride].mean(1).numpy() for motion in (rows, donors)
)
follows = {
    "own motion, this clip's actions": explained(own, rows),
    "other motion, that clip's actions": explained(other, donors),
    "other motion, this clip's actions": explained(other, rows),
}
for name, value in follows.items():
    print(f"{name:34} R² {value:5.2f}")

# %% tags=["check"]
assert follows["own motion, this clip's actions"] > follows["other motion, this clip's actions"]  # full

# %% [markdown]
# ## Distillation
#
# The student is a policy whose prompt ends with a placeholder for each of the 8 latents. It sees the first frame and the instruction.
# Its loss L_a, squared error and divergence, compares it with the teacher's latents of the clip. The control on held-out clips uses the teacher's
# latents of *another* clip of the same task.

# %%
options = {"backbone": "scratch", "backbone_width": 64, "head_dim": 64, **common}
student = lattok.train(lattok.LatBotRecipe.from_preset(SAMPLE, "student", teacher="teacher", steps=steps, **options))


def student_loss(targets):
    """L_a on held-out clips, with the teacher's latents of clips `targets`."""
    vectors = np.concatenate([test["scene"], test["motion"]], 1)[targets].reshape(len(rows), 8, 1, -1)
    valid = torch.ones(len(rows), 8, dtype=torch.bool)
    actions = torch.zeros(len(rows), student.config.horizon, 4)
    state, texts = torch.from_numpy(test["state"][rows]), [str(text) for text in test["task"][rows]]
    target = LatentTarget(None, torch.from_numpy(vectors), valid)
    batch = PolicyBatch(frames, texts, state, actions, torch.ones(actions.shape[:2], dtype=torch.bool), target)
    return float(student.imitate(batch)[1]["latent"])


def elsewhere(row):
    """A clip of the same task, half an episode away."""
    same = np.flatnonzero(test["task"] == test["task"][row])
    return same[(np.searchsorted(same, row) + len(same) // 2) % len(same)]


losses = {"this clip": student_loss(rows), "another clip of the task": student_loss([elsewhere(row) for row in rows])}
print(
    "L_a of the student on held-out clips, latents of",
    ", of ".join(f"{name}: {value:.2f}" for name, value in losses.items()),
)

# %% tags=["check"]
assert losses["this clip"] < losses["another clip of the task"]  # full

# %% [markdown]
# ## The robot
#
# The student keeps its backbone and gets a new head. The Baseline starts from random weights, with the same four demonstrations of each task,
# seed and steps. We compare the error on held-out episodes. The race is not fair: the student has already learned for 200 steps, from a
# teacher that knows these actions, and the Baseline could have used as many steps.

# %%
policy = lattok.train(
    lattok.LatBotRecipe.from_preset(SAMPLE, "policy", phase="finetune", student="student", steps=steps, **options)
)
lattok.train(lattok.VLARecipe.from_preset(SAMPLE, "baseline", strategy="baseline", steps=steps, **options))
errors = {name: json.loads(Path(name, "held_out.json").read_text()) for name in ("policy", "baseline")}
for name, found in errors.items():
    print(f"{name:9} error {found['error']:.3f}; always the mean action {found['mean_action']:.3f}")

# %% tags=["check"]
assert max(found["error"] for found in errors.values()) < errors["policy"]["mean_action"]  # full

# %% [markdown]
# One seed cannot decide between the two, and an error is not a success rate: that takes several seeds and rollouts in a simulator. Here is a held-out
# episode, step by step:

# %%
episode = select_episodes(dataset, "test")[0]
seen = torch.from_numpy(dataset.frames(episode.index, [camera])[:, 0])
columns = dataset.columns(episode.index, ["action", "observation.state"])
observation = {camera: seen, "observation.state": torch.from_numpy(columns["observation.state"])}
chunks = policy.predict_chunk({**observation, "task": [episode.tasks[0]] * len(seen)})
figure, axes = plt.subplots(1, 4, figsize=(10.5, 2.2), dpi=110, sharex=True, layout="constrained")
for dim, (axis, name) in enumerate(zip(axes, dataset.features["action"].names, strict=True)):
    axis.plot(columns["action"][:, dim], color="0.7", linewidth=1)
    axis.plot(chunks[:, 0, dim], color="#1b9e77", linewidth=1.5)
    axis.set(title=f"action, {name}", xlabel="frame")
    axis.spines[["top", "right"]].set_visible(False)
figure.suptitle(f'"{episode.tasks[0]}": demonstrated (grey) and what the policy would do (green)')
plt.show()

# %% [markdown]
# ## Your own data
#
# Set `DATASET` to the full path of a folder, or to a Hub id. On a GPU leave out preset and backbone: teacher and student are then InternVL3.5 and
# Qwen3-VL, with the paper's numbers. *Distil latent actions of clips* in the documentation has every option.

# %%
DATASET = lattok.sample_dataset_path()

print(inspect_dataset(lattok.open_dataset(DATASET)).headline())
print("lattok train clip-lam DATASET --out my-teacher --preset tiny")
print("lattok evaluate my-teacher DATASET --out my-report")
print("lattok train latbot DATASET --out my-student --teacher my-teacher --backbone scratch")
print("lattok train latbot DATASET --out my-policy --phase finetune --student my-student --backbone scratch")
