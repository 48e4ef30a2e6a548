"""Latent actions inside a policy that is yours: name its hidden states, add a loss, train as before.

python examples/supervise_your_policy.py --dataset my-annotated-dataset
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import lattok
from lattok.data import RobotDataset, read_vectors
from lattok.labels import latent_spec
from lattok.samples import ActionWindows
from lattok.utils.checks import LattokError
from lattok.vla import CodeCrossEntropy, Supervised

HORIZON, WIDTH = 8, 128
Batch = dict[str, Tensor]


class MyPolicy(nn.Module):
    """Stands for yours. All that is asked of it: `forward(batch)` returns (loss, dict), as LeRobot's policies do."""

    def __init__(self, state_dim: int, action_dim: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(state_dim, WIDTH), nn.ReLU(), nn.Linear(WIDTH, HORIZON * WIDTH))
        self.action_head = nn.Linear(WIDTH, action_dim)

    def predict_action_chunk(self, batch: Batch) -> Tensor:
        hidden = torch.relu(self.encoder(batch["observation.state"]))
        return self.action_head(hidden.unflatten(1, (HORIZON, WIDTH)))  # [B, H, m]

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        errors = (self.predict_action_chunk(batch) - batch["action"]).square().mean(-1)
        loss = errors[~batch["action_is_pad"]].mean()
        return loss, {"action_loss": loss.item()}


def annotated_sample(out: Path, steps: int) -> Path:
    """The sample with the codes of a latent action model that is trained here."""
    sample = str(lattok.sample_dataset_path())
    quick = {"features": "pixels", "steps": steps}
    lattok.train(lattok.ImageLAMRecipe.from_preset(sample, out / "lam", "tiny+robust", **quick))
    return Path(lattok.annotate(lattok.open_dataset(sample), {"latent": lattok.load(out / "lam")}, out / "annotated"))


def batches(dataset: RobotDataset, states: Tensor, steps: int, size: int = 64) -> Iterator[Batch]:
    """What `LeRobotDataset` gives with `delta_timestamps` for "action", "latent.codes" and "latent.valid"."""
    windows = ActionWindows(dataset, HORIZON)
    states = (states - states.mean(0)) / (states.std(0) + 1e-3)
    labels = [dataset.columns(episode.index, ["latent.codes", "latent.valid"]) for episode in dataset.episodes]
    codes, valid = (
        torch.cat([torch.from_numpy(part[f"latent.{key}"]) for part in labels]) for key in ("codes", "valid")
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(windows), (size,), generator=generator)
        rows, inside = windows.rows(chosen)  # [B, H]
        yield {
            "observation.state": states[chosen],
            "action": windows.actions[rows],
            "action_is_pad": ~inside,
            "latent.codes": codes[rows],  # [B, H, P]
            "latent.valid": valid.flatten()[rows],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", help="annotated folder; default: the sample, annotated here")
    parser.add_argument("--state-key", help="column that the policy sees (default: observation.state)")
    parser.add_argument("--out", type=Path, default=Path("supervised"))
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()

    # The sample's policy sees where the objects are, as it sees no images.
    state_key = args.state_key or ("observation.state" if args.dataset else "observation.environment_state")
    try:
        dataset = lattok.open_dataset(args.dataset or annotated_sample(args.out, args.steps))
        spec = latent_spec(dataset, "latent", "steps", HORIZON, needs=("codes",))
        states = torch.from_numpy(read_vectors(dataset, "state_key", state_key, dataset.episodes))
    except LattokError as error:
        sys.exit(f"lattok: {error}")

    # Three lines: a loss over the codes, the module whose input it acts on, and the policy with both.
    torch.manual_seed(0)
    policy = MyPolicy(states.shape[1], dataset.features["action"].shape[0])
    loss = CodeCrossEntropy(dim=policy.action_head.in_features, codebook_size=spec.codebook_size, codes=spec.codes)
    policy = Supervised(policy, tap="action_head", loss=loss)

    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    for step, batch in enumerate(batches(dataset, states, args.steps), 1):
        total, logs = policy(batch)  # the policy's own loss + 0.1 * that of the codes
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 1 or step == args.steps:
            print(f"step {step:4}  " + "  ".join(f"{name} {value:.3f}" for name, value in logs.items()))

    # The inner policy is what it was, without the head: save and deploy that one.
    torch.save(policy.policy.state_dict(), args.out.with_suffix(".pt"))
    print(f"{args.out.with_suffix('.pt')} holds {len(policy.policy.state_dict())} tensors, none of the latent loss.")


if __name__ == "__main__":
    main()
