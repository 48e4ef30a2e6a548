"""The documentation site: what is generated says all that its source says, and what is typed is there."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import lattok
from docs import copied_pages, doctor_page, drawings, model_pages, reference_pages, result_pages
from lattok import cli
from lattok.cli import VERBS, doctor, main
from lattok.evaluation.evidence import probes
from lattok.hub import FAMILIES
from lattok.hub.checkpoint import IMPORTERS
from lattok.hub.client import ASSETS
from lattok.recipes import kinds, recipe_of
from lattok.utils.findings import Finding
from lattok.utils.options import options_of
from lattok.vla import STRATEGIES
from tests.conftest import write_dataset
from tests.image_lam.published.parity import open_case
from tests.process_jobs import afresh
from tests.recipes.test_howto import BLOCK, PUBLISHED, ROOT

PAGES = sorted((*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"))
MARKS = re.compile(r"^<!-- (?:drawing: ([\w-]+)|([a-z ]+)) -->$", re.MULTILINE)
KNOWN = {
    "first",
    "main-job",
    "tests",
    "supervise",
    "lara",
    "latbot",
    "hub library",
    "hub snippet",
}  # markers of blocks that tests run


def texts(drawing: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(drawing).iter() if node.tag.endswith("text")]


def test_every_mark_has_somebody_who_writes_there():
    known = {*result_pages.MARKS, *KNOWN, "every strategy", "every finding", "every verdict", "families", "systems"}
    for page in PAGES:
        for drawing, mark in MARKS.findall(page.read_text(encoding="utf-8")):
            assert drawing in ("", *drawings.DRAWINGS, *STRATEGIES), page
            assert mark in ("", *known), (page, mark)


def test_what_the_doctor_says_is_on_the_page(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor, "LOW_DISK_GB", 1e9)
    monkeypatch.setattr(doctor, "LOW_MEMORY_GB", 1e9)
    monkeypatch.setattr("torch.get_num_threads", lambda: 10_000)
    monkeypatch.setitem(doctor.CODECS, "h264", (("no such encoder",), "mp4"))
    probes = (doctor.hub_variables, doctor.disks, doctor.processors, doctor.media)
    said = [found for probe in probes for found in probe() if isinstance(found, Finding)]
    monkeypatch.setattr(doctor, "installed", lambda names: {"mujoco": "3.3.0"})
    said += [found for probe in (doctor.simulation, doctor.versions) for found in probe() if len(found) == 3]
    page = doctor_page.findings()
    assert len(said) > 6
    shown = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines()]
    known = [re.compile(".*".join(map(re.escape, text.split("…")))) for text in shown]
    for finding in said:
        assert any(pattern.fullmatch(finding.what) for pattern in known), finding.what
        assert finding.advice.split(" (")[0].split("=")[0] in page, finding.advice


def test_every_finding_of_the_code_is_on_the_page():
    """What is found stands in a table that the page knows; what is no more than the text of an error need not."""
    listed = {Path(module.__file__) for module in doctor_page.TABLES.values()}
    for path in Path(lattok.__file__).parent.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        names = [(ast.unparse(call.func), call) for call in calls]
        assert path in listed or not [call for name, call in names if name == "Problem"], path
        texts = [call.args[1] for name, call in names if name == "Finding" and path.name != "findings.py"]
        assert not [text for text in texts if isinstance(text, ast.Constant | ast.JoinedStr)], path


def test_every_importer_is_on_the_page_of_models():
    page = model_pages.on_page_markdown((ROOT / "docs/models.md").read_text(encoding="utf-8"))
    assert set(model_pages.SYSTEMS) == set(IMPORTERS)
    assert "lattok convert p2t-image-lam last.ckpt my-lam --stride 11" in page  # its file, not UniVLA's
    for kind in IMPORTERS:
        assert page.count(f"{{ #{kind} }}") == 1
        assert f"lattok convert {kind} " in page
    for name in FAMILIES:
        assert f"| `{name}` |" in page
    linked = re.findall(r"^\| `[a-z0-9-]+` \| \[`(\w+)`\]\[lattok\.([\w.]+)\.\1\]", page, re.MULTILINE)
    assert len(linked) == sum(FAMILIES[name].__module__.startswith("lattok.") for name in FAMILIES)
    assert not [each for each in linked if each[1] not in reference_pages.PUBLIC]
    assert model_pages.sizes("lapa-laq") == ("pixels, 256", "4 codes of 8")
    assert model_pages.sizes("adaworld-lam")[1] == "a latent of 32 numbers, no codes"


def test_the_reference_leaves_nothing_out():
    pages = reference_pages.pages()
    for name, verb in VERBS.items():
        assert f"\n## {name}\n" in pages["commands"]
        below = verb.names() if isinstance(verb, cli.Group) else ()
        assert all(f"# {name} {kind}\n" in pages.get(f"{name}-{kind}", pages["commands-convert"]) for kind in below)
    for kind in kinds():
        recipe = recipe_of(kind)
        for option in recipe.from_preset("d", "o").options():
            assert f"`--{option.replace('_', '-')}`" in pages[f"train-{kind}"], option
        for preset, options in recipe.presets.items():
            assert f"`{preset}`" in pages["presets"]
            assert all(f"| `{option}` |" in pages["presets"] for option in options)
    for name in FAMILIES:
        owner = FAMILIES[name].config_class
        part = pages["configurations"].partition(f"### {owner.__name__}\n")[2].partition("\n### ")[0]
        assert all(re.search(rf"^\| [`*]{option.name}[`*] \|", part, re.MULTILINE) for option in options_of(owner)), (
            name
        )
    assert "| `--cameras` | `NAME ...` |" in pages["commands"]
    assert "[vla](train-vla.md)" in pages["commands"]
    for name in lattok.__all__:
        assert name in ("__version__", "convert") or f"| [`lattok.{name}`][lattok." in pages["lattok"], name
    assert "::: lattok.evaluation.evaluate.evaluate" in pages["evaluation"]  # not hidden by the module of that name
    assert "LatentVLA" in pages["vla"]
    assert "lapa_laq" in pages["convert"]


def test_notebooks_are_pages_with_their_pictures():
    for path in sorted((ROOT / "examples/notebooks").glob("*.ipynb")):
        text, pictures = copied_pages.notebook(path)
        assert text.startswith("# ")
        assert not re.search(r"\\[a-z]{3}|\$", re.sub(r"```.*?```", "", text, flags=re.DOTALL)), path  # no LaTeX
        assert pictures
        assert all(f"]({name})" in text and picture.startswith(b"\x89PNG") for name, picture in pictures.items())
        assert f"notebooks/{path.stem}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_no_page_is_too_long():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 800
    for page in PAGES:
        assert len(page.read_text(encoding="utf-8").split()) <= 4000, page


def test_every_result_is_on_the_page_of_benchmarks():
    page = result_pages.every_result()
    for path in (ROOT / "benchmarks/results").glob("*.json"):
        assert f"(results/{path.name})" in page
    commands = [line for line in page.splitlines() if line.startswith("python -m benchmarks")]
    for command in commands:
        assert (ROOT / Path(*command.split()[2].split(".")).with_suffix(".py")).is_file()
    assert len(commands) > 15
    best = json.loads((ROOT / "benchmarks/results/tokenizers.json").read_text())["rows"]["residual VQ, 8 tokens"]
    assert f"{best['test']['mse_normalised']['mean']:.4f}" in result_pages.tokenizers()
    assert re.search(r"Of \d+ comparisons with the Baseline \d+ come out better", result_pages.closed_loop())


def commands(page: Path) -> list[str]:
    blocks = [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == "bash"]
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip().startswith("lattok ")]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.stem)
def test_every_command_of_every_page_is_one(page, monkeypatch, capsys, tmp_path):
    """They parse, with the flags and values that they have: what they do is tested elsewhere."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"DATASET": "data", "TASK": "task", "MODEL": "model", "OUT": "out"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli.flags, "call", lambda run, values: None)
    for line in commands(page):
        line = re.sub(r"\$\(\(.*?\)\)", "0", line.partition(" | ")[0].partition(" && ")[0])  # the shell's arithmetic
        words = shlex.split(os.path.expandvars(line), comments=True)[1:]
        assert main(words) == 0, (line, capsys.readouterr().err)


def test_python_blocks_use_nothing_that_is_not_there(tmp_path):
    """No names that a page does not define, but in blocks that a comment marks: their tests define them."""
    for page in PAGES:
        text = re.sub(r"<!-- [\w-]+ -->\n```python\n.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        code = "\n".join(block for kind, block in BLOCK.findall(text) if kind == "python")
        for name in re.findall(r"\blattok\.(\w+)", re.sub(r"(from|import) lattok\.\S+", "", code)):
            assert hasattr(lattok, name), (page, name)
        (tmp_path / f"{page.stem}.py").write_text(code, encoding="utf-8")
    words = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "--output-format", "concise"]
    found = subprocess.run([*words, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stdout + found.stderr


def test_blocks_of_the_first_page_and_of_fast_run_as_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (first,) = (text for kind, text in BLOCK.findall((ROOT / "docs/index.md").read_text()) if kind == "python")
    exec(first, {})
    assert "[" in capsys.readouterr().out
    _, *rest = (text for kind, text in BLOCK.findall((ROOT / "docs/migrate/fast.md").read_text()) if kind == "python")
    names: dict[str, object] = {}
    for block in rest:  # the first one downloads
        exec(block, names)
    assert names["actions"].shape == (2, 10, 4)
    assert (tmp_path / "my-fast/processor_config.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["index", "troubleshooting"])
def test_a_shell_runs_the_page_as_typed(page, tmp_path):
    """Literally, with the dataset and the models that come with the package; only lattok is there already."""
    blocks = [text for kind, text in BLOCK.findall((ROOT / f"docs/{page}.md").read_text()) if kind == "bash"]
    blocks = [text.replace("python -m venv .venv && . .venv/bin/activate\n", "") for text in blocks]
    stand_ins = f'pip() {{ :; }}\nlattok() {{ {shlex.quote(sys.executable)} -m lattok "$@"; }}\n'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", stand_ins + "\n".join(blocks)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert page != "index" or (tmp_path / "first-labels.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["univla", "lapa", "moto"])
def test_who_comes_from_elsewhere_can_type_what_stands_there(page, tmp_path, monkeypatch, capsys):
    """On a small dataset, with small files of the published names and random weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probes, "STEPS", 5)
    write_dataset(tmp_path / "data", [24, 26, 25, 27])
    parity = ROOT / "tests/parity"
    shutil.copy(parity / "univla_stage2/checkpoint.ckpt", "lam-stage-2.ckpt")
    shutil.copy(open_case("lapa_laq_a").folder / "weights.pt", "laq_openx.pt")
    shutil.copytree(parity / "lara_lam_a", "latent_motion_tokenizer")
    Path("latent_motion_tokenizer/weights.safetensors").rename("latent_motion_tokenizer/model.safetensors")
    names = {"DATASET": "data", "image": "front", "32": "2", "15": "2", "1s": "2"}
    few = ["--steps", "2", "--batch-size", "4", "--device", "cpu", "--log-every", "1"]
    small = ["--backbone-width", "16", "--backbone-depth", "2", "--head-dim", "16", "--cameras", "front"]
    for line in commands(ROOT / f"docs/migrate/{page}.md"):
        words = [names.get(word, word) for word in shlex.split(line)[1:]]
        words += PUBLISHED if words[1] == "univla-lam" else []
        words += few if words[0] == "train" else []
        if words[1] == "lara":
            size = json.loads(Path("moto/config.json").read_text())["image_size"]
            words += ["--backbone", "scratch", *small, "--image-size", str(size), "--interpolation", "bicubic"]
        if words[0] == "compare":
            shutil.copytree("lapa", "my-lam")
            words += ["--cameras", "front"]
        assert main(words) == 0, (line, capsys.readouterr().err)


def test_the_site_needs_no_extra_but_its_own(tmp_path):
    """The workflow that publishes it installs `docs` alone: nothing of other extras may be imported."""
    absent = ("gymnasium", "mujoco", "metaworld", "ogbench", "vla_eval", "h5py", "ray", "lpips")
    code = f"""
import sys
for name in [name for name in sys.modules if name.split(".")[0] in ("docs", *{absent!r})]:
    del sys.modules[name]
sys.modules |= dict.fromkeys({absent!r})
from docs import doctor_page, drawings, model_pages, reference_pages, result_pages
text = reference_pages.pages()["sim"]
assert "SimEnv" in text and "rollout" in text, text
"""
    afresh(code, tmp_path, ROOT)


def test_ci_builds_the_site_by_the_commands_of_its_workflow():
    check = (ROOT / ".ci" / "run").read_text()
    (pattern,) = re.findall(r"^ +(sed -n '[^']*' \.github/workflows/docs\.yml) >", check, re.MULTILINE)
    said = subprocess.run(shlex.split(pattern), cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["pip install -e '.[docs]'", "mkdocs build --strict"]
    steps = (ROOT / ".github/workflows/docs.yml").read_text()
    assert len(re.findall(r"\brun:", steps)) == 2  # none stands where the pattern does not see it


def test_what_the_hub_is_asked_to_show_loads_a_model():
    """The snippet of the Hub's list of libraries, under the name that all cards have."""
    text = (ROOT / "docs/howto/share_a_model.md").read_text(encoding="utf-8")
    entry, snippet = (
        text.split(f"<!-- hub {what} -->\n```ts\n")[1].split("```\n")[0] for what in ("library", "snippet")
    )
    code = snippet.split("`")[1].replace("${model.id}", "sample/lam")
    found: dict = {}
    exec(code, found)
    assert found["model"].type == "image-lam"
    library = re.findall(r"^library_name: (.*)$", (ASSETS / "models/lam/README.md").read_text(), re.MULTILINE)[0]
    assert entry.startswith(f"{library}: {{")
    assert f"snippets.{library}" in entry
    assert snippet.startswith(f"export const {library} = ")
