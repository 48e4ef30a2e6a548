"""What OAT and QueST share: the grid of levels against plain arithmetic, wrong sizes, published settings."""

import math
import re

import numpy as np
import pytest
import torch

from lattok.action_vq import OAT, OATConfig, QueST, QueSTConfig, level_tokenizer
from tests.errors import refused

SMALL = {"action_dim": 3, "horizon": 6, "dim": 8, "heads": 2, "encoder_depth": 1, "decoder_depth": 1}


def plain_fsq(latents: np.ndarray, levels: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Values and codes of latents [n, d], Mentzer et al., 2024, appendix A.1, with ids as whole numbers."""
    values, codes, place = np.empty_like(latents), np.zeros(len(latents), dtype=np.int64), 1
    for i, count in enumerate(levels):
        half, height = count // 2, (count - 1) * 1.001 / 2
        offset = 0.0 if count % 2 else 0.5
        rounded = np.round(np.tanh(latents[:, i] + math.atanh(offset / height)) * height - offset)
        values[:, i], codes = rounded / half, codes + (rounded.astype(np.int64) + half) * place
        place *= count
    return values, codes


@pytest.mark.parametrize("config", [OATConfig, QueSTConfig])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"levels": ()}, "`levels`: expected 1 to 12 numbers, got 0."),
        ({"levels": (3,) * 13}, "`levels`: expected 1 to 12 numbers, got 13."),
        ({"levels": (8, 2)}, "`levels[1]`: expected a whole number of at least 3, got 2."),
        ({"levels": (1024, 1025)}, "`levels`: expected at most 1,048,576 codes, got 1,049,600."),
        ({"dim": 9, "heads": 3}, "`dim`: expected an even number, half sines and half cosines, got 9."),
        ({"heads": 3}, "`heads`: expected a divisor of the width 8, got 3."),
        ({"dropout": 1.0}, "`dropout`: expected a number in [0, 1), got 1.0."),
    ],
)
def test_sizes_that_make_no_sense_are_named(config, options, text):
    refused(re.escape(text), config, **{**SMALL, **options})


@pytest.mark.parametrize("family", [OAT, QueST])
def test_labels_are_the_latents_and_what_was_rounded(family):
    torch.manual_seed(0)
    model = family(family.config_class(**SMALL, levels=(5, 4))).eval()
    chunks = torch.randn(7, 6, 3)
    found = model.latent_actions(chunks)
    values, codes = plain_fsq(found.latents.flatten(0, 1).numpy(), (5, 4))
    assert found.latents.shape == (7, model.tokens_per_chunk, 2)
    assert np.allclose(found.quantized.flatten(0, 1), values)
    assert np.array_equal(found.codes.flatten(), codes)


@pytest.mark.parametrize("family", [OAT, QueST])
def test_many_chunks_go_through_the_networks_in_blocks(family, monkeypatch):
    torch.manual_seed(0)
    model, most = family(family.config_class(**SMALL)).eval(), []
    chunks = torch.randn(19, 6, 3)
    codes = model.encode(chunks)
    actions = model.decode(codes)
    monkeypatch.setattr(level_tokenizer, "BLOCK", 8)
    model.head.register_forward_hook(lambda _, inputs, output: most.append(len(output)))
    assert torch.equal(model.encode(chunks), codes)
    torch.testing.assert_close(model.decode(codes), actions)
    assert most == [8, 8, 3]


@pytest.mark.parametrize("causal", [True, False])
def test_steps_of_a_causal_decoder_do_not_see_later_ones_and_others_do(causal):
    torch.manual_seed(0)
    sizes = {"dim": 16, "heads": 2, "decoder_depth": 1, "dropout": 0.0}
    config = QueSTConfig(action_dim=3, horizon=6, causal_decoder=causal, **sizes)
    decoder, memory = QueST(config).decoder.eval(), torch.randn(2, 4, 16)
    before = decoder(memory)
    decoder.places[-1] += 1.0
    moved = (decoder(memory) - before).abs().sum((0, 2)) > 0
    assert moved.tolist() == [*[not causal] * 5, True]
