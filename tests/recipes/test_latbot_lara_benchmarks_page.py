"""docs/howto/latbot_lara_benchmarks.md: bash runs it with stand-ins for the programs, and each command is read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from lattok import cli
from lattok.cli import main
from lattok.data import ActionSpace
from lattok.recipes import ClipLAMRecipe, LARARecipe, LatBotRecipe, MotoLAMRecipe, Recipe, VLARecipe
from tests.recipes.test_benchmarks_page import script, typed_on
from tests.recipes.test_howto import ROOT

PAGE = ROOT / "docs/howto/latbot_lara_benchmarks.md"
SETTINGS = ROOT / "integrations/vla_eval/model_servers"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def typed(folder) -> list[list[str]]:
    return [words for _, words in typed_on(PAGE, folder)]


def test_every_command_of_lattok_is_one(typed, folder, monkeypatch):
    """They parse; students follow teachers and policies students."""
    trained: dict[str, Recipe[Any]] = {}
    for kind in (ClipLAMRecipe, MotoLAMRecipe, VLARecipe):
        monkeypatch.setattr(kind, "train", lambda self, *_: trained.update({self.out: self}))
    monkeypatch.setattr(VLARecipe, "_earlier_config", classmethod(lambda *_: None))  # of models that nobody trained
    (folder / "docs/howto").mkdir(parents=True)
    shutil.copy(ROOT / "docs/howto/latbot_mixture.json", folder / "docs/howto")
    monkeypatch.chdir(folder)
    labelled: list[dict[str, Any]] = []
    for program, *words in typed:
        if program == "lattok":
            with monkeypatch.context() as patch:
                if words[0] == "annotate":
                    patch.setattr(cli.flags, "call", lambda verb, flags: labelled.append(flags))
                assert main(words) == 0, words

    for out, recipe in trained.items():
        data: Any = recipe.data
        if isinstance(recipe, LatBotRecipe):
            assert data.before in trained, out
        if isinstance(recipe, LARARecipe):
            assert {data.lam.removesuffix("/lam"), data.lam} & trained.keys(), out
            assert data.init is None or data.init in trained
    (flags,) = labelled
    labels = {trained[f"runs/lara/{name}"].data.prefix for name in ("before", "after")}
    assert (flags["out"], {*flags["prefix"]}) == ("data/lara", labels)


def test_every_policy_meets_a_benchmark_that_can_judge_it(typed, folder, monkeypatch):
    """The server's settings are of the dataset that the policy learned from: its camera, its actions, its proprio."""
    pytest.importorskip("vla_eval", reason="needs vla-eval")
    monkeypatch.chdir(folder)
    trains = {words[words.index("--out") + 1]: words for words in typed if words[:2] == ["lattok", "train"]}
    judged = [words for words in typed if words[1].endswith("evaluate.py")]
    assert len(judged) > 10
    for _, _, model, benchmark, *rest in judged:
        settings = yaml.safe_load((SETTINGS / f"{benchmark}.yaml").read_text())["args"]
        changed = script("evaluate").changes(rest[1::2])
        if (described := Path(trains[model][3])).suffix == ".json":
            source = json.loads(described.read_text())
            (new,), (old,) = source["cameras"].keys(), source["cameras"].values()
            assert source["action_space"]["action"] == settings["policy_actions"], model
            ActionSpace.of(settings["policy_actions"])
            assert {settings["cameras"][name] for name in changed["cameras"]} == {old}
            assert {*changed["cameras"].values()} == {new}
        assert ("state" in settings) != ("--no-proprio" in trains[model]), model
