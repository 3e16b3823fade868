"""The sections of `make gpu-check`: their order, time limits, GPU memory and expected time.

The expected seconds are estimates for a machine with `CORES` cores. A run writes the real ones into its results.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "gpu_check"
RESULTS = ROOT / "benchmarks" / "results"

CORES = 8
CALL_LIMIT, TOTAL_LIMIT = 600, 1800
# Runs after the last section. It writes the outcomes, draws the plot and prints the targets.
CONCLUSION, CONCLUSION_SECONDS = "conclusion", 30


@dataclass(frozen=True)
class Work:
    """A part of a section: ``count`` items of ``seconds`` on one core each; ``parallel`` work uses all cores."""

    name: str
    count: int
    seconds: float
    parallel: bool = False

    @property
    def expected(self) -> float:
        return self.count * self.seconds / (CORES if self.parallel else 1)

    def __str__(self) -> str:
        cores = f" / {CORES} cores" if self.parallel else ""
        return f"{self.count} {self.name} x {self.seconds:g} s{cores} = {self.expected:.0f}"


@dataclass(frozen=True)
class Section:
    """One part of the check, in a process of its own.

    Attributes:
        budget: seconds after which the section is ended. Time that earlier sections did not use is added.
        works: the work in it, for the estimate that a dry run prints.
        gigabytes: free GPU memory that it needs; with less it is skipped.
    """

    budget: int
    works: tuple[Work, ...]
    gigabytes: int = 0

    @property
    def expected(self) -> float:
        return sum(work.expected for work in self.works)


_START = Work("start", 1, 10)
_TESTS = (
    Work("start of the workers", 1, 25),
    Work("tests", 1405, 0.15, parallel=True),
    Work("compilations by torch.compile", 25, 8, parallel=True),
)


def _benchmark(budget: int, gigabytes: int, groups: int, compilations: int) -> Section:
    """``groups`` of variants are timed together: eager and ours in one, each other variant in one more."""
    works = (Work("groups of variants", groups, 1), Work("compilations by torch.compile", compilations, 8))
    return Section(budget, (_START, *works), gigabytes)


# GPU memory is estimated from the largest tensors of a section. 16 workers or 8 processes under the sanitizer have a
# CUDA context of 0.5 GB each. tests/conformance/test_offsets.py has two tensors of 2^31 float32. Eager needs ten times
# its logits, which take 0.5 GB in bench_sampling and bench_mlm_head and 1.2 GB in linear_head. A training step keeps
# the activations of eager and of one CUDA graph, and four models with their optimisers.
SECTIONS: Mapping[str, Section] = {
    "build": Section(
        90,
        (
            Work("objects of the CPU kernels", 26, 7, parallel=True),
            Work("objects of the CUDA kernels", 12, 12, parallel=True),
            Work("links", 3, 4),
        ),
    ),
    "conformance_triton": Section(
        240, (*_TESTS, Work("Triton specialisations", 1154, 0.5, parallel=True)), gigabytes=9
    ),
    "conformance_cuda": Section(110, _TESTS, gigabytes=9),
    "offsets": Section(
        100, (_START, Work("tests", 84, 0.4), Work("Triton specialisations", 60, 0.6)), gigabytes=20
    ),
    "sanitizer": Section(
        130,
        (
            Work("start of 8 processes under the sanitizer", 1, 40),
            Work("calls of each", 70, 0.6),
            Work("Triton specialisations of 4 processes", 140, 0.6, parallel=True),
        ),
        gigabytes=9,
    ),
    "bench_masking": _benchmark(30, 2, groups=4, compilations=1),
    "bench_sampling": _benchmark(60, 6, groups=23, compilations=2),
    "bench_mlm_head": _benchmark(90, 6, groups=43, compilations=2),
    "bench_bce": _benchmark(35, 2, groups=7, compilations=1),
    "bench_rtd_head": _benchmark(35, 2, groups=6, compilations=1),
    "linear_head": _benchmark(80, 16, groups=24, compilations=2),
    # torch.compile compiles the embeddings, both kinds of layer and the heads of each of the two models.
    "step_small": Section(
        140, (_START, Work("groups of variants", 9, 3), Work("compilations by torch.compile", 11, 5)), 24
    ),
    "step_base": Section(
        140, (_START, Work("groups of variants", 6, 6), Work("compilations by torch.compile", 11, 5)), 48
    ),
}
# One call per group fits into CALL_LIMIT seconds. Each call may get a new machine, so each group builds the kernels.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "proofs": ("build", "conformance_triton", "conformance_cuda", "offsets"),
    "ops": (
        "build",
        "sanitizer",
        "bench_masking",
        "bench_sampling",
        "bench_mlm_head",
        "bench_bce",
        "bench_rtd_head",
    ),
    "steps": ("build", "linear_head", "step_small", "step_base"),
}


def select(names: Iterable[str]) -> list[str]:
    """The sections that are named themselves or by their group, in the order of SECTIONS; without names, all."""
    wanted = {section for name in names for section in GROUPS.get(name, (name,))}
    return [section for section in SECTIONS if not wanted or section in wanted]


def seconds(sections: Iterable[str]) -> int:
    """Upper limit for one call with these sections."""
    return sum(SECTIONS[section].budget for section in sections) + CONCLUSION_SECONDS


def arithmetic() -> str:
    """Expected seconds and budget of each section, and the sum for each call, as text."""
    lines = [f"{'section':20}{'expected':>9}{'budget':>8}{'GPU memory':>12}   on {CORES} cores"]
    for name, section in SECTIONS.items():
        works = "; ".join(map(str, section.works))
        memory = f"{section.gigabytes} GB" if section.gigabytes else "-"
        lines.append(f"{name:20}{section.expected:7.0f} s{section.budget:6} s{memory:>12}   {works}")
    lines += [
        f"ONLY={name}: {' + '.join(str(SECTIONS[section].budget) for section in sections)} "
        f"+ {CONCLUSION_SECONDS} = {seconds(sections)} s of {CALL_LIMIT}"
        for name, sections in GROUPS.items()
    ]
    total = sum(map(seconds, GROUPS.values()))
    return "\n".join([*lines, f"these {len(GROUPS)} calls: {total} s of {TOTAL_LIMIT}"])
