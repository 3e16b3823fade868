import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_kernels.data.best_fit import best_fit


def one_by_one(sizes, capacity):
    """Best fit decreasing as textbooks have it: the free cells of every row at the end, sorted."""
    rooms = []
    for size in sorted(sizes, reverse=True):
        fitting = [room for room in rooms if room >= size]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else capacity) - size)
    return sorted(rooms)


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=200), st.integers(0, 2**32))
def test_rows_are_filled_like_one_piece_at_a_time(sizes, seed):
    sizes = np.array(sizes, dtype=np.int32)
    rows = best_fit(sizes, 40, np.random.default_rng(seed).permutation(len(sizes)))
    assert sorted(40 - np.bincount(rows, sizes)) == one_by_one(sizes.tolist(), 40)


def test_the_order_decides_among_pieces_of_equal_size():
    sizes = np.array([6, 6, 6, 4, 4, 4])
    assert best_fit(sizes, 10, np.arange(6)).tolist() == [0, 1, 2, 0, 1, 2]
    assert best_fit(sizes, 10, np.array([2, 1, 0, 3, 4, 5])).tolist() == [2, 1, 0, 0, 1, 2]


def test_no_pieces_need_no_rows():
    assert best_fit(np.empty(0, np.int32), 10, np.empty(0, np.int64)).tolist() == []
