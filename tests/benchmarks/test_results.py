"""Every stored result names a commit of this repository, which holds the code that made it, or is known not to."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks import common
from docs import result_pages
from docs.result_pages import AGAIN, EARLIER, FOLDERS, MOVED, commits, makers, results

ROOT = result_pages.ROOT
STORED = sorted(path.relative_to(at).with_suffix("").as_posix() for at in FOLDERS for path in at.rglob("*.json"))
BEFORE = {"studies/shuffle.py": "benchmarks/quality/shuffle.py"}  # others were in closed_loop/
SUMS = {"closed_loop", "out_of_domain", "few_actions", "acting_by_tokens", "acting_by_tokens_again"}  # of other results


def git(*arguments: str, root: Path = ROOT, given: str | None = None) -> str:
    run = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, input=given, timeout=60)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


@pytest.fixture(scope="module")
def history() -> list[str]:
    """All commits that HEAD consists of."""
    if not (ROOT / ".git").exists():
        pytest.skip("no repository here: the history is not part of a source package")
    if git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("a shallow clone has no history: git fetch --unshallow")
    return git("rev-list", "HEAD").split()


def entries() -> dict[tuple[str, str], str]:
    """Every result and commit that it names, but the known exceptions, with the script that makes it."""
    found = {}
    for name in STORED:
        folder = Path(name).parent.name  # of a study that keeps each cell
        path = ROOT / "studies/cell.py" if folder in SUMS else makers()[folder or name][0]
        for commit, _ in commits(results(name)):
            if commit not in AGAIN.get(name, {}):
                found[name, commit] = path.relative_to(ROOT).as_posix()
    return found


def test_every_result_names_a_commit_without_changes():
    named = {name for name in STORED if list(commits(results(name)))}
    assert named | SUMS == set(STORED)
    assert [entry for entry in entries() if entry[1].endswith("+")] == []


def test_no_result_holds_paths_of_a_machine():
    path = re.compile(r"(?<![\w.:/])(?:/[\w.-]+){4,}")  # longer than the disks that kill_annotation.py makes
    held = {name: path.findall(json.dumps(results(name))) for name in STORED}
    assert {name: paths for name, paths in held.items() if paths} == {}


def test_every_commit_of_a_result_is_here_and_has_the_script(history):
    unknown = [entry for entry in entries() if not any(full.startswith(entry[1]) for full in history)]
    assert unknown == []
    scripts = entries()
    wanted = [f"{commit}:{script}" for (_, commit), script in scripts.items()]
    earlier = [f"{commit}:{before(script)}" for (_, commit), script in scripts.items()]
    said = git("cat-file", "--batch-check", given="\n".join([*wanted, *earlier])).splitlines()
    there = [not line.endswith("missing") for line in said]
    now, then = there[: len(wanted)], there[len(wanted) :]
    assert [name for name, one, two in zip(wanted, now, then, strict=True) if not (one or two)] == []
    assert len(wanted) > 150


def before(script: str) -> str:
    """Return where a script of studies/ was when most of its results were made."""
    return BEFORE.get(script, script.replace("studies/", "benchmarks/closed_loop/"))


def test_the_list_of_results_to_be_run_again_only_shrinks():
    """What has been run again is no exception any more."""
    named = {(name, commit) for name in STORED for commit, _ in commits(results(name))}
    assert {(name, commit) for name, known in AGAIN.items() for commit in known} <= named
    page = result_pages.every_result()
    assert page.count("**To be run again**") == sum(map(len, AGAIN.values()))
    assert "**To be run again** (lapa-laq): commit 2625d5d was rewritten before it was published." in page


def test_results_of_training_before_todays_code_say_so(history):
    """Of every study of quality: if one of its commits lacks a change that moves weights, and only then."""
    since = {change: set(git("rev-list", "--ancestry-path", f"{change}..HEAD").split()) for change in MOVED}
    full = {commit: next((h for h in history if h.startswith(commit)), commit) for _, commit in entries()}
    quality = ("quality", "recipes")
    studies = {name for name in STORED if "/" not in name and makers()[name][0].parent.name in quality}
    older = {
        name for name, commit in entries() if name in studies and any(full[commit] not in s for s in since.values())
    }
    assert older <= set(EARLIER)
    assert set(EARLIER) <= studies
    assert all(name in older or name in AGAIN for name in EARLIER)
    assert result_pages.every_result().count("Trained by earlier code") == len(EARLIER)


def test_a_study_says_before_it_begins_that_it_names_no_commit(tmp_path):
    """Changed or new code counts, results do not: a study that writes them one by one still names its commit."""
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    for name in ("code.py", "results/a.json"):
        (tmp_path / "benchmarks" / name).write_text("1\n")
    for command in (["init", "-q"], ["add", "."], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m"]):
        git(*command, root=tmp_path)
    head = git("rev-parse", "--short", "HEAD", root=tmp_path)
    for name in ("results/a.json", "results/b.json"):
        (tmp_path / "benchmarks" / name).write_text("2\n")
    (tmp_path / "notes.md").write_text("what is to be done")
    assert common.commit_of(tmp_path) == head
    assert common.unnamed(head) == ""
    (tmp_path / "benchmarks/code.py").write_text("2\n")
    assert common.commit_of(tmp_path) == f"{head}+"
    assert f"code that is not in {head}: " in common.unnamed(f"{head}+")
    git("checkout", "-q", "benchmarks/code.py", root=tmp_path)
    (tmp_path / "benchmarks/new.py").write_text("3\n")
    assert common.commit_of(tmp_path) == f"{head}+"
    outside = tmp_path / "outside"
    assert common.commit_of(outside) == ""
    assert "is of no commit" in common.unnamed("")


def test_a_result_is_of_the_commit_that_its_process_began_with(monkeypatch):
    monkeypatch.setattr(common, "commit_of", lambda root: "later")
    assert common.environment()["commit"] == common.COMMIT
    assert json.dumps(common.environment())
