"""The interface of base models for policies. Those of Hugging Face need the extra vla."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from lattok.utils import checks
from lattok.utils.options import GROUP, check_choices

Inputs = Mapping[str, Any]  # tensors, and what is known of them on the host
SCRATCH = "scratch"  # a small one with random weights, which lies in the artefact itself
Train = Literal["lora", "full", "all_but_vision", "frozen"]
Dtype = Literal["float32", "bfloat16"]  # of a pretrained model's weights


class BackboneOut(NamedTuple):
    """Hidden states [B, L, D] by layer; the last T of the L positions are the queries."""

    hidden: dict[int, Tensor]
    queries: slice  # positions of the queries
    valid: Tensor  # [B, L] bool: no padding
    image: Tensor | None  # [B, L] bool: image tokens; none for a model that reads only text
    image_counts: tuple[int, int] | None = None  # fewest and most of a sample; none: to be counted, on the host


class Backbone(nn.Module):
    """A base model of policies: turns images, prompts and queries into hidden states.

    Hidden states are counted as in transformers: 0 are the embeddings, k the output of layer k, and N follows the last
    norm.
    """

    hidden_size: int  # D
    num_layers: int  # N
    embedding_rms: float  # usual size of a number in an embedding: queries start there
    predicts_text: bool = False  # has a head for text
    reads_images: bool = True
    revision: str | None = None  # of its weights

    def adapt(self, train: str, lora: "LoraSpec", gradient_checkpointing: bool = False) -> None:
        """Choose in place what is trained, by `requires_grad`. Called once."""
        raise NotImplementedError

    def prepare(self, images: Tensor, texts: Sequence[str]) -> Inputs:
        """Turn images uint8 [B, V, h, w, 3] and B prompts into inputs, padded on the left, on the images' device."""
        raise NotImplementedError

    def forward(self, inputs: Inputs, queries: Tensor, layers: Sequence[int]) -> BackboneOut:
        """Return hidden states of `layers`. Queries [B, T, D] come last, and each sees what is before it."""
        raise NotImplementedError

    def tokens_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts. The thread that makes batches calls this, as it calls `prepare`."""
        raise NotImplementedError

    def text_errors(self, inputs: Inputs, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return -log p of B rows of tokens after their prompts [B, T], and which of them count."""
        raise NotImplementedError

    def saved_tensors(self) -> dict[str, Tensor]:
        """Return what a saved model must contain: adapters, or trained weights."""
        raise NotImplementedError

    def merge(self) -> None:
        """Merge the adapters into the weights; pretrained backbones only."""
        raise NotImplementedError

    def save_base(self, folder: str | Path) -> Path:
        """Write the whole base model as it is now; pretrained backbones only."""
        raise NotImplementedError


@dataclass(frozen=True)
class LoraSpec:
    """Low-rank adapters on all linear layers (Hu et al., 2022); P2T B.1: rank 64, alpha 16, scale alpha / rank.

    Attributes:
        rank: rank of the adapters in the backbone
        alpha: alpha of the adapters: what they add is scaled by alpha / rank
        dropout: dropout of the adapters' input, in training
        vision: puts adapters into the image tower as well
        projector: with "lora", trains the projector from the image tower to the words as a whole (modules_to_save)
    """

    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.0
    vision: bool = True
    projector: bool = False

    def __post_init__(self) -> None:
        check_choices(self, "backbone_lora")
        checks.counts(backbone_lora_rank=self.rank)
        checks.positive(backbone_lora_alpha=self.alpha)
        checks.below_one(backbone_lora_dropout=self.dropout)


@dataclass(frozen=True)
class BackboneConfig:
    """The base model of a policy or of a clip model, and which part of it is trained.

    Attributes:
        name: vision-language model that it is built on: a Hub id, a folder, or "scratch"
        revision: commit of the backbone, or the fingerprint of its folder
        dtype: dtype of the base model's frozen weights; what is trained is float32
        train: which part of the backbone is trained; of a scratch backbone everything ("full")
        gradient_checkpointing: computes activations again in the backward pass: less memory for more time
        width: width of the scratch backbone
        depth: layers of the scratch backbone
        heads: attention heads of the scratch backbone
        patch_size: side of the scratch backbone's patches in pixels
    """

    # what a policy that goes on with one may change, by flat names: its weights mean the same
    free: ClassVar[frozenset[str]] = frozenset({"backbone_lora_dropout", "backbone_gradient_checkpointing"})

    name: str = "Qwen/Qwen3-VL-2B-Instruct"
    revision: str | None = None
    dtype: Dtype = "float32"
    train: Train = "lora"
    lora: LoraSpec = field(default_factory=LoraSpec, metadata=GROUP)
    gradient_checkpointing: bool = False
    width: int = 128
    depth: int = 4
    heads: int = 4
    patch_size: int = 16

    def __post_init__(self) -> None:
        checks.counts(backbone_width=self.width, backbone_depth=self.depth, backbone_heads=self.heads)
        checks.counts(backbone_patch_size=self.patch_size)
        check_choices(self, "backbone")
        if self.name == SCRATCH:
            checks.one_of("backbone_train", self.train, ("full",))
