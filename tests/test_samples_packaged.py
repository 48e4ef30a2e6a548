"""What comes with the package: a dataset and models that load at once, without network, under names of their own."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest

import lattok
from lattok.hub.client import ASSETS, SAMPLES
from lattok.hub.trials import KEY
from lattok.hub.weights import read_metadata
from lattok.version import INSTALL
from scripts.make_sample_models import NAMES, STEPS, make

TOKENIZERS = ("sample/tokenizer", "sample/fast", "sample/beast", "sample/toast", "sample/bins")
MODELS = ("sample/lam", "sample/idm", "sample/policy", *TOKENIZERS)
README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def code_of_readme() -> str:
    return README.read_text().split("<!-- first -->")[1].split("```python\n")[1].split("```")[0]


def test_the_first_lines_of_readme_run_as_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    exec(code_of_readme(), found)
    dataset, codes = found["dataset"], found["codes"]
    assert codes.shape == (dataset.episodes[0].length, 4)
    assert len(np.unique(codes)) > 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sample/lam", *TOKENIZERS])
def test_models_with_codes_record_them(name):
    """`load` compares; scripts/make_sample_models.py --codes records them again."""
    said = json.loads(read_metadata(ASSETS / SAMPLES[name] / "model.safetensors")[KEY])
    assert len(said["codes"]) == len(said["places"]) > 30
    assert len({*said["codes"]}) > 4
    assert said["packages"].keys() == {"lattok", *lattok.load(name).packages}


def test_the_script_knows_all_models_that_come_with_the_package():
    assert {f"sample/{name}" for name in NAMES} == {*MODELS} == {*SAMPLES} - {"sample/dataset"}


@pytest.mark.parametrize("name", MODELS)
def test_models_say_who_they_are_and_what_they_are_worth(name):
    model = lattok.load(name)
    assert (model.source, model.describe()["model"], model.license) == (name, name, "apache-2.0")
    assert model.trained_on["dataset"] == "metaworld_sample"
    assert model.evaluation["figures"]
    card = (ASSETS / SAMPLES[name] / "README.md").read_text()
    assert f'lattok.load("{name}")' in card
    assert f"import lattok  # {INSTALL}\n" in card  # scripts/make_sample_models.py --cards writes them again
    assert model.own_card is None


def test_a_folder_of_the_same_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lattok.load("sample/tokenizer").save_pretrained(tmp_path / "sample" / "lam")
    assert lattok.load("sample/lam").type == "residual-vq"


@pytest.mark.slow
def test_the_script_makes_such_models(tmp_path):
    names = [*STEPS, "bins"]  # of those that are fitted, one
    made = make(tmp_path, names, quick=True)
    assert {name: model.type for name, model in made.items()} == {
        name: lattok.load(f"sample/{name}").type for name in names
    }
