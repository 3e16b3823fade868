import gc
import subprocess
import sys
import threading
import time

import pytest
import torch
from token_stores import store

from electra_kernels.data.batch import TokenBatch
from electra_kernels.data.loader import Loader
from electra_kernels.data.order import row_indices
from electra_kernels.data.packing import plan_rows
from electra_kernels.data.rows import PackedRows

CPU = torch.device("cpu")


class NumberedRows:
    """Rows of which each cell is the row's index. Counts the batches that were read."""

    length = 4

    def __init__(self, count=10, seconds=0.0, failing=None):
        self.count, self.seconds, self.failing, self.read = count, seconds, failing, 0

    def __len__(self):
        return self.count

    def batch(self, index, numbers):
        time.sleep(self.seconds)
        if self.failing is not None and self.read == self.failing:
            raise OSError(5, "Input/output error")
        self.read += 1
        ids = index[:, None].expand(-1, self.length).contiguous()
        return TokenBatch(ids, ids >= 0, ids >= 0, index, numbers)


@pytest.fixture
def loader():
    """Makes loaders, and closes them after the test."""
    made = []

    def make(rows, **options):
        made.append(Loader(rows, **{"seed": 3, "batch_size": 6, "device": CPU, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def take(loader, number):
    return [next(loader) for _ in range(number)]


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name == "row loader"]


def assert_same(batch, other):
    for part, expected in zip(batch, other):
        assert part is expected is None or torch.equal(part, expected)


def test_batches_follow_the_order_of_the_rows(loader):
    batches = take(loader(NumberedRows(10)), 20)
    numbers = torch.arange(120)
    assert torch.equal(torch.cat([batch.numbers for batch in batches]), numbers)
    assert torch.equal(torch.cat([batch.document for batch in batches]), row_indices(numbers, 10, 3))


@pytest.mark.parametrize("step", [1, 7, 10**12])
def test_a_run_continues_at_any_step(loader, step):
    rows = NumberedRows(10)
    uninterrupted = take(loader(rows, first_step=step - 1), 4)[1:]
    for batch, expected in zip(take(loader(rows, first_step=step), 3), uninterrupted):
        assert_same(batch, expected)
    assert uninterrupted[0].numbers[0] == step * 6


@pytest.mark.parametrize("ranks", [1, 2, 3, 6])
def test_the_ranks_share_the_batch_of_one(tmp_path, loader, ranks):
    corpus = store(tmp_path, [50, 3, 70, 9, 40, 18])
    rows = PackedRows(corpus, plan_rows(corpus, 20, seed=0))
    alone = take(loader(rows, first_row=100), 5)
    shares = [take(loader(rows, first_row=100, rank=rank, ranks=ranks), 5) for rank in range(ranks)]
    for step, whole in enumerate(alone):
        parts = [share[step] for share in shares]
        assert all(len(part.input_ids) == 6 // ranks for part in parts)
        assert_same(TokenBatch(*map(torch.cat, zip(*parts))), whole)


def test_a_phase_has_an_order_of_its_own_and_numbers_of_the_run(loader):
    rows = NumberedRows(10)
    first, second = take(loader(rows), 3), take(loader(rows, first_row=6000), 3)
    for batch, later in zip(first, second):
        assert torch.equal(batch.document, later.document)
        assert torch.equal(batch.numbers + 6000, later.numbers)


def test_a_few_batches_are_read_ahead(loader):
    rows = NumberedRows()
    take(batches := loader(rows), 1)
    deadline = time.monotonic() + 5
    while rows.read < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert 4 <= rows.read <= 6, "neither idle nor without bound"
    take(batches, 10)


def test_the_time_that_the_consumer_waits_is_counted(loader):
    slow = loader(NumberedRows(seconds=0.05))
    take(slow, 4)
    assert 0.1 < slow.waited < 2
    fast = loader(NumberedRows(seconds=0.01))
    next(fast)
    before = fast.waited
    time.sleep(0.5)
    take(fast, 3)
    assert fast.waited - before < 0.1


def test_an_error_of_the_rows_is_raised_where_the_batch_is_needed(loader):
    batches = loader(NumberedRows(failing=2))
    assert len(take(batches, 2)) == 2
    with pytest.raises(OSError, match="Input/output error"):
        next(batches)
    assert list(batches) == [], "the loader is exhausted"
    assert reading_threads() == []


def test_closing_ends_the_thread_at_once(loader):
    batches = loader(NumberedRows())
    next(batches)
    assert len(reading_threads()) == 1
    batches.close()
    assert reading_threads() == []
    assert list(batches) == []
    batches.close()


def test_the_thread_ends_with_the_last_reference_to_the_loader():
    batches = Loader(NumberedRows(), seed=0, batch_size=2, device=CPU)
    next(batches)
    del batches
    gc.collect()
    assert reading_threads() == []


def test_a_read_that_never_returns_does_not_keep_the_process():
    script = """
import threading, torch
from electra_kernels.data import loader
class Stalled:
    length = 4
    def __len__(self): return 10
    def batch(self, index, numbers): threading.Event().wait()
loader._PATIENCE = 0.1
batches = loader.Loader(Stalled(), seed=0, batch_size=2, device=torch.device("cpu"))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_batches_are_on_the_device(loader):
    assert next(loader(NumberedRows(), device=torch.device("meta"))).input_ids.device.type == "meta"


def test_for_a_gpu_the_thread_pins_and_the_consumer_moves(loader, monkeypatch):
    done = []

    def record(name):
        def recorded(batch, *device):
            done.append((name, threading.current_thread().name))
            return batch

        monkeypatch.setattr(TokenBatch, name, recorded)

    class Entered:
        """Stands for `torch.cuda.device`."""

        def __init__(self, device):
            self.device = device

        def __enter__(self):
            done.append((str(self.device), threading.current_thread().name))

        def __exit__(self, *error):
            pass

    record("pin_memory")
    record("to")
    monkeypatch.setattr(torch.cuda, "device", Entered)
    next(loader(NumberedRows(), device=torch.device("cuda", 3)))
    assert done[:2] == [("cuda:3", "row loader"), ("pin_memory", "row loader")]
    assert [event for event in done if event[0] == "to"] == [("to", threading.current_thread().name)]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size: 0 should be a positive multiple"),
        ({"batch_size": 6, "ranks": 4}, "batch_size: 6 should be a positive multiple of the 4 ranks"),
        ({"rank": 2, "ranks": 2}, "rank: 2 should be from 0 to 1"),
        ({"rank": -1}, "rank: -1 should be from 0 to 0"),
    ],
)
def test_a_wrong_share_is_refused(loader, options, message):
    with pytest.raises(ValueError, match=message):
        loader(NumberedRows(), **options)
