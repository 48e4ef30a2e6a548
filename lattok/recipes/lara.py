"""Recipe of LARA: a policy and an image latent action model that learn together, from scratch or from saved ones."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from lattok import hub
from lattok.backbones.model import with_backbone, with_base
from lattok.data.alike import note_rate
from lattok.data.episodes import check_strides_in
from lattok.evaluation.questions.history import training_entries
from lattok.image_lam import TrainedPairModel
from lattok.labels import LatentSpec
from lattok.nn.normalize import for_dataset
from lattok.recipes.joint import check_frames, check_head, views_of
from lattok.recipes.policy_data import PolicyData
from lattok.recipes.policy_options import PolicyOptions
from lattok.recipes.run_folder import broadcast_buffers
from lattok.recipes.vla import FREE, Learner, VLARecipe
from lattok.utils import checks
from lattok.utils.options import check_choices, flat
from lattok.vla import STRATEGIES, LatentVLA, VLAConfig
from lattok.vla.config import MOST_INSTRUCTIONS
from lattok.vla.lara import HEAD, Detach, JointLARA, LiveLAM, Place, check_place
from lattok.vla.strategies import check_layer

LAM = "lam"  # folder of the run with the latent action model
FLOW = {"head": "flow"}  # what LARA aligns with is inside it
PUBLISHED: dict[str, Any] = {  # stage 2 of the released code
    "horizon": 16,
    "backbone_train": "frozen",
    "gaps": ("15",),
    "align_layer": 0.875,  # after block 14 of 16
    "steps": 200_000,
    "batch_size": 256,
    "lr": 1e-4,
    "weight_decay": 1e-5,
    "schedule": "one_cycle",
}


@dataclass(frozen=True)
class LARAOptions(PolicyOptions):
    """What a policy and a latent action model learn from.

    Attributes:
        lam: image latent action model that also learns, a folder or a Hub id (required)
        init: policy to train further, a folder or a Hub id; its architecture stays
        gaps: strides to the later frames: "15" (frames) or "0.5s"; left out: the latent action model's stride
        align_on: whose state is aligned: the flow "head"'s, which sees noised actions, or the "placeholder"'s
        align_layer: layer that is aligned: index, or fraction of the head's blocks or the backbone's layers
        align_weight: weight of the alignment, 1 - cos(W h, e)
        lam_weight: weight of the latent action model's own loss
        detach: which model gets no gradient of the alignment: "none", the latent action model ("lam"), or the "policy"
        lam_rate: learning rate of the latent action model, times lr; 0 freezes it
        backbone_rate: learning rate of the backbone, times lr; 0 freezes it
    """

    lam: str | None = None
    gaps: tuple[str, ...] = ()
    align_on: Place = HEAD
    align_layer: int | float = 1.0
    align_weight: float = 0.01
    lam_weight: float = 0.01
    detach: Detach = "none"
    lam_rate: float = 1.0
    backbone_rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer(align_layer=self.align_layer)
        check_choices(self)
        checks.at_least_zero(align_weight=self.align_weight, lam_weight=self.lam_weight)
        checks.at_least_zero(lam_rate=self.lam_rate, backbone_rate=self.backbone_rate)
        checks.one_of("heads", self.heads, ("shared",))
        if self.init is not None and self.mix:
            raise checks.LattokError("`mix` cannot be used with init: a policy is trained further on one dataset.")


@dataclass(frozen=True)
class LARARecipe(VLARecipe):
    """Train a policy and an image latent action model together (LARA).

    `lam` names the latent action model, which `lattok train image-lam` has trained: that is LARA's first stage. The
    refined one is in the run's folder `lam`. `init` names an earlier policy, which is trained further.

    - `libero`, `robotwin`, `jaka`, `p2t_readme`, `scratch`, `p2t_code`: as in `lattok train vla`, with a flow head
    - joined with any of them ("libero+lara"): `lara`, the numbers of the released code's second stage
    """

    kind = "lara"
    data: LARAOptions = field(default_factory=LARAOptions)
    common = ("lam", "init", "align_on", "align_weight", "lam_weight", "detach", *VLARecipe.common)
    example: ClassVar[Mapping[str, Any]] = {"lam": "my-lam", "backbone": "scratch", "image_size": 64}
    presets: ClassVar[Mapping[str, Any]] = {
        **VLARecipe.presets,
        **{name: {**VLARecipe.presets[name], **FLOW} for name in VLARecipe.presets if name not in VLARecipe.joined},
        "lara": {**FLOW, **PUBLISHED},
    }
    joined = (*VLARecipe.joined, "lara")

    @classmethod
    def kept(cls, config: VLAConfig) -> dict[str, Any]:
        """Return the options that a policy of this configuration was trained with: its architecture stays."""
        plan = config.strategy
        if plan.name not in STRATEGIES:
            checks.fail("init", f"a policy of one of {', '.join(STRATEGIES)}", f"one of {plan.name}")
        own = {name: value for name, value in flat(config).items() if name in cls.option_types()}
        own |= {"strategy": plan.name, "proprio": config.proprio_dim > 0}
        if len(plan.losses) == 1:
            loss = plan.losses[0]
            own |= {"layer": loss.layer, "latent_weight": loss.weight}
            if "projection" in loss.options:
                own["align_projection"] = loss.options["projection"]
        return own

    def learner(self, data: PolicyData) -> Learner:
        """Return both models as one module, the policy first: its first weights do not depend on the other."""
        options, inputs = self.data, dict[str, str]()
        check_head(self.kind, self.model.head.name)
        check_place(options.align_on, self.model.head.name)
        if options.lam is None:
            hint = "lattok train image-lam trains one."
            checks.fail("lam", "an image latent action model, a folder or a Hub id", "none", hint)
        family = hub.family_of(hub.resolve(options.lam, argument="lam").folder, "lam")
        if not issubclass(family, TrainedPairModel):
            known = " or ".join(repr(kind) for kind in hub.FAMILIES if issubclass(hub.FAMILIES[kind], TrainedPairModel))
            checks.fail("lam", f"a model of type {known}", f"{family.type!r} in {options.lam}")
        hub.config_of("lam", options.lam, family)
        if options.init is None:
            policy = LatentVLA(*with_base(data.config()))
        else:
            policy = _continued(self, data)
            inputs["init"] = policy.describe()["weights_sha256"]
        lam = family.from_pretrained(options.lam)
        inputs["lam"] = lam.describe()["weights_sha256"]
        live = LiveLAM(lam, views_of(policy.config, lam), frozen=options.lam_rate == 0)
        check_frames(policy.config, lam.config)
        if options.backbone_rate == 0:
            policy.backbone.requires_grad_(False)
        joint = JointLARA(policy, live, options.align_layer, options.detach, options.align_on)
        weights = joint.loss_weights(options.align_weight, options.lam_weight)

        def gaps(fps: float) -> list[int]:
            return [checks.stride_in_frames(gap, fps, "gaps") for gap in options.gaps or (lam.config.stride,)]

        for dataset in data.datasets:
            check_strides_in(dataset, options.episodes, gaps(dataset.fps), "gaps")
            if not options.gaps:
                note_rate(lam, dataset, options.any_rate, options.action_key)
        rates = {"lam.": options.lam_rate, "policy.backbone.": options.backbone_rate}
        return Learner(policy, joint, weights, rates, gaps, options.init is not None, inputs)

    def artefacts(self, learner: Learner, history: dict[str, Any]) -> dict[str, hub.HubModel]:
        """Return the policy, without the latent action model, and that model if it was trained."""
        data, joint = self.data, learner.module
        assert isinstance(joint, JointLARA)
        names = ("align_on", "align_layer", "align_weight", "lam_weight", "detach")
        together = {"joint": {name: getattr(data, name) for name in names} | dict(learner.inputs)}
        policy, lam = learner.policy, joint.lam.lam
        made: dict[str, hub.HubModel] = {"": policy}
        if not joint.lam.frozen:
            made[LAM] = lam
        for model in made.values():
            now = history | together
            if model is lam:
                broadcast_buffers(lam)
                now.pop("labels", None)  # the policy's, which are not those of its own training
                now |= {name: value for name, value in (lam.trained_on or {}).items() if name == "labels"}
            earlier = [e for e in training_entries(model.trained_on) if e not in training_entries(now)]
            model.trained_on = now | ({"earlier": earlier} if earlier else {})
            model.evaluation = model.own_card = None  # another model's
        return made

    def next_step(self) -> str:
        refined = "" if self.data.lam_rate == 0 else f"\nThe refined latent action model is {Path(self.out) / LAM}."
        return super().next_step() + refined


def _continued(recipe: LARARecipe, data: PolicyData) -> LatentVLA:
    """Return the policy in `init` for this data, which must be as that which it was trained on."""
    policy = recipe.load_earlier(str(recipe.data.init))
    policy = for_dataset(policy, data.lead.dataset.name)
    before, now = policy.config, data.config()
    now = with_backbone(now, name=before.backbone.name, revision=before.backbone.revision)
    had = flat(before)
    for name, value in flat(now).items():
        ours, theirs = (
            replace(each, prefix="latent") if isinstance(each, LatentSpec) else each for each in (value, had[name])
        )  # labels whatever their columns are called
        if ours != theirs and name not in FREE:
            checks.fail(name, f"{theirs!r}, as the policy in init has", f"{ours!r}")
    known = tuple(sorted({*before.instructions, *now.instructions}))
    listed = before.instructions and now.instructions and len(known) <= MOST_INSTRUCTIONS
    policy.config = replace(now, instructions=known if listed else ())
    policy.queues.n_action_steps = policy.config.n_action_steps or policy.config.horizon
    return policy
