"""Ranks that were started with different options."""

from pathlib import Path

import pytest

from electra_kernels.commands.resuming import check_ranks
from electra_kernels.commands.run_options import Options
from electra_kernels.errors import AgreedError
from electra_kernels.training.recipe import RECIPES
from electra_kernels.training.world import World


class Pair(World):
    """Rank 0 of two, whose other rank was started with ``other``."""

    other: Options

    def require_same(self, name, value):
        theirs = getattr(self.other, name.removeprefix("--").replace("-", "_"))
        if theirs != value:
            raise AgreedError(f"rank 1 has {name} {theirs}, should be {value} as rank 0")

    def gather(self, value):
        return [value] * self.size


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"output": Path("other")}, "--output"),
        ({"resume": "never"}, "--resume"),
        ({"micro_batch": 2}, "--micro-batch"),
        ({"shard": True}, "--shard"),
        ({"checkpoint_layers": True}, "--checkpoint-layers"),
        ({"compile": True}, "--compile"),
        ({"vocab_parallel": 2}, "--vocab-parallel"),
        ({"threads": 2}, "--threads"),
    ],
)
def test_ranks_with_different_options_are_refused(change, name):
    """Each of them decides what the ranks do together: one that differs would leave a rank waiting."""
    options, world = Options(Path("out")), Pair(size=2)
    object.__setattr__(world, "other", Options(**{"output": Path("out"), **change}))
    with pytest.raises(AgreedError, match=f"rank 1 has {name} "):
        check_ranks(options, {}, RECIPES["demo"], world)


def test_a_batch_that_does_not_divide_is_refused():
    world = Pair(size=3)
    object.__setattr__(world, "other", Options(Path("out")))
    with pytest.raises(
        AgreedError, match="--batch-size is 16, should be a multiple of the number of ranks, 3"
    ):
        check_ranks(Options(Path("out")), {}, RECIPES["demo"], world)


def test_ranks_that_share_a_vocabulary_are_of_one_machine():
    options = Options(Path("out"), vocab_parallel=2)
    world = Pair(size=4, local_size=1)
    object.__setattr__(world, "other", options)
    expected = "--vocab-parallel is 2, should divide the number of ranks of a machine, 1"
    with pytest.raises(AgreedError, match=expected):
        check_ranks(options, {}, RECIPES["demo"], world)
