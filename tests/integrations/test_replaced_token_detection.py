"""The model: its options, its shared embeddings, its checkpoints and its uniforms."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from electra_kernels.integrations import ReplacedTokenDetection

from .tiny import (
    ARCHITECTURES,
    DISCRIMINATORS,
    MASK,
    SPECIAL,
    V,
    batch,
    model,
    pair,
    uniforms,
)


def load(kind, directory, **options):
    part, report = kind.from_pretrained(directory, output_loading_info=True, **options)
    assert not any(report.values()), report
    return part.eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("embeddings", ["shared", "gradient_disentangled"])
def test_a_saved_model_loads_as_one_and_as_two_plain_models(architecture, embeddings, tmp_path):
    ours = model(architecture, embeddings=embeddings)
    if embeddings == "gradient_disentangled":
        embedding = ours.discriminator.get_input_embeddings().weight
        embedding.data.add_(0.1 * torch.randn_like(embedding))
    ids, attention_mask = batch()
    ours.save_pretrained(tmp_path)
    restored = load(ReplacedTokenDetection, tmp_path)
    assert restored.config.embeddings == embeddings
    torch.testing.assert_close(
        restored(ids, attention_mask, **uniforms()).loss, ours(ids, attention_mask, **uniforms()).loss
    )
    for name, kind in (
        ("generator", f"{architecture}ForMaskedLM"),
        ("discriminator", DISCRIMINATORS.get(architecture, f"{architecture}ForTokenClassification")),
    ):
        plain, part = load(getattr(transformers, kind), tmp_path / name), getattr(ours, name)
        inputs = {"input_ids": ids, "attention_mask": attention_mask}
        torch.testing.assert_close(plain(**inputs).logits, part(**inputs).logits)


class Hub:
    """Stands in for the model hub: copies the files of a commit into a folder."""

    def __init__(self, folder):
        self.folder = folder

    def create_repo(self, name, **_):
        return SimpleNamespace(repo_id=name)

    def create_commit(self, operations, **_):
        for operation in operations:
            target = self.folder / operation.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(operation.path_or_fileobj, target)


def test_a_model_pushed_to_the_hub_can_be_loaded(tmp_path, monkeypatch):
    hub, ours = Hub(tmp_path), model("Bert")
    card = SimpleNamespace(save=lambda path: Path(path).write_text("a card"))
    # Early releases of transformers 5 have two functions, later ones an object.
    replaced = {"hf_api": lambda: hub, "create_repo": hub.create_repo, "create_commit": hub.create_commit}
    for name, value in (replaced | {"create_and_tag_model_card": lambda *_, **__: card}).items():
        monkeypatch.setattr(transformers.utils.hub, name, value, raising=False)
    ours.push_to_hub("someone/model")
    ids, attention_mask = batch()
    restored = load(ReplacedTokenDetection, tmp_path)
    expected = ours(ids, attention_mask, **uniforms()).loss
    torch.testing.assert_close(restored(ids, attention_mask, **uniforms()).loss, expected)
    plain = load(transformers.BertForTokenClassification, tmp_path / "discriminator")
    torch.testing.assert_close(
        plain(ids, attention_mask).logits, ours.discriminator(ids, attention_mask).logits
    )
    load(transformers.BertForMaskedLM, tmp_path / "generator")
    assert (tmp_path / "README.md").read_text() == "a card"


def test_a_given_head_must_also_be_given_to_from_pretrained(tmp_path):
    generator, discriminator = pair("DebertaV2", legacy=False)

    def head(part, hidden):
        predictions = part.lm_predictions.lm_head
        hidden = predictions.LayerNorm(predictions.transform_act_fn(predictions.dense(hidden)))
        return hidden, part.get_input_embeddings().weight, predictions.bias

    ours = ReplacedTokenDetection(generator, discriminator, mask_token_id=MASK, head=head).eval()
    ours.save_pretrained(tmp_path)
    restored = load(ReplacedTokenDetection, tmp_path, head=head)
    torch.testing.assert_close(restored(batch()[0]).loss, ours(batch()[0]).loss)
    with pytest.raises(ValueError, match="give head="):
        ReplacedTokenDetection.from_pretrained(tmp_path)


def test_shared_embeddings_are_one_parameter_with_both_gradients():
    parts = {}
    for weight in (0.0, 50.0):
        ours = model(embeddings="shared", rtd_weight=weight)
        word = ours.discriminator.electra.embeddings.word_embeddings.weight
        assert word is ours.generator.electra.embeddings.word_embeddings.weight
        assert word is ours.generator.generator_lm_head.weight
        ours(*batch(), **uniforms()).loss.backward()
        parts[weight] = word.grad
    assert not torch.allclose(parts[0.0], parts[50.0])


def test_with_disentangled_embeddings_the_generator_gets_no_gradient_from_the_discriminator():
    """The generator's gradient is that of the MLM loss alone, and the discriminator's is that of the RTD loss."""
    _, discriminator = pair("Electra")
    ours = model(embeddings="gradient_disentangled")
    embedding = discriminator.get_input_embeddings()
    ids, attention_mask = batch()
    torch.testing.assert_close(
        ours.discriminator(ids, attention_mask).logits, discriminator(ids, attention_mask).logits
    )
    difference = ours.discriminator.get_input_embeddings().weight
    word = ours.generator.get_input_embeddings().weight
    assert torch.equal(word, embedding.weight)
    assert not difference.any()
    ours(ids, attention_mask, **uniforms()).loss.backward()
    alone = model(embeddings="gradient_disentangled", rtd_weight=0.0)
    alone(ids, attention_mask, **uniforms()).loss.backward()
    assert torch.equal(word.grad, alone.generator.get_input_embeddings().weight.grad)
    shared = model(embeddings="shared")
    shared(ids, attention_mask, **uniforms()).loss.backward()
    together = shared.generator.get_input_embeddings().weight.grad
    torch.testing.assert_close(word.grad + difference.grad, together, rtol=1e-4, atol=1e-5)


def test_a_copy_is_independent():
    ours = model(embeddings="gradient_disentangled")
    copied = copy.deepcopy(ours)
    before = ours(*batch(), **uniforms()).loss
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert copied(*batch(), **uniforms()).loss != before
    assert ours(*batch(), **uniforms()).loss == before


def test_special_tokens_padding_and_unlabelled_tokens_are_never_replaced_or_judged():
    ours = model(mask_probability=0.9, ban_original=True)
    ids, attention_mask = batch()
    labels = ids.where(attention_mask == 1, -100)
    labels[:, 10:] = -100
    output = ours(ids, attention_mask, labels=labels)
    assert output.is_replaced.any(-1).all()
    assert not output.is_replaced[(labels == -100) | (ids < 5)].any()
    assert output.counts.sum() == (labels != -100).sum()
    assert output.is_replaced.sum() == output.generator_counts[:, 0].sum()
    assert not output.generator_counts[:, 2].any()


def test_evaluation_repeats_its_draws_and_training_continues_its_own(tmp_path):
    ours, ids = model(), batch()[0]
    first, second = ours(ids).is_replaced, ours(ids).is_replaced
    assert not torch.equal(first, second)
    ours.eval()
    assert torch.equal(ours(ids).is_replaced, first)
    ours.train()
    drawn = [ours(ids).is_replaced]
    assert not torch.equal(drawn[0], first)
    ours.save_pretrained(tmp_path)
    restored = ReplacedTokenDetection.from_pretrained(tmp_path).train()
    assert torch.equal(restored.rows_seen[0], ours.rows_seen[0])
    restored.generator.eval(), ours.generator.eval()
    assert torch.equal(restored(ids).is_replaced, ours(ids).is_replaced)


def test_an_empty_batch_has_loss_zero():
    ours = model()
    output = ours(torch.zeros(2, 6, dtype=torch.int64), torch.zeros(2, 6, dtype=torch.int64))
    assert output.loss == 0
    output.loss.backward()
    assert not any(p.grad.any() for p in ours.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mask_token_id": None}, "mask_token_id is None, should be an id"),
        ({"embeddings": "tied"}, "embeddings is 'tied', should be one of 'shared'"),
        ({"rtd_weight": -1.0}, "rtd_weight is -1.0, should be a finite number"),
    ],
)
def test_a_bad_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        model(**options)


def test_models_that_do_not_fit_each_other_are_refused():
    generator, discriminator = pair("Electra")
    wide = pair("Electra", embedding_size=24)[1]
    other = pair("Electra", vocab_size=V + 1)[1]
    options = {"mask_token_id": MASK, "special_token_ids": SPECIAL}
    with pytest.raises(ValueError, match=r"generator has shape \[90, 16\], should be \[90, 24\]"):
        ReplacedTokenDetection(generator, wide, **options)
    assert ReplacedTokenDetection(generator, wide, embeddings="separate", **options)(batch()[0]).loss > 0
    with pytest.raises(ValueError, match="discriminator has a vocabulary of 91, should be 90"):
        ReplacedTokenDetection(generator, other, **options)
    with pytest.raises(
        TypeError, match=r"discriminator is NoneType, should be a transformers\.PreTrainedModel"
    ):
        ReplacedTokenDetection(generator, **options)
    assert discriminator.config.architectures is None
