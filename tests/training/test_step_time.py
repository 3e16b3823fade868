import pytest
import torch

from electra_kernels.models import Electra, ElectraConfig
from electra_kernels.training.recipe import Recipe
from electra_kernels.training.step_time import PARTS, time_step

RECIPE = Recipe(length=16, batch_size=8, learning_rate=1e-4, warmup=0.0, steps=3, muon_learning_rate=1e-3)


def test_every_part_takes_time_and_nothing_is_disturbed(model, rows):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    seconds = time_step(model, rows, RECIPE, repeats=3, seed=0)
    assert torch.equal(torch.rand(3), expected)
    assert tuple(seconds) == PARTS
    assert all(value > 0 for value in seconds.values())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_cut_step_has_the_gradient_of_the_joint_step(model, rows):
    from electra_kernels.training.objectives import token_batch
    from electra_kernels.training.step_time import _joint_step, _Laps

    tokens = token_batch(rows, torch.arange(8), torch.device("cpu"))
    torch.manual_seed(1)
    model(tokens.input_ids, tokens.attention_mask, tokens.maskable).loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(1)
    _joint_step(model, tokens, _Laps(torch.device("cpu")))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_a_model_without_a_generator_is_refused(encoder_config, rows, counts):
    model = Electra(ElectraConfig(encoder_config, None, 4, generator_kind="unigram"), counts)
    with pytest.raises(ValueError, match="model has no generator"):
        time_step(model, rows, RECIPE, repeats=1, seed=0)
