"""Several threads at once, and a process that was forked after the ops had run."""

import os
import signal
import sys
import threading

import pytest
import torch

from electra_kernels import use_backend
from electra_kernels.backends.registry import current_choice
from electra_kernels.triton.launch import is_interpreted

from .cases import CASES, build

ONE_AT_A_TIME = (
    "Triton's interpreter and the fibers that stand for a GPU keep the state of a launch in one place"
)
REPETITIONS = 10


def _results(case):
    """All that comes out of a forward and its backward."""
    leaves = case.leaves()
    outputs = case.outputs(**leaves)
    if leaves:
        next(output for output in outputs if output.requires_grad).sum().backward()
    return [output.detach() for output in outputs] + [leaf.grad for leaf in leaves.values()]


def _assert_same(ours, expected):
    for one, other in zip(ours, expected):
        assert torch.equal(one, other)


@pytest.mark.skipif(is_interpreted() or "fiber_backend" in sys.modules, reason=ONE_AT_A_TIME)
@pytest.mark.parametrize("name", CASES)
def test_two_threads_call_the_same_op(device, dtype, name):
    """Each with its own choice of back end, which a new thread does not inherit."""
    case, backend = build(name, device, dtype, batch=40), current_choice()
    expected, start, faults = _results(case), threading.Barrier(2), []

    def work():
        try:
            start.wait()
            for _ in range(REPETITIONS):
                with use_backend(backend):
                    _assert_same(_results(case), expected)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]


def test_a_fork_after_use(device):
    """As a worker of a DataLoader, which sets its number of threads to 1: the threads of OpenMP did not come along,
    and torch itself waits for them for ever."""
    if device.type == "cuda":
        pytest.skip("CUDA cannot be used in a process forked from one that has used it")
    cases = [build(name, device, batch=8) for name in CASES]
    expected = [_results(case) for case in cases]
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        status = 1
        try:
            torch.set_num_threads(1)
            for case, results in zip(cases, expected):
                _assert_same(_results(case), results)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
