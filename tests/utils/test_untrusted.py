"""What strangers send: names and links cannot lead elsewhere; values out of JSON have the types they are read as."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from typing_extensions import TypedDict

from lattok.utils import untrusted
from lattok.utils.checks import LattokError
from lattok.utils.untrusted import MOST_LINKS, Rule, copy_again, is_file_name, safe_path, typed, walk
from tests.errors import refused

SAYS = "info.json: `data_path`: expected "


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "x").write_text("ours")
    (tmp_path / "secret").write_text("theirs")
    return folder


def inside(root: Path, name: Any, what: str) -> Path:
    """Do what lattok's does, whose answer does not depend on the folders that are known."""
    found, folders = [], set[str]()
    for known in (None, folders, folders):
        try:
            found.append(untrusted.inside(root, name, what, known))
        except LattokError as error:
            found.append(error)
    assert len({str(each) for each in found}) == 1
    if isinstance(found[0], LattokError):
        raise found[0]
    return found[0]


@pytest.mark.parametrize("name", ["data/x", "data//x", "./data/x", "data/./x", "not/there", "data/..x", "ä ö/…"])
def test_paths_below_the_root(root: Path, name: str):
    assert inside(root, name, "info.json") == root / name


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/passwd", "/dev/zero", "//x", "../secret", "data/../../secret", "data/../x", "data\\..\\..\\secret"),
        *("..", ".", "", "a\0b", "half \ud800", b"data/x", None, 3, ["data/x"]),
    ],
)
def test_names_that_lead_elsewhere_or_nowhere(root: Path, name: object):
    said = refused(None, inside, root, name, "info.json: `data_path`")
    assert said.startswith(SAYS + f"a path below {root}, got ")


def test_a_name_no_file_system_takes(root: Path):
    refused("`data_path`: cannot read .* \\(File name too long\\)", inside, root, "x" * 5000, "info.json: `data_path`")


@pytest.mark.parametrize("target", ["../secret", "..", "/", "/dev/zero", "data/../../secret"])
def test_links_that_lead_out_are_refused(root: Path, target: str):
    (root / "link").symlink_to(target)
    refused(r"`data_path`", inside, root, "link" if target != ".." else "link/secret", "info.json: `data_path`")
    refused("leads to", lambda: list(walk(root, lambda path: False)))


def test_links_that_stay_inside_are_followed(root: Path):
    (root / "link").symlink_to("data")
    (root / "data" / "again").symlink_to(root / "data" / "x")
    assert inside(root, "link/again", "x").read_text() == "ours"
    files = [path.as_posix() for path in walk(root, lambda path: False)]
    assert files == ["data/again", "data/x", "link/again", "link/x"]
    assert [path.as_posix() for path in walk(root, lambda path: False, once=True)] == ["data/again", "data/x"]


def test_the_root_itself_may_be_a_link(root: Path, tmp_path: Path):
    (tmp_path / "name").symlink_to(root)
    assert inside(tmp_path / "name", "data/x", "x").read_text() == "ours"


def test_a_snapshot_of_the_hub_has_its_files_in_the_blobs_of_its_repository(tmp_path: Path):
    """The layout that huggingface_hub keeps; another repository's blobs are not inside."""
    for repository in ("datasets--a--b", "datasets--c--d"):
        (tmp_path / repository / "blobs").mkdir(parents=True)
        (tmp_path / repository / "blobs" / "0a1b").write_text(repository)
    root = tmp_path / "datasets--a--b" / "snapshots" / "6f5e"
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").symlink_to("../../../blobs/0a1b")
    (root / "meta" / "other.json").symlink_to("../../../../datasets--c--d/blobs/0a1b")
    assert inside(root, "meta/info.json", "x").read_text() == "datasets--a--b"
    refused("other.json leads to", inside, root, "meta/other.json", "x")
    (root / "meta" / "other.json").unlink()
    assert list(walk(root, lambda path: False)) == [Path("meta/info.json")]
    assert inside(root / "meta", "info.json", "x").exists()  # a part of a snapshot


def test_newer_clients_store_files_of_several_repositories_once(tmp_path: Path):
    """Blobs are then links into the `blobs` of the cache, which the client has marked as its own."""
    stored, blob = tmp_path / "blobs" / "0a" / "0a1b", tmp_path / "datasets--a--b" / "blobs" / "2c3d"
    root = tmp_path / "datasets--a--b" / "snapshots" / "6f5e"
    for folder in (stored.parent, blob.parent, root):
        folder.mkdir(parents=True)
    stored.write_text("shared")
    blob.symlink_to("../../blobs/0a/0a1b")
    (root / "file").symlink_to("../../blobs/2c3d")
    refused("leads to", inside, root, "file", "x")
    (tmp_path / "blobs" / ".huggingface-shared-blobs").write_text("1\n")
    assert inside(root, "file", "x").read_text() == "shared"


def test_blobs_that_are_a_link_are_no_blobs_of_the_hub(tmp_path: Path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("theirs")
    root = tmp_path / "datasets--a--b" / "snapshots" / "6f5e"
    root.mkdir(parents=True)
    (tmp_path / "datasets--a--b" / "blobs").symlink_to("../private")
    (root / "file").symlink_to("../../blobs/key")
    refused("leads to", inside, root, "file", "x")


def test_folders_that_the_user_names(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "drive").mkdir()
    (tmp_path / "drive" / "a.mp4").write_text("large")
    (root / "videos").symlink_to(tmp_path / "drive")
    refused(r"name the folder that may be read as well: LATTOK_DATA=.*drive", inside, root, "videos/a.mp4", "x")
    monkeypatch.setenv("LATTOK_DATA", os.pathsep.join(["/nowhere", str(tmp_path / "drive")]))
    assert inside(root, "videos/a.mp4", "x").read_text() == "large"
    refused("expected a path below", inside, root, "../drive/a.mp4", "x")  # names still lead downwards


def test_a_folder_whose_name_only_begins_like_the_root_is_outside(root: Path, tmp_path: Path):
    (tmp_path / "dataset-2").mkdir()
    (root / "link").symlink_to("../dataset-2")
    refused("leads to", inside, root, "link", "x")


def test_pipes_and_devices_are_refused(root: Path):
    """Opening a pipe waits for ever."""
    os.mkfifo(root / "pipe")
    refused("expected a plain file, but .*pipe is a device or a pipe", inside, root, "pipe", "x")
    refused("is a device or a pipe", lambda: list(walk(root, lambda path: False)))


def test_a_link_to_itself(root: Path):
    (root / "self").symlink_to("self")
    refused("cannot read .* \\(Too many levels of symbolic links\\)", inside, root, "self", "x")


def test_links_into_their_own_folder_end(root: Path):
    """One such link made a copy fail after minutes, two never ended."""
    for name in ("a", "b"):
        (root / name).symlink_to(".")
        (root / "data" / name).symlink_to("..")
    assert [path.as_posix() for path in walk(root, lambda path: False)] == ["data/x"]


def test_links_that_double_the_tree_at_every_level_are_refused(root: Path):
    for level in range(40):
        (root / f"level{level}").mkdir()
        for name in "ab":
            (root / f"level{level}" / name).symlink_to(f"../level{level + 1}")
    (root / "level40").mkdir()
    refused(f"more than {MOST_LINKS} links lead to .*level", lambda: list(walk(root, lambda path: False)))
    assert len(list(walk(root, lambda path: False, once=True))) == 1


def test_a_tree_deeper_than_python_recurses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    deep = Path(*"d" * 1100)
    monkeypatch.chdir(tmp_path)
    for level in range(1, 1101):
        os.mkdir("/".join("d" * level))
    refused("expected at most 100 folders in each other, got more", lambda: list(walk(tmp_path, lambda path: False)))
    refused("expected a path below", lambda: inside(tmp_path, "/".join("d" * 1100), "x"))
    os.removedirs(deep)  # pytest recurses


def test_missing_files_are_for_the_reader_to_report(root: Path):
    assert safe_path(root, root / "data" / "x" / "y", "x") == root / "data" / "x" / "y"


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        *((name, True) for name in ("observation.images.top", "kamera größe", "a" * 200)),
        *((name, False) for name in ("ö" * 101, "a/b", "..", ".", "", "a\\b", "a\nb", "a\0", "C:")),
    ],
)
def test_names_of_folders(name: str, fits: bool):
    assert is_file_name(name) is fits


@dataclass(frozen=True)
class Head:
    kind: Literal["flow", "bins"]
    sizes: tuple[tuple[int, float], ...] = ()

    def __post_init__(self):
        if len(self.sizes) > 2:
            raise LattokError("`sizes`: too many.")


@dataclass(frozen=True)
class Policy:
    head: Head | None
    steps: int = 1
    pair: tuple[int, str] = (0, "")


class Record(TypedDict, total=False):
    runs: list[Annotated[list[int], Rule("[first, last]", lambda it: len(it) == 2)]]
    by_name: dict[Literal["a", "b"], float]
    policy: Policy


@pytest.mark.parametrize(
    ("value", "kind", "made"),
    [
        ({"head": {"kind": "flow", "sizes": [[1, 2], [3, 0.5]]}}, Policy, Policy(Head("flow", ((1, 2), (3, 0.5))))),
        ({"head": None, "pair": [3, "x"]}, Policy, Policy(None, 1, (3, "x"))),
        ({"runs": [[1, 2]], "more": {"x": []}}, Record, {"runs": [[1, 2]], "more": {"x": []}}),
        ({"policy": {"head": None}}, Record, {"policy": Policy(None)}),
        ({"by_name": {"a": 1}}, Record, {"by_name": {"a": 1}}),
        ([1, "a"], tuple[Any, ...], (1, "a")),
        ("a", int | str, "a"),
    ],
)
def test_json_becomes_what_a_type_says(value, kind, made):
    assert typed(value, kind, "") == made


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        ({"head": None, "steps": "1"}, Policy, "`steps` in `f.json`: expected a value of type int, got '1'. Again."),
        ({"head": None, "steps": True}, Policy, "`steps` in `f.json`: expected a value of type int, got True."),
        ({"head": None, "steps": 1.0}, Policy, "`steps` in `f.json`: expected a value of type int, got 1.0."),
        ({"head": {"kind": "flaw"}}, Policy, "`head.kind` in `f.json`: expected one of flow, bins, got 'flaw'."),
        ({"head": {"kind": "flow", "sizes": [[1]]}}, Policy, "`head.sizes[0]` in `f.json`: expected a value of type"),
        ({"head": {"kind": "flow", "sizes": [[1, 1]] * 3}}, Policy, "f.json: `sizes`: too many."),
        ({"head": 3}, Policy, "`head` in `f.json`: expected a value of type "),
        ({"head": None, "pair": [3]}, Policy, "`pair` in `f.json`: expected a value of type tuple[int, str], got [3]."),
        ({"haed": None}, Policy, "`f.json`: expected names among head, pair, steps, got haed. Did you mean head?"),
        ({}, Policy, "`f.json`: expected the fields of Policy, each of its type, got something else ("),
        ({"runs": [[1, 2], [3]]}, Record, "`runs[1]` in `f.json`: expected [first, last], got [3]."),
        ({"by_name": {"c": 1}}, Record, "`by_name` in `f.json`: expected one of a, b, got 'c'."),
        ({"by_name": {"a": "1"}}, Record, "`by_name.a` in `f.json`: expected a value of type float, got '1'."),
        ([1], Record, "`f.json`: expected a value of type Record, got [1]."),
    ],
)
def test_what_has_another_type_is_one_line_with_its_place(value, kind, says):
    said = refused(None, typed, value, kind, "", "f.json", "Again.")
    assert said.startswith(says)


@pytest.mark.parametrize(
    ("there", "content", "says"),
    [
        ("a", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a", b"/annex/objects/SHA256E-s12--ab.parquet\n", "git annex get"),
        ("a", b"", "It is empty"),
        ("a", b"\x1f\x8b\x08", "It is packed: mv "),
        ("a.gz", b"1", "There is a.gz instead: gunzip"),
        ("b", b"1", "Copy"),
    ],
)
def test_what_stands_in_place_of_a_file(tmp_path: Path, there: str, content: bytes, says: str):
    (tmp_path / there).write_bytes(content)
    assert says in copy_again(tmp_path / "a")


def test_a_link_whose_content_git_annex_has_not_fetched(tmp_path: Path):
    link = tmp_path / "data" / "a.mp4"
    link.parent.mkdir()
    link.symlink_to("../.git/annex/objects/1/2/KEY/KEY")
    assert "git annex get" in copy_again(link)
    refused("git annex get", safe_path, link.parent, link, "a.mp4")
