import dataclasses
import json

import pytest
import torch
from transformers import ElectraConfig as TransformersConfig
from transformers import ElectraForMaskedLM, ElectraForPreTraining

from electra_kernels.models import CONFIGURATIONS, Electra, ElectraConfig, EncoderConfig, electra_config
from electra_kernels.training.recipe import RECIPES

V = 30_522
TINY = EncoderConfig(100, 16, 32, 2, 4, 64)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


# V = 30,522. The generators share the discriminators' embeddings, and these counts include them.
@pytest.mark.parametrize(
    "name, discriminator, generator",
    [("small", 13_549_057, 4_620_026), ("base", 109_483_009, 33_740_602), ("large", 335_142_913, 51_295_290)],
)
def test_small_base_and_large_have_as_many_parameters_as_in_transformers(name, discriminator, generator):
    config = electra_config(name, vocab_size=V, mask_token_id=103)
    with torch.device("meta"):
        model = Electra(config)
        discriminator_of_transformers = ElectraForPreTraining(transformers_config(config.discriminator))
        generator_of_transformers = ElectraForMaskedLM(transformers_config(config.generator))
    assert parameters(model.discriminator) == parameters(discriminator_of_transformers) == discriminator
    assert parameters(model.generator) == parameters(generator_of_transformers) == generator


def transformers_config(config):
    names = (
        "vocab_size",
        "embedding_size",
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
    )
    return TransformersConfig(**{name: getattr(config, name) for name in names})


def test_small_is_the_default_configuration_of_transformers():
    assert transformers_config(
        electra_config("small", vocab_size=V, mask_token_id=103).discriminator
    ).to_dict() == (TransformersConfig().to_dict())


# google-research/electra: heads = max(1, H // 64), feed-forward = 4 H. Base and large are in table 6 of the paper.
@pytest.mark.parametrize(
    "name, hidden, heads, feed_forward, layers, embedding, probability",
    [
        ("small", (256, 64), (4, 1), (1024, 256), 12, 128, 0.15),
        ("base", (768, 256), (12, 4), (3072, 1024), 12, 768, 0.15),
        ("large", (1024, 256), (16, 4), (4096, 1024), 24, 1024, 0.25),
    ],
)
def test_small_base_and_large_have_the_sizes_of_the_original(
    name, hidden, heads, feed_forward, layers, embedding, probability
):
    config = electra_config(name, vocab_size=V, mask_token_id=103)
    both = (config.discriminator, config.generator)
    assert tuple(each.hidden_size for each in both) == hidden
    assert tuple(each.num_attention_heads for each in both) == heads
    assert tuple(each.intermediate_size for each in both) == feed_forward
    assert {each.num_hidden_layers for each in both} == {layers}
    assert {each.embedding_size for each in both} == {embedding}
    assert (config.mask_probability, config.rtd_weight, config.tie) == (probability, 50.0, "embeddings")


def test_the_demo_is_one_modern_encoder():
    config = electra_config("demo", vocab_size=V, mask_token_id=4)
    assert (config.tie, config.generator) == ("all", None)
    assert (config.mask_probability, config.rtd_weight) == (0.3, 30.0)
    encoder = config.discriminator
    assert (encoder.family, encoder.global_every, encoder.dropout) == ("modern", 1, 0.0)
    assert (encoder.hidden_size, encoder.num_hidden_layers, encoder.num_attention_heads) == (128, 3, 4)


def test_every_configuration_has_a_recipe():
    assert set(CONFIGURATIONS) == set(RECIPES)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_survives_a_round_trip_through_json(name):
    config = dataclasses.replace(
        electra_config(name, vocab_size=1_000, mask_token_id=4), temperature=0.7, ban_original=True
    )
    assert ElectraConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_from_dict_names_unknown_and_missing_fields():
    values = electra_config("small", vocab_size=1_000, mask_token_id=4).to_dict()
    with pytest.raises(ValueError, match="the configuration has 'colour', should have only discriminator"):
        ElectraConfig.from_dict({**values, "colour": 3})
    del values["discriminator"]["hidden_size"]
    with pytest.raises(ValueError, match="discriminator has no 'hidden_size', should have it"):
        ElectraConfig.from_dict(values)
    with pytest.raises(ValueError, match="discriminator is list, should be a dict"):
        ElectraConfig.from_dict({**values, "discriminator": []})


def test_from_dict_fills_in_defaults():
    config = electra_config("small", vocab_size=1_000, mask_token_id=4)
    values = config.to_dict()
    del values["sampling_dropout"], values["max_ngram"], values["discriminator"]["initializer_range"]
    assert ElectraConfig.from_dict(values) == config


@pytest.mark.parametrize(
    "change, message",
    [
        ({"hidden_size": 30}, "hidden_size is 30, should be a multiple of num_attention_heads = 4"),
        ({"vocab_size": 0}, "vocab_size is 0, should be at least 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0, should be at least 1"),
        ({"dropout": 1.0}, r"dropout is 1.0, should be in \[0, 1\)"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps is 0.0, should be above 0"),
        (
            {"family": "bert"},
            "family is 'bert', should be one of 'electra', 'modern'",
        ),
        (
            {"hidden_size": 12, "embedding_size": 12, "family": "modern"},
            "hidden_size / num_attention_heads is 3, should be even for rotary positions",
        ),
        ({"family": "modern"}, "embedding_size is 16, should be hidden_size = 32 in family 'modern'"),
        ({"global_every": 3}, "global_every is 3, should be 1: family 'electra' does not have it"),
    ],
)
def test_an_encoder_option_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"generator": None}, "generator is None with tie='embeddings', should be an EncoderConfig"),
        ({"tie": "some"}, "tie is 'some', should be one of 'all', 'embeddings', 'none'"),
        ({"generator_kind": "bigram"}, "generator_kind is 'bigram', should be one of 'model', 'uniform'"),
        ({"generator_kind": "uniform"}, "generator is given with generator_kind='uniform', should be None"),
        ({"mask_token_id": 100}, r"mask_token_id is 100, should be in \[0, 100\)"),
        ({"mask_probability": 0.0}, r"mask_probability is 0.0, should be in \(0, 1\]"),
        ({"temperature": 0.0}, "temperature is 0.0, should be a finite number above 0"),
        ({"rtd_weight": -1.0}, "rtd_weight is -1.0, should be a finite number, at least 0"),
        ({"max_ngram": 0}, "max_ngram is 0, should be at least 1"),
    ],
)
def test_an_electra_option_out_of_range_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(ElectraConfig(TINY, TINY, 4), **change)


def test_tied_encoders_must_have_the_same_sizes():
    smaller = dataclasses.replace(TINY, hidden_size=16)
    with pytest.raises(ValueError, match=r"generator\.hidden_size is 16, should be 32 .* tie='all'"):
        ElectraConfig(TINY, smaller, 4, tie="all")
    assert ElectraConfig(TINY, smaller, 4, tie="embeddings").generator is smaller
    narrower = dataclasses.replace(TINY, embedding_size=8)
    with pytest.raises(ValueError, match=r"generator\.embedding_size is 8, should be 16 .* tie='embeddings'"):
        ElectraConfig(TINY, narrower, 4, tie="embeddings")
    assert ElectraConfig(TINY, narrower, 4, tie="none").generator is narrower
    with pytest.raises(ValueError, match=r"generator\.vocab_size is 50, should be 100 .* tie='none'"):
        ElectraConfig(TINY, dataclasses.replace(TINY, vocab_size=50), 4, tie="none")


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="name is 'tiny', should be one of 'demo', 'small'"):
        electra_config("tiny", vocab_size=V, mask_token_id=103)
