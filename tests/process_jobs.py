"""What the processes of the tests do, found by them under this module's name."""

import ctypes
import os
import resource
import signal
import sys
import time
import typing
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from tempfile import TemporaryDirectory
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

    def cut(_: Any) -> bytes:
        """Die in the middle of an answer, which is larger than a pipe holds."""
        signal.signal(signal.SIGALRM, lambda *_: os._exit(4))
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        return bytes(1 << 20)

    def fail(_: Any) -> None:
        raise KeyError("no such body\nin the model")

    def do(task: Task) -> Any:
        print("not an answer")
        done.append(task)
        if task.name == "count":
            return os.getpid(), len(done), mark, os.environ["OMP_NUM_THREADS"]
        known = {"wait": wait, "crash": crash, "cut": cut, "fail": fail, "leave": os._exit}
        return known[task.name](task.argument)

    return do


@contextmanager
def forked(work: Callable[..., Any], *given: Any) -> Iterator[ForkProcess]:
    """Do `work(*given)` in a process that has imported what this one has; it is killed where nobody waits for it."""
    process = get_context("fork").Process(target=work, args=given)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def afresh(code: str, folder: Path, *paths: Path) -> None:
    """Run `code` in `folder`, in a process that has imported what lattok needs, and nothing of lattok itself."""
    said = folder / "said.txt"
    with forked(_afresh, code, folder, said, [str(path) for path in paths]) as process:
        process.join()
        assert process.exitcode == 0, said.read_text()[-4000:]


def _afresh(code: str, folder: Path, said: Path, paths: list[str]) -> None:
    os.chdir(folder)
    warnings.simplefilter("default")
    for name in [name for name in sys.modules if name.split(".")[0].startswith(("lattok", "benchmarks", "studies"))]:
        del sys.modules[name]
    for forget in typing._cleanups:  # annotations, whose marks would be those of modules that are gone
        forget()
    sys.path[:0] = paths
    with said.open("w", buffering=1) as sys.stdout:
        sys.stderr = sys.stdout
        exec(code, {"__name__": "__main__"})


def typed(words: Sequence[str], said: Path) -> None:
    """Run a command as a terminal does, which hears requests to stop; what it says goes into a file."""
    from lattok.cli import main
    from lattok.utils import signals

    for number in signals.ASKING:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with said.open("w", buffering=1) as sys.stderr:
        code = main(list(words))
    os._exit(code)


def together(work: Callable[..., None], *given: Any, count: int = 2) -> None:
    """Do `work(rank, *given)` in processes that train together, as under torchrun; they meet in a file.

    They are forked and so import nothing again, and end at once: while the interpreter of a process that was started
    by itself is taken down, a thread of gloo may still let go of a tensor, and the process dies of that.
    """
    from torch.multiprocessing import start_processes

    with TemporaryDirectory() as folder:
        start_processes(_one_of, (count, folder, work, given), nprocs=count, start_method="fork")


def _one_of(rank: int, count: int, folder: str, work: Callable[..., None], given: tuple[Any, ...]) -> None:
    import torch
    from accelerate.state import AcceleratorState

    from lattok.recipes.run_folder import leave_others

    os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(count))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="")
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)
    # a port found free may be taken before it is used
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    work(rank, *given)
    leave_others()
