"""Tiny random backbones of every family, made without the Hub, for tests, examples and trying things out.

    backbone = HFBackbone.load(str(tiny_backbone("qwen3_vl", folder)))

Each has four layers 64 wide, a vocabulary of bytes and the family's own special tokens, and an image tower for images
of 32 pixels (Qwen: any size). They know nothing; only their wiring is real.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lattok.backbones.pretrained import FAMILIES, require
from lattok.utils import checks

Options = Mapping[str, Any]
SIDE = 32  # of an image, in pixels
LAYERS: Options = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4}
TEXT: Options = {**LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
ROPE: Options = {"rope_type": "default", "rope_theta": 5e6}
SMALL: Options = {"hidden_size": 32, "intermediate_size": 64}
TOWER: Options = {**SMALL, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8}
SIGLIP: Options = {"model_type": "siglip_vision_model", "vision_use_head": False, **TOWER}
MERGE: Options = {"spatial_merge_size": 2, "temporal_patch_size": 2}
QWEN_TOWER: Options = {**SMALL, "depth": 2, "num_heads": 2, "out_hidden_size": 64, **MERGE}
PATCHES: Options = {"merge_size": 2, "temporal_patch_size": 2}
SQUARE: Options = {"size": {"height": SIDE, "width": SIDE}}
HALVES: Options = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
LONGEST: Options = {"max_image_size": {"longest_edge": SIDE}}
RELEASED: Options = {"size": {"shortest_edge": 65536, "longest_edge": 16777216}}
TURN = ("<|im_start|>", "<|im_end|>")
QWEN_TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
QWEN_SPECIALS = (*TURN, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
GEMMA_TOKENS = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
INTERN_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
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

    name: str  # what the names of its classes in transformers begin with
    text: Options
    tower: Options | None = None
    options: Options = field(default_factory=dict)  # of the config
    specials: tuple[str, ...] = ()
    named: Mapping[str, str] = field(default_factory=dict)  # special tokens that the tokenizer knows by name
    ids: Mapping[str, str] = field(default_factory=dict)  # option of the config -> the token whose id it is
    turn: tuple[str, str] | None = TURN  # its beginning and end in the chat template
    bos: str | None = None
    images: str = ""  # class of the image processor; none: the tokenizer is all
    image_options: Options = field(default_factory=dict)
    video: str = ""  # class of the video processor, where there is one
    video_options: Options = field(default_factory=dict)
    processor_options: Options = field(default_factory=dict)


TINY: Mapping[str, Tiny] = {
    "qwen3_vl": Tiny(
        "Qwen3VL",
        {**TEXT, "rope_parameters": {**ROPE, "mrope_section": [4, 2, 2], "mrope_interleaved": True}},
        {**QWEN_TOWER, "patch_size": 16, "num_position_embeddings": 196, "deepstack_visual_indexes": [0]},
        {"tie_word_embeddings": True},
        QWEN_SPECIALS,
        ids=QWEN_TOKENS,
        images="Qwen2VLImageProcessor",
        image_options={"patch_size": 16, **PATCHES, **HALVES, **RELEASED},
        video="Qwen3VLVideoProcessor",
    ),
    "qwen2_5_vl": Tiny(
        "Qwen2_5_VL",
        {**TEXT, "rope_parameters": {**ROPE, "rope_theta": 1e6, "mrope_section": [2, 3, 3]}},
        {**QWEN_TOWER, "patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]},
        {"tie_word_embeddings": False},
        QWEN_SPECIALS,
        ids=QWEN_TOKENS,
        images="Qwen2VLImageProcessor",
        image_options={"patch_size": 14, **PATCHES},
        video="Qwen2VLVideoProcessor",
    ),
    "smolvlm": Tiny(
        "SmolVLM",
        {"model_type": "llama", **TEXT},
        TOWER,
        {"scale_factor": 2},
        ("<image>", "<fake_token_around_image>", "<global-img>", "<|im_start|>", "<end_of_utterance>"),
        ids={"image_token_id": "<image>"},
        turn=("<|im_start|>", "<end_of_utterance>"),
        images="SmolVLMImageProcessor",
        image_options={"size": {"longest_edge": 4 * SIDE}, **LONGEST},
        video="SmolVLMVideoProcessor",
        video_options={"size": {"longest_edge": SIDE}, **LONGEST, "num_frames": 1, "fps": 1},
        processor_options={"image_seq_len": 4},
    ),
    "paligemma": Tiny(
        "PaliGemma",
        {"model_type": "gemma", **TEXT},
        SIGLIP,
        {"projection_dim": 64, "hidden_size": 64},
        ("<image>",),
        {"image_token": "<image>"},
        {"image_token_index": "<image>"},
        turn=None,
        bos="<bos>",
        images="SiglipImageProcessor",
        image_options={**SQUARE, **HALVES, "image_seq_length": 16},
    ),
    "gemma3": Tiny(
        "Gemma3",
        {**TEXT, "sliding_window": 32, "query_pre_attn_scalar": 16},
        SIGLIP,
        {"mm_tokens_per_image": 4},
        (*GEMMA_TOKENS.values(), "<start_of_turn>", "<end_of_turn>"),
        GEMMA_TOKENS,
        {f"{name}_index": token for name, token in GEMMA_TOKENS.items()},
        turn=("<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        images="Gemma3ImageProcessor",
        image_options={**SQUARE, **HALVES},
        processor_options={"image_seq_length": 4},
    ),
    "internvl": Tiny(
        "InternVL",
        {"model_type": "qwen2", **TEXT},
        TOWER,
        {"image_seq_length": 4},
        (*INTERN_TOKENS.values(), *TURN),
        INTERN_TOKENS,
        {"image_token_id": "<IMG_CONTEXT>"},
        images="GotOcr2ImageProcessor",
        image_options={**SQUARE, "crop_to_patches": True},
        video="InternVLVideoProcessor",
        video_options=SQUARE,
        processor_options={"image_seq_length": 4},
    ),
    "text": Tiny("Qwen3", {**TEXT, "tie_word_embeddings": True}, specials=TURN),
}


def tiny_backbone(family: str, folder: str | Path, seed: int = 0) -> Path:
    """Write a random model of `family` (a name in `FAMILIES`) with its processor into `folder`, and return that."""
    checks.one_of("family", family, TINY)
    transformers, tiny, folder = require("transformers"), TINY[family], Path(folder)
    tokenizer = _tokenizer(transformers, tiny)
    if tiny.turn is not None:
        image = next(each.image for each in FAMILIES if each.name == family) or ""
        chat = CHAT.format(start=tiny.turn[0], image=image, end=tiny.turn[1])
        tokenizer.chat_template = (tiny.bos or "") + chat
    processor = _processor(transformers, tiny, tokenizer)  # PaliGemma's adds tokens for places in an image
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind = "ForCausalLM" if tiny.tower is None else "ForConditionalGeneration"
        model = getattr(transformers, tiny.name + kind)(_config(transformers, tiny, tokenizer))
        for weight in model.parameters():
            if weight.ndim > 1 and not weight.any():  # Gemma3's projector starts at zero: no image would get through
                torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _config(transformers: Any, tiny: Tiny, tokenizer: Any) -> Any:
    known = {name: getattr(tokenizer, name) for name in ("pad_token_id", "eos_token_id", "bos_token_id")}
    text = {**tiny.text, **known, "vocab_size": len(tokenizer)}
    kind = getattr(transformers, f"{tiny.name}Config")
    if tiny.tower is None:
        return kind(**text)
    ids = {option: tokenizer.convert_tokens_to_ids(token) for option, token in tiny.ids.items()}
    return kind(text_config=text, vision_config=dict(tiny.tower), **ids, **tiny.options)


def _processor(transformers: Any, tiny: Tiny, tokenizer: Any) -> Any:
    if not tiny.images:
        return tokenizer
    images = getattr(transformers, tiny.images)(**tiny.image_options)
    parts = {"image_processor": images, "tokenizer": tokenizer, "chat_template": tokenizer.chat_template}
    if tiny.video:
        parts["video_processor"] = getattr(transformers, tiny.video)(**tiny.video_options)
    return getattr(transformers, f"{tiny.name}Processor")(**parts, **tiny.processor_options)


def _tokenizer(transformers: Any, tiny: Tiny) -> Any:
    """Make every byte a token, and add the family's special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<eos>", *([tiny.bos] if tiny.bos else []), *tiny.specials])
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
