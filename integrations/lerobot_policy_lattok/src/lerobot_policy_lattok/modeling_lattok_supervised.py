"""Any policy of LeRobot that also learns from latent actions: `lattok.vla.Supervised` inside LeRobot's own training.

A checkpoint is one of the inner policy: config.json, model.safetensors and the processors are its own and need no
lattok. What only training needs lies beside them, in lattok_supervised.json and lattok_supervised.safetensors.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from draccus.parsers.decoding import decode
from draccus.parsers.encoding import encode
from huggingface_hub import hf_hub_download
from lerobot.policies.factory import get_policy_class
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import Tensor

from lattok.hub import weights
from lattok.utils import checks, files
from lattok.vla import Supervised
from lattok.vla.supervision import LOSSES
from lerobot_policy_lattok.configuration_lattok_supervised import LattokSupervisedConfig
from lerobot_policy_lattok.frame_labels import FrameLabels

OPTIONS, HEAD = "lattok_supervised.json", "lattok_supervised.safetensors"
HUB = ("force_download", "token", "cache_dir", "local_files_only", "revision")


class LattokSupervisedPolicy(PreTrainedPolicy):
    """`policy.inner` is the policy of LeRobot; acting, resetting and what it knows beyond that are its own."""

    config_class = LattokSupervisedConfig  # pyright: ignore[reportAssignmentType]  # LeRobot annotates both with None
    name = "lattok_supervised"  # pyright: ignore[reportAssignmentType]
    config: LattokSupervisedConfig

    def __init__(
        self,
        config: LattokSupervisedConfig,
        dataset_stats: Mapping[str, Any] | None = None,
        dataset_meta: Any = None,
        inner: PreTrainedPolicy | None = None,
        **kwargs: Any,
    ):
        """Take what LeRobot hands to a policy that it makes for a dataset, and the `inner` policy if there is one."""
        super().__init__(config)
        plan, steps, tap, self.labels, self.batches = config.plan, config.steps, config.place, None, 0
        if dataset_meta is not None:
            where = config.prefix, config.labels, config.latent
            self.labels = FrameLabels.open(dataset_meta.root, plan, steps, *where)
            config.latent = self.labels.spec
        if config.latent is None:
            checks.fail("dataset_meta", "the dataset whose labels the policy learns from", "none")
        of_steps = config.latent.target == "steps" or (config.latent.per_step and steps[0] == 0)
        if not of_steps:
            got = f"the {config.latent.steps} tokens of chunks under `{config.latent.prefix}`"
            hint = "Action-vq has a token for each step; so have image models, whose labels la_direct learns from."
            checks.fail("labels", f"labels of the steps that {config.inner} predicts", got, hint)
        policy: Any = inner
        if policy is None:
            kind: Any = get_policy_class(config.inner)
            policy = kind(config.wrapped, dataset_stats=dataset_stats, dataset_meta=dataset_meta, **kwargs)
        (asked,) = plan.losses
        loss = LOSSES[asked.loss].build(config.width_in(policy), config.latent, **asked.options)
        options = {"labels": config.latent, "resample": config.resample}
        self.supervised = Supervised(policy, tap, loss, asked.weight, **options)

    @property
    def inner(self) -> PreTrainedPolicy:
        """The policy that acts, and that is deployed."""
        return self.supervised.policy

    def forward(self, batch: dict[str, Any], *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Any]]:
        """Return the inner policy's loss plus the weighted latent one, and the figures of both.

        Labels come from the dataset that the policy was made for, unless the batch has a window of them already.
        """
        if self.labels is not None and self.labels.spec.column("valid") not in batch:
            batch = self.labels.add(batch)
        loss, figures = self.supervised(batch, *args, **kwargs)
        self.batches += self.training
        if self.training and self.config.log_freq and self.batches % self.config.log_freq == 0:
            weight, latent = self.supervised.weight, figures["latent_loss"]
            own = float(loss.detach().mean()) - weight * latent
            logging.info(f"loss of {self.config.inner}:{own:.3f} latent_loss:{latent:.3f} times {weight:g}")
        return loss, figures

    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """Return the next actions as the inner policy does."""
        return self.inner.predict_action_chunk(batch, **kwargs)

    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> Tensor:
        """Return the next action as the inner policy does."""
        return self.inner.select_action(batch, **kwargs)

    def reset(self) -> None:
        """Forget what the inner policy remembers of the episode."""
        self.inner.reset()

    def get_optim_params(self) -> Any:
        """Return the inner policy's parameters, and those of the latent loss."""
        return self.supervised.get_optim_params()

    def wrap_with_peft(self, *args: Any, **kwargs: Any) -> PreTrainedPolicy:
        """Raise `LattokError`: a checkpoint holds the whole policy."""
        hint = "Train without --peft, or with lattok.vla.Supervised around the adapted policy in a loop of yours."
        checks.fail("peft", "none for this policy", "adapters of LeRobot", hint)

    def __getattr__(self, name: str) -> Any:
        """Return what only the inner policy has, such as `update`, which LeRobot calls after a step."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "supervised" not in self.__dict__.get("_modules", {}):
                raise
            return getattr(self.inner, name)

    def generate_model_card(self, dataset_repo_id: str, model_type: str, *args: Any, **kwargs: Any) -> Any:
        """Return the inner policy's card."""
        return self.inner.generate_model_card(dataset_repo_id, self.config.inner, *args, **kwargs)

    def _save_pretrained(self, save_directory: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Write the checkpoint of the inner policy, and what training goes on with.

        `state_dict` has the tensors of a policy whose parameters are cut into parts (LeRobot >= 0.6).
        """
        self.config.wrapped  # noqa: B018  # shares features and device with it
        whole = self.state_dict() if state_dict is None else state_dict
        policy, head = (_below(whole, f"supervised.{name}.") for name in ("policy", "loss"))
        self.inner._save_pretrained(save_directory, **({} if state_dict is None else {"state_dict": policy}))
        files.write_json(save_directory / OPTIONS, {"type": self.name, **encode(self.config)}, indent=4)
        head = {name: value.detach().cpu().contiguous() for name, value in head.items()}
        safetensors.torch.save_file(head, save_directory / HEAD, {"format": "pt"})

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: LattokSupervisedConfig | None = None,
        dataset_stats: Mapping[str, Any] | None = None,
        dataset_meta: Any = None,
        strict: bool = False,
        **kwargs: Any,
    ) -> LattokSupervisedPolicy:
        """Open a checkpoint of this type, to go on training; with a `config` also one of the inner policy, to start.

        A head that is missing, or does not fit, is an error once the configuration knows its labels.
        """
        name, hub = str(pretrained_name_or_path), {key: kwargs[key] for key in HUB if key in kwargs}
        if config is None:
            path = Path(_file(name, OPTIONS, hub))
            options = files.read_json(path)
            if options.pop("type", None) != cls.name:
                checks.fail(OPTIONS, f"options of {cls.name}", f"others in {path}")
            config = decode(LattokSupervisedConfig, options)
        trained = config.latent is not None
        kind = get_policy_class(config.wrapped.type)
        inner = kind.from_pretrained(name, config=config.wrapped, strict=strict or trained, **kwargs)
        policy = cls(config, dataset_stats, dataset_meta, inner)
        if trained:
            found = weights.read_tensors(Path(_file(name, HEAD, hub)))
            wanted = policy.supervised.loss.state_dict()
            if {key: value.shape for key, value in found.items()} != {k: v.shape for k, v in wanted.items()}:
                sizes = [", ".join(f"{k} {list(v.shape)}" for k, v in each.items()) for each in (wanted, found)]
                checks.fail(HEAD, f"the head of {config.strategy} ({sizes[0]})", sizes[1])
            policy.supervised.loss.load_state_dict(found)
            if problems := weights.unsound(policy.supervised.loss, found):
                checks.fail(HEAD, "weights that are sound", "; ".join(problems))
        return policy.to(config.device).eval()


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of them."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _file(folder: str, name: str, hub: dict[str, Any]) -> str:
    """Return the path of a file of a checkpoint, fetched where the checkpoint is on the Hub."""
    path = Path(folder) / name
    if path.is_file():
        return str(path)
    if Path(folder).is_dir():
        hint = "A checkpoint without it is one of the inner policy alone: --policy.inner=FOLDER starts from that."
        checks.fail("pretrained_path", f"a checkpoint of lattok_supervised, with {name}", folder, hint)
    return hf_hub_download(folder, name, **hub)
