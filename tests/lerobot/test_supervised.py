"""Latent supervision inside LeRobot's own policies: ACT and SmolVLA with random weights, LeRobot's dataset and loader,
its preprocessors and its training step. Run with -s, it prints the figures."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import lattok
from lattok.labels import LatentSpec
from lattok.vla import AlignLoss, CodeCrossEntropy, RegressionLoss, Supervised, Tap, keep_labels
from lattok.vla.frame_supervision import keep_pairs
from lattok.vla.lara import LARALoss
from tests.errors import refused
from tests.lerobot.policies import CAMERA, HZ, STEPS, act, batches, diffusion, lerobot, smolvla, window

pytestmark = [
    pytest.mark.lerobot,
    pytest.mark.filterwarnings("ignore"),  # of LeRobot and of transformers 4
]
PAGE = Path(__file__).parents[2] / "docs/howto/own_policy.md"
HEADS = {"act": "model.action_head", "smolvla": "model.action_out_proj"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> Path:
    """The sample with the labels of an image model (4 residual codes of 16, one vector) and of an action tokenizer."""
    out, sample = tmp_path_factory.mktemp("supervised"), str(lattok.sample_dataset_path())
    sizes = {"features": "pixels", "steps": 40, "codebook_continuous_steps": 10}
    lattok.train(lattok.ImageLAMRecipe.from_preset(sample, out / "lam", "tiny+robust", **sizes))
    lattok.train(lattok.ActionVQRecipe.from_preset(sample, out / "tok", "quick", steps=150))
    models = {"latent": lattok.load(out / "lam"), "tok": lattok.load(out / "tok")}
    return Path(lattok.annotate(lattok.open_dataset(sample), models, out / "annotated"))


@pytest.fixture
def make(lerobot_dataset, annotated, tmp_path):
    """`make("act", count)`: a policy, and batches that it can be trained with."""

    def build(kind: str, count: int = 1, delta: dict | None = None, prefix: str = "latent", **options: Any):
        dataset = lerobot_dataset(annotated, delta_timestamps=delta or window())
        if kind == "smolvla":
            policy, preprocessor = smolvla(dataset.meta, tmp_path / "vlm", **options)
        else:
            policy, preprocessor = (act if kind == "act" else diffusion)(dataset.meta, **options)
        return policy, batches(dataset, count, keep_labels(preprocessor, prefix))

    return build


def width(policy: Any, kind: str) -> int:
    return policy.get_submodule(HEADS[kind]).in_features


def train(model: Supervised, data: list[dict[str, Any]], steps: int, lr: float = 1e-3) -> list[dict[str, float]]:
    """Figures of every step."""
    optimizer = torch.optim.AdamW(model.get_optim_params(), lr=lr)
    model.train()
    seen = []
    for step in range(steps):
        loss, logs = model(data[step % len(data)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append({name: value for name, value in logs.items() if isinstance(value, float)})
    return seen


def report(title: str, seen: list[dict[str, float]], epoch: int) -> dict[str, tuple[float, float]]:
    """Mean of each figure over the first epoch and over the last; printed."""
    ends = {
        name: tuple(sum(row[name] for row in rows) / epoch for rows in (seen[:epoch], seen[-epoch:]))
        for name in seen[0]
    }
    for name, (first, last) in ends.items():
        print(f"\n{title}: {name} {first:.4f} -> {last:.4f}", end="")
    return ends


def test_act_learns_from_codes(make, tmp_path):
    """Forty steps: both losses fall; the policy that is left acts as before, without the head."""
    policy, data = make("act", 5)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    model = Supervised(policy, HEADS["act"], CodeCrossEntropy(width(policy, "act"), 16, 4))
    ends = report("ACT, codes", train(model, data, 40), 5)
    assert ends["l1_loss"][1] < 0.9 * ends["l1_loss"][0]
    assert ends["latent_loss"][1] < 0.9 * ends["latent_loss"][0]
    assert ends["latent_accuracy"][1] > 2 * ends["latent_accuracy"][0]
    observation = {key: data[0][key] for key in (CAMERA, "observation.state")}
    acted = model.select_action(observation)
    assert len(policy._action_queue) == STEPS - 1
    model.reset()
    assert len(policy._action_queue) == 0
    model.save_pretrained(tmp_path / "saved")
    alone = type(policy).from_pretrained(tmp_path / "saved", local_files_only=True)
    assert torch.equal(alone.select_action(observation), acted)
    assert alone.state_dict().keys() == before.keys()
    assert any(not torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_a_weight_of_nothing_changes_nothing(make):
    """ACT alone and ACT that is tapped take the same steps, dropout and all."""
    losses = []
    for wrap in (False, True):
        policy, data = make("act", 2)
        model = policy
        if wrap:
            loss = CodeCrossEntropy(width(policy, "act"), 16, 4)
            model = Supervised(policy, HEADS["act"], loss, weight=0.0)
        optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
        torch.manual_seed(1)
        model.train()
        for batch in data:
            model(batch)[0].backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append([float(model(batch)[0].detach()) for batch in data])
    assert losses[0] == losses[1]


def test_the_training_step_of_lerobot(make):
    """Its optimizer preset, accelerate, gradient clipping, the metrics; ACT's groups and the head's."""
    policy, data = make("act", 1)
    model = Supervised(policy, HEADS["act"], AlignLoss(width(policy, "act"), 64))
    optimizer = model.config.get_optimizer_preset().build(model.get_optim_params())
    assert len(optimizer.param_groups) == 3
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in model.parameters() if p.requires_grad
    }
    training, logging = lerobot("scripts.lerobot_train"), lerobot("utils.logging_utils")
    accelerator = importlib.import_module("accelerate").Accelerator(cpu=True)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    meters = {name: logging.AverageMeter(name) for name in ("loss", "grad_norm", "lr", "update_s")}
    tracker = logging.MetricsTracker(8, 4059, 50, meters)
    before = model.loss.project.weight.clone()
    _, logs = training.update_policy(tracker, prepared, data[0], optimizer, 1.0, accelerator)
    assert {"l1_loss", "latent_loss", "latent_cosine"} <= logs.keys()
    assert not torch.equal(before, model.loss.project.weight)


def test_the_readme(make):
    code = re.search(r"<!-- supervise -->\s*```python\n(.*?)```", PAGE.read_text(encoding="utf8"), re.DOTALL)
    assert code is not None
    times = window()["action"]  # as it says, no vectors
    policy, data = make("act", 2, {"action": times, "latent.codes": times, "latent.valid": times})
    names: dict[str, Any] = {"policy": policy, "loader": data * 4}
    exec(code[1], names)
    assert names["policy"].policy is policy
    assert names["logs"]["latent_loss"] > 0
    print(f"\nown_policy.md: {names['logs']}", end="")


def test_steps_and_labels_that_do_not_fit(make, lerobot_dataset, annotated):
    policy, data = make("act", 1, window(labels=4))
    head = CodeCrossEntropy(width(policy, "act"), 16, 4)
    refused("`states`: expected 4 steps of 1 states.* got 8", lambda: Supervised(policy, HEADS["act"], head)(data[0]))
    assert Supervised(policy, HEADS["act"], head, resample="nearest")(data[0])[1]["latent_loss"] > 0
    _, single = make("act", 1, {"action": window()["action"]})
    refused("`latent.valid`: expected rows of all steps", lambda: Supervised(policy, HEADS["act"], head)(single[0]))
    dataset = lerobot_dataset(annotated, delta_timestamps=window())
    _, preprocessor = act(dataset.meta)
    refused("got no labels", lambda: Supervised(policy, HEADS["act"], head)(batches(dataset, 1, preprocessor)[0]))


def test_diffusion_policy_learns(make):
    """Its network has states as [B, D, n], and it returns no figures of its own."""
    policy, data = make("diffusion", 4, window() | {"observation.state": [0.0]})
    tap = Tap("diffusion.unet.final_conv", channels_first=True)
    model = Supervised(policy, tap, AlignLoss(32, 64))
    first = [model(batch)[0].item() for batch in data]
    ends = report("Diffusion Policy, align", train(model, data, 24), 4)
    assert ends["latent_loss"][1] < 0.9 * ends["latent_loss"][0]
    last = [model(batch)[0].item() for batch in data]
    print(f"\nDiffusion Policy, align: whole loss {sum(first) / 4:.4f} -> {sum(last) / 4:.4f}", end="")
    assert sum(last) < 0.9 * sum(first)


@pytest.mark.parametrize("kind", ["codes", "align", "regress", "tokens"])
def test_smolvla_learns(make, kind):
    """Every loss, at the states of the action expert that the last projection sees."""
    chunk = {"action": window()["action"]}
    policy, data = make("smolvla", 4, chunk if kind == "tokens" else None, "tok" if kind == "tokens" else "latent")
    dim = width(policy, "smolvla")
    loss = {
        "codes": CodeCrossEntropy(dim, 16, 4),
        "align": AlignLoss(dim, 64),
        "regress": RegressionLoss(dim, 64, 1),
        "tokens": CodeCrossEntropy(dim, 256),
    }[kind]
    labels = LatentSpec("chunk", prefix="tok", per_step=True) if kind == "tokens" else None
    model = Supervised(policy, HEADS["smolvla"], loss, labels=labels)
    ends = report(f"SmolVLA, {kind}", train(model, data, 40), 4)
    assert ends["loss"][1] < 0.8 * ends["loss"][0]
    assert ends["latent_loss"][1] < 0.9 * ends["latent_loss"][0]
    assert {id(p) for p in model.get_optim_params()} == {id(p) for p in model.parameters()}
    torch.manual_seed(1)
    acted = model.select_action(dict(data[0]))
    policy.reset()
    torch.manual_seed(1)
    assert torch.equal(policy.select_action(dict(data[0])), acted)


@pytest.mark.parametrize("kind", ["act", "smolvla", "diffusion"])
def test_a_latent_action_model_learns_too(kind: str, lerobot_dataset, annotated, tmp_path):
    """LARA: both come closer, the latent action model goes on predicting, and the policy acts without it."""
    lam = lattok.load(annotated.parent / "lam")
    far = lam.stride_frames(HZ) / HZ
    delta = {"action": window()["action"]} | {camera: [0.0, far] for camera in lam.cameras}
    delta |= {"observation.state": [0.0]} if kind == "diffusion" else {}
    dataset = lerobot_dataset(annotated, delta_timestamps=delta)
    if kind == "smolvla":
        policy, preprocessor = smolvla(dataset.meta, tmp_path / "vlm")
    else:
        policy, preprocessor = (act if kind == "act" else diffusion)(dataset.meta)
    data = batches(dataset, 3, keep_pairs(preprocessor, lam.cameras))
    assert data[0]["pairs.frames"].shape == (8, 2, 2, 128, 128, 3)
    assert data[0][CAMERA].shape == (8, 3, 128, 128)
    tap = Tap("diffusion.unet.final_conv", channels_first=True) if kind == "diffusion" else Tap(HEADS[kind])
    loss = LARALoss(lam, 32 if kind == "diffusion" else width(policy, kind), lam_weight=0.1)
    before = {name: value.clone() for name, value in lam.saved_tensors().items()}
    model = Supervised(policy, tap, loss, weight=0.5)
    ends = report(f"{kind}, LARA", train(model, data, 24), 3)
    assert ends["latent_cosine"][1] > ends["latent_cosine"][0] + 0.2
    assert ends["lam_prediction"][1] < 1.2 * ends["lam_prediction"][0]
    assert any(not torch.equal(value, before[name]) for name, value in lam.saved_tensors().items())
    ids = {
        id(p) for group in model.get_optim_params() for p in (group["params"] if isinstance(group, dict) else [group])
    }
    assert ids >= {id(p) for p in lam.encoder.parameters()}
    observation = {key: data[0][key] for key in (CAMERA, "observation.state", *(["task"] if "task" in data[0] else []))}
    model.eval()

    def called(*_):
        raise AssertionError("called when the policy acts")

    lam.register_forward_pre_hook(called)
    loss.align.register_forward_pre_hook(called)
    lam.encoder.register_forward_pre_hook(called)
    if kind == "act":
        policy.reset()
        assert model.select_action(observation).shape == (8, 4)


def test_each_sample_of_smolvla(make):
    """`reduction="none"`, which weighs samples by a reward model (RA-BC)."""
    policy, data = make("smolvla")
    model = Supervised(policy, HEADS["smolvla"], AlignLoss(width(policy, "smolvla"), 64))
    draw = torch.randn(8, STEPS, 8), torch.rand(8)
    each, logs = model(data[0], *draw, reduction="none")
    own, _ = policy(data[0], *draw, reduction="none")
    assert each.shape == (8,)
    labelled = (data[0]["latent.valid"] & ~data[0]["latent.valid_is_pad"]).any(1)
    assert torch.equal(each[~labelled], own[~labelled])
    whole, expected = model(data[0], *draw)
    torch.testing.assert_close(own.mean() + (each - own)[labelled].mean(), whole)
    assert logs["latent_loss"] == pytest.approx(expected["latent_loss"])


def test_states_of_the_language_model_of_smolvla(make):
    """Its layers are never called, their children are; and all of it is frozen unless said."""
    policy, data = make("smolvla", train_expert_only=False)
    layer = "model.vlm_with_expert.vlm.model.text_model.layers.2"
    with Tap(layer).on(policy) as tapped:
        policy(data[0])
    refused(f"a call of `{layer}`.* name one of them: {layer}.self_attn", tapped.states)
    with Tap(f"{layer}.input_layernorm").on(policy) as tapped:
        policy(data[0])
    states = tapped.states()
    assert states.shape == (8, states.shape[1], 64)
    assert states.requires_grad
    frozen, _ = make("smolvla")
    frozen.model.state_proj.requires_grad_(False)  # the state stands in the prefix
    with Tap(f"{layer[:-1]}0.input_layernorm").on(frozen) as tapped:
        frozen(data[0])
    refused("states with a gradient .* got states without", tapped.states)
