"""How `make gpu-check` reads the output of pytest and compute-sanitizer."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import context, every_op, outcomes, plan, proofs

TESTS = """
import pytest, time
def test_good(): pass
def test_bad(): assert 1 == 2
@pytest.mark.skip(reason="too small")
def test_skipped(): pass
def test_hangs(): time.sleep(100)
"""


@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["alone", "xdist"])
def test_outcomes_are_written_before_the_run_ends(tmp_path, workers):
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "test_lacking.py").write_text("import no_such_module")
    file = tmp_path / "outcomes.jsonl"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "benchmarks.gpu.outcomes",
        f"--outcomes={file}",
    ]
    command += ["--continue-on-collection-errors", "--rootdir", tmp_path, *workers, tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while (found := outcomes.summary(file, 9))["skipped"] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 2, 1)
    failures = sorted(found["failures"])
    assert failures[0] == "test_lacking.py: ModuleNotFoundError: No module named 'no_such_module'"
    assert failures[1].startswith("test_some.py::test_bad: assert 1 == 2")
    assert found["skips"] == ["Skipped: too small"]


def test_an_unfinished_line_is_ignored(tmp_path):
    line = '{"test": "a", "outcome": "passed", "seconds": 1, "reason": ""}\n'
    (tmp_path / "outcomes").write_text(line + line[:9])
    assert outcomes.summary(tmp_path / "outcomes", 9)["passed"] == 1


def test_the_sanitizer_instruments_only_our_kernels():
    folder = Path(plan.ROOT) / "electra_kernels" / "triton"
    launched = {
        name
        for path in folder.glob("*.py")
        for name in re.findall(r"launch\.run\(\s*(\w+)", path.read_text())
    }
    assert set(proofs.KERNELS["triton"]) == launched
    for tool in ("memcheck", "racecheck", "synccheck"):
        command = proofs.checked("compute-sanitizer", tool, "triton")
        assert command[:3] == ["compute-sanitizer", "--tool", tool]
        assert {option.removeprefix("kns=") for option in command if option.startswith("kns=")} == launched
        assert command.count("--kernel-name") == len(launched)
        assert "--error-exitcode" in command


COMPLETED = "cuda on cuda: 52 calls of 9 ops"
REPORTS = f"""========= COMPUTE-SANITIZER
========= Uninitialized __global__ memory read of size 4 bytes
=========     at void at::native::reduce_kernel<512>(T1)+0x70
=========     by thread (8,0,0) in block (0,0,0)
=========
========= Uninitialized __global__ memory read of size 16 bytes
=========     at electra_kernels::<unnamed>::backward<float>(TokenBatch)+0x70
=========     by thread (0,0,0) in block (0,0,0)
=========
{COMPLETED}
========= ERROR SUMMARY: 2 errors
"""


def test_initcheck_instruments_all_kernels_and_only_ours_can_fail():
    assert not [name for name in proofs.checked("x", "initcheck", "cuda") if "kernel-name" in name]
    words = (
        "1 of 2 reports are about our kernels; ========= ERROR SUMMARY: 2 errors; the first: Uninitialized"
    )
    is_good, found = proofs.verdict(REPORTS, 0, "initcheck", "cuda")
    assert not is_good
    assert found.startswith(words)
    is_good, found = proofs.verdict(REPORTS.replace("electra_kernels", "at"), 0, "initcheck", "cuda")
    assert is_good
    assert found.startswith("0 of 2 reports")


@pytest.mark.parametrize(
    "text, status, expected",
    [
        (f"{COMPLETED}\n========= ERROR SUMMARY: 0 errors", 0, True),
        (f"{COMPLETED}\n========= ERROR SUMMARY: 1 error", 9, False),
        ("========= ERROR SUMMARY: 0 errors", 0, False),
        ("", 1, False),
    ],
)
def test_a_run_passes_only_if_it_made_all_its_calls(text, status, expected):
    assert proofs.verdict(text, status, "memcheck", "cuda")[0] is expected


def test_every_op_is_called(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["every_op", "reference", "cpu", "301"])
    every_op.main()
    assert "reference on cpu: " in capsys.readouterr().out


def test_the_sanitizer_runs_every_op_of_a_back_end(tmp_path, monkeypatch):
    program = tmp_path / "compute-sanitizer"
    program.write_text(
        f'#!/bin/sh\necho "{COMPLETED}"; echo "========= ERROR SUMMARY: 0 errors"; echo "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(proofs, "FOLDER", tmp_path)
    here = context.SectionContext("sanitizer", dry_run=True)
    found = proofs._every_op(here, str(program), "racecheck", "cuda")
    assert found == (True, "========= ERROR SUMMARY: 0 errors")
    command = (tmp_path / "sanitizer-racecheck-cuda.log").read_text()
    assert "--tool racecheck" in command
    assert "--kernel-name kns=electra_kernels" in command
    assert command.split()[-5:] == ["-m", "benchmarks.gpu.every_op", "cuda", "cpu", "301"]
