"""Batches made ahead of the steps that take them: by a thread, and on an accelerator in a stream of their own."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate.utils import recursively_apply, send_to_device
from typing_extensions import Self

from lattok.utils.devices import module_of
from lattok.utils.parallel import Prefetcher, Request, check_wanted

Batches = Callable[[int, int, int], Any]  # step, share, shares: a share of the samples of a step
DEPTH = 3  # batches that wait


class BatchSource(ABC):
    """Batches that are gathered in main memory and then changed on the device of the model."""

    @contextmanager
    def started(self, first: int, last: int, own: Sequence[int], shares: int) -> Iterator[None]:
        """Make ready what steps [first, last) of the shares `own` need, as long as this lasts."""
        yield

    @abstractmethod
    def gather(self, step: int, share: int, shares: int) -> Any:
        """Return a share of a step as it is stored."""

    def change(self, batch: Any, step: int, share: int, shares: int) -> Any:
        """Return the share as the model sees it, on the device that it is on."""
        return batch

    def __call__(self, step: int, share: int, shares: int) -> Any:
        return self.change(self.gather(step, share, shares), step, share, shares)


class Feed:
    """Gives the batches of `own` shares, in their order, of steps `first` to `last` (excluded), on `device`. `batches`
    must not draw from torch's global generator, which is the model's."""

    def __init__(self, batches: Batches, first: int, last: int, own: Sequence[int], shares: int, device: torch.device):
        self._batches, self._steps, self._own, self._shares = batches, (first, last), own, shares
        self._device, self._waited = device, 0.0
        self._module = module_of(device)
        self._stream = None if self._module is None else self._module.Stream(device)

    @contextmanager
    def started(self) -> Iterator[Self]:
        """Make batches ahead as long as this lasts."""
        source, needed = self._batches, (*self._steps, self._own, self._shares)
        ready = source.started(*needed) if isinstance(source, BatchSource) else nullcontext()
        jobs = (Request((step, share), 1) for step in range(*self._steps) for share in self._own)
        with ready, Prefetcher(self._make, jobs, DEPTH, threads=1) as self._ahead:
            yield self

    def __call__(self, step: int, share: int) -> Any:
        """Return a batch; the next call asks for the next one."""
        begun = time.monotonic()
        batch, ready = self._ahead(step, share)
        self._waited += time.monotonic() - begun
        if ready is not None:
            now = self._module.current_stream(self._device)
            now.wait_event(ready)
            # memory that this stream still reads is not given to the next batch
            recursively_apply(lambda tensor: tensor.record_stream(now), batch)
        return batch

    def waited(self) -> float:
        """Return for how many seconds steps have waited since this was asked before."""
        waited, self._waited = self._waited, 0.0
        return waited

    def _make(self, step: int, share: int) -> tuple[Any, Any]:
        check_wanted()
        source, place = self._batches, (step, share, self._shares)
        batch = source.gather(*place) if isinstance(source, BatchSource) else source(*place)
        if self._stream is not None:
            batch = recursively_apply(torch.Tensor.pin_memory, batch)
        with nullcontext() if self._stream is None else self._module.stream(self._stream):
            batch = send_to_device(batch, self._device, non_blocking=self._stream is not None)
            if isinstance(source, BatchSource):
                batch = source.change(batch, *place)
            return batch, None if self._stream is None else self._stream.record_event()
