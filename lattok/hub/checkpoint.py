"""Foreign checkpoints: read without running anything in them, renamed by an explicit map, complete or refused.

Each system has an importer, in one file that registers it. `lattok convert NAME FILE OUT` and
`lattok.convert.NAME(FILE)` call its `read`, whose keywords are the options of the command, and whose docstring is
their help. Another package names its module in the entry points `lattok.importers`.

Pickles go through torch's restricted reader, asked so that nothing in a file runs and every refusal says why.

A map names the foreign tensor for each of ours: `{"encoder.project.weight": "encoder.in_proj.weight"}`. Where that is
not one to one, a `Join` says which foreign tensors become ours and how; several of ours may read the same one.
"""

import os
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from lattok.hub.client import FilePath
from lattok.hub.weights import Size, Tensors, plan_module, read_tensors
from lattok.utils import checks, files
from lattok.utils.options import as_option
from lattok.utils.registry import Registry
from lattok.utils.untrusted import read_yaml

Model = TypeVar("Model", bound=nn.Module)  # a HubModel, whose module needs this one
Read = TypeVar("Read", bound=Callable[..., nn.Module])
Names = Collection[str]  # of tensors
Settings = Mapping[str, Any] | FilePath  # published ones of a model: a .json or .yaml file, or a dictionary
PICKLED, SAFE = (".pt", ".pth", ".ckpt", ".bin"), ".safetensors"
DAMAGED = "Copy the file again, or see whether it is a checkpoint at all."
MOST_PROBLEMS = 40  # tensors that an error lists
WRAPPED = 3  # names that may stand before a tensor's own, as "state_dict.model."
COMMON = {"weight", "bias", "layers", "encoder", "decoder"}  # words in names of many systems
MAX_CLAIMED = 4  # times the bytes of a file: what its tensors may take, as several may be views of the same


@dataclass(frozen=True)
class Importer:
    """A published system that lattok reads.

    `read(path, **options)` returns the model. The first line of its docstring says what it reads, `Example:` the
    command, `Args:` the options. Licence, paper and the like are in docs/systems.yaml.
    """

    name: str  # the word that follows `lattok convert`
    read: Callable[..., Any]
    sign: str  # a pattern for the name of a tensor that this system's checkpoints hold, and no other's
    unless: str = ""  # a pattern for one that is only in those of another system that has the sign, too
    mind: str = ""  # what to know before its labels are used
    needed: Mapping[str, str] = field(default_factory=dict)  # options that are needed although they have a default,
    # unless a file of this name lies next to the checkpoint

    @property
    def example(self) -> str:
        """Return the command of the docstring's `Example:` of this name."""
        shown = re.search(rf"Example: (lattok convert {re.escape(self.name)} .*)", self.read.__doc__ or "")
        return shown[1] if shown else ""

    def signed(self, names: str) -> bool:
        """Return whether tensors are of this system, from their names, one on each line."""
        other = self.unless and re.search(self.unless, names, re.MULTILINE)
        return bool(re.search(self.sign, names, re.MULTILINE)) and not other


IMPORTERS: Registry[Importer] = Registry("lattok.importers", "lattok.action_vq", "lattok.image_lam")


def importer(name: str, sign: str, **fields: Any) -> Callable[[Read], Read]:
    """Register the function below under this name; the arguments are fields of its `Importer`."""

    def registered(read: Read) -> Read:
        IMPORTERS.add(name, Importer(name, read, sign, **fields))
        return read

    return registered


def converted(
    build: Callable[[], Model], foreign: Tensors, names: "KeyMap", where: str, unused: Names = (), kept: Names = ()
) -> Model:
    """Return what `build` makes, compared with the file's sizes before memory is taken, with the file's tensors.

    `names`, `unused` and the errors are those of `translate`; ours that end in one of `kept` keep their values.
    """
    plan_module(build, {name: Size.of(tensor) for name, tensor in foreign.items()}, where)
    model: Any = build()
    ours = model.saved_tensors()
    left = [name for name in ours if name.endswith(tuple(kept))]
    model.load_tensors(translate(foreign, names, ours, where, unused=unused, kept=left), where)
    return model.eval()


def systems(names: Iterable[str]) -> list[Importer]:
    """Return the importers whose sign is among these names of tensors, perhaps behind others."""
    names = list(names)
    for depth in range(WRAPPED + 1):
        text = "\n".join(name.split(".", depth)[-1] for name in names)
        if found := [IMPORTERS[name] for name in IMPORTERS if IMPORTERS[name].signed(text)]:
            return found
    return []


def nearest(names: Iterable[str]) -> str:
    """Say which system tensors of these names are of, or whose names they resemble most; "" where they are nothing."""
    names = list(names)
    if found := systems(names):
        return f"It looks like one of {' or '.join(each.name for each in found)}."
    parts = {part for name in names for part in name.split(".")}
    shares = {}
    for name in IMPORTERS:
        words = {*re.findall(r"[A-Za-z][A-Za-z_]{2,}", IMPORTERS[name].sign)} - COMMON
        shares[name] = len(words & parts) / max(1, len(words))
    best = max(shares, key=shares.__getitem__, default="")
    return f"By its names it is nearest to {best}." if best and shares[best] else ""


def check_kind(names: Iterable[str], kind: str, where: str) -> None:
    """Refuse a file with the sign of another system than `kind`, and name that system; `names` are its tensors'."""
    known, text = [IMPORTERS[name] for name in IMPORTERS], "\n".join(names)
    signs = dict.fromkeys(each.sign for each in known if each.signed(text))
    if signs and IMPORTERS[kind].sign not in signs:
        found = [each.name for each in known if each.sign == next(iter(signs))]
        way_out = " or ".join(f"lattok convert {name}" for name in found)
        checks.fail(where, f"a checkpoint for {kind}", f"one for {' or '.join(found)}", f"Run: {way_out}.")


class Join(NamedTuple):
    """Foreign tensors that together make one of ours: `Join(("k", "v"), lambda k, v: torch.cat([k, v]))`.

    With one key it reshapes or cuts out: `Join(("kv",), lambda kv: kv.chunk(2)[0])`.
    """

    keys: tuple[str, ...]
    make: Callable[..., Tensor] = lambda tensor: tensor


KeyMap = Mapping[str, "str | Join"]


def stacked(*keys: str) -> Join:
    """Put foreign tensors one after the other on their first axis: queries, keys and values, say."""
    return Join(keys, lambda *parts: torch.cat(parts))


def squeezed(key: str) -> Join:
    return Join((key,), lambda table: table.squeeze(0))


def layer_names(layers: Mapping[str, str]) -> dict[str, str | Join]:
    """Map weight and bias of our layers to those of the foreign ones."""
    return {f"{ours}.{x}": f"{theirs}.{x}" for ours, theirs in layers.items() for x in ("weight", "bias")}


def translate(
    foreign: Tensors, key_map: KeyMap, ours: Tensors, where: str, *, unused: Names = (), kept: Names = ()
) -> dict[str, Tensor]:
    """Return foreign tensors under the names and in the dtypes of `ours`, the tensors of the model to be filled.

    `unused` are foreign names that are known and not needed; `kept` are names of ours that the file does not hold and
    that keep their values. Everything else that does not fit, on either side, is one `LattokError` listing the
    missing, unexpected and mis-shaped tensors of the file named by `where`, or the nearest system where none fits.
    """
    sources = {name: source if isinstance(source, Join) else Join((source,)) for name, source in key_map.items()}
    needed = dict.fromkeys(key for source in sources.values() for key in source.keys)
    problems = [f"missing {key}" for key in needed if key not in foreign]
    problems += [f"unexpected {key}" for key in foreign if key not in needed and key not in unused]
    problems += [f"nothing for our {name}" for name in ours if name not in sources and name not in kept]
    problems += [f"no {name} in our model" for name in sources if name not in ours]
    result = {name: tensor for name, tensor in ours.items() if name in kept}
    for name, source in sources.items():
        if name in ours and all(key in foreign for key in source.keys):
            result[name], problem = _fill(source, foreign, ours[name])
            problems += [f"{' + '.join(source.keys)} {problem}"] if problem else []
    if problems:
        expected = f"the {checks.counted(len(needed), 'tensor')} of such a checkpoint"
        if needed and not needed.keys() & foreign.keys():
            got = checks.counted(len(foreign), "other") + (
                f", such as {checks.listed([*foreign][:3])}" if foreign else ""
            )
            checks.fail(where, expected, got, nearest(foreign))
        more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
        checks.fail(where, expected, "; ".join(problems[:MOST_PROBLEMS]) + more)
    return {name: result[name] for name in ours}


def axis_of(foreign: Tensors, key: str, axis: int, published: int) -> int:
    """Return the length of an axis of a foreign tensor; the published one where there is none, said later."""
    shape = foreign[key].shape if key in foreign else ()
    return shape[axis] if axis < len(shape) else published


def numbered(foreign: Tensors, pattern: str) -> int:
    """Count the numbers that the first group of `pattern` finds in the names of foreign tensors."""
    return len({match[1] for match in map(re.compile(pattern).match, foreign) if match})


def _fill(source: Join, foreign: Tensors, wanted: Tensor) -> tuple[Tensor, str]:
    """Return what stands for `wanted`, and why it cannot, if it cannot."""
    try:
        made = source.make(*(foreign[key] for key in source.keys))
    except (RuntimeError, ValueError, IndexError):  # the transform met shapes that it was not made for
        shapes = " and ".join(str(list(foreign[key].shape)) for key in source.keys)
        return wanted, f"has shape {shapes}, which cannot become {list(wanted.shape)}"
    if made.shape != wanted.shape:
        return wanted, f"has shape {list(made.shape)}, expected {list(wanted.shape)}"
    if made.is_floating_point() != wanted.is_floating_point():
        return wanted, f"is {made.dtype}, expected {wanted.dtype}"
    made = made.to(wanted.dtype)
    return made, "" if bool(torch.isfinite(made).all()) else "holds NaN or infinity"


def read_checkpoint(path: FilePath, entry: str | None = None, *, parts: Sequence[str] = ()) -> dict[str, Tensor]:
    """Read tensors of a .pt, .pth, .ckpt, .bin or .safetensors file to the CPU; nested names are joined with ".".

    Pickled files go through torch's restricted reader and must hold nothing but tensors, in dictionaries and lists.
    With `entry` that is asked only of what is under this name, "states.ema" for one in another: Lightning keeps the
    weights in "state_dict", with settings and optimisers, whose classes are replaced by ones that do nothing. So they
    are with `parts`, names of what may hold the weights: where some are there, the rest is left out. Raises
    `LattokError` about what else is there.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        checks.fail("path", "a checkpoint file", f"{path}, which {'is a folder' if path.is_dir() else 'is not there'}")
    if path.suffix == SAFE:
        return read_tensors(path)  # which holds no views
    if path.suffix not in PICKLED:
        checks.fail("path", f"a file ending in {', '.join((*PICKLED, SAFE))}", path.name)
    content = read_pickled(path, inert=entry is not None or bool(parts))
    if entry is not None:
        for name in [entry] if isinstance(content, Mapping) and entry in content else entry.split("."):
            if not isinstance(content, Mapping) or name not in content:
                checks.fail(str(path), f"a dictionary with the entry {entry}", _contents(content))
            content = content[name]
    if not isinstance(content, Mapping):
        checks.fail(str(path), "a dictionary of tensors", _contents(content))
    within = {name: content[name] for name in parts if isinstance(content.get(name), Mapping)}
    try:
        pairs = list(_tensors(within or content, (), str(path)))
    except RecursionError:
        checks.fail(str(path), "dictionaries of tensors", "a container that holds itself")
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        checks.fail(str(path), "every name once", f"{', '.join(twice)} more than once")
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in pairs}
    if sum(sizes.values()) > MAX_CLAIMED * path.stat().st_size:  # sizes are believed from here on
        name = max(sizes, key=sizes.__getitem__)
        got = f"{name} of shape {list(dict(pairs)[name].shape)} in {path.stat().st_size:,} bytes"
        checks.fail(str(path), "every number of its tensors", got)
    return dict(pairs)


def read_system(
    path: FilePath, kind: str, entry: str | None = None, *, parts: Sequence[str] = (), prefixes: Sequence[str] = ("",)
) -> dict[str, Tensor]:
    """Read the tensors of one system as `read_checkpoint` does, only those whose names begin with a prefix, without it.

    Of `prefixes` it is the first that is there, else the last; what lies outside it, the rest of a policy, is left out.
    Raises `LattokError` where the file is one of another system than `kind`, and names that system.
    """
    foreign = read_checkpoint(path, entry, parts=parts)
    check_kind(foreign, kind, str(path))
    prefix = next((each for each in prefixes if any(name.startswith(each) for name in foreign)), prefixes[-1])
    return {name.removeprefix(prefix): tensor for name, tensor in foreign.items() if name.startswith(prefix)}


def read_settings(path: FilePath, entry: str) -> dict[str, Any]:
    """Read what a pickled checkpoint holds under `entry` besides its weights, say "hyper_parameters"; {} if nothing."""
    path = Path(path).expanduser()
    content = read_pickled(path, inert=True) if path.suffix in PICKLED and path.is_file() else {}
    found = content.get(entry) if isinstance(content, Mapping) else None
    return dict(found) if isinstance(found, Mapping) else {}


def published_settings(given: Settings) -> Mapping[str, Any]:
    """Return what authors say of a model besides its weights: a dictionary as it is, or that in a .json or .yaml file.

    Raises `LattokError` about `config`, as arguments with settings are called; YAML with aliases is refused too.
    """
    if isinstance(given, Mapping):
        return given
    path = Path(given).expanduser() if isinstance(given, str | os.PathLike) else None
    if path is None or not path.is_file() or path.suffix not in (".json", ".yaml", ".yml"):
        checks.fail("config", "a .json or .yaml file, or a dictionary", path or f"{given!r:.60}")
    if path.suffix == ".json":
        return files.read_json(path)
    found = read_yaml(path, "config")
    if not isinstance(found, Mapping):
        checks.fail("config", f"settings with names in {str(path)!r}", type(found).__name__)
    return found


def setting(settings: Mapping[str, Any], name: str, kind: Any, default: object = None) -> Any:
    """Return a published setting, "decoder.heads" for one of a group; without a default it must be there."""
    value: Any = settings
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            if default is None:
                checks.fail("config", f"the setting {name}, which weights do not tell", "none")
            return default
        value = value[part]
    return as_option(name, as_number(value) if kind is float else value, kind)


def as_number(value: object) -> Any:
    """Return a setting as the number that it is, if it is one; YAML reads 1e-12 as a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _tensors(value: object, place: tuple[str, ...], path: str) -> Iterator[tuple[str, Tensor]]:
    """Yield name and value of every tensor below `value`; anything else is an error that names its place."""
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
        yield ".".join(place), value.detach()
        return
    if not isinstance(value, Mapping | list | tuple):
        checks.fail(path, "tensors alone", f"{_contents(value)} at {'.'.join(place)}")
    inside: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else enumerate(value)
    for key, item in inside:
        yield from _tensors(item, (*place, str(key)), path)


def _contents(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary with {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, Tensor):
        return f"a tensor ({str(value.layout).removeprefix('torch.')}, {value.device})"
    return type(value).__name__ + (f" {value!r:.40}" if isinstance(value, str | int | float) else "")


def read_pickled(path: Path, inert: bool) -> Any:
    """Read what torch.save wrote, to the CPU; if `inert`, classes that it does not know become ones that do nothing.

    Raises `LattokError`: what the file holds besides tensors and containers, or what is damaged.
    """
    _check_stored(path)
    try:
        with warnings.catch_warnings(), _stand_ins(path) if inert else nullcontext():
            warnings.simplefilter("ignore")  # torch's, about odd contents; those are judged here
            # mapped: settings can be read without reading the weights
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError as error:
        checks.fail("path", "a file that can be read", f"{path} ({error.strerror})")
    except Exception as error:  # damaged bytes fail anywhere in the reader, with any type
        text = str(error)
        if code := re.search(r"GLOBAL (\S+)", text):
            got = f"a pickled {code[1]}, whose loading runs code"
            raise checks.LattokError(f"`{path}` holds {got}. Save the state dictionaries alone.") from None
        if "TorchScript" in text:
            checks.fail(str(path), "state dictionaries", "a TorchScript program", "Save its state_dict() instead.")
        foreign = isinstance(error, pickle.UnpicklingError)
        reason = "not what torch.save writes" if foreign else checks.first_line(error).split(". ")[0]
        checks.fail(str(path), "a whole checkpoint", f"one that cannot be read ({reason})", DAMAGED)


def _check_stored(path: Path) -> None:
    """Refuse a compressed archive: mapped, its numbers would be others, and a few bytes can unpack to anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
    except Exception:  # not such an archive, or a damaged one: the reader says what is wrong
        return
    if packed:
        checks.fail(str(path), "an archive as torch.save writes it", f"one with {packed[0]!r:.80} compressed", DAMAGED)


class _Inert:
    """Stands for everything but tensors that a pickle names: takes anything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _stand_ins(path: Path) -> AbstractContextManager[None]:
    """Let torch's restricted reader find an `_Inert` under every name of the pickle that it does not know itself."""
    names: list[str] = []
    with suppress(Exception):  # of an older or damaged file there are none
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    kinds: list[Any] = [(type(name.rpartition(".")[2], (_Inert,), {}), name) for name in names]
    return torch.serialization.safe_globals(kinds)
