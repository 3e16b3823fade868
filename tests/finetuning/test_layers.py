"""Every parameter is in one group, whose rate follows from its depth."""

import pytest
import transformers

from electra_kernels.finetuning.layers import layer_count, make_optimizer, parameter_depths
from tests.finetuning.tiny import ARCHITECTURES, config


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    settings = config(request.param, num_hidden_layers=3, num_labels=2)
    return transformers.AutoModelForTokenClassification.from_config(settings)


def test_every_parameter_is_in_exactly_one_group(model):
    optimizer = make_optimizer(model, learning_rate=1.0, layer_decay=0.5, weight_decay=0.1)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(parameter) for parameter in model.parameters()}


def test_depths_follow_the_layer_list(model):
    depths = parameter_depths(model)
    assert layer_count(model) == 3
    for name, depth in depths.items():
        parts = name.split(".")
        if "layer" in parts or "layers" in parts:
            number = int(parts[parts.index("layer" if "layer" in parts else "layers") + 1])
            assert depth == number + 1, name
        elif name.startswith(("classifier", "head")):
            assert depth == 5, name
        else:
            assert depth == (0 if "embed" in name else 4), name


def test_rates_are_those_of_google_research_electra(model):
    """optimization.py, _get_layer_lrs: rate times decay to the power n_layers + 2 - depth."""
    optimizer = make_optimizer(model, learning_rate=3.0, layer_decay=0.8, weight_decay=0.1)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert rate[id(parameter)] == pytest.approx(3.0 * 0.8 ** (5 - parameter_depths(model)[name]))


def test_only_matrices_decay(model):
    optimizer = make_optimizer(model, learning_rate=1.0, layer_decay=1.0, weight_decay=0.1)
    for group in optimizer.param_groups:
        assert {parameter.dim() >= 2 for parameter in group["params"]} == {group["weight_decay"] == 0.1}


def test_a_frozen_parameter_is_left_out(model):
    frozen = model.get_input_embeddings().weight.requires_grad_(False)
    optimizer = make_optimizer(model, learning_rate=1.0, layer_decay=1.0, weight_decay=0.1)
    assert all(parameter is not frozen for group in optimizer.param_groups for parameter in group["params"])


def test_an_encoder_that_repeats_one_layer_has_one_depth():
    settings = transformers.AlbertConfig(
        vocab_size=30, hidden_size=16, num_attention_heads=2, intermediate_size=16, embedding_size=8
    )
    model = transformers.AutoModelForTokenClassification.from_config(settings)
    assert layer_count(model) == 1
    assert set(parameter_depths(model).values()) == {0, 1, 3}
