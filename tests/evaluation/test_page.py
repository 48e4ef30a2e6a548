"""Tables mark the controls that win, pictures survive odd numbers; a report replaces its like and nothing else."""

import json
import math
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html import unescape

import pytest
import torch

import lattok
from lattok.action_vq import UniformBins
from lattok.cli import main
from lattok.evaluation.evidence.tokenizer_evidence import TokenizerEvidence
from lattok.evaluation.page import render, svg
from lattok.evaluation.report import Criterion, Report, Section, Table, TableRow, Verdict
from lattok.recipes import recipe_for
from tests.conftest import write_dataset
from tests.errors import refused
from tests.evaluation.worlds import World, answer_of, tiny_lam


def page(table: Table) -> str:
    section = Section("Section", "Text with <angle> & ampersand.", (table,))
    verdicts = (Verdict("v", None, Criterion("k")),)
    return render(Report("image-lam", "T", "H", verdicts, {}, (section,), {"n": None, "d": {"a": [1, 2]}}))


@pytest.mark.parametrize(("better", "winner"), [("lower", "low"), ("higher", "high"), ("", None)])
def test_a_control_that_wins_is_marked(better: str, winner: str | None):
    rows = (
        TableRow("model", "model", (1.0,), control=False),
        TableRow("low", "low", (0.5,)),
        TableRow("high", "high", (2.0,)),
        TableRow("ceiling", "ceiling", (0.1 if better == "lower" else 9.0,), reference=True),
        TableRow("absent", "absent", not_run="not run: --controls trained"),
    )
    table = Table("Table", ("value",), rows, better=better)
    assert table.as_dict()["controls_that_win"] == ([winner] if winner else [])
    assert page(table).count("control wins</span>") == (1 if winner else 0)
    assert "not run: --controls trained" in page(table)


def test_text_is_escaped():
    html = page(Table("<b>", ("c",), (TableRow("m", "a&b", (math.pi,), control=False),)))
    assert "&lt;angle&gt; &amp; ampersand" in html
    assert "<b>" not in html.replace("<body>", "").split("<body>")[-1]


@pytest.mark.parametrize(
    "picture",
    [
        svg.bars(
            "t", [("a", "model", 1.0), ("b", "control", -5.0), ("c", "control", None), ("d", "m", math.nan)], ".2f"
        ),
        svg.bars("t", [("a", "model", 0.0)], ".2f"),
        svg.plot("t", [("truth", [1.0, 1.0, 1.0])]),
        svg.plot("t", [("truth", [1.0])]),
    ],
)
def test_pictures_are_whole_even_for_odd_numbers(picture: str):
    root = ElementTree.fromstring(picture)
    assert root.tag == "svg"
    assert "nan" not in picture.replace("not run", "")
    assert "inf" not in picture


def test_bars_that_are_all_below_zero_are_as_long_as_their_values():
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="20"', svg.bars("t", LOW, ".2f"))]
    assert widths[0] == pytest.approx(widths[1] / 50, rel=0.1)


LOW = [("a", "model", -0.1), ("b", "control", -5.0)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 0.1), (1e-9, 2e-9), (5, 5), (0, 0), (-1e6, 1e6)])
def test_ticks_are_at_least_two_and_rise(low: float, high: float):
    found = svg.ticks(low, high)
    assert len(found) >= 2
    assert found == sorted(set(found))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two datasets and a tokenizer of each."""
    root = tmp_path_factory.mktemp("world")
    for name in "ab":
        write_dataset(root / name, [14, 15, 13] if name == "a" else [12, 11, 16], ("lift",), cameras=False)
        lattok.train(recipe_for(UniformBins).from_preset(root / name, root / f"tok-{name}", horizon=2))
    return root


@pytest.fixture
def own(world, tmp_path):
    return shutil.copytree(world / "tok-a", tmp_path / "tok-a")


def _judge(world, out, model="tok-a", data="a", **options):
    return lattok.evaluate(lattok.load(world / model), lattok.open_dataset(world / data), out=out, **options)


def _about(out):
    provenance = json.loads((out / "report.json").read_text())["provenance"]
    return provenance["model"]["weights_sha256"], provenance["dataset"]["name"]


def test_a_report_on_the_same_is_replaced(world, tmp_path):
    _judge(world, tmp_path / "report", seed=1)
    (tmp_path / "report/report.html").unlink()  # as after a kill between the two
    _judge(world, tmp_path / "report", seed=2)
    _judge(world, tmp_path / "report", seed=3)
    assert json.loads((tmp_path / "report/report.json").read_text())["provenance"]["options"]["seed"] == 3
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"report.json", "report.html"}


def test_nothing_is_put_into_a_folder_that_holds_something_else(world, own, capsys):
    held = sorted(own.rglob("*"))
    said = f"`out`: expected a new or empty folder, got {own}, which holds something. Choose another folder."
    for judge in (_judge, lambda _, out: lattok.compare(world / "a", [world / "tok-a"], out=out)):
        refused(re.escape(said), judge, world, own)
    assert main(["evaluate", str(world / "tok-a"), str(world / "a"), "--out", str(own)]) == 2
    assert said in capsys.readouterr().err
    assert sorted(own.rglob("*")) == held


def test_a_report_in_place_of_the_last_one_is_said_to_be(world, own, capsys):
    assert main(["evaluate", str(own), str(world / "a")]) == 0
    assert main(["evaluate", str(own), str(world / "a")]) == 0
    lines = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines() if line.startswith("Report")]
    assert lines == ["Report", "Report, in place of the last one"]


@pytest.mark.parametrize(("model", "data"), [("tok-b", "a"), ("tok-a", "b")])
def test_a_report_on_something_else_stays_unless_asked(model, data, world, tmp_path):
    _judge(world, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refused("`out`", _judge, world, tmp_path, model, data)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / "report.json").unlink()
    refused("another model or dataset. Choose another folder, or remove that", _judge, world, tmp_path, model, data)
    _judge(world, tmp_path, model, data, overwrite=True)
    assert _about(tmp_path)[1] == data


THEIRS = {
    "report.json": [
        "",
        "mine",
        "[]",
        "{}",
        '{"schema": 2, "kind": "x", "provenance": {}}',
        '{"provenance": {"model": 1}}',
    ],
    "report.html": ["", "<html><head></head>mine</html>"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in THEIRS.items() for text in texts])
def test_files_of_somebody_else_stay_even_in_the_models_own_folder(name, text, world, own, capsys):
    (own / "report").mkdir()
    (own / "report" / name).write_text(text)
    (own / "report" / f"{name}.tmp").write_text("thesis")
    refused(f"`out`: .*{name} is not a report of lattok's", _judge, world, own / "report", overwrite=True)
    assert main(["evaluate", str(own), str(world / "a")]) == 2
    assert f"{name} is not a report of lattok's" in capsys.readouterr().err
    assert (own / "report" / name).read_text() == text
    assert (own / "report" / f"{name}.tmp").read_text() == "thesis"


@pytest.mark.parametrize("name", THEIRS)
def test_a_pipe_that_has_the_name_of_a_report_is_not_waited_for(name, world, tmp_path):
    os.mkfifo(tmp_path / name)
    refused(f"`out`: .*{name} is not a report of lattok's", _judge, world, tmp_path, overwrite=True)


def test_the_report_in_a_models_folder_is_its_last_one(world, own, capsys):
    for data in ("a", "b"):
        assert main(["evaluate", str(own), str(world / data)]) == 0
        assert _about(own / "report")[1] == data
    before = _about(own / "report")[0]
    for path in (world / "tok-b").iterdir():  # trained again, in the same place
        if path.is_file():
            shutil.copy(path, own)
    assert main(["evaluate", str(own), str(world / "b"), "--out", str(own / "report")]) == 0
    assert _about(own / "report")[0] != before
    assert main(["evaluate", str(own), str(world / "b"), "--out", str(own.parent / "elsewhere")]) == 0
    assert main(["evaluate", str(world / "tok-a"), str(world / "b"), "--out", str(own.parent / "elsewhere")]) == 2
    assert "holds the report of another" in capsys.readouterr().err


def unfolded(html: str) -> str:
    """What is read of a page before anything is opened: no bodies of folded parts, no pictures."""
    body = re.sub(r"<svg.*?</svg>", "", html.split("<main>")[1].split("</main>")[0], flags=re.S)
    shown, folded, summary = [], [], False  # `folded`: whether each part around this place is
    for part in re.split(r"(<[^>]*>)", body):
        folded += [" open" not in part] if part.startswith("<details") else []
        folded = folded[:-1] if part == "</details>" else folded
        summary = part == "<summary>" if part in ("<summary>", "</summary>") else summary
        if not any(folded[:-1] if summary else folded):
            shown.append(" " if part.startswith("<") else part)
    return " ".join("".join(shown).split())


@pytest.mark.ci
@pytest.mark.usefixtures("short_mlps")
def test_a_page_says_what_counts_in_1500_words_and_folds_the_rest():
    """Answer, chart and film strip, what to do, what falls short; in words of somebody who has met no control."""
    report = lattok.evaluate("sample/lam", "sample/dataset", episodes=[4, 9], max_episodes=4)
    html = render(report)
    words = unfolded(html)
    assert 200 < len(words.split()) <= 1500
    assert len(unescape(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", html, flags=re.S)).split()) > 3 * len(words.split())
    order = ["Is this model good", "R² is the share", "What to do next", "A held-out episode", "Verdicts", "Details"]
    places = [words.index(text) for text in order]
    assert places == sorted(places)
    for verdict in report.verdicts:
        assert (unescape(words).count(verdict.text) > 0) == (verdict.holds is not True), verdict.text
    assert not re.search(r"PCA|k-means|residual|probe", unescape(report.opening))
    assert all(str(command) in unescape(words) for step in report.steps for command in step.commands)


def test_what_never_changes_is_not_judged():
    """Latents, actions and video of one value: there is nothing that a model could keep, lose or beat."""
    still = World(episodes=6, length=24, black=True)
    still.actions[:], still.video[:] = 0, 0
    with torch.no_grad():
        model = tiny_lam()
    report = lattok.evaluate(model, still, episodes=[4, 5])
    told = {"codes_in_use", "transfers", "action_under_distractors"}
    assert all(verdict.holds is None for verdict in report.verdicts if verdict.key in told), report.verdicts
    assert answer_of(report).holds is None


def test_what_to_do_next_with_a_good_tokenizer_runs_as_it_stands(world, tmp_path):
    (step,) = TokenizerEvidence.use.commands
    places = {"DATASET": world / "a", "MODEL": world / "tok-a", "labelled": tmp_path / "labelled"}
    found = step.filled({name: str(path) for name, path in places.items()})
    assert main([found.verb, *found.words]) == 0
    assert (tmp_path / "labelled").is_dir()
