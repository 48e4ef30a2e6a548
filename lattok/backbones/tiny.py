"""Tiny random backbones of every family, made without the Hub, for tests, examples and trying things out.

    backbone = HFBackbone.load(str(tiny_qwen3_vl(folder)))

Each has four layers 64 wide, a vocabulary of bytes and the family's own special tokens, and an image tower for images
of 32 pixels (Qwen: any size). They know nothing; only their wiring is real.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lattok import checks
from lattok.backbones.pretrained import require

TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
QWEN_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "depth": 2,
    "num_heads": 2,
    "out_hidden_size": 64,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
QWEN_SPECIALS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
CHAT = (
    "{{% for turn in messages %}}{start}user\n{{% if turn['content'] is string %}}{{{{ turn['content'] }}}}"
    "{{% else %}}{{% for part in turn['content'] %}}{{% if part['type'] == 'image' %}}{image}{{% else %}}"
    "{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}{{% endif %}}{end}\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}{start}assistant\n{{% endif %}}"
)


@dataclass(frozen=True)
class Tiny:
    """Recipe of one family's tiny model: names in transformers, configurations, and special tokens."""

    config: str  # class names in transformers
    model: str
    text: Mapping[str, Any]
    tower: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of the config
    specials: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)  # special tokens that the tokenizer knows by name
    ids: Mapping[str, str] = field(default_factory=dict)  # option of the config -> the token whose id it is
    chat: tuple[str, str, str] | None = None  # start of a turn, image, end of a turn
    bos: str | None = None
    processor: Callable[[Any, Any, str | None], Any] | None = None  # transformers, tokenizer, template -> processor


def _square(size: int = TOWER["image_size"]) -> dict[str, int]:
    return {"height": size, "width": size}


def _qwen3_processor(transformers: Any, tokenizer: Any, template: str | None) -> Any:
    patches = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    images = transformers.Qwen2VLImageProcessor(
        size={"shortest_edge": 65536, "longest_edge": 16777216},  # as released
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        **patches,
    )
    return transformers.Qwen3VLProcessor(
        images, tokenizer, transformers.Qwen3VLVideoProcessor(), chat_template=template
    )


def _qwen2_5_processor(transformers: Any, tokenizer: Any, template: str | None) -> Any:
    images = transformers.Qwen2VLImageProcessor(patch_size=14, merge_size=2, temporal_patch_size=2)
    video = transformers.Qwen2VLVideoProcessor()
    return transformers.Qwen2_5_VLProcessor(images, tokenizer, video, chat_template=template)


def _smolvlm_processor(transformers: Any, tokenizer: Any, template: str | None) -> Any:
    side = TOWER["image_size"]
    images = transformers.SmolVLMImageProcessor(size={"longest_edge": 4 * side}, max_image_size={"longest_edge": side})
    video = transformers.SmolVLMVideoProcessor(
        size={"longest_edge": side}, max_image_size={"longest_edge": side}, num_frames=1, fps=1
    )
    return transformers.SmolVLMProcessor(images, tokenizer, video, image_seq_len=4, chat_template=template)


def _paligemma_processor(transformers: Any, tokenizer: Any, template: str | None) -> Any:
    images = transformers.SiglipImageProcessor(size=_square(), image_mean=[0.5] * 3, image_std=[0.5] * 3)
    images.image_seq_length = 16
    return transformers.PaliGemmaProcessor(images, tokenizer)


def _gemma3_processor(transformers: Any, tokenizer: Any, template: str | None) -> Any:
    images = transformers.Gemma3ImageProcessor(size=_square(), image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return transformers.Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4)


def _internvl_processor(transformers: Any, tokenizer: Any, template: str | None) -> Any:
    images = transformers.GotOcr2ImageProcessor(size=_square(), crop_to_patches=True)
    video = transformers.InternVLVideoProcessor(size=_square())
    return transformers.InternVLProcessor(images, tokenizer, video, image_seq_length=4, chat_template=template)


QWEN_CHAT = ("<|im_start|>", "<|vision_start|><|image_pad|><|vision_end|>", "<|im_end|>")
TINY: Mapping[str, Tiny] = {
    "qwen3_vl": Tiny(
        "Qwen3VLConfig",
        "Qwen3VLForConditionalGeneration",
        {
            **TEXT,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        {**QWEN_TOWER, "patch_size": 16, "num_position_embeddings": 196, "deepstack_visual_indexes": [0]},
        {"tie_word_embeddings": True},
        QWEN_SPECIALS,
        ids=QWEN_IDS,
        chat=QWEN_CHAT,
        processor=_qwen3_processor,
    ),
    "qwen2_5_vl": Tiny(
        "Qwen2_5_VLConfig",
        "Qwen2_5_VLForConditionalGeneration",
        {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}},
        {**QWEN_TOWER, "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]},
        {"tie_word_embeddings": False},
        QWEN_SPECIALS,
        ids=QWEN_IDS,
        chat=QWEN_CHAT,
        processor=_qwen2_5_processor,
    ),
    "smolvlm": Tiny(
        "SmolVLMConfig",
        "SmolVLMForConditionalGeneration",
        {"model_type": "llama", **TEXT},
        TOWER,
        {"scale_factor": 2},
        ("<image>", "<fake_token_around_image>", "<global-img>", "<|im_start|>", "<end_of_utterance>"),
        ids={"image_token_id": "<image>"},
        chat=("<|im_start|>", "<image>", "<end_of_utterance>"),
        processor=_smolvlm_processor,
    ),
    "paligemma": Tiny(
        "PaliGemmaConfig",
        "PaliGemmaForConditionalGeneration",
        {"model_type": "gemma", **TEXT},
        {"model_type": "siglip_vision_model", "vision_use_head": False, **TOWER},
        {"projection_dim": 64, "hidden_size": 64},
        ("<image>",),
        {"image_token": "<image>"},
        ids={"image_token_index": "<image>"},
        bos="<bos>",
        processor=_paligemma_processor,
    ),
    "gemma3": Tiny(
        "Gemma3Config",
        "Gemma3ForConditionalGeneration",
        {**TEXT, "sliding_window": 32, "query_pre_attn_scalar": 16},
        {"model_type": "siglip_vision_model", "vision_use_head": False, **TOWER},
        {"mm_tokens_per_image": 4},
        ("<start_of_image>", "<image_soft_token>", "<end_of_image>", "<start_of_turn>", "<end_of_turn>"),
        {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"},
        ids={
            "boi_token_index": "<start_of_image>",
            "image_token_index": "<image_soft_token>",
            "eoi_token_index": "<end_of_image>",
        },
        chat=("<start_of_turn>", "<start_of_image>", "<end_of_turn>"),
        bos="<bos>",
        processor=_gemma3_processor,
    ),
    "internvl": Tiny(
        "InternVLConfig",
        "InternVLForConditionalGeneration",
        {"model_type": "qwen2", **TEXT},
        TOWER,
        {"image_seq_length": 4},
        ("<img>", "</img>", "<IMG_CONTEXT>", "<video>", "<|im_start|>", "<|im_end|>"),
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        ids={"image_token_id": "<IMG_CONTEXT>"},
        chat=("<|im_start|>", "<IMG_CONTEXT>", "<|im_end|>"),
        processor=_internvl_processor,
    ),
    "text": Tiny(
        "Qwen3Config",
        "Qwen3ForCausalLM",
        {**TEXT, "tie_word_embeddings": True},
        specials=("<|im_start|>", "<|im_end|>"),
        chat=("<|im_start|>", "", "<|im_end|>"),
    ),
}


def tiny_qwen3_vl(folder: str | Path, seed: int = 0) -> Path:
    """A random Qwen3-VL of 0.3 M parameters with its processor, written into `folder`."""
    return tiny_backbone("qwen3_vl", folder, seed)


def tiny_backbone(family: str, folder: str | Path, seed: int = 0) -> Path:
    """A random model of `family` (a name of `lattok.backbones.families`) with its processor, written into `folder`."""
    checks.one_of("family", family, TINY)
    transformers, tiny, folder = require("transformers"), TINY[family], Path(folder)
    tokenizer = _tokenizer(transformers, tiny)
    template = None
    if tiny.chat is not None:
        start, image, end = tiny.chat
        template = (tiny.bos or "") + CHAT.format(start=start, image=image, end=end)
    if tiny.processor is None:
        processor = tokenizer
        processor.chat_template = template
    else:
        processor = tiny.processor(transformers, tokenizer, template)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, tiny.model)(_config(transformers, tiny, tokenizer))
        for weight in model.parameters():
            if weight.ndim > 1 and not weight.any():  # Gemma3's projector starts at zero: no image would get through
                torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _config(transformers: Any, tiny: Tiny, tokenizer: Any) -> Any:
    ids = {option: tokenizer.convert_tokens_to_ids(token) for option, token in tiny.ids.items()}
    known = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**tiny.text, **known, "bos_token_id": tokenizer.bos_token_id, "vocab_size": len(tokenizer)}
    if tiny.tower is None:
        return getattr(transformers, tiny.config)(**text, **tiny.options)
    parts = {"text_config": text, "vision_config": dict(tiny.tower)}
    return getattr(transformers, tiny.config)(**parts, **ids, **tiny.options)


def _tokenizer(transformers: Any, tiny: Tiny) -> Any:
    """Every byte is a token; there are also the family's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<pad>", "<eos>", *([tiny.bos] if tiny.bos else []), *tiny.specials]
    tokenizer.add_special_tokens(specials)
    if tiny.bos:  # put before every text, as Gemma's tokenizer does
        ids = [(tiny.bos, tokenizer.token_to_id(tiny.bos))]
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{tiny.bos} $A", special_tokens=ids)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token=tiny.bos,
        extra_special_tokens=dict(tiny.named),
    )
