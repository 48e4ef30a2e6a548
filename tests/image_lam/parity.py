"""Fixtures of published latent action models, and what tests of them share."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lattok.hub.checkpoint import Join, layer_names, read_checkpoint
from lattok.image_lam import ImageLAM, PairLearner
from lattok.image_lam.base.trained import GapActionHead
from lattok.image_lam.p2t.convert import key_map, univla_lam
from lattok.types import PairBatch
from tests.image_lam.plain import Facts
from tests.image_lam.published.parity import close
from tests.image_lam.published.parity import open_case as open_fixture

HEAD = "action_decoder."
STAGE2 = ("univla_stage2", "image_lam_stage2")


class Case(NamedTuple):
    """One fixture."""

    config: dict[str, Any]
    values: dict[str, Tensor]
    file: Path

    def learner(self, **facts: Any) -> PairLearner[ImageLAM]:
        """The same with its action head, where the file has one."""
        return with_action_head(self.converted(**facts), self.file)

    @property
    def pixels(self) -> dict[str, Any]:
        """As wide as the published features, no weights, patches of 16 pixels."""
        return {"features": "pixels", "image_size": 16 * self.config["patch_grid"]}

    def converted(self, **facts: Any) -> ImageLAM:
        """The model, by default on pixels."""
        return univla_lam(self.file, self.config["heads"], **(facts or self.pixels))

    def weights(self) -> dict[str, Tensor]:
        """The file's tensors in float64."""
        tensors = read_checkpoint(self.file, "state_dict" if self.file.suffix == ".ckpt" else None)
        return {name: tensor.double() for name, tensor in tensors.items()}

    def facts(self) -> Facts:
        """The same sizes for plain arithmetic."""
        c = self.config
        size = {"width": c["model_dim"], "heads": c["heads"], "latent_dim": c["latent_dim"], "language_dim": 768}
        depths = {"encoder_depth": c["encoder_blocks"], "decoder_depth": c["decoder_blocks"]}
        actions = (c["goal_image_step"], c["action_dim"]) if "action_dim" in c else None
        return Facts(1 if "lang_dim" in c else 2, **size, **depths, actions=actions)


def open_case(name: str) -> Case:
    """A fixture by its name."""
    folder, config, values = open_fixture(name)
    names = ("checkpoint.ckpt", "weights.safetensors")
    return Case(config, values, next(folder / file for file in names if (folder / file).is_file()))


def close_gradient(got: Tensor | None, expected: Tensor) -> None:
    """Gradients equal within the tolerances of the fixtures."""
    assert got is not None
    close(got, expected, atol=1e-5, rtol=1e-3)


def with_action_head(lam: ImageLAM, file: Path) -> PairLearner[ImageLAM]:
    """The model with the action head in its file, which importers leave out; without one, as it is."""
    tensors = read_checkpoint(file, "state_dict" if file.suffix == ".ckpt" else None)
    net = {name.removeprefix(HEAD): tensor for name, tensor in tensors.items() if name.startswith(HEAD)}
    learner = PairLearner(lam)
    if net:
        learner.action_head = GapActionHead(lam.config, len(net["2.bias"]) // lam.config.action.steps)
        learner.action_head.net.load_state_dict(net)
    return learner.eval()


def losses(
    learner: PairLearner, features: Tensor, actions: Tensor | None = None, labelled: Any = None, **text: Any
) -> dict:
    """Loss terms of a training pass over precomputed features."""
    actions = torch.zeros(len(features), 0) if actions is None else actions
    labelled = torch.zeros(len(features), dtype=torch.bool) if labelled is None else labelled
    learner.train().lam.frame_features = lambda frames: frames  # type: ignore[method-assign]
    return learner(PairBatch(features, actions, labelled, **text))


def total(model: ImageLAM, terms: dict[str, Tensor], action_weight: float = 1.0) -> Tensor:
    """The weighted sum."""
    weights = {**model.config.loss_weights, "action": action_weight}
    return sum(weights[name] * term for name, term in terms.items())


def foreign_gradients(learner: PairLearner[ImageLAM]) -> dict[str, Tensor]:
    """Gradient of every trained parameter, by its published name."""
    names, found = key_map(learner.lam.config), {}
    names |= layer_names({f"action_head.net.{i}": f"{HEAD}{i}" for i in (0, 2)})
    for name, parameter in learner.named_parameters():
        name = name.removeprefix("lam.")
        if not parameter.requires_grad or name.startswith("features."):
            continue
        source = names[name]
        keys = source.keys if isinstance(source, Join) else (source,)
        for key, part in zip(keys, parameter.grad.chunk(len(keys)), strict=True):
            found[key] = part[None, None] if "action_latent" in key else part
    return found
