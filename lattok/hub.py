"""Artefacts: config.json + model.safetensors + README.md (model card), in a folder or on the Hub. No pickle.

Loading is strict: missing, unexpected or mis-shaped tensors are an error that lists them. huggingface_hub's
ModelHubMixin removes config.json before it writes; we need whole artefacts or none, so its functions are used directly.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar

import safetensors
import safetensors.torch
import torch
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor, nn
from typing_extensions import Self

import lattok
from lattok import checks, files

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
EVALUATION, TRAINING = "evaluation.json", "training.json"
PARTS = "parts"  # folder of what an artefact holds beside that, such as a whole backbone
# metadata of config fields that came after models were published: at their default they are no part of the identity
ADDED = {"added": True}


def resolve(
    name_or_path: str | os.PathLike[str], revision: str | None = None, argument: str = "model"
) -> tuple[Path, str | None]:
    """The folder of a model, and its Hub id unless it is a local folder; a Hub id is downloaded at `revision`.

    Errors call it by the name of the `argument` that named it.
    """
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path, None
    text = str(name_or_path)
    if path.exists() or text.startswith((".", "/", "~")) or text.count("/") != 1:
        checks.fail(argument, "a folder with config.json, or a Hub id like org/name", f"{text!r}, which is neither")
    return download(argument, text, revision, [CONFIG, WEIGHTS, CARD, EVALUATION, TRAINING, f"{PARTS}/*"]), text


def download(argument: str, repo_id: str, revision: str | None, wanted: list[str]) -> Path:
    """The `wanted` files of a Hub repository, in a local folder that is named by its commit."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, OSError, ValueError) as error:
        expected = f"a folder or a Hub repository; {repo_id!r} could not be fetched"
        checks.fail(argument, expected, files.first_line(error))


def read_config(folder: Path, argument: str = "model") -> dict[str, Any]:
    """config.json of an artefact, checked for readability and version."""
    path = folder / CONFIG
    if not path.is_file():
        checks.fail(argument, f"a folder with {CONFIG}", f"{folder} without it")
    config = files.read_json(path)
    if not isinstance(config.get("type"), str):
        checks.fail(str(path), "an object with `type`", "none", "Is this a lattok artefact?")
    written = str(config.get("lattok_version", "0"))
    if _release(written) > _release(lattok.__version__):
        checks.fail(
            str(path),
            f"a config written by lattok {lattok.__version__} or older",
            written,
            "Upgrade lattok to load it.",
        )
    return config


def _release(version: str) -> tuple[int, ...]:
    """(major, minor): patch releases do not change the format."""
    numbers = [int("".join(c for c in part if c.isdigit()) or 0) for part in version.split(".")[:2]]
    return tuple(numbers)


class HubModel(nn.Module):
    """A model that saves itself with everything it needs, and loads strictly. Subclasses set `type`, `config_class`."""

    type: ClassVar[str]
    config_class: ClassVar[Any]
    judged_by: ClassVar[str] = "run `lattok evaluate MODEL DATASET`"
    config: Any
    evaluation: dict[str, Any] | None = None  # summary of the last evaluation, printed on the model card
    trained_on: dict[str, Any] | None = None  # dataset, episodes and loop, so that nobody is tested on training data
    source: str | None = None  # Hub id or folder name it was loaded from
    revision: str | None = None

    def save_pretrained(self, folder: str | os.PathLike[str], name: str | None = None) -> Path:
        """Write config.json, model.safetensors and the model card into `folder`; each file atomically.

        `name` is what the card calls the model; the folder's name by default.
        """
        folder = Path(folder)
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in self.saved_tensors().items()}
        with files.whole_file(folder / WEIGHTS) as path:
            path.write_bytes(safetensors.torch.save(tensors))  # its own writer makes private files
        self.save_card(folder, name)
        if self.trained_on is not None:
            files.write_json(folder / TRAINING, self.trained_on)
        header = {"type": self.type, "lattok_version": lattok.__version__}
        files.write_json(folder / CONFIG, {**header, **asdict(self.config)})
        return folder

    def save_card(self, folder: Path, name: str | None = None) -> None:
        """Write README.md, and evaluation.json where the model was evaluated."""
        if self.evaluation is not None:
            files.write_json(folder / EVALUATION, self.evaluation)
        else:
            (folder / EVALUATION).unlink(missing_ok=True)  # another model's figures
        files.write_text(folder / CARD, model_card(self, name or folder.name))

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike[str], revision: str | None = None, **options: Any) -> Self:
        """Load from a folder or a Hub id, in evaluation mode. Raises `LattokError` on anything that does not fit.

        `options` are those of the class's `build`, which most have none of.
        """
        return cls.from_folder(*resolve(name_or_path, revision), **options)

    @classmethod
    def from_folder(cls, folder: Path, hub_id: str | None = None, **options: Any) -> Self:
        """Load from a local folder, which for a model from the Hub is the snapshot, named by its commit."""
        raw = read_config(folder)
        if raw["type"] != cls.type:
            checks.fail(
                "model", f"type {cls.type!r}", f"{raw['type']!r} in {folder}", "lattok.load picks the class by itself."
            )
        model = cls.build(parse_config(cls.config_class, raw, folder / CONFIG), folder, **options)
        model.load_tensors(_read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
        model.evaluation, model.trained_on = (
            files.read_json(folder / name) if (folder / name).is_file() else None for name in (EVALUATION, TRAINING)
        )
        model.source, model.revision = (folder.name, None) if hub_id is None else (hub_id, folder.name)
        model.after_load()
        return model.eval()

    @classmethod
    def build(cls, config: Any, folder: Path) -> Self:
        """A model of this configuration, without its weights, for the artefact in `folder`."""
        return cls(config)

    def after_load(self) -> None:
        """Called when a model was loaded from an artefact."""

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None) -> str:
        """Upload as one commit; returns its address. Not run where the project is tested: there is no network there."""
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        message = f"lattok {lattok.__version__}: {self.type}"
        try:
            repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            with tempfile.TemporaryDirectory() as scratch:
                folder = self.save_pretrained(Path(scratch), name=repo)
                return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))
        except (HfHubHTTPError, OSError, ValueError) as error:
            checks.fail("repo_id", f"a repository that can be written; {repo_id!r} failed", files.first_line(error))

    def saved_tensors(self) -> dict[str, Tensor]:
        """Tensors that belong into the artefact, sharing memory with the model."""
        return dict(self.state_dict())

    def load_tensors(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Fill this model; missing, unexpected and mis-shaped tensors are an error that lists them all."""
        wanted = self.saved_tensors()
        problems = [f"missing {name}" for name in wanted if name not in tensors]
        problems += [f"unexpected {name}" for name in tensors if name not in wanted]
        problems += [
            f"{name} has shape {list(tensors[name].shape)}, expected {list(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ]
        if problems:
            checks.fail(where, f"the {len(wanted)} tensors of {type(self).__name__}", "; ".join(problems))
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(tensors[name])

    def describe(self) -> dict[str, Any]:
        """What provenance records: type, hashes of config and weights, name and revision. No paths, no dates."""
        values = asdict(self.config)
        for field in fields(self.config):
            if field.metadata == ADDED and values[field.name] == field.default:
                del values[field.name]
        config = json.dumps(values, sort_keys=True).encode()
        weights = hashlib.sha256()
        for name, tensor in sorted(self.saved_tensors().items()):
            weights.update(name.encode() + str(tuple(tensor.shape)).encode())
            weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return {
            "type": self.type,
            "model": self.source,
            "revision": self.revision,
            "config_sha256": hashlib.sha256(config).hexdigest(),
            "weights_sha256": weights.hexdigest(),
        }

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """Evaluation mode in float32 for the duration: a label depends neither on training mode nor on an autocast."""
        training, device = self.training, next(self.buffers()).device.type
        if training:
            self.eval()
        try:
            with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
                yield
        finally:
            if training:
                self.train()


def parse_config(config_class: Any, raw: Mapping[str, Any], path: Path) -> Any:
    """The frozen config dataclass from JSON; unknown and missing fields are errors that name them."""
    values = {key: value for key, value in raw.items() if key not in ("type", "lattok_version")}
    known = {field.name for field in fields(config_class)}
    checks.known_keys(str(path), values, sorted(known))
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return config_class(**values)
    except TypeError as error:
        checks.fail(str(path), f"the fields of {config_class.__name__}", str(error))


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        checks.fail("model", f"a folder with {WEIGHTS}", f"{path.parent} without it")
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        checks.fail(str(path), "a whole safetensors file", f"one that cannot be read ({error})")


def model_card(model: HubModel, name: str) -> str:
    """Model card: what it is, how to load it, and the last evaluation as a table."""
    lines = [
        "---",
        "library_name: lattok",
        "tags: [robotics, latent-actions, lattok]",
        "---",
        f"# {name}",
        "",
        f"A lattok `{model.type}` model ({type(model).__name__}, {_millions(model)} M parameters).",
        "",
        "```python",
        "import lattok",
        f'model = lattok.load("{name}")',
        "```",
        "",
        "## Evaluation",
        "",
    ]
    if not model.evaluation:
        lines.append(f"Not evaluated yet: {model.judged_by}.")
    else:
        marks = {True: "holds up", False: "falls short", None: "open"}
        verdicts = model.evaluation.get("verdicts", [])
        lines += [str(model.evaluation.get("headline", "")), ""]
        lines += [*(f"- **{marks[verdict['holds']]}**: {verdict['text']}" for verdict in verdicts), ""]
        lines += ["<details><summary>All figures</summary>", "", "| figure | value |", "|---|---|"]
        lines += [f"| {key} | {_plain(value)} |" for key, value in model.evaluation.get("figures", {}).items()]
        lines += ["", "</details>"]
    config = json.dumps(files.finite(asdict(model.config)), indent=2)
    return "\n".join([*lines, "", "## Configuration", "", "```json", config, "```", ""])


def _millions(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}"


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
