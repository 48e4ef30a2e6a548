# %% [markdown]
# # What is a latent action?
#
# A latent action model looks at two frames and passes a *little* information on to a decoder. The decoder already has the first frame and
# must predict the second. The information is the latent action. Nobody tells the model what an action is, so it passes on
# **whatever moves most**. That may be the robot, or something else.
#
# Here we build the smallest world in which both can happen, solve it on paper, and train on it. This takes a quarter of a minute on an
# idle core; no download, no token.
#
# In [Colab](https://colab.research.google.com): upload this file and a wheel of lattok (`pip wheel --no-deps .` in a clone) and run `%pip install "./lattok-0.1.0-py3-none-any.whl[notebooks]"`.

# %%
import math

import matplotlib.pyplot as plt
import torch
from torch import nn

import lattok
from lattok.data.pixels import resize_pixels
from lattok.nn.quantize import QuantizerConfig, VectorQuantizer
from lattok.samples import FramePairs

torch.set_default_dtype(torch.float64)
random = torch.Generator().manual_seed(0)
AGENT, DISTRACTOR = "#d95f02", "#7570b3"

# %% [markdown]
# ## The world
#
# On a plane an agent takes one of four steps of length 1: that is its action. A distractor does the same by itself, with
# steps of another length. There are twelve sensors, like a camera of twelve pixels. Each measures a mix of the four coordinates,
# with some noise. The model gets the measurements before and after the step, `now` and `later`, and nothing else.

# %%
MOVES = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])  # right, up, left, down
SENSORS = torch.linalg.qr(torch.randn(12, 4, generator=random))[0]


def world(distractor, pairs=2000):
    """Readings before and after a step [N, 12], places [N, 4], and which of the four moves both made [N]."""
    places = torch.rand(pairs, 4, generator=random) * 4 - 2
    action, other = torch.randint(4, (2, pairs), generator=random)
    moved = places + torch.cat([MOVES[action], distractor * MOVES[other]], 1)
    noise = 0.05 * torch.randn(2, pairs, 12, generator=random)
    return places @ SENSORS.T + noise[0], moved @ SENSORS.T + noise[1], places, action, other


# %% [markdown]
# ## On paper
#
# A linear latent action model is $z = C\,o + D\,o'$ and $\hat o' = A\,o + B\,z$, with two numbers in $z$.
#
# 1. Using $A$ costs nothing. The best $A$ leaves $r = o' - F o$, the part of $o'$ that no linear function of $o$
#    predicts. The loss becomes $\mathbb E\,\lVert r - B D\, r \rVert^2$.
# 2. $BD$ has rank 2, so the best one projects on the two largest eigenvectors of $\mathrm{Cov}(r)$ (Eckart and Young).
#
# A linear latent action model **is PCA of what the first frame does not predict**
# ([Zhang et al., 2025](https://arxiv.org/abs/2506.15691), study this case further). Its loss is the sum of the other eigenvalues.
# Since $A$ can undo it, $z$ may also contain any function of $o$. So we judge $z$ given $o$.

# %%


def unexplained(y, x):
    """What no linear function of x [N, k] says about y [N, m]."""
    x = torch.cat([x, torch.ones(len(x), 1)], 1)
    return y - x @ torch.linalg.lstsq(x, y).solution


def on_paper(now, later):
    """The directions [12, 2] of the best linear model, and its loss."""
    r = unexplained(later, now)
    values, vectors = torch.linalg.eigh(r.T @ r / len(r))  # ascending
    return vectors[:, -2:], float(values[:-2].sum())


def share_known(latents, moves, now):
    """R² of moves [N, 2] read linearly from latents, beyond what `now` says."""
    moves, latents = unexplained(moves, now), unexplained(latents, now)
    return 1 - float(unexplained(moves, latents).square().sum() / moves.square().sum())


# %% [markdown]
# ## Trained
#
# This is the same model in plain torch, trained by gradients. With `labels` the actions of a few pairs are known, and a linear head predicts them
# from $z$. lattok's `labelled_fraction` does the same. `LABEL_WEIGHT` times the head's error is added to the loss.

# %%
LABEL_WEIGHT = 3.0


def train_linear(now, later, moves=None, labels=0):
    """Latents [N, 2], the decoder's directions B [12, 2], and the loss."""
    torch.manual_seed(0)
    encoder, decoder, head = nn.Linear(24, 2), nn.Linear(14, 12), nn.Linear(2, 2)
    parameters = [*encoder.parameters(), *decoder.parameters(), *head.parameters()]
    optimizer = torch.optim.LBFGS(parameters, max_iter=150, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def terms():
        latents = encoder(torch.cat([now, later], 1))
        return latents, (decoder(torch.cat([now, latents], 1)) - later).square().sum(1).mean()

    def closure():
        optimizer.zero_grad()
        latents, loss = terms()
        if labels:
            loss = loss + LABEL_WEIGHT * (head(latents[:labels]) - moves[:labels]).square().sum(1).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        latents, loss = terms()
    return latents, decoder.weight.detach()[:, 12:], float(loss)


now, later, _, action, _ = world(distractor=0.5)
latents, directions, loss = train_linear(now, later)
best_directions, best_loss = on_paper(now, later)
cosines = torch.linalg.svdvals(best_directions.T @ torch.linalg.qr(directions)[0])
angle = math.degrees(math.acos(min(1.0, float(cosines.min()))))

print(f"loss            {loss:.5f} trained   {best_loss:.5f} on paper")
print(f"angle           {angle:.3f} degrees between the two planes of directions")
print(f"agent's action  R² {share_known(latents, MOVES[action], now):.3f} from two unsupervised numbers")

# %% tags=["check"]
assert angle < 0.1
assert abs(loss - best_loss) < 1e-4
assert share_known(latents, MOVES[action], now) > 0.95

# %% [markdown]
# ## What would be wrong
#
# Nothing in that loss knows who the agent is. Let the distractor take longer steps, and the model switches to *it*, all at
# once, where the two are equal; its loss stays as good as the one on paper. **A low loss does not say that latents are actions.**
# That is why lattok's reports set every figure beside a control, such as PCA of the raw change.
#
# Labels move that point. A label is one more thing to predict, and it counts $\lambda$ = `LABEL_WEIGHT` times. So the agent wins
# as long as $(1 + \lambda)\,\mathrm{Var}(\text{agent}) > \mathrm{Var}(\text{distractor})$: until the distractor's steps are $\sqrt{1 + \lambda} = 2$ times
# the agent's. One pair in twenty has a label here.

# %%
strengths = [0.25, 0.5, 0.75, 0.9, 1.1, 1.25, 1.5, 1.75, 2.25, 2.5, 2.75]  # short: strengths = [0.5, 1.5, 2.5]
unlabelled, labelled, paper = [], [], []
for strength in strengths:
    now, later, _, action, _ = world(strength)
    unlabelled.append(share_known(train_linear(now, later)[0], MOVES[action], now))
    labelled.append(share_known(train_linear(now, later, MOVES[action], labels=len(now) // 20)[0], MOVES[action], now))
    paper.append(share_known(unexplained(later, now) @ on_paper(now, later)[0], MOVES[action], now))

for strength, bare, helped, pca in zip(strengths, unlabelled, labelled, paper, strict=True):
    print(f"steps {strength:4.2f}   R² of the action: {bare:.2f} trained, {pca:.2f} PCA, {helped:.2f} with 5 % labels")

# %% tags=["check"]
for strength, bare, helped, pca in zip(strengths, unlabelled, labelled, paper, strict=True):
    assert abs(bare - pca) < 0.01
    if abs(strength - 1) > 0.2:
        assert (bare > 0.9) == (strength < 1)
    if abs(strength - 2) > 0.3:
        assert (helped > 0.9) == (strength < 2)

# %% tags=["picture"]
threshold = math.sqrt(1 + LABEL_WEIGHT)
figure, (plane, curve) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(1, 1.9), dpi=110, layout="constrained")
for name, place, size, colour in (("agent", (-0.5, -1.7), 1.0, AGENT), ("distractor", (0.5, 1.3), 1.5, DISTRACTOR)):
    for move in MOVES:
        plane.arrow(*place, *(size * move).tolist(), color=colour, width=0.05, length_includes_head=True)
    plane.plot(*place, "o", color=colour, markersize=13)
    plane.text(place[0] + 0.25, place[1] + 0.3, name, color=colour, weight="bold")
plane.set(xlim=(-3, 3), ylim=(-3.2, 3.2), xticks=[], yticks=[], aspect="equal", title="Two things move. One is you.")

curve.plot([0, 1, 1, 3], [1, 1, 0, 0], color="0.6", label="on paper, no labels")
curve.plot([0, threshold, threshold, 3], [1, 1, 0, 0], "--", color=AGENT, alpha=0.6, label="on paper, 5 % labels")
curve.plot(strengths, unlabelled, "o", color="0.35", label="trained, no labels")
curve.plot(strengths, labelled, "s", color=AGENT, label="trained, 5 % labels")
curve.set(xlabel="steps of the distractor, in steps of the agent", ylabel="R² of the action in the latent", xlim=(0, 3))
curve.set_title("A latent action is what moves most, until labels speak")
curve.legend(loc="center right", fontsize=8, bbox_to_anchor=(1, 0.62))
curve.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# ## Codes
#
# Published models pass on *codes*: the latent is replaced by the nearest of a few vectors. The `VectorQuantizer` below is the
# one inside `lattok.ImageLAM`. Four codes are enough for four actions. The distractor's steps are 1.5 times the agent's. So
# without labels the codes should be the distractor's moves, and with 5 % labels the agent's actions.


# %%
class CodedLAM(nn.Module):
    """One code of four for the change between two readings."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.head = nn.Linear(12, 2), nn.Linear(14, 12), nn.Linear(2, 2)
        self.quantizer = VectorQuantizer(QuantizerConfig(dim=2, size=4, continuous_steps=150))

    def forward(self, now, later):
        quantized = self.quantizer(self.encoder(later - now))
        return quantized, self.decoder(torch.cat([now, quantized.vectors], 1)), self.head(quantized.vectors)


def train_codes(now, later, moves, labels, steps=300):
    torch.manual_seed(0)
    model = CodedLAM().float().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(steps):
        quantized, predicted, read = model(now, later)
        loss = (predicted - later).square().sum(1).mean() + quantized.losses["commitment"]
        if labels:
            loss = loss + LABEL_WEIGHT * (read[:labels] - moves[:labels]).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def table(codes, moves):
    """How often code i, row, comes with move j, column, among all uses of code i; rows in the order of the moves."""
    counts = torch.zeros(4, 4).index_put_((codes, moves), torch.ones(len(codes)), accumulate=True)
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    order = max(torch.cartesian_prod(*[torch.arange(4)] * 4), key=lambda rows: _diagonal(shares, rows))
    return shares[order]


def _diagonal(shares, rows):
    return float(shares[rows].diagonal().sum()) if len(rows.unique()) == 4 else -1.0


now, later, _, action, other = world(distractor=1.5)
new_now, new_later, _, new_action, new_other = world(distractor=1.5)  # nobody trained on these pairs
tables = {}
for labels in (0, len(now) // 20):
    model = train_codes(now.float(), later.float(), MOVES[action].float(), labels)
    with torch.no_grad():
        codes = model(new_now.float(), new_later.float())[0].codes
    tables[labels] = table(codes, new_action), table(codes, new_other)

figure, axes = plt.subplots(1, 4, figsize=(9, 2.7), dpi=110, layout="constrained")
for axis, (title, shares) in zip(
    axes,
    [
        (f"{'no' if not labels else '5 %'} labels:\n{what}", shares)
        for labels, pair in tables.items()
        for what, shares in zip(("agent's action", "distractor's move"), pair, strict=True)
    ],
    strict=True,
):
    axis.imshow(shares, vmin=0, vmax=1, cmap="Oranges" if "agent" in title else "Purples")
    for row in range(4):
        for column in range(4):
            share = float(shares[row, column])
            axis.text(column, row, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.6 else "black")
    axis.set(title=title, xticks=range(4), yticks=[], ylabel="code", xticklabels=["→", "↑", "←", "↓"])
plt.show()

diagonals = {labels: [float(shares.diagonal().mean()) for shares in pair] for labels, pair in tables.items()}
for labels, (of_agent, of_distractor) in diagonals.items():
    print(
        f"{labels:3} labels: codes tell {of_agent:.0%} of the agent's actions, {of_distractor:.0%} of the distractor's moves"
    )

# %% tags=["check"]
assert diagonals[0][0] < 0.4 < 0.95 < diagonals[0][1]
assert diagonals[100][1] < 0.4 < 0.95 < diagonals[100][0]

# %% [markdown]
# The model, the data and the number of codes are the same. A hundred labels decide whose moves the codes describe.
#
# In real video more than two things move, and a picture is not a linear function of what moves. So `lattok.ImageLAM` has
# networks instead of matrices. What was wrong above is still wrong there. *Is my latent action model any good?* in the
# documentation says how to look for it.
#
# ## Your own data
#
# Set `DATASET` to a folder or a Hub id. The closed form on small grey pictures of your video says how much the
# largest changes tell about your robot's actions. That is the best that linear latent actions without labels can do, and a trained
# model must beat it.

# %%
DATASET = lattok.sample_dataset_path()

dataset = lattok.open_dataset(DATASET)
stride = max(1, round(0.2 * dataset.fps))  # 0.2 s


def changes(episodes):
    """Changes of 16 x 16 grey pictures of the first camera [N, 256], and the actions meanwhile [N, m]."""

    def shrink(frames):
        return resize_pixels(torch.from_numpy(frames), 16, "bilinear").numpy()

    pairs = FramePairs(dataset, stride, dataset.cameras[:1], episodes=episodes, transform=shrink)
    grey = torch.from_numpy(pairs.frames).double().mean(-1).flatten(1)
    return grey[pairs.second] - grey[pairs.first], torch.from_numpy(pairs.actions).double()


(change, moves), (new_change, new_moves) = changes("2 per task"), changes("test")
directions = torch.linalg.svd(change - change.mean(0), full_matrices=False)[2].T
for size in (2, 4, 8, 16, 32):
    latents, new_latents = (
        torch.cat([c @ directions[:, :size], torch.ones(len(c), 1)], 1) for c in (change, new_change)
    )
    error = new_moves - new_latents @ torch.linalg.lstsq(latents, moves).solution
    known = 1 - error.square().sum(0) / (new_moves - moves.mean(0)).square().sum(0)
    print(f"{size:3} largest changes: R² of actions {float(known.mean()):.2f} on episodes held out")
