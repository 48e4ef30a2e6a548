"""TOAST: the order of coefficients, the likeliest pieces against all ways to cut, what is drawn, strangers' files."""

import json
import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models

import lattok
from lattok.action_vq.subwords import Corpus
from lattok.action_vq.toast import TOAST, CoefficientUnigram, scored
from tests.action_vq.test_fast import H, M, coefficients, rows, smooth
from tests.action_vq.walks import NAMES
from tests.errors import refused


@pytest.fixture(scope="module")
def fitted() -> TOAST:
    return TOAST.fit(smooth(), vocab_size=256, action_names=NAMES)


def test_the_smallest_vocabulary_is_the_one_that_is_named():
    said = refused("`vocab_size`: expected at least", lambda: TOAST.fit(smooth(), vocab_size=1))
    least = int(re.findall(r"at least (\d+), got 1\.", said)[0])
    refused(f"expected at least {least}, got {least - 1}", lambda: TOAST.fit(smooth(), vocab_size=least - 1))
    assert TOAST.fit(smooth(), vocab_size=least).vocab_size <= least


def by_dimension(tokenizer: TOAST, chunks: torch.Tensor) -> np.ndarray:
    """The definition: whole numbers [N, m * H], all frequencies of a dimension, then the next one."""
    numbers = coefficients(tokenizer.normalizer(chunks), tokenizer.config.scale)
    return numbers.reshape(-1, H, M).transpose(0, 2, 1).reshape(-1, H * M)


def vocabulary(tokenizer: TOAST) -> list[tuple[str, float]]:
    return json.loads(tokenizer.tokenizer_json.numpy().tobytes())["model"]["vocab"]


def score(tokenizer: TOAST, ids: list[int]) -> float:
    return sum(vocabulary(tokenizer)[i][1] for i in ids)


def best_score(tokenizer: TOAST, text: str) -> float:
    """Of all ways to cut, by dynamic programming."""
    pieces, best = dict(vocabulary(tokenizer)), [0.0]
    for end in range(1, len(text) + 1):
        best.append(max(best[s] + pieces[text[s:end]] for s in range(end) if text[s:end] in pieces))
    return best[-1]


def test_codes_are_the_likeliest_pieces_of_the_coefficients_dimension_by_dimension(fitted):
    chunks = smooth(40, seed=1) * 0.3
    numbers = by_dimension(fitted, chunks)
    plain = Tokenizer.from_str(fitted.tokenizer_json.numpy().tobytes().decode())
    for ids, row in zip(rows(fitted.encode(chunks)), numbers, strict=True):
        text = "".join(map(chr, row - fitted.config.min_token))
        assert ids == plain.encode(text).ids
        assert fitted.subwords.read(np.array(ids)).coefficients.tolist() == row.tolist()
        if all(len(vocabulary(fitted)[i][0]) < 6 for i in ids):  # no byte among them
            assert score(fitted, ids) == pytest.approx(best_score(fitted, text), abs=1e-6)


def test_decoding_differs_by_rounding_alone_and_every_coefficient_in_range_can_be_written(fitted):
    chunks = smooth(seed=1)
    decoded, info = fitted.decode(fitted.encode(chunks), return_info=True)
    assert not info.repaired.any()
    gap = by_dimension(fitted, decoded) - by_dimension(fitted, chunks)
    assert np.abs(gap).max() <= 1  # a half may go either way the second time
    every = np.arange(-fitted.config.max_token - 1, fitted.config.max_token + 1, dtype=float)[:, None]
    assert [fitted.subwords.read(np.array(ids)).coefficients.tolist() for ids in fitted.subwords.encode(every)] == (
        every.tolist()
    )
    assert 0 < fitted.error_report(chunks * 1e4).clipped <= 1


def test_a_vocabulary_follows_from_counts_and_not_from_the_librarys_sums(monkeypatch):
    """Which differ from run to run, since it adds up in any order."""
    taught, numbers, draw = Corpus.taught, coefficients(smooth(), 10.0), np.random.default_rng(0)

    def noisy(*given):
        return {"vocab": [[piece, score + draw.normal(0, 1e-3)] for piece, score in taught(*given)["vocab"]]}

    monkeypatch.setattr(Corpus, "taught", noisy)
    assert len({CoefficientUnigram.train(numbers, 256, 20.0) for _ in range(3)}) == 1


def test_scores_are_logarithms_of_shares_and_the_rarest_pieces_are_left_out():
    corpus = Corpus(["abab", "ab\0a"], ["a", "b"], [], 3, 0, 0)
    assert dict(scored(corpus, {"ba", "b", "ab", "a"})) == pytest.approx(  # cut into ab, ab, ab, a
        {"ab": np.log(3 / 4), "a": np.log(1 / 4), "b": np.log(0.5 / 4)}, abs=1e-6
    )


def test_of_a_row_that_breaks_off_the_dimensions_before_are_whole(fitted):
    chunk = smooth(1, seed=4) * 0.3
    numbers = by_dimension(fitted, chunk)
    whole = [id for value in numbers[0, : H + 2] for id in fitted.subwords.encode(value[None, None].astype(float))[0]]
    decoded, info = fitted.decode([whole], return_info=True)
    assert info.notes == (f"{H * M - H - 2} of {H * M} coefficients missing",)
    torch.testing.assert_close(decoded[0, :, 0], fitted.decode(fitted.encode(chunk))[0, :, 0])
    assert torch.equal(decoded[0, :, 2], fitted.normalizer.shift[2].expand(H))  # nothing is known of it


def test_what_is_drawn_decodes_alike_and_follows_alpha(fitted):
    chunks = smooth(6, seed=5)
    codes = fitted.encode(chunks)
    drawn = fitted.sample(chunks, seed=1)
    assert torch.equal(fitted.decode(drawn), fitted.decode(codes))
    assert not torch.equal(drawn, codes)
    assert torch.equal(drawn, fitted.sample(chunks, seed=1))
    assert not torch.equal(drawn, fitted.sample(chunks, seed=2))
    certain = fitted.sample(chunks.numpy(), alpha=1e6, seed=3)
    assert isinstance(certain, np.ndarray)
    best, likeliest = ([score(fitted, row) for row in rows(torch.as_tensor(each))] for each in (codes, certain))
    assert likeliest == pytest.approx(best)
    refused("`nbest`", fitted.sample, chunks, nbest=0)
    for seed in (-1, 1.5):
        refused(f"`seed`: expected a whole number of at least 0, got {seed}", fitted.sample, chunks, seed=seed)


def test_chances_are_powers_of_likelihoods():
    """Three characters with two ways to cut them, one e times as likely as the other."""
    vocab = [("<unk>", 0.0), ("a", -1.0), ("b", -2.0), ("ab", -2.0)]
    unigram = CoefficientUnigram(Tokenizer(models.Unigram(vocab, 0)).to_str(), -97)
    drawn = unigram.sample(np.array([[0.0, 1.0]] * 4000), 0.5, 64, np.random.default_rng(0))
    share = np.mean([ids == [3] for ids in drawn])
    assert share == pytest.approx(1 / (1 + np.exp(-0.5)), abs=0.03)


def changed(fitted: TOAST, **changes) -> str:
    raw = json.loads(fitted.tokenizer_json.numpy().tobytes())
    return json.dumps({**raw, **{name: value for name, value in changes.items() if name in raw}} | _model(raw, changes))


def _model(raw: dict, changes: dict) -> dict:
    inner = {name: value for name, value in changes.items() if name not in raw}
    return {"model": {**raw["model"], **inner}} if inner else {}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"vocab": []}, "a tokenizer of the `tokenizers` library"),
        ({"vocab": [["a", None]]}, "a tokenizer of the `tokenizers` library"),
        ({"vocab": [], "unk_id": None}, "expected a vocabulary that can write coefficients, got none"),
        ({"unk_id": 10**9}, "a tokenizer of the `tokenizers` library"),
        ({"vocab": [["a", -1.0], ["a", -2.0]]}, "expected different pieces, got some twice, or an empty one"),
        ({"vocab": [["a", -1.0], ["", -2.0]]}, "expected different pieces, got some twice, or an empty one"),
        ({"vocab": [["abc", -1.0]], "unk_id": 0}, "a vocabulary that can write coefficients"),
        ({"vocab": [["a", -1e300]]}, "expected scores within"),
        ({"normalizer": {"type": "NFC"}}, "expected a unigram model, got Unigram with a normalizer"),
    ],
)
def test_strangers_vocabularies_are_refused(fitted, changes, text):
    refused(text, lambda: CoefficientUnigram(changed(fitted, **changes), 0))


def test_the_other_familys_vocabulary_is_refused(fitted):
    bpe = lattok.FAST.fit(smooth(), vocab_size=256).tokenizer_json.numpy().tobytes().decode()
    refused("expected a unigram model, got BPE with a pre_tokenizer. TOAST needs", CoefficientUnigram, bpe, 0)
    refused("byte-level", lambda: type(lattok.FAST.fit(smooth(), vocab_size=256).subwords)(changed(fitted), 0))


def test_without_a_vocabulary_the_way_out_is_its_own():
    assert repr(TOAST(TOAST.config_class(action_dim=2))).startswith("TOAST(\n  no vocabulary yet")
    refused("`tokenizer`", lambda: TOAST(TOAST.config_class(action_dim=1)).encode(smooth(1, dims=1)))
