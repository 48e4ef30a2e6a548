"""Recipe of the policy: dataset, labels, backbone, strategy, model and loop put together."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import nn
from typing_extensions import Self

from lattok.backbones import SCRATCH, BackboneConfig
from lattok.backbones.model import MERGED, from_root, with_base
from lattok.data.opening import Source, has_actions, open_dataset, parse_source
from lattok.hub import CONFIG, TRAINING, HubModel, config_of, read_config, resolve
from lattok.recipes.common import ADAMW, EXTREMES, FROM_NOTHING, QUANTILES, Recipe, by_name
from lattok.recipes.held_out import HELD_OUT, judge
from lattok.recipes.policy_data import PolicyData
from lattok.recipes.policy_options import PolicyOptions
from lattok.recipes.policy_sources import refuse_without_actions
from lattok.recipes.run_folder import finish, first_process, wait_for_all
from lattok.training import RECIPE, RUN, fit
from lattok.utils import checks, files
from lattok.utils.output import unused
from lattok.vla import STRATEGIES, LatentVLA, VLAConfig
from lattok.vla.model import begin_with, share_backbone, shared_options

# what a policy that goes on may change: its weights mean the same
FREE = ("instructions", "n_action_steps", "head_flow_steps", *BackboneConfig.free)
PAPER: dict[str, Any] = {  # Table 8
    **ADAMW,
    "steps": 80_000,
    "batch_size": 128,
    "lr": 1e-4,
    "log_every": 100,
    "schedule": "step",
    "decay_every": 10_000,
    "decay_factor": 0.5,
}
README: dict[str, Any] = {  # the command in P2T's README, where it differs from Table 8 or says what the table does not
    "steps": 20_000,
    "schedule": "constant",
    "warmup_steps": 600,  # .03 of the steps
    "clip_norm": 1.0,
    "horizon": 8,
}
SMALL: dict[str, Any] = {
    **FROM_NOTHING,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
    "head_dim": 128,
    "head_heads": 4,
    "action_loss": "l1",
    "steps": 3000,
    "batch_size": 32,
    "lr": 1e-3,
}


@dataclass(frozen=True)
class Learner:
    """A policy, and the module that a run trains, which has it inside or is it."""

    policy: LatentVLA
    module: nn.Module
    loss_weights: Mapping[str, float]
    rates: Mapping[str, float] = field(default_factory=dict)  # of parts by the names of their parameters: see `fit`
    gaps: Callable[[float], Sequence[int]] = lambda fps: ()  # frames ahead that batches look too, at a rate
    fitted: bool = False  # the policy has its normalisers already
    inputs: Mapping[str, str] = field(default_factory=dict)  # hashes of the models that it begins with
    subtasks: bool = False  # batches have texts of sub-tasks


@dataclass(frozen=True)
class VLARecipe(Recipe[LatentVLA]):
    """Train a policy, with or without latent actions.

    - `libero`, `robotwin`, `jaka`: the paper's recipe (Table 8) at the horizons of its robots (8, 25, 20)
    - `p2t_readme`: the command in the README of the paper's code, for LIBERO: 20,000 steps at a constant learning rate
    - `scratch`: a small policy from random weights, on two cores, as in our closed-loop study
    - joined with any of them: `p2t_code`, where the published code differs from the paper (L1, every crop of 90 %)

    Like every recipe, this holds episodes out for evaluation; with episodes 0: it trains on all.
    """

    kind = "vla"
    data: PolicyOptions = field(default_factory=PolicyOptions)
    model: VLAConfig = field(default_factory=VLAConfig)
    common = ("strategy", "backbone", "horizon", "prefix", "labels", "tokenizer", "cameras", *Recipe.common)
    example: ClassVar[Mapping[str, Any]] = {"strategy": "la_direct", "backbone": "scratch"}
    choices: ClassVar[Mapping[str, Any]] = {"strategy": STRATEGIES}
    small = "scratch"
    default_preset = "libero"
    joined = ("p2t_code",)
    goes_on: ClassVar[str] = "init"  # option with the policy that the one to train goes on with
    presets: ClassVar[Mapping[str, Any]] = {
        "libero": {**PAPER, **QUANTILES, "horizon": 8},
        "robotwin": {**PAPER, **EXTREMES, "steps": 30_000, "horizon": 25},
        "jaka": {**PAPER, **QUANTILES, "steps": 30_000, "horizon": 20},
        "p2t_readme": {**PAPER, **QUANTILES, **README},
        "scratch": SMALL,
        "p2t_code": {"action_loss": "l1", "crop_most": 0.9},
    }

    @classmethod
    def implied_preset(cls, preset: str | None, options: Mapping[str, Any]) -> str | None:
        """Return the preset `scratch` if none is given for this backbone, or for a policy to train further with it."""
        before = None if preset else cls._earlier_config(options)
        backbones = options.get("backbone"), before and before.backbone.name
        return SCRATCH if not preset and SCRATCH in backbones else preset

    @classmethod
    def combined(cls, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options; those that `kept` names stay as they are in a policy that is trained further. Its
        cameras, whose names can be short, are compared with the data. Flow heads ignore the presets' loss for
        regression."""
        before = cls._earlier_config(given)
        if {**preset, **given}.get("head") == "flow" and preset.get("action_loss") == "l1":
            preset = {name: value for name, value in preset.items() if name != "action_loss"}
        if {**preset, **given}.get("head") == "tokens" and "horizon" not in given:  # the chunk is the tokenizer's
            given = {**given, **horizon_of(given.get("tokenizer"))}
        if before is None:
            return super().combined(preset, given)
        own = cls.kept(before)
        if "backbone" in given:
            given = {**given, "backbone": from_root(given["backbone"])}
        for name in sorted(own.keys() & given.keys() - {*FREE, "cameras"}):
            if given[name] != own[name]:
                expected = f"{own[name]!r}, as the policy in {cls.goes_on} has"
                checks.fail(name, expected, repr(given[name]), "Leave it out.")
        return super().combined(preset, {**own, **given})

    @classmethod
    def _earlier_config(cls, options: Mapping[str, Any]) -> VLAConfig | None:
        """Return the configuration of the policy that the one to train goes on with, if any."""
        name = options.get(cls.goes_on)
        return config_of(cls.goes_on, name, LatentVLA, options) if isinstance(name, str) else None

    def load_earlier(self, name: str) -> LatentVLA:
        """Load the policy that is trained further; `backbone` says where its base model is."""
        base = self.options()["backbone"]
        moved = base not in (SCRATCH, MERGED) and Path(base).is_dir()
        return LatentVLA.from_pretrained(name, **({"backbone": base} if moved else {}))

    @classmethod
    def kept(cls, config: VLAConfig) -> dict[str, Any]:
        """Return the options that a policy which is trained further keeps: its backbone, and what that sees."""
        return shared_options(config)

    def train(self, resume: bool = False, resume_command: str = "") -> LatentVLA:
        """Train as every recipe does, and write the error on held-out episodes into held_out.json."""
        if self.data.stages != "joint" and self.kind != VLARecipe.kind:
            checks.fail("stages", f"joint in {self.kind}", self.data.stages, "lattok train vla has stages.")
        if "," in self.data.stages:
            return self._in_stages(resume, resume_command)
        out, sources = self.folder(resume), self.open()
        data = self.policy_data(sources)
        torch.manual_seed(self.loop.seed)
        learner = self.learner(data)  # before frames are decoded: what does not fit costs seconds
        policy, parts = learner.policy, data.parts(learner.gaps, learner.subtasks)
        samples = parts[0] if learner.fitted else data.normalised(policy, parts)
        inputs = {**learner.inputs, **data.inputs(parts)}
        if policy.config.backbone.revision is not None:
            inputs["backbone"] = policy.config.backbone.revision
        with self.begin(resume, sources, inputs, resume_command) as contents:
            batches = data.batches(samples, policy)
            fit(
                learner.module,
                batches,
                self.loop,
                out,
                loss_weights=learner.loss_weights,
                rates=learner.rates,
                resume=resume,
                resume_command=resume_command,
            )
            history = self.trained_on(sources, self.loop.batch_size, contents) | batches.record()
            for entry, gave in zip(history.get("mixture", ()), data.record(parts), strict=False):
                entry.update(gave)
            if policy.datasets:
                policy.use_normalizers(policy.normalizers.in_use())
            finish(self.artefacts(learner, history), out)
            if first_process() and policy.config.strategy.acts:
                judge(policy, data, parts, out)
            wait_for_all()
            return policy

    def _in_stages(self, resume: bool, resume_command: str) -> LatentVLA:
        """Train one stage after the other, each in a folder of its own, and save the last policy."""
        out, sources, policy = self.folder(resume), self.open(), None
        if not any(has_actions(source.dataset, self.data.action_key) for source in sources):
            refuse_without_actions(self.data, sources[0].dataset)  # now, and not after the first stage
        stages = {name: self._stage(name) for name in self.data.stages.split(",")}
        with self.begin(resume, sources, resume_command=resume_command):
            for name, stage in stages.items():
                if (out / name / CONFIG).is_file():
                    continue
                if first_process():
                    print(f"\n== {name}", flush=True)
                policy = stage.train((out / name / RUN / RECIPE).is_file(), resume_command)
            policy = policy or LatentVLA.from_pretrained(out / name)
            before = files.read_json(out / next(iter(stages)) / TRAINING)
            policy.trained_on = {**(policy.trained_on or {}), "pretrained": before}
            finish({"": policy}, out)
            if first_process() and (out / name / HELD_OUT).is_file():
                files.write_json(out / HELD_OUT, files.read_json(out / name / HELD_OUT))
            wait_for_all()
            return policy

    def _stage(self, name: str) -> Self:
        """Return the recipe of one stage; the second goes on with the policy of the first."""
        data, place, loop = self.data, Path(self.out), self.loop
        first = name == "pretrain"
        head = "kept" if first and data.latent_head == "dropped" else data.latent_head
        data = replace(data, stages=name, pretrain_steps=0, latent_head=head)
        if first:
            loop = replace(loop, steps=self.data.pretrain_steps or loop.steps)
        else:
            data = replace(data, init=str(place / "pretrain"))
        return replace(self, out=str(place / name), data=data, loop=loop)

    def open(self) -> list[Source]:
        sources = super().open()  # which, named in any order, give one policy with a head for each
        return by_name(sources) if self.data.heads == "each" else sources

    def policy_data(self, sources: Sequence[Source]) -> PolicyData:
        """Read what the policy learns from in the datasets of this recipe."""
        return PolicyData.read(self.data, self.model, self.loop, sources)

    def learner(self, data: PolicyData) -> Learner:
        """Build the policy for this data, with what it takes from `init` and `decoder`; here it is trained alone."""
        inputs = dict[str, str]()
        with torch.random.fork_rng(()):  # a policy of this seed begins with the same weights whatever is read for it
            decoder, tokenizer = data.decoder, data.tokenizer
        config, before = data.config(decoder and decoder.config, tokenizer), None
        if self.data.init is not None:
            before = self.load_earlier(self.data.init)
            data.check_start(before)
            config = share_backbone(config, before.config)
        policy = LatentVLA(*with_base(config), tokenizer)
        if before is not None:
            begin_with(policy, before)
            inputs["init"] = before.describe()["weights_sha256"]
        if decoder is not None:
            cast(nn.Module, policy.decoder).load_state_dict(decoder.state_dict())
            inputs["decoder"] = decoder.describe()["weights_sha256"]
        if config.tokens is not None:
            inputs["tokenizer"] = config.tokens.weights_sha256
        weights = policy.config.loss_weights
        if self.data.stages == "pretrain" and self.data.decoder is None:
            weights = {**weights, "action": 0.0}
        return Learner(policy, policy, weights, inputs=inputs)

    def artefacts(self, learner: Learner, history: dict[str, Any]) -> dict[str, HubModel]:
        """Return the models that the run saves, by folder, each with the record of its training."""
        learner.policy.trained_on = history
        return {"": learner.policy}

    def next_step(self) -> str:
        if not self.data.plan.acts:
            words = self.data.plan.next_step.replace("my-policy", unused("my-policy"))
            words = words.replace("MODEL", shlex.quote(self.out))
            return f"It does not act yet. Train it further on a dataset with actions: {words}"
        several = len(self.data.mix) > 1 and read_config(Path(self.out), "out").get("normalizers")
        chosen = '.for_dataset("NAME")' if several else ""
        use = f'Use it: policy = lattok.load("{self.out}"){chosen}; policy.select_action(observation)'
        judged = (Path(self.out) / HELD_OUT).is_file()
        return f"{super().next_step()}\n{use}" if judged else use

    def _judging_source(self) -> str:
        for text in [] if self.dataset else self.data.mix:
            place = parse_source(text)[0]
            with suppress(checks.LattokError):  # it may be gone by now
                if has_actions(open_dataset(place), self.data.action_key):  # films teach by latents alone
                    return place
        return super()._judging_source()


def horizon_of(tokenizer: object) -> dict[str, int]:
    """Return the horizon of a tokenizer, a folder or a Hub id, as an option; none where it is none, which is said
    later."""
    horizon = None
    with suppress(checks.LattokError):
        if isinstance(tokenizer, str):
            horizon = read_config(resolve(tokenizer, argument="tokenizer").folder, "tokenizer").get("horizon")
    return {"horizon": horizon} if checks.is_int(horizon) else {}
