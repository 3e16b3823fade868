"""``electra-kernels prepare`` prints the folder; every mistake is one line."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from electra_kernels.commands.main import main
from electra_kernels.data.token_cache import open_cache


def text(documents):
    return "\n\n".join(f"The old cat saw {n} small dogs.\nIt was near house {n}." for n in range(documents))


def test_the_folder_is_printed_and_what_the_vocabulary_does_is_said(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(text(200))
    command = [
        "prepare",
        "--text",
        str(tmp_path / "a.txt"),
        "--output",
        str(tmp_path / "out"),
        "--vocab-size",
        "99",
    ]
    assert main(command) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'out'}\n"
    assert re.search(
        r"the vocabulary has \d+ tokens; it lower-cases, keeps accents outside Latin only", printed.err
    )
    assert not (tmp_path / "out" / "electra-kernels.lock").exists()
    assert main([*command, "--cased"]) == 2
    assert "has the token cache of cased False; choose another --output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "lower-cases, keeps accents"),
        (["--cased"], "keeps capitals, keeps accents"),
        (["--no-keep-accents"], "lower-cases, keeps accents outside Latin only"),
    ],
)
def test_accents_are_kept_where_the_text_uses_them(tmp_path, capsys, options, said):
    (tmp_path / "vi.txt").write_text("\n".join(f"ma mả là má mã mạ {n}" for n in range(50)))
    paths = ["--text", str(tmp_path / "vi.txt"), "--output", str(tmp_path / "out")]
    assert main(["prepare", *paths, "--vocab-size", "60", *options]) == 0
    assert f"tokens; it {said}\n" in capsys.readouterr().err
    tokenizer = open_cache(tmp_path / "out").tokenizer
    words = {tuple(tokenizer.encode(word).ids) for word in ("ma", "mả", "mà", "má", "mã", "mạ")}
    assert len(words) == (1 if "--no-keep-accents" in options else 6)


def test_lines_that_look_wrapped_are_noticed(tmp_path, capsys):
    line = "a line of a text that somebody has broken at a width of sixty"
    (tmp_path / "a.txt").write_text("\n".join(f"{line} {n}" for n in range(90)))
    paths = ["--text", str(tmp_path / "a.txt"), "--output", str(tmp_path / "out"), "--vocab-size", "99"]
    assert main(["prepare", *paths]) == 0
    assert "of the lines look broken at a width" in (said := capsys.readouterr().err)
    assert "--wrapped" in said


def test_a_path_that_is_missing_is_one_line(tmp_path, capsys):
    assert main(["prepare", "--text", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert (
        capsys.readouterr().err == f"electra-kernels: error: {tmp_path / 'none'}: no such file or directory\n"
    )


def test_a_folder_that_another_process_uses_is_refused(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(text(9))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "electra-kernels.lock").write_text('{"host": "elsewhere", "pid": 5, "started": null}')
    assert main(["prepare", "--text", str(tmp_path / "a.txt"), "--output", str(tmp_path / "out")]) == 2
    assert "is in use by process 5 on elsewhere" in capsys.readouterr().err


def test_a_terminated_command_says_so_and_leaves_no_cache(tmp_path):
    (tmp_path / "a.txt").write_text(text(60_000))
    command = [sys.executable, "-m", "electra_kernels", "prepare", "--processes", "1", "--vocab-size", "99"]
    started = subprocess.Popen(
        [*command, "--text", str(tmp_path / "a.txt"), "--output", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    while not (tmp_path / "out" / "shards" / "plan.json").exists():
        assert started.poll() is None
        time.sleep(0.02)
    started.send_signal(signal.SIGTERM)
    _, said = started.communicate(timeout=60)
    assert started.returncode == 128 + signal.SIGTERM
    assert said.splitlines()[-1] == "electra-kernels: error: terminated"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"shards"}


@pytest.mark.parametrize("option", ["--cased", "--keep-accents", "--no-keep-accents"])
def test_options_of_a_trained_vocabulary_are_refused_with_a_given_one(tmp_path, capsys, option):
    (tmp_path / "a.txt").write_text(text(10))
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    paths = ["--text", str(tmp_path / "a.txt"), "--vocabulary", str(tmp_path / "vocab.txt")]
    assert main(["prepare", *paths, "--output", str(tmp_path / "out"), option]) == 2
    assert "a given one is used as it is" in capsys.readouterr().err
