import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    bce,
    contenders,
    gpu_check,
    gpu_place,
    gpu_sections,
    gpu_targets,
    masking,
    mlm_head,
    results,
    rtd_head,
    sampling,
    step,
    training_step,
)
from benchmarks.harness import Case, measure
from benchmarks.meters import Graph, StreamMeter
from electra_kernels.models import Electra, Encoder

CPU = torch.device("cpu")
MACHINE = results.machine()


@pytest.fixture
def meter():
    return StreamMeter(CPU)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_place, "path", lambda dry_run: tmp_path / "device.json")
    return gpu_place.Place("bench", dry_run=True)


def run_command(*arguments, **environment):
    command = [sys.executable, "-m", "benchmarks.gpu_check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_all_sections_end_within_eight_minutes():
    assert sum(gpu_check.SECTIONS.values()) <= 8 * 60


def test_without_a_gpu_one_line_says_so():
    process = run_command(CUDA_VISIBLE_DEVICES="")
    assert process.returncode == 1
    assert "no GPU" in process.stderr
    assert len((process.stdout + process.stderr).splitlines()) == 1


def test_a_python_without_torch_is_told(monkeypatch):
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    assert "has no torch" in gpu_check._why_not(dry_run=True)


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A shell script in the place of the Python that would run a section."""

    def write(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return write


@pytest.mark.parametrize(
    "script, outcome",
    [("exit 0", "passed"), ("exit 1", "failed"), ("kill -SEGV $$", "ended by SIGSEGV")],
)
def test_the_outcome_of_a_section(stand_in, script, outcome):
    stand_in(script)
    assert gpu_check._run("build", dry_run=True, seconds=30) == outcome


def test_what_hangs_is_stopped_with_all_its_processes(stand_in, tmp_path):
    stand_in(f"sleep 100 & echo $! > {tmp_path}/child; wait")
    assert gpu_check._run("build", dry_run=True, seconds=1) == "stopped after 1 s"
    assert_dead(int((tmp_path / "child").read_text()))


def test_who_is_terminated_takes_the_section_along(stand_in, tmp_path):
    stand_in(f"sleep 100 & echo $! > {tmp_path}/child; kill -TERM $PPID; wait")
    previous = signal.signal(signal.SIGTERM, gpu_check._exit)
    try:
        with pytest.raises(SystemExit):
            gpu_check._run("build", dry_run=True, seconds=30)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert_dead(int((tmp_path / "child").read_text()))


def test_a_signal_waits_until_the_section_is_known():
    came = []
    previous = signal.signal(signal.SIGTERM, lambda *arguments: came.append(arguments))
    try:
        with gpu_check._held_back(signal.SIGTERM):
            signal.raise_signal(signal.SIGTERM)
            assert not came
        assert came
    finally:
        signal.signal(signal.SIGTERM, previous)


def assert_dead(child):
    deadline = time.monotonic() + 10
    while _is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _is_alive(child)


def _is_alive(process):
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


def case_record(op):
    case = Case(op, {"N": 1}, {"eager": lambda: None}, bytes_read=4)
    return results.record(case, measure(case, budget=0.01, rounds=2))


def test_a_section_replaces_its_own_part_alone(tmp_path):
    path = tmp_path / "device.json"
    results.merge(path, MACHINE, "one", {"commit": "a"}, [case_record("old")])
    results.merge(path, MACHINE, "two", {}, [case_record("other")])
    results.merge(path, MACHINE, "one", {}, [case_record("new")])
    results.merge(path, MACHINE, "one", {"outcome": "passed"}, None)
    read = results.read(path)
    assert read["machine"] == MACHINE
    assert read["sections"] == {"one": {"outcome": "passed"}, "two": {}}
    assert [(case["section"], case["op"]) for case in read["cases"]] == [("two", "other"), ("one", "new")]
    assert [file.name for file in tmp_path.iterdir()] == ["device.json"]


def test_figures_of_another_torch_are_not_kept(tmp_path):
    path = tmp_path / "device.json"
    results.merge(path, MACHINE | {"torch": "1.0"}, "one", {}, [case_record("old")])
    results.merge(path, MACHINE, "two", {}, [])
    assert results.read(path) == {"machine": MACHINE, "sections": {"two": {}}, "cases": []}


class Buffer:
    """Notes when the cache is overwritten."""

    def __init__(self, log):
        self.log = log

    def zero_(self):
        self.log.append("write")


def test_the_cache_is_cold_and_the_host_ahead(meter):
    log = []
    meter._buffer, meter._write_seconds = Buffer(log), 1e-3

    def run():
        log.append("run")
        time.sleep(2e-3)

    assert 2e-3 <= meter.seconds(run, 3, back_to_back=False) < 1
    before = "".join("r" if entry == "run" else "w" for entry in log).split("r")
    assert before[0] == "w"  # it is not known yet how long it takes to queue the run
    # From then on as many writes, of 1 ms each, as take longer than that.
    assert all(len(writes) >= 1 + 3 for writes in before[1:-1])
    assert before[-1] == ""


def test_back_to_back_nothing_lies_between_the_runs(meter):
    log = []
    meter._buffer = Buffer(log)

    def run():
        log.append("run")
        time.sleep(2e-3)

    assert 2e-3 <= meter.seconds(run, 3, back_to_back=True) < 1
    assert log == ["run"] * 4  # one that fills the queue


def test_a_copy_moves_what_is_read_and_written(meter):
    reading, traffic = meter.floors(1000, 500)
    assert (reading().numel(), traffic().numel()) == (500, 750)


def test_without_a_gpu_a_graph_is_its_run():
    graph = Graph(lambda: "result", CPU)
    assert graph() == "result"
    assert graph.peak_extra_bytes is None


def test_the_others_go_on_without_a_contender_that_fails(place):
    def fail():
        raise RuntimeError("out of memory\nand more")

    runs = {"eager": fail, "torch.compile": lambda: None, "ours": fail}
    (record,), passed = gpu_sections._measure_all(
        place, [lambda size: iter([Case("op", {"N": 1}, runs, bytes_read=4)])]
    )
    assert not passed
    assert record["baseline"] == "torch.compile"
    assert record["absent"] == dict.fromkeys(("eager", "ours"), "RuntimeError: out of memory")


IDEAS = {
    "masking": masking.cases,
    "sampling": sampling.cases,
    "mlm_head": mlm_head.cases,
    "bce": bce.cases,
    "rtd_head": rtd_head.cases,
    "linear_head": mlm_head.on_gpu,
    "step": step.on_gpu,
    "training_step_small": lambda size: training_step.cases("small", size),
    "training_step_base": lambda size: training_step.cases("base", size),
}


@pytest.mark.parametrize("idea", IDEAS)
def test_every_case_runs_and_is_timed_as_on_a_gpu(place, monkeypatch, idea):
    monkeypatch.setattr(contenders, "compiler", "aot_eager")
    records, passed = gpu_sections._measure_all(place, [IDEAS[idea]])
    assert passed
    for record in records:
        assert not record["absent"]
        assert all(figures["median_seconds"] > 0 for figures in record["contenders"].values())
    written = results.read(gpu_place.path(dry_run=True))
    assert [case["op"] for case in written["cases"]] == [record["op"] for record in records]
    gpu_targets.table(written)


def test_a_target_is_reached_or_not_by_its_own_figure():
    figures = {"speedup": 3.5, "times_traffic": 1.05, "peak_extra_bytes": 70_000_000, "seconds": [1.0]}
    common = {"dtype": "bfloat16", "is_main": True}
    linear = {"op": "linear_cross_entropy_sample f+b", "sizes": {"N": 2_560, "V": 30_522, "E": 128}, **common}
    sample = {"op": "sample_tokens", "sizes": {"N": 1_024, "V": 30_522}, **common}
    file = {
        "cases": [case | {"contenders": {"ours": figures}} for case in (linear, sample)],
        "sections": {"bench_bce": {"forward_launches": 3}},
    }
    lines = gpu_targets.table(file).splitlines()
    # 70 MB less the accumulators of weight and bias, 4 x 30,522 x 129 bytes; 1 / 1.05 of the bandwidth.
    assert any("≤ 64 MB | 54.3 MB | ✓ |" in line for line in lines)
    assert any(
        "`sample_tokens`" in line and "≥ 90% of the bandwidth of a copy | 95% | ✓ |" in line for line in lines
    )
    assert lines[-1].endswith("≤ 2 launches | 3 | ✗ |")
    assert sum("not measured" in line for line in lines) == len(gpu_targets.TARGETS) - 2


@pytest.mark.parametrize("name", ["small", "base"])
def test_the_formula_counts_what_an_encoder_multiplies(name):
    config = step.config(name, "tiny").discriminator
    encoder, input_ids = Encoder(config), torch.zeros(2, 16, dtype=torch.int64)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder(input_ids)
    assert training_step._encoder_flops(config, 32, 16) == counter.get_total_flops()


def test_the_figures_of_a_step():
    config = step.config("small", "full")
    record = {"sizes": {"B": 128, "T": 128}, "contenders": {"ours": {"median_seconds": 0.01}}}
    figures = training_step.figures(record, config, "NVIDIA H100 80GB HBM3")
    assert figures["contenders"]["ours"]["tokens_per_second"] == 1_638_400
    assert figures["contenders"]["ours"]["hours"] == pytest.approx(1e6 * 0.01 / 3600, abs=0.01)
    share = figures["flops"] / 0.01 / 989e12
    assert figures["contenders"]["ours"]["share_of_peak"] == pytest.approx(share, abs=1e-4)
    # 6 operations per parameter of the layers and token are most of them.
    assert figures["flops"] > 6 * 12 * 12 * 256**2 * 128 * 128


def test_both_sides_of_a_step_train_the_same_parameters():
    config = step.config("small", "tiny")
    theirs, ours = training_step.TransformersElectra(config).train(), Electra(config)
    input_ids = torch.randint(1000, 1200, (2, 16))
    theirs(input_ids, torch.ones_like(input_ids, dtype=torch.bool)).backward()
    assert all(parameter.grad is not None for parameter in theirs.parameters())
    numbers = [sum(parameter.numel() for parameter in model.parameters()) for model in (theirs, ours)]
    assert numbers[0] == numbers[1]


def test_a_dry_run():
    sections = ("conformance_triton", "conformance_cuda", "sanitizer", "bench_masking")
    process = run_command("--dry-run", *(f"--only={section}" for section in sections))
    assert process.returncode == 0, process.stdout + process.stderr
    written = results.read(gpu_place.path(dry_run=True))
    assert all(written["sections"][section]["outcome"] == "passed" for section in sections)
    assert written["sections"]["conformance_triton"]["passed"] > 0
    assert "9 ops" in written["sections"]["sanitizer"]["found"]["no tool of triton"]
    (case,) = (case for case in written["cases"] if case["section"] == "bench_masking")
    assert {"ours", "ours, triton"} <= case["contenders"].keys()
    assert gpu_place.path(dry_run=True).with_suffix(".png").exists()
