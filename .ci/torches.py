"""``make torches VERSIONS="2.11.0 2.14.1"``: tests the wheel under other versions of torch.

Each version has its own environment, with torch, the Triton that this torch requires, and the wheel that ``make wheel``
has left in dist/. There the libraries are loaded, which fails if this torch does not export a symbol. Then the
conformance suite runs from a folder without the package's sources. Each version leaves some gigabytes in build/torches.
"""

import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "torches"
TOOLS = ["numpy", "pytest", "pytest-xdist", "hypothesis", "scipy", "setuptools", "transformers"]
LOAD = """
import torch, pathlib, electra_kernels
for library in sorted(pathlib.Path(electra_kernels.__file__).parent.glob("_c*.so")):
    torch.ops.load_library(str(library))
print(torch.__version__)
"""
PYTEST = [
    "-m",
    "pytest",
    "-q",
    "-n",
    "2",
    "--dist",
    "worksteal",
    "-p",
    "no:cacheprovider",
    "tests/conformance",
]
CHECKS = {
    "loads": (["-c", LOAD], {}),
    "cpp, reference": ([*PYTEST, "-k", "cpp or reference"], {}),
    "triton, interpreted": ([*PYTEST, "-k", "triton"], {"TRITON_INTERPRET": "1"}),
}


def main(versions: list[str]) -> int:
    wheels = sorted((ROOT / "dist").glob("electra_kernels-*-manylinux*.whl"), key=os.path.getmtime)
    if not wheels:
        print("there is no wheel in dist/: run make wheel first", file=sys.stderr)
        return 1
    tests = FOLDER / "tests"
    shutil.rmtree(tests, ignore_errors=True)
    shutil.copytree(ROOT / "tests" / "conformance", tests / "conformance")
    shutil.copy2(ROOT / "tests" / "conftest.py", tests)
    shutil.copy2(ROOT / "pyproject.toml", FOLDER)
    outcomes = [outcome for version in versions for outcome in _outcomes(version, wheels[-1])]
    print("\n".join(outcomes))
    return any("FAILED" in outcome for outcome in outcomes)


def _outcomes(version: str, wheel: Path) -> list[str]:
    python = _environment(version, wheel)
    found = []
    for name, (arguments, variables) in CHECKS.items():
        start = time.monotonic()
        log = FOLDER / f"{version}-{name.split(',')[0]}.log"
        with log.open("w") as output:
            status = subprocess.run(
                [python, *arguments],
                cwd=FOLDER,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
                stdout=output,
                stderr=output,
            ).returncode
        last = (log.read_text().splitlines() or [""])[-1]
        outcome = "FAILED" if status else "passed"
        found.append(f"torch {version:8} {name:20} {outcome} {time.monotonic() - start:4.0f} s  {last}")
        print(found[-1], flush=True)
    return found


def _environment(version: str, wheel: Path) -> Path:
    folder = FOLDER / version
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    for packages in ([f"torch=={version}", *TOOLS], ["--no-deps", "--force-reinstall", str(wheel)]):
        subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    return python


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
