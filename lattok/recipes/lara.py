"""Recipes of policies that learn with another model. LARA: with an image latent action model, which learns too, from
scratch or from saved ones. LatBot: from latent actions of a clip, distilled into one that sees its first frame.

distill    student(l, V_1) -> Z^, compared with Z = teacher(l, V_{1:T}): L_a of Eq. 4; nothing learns to act
finetune   backbone and placeholders of that student, a new head: actions, L_ee + L_gripper
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from lattok import hub
from lattok.backbones.model import with_backbone, with_base
from lattok.data.alike import note_rate
from lattok.data.episodes import check_strides_in
from lattok.data.schema import short_name
from lattok.evaluation.questions.history import training_entries
from lattok.image_lam import TrainedPairModel
from lattok.image_lam.base.config import TrainedPairConfig
from lattok.image_lam.clips import ClipLAM, ClipLAMConfig
from lattok.labels import LatentSpec
from lattok.nn.normalize import for_dataset
from lattok.recipes.common import LATBOT_RATE, Recipe
from lattok.recipes.policy_data import PolicySource, policy_config
from lattok.recipes.run_folder import broadcast_buffers, first_process
from lattok.recipes.vla import FREE, Learner, PolicyOptions, VLARecipe
from lattok.samples.policy import PolicyWindows
from lattok.types import VideoLabeller
from lattok.utils import checks
from lattok.utils.options import check_choices, flat
from lattok.vla import STRATEGIES, LatentVLA, VLAConfig
from lattok.vla.config import BCE, MOST_INSTRUCTIONS
from lattok.vla.lara import HEAD, Detach, JointLARA, LiveLAM, Place, check_place
from lattok.vla.latbot import GO_ON, Distillation, follow, taught_by
from lattok.vla.strategies import check_layer

LAM = "lam"  # folder of the run with the latent action model
TUNED = "latbot_finetune"
FLOW = {"head": "flow"}  # what LARA aligns with is inside it
# stage 2 of the released code, which aligns after block 14 of 16
PUBLISHED: dict[str, Any] = {"horizon": 16, "backbone_train": "frozen", "gaps": ("15",), "align_layer": 0.875}
PUBLISHED |= {"steps": 200_000, "batch_size": 256, "lr": 1e-4, "weight_decay": 1e-5, "schedule": "one_cycle"}
LATBOT: dict[str, Any] = {**LATBOT_RATE, "backbone_train": "full", "batch_size": 256, "action_loss": BCE}
LATBOT |= {"backbone_lora_projector": True}  # where backbone_train=lora is chosen
LATBOT |= {"normalize_exceptions": ("*gripper*=min_max",)}  # so that 0 and 1 are no less certain than -1 and 1
ON_LIBERO = {"steps": 60_000, "batch_size": 64}  # 4.3


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
        lam_rate: learning rate of the latent action model, times lr; 0: it stays as it is
        backbone_rate: learning rate of the backbone, times lr; 0: it stays as it is
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
            own |= {"align_projection": loss.options["projection"]} if "projection" in loss.options else {}
        return own

    def learner(self, found: Sequence[PolicySource]) -> Learner:
        """Return both models as one module, the policy first: its first weights do not depend on the other."""
        data, inputs = self.data, {}
        if (head := self.options()["head"]) != "tokens":  # which `policy_config` refuses
            check_place(data.align_on, head)
        if data.lam is None:
            hint = "lattok train image-lam trains one."
            checks.fail("lam", "an image latent action model, a folder or a Hub id", "none", hint)
        family = hub.family_of(hub.resolve(data.lam, argument="lam").folder, "lam")
        if not issubclass(family, TrainedPairModel):
            known = " or ".join(repr(kind) for kind in hub.FAMILIES if issubclass(hub.FAMILIES[kind], TrainedPairModel))
            checks.fail("lam", f"a model of type {known}", f"{family.type!r} in {data.lam}")
        hub.config_of("lam", data.lam, family)
        if data.init is None:
            policy = LatentVLA(*with_base(policy_config(self, found)))
        else:
            policy = _continued(self, found)
            inputs["init"] = policy.describe()["weights_sha256"]
        lam = family.from_pretrained(data.lam)
        inputs["lam"] = lam.describe()["weights_sha256"]
        live = LiveLAM(lam, views_of(policy.config, lam), frozen=data.lam_rate == 0)
        check_frames(policy.config, lam.config)
        if data.backbone_rate == 0:
            policy.backbone.requires_grad_(False)
        joint = JointLARA(policy, live, data.align_layer, data.detach, data.align_on)
        weights = joint.loss_weights(data.align_weight, data.lam_weight)

        def gaps(fps: float) -> list[int]:
            return [checks.stride_in_frames(gap, fps, "gaps") for gap in data.gaps or (lam.config.stride,)]

        for dataset in (source.dataset for source in found):
            check_strides_in(dataset, data.episodes, gaps(dataset.fps), "gaps")
            if not data.gaps:
                note_rate(lam, dataset, data.any_rate, data.action_key)
        rates = {"lam.": data.lam_rate, "policy.backbone.": data.backbone_rate}
        return Learner(policy, joint, weights, rates, gaps, data.init is not None, inputs)

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


def _continued(recipe: LARARecipe, found: Sequence[PolicySource]) -> LatentVLA:
    """Return the policy in `init` for this data, which must be as that which it was trained on."""
    policy = recipe.load_earlier(str(recipe.data.init))
    policy = for_dataset(policy, found[0].dataset.name)
    before, now = policy.config, policy_config(recipe, found)
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


def views_of(config: VLAConfig, lam: VideoLabeller) -> list[int]:
    """Find the latent action model's cameras among the policy's, by name; of one each they are the same."""
    names, wanted = [short_name(key) for key in config.cameras], [short_name(key) for key in lam.cameras]
    if len(names) == len(wanted) == 1:
        return [0]
    if not set(wanted) <= set(names):
        expected = f"those of the latent action model ({', '.join(wanted)}) among them"
        checks.fail("cameras", expected, ", ".join(names) or "none")
    return [names.index(name) for name in wanted]


def check_frames(config: VLAConfig, lam: TrainedPairConfig | ClipLAMConfig) -> None:
    """Require that both models see frames of one size, resized in one way: they are read once."""
    ours, theirs = (f"{each.image_size} pixels, {each.interpolation}" for each in (config, lam))
    if ours != theirs:
        hint = f"Set image_size={lam.image_size}, interpolation={lam.interpolation}."
        checks.fail("image_size", f"{theirs}, as the latent action model sees frames", ours, hint)


@dataclass(frozen=True)
class LatBotOptions(PolicyOptions):
    """What a policy is distilled from, or trained further from.

    Attributes:
        phase: "distill", or "finetune", which trains a distilled policy to act
        teacher: model of `lattok train clip-lam` that phase distill learns from, a folder or a Hub id
        whole_clips: in phase distill, leaves out clips that reach beyond their episode
        text_weight: weight of L_r in phase distill: texts of sub-tasks, where the dataset has them
        student: policy of phase distill that phase finetune trains further, a folder or a Hub id
    """

    phase: Literal["distill", "finetune"] = "distill"
    teacher: str | None = None
    whole_clips: bool = False
    text_weight: float = 0.5
    student: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self)
        checks.at_least_zero(text_weight=self.text_weight)
        for name in ("text_weight", "whole_clips"):
            own, unused = getattr(self, name), getattr(LatBotOptions, name)
            if self.phase == "finetune" and own != unused:
                checks.fail(name, f"to be left out with phase=finetune ({unused}), without clips and texts", own)
        for name in ("prefix", "labels", "latent_stride", "decoder", "init"):
            if getattr(self, name) is not None:
                checks.fail(name, "none: LatBot learns from its teacher, not from labels", repr(getattr(self, name)))
        checks.one_of("strategy", self.strategy, ("baseline",))

    @property
    def before(self) -> str:
        needed, other = ("teacher", "student") if self.phase == "distill" else ("student", "teacher")
        found = getattr(self, needed)
        if found is None or getattr(self, other) is not None:
            got = ", ".join(name for name in ("teacher", "student") if getattr(self, name) is not None) or "neither"
            checks.fail(needed, f"a folder or a Hub id with phase={self.phase}, and no {other}", got)
        return found


@dataclass(frozen=True)
class LatBotRecipe(VLARecipe):
    """Distil a latent action model of clips into a policy, and fine-tune it (LatBot).

    `lattok train clip-lam` trains the teacher; `--phase distill --teacher` trains a policy that predicts its latents,
    and `--phase finetune --student` one that acts.

    - `libero`, `robotwin`, `jaka`, `p2t_readme`, `scratch`, `p2t_code`: as in `lattok train vla`
    - joined with any of them ("libero+latbot"): `latbot`, the paper's numbers; phase finetune adds
      `latbot_finetune`, its numbers on LIBERO
    """

    kind = "latbot"
    data: LatBotOptions = field(default_factory=LatBotOptions)
    common = ("phase", "teacher", "student", "backbone", "horizon", "cameras", *Recipe.common)
    example: ClassVar[Mapping[str, Any]] = {"teacher": "my-teacher", "backbone": "scratch", "image_size": 64}
    choices: ClassVar[Mapping[str, Any]] = {}
    joined = (*VLARecipe.joined, "latbot", TUNED)
    goes_on = "student"
    presets: ClassVar[Mapping[str, Any]] = {**VLARecipe.presets, "latbot": LATBOT, TUNED: ON_LIBERO}

    @classmethod
    def implied_preset(cls, preset: str | None, options: Mapping[str, Any]) -> str | None:
        """Add `latbot_finetune` to `latbot` in phase finetune."""
        names = preset.split("+") if isinstance(preset, str) else []
        finetunes = options.get("phase") == "finetune" and "latbot" in names and TUNED not in names
        return super().implied_preset("+".join([*names, TUNED]) if finetunes else preset, options)

    def learner(self, found: Sequence[PolicySource]) -> Learner:
        """Return the student with its teacher, or the distilled policy with a new head. Random weights are drawn before
        others are read: they are those of any strategy with this seed."""
        config, before = policy_config(self, found), self.data.before
        if self.data.phase == "finetune":
            own = hub.config_of("student", before, LatentVLA, given=("backbone",))
            policy = LatentVLA(*with_base(taught_by(config, own)))
            student = self.load_earlier(before)
            inputs = {"student": student.describe()["weights_sha256"]}
            return Learner(follow(student, policy), policy, policy.config.loss_weights, inputs=inputs)
        known: ClipLAMConfig = hub.config_of("teacher", before, ClipLAM)
        check_frames(config, known)
        for dataset in (source.dataset for source in found):
            stride = checks.stride_in_frames(known.stride, dataset.fps)
            check_strides_in(dataset, self.data.episodes, [stride], "teacher")
        policy = LatentVLA(*with_base(taught_by(config, known)))
        teacher = ClipLAM.from_pretrained(before)
        for dataset in (source.dataset for source in found):
            note_rate(teacher, dataset, self.data.any_rate, self.data.action_key)
        module = Distillation(policy, teacher, views_of(policy.config, teacher), self.data.whole_clips)
        texts, inputs = self._texts(policy, found), {"teacher": teacher.describe()["weights_sha256"]}
        weights = {"latent": 1.0} | ({"text": self.data.text_weight} if texts else {})

        def gaps(fps: float) -> list[int]:
            return teacher.config.gaps(teacher.stride_frames(fps))[1:]

        return Learner(policy, module, weights, gaps=gaps, subtasks=texts, inputs=inputs)

    def _texts(self, policy: LatentVLA, found: Sequence[PolicySource]) -> bool:
        """Tell whether sub-task texts teach; where they cannot, say why."""
        if not self.data.text_weight:
            return False
        datasets = [source.dataset for source in found]
        without = [each.name for each in datasets if each.subtasks(each.episodes[0].index) is None]
        if len(without) == len(datasets):
            why = f"{', '.join(without)} has no sub-task texts"
        elif not policy.backbone.predicts_text:
            why = f"the {policy.config.backbone.name} backbone predicts no text"
        else:
            return True
        if first_process():
            print(f"text_weight {self.data.text_weight:g} has no effect: {why}.")
        return False

    def judge(self, policy: LatentVLA, found: Sequence[PolicySource], parts: Sequence[PolicyWindows]) -> None:
        if self.data.phase == "finetune":
            super().judge(policy, found, parts)

    def next_step(self) -> str:
        if self.data.phase == "finetune":
            return super().next_step()
        return f"Go on: {GO_ON.replace('FOLDER', shlex.quote(self.out))}"
