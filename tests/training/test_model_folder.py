import json
import os
import re
import signal
from dataclasses import replace

import pytest
import torch
from small_language import largest_file
from torch.testing import assert_close
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from electra_kernels import files
from electra_kernels.data.vocabulary import special_ids
from electra_kernels.errors import UserError
from electra_kernels.models import Electra, ElectraConfig
from electra_kernels.training.model_folder import (
    Checkpoint,
    load_checkpoint,
    load_encoder,
    save_checkpoint,
    save_objective,
)
from electra_kernels.training.objectives import (
    MaskedLanguageModel,
    ReplacedTokenDetection,
    SentenceOrder,
)
from electra_kernels.training.recipe import RECIPES

WEIGHTS = "model.safetensors"


@pytest.fixture
def saved(model, tokenizer, tmp_path):
    directory = tmp_path / "run" / "model"
    save_checkpoint(directory, Checkpoint(model, tokenizer, RECIPES["demo"]))
    return directory


def test_a_checkpoint_restores_model_tokenizer_and_recipe(saved, model, tokenizer):
    loaded = load_checkpoint(saved)
    assert loaded.model.config == model.config
    assert loaded.recipe == RECIPES["demo"]
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert not loaded.model.training
    ours, theirs = model.state_dict(), loaded.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_tied_weights_are_tied_after_loading(saved):
    model = load_checkpoint(saved).model
    assert model.generator.encoder is model.discriminator.encoder
    assert model.generator.head.weight is model.discriminator.encoder.embeddings.word.weight


@pytest.mark.parametrize("kind", ["uniform", "unigram"])
def test_a_generator_without_parameters_is_restored(kind, encoder_config, counts, tokenizer, tmp_path):
    model = Electra(
        ElectraConfig(encoder_config, None, 4, generator_kind=kind), counts if kind == "unigram" else None
    )
    save_checkpoint(tmp_path / "model", Checkpoint(model, tokenizer, RECIPES["demo"]))
    loaded = load_checkpoint(tmp_path / "model").model
    assert torch.equal(loaded.unigram.cumulative, model.unigram.cumulative)


def test_load_encoder_reads_the_encoder_of_a_discriminator(saved, model):
    loaded = load_encoder(saved)
    assert loaded.objective == "replaced_tokens"
    assert not loaded.encoder.training
    ours, theirs = model.discriminator.encoder.state_dict(), loaded.encoder.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def logits(folder, kind, ids):
    """The output of a class of transformers, which must find every weight in the folder and no other."""
    model, report = kind.from_pretrained(folder, output_loading_info=True, use_safetensors=True)
    assert not any(report.values()), report
    output = model.eval()(ids)
    return output.logits if "logits" in output else output.last_hidden_state


@pytest.mark.parametrize("family", ["electra", "modern"])
def test_transformers_loads_both_models_and_the_tokenizer(family, encoder_config, tokenizer, tmp_path):
    encoder, saved = replace(encoder_config, family=family), tmp_path / "model"
    generator = replace(encoder, num_hidden_layers=1)
    model = Electra(ElectraConfig(encoder, generator, special_ids(tokenizer).mask)).eval()
    save_checkpoint(saved, Checkpoint(model, tokenizer, RECIPES["demo"]))
    ids = torch.arange(5, 25).view(2, 10)
    kind = AutoModelForPreTraining if family == "electra" else AutoModelForTokenClassification
    found = logits(saved / "discriminator", kind, ids)
    assert_close(found.reshape(2, 10), model.discriminator.logits(ids), atol=1e-5, rtol=1e-5)
    found = logits(saved / "generator", AutoModelForMaskedLM, ids)
    assert_close(found, model.generator.logits(ids), atol=1e-5, rtol=1e-5)
    for part in ("discriminator", "generator"):
        loaded = AutoTokenizer.from_pretrained(saved / part)
        assert loaded.get_vocab() == tokenizer.get_vocab()
        assert (loaded.pad_token, loaded.mask_token) == ("[PAD]", "[MASK]")


def test_the_folder_holds_only_the_described_files(saved):
    files = sorted(str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file())
    parts = ("config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "vocab.txt")
    folders = [f"{folder}/{name}" for folder in ("discriminator", "generator") for name in parts]
    assert files == [*folders[:5], "electra_kernels.json", *folders[5:], "unigram.safetensors"]


@pytest.mark.parametrize("tie", ["all", "embeddings", "none"])
def test_every_option_comes_back(tie, encoder_config, tokenizer, tmp_path):
    encoder = replace(encoder_config, dropout=0.2, initializer_range=0.05)
    generator = {"all": None, "none": encoder_config}.get(tie, replace(encoder, num_hidden_layers=1))
    options = {"temperature": 1.5, "sampling_dropout": False, "max_ngram": 2, "mask_probability": 0.3}
    model = Electra(ElectraConfig(encoder, generator, special_ids(tokenizer).mask, tie=tie, **options))
    save_checkpoint(tmp_path / "model", Checkpoint(model, tokenizer, RECIPES["small"]))
    loaded = load_checkpoint(tmp_path / "model").model
    assert loaded.config == model.config
    assert [name for name, _ in loaded.named_parameters()] == [name for name, _ in model.named_parameters()]
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))


def test_a_masked_language_model_is_one_of_transformers(
    electra_config, encoder_config, facts, tokenizer, tmp_path
):
    objective = MaskedLanguageModel(electra_config, facts).eval()
    save_objective(tmp_path / "model", objective, tokenizer, RECIPES["demo"], objective.state_dict())
    loaded, ids = load_encoder(tmp_path / "model"), torch.arange(5, 25).view(2, 10)
    assert (loaded.encoder.config, loaded.recipe) == (encoder_config, RECIPES["demo"])
    assert loaded.objective == "masked_lm"
    assert not loaded.encoder.training
    assert torch.equal(loaded.encoder(ids), objective.encoder(ids))
    found = logits(tmp_path / "model" / "encoder", AutoModelForMaskedLM, ids)
    assert_close(found, objective.model.logits(ids), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="holds the encoder that masked_lm trained, without a discriminator"):
        load_checkpoint(tmp_path / "model")


def test_another_objective_saves_its_encoder_alone(electra_config, facts, tokenizer, tmp_path):
    objective = SentenceOrder(electra_config, facts).eval()
    save_objective(tmp_path / "model", objective, tokenizer, RECIPES["demo"], objective.state_dict())
    ids = torch.arange(5, 25).view(2, 10)
    assert torch.equal(load_encoder(tmp_path / "model").encoder(ids), objective.encoder(ids))
    found = logits(tmp_path / "model" / "encoder", AutoModel, ids)
    assert_close(found, objective.encoder(ids), atol=1e-5, rtol=1e-5)


def test_an_objective_with_an_electra_saves_both_models(electra_config, facts, tokenizer, tmp_path):
    objective = ReplacedTokenDetection(electra_config, facts)
    save_objective(tmp_path / "model", objective, tokenizer, RECIPES["demo"], objective.state_dict())
    loaded, model = load_checkpoint(tmp_path / "model").model, objective.model
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(map(torch.equal, loaded.state_dict().values(), model.state_dict().values()))


def test_saving_replaces_the_previous_checkpoint_and_leaves_nothing_beside_it(saved, model, tokenizer):
    with torch.no_grad():
        model.discriminator.head.bias.fill_(3.0)
    save_checkpoint(saved, Checkpoint(model, tokenizer, RECIPES["demo"]))
    assert load_checkpoint(saved).model.discriminator.head.bias.item() == 3.0
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_a_save_that_fails_keeps_the_previous_checkpoint(saved, model, tokenizer, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(saved, Checkpoint(model, tokenizer, RECIPES["demo"]))
    load_checkpoint(saved)


@pytest.mark.parametrize(
    "name",
    [
        "electra_kernels.json",
        *(f"{part}/{file}" for part in ("discriminator", "generator") for file in ("config.json", WEIGHTS)),
        "discriminator/tokenizer.json",
    ],
)
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(UserError, match=re.escape(name.rpartition("/")[2])) as error:
        load_checkpoint(saved)
    assert str(saved) in str(error.value)
    assert "\n" not in str(error.value)


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_weights_of_another_shape_give_an_error_of_one_line(saved):
    change(saved / "discriminator" / "config.json", intermediate_size=48)
    with pytest.raises(UserError, match=r"cannot be loaded: .* has shape .*, should be") as error:
        load_checkpoint(saved)
    assert "\n" not in str(error.value)


def test_a_vocabulary_of_another_size_is_refused(saved, tokenizer):
    for part in ("discriminator", "generator"):
        change(saved / part / "config.json", vocab_size=999)
    with pytest.raises(UserError, match=f"has {tokenizer.get_vocab_size()} entries, config.json says 999"):
        load_checkpoint(saved)


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '{"format": 2, "recipe": {}}', "[]", '{"format": 3}'])
def test_an_invalid_description_gives_an_error_of_one_line(saved, text):
    (saved / "electra_kernels.json").write_text(text)
    with pytest.raises(UserError, match=r"electra_kernels\.json is"):
        load_checkpoint(saved)


@pytest.mark.parametrize("length", [0, -1, 1.5, "64", None, 10**30])
def test_an_impossible_length_of_rows_gives_an_error_of_one_line(length, saved):
    recipe = json.loads((saved / "electra_kernels.json").read_text())["recipe"]
    change(saved / "electra_kernels.json", recipe=recipe | {"length": length})
    with pytest.raises(UserError, match=r"electra_kernels\.json .*length is"):
        load_checkpoint(saved)


def test_a_file_without_weights_gives_an_error_of_one_line(saved):
    (saved / "discriminator" / WEIGHTS).write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    "content, said",
    [
        ({"model": {"discriminator": {"position_embedding": "rotary"}}, "recipe": {}}, "train it again"),
        ({"encoder": {"norm": "pre"}, "recipe": {}}, "train it again"),
        (
            {"model": {"discriminator": {"norm": "post"}}, "recipe": {}},
            "with electra_kernels.models.save_tra",
        ),
        ({"generator": {}, "discriminator": {}}, "use its folders generator and discriminator"),
    ],
)
def test_a_folder_of_the_former_layout_is_refused_with_a_way_out(tmp_path, content, said):
    (tmp_path / "config.json").write_text(json.dumps(content))
    for load in (load_checkpoint, load_encoder):
        with pytest.raises(UserError, match=f"the layout of a former version of electra_kernels: .*{said}"):
            load(tmp_path)


def test_all_files_have_the_mode_that_the_umask_gives(saved):
    umask = os.umask(0)
    os.umask(umask)
    files = {path: path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()}
    assert files == dict.fromkeys(files, 0o666 & ~umask)


def test_a_full_disk_names_the_file_and_keeps_the_previous_checkpoint(saved, model, tokenizer):
    weights = saved / "discriminator" / WEIGHTS
    before = weights.read_bytes()
    with torch.no_grad():
        model.discriminator.head.bias.fill_(3.0)
    with largest_file(len(before) // 2), pytest.raises(OSError, match="File too large") as error:
        save_checkpoint(saved, Checkpoint(model, tokenizer, RECIPES["demo"]))
    assert str(saved) in error.value.filename
    assert weights.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_signal_during_the_exchange_of_models_does_not_lose_the_model(
    can_exchange, saved, model, tokenizer, monkeypatch
):
    exchange = files._exchange

    def interrupted(one, other):
        done = can_exchange and exchange(one, other)
        signal.raise_signal(signal.SIGINT)
        return done

    monkeypatch.setattr(files, "_exchange", interrupted)
    with torch.no_grad():
        model.discriminator.head.bias.fill_(3.0)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved, Checkpoint(model, tokenizer, RECIPES["demo"]))
    assert load_checkpoint(saved).model.discriminator.head.bias.item() == 3.0
