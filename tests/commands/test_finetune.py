"""``electra-kernels finetune`` as a user runs it: tables, one line per mistake, no noise of the libraries."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.finetuning import tiny

FAST = ["--epochs", 1, "--learning-rate", 0.02, "--batch-size", 16]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny.save_encoder(tmp_path_factory.mktemp("model") / "encoder")


def test_it_prints_figures_a_table_and_nothing_of_the_libraries(encoder, tmp_path, in_process):
    train = tiny.write_conll(tmp_path / "train.conll", tiny.entity_tags)
    output = tmp_path / "output"
    command = ["finetune", "--model", encoder, "--train", train, "--test", train, "--output", output, *FAST]
    status, out, err = in_process(*command, "--seeds", 2)
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("test f1: ")
    assert " ± " in lines[0]
    assert lines[-1] == str(output)
    assert any("│ X " in line for line in lines)
    known = ("54 sentences to train on", "start: ", "seed 0  100%  loss ", "seed 1  100%  loss ")
    assert all(line.startswith(known) for line in err.splitlines()), err
    assert (output / "predictions.conll").exists()


MISTAKES = {
    "row.conll": ("a\tO\nb\tO\nc\n", r"row.conll, line 3: "),
    "one.conll": ("a\tO\nb\tO\n\nc\tO\n", "has only 'O' as label, should have at least two"),
    "empty.conll": ("", "empty.conll: the file is empty"),
    "binary.conll": (b"a\tO\n\xff\tB-X\n", "binary.conll"),
    "tags.jsonl": ('{"tokens": ["a", "b"], "tags": ["O"]}\n', "tags.jsonl, line 1: 1 tags for 2 words"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_broken_training_file_is_one_line(name, encoder, tmp_path, in_process):
    content, message = MISTAKES[name]
    train = tmp_path / name
    train.write_bytes(content if isinstance(content, bytes) else content.encode())
    status, out, err = in_process(
        "finetune", "--model", encoder, "--train", train, "--output", tmp_path / "output"
    )
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("electra-kernels: error: ")
    assert message in last
    assert "Traceback" not in err
    assert not list(tmp_path.glob("output*"))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--model", "{tmp}/none"], "--model {tmp}/none: no such folder"),
        (["--model", "{tmp}"], "--model {tmp}: no model of transformers in it"),
        (["--model", "{model}", "--length", "100"], "--length 100 is more than the 64 tokens"),
        (["--model", "{model}", "--length", "3"], "--length 3 should be at least 6"),
        (["--model", "{model}", "--positive", "B-X"], "has 3 tags, should have two tags"),
        (
            ["--model", "{model}", "--test", "{tmp}/test.conll"],
            'test.conll, line 1: tag "B-NEW" does not occur',
        ),
        (
            ["--model", "{model}", "--output", "{tmp}"],
            "holds damaged, which is not from electra-kernels finetune",
        ),
        (
            ["--model", "{model}", "--output", "{tmp}/train.conll"],
            "train.conll is a file, should be a folder",
        ),
        (["--model", "{tmp}/pickle"], "has weights in a pickle, should have model.safetensors"),
        (
            ["--model", "{tmp}/damaged"],
            "--model {tmp}/damaged: cannot be loaded as AutoModelForTokenClassification",
        ),
    ],
)
def test_a_mistake_in_an_option_is_one_line(options, message, encoder, tmp_path, in_process):
    train = tiny.write_conll(tmp_path / "train.conll", tiny.entity_tags)
    (tmp_path / "test.conll").write_text("a\tB-NEW\n")
    (tiny.save_encoder(tmp_path / "pickle", weights=False) / "pytorch_model.bin").write_bytes(b"")
    (tiny.save_encoder(tmp_path / "damaged", weights=False) / "model.safetensors").write_bytes(b"x" * 50)
    paths = {"tmp": tmp_path, "model": encoder}
    arguments = ["--train", train, "--output", tmp_path / "output"]
    arguments += [option.format(**paths) for option in options]
    status, _, err = in_process("finetune", *arguments)
    last = err.splitlines()[-1]
    assert status == 2
    assert last.startswith("electra-kernels: error: ")
    assert message.format(**paths) in last
    assert not list(tmp_path.glob("output*"))


@pytest.mark.parametrize("command", [["finetune", "--train", "x", "--output", "y"], ["predict", "words"]])
def test_without_the_extra_one_line_says_what_to_install(command, in_process, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "seqeval" else find(name, *rest)
    )
    status, _, err = in_process(*command, "--model", "z")
    assert status == 2
    assert err == (
        "electra-kernels: error: seqeval not installed: pip install 'electra_kernels[finetuning]'\n"
    )


def test_an_interrupt_is_one_line_and_leaves_nothing(encoder, tmp_path):
    train = tiny.write_conll(tmp_path / "train.conll", tiny.entity_tags, 400)
    command = ["finetune", "--model", encoder, "--train", train, "--output", tmp_path / "output"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "electra_kernels",
            *map(str, command),
            "--epochs",
            "10000",
            "--patience",
            "10000",
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    partial, limit = tmp_path / "output.partial" / "checkpoints", time.monotonic() + 60
    while not partial.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "electra-kernels: error: interrupted"
    assert "Traceback" not in err
    assert not list(tmp_path.glob("output*"))
