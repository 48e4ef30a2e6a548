"""Pretrained models of transformers: what differs between their families, opening one, and telling which one it was."""

import hashlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import torch
from packaging.version import Version

from lattok.backbones import SCRATCH, Dtype
from lattok.hub import client, weights
from lattok.hub.client import COMMIT
from lattok.hub.weights import from_pretrained
from lattok.utils import checks, files
from lattok.utils.untrusted import inside
from lattok.version import install_extra

MIN_VERSIONS = {"transformers": "5.4"}
SMALL_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]  # all of a model but its weights
MODEL_FILES = [*SMALL_FILES, "*.safetensors"]
EXPECTED = "a folder with config.json, or a Hub id like org/name"
FINGERPRINT = "files-"  # what a fingerprint begins with
SLICES, SLICE = 256, 4096  # of each file of weights that a fingerprint reads, and their bytes


def _as_they_are(processor: Any) -> dict[str, Any]:
    """Round images to whole tokens only: 224² become 49 of them (Qwen3-VL) or 64 (Qwen2.5-VL).

    Qwen-VL takes any size, but its released processors make 256² of 224². The lower bound becomes a single token.
    """
    images = processor.image_processor
    size = images.size if isinstance(images.size, Mapping) else vars(images.size)
    token = images.patch_size * images.merge_size
    return {"size": {"shortest_edge": token**2, "longest_edge": size["longest_edge"]}}


def _one_tile(processor: Any) -> dict[str, Any]:
    """Ask for one tile, the size of the image tower: SmolVLM2 enlarges an image and cuts it into tiles."""
    tile = processor.image_processor.max_image_size
    tile = tile if isinstance(tile, Mapping) else vars(tile)
    return {"do_image_splitting": False, "size": {"longest_edge": tile["longest_edge"]}}


@dataclass(frozen=True)
class Family:
    """How one kind of model is spoken to. All but Qwen-VL resize images to the size of their image tower."""

    name: str
    model_types: tuple[str, ...]  # `model_type` in config.json
    image: str | None  # what stands for an image in the text; none for models that read only text
    placeholder_types: Mapping[str, int] = field(default_factory=dict)  # further inputs by token: at a placeholder
    projector: tuple[str, ...] = ("multi_modal_projector",)  # modules from the image tower to the words
    chat: bool = True  # speaks in turns, so that it needs a template
    image_options: Callable[[Any], dict[str, Any]] = lambda processor: {}  # its arguments for images


QWEN_IMAGE, QWEN_TYPES = "<|vision_start|><|image_pad|><|vision_end|>", {"mm_token_type_ids": 0}
QWEN3_MERGERS = ("visual.merger", "visual.deepstack_merger_list")
NO_CROPS, NO_TILES = {"do_pan_and_scan": False}, {"crop_to_patches": False}  # the image as it is, and nothing else
TEXT = Family("text", (), None, projector=(), chat=False)
FAMILIES = (
    Family("qwen3_vl", ("qwen3_vl",), QWEN_IMAGE, QWEN_TYPES, QWEN3_MERGERS, image_options=_as_they_are),
    Family("qwen2_5_vl", ("qwen2_5_vl",), QWEN_IMAGE, QWEN_TYPES, QWEN3_MERGERS[:1], image_options=_as_they_are),
    Family("smolvlm", ("smolvlm", "idefics3"), "<image>", projector=("connector",), image_options=_one_tile),
    # type 0 is the prefix, whose tokens see each other in both directions; type 1 is causal
    Family("paligemma", ("paligemma",), "<image>", {"token_type_ids": 1}, chat=False),
    # type 1 is an image, whose tokens see each other in both directions; type 0 is causal
    Family("gemma3", ("gemma3",), "<start_of_image>", {"token_type_ids": 0}, image_options=lambda _: NO_CROPS),
    Family("internvl", ("internvl",), "<IMG_CONTEXT>", image_options=lambda _: NO_TILES),
    TEXT,
)


def family_of(config: Any) -> Family:
    """Return the family of a model by its transformers config; every model without images is one of "text"."""
    known = {name: family for family in FAMILIES for name in family.model_types}
    if config.model_type in known:
        return known[config.model_type]
    if any(getattr(config, part, None) is not None for part in ("vision_config", "audio_config", "thinker_config")):
        checks.fail("backbone", f"a text model or one of the types {', '.join(known)}", repr(config.model_type))
    return TEXT


def require(package: str) -> ModuleType:
    """Import `package`, or say how to get it in the version that is needed."""
    try:
        module = importlib.import_module(package)
    except ImportError:
        hint = "A small policy needs none of it: backbone=scratch."
        checks.fail("backbone", f"the package {package} ({install_extra('vla')})", "none", hint)
    if Version(module.__version__) < Version(MIN_VERSIONS[package]):
        wanted = f"{package} {MIN_VERSIONS[package]} or newer ({install_extra('vla')})"
        checks.fail("backbone", wanted, module.__version__)
    if package == "transformers" and not module.is_torch_available():
        got = f"{torch.__version__}, which transformers {module.__version__} does not take"
        checks.fail("backbone", "a newer torch", got, "Upgrade torch, or take an older transformers from 5.4 on.")
    return module


def load(name: str, revision: str | None, dtype: str) -> tuple[Any, Any, Family, str]:
    """Open a model; returns it with its processor (tokenizer of a text model), family and revision."""
    checks.one_of("dtype", dtype, get_args(Dtype))
    if (meant := checks.did_you_mean(name, [SCRATCH])) and not Path(name).exists():  # before a package is asked for
        checks.fail("backbone", f"{SCRATCH}, a folder or a Hub id", repr(name), meant)
    transformers = require("transformers")
    folder, found = find(name, revision)
    files_of_weights = sorted(folder.glob("*.safetensors"))
    if not files_of_weights:
        checks.fail("backbone", "a folder with weights as *.safetensors", f"{name!r} without any")
    sizes = {tensor: size for path in files_of_weights for tensor, size in weights.read_sizes(path).items()}
    _check_files(folder)
    _check_layers(folder, files.read_json(folder / "config.json"), len(sizes))
    with weights.one_line("backbone", f"a model and its processor; {name!r} could not be read"):
        config = from_pretrained("backbone", transformers.AutoConfig, folder)
        family = family_of(config)
        text = family.image is None
        reader = transformers.AutoTokenizer if text else transformers.AutoProcessor
        processor = from_pretrained("backbone", reader, folder)
        kind = transformers.AutoModelForCausalLM if text else transformers.AutoModelForImageTextToText
        weights.plan_module(lambda: kind.from_config(config), sizes, str(folder))
        options = {"dtype": getattr(torch, dtype), "output_loading_info": True}
        model, report = from_pretrained("backbone", kind, folder, **options)
    if not hasattr(model, "model"):
        expected = "a model whose layers are at `.model`, such as Llama or Qwen3"
        checks.fail("backbone", expected, f"{type(model).__name__} in {name!r}")
    hint = "A folder that a newer transformers wrote may have other names: upgrade transformers."
    weights.check_whole("backbone", f"a whole model; {name!r}", report, hint=hint)
    return model, processor, family, found


def _check_files(folder: Path) -> None:
    """Require that its weights lie in the folder itself: transformers goes wherever these files say."""
    if (folder / "adapter_config.json").exists():
        checks.fail("backbone", "a whole model", f"adapters of another one, in {folder}", "Merge them with it first.")
    for path in folder.glob("*.index.json"):
        names = files.read_json(path).get("weight_map")
        for name in set(names.values()) if isinstance(names, dict) else ():
            inside(folder, name, f"{path}: weight_map")


def _check_layers(folder: Path, config: Any, tensors: int) -> None:
    """Require a tensor for every layer: transformers makes lists, and copies of them, as long as config.json says."""
    for name, value in config.items() if isinstance(config, dict) else ():
        if ("layers" in name or "depth" in name) and isinstance(value, int) and value > tensors:
            checks.fail(str(folder), f"at most a layer for each of its {tensors} tensors", f"{name}={value}")
        _check_layers(folder, value, tensors)


def find(name: str, revision: str | None = None) -> tuple[Path, str]:
    """Find the folder and the revision of a model: a local folder's fingerprint, or the commit of a Hub id.

    A saved policy may be given its base model the other way round: by a folder that `hf download` filled with the
    commit it names, or by the Hub id of a model with the fingerprint it names.
    """
    is_fingerprint = (revision or "").startswith(FINGERPRINT)
    local = client.find_local_or_hub("backbone", name, EXPECTED)
    if local is not None and not (local / "config.json").is_file():
        checks.fail("backbone", EXPECTED, f"{name} without it")
    folder = local or client.download("backbone", name, None if is_fingerprint else revision, MODEL_FILES)
    by_content = is_fingerprint or (local is not None and revision is None)
    found = (None if by_content else commit(folder)) or fingerprint(folder)
    check_revision(name, found, revision)
    return folder, found


def check_revision(name: str, found: str | None, saved: str | None) -> None:
    """Refuse a model other than the one that a policy was saved with; a branch or tag of the Hub says too little."""
    if saved is None or found == saved:
        return
    if found is not None and COMMIT.fullmatch(found) and not (COMMIT.fullmatch(saved) or saved.startswith(FINGERPRINT)):
        return
    hint = "The policy was trained on other weights. Give the model that it was trained with."
    if COMMIT.fullmatch(saved):
        hint = f"The policy names a commit of the Hub: `hf download` its base model with --revision {saved}."
    checks.fail("backbone", f"revision {saved} of {name}", found or "none", hint)


def commit(folder: Path) -> str | None:
    """Return the commit of a folder of the Hub's cache, or of one that `hf download --local-dir` filled."""
    if folder.parent.name == "snapshots":
        return folder.name
    note = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    return note.read_text(encoding="utf-8").split("\n")[0] if note.is_file() else None


def fingerprint(folder: Path) -> str:
    """Hash the small files, and of the safetensors files the sizes, ends and evenly spaced slices."""
    digest = hashlib.sha256()
    for path in sorted(path for kind in SMALL_FILES for path in folder.glob(kind)):
        digest.update(path.name.encode() + path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with open(path, "rb") as file:
            for number in range(SLICES):
                file.seek(max(0, size - SLICE) * number // (SLICES - 1))
                digest.update(file.read(SLICE))
    return f"{FINGERPRINT}{digest.hexdigest()[:32]}"
