"""Runs of ``electra-kernels pretrain`` as users start them, alone or by torchrun, and ways to end them."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from electra_kernels.training.model_folder import load_encoder

ERROR = "electra-kernels: error: "
PATIENCE = 600.0  # seconds until a test gives up waiting; a busy machine is slow
STEPS = 60  # of most runs
# Every tenth step is logged and saved.
OPTIONS = "--config demo --batch-size 8 --micro-batch 4 --threads 1 --save-minutes 0.00001".split()
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
COMMAND = ["-m", "electra_kernels"]


class Run:
    """One process of the command line, or torchrun with its ranks."""

    def __init__(self, output, *options, ranks=1, environment=None, command=COMMAND):
        launcher = [sys.executable] if ranks == 1 else [*TORCHRUN, str(ranks)]
        arguments = [*launcher, *command, "pretrain", "--output", output, *OPTIONS, *options]
        self.output, self.ranks = Path(output), ranks
        beside = self.output.parent.parent if self.output.parent.is_mount() else self.output.parent
        self.messages = beside / f"{self.output.name}.{time.monotonic_ns()}.stderr"
        with open(self.messages, "wb") as file:
            self.process = subprocess.Popen(
                [*map(str, arguments)],
                stdout=subprocess.DEVNULL,
                stderr=file,
                env={**ENVIRONMENT, **(environment or {})},
                start_new_session=True,
            )
        self.begin = time.time()

    # ---- what it does ----

    @property
    def pids(self):
        """The processes that train."""
        if self.ranks == 1:
            return [self.process.pid]
        try:
            found = psutil.Process(self.process.pid).children()
        except psutil.NoSuchProcess:
            return []
        return [child.pid for child in found if "pretrain" in child.cmdline()]

    def ended(self):
        return self.process.poll() is not None

    def wait_until(self, happens, poll=0.002):
        """Wait until ``happens(run)`` is true; False if the run ends before."""
        limit = time.monotonic() + PATIENCE
        while not happens(self):
            if self.ended():
                return False
            assert time.monotonic() < limit, f"nothing happened; the run printed: {self.stderr()}"
            time.sleep(poll)
        return True

    def started(self):
        """Whether this process, not an earlier one, has begun to train."""
        return any(r["kind"] == "start" and r["time"] > self.begin for r in records(self.output))

    # ---- how it ends ----

    def signal(self, number, ranks=None):
        """Send a signal to the given ranks, or to all."""
        for pid in [self.pids[rank] for rank in ranks] if ranks else self.pids:
            os.kill(pid, number)

    def kill(self):
        """End it and all its ranks at once, as a crash of the machine does."""
        pids = [self.process.pid, *(pid for pid in self.pids if pid != self.process.pid)]
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(PATIENCE)
        while any(psutil.pid_exists(pid) and alive(pid) for pid in pids):
            time.sleep(0.01)

    def wait(self, patience=PATIENCE):
        """The exit status."""
        return self.process.wait(patience)

    def stderr(self):
        return self.messages.read_text(errors="replace")

    def errors(self):
        """Our own error lines; fails on a traceback that is not torchrun's."""
        page = self.stderr()
        assert page.count("Traceback") <= page.count("ChildFailedError: ") + page.count(
            "SignalException: "
        ), page
        return [line.removeprefix(ERROR) for line in page.splitlines() if line.startswith(ERROR)]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}


def reached(step):
    """Whether a run has logged this step."""
    return lambda run: any(r["kind"] == "step" and r["step"] >= step for r in records(run.output))


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def finished(output, *options, **how):
    """A run to its end; returns it."""
    run = Run(output, *options, **how)
    assert run.wait() == 0, run.stderr()
    return run


def records(output):
    """The whole lines of metrics.jsonl, which may be written meanwhile."""
    try:
        page = (Path(output) / "metrics.jsonl").read_bytes()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in page.splitlines(keepends=True) if line.endswith(b"\n")]


def weight_files(output):
    """The files of the model's weights, by the name of their folder."""
    return {path.parent.name: path for path in (Path(output) / "model").glob("*/model.safetensors")}


def weights(output):
    """A hash of each file of weights, by the name of its folder."""
    files = weight_files(output)
    assert files
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def checkpoints(output):
    return sorted(path.name for path in (Path(output) / "checkpoints").glob("*"))


def check_model(output):
    """Whether there is a model; fails if it cannot be loaded."""
    if not (Path(output) / "model").exists():
        return False
    load_encoder(Path(output) / "model")
    return True


def check_end(output, steps):
    """A finished run has every logged step once, in order, two checkpoints, and nothing half-made."""
    logged = [record["step"] for record in records(output) if record["kind"] == "step"]
    assert [step for step in logged if step % 10 == 0] == list(range(10, steps + 1, 10))
    assert logged == sorted(set(logged))
    assert records(output)[-1] == {**records(output)[-1], "kind": "end", "reason": "finished"}
    assert checkpoints(output)[-1] == f"step-{steps}"
    assert len(checkpoints(output)) == 2
    assert not [path for path in Path(output).rglob("*") if path.suffix in (".partial", ".previous", ".part")]
    assert (Path(output) / "report.html").exists()
