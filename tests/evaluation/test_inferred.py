"""The evaluation of inverse dynamics models, of which one infers true actions with errors that are known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import lattok
from lattok.data import Feature, RobotDataset
from lattok.data.views import View
from lattok.evaluation import Report, compare, evaluate
from lattok.evaluation.evidence import Case, EvalOptions, measured
from lattok.evaluation.evidence.action_evidence import ActionEvidence, _trained
from lattok.evaluation.evidence.probes import Bootstrap
from lattok.evaluation.evidence.trained_controls import NO_LATER, ControlTraining
from lattok.evaluation.page import render
from lattok.evaluation.questions.inferred import cells_of, systematic_squares
from lattok.image_lam.inverse import InferredActions, InverseDynamics, InverseDynamicsConfig
from lattok.training import LoopOptions
from lattok.utils.checks import LattokError
from tests.errors import refused
from tests.evaluation.worlds import SIDE, World, answer_of, holds, tiny_lam
from tests.image_lam.clips.fakes import clip_lam
from tests.vla.fakes import policy

SMALL = {"features": "pixels", "image_size": SIDE, "channels": (8, 8), "latent_dim": 8, "hidden": 8, "members": 2}
HELD_OUT = [6, 7, 8, 9, 10]
LENGTH = 40
SHORT = LoopOptions(steps=2, batch_size=8, device="cpu")


def small(kind: type[InverseDynamics] = InverseDynamics, **options: Any) -> Any:
    torch.manual_seed(0)
    given = {"cameras": ("front",), "action_dim": 3, "action_names": ("x", "y", "z"), **SMALL, **options}
    model = kind(InverseDynamicsConfig(**given)).eval()
    model.set_range(torch.randn(50, model.config.action_dim))
    return model


class Knowing(InverseDynamics):
    """Reads the numbers of frames, and says what is planned for them."""

    said: np.ndarray  # [frames of the world, m]

    def infer_actions(self, frames: Any, unit: int, task: str = "", states: Any = None) -> InferredActions:
        rows = frames[:, 0, 0, :2, 0].astype(int) @ [1, 256]
        empty = (np.zeros((len(rows), *shape)) for shape in ((), (2, 8), (0,)))
        return InferredActions(self.said[rows], *empty)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def world() -> World:
    return World(episodes=11, length=LENGTH, tasks=2)


@pytest.fixture(scope="module")
def knowing(world: World) -> Knowing:
    """Errors: chance, and a part that the place in a task decides."""
    rng, model = np.random.default_rng(4), small(Knowing)
    true = world.actions.reshape(-1, 3)
    size = rng.uniform(0.05, 0.6, len(true))
    fifth, task = np.tile(np.arange(LENGTH) // 8, 11), np.repeat(np.arange(11) % 2, LENGTH)
    shared = rng.normal(0, 0.3, (2, 5, 3))[task, fifth]
    model.said = (true + shared + size[:, None] * rng.standard_normal(true.shape)).astype(np.float32)
    return model


@pytest.fixture(scope="module")
def report(world: World, knowing: Knowing) -> Report:
    return evaluate(knowing, world, episodes=HELD_OUT)


def parts(world: World, model: Knowing) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is said and what is true of held-out frames, [episodes, T, m], and all known actions [n, m]."""
    said = model.said.reshape(world.actions.shape)[HELD_OUT].astype(float)
    return said, world.actions[HELD_OUT].astype(float), world.actions[:6].reshape(-1, 3).astype(float)


def test_r2_is_that_of_numpy_and_its_interval_draws_episodes(world: World, knowing: Knowing, report: Report):
    said, true, known = parts(world, knowing)
    errors, distances = (said - true) ** 2, (true - known.mean(0)) ** 2
    assert report.figures["r2_actions/model"] == pytest.approx((1 - errors.sum((0, 1)) / distances.sum((0, 1))).mean())
    assert report.figures["r2_actions/mean"] == 0
    count = len(HELD_OUT)
    drawn = np.random.default_rng(1).integers(0, count, (4000, count))
    draws = (1 - errors.sum(1)[drawn].sum(1) / distances.sum(1)[drawn].sum(1)).mean(1)
    low, middle, high = np.percentile(draws, (2.5, 50, 97.5))
    apart = stats.t.ppf(0.975, count - 1) / stats.norm.ppf(0.975) * (count / (count - 1)) ** 0.5
    for end, value in (("low", low), ("high", high)):
        expected = middle + apart * (value - middle)
        assert report.figures[f"r2_actions_{end}/model"] == pytest.approx(expected, abs=0.012)
    assert answer_of(report).holds is True
    assert answer_of(report).text.startswith("Yes: on held-out episodes its actions explain")
    assert holds(report)["inferred_against_controls"] is holds(report)["inferred_against_controls_xyz"] is True
    assert "Controls learn from the 6 episodes that are not held out." in str(report.sections[0].tables[0].note)


def test_systematic_errors_are_those_that_cells_have_in_common(world: World, knowing: Knowing, report: Report):
    said, true, known = parts(world, knowing)
    gaps = (said - true) / known.std(0)
    cells = [gaps[task::2, 8 * f : 8 * f + 8].mean((0, 1)) for task in (0, 1) for f in range(5)]
    assert report.figures["systematic_error/model"] == pytest.approx(np.sqrt(np.square(cells).mean()))
    assert report.figures["error/model"] == pytest.approx(np.sqrt(np.square(gaps).mean()))
    mean = (known.mean(0) - true) / known.std(0)
    cells = [mean[task::2, 8 * f : 8 * f + 8].mean((0, 1)) for task in (0, 1) for f in range(5)]
    assert report.figures["systematic_error/mean"] == pytest.approx(np.sqrt(np.square(cells).mean()))
    assert "each of 10 cells" in report.sections[2].text
    own, best = (report.figures[f"systematic_error/{key}"] for key in ("model", "proprio"))
    assert f"; systematic error {own:.2f} against {best:.2f})." in answer_of(report).text


def test_cells_of_episodes_of_any_length(make_dataset):
    data = make_dataset([7, 12, 5, 9], tasks=("lift",))
    case = Case(small(cameras=("front", "wrist")), data, EvalOptions(episodes=[0, 3]).split(data), EvalOptions())
    fifths = [5 * t // length for length in (7, 9) for t in range(length)]
    assert cells_of(ActionEvidence.gather(case)).tolist() == fifths


def test_a_model_that_knows_nothing_is_told_so(world: World, knowing: Knowing):
    untrained = evaluate(small(), world, episodes=HELD_OUT).answer
    assert untrained is not None
    assert not untrained.holds
    guessing = small(Knowing)
    guessing.said = np.random.default_rng(7).standard_normal(knowing.said.shape).astype(np.float32)
    report = evaluate(guessing, world, episodes=HELD_OUT)
    assert answer_of(report).question == "Are its actions good enough to replace unknown ones?"
    assert answer_of(report).holds is False
    assert holds(report)["inferred_against_controls"] is False
    advice = {verdict.key: verdict.advice for verdict in report.verdicts}
    assert str(advice["inferred_against_controls"]) == "Train one on this dataset: lattok train idm DATASET --out new"


def test_better_than_controls_is_not_good_enough(world: World, knowing: Knowing):
    weak = small(Knowing)
    noise = np.random.default_rng(5).standard_normal(knowing.said.shape)
    weak.said = (0.2 * (world.actions.reshape(-1, 3) + 0.3 * noise)).astype(np.float32)
    report = evaluate(weak, world, episodes=HELD_OUT)
    assert holds(report)["inferred_against_controls"] is True
    assert answer_of(report).holds is None
    assert answer_of(report).text.startswith("With care: it beats every control, but explains only 3")


def test_one_episode_and_one_that_was_trained_on_decide_nothing(world: World, knowing: Knowing):
    report = evaluate(knowing, world, episodes=[9])
    assert answer_of(report).holds is None
    assert answer_of(report).text.startswith("Unclear: only one episode was held out with known actions")
    seen = small(Knowing)
    seen.said = knowing.said
    seen.trained_on = {"dataset": "planted", "episodes": [[0, 9]], "loop": {}}
    report = evaluate(seen, world, episodes=HELD_OUT)
    assert answer_of(report).text.startswith("Unclear from this report: the model was trained on episodes")


def gathered(model: Any, world: Any, **options: Any) -> ActionEvidence:
    chosen = EvalOptions(episodes=HELD_OUT, **options)
    return ActionEvidence.gather(Case(model, world, chosen.split(world), chosen))


def test_state_and_instruction_are_a_ridge_regression():
    world = World(episodes=11, length=LENGTH, tasks=2)
    rng, task = np.random.default_rng(6), np.arange(11)[:, None, None] % 2
    actions = world.states @ rng.standard_normal((2, 3)) + 2 * task + 0.3 * world.actions
    world.actions = actions.astype(np.float32)
    evidence = gathered(small(), world)
    probe = next(row for row in evidence.rows if row.key == "proprio").scores["linear"].probe
    hot = np.broadcast_to(np.eye(2)[np.arange(11) % 2][:, None], (11, LENGTH, 2))
    x = np.concatenate([world.states, hot], -1).astype(float)
    train, judged = x[:6].reshape(-1, 4), x[HELD_OUT].reshape(-1, 4)
    y = world.actions[:6].reshape(-1, 3).astype(float)
    shift, scale, mean, deviation = train.mean(0), train.std(0), y.mean(0), y.std(0)
    a = (train - shift) / scale
    weights = np.linalg.solve(a.T @ a + probe.ridge * len(a) * np.eye(4), a.T @ ((y - mean) / deviation))
    assert probe.predicted.numpy() == pytest.approx((judged - shift) / scale @ weights * deviation + mean)
    assert float(probe.r2.mean()) > 0.8


def test_a_map_of_state_changes_that_is_better_is_what_to_take(world: World, knowing: Knowing):
    moving = World(episodes=11, length=LENGTH)
    moved = np.concatenate([moving.states[:, 2:], moving.states[:, -1:], moving.states[:, -1:]], 1) - moving.states
    moving.actions = np.concatenate([moved, moved[..., :1]], -1).astype(np.float32)
    noisy = small(Knowing)
    noise = np.random.default_rng(8).standard_normal((11 * LENGTH, 3))
    noisy.said = (moving.actions.reshape(-1, 3) + 0.4 * moving.actions.std() * noise).astype(np.float32)
    report = evaluate(noisy, moving, episodes=HELD_OUT)
    assert report.figures["r2_actions/proprio_map"] > 0.99 > report.figures["r2_actions/model"] > 0.5
    assert holds(report)["inferred_against_controls"] is True
    assert holds(report)["inferred_against_state_changes"] is False
    assert answer_of(report).holds is False
    assert answer_of(report).text.startswith("No, where the robot's state is recorded:")
    advice = {verdict.key: str(verdict.advice) for verdict in report.verdicts}
    assert not any("--proprio" in each for each in advice.values())


def test_the_control_that_is_named_is_the_best_one():
    """Over all dimensions the model is ahead, about x, y and z a map of the state's changes is."""
    names = ("x", "y", "z", "twist", "grip")
    world, rng = World(episodes=11, length=LENGTH, names=names), np.random.default_rng(8)
    moved = np.concatenate([world.states[:, 2:], world.states[:, -1:], world.states[:, -1:]], 1) - world.states
    world.actions[..., :3] = moved[..., [0, 1, 0]]
    model = small(Knowing, action_dim=5, action_names=names)
    spread = np.array([0.6, 0.6, 0.6, 0.2, 0.2]) * rng.standard_normal((11 * LENGTH, 5))
    model.said = (world.actions.reshape(-1, 5) + spread).astype(np.float32)
    report = evaluate(model, world, episodes=HELD_OUT)
    held = holds(report)
    assert held["inferred_against_controls"] is held["inferred_against_state_changes"] is True
    assert held["inferred_against_controls_xyz"] is True
    assert held["inferred_against_state_changes_xyz"] is False
    assert answer_of(report).holds is True
    assert "about x, y and z, where the state is recorded, a map" in answer_of(report).text
    errors = {
        key.partition("/")[2]: each for key, each in report.figures.items() if key.startswith("systematic_error/")
    }
    least = min(errors[key] for key in ("flow", "flow_kmeans", "mean", "proprio", "proprio_map"))
    (said,) = [each.text for each in report.verdicts if each.key == "inferred_systematic"]
    assert f"{errors['model']:.2f} is" in said
    assert f" {least:.2f} of " in said


def test_of_absolute_commands_what_they_add_to_the_state_is_judged():
    """The state as it is would have most of the variance; a model that says no more of commands than that has none."""
    world = World(episodes=11, length=LENGTH)
    rng = np.random.default_rng(9)
    world.actions = np.c_[world.states.reshape(-1, 2), np.zeros(11 * LENGTH)].reshape(11, LENGTH, 3).astype(np.float32)
    world.actions += 0.1 * rng.standard_normal(world.actions.shape).astype(np.float32)
    model = small(Knowing, state_dim=2, anchors=(0, 1, -1))
    model.said = np.c_[world.states.reshape(-1, 2), np.zeros(11 * LENGTH)].astype(np.float32)
    assert evaluate(model, world, episodes=HELD_OUT).figures["r2_actions/model"] == pytest.approx(0, abs=0.02)


def test_controls_learn_from_what_the_model_knew(world: World):
    model = small()
    model.trained_on = {"dataset": "planted", "episodes": [[0, 7]], "labels": {"episodes": "1:3"}}
    evidence = gathered(model, world)
    assert evidence.known == "2 episodes whose actions the model knew"
    assert evidence.scale.numpy() == pytest.approx(world.actions[1:3].reshape(-1, 3).std(0, dtype=float))
    model.trained_on["labels"] = {}
    assert gathered(model, world).known == "6 episodes whose actions the model knew"  # but for those that judge
    assert gathered(model, world, max_episodes=4).known == "4 of 7 episodes whose actions the model knew"
    model.trained_on["labels"] = {"episodes": "40:50"}  # of a dataset that was longer
    assert gathered(model, world).known == "6 episodes that are not held out"
    model.trained_on |= {"dataset": "another", "labels": {"episodes": "1:3"}}
    assert gathered(model, world).known == "6 episodes that are not held out"


def test_the_same_network_without_later_frames_is_trained_and_kept(world: World, tmp_path: Path):
    model = small(proprio=True, state_dim=2, loss_flow=0.1, loss_reversal=0.1)
    options: dict[str, Any] = {"episodes": HELD_OUT, "out": tmp_path, "controls": "trained", "control_loop": SHORT}
    found = evaluate(model, world, **options)
    assert f"r2_actions/{NO_LATER}" in found.figures
    assert "not run" not in render(found)
    kept = sorted((tmp_path / "controls").glob("*.safetensors"))
    assert len(kept) == 3  # with a quarter and half of the known episodes, too
    stamps = [each.stat().st_mtime_ns for each in kept]
    assert evaluate(model, world, **options).figures == found.figures
    assert [each.stat().st_mtime_ns for each in kept] == stamps
    backwards = small(offsets=(-2, 0))
    options["out"] = tmp_path / "backwards"
    text = evaluate(backwards, world, **options).sections[0].tables[0].to_text()
    assert "not run: the model itself looks at none" in text


def test_the_control_sees_nothing_later(world: World):
    evidence = gathered(model := small(offsets=(-1, 0, 1, 3), action_loss="l2", loss_forward=0.1), world)
    training = ControlTraining(SHORT, None, {})
    control = _trained(model, evidence.source, [world.episodes[0]], training, (-3, -1, 0))
    assert not control.config.learns_from_video  # it learns from the known actions alone
    assert control.config.offsets == (-3, -1, 0)
    assert control.config.action_loss == "l2"
    video = world.video[0].copy()
    before = control.infer_actions(video, 1).actions
    video[20:] = 0
    after = control.infer_actions(video, 1).actions
    assert np.array_equal(before[:20], after[:20])
    assert not np.array_equal(before[20:], after[20:])


class Filled(World):
    """Of some episodes nobody knows the actions, of others a model said what they may have been."""

    def __init__(self, unknown: tuple[int, ...] = (), inferred: tuple[int, ...] = ()):
        super().__init__(episodes=11, length=LENGTH)
        self.actions[list(unknown)] = np.nan
        self.inferred = inferred
        self.features |= {"inferred.filled": Feature("bool", (1,), None)}
        self.labels = SimpleNamespace(provenance={"inferred": {"fills": {"column": "action"}}})

    def columns(self, episode_index: int, keys: Any) -> dict[str, np.ndarray]:
        own = super().columns(episode_index, [key for key in keys if not key.startswith("inferred.")])
        own |= {"inferred.filled": np.full(LENGTH, episode_index in self.inferred)}
        return {key: own[key] for key in keys}


@pytest.mark.ci
@pytest.mark.usefixtures("short_mlps")
def test_labels_are_judged_by_measured_actions_alone():
    """Inferred ones would be taken for the truth, and NaN ended the evaluation."""
    world = Filled(unknown=(0, 9), inferred=(1, 10))
    chunks = lattok.UniformBins.fit(world.actions[2:6].reshape(-1, 4, 3), bins=8)
    for judged in (evaluate(tiny_lam(), world, episodes=HELD_OUT), evaluate(chunks, world, episodes=HELD_OUT)):
        split = judged.provenance["split"]
        assert (split["held_out"], split["training"]) == ([6, 7, 8], [2, 3, 4, 5])
    compared = compare(world, {"lam": tiny_lam()}, episodes=HELD_OUT)
    assert compared.provenance["split"]["held_out"] == [6, 7, 8]
    alone = evaluate(tiny_lam(), world, episodes=HELD_OUT, action_key=None)  # every frame says something
    assert alone.provenance["split"]["held_out"] == HELD_OUT
    with pytest.raises(LattokError, match=r"none: they are NaN, .* Known are episodes .* Models of video can be"):
        evaluate(tiny_lam(), world, episodes="9:")


class Gap(View):
    """One episode whose actions are NaN in one row."""

    def __init__(self, dataset: RobotDataset, episode: int):
        super().__init__(dataset)
        self.episode = episode

    def columns(self, episode_index: int, keys: Any) -> dict[str, np.ndarray]:
        found = self.dataset.columns(episode_index, keys)
        if episode_index == self.episode and "action" in found:
            found["action"] = np.where(np.arange(len(found["action"]))[:, None] == 3, np.nan, found["action"])
        return found

    unchecked_columns, columns_of = columns, RobotDataset.columns_of


@pytest.mark.parametrize("episode", [0, 3], ids=["that teaches", "that judges"])
def test_a_row_without_an_action_ends_every_evaluation_with_its_place(make_dataset, episode: int):
    """One NaN would make NaN of every figure that it is part of."""
    data = make_dataset([24, 24, 24, 24])
    models = [tiny_lam(), clip_lam(), lattok.UniformBins.fit(torch.randn(9, 4, 3), bins=8), policy()]
    for model in [*models, small(cameras=("front", "wrist"))]:
        with pytest.raises(LattokError, match=f"finite numbers, got nan in episode {episode}, frame 3, dimension 0"):
            evaluate(model, Gap(data, episode), episodes=[2, 3])


def test_only_measured_actions_judge_and_teach():
    world = Filled(unknown=(0, 6), inferred=(1, 7))
    evidence = gathered(small(), world)
    assert np.unique(evidence.held_out.episode_of).tolist() == [8, 9, 10]
    assert evidence.known == "4 episodes that are not held out"
    assert [episode.index for episode in measured(world, "action", range(4))] == [2, 3]
    text = evaluate(small(), world, episodes=HELD_OUT).sections[0].text
    assert "120 frames of 3 held-out episodes of 5, whose actions are known," in text
    refused("`action`", lambda: gathered(small(), Filled(unknown=(6, 7), inferred=(8, 9, 10))))
    with pytest.raises(LattokError, match=r"known actions in an episode that is not held out, got none"):
        gathered(small(), Filled(unknown=tuple(range(6))))


def test_without_states_only_what_is_seen_counts():
    report = evaluate(small(), World(episodes=11, length=LENGTH, state=False), episodes=HELD_OUT)
    assert "not run: no state was read" in report.sections[0].tables[0].to_text()
    assert "r2_actions/proprio_map" not in report.figures


def test_what_does_not_fit_is_refused(make_dataset, world: World):
    refused("top", lambda: evaluate(small(cameras=("top",)), make_dataset([6, 6, 6, 6])))
    with pytest.raises(LattokError, match="`cameras`"):
        evaluate(small(cameras=("front", "wrist")), make_dataset([6, 6, 6, 6], name="both"), cameras=["front"])
    refused("`action`", lambda: evaluate(small(action_dim=4, action_names=()), world, episodes=HELD_OUT))
    with pytest.raises(LattokError, match="action_dim|observation.missing"):
        evaluate(small(action_key="observation.missing"), world, episodes=HELD_OUT)
    with pytest.raises(LattokError, match="an inverse dynamics model or a policy, got str"):
        lattok.evaluate(type("Other", (), {"evidence": None, "type": "str"})(), world)


@pytest.mark.parametrize("tasks", [1, 2])
def test_the_interval_of_the_systematic_error_lies_around_it(tasks: int):
    """Errors by chance alone: each time that episodes are drawn the mean of a cell moves, which adds to its square."""
    generator = torch.Generator().manual_seed(3)
    gaps = torch.randn(10 * 40, 3, generator=generator).double()
    episode, fifth = np.repeat(np.arange(10), 40), np.tile(np.arange(40) // 8, 10)
    cells = torch.from_numpy(episode % tasks * 5 + fifth)
    bootstrap = Bootstrap(episode, 0)
    squares, draws = systematic_squares(gaps, cells, bootstrap)
    span = bootstrap.interval(draws)
    assert span is not None
    assert span[0] < float(squares.mean().sqrt()) < span[1]


def test_the_control_is_trained_again_where_the_states_it_reads_are_others(world: World, tmp_path: Path):
    model = small(proprio=True, state_dim=2)
    options: dict[str, Any] = {"episodes": HELD_OUT, "out": tmp_path / "report", "overwrite": True}
    world = World(episodes=11, length=LENGTH, tasks=2)
    for count in (1, 2):
        evaluate(model, world, controls="trained", control_loop=SHORT, **options)
        assert len(list((tmp_path / "report" / "controls").glob("*.safetensors"))) == 3 * count
        world.states = world.states + 1
