"""One convention for arrays, tensors and lists, in every model: what came in comes out, the rest is one line."""

import re
import warnings

import numpy as np
import pytest
import torch

import lattok
from lattok import UniformBins
from lattok.action_vq.dct import DCTTokenizer
from lattok.action_vq.learned import TrainedTokenizer
from lattok.image_lam import ImageLAM, ImageLAMConfig
from lattok.types import ActionBatch
from tests.action_vq.families import cases, fitted
from tests.errors import refused

CHUNKS = np.random.default_rng(0).standard_normal((20, 6, 3)).astype(np.float32)


@pytest.fixture(scope="module", params=cases())
def tokenizer(request):
    return fitted(request.param)


@pytest.fixture(scope="module")
def lam():
    small = {"image_size": 16, "width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1}
    torch.manual_seed(0)
    return ImageLAM(ImageLAMConfig.of(features="pixels", cameras=("a",), latent_dim=8, **small)).eval()


def test_arrays_tensors_and_lists_give_the_same_codes_and_the_kind_that_came_in_comes_out(tokenizer):
    of_array, of_tensor, of_list = (tokenizer.encode(x) for x in (CHUNKS, torch.from_numpy(CHUNKS), CHUNKS.tolist()))
    assert isinstance(of_array, np.ndarray)
    assert isinstance(of_tensor, torch.Tensor)
    assert isinstance(of_list, torch.Tensor)
    assert (of_array == of_tensor.numpy()).all()
    assert (of_array == of_list.numpy()).all()
    mask = np.ones((20, 6), dtype=bool)
    mask[:, 5] = False
    masked = [tokenizer.encode(CHUNKS, valid) for valid in (mask, torch.from_numpy(mask), mask.tolist())]
    assert all(isinstance(codes, np.ndarray) and (codes == masked[0]).all() for codes in masked)
    decoded = [tokenizer.decode(codes) for codes in (of_array, of_tensor, of_tensor.tolist())]
    assert [type(chunks) for chunks in decoded] == [np.ndarray, torch.Tensor, torch.Tensor]
    assert all((np.asarray(chunks) == decoded[0]).all() for chunks in decoded)
    chunks, info = tokenizer.decode(of_array, return_info=True)
    assert isinstance(chunks, np.ndarray)
    assert isinstance(info.repaired, np.ndarray)


def test_latents_reports_and_fit_take_every_kind():
    for chunks in (CHUNKS, torch.from_numpy(CHUNKS), CHUNKS.tolist(), [CHUNKS[:10], torch.from_numpy(CHUNKS[10:])]):
        tokenizer = UniformBins.fit(chunks, bins=4)
        assert tokenizer.horizon == 6
        assert torch.equal(tokenizer.encode(torch.from_numpy(CHUNKS)), tokenizer.encode(CHUNKS.tolist()))
    assert isinstance(tokenizer.latent_actions(CHUNKS).latents, np.ndarray)
    assert isinstance(tokenizer.latent_actions(CHUNKS.tolist()).latents, torch.Tensor)
    assert tokenizer.error_report(CHUNKS.tolist()).to_text() == tokenizer.error_report(CHUNKS).to_text()


def test_frames_too(lam):
    frames = np.random.default_rng(1).integers(0, 256, (3, 2, 1, 16, 16, 3), dtype=np.uint8)
    for model in (lam, lattok.for_inference(lam)):
        codes = [model.encode(x).codes for x in (frames, torch.from_numpy(frames), list(frames))]
        assert [type(found) for found in codes] == [np.ndarray, torch.Tensor, torch.Tensor]
        assert all((np.asarray(found) == codes[0]).all() for found in codes)
    video = lam.label_video(frames[:, 0], 1)
    assert isinstance(video.quantized, np.ndarray)
    refused("`frames`: expected uint8 pixels", lambda: lam.encode(frames.astype(np.float32)))


def quantized() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on its way out of torch
        return torch.quantize_per_tensor(torch.from_numpy(CHUNKS), 0.1, 0, torch.qint8)


ODD = {
    "sparse": torch.from_numpy(CHUNKS).to_sparse(),
    "meta": torch.empty(20, 6, 3, device="meta"),
    "quantized": quantized(),
    "long": CHUNKS.astype(np.longdouble),
    "masked": np.ma.masked_array(CHUNKS, CHUNKS > 0),
    "complex": CHUNKS.astype(np.complex64),
    "text": np.array([["a"]]),
    "ragged": [[1.0, 2.0], [1.0]],
    "words": ["a", "b"],
    "huge": [[[10**400]]],
    "none": None,
    "text alone": "chunks",
}


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_plain_array_is_refused_in_one_line(tokenizer, kind):
    for call, name in ((tokenizer.encode, "chunks"), (tokenizer.decode, "codes")):
        said = refused(None, call, ODD[kind])
        assert re.match(rf"`{name}`: expected [^\n]+$", said), said
    refused("`valid`: ", lambda: tokenizer.encode(CHUNKS, ODD[kind] if ODD[kind] is not None else 3))


@pytest.mark.parametrize("kind", ODD)
def test_frames_that_are_no_plain_array_neither(lam, kind):
    refused(r"^`frames`: expected [^\n]+$", lambda: lam.encode(ODD[kind]))


@pytest.mark.parametrize("name", cases())
def test_calling_a_model_says_what_to_call(name):
    model = fitted(name)
    if isinstance(model, DCTTokenizer):  # called as published processors are
        return
    for value in (torch.from_numpy(CHUNKS), CHUNKS, None):
        refused(r"`batch`: expected .* Call tokenizer.encode\(chunks\)", model, value)
    if isinstance(model, TrainedTokenizer):
        batch = ActionBatch(torch.from_numpy(CHUNKS), torch.ones(20, 6, dtype=torch.bool))
        assert "reconstruction" in model(batch)


def test_calling_a_latent_action_model_says_what_to_call(lam):
    refused(r"`batch`: expected a PairBatch .* Call", lam, torch.zeros(1, 2, 1, 16, 16, 3, dtype=torch.uint8))
    assert lattok.ImageLAM is ImageLAM
