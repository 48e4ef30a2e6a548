"""Constrained generation: every row that comes out decodes without repair, whatever the logits say."""

import pytest
import torch

from lattok import UniformBins
from lattok.action_vq.constrain import CodeConstraint, Grammar, SlotGrammar
from lattok.checks import LattokError


def generate(
    grammar: Grammar, rows: int, longest: int, seed: int = 0, offset: int = 0, prompt: int = 0
) -> list[list[int]]:
    """Code rows from random logits under the grammar, the end token right after the codes."""
    size, generator = grammar.vocab_size, torch.Generator().manual_seed(seed)
    constraint = CodeConstraint(grammar, offset, offset + size, prompt)
    ids, done = torch.zeros(rows, prompt, dtype=torch.long), torch.zeros(rows, dtype=torch.bool)
    while not bool(done.all()):
        assert ids.shape[1] - prompt <= longest
        token = constraint(ids, torch.randn(rows, offset + size + 7, generator=generator)).argmax(-1)
        ids, done = torch.cat([ids, token[:, None]], 1), done | (token == offset + size)
    return [[token - offset for token in row if token != offset + size] for row in ids[:, prompt:].tolist()]


def test_fixed_length_rows_are_exactly_what_decodes():
    tokenizer = UniformBins.fit(torch.randn(20, 4, 2), bins=9)
    rows = generate(tokenizer.grammar(), 300, tokenizer.tokens_per_chunk, offset=11, prompt=3)
    assert {len(row) for row in rows} == {8}
    assert len({code for row in rows for code in row}) == 9
    assert not tokenizer.decode(rows, return_info=True)[1].repaired.any()


def test_slots_may_differ_in_size():
    rows = generate(SlotGrammar((2, 5, 3)), 200, 3)
    for slot, size in enumerate((2, 5, 3)):
        assert {row[slot] for row in rows} == set(range(size))


def test_a_long_row_may_come_at_once():
    grammar = SlotGrammar((5,) * 3000)
    mask = CodeConstraint(grammar, 0, 5, 0)(torch.ones(2, 2999).long(), torch.zeros(2, 6))
    assert torch.equal(torch.isfinite(mask), torch.tensor([[True] * 5 + [False]] * 2))


def test_works_inside_transformers_generate():
    transformers = pytest.importorskip("transformers")
    tokenizer = UniformBins.fit(torch.randn(20, 3, 2), bins=16)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=64, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2, pad_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    prompt = torch.randint(3, 20, (5, 4))
    constraint = tokenizer.logits_processor(first_token_id=40, eos_token_id=2, prompt_length=4)
    for how in ({"do_sample": True}, {"num_beams": 3, "do_sample": False}):
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), logits_processor=[constraint], max_new_tokens=7, **how
        )
        assert (out[:, 10] == 2).all()
        assert not tokenizer.decode(out[:, 4:10] - 40, return_info=True)[1].repaired.any()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda g: CodeConstraint(g, 10, 11, 0),
            r"`eos_token_id`: expected a token that is no code \(10..13\), got 11",
        ),
        (lambda g: CodeConstraint(g, -1, 11, 0), "`first_token_id`: expected a whole number of at least 0"),
        (lambda g: CodeConstraint(g, 0, 9, 0)(torch.zeros(1, 0).long(), torch.zeros(1, 5)), "logits of at least 10"),
        (
            lambda g: CodeConstraint(g, 0, 9, 3)(torch.zeros(1, 1).long(), torch.zeros(1, 10)),
            "prompt_length = 3 tokens",
        ),
        (lambda g: CodeConstraint(g, 0, 9, 0)(torch.tensor([[7]]), torch.zeros(1, 10)), "Is `prompt_length` the width"),
        (lambda g: CodeConstraint(g, 0, 9, 0)(torch.ones(1, 1500).long(), torch.zeros(1, 10)), "Is `prompt_length`"),
    ],
)
def test_wrong_use_is_named(call, text):
    with pytest.raises(LattokError, match=text):
        call(SlotGrammar((4, 4)))
