"""A pytest plugin: ``-p benchmarks.gpu.outcomes --outcomes FILE`` writes a line of JSON as soon as a test has ended.

A run that is cut off therefore keeps the outcomes so far. With xdist, the controller writes: it sees every test.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--outcomes", type=Path, help="file for a line of JSON per test")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--outcomes")
    if path is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer(path))


class _Writer:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Setup and teardown count only if they fail or skip.
        if report.when == "call" or not report.passed:
            self._write(report.nodeid, report.outcome, report.duration, report.longrepr)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(report.nodeid, "failed", 0.0, report.longrepr)

    def _write(self, name: str, outcome: str, seconds: float, reason: Any) -> None:
        line = {"test": name, "outcome": outcome, "seconds": round(seconds, 3), "reason": _reason(reason)}
        self._file.write(json.dumps(line) + "\n")


def _reason(reason: Any) -> str:
    """First line of the reason why a test failed or was skipped; empty if it passed."""
    if isinstance(reason, tuple):  # a skip has file, line and reason
        reason = reason[-1]
    crash = getattr(reason, "reprcrash", None)
    text = str(reason or "") if crash is None else str(crash.message)
    errors = [line.removeprefix("E").strip() for line in text.splitlines() if line.startswith("E ")]
    return next(iter(errors or text.splitlines()), "")[:200]


def summary(path: Path, most: int) -> dict[str, Any]:
    """Counts, and at most ``most`` failures and reasons to skip; an unfinished last line is ignored."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    tests = [json.loads(line) for line in lines if line.endswith("\n")]
    counts = {
        outcome: sum(test["outcome"] == outcome for test in tests)
        for outcome in ("passed", "failed", "skipped")
    }
    return {
        **counts,
        "failures": _lines(tests, "failed")[:most],
        "skips": sorted({test["reason"] for test in tests if test["outcome"] == "skipped"})[:most],
    }


def _lines(tests: Sequence[dict[str, Any]], outcome: str) -> list[str]:
    return [f"{test['test']}: {test['reason']}" for test in tests if test["outcome"] == outcome]
