"""The fibers themselves: correct kernels run as on a GPU, and each kind of fault is detected."""

import pytest
import torch

THREADS = 96


def run(name, threads=THREADS):
    out = torch.empty(threads)
    torch.ops.cuda_on_cpu.run(name, out)
    return out


@pytest.mark.parametrize(
    "name",
    [
        "with_barrier",
        "dynamic_shared",
        "early_exit",
        "reductions",
        "collectives",
        "vectors",
        "cluster",
        "copies",
        "overlap",
    ],
)
def test_a_correct_kernel_runs(name):
    neighbours = (torch.arange(THREADS) + 1) % THREADS
    assert torch.equal(run(name), neighbours.float())


@pytest.mark.parametrize("name", ["without_barrier", "cluster_without_barrier"])
def test_without_a_barrier_some_threads_read_unwritten_memory(name):
    runs = [run(name) for _ in range(20)]
    assert all(numbers.isnan().any() for numbers in runs)
    assert not all(numbers.isnan().all() for numbers in runs)


def test_a_copy_to_shared_memory_is_as_late_as_the_wait_for_it():
    assert run("copies_awaited_late").isnan().all()
    assert bool((run("copies_of_what_changes") == -1).all())


def test_a_kernel_that_overlaps_another_reads_unwritten_memory_until_it_waits():
    assert run("overlap_read_early").isnan().any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("barrier_of_some", "wait for others that never come.*40 of 64 threads at the barrier"),
        ("different_barriers", "waits at line [0-9]+, others at line [0-9]+"),
        ("collective_of_some", "wait for others that never come.*16 lanes of warp 0 at the collective"),
        ("half_a_mask", "a collective without all lanes"),
        ("read_behind_global", "out of bounds.*heap-buffer-overflow"),
        ("write_behind_shared", "out of bounds.*heap-buffer-overflow"),
        ("write_behind_dynamic_shared", "out of bounds.*heap-buffer-overflow"),
        ("too_much_shared", "a block with 49280 bytes of shared memory, which has 49152"),
        ("unaligned_vector", "a vector access that is not aligned"),
        ("block_not_begun", "shared memory of a block that has not begun"),
        ("block_ended", "shared memory of a block that has ended"),
        ("copies_not_awaited", "ends before its copies to shared memory"),
        ("unaligned_copy", "a vector access that is not aligned"),
        ("overlap_awaited_by_some", "ends without having waited for the kernel before this one"),
        ("overlap_not_awaited", "ends without having waited for the kernel before this one"),
        (
            "cluster_barrier_of_some",
            "wait for others that never come.*32 of 96 threads at the barrier of the cl",
        ),
    ],
)
def test_a_fault_raises_and_the_next_launch_works(name, message):
    with pytest.raises(RuntimeError, match=f"(?s)fibers: .*{message}"):
        run(name)
    assert torch.equal(run("with_barrier"), (torch.arange(THREADS) + 1.0) % THREADS)


@pytest.mark.parametrize("threads", [31, 33, 1056])
def test_a_block_must_have_whole_warps(threads):
    with pytest.raises(
        RuntimeError, match=f"should have whole warps and at most 1024 threads, it has {threads}"
    ):
        run("with_barrier", threads)


def test_one_warp_runs_ahead_of_the_others_in_some_blocks_only():
    first_warps = [{int(thread) // 32 for thread in run("order")[:32]} for _ in range(20)]
    assert {len(warps) == 1 for warps in first_warps} == {True, False}


def test_the_order_of_the_threads_is_random():
    orders = {tuple(run("order").tolist()) for _ in range(3)}
    assert len(orders) == 3
    assert all(sorted(order) == list(range(THREADS)) for order in orders)
