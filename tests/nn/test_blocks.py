"""Blocks against torch's own layers and plain arithmetic."""

import numpy as np
import pytest
import torch
from torch import nn

from lattok.nn.blocks import Attention, PostNormBlock, PreNormBlock, SpaceTimeBlock, sinusoids
from tests.errors import refused


def test_post_norm_block_equals_torch():
    torch.manual_seed(0)
    theirs = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True).eval()
    ours = PostNormBlock(16, 4, 32).eval()
    with torch.no_grad():
        ours.attention.qkv.weight.copy_(theirs.self_attn.in_proj_weight)
        ours.attention.qkv.bias.copy_(theirs.self_attn.in_proj_bias)
        ours.attention.out.load_state_dict(theirs.self_attn.out_proj.state_dict())
        ours.ff[0].load_state_dict(theirs.linear1.state_dict())
        ours.ff[3].load_state_dict(theirs.linear2.state_dict())
        x = torch.randn(3, 7, 16)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_space_time_block_is_causal_over_frames_and_mixes_inside_them():
    torch.manual_seed(0)
    block = SpaceTimeBlock(8, 2).eval()
    x = torch.randn(1, 2, 5, 8)
    changed = x.clone()
    changed[:, 1, 3] += torch.randn(8)
    difference = (block(changed) - block(x)).abs().sum(-1)[0]
    assert (difference[0] == 0).all()  # the earlier frame never sees the later one
    assert (difference[1] > 1e-6).all()  # inside a frame every token sees every other
    changed = x.clone()
    changed[:, 0, 3] += torch.randn(8)
    assert (block(changed) - block(x)).abs().sum(-1)[0, 1, 3] > 1e-6  # the later frame sees the earlier one


def test_pre_norm_block_is_a_residual():
    block = PreNormBlock(8, 2)
    for name, parameter in block.named_parameters():
        if name.startswith(("attention.out", "ff.3")):
            nn.init.zeros_(parameter)
    x = torch.randn(2, 3, 8)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("dim", [6, 7])
def test_positions_equal_the_formula(dim):
    table = sinusoids(torch.arange(5), dim).numpy()
    for place in range(5):
        for channel in range(dim):
            frequency = np.exp(-(channel // 2 * 2) * np.log(10000.0) / dim)
            expected = (np.sin if channel % 2 == 0 else np.cos)(place * frequency)
            assert table[place, channel] == pytest.approx(expected, abs=1e-5)


def test_heads_must_divide_the_width():
    refused("`heads`", Attention, 10, 3)
