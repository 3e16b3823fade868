"""The log of a run: ``metrics.jsonl``, one JSON object per line, and the same numbers for TensorBoard.

Every record has ``kind``, ``step`` and ``time`` (seconds since 1970). The kinds:

- "start": the training begins, or is resumed, after ``step`` steps; ``steps`` is the length of the run.
- "step": a `StepRecord`: ``steps``, ``tokens``, ``seconds``, the learning rates and the metrics.
- "evaluation": ``seconds`` and the metrics on held-out text (`evaluation.held_out.evaluate_electra`).
- "alarm": ``message``.
- "end": the training ended; ``reason`` is "finished" or why it stopped early.

A number that is NaN or infinite is null, which JSON has.
"""

import io
import json
import math
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from electra_kernels.files import write_whole

LOG = "metrics.jsonl"
EVENTS = "tensorboard"
_KEPT = 10_000  # records that wait in memory while they cannot be written


@dataclass(frozen=True)
class StepRecord:
    """How far a training has come, and its metrics since the last record.

    Attributes:
        step: finished steps.
        steps: length of the run.
        tokens: seen so far without padding, on all ranks.
        seconds: of training so far; those before a resume count.
        learning_rates: of the last step: ``learning_rate`` (AdamW) and, where Muon trains, ``muon_learning_rate``.
        metrics: those of the objective, for example ``mlm_loss``, ``rtd_loss``, ``mlm_accuracy``,
            ``sampled_accuracy``, ``replaced``, ``recall``, and those of the trainer: ``gradient_norm`` (before
            clipping), ``tokens_per_second``, ``padding`` (share of the cells), ``data_wait`` (share of the time),
            ``memory`` (peak bytes of the device, on a CPU of the process) and ``mfu`` where the peak is known.
    """

    step: int
    steps: int
    tokens: int
    seconds: float
    learning_rates: Mapping[str, float]
    metrics: Mapping[str, float]

    @property
    def fraction(self) -> float:
        """The finished share of the run, in [0, 1]."""
        return self.step / self.steps if self.steps else 1.0


class Log:
    """Writes the log of one run; only rank 0 opens it.

    A file that cannot be written does not end the training: ``warn`` gets one line per outage, the records wait in
    memory (the newest 10,000), and each later record tries again.

    Args:
        folder: the output folder of the run.
        step: the step at which the training begins or resumes. Records of later steps are removed: the steps will
            be done again. With 0 the whole log is removed.
        warn: called with a line that says what cannot be written.

    Raises:
        OSError: the folder cannot be written, or the log of an earlier part of the run cannot be read.
    """

    def __init__(self, folder: Path, *, step: int = 0, warn: Callable[[str], None]) -> None:
        _drop_later_records(folder / LOG, step)
        (folder / EVENTS).mkdir(exist_ok=True)
        if step == 0:
            for events in (folder / EVENTS).glob("events.out.tfevents.*"):
                events.unlink()
        self._lines = _File(folder / LOG, b"", warn)
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._events = _File(folder / EVENTS / name, _first_events(step), warn)

    def start(self, step: int, steps: int, **facts: Any) -> None:
        """Log that the training begins or resumes after ``step`` of ``steps`` steps."""
        self.write("start", step, steps=steps, **facts)

    def step(self, record: StepRecord) -> None:
        figures = {"steps": record.steps, "tokens": record.tokens, "seconds": record.seconds}
        self.write("step", record.step, **figures, **record.learning_rates, **record.metrics)

    def evaluation(self, step: int, seconds: float, metrics: Mapping[str, float]) -> None:
        """Log metrics on held-out text, ``seconds`` of training after the beginning."""
        self.write("evaluation", step, **{"seconds": seconds, **metrics})

    def alarm(self, step: int, message: str) -> None:
        self.write("alarm", step, message=message)

    def end(self, step: int, reason: str = "finished") -> None:
        """Log that the training ended after ``step`` steps."""
        self.write("end", step, reason=reason)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append a record to both files; returns when the operating system has it."""
        record = {"kind": kind, "step": step, "time": time.time(), **values}
        self._lines.append((json.dumps(finite(record), allow_nan=False) + "\n").encode())
        if kind in ("step", "evaluation"):
            self._events.append(_scalars(record))


class _File:
    """A file that grows at its end, by whole pieces only.

    Args:
        path: where it is, in a folder that exists.
        header: the first bytes of a new file.
        warn: called once when it can no longer be written.
    """

    def __init__(self, path: Path, header: bytes, warn: Callable[[str], None]) -> None:
        self.path, self.header, self.warn = path, header, warn
        self.waiting: deque[bytes] = deque(maxlen=_KEPT)
        self.fails = False

    def append(self, piece: bytes) -> None:
        self.waiting.append(piece)
        try:
            self._write(b"".join(self.waiting))
        except OSError as error:
            if not self.fails:
                self.warn(
                    f"{self.path}: {error.strerror or error}; the training goes on, and the log is written as soon "
                    "as that is possible"
                )
            self.fails = True
        else:
            self.waiting.clear()
            self.fails = False

    def _write(self, data: bytes) -> None:
        """Opens the file each time, so that a folder which was away for a while is found again."""
        with open(self.path, "ab", buffering=0) as file:
            end = file.tell()
            rest = memoryview(data if end else self.header + data)
            try:
                while rest:  # a disk with little room takes a part, and reports the error at the next write
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(end)
                raise


# ---- TensorBoard ----
# torch's SummaryWriter writes in a thread. On a full disk that thread dies with a traceback, and so would the training.
# These functions make the same bytes of TensorBoard's own classes, and `_File` writes them.


def _first_events(step: int) -> bytes:
    """The beginning of a file of events. It hides the events after ``step`` in the files of a killed run."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    version = Event(wall_time=time.time(), step=step, file_version="brain.Event:2")
    start = Event(
        wall_time=time.time(), step=step + 1, session_log=SessionLog(status=SessionLog.SessionStatus.START)
    )
    return _encode(version) + _encode(start)


def _scalars(record: dict[str, Any]) -> bytes:
    """The numbers of a record, under "training/" or "evaluation/" and their names."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    group = "training" if record["kind"] == "step" else record["kind"]
    values = [
        Summary.Value(tag=f"{group}/{name}", simple_value=value)
        for name, value in record.items()
        if name not in ("step", "steps", "time") and isinstance(value, int | float)
    ]
    return _encode(Event(wall_time=record["time"], step=record["step"], summary=Summary(value=values)))


def _encode(event: Any) -> bytes:
    from tensorboard.summary.writer.record_writer import RecordWriter

    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()


# ---- reading ----


@dataclass(frozen=True)
class RunLog:
    """The records of a run, in the order of their steps.

    Attributes:
        records: every record, of all kinds.
        damaged: lines that hold no record, such as a last line that was not written to its end.
    """

    records: list[dict[str, Any]]
    damaged: int = 0

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind. If a step was evaluated or logged twice, the later record counts."""
        records = [record for record in self.records if record["kind"] == kind]
        if kind in ("step", "evaluation"):
            return list({record["step"]: record for record in records}.values())
        return records

    @property
    def step_records(self) -> list[StepRecord]:
        """The records of kind "step" as they were logged; a number that was not finite is NaN."""
        return [_step_record(values) for values in self.of_kind("step")]

    @property
    def step(self) -> int:
        """The last step that is known to be finished."""
        return max((record["step"] for record in self.records), default=0)

    @property
    def steps(self) -> int | None:
        """The length of the run; None if no record says it."""
        return next((record["steps"] for record in reversed(self.records) if "steps" in record), None)

    @property
    def end(self) -> str | None:
        """The reason of the end; None if the training was not ended, or was resumed since."""
        for record in reversed(self.records):
            if record["kind"] in ("start", "step", "end"):
                return str(record["reason"]) if record["kind"] == "end" else None
        return None


def read_log(path: Path) -> RunLog:
    """The log at ``path``, which may grow meanwhile; no record if there is no such file.

    Raises:
        OSError: the file cannot be read.
    """
    lines = _read_lines(path)
    records = [record for record in map(_record, lines) if record is not None]
    return RunLog(records, len(lines) - len(records))


def finite(values: Any) -> Any:
    """The same values with None for NaN and infinity, which JSON does not have."""
    if isinstance(values, Mapping):
        return {name: finite(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _read_lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None if the line is not whole or holds something else."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    is_record = (
        line.endswith(b"\n") and isinstance(record, dict) and {"kind", "step", "time"} <= record.keys()
    )
    return record if is_record and isinstance(record["step"], int) else None


def _step_record(values: Mapping[str, Any]) -> StepRecord:
    position = ("step", "steps", "tokens", "seconds")
    figures = {
        name: math.nan if value is None else value
        for name, value in values.items()
        if name not in ("kind", "time", *position)
    }
    rates = {name: figures.pop(name) for name in tuple(figures) if name.endswith("learning_rate")}
    return StepRecord(**{name: values[name] for name in position}, learning_rates=rates, metrics=figures)


def _drop_later_records(path: Path, step: int) -> None:
    """Leave the records up to ``step`` in the log; none with 0."""
    lines = _read_lines(path)
    kept = [line for line in lines if (record := _record(line)) and record["step"] <= step and step > 0]
    if len(kept) == len(lines):
        return
    if kept == lines[: len(kept)]:
        os.truncate(path, sum(map(len, kept)))  # needs no room, so a full disk does not matter
    else:
        write_whole(path, b"".join(kept))
