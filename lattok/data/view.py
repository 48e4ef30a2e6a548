"""The base of datasets that show another dataset in some other way."""

from __future__ import annotations

from typing import Any

from lattok.data.schema import RobotDataset


class View:
    """A dataset in front of another one: what it does not define is the other's. Can be pickled where that one can."""

    def __init__(self, dataset: RobotDataset):
        self.dataset = dataset

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}({self.dataset!r})"

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):  # not there yet while it is being unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)
