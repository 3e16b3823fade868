"""The harness, the timers, the results file, the targets and the plot."""

import statistics
import subprocess
import sys
import time

import pytest
import torch

from benchmarks import mlm_head, plot, results, targets, variants
from benchmarks.harness import Case, measure
from benchmarks.memory import can_measure, peak_extra_bytes
from electra_kernels import backends
from electra_kernels.backends.registry import current_choice

MB = 1_000_000


def sleep_case(**options):
    runs = {"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.005)}
    return Case("sleep", {"N": 1}, runs, bytes_read=4 * MB, **options)


def test_ratios_are_medians_over_the_rounds():
    slow, fast = measure(sleep_case(), budget=0.1)
    assert slow.speedup == 1
    assert fast.speedup == statistics.median(one / two for one, two in zip(slow.seconds, fast.seconds))
    assert fast.times_reading == statistics.median(
        seconds / reading for seconds, reading in zip(fast.seconds, fast.reading)
    )
    assert fast.times_traffic == fast.times_reading


def test_only_the_traffic_floor_includes_writing():
    slow, _ = measure(sleep_case(bytes_written=40 * MB), budget=0.1, rounds=3)
    assert all(traffic > reading for traffic, reading in zip(slow.traffic, slow.reading))


# Between 3 and 9 rounds fit into the budget; a round takes at least 25 ms.
@pytest.mark.parametrize("budget, rounds, expected", [(0.01, None, 3), (60, None, 9), (60, 2, 2)])
def test_the_budget_decides_the_number_of_rounds(budget, rounds, expected):
    assert len(measure(sleep_case(), budget=budget, rounds=rounds)[0].seconds) == expected


needs_memory = pytest.mark.skipif(
    not can_measure(), reason="this system cannot reset the peak of the resident memory"
)


def _typical_peak(run):
    """Median of several: resident memory is that of the whole process, and the test runner has threads of its own."""
    return statistics.median(peak_extra_bytes(run, results.CPU) for _ in range(7))


@needs_memory
# Below 32 MB glibc may keep freed memory and reuse it.
@pytest.mark.parametrize("size", [40 * MB, 100 * MB])
def test_peak_memory_includes_temporaries_and_results(size):
    def run():
        torch.ones(size // 4).sum()
        return torch.ones(size // 8)

    run()
    assert _typical_peak(run) == pytest.approx(size, rel=0.05)


@needs_memory
def test_temporaries_that_do_not_overlap_are_not_added_up():
    def run():
        for _ in range(4):
            torch.ones(5 * MB).sum()

    run()
    assert _typical_peak(run) == pytest.approx(20 * MB, rel=0.05)


@needs_memory
def test_gradients_are_not_counted_as_extra_memory():
    (one, two) = measure(
        Case(
            "ones",
            {"N": 1},
            {"all": lambda: torch.ones(10 * MB), "half": lambda: torch.ones(5 * MB)},
            bytes_read=4,
            gradient_bytes=20 * MB,
        ),
        budget=0.1,
        rounds=2,
    )
    assert one.peak_extra_bytes == pytest.approx(20 * MB, rel=0.05)
    assert two.peak_extra_bytes < MB


def test_each_variant_of_ours_runs_on_its_back_end_and_level():
    chosen = variants.ours("sample_tokens", current_choice, everywhere=True)
    levels = backends().levels.get("cpp", ())
    expected = {f"ours, {level}": f"cpp:{level}" for level in levels[1:]}
    expected |= {"ours, reference": "reference"} if levels else {}
    assert {name: run() for name, run in chosen.items()} == {"ours": None, **expected}


def test_the_in_place_variant_returns_the_same_gradient():
    case = mlm_head._from_logits(8, 50)
    (expected,) = case.variants["ours"]()
    (gradient,) = case.variants["ours in place"]()
    torch.testing.assert_close(gradient, expected)


def test_a_target_is_compared_with_its_own_case():
    slow, fast = measure(sleep_case(), budget=0.1, rounds=2)
    case = results.record(sleep_case(), [slow, fast]) | {"op": "linear_masked_bce f+b", "is_main": True}
    case["variants"]["ours"] = case["variants"]["fast"]
    file = {"machine": {"device": "cpu", "capability": "AVX2"}, "cases": [case]}
    lines = targets.table(file).splitlines()
    (target,) = (line for line in lines if "linear_masked_bce" in line)
    assert target.endswith("✓ |")
    assert sum("not measured" in line for line in lines) == len(targets.CPU_TARGETS) - 1
    case["variants"]["ours"] = case["variants"]["slow"]
    assert "1x | ✗ |" in targets.table(file)


def test_plot_writes_a_png(tmp_path):
    cases = (sleep_case(is_main=True), sleep_case(is_main=True, adds_to_baseline=True))
    records = [results.record(case, measure(case, budget=0.1, rounds=2)) for case in cases]
    path = tmp_path / "machine.json"
    results.write(path, records)
    plot.draw(results.read(path), path.with_suffix(".png"))
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def quick_results(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "machine.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "2", "--only", "masking"]
    subprocess.run([*command, "--output", str(path)], check=True, capture_output=True)
    return path


def test_the_results_file_has_the_machine_and_all_figures(quick_results):
    read = results.read(quick_results)
    assert read["machine"] == results.machine()
    (case,) = read["cases"]
    for figures in case["variants"].values():
        assert len(figures["seconds"]) == case["rounds"] == 2
        assert figures["median_seconds"] == pytest.approx(statistics.median(figures["seconds"]), rel=1e-3)


def test_a_quick_run_without_output_writes_no_file(tmp_path):
    before = sorted(results.FOLDER.iterdir())
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "2", "--only", "masking"]
    subprocess.run(command, check=True, capture_output=True)
    assert sorted(results.FOLDER.iterdir()) == before
