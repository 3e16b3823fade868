"""Heads are found in every model that follows the conventions of transformers, and refused in other models."""

import pytest
import torch
import transformers

from electra_kernels.integrations.heads import masked_lm_head, token_head

from .head_changes import CHANGES
from .parity import parity
from .tiny import ARCHITECTURES, SIZE, batch, pair


def deberta_head(model, hidden):
    """The head of DeBERTa with legacy=False, which has the word embedding as output layer."""
    head = model.lm_predictions.lm_head
    hidden = head.LayerNorm(head.transform_act_fn(head.dense(hidden)))
    return hidden, model.get_input_embeddings().weight, head.bias


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_logits_and_gradients_equal_those_of_plain_transformers(architecture):
    check_parity(pair(architecture), pair(architecture))


@pytest.mark.parametrize("architecture", ["Deberta", "DebertaV2"])
def test_a_head_that_cannot_be_found_can_be_given(architecture):
    ours, theirs = pair(architecture, legacy=False), pair(architecture, legacy=False)
    with pytest.raises(
        ValueError, match=r"of 32 rows, should be a Linear with a row for each of the 90 .* give head="
    ):
        masked_lm_head(ours[0])
    check_parity(ours, theirs, head=deberta_head)


def check_parity(ours, theirs, **options):
    found = parity(ours, theirs, **options)
    assert found.loss < 2e-5, found  # the losses are about 40
    assert found.logits < 5e-6, found
    assert found.gradient < 1e-5, found


@pytest.mark.parametrize("architecture", ["Bert", "DistilBert"])
def test_dropout_in_a_head_follows_the_mode_of_the_model(architecture):
    _, discriminator = pair(architecture)
    head, ids = token_head(discriminator), batch()[0]
    hidden = discriminator.base_model(ids)[0]
    expected = head(discriminator, hidden)[0]
    discriminator.train()
    assert not torch.equal(head(discriminator, hidden)[0], expected)
    discriminator.eval()
    assert torch.equal(head(discriminator, hidden)[0], expected)


def test_a_head_uses_the_current_weights_of_its_model():
    generator, _ = pair("Bert")
    head, hidden = masked_lm_head(generator), torch.randn(2, 3, 32)
    generator.load_state_dict(pair("Bert", seed=1)[0].state_dict())
    generator.cls.predictions.transform.dense.weight = torch.nn.Parameter(torch.zeros(32, 32))
    features, weight, bias = head(generator, hidden)
    torch.testing.assert_close(features @ weight.T + bias, generator.cls(hidden))
    assert weight is generator.get_input_embeddings().weight


def test_a_head_follows_its_model_and_returns_no_weight_of_a_wrapped_output_layer():
    generator, _ = pair("Bert")
    head, hidden, predictions = masked_lm_head(generator), torch.randn(2, 3, 32), generator.cls.predictions
    CHANGES["a norm after the dense"](predictions, "transform.dense", "decoder")
    features, weight, bias = head(generator, hidden)
    torch.testing.assert_close(features @ weight.T + bias, generator.cls(hidden))
    CHANGES["lora on the output"](predictions, "transform.dense", "decoder")
    with pytest.raises(
        ValueError, match=r"cls\.predictions\.decoder of BertForMaskedLM is wrapped, hooked or"
    ):
        head(generator, hidden)
    torch.testing.assert_close(head.logits(generator, hidden), generator.cls(hidden))
    assert not torch.allclose(generator.cls(hidden), features @ weight.T + bias)


class Scaled(transformers.BertForMaskedLM):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = 2 * output.logits
        return output


class NeedsIds(transformers.BertForMaskedLM):
    def forward(self, input_ids, **kwargs):
        self.get_input_embeddings()(input_ids)
        return super().forward(input_ids, **kwargs)


@pytest.mark.parametrize(
    "kind, message",
    [
        (Scaled, "changes the output of cls.predictions.decoder, give head="),
        (NeedsIds, "cannot be run by itself"),
        (transformers.BertModel, "BertModel has no head, should be a model with one"),
    ],
)
def test_a_head_that_cannot_be_run_correctly_is_refused(kind, message):
    with pytest.raises(ValueError, match=message):
        masked_lm_head(kind(transformers.BertConfig(**SIZE)))


def test_a_discriminator_must_have_one_output_per_token():
    with pytest.raises(
        ValueError, match=r"with 0 Linear layers of one output, should have one: ElectraForPreTraining"
    ):
        token_head(transformers.BertForTokenClassification(transformers.BertConfig(**SIZE)))
    with pytest.raises(TypeError, match=r"model is Linear, should be a transformers\.PreTrainedModel"):
        token_head(torch.nn.Linear(2, 1))
