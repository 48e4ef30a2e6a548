"""What codes a model gave when it was saved: a wrong code is worse than a model that does not load.

model.safetensors has them in its metadata, {"packages": {name: version}, "places": [...], "codes": [...]}: the codes
of a fixed input at these places, counted row by row. They are those that stay where every number of input and weights
is a thousandth off. What rounding changes from machine to machine is ten thousand times smaller: where codes differ,
something means something else than it did.
"""

import copy
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import TypedDict

from lattok.hub.weights import DAMAGED
from lattok.utils import checks
from lattok.utils.untrusted import Rule, parse_json, typed
from lattok.version import __version__, installed

KEY = "codes"  # in the metadata
OFF = 1e-3  # of every number of input and weights, under which recorded codes stay
WAYS = 8  # in which they are off
MOST_PLACES = 256
_VERSION = re.compile(r"[0-9][\w.!+-]{0,60}", re.ASCII)


class Trial(NamedTuple):
    """A fixed input of what gives codes, which are `encode(part, inputs)`: [n, ...] to int64 [n, P], -1 for none."""

    part: nn.Module
    inputs: Tensor
    encode: Callable[[Any, Tensor], Tensor]


Numbers = Annotated[
    list[Annotated[int, Rule("a whole number of at least 0", lambda it: it >= 0)]],
    Rule(f"at most {MOST_PLACES} whole numbers of at least 0", lambda it: len(it) <= MOST_PLACES),
]
Version = Annotated[str, Rule("a version such as 1.2.3", lambda it: _VERSION.fullmatch(it) is not None)]


class CodesRecord(TypedDict):
    packages: dict[str, Version]
    places: Numbers
    codes: Numbers


def fixed_numbers(*shape: int) -> Tensor:
    """Return numbers from -1 to 1 that are the same everywhere, evenly spread: float32 of this shape."""
    return torch.from_numpy(np.modf(np.arange(np.prod(shape)) * 0.6180339887)[0] * 2 - 1).float().view(shape)


def recorded(model: Any) -> dict[str, str]:
    """Return the metadata that say which codes a `HubModel` gives now; none of one that gives no codes."""
    if (trial := _trial(model)) is None:
        return {}
    with model.inference():
        codes = trial.encode(trial.part, trial.inputs)
        same = codes >= 0
        for part, inputs in _nearby(trial):
            same &= trial.encode(part, inputs) == codes
    places = same.flatten().nonzero()[:, 0].cpu()
    places = places[torch.linspace(0, len(places) - 1, min(len(places), MOST_PLACES), dtype=torch.float32).long()]
    packages = {"lattok": __version__, **installed(model.packages)}
    found = {"packages": packages, "places": places.tolist(), "codes": codes.flatten().cpu()[places].tolist()}
    return {KEY: json.dumps(found)}


def check(model: Any, metadata: Mapping[str, str], where: str) -> None:
    """Refuse a model whose codes are not those that the metadata of its weights record; without a record none is."""
    if KEY not in metadata:
        return
    place = f"`{KEY}` in the metadata of `{where}`"
    record: CodesRecord = typed(parse_json(metadata[KEY], place, DAMAGED), CodesRecord, KEY, where, DAMAGED)
    if missing := [name for name in CodesRecord.__annotations__ if name not in record]:
        checks.refuse(place, "packages, places and codes", f"none of {', '.join(missing)}", DAMAGED)
    places, codes = torch.tensor(record["places"], dtype=torch.long), torch.tensor(record["codes"], dtype=torch.long)
    found = codes.new_zeros(0)
    if (trial := _trial(model)) is not None:
        with model.inference():
            found = trial.encode(trial.part, trial.inputs).flatten().cpu()
    if len(places) != len(codes) or (len(places) and int(places.max()) >= len(found)):
        checks.refuse(place, f"a code for each place, of {len(found)} places", "others", DAMAGED)
    if wrong := int((found[places] != codes).sum()):
        got = f"{wrong} of {len(places)} others"
        checks.fail(where, "weights that give the codes which they gave when they were saved", got, _way_out(record))


@torch.no_grad()
def _trial(model: Any) -> Trial | None:
    return model.trial()


def _nearby(trial: Trial) -> Iterator[tuple[nn.Module, Tensor]]:
    """Yield part and input with all numbers off in different ways; last with the input larger, and smaller."""
    generator, part = torch.Generator().manual_seed(0), copy.deepcopy(trial.part)

    def off(tensor: Tensor) -> Tensor:
        signs = torch.randint(2, tensor.shape, generator=generator).to(tensor) * 2 - 1
        return tensor * (1 + OFF * signs)

    originals = trial.part.state_dict()
    for _ in range(WAYS):
        for name, tensor in part.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(off(originals[name]))
        yield part, off(trial.inputs)
    yield from ((trial.part, trial.inputs * (1 + sign * OFF)) for sign in (1, -1))


def _way_out(record: CodesRecord) -> str:
    """Say how to have what the model was saved with."""
    packages = {name: version for name, version in record["packages"].items() if name != "lattok"}
    here = installed(packages)
    others = {name: version for name, version in packages.items() if here.get(name) != version}
    if others:
        wanted = shlex.join(f"{name}=={version.partition('+')[0]}" for name, version in others.items())
        found = ", ".join(f"{name} {here.get(name, 'missing')}" for name in others)
        return f"Here is {found}; it was saved with: pip install {wanted}"
    if (saved := record["packages"].get("lattok", __version__)) != __version__:
        return f"lattok {saved} saved it, this is {__version__}."
    return DAMAGED
