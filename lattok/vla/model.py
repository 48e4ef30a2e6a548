"""A vision-language-action policy with latent-action supervision ("From Pixels to Tokens", sections 3.3 and 4).

    hidden  = backbone(images, prompt, placeholders)      one forward pass, for every strategy
    â       = head(hidden at images and placeholders, s)   Eq. 3, 8, 9
    loss    = L_action + λ L_latent                        Eq. 4

Variants of the paper differ in strategy alone: which placeholders there are, and what is asked of their hidden states.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from lattok.backbones import BackboneConfig
from lattok.backbones.model import BackboneModel, from_root, with_backbone
from lattok.hub import HubModel
from lattok.hub.records import quoted
from lattok.image_lam.inverse import InverseDynamics
from lattok.nn.blocks import onto
from lattok.nn.losses import coded, of_share
from lattok.nn.normalize import Normalizer, OpenChoice
from lattok.types import ActionBatch, ActionTokenizer, LatentTarget, LossTerms, PolicyBatch
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.options import check_knows_data, flat, options_of
from lattok.vla.config import VLAConfig
from lattok.vla.head import ActionHead, FlowActionHead, LayerStates, States, TokenPositions, pool_codes
from lattok.vla.observations import ActionQueues, as_batch, check_observation, policy_batch, prompts
from lattok.vla.strategies import build_supervision, hidden_index
from lattok.vla.tokens import TOKENIZER, TokenHead, check_tokenizer, open_tokenizer

HEADS: Mapping[str, type[ActionHead]] = {"regression": ActionHead, "flow": FlowActionHead, "tokens": TokenHead}
PAPERS = {"latbot": "2511.23034"}  # of strategies that are not of the P2T paper
BACKBONE_INPUTS = ("cameras", "image_size", "interpolation", "prompt")  # what a backbone sees


class ForwardOutput(NamedTuple):
    """States of one pass through the backbone."""

    states: States  # by layer, for the head
    proprio: Tensor | None  # [B, s] normalised
    supervised: dict[str, Tensor]  # [B, n, D] that each latent loss acts on
    last: Tensor | None = None  # [B, D] of the last placeholder, at the layer that was asked for


class LatentVLA(BackboneModel):
    """A policy: backbone, placeholders, action head, normalisers, and the latent losses of its strategy.

    >>> policy = lattok.load("my-policy")
    >>> policy.predict_chunk(observation)            # [B, H, m] in the dataset's own units
    >>> policy.select_action(observation, [0, 1])     # [B, m], a queue for each environment
    """

    type = "latent-vla"
    evidence = "policy"
    config_class = VLAConfig
    narrow = True
    config: VLAConfig

    def __init__(self, config: VLAConfig, backbone: Any, tokenizer: ActionTokenizer | None = None):
        super().__init__()
        check_knows_data(config)
        self.config = config
        self.arxiv = PAPERS.get(config.strategy.name, "2605.04678")
        if config.cameras and not getattr(backbone, "reads_images", True):
            raise LattokError(f"`cameras` were given ({', '.join(config.cameras)}), but the backbone reads only text.")
        base = config.backbone
        backbone.adapt(base.train, base.lora, base.gradient_checkpointing)
        self.backbone = backbone
        width = backbone.hidden_size
        self.layers = config.layers(backbone.num_layers)
        self.losses = {loss.name: hidden_index(loss.layer, backbone.num_layers) for loss in config.strategy.losses}
        # before all that strategies differ in: it starts the same
        self.head: ActionHead = HEADS[config.head.name](width, self.layers, config)
        check_tokenizer(tokenizer, config)
        self._tokenizer = (tokenizer,)  # in a tuple it is no submodule: it stays where it is, and as it is
        self.segments = config.segments
        count = sum(segment.count for segment in self.segments.values())
        self.placeholders = nn.Parameter(backbone.embedding_rms * torch.randn(count, width))
        self.supervision = nn.ModuleDict(build_supervision(config.strategy, width, config.latent))
        self.normalizers = nn.ModuleList(nn.ModuleDict(self.new_normalizers()) for _ in config.normalizers)
        self.action_normalizer: Normalizer
        self.proprio_normalizer: Normalizer | None
        self.use_normalizers(self.unchosen() if config.normalizers else self.new_normalizers())
        self.decoder: InverseDynamics | None = None
        if config.decoder is not None:
            self.decoder = InverseDynamics(config.decoder).requires_grad_(False).eval()
            self.latent_normalizer = Normalizer(config.outputs)
        self.queues = ActionQueues(config.horizon, config.n_action_steps)

    @classmethod
    def opened(cls, config: VLAConfig, folder: Path, backbone: Any = None) -> tuple[VLAConfig, dict[str, Any]]:
        """Open the base model, and the tokenizer whose codes the head predicts."""
        config, parts = super().opened(config, folder, backbone)
        return config, parts if config.tokens is None else parts | {"tokenizer": open_tokenizer(folder, config.tokens)}

    @property
    def tokenizer(self) -> ActionTokenizer:
        """The tokenizer whose codes the head predicts. Raises `LattokError` where it predicts none."""
        found = self._tokenizer[0]
        if found is None or self.config.tokens is None:
            checks.fail("policy", "one with a head of tokens, and their tokenizer", f"head={self.config.head.name}")
        return found

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.decoder is not None:
            self.decoder.eval()
        return self

    def extra_repr(self) -> str:
        c = self.config
        what = ", ".join(c.action_names or map(str, range(c.action_dim)))
        sees = ", ".join((*c.cameras, *[c.state_key] * (c.proprio_dim > 0)))
        actions = checks.counted(c.horizon, "action")
        return f"{c.strategy.name}: {actions} of {what}, from {sees}\n{super().extra_repr()}"

    @property
    def acting_config(self) -> VLAConfig:
        """The configuration as the policy acts now: how it plans and draws may have been changed since it was made."""
        config, steps = self.config, self.queues.n_action_steps
        if steps != (config.n_action_steps or config.horizon):
            config = replace(config, n_action_steps=steps if steps < config.horizon else None)
        return replace(config, head=self.head.config.head)

    @property
    def judged_by(self) -> str:
        return super().judged_by if self.config.strategy.acts else "it has not learned to act"

    def usage(self) -> list[str]:
        config, next_step = self.config, self.config.strategy.next_step
        if not config.strategy.acts:
            said = "# It predicts latent actions and has not learned to act yet."
            return ["", f"{said} Train it further:", f"# {next_step}"] if next_step else ["", said]
        sizes = zip(config.cameras, config.camera_sizes, strict=True)
        shown = [f"    {quoted(key)}: torch.zeros(1, 3, {h}, {w}),  # yours: RGB from 0 to 1" for key, (h, w) in sizes]
        if config.proprio_dim:
            shown.append(f"    {quoted(config.state_key)}: torch.zeros(1, {config.proprio_dim}),")
        observation = ["observation = {", *shown, '    "task": ["what the robot shall do"],', "}"]
        act = "actions = model.predict_chunk(observation)  # [B, H, m], in the units of its dataset"
        return ["", "import torch", "", *observation, act]

    def new_normalizers(self) -> dict[str, Any]:
        """Make normalisers of "action" and, if used, "proprio", which change nothing until they are fitted."""
        clipped = {"action": self.config.action_clipped, "proprio": self.config.proprio_clipped}
        return {part: Normalizer(len(dims), dims) for part, dims in clipped.items() if dims}

    def unchosen(self) -> dict[str, Any]:
        """Return what takes their place until `for_dataset` names one of several datasets."""
        return {part: OpenChoice(self.config.normalizers, "policy") for part in self.new_normalizers()}

    def use_normalizers(self, maps: Mapping[str, Any]) -> None:
        """Normalise actions and, if used, proprio by these from now on."""
        self.action_normalizer = maps["action"]
        self.proprio_normalizer = maps["proprio"] if self.config.proprio_dim else None

    @property
    def datasets(self) -> tuple[str, ...]:
        return self.config.normalizers

    def for_dataset(self, name: str) -> Self:
        """Return the policy of one of `datasets`, as if there were no others; all weights are shared. It can be saved,
        and is then loaded without a choice."""
        names = self.config.normalizers
        if name not in names:
            known = ", ".join(names) or "it has normalisers of one, and needs no choice"
            checks.fail("dataset", f"one that this policy was trained on ({known})", repr(name))
        chosen = copy.deepcopy(self, {id(part): part for part in (*self.children(), *self.parameters())})
        row = names.index(name)
        chosen.config = replace(self.config, normalizers=(), absent=self.config.absent[row : row + 1])
        chosen.normalizers = nn.ModuleList()
        chosen.use_normalizers(cast(Any, self.normalizers[row]))
        trained = self.trained_on or {}
        own = next((entry for entry in trained.get("mixture", ()) if entry.get("dataset") == name), {})
        if "robot_spaces" in own:
            chosen.trained_on = {**trained, "robot_spaces": own["robot_spaces"]}
        chosen.queues = ActionQueues(self.config.horizon, self.queues.n_action_steps)
        return chosen

    def check_chosen(self) -> None:
        """Raise `LattokError` where `for_dataset` has to name one of several datasets first."""
        _ = self.action_normalizer.shift

    def check_acts(self) -> None:
        """Raise `LattokError` unless it can act: it was trained to, and one of several datasets is chosen."""
        plan = self.config.strategy
        if not plan.acts:
            hint = f"Train it further first: {plan.next_step}." if plan.next_step else ""
            got = f"one of {plan.title or plan.name}, which follows its labels so far"
            checks.fail("policy", "one that has learned to act", got, hint)
        self.check_chosen()

    def forward(self, batch: PolicyBatch | Mapping[str, Any]) -> LossTerms:
        """Return the loss terms "action" and those of the strategy (all unweighted), and figures for the log. `batch`
        is a `PolicyBatch`, has its fields, or LeRobot's keys. Steps that are not valid change nothing."""
        return self.learn(batch)[0]

    def learn(self, batch: Any, layer: int | None = None, block: int | None = None) -> tuple[LossTerms, Any]:
        """Return what `forward` does, and a state with its gradient, where one is asked for. That is hidden state
        `layer` of the backbone's last placeholder, [B, D], or what block `block` (from 1) of a flow head makes of the
        last noised action of each sample that is valid, [B, d]."""
        checked = _checked(batch)
        batch = self._batch(batch, learning=True)
        out = self._run_backbone(batch, learning=True, layer=layer)
        if self.decoder is None:
            target, judged, valid, share = self.action_normalizer(batch.actions), batch.judged, batch.valid, batch.acted
            target = target if batch.tokens is None else batch.tokens
            valid = valid if batch.tokens is None else coded(valid)[:, None]  # which alone are judged
        else:
            latent = cast(LatentTarget, batch.latent)
            target = self.latent_normalizer(cast(Tensor, latent.embedding).flatten(2))
            judged, valid, share = latent.valid, latent.valid, batch.labelled
        terms, after = self.head.learn(out.states, out.proprio, target, judged, batch)
        terms = of_share(terms, valid, share) | self._latent_terms(batch, out, checked)
        return terms, out.last if block is None else last_step(after[block - 1], batch.valid)

    def _latent_terms(self, batch: PolicyBatch, out: ForwardOutput, checked: bool) -> LossTerms:
        if batch.latent is None:
            return {}
        terms: LossTerms = {}
        for name, states in out.supervised.items():
            own = self.supervision[name](states, batch.latent, self.config.loss_reduction, checked)
            terms |= {name + term.removeprefix("latent"): value for term, value in own.items()}
        return of_share(terms, batch.latent.valid, batch.labelled)

    def _batch(self, batch: PolicyBatch | Mapping[str, Any], learning: bool, acting: bool = False) -> PolicyBatch:
        self.check_chosen()
        batch = policy_batch(self.config, batch, learning)
        if batch.known is None and len(self.config.absent) == 1:
            known = torch.ones(len(batch.actions), self.config.action_dim, dtype=torch.bool)
            known[:, list(self.config.absent[0])] = False
            batch = batch._replace(known=known)
        if learning and not acting:
            batch = self.with_tokens(batch)
        return onto(batch, self.placeholders.device)

    def prepared(self, batch: PolicyBatch) -> PolicyBatch:
        """Return a batch with everything that needs no trained weights: inputs of the backbone, and tokens."""
        told = batch.subtasks and self.backbone.tokens_of(batch.subtasks)
        batch = batch._replace(inputs=self._inputs(batch), subtask_tokens=told)
        return self.with_tokens(batch)

    def with_tokens(self, batch: PolicyBatch) -> PolicyBatch:
        """Return a batch with the codes that the head learns, computed on the CPU."""
        if self.config.tokens is None or batch.tokens is not None:
            return batch
        actions, valid = batch.actions.cpu(), batch.valid.cpu()
        if not actions[valid].isfinite().all():
            checks.fail(self.config.action_key, "finite actions", "NaN or infinity")  # they would become codes
        rows, tokens = coded(valid), torch.zeros(len(valid), self.config.predicted, dtype=torch.long)
        if rows.any():
            tokens[rows] = self.tokenizer.encode_batch(ActionBatch(actions[rows], valid[rows])).cpu()
        if self.config.head.order == "autoregressive":  # with the end of the longest row
            tokens = tokens[:, : int((tokens[rows] >= 0).sum(1).amax()) + 1 if rows.any() else 1]
        return batch._replace(tokens=tokens)

    def _inputs(self, batch: PolicyBatch) -> Mapping[str, Any]:
        if batch.inputs is not None:
            return batch.inputs
        return self.backbone.prepare(batch.images, prompts(self.config, batch.texts))

    def text_errors(self, batch: PolicyBatch) -> tuple[Tensor, Tensor]:
        """Return -log p of the tokens of a batch's sub-tasks after its prompts [B, T], and which of them count."""
        rows = batch.subtask_tokens or self.backbone.tokens_of(batch.subtasks or [""] * len(batch.texts))
        return self.backbone.text_errors(self._inputs(batch), rows)

    def _run_backbone(self, batch: PolicyBatch, learning: bool, layer: int | None = None) -> ForwardOutput:
        """Run the backbone, once; of hidden state `layer` keep that of the last placeholder."""
        dtype = self.placeholders.dtype
        queries = self.placeholders.expand(len(batch.images), -1, -1)
        losses = self.config.strategy.losses if learning else ()
        wanted = {*self.layers, *(self.losses[loss.name] for loss in losses), *(() if layer is None else (layer,))}
        out = self.backbone(self._inputs(batch), queries, sorted(wanted))
        supervised = {
            loss.name: self.segments[loss.span].of(out.hidden[self.losses[loss.name]][:, out.queries]).to(dtype)
            for loss in losses
        }
        last = None if layer is None else out.hidden[layer][:, out.queries][:, -1].to(dtype)
        positions = TokenPositions.of(out)
        states = {}
        for k in self.layers:  # its other positions are given up as soon as the head has what it needs
            image, own = positions.take(out.hidden.pop(k), dtype)
            pooled = [pool_codes(span.of(own), span.per_step, self.config.pool) for span in self.segments.values()]
            states[k] = LayerStates(torch.cat(pooled, 1), image, positions.valid)
        given, normalizer = batch.proprio, self.proprio_normalizer
        proprio = None if normalizer is None or given is None else normalizer(given).to(dtype)
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
        checked = _checked(batch)
        batch = self._batch(batch, learning=True, acting=True)
        with self.inference():
            out = self._run_backbone(batch, learning=True)
            return self._sample(batch, out), self._latent_terms(batch, out, checked)

    def _sample(self, batch: PolicyBatch, out: ForwardOutput, seed: int = 0) -> Tensor:
        chunk = self.head.sample(out.states, out.proprio, batch, seed)
        if isinstance(self.head, TokenHead):
            return self.head.average_of_draws(self.tokenizer.decode(chunk.cpu(), repair=True)).to(chunk.device)
        if self.decoder is not None:
            latents = self.latent_normalizer.inverse(chunk).unflatten(2, (self.decoder.config.members, -1))
            texts = [text for text in batch.texts for _ in range(chunk.shape[1])]
            return self.decoder.decode_actions(latents.flatten(0, 1), texts).actions.unflatten(0, chunk.shape[:2])
        chunk = self.action_normalizer.inverse(chunk)
        return chunk if batch.known is None else chunk.masked_fill(~batch.known[:, None], 0.0)

    def select_action(self, observation: Mapping[str, Any], env_ids: Sequence[int] | None = None) -> Tensor:
        """Return the next action of every environment, float32 [B, m]; those without planned actions are planned for.

        `env_ids` names the samples' environments (default 0 .. B-1), which may come and go. One observation gives [m].
        Every observation is checked, also while planned actions are carried out; another instruction is planned for.
        """
        self.check_acts()
        observation, single = as_batch(self.config, observation)
        check = partial(check_observation, self.config)
        actions = self.queues.select(observation, env_ids, self.predict_chunk, check)
        return actions[0] if single else actions

    def reset(self, env_ids: Sequence[int] | None = None) -> None:
        """Forget the planned actions of these environments, or of all."""
        self.queues.reset(env_ids)

    @torch.no_grad()
    def begin_with(self, before: "LatentVLA") -> None:
        """Copy the weights of another policy whose name and shape this one has, except normalisers."""
        theirs = before.saved_tensors()
        for name, tensor in self.saved_tensors().items():
            if name in theirs and theirs[name].shape == tensor.shape and "normalizer" not in name:
                tensor.copy_(theirs[name])

    def _save(self, folder: Path, name: str | None) -> None:
        self.config = self.acting_config
        if self.config.tokens is not None:
            check_tokenizer(self.tokenizer, self.config)
            cast(HubModel, self.tokenizer).save_pretrained(folder / TOKENIZER)
        super()._save(folder, name)

    def saved_tensors(self) -> dict[str, Tensor]:
        """Leave out the decoder's features, and normalisers in use where each dataset has its own."""
        used = ("action_normalizer.", "proprio_normalizer.") if self.config.normalizers else ()
        apart = ("decoder.features.", *used)
        return {name: value for name, value in super().saved_tensors().items() if not name.startswith(apart)}


def shared_options(config: VLAConfig) -> dict[str, Any]:
    """Return what a policy keeps when it is trained further: its backbone, and what that sees, by flat names."""
    shared = {option.name for option in options_of(VLAConfig) if option.path[0] in ("backbone", *BACKBONE_INPUTS)}
    return {name: value for name, value in flat(config).items() if name in shared - BackboneConfig.free}


def share_backbone(config: VLAConfig, before: VLAConfig) -> VLAConfig:
    """Return the configuration of a policy that trains another one further, whose backbone it must share."""
    base = config.backbone
    config = with_backbone(config, name=from_root(base.name), revision=base.revision or before.backbone.revision)
    own = flat(config)
    for name, theirs in shared_options(before).items():
        if own[name] != theirs:
            checks.fail(name, f"{theirs!r}, as the policy has that is trained further", repr(own[name]))
    return config


def _checked(batch: Any) -> bool:
    """Tell whether a batch is one of the training loop on a GPU: its labels were checked where they were read. Others
    are checked: on the host that costs nothing, on a GPU it waits."""
    return isinstance(batch, PolicyBatch) and batch.images.device.type != "cpu"


def last_step(states: Tensor, valid: Tensor) -> Tensor:
    """Take of states [B, H, d] that of the last step that is `valid` [B, H]; of a sample without any, the last."""
    steps = torch.arange(valid.shape[1], device=valid.device)
    last = torch.where(valid, steps, -1).amax(1, keepdim=True) % len(steps)
    return (states * (steps == last)[..., None]).sum(1)  # a product is deterministic on every device
