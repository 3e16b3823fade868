import pytest
import torch

from electra_kernels.data.batch import TokenBatch


def batch(rows, *, packed):
    ids = torch.arange(rows * 4).view(rows, 4)
    return TokenBatch(ids, ids > 0, ids > 1, ids[:, 0], ids[:, 1], ids // 2 if packed else None)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 3, 6, 7])
def test_parts_are_consecutive_and_make_the_whole(rows, packed):
    whole = batch(6, packed=packed)
    parts = whole.split(rows)
    assert [len(part.input_ids) for part in parts] == [min(rows, 6 - start) for start in range(0, 6, rows)]
    for name, expected in whole._asdict().items():
        found = [getattr(part, name) for part in parts]
        assert found == [None] * len(parts) if expected is None else torch.equal(torch.cat(found), expected)


@pytest.mark.parametrize("packed", [True, False])
def test_every_part_moves_to_the_device(packed):
    moved = batch(3, packed=packed).to(torch.device("meta"))
    assert (moved.segments is None) != packed
    assert all(part.device.type == "meta" for part in moved if part is not None)
