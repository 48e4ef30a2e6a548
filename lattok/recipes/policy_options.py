"""Options of what is read where actions may be unknown, and of what a policy learns from."""

from dataclasses import dataclass, replace
from typing import Literal

from lattok.recipes.common import ImageOptions, MixOptions
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.vla import Strategy, strategy_of


@dataclass(frozen=True)
class ActedOptions(ImageOptions, MixOptions):
    """What is read where some episodes may lack actions.

    Attributes:
        action_episodes: episodes whose actions are known; others teach by labels, or by frames alone (default: all)
        acted_share: share of a batch that comes from episodes with known, measured actions; 0: as in the data
        confident_share: share of inferred actions that teach, the most confident first; 1: all
    """

    action_episodes: str | None = None
    acted_share: float = 0.0
    confident_share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.acted_share < 1:
            checks.fail("acted_share", "a share from 0 to below 1", self.acted_share)
        if not 0 < self.confident_share <= 1:
            checks.fail("confident_share", "a share above 0, up to 1", self.confident_share)
        if self.acted_share and len(self.mix) > 1:
            raise LattokError("`acted_share` is of one dataset. In a mixture the weights say how often each is drawn.")


@dataclass(frozen=True)
class PolicyOptions(ActedOptions):
    """What a policy learns from.

    Attributes:
        state_key: column with the robot's state, which is proprio
        strategy: how latent actions supervise
        layer: hidden state that LA-Align looks at: index, or fraction of the layers
        latent_weight: weight of the latent loss (lambda of Eq. 4); left out: the strategy's own
        align_projection: projection of LA-Align; left out: linear
        prefix: prefix of the label columns; left out: the only one that fits the strategy
        labels: folder of labels that `lattok annotate` wrote for a dataset of another format
        tokenizer: action tokenizer: with head=tokens its codes are what the policy predicts and acts by, and the
            horizon is its own; with la_tok it labels while the policy trains, in place of columns
        decoder: inverse dynamics model that made the labels; it turns latents that the policy predicts into actions
        init: policy to start from, a folder or a Hub id; all of its weights that fit are copied
        latent_stride: stride that labels must have
        proprio: the policy sees the robot's state; --no-proprio: it does not
        any_rate: what the policy learns by may have learned at another frame rate than the dataset's
        eval_key: column with held-out actions to compare with; left out: that of action_key
    """

    state_key: str = "observation.state"
    strategy: str = "baseline"
    layer: int | float | None = None
    latent_weight: float | None = None
    align_projection: Literal["linear", "mlp"] | None = None
    prefix: str | None = None
    labels: str | None = None
    tokenizer: str | None = None
    decoder: str | None = None
    init: str | None = None
    latent_stride: str | None = None
    proprio: bool = True
    any_rate: bool = False
    crop: float = 0.9
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.05
    eval_key: str | None = None

    @property
    def plan(self) -> Strategy:
        """Return the strategy with its layer and weight."""
        changes = {"layer": self.layer, "weight": self.latent_weight, "projection": self.align_projection}
        plan = strategy_of(self.strategy, **changes)
        if self.decoder is None:
            return plan
        return replace(plan, labels=plan.labels or "steps", predicts="latents", title=f"{plan.title}, of latents")

    @property
    def compared_key(self) -> str:
        """Return the column that held-out chunks are compared with."""
        return self.eval_key or self.action_key

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.plan  # which checks its own numbers
