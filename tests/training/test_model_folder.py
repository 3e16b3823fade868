import json
import os
import re
import signal

import pytest
import torch
from small_language import largest_file

from electra_kernels.errors import UserError
from electra_kernels.models import Electra, ElectraConfig
from electra_kernels.training.model_folder import (
    FILES,
    Checkpoint,
    load_checkpoint,
    load_encoder,
    save_checkpoint,
    save_objective,
)
from electra_kernels.training.objectives import MaskedLanguageModel, ReplacedTokenDetection
from electra_kernels.training.recipe import RECIPES


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


def test_an_objective_without_an_electra_saves_its_encoder_alone(
    electra_config, encoder_config, facts, tokenizer, tmp_path
):
    objective = MaskedLanguageModel(electra_config, facts)
    encoder = objective.encoder
    save_objective(tmp_path / "model", objective, tokenizer, RECIPES["demo"], objective.state_dict())
    loaded = load_encoder(tmp_path / "model")
    assert (loaded.encoder.config, loaded.recipe) == (encoder_config, RECIPES["demo"])
    assert loaded.objective == "masked_lm"
    ids = torch.arange(5, 25).view(2, 10)
    assert torch.equal(loaded.encoder(ids), encoder.eval()(ids))
    with pytest.raises(UserError, match="holds the encoder that masked_lm trained, without a discriminator"):
        load_checkpoint(tmp_path / "model")


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
    def fail(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr("electra_kernels.training.model_folder.save_file", fail)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(saved, Checkpoint(model, tokenizer, RECIPES["demo"]))
    load_checkpoint(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(UserError, match=f"{re.escape(str(saved / name))} is missing"):
        load_checkpoint(saved)


def test_weights_of_another_shape_give_an_error_of_one_line(saved, tokenizer):
    config = json.loads((saved / "config.json").read_text())
    config["model"]["discriminator"]["intermediate_size"] = 48
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"does not fit .*config\.json: size mismatch.*48") as error:
        load_checkpoint(saved)
    assert "\n" not in str(error.value)


def test_a_vocabulary_of_another_size_is_refused(saved, tokenizer):
    config = json.loads((saved / "config.json").read_text())
    config["model"]["discriminator"]["vocab_size"] = 999
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"has {tokenizer.get_vocab_size()} entries, config.json says 999"):
        load_checkpoint(saved)


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '{"model": {}, "recipe": {}}', "[]"])
def test_an_invalid_config_gives_an_error_of_one_line(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        load_checkpoint(saved)


@pytest.mark.parametrize("length", [0, -1, 1.5, "64", None, 10**30])
def test_an_impossible_length_of_rows_gives_an_error_of_one_line(length, saved):
    config = json.loads((saved / "config.json").read_text())
    config["recipe"]["length"] = length
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json .*length is"):
        load_checkpoint(saved)


def test_a_file_without_weights_gives_an_error_of_one_line(saved):
    (saved / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"model\.safetensors does not fit"):
        load_checkpoint(saved)


def test_all_files_have_the_mode_that_the_umask_gives(saved):
    umask = os.umask(0)
    os.umask(umask)
    assert {path.name: path.stat().st_mode & 0o777 for path in saved.iterdir()} == dict.fromkeys(
        FILES, 0o666 & ~umask
    )


def test_a_full_disk_names_the_file_and_keeps_the_previous_checkpoint(saved, model, tokenizer):
    before = (saved / "model.safetensors").read_bytes()
    with torch.no_grad():
        model.discriminator.head.bias.fill_(3.0)
    with largest_file(len(before) // 2), pytest.raises(OSError, match="File too large") as error:
        save_checkpoint(saved, Checkpoint(model, tokenizer, RECIPES["demo"]))
    assert error.value.filename.endswith("model.safetensors")
    assert (saved / "model.safetensors").read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_a_signal_during_the_exchange_of_checkpoints_does_not_lose_the_model(
    saved, model, tokenizer, monkeypatch
):
    replace = os.replace

    def interrupted(source, target):
        replace(source, target)
        if str(target).endswith(".previous"):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(saved, Checkpoint(model, tokenizer, RECIPES["demo"]))
    load_checkpoint(saved)
