"""Models of transformers' ModernBERT load here with equal outputs and gradients, and anything else is refused."""

import dataclasses
import json
import re

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForTokenClassification,
    ModernBertModel,
)

from electra_kernels.models import (
    Checkpoint,
    Encoder,
    encoder_from_transformers,
    from_transformers,
    read_checkpoint,
    save_transformers,
    to_transformers,
)
from electra_kernels.models.transformers_config import encoder_config_from_transformers, transformers_config

from .test_transformers_folders import (
    CONFIGS,
    MASK,
    TOLERANCE,
    V,
    batch,
    largest_difference,
    with_distinct_weights,
)

IDS = dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id"), 0)
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
BIASES = dict.fromkeys(("attention_bias", "mlp_bias", "norm_bias", "classifier_bias"), True)
HEADS = [AutoModel, AutoModelForMaskedLM, AutoModelForTokenClassification]


def modernbert(kind, **changes):
    torch.manual_seed(0)
    config = ModernBertConfig(**{"vocab_size": V, "local_attention": 8, **SIZES, **IDS, **changes})
    return with_distinct_weights(kind.from_config(config) if hasattr(kind, "from_config") else kind(config))


def config_json(**changes):
    return {**modernbert(ModernBertModel).config.to_dict(), **changes}


def assert_equal_bits(path, back):
    expected, got = read_checkpoint(path).state, read_checkpoint(back).state
    assert got.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in got.items())


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}], ids=["whole", "shards"])
@pytest.mark.parametrize("biases", [{}, BIASES], ids=["plain", "bias"])
@pytest.mark.parametrize("kind", [*HEADS, AutoModelForSequenceClassification])
def test_an_encoder_loads_with_equal_hidden_states(kind, biases, shards, tmp_path):
    theirs = modernbert(kind, **biases)
    theirs.save_pretrained(tmp_path / "theirs", **shards)
    assert (len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2) == bool(shards)
    ours = encoder_from_transformers(read_checkpoint(tmp_path / "theirs"))
    assert (ours.config.global_every, ours.config.rotary_base) == (3, 160_000.0)
    assert largest_difference(ours, theirs.base_model) <= TOLERANCE
    if kind is AutoModel:
        save_transformers(ours, tmp_path / "back")
        assert_equal_bits(tmp_path / "theirs", tmp_path / "back" / "encoder")


def test_a_pair_loads_with_equal_logits_and_comes_back_bit_by_bit(tmp_path):
    detector, proposer = (
        modernbert(ModernBertForTokenClassification, num_labels=1),
        modernbert(ModernBertForMaskedLM),
    )
    detector.save_pretrained(tmp_path / "discriminator")
    proposer.save_pretrained(tmp_path / "generator", max_shard_size="20KB")
    parts = [read_checkpoint(tmp_path / part) for part in ("discriminator", "generator")]
    ours = from_transformers(*parts, mask_token_id=MASK)
    assert largest_difference(ours.discriminator.logits, detector) <= TOLERANCE
    assert largest_difference(ours.generator.logits, proposer) <= TOLERANCE
    save_transformers(ours, tmp_path / "back")
    for part in ("discriminator", "generator"):
        assert_equal_bits(tmp_path / part, tmp_path / "back" / part)


def older(config, **changes):
    """config.json as transformers 4 writes it, whose defaults are those of ModernBERT-base."""
    config = {name: value for name, value in config.items() if name not in ("layer_types", "rope_parameters")}
    return {**config, **changes}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "global_attn_every_n_layers": 2,
            "global_rope_theta": 40_000.0,
            "local_rope_theta": 500.0,
            "local_attention": 6,
        },
    ],
)
def test_an_older_config_is_read_as_transformers_reads_it(options, tmp_path):
    modernbert(ModernBertModel).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(older(json.loads(file.read_text()), **options)))
    ours = encoder_from_transformers(read_checkpoint(tmp_path))
    assert ours.config.global_every == options.get("global_attn_every_n_layers", 3)
    assert largest_difference(ours, ModernBertModel.from_pretrained(tmp_path).eval()) <= TOLERANCE


def test_older_versions_find_their_names_in_a_written_config():
    """They know neither layer_types nor rope_parameters, and would take the defaults without a word."""
    config = dataclasses.replace(
        CONFIGS["modern with windows"], global_every=2, rotary_base=40_000.0, local_rotary_base=500.0
    )
    written = transformers_config(config, "ModernBertModel", {})
    assert encoder_config_from_transformers(older(written)) == config
    assert encoder_config_from_transformers(written) == config


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("period", [1, 2, 3, 5])
def test_a_period_comes_back_with_any_number_of_layers(period, layers):
    config = dataclasses.replace(
        CONFIGS["modern with windows"], global_every=period, num_hidden_layers=layers
    )
    assert encoder_config_from_transformers(transformers_config(config, "ModernBertModel", {})) == config


def test_without_a_config_the_sizes_are_those_of_transformers():
    short, full = {"model_type": "modernbert"}, ModernBertConfig().to_dict()
    assert encoder_config_from_transformers(short) == encoder_config_from_transformers(full)


ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
FULL, SLIDING = "full_attention", "sliding_attention"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_activation", "silu", "hidden_activation is 'silu', should be 'gelu'"),
        ("classifier_activation", "relu", "classifier_activation is 'relu', should be 'gelu'"),
        ("decoder_bias", False, "decoder_bias is False, should be True"),
        ("tie_word_embeddings", False, "tie_word_embeddings is False, should be True"),
        (
            "model_type",
            "modernbert-decoder",
            "model_type is 'modernbert-decoder', should be 'electra' or 'bert' or",
        ),
        ("is_decoder", True, "is_decoder is True, should be False"),
        ("mlp_bias", True, "mlp_bias is True, should be False as attention_bias"),
        ("norm_bias", True, "norm_bias is True, should be False as attention_bias"),
        ("classifier_bias", True, "classifier_bias is True, should be False as attention_bias"),
        ("mlp_dropout", 0.1, "mlp_dropout is 0.1, should be 0.0 as embedding_dropout"),
        ("attention_dropout", 0.1, "attention_dropout is 0.1, should be 0.0 as embedding_dropout"),
        ("rope_scaling", {"rope_type": "yarn"}, "rope_scaling is {'rope_type': 'yarn'}, should be None"),
        (
            "rope_parameters",
            {FULL: {**ROPE, "rope_type": "linear", "factor": 2.0}, SLIDING: ROPE},
            "rope_type of full_attention is 'linear', should be 'default'",
        ),
        (
            "layer_types",
            [FULL, SLIDING, FULL, FULL],
            "layer_types is ['full_attention', 'sliding_attention', ",
        ),
        (
            "layer_types",
            [SLIDING, FULL, SLIDING, FULL],
            "layer_types is ['sliding_attention', 'full_attention', ",
        ),
        ("layer_types", [SLIDING] * 4, "layer_types is ['sliding_attention', 'sliding_attention', "),
        ("layer_types", [FULL] * 3, "should be 4 entries, 'full_attention' at 0, n, 2 n, ... and "),
        ("global_attn_every_n_layers", 0, "global_every is 0, should be at least 1"),
    ],
)
def test_an_unsupported_option_is_refused(name, value, message):
    config = config_json(**{name: value})
    if name == "global_attn_every_n_layers":
        del config["layer_types"]
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        encoder_from_transformers(Checkpoint(config, {}))
    assert "\n" not in str(error.value)


def test_families_do_not_mix(tmp_path):
    detector = to_transformers(Encoder(CONFIGS["electra"]))["encoder"]
    with pytest.raises(ValueError, match=r"^the generator's family is 'modern', should be 'electra' as the"):
        from_transformers(
            detector,
            Checkpoint(config_json(), modernbert(ModernBertForMaskedLM).state_dict()),
            mask_token_id=MASK,
        )


def test_token_types_are_refused():
    ids, _ = batch()
    with pytest.raises(ValueError, match=r"^token_type_ids is given, should be None: family 'modern' has no"):
        Encoder(CONFIGS["modern"])(ids, token_type_ids=torch.zeros_like(ids))


@pytest.mark.parametrize("biases", [{}, BIASES], ids=["plain", "bias"])
def test_losses_have_the_gradients_of_transformers(biases):
    theirs = modernbert(ModernBertForTokenClassification, num_labels=1, **biases)
    proposer = modernbert(ModernBertForMaskedLM, intermediate_size=40, **biases)
    parts = [Checkpoint(model.config.to_dict(), model.state_dict()) for model in (theirs, proposer)]
    ours, (ids, mask) = from_transformers(*parts, mask_token_id=MASK), batch()
    weights = torch.randn(ids.shape, generator=torch.Generator().manual_seed(2)) * mask
    (ours.discriminator.logits(ids, mask) * weights).sum().backward()
    (theirs(ids, attention_mask=mask).logits[..., 0] * weights).sum().backward()
    state = {name: each.grad for name, each in ours.named_parameters() if each.grad is not None}
    gradients = to_transformers(ours, state=state)["discriminator"].state
    expected = {name: each.grad for name, each in theirs.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4, msg=name)
        assert gradient.any(), name
