"""A pair of Hugging Face models as an objective: from folders, cut in any way, saved and continued."""

import shutil
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    BertForTokenClassification,
    BertModel,
    ElectraForPreTraining,
)

from electra_kernels.errors import UserError
from electra_kernels.training.objectives.base import means
from tests.integrations.tiny import V, plain_step

from .tiny_pair import SPECIAL, config, pair, rows, step, tokenizer

EMBEDDINGS = ["shared", "gradient_disentangled", "separate"]


@pytest.fixture
def folders(tmp_path):
    """A function that writes two configurations, or two models, and returns their folders."""

    def write(generator, discriminator):
        for name, part in (("g", generator), ("d", discriminator)):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            part.save_pretrained(tmp_path / name)
        return tmp_path / "g", tmp_path / "d"

    return write


@pytest.mark.parametrize(
    "generator, discriminator, embeddings",
    [
        ("ModernBert", "ModernBert", "shared"),
        ("DebertaV2", "DebertaV2", "gradient_disentangled"),
        ("Bert", "Electra", "separate"),
    ],
)
def test_training_from_configurations_reduces_the_loss(folders, generator, discriminator, embeddings):
    objective = pair(folders(config(generator), config(discriminator)), embeddings=embeddings)
    assert len(objective.layers()) == 4
    optimizer, seen = torch.optim.AdamW(objective.parameters(), 3e-3), []
    for number in range(30):
        loss, metrics = objective(objective.batch(rows(16, first=16 * number), 0), 0.0)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(means(metrics) | {"loss": loss.item()})
    assert seen[0].keys() - {"loss"} == set(objective.metrics)
    for name in ("loss", "mlm_loss"):
        first, last = (sum(entry[name] for entry in part) for part in (seen[:5], seen[-5:]))
        assert last < 0.9 * first, name


@pytest.mark.parametrize("architecture", ["ModernBert", "DebertaV2", "Electra"])
def test_checkpointed_layers_give_the_same_gradient(folders, architecture):
    objective = pair(folders(config(architecture), config(architecture))).train()
    runs = []
    linear = next(part for part in objective.layers()[0].modules() if isinstance(part, torch.nn.Linear))
    linear.register_forward_pre_hook(lambda *_: runs.append(None))
    expected = step(objective, rows())
    assert len(runs) == 1
    objective.checkpoint_layers()
    got = step(objective, rows())
    assert len(runs) == 3  # computed again in the backward pass
    assert_close(got[0], expected[0])
    assert_close(got[1], expected[1])


def test_layers_that_transformers_cannot_checkpoint_are_refused(folders):
    objective = pair(folders(config("ModernBert"), config("Albert")), embeddings="separate")
    with pytest.raises(UserError, match="the layers of AlbertForTokenClassification cannot be checkpointed"):
        objective.checkpoint_layers()


def test_the_parts_of_a_batch_add_up(folders):
    objective, whole = pair(folders(config(), config())), rows()
    loss, expected, metrics = step(objective, whole)
    assert objective.counts(objective.batch(whole, 3)).tolist() == [(whole.input_ids != 0).sum()]
    for size in (4, 2):
        parts = whole.split(size)
        counts = sum(objective.counts(objective.batch(part, 3)) for part in parts)
        steps = [step(objective, part, counts) for part in parts]
        assert_close(sum(part[0] for part in steps), loss)
        summed = {name: sum(part[1][name] for part in steps) for name in expected}
        assert_close(summed, expected, rtol=1e-5, atol=1e-5)
        for name, value in metrics.items():
            assert value.dtype == torch.float64
            assert_close(sum(part[2][name] for part in steps), value, rtol=1e-6, atol=0.0)


def test_losses_and_metrics_are_those_of_plain_transformers(folders):
    objective, tokens = pair(folders(config(), config()), embeddings="separate", rtd_weight=50.0), rows()
    batch = objective.batch(tokens, 3)
    _, metrics = objective(batch, 0.0)
    parts = objective.model.generator, objective.model.discriminator
    uniforms = batch.masking_uniforms, batch.sampling_uniforms
    _, mlm, rtd, logits, is_replaced = plain_step(*parts, tokens.input_ids, batch.attention_mask, *uniforms)
    found, judged = means(metrics), tokens.attention_mask
    assert found["mlm_loss"] == pytest.approx(mlm.item(), rel=1e-5)
    assert found["rtd_loss"] == pytest.approx(rtd.item(), rel=1e-5)
    assert found["replaced"] == pytest.approx(is_replaced.sum().item() / judged.sum().item())
    hits = ((logits > 0) & is_replaced).sum().item()
    assert found["recall"] == pytest.approx(hits / is_replaced.sum().item())
    assert_close(metrics["mlm_accuracy"][1], metrics["sampled_accuracy"][1])
    drawn = metrics["sampled_accuracy"]
    assert drawn[1] - drawn[0] == is_replaced.sum() * 1.0 + (metrics["mlm_loss"][1] - drawn[1])


def test_random_numbers_follow_from_the_seed_and_the_number_of_the_row(folders):
    objective = pair(folders(config(), config()))
    whole, again = (objective.batch(rows(), seed) for seed in (3, 4))
    part = objective.batch(rows(4, first=4), 3)
    for name in ("masking_uniforms", "sampling_uniforms"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[4:])
        assert not torch.equal(getattr(whole, name), getattr(again, name))
    assert not torch.equal(whole.masking_uniforms[..., 0], whole.sampling_uniforms)


def test_the_global_seed_decides_new_weights(folders):
    paths = folders(config(), config())
    first, same, other = (pair(paths, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(same[name], first[name]) for name in first)
    assert not all(torch.equal(other[name], first[name]) for name in first)


@pytest.mark.parametrize("embeddings", EMBEDDINGS)
def test_a_saved_pair_continues_where_it_was(folders, tmp_path, embeddings):
    paths, saved = folders(config(), config()), tmp_path / "saved"
    objective = pair(paths, embeddings=embeddings)
    with torch.no_grad():
        for parameter in objective.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    objective.save(saved, {name: value.clone() for name, value in objective.state_dict().items()})
    expected = step(objective.eval(), rows())
    again = pair((saved, saved / "discriminator"), seed=1, embeddings=embeddings).eval()
    got = step(again, rows())
    assert_close(got[0], expected[0])
    assert_close(got[1], expected[1], rtol=1e-4, atol=1e-4)
    assert sorted(path.name for path in saved.iterdir()) == ["discriminator", "generator"]
    for name in ("discriminator", "generator"):
        loaded = AutoTokenizer.from_pretrained(saved / name)
        assert loaded.get_vocab() == tokenizer().get_vocab()
        assert loaded.mask_token_id == SPECIAL.mask
        assert loaded.model_max_length == 64


def test_a_pretrained_encoder_is_continued_whichever_side_it_is_on(folders, tmp_path):
    """An encoder without head becomes a discriminator; a masked language model gives a new discriminator its words."""
    torch.manual_seed(5)
    encoder = BertModel(config(vocab_size=V + 6, pad_token_id=0), add_pooling_layer=False)
    objective = pair(folders(config(), encoder))
    continued = objective.model.discriminator.bert.state_dict()
    assert all(torch.equal(continued[name], value) for name, value in encoder.state_dict().items())
    assert objective.model.config.vocab_size == V + 6  # a padded vocabulary decides the size of the new model
    generator = BertForMaskedLM(config(vocab_size=V, pad_token_id=0))
    words = generator.get_input_embeddings().weight
    for embeddings in EMBEDDINGS[:2]:
        objective = pair(folders(generator, config()), seed=1, embeddings=embeddings)
        assert torch.equal(objective.model.generator.get_input_embeddings().weight, words)
        scores = objective.token_scores(rows().input_ids, rows().attention_mask)
        assert scores.shape == (8, 24)


def test_a_head_of_another_task_and_another_dtype_are_replaced(folders):
    torch.manual_seed(5)
    tagger = BertForTokenClassification(config(vocab_size=V, pad_token_id=0, num_labels=3)).bfloat16()
    objective = pair(folders(config("ModernBert", dtype="bfloat16"), tagger))
    discriminator = objective.model.discriminator
    kept, original = (part.bert.encoder.layer[0].output.dense.weight for part in (discriminator, tagger))
    assert torch.equal(kept, original.float())
    assert discriminator.classifier.weight.shape == (1, 32)
    assert {parameter.dtype for parameter in objective.parameters()} == {torch.float32}
    assert objective(objective.batch(rows(), 0), 0.0)[0].isfinite()


def test_a_discriminator_of_electra_is_the_one_of_electra(folders):
    objective = pair(folders(config("Electra"), config("Electra")))
    assert isinstance(objective.model.discriminator, ElectraForPreTraining)
    scores = objective.row_scores(rows().input_ids, rows().attention_mask)
    assert scores.shape == (8,)
    assert scores.isfinite().all()


def weights(**options):
    return BertForMaskedLM(config(**{"vocab_size": V, "pad_token_id": 0} | options))


@pytest.mark.parametrize(
    "parts, message",
    [
        (lambda: (weights(vocab_size=V - 1), config()), r"has 89 entries, that of the text has 90"),
        (
            lambda: (weights(), weights(vocab_size=V + 6)),
            r"vocabularies differ: .*g has 90 entries, .*d has 96",
        ),
        (lambda: (weights(pad_token_id=1), config()), r"its padding token is 1, that of the text 0"),
        (lambda: (config(hidden_size=16), config()), r"generator has shape \[90, 16\], should be \[90, 32\]"),
        (lambda: (weights(), weights()), "its word embedding differs from the generator's"),
    ],
)
def test_folders_that_do_not_fit_are_refused_in_one_line(folders, parts, message):
    with pytest.raises(UserError, match=message) as error:
        pair(folders(*parts()))
    assert "\n" not in str(error.value)


def test_a_damaged_folder_is_refused_in_one_line(folders, tmp_path):
    paths = folders(weights(), config())
    with pytest.raises(UserError, match=r"nowhere: there is no config\.json"):
        pair((tmp_path / "nowhere", paths[1]))
    tokenizer(V).save(str(paths[0] / "tokenizer.json"))
    assert pair(paths)
    file = paths[0] / "tokenizer.json"
    file.write_text(file.read_text().replace("w17", "word"))
    with pytest.raises(UserError, match=r"tokenizer\.json: differs from the vocabulary of the text"):
        pair(paths)
    file.write_text("torn")
    with pytest.raises(UserError, match=r"tokenizer\.json: cannot be used: "):
        pair(paths)
    file.unlink()
    config(num_hidden_layers=3, vocab_size=V, pad_token_id=0).save_pretrained(paths[0])
    with pytest.raises(
        UserError, match=r"saved weights lack 16 of the BertForMaskedLM that config\.json describes"
    ):
        pair(paths)
    (paths[0] / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"g: cannot be loaded: "):
        pair(paths)
    (paths[0] / "model.safetensors").rename(paths[0] / "pytorch_model.bin")
    with pytest.raises(
        UserError, match=r"g: its weights are the pickle pytorch_model\.bin, which is not read"
    ):
        pair(paths)
    (paths[1] / "config.json").write_text('{"model_type": "no_such_model"}')
    (paths[0] / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"d/config\.json: cannot be used: .*no_such_model"):
        pair(paths)


def test_rows_that_a_model_cannot_take_are_refused(folders):
    objective = pair(folders(config(), config("ModernBert")), embeddings="separate")
    with pytest.raises(UserError, match="rows have 80 tokens, these models accept at most 64"):
        objective.batch(rows(2, 80), 0)
    packed = rows()._replace(segments=torch.ones(8, 24))
    with pytest.raises(ValueError, match=r"tokens\.segments is given, should be None"):
        objective.batch(packed, 0)
    assert pair(folders(config("ModernBert"), config("ModernBert"))).longest_row is None


def test_without_transformers_only_this_objective_is_missing():
    code = """
import sys
sys.modules["transformers"] = None
from electra_kernels.training.objectives.transformers_pair import TransformersPair
try:
    TransformersPair("g", "d", None, None)
except Exception as error:
    print(type(error).__name__, error)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == (
        "UserError transformers not installed, a pair of its models needs it: "
        "pip install 'electra_kernels[transformers]'\n"
    )
