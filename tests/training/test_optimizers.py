from dataclasses import replace

import pytest
import torch

from electra_kernels.models.encoder import Layer
from electra_kernels.training.muon import Muon
from electra_kernels.training.optimizers import make_adamw, make_optimizers, scale_learning_rate
from electra_kernels.training.recipe import RECIPES

RECIPE = RECIPES["small"]


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
def test_every_parameter_of_the_joint_model_is_trained_once(model, muon_learning_rate):
    optimizers = make_optimizers(model, replace(RECIPE, muon_learning_rate=muon_learning_rate))
    trained = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert len(trained) == len(set(trained))
    assert set(trained) == set(model.parameters())


def test_muon_takes_the_matrices_of_the_layers_and_no_other_parameter(model):
    _, muon = make_optimizers(model, replace(RECIPE, muon_learning_rate=1e-2))
    assert isinstance(muon, Muon)
    layers = [layer for layer in model.modules() if isinstance(layer, Layer)]
    expected = {p for layer in layers for p in layer.parameters() if p.dim() == 2}
    assert {p for group in muon.param_groups for p in group["params"]} == expected


def test_the_learning_rate_is_scaled_in_every_group(model):
    recipe = replace(RECIPE, learning_rate=1.0, muon_learning_rate=2.0)
    adamw, muon = make_optimizers(model, recipe)
    for scale in (0.5, 0.25):
        for optimizer in (adamw, muon):
            scale_learning_rate(optimizer, scale)
        assert [group["lr"] for group in adamw.param_groups] == [scale, scale]
        assert [group["lr"] for group in muon.param_groups] == [2 * scale]
