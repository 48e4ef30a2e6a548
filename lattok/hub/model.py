"""Artefacts: config.json + model.safetensors + README.md (model card), in a folder or on the Hub. No pickle.

Loading is strict: missing, unexpected or mis-shaped tensors, other dtypes and numbers that are not finite are an error
that lists them. huggingface_hub's ModelHubMixin removes config.json before it writes; we need whole artefacts or none,
so its functions are used directly. Its keywords are the same here (`client`).
"""

import json
import os
import re
import shlex
import tempfile
from abc import ABC, ABCMeta
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, is_dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, get_type_hints

import safetensors.torch
import torch
from torch import Tensor, nn
from typing_extensions import Self, Unpack

from lattok.hub import client, records, trials, weights
from lattok.hub.client import FilePath, LoadOptions, PushOptions
from lattok.hub.recognised import recognised
from lattok.hub.records import CARD, CONFIG, EVALUATION, PICTURE, TRAINING, parse_config, read_config
from lattok.hub.weights import DAMAGED, Size, Sizes, Tensors, check_named, check_sizes, plan_module
from lattok.utils import checks, devices, files
from lattok.utils.attributes import unknown
from lattok.utils.options import identity
from lattok.utils.registry import Registry
from lattok.utils.untrusted import safe_path, walk
from lattok.version import __version__

WEIGHTS = "model.safetensors"
OWN = (CONFIG, WEIGHTS, CARD, EVALUATION, TRAINING, PICTURE)  # files that saving writes
PARTS = "parts"  # folder of what else an artefact holds, such as a whole backbone
ALL = [*OWN, f"{PARTS}/*"]
TYPE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
EXPECTED = f"a folder with {CONFIG}, or a Hub id like org/name"
KEYWORDS = tuple(get_type_hints(LoadOptions))
PLACE_OPTIONS = ("device", "backbone", "dtype")  # of these, what happens after a download
ROUNDED = "Codes would not be those that the weights stand for; only policies load in another dtype."


class Place(NamedTuple):
    """Where a saved model is, and its Hub id and commit unless it is a local folder; samples have a name only."""

    folder: Path
    hub_id: str | None = None
    revision: str | None = None


def resolve(
    name_or_path: FilePath, revision: str | None = None, argument: str = "model", options: Mapping[str, Any] = {}
) -> Place:
    """Return the place of a model; a Hub id is downloaded at `revision`. `options`: those of `LoadOptions`.

    Errors call it by the name of the `argument` that named it.
    """
    client.check_options(options, KEYWORDS)
    subfolder = options.get("subfolder")
    path = client.find_local_or_hub(argument, name_or_path, EXPECTED)
    if path is not None and path.is_dir():
        sample = os.fspath(name_or_path) if path.is_relative_to(client.ASSETS) else None
        return Place(client.inside(path, subfolder), sample if sample in client.SAMPLES else None)
    if path is not None:
        hint = f"Give {path.parent}, the folder that it lies in." if path.name in ALL else ""
        checks.fail(argument, EXPECTED, f"the file {os.fspath(name_or_path)!r}", hint)
    text = os.fspath(name_or_path)
    asked = {name: value for name, value in options.items() if name not in PLACE_OPTIONS}
    snapshot = client.download(argument, text, revision, ALL, asked)
    name = f"{text}/{subfolder.strip('/')}" if subfolder else text
    return Place(client.inside(snapshot, subfolder), name, snapshot.name)


class HubModelType(ABCMeta):
    """Says of a model that is made without its configuration how one is made: `ImageLAM()` has none to guess."""

    def __call__(cls, *given: Any, **named: Any) -> Any:
        family: Any = cls
        config = given[0] if given else named.get("config")
        if not isinstance(config, family.config_class):
            got = type(config).__name__ if given or "config" in named else checks.listed(named) if named else "none"
            checks.fail("config", f"{family.config_class.__name__}(...)", got, family.how_made())
        return super().__call__(*given, **named)


class HubModel(nn.Module, metaclass=HubModelType):
    """A model that saves itself with everything it needs, and loads strictly: a family of artefacts.

    A subclass sets `type`, a word in config.json that `lattok.load` looks for, and `config_class`, a frozen dataclass.
    """

    type: ClassVar[str]
    config_class: ClassVar[Any]
    label_source: ClassVar[str | None] = None  # what it labels: "actions", "video", or nothing
    arxiv: str = ""  # number of the paper that it comes from; the Hub links the model there
    config: Any
    evaluation: dict[str, Any] | None = None  # summary of the last evaluation, printed on the model card
    picture: str | None = None  # SVG of the same evaluation, shown there
    trained_on: dict[str, Any] | None = None  # dataset, episodes and loop, so that nobody is tested on training data
    source: str | None = None  # Hub id or folder name it was loaded from
    folder: Path | None = None  # that it was loaded from
    address: str = ""  # the same or the whole path: commands that are suggested name it
    revision: str | None = None
    license: str | None = None  # as its user named it, for the model card
    own_card: str | None = None  # a model card that somebody wrote or changed: it goes wherever the model goes
    packages: tuple[str, ...] = ("torch", "numpy")  # that its codes come from
    narrow: ClassVar[bool] = False  # weights may have been stored as bfloat16 or float16

    if not TYPE_CHECKING:  # a checker would take every name for one that exists

        def __getattr__(self, name: str) -> Any:
            try:
                return super().__getattr__(name)
            except AttributeError:
                raise AttributeError(unknown(self, name)) from None

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Check and register a family when its class is made; a base class lists ABC."""
        super().__init_subclass__(**keywords)
        if ABC in cls.__bases__:
            return
        kind, config = getattr(cls, "type", None), getattr(cls, "config_class", None)
        if not (isinstance(kind, str) and TYPE.fullmatch(kind)):
            checks.fail(f"{cls.__name__}.type", "lower-case words with hyphens, such as action-vq", repr(kind))
        if not (isinstance(config, type) and is_dataclass(config) and config.__dataclass_params__.frozen):  # pyright: ignore
            checks.fail(f"{cls.__name__}.config_class", "a frozen dataclass", repr(config))
        if "type" in vars(cls):  # a subclass without one of its own stands for the same artefacts
            FAMILIES.add(kind, cls)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        name: str | None = None,
        *,
        push_to_hub: bool = False,
        repo_id: str | None = None,
        **push: Unpack[PushOptions],
    ) -> Path:
        """Write config.json, model.safetensors and the model card into `folder`; each file atomically.

        `name` is what the card calls the model; the folder's name by default. With `push_to_hub` also upload it, as
        `repo_id` (by default your-name/FOLDER), with the keywords of `push_to_hub`.
        """
        folder = Path(folder)
        if push and not push_to_hub:
            checks.fail("options", "keywords of an upload together with push_to_hub=True", ", ".join(push))
        client.check_push(repo_id, push)
        if push.get("dry_run"):
            checks.fail(
                "dry_run", "to be left out here", "True", "See what goes up: model.push_to_hub(repo_id, dry_run=True)."
            )
        self._check_loads_again(name or folder.resolve().name)
        self._save(folder, name)
        if push_to_hub:  # with the card that lies there
            self.own_card = records.written_by_somebody(folder / CARD)
            self.license = records.license_of(folder / CARD) or self.license
            self.push_to_hub(repo_id or folder.resolve().name, **push)
        return folder

    def _save(self, folder: Path, name: str | None) -> None:
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in self.saved_tensors().items()}
        said = trials.recorded(self) or None
        with files.whole_file(folder / WEIGHTS) as path:
            path.write_bytes(safetensors.torch.save(tensors, said))  # its own writer makes private files
            for other in (CONFIG, TRAINING):  # of what was here: until all is written this is no model
                (folder / other).unlink(missing_ok=True)
        self.save_card(folder, name)
        if self.trained_on is not None:
            files.write_json(folder / TRAINING, self.trained_on)
        header = {"type": self.type, "lattok_version": __version__}
        files.write_json(folder / CONFIG, {**header, **asdict(self.saved_config)})

    def _check_loads_again(self, name: str) -> None:
        """Refuse what loading would, before anything is written over, parts of a model included."""
        tensors = self.saved_tensors()
        said = {CONFIG: asdict(self.saved_config), TRAINING: self.trained_on, EVALUATION: self.evaluation}
        for file, value in {**said, CARD: self.own_card or self.card(name)}.items():
            try:
                said[file] = json.loads(json.dumps(files.finite(value), ensure_ascii=False).encode())
            except (TypeError, ValueError) as error:
                checks.fail(file, "what JSON can hold", f"something else ({error})")
        parse_config(self.config_class, said[CONFIG], CONFIG)
        if not self.narrow and (cast := [key for key, each in tensors.items() if each.dtype in weights.NARROW]):
            checks.fail(cast[0], "float32", str(tensors[cast[0]].dtype), ROUNDED)
        if problems := weights.unsound(self, tensors):
            checks.fail("model", "weights that are sound", weights.listed_problems(problems))

    def save_card(self, folder: Path, name: str | None = None) -> bool:
        """Write README.md, and evaluation.json and .svg where the model was evaluated; returns whether README.md was
        written: one that somebody wrote or changed stays as it is."""
        if self.evaluation is not None:
            files.write_json(folder / EVALUATION, self.evaluation)
        else:
            (folder / EVALUATION).unlink(missing_ok=True)  # another model's figures
        if self.evaluation is not None and self.picture is not None:
            files.write_text(folder / PICTURE, self.picture)
        else:
            (folder / PICTURE).unlink(missing_ok=True)
        if records.written_by_somebody(folder / CARD) is not None:
            return False
        files.write_text(folder / CARD, self.own_card or self.card(name or folder.resolve().name))
        return True

    def card(self, name: str) -> str:
        """Return the model card, under that name."""
        return records.card_of(self, name)

    @classmethod
    def how_made(cls) -> str:
        """Return how users get one."""
        return "A saved one is loaded with lattok.load(FOLDER)."

    @property
    def device(self) -> torch.device:
        held = next(chain(self.buffers(), self.parameters()), None)
        return torch.device("cpu") if held is None else held.device

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Count the parameters, frozen features included, or only those that training changes."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def __repr__(self) -> str:
        """Say in a few lines what it is; `nn.Module.__repr__(model)` lists every layer."""
        lines = "".join(f"\n  {line}" for line in self.extra_repr().splitlines())
        return f"{type(self).__name__}({lines}\n)"

    def extra_repr(self) -> str:  # the lines of `repr`
        learned = records.datasets_of(self.trained_on)
        return f"{self.summary()}\ntrained on {', '.join(learned)}" if learned else self.summary()

    @property
    def size(self) -> str:
        """The number of parameters, or of entries in its tables where a model has hardly any parameters."""
        millions = self.num_parameters() / 1e6
        numbers = sum(tensor.numel() for tensor in self.saved_tensors().values())
        return f"{millions:.2f} M parameters" if millions >= 0.005 else f"{numbers:,} numbers"

    def summary(self) -> str:
        """Return in one line what it is."""
        return f"{type(self).__name__}, {self.size}"

    def next_step(self, name: str) -> str:
        """Return what to type once it is saved under that name."""
        return f"Evaluate it: {shlex.join(['lattok', 'evaluate', name])} DATASET"

    @property
    def judged_by(self) -> str:
        """Return what the card says where there is no evaluation."""
        return "run `lattok evaluate MODEL DATASET`"

    def usage(self) -> list[str]:
        """Return lines of code for the card, which use `model` once it is loaded."""
        return []

    @property
    def base_model(self) -> str | None:
        """Hub id of a pretrained model that this one was built on."""
        return None

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], revision: str | None = None, **options: Unpack[LoadOptions]
    ) -> Self:
        """Load from a folder or a Hub id, in evaluation mode. Raises `LattokError` on anything that does not fit.

        `options`: the keywords of huggingface_hub (`token`, `cache_dir`, `force_download`, `local_files_only`,
        `subfolder`), `device`, and of a policy `dtype` and `backbone`, the folder of its base model.
        """
        with recognised(name_or_path):
            place = resolve(name_or_path, revision, options=options)
            read_config(place.folder)
        return cls.from_place(place, **options)

    @classmethod
    @devices.float32_by_default()
    def from_place(
        cls,
        place: Place,
        device: str | None = None,
        backbone: FilePath | None = None,
        dtype: str | torch.dtype | None = None,
        **others: Any,
    ) -> Self:
        """Load from where `resolve` found it; other keywords of `LoadOptions` were those of the download."""
        folder, kind = place.folder, None if dtype is None else str(dtype).removeprefix("torch.")
        raw = read_config(folder)
        if raw["type"] != cls.type:
            hint = "lattok.load picks the class by itself."
            checks.fail("model", f"type {cls.type!r}", f"{raw['type']!r} in {folder}", hint)
        if kind not in (None, "float32") and not cls.narrow:
            checks.fail("dtype", f"to be left out: {cls.__name__} is float32", repr(dtype), ROUNDED)
        config = parse_config(cls.config_class, raw, folder / CONFIG)
        for name in OWN:  # a link would read what lies elsewhere, and saving write there
            safe_path(folder, folder / name, f"`model`: {name}")
        for _ in walk(folder, lambda path: path.parts[0] != PARTS):  # refuses links that leave it
            pass
        check_named(config, folder, () if backbone is None else ("backbone",))
        where = str(folder / WEIGHTS)
        if not (folder / WEIGHTS).is_file():
            checks.fail("model", f"a folder with {WEIGHTS}", f"{folder} without it")
        sizes = weights.read_sizes(folder / WEIGHTS)
        config, parts = cls.opened(config, folder, backbone)
        plan_module(lambda: cls.outline(config, **parts), sizes, where).check_fits(sizes, where)
        model = cls.build(config, **parts)
        model.load_tensors(weights.read_tensors(folder / WEIGHTS), where)
        model.evaluation = records.read_record(folder / EVALUATION, records.EvaluationRecord)
        model.trained_on = records.read_record(folder / TRAINING, records.TrainingRecord)
        model.picture = records.read_picture(folder / PICTURE)
        model.license, model.own_card = records.license_of(folder / CARD), records.written_by_somebody(folder / CARD)
        model.source, model.revision = place.hub_id or folder.resolve().name, place.revision
        model.address, model.folder = place.hub_id or os.fspath(folder), folder
        model.after_load()
        trials.check(model.eval(), weights.read_metadata(folder / WEIGHTS), where)
        return devices.moved(model.eval() if kind is None else model.eval().to(getattr(torch, kind)), device)

    @classmethod
    def opened(cls, config: Any, folder: Path, backbone: FilePath | None = None) -> tuple[Any, dict[str, Any]]:
        """Return the configuration, and what building needs beyond `folder`."""
        if backbone is not None:
            checks.fail("backbone", f"to be left out: {cls.__name__} has none", "one")
        return config, {}

    @classmethod
    def build(cls, config: Any, **parts: Any) -> Self:
        """Make a model of this configuration, without its weights."""
        return cls(config, **parts)

    @classmethod
    def outline(cls, config: Any, **parts: Any) -> Self:
        """Make a model for its shapes alone."""
        return cls.build(config, **parts)

    @property
    def saved_config(self) -> Any:
        """The configuration to save: `config`, with what was changed since it was made."""
        return self.config

    def check_fits(self, file: Sizes, where: str) -> None:
        """Check that these are the names, shapes and dtypes of the tensors in this model's artefact."""
        wanted = {name: Size.of(tensor) for name, tensor in self.saved_tensors().items()}
        check_sizes(wanted, file, where, type(self).__name__, self.narrow)

    def after_load(self) -> None:
        """Finish a model whose weights were loaded."""

    def trial(self) -> trials.Trial | None:
        """Return the test of its codes at saving and loading; None for a model without codes."""
        return None

    def push_to_hub(self, repo_id: str, **options: Unpack[PushOptions]) -> str:
        """Upload as one commit; returns its address. Files of an earlier push that this model lacks are removed.

        With `dry_run` nothing is sent: it returns what would be.
        A card that somebody wrote or changed is uploaded as it is.
        """
        client.check_push(repo_id, options)
        for name, place in weights.folders_of(self.config).items():  # nobody else has them
            hint = "Push what merge() gives." if name == "backbone" else ""
            checks.fail(name, "a network on the Hub, for a model that is pushed", f"the folder {place}", hint)
        license = options.get("license")
        if license is not None and self.own_card is not None and license != self.license:
            hint = f"Put `license: {license}` between the lines --- at its top."
            checks.fail("license", "the licence of a README.md that lattok wrote; yours stays as it is", license, hint)
        self.license = license or self.license
        message = f"lattok {__version__}: {self.type}"
        with tempfile.TemporaryDirectory() as scratch:
            if options.get("dry_run"):
                return client.would_push(repo_id, self.save_pretrained(scratch, repo_id))
            return client.push(repo_id, lambda repo: self.save_pretrained(scratch, repo), message, options, ALL)

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that belong into the artefact; they share memory with the model."""
        return dict(self.state_dict())

    def load_tensors(self, tensors: Tensors, where: str) -> None:
        """Fill this model; one error lists what is missing, unexpected, not finite, or of another shape or dtype."""
        self.check_fits({name: Size.of(tensor) for name, tensor in tensors.items()}, where)
        wanted = self.saved_tensors()
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(tensors[name])
        if problems := weights.unsound(self, wanted):
            checks.fail(where, "weights that are sound", weights.listed_problems(problems), DAMAGED)

    def describe(self) -> dict[str, Any]:
        """Return what provenance records: type, hashes of config and weights, name and revision. No paths, no dates."""
        hashes = {"config_sha256": files.json_hash(identity(self.saved_config))}
        hashes["weights_sha256"] = weights.weights_hash(self.saved_tensors())
        return {"type": self.type, "model": self.source, "revision": self.revision, **hashes}

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Stay in evaluation mode and float32, without gradients: a label depends on neither mode nor autocast."""
        training, device = self.training, self.device.type
        if training:
            self.eval()
        try:
            cast = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
            plain = nullcontext() if torch.get_default_dtype() is torch.float32 else devices.float32_by_default()
            with torch.no_grad(), cast, plain, devices.no_tf32() if device == "cuda" else nullcontext():
                yield
        finally:
            if training:
                self.train()


FAMILIES: Registry[type[HubModel]] = Registry("lattok.artefacts", "lattok.action_vq", "lattok.image_lam", "lattok.vla")


def family_of(folder: Path, argument: str = "model") -> type[HubModel]:
    """Return the class of the artefact in a folder, by the `type` in its config.json."""
    config = read_config(folder, argument)
    kind = config["type"]
    if kind not in FAMILIES:
        lerobot = "It is a policy of LeRobot, which loads it, as lattok rollout does."
        hint = lerobot if "input_features" in config else "Install the package that brings it."
        checks.fail(str(folder / CONFIG), f"a `type` among {', '.join(FAMILIES)}", repr(kind), hint)
    return FAMILIES[kind]


def config_of(argument: str, name: str, kind: type[HubModel], given: Collection[str] = ()) -> Any:
    """Return the configuration of a model of this kind, a folder or a Hub id, without reading its weights.

    Folders that it names are refused unless the user has `given` them: see `check_named`.
    """
    folder = resolve(name, argument=argument).folder
    raw = read_config(folder, argument)
    if raw["type"] != kind.type:
        checks.fail(argument, f"a model of type {kind.type!r}", f"{raw['type']!r} in {name}")
    config = parse_config(kind.config_class, raw, folder / CONFIG)
    check_named(config, folder, given)
    return config
