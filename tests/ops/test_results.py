"""Saving and loading the named tuples that the ops return."""

import subprocess
import sys

import pytest
import torch

import electra_kernels

RESULTS = [
    electra_kernels.MaskedTokens(torch.tensor([[5, 3]]), torch.tensor([[1]]), torch.tensor([[6]])),
    electra_kernels.ReplacedTokens(torch.tensor([[5, 3]]), torch.tensor([[False, True]])),
    electra_kernels.SampledLoss(
        torch.tensor(0.25), torch.tensor([4, -1]), torch.tensor([True, False]), torch.tensor([1.5, 0.0])
    ),
    electra_kernels.TokenLoss(torch.tensor(0.5), torch.tensor([[1.5, -2.0]]), torch.tensor([1, 0, 0, 1])),
]

PROGRAM = """
import sys
import electra_kernels
import torch
result = torch.load(sys.argv[1], weights_only=True)["result"]
print(type(result) is getattr(electra_kernels, sys.argv[2]))
print([value.tolist() for value in result])
"""


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_process_that_imports_only_the_package_loads_a_saved_result(result, tmp_path):
    path = tmp_path / "result.pt"
    torch.save({"result": result}, path)
    arguments = [sys.executable, "-c", PROGRAM, str(path), type(result).__name__]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["True", str([value.tolist() for value in result])]


def test_the_result_of_an_op_survives_saving_and_loading(tmp_path):
    hidden, weight, targets = torch.randn(3, 8), torch.randn(20, 8), torch.tensor([1, 2, 3])
    result = electra_kernels.linear_cross_entropy_sample(hidden, weight, None, targets)
    torch.save(result, tmp_path / "result.pt")
    loaded = torch.load(tmp_path / "result.pt", weights_only=True)
    assert type(loaded) is electra_kernels.SampledLoss
    for ours, theirs in zip(loaded, result, strict=True):
        assert torch.equal(ours, theirs)
