"""Ways in which a dataset's files get damaged, drawn with a seed."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def damage_one(root: Path, rng: random.Random) -> tuple[str, str]:
    """Damage one file of a dataset. Returns its path and what was done."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path = rng.choice(files)
    kinds = ["truncate", "flip", "flip", "delete", "swap", "zero", "double", "rename", "insert", "empty", "replace"]
    kind = rng.choice(kinds + ["json"] * 8 * (path.suffix == ".json"))
    same = [other for other in files if other.suffix == path.suffix and other != path]
    name = path.relative_to(root).as_posix()
    content = bytearray(path.read_bytes())
    start = rng.randrange(len(content))
    if kind == "truncate":
        path.write_bytes(content[:start])
    elif kind == "flip":
        for _ in range(rng.choice((1, 1, 8))):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    elif kind == "delete":
        path.unlink()
    elif kind == "zero":
        stop = min(len(content), start + rng.randrange(1, 200))
        path.write_bytes(content[:start] + bytes(stop - start) + content[stop:])
    elif kind == "insert":
        path.write_bytes(content[:start] + rng.randbytes(rng.randrange(1, 20)) + content[start:])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "json":
        return name, f"json {edit_json(path, rng, lambda: rng.choice(ODD))}"
    elif kind == "double":
        shutil.copyfile(path, path.with_name(path.stem + "-copy" + path.suffix))
    elif kind == "rename" or not same:
        path.rename(path.with_name("x" + path.name))
        kind = "rename"
    else:  # swap or replace
        other = rng.choice(same)
        path.write_bytes(other.read_bytes())
        if kind == "swap":
            other.write_bytes(content)
    return name, kind


ODD = (None, True, -1, 0, 2**70, 1e308, -0.5, "", "7", "\u0000\ud7ff♥", "../../x", "{0[0]}", [], [[]], {}, {"a": None})


def edit_json(path: Path, rng: random.Random, value: Callable[[], Any], names: Sequence[str] = ()) -> str:
    """Change one value somewhere in a JSON file, take it away, or give it one of other `names`."""
    top = json.loads(path.read_text())
    places: list[tuple[Any, Any]] = []
    waiting = [top]
    while waiting:
        held = waiting.pop()
        keys = list(held) if isinstance(held, dict) else list(range(len(held)))
        places += [(held, key) for key in keys]
        waiting += [held[key] for key in keys if isinstance(held[key], dict | list)]
    if not places:
        return "nothing to change"
    holder, key = rng.choice(places)
    what = "taken away"
    if rng.random() < 0.2 and isinstance(holder, dict):
        held = holder.pop(key)
        if names:
            what = rng.choice(names)
            holder[what] = held
    else:
        holder[key] = value()
        what = repr(holder[key])
    path.write_text(json.dumps(top))
    return f"{key!s:.30}: {what:.60}"
