"""What is in a file of arrays: its demonstrations, which arrays all of them have, and what it says of itself."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mode
from typing import Any, NamedTuple, NoReturn

from lattok.data import problems
from lattok.data.formats.array_draft import DEPTH, draft_of, single_step
from lattok.data.formats.array_ends import Ends, episode_ends
from lattok.data.formats.array_episodes import by_episode, is_likely, is_told
from lattok.data.formats.array_layouts import ALL_EPISODES, DESCRIBED, ENDS, Layout
from lattok.data.formats.array_padding import is_plain_mask, whole_rows
from lattok.data.formats.array_pictures import LEAST_SIDE, is_film, may_be_encoded, of_views, storage
from lattok.data.formats.array_rows import (
    SHOWN,
    STEPS_TOGETHER,
    Stored,
    StoredArray,
    difference,
    fits,
    has_actions,
    is_coloured,
    no_rows,
    rows_of,
    steps_of,
)
from lattok.data.formats.array_sources import Sources, text_of, texts_of
from lattok.data.formats.array_store import Store, plain
from lattok.data.schema import OTHER_DEPTH, in_a_description, readable
from lattok.utils import checks
from lattok.utils.checks import LattokError
from lattok.utils.findings import Finding

CAMERA = "observation.images."
MIN_CHECKED_BYTES, MAX_EXPANSION = 2**26, 1100  # what numbers may unpack to: deflate, the usual filter, does no better
SUCCESS = "success"
PADDING = "which rows only fill arrays up"


class Demo(NamedTuple):
    file: Path
    name: str  # of its group
    rows: int  # of the group's actions
    first: int  # of them
    length: int  # steps
    instructions: tuple[str, ...]
    texts: str = ""  # path of the array that says which of them a row has, if that is told
    longer: tuple[str, ...] = ()  # arrays with one row more than there are actions
    failed: bool = False  # as an attribute or a single number `success` says
    acts: bool = True  # its actions were recorded


class Listed(NamedTuple):  # a group of a file
    demos: list[Demo | str]
    arrays: Stored
    left_out: dict[str, str]
    held: str = ""  # flags of last steps that hold for several rows
    padded: str = ""  # what says that some rows only fill arrays up


class Contents(NamedTuple):
    layout: Layout
    demos: tuple[Demo | str, ...]  # in the order of their numbers; for one that cannot be read, the reason
    arrays: Stored  # of all demonstrations that can be read; empty if there is none
    left_out: dict[str, str]  # other members of a demonstration, with the reason
    fps: float | None
    robot: str | None
    control: Any
    findings: tuple[Finding, ...]
    splits: dict[str, frozenset[str]]  # of demonstrations, by name


def list_contents(store: Store, layouts: Sequence[Layout], root: Path) -> Contents:
    """List a file of one of the layouts, of the dataset `root`. Numbers and pixels are not read, but for those that say
    where episodes end."""
    store.check()
    layout = layouts[0] if len(layouts) == 1 else _recognised(store, layouts) or _unknown(store, layouts, root)
    layout = layout if layout.episodes else _of_all_episodes(store, layout, root)
    store = by_episode(store, layout)
    groups = episode_groups(store, layout)
    if not groups:
        expected = f"demonstrations as groups {layout.episodes}"
        checks.refuse(store.path, expected, checks.listed(store.members("")[:SHOWN]) or "none")
    file_texts = Sources(store, layout, "")
    listed = [_list_group(store, layout, group) for group in groups]
    whole = [each.arrays for each in listed if any(isinstance(demo, Demo) for demo in each.demos)]
    acting = [each for each in whole if has_actions(each, layout)]
    arrays = mode(acting or whole) if whole else ()
    demos: list[Demo | str] = []
    for each in listed:
        for demo in each.demos:
            if isinstance(demo, Demo) and not fits(each.arrays, arrays, layout):
                what = f"{store.path}, {_last(demo.name)}: {difference(arrays, each.arrays, each.left_out)}"
                demo = f"{what}, unlike most demonstrations of the file. Remove it."
            demos.append(demo)
    typical = next((each for each in listed if each.arrays == arrays), listed[0])
    findings = []
    if longer := list(dict.fromkeys(path for demo in demos if isinstance(demo, Demo) for path in demo.longer)):
        findings.append(problems.ONE_MORE_ROW.finding(columns=checks.listed(longer[:SHOWN])))
    convention = file_texts.attribute("macros_image_convention")
    if isinstance(convention, str | bytes) and convention in ("opengl", b"opengl"):
        findings.append(problems.UPSIDE_DOWN.finding())
    if held := next((each.held for each in listed if each.held), ""):
        findings.append(problems.HELD_ENDS.finding(flags=held))
    if padded := next((each.padded for each in listed if each.padded), ""):
        findings.append(problems.PADDED_ROWS.finding(mask=padded))
    if stacked := [each for each in arrays if each.view == 0]:
        views = [sum(each.path == one.path for each in arrays) for one in stacked]
        shown = checks.listed(f"`{one.path}` ({count})" for one, count in zip(stacked, views, strict=True))
        findings.append(problems.STACKED_CAMERAS.finding(arrays=shown))
    findings += _unused(store, layout, demos, arrays, bool(padded))
    fps = file_texts.rate()
    robot = file_texts.robot()
    control = file_texts.value(layout.control) if layout.control else None
    return Contents(
        layout, tuple(demos), arrays, typical.left_out, fps, robot, control, tuple(findings), _splits(store)
    )


def _unused(
    store: Store, layout: Layout, demos: Sequence[Demo | str], arrays: Stored, padded: bool
) -> Iterator[Finding]:
    """Find rows that no episode has, pictures that are read as numbers, and chunks that are not there."""
    ends: dict[tuple[str, int], int] = {}
    for demo in demos:
        if isinstance(demo, Demo):
            group = demo.name, demo.rows - bool(layout.ahead)
            ends[group] = max(ends.get(group, 0), demo.first + demo.length)
    if (unused := sum(rows - end for (_, rows), end in ends.items())) and not padded:
        yield problems.ROWS_AFTER_ENDS.finding(rows=unused, ends=layout.ends[0])
    flat = [each for each in arrays if each.storage == "numbers"]
    kinds = ((problems.DEPTH_AS_NUMBERS, _is_depth), *((problems.PICTURES_AS_NUMBERS, like) for like in OF_PICTURES))
    for kind, looks_like in kinds:
        if found := [each for each in flat if looks_like(each.path, each.shape)]:
            shown = f"{found[0].dtype} {list(found[0].shape)}"
            yield kind.finding(columns=checks.listed(f"`{each.column}`" for each in found), shape=shown)
    paths = {f"{group}/{each.path}".lstrip("/") for group, _ in ends for each in arrays}
    absent = {path: count for path in sorted(paths) if (count := store.chunks_not_stored(path))}
    if absent:
        count, shown = sum(absent.values()), checks.listed([*absent][:SHOWN])
        yield problems.CHUNKS_NOT_STORED.finding(arrays=shown, count=count)


def _is_grey(path: str, shape: tuple[int, ...]) -> bool:
    """Return whether rows of this shape may be pictures of one channel, if not of distances."""
    return _has_one_channel(shape) and DEPTH.search(path) is None


def _is_stacked(path: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and is_coloured(path, shape[1:])


OF_PICTURES = (is_coloured, _is_grey, _is_stacked)


def _is_depth(path: str, shape: tuple[int, ...]) -> bool:
    """Return whether rows of this shape are distances, going by the array's name."""
    return _has_one_channel(shape) and DEPTH.search(path) is not None


def _has_one_channel(shape: tuple[int, ...]) -> bool:
    plain = shape[:-1] if shape[-1:] == (1,) else shape  # [H, W] or [H, W, 1]
    return len(plain) == 2 and min(plain) >= LEAST_SIDE


def _recognised(store: Store, layouts: Sequence[Layout]) -> Layout | None:
    damaged: LattokError | None = None
    for layout in layouts:
        groups = episode_groups(store, layout)
        for group in groups[:3]:  # the first may be damaged
            try:
                with store.reading(f", {group}"):
                    paths = list(store.arrays(group)) if store.is_group(group) else []
            except LattokError as error:
                damaged = damaged or error
                continue
            found = [any(fnmatchcase(path, mark) for path in paths) for mark in layout.marks or layout.rows]
            if all(found) if layout.marks else any(found):
                return layout
        if groups and layout.episodes == "data/*" and all(_is_numbered(_last(group)) for group in groups):
            return layout
    if damaged is not None:
        raise damaged
    return None


def _unknown(store: Store, layouts: Sequence[Layout], root: Path) -> NoReturn:
    """Show what is in a file of another layout, and how one is described."""
    with store.reading(""):
        found = store.arrays("")
        if group := single_step(found):
            checks.refuse(
                store.path, "the steps of an episode together", f"a group for each, `{group}`", STEPS_TOGETHER
            )
        arrays, entries = draft_of(found, store.attributes)
    known = checks.listed(layout.name for layout in layouts)
    got = checks.few_of(arrays, SHOWN) or "no arrays"
    way_out = f"This draft guesses by names; correct what is wrong. {in_a_description(root, entries)}"
    checks.refuse(store.path, f"a layout of {known}", got, way_out)


def _of_all_episodes(store: Store, layout: Layout, root: Path) -> Layout:
    """Return a layout of files that are an episode each, or of one whose arrays are of all episodes.

    Raises:
        LattokError: they may be, and nothing says so.
    """
    with store.reading(""):
        found = store.arrays("")
        path = rows_of(found, layout)
        if path and is_told(found, path):
            return layout._replace(episodes=ALL_EPISODES)
        if path and layout.name != DESCRIBED and is_likely(found, path):
            _, entries = draft_of(found, store.attributes)
            way_out = (
                f"If the first axis counts episodes: {in_a_description(root, entries)} If it counts steps, swap both."
            )
            got = f"episodes or steps side by side: {list(found[path].shape)}"
            checks.refuse(store.path, f"the steps of an episode as rows of `{path}`", got, way_out)
    return layout


def _is_numbered(name: str) -> bool:
    return bool(re.fullmatch(r"\D+_?\d+", name))


def episode_groups(store: Store, layout: Layout) -> list[str]:
    """List the members that are the episodes of a file, demo_2 before demo_10."""
    if layout.episodes in ("", ALL_EPISODES):
        return [""] if not layout.episodes else store.members("")
    found = [""]
    for pattern in layout.episodes.split("/"):
        inner = ((above, store.members(above)) for above in found if store.is_group(above))
        matching = ((above, [each for each in names if fnmatchcase(each, pattern)]) for above, names in inner)
        found = [f"{above}/{each}".lstrip("/") for above, names in matching for each in sorted(names, key=natural)]
    return found


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Put demo_2 before demo_10."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name))


def _last(group: str) -> str:
    return group.rpartition("/")[2]


def _list_group(store: Store, layout: Layout, group: str) -> Listed:
    """List the demonstrations of a group, usually itself, and its arrays; or the reason why it cannot be read."""
    where = f"{store.path}, {_last(group)}" if group else f"{store.path}"
    try:
        with store.reading(f", {_last(group)}" if group else ""):
            found = store.arrays(group) if store.is_group(group) else {}
            attributes = store.attributes(group) if found else {}
            length = steps_of(found, layout, where, attributes)
            arrays, left_out, longer = _offered(store, found, length, layout, where)
            acts = has_actions(arrays, layout)
            if not acts and all(each.storage == "numbers" for each in arrays):
                no_rows(found, layout, where)
            left_out |= {path: "the instruction" for path in layout.instruction if path in left_out}
            text, source = Sources(store, layout, group).instruction(found)
            rows = length + bool(layout.ahead)
            path = rows_of(found, layout)
            whole, padded = whole_rows(found, path, attributes, layout.episodes == ALL_EPISODES) if path else (rows, "")
            if padded:
                ends = Ends([(0, whole - bool(layout.ahead))])
                left_out[padded] = PADDING
            else:
                ends = episode_ends(found, layout.ends, length, where)
                left_out |= dict.fromkeys(ends.told, ENDS)
            left_out |= {each: PADDING for each in found if is_plain_mask(found[each], each, rows)}
            arrays = tuple(each for each in arrays if each.path not in left_out)
            failed = _failed(found, attributes)
            texts = _texts(found[source], rows) if source else None
            demos = [
                Demo(store.path, group, rows, a, b - a, *_told(texts, source, text, a, b), longer, failed, acts)
                for a, b in ends.spans
            ]
            return Listed([*demos], arrays, left_out, ends.held, padded)
    except LattokError as error:
        return Listed([str(error)], (), {})


def _texts(array: Any, rows: int) -> list[str] | None:
    """Return the text of each row; None where an array has one for all."""
    return texts_of(array[:]) if array.shape in ((rows,), (rows, 1)) and rows > 1 else None


def _told(texts: list[str] | None, path: str, text: str, first: int, last: int) -> tuple[tuple[str, ...], str]:
    """Return what is said in rows [first, last), and the array's path if rows differ in it."""
    said = tuple(dict.fromkeys(texts[first:last])) if texts else ()
    known = tuple(filter(None, said))
    return (said, path) if len(known) > 1 else (known or (text,), "")


def _failed(found: Mapping[str, Any], attributes: Mapping[str, Any]) -> bool:
    """Return whether one flag for the whole demonstration says that it failed, as those of Isaac Lab's recorder."""
    array = found.get(SUCCESS)
    flag = plain(array[()] if array is not None and array.shape == () else attributes.get(SUCCESS))
    return isinstance(flag, bool | int | float) and not flag


def _offered(
    store: Store, found: Mapping[str, Any], length: int, layout: Layout, where: str
) -> tuple[Stored, dict[str, str], tuple[str, ...]]:
    """Return the arrays of a group that are offered, in one order for all files, all else with the reason, and those
    that have a row more than there are actions."""
    offered: list[StoredArray] = []
    left_out: dict[str, str] = {}
    longer = list[str]()
    rows = length + bool(layout.ahead)
    places = {pattern: place for place, pattern in enumerate(layout.columns)}
    for path in sorted(found, key=lambda path: (places.get(layout.pattern(path), -1), path)):
        array, column = found[path], layout.column(path)
        ahead = next((column for pattern, column in layout.ahead.items() if fnmatchcase(path, pattern)), None)
        if column is None and ahead is None:
            reason = layout.reason(path)
            left_out[path] = OTHER_DEPTH if reason == "depth" else reason
            continue
        first = next((each.path for each in offered if each.column == column and not each.ahead), None)
        if column is not None and first is not None:
            left_out[path] = f"`{first}` is `{column}`; a `layout` can take both"
            continue
        camera = (column or "").startswith(CAMERA)
        how = storage(array.dtype, array.shape[1:], camera) if array.shape else None
        how = "encoded" if not camera and column and may_be_encoded(array) else how
        if column and is_film(array):
            offered.append(StoredArray(path, column, "film", (), "film"))
            continue
        if how is None:
            left_out[path] = OTHER_DEPTH if camera and array.dtype.kind in "fiu" else "it holds no numbers"
            continue
        inner = of_views(array.dtype, tuple(array.shape[1:])) if column else None
        if camera and how == "numbers" and inner is None:
            left_out[path] = f"it is no picture of RGB ({array.dtype} {list(array.shape[1:])})"
            continue
        claimed = array.dtype.itemsize * max(math.prod(array.shape), math.prod(getattr(array, "chunks", None) or ()))
        stored = sum(store.stored_bytes(part, f"{where}, `{path}`") for part in getattr(array, "parts", (array,)))
        if claimed > max(MIN_CHECKED_BYTES, MAX_EXPANSION * stored):
            expected = f"what {stored:,} bytes can hold"
            checks.refuse(f"{where}, `{path}`", expected, f"{claimed:,}", "Copy the file again.")
        if readable(path) != path:
            raise LattokError(f"{where}: expected names in UTF-8, got {path!a:.60}. Rename it.")
        if array.shape[0] - rows not in (0, 1):
            left_out[path] = f"it has {checks.counted(array.shape[0], 'row')} where there are {rows} actions"
            continue
        longer += [path] if array.shape[0] > rows else []
        dtype, shape = ("encoded", ()) if how == "encoded" else (array.dtype.name, tuple(array.shape[1:]))
        if inner is not None:
            views = range(array.shape[1])
            offered += [StoredArray(path, f"{column}_{i}", dtype, shape[1:], inner, view=i) for i in views]
            continue
        offered += [StoredArray(path, column, dtype, shape, how)] if column else []
        offered += [StoredArray(path, ahead, dtype, shape, how, 1)] if ahead else []
    return tuple(offered), left_out, tuple(longer)


def _splits(store: Store) -> dict[str, frozenset[str]]:
    """Return robomimic's masks: names of demonstrations by split."""
    if not store.is_group("mask"):
        return {}
    with store.reading(", mask"):
        return {name: frozenset(map(text_of, array[:])) for name, array in store.arrays("mask").items() if array.shape}
