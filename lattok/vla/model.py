"""A vision-language-action policy with latent-action supervision ("From Pixels to Tokens", sections 3.3 and 4).

    hidden  = backbone(images, prompt, placeholders)      one forward pass, for every strategy
    â       = head(hidden at images and placeholders, s)   Eq. 3, 8, 9
    loss    = L_action + λ L_latent                        Eq. 4

Variants of the paper differ in strategy alone: which placeholders there are, and what is asked of their hidden states.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lattok.backbones import Backbone, BackboneConfig
from lattok.backbones.model import BackboneModel, from_root, with_backbone
from lattok.data.schema import short_name
from lattok.hub.client import FilePath
from lattok.image_lam.inverse import InverseDynamics
from lattok.nn.blocks import onto
from lattok.nn.losses import coded, of_share
from lattok.nn.normalize import DatasetNormalizers, Normalizer, OfDatasets
from lattok.types import ActionTokenizer, LatentTarget, LossTerms, PolicyBatch
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.options import check_knows_data, flat, options_of
from lattok.vla import card_texts
from lattok.vla.config import VLAConfig
from lattok.vla.head import ActionHead, FlowActionHead, States, layer_states
from lattok.vla.observations import (
    ActionQueues,
    as_batch,
    check_observation,
    note_unknown,
    policy_batch,
    prompts,
)
from lattok.vla.strategies import StrategyLosses
from lattok.vla.tokens import TOKENIZER, ActionCodec, TokenHead, open_tokenizer

HEADS: Mapping[str, type[ActionHead]] = {"regression": ActionHead, "flow": FlowActionHead, "tokens": TokenHead}
PAPERS = {"latbot": "2511.23034"}  # of strategies that are not of the P2T paper
NEW = "Train it further on that one: lattok train vla DATASET --init MODEL --out DIR."
BACKBONE_INPUTS = ("cameras", "image_size", "interpolation", "prompt")  # what a backbone sees


class ForwardOutput(NamedTuple):
    """States of one pass through the backbone."""

    states: States  # by layer, for the head
    proprio: Tensor | None  # [B, s] normalised; NaN of a robot that has none
    supervised: dict[str, Tensor]  # [B, n, D] that each latent loss acts on
    last: Tensor | None = None  # [B, D] of the last placeholder, at the layer that was asked for


class LatentVLA(OfDatasets, BackboneModel):
    """A policy: backbone, placeholders, action head, normalisers, latent losses of its strategy, planned actions.

    >>> policy = lattok.load("my-policy")
    >>> policy.predict_chunk(observation)            # [B, H, m] in the dataset's own units
    >>> policy.select_action(observation, [0, 1])     # [B, m], a queue for each environment
    """

    type = "latent-vla"
    config_class = VLAConfig
    narrow = True
    config: VLAConfig

    def __init__(self, config: VLAConfig, backbone: Backbone, tokenizer: ActionTokenizer | None = None):
        super().__init__()
        check_knows_data(config)
        self.config = config
        self.arxiv = PAPERS.get(config.strategy.name, "2605.04678")
        if config.cameras and not backbone.reads_images:
            raise LattokError(f"`cameras` were given ({', '.join(config.cameras)}), but the backbone reads only text.")
        base = config.backbone
        backbone.adapt(base.train, base.lora, base.gradient_checkpointing)
        self.backbone, width = backbone, backbone.hidden_size
        self.layers = config.layers(backbone.num_layers)
        # before all that strategies differ in: it starts the same
        self.head: ActionHead = HEADS[config.head.name](width, self.layers, config)
        self.codec = None if tokenizer is None else ActionCodec(tokenizer, config)
        self.segments = config.segments
        count = sum(segment.count for segment in self.segments.values())
        self.placeholders = nn.Parameter(backbone.embedding_rms * torch.randn(count, width))
        self.supervision = StrategyLosses(config.strategy, width, config.latent, backbone.num_layers)
        self.normalizers = DatasetNormalizers(config.normalizers, partial(new_normalizers, config), "policy", NEW)
        self.use_normalizers(self.normalizers.in_use())
        self.decoder: InverseDynamics | None = None
        if config.decoder is not None:
            self.decoder = InverseDynamics(config.decoder).requires_grad_(False).eval()
            self.latent_normalizer = Normalizer(config.outputs)
        self.queues = ActionQueues(config.horizon, config.n_action_steps)

    @classmethod
    def opened(
        cls, config: VLAConfig, folder: Path, backbone: FilePath | None = None
    ) -> tuple[VLAConfig, dict[str, Any]]:
        """Open the base model, and the tokenizer whose codes the head predicts."""
        config, parts = super().opened(config, folder, backbone)
        return config, parts if config.tokens is None else parts | {"tokenizer": open_tokenizer(folder, config.tokens)}

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.decoder is not None:
            self.decoder.eval()
        return self

    @classmethod
    def how_made(cls) -> str:
        return f'Train one: lattok.train("vla", DATASET, out=FOLDER). {super().how_made()}'

    def extra_repr(self) -> str:
        return f"{card_texts.summary(self.config)}\n{super().extra_repr()}"

    @property
    def saved_config(self) -> VLAConfig:
        """The configuration as the policy acts now: how it plans and draws may have been changed since it was made."""
        config, steps = self.config, self.queues.n_action_steps
        if steps != (config.n_action_steps or config.horizon):
            config = replace(config, n_action_steps=steps if steps < config.horizon else None)
        return replace(config, head=self.head.config.head)

    @property
    def judged_by(self) -> str:
        return super().judged_by if self.config.strategy.acts else "it has not learned to act"

    def usage(self) -> list[str]:
        return card_texts.usage(self.config)

    def use_normalizers(self, maps: Any) -> None:
        self.action_normalizer: Normalizer = maps["action"]
        self.proprio_normalizer: Normalizer | None = maps["proprio"] if self.config.proprio_dim else None

    def choose(self, name: str) -> None:
        maps, several = self.normalizers.of(name), self.config
        self.config, actions, states = several.of_dataset(self.datasets.index(name))
        if several.action_widths:
            self.head = self.head.of_columns(self.config, actions, states)
            own: Any = new_normalizers(self.config)
            for part, columns in {"action": actions, "proprio": states}.items():
                if part in own:
                    own[part].copy_columns(maps[part], columns)
            maps = own
        if self.codec is not None:
            self.codec = self.codec.for_dataset(name)
            self.config = self.codec.config
        self.normalizers = self.normalizers.only()
        self.use_normalizers(maps)
        self.queues = ActionQueues(self.config.horizon, self.queues.n_action_steps)
        self.trained_on = self.trained_on and with_spaces_of(name, self.trained_on)

    def check_acts(self) -> None:
        """Raise `LattokError` unless it can act: it was trained to, and one of several datasets is chosen."""
        plan = self.config.strategy
        if not plan.acts:
            hint = f"Train it further first: {plan.next_step}." if plan.next_step else ""
            got = f"one of {plan.title or plan.name}, which follows its labels so far"
            checks.fail("policy", "one that has learned to act", got, hint)
        self.action_normalizer.check_chosen()

    def forward(self, batch: PolicyBatch | Mapping[str, Any]) -> LossTerms:
        """Return the loss terms "action" and those of the strategy (all unweighted), and figures for the log. `batch`
        is a `PolicyBatch`, has its fields, or LeRobot's keys. Steps that are not valid change nothing."""
        return self.learn(batch)[0]

    def learn(
        self, batch: PolicyBatch | Mapping[str, Any], layer: int | None = None, block: int | None = None
    ) -> tuple[LossTerms, Any]:
        """Return what `forward` does, and a state with its gradient, where one is asked for. That is hidden state
        `layer` of the backbone's last placeholder, [B, D], or the output of block `block` (from 1) of a flow head at
        the last noised action of each valid sample, [B, d]."""
        batch = self._batch(batch, learning=True)
        out = self._run_backbone(batch, learning=True, layer=layer)
        if self.decoder is None:
            target, judged, valid = self.action_normalizer(batch.actions), batch.judged, batch.valid
            share = batch.shares.acted
            if batch.tokens is not None:  # of which steps that are `coded` are judged
                target, judged, valid = batch.tokens, valid, coded(valid)[:, None]
        else:
            latent = cast(LatentTarget, batch.latent)
            target = self.latent_normalizer(cast(Tensor, latent.embedding).flatten(2))
            judged, valid, share = latent.valid, latent.valid, batch.shares.labelled
        terms, after = self.head.learn(out.states, out.proprio, target, judged, batch)
        terms = {**of_share(terms, valid, share), **self._latent_terms(batch, out)}
        return terms, out.last if block is None else last_step(after[block - 1], batch.valid)

    def _latent_terms(self, batch: PolicyBatch, out: ForwardOutput) -> LossTerms:
        if batch.latent is None:
            return {}
        terms = self.supervision(out.supervised, batch.latent, self.config.loss_reduction)
        return of_share(terms, batch.latent.valid, batch.shares.labelled)

    def _batch(self, batch: PolicyBatch | Mapping[str, Any], learning: bool, acting: bool = False) -> PolicyBatch:
        self.action_normalizer.check_chosen()
        batch = policy_batch(self.config, batch, learning)
        if learning and not acting:
            batch = self.with_tokens(batch)
        return onto(batch, self.placeholders.device)

    def prepared(self, batch: PolicyBatch) -> PolicyBatch:
        """Return a batch with everything that needs no trained weights: inputs of the backbone, and tokens."""
        told = batch.subtasks and self.backbone.tokens_of(batch.subtasks)
        batch = batch._replace(inputs=self.inputs(batch), subtask_tokens=told)
        return self.with_tokens(batch)

    def with_tokens(self, batch: PolicyBatch) -> PolicyBatch:
        """Return a batch with the codes that a head of tokens learns, computed on the CPU."""
        if self.config.tokens is None or batch.tokens is not None:
            return batch
        return batch._replace(tokens=codec_of(self).encode(batch))

    def inputs(self, batch: PolicyBatch) -> Mapping[str, Any]:
        """Return the backbone's inputs for a batch's images and prompts."""
        if batch.inputs is not None:
            return batch.inputs
        return self.backbone.prepare(in_places(self.config, batch.images), prompts(self.config, batch.texts))

    def _run_backbone(self, batch: PolicyBatch, learning: bool, layer: int | None = None) -> ForwardOutput:
        """Run the backbone, once; of hidden state `layer` keep that of the last placeholder."""
        dtype = self.placeholders.dtype
        queries = self.placeholders.expand(len(batch.images), -1, -1)
        compared = self.supervision.layer_of.values() if learning else ()
        wanted = {*self.layers, *compared, *(() if layer is None else (layer,))}
        out = self.backbone(self.inputs(batch), queries, sorted(wanted))
        supervised = self.supervision.states(out, self.segments, dtype) if learning else {}
        last = None if layer is None else out.hidden[layer][:, out.queries][:, -1].to(dtype)
        states = layer_states(out, self.layers, self.segments, self.config.pool, dtype)
        given, normalizer = batch.proprio, self.proprio_normalizer
        proprio = None if normalizer is None or given is None else normalizer(given).to(dtype)
        if proprio is not None and batch.source is not None and 0 in (widths := self.config.proprio_widths):
            lacking = onto(torch.tensor(widths) == 0, proprio.device)[batch.source]
            proprio = proprio.masked_fill(lacking[:, None], torch.nan)
        return ForwardOutput(states, proprio, supervised, last)

    @torch.no_grad()
    def predict_chunk(self, observation: PolicyBatch | Mapping[str, Any], seed: int = 0) -> Tensor:
        """Return the next H actions of every sample, float32 [B, H, m] in the dataset's own units.

        `observation` has LeRobot's keys: each camera as float [B, 3, H, W] in [0, 1] or uint8 [B, H, W, 3],
        `observation.state` [B, s] where the policy has proprio, and `task`, a list of B instructions; tensors or NumPy
        arrays. Of a single observation, without B and with one text, the result is [H, m]. A flow head starts from
        noise that depends on `seed` and on each sample. Raises `LattokError` for anything else.
        """
        self.check_acts()
        checks.whole(seed=seed)  # of other kinds equal ones would give other chunks
        observation, single = as_batch(self.config, observation)
        batch = self._batch(observation, learning=False)
        with self.inference():
            chunks = self._sample(batch, self._run_backbone(batch, learning=False), seed)
        if not bool(chunks.isfinite().all()):  # a robot would be sent them
            checks.fail("policy", "one whose weights give finite actions", "one that gave NaN or infinity")
        return chunks[0] if single else chunks

    @torch.no_grad()
    def imitate(self, batch: PolicyBatch | Mapping[str, Any]) -> tuple[Tensor, LossTerms]:
        """Return chunks as `predict_chunk` does, and the latent terms of `forward`, in one pass without gradient."""
        batch = self._batch(batch, learning=True, acting=True)
        with self.inference():
            out = self._run_backbone(batch, learning=True)
            return self._sample(batch, out), self._latent_terms(batch, out)

    def _sample(self, batch: PolicyBatch, out: ForwardOutput, seed: int = 0) -> Tensor:
        chunk = self.head.sample(out.states, out.proprio, batch, seed)
        if isinstance(self.head, TokenHead):
            return self.head.average_of_draws(codec_of(self).decode(chunk))
        if self.decoder is not None:
            return self.decoder.decode_chunks(self.latent_normalizer.inverse(chunk), batch.texts)
        chunk = self.action_normalizer.inverse(chunk)
        return chunk if batch.known is None else chunk.masked_fill(~batch.known[:, None], 0.0)

    def select_action(self, observation: Mapping[str, Any], env_ids: Sequence[int] | None = None) -> Tensor:
        """Return the next action of every environment, float32 [B, m]; those without any get a new plan.

        `env_ids` names the samples' environments (default 0 .. B-1), which may come and go. One observation gives [m].
        Every observation is checked, also while planned actions are carried out; another instruction starts a new plan.
        """
        self.check_acts()
        observation, single = as_batch(self.config, observation)
        note_unknown(self.config, observation)
        actions = self.queues.select(observation, env_ids, self.predict_chunk, partial(check_observation, self.config))
        return actions[0] if single else actions

    def reset(self, env_ids: Sequence[int] | None = None) -> None:
        """Forget the planned actions of these environments, or of all."""
        self.queues.reset(env_ids)

    def _save(self, folder: Path, name: str | None) -> None:
        if self.config.tokens is not None:
            codec_of(self).save(folder / TOKENIZER)
        super()._save(folder, name)

    def saved_tensors(self) -> dict[str, Tensor]:
        """Leave out the decoder's features, and normalisers in use where each dataset has its own."""
        used = ("action_normalizer.", "proprio_normalizer.") if self.config.normalizers else ()
        apart = ("decoder.features.", *used)
        return {name: value for name, value in super().saved_tensors().items() if not name.startswith(apart)}


def in_places(config: VLAConfig, images: Tensor) -> Tensor:
    """Put a policy's pictures [B, V, h, w, 3] where the backbone sees them, among black ones."""
    if not config.views:
        return images
    found = images.new_zeros(len(images), config.views, *images.shape[2:])
    found[:, list(config.places)] = images
    return found


def new_normalizers(config: VLAConfig) -> nn.ModuleDict:
    """Make normalisers of "action" and, if used, "proprio", which change nothing until they are fitted."""
    clipped = {"action": config.action_clipped, "proprio": config.proprio_clipped}
    return nn.ModuleDict({part: Normalizer(len(dims), dims) for part, dims in clipped.items() if dims})


def with_spaces_of(name: str, trained_on: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a mixture with the spaces of one dataset's robot as those of the policy."""
    own = next((entry for entry in trained_on.get("mixture", ()) if entry.get("dataset") == name), {})
    return {**trained_on, "robot_spaces": own["robot_spaces"]} if "robot_spaces" in own else trained_on


def codec_of(policy: LatentVLA) -> ActionCodec:
    """Return the codec of a policy that acts by tokens. Raises `LattokError` where it has none."""
    if policy.codec is None:
        head = policy.config.head.name
        checks.fail("policy", "one with a head of tokens, and their tokenizer", f"head={head}")
    return policy.codec


@torch.no_grad()
def begin_with(policy: LatentVLA, before: LatentVLA) -> None:
    """Copy the weights of another policy whose name and shape `policy` has, too, except normalisers."""
    theirs = before.saved_tensors()
    for name, tensor in policy.saved_tensors().items():
        if name in theirs and theirs[name].shape == tensor.shape and "normalizer" not in name:
            tensor.copy_(theirs[name])


def shared_options(config: VLAConfig) -> dict[str, Any]:
    """Return what a policy keeps when it is trained further: its backbone, and what that sees, by flat names. Cameras
    of films have names of their own."""
    shared = {option.name for option in options_of(VLAConfig) if option.path[0] in ("backbone", *BACKBONE_INPUTS)}
    shared -= {*BackboneConfig.free, *(["cameras"] if config.of_films else [])}
    return {name: value for name, value in flat(config).items() if name in shared}


def share_backbone(config: VLAConfig, before: VLAConfig) -> VLAConfig:
    """Return the configuration of a policy that trains another one further, whose backbone it must share."""
    base = config.backbone
    config = with_backbone(config, name=from_root(base.name), revision=base.revision or before.backbone.revision)
    own = flat(config)
    if before.of_films and len(config.cameras) != len(before.cameras):
        ours, theirs = (" ".join(map(short_name, keys)) for keys in (config.cameras, before.cameras))
        first = " ".join(ours.split()[: len(before.cameras)])
        hint = f"Choose cameras={first}, or pretrain on the films with cameras={ours}."
        checks.fail("cameras", f"as many as the policy saw of films ({theirs})", ours, hint)
    if before.views and config.cameras == before.cameras:
        config = replace(config, views=before.views, places=before.places)
    for name, theirs in shared_options(before).items():
        if own[name] != theirs:
            checks.fail(name, f"{theirs!r}, as the policy has that is trained further", repr(own[name]))
    return config


def last_step(states: Tensor, valid: Tensor) -> Tensor:
    """Take of states [B, H, d] that of the last step that is `valid` [B, H]; of a sample without any, the last."""
    steps = torch.arange(valid.shape[1], device=valid.device)
    last = torch.where(valid, steps, -1).amax(1, keepdim=True) % len(steps)
    return (states * (steps == last)[..., None]).sum(1)  # a product is deterministic on every device
