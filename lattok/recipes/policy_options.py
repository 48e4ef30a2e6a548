"""Options of what is read where actions may be unknown, and of what a policy learns from."""

from collections.abc import Sequence
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
        stages: "joint", all losses at once; "pretrain,finetune", latents of everything first, in OUT/pretrain, then the
            sources with actions, in OUT/finetune; or one of the two stages: "pretrain" needs no actions
        pretrain_steps: steps of the first stage; 0: as many as `steps`
        latent_head: in the second stage the latent loss goes on ("kept"), has no weight ("dropped"), or latents are
            what is predicted in both stages, and `decoder` turns them into actions ("decoded")
        heads: "each": datasets of `mix` may have other actions and states, and each has its own head, or codes of one
            `tokenizer`; "shared": all have the same actions and states
        latents_only: datasets of `mix`, by name, whose actions do not teach: only their labels do
        prefix: prefix of the label columns; left out: the only one that fits the strategy
        tokenizer: action tokenizer: with head=tokens its codes are what the policy predicts and acts by, and the
            horizon is its own; with la_tok it labels while the policy trains, in place of columns
        decoder: inverse dynamics model that made the labels; it turns latents that the policy predicts into actions
        init: policy to start from, a folder or a Hub id; all of its weights that fit are copied
        latent_stride: stride that labels must have
        proprio: the policy sees the robot's state; --no-proprio: it does not
        any_rate: what the policy learns by may have learned at another frame rate than the dataset's
        eval_key: column with held-out actions to compare with (default: action_key)
    """

    state_key: str = "observation.state"
    strategy: str = "baseline"
    layer: int | float | None = None
    latent_weight: float | None = None
    align_projection: Literal["linear", "mlp"] | None = None
    stages: Literal["joint", "pretrain", "finetune", "pretrain,finetune"] = "joint"
    pretrain_steps: int = 0
    latent_head: Literal["kept", "dropped", "decoded"] = "kept"
    heads: Literal["shared", "each"] = "shared"
    latents_only: tuple[str, ...] = ()
    prefix: str | None = None
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
        weight = 0.0 if (self.stages, self.latent_head) == ("finetune", "dropped") else self.latent_weight
        changes = {"layer": self.layer, "weight": weight, "projection": self.align_projection}
        plan = strategy_of(self.strategy, **changes)
        if self.stages == "pretrain" and self.decoder is None:
            plan = replace(plan, acts=False, next_step="lattok train vla DATASET --init MODEL --out my-policy")
        if self.decoder is None:
            return plan
        return replace(plan, labels=plan.labels or "steps", predicts="latents", title=f"{plan.title}, of latents")

    @property
    def labels_by_tokenizer(self) -> bool:
        """Return whether `tokenizer` makes labels while the policy trains; otherwise it may be that of its head."""
        return self.tokenizer is not None and self.plan.labels == "chunk"

    def check_latents_only(self, names: Sequence[str]) -> None:
        """Require that `latents_only` names datasets of the mixture."""
        for name in self.latents_only:
            checks.one_of("latents_only", name, names)

    @property
    def own_columns(self) -> dict[str, str]:
        """Return the columns that differ between robots, and what errors call them."""
        columns = {self.compared_key: "eval_key", self.action_key: "action_key"}
        return columns | ({self.state_key: "state_key"} if self.proprio else {})

    @property
    def compared_key(self) -> str:
        """Return the column that held-out chunks are compared with."""
        return self.eval_key or self.action_key

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.latents_only and not self.mix:
            raise LattokError("`latents_only` names datasets of a mixture. Give `mix`, or leave it out.")
        others = {name: getattr(self, name) for name in ("decoder", "init")}
        unfit = [name for name, given in others.items() if given] + ["stages"] * (self.stages != "joint")
        if self.heads == "each" and (unfit or len(self.mix) < 2):
            got = f"each with {unfit[0]}" if unfit else "each with one dataset"
            checks.fail("heads", "shared, unless several datasets teach a policy at once", got)
        checks.whole(pretrain_steps=self.pretrain_steps)
        if "pretrain" not in self.stages and self.pretrain_steps:
            checks.fail("pretrain_steps", "0 without a first stage (stages=pretrain,finetune)", self.pretrain_steps)
        if "finetune" not in self.stages and self.latent_head == "dropped":
            checks.fail("latent_head", "kept without a second stage (stages=pretrain,finetune)", self.latent_head)
        if self.latent_head == "decoded" and self.decoder is None:
            checks.fail("decoder", "the inverse dynamics model that made the labels, with latent_head=decoded", "none")
        if self.stages != "joint" and self.decoder is None and not self.plan.losses:
            got, hint = f"{self.stages} with {self.strategy}", "Name one that learns labels: strategy=la_direct."
            checks.fail("stages", "joint with a strategy without a latent loss", got, hint)
        if self.stages != "joint" and self.decoder is not None and self.latent_head != "decoded":
            got = f"{self.latent_head}, with a decoder, which turns what is predicted into actions"
            checks.fail("latent_head", "decoded", got)
        _ = self.plan  # which checks its own numbers
