"""FAST (Pertsch et al., 2025): byte-pair codes of the rounded cosine transform of a chunk (dct.py).

Coefficients are in order [H, m], the lowest frequencies of all dimensions first. It reads and writes the published
format too. Under transformers 5 that has `tokenizer.json` in a folder `bpe_tokenizer/`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from typing_extensions import Self

from lattok.action_vq.dct import TOKENIZER, DCTConfig, DCTTokenizer
from lattok.action_vq.subwords import CoefficientSubwords, Corpus, read_tokenizer, written_with
from lattok.hub import client
from lattok.nn.normalize import read_statistics
from lattok.utils import checks, files
from lattok.utils.untrusted import JSON_BYTES

PROCESSOR, SUBFOLDER = "processor_config.json", "bpe_tokenizer"
_SHOWN = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that byte-level tokenizers write as they are
CHARACTERS = {  # what they write for each (Radford et al., 2019)
    **{byte: chr(byte) for byte in _SHOWN},
    **{byte: chr(256 + i) for i, byte in enumerate(sorted({*range(256)} - {*_SHOWN}))},
}
BYTES = {character: byte for byte, character in CHARACTERS.items()}
UNSUPPORTED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")  # with them codes are not their bytes


@dataclass(frozen=True)
class FASTConfig(DCTConfig):
    """As `DCTConfig`."""


class CoefficientBPE(CoefficientSubwords):
    """Subwords of any byte-level byte-pair encoding."""

    needs = "FAST needs a byte-level BPE without a prefix space and without a normalizer."

    @classmethod
    def train(cls, numbers: np.ndarray, vocab_size: int, expected: float) -> tuple[str, int, int]:
        # Merges first join the two bytes of the common characters and then only whole characters: rows are as short as
        # with merges of any bytes, and no merged token ends inside a coefficient.
        corpus = Corpus.of(numbers, vocab_size, expected)
        characters, size = corpus.characters, corpus.free
        trainer = trainers.BpeTrainer(
            vocab_size=size, min_frequency=2, show_progress=False, initial_alphabet=characters, limit_alphabet=size
        )
        pairs = [(first, second) for first, second in map(_spelled, characters)]
        pairs += [(_spelled(a), _spelled(b)) for a, b in corpus.taught(models.BPE(), trainer)["merges"]]
        tokens = dict.fromkeys([CHARACTERS[byte] for byte in corpus.alphabet] + [a + b for a, b in pairs])
        tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=pairs))
        # No splitting by letters and digits: which coefficient is a letter is an accident of min_token.
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = whole  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
        return tokenizer.to_str(), corpus.min_token, corpus.max_token

    @classmethod
    def _read(cls, text: str) -> tuple[Tokenizer, list[bytes], np.ndarray]:
        tokenizer, raw = read_tokenizer(text)
        before = raw.get("pre_tokenizer") or {}
        plain = before.get("type") == "ByteLevel" and not before.get("add_prefix_space") and not raw.get("normalizer")
        if raw["model"].get("type") != "BPE" or not plain:
            got = f"{raw['model'].get('type')} after {before.get('type')}"
            checks.fail("tokenizer.json", "a byte-level BPE", got, cls.needs)
        if wrong := [name for name in UNSUPPORTED if raw["model"].get(name)]:
            checks.fail("tokenizer.json", "a byte-level BPE", f"one with {', '.join(wrong)}", cls.needs)
        made = {*BYTES, *(first + second for first, second in raw["model"]["merges"])}
        added = {token["content"] for token in raw.get("added_tokens", [])}
        token_bytes = _token_bytes(tokenizer, added - made)
        if added:  # they are looked for in a text before anything else, where they would stand for coefficients
            tokenizer = Tokenizer.from_str(json.dumps(raw | {"added_tokens": [], "post_processor": None}))
        return tokenizer, token_bytes, written_with({BYTES[token] for token in raw["model"]["vocab"] if token in BYTES})


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
        `options` are other fields of `FASTConfig` (`max_token` shortens rows) and keywords of huggingface_hub.
        """
        asked = {name: options.pop(name) for name in get_type_hints(client.HubOptions) if name in options}
        folder, text, commit = _published(source, revision, asked)
        raw = files.read_json(folder / PROCESSOR)
        facts: dict[str, Any] = {name: raw.get(name) for name in ("scale", "min_token", "vocab_size")}
        facts["action_dim"] = raw.get("action_dim") if action_dim is None else action_dim
        facts["horizon"] = raw.get("time_horizon") if horizon is None else horizon
        facts.update(options)
        if missing := [name for name, value in facts.items() if value is None and name != "max_token"]:
            checks.fail(str(folder / PROCESSOR), "the facts of a tokenizer", f"no {', '.join(missing)}", "Pass them.")
        if options.get("normalize_exceptions"):
            raise checks.LattokError("`normalize_exceptions` cannot be given: a processor has one pair of statistics.")
        checks.known_keys("options", options, [f.name for f in fields(FASTConfig) if f.name != "normalizers"])
        known, kind = read_statistics(statistics, normalize, prefer="quantile")
        model = cls(FASTConfig(**facts, normalize=kind))
        if known is not None:
            model.normalizer.set(known)
        model._adopt(text)
        model.source, model.revision = str(source) if commit else folder.resolve().name, commit
        return model.eval()

    def save_published(self, folder: str | os.PathLike[str]) -> Path:
        """Write the published format, which other libraries read. It has no normaliser: it encodes normalised
        actions."""
        self.check_learned()
        folder = Path(folder)
        files.write_text(folder / TOKENIZER, self.tokenizer_json.cpu().numpy().tobytes().decode())
        plain = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        files.write_json(folder / "tokenizer_config.json", plain)
        facts = {name: getattr(self.config, name) for name in ("scale", "vocab_size", "min_token", "action_dim")}
        files.write_json(folder / PROCESSOR, {**facts, "time_horizon": self.horizon})
        return folder


def _spelled(text: str) -> str:
    return "".join(CHARACTERS[byte] for byte in text.encode())


def _token_bytes(tokenizer: Tokenizer, added: set[str]) -> list[bytes]:
    """Return the bytes each id stands for; special tokens stand for none."""
    ids = {index: token for token, index in tokenizer.get_vocab().items()}
    if sorted(ids) != list(range(len(ids))):
        checks.fail("tokenizer.json", "ids from 0 on without a gap", f"{len(ids)} ids up to {max(ids, default=-1)}")
    tokens = ["" if ids[i] in added else ids[i] for i in range(len(ids))]
    # One with any character that stands for no byte is plain text; published vocabularies have some.
    return [bytes(map(BYTES.__getitem__, each)) if BYTES.keys() >= set(each) else each.encode() for each in tokens]


def _published(source: str | os.PathLike[str], revision: str | None, options: Any) -> tuple[Path, str, str | None]:
    """Find a published tokenizer: its folder, the text of tokenizer.json, and the commit where `source` is a Hub id."""
    client.check_options(options, get_type_hints(client.HubOptions))
    folder, commit = Path(source).expanduser(), None
    if not folder.is_dir():
        wanted = [PROCESSOR, TOKENIZER, f"{SUBFOLDER}/{TOKENIZER}"]
        folder = client.download("source", str(source), revision, wanted, options)
        commit = folder.name
    folder = client.inside(folder, options.get("subfolder"))
    found = [place for place in (folder / TOKENIZER, folder / SUBFOLDER / TOKENIZER) if place.is_file()]
    if not found or not (folder / PROCESSOR).is_file():
        got = f"{folder} without {PROCESSOR if found else f'{TOKENIZER}, here or in {SUBFOLDER}/'}"
        checks.fail("source", f"a folder with {TOKENIZER} and {PROCESSOR}", got)
    if len(found) == 2 and found[0].read_bytes() != found[1].read_bytes():
        got = f"{folder} with two that differ, one in {SUBFOLDER}/"
        checks.fail("source", f"one {TOKENIZER}", got, "Delete the one that is older.")
    try:
        if found[0].stat().st_size > JSON_BYTES:
            raise ValueError(f"more than {JSON_BYTES >> 20} MB")
        return folder, found[0].read_text(encoding="utf-8"), commit
    except (OSError, ValueError) as error:
        return checks.fail(str(found[0]), "a text that can be read", checks.first_line(error))
