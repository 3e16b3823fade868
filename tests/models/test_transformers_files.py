"""Checkpoints that transformers loads are loaded with equal outputs: old names, short configurations, shards."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, ElectraModel
from transformers import ElectraConfig as TransformersConfig

from electra_kernels.models import encoder_from_transformers, read_checkpoint
from electra_kernels.models.transformers_config import encoder_config_from_transformers
from electra_kernels.models.transformers_files import Checkpoint, write_checkpoint

from .test_interchange import (
    SIZES,
    TOLERANCE,
    batch,
    discriminator,
    largest_difference,
    old_names,
    with_distinct_weights,
)


def bert():
    sizes = {"hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 96}
    return with_distinct_weights(BertModel(BertConfig(**SIZES, **sizes)))


def remove_option(folder, name):
    config = json.loads((folder / "config.json").read_text())
    del config[name]
    (folder / "config.json").write_text(json.dumps(config))


def change_state(folder, change):
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def assert_loads_like_transformers(folder, kind):
    (ids, mask), theirs = batch(), kind.from_pretrained(folder).eval()
    ours = encoder_from_transformers(read_checkpoint(folder))
    with torch.no_grad():
        assert largest_difference(ours(ids, mask), theirs(ids, mask)[0]) <= TOLERANCE


@pytest.mark.parametrize("model, kind", [(bert, BertModel), (discriminator, ElectraModel)])
def test_layer_norms_with_tensorflow_names_are_loaded(model, kind, tmp_path):
    model().save_pretrained(tmp_path)
    change_state(tmp_path, old_names)
    assert any(name.endswith("LayerNorm.gamma") for name in read_checkpoint(tmp_path).state)
    assert_loads_like_transformers(tmp_path, kind)


@pytest.mark.parametrize("model, kind", [(bert, BertModel), (discriminator, ElectraModel)])
@pytest.mark.parametrize(
    "name",
    [
        "attention_probs_dropout_prob",
        "hidden_act",
        "hidden_dropout_prob",
        "initializer_range",
        "is_decoder",
        "layer_norm_eps",
        "type_vocab_size",
    ],
)
def test_a_missing_option_has_the_default_of_transformers(name, model, kind, tmp_path):
    model().save_pretrained(tmp_path)
    remove_option(tmp_path, name)
    assert_loads_like_transformers(tmp_path, kind)


@pytest.mark.parametrize("kind, config", [("bert", BertConfig), ("electra", TransformersConfig)])
def test_a_config_without_sizes_has_the_sizes_of_transformers(kind, config):
    assert encoder_config_from_transformers({"model_type": kind}) == encoder_config_from_transformers(
        config().to_dict()
    )


def test_without_a_model_type_an_embedding_size_means_electra():
    sizes = {"num_attention_heads": 2, "hidden_size": 32}
    assert encoder_config_from_transformers(sizes).embedding_size == 32
    assert encoder_config_from_transformers({**sizes, "embedding_size": 16}).embedding_size == 16


@pytest.mark.parametrize("model, kind", [(bert, BertModel), (discriminator, ElectraModel)])
def test_shards_are_loaded(model, kind, tmp_path):
    model().save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert_loads_like_transformers(tmp_path, kind)


def sharded(folder):
    bert().save_pretrained(folder, max_shard_size="30KB")
    index = folder / "model.safetensors.index.json"
    return index, json.loads(index.read_text())


def test_a_missing_shard_is_named(tmp_path):
    _, contents = sharded(tmp_path)
    shard = sorted(set(contents["weight_map"].values()))[1]
    (tmp_path / shard).unlink()
    with pytest.raises(FileNotFoundError, match=rf"index.json names {shard}, should be in the same folder$"):
        read_checkpoint(tmp_path)


def test_a_tensor_missing_from_its_shard_is_named(tmp_path):
    index, contents = sharded(tmp_path)
    contents["weight_map"]["pooler.none"] = contents["weight_map"]["pooler.dense.bias"]
    index.write_text(json.dumps(contents))
    with pytest.raises(
        ValueError, match=r"safetensors lacks pooler\.none, should have it, as model\.safetens"
    ):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name, contents, message",
    [
        ("config.json", b"{", r"config\.json is damaged \(.*\), should be a JSON object$"),
        ("config.json", b"\xff", r"config\.json is damaged \(.*\), should be a JSON object$"),
        ("config.json", b"[]", r"config\.json is a JSON list, should be an object$"),
        (
            "model.safetensors.index.json",
            b"{}",
            r"index\.json has no weight_map, should map the name of each",
        ),
        (
            "model-00001-*.safetensors",
            b"torn",
            r"safetensors is damaged \(.*\), should be a safetensors file$",
        ),
    ],
)
def test_a_damaged_file_is_named(name, contents, message, tmp_path):
    sharded(tmp_path)
    next(tmp_path.glob(name)).write_bytes(contents)
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_tensors_is_refused(tmp_path):
    bert().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"has neither model\.safetensors nor model\.safetensors\.index"
    ):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_written_files_have_the_mode_of_the_umask(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_checkpoint(Checkpoint({"model_type": "electra"}, {"weight": torch.ones(2)}), tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}
