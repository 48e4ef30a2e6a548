"""The compiled tokenizer and the exported graph against the plain modules."""

import pickle
import sys
import threading

import numpy as np
import pytest
import torch

from lattok import P2TActionVQ
from lattok.action_vq import ActionVQConfig
from lattok.action_vq.compiled import compile_tokenizer
from lattok.action_vq.folding import fold
from lattok.checks import LattokError
from tests.action_vq.margins import unexplained

SMALL = {"action_dim": 3, "horizon": 6, "dim": 16, "codebook_size": 8, "heads": 2, "hidden": 24}
CONFIGS = {
    "libero": {"action_dim": 7},
    "robotwin": {"action_dim": 14, "horizon": 25},
    "jaka": {"action_dim": 7, "horizon": 20},
    "small": SMALL,
    "context": {**SMALL, "decoder": "context"},
    "no fft": {**SMALL, "fft": False},
    "odd": {**SMALL, "horizon": 7, "dilations": (1, 3, 2, 5)},
    "one step": {**SMALL, "horizon": 1},
    "two steps": {**SMALL, "horizon": 2},
    "groups of three": {**SMALL, "horizon": 12, "dilations": (2, 4, 1, 6)},
    "no convolution": {**SMALL, "dilations": (), "depth": 1},
    "one convolution": {**SMALL, "dilations": (9,), "depth": 3, "heads": 1},
    "clipped": {**SMALL, "normalize": "quantile", "normalize_clip": True, "normalize_exceptions": ("2=mean_std",)},
    "long": {**SMALL, "horizon": 50, "action_dim": 32},
}
onnx_too = ["torch", "onnxruntime"]


def make(name: str = "small", seed: int = 0) -> P2TActionVQ:
    """Random weights with gains off 1 and biases off 0, units far from normalised, a codebook around latents."""
    torch.manual_seed(seed)
    model = P2TActionVQ(ActionVQConfig(**CONFIGS[name]))
    for key, parameter in model.named_parameters():
        if "norm" in key or key.endswith("bias"):
            parameter.data += 0.2 * torch.randn_like(parameter)
    m = model.action_dim
    actions = torch.randn(200, m) * torch.logspace(-2, 1, m) + 5 * torch.randn(m)
    model.normalizer.fit(actions, model.config.normalize_kinds)
    latents = model.eval().latent_actions(draw(model, 300, seed=1)).latents.flatten(0, 1)
    rows = latents[torch.randperm(len(latents))[: model.vocab_size]]
    # a trained codebook is not made of latents: distances are of the size of the vectors, as rounding is
    model.quantizer.codebook_vectors[0].copy_(rows + latents.std() * torch.randn_like(rows))
    return model


def draw(model: P2TActionVQ, count: int, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, model.horizon, model.action_dim, generator=generator)
    return model.normalizer.inverse(noise)


def compiled_for(model, backend, **options):
    if backend == "onnxruntime":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    return compile_tokenizer(model, backend, **options)


@pytest.fixture(params=onnx_too)
def pair(request):
    model = make()
    return model, compiled_for(model, request.param)


@pytest.mark.parametrize("backend", onnx_too)
@pytest.mark.parametrize("name", CONFIGS)
def test_codes_are_those_of_the_plain_modules(name, backend):
    model = make(name)
    compiled = compiled_for(model, backend)
    assert (compiled.horizon, compiled.action_dim) == (model.horizon, model.action_dim)
    assert (compiled.vocab_size, compiled.tokens_per_chunk) == (model.vocab_size, model.tokens_per_chunk)
    for count in (1, 75):
        chunks = draw(model, count)
        codes = compiled.encode(chunks)
        assert codes.dtype == torch.int64
        assert unexplained(model, chunks, codes) == 0
        assert (codes == compiled.encode(chunks.numpy())).all()
        torch.testing.assert_close(compiled.decode(codes), model.decode(codes))


@pytest.mark.parametrize("backend", onnx_too)
def test_what_lies_beyond_the_range_is_clipped_there_too(backend):
    """In arrays, tensors and masked chunks."""
    model = make("clipped")
    chunks = draw(model, 60) * torch.tensor([1.0, 100.0, 30.0])
    largest = model.normalizer(chunks).abs().amax((0, 1)).tolist()
    assert largest[:2] == [1.0, 1.0]
    assert largest[2] > 10
    unclipped = make("clipped")
    unclipped.normalizer.limit = None
    assert (model.encode(chunks) != unclipped.encode(chunks)).any()
    compiled, every = compiled_for(model, backend), torch.ones(60, 6, dtype=torch.bool)
    for codes in (compiled.encode(chunks), torch.from_numpy(compiled.encode(chunks.numpy()))):
        assert unexplained(model, chunks, codes) == 0
    assert unexplained(model, chunks, compiled.encode(chunks, every)) == 0
    with pytest.raises(LattokError, match="expected finite actions"):
        compiled.encode(torch.full((1, 6, 3), torch.inf))


def test_the_longest_dilation_needs_no_gather_at_the_published_size():
    folded = fold(make("libero"))
    assert folded.order == [0, 4, 1, 5, 2, 6, 3, 7]
    assert [conv.index is None for conv in folded.convs] == [False, True]


def test_large_offsets_do_not_cost_precision():
    model = make()
    model.normalizer.shift.copy_(torch.tensor([1000.0, -4096.0, 50.0]))
    model.normalizer.scale.copy_(torch.tensor([0.01, 1.0, 3.0]))
    chunks = draw(model, 60)
    assert unexplained(model, chunks, compile_tokenizer(model).encode(chunks)) == 0
    masked = torch.ones(60, 6, dtype=torch.bool)
    assert unexplained(model, chunks, compile_tokenizer(model).encode(chunks, masked)) == 0


def test_arrays_give_arrays_and_tensors_give_tensors(pair):
    model, compiled = pair
    chunks = draw(model, 5)
    codes = compiled.encode(chunks.numpy())
    assert isinstance(codes, np.ndarray)
    assert codes.dtype == np.int64
    assert isinstance(compiled.decode(codes), np.ndarray)
    assert isinstance(compiled.lookup(codes), np.ndarray)
    assert isinstance(compiled.decode(torch.from_numpy(codes)), torch.Tensor)
    assert isinstance(compiled.lookup(torch.from_numpy(codes)), torch.Tensor)


def test_short_masked_empty_strided_and_half_precision_chunks(pair):
    model, compiled = pair
    chunks, valid = draw(model, 40), torch.ones(40, 6, dtype=torch.bool)
    valid[:20, 3:] = False
    assert torch.equal(compiled.encode(chunks, valid), model.encode(chunks, valid))
    assert np.array_equal(compiled.encode(chunks.numpy(), valid.numpy()), model.encode(chunks, valid).numpy())
    assert torch.equal(compiled.encode(chunks[:, :4]), model.encode(chunks[:, :4]))
    assert compiled.encode(chunks[:0]).shape == (0, 6)
    assert compiled.encode(chunks[:0].numpy()).shape == (0, 6)
    strided = chunks.flip(0).transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(compiled.encode(strided), model.encode(strided))
    assert np.array_equal(compiled.encode(chunks.numpy()[::2]), model.encode(chunks[::2]).numpy())
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64):
        assert torch.equal(compiled.encode(chunks.to(dtype)), model.encode(chunks.to(dtype)))
    assert np.array_equal(compiled.encode(chunks.double().numpy()), model.encode(chunks.double()).numpy())
    assert torch.equal(compiled.encode(chunks.clone().requires_grad_()), model.encode(chunks))


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(2, 6, 4),
        torch.zeros(2, 7, 3),
        torch.zeros(2, 0, 3),
        torch.zeros(6, 3),
        torch.full((2, 6, 3), float("nan")),
        torch.full((40, 6, 3), float("inf")),
        torch.full((2, 6, 3), 1e300, dtype=torch.float64),
        np.full((2, 6, 3), 1e300),
        np.zeros((2, 5)),
        [[0.0]],
        None,
    ],
)
def test_wrong_chunks_give_the_texts_of_the_plain_tokenizer(pair, wrong):
    model, compiled = pair
    with pytest.raises(LattokError) as plain:
        model.encode(wrong)
    with pytest.raises(LattokError) as ours:
        compiled.encode(wrong)
    assert str(ours.value) == str(plain.value)


def test_any_integers_decode_as_the_plain_tokenizer_decodes_them():
    model = make()
    compiled = compile_tokenizer(model)
    generator = torch.Generator().manual_seed(0)
    for length in (0, 1, 6, 9):
        for span in (8, 300, 2**62):
            codes = torch.randint(-span, span, (20, length), generator=generator)
            torch.testing.assert_close(compiled.decode(codes), model.decode(codes))
            np.testing.assert_allclose(compiled.decode(codes.numpy()), model.decode(codes).numpy(), rtol=1e-5)
    rows = [[1, 2, 3], [4, 5, 6, 7, 0, 1], []]
    torch.testing.assert_close(compiled.decode(rows), model.decode(rows))
    codes = torch.tensor([[0, 1, 2, 3, 4, 7], [0, 1, 8, -1, 4, 5]])
    legal = codes.clamp(0, 7)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        torch.testing.assert_close(compiled.decode(legal.to(dtype)), model.decode(legal))
    torch.testing.assert_close(compiled.decode(codes.int()), model.decode(codes))
    torch.testing.assert_close(compiled.decode(legal.T.contiguous().T), model.decode(legal))
    assert compiled.decode(codes, return_info=True)[1].repaired.tolist() == [False, True]
    for wrong in (torch.zeros(2, 6), torch.zeros(6, dtype=torch.long), None):
        with pytest.raises(LattokError) as plain:
            model.decode(wrong)
        with pytest.raises(LattokError) as ours:
            compiled.decode(wrong)
        assert str(ours.value) == str(plain.value)


def test_the_table_holds_every_action_of_the_step_decoder():
    model = make()
    compiled = compile_tokenizer(model)
    assert compiled.table is not None
    assert compiled.table.shape == (8, 3)
    codes = torch.arange(8).repeat(3)[:24].view(4, 6)
    torch.testing.assert_close(torch.from_numpy(compiled.table)[codes], model.decode(codes))
    context = compile_tokenizer(make("context"))
    assert context.table is None
    with pytest.raises(LattokError, match="step decoder"):
        context.lookup(codes)


def test_it_is_bound_to_the_weights_it_was_compiled_from(pair):
    model, compiled = pair
    chunks = draw(model, 40)
    codes, short = model.encode(chunks), model.encode(chunks[:, :3])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert torch.equal(compiled.encode(chunks), codes)
    assert torch.equal(compiled.encode(chunks[:, :3]), short)


def test_threads_share_one_object_and_large_batches():
    model = make()
    compiled = compiled_for(model, "onnxruntime", threads=2)
    chunks = draw(model, 333)
    expected = model.encode(chunks)
    assert torch.equal(compiled.encode(chunks), expected)
    got = {}
    workers = [threading.Thread(target=lambda i=i: got.update({i: compiled.encode(chunks[i::4])})) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(got[i], expected[i::4]) for i in range(4))


def test_workers_get_it_by_pickling(pair):
    model, compiled = pair
    copied = pickle.loads(pickle.dumps(compiled))
    chunks = torch.randn(5, model.horizon, model.action_dim)
    assert torch.equal(copied.encode(chunks), compiled.encode(chunks))


def test_autocast_does_not_reach_codes_and_actions():
    model = make()
    chunks = draw(model, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compiled = compile_tokenizer(model)
        codes = compiled.encode(chunks)
    assert torch.equal(codes, model.encode(chunks))
    torch.testing.assert_close(compiled.decode(codes), model.decode(codes))


@pytest.mark.parametrize(
    "name", ["libero", "robotwin", "jaka", "small", "clipped", "odd", "groups of three", "no convolution"]
)
def test_the_exported_graph_gives_the_same_codes(tmp_path, name):
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = make(name)
    path = model.export_onnx(tmp_path / "new" / "encoder.onnx")
    assert [file.name for file in path.parent.iterdir()] == ["encoder.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert int(facts["horizon"]) == model.horizon
    assert int(facts["action_dim"]) == model.action_dim
    assert int(facts["vocab_size"]) == model.vocab_size
    assert "lattok_version" in facts
    for count in (0, 1, 33):
        chunks = draw(model, count)
        codes = session.run(["codes"], {"chunks": chunks.numpy()})[0]
        assert codes.dtype == np.int64
        assert codes.shape == (count, model.horizon)
        assert count == 0 or unexplained(model, chunks, torch.from_numpy(codes)) == 0


def test_both_forms_of_attention_are_the_same(monkeypatch):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("lattok.action_vq.onnx_graph.ATTENTION_SINCE", (999, 0))
    model = make()
    chunks = draw(model, 40)
    assert unexplained(model, chunks, compile_tokenizer(model, "onnxruntime").encode(chunks)) == 0


def test_wrong_backends_and_missing_packages_say_what_to_do(monkeypatch, tmp_path):
    model = make()
    with pytest.raises(LattokError, match="`backend`: expected one of torch, onnxruntime, got 'tensorrt'"):
        compile_tokenizer(model, "tensorrt")
    with pytest.raises(LattokError, match="`threads`"):
        compile_tokenizer(model, "onnxruntime", threads=0)
    with pytest.raises(LattokError, match="torch.set_num_threads"):
        compile_tokenizer(model, "torch", threads=2)
    for name, ask in (
        ("onnxruntime", lambda: compile_tokenizer(model, "onnxruntime")),
        ("onnx", lambda: model.export_onnx(tmp_path / "encoder.onnx")),
    ):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(
            LattokError, match=rf"`{name}`: expected an installed package.*pip install 'lattok\[onnx\]'"
        ):
            ask()
    assert not list(tmp_path.iterdir())
