"""FAST (Pertsch et al., 2025): frequencies of the chunk, rounded, in byte-pair codes.

coefficients = round(scale * DCT-II(chunk))     orthonormal, over time, for each dimension
codes        = BPE(coefficients [H, m] row by row: the lowest frequencies of all dimensions come first)

Reads and writes the published format too: `tokenizer.json` and `processor_config.json`. Under transformers 5 the
published class puts the former into the folder `bpe_tokenizer/`.

`CoefficientBPE` reads and writes such codes with any byte-level `tokenizer.json`; `train_bpe` makes one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from typing_extensions import Self

from lattok.action_vq.dct import TOKENIZER, DCTConfig, DCTTokenizer
from lattok.action_vq.subwords import CoefficientSubwords, Corpus, read_tokenizer, written_with
from lattok.hub import client
from lattok.hub.client import HubOptions
from lattok.nn.normalize import read_statistics
from lattok.utils import checks, files
from lattok.utils.checks import LattokError
from lattok.utils.untrusted import JSON_BYTES


def _byte_characters() -> dict[str, int]:
    """Return the byte of each printable character that byte-level tokenizers write for one (Radford et al., 2019)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


BYTES = _byte_characters()
UNSUPPORTED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")  # with them codes are not their bytes
CHARACTERS = {byte: character for character, byte in BYTES.items()}


class CoefficientBPE(CoefficientSubwords):
    """Subwords of any byte-level byte-pair encoding."""

    needs = "FAST needs a byte-level BPE without a prefix space and without a normalizer."

    @staticmethod
    def _read(text: str) -> tuple[Tokenizer, list[bytes], np.ndarray]:
        tokenizer, raw = read_tokenizer(text)
        before = raw.get("pre_tokenizer") or {}
        plain = before.get("type") == "ByteLevel" and not before.get("add_prefix_space") and not raw.get("normalizer")
        if raw["model"].get("type") != "BPE" or not plain:
            got = f"{raw['model'].get('type')} after {before.get('type')}"
            checks.fail("tokenizer.json", "a byte-level BPE", got, CoefficientBPE.needs)
        if wrong := [name for name in UNSUPPORTED if raw["model"].get(name)]:
            checks.fail("tokenizer.json", "a byte-level BPE", f"one with {', '.join(wrong)}", CoefficientBPE.needs)
        made = {*BYTES, *(first + second for first, second in raw["model"]["merges"])}
        added = {token["content"] for token in raw.get("added_tokens", [])}
        token_bytes = _token_bytes(tokenizer, added - made)
        if added:  # they are looked for in a text before anything else, where they would stand for coefficients
            tokenizer = Tokenizer.from_str(json.dumps(raw | {"added_tokens": [], "post_processor": None}))
        return tokenizer, token_bytes, written_with({BYTES[token] for token in raw["model"]["vocab"] if token in BYTES})


def train_bpe(numbers: np.ndarray, vocab_size: int, expected: float) -> tuple[str, int, int]:
    """Make a byte-level tokenizer.json for rows of whole numbers [N, n], and the range (min_token, max_token) it has.

    Merges first join the two bytes of the common characters and then only whole characters: rows are as short as with
    merges of any bytes, and no merged token ends inside a coefficient.
    """
    corpus = Corpus.of(numbers, vocab_size, expected)
    merges = _train_merges(corpus)
    return _byte_level(corpus.alphabet, corpus.characters, merges), corpus.min_token, corpus.max_token


def _train_merges(corpus: Corpus) -> list[tuple[str, str]]:
    """Learn merges of whole characters."""
    tokenizer, size = Tokenizer(models.BPE()), corpus.free
    tokenizer.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("\0")  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=corpus.characters, limit_alphabet=size
    )
    tokenizer.train_from_iterator(corpus.texts, trainer)
    return [(first, second) for first, second in json.loads(tokenizer.to_str())["model"]["merges"]]


def _byte_level(alphabet: list[int], characters: list[str], merges: list[tuple[str, str]]) -> str:
    """Write a tokenizer.json with the bytes of `alphabet`, `characters`, and what `merges` of characters make."""

    def spelled(text: str) -> str:
        return "".join(CHARACTERS[byte] for byte in text.encode())

    pairs = [(spelled(c)[0], spelled(c)[1]) for c in characters] + [(spelled(a), spelled(b)) for a, b in merges]
    tokens = dict.fromkeys([CHARACTERS[byte] for byte in alphabet] + [a + b for a, b in pairs])
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
    # No splitting by letters and digits: which coefficient is a letter is an accident of min_token.
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = whole  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return tokenizer.to_str()


def _token_bytes(tokenizer: Tokenizer, added: set[str]) -> list[bytes]:
    """Return the bytes each id stands for; special tokens stand for none."""
    ids = {index: token for token, index in tokenizer.get_vocab().items()}
    if sorted(ids) != list(range(len(ids))):
        checks.fail("tokenizer.json", "ids from 0 on without a gap", f"{len(ids)} ids up to {max(ids, default=-1)}")
    return [b"" if ids[i] in added else _bytes_of(ids[i]) for i in range(len(ids))]


def _bytes_of(token: str) -> bytes:
    """Take a token with any character that stands for no byte as plain text; published vocabularies have some."""
    return bytes(BYTES[c] for c in token) if all(c in BYTES for c in token) else token.encode()


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
    config_class = FASTConfig
    config: FASTConfig
    subwords_class = CoefficientBPE
    train_subwords = staticmethod(train_bpe)
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
        (q01 and q99 where they are there, unless `normalize` says otherwise); without them it is the identity.
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
        """Write the published format, which others read. It has no place for the normaliser: it takes its outputs."""
        _, folder = self.subwords, Path(folder)
        files.write_text(folder / TOKENIZER, self.tokenizer_json.cpu().numpy().tobytes().decode())
        plain = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        files.write_json(folder / "tokenizer_config.json", plain)
        facts = {name: getattr(self.config, name) for name in ("scale", "vocab_size", "min_token", "action_dim")}
        files.write_json(folder / PROCESSOR, {**facts, "time_horizon": self.horizon})
        return folder


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
