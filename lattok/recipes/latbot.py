"""Recipe of LatBot: latent actions of a clip, distilled into a policy that sees its first frame.

distill    student(l, V_1) -> Z^, compared with Z = teacher(l, V_{1:T}): L_a of Eq. 4; nothing learns to act
finetune   backbone and placeholders of that student, a new head: actions, L_ee + L_gripper
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from lattok import hub
from lattok.backbones.model import with_base
from lattok.data import RobotDataset
from lattok.data.alike import note_rate
from lattok.data.episodes import check_strides_in
from lattok.image_lam.clips import ClipLAM, ClipLAMConfig
from lattok.recipes.common import LATBOT_RATE, Recipe
from lattok.recipes.joint import check_frames, check_head, views_of
from lattok.recipes.policy_data import PolicyData
from lattok.recipes.policy_options import PolicyOptions
from lattok.recipes.run_folder import first_process
from lattok.recipes.vla import Learner, VLARecipe
from lattok.utils import checks
from lattok.utils.options import check_choices
from lattok.vla import LatentVLA
from lattok.vla.config import BCE
from lattok.vla.latbot import GO_ON, Distillation, follow, taught_by

TUNED = "latbot_finetune"
LATBOT: dict[str, Any] = {
    **LATBOT_RATE,
    "backbone_train": "full",
    "batch_size": 256,
    "action_loss": BCE,
    "backbone_lora_projector": True,  # where backbone_train=lora is chosen
    "normalize_exceptions": ("*gripper*=min_max",),  # so that 0 and 1 are no less certain than -1 and 1
}
ON_LIBERO = {"steps": 60_000, "batch_size": 64}  # 4.3


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
        for name in ("prefix", "latent_stride", "decoder", "init"):
            if getattr(self, name) is not None:
                checks.fail(name, "none: LatBot learns from its teacher, not from labels", repr(getattr(self, name)))
        checks.one_of("strategy", self.strategy, ("baseline",))
        checks.one_of("heads", self.heads, ("shared",))

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

    def learner(self, data: PolicyData) -> Learner:
        """Return the student with its teacher, or the distilled policy with a new head. Random weights are drawn before
        others are read, so with one seed they are the same for every strategy."""
        check_head(self.kind, self.model.head.name)
        config, before, options = data.config(), self.data.before, self.data
        if options.phase == "finetune":
            own = hub.config_of("student", before, LatentVLA, given=("backbone",))
            policy = LatentVLA(*with_base(taught_by(config, own)))
            student = self.load_earlier(before)
            inputs = {"student": student.describe()["weights_sha256"]}
            return Learner(follow(student, policy), policy, policy.config.loss_weights, inputs=inputs)
        known: ClipLAMConfig = hub.config_of("teacher", before, ClipLAM)
        check_frames(config, known)
        for dataset in data.datasets:
            stride = checks.stride_in_frames(known.stride, dataset.fps)
            check_strides_in(dataset, options.episodes, [stride], "teacher")
        policy = LatentVLA(*with_base(taught_by(config, known)))
        teacher = ClipLAM.from_pretrained(before)
        for dataset in data.datasets:
            note_rate(teacher, dataset, options.any_rate, options.action_key)
        module = Distillation(policy, teacher, views_of(policy.config, teacher), options.whole_clips)
        texts, inputs = self._texts(policy, data.datasets), {"teacher": teacher.describe()["weights_sha256"]}
        weights = {"latent": 1.0, "text": options.text_weight} if texts else {"latent": 1.0}

        def gaps(fps: float) -> list[int]:
            return teacher.config.gaps(teacher.stride_frames(fps))[1:]

        return Learner(policy, module, weights, gaps=gaps, subtasks=texts, inputs=inputs)

    def _texts(self, policy: LatentVLA, datasets: Sequence[RobotDataset]) -> bool:
        """Return whether sub-task texts teach; where they cannot, say why."""
        if not self.data.text_weight:
            return False
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

    def next_step(self) -> str:
        if self.data.phase == "finetune":
            return super().next_step()
        return f"Go on: {GO_ON.replace('FOLDER', shlex.quote(self.out))}"
