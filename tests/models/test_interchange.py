"""Conversion from and to transformers: equal outputs (to 1e-5), and transformers' tensor names in both directions."""

import copy
import dataclasses

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraModel,
)
from transformers import ElectraConfig as TransformersConfig

from electra_kernels.models import (
    Checkpoint,
    Electra,
    ElectraConfig,
    EncoderConfig,
    encoder_from_transformers,
    from_transformers,
    read_checkpoint,
    save_transformers,
    to_transformers,
)

V, MASK, TOLERANCE = 211, 4, 1e-5
SIZES = {"vocab_size": V, "num_hidden_layers": 3, "max_position_embeddings": 40, "pad_token_id": None}


def with_distinct_weights(model):
    """Make all weights different, biases and norms included, so that swapping any two of them shows."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def discriminator(**changes):
    sizes = {"embedding_size": 32, "hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96}
    return with_distinct_weights(ElectraForPreTraining(TransformersConfig(**{**SIZES, **sizes, **changes})))


def generator(**changes):
    sizes = {"embedding_size": 32, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 64}
    return with_distinct_weights(ElectraForMaskedLM(TransformersConfig(**{**SIZES, **sizes, **changes})))


def checkpoint(model):
    return Checkpoint(model.config.to_dict(), model.state_dict())


def electra(first, second, **options):
    return from_transformers(checkpoint(first), checkpoint(second), mask_token_id=MASK, **options)


def old_names(state):
    """TensorFlow's names, which the first checkpoints of BERT have."""
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    for new, old in names.items():
        state = {name.replace(new, old): tensor for name, tensor in state.items()}
    return state


def tied_pair():
    first, second = discriminator(), generator()
    second.electra.embeddings.load_state_dict(first.electra.embeddings.state_dict())
    return first, second


def batch():
    ids = torch.randint(5, V, (4, 30), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 20:] = 0
    mask[2, 5:] = 0
    return ids, mask


def largest_difference(one, other):
    return (one - other).abs().max().item()


@pytest.mark.parametrize("embedding_size", [32, 48])
def test_the_discriminator_has_the_logits_of_electra_for_pre_training(embedding_size):
    theirs, (ids, mask) = discriminator(embedding_size=embedding_size), batch()
    ours = electra(theirs, generator(embedding_size=embedding_size)).discriminator
    with torch.no_grad():
        for attention_mask in (mask, None):
            expected = theirs(ids, attention_mask=attention_mask).logits
            assert largest_difference(ours.logits(ids, attention_mask), expected) <= TOLERANCE


def test_the_generator_has_the_logits_of_electra_for_masked_lm():
    theirs, (ids, mask) = generator(), batch()
    ours = electra(discriminator(), theirs).generator
    with torch.no_grad():
        for attention_mask in (mask, None):
            expected = theirs(ids, attention_mask=attention_mask).logits
            assert largest_difference(ours.logits(ids, attention_mask), expected) <= TOLERANCE


@pytest.mark.parametrize(
    "pair", [lambda: (discriminator(), generator()), tied_pair], ids=["none", "embeddings"]
)
def test_losses_and_gradients_equal_those_of_both_models(pair):
    (first, second), (ids, mask) = pair(), batch()
    ours = electra(first, second)
    output = ours(ids, mask, mask)
    output.loss.backward()

    masked, replaced = output.masked, output.replaced
    labels = torch.full_like(ids, -100)
    labels.scatter_(1, masked.positions, masked.targets)
    labels[:, 0] = masked.targets.where(masked.positions == 0, -100).amax(1)
    mlm = second(masked.input_ids, attention_mask=mask, labels=labels).loss
    rtd = first(replaced.input_ids, attention_mask=mask, labels=replaced.is_replaced.long()).loss
    assert largest_difference(output.mlm.loss, mlm) <= TOLERANCE
    assert largest_difference(output.rtd.loss, rtd) <= TOLERANCE
    (mlm + 50.0 * rtd).backward()

    gradients = copy.deepcopy(ours)
    for parameter, original in zip(gradients.parameters(), ours.parameters()):
        parameter.data = original.grad
    named = [dict(model.named_parameters()) for model in (first, second)]
    for part, parameters, other in (("discriminator", *named), ("generator", *reversed(named))):
        for name, gradient in to_transformers(gradients)[part].state.items():
            expected = parameters[name].grad
            if ours.config.tie == "embeddings" and ".embeddings." in name:
                expected = expected + other[name].grad
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4, msg=f"{part} {name}")


@pytest.mark.parametrize(
    "pair", [lambda: (discriminator(), generator()), tied_pair], ids=["none", "embeddings"]
)
def test_transformers_loads_an_exported_model(pair, tmp_path):
    first, second = pair()
    save_transformers(electra(first, second), tmp_path)
    for original, part in ((first, "discriminator"), (second, "generator")):
        loaded, report = type(original).from_pretrained(tmp_path / part, output_loading_info=True)
        assert not any(report.values()), report
        assert loaded.config.num_attention_heads == original.config.num_attention_heads
        expected = original.state_dict()
        assert loaded.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_an_exported_folder_has_the_tensors_and_options_that_transformers_writes(tmp_path):
    first, second = tied_pair()
    save_transformers(electra(first, second), tmp_path)
    for model, part in ((first, "discriminator"), (second, "generator")):
        model.save_pretrained(tmp_path / "theirs")
        ours, theirs = read_checkpoint(tmp_path / part), read_checkpoint(tmp_path / "theirs")
        assert ours.state.keys() == theirs.state.keys()
        for name in ours.config.keys() - {"pad_token_id"}:
            assert ours.config[name] == theirs.config[name], name


@pytest.mark.parametrize("tie", ["none", "embeddings", "all"])
def test_a_round_trip_changes_nothing(tie, tmp_path):
    encoder = EncoderConfig(V, 16, 32, 2, 4, 64, max_position_embeddings=40, layer_norm_eps=1e-6, dropout=0.2)
    second = None if tie == "all" else dataclasses.replace(encoder, hidden_size=8, num_attention_heads=2)
    ours = with_distinct_weights(Electra(ElectraConfig(encoder, second, MASK, tie=tie, temperature=0.5)))
    save_transformers(ours, tmp_path)
    parts = [read_checkpoint(tmp_path / part) for part in ("discriminator", "generator")]
    restored = from_transformers(*parts, mask_token_id=MASK, temperature=0.5)
    assert restored.config == ours.config
    assert len(list(restored.parameters())) == len(list(ours.parameters()))
    expected = ours.state_dict()
    assert restored.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in restored.state_dict().items())


def test_encoders_that_differ_in_their_attention_heads_only_are_not_tied():
    first = discriminator()
    second = generator(**{name: getattr(first.config, name) for name in ("hidden_size", "intermediate_size")})
    second.electra.load_state_dict(first.electra.state_dict())
    assert (first.config.num_attention_heads, second.config.num_attention_heads) == (4, 2)
    ours, (ids, mask) = electra(first, second), batch()
    assert ours.config.tie == "embeddings"
    with torch.no_grad():
        assert largest_difference(ours.generator.logits(ids, mask), second(ids, mask).logits) <= TOLERANCE


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_encoder_has_the_hidden_states_of_bert(wrapped):
    sizes = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96}
    theirs = with_distinct_weights((BertForMaskedLM if wrapped else BertModel)(BertConfig(**SIZES, **sizes)))
    ours, (ids, mask) = encoder_from_transformers(checkpoint(theirs)), batch()
    types = (torch.arange(30) > 12).long().expand(4, 30)
    base = theirs.bert if wrapped else theirs
    with torch.no_grad():
        for attention_mask, token_type_ids in ((mask, None), (None, types)):
            expected = base(
                ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state
            assert largest_difference(ours(ids, attention_mask, token_type_ids), expected) <= TOLERANCE


def test_the_encoder_has_the_hidden_states_of_electra():
    theirs, (ids, mask) = discriminator(), batch()
    with torch.no_grad():
        expected = theirs.electra(ids, attention_mask=mask).last_hidden_state
        for model in (theirs, theirs.electra):
            assert isinstance(model, ElectraForPreTraining | ElectraModel)
            assert (
                largest_difference(encoder_from_transformers(checkpoint(model))(ids, mask), expected)
                <= TOLERANCE
            )


def test_a_tied_pair_stays_tied_with_old_names_and_old_buffers():
    first, second = tied_pair()
    second = Checkpoint(second.config.to_dict(), old_names(second.state_dict()))
    second.state["electra.embeddings.position_ids"] = torch.arange(40)[None]
    ours = from_transformers(checkpoint(first), second, mask_token_id=MASK)
    assert ours.config.tie == "embeddings"


def test_a_checkpoint_with_the_output_weight_but_no_word_embedding_is_loaded():
    """transformers saves one of two tied tensors, and either may be the one."""
    second = checkpoint(generator())
    state = dict(second.state)
    word = state.pop("electra.embeddings.word_embeddings.weight")
    assert "generator_lm_head.weight" in state
    ours = from_transformers(
        checkpoint(discriminator()), Checkpoint(second.config, state), mask_token_id=MASK
    )
    assert torch.equal(ours.generator.encoder.embeddings.word.weight, word)


def test_without_a_model_as_generator_only_the_discriminator_is_exported():
    config = ElectraConfig(EncoderConfig(V, 16, 32, 2, 4, 64), None, MASK, generator_kind="uniform")
    assert to_transformers(Electra(config)).keys() == {"discriminator"}


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("hidden_act", "relu", "hidden_act is 'relu', should be 'gelu'"),
        ("model_type", "roberta", "model_type is 'roberta', should be 'electra' or 'bert' or 'modernbert'"),
        (
            "position_embedding_type",
            "relative_key",
            "position_embedding_type is 'relative_key', should be 'absolute'",
        ),
        ("attention_probs_dropout_prob", 0.3, "attention_probs_dropout_prob is 0.3, should be 0.1 as hidden"),
    ],
)
def test_an_unsupported_option_is_refused(name, value, message):
    config, state = checkpoint(discriminator())
    with pytest.raises(ValueError, match=message):
        encoder_from_transformers(Checkpoint({**config, name: value}, state))


def test_tensors_that_do_not_fit_are_named():
    config, state = checkpoint(discriminator())
    name = "electra.encoder.layer.1.attention.self.key.bias"
    lacking = {key: tensor for key, tensor in state.items() if key != name}
    with pytest.raises(ValueError, match=r"the checkpoint lacks encoder.layer.1.attention.self.key.bias"):
        encoder_from_transformers(Checkpoint(config, lacking))
    with pytest.raises(ValueError, match=r"the checkpoint has encoder.layer.3.output.dense.bias"):
        encoder_from_transformers(
            Checkpoint(config, {**state, "electra.encoder.layer.3.output.dense.bias": torch.zeros(48)})
        )
    with pytest.raises(ValueError, match=r"layers.1.attention.qkv.bias has shape \[143\], should be \[144\]"):
        encoder_from_transformers(Checkpoint(config, {**state, name: torch.zeros(47)}))


def test_an_output_layer_that_is_not_tied_is_refused():
    second = generator()
    second.generator_lm_head.weight = torch.nn.Parameter(torch.zeros(V, 32))
    with pytest.raises(ValueError, match=r"generator_lm_head.weight differs from electra.embeddings"):
        electra(discriminator(), second)


def test_padding_is_left_out_of_the_loss_as_in_transformers():
    theirs, (ids, mask) = discriminator(), batch()
    ours = electra(theirs, generator()).discriminator
    labels = torch.randint(0, 2, ids.shape)
    hidden = ours.transform(ours.encoder(ids, mask))
    loss = ours.head(hidden, labels, mask).loss
    assert largest_difference(loss, theirs(ids, attention_mask=mask, labels=labels).loss) <= TOLERANCE
    without = F.binary_cross_entropy_with_logits(ours.logits(ids, mask), labels.float())
    assert largest_difference(loss, without) > 1e-3
