import torch

from electra_kernels.pretraining.optimizer import make_optimizer, set_learning_rate


def test_biases_and_norms_do_not_decay():
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    optimizer = make_optimizer(module, learning_rate=1.0, weight_decay=0.1)
    decay = {
        parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]
    }
    assert {name: decay[parameter] for name, parameter in module.named_parameters()} == {
        "0.weight": 0.1,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }


def test_every_parameter_of_the_joint_model_is_trained_once(model):
    optimizer = make_optimizer(model, learning_rate=1.0, weight_decay=0.1)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(trained) == len(set(trained))
    assert set(trained) == set(model.parameters())


def test_the_learning_rate_is_set_in_every_group(model):
    optimizer = make_optimizer(model, learning_rate=1.0, weight_decay=0.1)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
