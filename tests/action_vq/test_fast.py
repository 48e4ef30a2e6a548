"""FAST: the transform against explicit sums, ids against the plain tokenizer, total decoding, both formats."""

import json
import re

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lattok.action_vq.fast import FAST, CoefficientBPE, FASTConfig
from lattok.action_vq.subwords import read_tokenizer
from lattok.nn.blocks import dct_matrix
from tests.action_vq.walks import NAMES
from tests.errors import refused

H, M = 8, 3


def smooth(n: int = 400, steps: int = H, dims: int = M, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, steps, dims, generator=generator).cumsum(1) * torch.tensor([1.0, 0.1, 5.0])[:dims] + 2


@pytest.fixture(scope="module")
def fitted() -> FAST:
    return FAST.fit(smooth(), vocab_size=256, action_names=NAMES)


def fit_as_published(folder, scale=10.0, size=400, add=0):
    """Two files as the published processor's own training leaves them: its alphabet are characters, not bytes."""
    numbers = coefficients(smooth(), scale)
    low = int(numbers.min()) - add
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = [chr(i) for i in range(int(numbers.max()) - low + 1)]
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(("".join(map(chr, row - low)) for row in numbers), trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"scale": scale, "min_token": low, "vocab_size": tokenizer.get_vocab_size(), "action_dim": None}
    (folder / "processor_config.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module", params=["characters below 128", "characters above 128"])
def published(request, tmp_path_factory):
    """Published vocabularies with one byte per character, and with two, whose tokens may end inside a character."""
    return fit_as_published(
        tmp_path_factory.mktemp("fast") / "published", add=300 * request.param.endswith("above 128")
    )


@pytest.fixture(scope="module")
def theirs(published) -> FAST:
    return FAST.from_published(published, action_dim=M, horizon=H)


def coefficients(actions: torch.Tensor, scale: float) -> np.ndarray:
    """The definition, one cosine sum at a time: whole numbers [N, H * m]."""
    x = actions.double().numpy()
    steps = x.shape[1]
    rows = []
    for k in range(steps):
        waves = np.cos(np.pi * (np.arange(steps) + 0.5) * k / steps)
        rows.append((x * waves[:, None]).sum(1) * np.sqrt((1 if k == 0 else 2) / steps))
    return np.around(np.stack(rows, 1) * scale).astype(int).reshape(len(x), -1)


def plain_ids(folder, actions: torch.Tensor) -> list[list[int]]:
    """Ids the straightforward way: one string at a time through the tokenizer in the folder."""
    facts = json.loads((folder / "processor_config.json").read_text())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    numbers = np.maximum(coefficients(actions, facts["scale"]) - facts["min_token"], 0)
    return [tokenizer.encode("".join(map(chr, row))).ids for row in numbers]


def rows(codes: torch.Tensor) -> list[list[int]]:
    return [[code for code in row if code >= 0] for row in codes.tolist()]


def test_half_way_coefficients_go_to_the_even_number():
    tokenizer = FAST.fit(torch.linspace(-3, 3, 200).view(-1, 1, 1), normalize="identity", scale=1.0, vocab_size=256)
    halves = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]).view(-1, 1, 1)
    assert tokenizer.decode(tokenizer.encode(halves)).flatten().tolist() == [0, 2, 2, 0, -2]


def test_ids_are_those_of_the_plain_tokenizer_in_both_formats(fitted, published, tmp_path, theirs):
    chunks = smooth(seed=1)
    folder = fitted.save_published(tmp_path / "ours")
    assert rows(fitted.encode(chunks)) == plain_ids(folder, fitted.normalizer(chunks))
    assert rows(theirs.encode(smooth())) == plain_ids(published, smooth())
    again = FAST.from_published(folder)
    assert rows(again.encode(fitted.normalizer(chunks))) == rows(fitted.encode(chunks))


def test_ids_and_chunks_are_those_of_the_reference(fitted, published, tmp_path):
    pytest.importorskip("scipy")
    pytest.importorskip("transformers")
    from benchmarks.reference.fast import ReferenceFAST

    for folder in (published, fitted.save_published(tmp_path / "ours")):
        tokenizer = FAST.from_published(folder, action_dim=M, horizon=H)
        actions = smooth() if folder == published else fitted.normalizer(smooth(seed=1))
        reference = ReferenceFAST.load(folder, H, M)
        codes = tokenizer.encode(actions)
        assert rows(codes) == reference.encode(actions.double().numpy())
        np.testing.assert_allclose(tokenizer.decode(codes), reference.decode(rows(codes)), atol=1e-4)


def test_reconstruction_error_is_that_of_rounding(fitted):
    chunks = smooth(seed=1)
    decoded, info = fitted.decode(fitted.encode(chunks), return_info=True)
    assert not info.repaired.any()
    gap = fitted.normalizer(decoded) - fitted.normalizer(chunks)
    assert np.abs(dct_matrix(H) @ gap.double().numpy()).max() < 0.0501  # half a step of 1 / scale
    assert fitted.error_report(chunks).clipped == 0


def test_every_coefficient_in_range_can_be_written_and_no_merge_ends_inside_one(fitted):
    low, high = -fitted.config.max_token - 1, fitted.config.max_token
    assert high > 3 * np.abs(coefficients(fitted.normalizer(smooth()), 10.0)).max()
    every = np.arange(low, high + 1, dtype=float)[:, None]
    read = [fitted.subwords.read(np.array(ids)).coefficients.tolist() for ids in fitted.subwords.encode(every)]
    assert read == every.tolist()
    assert all(len(token) == 1 or token.decode() for token in fitted.subwords.token_bytes)
    assert fitted.subwords.bytes_per_number == 2
    assert fitted.tokens_per_chunk == 2 * H * M


def test_token_bytes_are_what_the_tokenizer_decodes(published, theirs):
    tokenizer = Tokenizer.from_file(str(published / "tokenizer.json"))
    for i, token in enumerate(theirs.subwords.token_bytes):
        assert token.decode(errors="replace") == tokenizer.decode([i], skip_special_tokens=False)


def test_what_a_vocabulary_cannot_write_is_clipped_and_reported(fitted, published, theirs):
    for tokenizer, far in ((fitted, smooth() * 100), (theirs, smooth() * 10), (theirs, smooth() * 1e36)):
        codes = tokenizer.encode(far)
        assert not tokenizer.decode(codes, return_info=True)[1].repaired.any()
        report = tokenizer.error_report(far)
        assert report.clipped > 0.02
        assert "outside what the tokenizer can express" in report.to_text()
    theirs = FAST.from_published(published, action_dim=M, horizon=H, max_token=300)
    known = np.flatnonzero(theirs.subwords.known) + theirs.config.min_token
    asked = np.arange(theirs.config.min_token - 5, 305, dtype=float)[:, None]
    written = np.concatenate(
        [theirs.subwords.read(np.array(ids)).coefficients for ids in theirs.subwords.encode(asked)]
    )
    np.testing.assert_array_equal(np.abs(written - asked[:, 0]), np.abs(asked - known).min(1))
    assert theirs.subwords.clipped(asked)[:, 0].tolist() == (~np.isin(asked[:, 0], known)).tolist()


def test_max_token_shortens_rows(tmp_path):
    folder = fit_as_published(tmp_path / "wide", scale=1.0, size=1000, add=300)
    wide = FAST.from_published(folder, action_dim=M, horizon=H)
    narrow = FAST.from_published(folder, action_dim=M, horizon=H, max_token=1200)
    assert (wide.tokens_per_chunk, narrow.tokens_per_chunk) == (3 * H * M, 2 * H * M)
    assert rows(wide.encode(smooth())) == rows(narrow.encode(smooth()))


def test_the_readable_prefix_is_kept_and_repairs_are_reported(fitted):
    size = H * M
    numbers = fitted._coefficients(fitted.normalizer(smooth(1)))
    whole = [fitted.subwords.encode(value[None, None])[0] for value in numbers[0]]  # codes of each coefficient alone
    flat = [code for codes in whole for code in codes]
    prefix = [code for codes in whole[:10] for code in codes]
    lead = fitted.subwords.token_bytes.index("ŀ".encode()[:1])
    cases = {
        "": flat,
        "14 of 24 coefficients missing": prefix,
        "24 of 24 coefficients missing": [],
        "5 coefficients too many": flat + flat[:5],
        "1 unreadable bytes": [*flat, lead],
        "2 outside 0..255": [256, *flat, 2**62],
    }
    assert all(len(codes) == 1 for codes in whole)
    chunks, info = fitted.decode(list(cases.values()), return_info=True)
    assert info.notes == tuple(cases)
    assert info.repaired.tolist() == [False] + [True] * 5
    known = np.zeros((2, size))
    known[0], known[1, :10] = numbers[0], numbers[0, :10]
    inverse = dct_matrix(H).T @ known.reshape(2, H, M) / 10
    expected = fitted.normalizer.inverse(torch.from_numpy(inverse).float())
    torch.testing.assert_close(chunks[[0, 1, 3, 4, 5]], expected[[0, 1, 0, 0, 0]])
    torch.testing.assert_close(chunks[2], fitted.normalizer.shift.expand(H, M))


def test_negative_codes_are_padding_wherever_they_are(fitted):
    codes = fitted.encode(smooth(5))
    left = torch.cat([torch.full((5, 3), -100), codes[:, :4], torch.full((5, 2), -1), codes[:, 4:]], 1)
    chunks, info = fitted.decode(left, return_info=True)
    assert not info.repaired.any()
    assert torch.equal(chunks, fitted.decode(codes))


def test_dimensions_without_a_coefficient_do_not_move():
    tokenizer = FAST.fit(smooth(), action_names=NAMES, action_kind="relative", vocab_size=256)
    first = tokenizer.subwords.encode(np.array([[20.0]]))[0]
    chunk = tokenizer.decode([first], repair=True)[0]
    assert (chunk[:, 0] > 0).all()
    assert torch.equal(chunk[:, 1], torch.zeros(H))  # an increment
    assert torch.equal(chunk[:, 2], tokenizer.normalizer.shift[2].expand(H))  # a gripper holds the middle


def test_few_and_many_rows_decode_alike(fitted, theirs):
    for tokenizer in (fitted, theirs):
        codes = tokenizer.encode(torch.cat([smooth(130), smooth(20) * 3]))
        one_by_one = torch.cat([tokenizer.decode(codes[i : i + 1]) for i in range(len(codes))])
        torch.testing.assert_close(tokenizer.decode(codes), one_by_one, rtol=0, atol=1e-5)


def test_a_config_that_does_not_fit_its_vocabulary_is_refused(fitted, published, tmp_path):
    folder = fitted.save_pretrained(tmp_path / "fast")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 255}))
    refused("`vocab_size`", FAST.from_pretrained, folder)
    facts = json.loads((published / "processor_config.json").read_text())
    wrong = {**facts, "vocab_size": facts["vocab_size"] + 1}
    (tmp_path / "processor_config.json").write_text(json.dumps(wrong))
    (tmp_path / "tokenizer.json").write_bytes((published / "tokenizer.json").read_bytes())
    refused("Pass vocab_size if its training stopped early", FAST.from_published, tmp_path, action_dim=M, horizon=H)
    early = FAST.from_published(tmp_path, action_dim=M, horizon=H, vocab_size=facts["vocab_size"])
    assert early.vocab_size == facts["vocab_size"]


def test_published_folders_that_cannot_be_used_say_why(fitted, tmp_path):
    folder = fitted.save_published(tmp_path / "ours")
    whole = (folder / "tokenizer.json").read_text()
    for content, text in (
        ("{}", "a tokenizer of the `tokenizers` library"),
        (whole.replace('"ByteLevel"', '"Metaspace"').replace("add_prefix", "x"), "tokenizer.json"),
        (Tokenizer(models.WordLevel({"a": 0}, "a")).to_str(), "expected a byte-level BPE, got WordLevel after None"),
    ):
        (folder / "tokenizer.json").write_text(content)
        refused(text, FAST.from_published, folder)
    deep, twice = '{"x": ' + "[" * 10_000 + "]" * 10_000 + ", ", '{"version": "1.0", '
    for start, text in (
        (deep, "nested"),
        (twice, "'version' comes twice"),
        ('{"x": 1e999, "y": "\\ud800", ', "half a"),
    ):
        (folder / "tokenizer.json").write_text(whole.replace("{", start, 1))
        refused(f"a tokenizer of the `tokenizers` library, got .*{text}", FAST.from_published, folder)
    for far in (1 << 32, -1, 1.5):  # for holes below an id the library takes memory, and ends the process without it
        raw = json.loads(whole)
        raw["model"]["vocab"][max(raw["model"]["vocab"], key=raw["model"]["vocab"].get)] = far
        for part in (raw, {**raw, "model": json.loads(whole)["model"], "added_tokens": [{"id": far, "content": "x"}]}):
            (folder / "tokenizer.json").write_text(json.dumps(part))
            refused("ids beyond 16,777,216", FAST.from_published, folder)
    (folder / "tokenizer.json").unlink()
    refused("ours without tokenizer.json", FAST.from_published, folder)


def test_a_vocabulary_of_real_size_may_have_any_token(fitted):
    """That of a language model, with tokens such as NUL; ours has every byte, but spells them otherwise."""
    tokenizer = Tokenizer(models.BPE({"\0": 0, **{f"token {i}": i + 1 for i in range(300_000)}}, []))
    _, raw = read_tokenizer(tokenizer.to_str())
    assert len(raw["model"]["vocab"]) == 300_001
    assert raw["model"]["vocab"]["\0"] == 0


def test_published_tokenizers_come_from_the_hub(published, monkeypatch):
    import huggingface_hub

    asked = []

    def fake(repo, **options):
        asked.append((repo, options["revision"], options["allow_patterns"]))
        return str(published)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    tokenizer = FAST.from_published("some/fast", revision="v1", action_dim=M, horizon=H)
    assert asked == [("some/fast", "v1", ["processor_config.json", "tokenizer.json", "bpe_tokenizer/tokenizer.json"])]
    assert tokenizer.describe()["model"] == "some/fast"


def saved_by_transformers_5(published, folder):
    """The published class's own `save_pretrained`: its tokenizer goes into a folder of its own."""
    processing = pytest.importorskip("transformers.processing_utils")
    from transformers import PreTrainedTokenizerFast

    class UniversalActionProcessor(processing.ProcessorMixin):
        attributes = ("bpe_tokenizer",)
        bpe_tokenizer_class = "AutoTokenizer"

        def __init__(
            self, bpe_tokenizer, scale=10, vocab_size=1024, min_token=0, *, action_dim=None, time_horizon=None
        ):
            self.scale, self.vocab_size, self.min_token = scale, vocab_size, min_token
            self.action_dim, self.time_horizon = action_dim, time_horizon
            super().__init__(bpe_tokenizer)

    facts = json.loads((published / "processor_config.json").read_text())
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(published / "tokenizer.json"))
    UniversalActionProcessor(tokenizer, **{**facts, "action_dim": M, "time_horizon": H}).save_pretrained(folder)
    return folder


def test_what_the_published_class_saves_under_transformers_5_is_read(published, tmp_path, monkeypatch, theirs):
    folder = saved_by_transformers_5(published, tmp_path / "0123abc")
    if (folder / "tokenizer.json").is_file():
        pytest.skip("an older transformers, which has no folder for it")
    ours = FAST.from_published(folder)
    assert rows(ours.encode(smooth())) == rows(theirs.encode(smooth()))
    assert ours.describe()["revision"] is None
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **o: str(folder))
    there = FAST.from_published("org/fast", token="x")
    assert rows(there.encode(smooth())) == rows(theirs.encode(smooth()))
    assert (there.describe()["model"], there.describe()["revision"]) == ("org/fast", "0123abc")
    (folder / "tokenizer.json").write_text("{}")
    refused("expected one tokenizer.json, got .* with two that differ", FAST.from_published, folder)
    (folder / "tokenizer.json").unlink()
    (folder / "bpe_tokenizer" / "tokenizer.json").write_bytes(b"\xff")
    refused(r"bpe_tokenizer/tokenizer.json`: expected a text that can be read, got", FAST.from_published, folder)


EVERY = {
    "mean": [0.0] * M,
    "std": [2.0] * M,
    "q01": [-4.0] * M,
    "q99": [8.0] * M,
    "min": [-20.0] * M,
    "max": [30.0] * M,
}


@pytest.mark.parametrize(
    ("statistics", "normalize", "kind", "shift", "scale"),
    [
        (EVERY, None, "quantile", 2.0, 6.0),
        ({"action": EVERY, "reward": {"mean": [0.0]}}, None, "quantile", 2.0, 6.0),
        (EVERY, "mean_std", "mean_std", 0.0, 2.0),
        ({"min": [-20.0] * M, "max": [30.0] * M}, None, "min_max", 5.0, 25.0),
    ],
)
def test_the_normaliser_is_what_the_config_says(published, tmp_path, statistics, normalize, kind, shift, scale):
    (tmp_path / "stats.json").write_text(json.dumps(statistics))
    facts = {"action_dim": M, "horizon": H, "normalize": normalize}
    assert FAST.from_published(published, action_dim=M, horizon=H).config.normalize == "identity"
    for source in (statistics, tmp_path / "stats.json"):
        tokenizer = FAST.from_published(published, statistics=source, **facts)
        assert tokenizer.config.normalize == kind
        assert tokenizer.normalizer.shift.tolist() == [shift] * M
        assert tokenizer.normalizer.scale.tolist() == [scale] * M


def test_a_normalisation_without_its_statistics_is_refused(published):
    facts = {"action_dim": M, "horizon": H}
    for argument, options in {
        "`normalize`": {"normalize": "quantile"},
        "`normalize`:": {"normalize": "mean_std", "statistics": {"q01": [0] * M, "q99": [1] * M}},
        "`options`": {"foo": 1},
        "`normalize_exceptions`": {"normalize_exceptions": ("2=min_max",)},
        "normalizers": {"normalizers": ("a", "b")},
    }.items():
        refused(argument, FAST.from_published, published, **options, **facts)


def test_outliers_are_clipped_in_fitting_as_in_encoding():
    chunks = smooth()
    chunks[7, 3, 1] = 1e6
    tokenizer = FAST.fit(chunks, vocab_size=256)
    assert (tokenizer.config.min_token, tokenizer.config.max_token) == (-1088, 959)
    assert not tokenizer.decode(tokenizer.encode(chunks), return_info=True)[1].repaired.any()
    assert 0 < tokenizer.error_report(chunks).clipped < 0.01
    others = smooth(seed=1)
    expected = FAST.fit(smooth(), vocab_size=256).error_report(others).mse
    report = tokenizer.error_report(others)
    assert report.clipped == 0
    torch.testing.assert_close(report.mse, expected, rtol=0.1, atol=0)


@pytest.mark.parametrize("seen", [959, 960, 961])
def test_the_farthest_coefficients_take_two_bytes(seen):
    numbers = np.array([[seen, -seen, 0.0, 1.0]] * 3 + [[0.0, 1.0, 2.0, 0.0]] * 30)
    bpe = CoefficientBPE(*CoefficientBPE.train(numbers, 256, expected=20.0))
    assert bpe.bytes_per_number == 2
    read = bpe.read(np.array(bpe.encode(numbers)[0])).coefficients.tolist()
    assert read == [959, -min(seen, 960), 0, 1]


def test_dimensions_that_a_chunk_does_not_have_are_not_clipped(fitted):
    far = smooth(10)
    far[:, :, 0] = 1e6
    valid = torch.ones(far.shape, dtype=torch.bool)
    whole = fitted.error_report(far, valid).clipped
    assert whole > 0
    valid[5:, :, 1:] = False  # half of the chunks have the first dimension only
    assert fitted.error_report(far, valid).clipped == pytest.approx(whole * 30 / 20)
    valid[:, :, 0], valid[:, :, 1:] = False, True
    assert fitted.error_report(far, valid).clipped == 0


def test_mixed_datasets_and_short_chunks_fit():
    tokenizer = FAST.fit([smooth(50), smooth(50, steps=5, dims=2)], vocab_size=256)
    assert (tokenizer.horizon, tokenizer.action_dim) == (H, M)
    assert not tokenizer.decode(tokenizer.encode(smooth(5, steps=3), repair=True), return_info=True)[1].repaired.any()


def test_constant_chunks_fit():
    tokenizer = FAST.fit(torch.ones(10, H, M), vocab_size=256)
    assert tokenizer.vocab_size < 256  # nothing more to merge
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(torch.ones(1, H, M))), torch.ones(1, H, M))


def test_bad_options_say_what_to_do():
    refused("`scale`", lambda: FAST.fit(smooth(), scale=1e4))
    refused("`vocab_size`", lambda: FAST.fit(smooth(), vocab_size=60))
    refused("`vocab_size`", lambda: FAST.fit(smooth(), vocab_size=10**25))
    assert FAST.fit(smooth(), vocab_size=2**24).vocab_size < 100_000  # there is nothing more to merge
    refused("`min_token` cannot be given, it follows from the chunks", lambda: FAST.fit(smooth(), min_token=-5))
    refused("`max_token`", FASTConfig, action_dim=1, max_token=-1)


def test_without_a_vocabulary_nothing_is_encoded_or_written(tmp_path):
    tokenizer = FAST(FASTConfig(action_dim=M))
    for save in (tokenizer.save_pretrained, tokenizer.save_published, lambda _: tokenizer.encode(smooth(1))):
        refused("got none. Use FAST.fit, from_published or from_pretrained", save, tmp_path / "fast")
    assert not (tmp_path / "fast").exists()


def by_definition(ids: list[int], folder, steps: int, dims: int) -> np.ndarray:
    """What the published processor decodes of a whole row: text, characters, the inverse of each cosine sum."""
    facts = json.loads((folder / "processor_config.json").read_text())
    text = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(ids)
    numbers = (np.array([ord(c) for c in text]) + facts["min_token"]).reshape(steps, dims) / facts["scale"]
    waves = np.cos(np.pi * np.arange(steps)[:, None] * (np.arange(steps) + 0.5) / steps) * np.sqrt(2 / steps)
    waves[0] /= np.sqrt(2)
    return waves.T @ numbers


def test_it_is_called_like_the_published_processor_for_chunks_of_any_shape(published, theirs):
    for steps, dims in ((H, M), (5, M), (12, 2)):
        chunks = smooth(6, steps, dims, seed=2).clamp(-8, 8)
        ids = theirs(chunks.numpy())
        assert ids == plain_ids(published, chunks)
        assert theirs(chunks[0]) == ids[:1]
        decoded = theirs.decode(ids, time_horizon=steps, action_dim=dims)
        assert isinstance(decoded, np.ndarray)
        for row, chunk in zip(ids, decoded, strict=True):
            np.testing.assert_allclose(chunk, by_definition(row, published, steps, dims), atol=1e-4)
    assert isinstance(theirs.decode(ids), torch.Tensor)


def test_other_shapes_share_a_normaliser_of_their_dimensions_alone(fitted):
    chunks = smooth(4, steps=5)
    decoded, exact = (
        fitted.normalizer(torch.as_tensor(x)) for x in (fitted.decode(fitted(chunks), time_horizon=5), chunks)
    )
    assert (decoded - exact).abs().max() < 0.5 / 10 * 5 * (2 / 5) ** 0.5  # half a rounding step in every wave
    refused("`action_dim`", lambda: fitted(smooth(4, dims=2)))
    refused("`time_horizon`", fitted.decode, [[1]], time_horizon=-1)


def changed(fitted, folder, model=None, **changes):
    """Save a published folder in which the vocabulary has other options."""
    fitted.save_published(folder)
    raw = json.loads((folder / "tokenizer.json").read_text())
    text = json.dumps({**raw, **changes, "model": {**raw["model"], **(model or {})}})
    (folder / "tokenizer.json").write_text(text)
    return folder


@pytest.mark.parametrize("option", [{"dropout": 0.9}, {"end_of_word_suffix": "</w>"}])
def test_options_by_which_codes_are_not_their_bytes_are_refused(option, fitted, tmp_path):
    """With dropout codes change from call to call; with a suffix they do not decode."""
    refused("expected a byte-level BPE, got one", lambda: FAST.from_published(changed(fitted, tmp_path / "x", option)))


def test_a_vocabulary_that_makes_the_library_panic_is_one_line(fitted, tmp_path):
    folder = changed(fitted, tmp_path / "x", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    refused("tokenizer.json", FAST.from_published, folder)


def test_added_tokens_never_stand_for_coefficients(fitted, tmp_path):
    """They are looked for in a text before anything else, and coefficients are characters like theirs."""
    vocab = json.loads(fitted.tokenizer_json.numpy().tobytes())["model"]["vocab"]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": i, "content": token, **flags} for token, i in vocab.items()]
    folder = changed(fitted, tmp_path / "x", added_tokens=added)
    other, chunks = FAST.from_published(folder), fitted.normalizer(smooth())
    plain = FAST.from_published(fitted.save_published(tmp_path / "plain"))
    assert torch.equal(other.encode(chunks), plain.encode(chunks))
    assert torch.equal(other.decode(other.encode(chunks)), plain.decode(plain.encode(chunks)))


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"min_token": None, "action_dim": None, "time_horizon": None}, "got no min_token, action_dim, horizon. Pass"),
        ({"min_token": "-3"}, "`min_token`"),
        ({"min_token": 2**40}, "`min_token`"),
        ({"scale": 1e-300}, "`scale`"),
        ({"scale": 1e300}, "`scale`"),
    ],
)
def test_facts_that_lack_or_with_which_nothing_finite_decodes_are_refused(facts, text, fitted, tmp_path):
    folder = fitted.save_published(tmp_path / "x")
    stored = json.loads((folder / "processor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({**stored, **facts}))
    refused(re.escape(text), FAST.from_published, folder)
