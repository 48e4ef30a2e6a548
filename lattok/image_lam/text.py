"""Frozen text features: the last hidden states of a T5 encoder, for language conditioning (stage 1).

The module carries no weights into an artefact: a saved model names its text encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lattok import checks, files

MAX_TOKENS = 512  # T5's own limit; instructions have about ten


class TextEncoder(nn.Module):
    """Texts to vectors of one fixed, frozen encoder: `TextEncoder("t5:google-t5/t5-base").load().encode(["lift it"])`.

    `name` is "t5:MODEL", where MODEL is a Hub id or a folder. Nothing is read before `load()`.
    """

    def __init__(self, name: str, revision: str | None = None):
        super().__init__()
        if not name.startswith("t5:") or name == "t5:":
            checks.fail("language", '"t5:MODEL", where MODEL is a Hub id or a folder', repr(name))
        self.name, self.revision = name, revision
        self.network: Any = None
        self.tokenizer: Any = None

    @property
    def dim(self) -> int:
        """Width of the vectors; known after `load()`."""
        return int(self._loaded().config.d_model)

    def load(self) -> TextEncoder:
        """Load tokenizer and weights, from the Hub or a folder; a second call does nothing."""
        if self.network is None:
            network, self.tokenizer = _read(self.name.removeprefix("t5:"), self.revision)
            self.network = network.float().eval().requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> TextEncoder:
        """Frozen parts stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """B texts to vectors [B, S, D] float32 and mask [B, S] bool, S of the longest; padding is zero."""
        network = self._loaded()
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) for text in texts):
            checks.fail("texts", "a list of at least one text", repr(texts))
        ids = [self.tokenizer(text, truncation=True, max_length=MAX_TOKENS)["input_ids"] for text in texts]
        mask = torch.arange(max(map(len, ids))) < torch.tensor([len(row) for row in ids])[:, None]
        padded = torch.zeros(mask.shape, dtype=torch.long)
        padded[mask] = torch.tensor([token for row in ids for token in row])
        padded, mask = padded.to(network.device), mask.to(network.device)
        vectors = network(input_ids=padded, attention_mask=mask.long()).last_hidden_state
        return vectors * mask[..., None], mask

    def _loaded(self) -> Any:
        if self.network is None:
            raise RuntimeError(f"text encoder {self.name!r} has no weights yet: call .load() first")
        return self.network


def _read(model: str, revision: str | None) -> tuple[nn.Module, Any]:
    """Encoder and tokenizer of a Hub id or a folder."""
    try:
        from transformers import AutoTokenizer, T5EncoderModel
    except ImportError:
        hint = "Or give text vectors yourself: language=precomputed."
        checks.fail("language", "the package transformers (pip install 'lattok[vla]')", "none", hint)
    if model.startswith((".", "/", "~")) and not (Path(model).expanduser() / "config.json").is_file():
        checks.fail("language", "a folder with config.json, or a Hub id like google-t5/t5-base", model)
    where, kind = str(Path(model).expanduser()) if model.startswith("~") else model, cast(Any, T5EncoderModel)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision)
        network, report = kind.from_pretrained(where, revision=revision, output_loading_info=True)
    except Exception as error:  # transformers and huggingface_hub raise many kinds; the user needs one line
        checks.fail("language", f"a T5 encoder; {model!r} could not be read", files.first_line(error))
    missing = [*report["missing_keys"], *report["mismatched_keys"]]
    if missing:  # transformers fills these with random numbers
        checks.fail("language", f"a T5 encoder; {model!r} lacks weights", ", ".join(map(str, missing)))
    return network, tokenizer
