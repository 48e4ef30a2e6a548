import torch

from lattok.backbones import SCRATCH, BackboneConfig, LoraSpec
from lattok.backbones.model import MAX_WORDS, ScratchBackbone
from tests.errors import refused

CONFIG = BackboneConfig(SCRATCH, train="full", patch_size=8, width=32, depth=3, heads=4)


def backbone() -> ScratchBackbone:
    torch.manual_seed(0)
    return ScratchBackbone(CONFIG, cameras=2, image_size=16).eval()


def images(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 2, 16, 16, 3), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def test_positions_are_words_images_queries():
    model = backbone()
    inputs = model.prepare(images(), ["open it", "close the drawer, please"])
    out = model(inputs, torch.randn(2, 5, 32), [0, 2, 3])
    assert sorted(out.hidden) == [0, 2, 3]
    assert inputs["words"].shape == (2, 5)  # the comma counts
    assert out.hidden[3].shape == (2, 5 + 2 * 4 + 5, 32)
    assert out.queries == slice(13, 18)
    assert out.valid[0].tolist() == [False] * 3 + [True] * 15
    assert out.image[0].nonzero()[:, 0].tolist() == list(range(5, 13))


def test_the_last_hidden_state_is_normalised_and_the_others_are_not():
    model = backbone()
    out = model(model.prepare(images(), ["a", "b"]), torch.randn(2, 3, 32), [2, 3])
    normed = model.norm(model.blocks[2](out.hidden[2], seen=_seen(out.hidden[2].shape[1], 3)))
    torch.testing.assert_close(out.hidden[3], normed)


def _seen(length: int, queries: int) -> torch.Tensor:
    before = length - queries
    return torch.tensor([[[j < before or j <= i for j in range(length)] for i in range(length)]] * 2)


def test_a_query_changes_nothing_before_it():
    model = backbone()
    inputs, queries = model.prepare(images(), ["a", "b c d"]), torch.randn(2, 5, 32)
    before = model(inputs, queries, [3]).hidden[3]
    queries[:, 3] = torch.randn(2, 32)  # adding a number would not pass the norms
    after = model(inputs, queries, [3]).hidden[3]
    start = before.shape[1] - 5
    torch.testing.assert_close(after[:, : start + 3], before[:, : start + 3], rtol=0, atol=0)
    assert (after[:, start + 3 :] - before[:, start + 3 :]).abs().amax(-1).min() > 1e-4


def test_instruction_and_every_camera_matter():
    model = backbone()
    queries = torch.randn(1, 2, 32)

    def states(text: str, pictures: torch.Tensor) -> torch.Tensor:
        return model(model.prepare(pictures, [text]), queries, [3]).hidden[3][:, -2:]

    base, swapped = images(1), images(1).flip(1)
    assert (states("open it", base) - states("close it", base)).abs().max() > 1e-3
    assert (states("open it", base) - states("it open", base)).abs().max() > 1e-3
    assert (states("open it", base) - states("open it", swapped)).abs().max() > 1e-3


def test_any_text_has_a_token_and_a_long_one_keeps_its_end():
    model = backbone()
    words = model.prepare(images(), ["", "drücke ☃ " * 50])["words"]
    assert words.shape == (2, MAX_WORDS)
    assert words[0].tolist()[-1] != 0
    last = model.prepare(images(1), ["☃"])["words"]
    assert words[1, -1] == last[0, -1]


def test_padding_is_not_looked_at():
    model = backbone()
    queries = torch.randn(1, 3, 32)
    inputs = model.prepare(images(1), ["open it"])
    padded = {"words": torch.nn.functional.pad(inputs["words"], (7, 0)), "images": inputs["images"]}
    alone, beside = (model(one, queries, [3]).hidden[3][:, -3:] for one in (inputs, padded))
    torch.testing.assert_close(beside, alone, atol=1e-6, rtol=0)


def test_what_it_cannot_do_is_one_line():
    refused("`backbone_train`", lambda: backbone().adapt("lora", LoraSpec()))
    refused("the scratch backbone predicts no text", lambda: backbone().text_errors({}, [[1]]))
    refused("`patch_size`", ScratchBackbone, CONFIG, cameras=1, image_size=20)
