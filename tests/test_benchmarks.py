import statistics
import subprocess
import sys
import time

import pytest
import torch

from benchmarks import contenders, mlm_head, plot, results, targets
from benchmarks.harness import Case, measure
from benchmarks.memory import can_measure, peak_extra_bytes
from electra_kernels import backends
from electra_kernels.backends.registry import current_choice

MB = 1_000_000


def sleep_case(**options):
    runs = {"slow": lambda: time.sleep(0.02), "fast": lambda: time.sleep(0.005)}
    return Case("sleep", {"N": 1}, runs, bytes_read=4 * MB, **options)


def test_the_ratios_are_those_of_the_times():
    slow, fast = measure(sleep_case(), budget=0.1)
    assert slow.speedup == 1
    assert fast.speedup == statistics.median(one / two for one, two in zip(slow.seconds, fast.seconds))
    assert fast.times_reading == statistics.median(
        seconds / reading for seconds, reading in zip(fast.seconds, fast.reading)
    )
    assert fast.times_traffic == fast.times_reading


def test_writing_belongs_to_the_traffic_alone():
    slow, _ = measure(sleep_case(bytes_written=40 * MB), budget=0.1, rounds=3)
    assert all(traffic > reading for traffic, reading in zip(slow.traffic, slow.reading))


# The time for all rounds decides between 3 and 9 of them; a round takes at least 25 ms.
@pytest.mark.parametrize("budget, rounds, expected", [(0.01, None, 3), (60, None, 9), (60, 2, 2)])
def test_as_many_rounds_as_the_time_allows(budget, rounds, expected):
    assert len(measure(sleep_case(), budget=budget, rounds=rounds)[0].seconds) == expected


needs_memory = pytest.mark.skipif(
    not can_measure(), reason="this system does not reset the peak of the memory"
)


def _typical_peak(run):
    """The resident memory is that of the whole process, in which the test runner has threads of its own."""
    return statistics.median(peak_extra_bytes(run, results.CPU) for _ in range(7))


@needs_memory
# Below 32 MB glibc may keep what was freed, and give the result other pages.
@pytest.mark.parametrize("size", [40 * MB, 100 * MB])
def test_the_memory_of_a_temporary_and_of_a_result_is_seen(size):
    def run():
        torch.ones(size // 4).sum()
        return torch.ones(size // 8)

    run()
    assert _typical_peak(run) == pytest.approx(size, rel=0.05)


@needs_memory
def test_memory_that_lives_at_different_times_is_not_added():
    def run():
        for _ in range(4):
            torch.ones(5 * MB).sum()

    run()
    assert _typical_peak(run) == pytest.approx(20 * MB, rel=0.05)


@needs_memory
def test_gradients_are_not_extra():
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


def test_every_level_and_the_reference_serve_their_contenders():
    chosen = contenders.ours("sample_tokens", current_choice, everywhere=True)
    levels = backends().levels.get("cpp", ())
    expected = {f"ours, {level}": f"cpp:{level}" for level in levels[1:]}
    expected |= {"ours, reference": "reference"} if levels else {}
    assert {name: run() for name, run in chosen.items()} == {"ours": None, **expected}


def test_in_place_overwrites_memory_with_the_gradient_of_the_loss():
    case = mlm_head._from_logits(8, 50)
    (expected,) = case.contenders["ours"]()
    (gradient,) = case.contenders["ours in place"]()
    torch.testing.assert_close(gradient, expected)


def test_a_target_is_met_or_not_by_its_own_case():
    slow, fast = measure(sleep_case(), budget=0.1, rounds=2)
    case = results.record(sleep_case(), [slow, fast]) | {"op": "linear_masked_bce f+b", "is_main": True}
    case["contenders"]["ours"] = case["contenders"]["fast"]
    file = {"machine": {"device": "cpu", "capability": "AVX2"}, "cases": [case]}
    lines = targets.table(file).splitlines()
    (met,) = (line for line in lines if "linear_masked_bce" in line)
    assert met.endswith("✓ |")
    assert sum("not measured" in line for line in lines) == len(targets.TARGETS) - 1
    case["contenders"]["ours"] = case["contenders"]["slow"]
    assert "1x | ✗ |" in targets.table(file)


def test_the_picture_is_drawn(tmp_path):
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


def test_the_file_has_the_machine_and_all_figures(quick_results):
    read = results.read(quick_results)
    assert read["machine"] == results.machine()
    (case,) = read["cases"]
    for figures in case["contenders"].values():
        assert len(figures["seconds"]) == case["rounds"] == 2
        assert figures["median_seconds"] == pytest.approx(statistics.median(figures["seconds"]), rel=1e-3)


def test_without_output_a_quick_run_writes_nothing(tmp_path):
    before = sorted(results.FOLDER.iterdir())
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "2", "--only", "masking"]
    subprocess.run(command, check=True, capture_output=True)
    assert sorted(results.FOLDER.iterdir()) == before
