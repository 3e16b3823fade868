import pytest
import torch

from electra_kernels.training import muon
from electra_kernels.training.muon import Muon, orthogonalize


@pytest.mark.parametrize("bfloat16, tolerance", [(False, 1e-4), (True, 0.05)])
@pytest.mark.parametrize("shape", [(16, 16), (48, 16), (16, 64), (3, 16, 40)])
def test_singular_values_come_close_to_one_and_directions_stay(shape, bfloat16, tolerance, monkeypatch):
    monkeypatch.setattr(muon, "has_native_bfloat16", lambda device: bfloat16)
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    core = left.mT @ orthogonalize(matrices) @ right.mT
    diagonal = core.diagonal(dim1=-2, dim2=-1)
    large = values > 0.05 * values.amax(-1, keepdim=True)
    assert ((diagonal > 0.6) & (diagonal < 1.25))[large].all()
    torch.testing.assert_close(core, torch.diag_embed(diagonal), atol=tolerance, rtol=0)


def test_nothing_stays_nothing():
    assert not orthogonalize(torch.zeros(4, 6)).any()


def test_it_is_the_muon_of_torch():
    """Which iterates in bfloat16: 8 bits."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((8, 8), (24, 8), (8, 8))]
    ours, theirs = ([torch.nn.Parameter(matrix.clone()) for matrix in start] for _ in range(2))
    rate = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1}
    optimizers = Muon(ours, **rate), torch.optim.Muon(theirs, **rate, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for one, other in zip(ours, theirs):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for begin, one, other in zip(start, ours, theirs):
        assert (one - other).norm() < 0.03 * (one - begin).norm()


def test_a_parameter_without_gradient_is_left_alone():
    parameters = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2)]
    parameters[0].grad = torch.ones(2, 2)
    Muon(parameters, 0.1, weight_decay=0.5).step()
    assert not torch.equal(parameters[0], torch.ones(2, 2))
    assert torch.equal(parameters[1], torch.ones(2, 2))


def test_a_closure_is_called_and_its_loss_comes_back():
    parameter = torch.nn.Parameter(torch.eye(2))

    def closure():
        loss = parameter.sum()
        loss.backward()
        return loss

    assert Muon([parameter], 0.1).step(closure) == 2
    assert not torch.equal(parameter, torch.eye(2))


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"one of shape \[3\], should be matrices"):
        Muon([torch.nn.Parameter(torch.ones(3))], 0.1)
