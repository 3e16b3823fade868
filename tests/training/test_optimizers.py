from dataclasses import replace

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from electra_kernels.models import electra_config
from electra_kernels.models.encoder import Layer
from electra_kernels.training import optimizers
from electra_kernels.training.objectives import ReplacedTokenDetection
from electra_kernels.training.optimizers import (
    Muon,
    make_adamw,
    make_optimizers,
    orthogonalize,
    scale_learning_rate,
)
from electra_kernels.training.recipe import RECIPES
from electra_kernels.training.world import join_world

RECIPE = RECIPES["small"]


@pytest.fixture
def objective(electra_config, facts):
    return ReplacedTokenDetection(electra_config, facts)


def test_biases_and_norms_do_not_decay():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    optimizer = make_adamw(module.parameters(), learning_rate=1.0, weight_decay=0.1)
    decay = {
        parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]
    }
    assert {name: decay[parameter] for name, parameter in module.named_parameters()} == {
        "0.weight": 0.1,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }


@pytest.mark.parametrize("muon_learning_rate", [None, 1e-2])
def test_every_parameter_of_the_joint_model_is_trained_once(objective, muon_learning_rate):
    both = make_optimizers(objective, replace(RECIPE, muon_learning_rate=muon_learning_rate))
    trained = [p for optimizer in both for group in optimizer.param_groups for p in group["params"]]
    assert len(trained) == len(set(trained))
    assert set(trained) == set(objective.parameters())


def test_muon_takes_the_matrices_of_the_layers_and_no_other_parameter(objective):
    _, muon = make_optimizers(objective, replace(RECIPE, muon_learning_rate=1e-2))
    assert isinstance(muon, Muon)
    layers = [layer for layer in objective.modules() if isinstance(layer, Layer)]
    expected = {p for layer in layers for p in layer.parameters() if p.dim() == 2}
    assert {p for group in muon.param_groups for p in group["params"]} == expected


def test_muon_knows_which_parameters_are_stacked_matrices(facts, counts):
    config = electra_config("demo", vocab_size=len(counts), mask_token_id=facts.special_ids.mask)
    objective = ReplacedTokenDetection(config, facts)
    _, muon = make_optimizers(objective, replace(RECIPE, muon_learning_rate=1e-2))
    stacked = {p: group["stacked"] for group in muon.param_groups for p in group["params"]}
    found = {name: stacked[p] for name, p in objective.encoder.layers[0].named_parameters() if p in stacked}
    assert found == {
        "attention.qkv.weight": 3,
        "attention.output.weight": 1,
        "feed_forward.input.weight": 2,
        "feed_forward.output.weight": 1,
    }


def test_the_learning_rate_is_scaled_in_every_group(objective):
    recipe = replace(RECIPE, learning_rate=1.0, muon_learning_rate=2.0)
    adamw, muon = make_optimizers(objective, recipe)
    for scale in (0.5, 0.25):
        for optimizer in (adamw, muon):
            scale_learning_rate(optimizer, scale)
        assert [group["lr"] for group in adamw.param_groups] == [scale, scale]
        assert {group["lr"] for group in muon.param_groups} == {2 * scale}


# ---- Muon ----


@pytest.mark.parametrize("bfloat16, tolerance", [(False, 1e-4), (True, 0.05)])
@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 64), (3, 16, 40)])
def test_orthogonalize_brings_singular_values_near_one_and_keeps_directions(
    shape, bfloat16, tolerance, monkeypatch
):
    monkeypatch.setattr(optimizers, "has_native_bfloat16", lambda device: bfloat16)
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    core = left.mT @ orthogonalize(matrices) @ right.mT
    diagonal = core.diagonal(dim1=-2, dim2=-1)
    large = values > 0.05 * values.amax(-1, keepdim=True)
    assert ((diagonal > 0.6) & (diagonal < 1.25))[large].all()
    torch.testing.assert_close(core, torch.diag_embed(diagonal), atol=tolerance, rtol=0)


def test_orthogonalize_keeps_zero():
    assert not orthogonalize(torch.zeros(4, 6)).any()


def test_muon_agrees_with_the_muon_of_torch():
    """torch iterates in bfloat16, which has 8 bits of precision."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((8, 8), (24, 8), (8, 8))]
    ours, theirs = ([torch.nn.Parameter(matrix.clone()) for matrix in start] for _ in range(2))
    rate = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    both = Muon(ours, **rate), torch.optim.Muon(theirs, **rate, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for one, other in zip(ours, theirs):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in both:
            optimizer.step()
    for begin, one, other in zip(start, ours, theirs):
        assert (one - other).norm() < 0.03 * (one - begin).norm()


def test_a_stack_of_matrices_is_trained_as_the_matrices_by_themselves():
    """The first matrix has a gradient a thousand times as large, and would otherwise get the whole update."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(8, 6, generator=generator) for _ in range(3)]
    alone = [torch.nn.Parameter(matrix.clone()) for matrix in start]
    stack = torch.nn.Parameter(torch.cat(start))
    optimizers = Muon(alone, 0.02), Muon([{"params": [stack], "stacked": 3}], 0.02)
    for _ in range(3):
        for scale, matrix in zip((1e3, 1.0, 1.0), alone):
            matrix.grad = scale * torch.randn(matrix.shape, generator=generator)
        stack.grad = torch.cat([matrix.grad for matrix in alone])
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(stack, torch.cat([*alone]))
    assert (alone[1] - start[1]).norm() > 0.5 * (alone[0] - start[0]).norm()


@pytest.mark.parametrize("parameter, group", [(torch.ones(4), {}), (torch.ones(4, 2), {"stacked": 3})])
def test_muon_refuses_what_is_not_a_stack_of_matrices(parameter, group):
    with pytest.raises(ValueError, match=r"should be \[rows, columns\], rows a multiple of [13]"):
        Muon([{"params": [torch.nn.Parameter(parameter)], **group}], 0.1)


@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()], ids=str)
def test_muon_of_a_sharded_matrix_is_that_of_the_whole(placement, monkeypatch):
    """Here on a mesh of one rank; tests/training/test_ranks.py has two."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(optimizers, "has_native_bfloat16", lambda device: False)
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(8, 12, generator=generator) for _ in range(2)]
    with join_world():
        mesh = init_device_mesh("cpu", (1,))
        plain = [torch.nn.Parameter(matrix.clone()) for matrix in start]
        sharded = [
            torch.nn.Parameter(distribute_tensor(matrix.clone(), mesh, [placement])) for matrix in start
        ]
        both = Muon(plain, 0.02, weight_decay=0.1), Muon(sharded, 0.02, weight_decay=0.1)
        for _ in range(3):
            for one, other in zip(plain, sharded):
                one.grad = torch.randn(one.shape, generator=generator)
                other.grad = distribute_tensor(one.grad, mesh, [placement])
            for optimizer in both:
                optimizer.step()
        for begin, one, other in zip(start, plain, sharded):
            assert isinstance(other.data, DTensor)
            assert torch.equal(other.full_tensor(), one)
            assert not torch.equal(begin, one)


def test_muon_leaves_a_parameter_without_gradient_alone():
    parameters = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    parameters[0].grad = torch.ones(2, 2)
    Muon(parameters, 0.1, weight_decay=0.5).step()
    assert not torch.equal(parameters[0], torch.ones(2, 2))
    assert torch.equal(parameters[1], torch.ones(2, 2))


def test_muon_calls_a_closure_and_returns_its_loss():
    parameter = torch.nn.Parameter(torch.eye(2))

    def closure():
        loss = parameter.sum()
        loss.backward()
        return loss

    assert Muon([parameter], 0.1).step(closure) == 2
    assert not torch.equal(parameter, torch.eye(2))
