"""The documentation site: what is generated says all that its source says, and what is typed is there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

import lattok
from docs import convention_page, doctor_page, model_pages, reference_pages, result_pages
from lattok import cli
from lattok.cli import VERBS, main
from lattok.evaluation.evidence import probes
from lattok.hub import FAMILIES
from lattok.hub.checkpoint import IMPORTERS
from lattok.hub.client import ASSETS
from lattok.recipes import kinds, recipe_of
from lattok.utils.options import options_of
from tests.conftest import write_dataset
from tests.image_lam.published.parity import open_case
from tests.recipes.test_howto import BLOCK, PUBLISHED, ROOT

PAGES = sorted((*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"))
MADE = {"reference", "notebooks", "studies", "changelog.md"}  # by the build


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


def test_every_bundled_model_stands_beside_its_best_control():
    page = model_pages.on_page_markdown((ROOT / "docs/models.md").read_text(encoding="utf-8"))
    for folder in model_pages.BUNDLED.iterdir():
        assert f"| `sample/{folder.name}` |" in page
    figures = json.loads((model_pages.BUNDLED / "idm/evaluation.json").read_text(encoding="utf-8"))["figures"]
    best = max(value for name, value in figures.items() if re.fullmatch(r"r2_actions/(?!model)\w+", name))
    assert f"| R² of actions | {figures['r2_actions/model']:.2f} | {best:.2f}, " in page


def test_the_reference_leaves_nothing_out():
    pages = reference_pages.pages()
    for name, verb in VERBS.items():
        assert f"\n## {name}\n" in pages["commands"]
        below = verb.names() if isinstance(verb, cli.Group) else ()
        assert all(f"# {name} {kind}\n" in (pages.get(f"{name}-{kind}") or pages[f"commands-{name}"]) for kind in below)
    for kind in kinds():
        recipe = recipe_of(kind)
        for option in recipe.from_preset("d", "o").options():
            assert f"`--{option.rstrip('_').replace('_', '-')}`" in pages[f"train-{kind}"], option
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


def table_faults(text: str) -> list[str]:
    """Lines of tables that no renderer takes for a table: a rule amid a line, or rows that differ in cells."""
    faults, cells = [], 0
    for line in BLOCK.sub("", text).splitlines():
        bare = re.sub(r"`[^`]*`|\\\|", "", line)
        if re.search(r"\|\s*:?-{3,}:?\s*\|", bare) and not re.fullmatch(r"\|(\s*:?-{3,}:?\s*\|)+", bare.strip()):
            faults.append(line)
        if bare.startswith("|"):
            cells = cells or bare.count("|")
            faults += [line] * (bare.count("|") != cells)
        else:
            cells = 0
    return faults


def test_tables_are_tables():
    """A tool that wraps lines once made paragraphs of the tables of seventeen pages."""
    assert table_faults("| a | b | |---|---| | 1 | 2 |")
    assert table_faults("| a | b |\n|---|---|\n| 1 | 2 | 3 |")
    assert not table_faults("| a | b |\n|---|---|\n| `x \\| y` | 2 |")
    tracked = sorted(path for place in ("docs", "studies", "benchmarks") for path in (ROOT / place).rglob("*.md"))
    pages = [*tracked, *ROOT.glob("*.md"), *ASSETS.rglob("*.md")]
    faults = {str(page.relative_to(ROOT)): table_faults(page.read_text("utf-8")) for page in pages}
    assert {page: found for page, found in faults.items() if found} == {}


def test_what_is_typed_comes_first():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 500
    for page in (ROOT / "docs/howto").glob("*.md"):
        _, first, *_ = page.read_text(encoding="utf-8").split("\n\n")
        assert first.startswith(("```", "<!-- ")), page.name


def test_no_link_is_dead():
    """Headings included; pages that the build generates are checked there."""
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    for hook in (result_pages, model_pages, doctor_page, convention_page):
        texts = {page: hook.on_page_markdown(text) for page, text in texts.items()}
    found = 0
    for page, text in texts.items():
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", prose):
            path, _, anchor = link.partition("#")
            target = Path(os.path.normpath(page.parent / path)) if path else page
            if target.suffix != ".md" or MADE & set(target.parts):
                continue
            assert target.is_file(), (page, link)
            found += 1
            assert not anchor or anchor in anchors(texts.get(target) or target.read_text(encoding="utf-8")), (
                page,
                link,
            )
    assert found > 100


def anchors(text: str) -> set[str]:
    """Return the ids of a page's headings, as Python-Markdown makes them, and those that it sets itself."""
    ascii_only = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    prose = re.sub(r"```.*?```", "", ascii_only, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+?)(?: \{.*\})?$", prose, re.MULTILINE)
    slugs = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", each).strip().lower()) for each in headings}
    return slugs | set(re.findall(r"\{[^}]*#([\w-]+)[^}]*\}", text)) | set(re.findall(r'id="([\w-]+)"', text))


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
