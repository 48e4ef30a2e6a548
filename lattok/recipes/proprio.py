"""The map from changes of the robot's state to its actions, as `lattok train idm` fits it and says how good it is."""

import math
import shlex
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lattok.data import RobotDataset, dimension_names, read_vectors, select_episodes
from lattok.data.episodes import none_known
from lattok.data.instructions import instruction_of
from lattok.data.problems import films_alone
from lattok.data.schema import vector_key
from lattok.image_lam.inverse import InverseDynamics, InverseDynamicsConfig, ProprioMap, ProprioMapConfig
from lattok.image_lam.inverse.proprio_map import proposed_anchors, proposed_offsets
from lattok.recipes.run_folder import key_flags
from lattok.samples.frames import FrameReader
from lattok.types import Episode
from lattok.utils import checks
from lattok.utils.commands import DATASET
from lattok.utils.output import unused

MOST_ROWS = 100_000  # that the map learns from
HELPS = 0.2  # of the variance, from which the map is worth a try


class KnownMap(NamedTuple):
    """A map that was fitted to known episodes, and what it says of each of them when it did not teach."""

    model: ProprioMap
    left_out: Mapping[int, Tensor]  # [T, m] by episode
    r2: float  # of these, mean over the numbers that vary; NaN where none does

    def said(self, episodes: Sequence[Episode]) -> Tensor:
        """Return what it says of the frames of episodes, [F, m]; 0 where they are not known."""
        empty = (torch.zeros(each.length, self.model.config.action_dim) for each in episodes)
        return torch.cat([self.left_out.get(e.index, none) for e, none in zip(episodes, empty, strict=True)])


def fit_proprio(
    chosen: InverseDynamicsConfig, data: Any, dataset: RobotDataset, known: list[Episode]
) -> KnownMap | None:
    """Fit it to the `known` episodes. None where video is asked for and there are no states to read."""
    key, state = data.action_key, chosen.state_key
    if data.from_ == "video" and (state not in dataset.features or not known):
        return None
    names = dimension_names(vector_key(dataset, "action_key", key))
    stateless = "Without it actions are read from video: from_=video."
    states = dimension_names(vector_key(dataset, "state_key", state, stateless))
    if state == key:
        checks.fail("state_key", "a column that is not `action_key`", repr(state))
    if not known:
        chosen_ones = [episode.index for episode in select_episodes(dataset, data.episodes)]
        found = none_known(dataset, key, chosen_ones, data.action_episodes)
        checks.fail(key, "known actions in one of the episodes that are trained on", *found)
    try:
        acts, moves = (_by_episode(dataset, *column, known) for column in (("action_key", key), ("state_key", state)))
    except checks.LattokError:
        if data.from_ != "video":
            raise
        return None  # which nothing but the map would have read
    some = _spread(known)
    unit = checks.stride_in_frames(chosen.stride, dataset.fps)
    offsets = data.state_offsets or _in_units(
        proposed_offsets([acts[i].numpy() for i in some], [moves[i].numpy() for i in some], dataset.fps), unit
    )
    config = ProprioMapConfig(
        len(names),
        names,
        len(states),
        states,
        proposed_anchors(names, states, [acts[i] for i in some], [moves[i] for i in some]),
        offsets,
        chosen.stride,
        key,
        state,
    )
    found = ProprioMap.fit(config, [acts[i] for i in some], [moves[i] for i in some], unit)
    ends = [0, *accumulate(known[i].length for i in some)]
    left_out = {known[i].index: found.left_out[ends[n] : ends[n + 1]] for n, i in enumerate(some)}
    for episode, values in zip(known, moves, strict=True):  # others did not teach at all
        if episode.index not in left_out:
            left_out[episode.index] = torch.as_tensor(found.model.infer_actions(None, unit, states=values).actions)
    r2 = found.r2[~found.r2.isnan()]
    return KnownMap(found.model, left_out, float(r2.mean()) if len(r2) else math.nan)


def map_text(found: KnownMap, key: str, episodes: int) -> str:
    """Say how good the map is."""
    added = sum(place >= 0 for place in found.model.config.anchors)
    what = f"what `{key}` adds to the state" if added else f"`{key}`"
    left = (
        checks.counted(episodes, "known episode") + ", each left out once" if episodes > 1 else "its one known episode"
    )
    return f"state: a map of its changes reads {what} with R² {found.r2:.2f} ({left})"


def route_text(
    found: KnownMap,
    data: Any,
    config: InverseDynamicsConfig,
    episodes: int,
    dataset: RobotDataset,
    typed: Sequence[str] = (),
) -> str:
    """Say what the state is good for in a run that looks at video, whose other options are `typed` again."""
    lines = [map_text(found, data.action_key, episodes)]
    if config.proprio_map is None and found.r2 >= HELPS and not films_alone(dataset):
        words = ["lattok", "train", "idm", dataset.address or DATASET, "--out"]
        rest = [*key_flags(data.action_key), *typed]
        named = (("my-map", "proprio"), ("my-both", "both"))  # whoever types both keeps both
        alone, both = (shlex.join([*words, unused(out), "--from", route, *rest]) for out, route in named)
        lines[0] += f". Trained in seconds: {alone}"
        lines[0] += f"\nWith video: {both}" * (episodes > 1)  # one alone cannot test video
    if any(place >= 0 for place in found.model.config.anchors) and not config.anchors and films_alone(dataset):
        lines.append(f"{data.action_key}: films without numbers have no state. Video teaches the commands themselves")
    if config.anchors:
        added = sum(place >= 0 for place in config.anchors)
        lines.append(
            f"{data.action_key}: {added} of {config.action_dim} numbers are absolute commands. Video teaches what they "
            f"add to `{config.state_key}`, which episodes to fill need (the commands themselves: add_state=False)"
        )
    return "\n".join(lines)


def weigh_video(model: InverseDynamics, found: KnownMap, dataset: RobotDataset, judged: Sequence[Episode]) -> str:
    """Set how much video counts beside the map, by known episodes that did not teach, and say so."""
    unit, parts = model.unit_frames(dataset.fps), list[Tensor]()
    model.eval()
    for episode in judged:
        frames = FrameReader(dataset, [episode], model.cameras, model.resize).all()
        parts.append(model.beyond_map(frames, unit, instruction_of(dataset, episode)).cpu())
    truth = torch.cat(_by_episode(dataset, "action_key", model.config.action_key, judged))
    before, after = model.weigh_video(torch.cat(parts), truth - found.said(judged))
    where = checks.counted(len(judged), "known episode") + " left out"
    if after < before:
        return f"both: video lowers what the map leaves over by {1 - after / before:.0%} in {where}"
    return f"both: video adds nothing to the map in {where}, and has no weight there"


def _by_episode(dataset: RobotDataset, argument: str, key: str, episodes: Sequence[Episode]) -> list[Tensor]:
    values = torch.from_numpy(read_vectors(dataset, argument, key, episodes))
    return list(values.split([episode.length for episode in episodes]))


def _spread(episodes: Sequence[Episode]) -> list[int]:
    """Choose places of episodes, evenly spread where there are more rows than the map needs."""
    rows = sum(episode.length for episode in episodes)
    return list(range(0, len(episodes), max(1, math.ceil(rows / MOST_ROWS))))


def _in_units(frames: Sequence[int], unit: int) -> tuple[int, ...]:
    """Turn offsets in frames into such of `unit` frames each; none becomes 0."""
    rounded = (int(np.sign(each)) * max(1, round(abs(each) / unit)) if each else 0 for each in frames)
    return tuple(sorted({*rounded}))
