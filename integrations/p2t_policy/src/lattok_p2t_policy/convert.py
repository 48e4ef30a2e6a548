"""Published policies of "From Pixels to Tokens" (one flat `.pt`) as `ReleasedVLA`, a peft adapter and backbone weights.

Sizes and the head's variant follow from names and shapes. What weights cannot tell (steps, heads, image tokens, alpha,
base model) is asked for, with the published values as defaults.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from lattok.hub import OWN, WEIGHTS
from lattok.hub.checkpoint import KeyMap, axis_of, layer_names, numbered, read_checkpoint, translate
from lattok.utils import checks, files
from lattok.utils.output import Output
from lattok_p2t_policy.released import ReleasedVLA, ReleasedVLAConfig

BASE_MODEL = "Qwen/Qwen3-VL-2B-Instruct"
HEAD, PROPRIO, POOLING = "action_head.model.", "proprio_projector.", "pooling."
ALIGN, VLM, PEFT = "latent_action_head.", "vlm.", "base_model.model."
WRAPPED = "module."  # what a distributed wrapper leaves before all names
BLOCKS = f"{HEAD}mlp_resnet_blocks."
UNUSED = re.compile(rf"{re.escape(BLOCKS)}\d+\.film_gen\.0\.(weight|bias)|{ALIGN}latent_fc\.(weight|bias)")  # never run
LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.(?:(?P<adapter>[^.]+)\.)?weight")
EMBEDDING, LOGITS = "embed_tokens.weight", "lm_head.weight"
ADAPTER, REPORT = "adapter", "conversion.json"
Tensors = Mapping[str, Tensor]  # by name


class Lora(NamedTuple):
    """Low-rank adapters by the path of their layer: A [r, in], B [out, r]."""

    rank: int
    alpha: float
    pairs: dict[str, tuple[Tensor, Tensor]]


@dataclass
class Conversion:
    """What a published policy's file holds; the report says what was found and what was taken as given."""

    model: ReleasedVLA
    lora: Lora | None
    backbone: dict[str, Tensor] = field(repr=False)  # by transformers' names; mapped: the file must stay as it is
    report: dict[str, Any]
    base_model: str

    def save(self, folder: Path, backbone_out: Path | None = None) -> None:
        """Write all into `folder`, and the merged language model into `backbone_out`; whole, or not at all.

        Both must be new or empty, and `backbone_out` must not lie in `folder`.
        """
        if backbone_out is not None:
            self.check_backbone()
        check_new(folder, backbone_out)
        merged_to = nullcontext() if backbone_out is None else Output(backbone_out).filled((WEIGHTS,))
        with Output(folder).filled((*OWN, ADAPTER, REPORT)), merged_to:
            if backbone_out is not None:
                _write_tensors(backbone_out / WEIGHTS, merged(self.backbone, self.lora))
            if self.lora is not None:
                write_adapter(self.lora, folder / ADAPTER, self.base_model)
            files.write_json(folder / REPORT, self.report)
            self.model.save_pretrained(folder)  # its config.json comes last: without it nothing is loaded

    def check_backbone(self) -> None:
        """Raise `LattokError` where the file does not hold the language model whose adapter it holds."""
        missing = [layer for layer in (self.lora.pairs if self.lora else {}) if f"{layer}.weight" not in self.backbone]
        if not self.backbone or missing:
            got = f"one without {len(missing)} layers, such as {missing[0]}" if self.backbone else "one without"
            expected = f"a file with the weights of the language model ({VLM}*)"
            checks.fail("backbone_out", expected, got, "Take the base model itself, and adapter/ with it.")


def check_new(folder: Path, backbone_out: Path | None) -> None:
    """Raise `LattokError` where a folder to write to holds something, or is to hold the backbone as well."""
    if backbone_out is not None and backbone_out.resolve().is_relative_to(folder.resolve()):
        checks.fail("backbone_out", f"a folder outside {folder}", str(backbone_out))
    for argument, place in {"folder": folder, "backbone_out": backbone_out}.items():
        if place is not None:
            Output(place, argument).check_new()


def p2t_vla(path: str | os.PathLike[str], horizon: int = 8, **facts: Any) -> ReleasedVLA:
    """Return the published policy's own modules; arguments and errors as for `read_p2t_vla`."""
    return read_p2t_vla(path, horizon, **facts).model


def read_p2t_vla(
    path: str | os.PathLike[str],
    horizon: int = 8,
    *,
    heads: int = 8,
    image_tokens: int = 512,
    lora_alpha: float = 16,
    base_model: str = BASE_MODEL,
) -> Conversion:
    """Read a published policy: a .pt with one flat state dictionary, maybe prefixed `module.`, or that as safetensors.

    Raises `LattokError` that lists every tensor that is missing, unexpected or mis-shaped, and for files that hold
    anything but tensors.
    """
    given = {"horizon": horizon, "heads": heads, "image_tokens": image_tokens}
    checks.counts(**given)
    checks.positive(lora_alpha=lora_alpha)
    path = Path(path).expanduser()
    foreign = read_checkpoint(path)
    if foreign and all(name.startswith(WRAPPED) for name in foreign):
        foreign = {name.removeprefix(WRAPPED): tensor for name, tensor in foreign.items()}
    language = {name.removeprefix(VLM): foreign.pop(name) for name in list(foreign) if name.startswith(VLM)}
    config = ReleasedVLAConfig(**given, **sizes(foreign))
    unused = [name for name in foreign if UNUSED.fullmatch(name)]
    with torch.device("meta"):  # names and shapes alone, until the file is known to fit
        model = ReleasedVLA(config)
    tensors = translate(foreign, key_map(config), model.saved_tensors(), str(path), unused=unused)
    model.to_empty(device="cpu").load_tensors(tensors, str(path))
    lora, backbone = split_language_model(language, lora_alpha, str(path))
    report = {
        "checkpoint": path.name,
        "found": found(config, lora, backbone),
        "taken_as_given": given | ({"lora_alpha": lora_alpha, "base_model": base_model} if lora else {}),
        "left_out": sorted(unused),
    }
    return Conversion(model.eval(), lora, backbone, report, base_model)


def key_map(config: ReleasedVLAConfig) -> KeyMap:
    """Map our tensors to the published names."""
    layers = {"head.norm_in": "layer_norm1", "head.project": "fc1", "head.norm_out": "layer_norm2", "head.out": "fc2"}
    layers = {ours: f"{HEAD}{theirs}" for ours, theirs in layers.items()}
    tensors = {}
    sources = ("self", "adapter", "task") if config.variant == "pro" else ("proj",)
    for i in range(config.blocks):
        ours, theirs = f"head.blocks.{i}", f"{BLOCKS}{i}"
        tensors[f"{ours}.gate"] = f"{theirs}.gating_factor"
        layers |= {f"{ours}.q": f"{theirs}.q_proj", f"{ours}.out": f"{theirs}.o_proj"}
        layers |= {f"{ours}.norm": f"{theirs}.ffn.0", f"{ours}.linear": f"{theirs}.ffn.1"}
        layers |= {f"{ours}.{x}.{j}": f"{theirs}.{x}_{source}" for j, source in enumerate(sources) for x in "kv"}
    if config.proprio_dim:
        layers |= {f"proprio.{x}": f"{PROPRIO}{x}" for x in ("fc1", "fc2")}
    if config.latent_dim:
        layers |= {f"align.{x}": f"{ALIGN}{x}" for x in ("norm", "fc1", "fc2")}
    if config.pooling:
        tensors["pooling.query"] = f"{POOLING}query"
    return tensors | layer_names(layers)


def sizes(foreign: Tensors) -> dict[str, Any]:
    """Return the fields that names and shapes tell; published ones where a tensor is missing, which is said later."""
    size = partial(axis_of, foreign)

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in foreign)

    return {
        "variant": "pro" if any(re.search(r"\.[kv]_(self|adapter|task)\.", name) for name in foreign) else "base",
        "action_dim": size(f"{HEAD}fc2.weight", 0, 7),
        "dim": size(f"{HEAD}fc2.weight", 1, 2048),
        "blocks": numbered(foreign, rf"{re.escape(BLOCKS)}(\d+)\.") or 11,
        "proprio_dim": size(f"{PROPRIO}fc1.weight", 1, 8) if has(PROPRIO) else 0,
        "pooling": has(POOLING),
        "latent_dim": size(f"{ALIGN}fc2.weight", 0, 128) if has(ALIGN) else 0,
        "align_hidden": size(f"{ALIGN}fc2.weight", 1, 256) if has(ALIGN) else 0,
    }


def split_language_model(language: Tensors, alpha: float, where: str) -> tuple[Lora | None, dict[str, Tensor]]:
    """Part LoRA pairs from all other weights of a language model, by peft's or by transformers' names."""
    sides: dict[str, dict[str, Tensor]] = {}
    backbone, problems, adapters = {}, [], set()
    for name, tensor in language.items():
        match = LORA.fullmatch(name)
        plain = name.removeprefix(PEFT).replace(".base_layer.", ".")
        if match:
            sides.setdefault(match["module"].removeprefix(PEFT), {})[match["side"]] = tensor.clone()  # off the file
            adapters.add(match["adapter"] or "default")
        elif ".lora_" in name or ".modules_to_save." in name or ".original_module." in name or plain in backbone:
            problems.append(f"unexpected {VLM}{name}")  # another kind of adapter
        elif not bool(torch.isfinite(tensor).all()):
            problems.append(f"{VLM}{name} holds NaN or infinity")
        else:
            backbone[plain] = tensor
    if len(adapters) > 1:
        problems.append(f"several adapters: {', '.join(sorted(adapters))}")
    ranks = Counter(pair["A"].shape[0] for pair in sides.values() if "A" in pair and pair["A"].ndim)
    rank = ranks.most_common(1)[0][0] if ranks else 0
    for module, pair in sides.items():
        problems += _lora_problems(module, pair, rank, backbone.get(f"{module}.weight"))
    if problems:
        checks.fail(where, "a language model with LoRA pairs of one rank", "; ".join(problems))
    pairs = {module: (pair["A"], pair["B"]) for module, pair in sorted(sides.items())}
    return (Lora(rank, alpha, pairs) if pairs else None), backbone


def _lora_problems(module: str, pair: Tensors, rank: int, base: Tensor | None) -> Iterator[str]:
    """Tell what is wrong with one layer's adapter."""
    name, forms = f"{VLM}{module}.lora_", {"A": "[r, in]", "B": "[out, r]"}
    yield from (f"missing {name}{side} of a LoRA pair" for side in forms if side not in pair)
    for side, tensor in pair.items():
        axis, shape = "AB".index(side), list(tensor.shape)
        if tensor.ndim != 2 or shape[axis] != rank:
            yield f"{name}{side} has shape {shape}, expected {forms[side]}, r {rank}"
        elif base is not None and (base.ndim != 2 or base.shape[1 - axis] != shape[1 - axis]):
            yield f"{name}{side} has shape {shape}, its layer {list(base.shape)}"
        if not tensor.is_floating_point():
            yield f"{name}{side} is {tensor.dtype}"
        elif not bool(torch.isfinite(tensor).all()):
            yield f"{name}{side} holds NaN or infinity"


def found(config: ReleasedVLAConfig, lora: Lora | None, backbone: Tensors) -> dict[str, Any]:
    """Tell what the file holds, for the report."""
    facts: dict[str, Any] = {"head": config.variant, "blocks": config.blocks, "action_dim": config.action_dim}
    facts |= {"width": config.dim, "proprio_dim": config.proprio_dim or None, "pooling": config.pooling}
    facts["align"] = {"hidden": config.align_hidden, "latent_dim": config.latent_dim} if config.latent_dim else None
    facts["lora"] = {"rank": lora.rank, "layers": len(lora.pairs)} if lora else None
    return facts | {"language_model_tensors": len(backbone)}


def merged(backbone: Tensors, lora: Lora | None) -> dict[str, Tensor]:
    """Return the language model's weights, W + (alpha / r) B A where it has adapters, in the file's dtype."""
    tensors = dict(backbone)
    if lora is not None:
        for layer, (a, b) in lora.pairs.items():
            weight = backbone[f"{layer}.weight"]
            adapted = weight.float() + lora.alpha / lora.rank * (b.float() @ a.float())
            tensors[f"{layer}.weight"] = adapted.to(weight.dtype)
    tied = [name for name in tensors if name.endswith(EMBEDDING)]
    if LOGITS in tensors and any(torch.equal(tensors[LOGITS], tensors[name]) for name in tied):
        del tensors[LOGITS]  # transformers writes tied weights once
    return tensors


def write_adapter(lora: Lora, folder: Path, base_model: str) -> None:
    """Write the folder that `peft.PeftModel.from_pretrained(base, folder)` reads."""
    tensors = {
        f"{PEFT}{module}.lora_{side}.weight": tensor
        for module, pair in lora.pairs.items()
        for side, tensor in zip("AB", pair, strict=True)
    }
    _write_tensors(folder / "adapter_model.safetensors", tensors)
    config = {"peft_type": "LORA", "task_type": None, "base_model_name_or_path": base_model, "inference_mode": True}
    config |= {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": 0.0, "bias": "none"}
    config |= {"fan_in_fan_out": False, "target_modules": list(lora.pairs)}  # whole paths: these layers and no other
    files.write_json(folder / "adapter_config.json", config)


def _write_tensors(path: Path, tensors: Tensors) -> None:
    """Write a safetensors file that transformers and peft read, from where the tensors lie."""
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():  # the format refuses tensors that share memory
        place = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if place in seen else tensor.contiguous()
        seen.add(place)
    with files.whole_file(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # its own writer makes private files
        safetensors.torch.save_file(own, temporary, {"format": "pt"})
        temporary.chmod(mode)
