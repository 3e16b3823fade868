"""The sections of `make gpu-check` on a CPU with tiny sizes, their results, targets and timers."""

import os
import subprocess
import sys
import time

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    baselines,
    bce,
    joint_step,
    masking,
    mlm_head,
    replacing,
    results,
    rtd_head,
    sampling,
    targets,
    training_step,
)
from benchmarks.gpu import check, measuring, plan, sections, throughput
from benchmarks.gpu import context as context_module
from benchmarks.harness import Case, measure
from benchmarks.timers import Graph, StreamTimer
from electra_kernels.models import Electra, Encoder

CPU = torch.device("cpu")
MACHINE = results.machine()


@pytest.fixture
def timer():
    return StreamTimer(CPU)


@pytest.fixture
def context(tmp_path, monkeypatch):
    monkeypatch.setattr(context_module, "path", lambda dry_run: tmp_path / "device.json")
    return context_module.SectionContext("bench", dry_run=True)


def run_command(*arguments, **environment):
    command = [sys.executable, "-m", "benchmarks.gpu.check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_a_section_says_that_it_needs_more_memory_than_is_free():
    need = plan.SECTIONS["offsets"].gigabytes
    assert sections.lack_of_memory("offsets", need * 10**9, 80 * 10**9) is None
    words = f"it needs {need} GB of GPU memory, 9.0 of 80.0 GB are free"
    assert sections.lack_of_memory("offsets", 9 * 10**9, 80 * 10**9) == words


def test_a_skipped_section_keeps_earlier_results(context, monkeypatch):
    context.write([case_record("old")])
    monkeypatch.setattr(
        sections,
        "SectionContext",
        lambda name, dry_run, facts: context_module.SectionContext(name, True, facts),
    )
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 80 * 10**9))
    assert sections.run("offsets", dry_run=False) == 77
    written = results.read(context_module.path(dry_run=True))
    assert "it needs" in written["sections"]["offsets"]["skipped"]
    assert [case["op"] for case in written["cases"]] == ["old"]


def test_without_a_gpu_the_check_exits_with_one_line():
    process = run_command(CUDA_VISIBLE_DEVICES="")
    assert process.returncode == 2
    assert "no GPU" in process.stderr
    assert len((process.stdout + process.stderr).splitlines()) == 1


def test_a_python_without_torch_is_reported(monkeypatch):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    assert "has no torch" in check._obstacle(dry_run=True, out=None)


def test_an_out_that_is_a_file_is_reported(tmp_path):
    (tmp_path / "file").touch()
    words = f"OUT is '{tmp_path / 'file'}', should be a folder"
    assert check._obstacle(dry_run=True, out=tmp_path / "file") == words
    assert check._obstacle(dry_run=True, out=tmp_path / "new") is None


def case_record(op):
    case = Case(op, {"N": 1}, {"eager": lambda: None}, bytes_read=4)
    return results.record(case, measure(case, budget=0.01, rounds=2))


def test_a_section_replaces_only_its_own_results(tmp_path):
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


def test_results_of_another_torch_are_dropped(tmp_path):
    path = tmp_path / "device.json"
    results.merge(path, MACHINE | {"torch": "1.0"}, "one", {}, [case_record("old")])
    results.merge(path, MACHINE, "two", {}, [])
    assert results.read(path) == {"machine": MACHINE, "sections": {"two": {}}, "cases": []}


class Buffer:
    """Logs each write to the buffer."""

    def __init__(self, log):
        self.log = log

    def zero_(self):
        self.log.append("write")


def test_the_buffer_is_written_until_the_run_is_queued(timer):
    log = []
    timer._buffer, timer._write_seconds = Buffer(log), 1e-3

    def run():
        log.append("run")
        time.sleep(2e-3)

    assert 2e-3 <= timer.seconds(run, 3, back_to_back=False) < 1
    before = "".join("r" if entry == "run" else "w" for entry in log).split("r")
    assert before[0] == "w"  # the time to queue the run is not known yet
    # The writes of 1 ms each take longer than queueing the run from then on.
    assert all(len(writes) >= 1 + 3 for writes in before[1:-1])
    assert before[-1] == ""


def test_back_to_back_runs_have_no_writes_between_them(timer):
    log = []
    timer._buffer = Buffer(log)

    def run():
        log.append("run")
        time.sleep(2e-3)

    assert 2e-3 <= timer.seconds(run, 3, back_to_back=True) < 1
    assert log == ["run"] * 4  # and one before them, which fills the queue


def test_the_floors_copy_half_of_their_bytes(timer):
    reading, traffic = timer.floors(1000, 500)
    assert (reading().numel(), traffic().numel()) == (500, 750)


def test_on_a_cpu_a_graph_calls_its_run():
    graph = Graph(lambda: "result", CPU)
    assert graph() == "result"
    assert graph.peak_extra_bytes is None


def test_a_variant_that_fails_does_not_stop_the_others(context):
    def fail():
        raise RuntimeError("out of memory\nand more")

    runs = {"eager": fail, "torch.compile": lambda: None, "ours": fail}
    (record,), passed = measuring.measure_all(
        context, [lambda size: iter([Case("op", {"N": 1}, runs, bytes_read=4)])]
    )
    assert not passed
    assert record["baseline"] == "torch.compile"
    assert record["absent"] == dict.fromkeys(("eager", "ours"), "RuntimeError: out of memory")


def test_ours_and_eager_come_first_and_each_group_is_written_at_once(context, monkeypatch):
    log = []

    def case(op):
        names = ("eager", "torch.compile", "ours", "ours, reference", "ours in place")
        return Case(op, {"N": 1}, {name: lambda: None for name in names}, bytes_read=4)

    def measure_and_read_results(group, **options):
        written = context.path.exists() and [
            (one["op"], list(one["variants"])) for one in results.read(context.path)["cases"]
        ]
        log.append((group.op, list(group.variants), written))
        return measure(group, **options)

    monkeypatch.setattr(measuring, "measure", measure_and_read_results)
    monkeypatch.setattr(type(context), "path", context_module.path(dry_run=True), raising=False)
    (one, other), passed = measuring.measure_all(context, [lambda size: iter([case("one"), case("two")])])
    first = ["eager", "ours", "ours in place"]
    assert [(op, group) for op, group, _ in log] == [
        ("one", first),
        ("two", first),
        *[(op, ["eager", name]) for op in ("one", "two") for name in ("ours, reference", "torch.compile")],
    ]
    assert log[0][2] in (False, [])
    assert log[3][2] == [("one", [*first, "ours, reference"]), ("two", first)]
    assert passed
    assert list(one["variants"]) == [*first, "ours, reference", "torch.compile"] == list(other["variants"])
    assert one["baseline"] == "eager"


# The step of Base is left out: it differs from Small's only in its sizes.
CASES = {
    "masking": masking.cases,
    "sampling": sampling.cases,
    "replacing": replacing.cases,
    "mlm_head": mlm_head.cases,
    "bce": bce.cases,
    "rtd_head": rtd_head.cases,
    "linear_head": mlm_head.on_gpu,
    "step": joint_step.on_gpu,
    "training_step": lambda size: training_step.cases("small", size),
}


@pytest.mark.parametrize("subject", CASES)
def test_every_case_runs_with_the_timer_for_gpus(context, monkeypatch, subject):
    monkeypatch.setattr(baselines, "compiler", "eager")
    monkeypatch.setattr(StreamTimer, "_MOST_WRITES", 1)  # writing a CPU's cache is slow
    records, passed = measuring.measure_all(context, [CASES[subject]])
    assert passed
    for record in records:
        assert not record["absent"]
        assert all(figures["median_seconds"] > 0 for figures in record["variants"].values())
    written = results.read(context_module.path(dry_run=True))
    assert [case["op"] for case in written["cases"]] == [record["op"] for record in records]
    targets.gpu_table(written)


def test_each_gpu_target_is_compared_with_its_own_figure():
    figures = {"speedup": 3.5, "times_traffic": 1.05, "peak_extra_bytes": 70_000_000, "seconds": [1.0]}
    common = {"dtype": "bfloat16", "is_main": True}
    linear = {"op": "linear_cross_entropy_sample f+b", "sizes": {"N": 2_560, "V": 30_522, "E": 128}, **common}
    sample = {"op": "sample_tokens", "sizes": {"N": 1_024, "V": 30_522}, **common}
    file = {
        "cases": [case | {"variants": {"ours": figures}} for case in (linear, sample)],
        "sections": {"bench_bce": {"forward_launches": 3}},
    }
    lines = targets.gpu_table(file).splitlines()
    # 70 MB less the accumulators of weight and bias, 4 x 30,522 x 129 bytes; 1 / 1.05 of the bandwidth.
    assert any("≤ 64 MB | 54.3 MB | ✓ |" in line for line in lines)
    assert any(
        "`sample_tokens`" in line and "≥ 90% of the bandwidth of a copy | 95% | ✓ |" in line for line in lines
    )
    assert lines[-1].endswith("≤ 2 launches | 3 | ✗ |")
    assert sum("not measured" in line for line in lines) == len(targets.GPU_TARGETS) - 2


@pytest.mark.parametrize("name", ["small", "base"])
def test_the_flops_formula_agrees_with_the_flop_counter(name):
    config = joint_step.config(name, "tiny").discriminator
    encoder, input_ids = Encoder(config), torch.zeros(2, 16, dtype=torch.int64)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder(input_ids)
    assert throughput._encoder_flops(config, 32, 16) == counter.get_total_flops()


def test_the_throughput_of_a_training_step():
    config = joint_step.config("small", "full")
    record = {"sizes": {"B": 128, "T": 128}, "variants": {"ours": {"median_seconds": 0.01}}}
    figures = throughput.figures(record, config, "NVIDIA H100 80GB HBM3")
    assert figures["variants"]["ours"]["tokens_per_second"] == 1_638_400
    assert figures["variants"]["ours"]["hours"] == pytest.approx(1e6 * 0.01 / 3600, abs=0.01)
    share = figures["flops"] / 0.01 / 989e12
    assert figures["variants"]["ours"]["share_of_peak"] == pytest.approx(share, abs=1e-4)
    # 6 operations per layer parameter and token are most of them.
    assert figures["flops"] > 6 * 12 * 12 * 256**2 * 128 * 128


def test_ours_and_transformers_train_equally_many_parameters():
    config = joint_step.config("small", "tiny")
    theirs, ours = training_step.TransformersElectra(config).train(), Electra(config)
    input_ids = torch.randint(1000, 1200, (2, 16))
    theirs(input_ids, torch.ones_like(input_ids, dtype=torch.bool)).backward()
    assert all(parameter.grad is not None for parameter in theirs.parameters())
    numbers = [sum(parameter.numel() for parameter in model.parameters()) for model in (theirs, ours)]
    assert numbers[0] == numbers[1]


def test_a_dry_run_passes_and_copies_its_results(tmp_path):
    process = run_command("--dry-run", "--only=conformance_triton", "--only=bench_masking", OUT=str(tmp_path))
    assert process.returncode == 0, process.stdout + process.stderr
    assert plan.arithmetic() in process.stdout
    written = results.read(tmp_path / "dry-run.json")
    for section in ("conformance_triton", "bench_masking"):
        assert written["sections"][section]["outcome"] == "passed"
    assert written["sections"]["conformance_triton"]["passed"] > 0
    (case,) = (case for case in written["cases"] if case["section"] == "bench_masking")
    assert {"ours", "ours, triton"} <= case["variants"].keys()
    assert {"dry-run.png", "logs.tar.gz"} <= {path.name for path in tmp_path.iterdir()}
