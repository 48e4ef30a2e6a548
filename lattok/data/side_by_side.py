"""Robots with other numbers side by side: the vectors of each stand in a block of their own, and are 0 elsewhere.

action of the 1st of two: [a, 0]      of the 2nd: [0, b]      names "arm.x", ..., "two_arms.left_x", ...
"""

from collections.abc import Mapping, Sequence

import numpy as np

from lattok.data.schema import Feature, RobotDataset, dimension_names, parts_of, vector_key
from lattok.data.views import ColumnsView, action_spaces


class InBlocks(ColumnsView):
    """A dataset whose vectors stand in blocks of wider ones, which several datasets have in common. The numbers of the
    others are `absent`. `blocks_of` says where its own are."""

    def __init__(self, dataset: RobotDataset, blocks: Mapping[str, slice], names: Mapping[str, Sequence[str]]):
        super().__init__(dataset)
        self.blocks_of, width = dict(blocks), {key: len(names[key]) for key in blocks}
        made = {key: Feature("float32", (width[key],), tuple(names[key])) for key in blocks}
        self.features = {**dataset.features, **made}
        self.action_spaces = {key: space for key, space in action_spaces(dataset).items() if key not in blocks}
        self.absent = dict(dataset.absent)
        for key, block in blocks.items():
            lacking = {block.start + dim for dim in dataset.absent.get(key, ())}
            others = set(range(width[key])) - set(range(block.start, block.stop))
            self.absent[key] = tuple(sorted(lacking | others))

    def _read_for(self, keys: Sequence[str]) -> list[str]:
        return [key for key in keys if key in self.dataset.features or key not in self.blocks_of]

    def _made(self, episode_index: int, keys: Sequence[str], read: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        lacking = {key: np.zeros((self.length(episode_index), 0)) for key in keys if key not in read}
        own = {**read, **lacking}
        return {key: self._placed(key, own[key]) if key in self.blocks_of else own[key] for key in keys}

    def _placed(self, key: str, own: np.ndarray) -> np.ndarray:
        block = self.blocks_of[key]
        own = own.reshape(len(own), -1)
        values = np.zeros((len(own), self.features[key].shape[0]), np.float32)
        values[:, block] = own
        values[np.isnan(own).any(1)] = np.nan  # nobody knows them
        return values


def side_by_side(
    datasets: Sequence[RobotDataset], keys: Mapping[str, str], lacked: Sequence[str] = ()
) -> list[InBlocks]:
    """Give each dataset blocks of its own in the columns `keys`, which errors call by their values. Of those that are
    `lacked` a dataset may have none: its block has no number."""
    blocks: list[dict[str, slice]] = [{} for _ in datasets]
    names: dict[str, list[str]] = {key: [] for key in keys}
    for own, dataset in zip(blocks, datasets, strict=True):
        for key, argument in keys.items():
            there = () if lacks_column(dataset, key, lacked) else dimension_names(vector_key(dataset, argument, key))
            own[key] = slice(len(names[key]), len(names[key]) + len(there))
            names[key] += [f"{dataset.name}.{name}" for name in there]
    return [InBlocks(dataset, own, names) for dataset, own in zip(datasets, blocks, strict=True)]


def lacks_column(dataset: RobotDataset, key: str, lacked: Sequence[str]) -> bool:
    """Return whether a dataset has no column `key`, nor parts of one, and may lack it."""
    return key in lacked and key not in dataset.features and key not in parts_of(dataset)
