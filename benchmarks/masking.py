"""mask_tokens against the eager recipe: random keys for all B x T tokens, top-k, gather, scatter."""

from collections.abc import Iterator

import torch

import electra_kernels
from benchmarks.harness import Case

MASK, VOCAB_SIZE = 103, 30_522


def cases(quick: bool) -> Iterator[Case]:
    for batch, length in [(128, 128)] if quick else [(16, 128), (128, 128), (256, 512)]:
        yield _case(batch, length)


def _case(batch: int, length: int) -> Case:
    input_ids = torch.randint(1000, VOCAB_SIZE, (batch, length))
    maskable = torch.ones_like(input_ids, dtype=torch.bool)
    slots = int(0.155 * length)

    def eager() -> object:
        keys = torch.rand(batch, length).masked_fill_(~maskable, -1)
        positions = keys.topk(slots).indices
        targets = input_ids.gather(1, positions)
        written = targets.where(torch.rand(batch, slots) >= 0.85, MASK)
        return input_ids.scatter(1, positions, written), positions, targets

    def ours() -> object:
        return electra_kernels.mask_tokens(input_ids, maskable, mask_token_id=MASK, vocab_size=VOCAB_SIZE)

    # ids are read and written, the mask is read, positions and targets are written
    bytes_moved = batch * length * (8 + 8 + 1) + batch * slots * (8 + 8)
    return Case(f"mask_tokens B={batch} T={length}", {"eager": eager, "ours": ours}, bytes_moved)
