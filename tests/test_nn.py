import pytest
import torch

import electra_kernels
from electra_kernels import nn


def test_the_generator_head_is_the_op_with_its_parameters():
    head = nn.GeneratorHead(8, 20)
    hidden, targets = torch.randn(2, 3, 8), torch.randint(0, 20, (2, 3))
    uniforms = electra_kernels.draw_uniforms((2, 3))
    ours = head(hidden, targets, uniforms=uniforms)
    theirs = electra_kernels.linear_cross_entropy_sample(
        hidden, head.weight, head.bias, targets, uniforms=uniforms
    )
    for one, other in zip(ours, theirs):
        assert torch.equal(one, other)


def test_a_tied_weight_is_the_embedding_itself():
    embedding = torch.nn.Embedding(20, 8)
    head = nn.GeneratorHead(8, 20, weight=embedding.weight)
    assert head.weight is embedding.weight
    head(torch.randn(4, 8), torch.randint(0, 20, (4,))).loss.backward()
    assert embedding.weight.grad is not None
    assert head.bias.grad is not None


def test_a_tied_weight_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"weight has shape \[20, 9\], should be \[V, E\] = \[20, 8\]"):
        nn.GeneratorHead(8, 20, weight=torch.nn.Embedding(20, 9).weight)


def test_the_discriminator_head_is_the_op_with_its_parameters():
    head = nn.DiscriminatorHead(8)
    hidden, labels = torch.randn(2, 3, 8), torch.randint(0, 2, (2, 3))
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    ours = head(hidden, labels, mask, label_smoothing=0.1, pos_weight=2.0)
    theirs = electra_kernels.linear_masked_bce(
        hidden, head.weight, head.bias, labels, mask, label_smoothing=0.1, pos_weight=2.0
    )
    for one, other in zip(ours, theirs):
        assert torch.equal(one, other)
    ours.loss.backward()
    assert head.weight.grad.shape == (1, 8)
    assert head.bias.grad.shape == (1,)


def test_the_loss_module_keeps_its_options():
    loss = nn.MaskedBCEWithLogitsLoss(pos_weight=3.0, label_smoothing=0.2, reduction="sum")
    logits, labels, mask = torch.randn(2, 5), torch.randint(0, 2, (2, 5)), torch.ones(2, 5)
    expected = electra_kernels.masked_bce_with_logits(
        logits, labels, mask, pos_weight=3.0, label_smoothing=0.2, reduction="sum"
    )
    assert torch.equal(loss(logits, labels, mask), expected)


def test_a_tensor_of_positive_weights_moves_with_the_module():
    loss = nn.MaskedBCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2.0]))
    assert loss.double().pos_weight.dtype == torch.float64
    assert loss(torch.zeros(3, 2), torch.ones(3, 2)).item() == pytest.approx(1.5 * 0.6931472)


def test_parameters_start_as_the_original_has_them():
    torch.manual_seed(0)
    for weight in (nn.GeneratorHead(64, 500).weight, nn.DiscriminatorHead(4096).weight):
        assert weight.abs().max() <= 0.04
        assert weight.std().item() == pytest.approx(0.0176, rel=0.1), "a normal of 0.02, cut at two of them"
