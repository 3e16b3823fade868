"""Which of the two back ends for GPUs serves an op: ``python -m benchmarks.preference`` writes the table that the
router reads, electra_kernels/preference.json, from the results in benchmarks/results.

Of an op that a results file of `gpu_check` has by both back ends, the faster one serves it (*measured*). Of any other,
the one that the audit says is faster, over all its sizes, types and GPUs (*predicted*): Triton, if it is so by more
than 10 %, which is more than a count of instructions can be wrong by; else, as where both wait for the same bytes,
CUDA C++, of which a call costs less. Where both are predicted to take less time than a kernel needs to start, they are
taken to be equal. A gradient that has no case of its own goes with its op.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import results
from electra_kernels import reference

TABLE = Path(reference.__file__).parents[1] / "preference.json"
AUDIT = results.FOLDER / "audit.json"
_FASTER = 0.9
_START = 2.0  # microseconds that a kernel needs to start, about; not measured here
_BACKENDS = ("cuda", "triton")
# Whose figures also tell what of these, which are timed together.
_TOGETHER = {
    "ours": lambda op: (op, f"{op}_backward"),
    "ours in place": lambda op: (f"{op}_", "scale_gradient_"),
}


def table(audit: Mapping[str, Any], measurements: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The router's table.

    Args:
        audit: what `benchmarks.audit` has written.
        measurements: file name → what `gpu_check` has written to it.
    """
    measured: dict[str, list[float]] = {}
    for one in measurements.values():
        for op, ratio in _measured(one):
            measured.setdefault(op, []).append(ratio)
    predicted: dict[str, list[float]] = {}
    for op, ratio in _predicted(audit):
        predicted.setdefault(op, []).append(ratio)
    return {
        "sources": [AUDIT.name, *sorted(measurements)],
        "ops": {op: _entry(op, measured, predicted) for op in sorted(reference.IMPLEMENTATIONS)},
    }


def _entry(
    op: str, measured: Mapping[str, list[float]], predicted: Mapping[str, list[float]]
) -> dict[str, Any]:
    kind, known, limit = ("measured", measured, 1.0) if op in measured else ("predicted", predicted, _FASTER)
    ratio = _mean(known[op] if op in known else known[op.removesuffix("_backward")])
    order = _BACKENDS[::-1] if ratio < limit else _BACKENDS
    return {"order": order, "kind": kind, "triton_over_cuda": round(ratio, 3)}


def _mean(ratios: Iterable[float]) -> float:
    """Geometric."""
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logarithms) / len(logarithms))


def _predicted(audit: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Op and Triton's time over that of CUDA C++, for each of its cases and GPUs."""
    for case in audit["ops"]:
        cuda, triton = (case["backends"][name]["gpus"] for name in _BACKENDS)
        for gpu in cuda:
            times = [one[gpu]["predicted_microseconds"] for one in (triton, cuda)]
            yield case["op"], 1.0 if max(times) < _START else times[0] / times[1]


def _measured(run: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The same, where both were timed: one of them by default, the other by its name."""
    for case in run["cases"]:
        op = case["op"].removesuffix(" f+b")
        default = run["machine"]["serving"].get(op)
        for contender, ops_of in _TOGETHER.items():
            seconds = {
                name: case["contenders"].get(contender if name == default else f"{contender}, {name}")
                for name in _BACKENDS
            }
            cuda, triton = (seconds[name] for name in _BACKENDS)
            if cuda and triton:
                for one in ops_of(op):
                    if one in reference.IMPLEMENTATIONS:
                        yield one, triton["median_seconds"] / cuda["median_seconds"]


def committed() -> dict[str, Any]:
    """The table from the results in the repository."""
    runs = {path.name: results.read(path) for path in sorted(results.FOLDER.glob("*.json")) if path != AUDIT}
    on_gpus = {name: run for name, run in runs.items() if run["machine"]["device"] == "cuda"}
    return table(results.read(AUDIT), on_gpus)


def text(values: Mapping[str, Any]) -> str:
    """As it stands in the file: an op a line."""
    ops = ",\n  ".join(f"{json.dumps(op)}: {json.dumps(entry)}" for op, entry in values["ops"].items())
    return f'{{\n "sources": {json.dumps(values["sources"])},\n "ops": {{\n  {ops}\n }}\n}}\n'


if __name__ == "__main__":
    TABLE.write_text(text(committed()))
