"""``pretrain --from``: the models before the first step are those of the folder, and what is saved loads again."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, AutoModelForTokenClassification

from electra_kernels.commands.run_options import (
    Options,
    check_options,
    default_configuration,
    identity_of,
    objective_class,
    recipe_of,
    row_lengths,
)
from electra_kernels.commands.run_parts import new_objective
from electra_kernels.data.vocabulary import save_vocabulary, special_ids, train_vocabulary
from electra_kernels.errors import UserError
from electra_kernels.training.continuation import Start
from electra_kernels.training.model_folder import Checkpoint, load_checkpoint, save_checkpoint, save_objective
from electra_kernels.training.objectives import token_batch
from electra_kernels.training.objectives.transformers_pair import TransformersPair
from electra_kernels.training.recipe import RECIPES
from electra_kernels.training.schedule import parse_schedule

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
KINDS = {
    "BertForMaskedLM": {},
    "BertModel": {},
    "ElectraForPreTraining": {"embedding_size": 16},
    "ElectraForMaskedLM": {"embedding_size": 16},
    "ModernBertForMaskedLM": {"global_attn_every_n_layers": 3, "local_attention": 8},
    "DebertaV2ForMaskedLM": DEBERTA,
}
RECIPE = replace(RECIPES["small"], length=16, batch_size=4)


@pytest.fixture
def cache(tokenizer, facts):
    ids = special_ids(tokenizer)
    size = tokenizer.get_vocab_size()
    return SimpleNamespace(tokenizer=tokenizer, special_ids=ids, facts=facts, vocab_size=size)


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A function that writes a model of a class of transformers with its vocabulary; returns folder and model."""

    def write(kind, **options):
        torch.manual_seed(3)
        ids, cls = special_ids(tokenizer), getattr(transformers, kind)
        special = {"bos_token_id": ids.cls, "eos_token_id": ids.sep, "cls_token_id": ids.cls}
        sizes = SIZES | {"vocab_size": tokenizer.get_vocab_size(), "pad_token_id": ids.pad} | special
        model = cls(cls.config_class(**sizes, sep_token_id=ids.sep, **KINDS[kind], **options))
        model.save_pretrained(tmp_path / kind)
        save_vocabulary(tokenizer, tmp_path / kind)
        return tmp_path / kind, model.eval()

    return write


def options_for(start, **options):
    return Options(Path("out"), config="small", start=start, **options)


def save(objective, cache, path):
    save_objective(path, objective, cache.tokenizer, RECIPE, objective.state_dict())
    return path


def loaded(folder, kind):
    """A model of transformers, which must find each of its weights and nothing else."""
    model, report = kind.from_pretrained(folder, output_loading_info=True, use_safetensors=True)
    assert not any(report.values()), report
    return model.eval()


def discriminator_of(folder):
    is_electra = json.loads((folder / "config.json").read_text())["model_type"] == "electra"
    return loaded(folder, AutoModelForPreTraining if is_electra else AutoModelForTokenClassification)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_model_is_that_of_the_folder_and_loads_again(kind, folder, cache, rows, tmp_path):
    start, original = folder(kind)
    options = options_for(start)
    check_options(options)
    objective = new_objective(options, RECIPE, cache, 4).eval()
    tokens = token_batch(rows, torch.arange(4), torch.device("cpu"))
    ids, mask = tokens.input_ids, tokens.attention_mask
    result = save(objective, cache, tmp_path / "result")
    discriminator = discriminator_of(result / "discriminator")
    generator = loaded(result / "generator", AutoModelForMaskedLM)
    assert (generator.config.num_hidden_layers, discriminator.config.num_hidden_layers) == (2, 3)
    with torch.no_grad():
        expected = original.base_model(ids, attention_mask=mask).last_hidden_state[mask]
        found = discriminator.base_model(ids, attention_mask=mask).last_hidden_state[mask]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        # The generator starts from the first layers, and from the head if the folder has a matching one.
        lower = getattr(transformers, kind).from_pretrained(start, num_hidden_layers=2).eval()
        if kind.endswith("ForMaskedLM"):
            expected, found = (part(ids, attention_mask=mask).logits for part in (lower, generator))
        else:
            expected, found = (
                part.base_model(ids, attention_mask=mask).last_hidden_state for part in (lower, generator)
            )
        torch.testing.assert_close(found[mask], expected[mask], atol=1e-5, rtol=1e-5)
        if kind == "ElectraForPreTraining":
            torch.testing.assert_close(
                discriminator(ids, mask).logits[mask], original(ids, mask).logits[mask]
            )
    loss, _ = objective(objective.batch(tokens, 0), 0.0)
    assert loss.isfinite()


def test_only_what_the_reference_models_lack_is_left_to_transformers(folder):
    assert objective_class(options_for(folder("DebertaV2ForMaskedLM")[0])) is TransformersPair
    assert objective_class(options_for(folder("BertModel")[0])).packs


@pytest.mark.parametrize("objective", ["masked_lm", "replace_mlm", "unigram_generator", "corrupted_tokens"])
def test_other_objectives_start_from_the_encoder_and_their_own_start_others(
    objective, folder, cache, tmp_path
):
    start, _ = folder("BertForMaskedLM")
    first = new_objective(options_for(start, objective=objective), RECIPE, cache, 4)
    expected = Start.open(start).electra(cache.special_ids.mask)
    same(first.encoder, expected.discriminator.encoder)
    if objective == "masked_lm":
        same(first.model.transform, expected.generator.transform)
    again = new_objective(options_for(save(first, cache, tmp_path / "result")), RECIPE, cache, 4)
    same(again.encoder, first.encoder)


def same(one, other):
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(map(torch.equal, states[0].values(), states[1].values()))


@pytest.mark.parametrize("dropped", [(), ("electra_kernels.json", "unigram.safetensors")])
def test_both_models_of_a_run_are_continued(dropped, model, cache, tmp_path):
    """With the options of the run, or as two folders of transformers whose shared weights stay shared."""
    run = tmp_path / "run" / "model"
    save_checkpoint(run, Checkpoint(model, cache.tokenizer, RECIPE))
    for name in dropped:
        (run / name).unlink()
    objective = new_objective(options_for(run), RECIPE, cache, 4)
    same(objective.model, model)
    assert objective.model.config.tie == model.config.tie
    assert (objective.model.config.rtd_weight == model.config.rtd_weight) == (not dropped)
    result = save(objective, cache, tmp_path / "result")
    same(load_checkpoint(result).model, model)


def test_a_pair_that_only_transformers_has_is_continued(folder, cache, tmp_path):
    first = new_objective(options_for(folder("DebertaV2ForMaskedLM")[0]), RECIPE, cache, 4)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1)
    again = new_objective(options_for(save(first, cache, tmp_path / "result")), RECIPE, cache, 4)
    same(again.model.generator, first.model.generator)
    same(again.model.discriminator, first.model.discriminator)


def test_a_padded_embedding_keeps_its_size(folder, cache, tmp_path):
    size = cache.vocab_size + 5
    start, model = folder("BertModel")
    model.resize_token_embeddings(size)
    model.save_pretrained(start)
    objective = new_objective(options_for(start), RECIPE, cache, 4)
    assert objective.encoder.embeddings.word.weight.shape[0] == size
    again = load_checkpoint(save(objective, cache, tmp_path / "result")).model
    same(again.discriminator, objective.model.discriminator)
    assert again.unigram.shares()[cache.vocab_size :].tolist() == [0.0] * 5


def test_the_folder_decides_sizes_and_the_recipe_and_is_part_of_the_identity(folder):
    start, _ = folder("BertModel")
    assert default_configuration(None) == "demo"
    assert default_configuration(start) == "small"
    config = start / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 32', '"hidden_size": 512'))
    assert default_configuration(start) == "base"
    options, data = options_for(start), SimpleNamespace(meta={"digest": "0"})
    assert identity_of(options, recipe_of(options), data)["--from"] == str(start)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": Path("nowhere")}, "--from nowhere: there is no such folder"),
        ({"generator": Path("g"), "discriminator": Path("d")}, "should be left out with --from"),
        ({"embeddings": "separate"}, "--embeddings has no effect on the reference models"),
        ({"vocab_size": 99}, "--vocab-size has no effect with --from"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(change, said, folder):
    with pytest.raises(UserError, match=said):
        check_options(replace(options_for(folder("BertModel")[0]), **change))


def test_folders_that_cannot_be_continued_are_refused_in_one_line(folder, cache, corpus):
    start, _ = folder("BertModel")
    with pytest.raises(UserError, match="would be replaced by this run"):
        check_options(replace(options_for(start), output=start.parent, start=start.parent / "model"))
    with pytest.raises(UserError, match="rows of 128 tokens, should be 10 to 64"):
        row_lengths(options_for(start), RECIPES["small"])
    assert row_lengths(options_for(start, phases=parse_schedule("64:5")), RECIPES["small"]) == [64]
    with pytest.raises(UserError, match="is not that of the text: prepare the text with --vocabulary"):
        Start.open(start).check_vocabulary(train_vocabulary(corpus.train, 60))
    deberta, _ = folder("DebertaV2ForMaskedLM")
    with pytest.raises(
        UserError, match=r"masked_lm, should be left out with --from .*deberta-v2 only transf"
    ):
        check_options(options_for(deberta, objective="masked_lm"))
    (start / "model.safetensors").rename(start / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"the pickle pytorch_model\.bin, which is not read.*save_pretrained"):
        Start.open(start)
    (start / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"there are no weights, should be model\.safetensors"):
        Start.open(start)
    (start / "config.json").unlink()
    with pytest.raises(UserError, match=r"there is no config\.json"):
        Start.open(start)
