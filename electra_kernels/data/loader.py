"""Batches of a run, read ahead in a thread."""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import torch

from electra_kernels.data.batch import RowSource, TokenBatch
from electra_kernels.data.order import row_indices

_AHEAD = 3  # batches that are ready before they are asked for
_PATIENCE = 5.0  # seconds to wait for a read that does not return, for example on a network disk


class Loader(Iterator[TokenBatch]):
    """This rank's part of every batch of a phase, endlessly, in the order of `row_indices`.

    The rows of a run are numbered over ranks, steps and phases. Step s of a phase has the rows from
    ``first_row + s * batch_size`` on, and each rank reads its share of them. So the content of a step depends on the
    seed and the number of its rows alone, and a run continues at any step at once.

    One thread reads ahead. It ends with `close`, with the last reference to the loader, and with the process.

    Args:
        rows: the rows of the phase.
        seed: of the order.
        batch_size: rows of a step over all ranks, a multiple of ``ranks``.
        device: where the batches are needed. For a CUDA device they are pinned and copied without waiting.
        first_step: the first step that is read, counted from the beginning of the phase.
        first_row: the number in the run of the first row of the phase.
        rank: this process among ``ranks``.
        ranks: processes that share a batch.

    Attributes:
        waited: seconds that the consumer has waited for batches.

    Raises:
        ValueError: batch_size is no multiple of ranks, or rank is out of range. An error of the rows is raised where
            their batch is asked for.
    """

    def __init__(
        self,
        rows: RowSource,
        *,
        seed: int,
        batch_size: int,
        device: torch.device,
        first_step: int = 0,
        first_row: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        if not 0 <= rank < ranks:
            raise ValueError(f"rank: {rank} should be from 0 to {ranks - 1}")
        if batch_size < 1 or batch_size % ranks:
            raise ValueError(f"batch_size: {batch_size} should be a positive multiple of the {ranks} ranks")
        share = batch_size // ranks
        # Each thread has a current device of its own. Pinned on the default one, every rank would open a context on it.
        on_device = torch.cuda.device(device) if device.type == "cuda" else None

        def read(step: int) -> TokenBatch:
            entries = step * batch_size + rank * share + torch.arange(share)
            batch = rows.batch(row_indices(entries, len(rows), seed), first_row + entries)
            if on_device is None:
                return batch
            with on_device:
                return batch.pin_memory()

        self.device = device
        self.waited = 0.0
        self._ready: queue.Queue[TokenBatch | BaseException] = queue.Queue(_AHEAD)
        stop = threading.Event()
        arguments = (read, first_step, self._ready, stop)
        # Without a reference to the loader, so that it can be collected while the thread runs.
        thread = threading.Thread(target=_read_ahead, args=arguments, name="row loader", daemon=True)
        thread.start()
        self._end = weakref.finalize(self, _end, thread, self._ready, stop)

    def __next__(self) -> TokenBatch:
        if not self._end.alive:
            raise StopIteration
        start = time.perf_counter()
        batch = self._ready.get()
        self.waited += time.perf_counter() - start
        if isinstance(batch, BaseException):
            self.close()
            raise batch
        return batch.to(self.device)

    def close(self) -> None:
        """End the thread. Afterwards the loader is exhausted."""
        self._end()


def _read_ahead(
    read: Callable[[int], TokenBatch],
    step: int,
    ready: "queue.Queue[TokenBatch | BaseException]",
    stop: threading.Event,
) -> None:
    while not stop.is_set():
        try:
            ready.put(read(step))
        except BaseException as error:
            ready.put(error)
            return
        step += 1


def _end(
    thread: threading.Thread, ready: "queue.Queue[TokenBatch | BaseException]", stop: threading.Event
) -> None:
    stop.set()
    while True:  # makes room for the one batch that the thread may be waiting to put
        try:
            ready.get_nowait()
        except queue.Empty:
            break
    thread.join(timeout=_PATIENCE)
