"""Random numbers of an objective: streams of uniforms that follow from the seed, a name and the number of the row."""

from hashlib import blake2b
from math import prod

from torch import Tensor

from electra_kernels.row_uniforms import row_uniforms


def stream_seed(seed: int, name: str) -> int:
    """An int64 for the stream ``name`` of a run. Neighbouring seeds and different names give unrelated streams."""
    digest = blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def row_draws(numbers: Tensor, name: str, seed: int, *shape: int) -> Tensor:
    """Uniforms of the stream ``name`` for each row; more numbers in the first dimension of ``shape`` are appended.

    Args:
        numbers: int64 [B], the numbers of the rows in the run.
        name: what the numbers decide. Streams of different names are independent.
        seed: of the run.
        shape: of the numbers of one row.

    Returns:
        float64 [B, *shape] in [0, 1), on the device of ``numbers``, which is not synchronised.
    """
    return row_uniforms(numbers, prod(shape), stream_seed(seed, name)).view(len(numbers), *shape)
