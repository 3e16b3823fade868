"""``python tests/fuzz.py MINUTES``: runs the property tests with new examples, round after round, until time is up.

It stops after the first round with a failure and prints pytest's report, which says how to reproduce the example.
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
# Examples of each property per round. A round is never cut short, so this sets the shortest run.
EXAMPLES = 50
COUNTS = re.compile(r"(\d+) passing, (\d+) failing")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument(
        "--only", default="", help="run only the tests that this -k expression of pytest selects"
    )
    arguments = parser.parse_args()
    start, examples, status = time.monotonic(), 0, 0
    while status == 0 and time.monotonic() - start < 60 * arguments.minutes:
        command = [*PYTEST, f"--examples={EXAMPLES}", "-k", arguments.only, *FILES]
        process = subprocess.run(
            command, cwd=ROOT, env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, text=True
        )
        status = process.returncode
        examples += sum(int(number) for found in COUNTS.findall(process.stdout) for number in found)
        print(f"{examples} examples, {time.monotonic() - start:.0f} s", flush=True)
    print(process.stdout if status else "", end="")
    print("an example failed" if status else "no example failed")
    return status


if __name__ == "__main__":
    sys.exit(main())
