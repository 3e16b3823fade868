"""``python -m benchmarks.audit``: compile every kernel for GPUs that are not here, say what is wrong with it."""

import argparse
import sys
from pathlib import Path

from benchmarks.audit import report, traffic
from benchmarks.audit.cases import real_cases
from benchmarks.audit.compilation import AMD_ARCHITECTURE, CUDA_CAPABILITIES, CannotCompileError
from benchmarks.audit.cuda_audit import CudaAudit
from benchmarks.audit.table import LEGEND, table
from benchmarks.audit.triton_audit import TritonAudit
from benchmarks.results import FOLDER


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.audit", description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER / "audit.json", help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        audits: dict[str, report.Audit] = {
            "triton": TritonAudit([*CUDA_CAPABILITIES, AMD_ARCHITECTURE]),
            "cuda": CudaAudit(),
        }
        ops = [report.op(case, audits) for case in real_cases()]
    except CannotCompileError as error:
        print(f"audit: {error}", file=sys.stderr)
        return 1
    record = report.joined(audits, ops, traffic.counted())
    report.write(arguments.output, record)
    print(f"{table(record)}\n\n{LEGEND}")
    faults = report.faults(record)
    print("\n".join(["", f"{len(faults)} faults", *faults]))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
