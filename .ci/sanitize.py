"""``make sanitize``: the tests of the CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, and some of
them again under ThreadSanitizer.

The instrumented kernels are built into ``build/sanitized``, in copies of the package that the tests import. First, each
mutant of the kernels, which has one fault, must be reported: that proves that the instrumented library runs. Under
ThreadSanitizer the loops run on threads of our own (``parallel_for.cpp``).
"""

import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from csrc import build  # noqa: E402
from electra_kernels import backends  # noqa: E402

FOLDER = ROOT / "build" / "sanitized"
COMMON = ("-fno-omit-frame-pointer", "-O1", "-g")


@dataclass(frozen=True)
class Fault:
    """A mutant: the source, the text that is replaced in it, the faulty text, and a part of the sanitizer's report."""

    stem: str
    right: str
    wrong: str
    report: str


@dataclass(frozen=True)
class Sanitizer:
    """How to build and run under a sanitizer.

    Attributes:
        flags: flags of the compiler and the linker.
        libraries: loaded before all others.
        settings: variables of the environment.
        tests: files, of which ``selection`` (-k) chooses the tests.
    """

    name: str
    flags: tuple[str, ...]
    libraries: tuple[str, ...]
    settings: dict[str, str]
    faults: tuple[Fault, ...]
    tests: tuple[str, ...]
    selection: str


# Excluded: tests of torch.compile and of PyTorch's samples, which run no other kernels and spend most of their time
# elsewhere, and tests that take gigabytes.
LEFT_OUT = ("test_torch_integration", "test_uniforms", "test_opinfo", "test_offsets")
# To find races it is enough that each kernel runs on several threads. A forked process cannot start threads there.
IN_THREADS = ("test_threads", "test_bce", "test_inplace", "test_rtd_head")
MEMORY = Sanitizer(
    "memory",
    (
        "-fsanitize=address,undefined,float-cast-overflow",
        "-fno-sanitize-recover=all",
        *COMMON,
    ),
    ("libasan.so", "libubsan.so", "libstdc++.so.6"),
    {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    (
        Fault(
            "bce",
            "load_elements(logits, first + start, size, x)",
            "load_elements(logits, first + start, size + 1, x)",
            "AddressSanitizer: heap-buffer-overflow",
        ),
        Fault(
            "masking",
            "static_cast<double>(available) + 0.5",
            "static_cast<double>(available) * 1e300",
            "is outside the range of representable values",
        ),
    ),
    (
        "tests/backends/test_compiled.py",
        *(
            f"tests/conformance/{path.name}"
            for path in sorted((ROOT / "tests" / "conformance").glob("test_*.py"))
            if path.stem not in LEFT_OUT
        ),
    ),
    "(cpp or test_compiled.py) and not _compiled[",
)
THREADS = Sanitizer(
    "threads",
    ("-fsanitize=thread", "-Dtorch_parallel_for=electra_kernels_parallel_for", *COMMON),
    ("libtsan.so", "libstdc++.so.6"),
    # Python and torch are not instrumented, so reports about their memory accesses mean nothing.
    {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1 halt_on_error=1"},
    (Fault("bce_ops", "blocks[i]);", "blocks[0]);", "ThreadSanitizer: data race"),),
    tuple(f"tests/conformance/{stem}.py" for stem in IN_THREADS),
    "cpp and not float16 and not fork and not compiled",
)
REPORTS = ("runtime error:", "AddressSanitizer", "ThreadSanitizer")
PROBE = """
import torch, electra_kernels
with electra_kernels.use_backend("cpp"):
    for count in (5, 50_000):
        logits = torch.zeros(count, requires_grad=True)
        electra_kernels.masked_bce_with_logits(logits, torch.ones(count)).backward()
    ids = torch.arange(64)[None]
    electra_kernels.mask_tokens(ids, ids >= 0, mask_token_id=0, vocab_size=64, probability=1.0)
"""
# If a sanitizer ends a worker, output that pytest has captured is lost, so standard error is not captured.
PYTEST = ["-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "--max-worker-restart=0", "--capture=sys"]


def levels_here(sanitizer: Sanitizer) -> dict[str, list[str]]:
    """Levels that this machine can run. For races only the best one: all levels share the loops over threads."""
    supported = backends().levels.get("cpp", ())
    if not supported:
        raise SystemExit(f"there are no compiled kernels here: {backends().unavailable.get('cpp')}")
    kept = supported[:1] if sanitizer is THREADS else supported
    return {level: flags for level, flags in build.LEVELS.items() if level in kept}


def commands_of(sanitizer: Sanitizer) -> list[tuple[str, list[str]]]:
    commands = build.kernel_commands(levels_here(sanitizer), sanitizer.flags)
    if sanitizer is not THREADS:
        return commands
    flags = [*build.FLAGS, *build.torch_flags(), *sanitizer.flags, "-c", ".ci/parallel_for.cpp"]
    return [*commands, ("parallel_for", flags)]


def copy_package(sanitizer: Sanitizer, name: str, objects: list[Path]) -> Path:
    """Make a folder with a copy of the package, whose library is linked from these objects."""
    folder = FOLDER / sanitizer.name / name
    shutil.rmtree(folder, ignore_errors=True)
    without = shutil.ignore_patterns("__pycache__", "_cpp.so")
    shutil.copytree(ROOT / "electra_kernels", folder / "electra_kernels", ignore=without)
    build.link_kernels(objects, folder / "electra_kernels" / "_cpp.so", sanitizer.flags)
    return folder


def run(sanitizer: Sanitizer, folder: Path, *arguments: str) -> tuple[int, str]:
    """Run Python with `folder` first on its path and the sanitizer's libraries loaded first.

    Returns:
        Exit status and standard error.
    """
    libraries = [
        subprocess.check_output([*build.host_compiler(), f"-print-file-name={name}"], text=True).strip()
        for name in sanitizer.libraries
    ]
    environment = (
        os.environ
        | sanitizer.settings
        | {"LD_PRELOAD": " ".join(libraries), "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    )
    # Older versions of ThreadSanitizer do not find room for their memory if addresses are random.
    fixed = ["setarch", platform.machine(), "--addr-no-randomize"] if sanitizer is THREADS else []
    # Python's path begins with the working directory, which comes before PYTHONPATH.
    process = subprocess.run(
        [*fixed, sys.executable, *arguments], env=environment, cwd=folder, stderr=subprocess.PIPE, text=True
    )
    return process.returncode, process.stderr


def report_of_fault(
    sanitizer: Sanitizer, fault: Fault, commands: list[tuple[str, list[str]]], objects: list[Path]
) -> str:
    """The sanitizer's report on the probe if one source, at the best level, has this fault."""
    text = (ROOT / "csrc" / "cpu" / f"{fault.stem}.cpp").read_text()
    if fault.right not in text:
        raise SystemExit(
            f"csrc/cpu/{fault.stem}.cpp no longer has {fault.right!r}, which .ci/sanitize.py replaces by a fault"
        )
    source, mutant = (FOLDER / sanitizer.name / f"mutant_{fault.stem}{suffix}" for suffix in (".cpp", ".o"))
    source.write_text(text.replace(fault.right, fault.wrong))
    name, arguments = next(c for c in reversed(commands) if c[0].partition("-")[0] == fault.stem)
    build.compile_and_link([*arguments[:-1], str(source), "-Icsrc/cpu", "-o", str(mutant)])
    faulty = [mutant if path.name.startswith(f"{name}.") else path for path in objects]
    return run(sanitizer, copy_package(sanitizer, source.stem, faulty), "-c", PROBE)[1]


def check(sanitizer: Sanitizer) -> bool:
    """Whether the sanitizer reports the faults of the mutants and nothing else."""
    start = time.monotonic()
    commands = commands_of(sanitizer)
    objects = build.build_objects(FOLDER / sanitizer.name / "objects", commands)
    package = copy_package(sanitizer, "package", objects)
    print(f"{sanitizer.name}: built: {time.monotonic() - start:.0f} s", flush=True)
    for fault in sanitizer.faults:
        report = report_of_fault(sanitizer, fault, commands, objects)
        if fault.report not in report:
            raise SystemExit(
                f"the report on a fault in {fault.stem}.cpp should have {fault.report!r}, it is: {report!r}"
            )
    status, report = run(sanitizer, package, "-c", PROBE)
    if status == 0:
        print(f"{len(sanitizer.faults)} mutants reported: {time.monotonic() - start:.0f} s", flush=True)
        settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
        tests = [str(ROOT / test) for test in sanitizer.tests]
        status, report = run(sanitizer, package, *PYTEST, "-k", sanitizer.selection, *settings, *tests)
    faulty = status != 0 or any(words in report for words in REPORTS)
    print(report if faulty else "", end="")
    print(
        f"{sanitizer.name}: {'a fault' if faulty else 'no report'}, {time.monotonic() - start:.0f} s",
        flush=True,
    )
    return not faulty


def main(names: list[str]) -> int:
    """Check the sanitizers of these names, by default both. `make prove` has time for "memory" only."""
    clean = [check(one) for one in (MEMORY, THREADS) if not names or one.name in names]
    return not all(clean)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
