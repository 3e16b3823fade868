"""mask_tokens against the eager recipe: random keys for all B x T tokens, top-k, gather, scatter."""

from collections.abc import Iterator

import torch

import electra_kernels
from benchmarks import baselines, variants
from benchmarks.harness import Case, Size


def cases(size: Size) -> Iterator[Case]:
    batch, length = (4, 16) if size == "tiny" else (128, 128)
    yield _case(batch, length, is_main=size != "quick")


def slots(length: int) -> int:
    """Masked tokens K of a row, as `electra_kernels.mask_tokens` computes it at probability 0.15."""
    return max(1, int(0.155 * length))


def _case(batch: int, length: int, is_main: bool) -> Case:
    input_ids = torch.randint(1000, baselines.VOCAB_SIZE, (batch, length))
    maskable = torch.ones_like(input_ids, dtype=torch.bool)
    arguments = (input_ids, maskable, slots(length))

    def ours() -> object:
        return electra_kernels.mask_tokens(
            input_ids, maskable, mask_token_id=baselines.MASK, vocab_size=baselines.VOCAB_SIZE
        )

    runs, absent = variants.collect(
        lambda: baselines.mask(*arguments),
        baselines.compiled(baselines.mask, arguments, lambda result: result) if is_main else None,
        variants.ours("mask_tokens", ours, everywhere=is_main),
    )
    return Case(
        "mask_tokens",
        {"B": batch, "T": length},
        runs,
        # reads ids and maskable; writes masked ids, positions and targets
        bytes_read=batch * length * (8 + 1),
        bytes_written=batch * length * 8 + batch * slots(length) * (8 + 8),
        absent=absent,
        is_main=is_main,
    )
