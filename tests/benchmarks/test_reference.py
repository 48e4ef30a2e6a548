"""Straightforward modules, against which speed is measured, compute what the published classes do, and what ours do."""

import pytest
import safetensors.torch
import torch

from lattok import convert
from tests.image_lam.published.parity import close, open_case

pytest.importorskip("scipy")
from benchmarks.speed.action_tokenizer import REFERENCES, reference_pair, smooth_chunks


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("which", ["a", "b"])
def test_codes_and_actions_are_those_of_the_published_class_and_of_ours(name, which):
    case = open_case(f"{name}_{which}")
    path, settings = case.folder / "weights.safetensors", case.config["model"]
    plain, ours = REFERENCES[name](settings), getattr(convert, name)(path, settings)
    tensors = safetensors.torch.load_file(path)
    missing, unread = plain.load_state_dict(tensors, strict=False)
    assert not missing
    assert all(key.endswith(("inv_freq", "_dummy_variable")) or "input_stats" in key for key in unread)
    actions, tokens = case.values["actions"], case.values["tokens"].long()
    assert torch.equal(plain.encode(actions), tokens)
    assert torch.equal(ours.encode(actions), tokens)
    close(plain.decode(tokens), case.values["recon"])
    close(ours.decode(tokens), case.values["recon"])


@pytest.mark.parametrize("name", REFERENCES)
def test_at_published_sizes_both_have_the_same_weights(name, tmp_path):
    plain, ours = reference_pair(name, tmp_path)
    chunks = smooth_chunks(16, 0, ours.horizon, ours.action_dim)
    codes = plain.encode(chunks)
    assert (ours.encode(chunks) != codes).float().mean() < 0.01  # on a border between codes
    assert len(codes.unique(dim=0)) > 4
    close(ours.decode(codes), plain.decode(codes))
