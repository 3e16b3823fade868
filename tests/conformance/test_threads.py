"""Ops on several threads at once, and in a process that was forked after they had run."""

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
from .oracle import assert_equal

ONE_AT_A_TIME = "Triton's interpreter and the fiber build keep the state of a launch in global variables"
REPETITIONS = 10


@pytest.mark.skipif(is_interpreted() or "fiber_backend" in sys.modules, reason=ONE_AT_A_TIME)
@pytest.mark.parametrize("name", CASES)
def test_two_threads_call_the_same_op(device, dtype, name):
    """Each thread chooses its back end, as a new thread does not inherit the choice."""
    case, backend = build(name, device, dtype, batch=40), current_choice()
    expected, start, faults = case.outputs_and_gradients(), threading.Barrier(2), []

    def work():
        try:
            start.wait()
            for _ in range(REPETITIONS):
                with use_backend(backend):
                    assert_equal(case.outputs_and_gradients(), expected)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults, faults[0]


def test_the_ops_run_in_a_fork_after_use(device):
    """The child uses one thread, as a worker of a DataLoader does.

    OpenMP's threads do not survive a fork, and PyTorch itself would wait for them forever.
    """
    if device.type == "cuda":
        pytest.skip("CUDA cannot be used in a process forked from one that has used it")
    cases = [build(name, device, batch=8) for name in CASES]
    expected = [case.outputs_and_gradients() for case in cases]
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        status = 1
        try:
            torch.set_num_threads(1)
            for case, results in zip(cases, expected):
                assert_equal(case.outputs_and_gradients(), results)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
