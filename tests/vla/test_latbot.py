import re

import numpy as np
import pytest
import torch

from lattok.backbones.model import with_backbone
from lattok.types import LatentTarget, Shares
from lattok.vla import LatentVLA, Supervised, Tap
from lattok.vla.frame_supervision import FRAMES, VALID
from lattok.vla.latbot import Distillation, LatBotLoss, follow, taught_by
from lattok.vla.supervision import distillation
from tests.errors import refused
from tests.image_lam.clips.fakes import batch, clip_lam, pixels
from tests.vla.fakes import config as policy_config
from tests.vla.fakes import rows
from tests.vla.stand_in import WIDTH, B, Policy, make_batch

CONFIG = {"proprio_dim": 0, "proprio_names": ()}


def student(seed: int = 1) -> LatentVLA:
    torch.manual_seed(seed)
    return LatentVLA.build(taught_by(policy_config(**CONFIG), clip_lam().config))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_the_loss_is_squared_error_plus_divergence():
    """A step that is not valid does not count, whatever is there."""
    draw = torch.Generator().manual_seed(0)
    predicted, target = torch.randn(2, 3, 2, 5, generator=draw), torch.randn(2, 3, 2, 5, generator=draw)
    valid = torch.tensor([[1, 1, 1], [1, 0, 1]]).bool()
    p, q = softmax(predicted.double().numpy()), softmax(target.double().numpy())
    each = ((predicted - target).double().numpy() ** 2).mean((-1, -2)) + (p * np.log(p / q)).sum(-1).mean(-1)
    wanted = np.mean([each[0].mean(), each[1, [0, 2]].mean()])
    found = distillation(predicted, target.masked_fill(~valid[..., None, None], torch.nan), valid)
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    assert float(distillation(target, target, torch.ones(2, 3, dtype=torch.bool))) == pytest.approx(0, abs=1e-6)


def test_as_printed_the_squared_error_counts_as_often_as_a_latent_has_numbers():
    """Between unrelated latents of deviation 1 the two terms are near 2 and 1, as printed 2 d and 1."""
    draw, d = torch.Generator().manual_seed(0), 128
    latents = torch.nn.functional.layer_norm(torch.randn(2, 2, 40, 1, d, generator=draw), (d,))
    p, q = (softmax(each.double().numpy()) for each in latents)
    squares, divergence = ((latents[0] - latents[1]).double().numpy() ** 2).sum(-1), (p * np.log(p / q)).sum(-1)
    assert squares.mean() / d == pytest.approx(2, rel=0.05)
    assert divergence.mean() == pytest.approx(1, rel=0.1)
    everything = torch.ones(2, 40, dtype=torch.bool)
    assert float(distillation(*latents, everything)) == pytest.approx((squares / d + divergence).mean(), rel=1e-5)
    printed = (squares + divergence).sum((1, 2)).mean()  # of a sample
    assert float(distillation(*latents, everything, "sum")) == pytest.approx(printed, rel=1e-5)


def test_the_student_is_compared_with_what_the_teacher_says_of_the_clip():
    """The teacher stays as it is and gets no gradient; the student's head neither."""
    lam, policy = clip_lam(), student()
    module, given = Distillation(policy, lam, [0, 1]).train(), batch()
    assert not lam.training
    before = {name: tensor.clone() for name, tensor in lam.state_dict().items()}
    terms = module(given)
    terms["latent"].backward()
    assert not terms["action"].requires_grad
    assert all(p.grad is None for p in (*lam.parameters(), *policy.head.parameters()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in lam.state_dict().items())
    assert not [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert policy.placeholders.grad is not None
    assert policy.placeholders.grad[:5].any(1).all()
    assert not policy.placeholders.grad[5:].any()  # those of actions stand behind
    assert given.later is not None
    latents = lam.encode(torch.cat([given.images[:, None], given.later], 1), given.texts)
    assert latents.env is not None
    target = torch.cat([latents.env.latents, latents.latents], 1)[:, :, None]
    with torch.no_grad():
        latent = LatentTarget(None, target, torch.ones(target.shape[:2], dtype=torch.bool))
        seen = policy._run_backbone(policy._batch(given._replace(latent=latent), learning=True), learning=True)
        head: torch.nn.Module = policy.supervision["latent"].head  # pyright: ignore
        predicted = head(seen.supervised["latent"])[:, :, None]
        wanted = distillation(predicted, target, torch.ones(4, 5, dtype=torch.bool))
    assert float(terms["latent"].detach()) == pytest.approx(float(wanted), rel=1e-5)


def test_a_student_of_one_group_of_latents():
    lam = clip_lam(scene_tokens=0)
    policy = LatentVLA.build(taught_by(policy_config(**CONFIG), lam.config))
    assert policy.segments["latent"].count == 3
    given, seen = batch(), []
    policy.supervision["latent"].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1].embedding))
    Distillation(policy, lam, [0, 1]).train()(given)
    assert given.later is not None
    found = lam.encode(torch.cat([given.images[:, None], given.later], 1), given.texts)
    torch.testing.assert_close(seen[0][:, :, 0], found.latents)


def test_clips_that_are_cut_short_teach_nothing_and_shares_add_up():
    """Of four samples the last two end within their clip. Any number of shares has the loss of the two others."""
    module, given = Distillation(student(), clip_lam(), [0, 1], whole_clips=True).eval(), batch()
    inside = torch.tensor([[1, 1], [1, 1], [1, 0], [0, 0]]).bool()
    assert given.later is not None
    wanted = float(module(rows(given, [0, 1]))["latent"].detach())
    spoiled = given.later.clone()
    spoiled[2:] = 0
    for shares in (1, 2, 4):
        found = 0.0
        for share in range(shares):
            own = range(share, 4, shares)
            average = Shares(whole=torch.tensor(2.0 / shares))
            part = rows(given._replace(later=spoiled), own, pairs=inside[list(own)].nonzero(), shares=average)
            found += float(module(part)["latent"].detach())
        assert found / shares == pytest.approx(wanted, rel=1e-5)
    module.whole_clips = False
    known = given._replace(pairs=inside.nonzero(), shares=Shares(whole=torch.tensor(2.0)))
    assert float(module(known)["latent"].detach()) == float(module(given)["latent"].detach())


def test_a_distilled_policy_goes_on_with_its_backbone_and_a_new_head():
    before = student()
    torch.manual_seed(7)
    policy = LatentVLA.build(taught_by(policy_config(**CONFIG), before.config))
    assert not policy.supervision
    other = policy.head.queries.clone()
    follow(before, policy)
    assert torch.equal(policy.head.queries, other)
    assert torch.equal(policy.placeholders[:5], before.placeholders[:5])
    ours, theirs = policy.backbone.state_dict(), before.backbone.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert float(policy(batch()._replace(later=None))["action"].detach()) > 0


def test_a_policy_goes_on_over_the_revision_of_its_student():
    before = with_backbone(student().config, revision="files-a")
    assert taught_by(policy_config(**CONFIG), before).backbone.revision == "files-a"
    refused("`backbone_revision`", lambda: taught_by(policy_config(**CONFIG, backbone_revision="files-b"), before))


def test_what_does_not_fit_is_refused():
    refused("`student`", lambda: taught_by(policy_config(**CONFIG), policy_config(**CONFIG)))
    for name, own, other in (
        ("backbone_width", "32", 64),
        ("backbone_lora_alpha", "16.0", 64.0),
        ("backbone_lora_vision", "True", False),
        ("interpolation", "'bicubic'", "bilinear"),
        ("prompt", None, "do {task}"),
        ("backbone_dtype", "'float32'", "bfloat16"),
    ):
        expected = re.escape(own or repr(policy_config().prompt))
        said = f"`{name}`: expected {expected}, .*, got {other!r}"
        refused(said, taught_by, policy_config(**{**CONFIG, name: other}), student().config)


def test_batches_and_states_of_other_shapes_are_refused():
    refused("`batch`", lambda: Distillation(student(), clip_lam(), [0, 1])(batch()._replace(later=None)))
    _, loss, given = supervised()
    target = loss.target_of(given, loss.labels)
    for shape, text in (
        ((B, WIDTH), "`states`"),
        ((B, 0, WIDTH), "`states of a sample`: expected a whole number of at least 1, got 0"),
        ((B + 1, 1, WIDTH), f"`states`: expected {B} samples, as the target has, got {B + 1}"),
    ):
        refused(re.escape(text), loss, torch.zeros(shape), target)


def test_what_is_no_teacher_is_refused():
    for given in ("teacher", student()):
        refused("`teacher`: expected a latent action model of clips, got", LatBotLoss, given, WIDTH)
    loss = LatBotLoss(clip_lam(), WIDTH)
    for fps in (0, -5, float("nan"), "10"):
        refused("`fps`: expected", loss.clip_times, fps)


def supervised(**changes) -> tuple[Supervised, LatBotLoss, dict]:
    torch.manual_seed(0)
    loss = LatBotLoss(clip_lam(**changes), WIDTH)
    given = make_batch() | {FRAMES: pixels(B, 3, 2), "task": ["open it", "close the drawer", "lift", "push"]}
    return Supervised(Policy(), "model.action_head", loss), loss, given


def test_inside_a_policy_that_is_not_ours():
    """Its own loss plus L_a between a head on the mean state and what the teacher says of the clips."""
    model, loss, given = supervised()
    before = {name: tensor.clone() for name, tensor in loss.teacher.state_dict().items()}
    found, logs = model.train()(given)
    assert not loss.teacher.training
    with Tap("model.action_head").on(model.policy) as tapped:
        own, _ = model.policy(given)
    clips = loss.teacher.encode(given[FRAMES], given["task"])
    assert clips.env is not None
    target = torch.cat([clips.env.latents, clips.latents], 1).double().numpy()
    head = [
        (layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()) for layer in loss.match.head[::2]
    ]
    x = tapped.states().detach().double().numpy().mean(1) @ head[0][0].T + head[0][1]
    x = torch.nn.functional.gelu(torch.from_numpy(x)).numpy() @ head[1][0].T + head[1][1]
    predicted = x.reshape(target.shape)
    p, q = softmax(predicted), softmax(target)
    wanted = ((predicted - target) ** 2).mean() + (p * np.log(p / q)).sum(-1).mean()
    assert float((found - own).detach()) == pytest.approx(wanted, rel=1e-4)
    assert logs["latent_loss"] == pytest.approx(wanted, rel=1e-4)
    found.backward()
    assert all(p.grad is not None for p in (*model.policy.parameters(), *loss.match.parameters()))
    assert all(p.grad is None for p in loss.teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in loss.teacher.state_dict().items())
    each, _ = model(given, reduction="none")
    assert each.shape == (B,)
    inside = torch.tensor([[1, 1], [1, 0], [1, 1], [0, 0]]).bool()
    assert torch.equal(model(given | {VALID: inside}, reduction="none")[0], each)
    loss.whole_clips = True
    short, _ = model(given | {VALID: inside}, reduction="none")
    assert torch.equal(short[[0, 2]], each[[0, 2]])
    assert (short - model.policy(given, reduction="none")[0])[[1, 3]].abs().max() < 1e-6  # its own loss alone
    assert loss.clip_times(10) == [0.0, 0.2, 0.4]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({FRAMES: pixels(B, 2, 2)}, "`pairs.frames`"),
        ({VALID: torch.ones(B, 3).bool()}, "`pairs.valid`"),
        ({"task": "lift"}, "`task`"),
        ({"task": ["lift"]}, "`task`"),
    ],
)
def test_batches_without_clips(change, text):
    model, loss, given = supervised()
    loss.whole_clips = True
    refused(re.escape(text), model, given | change)
