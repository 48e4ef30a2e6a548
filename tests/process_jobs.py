"""What the processes of the tests do, found by them under this module's name."""

from __future__ import annotations

import ctypes
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple


class Task(NamedTuple):
    """A job: the name of what is to be done, and with what."""

    name: str
    argument: Any = None
    slot: int | None = None

    def __str__(self) -> str:
        return f"task {self.argument}"


def worker(mark: str) -> Callable[[Task], Any]:
    """Do tasks, and count them."""
    done = []

    def wait(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def crash(_: Any) -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)

    def fail(_: Any) -> None:
        raise KeyError("no such body\nin the model")

    def do(task: Task) -> Any:
        print("not an answer")
        done.append(task)
        if task.name == "count":
            return os.getpid(), len(done), mark, os.environ["OMP_NUM_THREADS"]
        return {"wait": wait, "crash": crash, "fail": fail, "leave": os._exit}[task.name](task.argument)

    return do


@contextmanager
def one_of_two(rank: int, meeting: Path) -> Iterator[None]:
    """Be one of two processes that train together, as under torchrun; they meet in a file."""
    import torch

    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    yield
    torch.distributed.destroy_process_group()
