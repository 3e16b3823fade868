"""``python -m benchmarks.codegen``: compile every GPU kernel and check spills and the width of loads and stores.

Prints a table with registers and shared memory and writes it to a file. Exits with 1 if a check fails. Takes minutes
the first time; needs nvcc and Triton, and no GPU.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.codegen import cuda_kernels, report
from benchmarks.codegen.cases import pretraining_cases
from benchmarks.codegen.compilation import AMD_ARCHITECTURE, CUDA_CAPABILITIES, CannotCompileError
from benchmarks.codegen.triton_kernels import TritonKernels
from benchmarks.results import FOLDER


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codegen", description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER / "codegen.md", help="default: %(default)s")
    arguments = parser.parse_args()
    compiled = TritonKernels([*CUDA_CAPABILITIES, AMD_ARCHITECTURE])
    try:
        for case in pretraining_cases():
            compiled.add(case)
        records = [*compiled.records.values(), *cuda_kernels.records()]
    except CannotCompileError as error:
        print(f"codegen: {error}", file=sys.stderr)
        return 1
    text = f"{report.HEADER}\n\n{report.table(records)}\n"
    arguments.output.write_text(text)
    print(text)
    faults = report.faults(records)
    print("\n".join([f"{len(faults)} faults in {len(records)} compiled kernels", *faults]))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
