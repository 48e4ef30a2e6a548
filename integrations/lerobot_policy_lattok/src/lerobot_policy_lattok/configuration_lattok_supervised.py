"""`--policy.type=lattok_supervised`: another policy of LeRobot, and how latent actions supervise it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from draccus.parsers.decoding import decode
from draccus.parsers.encoding import encode
from draccus.utils import DecodingError, ParsingError
from lerobot.configs.policies import PreTrainedConfig
from torch import nn

from lattok.labels import LatentSpec
from lattok.utils import checks
from lattok.vla import STRATEGIES, Strategy, Tap, strategy_of
from lattok.vla.tap import find_module

OURS = ("lattok", "lattok_supervised")
# the states that each policy reads its actions from, one for every step
TAPS = {
    "act": Tap("model.action_head"),
    "diffusion": Tap("diffusion.unet.final_conv", channels_first=True),
    **dict.fromkeys(("smolvla", "pi0", "pi05"), Tap("model.action_out_proj")),
}
# what the inner policy takes from the options of this type
SHARED = ("device", "use_amp", "push_to_hub", "repo_id", "private", "tags", "license", "pretrained_path")
FEATURES = ("input_features", "output_features")


@PreTrainedConfig.register_subclass("lattok_supervised")
@dataclass
class LattokSupervisedConfig(PreTrainedConfig):
    """Options of the supervision; what is not among them is asked of the inner policy's configuration, `wrapped`."""

    inner: str = "act"  # type of a policy of LeRobot, or a checkpoint of one (a folder, a Hub id) to start from
    inner_options: dict[str, Any] = field(default_factory=dict)  # its own, by the names that follow --policy.
    strategy: str = "la_align"
    latent_weight: float | None = None  # lambda; None: the strategy's
    align_projection: str | None = None  # of LA-Align: linear, or mlp
    prefix: str | None = None  # of the label columns; None: the only one that fits the strategy
    labels: str | None = None  # folder of labels beside the dataset
    tap: Tap | None = None  # the states that learn; None: those that the actions are read from
    dim: int | None = None  # their width, where the tapped module does not tell
    resample: str | None = None  # "nearest": where there are more or fewer of them than steps
    log_freq: int = 200  # batches between two lines of the log with both losses, whose sum LeRobot logs; 0: none
    # filled in from the dataset, and saved
    latent: LatentSpec | None = None  # what the labels are

    def __post_init__(self) -> None:
        super().__post_init__()
        self._wrapped: PreTrainedConfig | None = None
        if self.pretrained_path is None and self._names_a_checkpoint():
            self.pretrained_path = Path(self.inner)  # LeRobot 0.6 asks for it before anything of `wrapped`

    @property
    def wrapped(self) -> PreTrainedConfig:
        """The configuration of the inner policy, made when it is first asked for: LeRobot hides errors of parsing.

        Where `inner` is a checkpoint, its type and options take its place, and `pretrained_path` says where it is.
        """
        if self._wrapped is None:
            self._wrapped = self._open()
        for name in (*SHARED, *FEATURES):
            setattr(self._wrapped, name, getattr(self, name))
        return self._wrapped

    def _open(self) -> PreTrainedConfig:
        kinds = [name for name in PreTrainedConfig.get_known_choices() if name not in OURS]
        if self.inner in OURS:
            hint = "lattok's own policy has strategies without this: --policy.type=lattok --policy.strategy=..."
            checks.fail("inner", f"one of {', '.join(kinds)}, or a checkpoint of one", self.inner, hint)
        if self.inner not in kinds:
            found = self._checkpoint(kinds)
            for name in FEATURES:
                setattr(self, name, getattr(self, name) or getattr(found, name))
            values = {**encode(found), **self.inner_options}
            self.pretrained_path, self.inner = Path(self.inner), found.type
            own = {"type", *SHARED, *FEATURES}
            self.inner_options = {name: value for name, value in values.items() if name not in own}
        try:
            return decode(PreTrainedConfig, {"device": self.device, **self.inner_options, "type": self.inner})
        except (DecodingError, ParsingError, ValueError) as error:
            hint = f"{self.inner} says: {checks.first_line(error.__cause__ or error)}"
            checks.fail("inner_options", f"options of {self.inner}, {{name: value}}", self.inner_options, hint)

    def _names_a_checkpoint(self) -> bool:
        """Whether `inner` is a folder with a configuration, or reads like a Hub id."""
        folder = Path(self.inner)
        return (folder / "config.json").is_file() or (not folder.is_dir() and self.inner.count("/") == 1)

    def _checkpoint(self, kinds: list[str]) -> PreTrainedConfig:
        """Read the configuration of the checkpoint that `inner` names."""
        expected = f"one of {', '.join(kinds)}, or a checkpoint of one (a folder with config.json, or a Hub id)"
        if not self._names_a_checkpoint():
            checks.fail("inner", expected, self.inner)
        try:
            found = PreTrainedConfig.from_pretrained(self.inner)
        except (OSError, ValueError, DecodingError, ParsingError) as error:
            checks.fail("inner", expected, self.inner, f"It cannot be opened: {checks.first_line(error)}")
        if found.use_peft or found.type in OURS:
            checks.fail("inner", expected, f"{self.inner}, which has {'adapters' if found.use_peft else found.type}")
        return found

    @property
    def plan(self) -> Strategy:
        """The strategy with its weight; one whose loss acts on states that every policy has."""
        able = [name for name, each in STRATEGIES.items() if _fits(each)]
        if not _fits(strategy := strategy_of(self.strategy)):
            why = "has no latent loss" if not strategy.losses else "puts placeholders of its own into the prompt"
            hint = f"Without one it is --policy.type={self.inner}." if not strategy.losses else ""
            hint = hint or "--policy.type=lattok has such prompts."
            expected = f"one of {', '.join(able)}: a loss of the states that {self.inner} reads its actions from"
            checks.fail("strategy", expected, f"{self.strategy}, which {why}", hint)
        return strategy_of(self.strategy, weight=self.latent_weight, projection=self.align_projection)

    @property
    def steps(self) -> list[int]:
        """The frames of a sample's actions, counted from its own: those whose labels supervise it."""
        steps = self.wrapped.action_delta_indices
        if not steps:
            checks.fail("inner", "a policy that predicts chunks of actions", self.inner)
        return list(steps)

    @property
    def place(self) -> Tap:
        """The states of the inner policy that learn."""
        tap = self.tap or TAPS.get(self.inner)
        if tap is None:
            expected = f"the module whose states learn, for {self.inner} (known for {', '.join(TAPS)})"
            hint = "--policy.tap.module=NAME, such as the last projection of the actions; print(policy) has the names."
            checks.fail("tap", expected, "none", hint)
        return tap

    def width_in(self, policy: nn.Module) -> int:
        """Return the width of these states of `policy`, as its module tells it."""
        tap = self.place
        module = find_module(policy, tap.module)
        sized = [each for each in module.modules() if isinstance(each, nn.Linear | nn.Conv1d | nn.LayerNorm)]
        if self.dim is not None or not sized:
            hint = f"`{tap.module}` does not tell: --policy.dim=N"
            return self.dim or checks.fail("dim", "the width of the states", "none", hint)
        if isinstance(each := sized[0 if tap.side == "input" else -1], nn.LayerNorm):
            return each.normalized_shape[-1]
        name = {"input": "in", "output": "out"}[tap.side]
        return getattr(each, f"{name}_features", None) or getattr(each, f"{name}_channels")

    def __getattr__(self, name: str) -> Any:
        """Return what only the inner configuration has: chunk_size, normalization_mapping, drop_n_last_frames ..."""
        if name.startswith("_") or name in type(self).__dict__ or name in type(self).__dataclass_fields__:
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def validate_features(self) -> None:
        """Let the inner policy check what the dataset has."""
        self.wrapped.validate_features()

    @property
    def observation_delta_indices(self) -> list[int] | None:
        """The frames that the inner policy sees."""
        return self.wrapped.observation_delta_indices

    @property
    def action_delta_indices(self) -> list[int] | None:
        """The actions that it predicts."""
        return self.wrapped.action_delta_indices

    @property
    def reward_delta_indices(self) -> list[int] | None:
        """The rewards that it learns from."""
        return self.wrapped.reward_delta_indices

    def get_optimizer_preset(self) -> Any:
        """Return the inner policy's."""
        self.plan  # noqa: B018  # the first thing that LeRobot asks, before it opens the dataset
        return self.wrapped.get_optimizer_preset()

    def get_scheduler_preset(self) -> Any:
        """Return the inner policy's."""
        return self.wrapped.get_scheduler_preset()


def _fits(strategy: Strategy) -> bool:
    """Return whether a strategy is one loss of one state for every step, which needs no placeholders."""
    return len(strategy.spans) == len(strategy.losses) == 1
