"""Recipe of the policy: dataset, labels, backbone, strategy, model and loop put together."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from lattok.backbones import SCRATCH, BackboneConfig
from lattok.backbones.model import MERGED, from_root, with_base
from lattok.data import RobotDataset, select_episodes
from lattok.data.alike import check_actions, note_rate, note_start
from lattok.data.episodes import check_horizon
from lattok.evaluation.evidence.policy_evidence import PolicyErrors, policy_errors
from lattok.hub import HubModel, config_of, read_config, resolve
from lattok.image_lam.inverse import InverseDynamics
from lattok.labels.spec import provenance_of
from lattok.loading import load
from lattok.nn.normalize import for_dataset
from lattok.recipes import policy_data
from lattok.recipes.common import ADAMW, EXTREMES, FROM_NOTHING, QUANTILES, Recipe
from lattok.recipes.policy_data import ActedOptions, PolicySource, held_out_episodes, read_windows
from lattok.recipes.run_folder import finish, first_process, wait_for_all
from lattok.samples.policy import MixedPolicyWindows, PolicyWindows
from lattok.samples.reach import note_reach
from lattok.training import fit
from lattok.types import ActionTokenizer, PolicyBatch
from lattok.utils import checks, files
from lattok.utils.devices import moved
from lattok.utils.progress import ProgressBar
from lattok.utils.runs import index_runs
from lattok.vla import STRATEGIES, LatentVLA, Strategy, VLAConfig, strategy_of
from lattok.vla.model import begin_with, share_backbone, shared_options

HELD_OUT = "held_out.json"
# what a policy that goes on may change: its weights mean the same
FREE = ("instructions", "n_action_steps", "head_flow_steps", *BackboneConfig.free)
GRIPPER_REACH = 0.9  # of -1 and 1, by grippers that learn by cross-entropy
PAPER: dict[str, Any] = {**ADAMW, "steps": 80_000, "batch_size": 128, "lr": 1e-4, "log_every": 100}  # Table 8
PAPER |= {"schedule": "step", "decay_every": 10_000, "decay_factor": 0.5}
# the command in P2T's README, where it differs from Table 8 or says what the table does not; warm-up: .03 of the steps
README: dict[str, Any] = {"steps": 20_000, "schedule": "constant", "warmup_steps": 600, "clip_norm": 1.0, "horizon": 8}
SMALL: dict[str, Any] = {**FROM_NOTHING, **dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)}
SMALL |= {"head_dim": 128, "head_heads": 4, "action_loss": "l1", "steps": 3000, "batch_size": 32, "lr": 1e-3}


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

    Like every recipe, this leaves out the episodes that judge; with episodes 0: it trains on all.
    """

    kind = "vla"
    data: PolicyOptions = field(default_factory=PolicyOptions)
    model: VLAConfig = field(default_factory=VLAConfig)
    common = ("strategy", "backbone", "horizon", "prefix", "labels", "tokenizer", "cameras", *Recipe.common)
    example: ClassVar[Mapping[str, Any]] = {"strategy": "la_direct", "backbone": "scratch"}
    choices: ClassVar[Mapping[str, Any]] = {"strategy": STRATEGIES}
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
        """Return all options; a policy that is trained further keeps its own of those `kept`. Its cameras, whose names
        can be short, are compared with the data. The loss of presets for regression is not for flow heads."""
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
        out, sources = self.folder(resume), self.open()
        datasets = [source.dataset for source in sources]
        episodes = [episode for dataset in datasets for episode in select_episodes(dataset, self.data.episodes)]
        check_horizon(self.model.horizon, episodes)
        found = policy_data.find_sources(self, datasets)
        torch.manual_seed(self.loop.seed)
        learner = self.learner(found)  # before frames are decoded: what does not fit costs seconds
        policy, texts = learner.policy, learner.subtasks
        parts = [read_windows(self, each, gaps=learner.gaps(each.dataset.fps), subtasks=texts) for each in found]
        samples = parts[0] if learner.fitted else _normalised(policy, parts, [source.weight for source in sources])
        inputs = {"backbone": policy.config.backbone.revision, **learner.inputs}
        for source, part in zip(found, parts, strict=True):
            of = f" of {source.dataset.name}" if len(found) > 1 else ""
            inputs[f"labels{of}"] = part.labels_hash
            if source.tokenizer is not None:
                inputs[f"tokenizer{of}"] = source.tokenizer.describe()["weights_sha256"]
        inputs = {name: value for name, value in inputs.items() if value is not None}
        with self.begin(resume, sources, inputs, resume_command) as contents:
            batches = policy_data.policy_batches(self, samples, prepared=policy.prepared, encoded=policy.with_tokens)
            options: dict[str, Any] = {"loss_weights": learner.loss_weights, "rates": learner.rates}
            fit(learner.module, batches, self.loop, out, **options, resume=resume, resume_command=resume_command)
            history = self.trained_on(sources, self.loop.batch_size, contents) | batches.record()
            if policy.datasets:
                policy.use_normalizers(policy.normalizers.in_use())
            finish(self.artefacts(learner, history), out)
            if first_process():
                self.judge(policy, found, parts)
            wait_for_all()
            return policy

    def learner(self, found: Sequence[PolicySource]) -> Learner:
        """Build the policy for this data, with what it takes from `init` and `decoder`; here it is trained alone."""
        inputs: dict[str, str] = {}
        with torch.random.fork_rng(()):  # a policy of this seed begins with the same weights whatever is read for it
            decoder, tokenizer = self._decoder(found[0]), self._tokenizer(found[0].dataset)
        config, before = policy_data.policy_config(self, found, decoder and decoder.config, tokenizer), None
        if self.data.init is not None:
            before, data = self.load_earlier(self.data.init), self.data
            for source in found:
                note_start(before, source.dataset, data.action_key, data.state_key if data.proprio else None)
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
        return Learner(policy, policy, policy.config.loss_weights, inputs=inputs)

    def _decoder(self, source: PolicySource) -> InverseDynamics | None:
        """Open the model whose latents are the labels of a dataset, if the policy is to predict them."""
        if self.data.decoder is None:
            return None
        decoder, spec = InverseDynamics.from_pretrained(self.data.decoder), source.spec
        made = {} if spec is None else provenance_of(source.dataset).get(spec.prefix, {}).get("model", {})
        if made.get("weights_sha256") != decoder.describe()["weights_sha256"]:
            expected = f"the model that made the labels of {source.dataset.name}"
            checks.fail("decoder", expected, "labels of another model" if made else "no labels", "Annotate with it.")
        return decoder

    def _tokenizer(self, dataset: RobotDataset) -> ActionTokenizer | None:
        """Open the tokenizer whose codes the head is to predict, if it is to."""
        name = self.data.tokenizer
        if self.model.head.name != "tokens":
            return None
        if name is None:
            checks.fail("tokenizer", "an action tokenizer, whose codes head=tokens predicts", "none")
        found = for_dataset(load(name), dataset.name)
        if not isinstance(found, ActionTokenizer):
            checks.fail("tokenizer", "an action tokenizer", type(found).__name__)
        hint = "Leave out horizon: it is the tokenizer's."
        checks.size("tokenizer", "steps of a chunk (horizon)", found.horizon, self.model.horizon, hint)
        check_actions(found, dataset, self.data.action_key)
        note_rate(found, dataset, self.data.any_rate, self.data.action_key)
        note_reach(found, dataset, self.data.action_key)
        return found

    def artefacts(self, learner: Learner, history: dict[str, Any]) -> dict[str, HubModel]:
        """Return the models that the run saves, by folder, each with the record of its training."""
        learner.policy.trained_on = history
        return {"": learner.policy}

    def judge(self, policy: LatentVLA, found: Sequence[PolicySource], parts: Sequence[PolicyWindows]) -> None:
        """Write held_out.json, if episodes are held out: errors of the actions, and how well latents are predicted; of
        a mixture those of each dataset, under its name in `mixture`."""
        reports: dict[str, Any] = {}
        figures, verdicts, texts = {}, [], []
        for source, part in zip(found, parts, strict=True):
            name = source.dataset.name
            if not (others := held_out_episodes(source.dataset, self.data.episodes, self.data.compared_key)):
                continue
            errors, report = _errors(self, for_dataset(policy, name), source, part, others)
            reports[name] = report
            where, which = (f"{name}: ", f"{name}/") if policy.datasets else ("", "")
            known = {key: report[key] for key in ("error", "mean_action", "windows")} | report.get("latent", {})
            figures |= {which + key: value for key, value in known.items()}
            verdicts.append(errors.verdict | {"text": where + errors.verdict["text"]})
            texts.append(where + errors.text)
        if not reports:
            print("Not judged: no held-out episode has measured actions.")
            return
        written = {"mixture": reports} if policy.datasets else next(iter(reports.values()))
        files.write_json(Path(self.out) / HELD_OUT, written)
        if policy.evaluation is None:  # a report may have judged it already
            named = {"headline": " ".join(texts), "dataset": ", ".join(reports)}
            policy.evaluation = {**named, "verdicts": verdicts, "figures": figures}
            policy.save_card(Path(self.out))
        print(checks.printable("\n".join(texts)))

    def next_step(self) -> str:
        chosen = '.for_dataset("NAME")' if len(self.data.mix) > 1 else ""
        return f'Use it: policy = lattok.load("{self.out}"){chosen}; policy.select_action(observation)'


def horizon_of(tokenizer: Any) -> dict[str, int]:
    """Return the horizon of a tokenizer, a folder or a Hub id, as an option; none where it is none, which is said
    later."""
    horizon = None
    with suppress(checks.LattokError):
        if isinstance(tokenizer, str):
            horizon = read_config(resolve(tokenizer, argument="tokenizer").folder, "tokenizer").get("horizon")
    return {"horizon": horizon} if checks.is_int(horizon) else {}


def _normalised(
    policy: LatentVLA, parts: Sequence[PolicyWindows], weights: Sequence[float]
) -> PolicyWindows | MixedPolicyWindows:
    """Fit the normalisers; batches of a mixture come normalised, and the policy's own do nothing while it trains."""
    config, alone = policy.config, {"action": policy.action_normalizer, "proprio": policy.proprio_normalizer}
    each: Any = policy.normalizers if policy.datasets else [alone]
    for part, maps in zip(parts, each, strict=True):
        maps["action"].fit(part.known_actions, config.action_kinds)
        if config.decoder is not None:
            policy.latent_normalizer.fit(part.known_latents, "mean_std")
        _check_grippers(config, maps["action"](part.known_actions))
        if part.states is not None:
            maps["proprio"].fit(part.states, config.normalize)
    if not policy.datasets:
        return parts[0]
    policy.use_normalizers(policy.normalizers.fresh())
    return MixedPolicyWindows(parts, weights, each)


def _check_grippers(config: VLAConfig, actions: Tensor) -> None:
    """Require of grippers that learn by cross-entropy that they reach -1 and 1, or never move."""
    for dim in config.gripper:
        low, high = (float(value) for value in actions[:, dim].aminmax())
        if low < high and not (low <= -GRIPPER_REACH and high >= GRIPPER_REACH):
            hint = "Set normalize_exceptions='*gripper*=min_max'."
            got = f"`{config.action_names[dim]}` from {low:.2g} to {high:.2g}, normalised by {config.action_kinds[dim]}"
            checks.fail("action_loss", f"grippers from -1 to 1 with {config.action_loss}", got, hint)


def _errors(
    recipe: VLARecipe, policy: LatentVLA, source: PolicySource, windows: PolicyWindows, others: list[int]
) -> tuple[PolicyErrors, dict[str, Any]]:
    """Return the errors, and what held_out.json says of a dataset."""
    held_out = read_windows(recipe, source, episodes=others)
    sums: dict[str, float] = {}
    labelled = 0

    def predict(batch: PolicyBatch) -> Tensor:
        nonlocal labelled
        chunk, terms = policy.imitate(batch)
        here = 0 if batch.latent is None else int(batch.latent.valid.any(1).sum())
        labelled += here
        for name, value in terms.items():  # each a mean over the samples with labels
            sums[name] = sums.get(name, 0.0) + float(value) * here
        return chunk

    moved(policy, recipe.loop.device)
    with ProgressBar("judge") as progress:
        errors = policy_errors(predict, windows, held_out, recipe.data.compared_key, progress)
    policy.cpu()
    latent = {name: value / labelled for name, value in sorted(sums.items()) if name != "action" and labelled}
    return errors, errors.to_json() | {"episodes": index_runs(others)} | ({"latent": latent} if latent else {})
