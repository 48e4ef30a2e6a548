"""Codecs of published formats and papers: FAST (Pertsch et al., 2025) and TOAST (Shirai et al., 2026).

FAST     byte-pair codes of coefficients [H, m] row by row: the lowest frequencies of all dimensions come first
TOAST    pieces of a unigram language model, of coefficients [m, H]: all frequencies of a dimension come first

FAST reads and writes the published format too: `tokenizer.json` and `processor_config.json`. Under transformers 5 the
published class puts the former into the folder `bpe_tokenizer/`.

TOAST's published tokenizer is named stochastic for its training, in which a policy sees many ways to cut the same
chunk: `sample` draws one. Its own files are not read: how they write coefficients is in code on the Hub alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from typing_extensions import Self

from lattok.action_vq.dct import TOKENIZER, DCTConfig, DCTTokenizer, padded
from lattok.action_vq.subwords import CoefficientBPE, CoefficientUnigram
from lattok.hub import client
from lattok.hub.client import HubOptions
from lattok.nn.normalize import read_statistics
from lattok.utils import checks, files
from lattok.utils.arrays import Values, like
from lattok.utils.checks import LattokError
from lattok.utils.untrusted import JSON_BYTES

SUBFOLDER = "bpe_tokenizer"
PROCESSOR = "processor_config.json"


@dataclass(frozen=True)
class FASTConfig(DCTConfig):
    """As every `DCTConfig`."""


class FAST(DCTTokenizer):
    """Chunks [B, H, m] to rows of codes of different lengths, padded with -1.

    >>> tokenizer = FAST.fit(chunks, vocab_size=1024)            # [N, H, m] in physical units
    >>> tokenizer = FAST.from_published("physical-intelligence/fast", action_dim=7, horizon=8)
    >>> tokenizer.decode(tokenizer(chunks), time_horizon=8, action_dim=7)   # as the published processor is called
    """

    type = "fast"
    arxiv = "2501.09747"
    config_class = FASTConfig
    subwords_class = CoefficientBPE
    by_dimension = False
    made_by = ".fit, from_published or from_pretrained"

    @classmethod
    def from_published(
        cls,
        source: str | os.PathLike[str],
        *,
        action_dim: int | None = None,
        horizon: int | None = None,
        statistics: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        normalize: str | None = None,
        revision: str | None = None,
        **options: Any,
    ) -> Self:
        """Load the published format from a folder or a Hub id, such as "physical-intelligence/fast".

        `action_dim` and `horizon` are needed where the file leaves them open. Published tokenizers take normalised
        actions: `statistics` of the actions, a mapping or a JSON file such as LeRobot's stats.json, make the normaliser
        (of q01 and q99 if they have these, unless `normalize` says otherwise); without them it is the identity.
        `options` are further fields of `FASTConfig`, of which `max_token` limits coefficients and shortens rows, and
        the keywords of huggingface_hub.
        """
        asked = {name: options.pop(name) for name in get_type_hints(HubOptions) if name in options}
        folder, tokenizer, commit = _published(source, revision, asked)
        raw = files.read_json(folder / PROCESSOR)
        facts: dict[str, Any] = {name: raw.get(name) for name in ("scale", "min_token", "vocab_size")}
        facts |= {"action_dim": action_dim or raw.get("action_dim"), "horizon": horizon or raw.get("time_horizon")}
        facts |= options
        missing = [name for name, value in facts.items() if value is None and name != "max_token"]
        if missing:
            checks.fail(str(folder / PROCESSOR), "the facts of a tokenizer", f"no {', '.join(missing)}", "Pass them.")
        if options.get("normalize_exceptions"):
            raise LattokError("`normalize_exceptions` cannot be given: a processor has one pair of statistics.")
        known, kind = read_statistics(statistics, normalize, prefer="quantile")
        model = cls(FASTConfig(**facts, normalize=kind))
        if known is not None:
            model.normalizer.set(known)
        model._adopt(_text(tokenizer))
        model.source, model.revision = str(source) if commit else folder.resolve().name, commit
        return model.eval()

    def save_published(self, folder: str | os.PathLike[str]) -> Path:
        """Write the published format, which others read. It has no normaliser: it encodes normalised actions."""
        _, folder = self.subwords, Path(folder)
        files.write_text(folder / TOKENIZER, self.tokenizer_json.cpu().numpy().tobytes().decode())
        plain = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        files.write_json(folder / "tokenizer_config.json", plain)
        facts = {name: getattr(self.config, name) for name in ("scale", "vocab_size", "min_token", "action_dim")}
        files.write_json(folder / PROCESSOR, {**facts, "time_horizon": self.horizon})
        return folder


@dataclass(frozen=True)
class TOASTConfig(DCTConfig):
    """As every `DCTConfig`; the published vocabulary has 512 pieces."""

    vocab_size: int = 512


class TOAST(DCTTokenizer):
    """Chunks [B, H, m] to rows of codes of different lengths, padded with -1.

    >>> tokenizer = TOAST.fit(chunks, vocab_size=512)            # [N, H, m] in physical units
    """

    type = "toast"
    arxiv = "2610.00899"
    config_class = TOASTConfig
    subwords_class = CoefficientUnigram
    by_dimension = True

    @torch.no_grad()
    def sample(
        self, chunks: Values, valid: Values | None = None, *, alpha: float = 0.1, nbest: int = 64, seed: int = 0
    ) -> Any:
        """Turn chunks into codes as `encode` does, but cut into subwords in one of the `nbest` best ways, for training.

        A way is drawn by its likelihood to the power of `alpha` (0: any of them; the defaults are the published ones).
        What is drawn decodes to the chunk that `encode` gives. It runs in Python, some milliseconds a chunk.
        """
        checks.counts(nbest=nbest)
        checks.at_least_zero(alpha=alpha)
        actions, _ = self._prepare(chunks, valid)
        assert isinstance(self.subwords, CoefficientUnigram)
        rows = self.subwords.sample(self._coefficients(actions), alpha, nbest, np.random.default_rng(seed))
        return like(chunks, padded(rows, self.tokens_per_chunk).to(actions.device))


def _published(
    source: str | os.PathLike[str], revision: str | None, options: Mapping[str, Any]
) -> tuple[Path, Path, str | None]:
    """Find folder and tokenizer.json of a published tokenizer, and its commit where `source` is a Hub id."""
    client.check_options(options, get_type_hints(HubOptions))
    folder, commit = Path(source).expanduser(), None
    if not folder.is_dir():
        wanted = [PROCESSOR, TOKENIZER, f"{SUBFOLDER}/{TOKENIZER}"]
        folder = client.download("source", str(source), revision, wanted, options)
        commit = folder.name
    folder = client.inside(folder, options.get("subfolder"))
    found = [place for place in (folder / TOKENIZER, folder / SUBFOLDER / TOKENIZER) if place.is_file()]
    missing = [] if found else [f"{TOKENIZER}, here or in {SUBFOLDER}/"]
    missing += [] if (folder / PROCESSOR).is_file() else [PROCESSOR]
    if missing:
        checks.fail("source", f"a folder with {TOKENIZER} and {PROCESSOR}", f"{folder} without {', '.join(missing)}")
    if len(found) == 2 and found[0].read_bytes() != found[1].read_bytes():
        hint = "Delete the one that is older."
        checks.fail("source", f"one {TOKENIZER}", f"{folder} with two that differ, one of them in {SUBFOLDER}/", hint)
    return folder, found[0], commit


def _text(path: Path) -> str:
    try:
        if path.stat().st_size <= JSON_BYTES:
            return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        checks.fail(str(path), "a text that can be read", checks.first_line(error))
    return checks.fail(str(path), f"at most {JSON_BYTES >> 20} MB", "more", "Is this the right file?")
