"""What ``make sanitize`` runs: the tests of the compiled kernels with AddressSanitizer and
UndefinedBehaviorSanitizer in them.

The kernels are built with both into ``build/sanitized``, beside copies of the package, and the tests import those
copies. Two mutants of the kernels, each with one fault, have to be reported first: that shows that the library
that runs is the instrumented one.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import setup as builder  # noqa: E402
from electra_kernels import backends  # noqa: E402

FOLDER = ROOT / "build" / "sanitized"
SANITIZE = (
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
    "-fno-omit-frame-pointer",
    "-O1",
    "-g",
)
# (source, what is in it, what the mutant has instead, what has to be reported).
MUTANTS = [
    (
        "bce",
        "load_elements(logits, first + start, size, x)",
        "load_elements(logits, first + start, size + 1, x)",
        "AddressSanitizer: heap-buffer-overflow",
    ),
    (
        "masking",
        "static_cast<double>(available) + 0.5",
        "static_cast<double>(available) * 1e300",
        "is outside the range of representable values",
    ),
]
PROBE = """
import torch, electra_kernels
with electra_kernels.use_backend("cpp"):
    electra_kernels.masked_bce_with_logits(torch.zeros(5, requires_grad=True), torch.ones(5)).backward()
    ids = torch.arange(64)[None]
    electra_kernels.mask_tokens(ids, ids >= 0, mask_token_id=0, vocab_size=64, probability=1.0)
"""
# Not those of torch.compile: they run no other kernel than the rest, and most of their time is the compiler's.
WITHOUT_KERNELS = ("test_citizens", "test_uniforms")
SELECTION = "(cpp or test_compiled.py) and not _compiled["
# A worker that a sanitizer ends takes what pytest has captured with it, so it leaves standard error alone.
PYTEST = ["-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "--max-worker-restart=0", "--capture=sys"]


def flags_of_levels() -> dict[str, list[str]]:
    """Only of the levels that this machine can run."""
    supported = backends().levels.get("cpp", ())
    if not supported:
        raise SystemExit(f"there are no compiled kernels here: {backends().unavailable.get('cpp')}")
    return {level: flags for level, flags in builder.LEVELS.items() if level in supported}


def test_files() -> list[Path]:
    conformance = sorted((ROOT / "tests" / "conformance").glob("test_*.py"))
    kept = [path for path in conformance if path.stem not in WITHOUT_KERNELS]
    return [ROOT / "tests" / "test_compiled.py", *kept]


def copy_package(name: str, objects: list[Path]) -> Path:
    """A folder with the package and, in it, the library made of these objects."""
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    without = shutil.ignore_patterns("__pycache__", "_cpp.so")
    shutil.copytree(ROOT / "electra_kernels", folder / "electra_kernels", ignore=without)
    builder.link_kernels(objects, folder / "electra_kernels" / "_cpp.so", SANITIZE)
    return folder


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and standard error of a Python in which `folder` comes first on the path, with the sanitizers'
    libraries loaded before all others."""
    names = ("libasan.so", "libubsan.so", "libstdc++.so.6")
    compiler = os.environ.get("CXX", "g++").split()
    libraries = [
        subprocess.check_output([*compiler, f"-print-file-name={name}"], text=True).strip() for name in names
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    # Python puts the folder where it runs first on its path, before PYTHONPATH.
    process = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=folder, stderr=subprocess.PIPE, text=True
    )
    return process.returncode, process.stderr


def report_of_mutant(
    stem: str, right: str, wrong: str, commands: list[tuple[str, list[str]]], objects: list[Path]
) -> str:
    """What is reported of the probe if the best level of one source has this fault."""
    text = (ROOT / "csrc" / "cpu" / f"{stem}.cpp").read_text()
    if right not in text:
        raise SystemExit(
            f"csrc/cpu/{stem}.cpp no longer has {right!r}, which .ci/sanitize.py makes a fault of"
        )
    source, mutant = FOLDER / f"mutant_{stem}.cpp", FOLDER / f"mutant_{stem}.o"
    source.write_text(text.replace(right, wrong))
    name, arguments = next(command for command in reversed(commands) if command[0].startswith(f"{stem}-"))
    builder.compile_and_link([*arguments[:-1], str(source), "-Icsrc/cpu", "-o", str(mutant)])
    faulty = [mutant if path.name.startswith(f"{name}.") else path for path in objects]
    return run(copy_package(f"mutant_{stem}", faulty), "-c", PROBE)[1]


def main() -> int:
    start = time.monotonic()
    commands = builder.kernel_commands(flags_of_levels(), SANITIZE)
    objects = builder.build_objects(FOLDER / "objects", commands)
    package = copy_package("package", objects)
    print(f"built with both sanitizers: {time.monotonic() - start:.0f} s", flush=True)
    for stem, right, wrong, expected in MUTANTS:
        report = report_of_mutant(stem, right, wrong, commands, objects)
        if expected not in report:
            raise SystemExit(f"a fault in {stem}.cpp was not reported as {expected!r}, but so: {report!r}")
    status, report = run(package, "-c", PROBE)
    if status == 0:
        print(f"{len(MUTANTS)} mutants reported: {time.monotonic() - start:.0f} s", flush=True)
        settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
        status, report = run(package, *PYTEST, "-k", SELECTION, *settings, *map(str, test_files()))
    faulty = status != 0 or "runtime error:" in report or "AddressSanitizer" in report
    print(report if faulty else "", end="")
    print(f"sanitizers: {'a fault' if faulty else 'no report'}, {time.monotonic() - start:.0f} s")
    return faulty


if __name__ == "__main__":
    sys.exit(main())
