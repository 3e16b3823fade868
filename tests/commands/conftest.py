"""The fixtures of a small language (tests/small_language.py) for this folder, and a way to run commands."""

import io
import random
import sys

import pytest
from small_language import *  # noqa: F403
from small_language import WORDS

from electra_kernels.commands.main import main


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A file of 40 short documents."""
    rng = random.Random(0)
    documents = ["\n".join(" ".join(rng.choices(WORDS, k=60)) for _ in range(6)) for _ in range(40)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(documents) + "\n")
    return path


@pytest.fixture
def in_process(capsys, monkeypatch):
    """Run a command in this process; returns its status, standard output and standard error."""
    monkeypatch.delenv("RANK", raising=False)

    def called(*arguments, input=""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input.encode())))
        status = main([*map(str, arguments)])
        return status, *capsys.readouterr()

    return called
