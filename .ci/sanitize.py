"""What ``make sanitize`` runs: the tests of the compiled kernels with AddressSanitizer and
UndefinedBehaviorSanitizer in them, and some of them again with ThreadSanitizer.

The kernels are built with them into ``build/sanitized``, beside copies of the package, and the tests import those
copies. Mutants of the kernels, each with one fault, have to be reported first: that shows that the library that
runs is the instrumented one. Under ThreadSanitizer the loops run on threads of ours (``parallel_for.cpp``).
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
    """A mutant: what stands in a source, what it has instead, and the words of the sanitizer."""

    stem: str
    right: str
    wrong: str
    report: str


@dataclass(frozen=True)
class Sanitizer:
    """Flags of compiler and linker; libraries that come before all others; settings; what is tested."""

    name: str
    flags: tuple[str, ...]
    libraries: tuple[str, ...]
    settings: dict[str, str]
    faults: tuple[Fault, ...]
    tests: tuple[str, ...]
    selection: str


# Not those of torch.compile and of PyTorch's samples: they run no other kernel than the rest, and most of their time
# is another's. Nor those that take gigabytes.
WITHOUT_KERNELS = ("test_citizens", "test_uniforms", "test_opinfo", "test_offsets")
# For races it is enough that each kernel runs on several threads. No thread of a fork may start another there.
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
        "tests/test_compiled.py",
        *(
            f"tests/conformance/{path.name}"
            for path in sorted((ROOT / "tests" / "conformance").glob("test_*.py"))
            if path.stem not in WITHOUT_KERNELS
        ),
    ),
    "(cpp or test_compiled.py) and not _compiled[",
)
THREADS = Sanitizer(
    "threads",
    ("-fsanitize=thread", "-Dtorch_parallel_for=electra_kernels_parallel_for", *COMMON),
    ("libtsan.so", "libstdc++.so.6"),
    # Python and torch are not instrumented: what they do to memory says nothing about the kernels.
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
# A worker that a sanitizer ends takes what pytest has captured with it, so it leaves standard error alone.
PYTEST = ["-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "--max-worker-restart=0", "--capture=sys"]


def levels_here(sanitizer: Sanitizer) -> dict[str, list[str]]:
    """Those that this machine can run; for races the best alone, whose loops are those of all."""
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
    """A folder with the package and, in it, the library made of these objects."""
    folder = FOLDER / sanitizer.name / name
    shutil.rmtree(folder, ignore_errors=True)
    without = shutil.ignore_patterns("__pycache__", "_cpp.so")
    shutil.copytree(ROOT / "electra_kernels", folder / "electra_kernels", ignore=without)
    build.link_kernels(objects, folder / "electra_kernels" / "_cpp.so", sanitizer.flags)
    return folder


def run(sanitizer: Sanitizer, folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and standard error of a Python in which `folder` comes first on the path, with the libraries of
    the sanitizer loaded before all others."""
    libraries = [
        subprocess.check_output([*build.host_compiler(), f"-print-file-name={name}"], text=True).strip()
        for name in sanitizer.libraries
    ]
    environment = (
        os.environ
        | sanitizer.settings
        | {"LD_PRELOAD": " ".join(libraries), "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    )
    # ThreadSanitizer of older compilers finds no room among addresses that are chosen at random.
    fixed = ["setarch", platform.machine(), "--addr-no-randomize"] if sanitizer is THREADS else []
    # Python puts the folder where it runs first on its path, before PYTHONPATH.
    process = subprocess.run(
        [*fixed, sys.executable, *arguments], env=environment, cwd=folder, stderr=subprocess.PIPE, text=True
    )
    return process.returncode, process.stderr


def report_of_fault(
    sanitizer: Sanitizer, fault: Fault, commands: list[tuple[str, list[str]]], objects: list[Path]
) -> str:
    """What is reported of the probe if one source, at the best level, has this fault."""
    text = (ROOT / "csrc" / "cpu" / f"{fault.stem}.cpp").read_text()
    if fault.right not in text:
        raise SystemExit(
            f"csrc/cpu/{fault.stem}.cpp no longer has {fault.right!r}, which .ci/sanitize.py makes a fault of"
        )
    source, mutant = (FOLDER / sanitizer.name / f"mutant_{fault.stem}{suffix}" for suffix in (".cpp", ".o"))
    source.write_text(text.replace(fault.right, fault.wrong))
    name, arguments = next(c for c in reversed(commands) if c[0].partition("-")[0] == fault.stem)
    build.compile_and_link([*arguments[:-1], str(source), "-Icsrc/cpu", "-o", str(mutant)])
    faulty = [mutant if path.name.startswith(f"{name}.") else path for path in objects]
    return run(sanitizer, copy_package(sanitizer, source.stem, faulty), "-c", PROBE)[1]


def check(sanitizer: Sanitizer) -> bool:
    """Whether it reports the faults and nothing else."""
    start = time.monotonic()
    commands = commands_of(sanitizer)
    objects = build.build_objects(FOLDER / sanitizer.name / "objects", commands)
    package = copy_package(sanitizer, "package", objects)
    print(f"{sanitizer.name}: built: {time.monotonic() - start:.0f} s", flush=True)
    for fault in sanitizer.faults:
        report = report_of_fault(sanitizer, fault, commands, objects)
        if fault.report not in report:
            raise SystemExit(
                f"a fault in {fault.stem}.cpp was not reported as {fault.report!r}, but so: {report!r}"
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
    """By default both; `make prove`, whose time is short, asks for "memory"."""
    clean = [check(one) for one in (MEMORY, THREADS) if not names or one.name in names]
    return not all(clean)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
