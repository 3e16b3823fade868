"""Time and memory of ``electra-kernels prepare`` as a text grows.

``python -m benchmarks.prepare --sizes 5 20 60`` prepares texts of so many MB, made of shuffled paragraphs of the demo's
documentation, each in a process of its own, and prints a row per size: seconds, MB/s, and the peak resident memory of
the parent and of the largest worker (VmHWM of /proc, read while they run).
"""

import argparse
import json
import multiprocessing
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from electra_kernels.data.documentation import documentation_text
from electra_kernels.data.prepare import prepare

_PARAGRAPHS = 8  # of a document


def write_text(path: Path, size: int) -> None:
    """Write documents of shuffled words, so that paragraphs do not repeat, until the file has ``size`` bytes."""
    rng = random.Random(0)
    paragraphs = [text.split() for document in documentation_text() for text in document.paragraphs]
    written = 0
    with open(path, "w", encoding="utf-8") as file:
        while written < size:
            chosen = rng.choices(paragraphs, k=_PARAGRAPHS)
            rotated = (words[cut:] + words[:cut] for words in chosen for cut in [rng.randrange(len(words))])
            written += file.write("\n".join(map(" ".join, rotated)) + "\n\n")


class _PeakMemory(threading.Thread):
    """Watches the peak resident memory of this process's children, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.largest, self.done = 0.0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.1):
            peaks = [_peak_memory(child.pid) for child in multiprocessing.active_children()]
            self.largest = max([self.largest, *peaks])


def _peak_memory(process: int | str | None) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:  # it has ended
        return 0.0
    found = re.search(r"VmHWM:\s*(\d+)", status)
    return int(found[1]) / 1e3 if found else 0.0


def measure(size: float, processes: int) -> dict[str, float]:
    """Prepare a text of ``size`` MB in this process and its workers; times in seconds, memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "text.txt")
        write_text(text, int(size * 1e6))
        stages: dict[str, float] = {}

        def progress(stage: str, done: int, total: int) -> None:
            stages.setdefault(stage, time.perf_counter())

        memory = _PeakMemory()
        memory.start()
        start = time.perf_counter()
        cache = prepare(
            [text], Path(folder, "cache"), processes=processes, vocab_size=8192, progress=progress
        )
        seconds = time.perf_counter() - start
        memory.done.set()
        return {
            "parent": _peak_memory("self"),
            "worker": memory.largest,
            "size": size,
            "seconds": seconds,
            "encoding": start + seconds - stages["encoding"],
            "tokens": len(cache.tokens),
        }


def _measure_apart(size: float, processes: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.prepare", "--one", str(size), "--processes", str(processes)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=float, nargs="+", default=[5, 20, 60], metavar="MB")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)  # measure this size here
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.processes)))
        return
    print("| MB | tokens | seconds | of it encoding | MB/s | parent MB | largest worker MB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for size in arguments.sizes:
        row = _measure_apart(size, arguments.processes)
        print(
            f"| {size:g} | {row['tokens']:,} | {row['seconds']:.1f} | {row['encoding']:.1f} "
            f"| {size / row['seconds']:.2f} | {row['parent']:.0f} | {row['worker']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
