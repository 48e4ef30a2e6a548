"""Training processes of a machine have the frames in common: each decodes a part of them, into one array."""

import os

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from lattok.data import open_dataset
from lattok.samples import FramePairs, shared
from lattok.samples.frames import FrameReader
from lattok.utils.checks import LattokError

EPISODES = [12, 15, 9, 11, 13]


def _worker(rank, root, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    decoded, read = [], FrameReader._read

    def counted(reader, index, rows=None, *more):
        if rows is None:
            decoded.append(index)
        return read(reader, index, rows, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FrameReader, "_read", counted)
        pairs = FramePairs(open_dataset(root), 2)
        pairs.frames = pairs.reader.all(shared=True)
        found = {"frames": torch.from_numpy(np.asarray(pairs.frames).copy()), "decoded": list(decoded)}
        dist.barrier()
        if rank == 0:
            pairs.frames[3] = 77
        dist.barrier()
        found["seen"] = int(pairs.frames[3, 0, 0, 0, 0])  # what one process writes the other one sees
        patch.setattr(shared, "CAN_SHARE", False)
        decoded.clear()
        alone = FramePairs(open_dataset(root), 2)
        alone.frames = alone.reader.all(shared=True)
        found["alone"] = len(decoded)

        def damaged(reader, index, *more):
            if index == 1 and not (more and more[0] is not None):
                raise LattokError("episode 1 is damaged")
            return read(reader, index, *more)

        patch.setattr(shared, "CAN_SHARE", True)
        patch.setattr(FrameReader, "_read", damaged)
        with pytest.raises(LattokError, match="^episode 1 is damaged$"):
            pairs.frames = pairs.reader.all(shared=True)
    torch.save(found, out / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not shared.CAN_SHARE, reason="memory without a name is Linux's")
def test_two_processes_have_one_array_and_decode_half_of_it_each(make_dataset, tmp_path):
    dataset = make_dataset(EPISODES)
    start_processes(
        _worker, args=(dataset.root, tmp_path), nprocs=2, start_method="fork"
    )  # which imports nothing again
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    frames = FramePairs(dataset, 2).frames
    for found in (first, second):
        np.testing.assert_array_equal(found["frames"].numpy(), frames)
        assert found["seen"] == 77
        assert found["alone"] == len(EPISODES)
    assert (first["decoded"], second["decoded"]) == ([0, 2, 4], [1, 3])


def test_memory_of_another_process_under_the_same_number_is_refused(tmp_path):
    path = tmp_path / "other"
    path.write_bytes(bytes(64))
    with open(path) as file:
        offer = shared._Offer("here", os.getpid(), file.fileno(), "lattok-0")
        assert shared._mapped(offer, (8,)) is None
    assert shared._mapped(offer, (8,)) is None
