import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import lattok
from lattok.cli import main
from lattok.data import ActionSpace
from lattok.sim.agents import PolicyAgent
from lattok.utils.options import as_flags
from lattok.vla import LatentVLA
from lattok.vla.latbot import taught_by
from lattok.vla.spaces import robot_spaces
from tests.conftest import write_dataset
from tests.errors import refused
from tests.image_lam.clips.fakes import SIZES, clip_lam
from tests.recipes.policies import SIZES as POLICY
from tests.vla.fakes import config as policy_config
from tests.vla.stand_in import B, Policy, make_batch

LOOP = {"steps": 3, "batch_size": 4, "log_every": 1}


def words(options) -> list[str]:
    return [*as_flags({**LOOP, **options})]


def test_teacher_student_and_policy_one_after_the_other(tmp_path, capsys):
    data, teacher = str(write_dataset(tmp_path / "data", [12, 9, 11, 10])), tmp_path / "teacher"
    lattok.train(lattok.ClipLAMRecipe.from_preset(data, teacher, "tiny", **{**LOOP, **SIZES}))
    options, learned = {**POLICY, **LOOP, "backbone": "scratch"}, tmp_path / "my student"
    assert main(["train", "latbot", data, "--out", str(learned), "--teacher", str(teacher), *words(options)]) == 0
    said = capsys.readouterr().out
    (go_on,) = re.findall("Go on: lattok (.*)", said)
    assert "text_weight 0.5 has no effect: data has no sub-task texts." in said
    logged = [json.loads(line) for line in (learned / "run/metrics.jsonl").read_text().splitlines()]
    assert [entry["loss"] for entry in logged] == [entry["loss/latent"] for entry in logged]
    student = lattok.LatentVLA.from_pretrained(learned)
    card = (learned / "README.md").read_text()
    assert "Not evaluated yet: it has not learned to act." in card
    assert "predict_chunk" not in card
    assert main(["evaluate", str(learned), data, "--out", str(tmp_path / "report")]) == 2
    assert "`policy`: expected one that has learned to act, got one of LatBot, which follows" in capsys.readouterr().err
    refused("learned to act", PolicyAgent, student)
    assert student.config.strategy.name == "latbot"
    assert student.segments["latent"].count == 5
    head = {name: POLICY[name] for name in ("head_dim", "head_heads", "horizon", "log_every")}
    refused(
        "`backbone_width`",
        lattok.LatBotRecipe.from_preset,
        data,
        "p",
        phase="finetune",
        student=str(learned),
        backbone_width=32,
    )
    policy = shlex.split(go_on.replace("DATASET", data).replace("NEW", str(tmp_path / "p")))
    assert main([*policy, *words({**head, **LOOP})]) == 0  # the rest is known
    assert "Held-out episodes: error" in capsys.readouterr().out
    acting = lattok.LatentVLA.from_pretrained(tmp_path / "p")
    moved = (acting.placeholders[:5] - student.placeholders[:5]).detach()
    assert 0 < float(moved.abs().max()) < 0.02  # three small steps from where the student ended
    again = {"phase": "finetune", "student": str(tmp_path / "p")}
    refused("`student`", lambda: lattok.train(lattok.LatBotRecipe.from_preset(data, tmp_path / "q", **again)))
    frames = lattok.open_dataset(data).frames(0, acting.config.cameras, [0])
    seen: dict = {key: torch.from_numpy(frames[:, i]) for i, key in enumerate(acting.config.cameras)}
    observation = {**seen, "observation.state": torch.zeros(1, 2), "task": ["lift"]}
    assert acting.predict_chunk(observation).shape == (1, 4, 3)
    refused("`policy`", student.select_action, observation)


def test_episodes_that_are_shorter_than_a_clip_teach_nobody(tmp_path):
    data, teacher = (
        write_dataset(tmp_path / "data", [3, 3, 3]),
        clip_lam(interpolation="bilinear").save_pretrained(tmp_path / "teacher"),
    )
    given = {**POLICY, **LOOP, "backbone": "scratch", "horizon": 2, "teacher": str(teacher)}
    for whole in (False, True):
        refused(
            "`teacher`", lattok.train, lattok.LatBotRecipe.from_preset(data, tmp_path / "s", whole_clips=whole, **given)
        )
    assert not (tmp_path / "s").exists()


def test_both_phases_begin_with_the_weights_of_the_baseline(tmp_path, monkeypatch):
    """Rows of a comparison are pairs by seed: backbone of the student and head of the policy are as the Baseline's.

    A folder that is called scratch is none of it.
    """
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path)
    data = write_dataset(tmp_path / "data", [12, 9, 11, 10])
    clip_lam(seed=5, interpolation="bilinear").save_pretrained(tmp_path / "teacher")
    options = {**POLICY, **LOOP, "backbone": "scratch", "steps": 1, "lr": 1e-12, "weight_decay": 0.0}
    baseline = lattok.train(lattok.VLARecipe.from_preset(data, tmp_path / "baseline", **options))
    phases = {"student": {"teacher": str(tmp_path / "teacher")}}
    phases["policy"] = {"phase": "finetune", "student": str(tmp_path / "student")}
    for out, phase in phases.items():
        lattok.train(lattok.LatBotRecipe.from_preset(data, tmp_path / out, **options, **phase))
    student, policy = (lattok.LatentVLA.from_pretrained(tmp_path / out) for out in phases)
    for part, other in (("backbone.", student), ("backbone.", policy), ("head.", policy)):
        ours, theirs = other.state_dict(), baseline.state_dict()
        names = [name for name in theirs if name.startswith(part)]
        assert names
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-7) for name in names)


def test_a_policy_of_the_unified_spaces_serves_its_own_robot(tmp_path):
    """Distilled and fine-tuned on a left arm in the plane; the server takes and gives the numbers of that arm."""
    pytest.importorskip("vla_eval", reason="needs vla-eval")
    from lattok_vla_eval import PolicyServer

    write_dataset(tmp_path / "arm", [12, 9, 11, 10])
    action = [{"part": "position", "axes": ["x", "y"]}, {"part": "gripper", "convention": "open_is_1"}]
    state = [{"part": "position", "mode": "absolute", "axes": ["y", "-x"]}]
    spaces = {"action": action, "observation.state": state}
    described = {"dataset": "arm", "action_space": spaces, "actions": {"as": "unified", "arm": "left"}}
    (tmp_path / "arm.json").write_text(json.dumps(described))
    known = {0, 1, 6}
    absent = tuple({*range(44)} - known)
    clip_lam(action_dim=44, absent=absent, interpolation="bilinear").save_pretrained(tmp_path / "teacher")
    options = {**POLICY, **LOOP, "backbone": "scratch", "steps": 2}
    for out, before in (("student", {"teacher": tmp_path / "teacher"}), ("policy", {"student": tmp_path / "student"})):
        phase = {"phase": "distill" if out == "student" else "finetune", **{k: str(v) for k, v in before.items()}}
        lattok.train(lattok.LatBotRecipe.from_preset(tmp_path / "arm.json", tmp_path / out, **{**options, **phase}))
    acting = lattok.LatentVLA.from_pretrained(tmp_path / "policy").eval()
    own = {"actions": action, "state": state}
    named = {part: [each | {"arm": "left"} for each in space] for part, space in own.items()}
    assert robot_spaces(acting) == {part: ActionSpace.of(space) for part, space in named.items()}
    server = PolicyServer(
        acting, cameras={"a": "front", "b": "wrist"}, state="states", benchmark_state=state, benchmark_actions=action
    )
    frames = lattok.open_dataset(tmp_path / "arm").frames(0, acting.config.cameras, [0])[0]
    obs = {"images": dict(zip("ab", frames, strict=True)), "states": [0.5, -0.25], "task_description": "lift"}
    served = server.predict(obs, None)["actions"]  # type: ignore[arg-type]
    seen: dict = {key: torch.from_numpy(frames[i : i + 1]) for i, key in enumerate(acting.config.cameras)}
    proprio = torch.zeros(1, 46).index_copy(1, torch.tensor([1, 0]), torch.tensor([[0.5, 0.25]]))
    chunk = acting.predict_chunk({**seen, "observation.state": proprio, "task": ["lift"]})[0]
    assert not chunk[:, sorted({*range(44)} - known)].any()
    wanted = chunk[:, [0, 1, 6]].numpy()
    wanted[:, 2] = wanted[:, 2].clip(0, 1)
    np.testing.assert_allclose(served, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "`teacher`"),
        ({"phase": "finetune", "teacher": "x"}, "`student`"),
        ({"prefix": "latent"}, "`prefix`"),
        ({"strategy": "la_align"}, "`strategy`"),
        ({"phase": "finetune", "text_weight": 0.2}, "`text_weight`"),
        ({"phase": "finetune", "whole_clips": True}, "`whole_clips`"),
        ({"phase": "teach"}, "`phase`"),
        ({"teacher": "sample/lam"}, "`teacher`"),
    ],
)
def test_what_is_missing_is_named(options, text, tmp_path):
    data = write_dataset(tmp_path / "data", [12, 9])
    given = {**POLICY, **LOOP, "backbone": "scratch", **options}
    refused(re.escape(text), lambda: lattok.train(lattok.LatBotRecipe.from_preset(data, tmp_path / "s", **given)))


def test_numbers_of_the_paper():
    made = lattok.LatBotRecipe.from_preset("d", "o", "libero+latbot", teacher="t")
    assert (made.loop.batch_size, made.loop.warmup_steps, made.loop.min_lr) == (256, 2000, 2.5e-6)
    assert (made.options()["backbone_train"], made.options()["backbone_lora_projector"]) == ("full", True)
    assert made.model.action_loss == "l2_bce"
    short = lattok.LatBotRecipe.from_preset("d", "o", "libero+latbot", teacher="t", steps=900)
    assert short.loop.warmup_steps == 300  # else it never reaches its rate
    assert made.model.normalize_exceptions == ("*gripper*=min_max",)
    refused("`preset`", lattok.LatBotRecipe.from_preset, "d", "o", "latbot", teacher="t")


def test_a_policy_is_fine_tuned_with_the_numbers_of_the_paper(tmp_path):
    """What the student has stays; an option that is given counts."""
    made = LatentVLA.build(taught_by(policy_config(proprio_dim=0, proprio_names=()), clip_lam().config))
    student = {"phase": "finetune", "student": str(made.save_pretrained(tmp_path / "student"))}
    for preset in ("libero+latbot", "libero+latbot+latbot_finetune"):
        tuned = lattok.LatBotRecipe.from_preset("d", "o", preset, **student)
        assert (tuned.loop.steps, tuned.loop.batch_size, tuned.preset) == (60_000, 64, "libero+latbot+latbot_finetune")
        assert (tuned.model.action_loss, tuned.options()["backbone_width"]) == ("l2_bce", 32)
    assert lattok.LatBotRecipe.from_preset("d", "o", "libero+latbot", steps=9, **student).loop.steps == 9
    assert lattok.LatBotRecipe.from_preset("d", "o", "libero+latbot", steps=900, **student).loop.warmup_steps == 300
    run, header = tmp_path / "p/run", {"kind": "latbot", "dataset": "d", "preset": tuned.preset, "inputs": {}}
    run.mkdir(parents=True)
    (run / "recipe.json").write_text(json.dumps({**header, "options": tuned.options()}))
    assert lattok.LatBotRecipe.resumed("d", tmp_path / "p", "libero+latbot", student).preset == tuned.preset
    refused("`preset`", lattok.LatBotRecipe.resumed, "d", tmp_path / "p", "jaka+latbot", student)
    assert lattok.LatBotRecipe.from_preset("d", "o", "libero", **student).loop.steps == 80_000


def test_texts_have_their_weight_where_any_dataset_has_them(tmp_path, capsys, monkeypatch):
    """Of a mixture one that has none is left out of L_r; where all lack them, it is said."""
    data = write_dataset(tmp_path / "data", [12, 9, 11, 10])
    clip_lam(interpolation="bilinear").save_pretrained(tmp_path / "teacher")
    given = {**POLICY, "backbone": "scratch", "teacher": str(tmp_path / "teacher"), "text_weight": 0.3}
    recipe = lattok.LatBotRecipe.from_preset(data, tmp_path / "s", **given)
    data = recipe.policy_data(recipe.open())
    with_texts = SimpleNamespace(name="told", episodes=[SimpleNamespace(index=0)], subtasks=lambda episode: ["reach"])
    both = [*data.datasets, with_texts]
    teller = SimpleNamespace(backbone=SimpleNamespace(predicts_text=True))
    assert recipe._texts(teller, both)  # pyright: ignore
    assert not recipe._texts(teller, data.datasets)  # pyright: ignore
    assert capsys.readouterr().out == "text_weight 0.3 has no effect: data has no sub-task texts.\n"
    assert recipe.learner(data).loss_weights == {"latent": 1.0}
    monkeypatch.setattr(lattok.LatBotRecipe, "_texts", lambda *_: True)
    assert recipe.learner(data).loss_weights == {"latent": 1.0, "text": 0.3}


def test_grippers_from_0_to_1_have_both_ends_of_their_loss(tmp_path):
    """Where 0 stays 0, the least certain a gripper can be would be called closed."""
    data = write_dataset(tmp_path / "data", [12, 9, 11, 10])
    info = data / "meta/info.json"
    info.write_text(info.read_text().replace('"z"', '"gripper"'))
    for file in (data / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        place, kind = table.schema.get_field_index("action"), table.schema.field("action")
        rows = [[x, y, float(i % 10 < 7)] for i, (x, y, _) in enumerate(table["action"].to_pylist())]
        pq.write_table(table.set_column(place, kind, pa.array(rows, kind.type)), file)
    options = {**POLICY, **LOOP, "backbone": "scratch", "steps": 1, "action_loss": "l2_bce"}
    for kind, ends in (("bounded", "0 to 1"), ("mean_std", "-1.. to 0.5.")):
        given = {**options, "normalize_exceptions": (f"*gripper*={kind}",)}
        made = lattok.VLARecipe.from_preset(data, tmp_path / kind, **given)
        refused(f"`action_loss`: .* got `gripper` from {ends}", lattok.train, made)
    given = {**options, "normalize_exceptions": ("*gripper*=min_max",)}
    policy = lattok.train(lattok.VLARecipe.from_preset(data, tmp_path / "policy", **given))
    assert policy.action_normalizer(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))[:, 2].tolist() == [-1, 1]


def test_the_block_for_somebody_elses_policy_runs(tmp_path, monkeypatch):
    """The Python block of docs/howto/latbot.md as it stands there, and a step of what it makes."""
    clip_lam().save_pretrained(tmp_path / "runs/teacher")
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs/howto/latbot.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"<!-- latbot -->\n```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    known = {"policy": Policy(), "preprocessor": dict}
    exec(text, known)
    clips = {camera: torch.rand(B, 3, 3, 16, 16) for camera in known["teacher"].cameras}
    given = make_batch() | clips | {"task": ["lift"] * B}
    loss, logs = known["policy"](known["preprocessor"](given))
    loss.backward()
    assert logs["latent_loss"] > 0
