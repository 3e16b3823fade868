"""``python tests/fuzz.py MINUTES``: the property tests with new cases, round after round, until the time is over.

It ends at the first round with a failure, whose report says how to repeat the case.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = [str(path) for path in sorted((ROOT / "tests" / "conformance").glob("test_*properties.py"))]
PYTEST = [
    sys.executable,
    "-m",
    "pytest",
    "-q",
    "-n",
    "2",
    "--dist",
    "worksteal",
    "--hypothesis-show-statistics",
]
EXAMPLES = 50  # of each property in a round, the shortest time that can be asked for
CASES = re.compile(r"(\d+) passing, (\d+) failing")
VARIABLES = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--only", default="", help="what pytest's -k selects")
    arguments = parser.parse_args()
    start, cases, status = time.monotonic(), 0, 0
    while status == 0 and time.monotonic() - start < 60 * arguments.minutes:
        command = [*PYTEST, f"--examples={EXAMPLES}", "-k", arguments.only, *FILES]
        process = subprocess.run(
            command, cwd=ROOT, env=os.environ | VARIABLES, stdout=subprocess.PIPE, text=True
        )
        status = process.returncode
        cases += sum(int(number) for found in CASES.findall(process.stdout) for number in found)
        print(f"{cases} cases, {time.monotonic() - start:.0f} s", flush=True)
    print(process.stdout if status else "", end="")
    print("a case failed" if status else "no case failed")
    return status


if __name__ == "__main__":
    sys.exit(main())
