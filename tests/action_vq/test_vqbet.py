"""VQ-BeT's residual VQ-VAE: against plain arithmetic, and published checkpoints as their class has them."""

import json
import re

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F

import lattok
from lattok import VQBeT
from lattok.action_vq import VQBeTConfig
from lattok.cli import main
from lattok.types import ActionBatch
from tests.action_vq.families import learned
from tests.action_vq.walks import saturating, smooth, whole
from tests.errors import refused
from tests.image_lam.published.parity import SHARED, Case, close, open_case

BOOK = "vq_embedding.layers.{}._codebook.{}"
OURS = {"embed": "vectors", "embed_avg": "cluster_sum", "cluster_size": "cluster_size"}


@pytest.fixture(params=["vqbet_a", "vqbet_b"])
def case(request) -> Case:
    return open_case(request.param)


def converted(case: Case) -> VQBeT:
    return lattok.convert.vqbet(case.folder / "weights.safetensors", case.config["model"])


def published(horizon=4, dims=3, dim=8, hidden=6, levels=2, codes=5):
    """Entries of a published file with random numbers, as its code saves them."""
    torch.manual_seed(0)
    sizes = {"encoder": (horizon * dims, dim), "decoder": (dim, horizon * dims)}
    content = {}
    for part, (inputs, outputs) in sizes.items():
        layers = {"encoder.0": (inputs, hidden), "encoder.2": (hidden, hidden), "fc": (hidden, outputs)}
        content[part] = {f"{name}.weight": torch.randn(b, a) for name, (a, b) in layers.items()}
        content[part] |= {f"{name}.bias": torch.randn(b) for name, (_, b) in layers.items()}
    books = {}
    for i in range(levels):
        one = {"embed": torch.randn(1, codes, dim), "embed_avg": torch.randn(1, codes, dim)}
        one |= {"cluster_size": torch.rand(1, codes), "initted": torch.ones(1)}
        books |= {f"layers.{i}._codebook.{name}": value for name, value in one.items()}
    return content | {"vq_embedding": books, "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}}


SETTINGS = {"input_dim_h": 4, "input_dim_w": 3}


@pytest.fixture
def saved(tmp_path):
    def write(change=lambda content: None):
        content = published()
        change(content)
        torch.save(content, tmp_path / "trained_vqvae.pt")
        return tmp_path / "trained_vqvae.pt"

    return write


def plain_codes(model: VQBeT, latents):
    """Codes and what each level leaves, [B, d], one after the other."""
    codes, left = [], latents
    lefts = []
    for book in model.quantizer.codebook_vectors:
        codes.append(torch.cdist(left.double(), book.double()).argmin(1))
        left = left - book[codes[-1]]
        lefts.append(left)
    return torch.stack(codes, 1), lefts


def test_codes_are_the_nearest_row_level_by_level(vqbet):
    chunks = saturating(50, seed=3)
    latents = vqbet.encoder(vqbet.normalizer(chunks).flatten(1))
    codes, lefts = plain_codes(vqbet, latents)
    assert torch.equal(vqbet.encode(chunks), codes)
    for count in range(1, 5):
        expected = vqbet.decoder(latents - lefts[count - 1]).view(50, 6, 3)
        expected = vqbet.normalizer.inverse(vqbet.limits(expected))
        torch.testing.assert_close(vqbet.decode(codes[:, :count]), expected.detach(), atol=1e-5, rtol=1e-5)


def test_latents_are_the_encoders_and_vectors_the_sums_of_rows(vqbet):
    """They were the chunk itself, which `annotate` wrote as embeddings."""
    chunks = saturating(9, seed=3)
    latents = vqbet.encoder(vqbet.normalizer(chunks).flatten(1))
    codes, lefts = plain_codes(vqbet, latents)
    found = vqbet.latent_actions(chunks)
    assert torch.equal(found.codes, codes)
    torch.testing.assert_close(found.latents, latents[:, None].detach())
    torch.testing.assert_close(found.quantized, (latents - lefts[-1])[:, None].detach())


def test_a_single_level_has_the_shapes_of_several():
    """Its quantized latents had an axis too many."""
    model = VQBeT(VQBeTConfig(3, 6, tokens=1, codebook_size=5, dim=8, hidden=16)).eval()
    found = model.latent_actions(saturating(4))
    assert found.codes.shape == (4, 1)
    assert found.latents.shape == found.quantized.shape == (4, 1, 8)
    torch.testing.assert_close(found.quantized[:, 0], model.quantizer.codebook_vectors[0][found.codes[:, 0]])


def test_the_losses_and_whom_they_move():
    """Straight through every level on its own, as the published class is written."""
    torch.manual_seed(1)
    model = VQBeT(VQBeTConfig(3, 6, tokens=3, codebook_size=5, dim=8, hidden=16)).train()
    model.quantizer.steps.fill_(1)
    chunks = smooth(20)
    books = [book.clone() for book in model.quantizer.codebook_vectors]
    terms = model(ActionBatch(chunks, whole(chunks)))
    (terms["reconstruction"] + 5 * terms["commitment"]).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    left, total, commitment = model.encoder(chunks.flatten(1)), 0, 0
    for book in books:
        row = book[torch.cdist(left, book).argmin(1)]
        commitment = commitment + F.mse_loss(row, left)
        total = total + left + (row - left).detach()
        left = left - row
    reconstruction = (model.decoder(total).view_as(chunks) - chunks).abs().mean()
    close(terms["reconstruction"], reconstruction)
    close(terms["commitment"], commitment)
    (reconstruction + 5 * commitment).backward()
    for name, parameter in model.named_parameters():
        close(gradients[name], parameter.grad, atol=1e-6)


def test_what_is_not_there_has_no_loss():
    model = VQBeT(VQBeTConfig(3, 6, dim=8, hidden=16)).eval()
    chunks, valid = smooth(4), torch.ones(4, 6, 3, dtype=torch.bool)
    valid[0, 2:], valid[1, :, 1] = False, False
    actions, mask = model._of_windows(ActionBatch(chunks, valid))
    decoded = model.decoder(model._vectors(model._encode(actions))).view_as(actions)
    by_chunk = [(decoded[i] - actions[i]).abs()[mask[i]].mean() for i in (2, 3)]
    found = model(ActionBatch(chunks[2:], valid[2:]))["reconstruction"]
    close(found, torch.stack(by_chunk).mean())
    twice = model(ActionBatch(chunks.masked_fill(~valid, 1e6), valid))["reconstruction"]
    close(model(ActionBatch(chunks, valid))["reconstruction"], twice)


def test_a_fit_learns_and_leaves_no_codebook_behind():
    """A fresh published codebook divides unused rows by nearly nothing; those that are trained here start from data."""
    chunks, others, model = saturating(), saturating(seed=1), learned("vqbet")
    error = (model.decode(model.encode(others)) - others).square().mean()
    assert error < 0.7 * (others - chunks.mean(0)).square().mean()  # .2 or .5, by seed
    reach = model.encoder(model.normalizer(chunks).flatten(1)).abs().max()
    assert all(book.abs().max() < 2 * reach for book in model.quantizer.codebook_vectors)
    assert all(len(column.unique()) > 10 for column in model.encode(chunks).T)


def test_published_codes_and_reconstructions(case):
    model, io = converted(case), case.values
    assert torch.equal(model.encode(io["actions"]), io["tokens"])
    close(model.decode(io["tokens"]), io["recon"])
    close(model.decode(io["tokens"]), io["drawn.recon"])
    close(model.decode(io["other.tokens"]), io["other.recon"])
    for count, expected in enumerate(io["prefix.recon"], start=1):
        close(model.decode(io["tokens"][:, :count]), expected)
    with torch.no_grad():
        close(model.encoder(model.normalizer(io["actions"]).flatten(1)), io["latents"])
    close(model._vectors(io["tokens"]), io["quantized"])


def test_published_losses_gradients_and_moving_averages(case):
    model, io = converted(case).train(), case.values
    weight = model.config.reconstruction_weight
    assert (weight, model.config.commitment_weight) == (case.config["model"]["encoder_loss_multiplier"], 5)
    terms = model(ActionBatch(io["actions"], whole(io["actions"])))
    total = weight * terms["reconstruction"] + 5 * terms["commitment"]
    close(terms["reconstruction"], io["train.loss_recon_l1"])
    close(terms["commitment"], io["train.loss_commit_sum"])
    close(total, io["train.loss"])
    total.backward()
    layers = {"encoder.0": 0, "encoder.2": 2, "fc": 4}
    checked = 0
    for name in (name for name in io if name.startswith("grad.")):
        _, net, layer, kind = re.fullmatch(r"(grad)\.(\w+)\.(.+)\.(weight|bias)", name).groups()
        close(getattr(getattr(model, net)[layers[layer]], kind).grad, io[name], atol=1e-5, rtol=1e-3)
        checked += 1
    assert checked == 6
    for i, book in enumerate(model.quantizer.codebooks):
        for theirs, ours in OURS.items():
            close(getattr(book, ours), io[f"after.{BOOK.format(i, theirs)}"])


def test_every_key_of_the_full_size_file_is_recognised(tmp_path):
    if not SHARED.is_dir():
        pytest.skip("the list is not in this checkout")
    keys = json.loads((SHARED / "full_size_keys_tokenizers.json").read_text())["vqbet_template_h5"]
    file = tmp_path / "full.safetensors"
    safetensors.torch.save_file({name: torch.rand(shape) for name, shape in keys.items()}, file)
    config = lattok.convert.vqbet(file, {"input_dim_h": 5, "input_dim_w": 7}).config
    expected = VQBeTConfig(7, 5, normalize="identity", revive_below=0.0)
    assert config == expected


def test_the_command_reads_what_the_published_code_saves(saved, tmp_path, capsys):
    (tmp_path / "vqvae.json").write_text(json.dumps({**SETTINGS, "act_scale": 2.5, "n_latent_dims": 8}))
    words = ["convert", "vqbet", str(saved()), str(tmp_path / "out"), "--config", str(tmp_path / "vqvae.json")]
    assert main(words) == 0, capsys.readouterr().err
    model, chunks = lattok.load(tmp_path / "out"), smooth(9, 4)
    content = published()
    assert torch.equal(model.decoder[4].bias, content["decoder"]["fc.bias"])
    assert torch.equal(model.quantizer.codebook_vectors[1], content["vq_embedding"]["layers.1._codebook.embed"][0])
    same = lattok.convert.vqbet(saved(), SETTINGS)
    assert torch.equal(model.encode(2.5 * chunks), same.encode(chunks))
    close(model.decode(same.encode(chunks)), 2.5 * same.decode(same.encode(chunks)))


@pytest.mark.parametrize(
    ("change", "settings", "text"),
    [
        (lambda c: c["encoder"].pop("fc.bias"), {}, "missing encoder.fc.bias"),
        (lambda c: c["decoder"].update(extra=torch.ones(1)), {}, "unexpected decoder.extra"),
        (lambda c: c.pop("decoder"), {}, "got missing decoder.encoder.0.weight"),
        (lambda c: None, {"input_dim_h": 5}, "encoder.encoder.0.weight has shape [6, 12], expected [6, 15]"),
        (lambda c: None, {"input_dim_h": "4"}, "`horizon`"),
        (lambda c: None, {"act_scale": 0}, "`act_scale`"),
        (lambda c: None, {"act_scale": 1e300}, "`act_scale`"),
        (lambda c: None, {"act_scale": 1e-60}, "`act_scale`"),
        (lambda c: None, {"encoder_loss_multiplier": -1}, "`reconstruction_weight`"),
    ],
)
def test_what_does_not_fit_is_said(saved, change, settings, text):
    refused(re.escape(text), lambda: lattok.convert.vqbet(saved(change), {**SETTINGS, **settings}))


def test_settings_that_are_missing(saved):
    refused("`config`: expected input_dim_h and", lambda: lattok.convert.vqbet(saved(), {"input_dim_h": 4}))
