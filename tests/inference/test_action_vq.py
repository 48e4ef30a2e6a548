"""The tokenizer that decodes by a table, against the plain one."""

import pickle

import numpy as np
import pytest
import torch

import lattok
from lattok import UniformBins
from lattok.action_vq import ActionVQConfig, P2TActionVQ
from lattok.utils.checks import LattokError

SMALL = {"action_dim": 3, "horizon": 6, "dim": 16, "codebook_size": 8, "heads": 2, "hidden": 24}
CONFIGS = {
    "libero": {"action_dim": 7},
    "one step": {**SMALL, "horizon": 1},
    "clipped": {**SMALL, "normalize": "quantile", "normalize_clip": True, "normalize_exceptions": ("2=mean_std",)},
}


def make(name: str = "", **changes) -> P2TActionVQ:
    """Random weights with biases off 0 and units far from normalised."""
    torch.manual_seed(0)
    model = P2TActionVQ(ActionVQConfig(**{**CONFIGS.get(name, SMALL), **changes}))
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    m = model.action_dim
    actions = torch.randn(200, m) * torch.logspace(-2, 1, m) + 5 * torch.randn(m)
    model.normalizer.fit(actions, model.config.action_kinds)
    return model.eval()


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_plain_tokenizer(name):
    model = make(name)
    fast = lattok.for_inference(model)
    assert (fast.horizon, fast.action_dim) == (model.horizon, model.action_dim)
    assert (fast.vocab_size, fast.tokens_per_chunk) == (model.vocab_size, model.tokens_per_chunk)
    chunks, valid = torch.randn(40, model.horizon, model.action_dim), torch.ones(40, model.horizon, dtype=torch.bool)
    valid[:20, 1:] = False
    codes = fast.encode(chunks)
    assert torch.equal(codes, model.encode(chunks))
    assert torch.equal(fast.encode(chunks, valid), model.encode(chunks, valid))
    torch.testing.assert_close(fast.decode(codes), model.decode(codes))


def test_arrays_give_arrays_and_tensors_give_tensors():
    model = make()
    fast, codes = lattok.for_inference(model), torch.arange(18).view(3, 6) % 8
    assert isinstance(fast.decode(codes), torch.Tensor)
    assert isinstance(fast.decode(codes.numpy()), np.ndarray)
    assert isinstance(fast.encode(np.zeros((2, 6, 3), np.float32)), np.ndarray)


def test_any_integers_decode_as_the_plain_tokenizer_decodes_them():
    model = make()
    fast = lattok.for_inference(model)
    generator = torch.Generator().manual_seed(0)
    for length in (0, 1, 6, 9):
        for span in (8, 300, 2**62):
            codes = torch.randint(-span, span, (20, length), generator=generator)
            torch.testing.assert_close(fast.decode(codes), model.decode(codes))
            np.testing.assert_allclose(fast.decode(codes.numpy()), model.decode(codes).numpy(), rtol=1e-5)
    rows = [[1, 2, 3], [4, 5, 6, 7, 0, 1], []]
    torch.testing.assert_close(fast.decode(rows), model.decode(rows))
    codes = torch.tensor([[0, 1, 2, 3, 4, 7], [0, 1, 8, -1, 4, 5]])
    legal = codes.clamp(0, 7)
    for dtype in (torch.uint8, torch.int16, torch.int32):
        torch.testing.assert_close(fast.decode(legal.to(dtype)), model.decode(legal))
    torch.testing.assert_close(fast.decode(codes.int()), model.decode(codes))
    torch.testing.assert_close(fast.decode(legal.T.contiguous().T), model.decode(legal))
    assert fast.decode(codes, return_info=True)[1].repaired.tolist() == [False, True]
    for wrong in (torch.zeros(2, 6), torch.zeros(6, dtype=torch.long), None):
        with pytest.raises(LattokError) as plain:
            model.decode(wrong)
        with pytest.raises(LattokError) as ours:
            fast.decode(wrong)
        assert str(ours.value) == str(plain.value)


def test_the_table_holds_every_action_of_the_step_decoder():
    model = make("clipped")
    fast, codes = lattok.for_inference(model), torch.arange(24).view(4, 6) % 8
    assert fast.table.shape == (8, 3)
    torch.testing.assert_close(torch.from_numpy(fast.table)[codes], model.decode(codes))


def test_it_keeps_its_weights_and_goes_to_workers():
    model, codes = make(), torch.arange(6)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        fast = lattok.for_inference(model)
    expected = model.decode(codes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    for one in (fast, pickle.loads(pickle.dumps(fast))):
        torch.testing.assert_close(one.decode(codes), expected)


@pytest.mark.parametrize(
    ("model", "options", "text"),
    [
        (make(decoder="context"), {}, "`model`: expected a tokenizer with the step decoder.*use the tokenizer itself"),
        (make(), {"backend": "onnxruntime"}, "expected float32 and torch for a tokenizer of actions"),
        (make(), {"precision": "bfloat16"}, "expected float32 and torch for a tokenizer of actions"),
        (UniformBins.fit(np.zeros((2, 4, 3), np.float32), bins=4), {}, "an ImageLAM or a P2TActionVQ, got UniformBins"),
    ],
)
def test_what_cannot_be_made_faster_is_refused(model, options, text):
    with pytest.raises(LattokError, match=text):
        lattok.for_inference(model, **options)
