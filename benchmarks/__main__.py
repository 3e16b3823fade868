"""``python -m benchmarks [--quick]``: every op against eager torch, in ratios measured side by side."""

import argparse

import torch

from benchmarks import bce, masking, mlm_head, rtd_head, sampling
from benchmarks.harness import measure
from electra_kernels import backends


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one size per op, under a minute")
    parser.add_argument("--rounds", type=int, default=9, help="how often each contender runs (default 9)")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds is {arguments.rounds}, should be at least 2, for there to be a spread")
    torch.manual_seed(0)
    names = {name for (_, device), name in backends().serving.items() if device == "cpu"}
    capability = torch.backends.cpu.get_cpu_capability()
    print(
        f"torch {torch.__version__}, {capability}, threads: {torch.get_num_threads()}, back ends: {', '.join(names)}"
    )
    print(f"{'':44}{'median ms':>11}{'spread':>9}{'x baseline':>12}{'x read':>9}")
    for idea in (masking, sampling, mlm_head, bce, rtd_head):
        for case in idea.cases(arguments.quick):
            print(case.name)
            for result in measure(case, rounds=arguments.rounds):
                milliseconds = f"{result.median * 1e3:11.3f}{result.spread * 1e3:9.3f}"
                print(
                    f"    {result.contender:40}{milliseconds}{result.ratio:12.2f}{result.floor:9.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
