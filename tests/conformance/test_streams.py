"""GPU execution: capture in a CUDA graph, any stream, any device.

Without a GPU the same steps run on the CPU, where a call is replayed by calling it again.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from .cases import CASES, build
from .oracle import assert_equal


def _capture(
    device: torch.device, function: Callable[[], list[Tensor]]
) -> tuple[list[Tensor], Callable[[], None]]:
    """Calls ``function`` once; returns its outputs and a function that recomputes them in the same memory."""
    if device.type == "cpu":
        outputs = function()

        def call_again() -> None:
            for output, value in zip(outputs, function()):
                output.copy_(value)

        return outputs, call_again
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(2):  # the first call may compile kernels
            function()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()
    return outputs, graph.replay


@pytest.mark.parametrize("name", CASES)
def test_a_captured_call_is_replayed_with_new_inputs(device, dtype, name):
    """Nothing of the first inputs is baked in: neither values, nor counts, nor the draw."""
    case = build(name, device, dtype)
    tensors = {key: value.clone() for key, value in case.tensors.items()}
    outputs, replay = _capture(device, lambda: case.outputs_and_gradients(**tensors))
    for seed in (1, 2):
        torch.manual_seed(seed)
        fresh = build(name, device, dtype)
        for key, value in fresh.tensors.items():
            tensors[key].copy_(value)
        replay()
        assert_equal(outputs, fresh.outputs_and_gradients())


@pytest.mark.parametrize("name", CASES)
def test_a_call_runs_on_the_current_stream(device, name):
    """The current stream writes the inputs late. Kernels on another stream would read them too early."""
    case = build(name, device)
    expected = case.outputs_and_gradients()
    tensors = {key: torch.zeros_like(value) for key, value in case.tensors.items()}
    with torch.cuda.stream(torch.cuda.Stream(device) if device.type == "cuda" else None):
        size = 4096 if device.type == "cuda" else 8
        work = torch.ones(size, size, device=device)
        for _ in range(20):
            work = (work @ work).clamp(max=1)
        for key, value in case.tensors.items():
            tensors[key].copy_(value)
        ours = case.outputs_and_gradients(**tensors)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    assert_equal(ours, expected)


@pytest.mark.parametrize("name", CASES)
def test_tensors_on_a_device_that_is_not_current(device, name):
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    other = torch.device("cuda", 1) if device.type == "cuda" else device
    case = build(name, device)
    ours = case.outputs_and_gradients(**{key: value.to(other) for key, value in case.tensors.items()})
    assert all(output.device == other for output in ours)
    assert_equal([output.to(device) for output in ours], case.outputs_and_gradients())
