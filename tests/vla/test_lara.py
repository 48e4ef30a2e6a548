import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

from lattok.image_lam import ImageLAM, ImageLAMConfig, MotoLAM, MotoLAMConfig, TrainedPairModel
from lattok.labels import LatentSpec
from lattok.nn.losses import draw_flow
from lattok.nn.quantize import Codebook
from lattok.types import PairBatch, PolicyBatch, Shares
from lattok.vla import Supervised
from lattok.vla.frame_supervision import FRAMES, VALID, keep_pairs
from lattok.vla.head import HeadBlock
from lattok.vla.lara import Alignment, JointLARA, LARALoss, LiveLAM
from tests.errors import refused
from tests.image_lam.moto.test_perceptual import random_vgg
from tests.recipes.policies import LAM as SMALL_LAM
from tests.vla.fakes import CAMERAS, batch, config, observation, policy, rows
from tests.vla.stand_in import B, Policy, hooks, make_batch

INSIDE = [[1, 1], [1, 0], [0, 0], [1, 1]]  # which later frames of each sample lie inside the episode
MOTO = {"class_token": False, "decoder_patch": 8}
ROBUST = {"quantizer": "residual", "codebook_update": "ema", "codebook_start": "normal", "codebook_revive_below": 0.03}


def lam_of(cameras: tuple[str, ...] = CAMERAS[:1], **changes) -> TrainedPairModel:
    torch.manual_seed(3)
    options = {**SMALL_LAM, **changes}
    if MOTO.keys() <= options.keys():
        return MotoLAM(MotoLAMConfig.of(cameras=cameras, **options))
    return ImageLAM(ImageLAMConfig.of(cameras=cameras, **options))


def shares_of(inside: torch.Tensor, shares: int = 1) -> Shares:
    return Shares(pairs=inside.sum() / shares, paired=inside.any(1).sum() / shares)


def joint_batch(model: JointLARA, inside: list[list[int]] = INSIDE, free: bool = True) -> PolicyBatch:
    """Four samples with two later frames each; `free`: the actions of the first two are not known."""
    data, there = batch(model.policy.config), torch.tensor(inside).bool()
    shape = (len(there), there.shape[1], *data.images.shape[1:])
    later = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(7)).to(torch.uint8)
    valid = data.valid.clone()
    valid[: 2 * free] = False
    draws = draw_flow(data.actions.shape, torch.Generator().manual_seed(8))
    return data._replace(valid=valid, later=later, pairs=there.nonzero(), draws=draws, shares=shares_of(there))


def joint(
    strategy: str = "baseline",
    detach: str = "none",
    frozen: bool = False,
    lam: dict | None = None,
    on: str = "head",
    **options,
):
    made = policy(strategy, **{"head": "flow" if on == "head" else "regression", **options})
    live = LiveLAM(lam_of(**lam or {}), views=[0], frozen=frozen)
    torch.manual_seed(5)
    return JointLARA(made, live, detach=detach, on=on).train()


def tapped(model: JointLARA, data: PolicyBatch) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return what each block of the flow head is given and gives, as hooks see it."""
    given, made = list[torch.Tensor](), list[torch.Tensor]()

    def record(_, args, out) -> None:
        given.append(args[0])
        made.append(out)

    hooks = [m.register_forward_hook(record) for m in model.policy.head.modules() if isinstance(m, HeadBlock)]
    with torch.no_grad():
        model.policy(data)
    for hook in hooks:
        hook.remove()
    return given, made


def total(model: JointLARA, data: PolicyBatch, align: float = 0.3, lam: float = 0.2) -> torch.Tensor:
    terms, weights = model(data), model.loss_weights(align, lam)
    return torch.stack([weight * terms[name] for name, weight in weights.items() if name in terms]).sum()


def learning(module: nn.Module) -> set[str]:
    """Names of the parameters that got a gradient other than 0."""
    return {name for name, p in module.named_parameters() if p.grad is not None and bool(p.grad.any())}


@pytest.mark.parametrize("on", ["head", "placeholder"])
def test_the_loss_is_the_papers_by_hand(on: str):
    """1 - cos(W h, e): e is the mean over the later frames that are there.

    h is what the flow head's last block makes of the last action, or the state of the backbone's last placeholder.
    """
    model = joint(on=on).eval()
    data = joint_batch(model)
    last = [3, 3, 3, 1]  # the last sample ends two steps early
    with torch.no_grad():
        terms = model(data)
        seen = model.policy._run_backbone(data, learning=True, layer=3)
        states = seen.last if on == "placeholder" else tapped(model, data)[1][-1][range(4), last]
        h = states.double().numpy()
        w, b = (p.detach().double().numpy() for p in (model.align.project.weight, model.align.project.bias))
        cosines = []
        for i, there in enumerate(INSIDE):
            latents = []
            for f in np.flatnonzero(there):
                pair = torch.stack([data.images[i, :1], data.later[i, f, :1]])[None]
                latents.append(model.lam.lam.encode(pair).latents.flatten().double().numpy())
            if latents:
                e, projected = np.mean(latents, 0), w @ h[i] + b
                cosines.append(projected @ e / np.linalg.norm(projected) / np.linalg.norm(e))
        assert float(terms["lara"]) == pytest.approx(1 - np.mean(cosines), rel=1e-5)
        rows, gaps = data.pairs.T
        frames = torch.stack([data.images[rows, :1], data.later[rows, gaps, :1]], 1)
        own = model.lam.lam(PairBatch(frames, torch.zeros(len(rows), 0), torch.zeros(len(rows)).bool()))
        for name, term in own.items():
            torch.testing.assert_close(terms[f"lam_{name}"], term)
        alone = model.policy(data)
        assert alone["action"] == terms["action"]
    assert model.at == ({"block": 2} if on == "head" else {"layer": 3})
    states = model.policy._run_backbone(data, learning=True, layer=3).last
    outs = model.policy.backbone(model.policy.inputs(data), model.policy.placeholders.expand(4, -1, -1), [3])
    torch.testing.assert_close(states, outs.hidden[3][:, -1])


def test_the_head_sees_noised_actions_and_noise_alone_where_they_are_not_known():
    """x_t = (1 - t) noise + t actions at the drawn t; without actions t is 0, and every step is seen."""
    model = joint()
    data = joint_batch(model)
    head, given = model.policy.head, tapped(model, data)[0][0]
    times = data.draws.times.where(torch.tensor([False, False, True, True]), 0.0)
    share = times[:, None, None]
    with torch.no_grad():
        actions = model.policy.action_normalizer(data.actions)
        expected = head.start((1 - share) * data.draws.noise + share * actions, times)
    torch.testing.assert_close(given[:3], expected[:3])
    torch.testing.assert_close(given[3, :2], expected[3, :2])
    other = data._replace(draws=data.draws._replace(noise=data.draws.noise.clone()))
    other.draws.noise[0, 0] += 1  # its first step
    changed = (tapped(model, other)[1][-1] - tapped(model, data)[1][-1]).abs().amax(2) > 0
    assert changed.tolist() == [[True] * 4, *[[False] * 4] * 3]
    lacking = data._replace(known=torch.tensor([[True, True, False]] * 4))  # a robot without the last dimension
    with torch.no_grad():
        expected = head.start(data.draws.noise * torch.tensor([1.0, 1.0, 0.0]), torch.zeros(4))
    torch.testing.assert_close(tapped(model, lacking)[0][0][:2], expected[:2])


def test_the_alignment_knows_the_actions_and_teaches_the_action_head():
    """A placeholder of the backbone has seen no action, and its alignment teaches no head."""
    for on, acts in (("head", True), ("placeholder", False)):
        model = joint(on=on)
        data = joint_batch(model, free=False)
        other = data._replace(actions=-data.actions)
        before, after = model(data)["lara"], model(other)["lara"]
        assert bool(before != after) == acts
        before.backward()
        taught = {name.split(".")[0] for name in learning(model.policy.head)}
        assert taught == ({"queries", "blocks", "proprio", "noisy", "time"} if acts else set())


@pytest.mark.parametrize("case", ["lara_lam_a", "lara_lam_b"])
def test_the_alignment_is_that_of_the_published_classes(case: str):
    """Values and gradients both ways, computed with the released code on random weights."""
    given = load_file(Path(__file__).parents[1] / "parity" / case / "io.safetensors")
    values = {name.removeprefix("align."): value for name, value in given.items() if name.startswith("align.")}
    states, target = values["state"].requires_grad_(), values["target"].requires_grad_()
    align = Alignment(states.shape[1], target.shape[1])
    with torch.no_grad():
        align.project.weight.copy_(values["head.weight"])
        align.project.bias.copy_(values["head.bias"])
    loss = align(states, target, torch.ones(len(states), dtype=torch.bool))
    torch.testing.assert_close(loss, values["loss"], atol=1e-6, rtol=1e-5)
    (0.01 * loss).backward()
    for ours, name in ((states.grad, "state"), (target.grad, "target"), (align.project.weight.grad, "head.weight")):
        wanted = values[f"grad_{name}"]
        assert float((ours - wanted).norm() / wanted.norm()) < 1e-5, name


def test_weights_are_those_of_the_policy_the_alignment_and_the_latent_action_model():
    model = joint("la_direct")
    weights = model.loss_weights()
    assert {name: weights[name] for name in ("action", "latent", "lara")} == {"action": 1, "latent": 0.1, "lara": 0.01}
    assert weights["lam_prediction"] == 0.01
    assert weights["lam_commitment"] == pytest.approx(0.0025)
    assert joint(frozen=True).loss_weights() == {"action": 1.0, "lara": 0.01}


def test_what_lies_beyond_the_episode_changes_nothing():
    """Not the loss, not a gradient, not a codebook."""
    found = []
    for fill in (0, 255):
        model = joint(lam=ROBUST)
        data = joint_batch(model)
        data.later[~torch.tensor(INSIDE).bool()] = fill
        loss = total(model, data)
        loss.backward()
        state = {
            **dict(model.named_buffers()),
            **{n: p.grad for n, p in model.named_parameters() if p.grad is not None},
        }
        found.append((loss.detach(), state))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        assert torch.equal(value, found[1][1][name]), name


LAM = {"encoder", "control.heads"}


@pytest.mark.parametrize("on", ["head", "placeholder"])
@pytest.mark.parametrize("free", [False, True], ids=["acted", "action-free"])
@pytest.mark.parametrize("detach", ["none", "lam", "policy"])
def test_who_gets_a_gradient_of_the_alignment(detach: str, free: bool, on: str):
    """The policy's backbone and placeholders, and the encoder of the latent action model, unless one is detached.

    The action head where the state is its own. Never: its output, a codebook, the decoder, frozen features.
    """
    model = joint(detach=detach, lam={"features": "pixels"}, on=on)
    data = joint_batch(model, free=free)
    if free:
        data.valid.fill_(False)  # the whole batch
    model(data)["lara"].backward()
    found = learning(model)
    assert "align.project.weight" in found
    assert any(name.startswith("policy.backbone.") for name in found) == (detach != "policy")
    assert ("policy.placeholders" in found) == (detach != "policy")
    assert any(name.startswith("lam.lam.encoder.") for name in found) == (detach != "lam")
    assert any(name.startswith("lam.lam.control.heads.") for name in found) == (detach != "lam")
    assert any(name.startswith("policy.head.blocks.") for name in found) == (on == "head" and detach != "policy")
    others = (
        "policy.head.out.",
        "policy.head.norm.",
        "lam.lam.decoder.",
        "lam.lam.control.quantizer.",
        "lam.lam.features.",
    )
    assert not [name for name in found if name.startswith(others)]
    assert bool(model.policy.placeholders.grad is not None and model.policy.placeholders.grad[-1].any()) == (
        detach != "policy"
    )


def test_who_gets_a_gradient_of_the_other_terms():
    """Actions do not reach the latent action model by themselves, its own loss not the policy."""
    for name, own in (("action", "policy."), ("lam_prediction", "lam.lam."), ("lam_codebook", "lam.lam.control.quant")):
        model = joint()
        model(joint_batch(model))[name].backward()
        found = learning(model)
        assert found, name
        assert all(part.startswith(own) for part in found), name


@pytest.mark.parametrize("detach", ["none", "lam", "policy"])
@pytest.mark.parametrize("inside", [INSIDE, [[0, 0]] * 4], ids=["pairs", "no pair"])
@pytest.mark.parametrize("features", ["pixels", "timm", "moto"])
def test_every_parameter_takes_part_in_every_step(detach: str, inside, features: str):
    """Otherwise several processes would wait: also where no sample has an action, or none a pair."""
    model = joint(detach=detach, lam={"pixels": ROBUST, "timm": {}, "moto": MOTO}[features])
    if features == "timm":
        model.lam.lam.features.register_parameter("network_weight", nn.Parameter(torch.ones(2), requires_grad=False))
    data = joint_batch(model, inside)
    data.valid.fill_(False)
    total(model, data).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert frozen == (["lam.lam.features.network_weight"] if features == "timm" else [])
    assert all(p.grad is None for p in model.lam.lam.features.parameters())


def test_shares_of_a_batch_add_up():
    """Whatever the samples of a share have: pairs, actions, or neither."""
    model = joint()
    whole = joint_batch(model)
    found, grads = [], []
    there = torch.tensor(INSIDE).bool()
    for shares in (1, 2, 4):
        model.zero_grad()
        means: dict[str, torch.Tensor] = {}
        for share in range(shares):
            own = range(share, 4, shares)
            average = shares_of(there, shares)._replace(acted=torch.tensor(2.0 / shares))
            terms = model(rows(whole, own, pairs=there[list(own)].nonzero(), shares=average))
            (sum(w * terms[n] for n, w in model.loss_weights(0.3, 0.2).items() if n in terms) / shares).backward()
            for name, term in terms.items():
                means[name] = means.get(name, 0) + term.detach() / shares
        found.append(means)
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for other, theirs in zip(found[1:], grads[1:], strict=True):
        for name in ("action", "lara", "lam_prediction", "lam_commitment", "lam_codebook"):
            torch.testing.assert_close(other[name], found[0][name])
        for name, grad in theirs.items():
            torch.testing.assert_close(grad, grads[0][name], atol=1e-6, rtol=1e-4)


def test_a_share_without_pairs_leaves_codebook_and_statistics_alone():
    model = joint(lam=ROBUST)
    quantizer = model.lam.lam.control.quantizer
    for _ in range(2):  # before any row has counted, and after
        before = {name: buffer.clone() for name, buffer in quantizer.codebooks.named_buffers()}
        model(joint_batch(model, [[0, 0]] * 4))
        for name, buffer in quantizer.codebooks.named_buffers():
            assert torch.equal(buffer, before[name]), name
        model(joint_batch(model))
        assert not torch.equal(quantizer.codebooks[0].vectors, before["0.vectors"])
    empty = model(joint_batch(model, [[0, 0]] * 4))
    assert not any(bool(empty[name]) for name in ("lara", "lam_prediction", "lam_commitment"))
    one = joint(lam={"latent_norm": "batch"})
    terms = one(joint_batch(one, [[0, 0], [1, 0], [0, 0], [0, 0]]))  # statistics of a batch need two rows
    assert all(bool(term.isfinite()) for term in terms.values())


def test_a_frozen_latent_action_model_is_a_target_and_no_more():
    model = joint(frozen=True, lam=ROBUST)
    before = {name: value.clone() for name, value in model.lam.lam.state_dict().items()}
    data = joint_batch(model)
    terms = model.train()(data)
    assert not model.lam.lam.training
    assert set(terms) == {"action", "lara"}
    total(model, data).backward()
    assert not [name for name in learning(model) if name.startswith("lam.")]
    assert all(torch.equal(value, before[name]) for name, value in model.lam.lam.state_dict().items())


def test_what_learns_nothing_takes_no_part():
    """A decoder whose loss has no weight; a frozen model in training mode."""
    model = joint(lam={"loss_prediction": 0.0, "quantizer": "none", "loss_additivity": 0.0})
    total(model, joint_batch(model)).backward()
    frozen = {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"decoder"}
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    for frozen in (False, True):
        model = joint(frozen=frozen)
        assert [model.train(mode).lam.lam.training for mode in (True, False)] == [not frozen, False]
        assert model.lam.training is False
        assert model.lam.train().lam.training != frozen
        assert any(p.requires_grad for p in model.lam.parameters()) != frozen


def test_codebooks_have_room_for_every_pair_that_may_be_there():
    """How many are differs from step to step, and processes must agree."""
    for lam, positions in (({}, 2), (ROBUST, 1)):  # two tokens, or two codebooks of one
        model = joint(lam=lam)
        books = [module for module in model.modules() if isinstance(module, Codebook)]
        data = joint_batch(model, [[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 0]])
        model(data)
        assert {book.room for book in books} == {4 * 3 * positions}  # samples, later frames
        books[0].room = 99
        model(data)
        assert books[0].room == 99


@pytest.mark.parametrize(
    "inside", [[[0, 0], [0, 0], [0, 1], [0, 0]], [[0, 0], [1, 0], [0, 0], [0, 1]]], ids=["one", "two"]
)
def test_statistics_of_a_batch_are_those_of_its_pairs(inside):
    """Of one alone those of two copies: its mean is the pair's own, and nothing varies."""
    model = joint(lam={"latent_norm": "batch"})
    data = joint_batch(model, inside)
    terms = model(data)
    rows, gaps = data.pairs.T
    frames = torch.stack([data.images[rows, :1], data.later[rows, gaps, :1]], 1)
    frames = frames if len(rows) > 1 else frames.repeat(2, 1, 1, 1, 1, 1)
    own = model.lam.lam(PairBatch(frames, torch.zeros(2, 0), torch.zeros(2).bool()))
    for name in ("prediction", "commitment"):
        torch.testing.assert_close(terms[f"lam_{name}"], own[name])


def test_the_model_sees_its_own_cameras_in_their_order():
    lam = lam_of(CAMERAS[:2]).eval()
    images, later = (
        torch.randint(0, 256, shape).to(torch.uint8) for shape in ((2, 3, 16, 16, 3), (2, 2, 3, 16, 16, 3))
    )
    places = torch.tensor([[True, True], [False, True]]).nonzero()
    with torch.no_grad():
        for views in (None, [2, 0]):
            seen = LiveLAM(lam, views, frozen=True)(images, later, places)
            own = views or [0, 1]
            pairs = [torch.stack([images[i, own], later[i, f, own]]) for i, f in ((0, 0), (0, 1), (1, 1))]
            latents = lam.encode(torch.stack(pairs)).latents.flatten(1)
            torch.testing.assert_close(seen.latents, torch.stack([latents[0] + latents[1], latents[2]]))
            assert seen.valid.all()


PERCEPTUAL = {**MOTO, "loss_perceptual": 0.5}


def test_lpips_is_part_of_its_own_loss_where_the_latent_action_model_says_so(monkeypatch):
    """Next to our policy and in somebody else's. VGG16, here with random weights, neither learns nor is saved."""
    lpips = pytest.importorskip("lpips")
    monkeypatch.setattr(torchvision.models, "vgg16", random_vgg)
    model = joint(lam=PERCEPTUAL)
    lam, data, shown = model.lam.lam, joint_batch(model), []
    lam.decoder.register_forward_hook(lambda module, inputs, predicted: shown.append((inputs[0], predicted)))
    terms = model(data)
    assert model.loss_weights()["lam_perceptual"] == 0.005
    rows, gaps = data.pairs.T
    (_, predicted), images = shown[0], data.later[rows, gaps, 0].movedim(-1, 1) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (lam.config.mean, lam.config.std))
    patches = predicted.detach().unflatten(1, (2, 2)).unflatten(3, (8, 8, 3))  # n y x, then those of a patch
    frames = patches.permute(0, 5, 1, 3, 2, 4).reshape(images.shape) * std + mean
    expected = lpips.LPIPS(net="vgg", verbose=False).eval()(2 * frames - 1, 2 * images - 1).mean()
    torch.testing.assert_close(terms["lam_perceptual"], expected, atol=1e-6, rtol=1e-4)
    terms["lam_perceptual"].backward()
    found = learning(model)
    assert any(name.startswith("lam.lam.decoder.") for name in found)
    assert not [name for name in found if not name.startswith("lam.lam.") or "perceptual" in name]
    assert not [name for name in lam.saved_tensors() if "perceptual" in name]
    assert joint(frozen=True, lam=PERCEPTUAL).lam.perceptual is None  # it would only cost
    other, _ = supervised(lam=PERCEPTUAL)
    assert other(frames_batch())[1]["lam_perceptual"] > 0


@pytest.mark.parametrize("head", ["regression", "flow"])
def test_a_policy_acts_without_any_of_it(head: str):
    model = joint(on="head" if head == "flow" else "placeholder")
    data = batch(model.policy.config)
    expected = model.policy.predict_chunk(data)

    def called(*_):
        raise AssertionError("called when the policy acts")

    for module in (model.lam, model.lam.lam, model.align, model.lam.lam.encoder, model.align.project):
        module.register_forward_pre_hook(called)
    assert torch.equal(model.policy.predict_chunk(data), expected)
    assert not [name for name in model.policy.state_dict() if "align" in name or "lam." in name]
    model.policy.select_action(observation(model.policy.config))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: joint(head="regression"), "`align_on`: expected placeholder with head=regression, got head. Only a"),
        (lambda: joint(on="both", head="flow"), "`align_on`: expected one of head, placeholder, got 'both'"),
        (lambda: joint(detach="both"), "`detach`: expected one of none, lam, policy, got 'both'"),
        (lambda: JointLARA(policy(head="flow"), LiveLAM(lam_of()), layer=9), "`layer`: expected a state from 1 to 2"),
        (lambda: joint()(batch(config())), "`batch`: expected a batch with later frames and their mask"),
        (lambda: joint()(joint_batch(joint())._replace(pairs=None)), "`batch`: expected a batch with later frames and"),
        (lambda: LiveLAM(lam_of(language="precomputed", language_dim=4)), "`model`: expected one that labels video"),
        (lambda: LARALoss(lam_of(), 8, lam_weight=-1), "`lam_weight`: expected a number of at least 0"),
    ],
)
def test_what_makes_no_sense_is_one_line(call, text: str):
    refused(re.escape(text), call)


# somebody else's policy


def frames_batch(count: int = 2) -> dict[str, torch.Tensor]:
    given = make_batch()
    frames = torch.randint(0, 256, (B, 1 + count, 1, 20, 24, 3), dtype=torch.uint8)
    valid = torch.ones(B, count, dtype=torch.bool)
    valid[1] = False
    valid[2, -1] = False
    return given | {FRAMES: frames, VALID: valid}


def supervised(detach: str = "none", lam: dict | None = None, **options) -> tuple[Supervised, LARALoss]:
    torch.manual_seed(0)
    stand_in = Policy()
    loss = LARALoss(lam_of(**lam or {}), stand_in.model.action_head.in_features, detach=detach, **options)
    return Supervised(stand_in, "model.action_head", loss).train(), loss


def test_lara_inside_somebody_elses_policy():
    model, loss = supervised(lam_weight=0.5)
    given = frames_batch()
    own = model.policy(given)[0]
    whole, logs = model(given)
    assert model.weight == 0.01
    lam = sum(loss.lam.config.loss_weights[n] * logs[f"lam_{n}"] for n in ("prediction", "codebook", "commitment"))
    expected = float(own.detach()) + 0.01 * ((1 - logs["latent_cosine"]) + 0.5 * lam)
    assert float(whole.detach()) == pytest.approx(expected, rel=1e-5)
    there = given[VALID].nonzero()
    pairs = torch.stack([given[FRAMES][there[:, 0], 0], given[FRAMES][there[:, 0], 1 + there[:, 1]]], 1)
    own = loss.lam(PairBatch(pairs, torch.zeros(len(pairs), 0), torch.zeros(len(pairs)).bool()))
    for name, term in own.items():
        assert float(logs[f"lam_{name}"]) == pytest.approx(float(term.detach()), rel=1e-5)
    nothing, empty = model(given | {VALID: torch.zeros(B, 2).bool()})
    torch.testing.assert_close(nothing, model.policy(given)[0])
    assert empty["latent_cosine"] == 0
    each, _ = model(given, reduction="none")
    alone, _ = model.policy(given, reduction="none")
    added = (each - alone).detach()
    assert added[1] == 0  # no later frame is there
    assert float(added.sum() / 3) == pytest.approx(0.01 * logs["latent_loss"], rel=1e-4)
    assert hooks(model.policy) == 0
    assert len(model.get_optim_params()[1]["params"]) == len(list(loss.parameters()))


def test_figures_beside_the_loss_teach_nothing_and_do_not_depend_on_its_reduction():
    _, loss = supervised(lam_weight=0.5)
    given = frames_batch() | {VALID: torch.tensor([[False, False], [False, True], *[[False, False]] * 2])}
    states = torch.randn(B, 3, loss.dim, requires_grad=True)
    target = loss.target_of(given, LatentSpec())
    whole, each = (loss(states, target, reduction) for reduction in ("mean", "none"))
    for terms in (whole, each):
        assert [name for name, term in terms.items() if term.requires_grad] == ["latent"]
    torch.testing.assert_close(each["latent_cosine"], whole["latent_cosine"])
    torch.testing.assert_close(each["latent"], whole["latent"] * torch.tensor([0.0, 1.0, 0.0, 0.0]))
    several = loss.target_of(frames_batch(), LatentSpec())
    cosines = [float(loss(states, several, reduction)["latent_cosine"]) for reduction in ("mean", "none")]
    assert cosines[0] == pytest.approx(cosines[1], abs=1e-6)
    assert loss.labels == LatentSpec(vectors=1, latent_dim=loss.live.latent_dim)
    for changed, reduction, text in (
        (states, "median", "`reduction`: expected one of"),
        (states[:, 0], "mean", "`states`: expected"),
        (states[:, :0], "mean", "`states of a sample`: expected a whole number of at least 1, got 0"),
        (states[..., 1:], "mean", f"`states`: expected {loss.dim} numbers in each state, got {loss.dim - 1}. Build"),
        (states[1:], "mean", f"`states`: expected {B} samples, as the target has, got {B - 1}"),
    ):
        refused(text, loss, changed, target, reduction)


def test_a_frozen_model_is_a_target_in_somebody_elses_policy_too():
    model, loss = supervised(frozen=True)
    given = frames_batch()
    whole, logs = model(given)
    assert not [name for name in logs if name.startswith("lam_")]
    expected = float(model.policy(given)[0].detach()) + 0.01 * (1 - logs["latent_cosine"])
    assert float(whole.detach()) == pytest.approx(expected, rel=1e-5)
    assert not any(p.requires_grad for p in loss.lam.parameters())


@pytest.mark.parametrize("detach", ["none", "lam", "policy"])
def test_who_learns_in_somebody_elses_policy(detach: str):
    model, _ = supervised(detach, lam_weight=0.0)
    model.policy.model.action_head.requires_grad_(False)
    given = frames_batch()
    (model(given)[0] - model.policy(given)[0]).backward()
    found = learning(model)
    assert any(name.startswith("loss.live.lam.encoder.") for name in found) == (detach != "lam")
    assert not [name for name in found if "quantizer" in name or "decoder" in name]
    gradient = model.policy.model.queries.grad
    moved = 0.0 if gradient is None else float(gradient[-1].abs().max())
    assert (moved > 1e-8) == (detach != "policy")
    assert "loss.align.project.weight" in found


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({FRAMES: None}, "`batch`: expected `pairs.frames`, got none. keep_pairs(preprocessor, cameras) makes them"),
        ({VALID: torch.ones(B, 3).bool()}, "`pairs.valid`: expected bool [4, F] for F later frames, of pairs.frames"),
        ({VALID: torch.ones(B, 2)}, "got float32 [4, 2]"),
        ({FRAMES: torch.zeros(B, 1, 8, 8, 3, dtype=torch.uint8)}, "`pairs.frames`: expected"),
        ({FRAMES: torch.zeros(B, 1, 1, 8, 8, 3, dtype=torch.uint8), VALID: torch.ones(B, 0).bool()}, "got bool [4, 0]"),
        ({FRAMES: torch.zeros(B, 3, 2, 8, 8, 3, dtype=torch.uint8)}, "expected 1 camera (observation.images.front)"),
    ],
)
def test_batches_that_do_not_fit(change: dict, text: str):
    model, _ = supervised()
    refused(re.escape(text), lambda: model(frames_batch() | change))


def test_keep_pairs_gives_the_policy_the_present_and_the_loss_all():
    camera = CAMERAS[0]
    images = torch.rand(B, 3, 3, 6, 8)
    pad = torch.zeros(B, 3, dtype=torch.bool)
    pad[0, 2] = True

    def normalise(batch):
        return {camera: (batch[camera] - 0.5) / 0.2, "state": batch["state"]}

    wrapped = keep_pairs(normalise, [camera])
    out = wrapped({camera: images, f"{camera}_is_pad": pad, "state": torch.ones(B)})
    torch.testing.assert_close(out[camera], (images[:, 0] - 0.5) / 0.2)
    assert out[FRAMES].shape == (B, 3, 1, 6, 8, 3)
    torch.testing.assert_close(out[FRAMES][2, 1, 0].permute(2, 0, 1) / 255.0, images[2, 1], atol=0.003, rtol=0)
    assert torch.equal(out[VALID], ~pad[:, 1:])
    assert f"{camera}_is_pad" not in out
    assert wrapped.__name__ == "normalise"


def test_a_later_frame_is_there_where_all_cameras_have_it():
    """A camera that is never padded has them all."""
    cameras = ["a", "b", "c"]
    pads = torch.zeros(2, 4, 3, dtype=torch.bool)
    pads[0, 1, 2] = pads[1, 2, 1] = True
    given = {name: torch.rand(4, 3, 3, 6, 8) for name in cameras}
    given |= {"a_is_pad": pads[0], "b_is_pad": pads[1], "action_is_pad": pads[1]}
    out = keep_pairs(dict, cameras)(given)
    assert out[FRAMES].shape == (4, 3, 3, 6, 8, 3)
    assert out[VALID].tolist() == [[True, True], [True, False], [False, True], [True, True]]
    assert out.keys() == {*cameras, "action_is_pad", FRAMES, VALID}
    assert all(torch.equal(out[name], given[name][:, 0]) for name in cameras)
    for names in (["a"], ["a", "b"]):
        refused("`a`: expected", keep_pairs(dict, names), {name: torch.rand(4, 3, 6, 8) for name in names})


def test_configs_of_lam_stay_as_they_are():
    """What is exported is the model that came, but for its weights."""
    lam = lam_of(extra_strides=("4",))
    before = replace(lam.config)
    JointLARA(policy(head="flow"), LiveLAM(lam, views=[0]))
    assert lam.config == before
