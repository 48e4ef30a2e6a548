"""What the files of a dataset of arrays have in common, or not: their arrays, splits and frame rate."""

from collections.abc import Mapping
from pathlib import Path

from lattok.data.formats.array_layouts import ROBOMIMIC
from lattok.data.formats.array_listing import Contents, Demo
from lattok.data.formats.array_rows import Stored, difference, fits, has_actions
from lattok.data.schema import in_a_description
from lattok.utils import checks


def of_split(demos: Mapping[int, Demo], contents: Mapping[Path, Contents], split: str | None) -> dict[int, Demo]:
    """Take the demonstrations of one of the files' own splits, all by default."""
    if split is None:
        return dict(demos)
    known = sorted({name for content in contents.values() for name in content.splits})
    if split not in known:
        checks.fail("split", f"one of {checks.listed(known)}" if known else "none: the files have no splits", split)
    if not (chosen := members(demos, contents, split)):
        checks.fail("split", "a split with a demonstration that can be read", split)
    return chosen


def members(demos: Mapping[int, Demo], contents: Mapping[Path, Contents], split: str) -> dict[int, Demo]:
    """Take the demonstrations that are of a split in their files."""
    names = {file: content.splits.get(split, frozenset()) for file, content in contents.items()}
    return {index: demo for index, demo in demos.items() if demo.name.rpartition("/")[2] in names[demo.file]}


def acting(contents: Mapping[Path, Contents]) -> Mapping[Path, Contents]:
    """Return the files with actions, if there are any."""
    return {file: each for file, each in contents.items() if has_actions(each.arrays, each.layout)} or contents


def like(content: Contents, arrays: Stored) -> bool:
    """Return whether a file has these arrays, or all but those of actions."""
    return fits(content.arrays, arrays, content.layout)


def unlike(demo: Demo | str, contents: Mapping[Path, Contents], arrays: Stored) -> Demo | str:
    """Return the reason instead of a demonstration whose file has other arrays than most."""
    if isinstance(demo, str) or like(contents[demo.file], arrays):
        return demo
    content = contents[demo.file]
    what = f"{demo.file}: {difference(arrays, content.arrays, content.left_out)}, unlike most files"
    return f"{what}. Put those of one kind into a folder of their own."


def frames_per_second(root: Path, kind: str, contents: Mapping[Path, Contents]) -> float:
    """Return the one frame rate that all files say."""
    file, first = next(iter(contents.items()))
    hint = in_a_description(root, '"fps": 20')
    if first.fps is None:
        of = (
            "control_freq of env_args"
            if first.layout == ROBOMIMIC
            else f"frames per second, which {kind} files rarely say"
        )
        checks.fail("fps", f"the {of}; {file} does not", "none", f"{hint} See docs/howto/own_dataset.md.")
    for other, content in contents.items():
        if content.fps != first.fps:
            got = "none" if content.fps is None else f"{content.fps:g}"
            checks.fail("fps", f"one for all, {first.fps:g} as in {file}", f"{got} in {other}", hint)
    return first.fps
