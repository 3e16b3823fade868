"""What a run takes, in seconds and bytes: on the CPU by the clock of the host, on a GPU by the events of its stream."""

import math
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch.utils.benchmark import Timer

from benchmarks import memory

Run = Callable[[], object]

# A block shorter than this is mostly the clock and the scheduler.
_SHORTEST_BLOCK = 5e-3


class Meter(Protocol):
    """Measures a run on one kind of device."""

    device: torch.device

    def block(self, seconds: float, back_to_back: bool) -> int:
        """How many runs, of that length each, are timed together."""

    def seconds(self, run: Run, runs: int, back_to_back: bool) -> float:
        """Per run."""

    def floors(self, bytes_read: int, bytes_written: int) -> tuple[Run, Run]:
        """What moves the bytes that are read, and what moves the bytes that are read and written."""


class HostMeter:
    """The mean of runs that follow one another, by the clock of the host."""

    device = torch.device("cpu")

    def block(self, seconds: float, back_to_back: bool) -> int:
        return max(1, round(_SHORTEST_BLOCK / seconds))

    def seconds(self, run: Run, runs: int, back_to_back: bool) -> float:
        return Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads()).timeit(runs).mean

    def floors(self, bytes_read: int, bytes_written: int) -> tuple[Run, Run]:
        """A sum, and a sum and zeros."""
        source, target = (torch.ones(max(1, size // 4)) for size in (bytes_read, bytes_written))

        def traffic() -> None:
            source.sum()
            target.zero_()

        return source.sum, traffic


class Event(Protocol):
    """As torch.cuda.Event; milliseconds."""

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end_event: Any) -> float: ...


class HostEvent:
    """An event of a device that has done everything as soon as it is asked for: the CPU, for trying a `StreamMeter`."""

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        """Everything before the event has been done."""

    def elapsed_time(self, end_event: "HostEvent") -> float:
        return (end_event.time - self.time) * 1e3


def event(device: torch.device) -> Event:
    return torch.cuda.Event(enable_timing=True) if device.type == "cuda" else HostEvent()


class StreamMeter:
    """The time between two events of the device's stream.

    A run is timed by itself, with a cold second-level cache: a buffer larger than that is written before it, as often
    as gives the host the time to queue the whole run. So this is the time of the device alone. Runs "back to back"
    are those of a training loop: where the device waits for the host, that counts, and the cache is as they leave it.
    """

    _MOST_WRITES = 100
    _MOST_RUNS = 10
    _BACK_TO_BACK_SECONDS, _LEAST_BACK_TO_BACK = 0.05, 3

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffer = torch.empty(4 * _cache_bytes(device), dtype=torch.uint8, device=device)
        self._write_seconds = max(1e-6, self._between(self._buffer.zero_, 10))
        self._queueing = WeakKeyDictionary[Run, float]()

    def block(self, seconds: float, back_to_back: bool) -> int:
        if back_to_back:
            return max(self._LEAST_BACK_TO_BACK, round(self._BACK_TO_BACK_SECONDS / seconds))
        return min(max(1, round(_SHORTEST_BLOCK / seconds)), self._MOST_RUNS)

    def seconds(self, run: Run, runs: int, back_to_back: bool) -> float:
        """The mean of runs back to back, the median of single ones."""
        if back_to_back:
            return self._between(run, runs)
        pairs = [(event(self.device), event(self.device)) for _ in range(runs)]
        for start, end in pairs:
            for _ in range(self._writes_ahead_of(run)):
                self._buffer.zero_()
            start.record()
            began = time.perf_counter()
            run()
            self._queueing[run] = time.perf_counter() - began
            end.record()
        pairs[-1][1].synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in pairs) / 1e3

    def floors(self, bytes_read: int, bytes_written: int) -> tuple[Run, Run]:
        """Copies, which read as many bytes as they write."""
        return self.copy(bytes_read), self.copy(bytes_read + bytes_written)

    def copy(self, size: int) -> Run:
        """Moves that many bytes, half of them there and half of them back."""
        source, target = (
            torch.ones(max(1, size // 2), dtype=torch.uint8, device=self.device) for _ in range(2)
        )
        return lambda: target.copy_(source)

    def copied_per_second(self, size: int) -> float:
        """Bytes that a copy reads and writes in a second."""
        copy = self.copy(size)
        copy()
        return size / self.seconds(copy, self._MOST_RUNS, back_to_back=False)

    def _between(self, run: Run, runs: int) -> float:
        """Per run, with one before them, so that the device has work when the first is queued."""
        start, end = event(self.device), event(self.device)
        run()
        start.record()
        for _ in range(runs):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3 / runs

    def _writes_ahead_of(self, run: Run) -> int:
        """Writes of the buffer that take longer than the host took to queue the run the last time."""
        queueing = self._queueing.get(run, 0.0)
        return min(1 + math.ceil(1.5 * queueing / self._write_seconds), self._MOST_WRITES)


def _cache_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    return 1 << 20


class Graph:
    """A run as a CUDA graph, captured by the first call and replayed by all; on a CPU it is the run itself.

    Attributes:
        peak_extra_bytes: of the capture, since a replay allocates nothing.
    """

    def __init__(self, run: Run, device: torch.device) -> None:
        self._run, self._device = run, device
        self._replay: Run | None = None if device.type == "cuda" else run
        self.peak_extra_bytes: int | None = None

    def __call__(self) -> object:
        if self._replay is None:
            self._replay = self._capture()
        return self._replay()

    def release(self) -> None:
        """Give back the memory of the graph; the next call captures it again."""
        if self._device.type == "cuda":
            self._replay = None
            torch.cuda.empty_cache()

    def _capture(self) -> Run:
        # What is set up once (libraries, compilation, the autograd engine) must not happen while it is captured.
        side, current = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(3):
                self._run()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()

        def capture() -> None:
            with torch.cuda.graph(graph):
                self._run()

        self.peak_extra_bytes = memory.peak_extra_bytes(capture, self._device)
        return graph.replay


def peak_extra_bytes(run: Run, device: torch.device) -> int | None:
    """Peak memory of one run beyond what was there before; None where the system does not tell."""
    known = run.peak_extra_bytes if isinstance(run, Graph) else None
    return memory.peak_extra_bytes(run, device) if known is None else known
