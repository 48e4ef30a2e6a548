# %% [markdown]
# # Bring your own policy
#
# You keep your own policy and training loop; lattok only adds **one more loss**. Name the layer whose
# states should know the latent actions, wrap the policy, and train as before. What you deploy is your policy as it was, without the added head.
#
# This takes half a minute on an idle core with the small policy below. LeRobot's ACT gets the same three lines at the end, if LeRobot is installed.
# No download, no token.
#
# In [Colab](https://colab.research.google.com): upload this file and a wheel of lattok (`pip wheel --no-deps .` in a clone) and run `%pip install "./lattok-0.1.0-py3-none-any.whl[notebooks]"`.

# %%
import importlib.util
import os
import tempfile

import matplotlib.pyplot as plt
import torch
from torch import nn

import lattok
from lattok.data import inspect_dataset, read_vectors, select_episodes
from lattok.samples import ActionWindows
from lattok.vla import CodeCrossEntropy, Supervised

os.chdir(tempfile.mkdtemp(prefix="lattok-", dir="."))  # a new folder at each start: all cells can run again

# %% [markdown]
# ## A dataset with labels
#
# The latent action model that comes with lattok labels the demonstrations that come with it. Each frame gets 4 codes of 16 for what happens within the
# next 0.2 s. They are columns like any others.

# %%
lattok.annotate(lattok.open_dataset("sample/dataset"), {"latent": lattok.load("sample/lam")}, "annotated")
dataset = lattok.open_dataset("annotated")
print({name: feature.shape for name, feature in dataset.features.items() if name.startswith("latent")})

# %% [markdown]
# ## Your policy
#
# Here is a simple one as an example: the state of robot and objects goes in, a chunk of 8 actions comes out. A policy only needs a
# `forward(batch)` that returns a loss and a dictionary, like LeRobot's policies.

# %%
HORIZON, WIDTH = 8, 128


class MyPolicy(nn.Module):
    def __init__(self, state_dim, action_dim):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(state_dim, WIDTH), nn.ReLU(), nn.Linear(WIDTH, HORIZON * WIDTH))
        self.action_head = nn.Linear(WIDTH, action_dim)

    def predict_action_chunk(self, batch):
        hidden = torch.relu(self.encoder(batch["observation.state"]))
        return self.action_head(hidden.unflatten(1, (HORIZON, WIDTH)))  # [B, H, m]

    def forward(self, batch):
        errors = (self.predict_action_chunk(batch) - batch["action"]).square().mean(-1)
        loss = errors[~batch["action_is_pad"]].mean()
        return loss, {"action_loss": loss.item()}


# %% [markdown]
# ## Your batches
#
# These batches are what a LeRobot loader gives with `delta_timestamps` for `action`, `latent.codes` and `latent.valid`: the labels of every step of the
# chunk. lattok is used only to read the data.


# %%
class Part:
    """Windows of some episodes, with state, codes and their validity of every frame."""

    def __init__(self, which):
        self.windows, episodes = ActionWindows(dataset, HORIZON, episodes=which), select_episodes(dataset, which)
        self.states = torch.from_numpy(read_vectors(dataset, "state_key", "observation.environment_state", episodes))
        columns = [dataset.columns(episode.index, ["latent.codes", "latent.valid"]) for episode in episodes]
        self.codes = torch.cat([torch.from_numpy(each["latent.codes"]) for each in columns])
        self.valid = torch.cat([torch.from_numpy(each["latent.valid"]) for each in columns]).flatten()

    def batch(self, chosen, codes=None):
        rows, inside = self.windows.rows(chosen)  # [B, H]
        return {
            "observation.state": (self.states[rows[:, 0]] - train.states.mean(0)) / (train.states.std(0) + 1e-3),
            "action": self.windows.actions[rows],
            "action_is_pad": ~inside,
            "latent.codes": (self.codes if codes is None else codes)[rows],  # [B, H, 4]
            "latent.valid": self.valid[rows],
        }


train, test = Part("train"), Part("test")
held_out = test.batch(torch.arange(len(test.windows)))

# %% [markdown]
# ## Three lines
#
# You need a loss over 16 codes, the layer whose *input* it acts on, and the policy wrapped with both. Your loop stays as it is.


# %%
def trained(how, steps=1500, seed=0):  # short: def trained(how, steps=40, seed=0):
    """Train alone, with the codes, or with the codes of another moment; returns policy and figures along the way."""
    torch.manual_seed(seed)
    policy = MyPolicy(train.states.shape[1], train.windows.actions.shape[1])
    if how != "alone":
        on_codes = CodeCrossEntropy(dim=policy.action_head.in_features, codebook_size=16, codes=4)
        policy = Supervised(policy, tap="action_head", loss=on_codes)

    codes = train.codes
    if how == "codes of another moment":
        codes = codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(1))]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    generator, curve = torch.Generator().manual_seed(seed), []
    for step in range(steps):
        chosen = torch.randint(len(train.windows), (64,), generator=generator)
        loss, _ = policy(train.batch(chosen, codes))  # your loss, and 0.1 times that of the codes
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 49 or step == steps - 1:
            with torch.no_grad():  # on episodes that nobody trained on, with their true codes
                seen = policy.eval()(held_out)[1]
            curve.append((step + 1, seen["action_loss"], float(seen.get("latent_accuracy", float("nan")))))
            policy.train()
    return policy, curve


runs = {how: trained(how) for how in ("alone", "codes", "codes of another moment")}
for how, (_, curve) in runs.items():
    right = "" if how == "alone" else f", codes right {curve[-1][2]:.0%}"
    print(f"{how:24} held out: action loss {curve[-1][1]:.3f}{right}")

# %% [markdown]
# ## What would be wrong
#
# A head can reach a low loss by learning which codes are frequent. So the same policy also learns **codes of another moment**:
# equally frequent, but about something else. If that curve also rose, the labels would say nothing about the scene.

# %% tags=["picture"]
frequent = float(torch.stack([torch.bincount(column).max() / len(column) for column in test.codes.T]).mean())
figure, axis = plt.subplots(figsize=(7, 3.4), dpi=110, layout="constrained")
for how, colour in (("codes", "#1b9e77"), ("codes of another moment", "#d95f02")):
    steps, _, right = zip(*runs[how][1], strict=True)
    axis.plot(steps, right, "o-", markersize=3, color=colour, label=how)
axis.axhline(frequent, color="0.6", linestyle="--", label="always the most frequent code")
axis.set(xlabel="training step", ylabel="codes predicted right, held-out episodes", ylim=(0, None))
axis.set_title("A policy that also learns what will happen next")
axis.legend(frameon=False)
axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %% tags=["check"]
assert runs["codes"][1][-1][2] > 1.5 * runs["codes of another moment"][1][-1][2]  # full

# %% [markdown]
# Did it help the *actions*? The losses printed above are of one seed, with every action known. A gain or a loss
# of that size means nothing. *Do latent actions help?* in the documentation measures it, with several seeds and a robot that acts.
#
# ## What you deploy
#
# Your policy, untouched: same class, same keys, and the same actions as inside the wrapper.

# %%
wrapped = runs["codes"][0]
inner = wrapped.policy
print(
    f"{sum(p.numel() for p in inner.parameters()):,} parameters of yours, {sum(p.numel() for p in wrapped.loss.parameters()):,} of the head"
)

# %% tags=["check"]
assert isinstance(inner, MyPolicy)
assert inner.state_dict().keys() == runs["alone"][0].state_dict().keys()

# %% [markdown]
# ## LeRobot's ACT
#
# The same three lines, LeRobot's dataset and loader, ten steps to see that it runs. `keep_labels` lets the labels through its
# preprocessor.

# %%
if importlib.util.find_spec("lerobot") is None:
    print("LeRobot is not installed here: pip install 'lerobot[dataset]'")
else:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.policies.act.configuration_act import ACTConfig
    from lerobot.policies.act.modeling_act import ACTPolicy
    from lerobot.policies.act.processor_act import make_act_pre_post_processors

    from lattok.vla import keep_labels

    times = [step / dataset.fps for step in range(HORIZON)]
    data = LeRobotDataset(
        "local/annotated",
        root="annotated",
        video_backend="pyav",
        delta_timestamps=dict.fromkeys(("action", "latent.codes", "latent.valid"), times),
    )
    config = ACTConfig(
        input_features={
            "observation.images.corner2": PolicyFeature(FeatureType.VISUAL, (3, 128, 128)),
            "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
        chunk_size=HORIZON,
        n_action_steps=HORIZON,
        dim_model=64,
        pretrained_backbone_weights=None,
        device="cpu",
        push_to_hub=False,
    )
    act = ACTPolicy(config)
    act = Supervised(act, tap="model.action_head", loss=CodeCrossEntropy(dim=64, codebook_size=16, codes=4))
    preprocess = keep_labels(make_act_pre_post_processors(config, data.meta.stats)[0])
    optimizer = torch.optim.AdamW(act.get_optim_params(), lr=1e-4)
    for step, sample in enumerate(torch.utils.data.DataLoader(data, batch_size=8, shuffle=True), 1):
        loss, logs = act(preprocess(sample))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 10:
            break
    print(f"step {step}:", {name: round(float(value), 3) for name, value in logs.items()})
    act.policy.save_pretrained("my-act")  # opens as ACTPolicy, without lattok

# %% [markdown]
# ## Your own data
#
# Set `DATASET` to the full path of an annotated folder, or to a Hub id. Use your loader, and look at two figures: does your own loss stay where it was,
# and are codes predicted better than with the codes of another moment?

# %%
DATASET = lattok.sample_dataset_path()

print(inspect_dataset(lattok.open_dataset(DATASET)).headline())
print("lattok annotate DATASET --model my-lam --out my-annotated-dataset")
