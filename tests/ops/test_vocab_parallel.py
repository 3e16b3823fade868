"""The vocabulary-parallel functions on the only rank of a group: under torch.compile, and where values are not read."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import electra_kernels as ek
from electra_kernels.backends import vocab_parallel


@pytest.fixture
def _group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_group")
@pytest.mark.parametrize("kind", ["linear", "logits", "dtensor"])
def test_a_compiled_function_breaks_its_graph_there_and_has_the_same_results(kind):
    hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(37, 8)
    if kind == "dtensor":
        weight = distribute_tensor(weight, init_device_mesh("cpu", (1,)), [Shard(0)])
    rows = {"targets": torch.arange(5), "uniforms": torch.rand(5, dtype=torch.float64)}
    whole = {"group": None, "first_token": 0}

    def step(hidden):
        if kind == "dtensor":
            out = ek.linear_cross_entropy_sample(2 * hidden, weight, None, **rows)
        elif kind == "linear":
            out = ek.vocab_parallel_linear_cross_entropy_sample(2 * hidden, weight, None, **rows, **whole)
        else:
            out = ek.vocab_parallel_cross_entropy_sample(2 * hidden @ weight.T, **rows, **whole)
        return 3 * out.loss, out.tokens

    torch._dynamo.reset()
    results = []
    for run in (step, torch.compile(step, backend="aot_eager")):
        loss, tokens = run(hidden)
        results.append((loss.detach(), tokens, *torch.autograd.grad(loss, hidden)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("agreements", "expected"),
    [
        ([[0, 4, 7, 9], [4, 3, 7, 9], [7, 1, 7, 9]], False),
        ([[0, 4, 7, 9], [5, 3, 7, 9]], True),
        ([[1, 4, 7, 9], [5, 3, 7, 9]], True),
        ([[0, 4, 7, 9], [4, 3, 7, 8]], True),
    ],
)
def test_ranks_disagree_if_their_slices_have_a_gap_or_their_arguments_differ(agreements, expected):
    assert bool(vocab_parallel.disagree(torch.tensor(agreements, dtype=torch.int32))) == expected


@pytest.mark.usefixtures("_group")
@pytest.mark.parametrize("first_token", [0, 1])
def test_where_values_are_not_read_the_losses_of_ranks_that_disagree_are_nan(monkeypatch, first_token):
    monkeypatch.setattr(vocab_parallel, "reads_values", lambda tensor: False)
    rows = {"targets": torch.arange(3) + 1, "uniforms": torch.rand(3, dtype=torch.float64)}
    out = ek.vocab_parallel_cross_entropy_sample(
        torch.randn(3, 9), **rows, group=None, first_token=first_token
    )
    assert bool(out.loss.isnan()) == bool(first_token)
