"""Model cards: the Hub's own classes read their facts, and their code runs as it stands."""

import math
import re

import pytest
from huggingface_hub import ModelCard

from docs.model_pages import SYSTEMS
from lattok.hub import HubModel
from lattok.hub.model import FAMILIES
from tests.errors import refused
from tests.fuzz_artefacts import small_models

FIGURES = {"error": 0.25, "error/kmeans": 0.5, "bits": 64, "note": "text", "odd": math.inf, 'a: "b"': 1e-7}
FIGURES |= {"r2/codes": 0.5, "r2_low/codes": 0.4}  # of the codes of a latent action model


@pytest.fixture(scope="module")
def models() -> dict[str, HubModel]:
    return small_models(4)


def facts(text: str) -> dict:
    return ModelCard(text).data.to_dict()


def test_facts_are_those_that_the_hub_lists(models):
    model = models["fsq"]
    model.trained_on = {"mixture": [{"dataset": "org/one", "episodes": []}, {"dataset": "mine", "episodes": []}]}
    model.evaluation = {"headline": "Good.", "dataset": "my: data", "figures": FIGURES}
    model.license = "apache-2.0"
    known = facts(model.card("name: x"))
    (result,) = known["model-index"][0]["results"]
    assert known["model-index"][0]["name"] == "name: x"
    assert result["dataset"] == {"type": "my: data", "name": "my: data"}
    numbers = {"error": 0.25, "bits": 64, 'a: "b"': 1e-7, "r2": 0.5}
    assert {one["type"]: one["value"] for one in result["metrics"]} == numbers
    assert known["metrics"] == list(numbers)
    assert (known["library_name"], known["license"], known["datasets"]) == ("lattok", "apache-2.0", ["org/one"])
    assert {"latent-action-model", "lattok", "robotics", "fsq", "arxiv:2309.15505"} <= set(known["tags"])


def test_the_hub_links_a_model_to_the_paper_that_it_comes_from(models):
    """By the tag that the Hub knows; the papers are those of the importers."""
    tags = {name: [tag for tag in facts(model.card("x"))["tags"] if ":" in tag] for name, model in models.items()}
    assert tags["policy"] == tags["action-vq"] == ["arxiv:2605.04678"]
    assert tags["uniform-bins"] == []
    named = {number for each in SYSTEMS.values() for number in re.findall(r"abs/(\d{4}\.\d{5})", each["paper"])}
    versions = {"2505.06111", "2606.07100"}  # UniVLA and LARA: the families of P2T and of Moto read them
    assert named - versions <= {getattr(family, "arxiv", "") for family in FAMILIES.values()}


def test_a_card_without_figures_claims_no_results(models):
    model = models["uniform-bins"]
    model.evaluation = None
    assert "model-index" not in facts(model.card("x"))
    model.evaluation = {"headline": "Nothing in numbers.", "figures": {"note": "text"}}
    assert "model-index" not in facts(model.card("x"))


def test_the_code_of_every_card_runs(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, model in models.items():
        model.save_pretrained(name)
        code = (tmp_path / name / "README.md").read_text().split("```python\n")[1].split("```")[0]
        exec(code, {})
        assert f'lattok.load("{name}")' in code


def test_a_picture_goes_with_its_evaluation(models, tmp_path):
    model = models["fsq"]
    model.evaluation, model.picture = {"headline": "Good.", "figures": {}}, "<svg/>"
    again = type(model).from_pretrained(model.save_pretrained(tmp_path))
    assert again.picture == "<svg/>"
    assert "](evaluation.svg)" in again.card("x")
    again.evaluation = None
    again.save_card(tmp_path)
    assert not (tmp_path / "evaluation.svg").exists()
    assert "](evaluation.svg)" not in (tmp_path / "README.md").read_text()


def test_a_huge_picture_is_left_where_it_is(models, tmp_path):
    folder = models["fsq"].save_pretrained(tmp_path)
    (folder / "evaluation.svg").write_bytes(b" " * (2 << 20))
    assert type(models["fsq"]).from_pretrained(folder).picture is None
    (folder / "evaluation.json").write_text('{"dataset": 3}')
    refused("`dataset` in `.*evaluation.json", lambda: type(models["fsq"]).from_pretrained(folder))
