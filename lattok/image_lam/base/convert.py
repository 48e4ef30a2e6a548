"""What importers of latent action models share: settings next to a file, the one camera, names of UniVLA's blocks."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lattok.hub.checkpoint import Join, Settings, layer_names, published_settings, stacked
from lattok.utils import checks

ATTENTIONS = {"encoder": {"space": "spatial_attn", "time": "temporal_attn"}, "decoder": {"attention": "spatial_attn"}}


def check_view(cameras: Sequence[str], stride: str) -> None:
    """Check what published models see of a dataset: pairs of frames of one camera."""
    checks.size("cameras", "name: published models see one camera", len(cameras), 1)
    checks.strides(stride=stride)


def settings_near(config: Settings | None, near: Iterable[Path], inner: str) -> Mapping[str, Any]:
    """Read published settings, which some files hold under the name `inner`; by default the first file that is there of
    those `near` the weights, {} where none is."""
    if config is None:
        config = next((file for file in near if file.is_file()), {})
    settings = published_settings(config)
    return settings[inner] if isinstance(settings.get(inner), Mapping) else settings


def block_names(part: str, ours: str, theirs: str) -> dict[str, str | Join]:
    """Map a Transformer block of UniVLA's encoder or decoder, or of a model that comes from it."""
    names: dict[str, str | Join] = {}
    layers = {f"norm{j}": f"norm{j}" for j in range(1, len(ATTENTIONS[part]) + 2)} | {"ff.0": "ffn.0", "ff.3": "ffn.3"}
    for our_name, their_name in ATTENTIONS[part].items():
        keys = (f"{theirs}.{their_name}.to_{letter}.weight" for letter in "qkv")
        names[f"{ours}.{our_name}.qkv.weight"] = stacked(*keys)
        layers[f"{our_name}.out"] = f"{their_name}.to_out.0"
    return names | layer_names({f"{ours}.{a}": f"{theirs}.{b}" for a, b in layers.items()})


def note_assumed(what: object, **values: Any) -> None:
    """Note what was assumed of a published model, since nothing tells it and other values fit its shapes too."""
    if values:
        each = checks.listed(f"{name}={value}" for name, value in values.items())
        checks.note(f"{what} does not tell {each}: taken as published, though other values fit its tensors too")
