"""A policy that is not ours with a latent loss, here a stand-in with LeRobot's surface."""

import copy
import gc
import io
import pickle
import re
import runpy
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lattok import annotate
from lattok.labels import LatentSpec, target_from_batch
from lattok.vla.supervision import AlignLoss, CodeCrossEntropy, RegressionLoss
from lattok.vla.tap import Supervised, Tap, keep_labels
from tests.errors import refused
from tests.evaluation.worlds import tiny_lam
from tests.process_jobs import together
from tests.vla.stand_in import WIDTH, B, D, H, K, M, P, Policy, hooks, make_batch

PAGE = Path(__file__).parents[2] / "docs/howto/own_policy.md"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def supervised(policy=None, loss=None, **options) -> Supervised:
    return Supervised(policy or Policy(), "model.action_head", loss or CodeCrossEntropy(WIDTH, K, P), **options)


def test_loss_is_that_of_the_policy_and_the_latent_one():
    policy, batch = Policy(), make_batch()
    model = supervised(policy, weight=0.3)
    loss, logs = model(batch)
    alone, own = policy(batch)
    with Tap("model.action_head").on(policy) as tapped:
        policy(batch)
    actions_end = ~batch["action_is_pad"]
    terms = model.loss(tapped.states(), target_from_batch(batch, valid=actions_end))
    torch.testing.assert_close(loss, alone + 0.3 * terms["latent"])
    assert logs == {
        "l1_loss": own["l1_loss"],
        "latent_loss": pytest.approx(terms["latent"].item()),
        "latent_accuracy": pytest.approx(terms["latent_accuracy"].item()),
    }
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_weights_are_the_papers_unless_said():
    assert supervised().weight == 0.1
    assert supervised(loss=AlignLoss(WIDTH, D)).weight == 1.0
    assert supervised(loss=RegressionLoss(WIDTH, D, P)).weight == 0.1
    refused("`weight`", supervised, weight=-1)


def test_what_is_not_valid_changes_nothing():
    """Steps without a label, and steps after the end of the episode, whatever their labels hold."""
    model, batch = supervised(loss=AlignLoss(WIDTH, D)), make_batch()
    masked = ~batch["latent.valid"] | batch["action_is_pad"]
    other = batch["latent.embedding"].clone()
    other[masked] = torch.nan
    codes = batch["latent.codes"].clone()
    codes[masked] = -1
    results = []
    for given in (batch, batch | {"latent.embedding": other, "latent.codes": codes}):
        model.zero_grad()
        loss, logs = model(given)
        loss.backward()
        results.append((loss, logs, [p.grad.clone() for p in model.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert all(torch.equal(a, b) for a, b in zip(results[0][2], results[1][2], strict=True))


def test_each_sample_alone():
    """The mean of what each sample adds; one without labels adds nothing, and does not count."""
    model, batch = supervised(weight=0.5), make_batch()
    batch["latent.valid"][0] = False
    loss, logs = model(batch, reduction="none")
    own, _ = model.policy(batch, reduction="none")
    assert loss.shape == (B,)
    assert loss[0] == own[0]
    whole, expected = model(batch)
    torch.testing.assert_close(own.mean() + (loss - own)[1:].mean(), whole)
    assert logs == pytest.approx(expected)


def test_validation_without_gradients():
    model, batch = supervised(), make_batch()
    expected = model(batch)[0].detach()
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(batch)[0], expected)


def test_everything_else_is_the_policys():
    policy = Policy()
    model = supervised(policy)
    assert (model.config, model.name) == (policy.config, "stand-in")
    assert model.model is policy.model
    batch = make_batch()
    assert torch.equal(model.predict_action_chunk(batch), policy.predict_action_chunk(batch))
    torch.testing.assert_close(model.select_action(batch), policy.predict_action_chunk(batch)[:, 0])
    assert len(policy._queue) == H - 1
    model.reset()
    assert len(policy._queue) == 0
    assert not model.eval().policy.training
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        model.nothing  # noqa: B018


def test_the_policy_is_saved_without_the_head(tmp_path):
    model = supervised()
    names = Policy().state_dict().keys()
    model.save_pretrained(tmp_path / "weights.pt")
    saved = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert saved.keys() == names
    fresh = Policy()
    fresh.load_state_dict(saved)
    batch = make_batch()
    assert torch.equal(fresh.predict_action_chunk(batch), model.predict_action_chunk(batch))
    whole = model.state_dict()
    assert {name.removeprefix("policy.") for name in whole if name.startswith("policy.")} == names
    assert {name for name in whole if not name.startswith("policy.")} == {"loss.head.weight", "loss.head.bias"}


@pytest.mark.parametrize("kind", ["groups", "generator", "none", "names"])
def test_the_optimizer_gets_the_head(kind):
    policy = Policy()
    if kind == "generator":
        policy.get_optim_params = policy.parameters
    elif kind == "names":
        policy.get_optim_params = lambda: {"actor": list(policy.parameters())}
    model = supervised(policy)
    if kind == "none":
        model = Supervised(policy.model, "action_head", model.loss)
    given = model.get_optim_params()
    groups = torch.optim.AdamW(
        given if kind != "names" else [p for values in given.values() for p in values]
    ).param_groups
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in model.parameters()}
    if kind == "groups":
        assert [group["lr"] for group in groups] == [1e-3, 1e-3]


def test_copies_and_pickles():
    """As weights are averaged, and as processes are started."""
    model, batch = supervised(), make_batch()
    loss, _ = model(batch)
    twin = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    for other in (twin, loaded):
        again, _ = other(batch)
        assert torch.equal(again, loss)
        again.backward()
        assert model.policy.model.action_head.weight.grad is None
        assert hooks(other) == hooks(model) == 0


def test_no_graph_is_kept():
    """Neither after a step, nor by predictions with gradients enabled."""
    model, batch = supervised(), make_batch()
    kept = []

    def watch(_, args):
        kept.append(weakref.ref(args[0]))

    model.model.action_head.register_forward_pre_hook(watch)
    model(batch)
    model.predict_action_chunk(batch)
    gc.collect()
    assert [ref() for ref in kept] == [None, None]


def test_steps_of_policy_and_labels():
    batch = make_batch(steps=3)
    refused("`states`", lambda: supervised()(batch))
    loss, logs = supervised(resample="nearest")(batch)
    assert loss > 0
    assert logs["latent_loss"] > 0
    refused("`resample`", supervised, resample="linear")


def test_tokens_of_an_action_tokenizer():
    """LA-Tok inside a policy: H tokens in the row of the frame."""
    batch = _without(_without(make_batch(), "latent.embedding"), "latent.valid")
    batch |= {"latent.codes": torch.randint(0, 32, (B, H)), "latent.valid": torch.ones(B, dtype=torch.bool)}
    tokens = LatentSpec("chunk", H, 1, 32)
    _, logs = supervised(loss=CodeCrossEntropy(WIDTH, 32), labels=tokens)(batch)
    assert logs["latent_loss"] > 1
    refused("`latent.valid`", lambda: supervised(loss=CodeCrossEntropy(WIDTH, 32))(batch))


def test_tokens_are_hidden_after_the_episode_only_where_they_are_those_of_steps():
    """A residual quantizer may have as many tokens as the chunk has steps: none of them is that of one step."""
    padded = torch.zeros(B, H, dtype=torch.bool)
    padded[:, 1:] = True
    batch = make_batch() | {
        "latent.codes": torch.randint(0, K, (B, H)),
        "latent.valid": torch.ones(B, dtype=torch.bool),
    }
    batch |= {"action_is_pad": padded}
    for per_step in (True, False):
        model = supervised(loss=CodeCrossEntropy(WIDTH, K), labels=LatentSpec("chunk", H, 1, K, per_step=per_step))
        with torch.no_grad():
            model.loss.head.weight.zero_()
            model.loss.head.bias.copy_(torch.arange(K))
        _, logs = model(batch)
        counted = batch["latent.codes"][:, :1] if per_step else batch["latent.codes"]
        every = torch.log_softmax(torch.arange(float(K)), 0)
        assert logs["latent_loss"] == pytest.approx(-every[counted].mean().item(), rel=1e-5)


def test_what_does_not_fit_is_said():
    refused("`latent.codes`", lambda: supervised(loss=CodeCrossEntropy(WIDTH, K, 2))(make_batch()))
    refused("`states`", lambda: supervised(loss=CodeCrossEntropy(12, K, P))(make_batch()))
    refused("`batch`", lambda: supervised()({"action": torch.zeros(B, H, M)}))
    refused("forward.batch. returns .loss, dict", lambda: Supervised(_Bare(), "head", AlignLoss(M, D))(make_batch()))


class _Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(M, M)

    def forward(self, batch):
        return self.head(batch["action"])


class Preprocessor:
    """Knows one key, and can be saved."""

    name = "halves"

    def __call__(self, batch):
        return {"observation.state": batch["observation.state"] / 2}


def test_preprocessors_that_drop_labels():
    batch = make_batch() | {"task": ["lift"] * B}
    preprocess = keep_labels(Preprocessor())
    for process in (preprocess, copy.deepcopy(preprocess), pickle.loads(pickle.dumps(preprocess))):
        kept = process(batch)
        assert sorted(kept) == ["latent.codes", "latent.embedding", "latent.valid", "observation.state"]
        assert torch.equal(kept["observation.state"], batch["observation.state"] / 2)
        assert process.name == "halves"
    assert sorted(keep_labels(Preprocessor(), "lam")(batch)) == ["observation.state"]


def test_the_readme():
    """The lines of the page, on a policy with the module names of LeRobot's ACT."""
    code = re.search(r"<!-- supervise -->\s*```python\n(.*?)```", PAGE.read_text(encoding="utf8"), re.DOTALL)
    assert code is not None
    policy, batch = Policy(), make_batch()
    loader = [batch] * 60
    before = policy.predict_action_chunk(batch)
    names = {"policy": policy, "loader": loader}
    exec(code[1], names)
    logs = names["logs"]
    first = Supervised(Policy(), "model.action_head", CodeCrossEntropy(WIDTH, K, P))(batch)[1]
    assert logs["latent_loss"] < first["latent_loss"]
    assert isinstance(names["policy"], Supervised)
    assert names["policy"].policy is policy
    assert not torch.equal(before, policy.predict_action_chunk(batch))


def test_the_example_takes_any_annotated_dataset(make_dataset, tmp_path, monkeypatch, capsys):
    """The number of codes is that of the labels, the state the column of robots, or another one."""
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(PAGE.parents[2] / "examples/supervise_your_policy.py"))["main"]
    plain = make_dataset([20, 24])
    annotate(plain, {"latent": tiny_lam(stride="3", codebook_size=40)}, "annotated")
    for more in ([], ["--state-key", "reward"]):
        monkeypatch.setattr("sys.argv", ["example", "--dataset", "annotated", "--steps", "2", *more])
        main()
        first, *_, last = capsys.readouterr().out.strip().splitlines()
        losses = dict(re.findall(r"(\w+) (\d+\.\d+)", first))
        assert float(losses["latent_loss"]) == pytest.approx(np.log(40), abs=0.5)
        assert last.startswith("supervised.pt holds 6 tensors")
    for words, says in (
        ([str(plain.root)], "^lattok: dataset `tiny` has no `latent.codes`, `latent.valid`.[^\n]*$"),
        (["annotated", "--state-key", "nothing"], "^lattok: `state_key`: expected [^\n]*, got [^\n]*nothing[^\n]*$"),
    ):
        monkeypatch.setattr("sys.argv", ["example", "--dataset", *words])
        with pytest.raises(SystemExit, match=says):
            main()


def test_states_behind_which_nothing_learns():
    policy = Policy()
    policy.model.requires_grad_(False)
    refused("states with a gradient at `model.action_head`.* nothing but its", lambda: supervised(policy)(make_batch()))


def test_an_error_in_the_policy_leaves_no_hook():
    policy = Policy()
    with pytest.raises(KeyError):
        supervised(policy)(_without(make_batch(), "action"))
    assert hooks(policy) == 0


def _without(batch, key):
    return {name: value for name, value in batch.items() if name != key}


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    """Recomputation in the backward pass records nothing; gradients are those without it, where there are any."""
    policy, batch = Policy(), make_batch()
    plain, wrapped = supervised(policy), supervised(copy.deepcopy(policy))
    wrapped.loss.load_state_dict(plain.loss.state_dict())
    inner = wrapped.policy.model
    run = inner.forward
    inner.forward = lambda state: checkpoint(run, state.requires_grad_(), use_reentrant=reentrant)
    if reentrant:
        refused("got 1 without. It runs under .*use_reentrant=True", wrapped, batch)
        return
    for model in (plain, wrapped):
        model(batch)[0].backward()
    for (name, a), b in zip(plain.named_parameters(), wrapped.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)
    assert hooks(wrapped) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_compiled_policies():
    """Compiled by itself or with the loss around it; hooks are there anew in every forward pass."""
    plain = supervised()
    inner, outer = copy.deepcopy(plain), copy.deepcopy(plain)
    inner.policy.model.forward = torch.compile(inner.policy.model.forward, backend="eager")
    outer = torch.compile(outer, backend="eager")
    for _ in range(3):
        batch = make_batch()
        expected, logs = plain(batch)
        for model in (inner, outer):
            loss, own = model(batch)
            torch.testing.assert_close(loss, expected)
            assert own == pytest.approx(logs)


def _share(rank: int, folder: str) -> None:
    """One of two processes, with its half of the batch."""
    model, batch = torch.load(f"{folder}/model.pt", weights_only=False)
    half = {key: value[2 * rank : 2 * rank + 2] for key, value in batch.items()}
    wrapped = nn.parallel.DistributedDataParallel(model)
    wrapped(half)[0].backward()
    if rank == 0:
        torch.save([p.grad for p in model.parameters()], f"{folder}/gradients.pt")


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    """Gradients of two shares of a batch, averaged by DDP, are those of the whole, however many steps have labels."""
    model, batch = supervised(), make_batch()
    batch["latent.valid"][:, 0], batch["latent.valid"][:2, 1:] = True, False
    torch.save((model, batch), tmp_path / "model.pt")
    together(_share, str(tmp_path))
    model(batch)[0].backward()
    for expected, found in zip(model.parameters(), torch.load(tmp_path / "gradients.pt"), strict=True):
        torch.testing.assert_close(found, expected.grad)
