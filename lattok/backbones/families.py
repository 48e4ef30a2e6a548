"""What differs between the Hugging Face models that can be a backbone: one row of a table for each family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lattok import checks


def _as_they_are(processor: Any) -> dict[str, Any]:
    """Qwen-VL takes any size, but its processors enlarge small images: released ones make 256² of 224².

    We lower that bound to a single token, so that an image is only rounded to whole tokens: 224² becomes 49 of them
    (Qwen3-VL) or 64 (Qwen2.5-VL). The upper bound stays the processor's own.
    """
    images = processor.image_processor
    size = images.size if isinstance(images.size, Mapping) else vars(images.size)
    return {
        "size": {"shortest_edge": (images.patch_size * images.merge_size) ** 2, "longest_edge": size["longest_edge"]}
    }


def _one_tile(processor: Any) -> dict[str, Any]:
    """SmolVLM2 enlarges an image and cuts it into tiles; one tile is the size of its image tower."""
    tile = processor.image_processor.max_image_size
    tile = tile if isinstance(tile, Mapping) else vars(tile)
    return {"do_image_splitting": False, "size": {"longest_edge": tile["longest_edge"]}}


def _whole(processor: Any) -> dict[str, Any]:
    """InternVL cuts an image into tiles."""
    return {"crop_to_patches": False}


def _no_crops(processor: Any) -> dict[str, Any]:
    """Gemma3 can add crops of an image."""
    return {"do_pan_and_scan": False}


def _nothing(processor: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Family:
    """How one kind of model is spoken to. All but Qwen-VL resize images to the size of their image tower."""

    name: str
    model_types: tuple[str, ...]  # `model_type` in config.json
    image: str | None  # what stands for an image in the text; none for models that read only text
    placeholder_types: Mapping[str, int] = field(
        default_factory=dict
    )  # further inputs by token: value at a placeholder
    chat: bool = True  # speaks in turns, so that it needs a template
    image_options: Callable[[Any], dict[str, Any]] = _nothing  # processor -> its arguments for images


QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
TEXT = Family("text", (), None, chat=False)
FAMILIES = (
    Family("qwen3_vl", ("qwen3_vl",), QWEN_IMAGE, {"mm_token_type_ids": 0}, image_options=_as_they_are),
    Family("qwen2_5_vl", ("qwen2_5_vl",), QWEN_IMAGE, {"mm_token_type_ids": 0}, image_options=_as_they_are),
    Family("smolvlm", ("smolvlm", "idefics3"), "<image>", image_options=_one_tile),
    # type 0 is the prefix, whose tokens see each other in both directions; type 1 is causal
    Family("paligemma", ("paligemma",), "<image>", {"token_type_ids": 1}, chat=False),
    # type 1 is an image, whose tokens see each other in both directions; type 0 is causal
    Family("gemma3", ("gemma3",), "<start_of_image>", {"token_type_ids": 0}, image_options=_no_crops),
    Family("internvl", ("internvl",), "<IMG_CONTEXT>", image_options=_whole),
    TEXT,
)


def family_of(config: Any) -> Family:
    """Return the family of a model by its transformers config; every model without images is one of "text"."""
    for family in FAMILIES:
        if config.model_type in family.model_types:
            return family
    if any(getattr(config, part, None) is not None for part in ("vision_config", "audio_config", "thinker_config")):
        known = ", ".join(name for family in FAMILIES for name in family.model_types)
        checks.fail("backbone", f"a text model or one of the types {known}", repr(config.model_type))
    return TEXT
