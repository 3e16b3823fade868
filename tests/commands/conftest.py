"""The fixtures of a small language (tests/small_language.py) for this folder, and a way to run commands."""

import io
import sys

import pytest
from small_language import *  # noqa: F403

from electra_kernels.commands.main import main


@pytest.fixture
def in_process(capsys, monkeypatch):
    """Run a command in this process; returns its status, standard output and standard error."""
    monkeypatch.delenv("RANK", raising=False)

    def called(*arguments, input=""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input.encode())))
        status = main([*map(str, arguments)])
        return status, *capsys.readouterr()

    return called
