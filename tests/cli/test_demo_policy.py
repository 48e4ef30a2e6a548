"""`lattok demo --policy` on two tasks: a policy that acts, and films of it; it goes on where it was."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import pytest

import lattok
from lattok.cli import demo
from lattok.utils.checks import LattokError

if find_spec("metaworld") is None:
    pytest.skip("the sim extra is not installed", allow_module_level=True)

from tests.sim.conftest import images  # noqa: F401 (a fixture)

TASKS = ("metaworld-pairs/faucet-open", "metaworld-pairs/faucet-close")
Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(images: None) -> Iterator[Run]:  # noqa: F811
    """Run the demo into a folder, and return what it prints."""

    def call(out: Path) -> str:
        with redirect_stdout(io.StringIO()) as said:
            demo.demo(str(out), policy=True, fast=True, device="cpu")
        return said.getvalue()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "WORLD", TASKS)
        patch.setattr(demo, "FAST_STEPS", 3)
        yield call


@pytest.fixture(scope="module")
def whole(run: Run, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("policy") / "demo"
    return out, run(out)


def test_it_ends_with_a_robot_that_acts(whole: tuple[Path, str]) -> None:
    out, printed = whole
    assert "success  95 %         opposite first" in printed
    assert all(f"\n{task} " in printed for task in TASKS)
    assert f"Watch it: {out / 'rollouts/sheet.png'}" in printed
    assert {path.name for path in (out / "rollouts").iterdir()} == {
        "rollouts.json",
        "sheet.png",
        "speed.json",
        *(f"{task.replace('/', '-')}-1000000.mp4" for task in TASKS),
    }
    assert "This was a trial run" in printed
    for command in (
        f"lattok rollout {out}/policy --env metaworld-pairs --instruction swapped",
        f"lattok evaluate {out}/policy {out}/demonstrations --env metaworld-pairs",
        f"lattok annotate {out}/demonstrations --model my-lam --out annotated",
        "--strategy la_direct --backbone scratch --action-key expert_action",
    ):
        assert command in printed
    config = lattok.load(out / "policy").config
    assert (config.action_key, config.n_action_steps, len(config.instructions)) == ("expert_action", 4, 2)


class Killed(BaseException):
    """Nobody catches it."""


def test_killed_half_way_it_goes_on_to_the_same_policy(
    run: Run, whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "demo"
    shutil.copytree(whole[0], out, ignore=shutil.ignore_patterns("policy", "rollouts"))
    monkeypatch.setattr("lattok.sim.collect", None)  # which has been done
    with monkeypatch.context() as patch:
        patch.setattr("lattok.training.loop.Trainer.step", lambda *a, **k: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(out)
    printed = run(out)
    policies = [lattok.load(folder / "policy") for folder in (out, whole[0])]
    assert policies[0].describe()["weights_sha256"] == policies[1].describe()["weights_sha256"]
    rows = [[line for line in text.splitlines() if line.startswith("metaworld-pairs")] for text in (printed, whole[1])]
    assert rows[0] == rows[1]


@pytest.mark.usefixtures("images")
def test_a_film_of_the_bundled_policy_ends_the_other_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo._show(tmp_path, "cpu")
    assert f"Watch it: {tmp_path / 'films/sheet.png'}" in capsys.readouterr().out
    assert len(list((tmp_path / "films").glob("*.mp4"))) == len(demo.SHOWN)


def test_without_simulators_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[:2] == ["lattok", "sim"]]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(lattok, "sim", raising=False)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(LattokError, match=r"^simulations need gymnasium, .*Run: pip install 'lattok\[sim\]'$"):
        demo.demo(str(tmp_path / "demo"), policy=True)
    assert not (tmp_path / "demo").exists()
