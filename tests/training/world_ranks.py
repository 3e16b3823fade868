"""One rank of `test_world`: does everything that ranks do together, and prints the results as JSON."""

import json

import torch

from electra_kernels.errors import AgreedError, UserError
from electra_kernels.training.world import join_world


def outcome(call):
    try:
        return ["returned", call()]
    except AgreedError as error:
        return ["AgreedError", str(error)]


def fails(condition, error):
    def work():
        if condition:
            raise error
        return "done"

    return work


def main():
    with join_world() as world:
        rank = world.rank
        full = OSError(28, "No space left on device", "the file")
        results = {
            "rank": [rank, world.size, world.local_size, world.is_main],
            "sum": world.sum(torch.tensor([rank + 1, 10])).tolist(),
            "largest": world.largest(-1.5 - rank),
            "gather": world.gather(f"of rank {rank}"),
            "concatenate": world.concatenate(torch.arange(rank + 1) + 10 * rank).tolist(),
            "everywhere": outcome(lambda: world.everywhere(lambda: rank)),
            "failure of rank 0": outcome(lambda: world.everywhere(fails(rank == 0, UserError("no text")))),
            "failure of rank 1": outcome(lambda: world.everywhere(fails(rank == 1, full))),
            "on main": outcome(lambda: world.on_main(lambda: f"made by {rank}")),
            "failure on main": outcome(lambda: world.on_main(fails(rank == 0, UserError("no text")))),
            "same": outcome(lambda: world.require_same("--seed", 3)),
            "different": outcome(lambda: world.require_same("--seed", 3 + rank)),
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
