"""Several datasets as one inverse model sees them: cameras in common places, and what each has of its own."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from lattok.data import RobotDataset, camera_keys
from lattok.data.completed import Completed
from lattok.data.schema import short_name
from lattok.image_lam.inverse import InverseDynamicsConfig, RobotConfig
from lattok.recipes.policy_sources import cameras_for
from lattok.utils import checks


class Placed(NamedTuple):
    """A dataset with its pictures in the places that all have in common, black where it has no camera."""

    dataset: RobotDataset
    names: tuple[str, ...]  # of all places
    cameras: tuple[str, ...]  # its own that are looked at
    places: tuple[int, ...] = ()  # of each of them
    views: int = 0  # places that an earlier encoder has, where they are others


def shown_alike(datasets: Sequence[RobotDataset], cameras: Sequence[str] | None) -> list[Placed]:
    """Put the cameras of several datasets into common places, which are those of the dataset with most of them: its
    cameras have the places of the same names, where none is the same, the first ones. One dataset stays as it is."""
    lead = max(datasets, key=lambda dataset: len(dataset.cameras))
    names = camera_keys(lead, cameras)
    if len(datasets) == 1:
        return [Placed(lead, names, names)]
    found = []
    for dataset in datasets:
        camera_keys(dataset)  # refuses one without any
        shown = cameras_for(dataset, names)
        own = {place: key for place, key in enumerate(shown.values()) if key is not None}
        view = dataset
        if [*shown.values()] != [*shown]:
            told = [f"{short_name(key)} as {short_name(names[place])}" for place, key in own.items()]
            checks.note(f"mix: cameras of {dataset.name}: {', '.join(told)}")
            view = Completed(dataset, {}, shown)
        found.append(Placed(view, names, tuple(own.values()), tuple(own)))
    return found


def together(configs: Sequence[InverseDynamicsConfig], seen: Sequence[Placed]) -> InverseDynamicsConfig:
    """Return the configuration of one model of several datasets, from those of each alone."""
    robots = tuple(
        RobotConfig(
            each.dataset.name,
            each.cameras,
            each.places,
            config.action_dim,
            config.action_names,
            config.state_dim,
            config.state_names,
            config.anchors,
        )
        for config, each in zip(configs, seen, strict=True)
    )
    common = {"cameras": seen[0].names, "action_dim": max(robot.action_dim for robot in robots), "robots": robots}
    common |= {"tasks": tuple(sorted({task for config in configs for task in config.tasks}))}
    return replace(configs[0], action_names=(), state_dim=0, state_names=(), anchors=(), **common)
